mod limits;
mod locks;
mod mode;
mod why;

use std::io::{Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use super::*;

/// What a command printed and how it ended.
struct Ran {
    invocation: Invocation,
    out: String,
    err: String,
}

impl Ran {
    fn exit(&self) -> Exit {
        match &self.invocation {
            Invocation::Finished(exit) => *exit,
            Invocation::Run(args) => panic!("would run with {args:?}"),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}{}", self.out, self.err))
    }
}

fn run_with(arguments: &[&str], input: &str) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut input = Cursor::new(input.as_bytes().to_vec());
    let mut output = Output::new(&mut input, &mut out, &mut err);
    let all = std::iter::once("oncegate").chain(arguments.iter().copied());
    let invocation = invoke(all.map(OsString::from), &mut output);
    Ran {
        invocation,
        out: String::from_utf8(out).expect("UTF-8"),
        err: String::from_utf8(err).expect("UTF-8"),
    }
}

fn run(arguments: &[&str]) -> Ran {
    run_with(arguments, "")
}

/// Whether all of a question has come: its body may come behind its head.
fn is_whole(question: &[u8]) -> bool {
    let text = String::from_utf8_lossy(question).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

/// A running proxy that gives these answers, one a connection, and hands back what it was asked.
fn proxy(answers: Vec<(u16, Value)>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let (asked, questions) = mpsc::channel();
    thread::spawn(move || {
        for (status, answer) in answers {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut question = Vec::new();
            let mut chunk = [0; 4096];
            while !is_whole(&question) {
                match socket.read(&mut chunk) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => question.extend_from_slice(&chunk[..length]),
                }
            }
            let body = answer.to_string();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            socket
                .write_all(head.as_bytes())
                .and_then(|()| socket.write_all(body.as_bytes()))
                .expect("written");
            let _ = asked.send(String::from_utf8_lossy(&question).into_owned());
        }
    });
    (url, questions)
}

fn error(code: &str) -> Value {
    json!({ "error": { "code": code, "message": "as it is" }, "instance": "p1", "scope": "instance" })
}

/// An address where nothing listens: the port was free a moment ago.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
}

fn file(name: &str, text: &str) -> String {
    let path = std::env::temp_dir().join(format!("oncegate-cli-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

const DIGEST: &str = "abababababababababababababababababababababababababababababababab";

#[test]
fn run_is_the_default_and_takes_its_options_with_or_without_its_name() {
    assert_eq!(run(&[]).invocation, Invocation::Run(RunArgs::default()));
    assert_eq!(run(&["run"]).invocation, Invocation::Run(RunArgs::default()));
    let options = [
        "--config",
        "a.toml",
        "--upstream",
        "amqp://b:5672",
        "--listen",
        "127.0.0.1:1",
        "--store",
        "memory:",
        "--admin-listen",
        "127.0.0.1:2",
    ];
    let expected = RunArgs {
        config: Some("a.toml".into()),
        upstream: vec!["amqp://b:5672".to_owned()],
        listen: vec!["127.0.0.1:1".to_owned()],
        store: Some("memory:".to_owned()),
        admin_listen: Some("127.0.0.1:2".to_owned()),
        allow_empty: true,
    };
    for name in [&[][..], &["run"]] {
        let arguments = [name, &options, &["--allow-empty"]].concat();
        assert_eq!(run(&arguments).invocation, Invocation::Run(expected.clone()));
    }
    assert_eq!(
        run(&["--config", "a.toml", "run"]).invocation,
        Invocation::Run(RunArgs {
            config: Some("a.toml".into()),
            ..RunArgs::default()
        })
    );
}

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    let wrong: [&[&str]; 16] = [
        &["--nonsense"],
        &["nonsense"],
        &["why"],
        &["mode", "on"],
        &["watch", "more"],
        &["limits"],
        &["locks"],
        &["locks", "show"],
        &["locks", "show", "xyz"],
        &["locks", "clear"],
        &["locks", "clear", "--all", "--rule", "r"],
        &["locks", "clear", "--older-than", "soon"],
        &["locks", "list", "--store", "memory:"],
        &["locks", "list", "--store", "mysql://x"],
        &["--config", "a.toml", "status"],
        &["status", "--admin", "127.0.0.1:9672"],
    ];
    for arguments in wrong {
        let ran = run(arguments);
        assert_eq!(ran.exit(), Exit::Usage, "{arguments:?}: {}", ran.err);
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        let ran = run(&arguments);
        assert_eq!(ran.exit(), Exit::Done);
        assert!(ran.out.contains("oncegate"));
    }
    assert_eq!(run(&["locks", "--help"]).exit(), Exit::Done);
}

#[test]
fn a_proxy_that_is_not_there_is_69() {
    let url = format!("http://{}", nobody());
    for command in [
        &["status"][..],
        &["reload"],
        &["drain"],
        &["locks", "list"],
        &["locks", "show", DIGEST],
    ] {
        let ran = run(&[command, &["--admin", &url]].concat());
        assert_eq!(ran.exit(), Exit::Unavailable, "{command:?}: {}", ran.err);
    }
    let (url, _questions) = proxy(vec![(200, json!({ "hello": "from another program" }))]);
    assert_eq!(run(&["status", "--admin", &url]).exit(), Exit::Unavailable);
    let store = format!("redis://{}/0", nobody());
    let ran = run(&["locks", "list", "--store", &store, "--json"]);
    assert_eq!(ran.exit(), Exit::Unavailable);
    assert_eq!(ran.json()["error"]["code"], "store_unavailable");
}

#[test]
fn what_the_proxy_says_becomes_an_exit_code() {
    let table = [
        (400, "bad_query", Exit::Usage),
        (401, "token_required", Exit::Refused),
        (403, "role_refused", Exit::Refused),
        (404, "no_lock", Exit::No),
        (404, "not_found", Exit::Usage),
        (415, "json_required", Exit::Usage),
        (422, "config_refused", Exit::Config),
        (500, "metrics", Exit::TryAgain),
        (503, "store_unavailable", Exit::TryAgain),
    ];
    for (status, code, exit) in table {
        let (url, _questions) = proxy(vec![(status, error(code)), (status, error(code))]);
        let ran = run(&["locks", "show", DIGEST, "--admin", &url]);
        assert_eq!(ran.exit(), exit, "{code}");
        assert_eq!(ran.err, "oncegate: as it is\n");
        let ran = run(&["--json", "locks", "show", DIGEST, "--admin", &url]);
        assert_eq!((ran.exit(), ran.err.as_str()), (exit, ""));
        assert_eq!(ran.json(), json!({ "error": { "code": code, "message": "as it is" } }));
    }
}

#[test]
fn a_token_and_a_content_type_are_sent() {
    let token = file("token", "s3cret\n");
    let (url, questions) = proxy(vec![(202, json!({ "instance": "p1", "scope": "instance", "phase": "draining" }))]);
    let ran = run(&["drain", "--admin", &format!("{url}/"), "--token-file", &token]);
    assert_eq!((ran.exit(), ran.out.as_str()), (Exit::Done, "draining\n"));
    let question = questions.recv().expect("asked").to_ascii_lowercase();
    assert!(question.starts_with("post /api/v1/drain http/1.1\r\n"), "{question}");
    assert!(
        question.contains("authorization: bearer s3cret\r\n") && question.contains("content-type: application/json\r\n"),
        "{question}"
    );
    assert_eq!(
        run(&["drain", "--admin", &url, "--token-file", "/does/not/exist"]).exit(),
        Exit::Usage
    );
}

#[test]
fn status_and_reload_read_well() {
    let status = json!({
        "instance": "p1", "scope": "instance", "version": "0.1.0", "phase": "running", "status": "degraded",
        "reasons": ["upstream_down: a:5672"], "uptime_seconds": 12, "connections": 3, "connections_limit": 10, "channels": 5,
        "upstreams": [{ "address": "a:5672", "up": false }, { "address": "b:5672", "up": null }],
        "store": { "type": "redis", "up": true, "circuit": "closed", "orders_kept": 0 },
        "config": { "file": "oncegate.toml", "sha256": "abc", "rules": 2, "loaded": "2026-01-01T00:00:00Z", "refused": null },
    });
    let (url, _questions) = proxy(vec![(200, status.clone()), (200, status.clone())]);
    let text = run(&["status", "--admin", &url]).out;
    for part in [
        "degraded",
        "a:5672 down",
        "b:5672 not dialled yet",
        "3 of 10, 5 channels",
        "redis up",
        "2 rules",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(run(&["status", "--admin", &url, "--json"]).json(), status);
    let reloaded = json!({ "instance": "p1", "scope": "instance", "sha256": "abc", "rules": 2, "warnings": ["rules.toml:1:1: hm"] });
    let (url, _questions) = proxy(vec![(200, reloaded)]);
    let ran = run(&["reload", "--admin", &url]);
    assert_eq!(ran.out, "reloaded: 2 rules, sha256 abc\n");
    assert_eq!(ran.err, "warning: rules.toml:1:1: hm\n");
}

#[test]
fn check_tells_a_wrong_config_from_a_right_one() {
    let right = file("right.toml", "[proxy]\nlisten = [\"127.0.0.1:0\"]\n");
    let ran = run(&["check", &right]);
    assert_eq!(ran.exit(), Exit::Done, "{}{}", ran.out, ran.err);
    assert!(ran.out.ends_with("right.toml: ok\n"), "{}", ran.out);
    let ran = run(&["check", &right, "--json"]);
    assert_eq!((&ran.json()["ok"], &ran.json()["errors"]), (&json!(true), &json!([])));

    let wrong = file("wrong.toml", "[proxy]\nlisten = [\"127.0.0.1:0\"]\nlsten = 3\n");
    let ran = run(&["check", &wrong]);
    assert_eq!(ran.exit(), Exit::Config);
    assert!(ran.err.contains("wrong.toml:3:1"), "{}", ran.err);
    let ran = run(&["check", &wrong, "--json"]);
    assert_eq!(ran.exit(), Exit::Config);
    assert!(
        ran.json()["errors"][0]["place"]
            .as_str()
            .is_some_and(|place| place.ends_with("wrong.toml:3:1")),
        "{}",
        ran.out
    );
    assert_eq!(run(&["check", "/does/not/exist.toml"]).exit(), Exit::Config);
}

#[test]
fn check_tells_what_an_account_at_the_broker_is_for_and_which_rights_it_takes() {
    let rules = "[defaults]\nresult = \"none\"\n[[rule]]\ntask = \"a\"\nunique = \"until_finished\"\n[[rule]]\ntask = \"b\"\nunique = \"until_expired\"\n";
    let without = run(&["check", &file("without.toml", rules)]);
    assert_eq!(without.exit(), Exit::Done, "{}", without.err);
    let notes: Vec<&str> = without.out.lines().filter(|line| line.starts_with("note: ")).collect();
    assert!(
        matches!(notes.as_slice(), [note] if note.contains("rule \"a\"") && note.contains("[control] url = ")),
        "{notes:?}"
    );

    let control = "[control]\nurl = \"amqp://o'neil:hunter2@h\"\n[control.vhosts.\"jobs\"]\nurl = \"amqp://gate:hunter2@h\"\n";
    let with = run(&["check", &file("with.toml", &format!("{control}{rules}")), "--json"]);
    let patterns = r"'^(oncegate\..*|celeryev)$' '^(oncegate\..*|celery\.pidbox)$' '^(oncegate\..*|celeryev)$'";
    let rights = |vhost: &str, user: &str| {
        format!(
            "the least rights of the account for the virtual host {vhost:?}: rabbitmqctl set_permissions -p '{vhost}' {user} {patterns}"
        )
    };
    assert_eq!(
        with.json()["control"],
        json!([rights("/", r"'o'\''neil'"), rights("jobs", "'gate'")])
    );
    assert!(!with.out.contains("hunter2"));
}

#[test]
fn check_names_the_rules_whose_dropped_ids_get_nothing() {
    let rules = "[[rule]]\ntask = \"a\"\nunique = \"until_expired\"\n[[rule]]\ntask = \"b\"\nunique = \"until_expired\"\nresult = \"none\"\n\
                 [[rule]]\ntask = \"c\"\nunique = \"until_expired\"\nmode = \"observe\"\n[[rule]]\ntask = \"d\"\nbypass = true\n\
                 [[rule]]\ntask = \"e\"\nunique = \"until_expired\"\nresult = \"success\"\n";
    let checked = run(&["check", &file("unanswered.toml", rules)]);
    assert_eq!(checked.exit(), Exit::Done, "{}", checked.err);
    let start = "note: the ids of tasks that these rules drop get no result, so that get() on them waits for ever: a, e. Set results.url";
    assert!(checked.out.lines().any(|line| line.starts_with(start)), "{}", checked.out);
    // One that says so itself is told where.
    let warning = "rule \"e\" says result = \"success\", and no result backend is known";
    assert!(
        checked
            .out
            .lines()
            .any(|line| line.starts_with("warning: ") && line.contains(warning)),
        "{}",
        checked.out
    );
    let url = "[results]\nurl = \"redis://127.0.0.1:1\"\n";
    let answered = run(&["check", &file("answered.toml", &format!("{url}{rules}")), "--json"]);
    assert_eq!(answered.json()["results"], json!(null));
    assert_eq!(answered.json()["warnings"], json!([]));
}

#[test]
fn check_tells_whose_callers_are_answered_by_messages() {
    let rules = "[[rule]]\ntask = \"a\"\nunique = \"until_expired\"\nresult = \"join\"\n[[rule]]\ntask = \"b\"\nunique = \"until_expired\"\nresult = \"none\"\n";
    let control = "[control]\nurl = \"amqp://gate@broker/\"\n";
    let rpc = "[results]\nkind = \"rpc\"\n";
    let check = |name: &str, text: String| run(&["check", &file(name, &text), "--json"]).json();
    // Those of other backends are not: which it is shows itself only at run time.
    let auto = check("answers-auto.toml", format!("{control}{rules}"));
    assert!(
        auto["results"]
            .as_str()
            .is_some_and(|note| note.contains("rpc:// backend through Oncegate") && note.contains(": a. ")),
        "{auto}"
    );
    assert_eq!(auto["warnings"], json!([]));
    assert!(auto["control"].to_string().contains("amq\\\\.default"), "{auto}");
    let all = check("answers-rpc.toml", format!("{control}{rpc}{rules}"));
    assert_eq!((&all["results"], &all["warnings"]), (&json!(null), &json!([])));
    let none = check("answers-none.toml", format!("{rpc}{rules}"));
    assert!(
        none["results"]
            .as_str()
            .is_some_and(|note| note.contains("[control]") && note.contains(": a. ")),
        "{none}"
    );
    let warning = "rule \"a\" says result = \"join\", and no account is there to publish results with";
    assert!(none["warnings"].to_string().contains(&warning.replace('"', "\\\"")), "{none}");
}

#[test]
fn check_tells_which_rules_cannot_park() {
    let parking = |name: &str, text: &str| {
        let rule = format!("[proxy]\nconsumer_timeout = \"20m\"\n{text}");
        let ran = run(&["check", &file(name, &rule)]);
        assert_eq!(ran.exit(), Exit::Done, "{}", ran.err);
        let lines = ran.out.lines().filter(|line| line.contains("cannot park")).map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    let rule = |more: &str| format!("[[rule]]\ntask = \"a\"\nunique = \"until_started+while_running\"\n{more}");
    let notes = parking("unparked.toml", &rule(""));
    assert!(
        matches!(notes.as_slice(), [note] if note.starts_with("note: rule \"a\" cannot park messages, for which")
            && note.contains("after 10m, half of proxy.consumer_timeout. Write [control] url = ")),
        "{notes:?}"
    );
    let account = "[control]\nurl = \"amqp://gate:hunter2@h/jobs\"\n";
    let notes = parking("elsewhere.toml", &format!("{account}{}", rule("vhost = [\"jobs\", \"shop\"]\n")));
    assert!(
        matches!(notes.as_slice(), [note] if note.contains("in the virtual host \"shop\"") && note.contains("Write [control.vhosts.\"shop\"] url = ")),
        "{notes:?}"
    );
    let served = ["", "vhost = \"jobs\"\n", "vhost = \"*s\"\n"].map(|vhost| format!("{account}{}", rule(vhost)));
    let idle = ["mode = \"observe\"\n", "on_running = \"drop\"\n"].map(rule);
    for (at, text) in served.into_iter().chain(idle).enumerate() {
        assert_eq!(parking(&format!("parks-{at}.toml"), &text), [""; 0], "{text}");
    }
}

#[test]
fn check_tries_the_tls_files_as_run_does() {
    let nothing = file("nothing.pem", "not PEM\n");
    let config = file(
        "tls.toml",
        &format!(
            "[proxy]\nlisten = [\"amqps://127.0.0.1:0\"]\nupstream = [\"amqps://127.0.0.1:1\"]\n[proxy.tls]\ncert = \"{nothing}\"\nkey = \"{nothing}\"\n\
             [proxy.upstream_tls]\nca = \"{nothing}\"\n[admin.tls]\ncert = \"{nothing}\"\nkey = \"{nothing}\"\n"
        ),
    );
    let ran = run(&["check", &config]);
    assert_eq!((ran.exit(), ran.out.as_str()), (Exit::Config, ""), "{}", ran.err);
    let lines: Vec<&str> = ran.err.lines().collect();
    for (line, table) in lines.iter().zip(["proxy.tls", "proxy.upstream_tls", "admin.tls"]) {
        let expected = format!("{table}: {nothing}: holds no certificate. The file must hold certificates in PEM form");
        assert!(line.starts_with(&expected), "{line}");
    }
    assert_eq!(lines.len(), 3);
    let ran = run(&["check", &config, "--json"]);
    assert_eq!((ran.exit(), &ran.json()["ok"]), (Exit::Config, &json!(false)));
    assert_eq!(ran.json()["errors"][1]["place"], "proxy.upstream_tls");
}

/// A broker that answers the first bytes of one connection with these.
fn broker(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        let mut header = [0; 8];
        socket.read_exact(&mut header).expect("the protocol header");
        assert_eq!(&header, b"AMQP\x00\x00\x09\x01");
        socket.write_all(answer).expect("written");
    });
    address
}

#[test]
fn check_connect_asks_the_broker_and_the_store() {
    let config = |name: &str, broker: SocketAddr, store: &str| {
        file(
            name,
            &format!("[proxy]\nupstream = [\"amqp://{broker}\"]\n[store]\nurl = \"{store}\"\n"),
        )
    };
    let start = b"\x01\x00\x00\x00\x00\x00\x05\x00\x0a\x00\x0a\x00\xce";
    let there = config("there.toml", broker(start), "memory:");
    let ran = run(&["check", &there, "--connect"]);
    assert_eq!(ran.exit(), Exit::Done, "{}", ran.out);
    assert!(ran.out.contains("ok: speaks AMQP 0-9-1"), "{}", ran.out);

    let other = config("other.toml", broker(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "memory:");
    let ran = run(&["check", &other, "--connect"]);
    assert_eq!(ran.exit(), Exit::Unavailable);
    assert!(ran.out.contains("does not speak AMQP 0-9-1"), "{}", ran.out);

    let gone = config("gone.toml", nobody(), &format!("redis://{}/0", nobody()));
    let ran = run(&["check", &gone, "--connect", "--json"]);
    assert_eq!(ran.exit(), Exit::Unavailable);
    let verdicts: Vec<Value> = ran.json()["connect"]
        .as_array()
        .expect("findings")
        .iter()
        .map(|f| f["verdict"].clone())
        .collect();
    assert_eq!(verdicts, ["failed", "failed"]);
}

#[test]
fn explain_needs_no_proxy() {
    let config = file(
        "explain.toml",
        "[[rule]]\ntask = \"reports.build\"\nunique = \"until_started\"\nkey = [\"headers['tenant']\", \"args[0]\"]\n",
    );
    let ask = |more: &[&str]| run(&[&["explain", "--config", &config, "--task", "reports.build"], more].concat());
    let first = ask(&["--args", "[1, 2]", "--header", "tenant=a=b", "--json"]);
    assert_eq!(first.exit(), Exit::Done, "{}{}", first.out, first.err);
    let second = ask(&["--args", "[1, 3]", "--header", "tenant=a=b", "--json"]);
    let third = ask(&["--args", "[1, 2]", "--header", "tenant=c", "--json"]);
    assert_eq!(first.json()["digest"], second.json()["digest"]);
    assert_ne!(first.json()["digest"], third.json()["digest"]);
    assert_eq!(
        (&first.json()["rule"], &first.json()["decision"]),
        (&json!("reports.build"), &json!("claim"))
    );
    let text = ask(&["--args", "[1]", "--header", "tenant=a"]);
    assert!(
        text.out.contains("rule reports.build: matches and decides\nit claims "),
        "{}",
        text.out
    );
    let other = run(&["explain", "--config", &config, "--task", "other"]);
    assert_eq!(other.exit(), Exit::No);
    assert!(other.out.contains("no rule decides"), "{}", other.out);
    for wrong in [
        &["--args", "{}"][..],
        &["--args", "["],
        &["--header", "x"],
        &["--eta", "soon"],
        &["--kwargs", "3"],
    ] {
        assert_eq!(ask(wrong).exit(), Exit::Usage, "{wrong:?}");
    }
    assert_eq!(run(&["explain"]).exit(), Exit::Usage);
    let wrong = file("explain-wrong.toml", "[[rule]]\ntask = 3\n");
    assert_eq!(run(&["explain", "--config", &wrong, "--task", "t"]).exit(), Exit::Config);
}
