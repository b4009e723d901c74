mod decisions;
mod limits;
mod locks;
mod modes;
mod tasks;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::unit::Secret;
use crate::config::{self, AdminToken, Flags};
use crate::rules::lock::{Claim, Digest, IfHeld, LockNote, Nonce, ReleaseOn, Reply, Request as Ask, Scope, Signal};
use crate::rules::running::{IfBusy, Ran, RunNote};
use crate::rules::source::{Hears, Source};
use crate::store::{Memory, Store, SystemClock, Unobserved};

/// The admin listener on a port of its own, with a memory store.
struct Proxy {
    admin: Arc<Admin>,
    state: Arc<State>,
    store: Client,
    address: SocketAddr,
    commands: mpsc::Receiver<Command>,
}

/// An answer, taken apart.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("no error").to_owned()
    }
}

fn token(name: &str, secret: &str, role: Role) -> AdminToken {
    AdminToken {
        name: name.to_owned(),
        file: "/run/token".into(),
        role,
        secret: Secret::new(secret),
    }
}

fn config(tokens: Vec<AdminToken>) -> Arc<Config> {
    let text = "[store]\nurl = \"redis://me:hidden@127.0.0.1:1/0\"\n\
                [[rule]]\ntask = \"reports.build\"\nunique = \"until_finished\"\nparams = \"a, b=2\"\n\
                [[rule]]\nname = \"free\"\ntask = \"free.*\"\nbypass = true\n\
                [[rule]]\nname = \"mail\"\ntask = \"mail.*\"\nqueue = \"mail\"\nunique = \"until_started\"\nmode = \"observe\"\n";
    let mut config = config::load_text("oncegate.toml", text, &BTreeMap::new(), &Flags::default()).expect("right");
    config.admin.tokens = tokens;
    Arc::new(config)
}

async fn start(tokens: Vec<AdminToken>) -> Proxy {
    let store = Store::memory(
        Arc::new(Memory::new(Arc::new(SystemClock::default()), "p1".into())),
        Arc::new(Unobserved),
    );
    start_with(tokens, store).await
}

async fn start_with(tokens: Vec<AdminToken>, store: Store) -> Proxy {
    start_feeding(tokens, store, Arc::default()).await
}

async fn start_feeding(tokens: Vec<AdminToken>, store: Store, feed: Arc<Feed>) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (commands, received) = mpsc::channel(1);
    let state = Arc::new(State::default());
    state.set_phase(Phase::Running);
    let admin = Admin::new(Parts {
        instance: "p1".to_owned(),
        port: address.port(),
        config: config(tokens),
        store: store.clone(),
        metrics: Arc::new(Metrics::new().expect("names are unique")),
        feed,
        state: Arc::clone(&state),
        commands,
    });
    let routes = router(&admin);
    tokio::spawn(serve(listener, None, routes));
    Proxy {
        admin,
        state,
        store: store.client(),
        address,
        commands: received,
    }
}

impl Proxy {
    /// Sends a request with these lines besides Host, which they may replace.
    async fn send(&self, request_line: &str, lines: &[&str], body: &str) -> Answer {
        let mut text = format!("{request_line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !lines.iter().any(|line| line.starts_with("Host:")) {
            let _ = write!(text, "Host: {}\r\n", self.address);
        }
        for line in lines {
            text.push_str(line);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text.push_str(body);
        let mut socket = TcpStream::connect(self.address).await.expect("listens");
        socket.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Answer {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[], "").await
    }

    async fn change(&self, request: &str, body: &str) -> Answer {
        self.send(request, &[JSON], body).await
    }

    /// A lock that is queued, held by `id`.
    async fn lock(&self, key: u8, rule: &str, task: &str, id: &str) -> Digest {
        let digest = Digest([key; 32]);
        self.lock_key(digest, rule, task, id).await;
        digest
    }

    /// A delivery that was handed to a worker.
    async fn run(&self, key: u8, rule: &str, id: &str) -> Digest {
        let digest = Digest([key; 32]);
        let request = Ask::Run {
            claim: Claim { digest, id: id.into() },
            delivery: Nonce(9),
            note: Arc::new(RunNote {
                rule: rule.into(),
                task: "reports.build".into(),
                summary: "a, b".into(),
                vhost: "/".into(),
                queue: "celery".into(),
                life_ms: 60_000,
                settle_grace_ms: 1_000,
                acks_late: false,
                hears: Hears::ALL,
                retries: 0,
                owed: crate::rules::owed::Owed::Nothing,
            }),
            busy: IfBusy::Wait { place_ms: None },
            worker: "celery@one".into(),
        };
        let ran = self.store.ask(request).await;
        assert_eq!(ran, Ok(Reply::Run(Ran::Runs)));
        digest
    }

    /// Something is learnt of a task that a worker has.
    async fn hear(&self, id: &str, signal: Signal) {
        let request = Ask::Signal {
            id: id.into(),
            settlement: Nonce(8),
            signal,
            source: Source::Events,
            worker: "celery@one".into(),
        };
        self.store.ask(request).await.expect("a memory store answers");
    }

    async fn lock_key(&self, digest: Digest, rule: &str, task: &str, id: &str) {
        let claim = Claim { digest, id: id.into() };
        let note = Arc::new(LockNote {
            rule: rule.into(),
            task: task.into(),
            summary: "a, b".into(),
            vhost: "/".into(),
            queue: "celery".into(),
            scope: Scope::UntilFinished,
            shadow: false,
            life_ms: 60_000,
            lease_ms: 10_000,
            settle_grace_ms: 1_000,
            acks_late: false,
            hears: Hears::ALL,
            release_on: ReleaseOn::Both,
            cooldown_ms: 0,
            owed: crate::rules::owed::Owed::Nothing,
            if_held: IfHeld::Yield,
            unstarted_ms: None,
        });
        let publish = Nonce(7);
        let acquire = Ask::Acquire {
            claim: claim.clone(),
            publish,
            note: Arc::clone(&note),
            reentrant: false,
        };
        self.store.ask(acquire).await.expect("a memory store answers");
        self.store
            .ask(Ask::Commit { claim, publish, note })
            .await
            .expect("a memory store answers");
    }
}

const JSON: &str = "Content-Type: application/json";

#[tokio::test]
async fn every_answer_names_instance_and_scope() {
    let proxy = start(Vec::new()).await;
    for path in [
        "/livez",
        "/healthz",
        "/readyz",
        "/api/v1/status",
        "/api/v1/config",
        "/api/v1/locks",
        "/nothing",
    ] {
        let answer = proxy.get(path).await;
        assert_eq!(answer.json()["instance"], "p1", "{path}");
        assert_eq!(answer.json()["scope"], "instance", "{path}: a memory store is this process's own");
        assert!(answer.head.contains("content-type: application/json"), "{path}: {}", answer.head);
    }
    let answer = proxy.get("/nothing").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    let answer = proxy.change("PUT /api/v1/locks", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"));
}

#[tokio::test]
async fn a_shared_store_makes_locks_the_fleets() {
    let settings = crate::store::Settings {
        url: "redis://127.0.0.1:1/0".to_owned(),
        prefix: "oncegate".to_owned(),
        timeout: Duration::from_millis(250),
        proxy: "p1".into(),
        ca: None,
    };
    let store = Store::open(&settings, Arc::new(Unobserved)).expect("a URL");
    let proxy = start_with(Vec::new(), store).await;
    let answer = proxy.get("/api/v1/locks").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "store_unavailable"),
        "nothing listens there"
    );
    assert_eq!(proxy.admin.store_reach, Reach::Fleet);
    assert_eq!(proxy.get("/api/v1/status").await.json()["store"]["type"], "redis");
}

#[tokio::test]
async fn pages_of_other_sites_change_and_see_nothing() {
    let proxy = start(Vec::new()).await;
    proxy.lock(1, "r", "t", "a").await;
    let rebound = proxy.send("GET /api/v1/locks", &["Host: evil.example"], "").await;
    assert_eq!((rebound.status, rebound.code().as_str()), (403, "host_refused"));
    let origin = proxy
        .send("DELETE /api/v1/locks?rule=r", &[JSON, "Origin: http://evil.example"], "")
        .await;
    assert_eq!((origin.status, origin.code().as_str()), (403, "origin_refused"));
    let form = proxy.send("POST /api/v1/drain", &["Content-Type: text/plain"], "{}").await;
    assert_eq!((form.status, form.code().as_str()), (415, "json_required"));
    let bare = proxy.send("DELETE /api/v1/locks?rule=r", &[], "").await;
    assert_eq!((bare.status, bare.code().as_str()), (415, "json_required"));
    assert_eq!(proxy.get("/api/v1/locks").await.json()["locks"].as_array().map(Vec::len), Some(1));
    let page = proxy.send("GET /", &["Host: evil.example"], "").await;
    assert_eq!(page.status, 403);
    let probe = proxy.send("GET /readyz", &["Host: 10.0.0.9:9672"], "").await;
    assert_eq!(probe.status, 200, "a supervisor calls by the address that it knows");
}

#[tokio::test]
async fn tokens_have_roles_and_probes_need_none() {
    let proxy = start(vec![token("dash", "look", Role::Read), token("ops", "do", Role::Operate)]).await;
    for path in ["/metrics", "/livez", "/healthz", "/readyz"] {
        assert_eq!(proxy.get(path).await.status, 200, "{path}");
    }
    for path in ["/", "/api/v1/locks", "/api/v1/status", "/api/v1/config", "/nothing"] {
        let answer = proxy.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "token_required"), "{path}");
        assert!(answer.head.contains("www-authenticate: bearer") && answer.head.contains("www-authenticate: basic"));
    }
    let look = "Authorization: Bearer look";
    assert_eq!(proxy.send("GET /api/v1/locks", &[look], "").await.status, 200);
    assert_eq!(proxy.send("GET /", &[look], "").await.status, 200);
    for change in ["POST /api/v1/drain", "POST /api/v1/reload", "DELETE /api/v1/locks?rule=r"] {
        let answer = proxy.send(change, &[look, JSON], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "role_refused"), "{change}");
    }
    let answer = proxy
        .send("DELETE /api/v1/locks?rule=r", &["Authorization: Bearer do", JSON], "")
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_reload_takes_on_new_tokens() {
    let proxy = start(Vec::new()).await;
    assert_eq!(proxy.get("/api/v1/status").await.status, 200);
    proxy.admin.set_config(config(vec![token("ops", "do", Role::Operate)]));
    assert_eq!(proxy.get("/api/v1/status").await.status, 401);
}

#[tokio::test]
async fn readyz_is_503_only_while_clients_should_stay_away() {
    let proxy = start(Vec::new()).await;
    let ready = async |status: u16, word: &str| {
        let answer = proxy.get("/readyz").await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.json()["status"], word);
        answer.json()["reasons"].clone()
    };
    assert_eq!(ready(200, "ok").await, json!([]));
    proxy.state.set_upstreams(["a:5672", "b:5672"]);
    proxy.state.set_upstream_up("a:5672", false);
    assert_eq!(ready(200, "degraded").await, json!(["upstream_down: a:5672"]));
    proxy.state.set_upstream_up("b:5672", false);
    assert_eq!(ready(503, "unavailable").await[0], "no_upstream");
    proxy.state.set_upstream_up("b:5672", true);
    proxy.state.set_reload(Reload {
        at: SystemTime::now(),
        refused: Some("line 1".to_owned()),
    });
    ready(200, "degraded").await;
    proxy.state.set_phase(Phase::Draining);
    assert_eq!(ready(503, "unavailable").await, json!(["draining"]));
    assert_eq!(proxy.get("/livez").await.status, 200);
    proxy.state.set_phase(Phase::Starting);
    ready(503, "unavailable").await;
}

#[tokio::test]
async fn reload_and_drain_are_orders_to_main() {
    let mut proxy = start(Vec::new()).await;
    let outcome = async |proxy: &mut Proxy, outcome: Result<Reloaded, String>| {
        let mut commands = std::mem::replace(&mut proxy.commands, mpsc::channel(1).1);
        let main = async {
            match commands.recv().await {
                Some(Command::Reload(done)) => done.send(outcome).expect("the handler waits"),
                other => panic!("{other:?}"),
            }
        };
        let (answer, ()) = tokio::join!(proxy.change("POST /api/v1/reload", "{}"), main);
        proxy.commands = commands;
        answer
    };
    let done = Reloaded {
        sha256: "abc".to_owned(),
        rules: 4,
        warnings: vec!["w".to_owned()],
    };
    let answer = outcome(&mut proxy, Ok(done)).await;
    assert_eq!(
        (answer.status, &answer.json()["rules"], &answer.json()["sha256"]),
        (200, &json!(4), &json!("abc"))
    );
    let answer = outcome(&mut proxy, Err("rules.toml:1:1: no".to_owned())).await;
    assert_eq!((answer.status, answer.code().as_str()), (422, "config_refused"));
    assert_eq!(answer.json()["error"]["message"], "rules.toml:1:1: no");
    let answer = proxy.change("POST /api/v1/drain", "").await;
    assert_eq!(answer.status, 202);
    assert!(matches!(proxy.commands.try_recv(), Ok(Command::Drain)));
    proxy.commands.close();
    let answer = proxy.change("POST /api/v1/drain", "").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "busy"));
}

#[tokio::test]
async fn config_shows_no_secret() {
    let proxy = start(Vec::new()).await;
    let answer = proxy.get("/api/v1/config").await.json();
    assert!(!answer.to_string().contains("hidden"), "{answer}");
    assert!(
        answer["config"]["store"]["url"].as_str().is_some_and(|url| url.contains("***")),
        "{answer}"
    );
    assert_eq!(answer["sha256"].as_str().map(str::len), Some(64));
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let proxy = start(Vec::new()).await;
    let page = proxy.get("/").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(!page.body.contains("http://") && !page.body.contains("https://") && !page.body.contains("src="));
}

#[tokio::test]
async fn the_probes_listener_has_nothing_else() {
    let proxy = start(vec![token("ops", "do", Role::Operate)]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let routes = probes_router(&proxy.admin);
    tokio::spawn(serve(listener, None, routes));
    let probes = Proxy { address, ..proxy };
    for path in ["/metrics", "/livez", "/healthz", "/readyz"] {
        assert_eq!(
            probes.send(&format!("GET {path}"), &["Host: any.name"], "").await.status,
            200,
            "{path}"
        );
    }
    for path in ["/", "/api/v1/locks", "/api/v1/status"] {
        assert_eq!(probes.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn rules_are_listed_with_their_settings() {
    let proxy = start(Vec::new()).await;
    let rules = proxy.get("/api/v1/rules").await.json();
    assert_eq!(rules["rules"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        (&rules["rules"][0]["name"], &rules["rules"][1]["name"]),
        (&json!("reports.build"), &json!("free"))
    );
    assert_eq!(
        (&rules["rules"][0]["unique"], &rules["rules"][0]["mode"]),
        (&json!("until_finished"), &json!("enforce"))
    );
    assert_eq!(proxy.get("/api/v1/status").await.json()["config"]["rules"], 3);
    let metrics = proxy.get("/metrics").await.body;
    let zero = r#"oncegate_publishes_total{decision="dropped",mode="enforce",rule="reports.build"} 0"#;
    assert!(metrics.contains(zero), "{metrics}");
}

#[tokio::test]
async fn explain_says_how_a_decision_comes_about() {
    let proxy = start(vec![token("dash", "look", Role::Read)]).await;
    let ask = async |body: &str| {
        proxy
            .send("POST /api/v1/explain", &[JSON, "Authorization: Bearer look"], body)
            .await
    };
    let answer = ask(r#"{"task": "free.x"}"#).await;
    assert_eq!(answer.status, 200, "a question needs no more than a reader's token");
    let answer = answer.json();
    assert_eq!(
        (&answer["decision"], &answer["rule"], &answer["scope"]),
        (&json!("bypassed"), &json!("free"), &json!("instance"))
    );
    assert_eq!(
        answer["steps"].as_array().map(Vec::len),
        Some(2),
        "a rule that decides is the last one that is asked"
    );
    assert_eq!(ask(r#"{"task": "other"}"#).await.json()["decision"], "unmatched");
}

/// An answer to bytes that are sent over a connection without sockets, so that time may be the test's own.
async fn exchange(admin: &Arc<Admin>, head: &str, body: &[u8]) -> String {
    let (mut client, served) = tokio::io::duplex(64 << 10);
    let peer = Peer(([127, 0, 0, 1], 1).into());
    tokio::spawn(server::answer(served, peer, router(admin)));
    let lines = format!("{head} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{JSON}\r\n", admin.port);
    client
        .write_all(format!("{lines}Content-Length: {}\r\n\r\n", BODY_MAX + 1).as_bytes())
        .await
        .expect("open");
    let (mut reading, mut writing) = tokio::io::split(client);
    let body = body.to_vec();
    let sending = tokio::spawn(async move {
        // The answer may come before all is sent.
        let _ = writing.write_all(&body).await;
        std::future::pending::<()>().await;
    });
    let mut answer = String::new();
    reading.read_to_string(&mut answer).await.expect("an answer and the end");
    sending.abort();
    answer
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let proxy = start(Vec::new()).await;
    let begun = tokio::time::Instant::now();
    let answer = exchange(&proxy.admin, "POST /api/v1/explain", b"{\"task\":").await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
    assert_eq!(begun.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_refused() {
    let proxy = start(Vec::new()).await;
    let answer = exchange(&proxy.admin, "POST /api/v1/lookup", &vec![b' '; BODY_MAX + 1]).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("bad_body"), "{answer}");
}
