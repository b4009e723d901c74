//! What the Redis result backend says of tasks frees locks, whichever store holds them.

use std::sync::Arc;
use std::time::Duration;

use oncegate::config::{self, Config, Environment, Flags, address};
use oncegate::control::Control;
use oncegate::lifecycle::Lifecycle;
use oncegate::lifecycle::purge::Purges;
use oncegate::lifecycle::results::Settings;
use oncegate::metrics::Metrics;
use oncegate::rules::lock::{Acquired, Committed, LockRecord, LockState, Scope};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::world::{RedisServer, World, claim, digest, note};

scenarios! {
    publications_are_signals
    what_is_no_result_of_these_applications_is_passed_over
    holders_are_looked_up_at_once
    records_of_earlier_runs_count_for_nothing
    a_start_that_was_not_published_is_found
    many_records_are_read_in_parts
    a_restart_of_the_backend_is_outlived
    a_backend_that_is_away_is_waited_for
    a_reload_starts_changes_and_stops_it
    a_password_is_given
}

const NEVER: Duration = Duration::from_secs(3600);
const OFTEN: Duration = Duration::from_millis(10);

/// A result backend, and what follows it.
struct Backend<'w> {
    world: &'w World,
    server: RedisServer,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
    prefix: &'static str,
}

impl<'w> Backend<'w> {
    fn new(world: &'w World) -> Backend<'w> {
        let metrics = Arc::new(Metrics::new().expect("metrics"));
        Backend {
            world,
            server: RedisServer::start(&[]),
            lifecycle: Lifecycle::start(
                &world.store,
                &metrics,
                &Purges::new(Arc::clone(&metrics)),
                &Arc::default(),
                &Control::default(),
                "proxy-1",
            )
            .expect("a thread"),
            metrics,
            prefix: "",
        }
    }

    fn settings(&self, look_every: Duration) -> Settings {
        Settings {
            url: address::parse_results_url(&self.server.url()).expect("a URL"),
            key_prefix: self.prefix.to_owned(),
            max_message: 1 << 20,
            look_every,
        }
    }

    async fn follow(&self, look_every: Duration) {
        self.lifecycle.follow_results(Some(self.settings(look_every)));
        self.until_up(true).await;
    }

    /// The value of the metric: whether it is not connected.
    fn circuit(&self) -> Option<String> {
        let text = self.metrics.render().expect("metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(r#"oncegate_circuit_open{dependency="results"} "#));
        line.map(str::to_owned)
    }

    async fn until_up(&self, up: bool) {
        let wanted = if up { "0" } else { "1" };
        self.world
            .until("the metric to tell", async || self.circuit().as_deref() == Some(wanted))
            .await;
    }

    fn key(&self, id: &str) -> String {
        oncegate::celery::result::key_prefix(self.prefix) + id
    }

    /// Stores a record, as Celery does, but does not publish it.
    async fn store(&self, id: &str, record: &str) {
        let mut connection = self.server.connection().await;
        ::redis::cmd("SETEX")
            .arg(self.key(id))
            .arg(86400)
            .arg(record)
            .exec_async(&mut connection)
            .await
            .expect("stored");
    }

    /// Publishes a record, and does not store it.
    async fn publish(&self, channel: &str, record: &str) {
        let mut connection = self.server.connection().await;
        let heard: u64 = ::redis::cmd("PUBLISH")
            .arg(channel)
            .arg(record)
            .query_async(&mut connection)
            .await
            .expect("published");
        assert!(heard <= 1);
    }

    async fn publish_state(&self, id: &str, status: &str) {
        self.publish(&self.key(id), &record(id, status, None)).await;
    }

    /// Until a record that is stored now has been found, by a look that has also looked at all older locks.
    async fn until_looked(&self, marker: u8) {
        let id = format!("marker-{marker}");
        let lock = lock(self.world, marker, &id, Scope::UntilFinished).await;
        self.store(&id, &record(&id, "SUCCESS", Some(lock.since_ms))).await;
        self.until_free(marker).await;
    }

    async fn until_free(&self, key: u8) {
        self.world
            .until("the lock to go", async || self.world.holder(digest(key)).await.is_none())
            .await;
    }

    async fn until_state(&self, key: u8, state: LockState) {
        self.world
            .until("the lock to change", async || {
                self.world.show(digest(key)).await.is_some_and(|lock| lock.state == state)
            })
            .await;
    }

    /// Everything that was published before has been told to the store.
    async fn until_heard(&self, marker: u8) {
        let id = format!("marker-{marker}");
        lock(self.world, marker, &id, Scope::UntilFinished).await;
        self.publish_state(&id, "SUCCESS").await;
        self.until_free(marker).await;
    }
}

/// What Celery writes, for a task that ended then.
fn record(id: &str, status: &str, done_ms: Option<u64>) -> String {
    let done = done_ms.map(|ms| {
        let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).expect("a time");
        time.format(&Rfc3339).expect("a time")
    });
    serde_json::json!({
        "status": status,
        "result": null,
        "traceback": null,
        "children": [],
        "date_done": done,
        "task_id": id,
    })
    .to_string()
}

/// A lock of a message that the broker has.
async fn lock(world: &World, key: u8, id: &str, scope: Scope) -> LockRecord {
    let (claim, note) = (claim(key, id), note(scope));
    assert_eq!(world.acquire(&claim, 1, &note).await, Acquired::Taken);
    assert_eq!(world.commit(&claim, 1, &note).await, Committed::Held);
    world.show(digest(key)).await.expect("held")
}

async fn publications_are_signals(w: &World) {
    let backend = Backend::new(w);
    backend.follow(NEVER).await;
    lock(w, 1, "a", Scope::UntilFinished).await;
    lock(w, 2, "b", Scope::UntilFinished).await;
    lock(w, 3, "c", Scope::UntilStarted).await;
    lock(w, 4, "d", Scope::UntilFinished).await;
    lock(w, 5, "e", Scope::UntilFinished).await;
    lock(w, 6, "f", Scope::UntilExpired).await;

    backend.publish_state("a", "STARTED").await;
    backend.until_state(1, LockState::Running).await;
    backend.publish_state("a", "RETRY").await;
    backend.until_state(1, LockState::Queued).await;
    backend.publish_state("a", "SUCCESS").await;
    backend.until_free(1).await;
    backend.publish_state("b", "FAILURE").await;
    backend.until_free(2).await;
    backend.publish_state("c", "STARTED").await;
    backend.until_free(3).await;
    backend.publish_state("d", "REVOKED").await;
    backend.until_free(4).await;
    // An idle worker writes it over a task that runs elsewhere.
    backend.publish_state("e", "STARTED").await;
    backend.publish_state("e", "REVOKED").await;
    backend.publish_state("f", "SUCCESS").await;
    backend.until_heard(100).await;
    backend.until_state(5, LockState::Running).await;
    assert_eq!(w.holder(digest(6)).await.as_deref(), Some("f"));
}

async fn what_is_no_result_of_these_applications_is_passed_over(w: &World) {
    let mut backend = Backend::new(w);
    // Taken for a pattern, it would hear of other applications too.
    backend.prefix = "sh*p";
    backend.follow(NEVER).await;
    lock(w, 1, "a", Scope::UntilFinished).await;
    let done = record("a", "SUCCESS", None);
    for channel in ["celery-task-meta-a", "sh*p_celery-taskset-meta-a", "shoop_celery-task-meta-a"] {
        backend.publish(channel, &done).await;
    }
    for message in ["", "{", "[]", "null", r#"{"status": 3}"#, &"x".repeat(2 << 20)] {
        backend.publish(&backend.key("a"), message).await;
    }
    backend.until_heard(100).await;
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
    backend.publish(&backend.key("a"), &done).await;
    backend.until_free(1).await;
}

async fn holders_are_looked_up_at_once(w: &World) {
    let backend = Backend::new(w);
    for (key, id, scope, status) in [
        (1, "a", Scope::UntilFinished, "SUCCESS"),
        (2, "b", Scope::UntilStarted, "FAILURE"),
        (3, "c", Scope::UntilFinished, "REVOKED"),
    ] {
        let lock = lock(w, key, id, scope).await;
        backend.store(id, &record(id, status, Some(lock.since_ms))).await;
    }
    backend.follow(NEVER).await;
    for key in 1..=3 {
        backend.until_free(key).await;
    }
}

async fn records_of_earlier_runs_count_for_nothing(w: &World) {
    let backend = Backend::new(w);
    let first = lock(w, 1, "a", Scope::UntilFinished).await;
    backend.store("a", &record("a", "SUCCESS", Some(first.since_ms - 1))).await;
    lock(w, 2, "b", Scope::UntilStarted).await;
    backend.store("b", &record("b", "STARTED", None)).await;
    lock(w, 3, "c", Scope::UntilFinished).await;
    backend.store("c", "no record").await;
    let fourth = lock(w, 4, "d", Scope::UntilFinished).await;
    backend.store("d", &record("e", "SUCCESS", Some(fourth.since_ms))).await;
    lock(w, 5, "e", Scope::UntilFinished).await;
    let mut connection = backend.server.connection().await;
    let list = ::redis::cmd("LPUSH")
        .arg(backend.key("e"))
        .arg("x")
        .exec_async(&mut connection)
        .await;
    list.expect("a list");
    backend.follow(OFTEN).await;
    // The second look begins after all of the first has been told.
    backend.until_looked(100).await;
    backend.until_looked(101).await;
    for (key, holder) in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")] {
        assert_eq!(w.holder(digest(key)).await.as_deref(), Some(holder));
        assert_eq!(w.show(digest(key)).await.map(|lock| lock.state), Some(LockState::Queued));
    }
}

async fn a_start_that_was_not_published_is_found(w: &World) {
    let backend = Backend::new(w);
    lock(w, 1, "a", Scope::UntilFinished).await;
    lock(w, 2, "b", Scope::UntilStarted).await;
    backend.follow(OFTEN).await;
    backend.until_looked(100).await;
    backend.store("a", &record("a", "STARTED", None)).await;
    backend.store("b", &record("b", "STARTED", None)).await;
    backend.until_state(1, LockState::Running).await;
    backend.until_free(2).await;
    // The worker's clock is far behind; but this record was not there before.
    backend.store("a", &record("a", "SUCCESS", Some(1_000_000))).await;
    backend.until_free(1).await;
}

async fn many_records_are_read_in_parts(w: &World) {
    let backend = Backend::new(w);
    let mut since = 0;
    for number in 0..600_u16 {
        let id = format!("task-{number}");
        let (mut claim, note) = (claim(1, &id), note(Scope::UntilFinished));
        claim.digest.0[..2].copy_from_slice(&number.to_be_bytes());
        assert_eq!(w.acquire(&claim, 1, &note).await, Acquired::Taken);
        assert_eq!(w.commit(&claim, 1, &note).await, Committed::Held);
        since = w.show(claim.digest).await.expect("held").since_ms;
    }
    for number in 0..600 {
        let id = format!("task-{number}");
        let mut text = record(&id, "SUCCESS", Some(since));
        if number == 300 {
            text += &" ".repeat(2000);
        }
        backend.store(&id, &text).await;
    }
    backend.lifecycle.follow_results(Some(Settings {
        max_message: 1000,
        ..backend.settings(NEVER)
    }));
    let held = async || {
        let page = w
            .client
            .list(&oncegate::store::Filter::default(), None, 1000)
            .await
            .expect("a page");
        page.locks.into_iter().map(|lock| lock.holder.to_string()).collect::<Vec<_>>()
    };
    w.until("all but the large one to be freed", async || held().await == ["task-300"])
        .await;
}

/// The next look goes on where the last one ended.
#[tokio::test]
async fn every_lock_comes_under_a_look() {
    let world = World::memory();
    let backend = Backend::new(&world);
    let lowest = lock(&world, 0, "a", Scope::UntilFinished).await;
    let highest = lock(&world, 255, "b", Scope::UntilFinished).await;
    for number in 0..10_500_u16 {
        let (mut claim, note) = (claim(1, &format!("task-{number}")), note(Scope::UntilFinished));
        claim.digest.0[1..3].copy_from_slice(&number.to_be_bytes());
        assert_eq!(world.commit(&claim, 1, &note).await, Committed::Held);
    }
    backend.follow(OFTEN).await;
    for (id, key, lock) in [("b", 255, highest), ("a", 0, lowest)] {
        backend.store(id, &record(id, "FAILURE", Some(lock.since_ms))).await;
        backend.until_free(key).await;
    }
}

async fn a_restart_of_the_backend_is_outlived(w: &World) {
    let mut backend = Backend::new(w);
    backend.follow(NEVER).await;
    lock(w, 1, "a", Scope::UntilFinished).await;
    backend.server.kill();
    backend.until_up(false).await;
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
    backend.server.restart();
    backend.until_up(true).await;
    backend.publish_state("a", "SUCCESS").await;
    backend.until_free(1).await;
}

/// As when a firewall has forgotten the connection.
#[tokio::test]
async fn a_backend_that_says_nothing_is_left() {
    let world = World::memory();
    let backend = Backend::new(&world);
    backend.follow(OFTEN).await;
    backend.server.signal("-STOP");
    backend.until_up(false).await;
    backend.server.signal("-CONT");
    backend.until_up(true).await;
    let lock = lock(&world, 1, "a", Scope::UntilFinished).await;
    backend.store("a", &record("a", "SUCCESS", Some(lock.since_ms))).await;
    backend.until_free(1).await;
}

async fn a_backend_that_is_away_is_waited_for(w: &World) {
    let mut backend = Backend::new(w);
    backend.server.kill();
    backend.lifecycle.follow_results(Some(backend.settings(NEVER)));
    backend.until_up(false).await;
    let lock = lock(w, 1, "a", Scope::UntilFinished).await;
    backend.server.restart();
    backend.store("a", &record("a", "SUCCESS", Some(lock.since_ms))).await;
    backend.until_up(true).await;
    backend.publish_state("a", "SUCCESS").await;
    backend.until_free(1).await;
}

async fn a_reload_starts_changes_and_stops_it(w: &World) {
    let backend = Backend::new(w);
    let follows = |unique: &str, kind: &str, server: &RedisServer| -> Config {
        let text = format!(
            "[results]\nurl = \"{}\"\nkind = \"{kind}\"\n[[rule]]\ntask = \"a\"\nunique = \"{unique}\"",
            server.url()
        );
        config::load_text("o.toml", &text, &Environment::new(), &Flags::default()).expect("a config")
    };
    let stopped = async || {
        w.until("the series to go", async || backend.circuit().is_none()).await;
        let mut connection = backend.server.connection().await;
        w.until("the subscription to go", async || {
            let patterns: u64 = ::redis::cmd("PUBSUB")
                .arg("NUMPAT")
                .query_async(&mut connection)
                .await
                .expect("a number");
            patterns == 0
        })
        .await;
    };
    backend.lifecycle.configure(&follows("until_finished", "auto", &backend.server));
    backend.until_up(true).await;
    backend.lifecycle.configure(&follows("until_expired", "auto", &backend.server));
    stopped().await;
    backend.lifecycle.configure(&follows("until_started", "redis", &backend.server));
    backend.until_up(true).await;
    backend.lifecycle.configure(&follows("until_started", "none", &backend.server));
    stopped().await;
    let other = RedisServer::start(&[]);
    backend.lifecycle.configure(&follows("until_started", "redis", &backend.server));
    backend.until_up(true).await;
    backend.lifecycle.configure(&follows("until_started", "redis", &other));
    let mut connection = other.connection().await;
    w.until("the other to be followed", async || {
        let patterns: u64 = ::redis::cmd("PUBSUB")
            .arg("NUMPAT")
            .query_async(&mut connection)
            .await
            .expect("a number");
        patterns == 1
    })
    .await;
}

async fn a_password_is_given(w: &World) {
    let mut backend = Backend::new(w);
    backend.server = RedisServer::start(&["--requirepass", "p@ss"]);
    let follow = |credentials: &str| {
        let url = format!("redis://{credentials}127.0.0.1:{}/1", backend.server.port);
        backend.lifecycle.follow_results(Some(Settings {
            url: address::parse_results_url(&url).expect("a URL"),
            ..backend.settings(NEVER)
        }));
    };
    for (credentials, is_right) in [("", false), (":p%40ss@", true), (":wrong@", false), ("default:p%40ss@", true)] {
        follow(credentials);
        backend.until_up(is_right).await;
    }
}
