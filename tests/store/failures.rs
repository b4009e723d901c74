//! What Redis can do wrong: be away, stand still, lose everything, refuse to write.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oncegate::rules::lock::{Acquired, Alive, Committed, LockState, Nonce, ReleaseReason, Reply, Request, Scope};
use oncegate::store::{Circuit, Client, GivenUp, Observer, Op, OpenError, Settings, Store, Unavailable, Unobserved};

use crate::world::{RedisServer, acquire, claim, commit, digest, note, note_with, patient, settings, unpublish};

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn write(&self, line: String) {
        self.0.lock().expect("the log").push(line);
    }

    fn count(&self, start: &str) -> usize {
        self.0
            .lock()
            .expect("the log")
            .iter()
            .filter(|line| line.starts_with(start))
            .count()
    }
}

impl Observer for Log {
    fn on_error(&self, op: Op, why: &Unavailable) {
        self.write(format!("error {} {why:?}", op.as_str()));
    }
    fn on_told(&self, request: &Request, reply: &Reply) {
        self.write(format!("told {} {reply:?}", Op::of(request).as_str()));
    }
    fn on_given_up(&self, request: &Request, why: GivenUp) {
        self.write(format!("given up {why:?} {request:?}"));
    }
    fn on_up(&self, up: bool) {
        self.write(format!("up {up}"));
    }
    fn on_circuit(&self, circuit: Circuit) {
        self.write(format!("circuit {circuit:?}"));
    }
    fn on_new_server(&self, run_id: &str) {
        self.write(format!("new server {run_id}"));
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn open(url: String) -> (Client, Arc<Log>) {
    open_with(&patient(url))
}

fn open_with(settings: &Settings) -> (Client, Arc<Log>) {
    let log = Arc::new(Log::default());
    let store = Store::open(settings, log.clone()).expect("a store");
    assert_eq!(store.kind(), "redis");
    (store.client(), log)
}

async fn show(client: &Client, key: u8) -> Result<Option<String>, Unavailable> {
    match client.ask(Request::Show { digest: digest(key) }).await? {
        Reply::Lock(lock) => Ok(lock.map(|lock| format!("{} {}", lock.holder, lock.state.as_str()))),
        other => panic!("{other:?}"),
    }
}

async fn command(server: &RedisServer, words: &[&str]) {
    let mut connection = server.connection().await;
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async::<()>(&mut connection).await.expect("the command");
}

#[tokio::test]
async fn absent_server_opens_the_circuit_and_its_coming_closes_it() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let (client, log) = open(server.url());
    let note = note(Scope::UntilFinished);
    client.tell(commit(&claim(1, "a"), 1, &note));
    until("the circuit opens", async || {
        client.ask(acquire(&claim(2, "a"), 1, &note, false)).await == Err(Unavailable::CircuitOpen)
    })
    .await;
    assert!(!client.health().up);
    assert_eq!(client.health().orders_kept, 1);
    assert!(log.count("circuit Open") > 0);
    server.restart();
    until("the store is back", async || {
        client.health().up && client.health().circuit == Circuit::Closed
    })
    .await;
    client.flush().await;
    assert_eq!(log.count("told commit Commit(Held)"), 1);
    assert_eq!(show(&client, 1).await, Ok(Some("a queued".into())));
    assert_eq!(client.health().orders_kept, 0);
}

#[tokio::test]
async fn frozen_server_is_an_unknown_outcome_and_orders_are_done_in_order() {
    let server = RedisServer::start(&[]);
    let (client, log) = open_with(&settings(server.url()));
    let note = note(Scope::UntilFinished);
    until("the store answers", async || show(&client, 1).await.is_ok()).await;
    server.signal("-STOP");
    assert_eq!(
        client.ask(acquire(&claim(1, "a"), 1, &note, false)).await,
        Err(Unavailable::Timeout)
    );
    // The publish went out unchecked all the same, and so did another that then failed.
    client.tell(commit(&claim(1, "a"), 1, &note));
    client.tell(commit(&claim(2, "b"), 2, &note));
    client.tell(unpublish(&claim(2, "b"), 2, ReleaseReason::Returned));
    client.tell(commit(&claim(3, "c"), 3, &note));
    client.tell(commit(&claim(3, "d"), 4, &note));
    until("nobody waits any more", async || {
        client.ask(Request::Show { digest: digest(9) }).await == Err(Unavailable::CircuitOpen)
    })
    .await;
    server.signal("-CONT");
    client.flush().await;
    until("the store is back", async || show(&client, 1).await.is_ok()).await;
    assert_eq!(show(&client, 1).await, Ok(Some("a queued".into())));
    assert_eq!(show(&client, 2).await, Ok(None));
    assert_eq!(show(&client, 3).await, Ok(Some("c queued".into())), "in the order of telling");
    assert_eq!(log.count("told unpublish"), 1);
    assert_eq!(log.count("told commit"), 4);
    assert_eq!(log.count("given up"), 0);
    let Ok(Reply::Lock(Some(lock))) = client.ask(Request::Show { digest: digest(1) }).await else {
        panic!("no lock")
    };
    assert_eq!(
        lock.in_flight, 1,
        "neither the repeated question nor the repeated order counts twice"
    );
}

#[tokio::test]
async fn killed_server_that_comes_back_empty_is_noticed() {
    let mut server = RedisServer::start(&[]);
    let (client, log) = open(server.url());
    let note = note(Scope::UntilFinished);
    until("the lock is taken", async || {
        client.ask(commit(&claim(1, "a"), 1, &note)).await == Ok(Reply::Commit(Committed::Held))
    })
    .await;
    server.kill();
    until("the loss is noticed", async || show(&client, 1).await.is_err()).await;
    client.tell(commit(&claim(2, "b"), 1, &note));
    server.restart();
    client.flush().await;
    until("the store is back", async || show(&client, 2).await == Ok(Some("b queued".into()))).await;
    assert_eq!(show(&client, 1).await, Ok(None));
    assert_eq!(log.count("new server"), 1);
    assert!(log.count("up false") >= 1 && log.count("up true") >= 2);
}

#[tokio::test]
async fn lost_connection_is_found_though_nobody_asks() {
    let mut server = RedisServer::start(&[]);
    let (client, log) = open(server.url());
    let connects = client.connects();
    until("it is connected", async || *connects.borrow() == 1).await;
    server.kill();
    until("the loss is noticed", async || log.count("up false") > 0).await;
    server.restart();
    until("it is connected again", async || *connects.borrow() == 2).await;
    assert_eq!(log.count("new server"), 1);
    assert!(client.health().up);
}

#[tokio::test]
async fn question_that_meets_a_dead_connection_is_asked_on_the_next() {
    let mut server = RedisServer::start(&[]);
    let (client, log) = open(server.url());
    let connects = client.connects();
    for round in 1..=5 {
        until("it is connected", async || *connects.borrow() == round).await;
        show(&client, 1).await.expect("an answer");
        server.kill();
        server.restart();
        assert_eq!(show(&client, 1).await, Ok(None));
        client.flush().await;
    }
    assert_eq!(log.count("error"), 0);
}

#[tokio::test]
async fn renewals_are_not_kept_for_a_store_that_is_away() {
    let mut server = RedisServer::start(&[]);
    let (client, log) = open(server.url());
    let connects = client.connects();
    until("it is connected", async || *connects.borrow() == 1).await;
    server.kill();
    until("the loss is noticed", async || log.count("up false") > 0).await;
    let renewal = |id: &str, key| Request::Renew {
        claim: claim(key, id),
        delivery: Nonce(1),
        note: note(Scope::UntilFinished),
        alive: Alive::Acknowledged,
        worker: "w@one".into(),
    };
    for key in 0..100 {
        client.tell(renewal("a", key));
    }
    client.tell(commit(&claim(200, "b"), 1, &note(Scope::UntilFinished)));
    until("the order is taken in", async || client.health().orders_kept > 0).await;
    assert_eq!(
        client.health().orders_kept,
        1,
        "who has the locks renews them when the store is back"
    );
    server.restart();
    until("it is connected again", async || *connects.borrow() == 2).await;
    client.tell(renewal("a", 7));
    client.flush().await;
    assert_eq!(log.count("told renew Renewed(Retaken)"), 1);
    assert_eq!(show(&client, 7).await, Ok(Some("a running".into())));
    assert_eq!(show(&client, 8).await, Ok(None));
}

#[tokio::test]
async fn forgotten_script_is_loaded_again() {
    let server = RedisServer::start(&[]);
    let log = Arc::new(Log::default());
    let client = Store::open(&patient(server.url()), log.clone()).expect("a store").client();
    let note = note(Scope::UntilFinished);
    for round in 0..10 {
        command(&server, &["SCRIPT", "FLUSH"]).await;
        // Many at once, so that several calls are out when the first finds no script.
        let asked = (0..600_u64).map(|publish| {
            let (client, note) = (client.clone(), note.clone());
            tokio::spawn(async move {
                client
                    .ask(acquire(&claim(round, &format!("id-{publish}")), publish, &note, false))
                    .await
            })
        });
        let mut taken = Vec::new();
        for (publish, answer) in asked.collect::<Vec<_>>().into_iter().enumerate() {
            if answer.await.expect("a task") == Ok(Reply::Acquire(Acquired::Taken)) {
                taken.push(publish);
            }
        }
        assert_eq!(taken, [0], "the order of submission is kept");
    }
    assert_eq!(log.count("error"), 0);
}

#[tokio::test]
async fn replica_is_left_for_its_master() {
    let server = RedisServer::start(&[]);
    let (client, log) = open(server.url());
    let note = note(Scope::UntilFinished);
    until("the store answers", async || show(&client, 1).await.is_ok()).await;
    command(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let refused = client.ask(acquire(&claim(1, "a"), 1, &note, false)).await;
    assert!(
        matches!(&refused, Err(Unavailable::Refused(why)) if why.contains("READONLY")),
        "{refused:?}"
    );
    until("the circuit opens", async || {
        client.ask(acquire(&claim(2, "a"), 1, &note, false)).await == Err(Unavailable::CircuitOpen)
    })
    .await;
    for _ in 0..60 {
        assert!(
            show(&client, 1).await.is_err(),
            "a replica is not even asked for what it could tell"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.tell(commit(&claim(1, "a"), 1, &note));
    command(&server, &["REPLICAOF", "NO", "ONE"]).await;
    client.flush().await;
    until("the order is done", async || show(&client, 1).await == Ok(Some("a queued".into()))).await;
    assert_eq!(log.count("told commit Commit(Held)"), 1);
}

#[tokio::test]
async fn full_server_refuses_and_orders_wait() {
    let server = RedisServer::start(&["--maxmemory-policy", "noeviction"]);
    let (client, log) = open(server.url());
    let note = note(Scope::UntilFinished);
    until("the store answers", async || show(&client, 1).await.is_ok()).await;
    command(&server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = client.ask(acquire(&claim(1, "a"), 1, &note, false)).await;
    assert!(
        matches!(&refused, Err(Unavailable::Refused(why)) if why.contains("OOM")),
        "{refused:?}"
    );
    client.tell(commit(&claim(1, "a"), 1, &note));
    until("the circuit opens", async || log.count("circuit Open") > 0).await;
    command(&server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    client.flush().await;
    until("the order is done", async || show(&client, 1).await == Ok(Some("a queued".into()))).await;
}

#[tokio::test]
async fn questions_and_orders_keep_their_order() {
    let server = RedisServer::start(&[]);
    let log = Arc::new(Log::default());
    let client = Store::open(&patient(server.url()), log.clone()).expect("a store").client();
    let note = note(Scope::UntilFinished);
    let (reply_to, mut replies) = tokio::sync::mpsc::unbounded_channel();
    // All of it waits for the connection.
    client.submit(&mut vec![(1, acquire(&claim(1, "a"), 1, &note, false))], &mut Vec::new(), &reply_to);
    client.tell(commit(&claim(1, "b"), 2, &note));
    client.submit(&mut vec![(2, acquire(&claim(1, "c"), 3, &note, false))], &mut Vec::new(), &reply_to);
    client.tell(commit(&claim(1, "a"), 1, &note));
    assert_eq!(replies.recv().await, Some((1, Ok(Reply::Acquire(Acquired::Taken)))));
    assert_eq!(
        replies.recv().await,
        Some((2, Ok(Reply::Acquire(Acquired::Leased { holder: "a".into() }))))
    );
    client.flush().await;
    assert_eq!(log.count("told commit Commit(Lost"), 1);
    assert_eq!(log.count("told commit Commit(Held)"), 1);
}

#[tokio::test]
async fn record_lives_as_long_as_its_lock() {
    let server = RedisServer::start(&[]);
    let client = Store::open(&patient(server.url()), Arc::new(Unobserved)).expect("a store").client();
    let brief = note_with(Scope::UntilFinished, |note| note.lease_ms = 20);
    let long = note(Scope::UntilFinished);
    let a = claim(1, "a");
    client.ask(acquire(&a, 1, &brief, false)).await.expect("taken");
    client
        .ask(Request::RenewLease {
            claim: a.clone(),
            publish: Nonce(1),
            note: long,
        })
        .await
        .expect("renewed");
    // The broker takes many leases to answer.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(client.ask(commit(&a, 1, &brief)).await, Ok(Reply::Commit(Committed::Held)));
    let mut connection = server.connection().await;
    let mut both = redis::pipe();
    // The record first: a millisecond may pass between the two.
    both.atomic()
        .cmd("PTTL")
        .arg("og[test]*:id:a")
        .cmd("PTTL")
        .arg(format!("og[test]*:lock:{{{}}}", digest(1)));
    let (record, lock): (i64, i64) = both.query_async(&mut connection).await.expect("the ttls");
    assert!(lock > 0 && record >= lock, "lock {lock} ms, record {record} ms");
}

#[tokio::test]
async fn one_bad_key_spoils_no_other_question() {
    let server = RedisServer::start(&[]);
    let log = Arc::new(Log::default());
    let client = Store::open(&patient(server.url()), log.clone()).expect("a store").client();
    let note = note(Scope::UntilFinished);
    command(
        &server,
        &["SET", &format!("og[test]*:lock:{{{}}}", digest(2)), "not a lock", "EX", "1000"],
    )
    .await;
    let (reply_to, mut replies) = tokio::sync::mpsc::unbounded_channel();
    let mut requests = (1..=3)
        .map(|key| (u64::from(key), acquire(&claim(key, "a"), 1, &note, false)))
        .collect();
    client.submit(&mut requests, &mut Vec::new(), &reply_to);
    let taken = Ok(Reply::Acquire(Acquired::Taken));
    assert_eq!(replies.recv().await, Some((1, taken.clone())));
    let refused = replies.recv().await;
    assert!(
        matches!(&refused, Some((2, Err(Unavailable::Refused(why)))) if why.contains("WRONGTYPE")),
        "{refused:?}"
    );
    assert_eq!(replies.recv().await, Some((3, taken)));
    client.tell(commit(&claim(2, "a"), 1, &note));
    client.flush().await;
    assert_eq!(log.count("given up Refused"), 1);
    assert_eq!(log.count("up false"), 0, "the connection is as good as before");
}

#[tokio::test]
async fn orders_are_bounded_and_end() {
    let mut server = RedisServer::start(&[]);
    server.kill();
    let (client, log) = open(server.url());
    let brief = note_with(Scope::UntilFinished, |note| note.life_ms = 1);
    let lasting = note(Scope::UntilFinished);
    for publish in 0..100_010 {
        client.tell(commit(&claim(1, "oldest"), publish, &brief));
    }
    until("all are taken in", async || client.health().orders_kept == 100_000).await;
    assert_eq!(log.count("given up TooMany"), 10);
    for publish in 0..100_000 {
        client.tell(commit(&claim(2, "newest"), publish, &lasting));
    }
    client.tell(commit(&claim(3, "late"), 1, &brief));
    until("all are taken in", async || log.count("given up TooMany") == 100_011).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    server.restart();
    client.flush().await;
    until("the store is back", async || show(&client, 3).await.is_ok()).await;
    assert_eq!((log.count("given up TooLate"), log.count("given up TooMany")), (1, 100_011));
    assert_eq!(log.count("told commit Commit(Held)"), 99_999);
    assert_eq!(show(&client, 3).await, Ok(None), "it would have lapsed by now");
}

#[tokio::test]
async fn lock_of_an_asker_that_has_gone_is_given_back() {
    let server = RedisServer::start(&[]);
    let log = Arc::new(Log::default());
    let client = Store::open(&patient(server.url()), log.clone()).expect("a store").client();
    let (reply_to, replies) = tokio::sync::mpsc::unbounded_channel();
    let mut requests = vec![(1, acquire(&claim(1, "a"), 1, &note(Scope::UntilFinished), false))];
    client.submit(&mut requests, &mut Vec::new(), &reply_to);
    drop(replies);
    until("it is given back", async || log.count("told unpublish") == 1).await;
    assert_eq!(show(&client, 1).await, Ok(None));
}

#[tokio::test]
async fn kept_acquires_hear_of_the_stores_loss() {
    let mut server = RedisServer::start(&[]);
    let (client, _) = open(server.url());
    let note = note(Scope::UntilFinished);
    until("a takes it", async || {
        client.ask(acquire(&claim(1, "a"), 1, &note, false)).await.is_ok()
    })
    .await;
    let (reply_to, mut replies) = tokio::sync::mpsc::unbounded_channel();
    for ticket in 1..=3 {
        let mut requests = vec![(ticket, acquire(&claim(1, &format!("id-{ticket}")), ticket, &note, false))];
        client.submit(&mut requests, &mut Vec::new(), &reply_to);
        assert!(matches!(
            replies.recv().await,
            Some((_, Ok(Reply::Acquire(Acquired::Leased { .. }))))
        ));
    }
    server.kill();
    let mut told = Vec::new();
    for _ in 0..3 {
        let (ticket, answer) = replies.recv().await.expect("an answer");
        assert!(answer.is_err(), "{answer:?}");
        told.push(ticket);
    }
    told.sort_unstable();
    assert_eq!(told, [1, 2, 3]);
}

#[tokio::test]
async fn password_and_database_of_the_url_are_used() {
    let server = RedisServer::start(&["--requirepass", "s3cret"]);
    let right = format!("redis://:s3cret@127.0.0.1:{}/3", server.port);
    let client = Store::open(&patient(right.clone()), Arc::new(Unobserved))
        .expect("a store")
        .client();
    assert_eq!(
        client.ask(commit(&claim(1, "a"), 1, &note(Scope::UntilFinished))).await,
        Ok(Reply::Commit(Committed::Held))
    );
    let direct = redis::Client::open(right).expect("a client");
    let mut connection = direct.get_multiplexed_async_connection().await.expect("a connection");
    let keys: usize = redis::cmd("DBSIZE").query_async(&mut connection).await.expect("a size");
    assert_eq!(keys, 2);

    let (client, _) = open(format!("redis://:wrong@127.0.0.1:{}/3", server.port));
    until("it is refused", async || show(&client, 1).await == Err(Unavailable::CircuitOpen)).await;
    let inspected = client.inspect().await.expect_err("no entry");
    assert!(
        !format!("{inspected:?} {inspected}").contains("wrong"),
        "no password in {inspected}"
    );
}

#[tokio::test]
async fn tls_needs_a_known_authority() {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let (server, authority) = RedisServer::start_tls();
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let trusting = Settings {
        ca: Some(authority),
        ..patient(url.clone())
    };
    let client = Store::open(&trusting, Arc::new(Unobserved)).expect("a store").client();
    assert_eq!(
        client.ask(commit(&claim(1, "a"), 1, &note(Scope::UntilFinished))).await,
        Ok(Reply::Commit(Committed::Held))
    );
    assert!(client.inspect().await.is_ok());

    let (client, _) = open(url);
    until("it is not believed", async || {
        show(&client, 1).await == Err(Unavailable::CircuitOpen)
    })
    .await;
}

#[tokio::test]
async fn server_tells_what_it_is() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let (client, _) = open(server.url());
    let info = client.inspect().await.expect("an answer").expect("Redis");
    assert_eq!((info.role.as_str(), info.maxmemory_policy.as_str()), ("master", "allkeys-lru"));
    assert_eq!(info.run_id.len(), 40);
    assert!(!info.version.is_empty());
}

#[tokio::test]
async fn fields_are_those_that_operators_read() {
    let server = RedisServer::start(&[]);
    let client = Store::open(&patient(server.url()), Arc::new(Unobserved)).expect("a store").client();
    client
        .ask(commit(&claim(1, "a"), 1, &note(Scope::UntilFinished)))
        .await
        .expect("held");
    let mut connection = server.connection().await;
    let key = format!("og[test]*:lock:{{{}}}", "01".repeat(32));
    let fields = ["holder", "state", "rule", "task", "summary", "worker", "proxy", "vhost", "queue"];
    let values: Vec<String> = redis::cmd("HMGET")
        .arg(&key)
        .arg(&fields[..])
        .query_async(&mut connection)
        .await
        .expect("the fields");
    assert_eq!(
        values,
        [
            "a",
            LockState::Queued.as_str(),
            "reports",
            "reports.generate",
            "customer_id",
            "",
            "proxy-1",
            "shop",
            "celery"
        ]
    );
    let since: u64 = redis::cmd("HGET")
        .arg(&key)
        .arg("since")
        .query_async(&mut connection)
        .await
        .expect("since");
    let expires: u64 = redis::cmd("HGET")
        .arg(&key)
        .arg("expires")
        .query_async(&mut connection)
        .await
        .expect("expires");
    let ttl: u64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.expect("a ttl");
    assert!(since + ttl <= expires);
    let record: String = redis::cmd("GET")
        .arg("og[test]*:id:a")
        .query_async(&mut connection)
        .await
        .expect("the record");
    assert_eq!(record, format!("\n{} until_finished reports", "01".repeat(32)));
    command(&server, &["DEL", &key]).await;
    assert_eq!(show(&client, 1).await, Ok(None));
    let again = client.ask(acquire(&claim(1, "b"), 2, &note(Scope::UntilFinished), false)).await;
    assert_eq!(again, Ok(Reply::Acquire(Acquired::Taken)), "deleting a lock by hand breaks nothing");
}

#[test]
fn unusable_urls_are_refused() {
    let open = |url: &str| Store::open(&settings(url.into()), Arc::new(Unobserved)).err();
    assert!(matches!(open("http://127.0.0.1"), Some(OpenError::Scheme)));
    assert!(matches!(open("redis+cluster://h1,h2"), Some(OpenError::Scheme)));
    let Some(OpenError::Url(why)) = open("redis://:s3cret@127.0.0.1:port/0") else {
        panic!("taken")
    };
    assert!(!why.contains("s3cret"), "{why}");
}
