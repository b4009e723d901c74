//! Tracked tasks, on a clock that the test sets and a store that forgets when the test says so.

mod runs;

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::nodes::Letter;
use super::*;
use crate::rules::lock::{Digest, IfHeld, LockNote};
use crate::rules::source::Hears;
use crate::rules::spec::Unique;
use crate::session::Pulse;
use crate::store::{Clock, Memory, Observer};

const START_MS: u64 = 1_800_000_000_000;
const TTL_MS: u64 = 60_000;
const GRACE_MS: u64 = 20_000;

struct Hands(AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lets the tracking hear of every order, as the process does.
struct Ears(Arc<Runs>);

impl Observer for Ears {
    fn on_tell(&self, request: &Request) {
        self.0.hears(request);
    }

    fn on_told(&self, request: &Request, reply: &Reply) {
        self.0.heard(request, reply);
    }
}

struct World {
    clock: Arc<Hands>,
    nodes: Arc<Nodes>,
    runs: Arc<Runs>,
    store: Client,
    rules: RuleSet,
    asked: Arc<Mutex<Vec<Question>>>,
}

fn claim(id: &str) -> Claim {
    Claim {
        digest: Digest([7; 32]),
        id: id.into(),
    }
}

fn note_with(change: impl FnOnce(&mut LockNote)) -> Arc<LockNote> {
    let mut note = LockNote {
        rule: "r".into(),
        task: "t".into(),
        summary: "s".into(),
        vhost: "/".into(),
        queue: "q".into(),
        scope: Scope::UntilFinished,
        shadow: false,
        life_ms: TTL_MS,
        unstarted_ms: None,
        lease_ms: 10_000,
        settle_grace_ms: 1_000,
        acks_late: false,
        hears: Hears::ALL,
        release_on: ReleaseOn::Both,
        cooldown_ms: 0,
        owed: crate::rules::owed::Owed::Nothing,
        if_held: IfHeld::Yield,
    };
    change(&mut note);
    Arc::new(note)
}

fn note() -> Arc<LockNote> {
    note_with(|_| ())
}

fn node() -> Node {
    Node {
        vhost: "/".into(),
        name: "w@one".into(),
    }
}

fn run_of(id: &str, note: Arc<LockNote>) -> Run {
    Run {
        claim: claim(id),
        delivery: Nonce(9),
        kept: Kept::Lock(note),
        worker: "w@one".into(),
    }
}

impl World {
    fn new() -> World {
        let clock = Arc::new(Hands(AtomicU64::new(START_MS)));
        let nodes = Arc::new(Nodes::new(Arc::clone(&clock) as Arc<dyn Clock>));
        let spec = RuleSpec {
            name: Some("r".to_owned()),
            task: vec!["t".to_owned()],
            unique: Some(Unique::UntilFinished),
            ttl: Duration::from_millis(TTL_MS),
            orphan_grace: Duration::from_millis(GRACE_MS),
            ..RuleSpec::default()
        };
        let runs = Arc::new(Runs::new(&nodes));
        World {
            store: World::empty_store(&clock, &runs),
            clock,
            nodes,
            runs,
            rules: RuleSet::compile(vec![spec], &[]).expect("the rule is right"),
            asked: Arc::default(),
        }
    }

    fn empty_store(clock: &Arc<Hands>, runs: &Arc<Runs>) -> Client {
        let memory = Memory::new(Arc::clone(clock) as Arc<dyn Clock>, "p1".into());
        Store::memory(Arc::new(memory), Arc::new(Ears(Arc::clone(runs)))).client()
    }

    /// A worker is connected, and runs a task that it has acknowledged.
    async fn running() -> World {
        let world = World::new();
        world.attach();
        world.takes("a", note()).await;
        world
    }

    fn attach(&self) {
        let questions = Arc::clone(&self.asked);
        let ask = move |letter| match letter {
            Letter::Question(question) => questions.lock().expect("no panic").push(question),
            Letter::Revoke { .. } => {}
        };
        self.nodes.attach(node(), 1, Box::new(ask));
    }

    /// A task is published, delivered, acknowledged early, and tracked.
    async fn takes(&self, id: &str, note: Arc<LockNote>) {
        let run = run_of(id, Arc::clone(&note));
        let admit = Request::Admit {
            claim: run.claim.clone(),
            delivery: run.delivery,
            note,
            reentrant: false,
            worker: Arc::clone(&run.worker),
        };
        self.store.ask(admit).await.expect("a memory store answers");
        self.signal(id, Signal::Acked);
        self.runs.began(run);
    }

    fn signal(&self, id: &str, signal: Signal) {
        self.store.tell(Request::Signal {
            id: id.into(),
            settlement: Nonce(signal as u64),
            signal,
            source: Source::Events,
            worker: "w@one".into(),
        });
    }

    fn pass(&self, ms: u64) {
        for _ in 0..ms / 250 {
            self.clock.0.fetch_add(250, Ordering::Relaxed);
            self.runs.look(&self.store, &self.rules);
        }
    }

    /// The store starts anew, empty, and is found again.
    fn store_forgets(&mut self) {
        self.store = World::empty_store(&self.clock, &self.runs);
        self.runs.store_is_back();
    }

    async fn lock(&self) -> Option<LockRecord> {
        let digest = Digest([7; 32]);
        match self.store.ask(Request::Show { digest }).await {
            Ok(Reply::Lock(lock)) => lock.map(|lock| *lock),
            other => panic!("{other:?}"),
        }
    }

    async fn is_locked(&self) -> bool {
        self.lock().await.is_some()
    }

    /// The worker answers all that it was asked: these it knows. How many questions there were.
    fn answers(&self, known: &[&str]) -> usize {
        let questions = std::mem::take(&mut *self.asked.lock().expect("no panic"));
        for question in &questions {
            self.nodes.answered(TasksKnown {
                ticket: (&*question.ticket).into(),
                node: Arc::clone(&question.node),
                known: known.iter().map(|id| (*id).into()).collect(),
            });
        }
        questions.len()
    }

    /// As [`World::pass`]; the worker answers at once.
    fn pass_answering(&self, ms: u64, known: &[&str]) {
        for _ in 0..ms / 250 {
            self.pass(250);
            self.answers(known);
        }
    }
}

#[tokio::test]
async fn what_runs_keeps_its_lock_for_as_long_as_its_worker_is_there() {
    let world = World::running().await;
    world.pass_answering(10 * TTL_MS, &["a"]);
    assert!(world.is_locked().await);
    world.nodes.detach(&node(), 1);
    world.pass(TTL_MS / 3 - 250);
    assert!(world.is_locked().await);
    world.pass(TTL_MS);
    assert!(!world.is_locked().await, "nobody knows that it is alive");
    world.attach();
    world.pass(TTL_MS);
    assert!(!world.is_locked().await, "what has lapsed is nothing to renew");
    assert!(world.runs.state().tracked.is_empty());
}

#[tokio::test]
async fn heartbeats_are_a_sign_of_life_for_three_of_their_intervals() {
    let world = World::running().await;
    world.nodes.detach(&node(), 1);
    let every_ms = Some(20_000);
    for _ in 0..20 {
        world.nodes.pulse(node(), Pulse::Heartbeat { every_ms });
        world.pass(20_000);
        assert!(world.is_locked().await);
    }
    // The last one keeps it for sixty seconds, and its lock lives on for one life after that.
    world.pass(40_000 + TTL_MS + 20_000);
    assert!(!world.is_locked().await);
}

#[tokio::test]
async fn a_store_that_has_forgotten_all_is_told_again_at_once() {
    let mut world = World::running().await;
    world.pass(1_000);
    world.store_forgets();
    assert!(!world.is_locked().await);
    world.pass(250);
    let lock = world.lock().await.expect("it is locked again");
    assert_eq!((&*lock.holder, lock.state, &*lock.worker), ("a", LockState::Running, "w@one"));
    assert_eq!(lock.in_flight, 0, "its message is settled");
    world.signal("a", Signal::Succeeded);
    assert!(!world.is_locked().await);
}

#[tokio::test]
async fn a_task_that_has_ended_is_not_locked_again() {
    for signal in [
        Signal::Succeeded,
        Signal::Failed,
        Signal::Revoked,
        Signal::Rejected,
        Signal::Expired,
        Signal::Crashed,
        Signal::Orphaned,
        Signal::Retried,
    ] {
        let mut world = World::running().await;
        world.signal("a", signal);
        world.store_forgets();
        world.pass(2 * TTL_MS);
        assert!(!world.is_locked().await, "{signal:?}");
    }
}

#[tokio::test]
async fn what_does_not_end_a_run_ends_no_tracking() {
    for signal in [Signal::Started, Signal::RevokeAsked, Signal::Purged, Signal::Acked] {
        let mut world = World::running().await;
        world.signal("a", signal);
        world.store_forgets();
        world.pass(250);
        assert!(world.is_locked().await, "{signal:?}");
    }
}

#[tokio::test]
async fn an_end_that_is_heard_before_the_start_counts() {
    let mut world = World::new();
    world.attach();
    world.signal("a", Signal::Succeeded);
    world.runs.began(run_of("a", note()));
    world.store_forgets();
    world.pass(TTL_MS);
    assert!(!world.is_locked().await);
    // Another run of the same id, later.
    world.runs.began(run_of("a", note()));
    world.store_forgets();
    world.pass(250);
    assert!(world.is_locked().await);
}

#[tokio::test]
async fn a_lock_of_another_is_never_taken() {
    let mut world = World::running().await;
    world.store_forgets();
    let other = Request::Admit {
        claim: claim("b"),
        delivery: Nonce(1),
        note: note(),
        reentrant: false,
        worker: "".into(),
    };
    world.store.ask(other).await.expect("a memory store answers");
    world.pass(250);
    assert_eq!(world.lock().await.map(|lock| lock.holder), Some("b".into()));
    assert!(world.runs.state().tracked.is_empty(), "there is nothing to renew");
}

#[tokio::test]
async fn a_worker_that_does_not_know_a_task_any_more_has_ended_it() {
    let world = World::running().await;
    world.pass_answering(CHECK_MS - 250, &[]);
    assert!(world.is_locked().await, "it was not asked yet");
    world.pass_answering(ANSWER_MS, &[]);
    assert!(world.is_locked().await, "once may be a moment between two states");
    world.pass_answering(1_000, &[]);
    assert!(!world.is_locked().await);
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_believed_to_run_its_tasks() {
    let world = World::running().await;
    world.pass(10 * TTL_MS);
    assert!(world.is_locked().await);
    assert!(world.answers(&[]) > 1, "it was asked");
    world.pass(250);
    assert!(world.is_locked().await, "an answer that comes too late says nothing");
}

#[tokio::test]
async fn the_end_of_a_task_that_was_told_elsewhere_and_forgotten_is_found_out() {
    let mut world = World::running().await;
    // Another proxy has told the end to a store that was lost before this one renewed.
    world.store_forgets();
    world.pass_answering(250, &[]);
    assert!(world.is_locked().await);
    world.pass_answering(2 * ANSWER_MS, &[]);
    assert!(!world.is_locked().await);
}

#[tokio::test]
async fn a_younger_worker_has_the_grace_before_it_is_asked() {
    let world = World::running().await;
    world.nodes.detach(&node(), 1);
    world.pass(CHECK_MS);
    world.attach();
    world.pass(GRACE_MS - 250);
    assert_eq!(world.answers(&[]), 0);
    world.pass(500);
    assert_eq!(world.answers(&["a"]), 1);
    assert!(world.is_locked().await);
}

#[tokio::test]
async fn a_rule_that_waits_for_one_outcome_is_not_satisfied_by_an_end_unknown() {
    let world = World::new();
    world.attach();
    world.takes("a", note_with(|note| note.release_on = ReleaseOn::Success)).await;
    world.pass_answering(CHECK_MS + 2 * ANSWER_MS, &[]);
    assert!(world.is_locked().await);
    let lock = world.lock().await.expect("it is locked");
    world.runs.adopt(&lock, &world.rules);
    world.pass_answering(TTL_MS, &[]);
    assert!(!world.is_locked().await, "and it is renewed no more");
    assert!(world.runs.state().tracked.is_empty());
}

#[tokio::test]
async fn what_another_proxy_tracked_is_found_among_the_locks() {
    let mut world = World::running().await;
    world.runs = Arc::new(Runs::new(&world.nodes));
    let lock = world.lock().await.expect("it is locked");
    for (other, follows) in [
        (
            LockRecord {
                in_flight: 1,
                ..lock.clone()
            },
            false,
        ),
        (
            LockRecord {
                state: LockState::Queued,
                ..lock.clone()
            },
            false,
        ),
        (
            LockRecord {
                scope: Extent::Publish(Scope::UntilStarted),
                ..lock.clone()
            },
            false,
        ),
        (
            LockRecord {
                rule: "gone".into(),
                ..lock.clone()
            },
            false,
        ),
        (lock, true),
    ] {
        world.runs.adopt(&other, &world.rules);
        assert_eq!(world.runs.state().count, usize::from(follows), "{other:?}");
    }
    world.store_forgets();
    world.pass_answering(3 * TTL_MS, &["a"]);
    let again = world.lock().await.expect("it is locked again");
    assert_eq!((&*again.holder, &*again.worker, &*again.summary), ("a", "w@one", "s"));
    world.signal("a", Signal::Failed);
    assert!(!world.is_locked().await);
    assert_eq!(world.runs.state().count, 0);
}

#[tokio::test]
async fn very_many_are_renewed_in_lots_and_within_the_bound() {
    let world = World::new();
    world.attach();
    for number in 0..20_000_u32 {
        let mut run = run_of(&number.to_string(), note());
        run.claim.digest.0[..4].copy_from_slice(&number.to_be_bytes());
        world.runs.began(run);
    }
    world.runs.store_is_back();
    let present = world.nodes.present();
    let (mut renewed, mut looks) = (0, 0);
    while renewed < 20_000 {
        let lot = world.runs.state().renewals(&present, START_MS).len();
        assert!(0 < lot && lot <= 2_500);
        (renewed, looks) = (renewed + lot, looks + 1);
    }
    assert!(EVERY * looks <= Duration::from_secs(5));
}

#[test]
fn no_more_are_tracked_than_the_bound() {
    let world = World::new();
    for number in 0..=TRACKED {
        world.runs.began(run_of(&number.to_string(), note()));
    }
    let state = world.runs.state();
    assert_eq!((state.count, state.tracked.len()), (TRACKED, TRACKED));
}
