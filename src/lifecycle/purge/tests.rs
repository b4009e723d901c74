use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::rules::lock::{Claim, Digest, Freed, IfHeld, LockNote, ReleaseOn, ReleaseReason, Reply, Scope};
use crate::rules::source::{Hears, Source};
use crate::store::{Clock, Memory, Observer};

const NOW: u64 = 1_800_000_000_000;
const LIFE: u64 = 3_600_000;
/// Longer than a test may take, by the clock of the machine.
const LONG: u64 = 1_000_000;
const SMALL: Bounds = Bounds {
    freed: 100,
    page: 30,
    batch: 8,
};

#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        NOW + self.0.load(Ordering::Relaxed)
    }
}

/// Keeps what was told.
#[derive(Default)]
struct Heard(Mutex<Vec<Freed>>);

impl Observer for Heard {
    fn on_told(&self, _request: &Request, reply: &Reply) {
        if let Reply::Released(freed) = reply {
            self.0.lock().expect("no panic").extend(freed.iter().cloned());
        }
    }
}

struct World {
    clock: Arc<Hand>,
    heard: Arc<Heard>,
    store: Store,
    client: Client,
}

fn name(vhost: &str, queue: &str) -> QueueName {
    QueueName {
        vhost: vhost.into(),
        queue: queue.into(),
    }
}

impl World {
    fn new() -> World {
        let (clock, heard) = (Arc::new(Hand::default()), Arc::new(Heard::default()));
        let memory = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>, "p1".into());
        let store = Store::memory(Arc::new(memory), Arc::clone(&heard) as Arc<dyn Observer>);
        World {
            client: store.client(),
            clock,
            heard,
            store,
        }
    }

    fn later(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    async fn leased(&self, key: u32, id: &str, vhost: &str, queue: &str) -> Request {
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&key.to_be_bytes());
        let claim = Claim {
            digest: Digest(digest),
            id: id.into(),
        };
        let note = Arc::new(LockNote {
            rule: "r".into(),
            task: "t".into(),
            summary: "".into(),
            vhost: vhost.into(),
            queue: queue.into(),
            scope: Scope::UntilFinished,
            shadow: false,
            life_ms: LIFE,
            unstarted_ms: None,
            lease_ms: 2 * LONG,
            settle_grace_ms: 1_000,
            acks_late: false,
            hears: Hears::ALL,
            release_on: ReleaseOn::Both,
            cooldown_ms: 0,
            owed: crate::rules::owed::Owed::Nothing,
            if_held: IfHeld::Yield,
        });
        let publish = Nonce(u64::from(key));
        let acquire = Request::Acquire {
            claim: claim.clone(),
            publish,
            note: Arc::clone(&note),
            reentrant: false,
        };
        self.client.ask(acquire).await.expect("a memory store answers");
        Request::Commit { claim, publish, note }
    }

    async fn lock(&self, key: u32, id: &str, vhost: &str, queue: &str) {
        let commit = self.leased(key, id, vhost, queue).await;
        self.client.ask(commit).await.expect("a memory store answers");
    }

    async fn scan(&self, emptied: &[(QueueName, Instant)]) -> Scanned {
        let emptied = emptied
            .iter()
            .map(|(queue, at)| Emptied {
                queue: queue.clone(),
                at: *at,
            })
            .collect();
        scan(&self.client, &emptied, SMALL).await.expect("a memory store answers")
    }

    /// The holders of all locks.
    async fn held(&self) -> Vec<String> {
        let page = self.client.list(&Filter::default(), None, usize::MAX - 1).await.expect("a page");
        page.locks.iter().map(|lock| lock.holder.to_string()).collect()
    }
}

fn all(found: usize) -> Scanned {
    Scanned { found, end: End::All }
}

#[tokio::test]
async fn what_lay_in_the_queue_is_freed_and_nothing_else() {
    let w = World::new();
    w.lock(1, "queued", "/", "q").await;
    w.lock(2, "other queue", "/", "other").await;
    w.lock(3, "other vhost", "shop", "q").await;
    w.lock(4, "running", "/", "q").await;
    let start = Request::Signal {
        id: "running".into(),
        settlement: Nonce(9),
        signal: Signal::Started,
        source: Source::Events,
        worker: "w".into(),
    };
    w.client.ask(start).await.expect("a memory store answers");
    let commit = w.leased(5, "on its way", "/", "q").await;
    w.lock(6, "no queue", "/", "").await;
    w.later(LONG);
    let at = Instant::now();
    assert_eq!(w.scan(&[(name("/", "q"), at)]).await, all(1));
    assert_eq!(w.held().await, ["other queue", "other vhost", "running", "on its way", "no queue"]);
    let freed = std::mem::take(&mut *w.heard.0.lock().expect("no panic"));
    assert_eq!(freed.len(), 1);
    assert_eq!((&*freed[0].holder, freed[0].reason), ("queued", ReleaseReason::Purged));
    // A confirm that comes late finds its lock.
    w.client.ask(commit).await.expect("a memory store answers");
    assert_eq!(w.scan(&[(name("/", "gone"), at), (name("shop", "q"), at)]).await, all(1));
    assert_eq!(w.held().await, ["other queue", "running", "on its way", "no queue"]);
}

#[tokio::test]
async fn a_lock_that_is_younger_than_the_purge_stays() {
    let w = World::new();
    w.lock(1, "before", "/", "q").await;
    w.later(LONG);
    w.lock(2, "after", "/", "q").await;
    w.later(3_600);
    // The client asked five seconds ago.
    let Some(at) = Instant::now().checked_sub(Duration::from_secs(5)) else {
        return;
    };
    assert_eq!(w.scan(&[(name("/", "q"), at)]).await, all(1));
    assert_eq!(w.held().await, ["after"]);
    let now = Instant::now();
    assert_eq!(w.scan(&[(name("/", "q"), now)]).await, all(1));
    assert_eq!(w.held().await.len(), 0);
    w.lock(3, "at the same time", "/", "q").await;
    assert_eq!(w.scan(&[(name("/", "q"), Instant::now())]).await, all(0));
}

#[tokio::test]
async fn one_that_a_worker_has_stays() {
    let w = World::new();
    let Request::Commit { claim, note, .. } = w.leased(1, "delivered", "/", "q").await else {
        panic!("a commit")
    };
    let admit = Request::Admit {
        claim,
        delivery: Nonce(2),
        note,
        reentrant: false,
        worker: "w".into(),
    };
    w.client.ask(admit).await.expect("a memory store answers");
    w.later(LONG);
    // It looks as if it lay in the queue; the store knows better.
    assert_eq!(w.scan(&[(name("/", "q"), Instant::now())]).await, all(1));
    assert_eq!(w.held().await, ["delivered"]);
}

#[tokio::test]
async fn a_scan_goes_over_pages_and_has_an_end() {
    let w = World::new();
    let count = SMALL.freed as u32 + 7;
    for key in 0..count {
        w.lock(key, &key.to_string(), "/", "q").await;
    }
    w.later(LONG);
    let emptied = [(name("/", "q"), Instant::now())];
    let limited = Scanned {
        found: SMALL.freed,
        end: End::Limit,
    };
    assert_eq!(w.scan(&emptied).await, limited);
    assert_eq!(w.held().await.len(), 7);
    assert_eq!(w.scan(&emptied).await, all(7));
}

#[tokio::test]
async fn what_is_told_is_scanned_for() {
    let w = World::new();
    w.lock(1, "a", "/", "q").await;
    w.lock(2, "b", "shop", "q").await;
    w.later(LONG);
    let purges = Purges::new(Arc::new(Metrics::new().expect("metrics")));
    let running = tokio::spawn(run(w.store.clone(), purges.clone()));
    for vhost in ["/", "shop"] {
        purges.emptied(name(vhost, "q"), Instant::now());
        let left = usize::from(vhost == "/");
        tokio::time::timeout(Duration::from_secs(60), async {
            while w.held().await.len() > left {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the lock goes");
    }
    running.abort();
}

#[test]
fn a_queue_waits_once_with_its_last_time_and_the_oldest_go_first() {
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let purges = Purges::new(Arc::clone(&metrics));
    let first = Instant::now();
    let second = first + Duration::from_secs(1);
    for at in [first, second, first] {
        purges.emptied(name("/", "q"), at);
    }
    purges.emptied(name("shop", "q"), first);
    let taken = purges.take();
    let times: Vec<_> = taken.iter().map(|emptied| (&*emptied.queue.vhost, emptied.at)).collect();
    assert_eq!(times, [("/", second), ("shop", first)]);
    assert!(purges.take().is_empty());
    for number in 0..WAITING_MAX + 3 {
        purges.emptied(name("/", &number.to_string()), first);
    }
    let taken = purges.take();
    assert_eq!((taken.len(), &*taken[0].queue.queue), (WAITING_MAX, "3"));
    let text = metrics.render().expect("text");
    assert!(
        text.contains(r#"oncegate_exceptions_total{reason="release_given_up",rule=""} 3"#),
        "{text}"
    );
}
