//! Include, environment, flags and defaults: which of them counts.

use oncegate::config::address::StoreUrl;
use oncegate::config::{self, Config, Environment, Flags, Role};
use oncegate::rules::spec::{Mode, OnStoreError, Unique};
use serde_json::json;

use crate::Directory;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(text: &str, variables: &[(&str, &str)], flags: &Flags) -> Result<Config, String> {
    config::load_text("o.toml", text, &environment(variables), flags).map_err(|errors| errors.to_string())
}

#[test]
fn flags_beat_environment_beats_file() {
    let text = "[proxy]\nlisten = [\"127.0.0.1:1\"]\nmax_connections = 5\n[store]\nurl = \"redis://file\"";
    let variables = [
        ("ONCEGATE_PROXY__LISTEN", "127.0.0.1:2, [::1]:3"),
        ("ONCEGATE_STORE__URL", "redis://variable"),
        ("ONCEGATE_PROXY__UPSTREAM_CONFIRMS", "false"),
        ("ONCEGATE_LOG__LEVEL", "debug"),
        ("ONCEGATE_WATCH_CONFIG", "false"),
        ("ONCEGATE_DEFAULTS__TTL", "5m"),
    ];
    let flags = Flags {
        store: Some("redis://flag".to_owned()),
        upstream: vec!["a".to_owned(), "b:1".to_owned()],
        ..Flags::default()
    };
    let config = load(text, &variables, &flags).unwrap();
    let shown = config.shown();
    assert_eq!(shown["proxy"]["listen"], serde_json::json!(["127.0.0.1:2", "[::1]:3"]));
    assert_eq!(shown["proxy"]["upstream"], serde_json::json!(["amqp://a:5672", "amqp://b:1"]));
    assert_eq!(shown["proxy"]["max_connections"], 5);
    assert_eq!(shown["proxy"]["upstream_confirms"], false);
    assert_eq!(shown["store"]["url"], "redis://flag:6379/0");
    assert_eq!(shown["log"]["level"], "debug");
    assert_eq!(shown["defaults"]["ttl"], "5m");
    assert!(!config.watch_config);
}

#[test]
fn wrong_variables_and_flags_are_named() {
    let variables = [
        ("ONCEGATE_STORE__URL", "mysql://x"),
        ("ONCEGATE_PROXY__MAX_CONNECTIONS", "many"),
        ("ONCEGATE_PROXY__LISTN", "x"),
        ("ONCEGATE_PROXI__LISTEN", "x"),
        ("ONCEGATE_RULE__TASK", "x"),
        ("ONCEGATE_DEFAULTS__MODE", "dry"),
    ];
    let flags = Flags {
        admin_listen: Some("9672".to_owned()),
        ..Flags::default()
    };
    let text = "[[rule]]\ntask = \"a\"\nunique = \"until_started\"";
    let said = load(text, &variables, &flags).unwrap_err();
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "--admin-listen: admin.listen = \"9672\" has no port. Write \"HOST:PORT\".",
            "ONCEGATE_DEFAULTS__MODE: defaults.mode = \"dry\" is not known. Write one of \"enforce\", \"observe\", \"off\".",
            "ONCEGATE_PROXI__LISTEN: unknown table [proxi]. Did you mean ONCEGATE_PROXY__…?",
            "ONCEGATE_PROXY__LISTN: unknown key \"listn\" in [proxy]. Did you mean \"listen\"?",
            "ONCEGATE_PROXY__MAX_CONNECTIONS: proxy.max_connections = \"many\" is not a whole number from 0. Write max_connections = 100.",
            "ONCEGATE_RULE__TASK: [[rule]] cannot be set by a variable. Write it in a config file.",
            "ONCEGATE_STORE__URL: store.url = \"mysql://x\" has the scheme mysql://, which is not a store. \
             Write \"redis://HOST:6379/0\", \"rediss://USER:PASSWORD@HOST:6379/0\", or \"memory:\".",
        ]
    );
}

/// Kubernetes sets such variables beside a Service named oncegate; the commands have some of their own.
#[test]
fn foreign_variables_are_left_alone() {
    let foreign = [
        ("ONCEGATE_PORT", "tcp://10.0.0.1:5673"),
        ("ONCEGATE_PORT_5673_TCP_ADDR", "10.0.0.1"),
        ("ONCEGATE_SERVICE_HOST", "10.0.0.1"),
        ("ONCEGATE_ADMIN_URL", "http://127.0.0.1:9672"),
        ("ONCEGATE_MODE", "off"),
    ];
    assert_eq!(load("", &foreign, &Flags::default()).unwrap().warnings, []);
    let config = load("", &[("ONCEGATE_STORE_URL", "redis://x")], &Flags::default()).unwrap();
    assert_eq!(config.store.url, StoreUrl::Memory);
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["ONCEGATE_STORE_URL: is not a setting and is ignored. Did you mean ONCEGATE_STORE__URL?"]
    );
}

#[test]
fn included_files_follow_in_lexical_order() {
    let directory = Directory::new();
    let rule = |task: &str| format!("[[rule]]\ntask = \"{task}\"\nunique = \"until_started\"\n");
    directory.write("rules.d/20-b.toml", &rule("b"));
    directory.write("rules.d/10-a.toml", &(rule("a") + "[signatures]\n\"a\" = \"x\"\n"));
    directory.write("rules.d/.hidden.toml", "not TOML");
    directory.write("rules.d/note.txt", "not TOML");
    directory.write("more.toml", &(rule("c") + "[store]\nprefix = \"p\"\n"));
    let main = "include = [\"rules.d/*.toml\", \"more.toml\", \"none.d/*.toml\"]\n[store]\ntimeout = \"1s\"\n".to_owned() + &rule("main");
    let path = directory.write("oncegate.toml", &main);
    let config = config::load(Some(&path), &Environment::new(), &Flags::default()).unwrap();
    let tasks: Vec<_> = config.rules.specs().iter().map(|rule| rule.task[0].as_str()).collect();
    assert_eq!(tasks, ["main", "a", "b", "c"]);
    assert_eq!((config.store.prefix.as_str(), config.store.timeout.as_secs()), ("p", 1));
    let files = config::files(&config);
    for name in [
        "oncegate.toml",
        "rules.d/10-a.toml",
        "rules.d/20-b.toml",
        "more.toml",
        "rules.d",
        "none.d",
    ] {
        assert!(files.contains(&directory.path().join(name)), "{name}: {files:?}");
    }
}

#[test]
fn mistakes_in_included_files_are_told_there() {
    let directory = Directory::new();
    let shown = directory.path().display().to_string();
    directory.write("a.toml", "include = [\"b.toml\"]\n[store]\ntimeout = \"x\"\nprefix = \"b\"\n");
    let path = directory.write(
        "oncegate.toml",
        "include = [\"a.toml\", \"gone.toml\", \"**/x\"]\n[store]\nprefix = \"a\"\n",
    );
    let said = config::load(Some(&path), &Environment::new(), &Flags::default())
        .unwrap_err()
        .to_string()
        .replace(&shown, "D");
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "D/oncegate.toml:1:23: include = \"gone.toml\" names D/gone.toml: there is no such file. Write the path of a config file, or make one.",
            "D/oncegate.toml:1:36: include = \"**/x\" has a **, which is not understood. Write a path such as \"rules.d/*.toml\".",
            "D/a.toml:1:1: include stands in an included file, where it is not read. Write it in the main file.",
            "D/a.toml:4:1: prefix is set already at D/oncegate.toml:3:1. Set it in one place.",
        ]
    );
}

#[test]
fn defaults_hold_for_rules_that_say_nothing_else() {
    let text = "[defaults]\nmode = \"observe\"\nunique = \"until_started\"\nttl = \"5m\"\non_store_error = \"wait\"\n\
        [[rule]]\ntask = \"a\"\nttl = \"1m\"\n[[rule]]\ntask = \"b\"\nmode = \"enforce\"\n[[rule]]\ntask = \"c\"\nbypass = true\n";
    let config = load(text, &[], &Flags::default()).unwrap();
    let [a, b, c] = config.rules.specs() else { panic!("three rules") };
    assert_eq!((a.mode, a.unique, a.ttl.as_secs()), (Mode::Observe, Some(Unique::UntilStarted), 60));
    assert_eq!(
        (b.mode, b.on_store_error, b.ttl.as_secs()),
        (Mode::Enforce, OnStoreError::Wait, 300)
    );
    assert_eq!((c.bypass, c.unique), (true, None));
    assert!(
        a.given
            .as_ref()
            .is_some_and(|given| given.contains("ttl") && !given.contains("mode"))
    );
    assert_eq!(config.warnings, []);
}

#[test]
fn secrets_come_from_files_and_are_not_shown() {
    let directory = Directory::new();
    directory.write("url", "redis://me:hunter2@h/2\n");
    directory.write("token", "  hunter3\n");
    let text = "[store]\nurl_file = \"url\"\n[admin]\nlisten = \"0.0.0.0:1\"\n[[admin.token]]\nname = \"ops\"\nfile = \"token\"\nrole = \"operate\"\n";
    let path = directory.write("oncegate.toml", text);
    let config = config::load(Some(&path), &Environment::new(), &Flags::default()).unwrap();
    let StoreUrl::Redis(redis) = &config.store.url else {
        panic!("Redis")
    };
    assert_eq!(redis.url.expose(), "redis://me:hunter2@h/2");
    assert_eq!(
        (config.admin.tokens[0].secret.expose(), config.admin.tokens[0].role),
        ("hunter3", Role::Operate)
    );
    assert_eq!(config.shown()["store"]["url"], "redis://***@h:6379/2");
    assert!(!format!("{config:?}").contains("hunter"));
    assert!(config::files(&config).contains(&directory.path().join("token")));

    // The variable beats the file in either form.
    let variable = environment(&[("ONCEGATE_STORE__URL", "redis://v")]);
    let config = config::load(Some(&path), &variable, &Flags::default()).unwrap();
    assert_eq!(config.shown()["store"]["url"], "redis://v:6379/0");
}

#[test]
fn sha256_follows_the_texts() {
    let sum = |text: &str, variables: &[(&str, &str)]| load(text, variables, &Flags::default()).unwrap().sha256;
    let plain = sum("[log]\nlevel = \"warn\"", &[]);
    assert_eq!(plain.len(), 64);
    assert_eq!(plain, sum("[log]\nlevel = \"warn\"", &[]));
    assert_ne!(plain, sum("[log]\nlevel = \"info\"", &[]));
    assert_ne!(plain, sum("[log]\nlevel = \"warn\"", &[("ONCEGATE_STORE__PREFIX", "x")]));
}

#[test]
fn probable_mistakes_are_warned_about() {
    let text = "[[rule]]\nname = \"all\"\ntask = \"*\"\nunique = \"until_finished\"\n[[rule]]\ntask = \"b\"\n\
        [[rule]]\ntask = \"c\"\nbypass = true\nunique = \"until_started\"\n[[rule]]\nname = \"off\"\ntask = \"*\"\nmode = \"off\"\n";
    let config = load(text, &[], &Flags::default()).unwrap();
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "o.toml:3:8: rule \"all\" matches every task and enforces. Write mode = \"observe\" first, or name the tasks.",
            "o.toml:5:1: rule \"b\" decides nothing. Write unique = \"until_started\", or bypass = true if that is meant.",
            "o.toml:10:10: rule \"c\" forwards untouched (bypass), so that unique does nothing. Keep one of them.",
        ]
    );
}

#[test]
fn decisions_that_nobody_can_publish_are_warned_about() {
    let warnings = |text: &str| {
        let config = load(text, &[], &Flags::default()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let events = "[events]\nexchange = \"oncegate\"\n";
    let control = "[control]\nurl = \"amqp://me:p@h:5672/jobs\"\n";
    let rule = |vhost: &str| format!("[[rule]]\ntask = \"a\"\nunique = \"until_started\"\nvhost = \"{vhost}\"\n");
    assert_eq!(
        warnings(events),
        [
            "o.toml:2:12: events.exchange takes an account of Oncegate's own at the broker ([control]), and there is none: no decision is \
             published. Write [control] url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\", or leave exchange out."
        ]
    );
    assert_eq!(
        warnings(&format!("{events}{control}{}", rule("shop"))),
        [
            "o.toml:2:12: events.exchange takes an account of Oncegate's own ([control]) in each virtual host, and there is none in \
             \"shop\": its decisions are not published. Write [control.vhosts.\"shop\"] url = \"amqp://USER:PASSWORD@HOST:5672\"."
        ]
    );
    for vhost in ["jobs", "sho*"] {
        assert_eq!(warnings(&format!("{events}{control}{}", rule(vhost))), [""; 0], "{vhost}");
    }
    assert_eq!(warnings(control), [""; 0]);
}

#[test]
fn ends_that_nobody_tells_are_warned_about() {
    let rule = "[[rule]]\ntask = \"a\"\nunique = \"until_finished\"\n";
    let warnings = |text: &str| {
        let config = load(&format!("{text}{rule}"), &[], &Flags::default()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let silent = "[control]\nenable_events = false\n";
    assert_eq!(
        warnings(silent),
        [
            "o.toml:5:10: rule \"a\" hears of the end of a task by rpc results alone, since control.enable_events is false and results.url \
             is not set: without them its locks go by ttl, after 1d. Leave enable_events out, set results.url to Celery's Redis result \
             backend, or write acks_late = true if the tasks acknowledge after their run."
        ]
    );
    assert_eq!(warnings(""), [""; 0]);
    assert_eq!(warnings(&format!("{silent}[results]\nurl = \"redis://h\"\n")), [""; 0]);
    assert_eq!(warnings(&format!("{silent}[defaults]\nacks_late = true\n")), [""; 0]);
}

#[test]
fn a_listed_signal_that_nothing_offers_is_warned_about() {
    let warnings = |rule: &str, beside: &str| {
        let text = format!("[[rule]]\ntask = \"a\"\nttl = \"10m\"\n{rule}\n{beside}");
        let config = load(&text, &[], &Flags::default()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let finished = |completion: &str| format!("unique = \"until_finished\"\ncompletion = {completion}");
    let start = "rule \"a\" hears of the end of a task by nothing that its completion lists, since";
    let then = "its locks go by ttl, after 10m. Write completion = \"auto\"; or";
    let late = "write acks_late = true if the tasks acknowledge after their run";
    let backend = "set results.url to Celery's Redis result backend";
    let redis = format!("o.toml:5:14: {start} results.url is not set: {then} {backend}.");
    assert_eq!(warnings(&finished("[\"redis\"]"), ""), [redis]);
    assert_eq!(warnings(&finished("[\"redis\"]"), "[results]\nurl = \"redis://h\""), [""; 0]);
    let both = format!(
        "o.toml:5:14: {start} an ack before the run says nothing of the end and results.url is not set: {then} {late}; or {backend}."
    );
    assert_eq!(warnings(&finished("[\"ack\", \"redis\"]"), ""), [both]);
    let events =
        format!("o.toml:5:14: {start} control.enable_events is false: {then} leave enable_events out, or start the workers with -E.");
    assert_eq!(warnings(&finished("[\"events\"]"), "[control]\nenable_events = false"), [events]);
    for offered in ["[\"events\"]", "[\"rpc\"]", "[\"ack\", \"rpc\"]", "[\"ack\"]\nacks_late = true"] {
        assert_eq!(warnings(&finished(offered), ""), [""; 0], "{offered}");
    }
    for (completion, count) in [("[\"ack\"]", 0), ("[\"redis\"]", 1)] {
        let started = format!("unique = \"until_started\"\ncompletion = {completion}");
        assert_eq!(warnings(&started, "").len(), count, "{completion}");
    }
}

#[test]
fn what_replaces_too_much_or_too_little_is_warned_about() {
    let warnings = |unique: &str, rule: &str| {
        let text = format!("[[rule]]\ntask = \"a\"\nunique = \"{unique}\"\n{rule}\n");
        let config = load(&text, &[], &Flags::default()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let canvas = "rule \"a\" deduplicates members of groups, chords and chains, and replaces what has not started: a call outside of a canvas \
                  that replaces a member ends that canvas with TaskRevokedError. Write canvas = \"bypass\", or on_duplicate = \"drop\" or \
                  \"keep_last\" without debounce.";
    let members = "canvas = \"dedupe\"";
    assert_eq!(
        warnings("until_started", &format!("{members}\non_duplicate = \"replace\"")),
        [format!("o.toml:4:10: {canvas}")]
    );
    assert_eq!(
        warnings("until_started", &format!("debounce = \"1s\"\n{members}")),
        [format!("o.toml:5:10: {canvas}")]
    );
    for other in [
        members.to_owned(),
        format!("{members}\non_duplicate = \"keep_last\""),
        "on_duplicate = \"replace\"".to_owned(),
    ] {
        assert_eq!(warnings("until_finished", &other), [""; 0], "{other}");
    }
    assert_eq!(
        warnings("until_finished", "debounce = \"1s\""),
        [
            "o.toml:4:12: rule \"a\" puts off what comes before its task starts, and drops what comes while that runs (unique = \
             \"until_finished\"), though it may not see the change. Write unique = \"until_started\", or on_duplicate = \"keep_last\" without \
             debounce."
        ]
    );
    assert_eq!(warnings("until_started", "debounce = \"1s\""), [""; 0]);
}

#[test]
fn dead_letters_that_nobody_can_send_are_warned_about() {
    let rule =
        "[[rule]]\ntask = \"a\"\nunique = \"while_running\"\non_running = \"dead_letter\"\ndead_letter = { routing_key = \"busy\" }\n";
    let warnings = |beside: &str| {
        let config = load(&format!("{rule}{beside}"), &[], &Flags::default()).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let what = "o.toml:4:14: rule \"a\" sends dead letters, for which Oncegate has no account of its own";
    let then = "instead of them what may not run is dropped, and counted. Write";
    assert_eq!(
        warnings(""),
        [format!(
            "{what} at the broker ([control]): {then} [control] url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\", or on_running = \"drop\"."
        )]
    );
    let account = "[control]\nurl = \"amqp://u:p@h/jobs\"\n";
    let missing = format!(
        "{what} ([control]) for the virtual host \"shop\": {then} [control.vhosts.\"shop\"] url = \
         \"amqp://USER:PASSWORD@HOST:5672\", or on_running = \"drop\"."
    );
    assert_eq!(warnings(&format!("vhost = [\"jobs\", \"shop\"]\n{account}")), [missing]);
    for served in ["", "vhost = \"jobs\"\n", "vhost = \"j*\"\n"] {
        assert_eq!(warnings(&format!("{served}{account}")), [""; 0], "{served}");
    }
    for idle in ["mode = \"observe\"\n", "mode = \"off\"\n"] {
        assert_eq!(warnings(idle), [""; 0], "{idle}");
    }
}

#[test]
fn where_dead_letters_go_fits_into_amqp() {
    let load = |exchange: usize, routing_key: usize| {
        let (exchange, routing_key) = ("e".repeat(exchange), "r".repeat(routing_key));
        let rule = format!("[[rule]]\ntask = \"a\"\ndead_letter = {{ exchange = {exchange:?}, routing_key = {routing_key:?} }}");
        load(&rule, &[], &Flags::default())
    };
    load(255, 255).unwrap();
    for (exchange, routing_key, key) in [(256, 1, "exchange"), (1, 256, "routing_key")] {
        let errors = load(exchange, routing_key).unwrap_err();
        assert!(
            errors.contains(&format!("{key} = ")) && errors.contains("is longer than 255 octets"),
            "{errors}"
        );
    }
}

#[test]
fn delay_queues_are_named_as_it_is_said() {
    let prefix = |text: &str| load(text, &[], &Flags::default()).unwrap().park.prefix;
    assert_eq!(&*prefix(""), "oncegate.park");
    assert_eq!(&*prefix("[park]\nprefix = \"shop.later\""), "shop.later");
    let longest = "p".repeat(100);
    assert_eq!(&*prefix(&format!("[park]\nprefix = {longest:?}")), longest);
}

#[test]
fn the_result_backend_is_read_where_it_is_named() {
    let of = |text: &str| {
        let config = load(text, &[], &Flags::default()).unwrap();
        let results = config
            .results
            .as_ref()
            .map(|results| (results.url.to_string(), results.key_prefix.clone()));
        (results, config.shown()["results"]["url"].clone())
    };
    let url = "[results]\nurl = \"rediss://me:hunter2@h/1\"\n";
    let named = (
        Some(("rediss://***@h:6379/1".to_owned(), String::new())),
        json!("rediss://***@h:6379/1"),
    );
    assert_eq!(of(""), (None, json!(null)));
    assert_eq!(of("[results]\nkind = \"none\""), (None, json!(null)));
    assert_eq!(of(url), named);
    assert_eq!(of(&format!("{url}kind = \"auto\"")), named);
    assert_eq!(of(&format!("{url}kind = \"redis\"")), named);
    assert_eq!(of(&format!("{url}kind = \"none\"")), (None, named.1.clone()));
    let prefixed = of(&format!("{url}key_prefix = \"shop\""));
    assert_eq!(prefixed.0.map(|(_, prefix)| prefix).as_deref(), Some("shop"));

    let directory = Directory::new();
    let secret = directory.write("results-url", "redis://:hunter2@cache/2\n");
    let by_file = of(&format!("[results]\nkind = \"redis\"\nurl_file = {secret:?}"));
    assert_eq!(by_file.0.map(|(url, _)| url).as_deref(), Some("redis://***@cache:6379/2"));
    let by_variable = load("", &[("ONCEGATE_RESULTS__URL", "redis://cache/2")], &Flags::default()).unwrap();
    assert_eq!(by_variable.results.map(|results| results.url.database), Some(2));
}

#[test]
fn accounts_of_the_proxy_belong_to_virtual_hosts() {
    let of = |text: &str, variables: &[(&str, &str)]| {
        let config = load(text, variables, &Flags::default()).unwrap();
        assert!(!config.shown().to_string().contains("hunter2") && !format!("{config:?}").contains("hunter2"));
        let accounts: Vec<_> = config
            .control
            .accounts
            .iter()
            .map(|account| (account.vhost.to_string(), account.url.to_string()))
            .collect();
        (accounts, config.shown()["control"].clone())
    };
    assert_eq!(
        of("", &[]),
        (Vec::new(), json!({"url": null, "url_file": null, "enable_events": "auto"}))
    );
    let text = "[control]\nurl = \"amqp://me:hunter2@h\"\n[control.vhosts.\"jobs\"]\nurl = \"amqps://me:hunter2@h\"";
    let accounts = vec![
        ("/".to_owned(), "amqp://***@h:5672".to_owned()),
        ("jobs".to_owned(), "amqps://***@h:5671/jobs".to_owned()),
    ];
    let shown = json!({"url": "amqp://***@h:5672", "url_file": null, "enable_events": "auto", "vhosts": {"jobs": {"url": "amqps://***@h:5671", "url_file": null}}});
    assert_eq!(of(text, &[]), (accounts, shown));
    let (accounts, _) = of("", &[("ONCEGATE_CONTROL__URL", "amqp://me:hunter2@h/jobs")]);
    assert_eq!(accounts, [("jobs".to_owned(), "amqp://***@h:5672/jobs".to_owned())]);

    let directory = Directory::new();
    let secret = directory.write("control-url", "amqp://me:hunter2@h/%2F\n");
    let (accounts, _) = of(&format!("[control]\nurl_file = {secret:?}"), &[]);
    assert_eq!(accounts, [("/".to_owned(), "amqp://***@h:5672/%2F".to_owned())]);
}

#[test]
fn a_raise_that_only_some_producers_hear_is_warned_about() {
    let rule = |answer: &str| format!("[[rule]]\ntask = \"a\"\nunique = \"until_started\"\non_duplicate = \"{answer}\"\n");
    let warnings = |text: &str| load(text, &[], &Flags::default()).unwrap().warnings;
    assert_eq!(warnings(&rule("reject")), []);
    let said: Vec<_> = warnings(&rule("raise")).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "o.toml:4:16: rule \"a\" raises in producers that wait for confirms, and drops for all others. Set broker_transport_options = \
          {\"confirm_publish\": True} in the application."
        ]
    );
}
