//! Judgements, on a clock that the test sets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::nodes::Letter;
use super::*;
use crate::rules::lock::{Claim, Extent, IfHeld, LockNote, ReleaseOn, Reply, Scope};
use crate::rules::source::{Hears, Source};
use crate::rules::spec::Unique;
use crate::store::{Clock, Memory, Unobserved};

const LOCKED_MS: u64 = 1_800_000_000_000;
const GRACE_MS: u64 = 60_000;
/// A worker that is younger than the lock, whatever the clocks.
const YOUNG_MS: u64 = LOCKED_MS + 100_000;

fn lock() -> LockRecord {
    LockRecord {
        digest: Digest([7; 32]),
        holder: "a".into(),
        state: LockState::Running,
        rule: "r".into(),
        task: "t".into(),
        summary: "".into(),
        worker: "w@one".into(),
        proxy: "p".into(),
        vhost: "/".into(),
        queue: "q".into(),
        since_ms: LOCKED_MS,
        expires_ms: LOCKED_MS + 86_400_000,
        scope: Extent::Publish(Scope::UntilFinished),
        in_flight: 0,
        carried: true,
        shadow: false,
    }
}

fn node() -> Node {
    worker_of(&lock())
}

/// Looks at the locks of one worker.
#[derive(Default)]
struct Rig {
    orphans: Orphans,
    tickets: u32,
}

impl Rig {
    /// One look; a question is asked at once. What was decided, and the ticket of the question.
    fn look(&mut self, sight: Sight, now_ms: u64) -> (Verdict, Arc<str>) {
        self.orphans.begin_pass();
        self.orphans.see(&HashMap::from([(node(), sight)]), now_ms);
        let verdict = self.orphans.judge(&lock(), sight, GRACE_MS, now_ms);
        self.tickets += 1;
        let ticket: Arc<str> = self.tickets.to_string().into();
        if verdict == Verdict::Ask {
            let question = self.orphans.ask(&node(), &[Doubtful::of(&lock())], Arc::clone(&ticket), now_ms);
            assert_eq!((&*question.node, &*question.ids), ("w@one", &["a".into()][..]));
        }
        self.orphans.end_pass();
        (verdict, ticket)
    }

    fn sees(&mut self, sight: Sight, now_ms: u64) -> Verdict {
        self.look(sight, now_ms).0
    }

    /// It is asked now, and answers a second later that it knows these.
    fn answers(&mut self, since_ms: u64, now_ms: u64, known: &[&str]) {
        let (verdict, ticket) = self.look(Sight::Here { since_ms }, now_ms);
        assert_eq!(verdict, Verdict::Ask);
        self.answer(&ticket, "w@one", now_ms + 1_000, known);
    }

    fn answer(&mut self, ticket: &str, node: &str, now_ms: u64, known: &[&str]) {
        let answer = TasksKnown {
            ticket: ticket.into(),
            node: node.into(),
            known: known.iter().map(|id| (*id).into()).collect(),
        };
        self.orphans.answered(&answer, now_ms);
    }
}

const YOUNG: Sight = Sight::Here { since_ms: YOUNG_MS };
/// When a young worker is first asked.
const DUE_MS: u64 = YOUNG_MS + GRACE_MS;

#[test]
fn only_what_a_worker_alone_can_end_may_be_orphaned() {
    let rules = RuleSet::default();
    assert!(may_be_orphaned(&lock(), &rules));
    for state in [LockState::Queued, LockState::Running] {
        let run = LockRecord {
            scope: Extent::Run,
            state,
            ..lock()
        };
        assert!(
            may_be_orphaned(&run, &rules),
            "a message that went back with its worker waits for this run"
        );
    }
    let changes: [fn(&mut LockRecord); 7] = [
        |lock| lock.in_flight = 1,
        |lock| lock.worker = "".into(),
        |lock| lock.vhost = "".into(),
        |lock| lock.state = LockState::Leased,
        |lock| lock.state = LockState::Cooldown,
        |lock| lock.scope = Extent::Publish(Scope::UntilExpired),
        |lock| (lock.state, lock.in_flight) = (LockState::Queued, 1),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut other = lock();
        change(&mut other);
        assert!(!may_be_orphaned(&other, &rules), "{number}");
    }
}

/// Its settlement is not seen. Where tasks acknowledge late the broker has it again.
#[test]
fn what_no_proxy_has_carried_may_be_orphaned_whatever_is_in_flight() {
    let mut direct = lock();
    (direct.in_flight, direct.carried) = (1, false);
    assert!(may_be_orphaned(&direct, &RuleSet::default()));
    for (acks_late, orphan) in [(AcksLate::Auto, true), (AcksLate::False, true), (AcksLate::True, false)] {
        let spec = RuleSpec {
            name: Some("r".to_owned()),
            task: vec!["t".to_owned()],
            unique: Some(Unique::UntilFinished),
            acks_late,
            ..RuleSpec::default()
        };
        let rules = RuleSet::compile(vec![spec], &[]).expect("rules");
        assert_eq!(may_be_orphaned(&direct, &rules), orphan, "{acks_late:?}");
    }
}

#[test]
fn a_worker_that_is_unseen_and_can_be_asked_is_asked_before_its_lock_goes() {
    let mut rig = Rig::default();
    assert_eq!(rig.sees(Sight::Unseen, 0), Verdict::Keep);
    assert_eq!(rig.sees(Sight::Unseen, GRACE_MS - 1), Verdict::Keep);
    for (after_ms, wanted) in [
        (0, Verdict::Ask),
        (4_999, Verdict::Keep),
        (5_000, Verdict::Ask),
        (9_999, Verdict::Keep),
        (10_000, Verdict::Crashed),
    ] {
        assert_eq!(rig.sees(Sight::Unseen, GRACE_MS + after_ms), wanted, "{after_ms}");
    }
}

/// While the control connection is down nobody hears a worker that passes no proxy, nor for a while after.
#[test]
fn what_nobody_can_hear_has_the_grace_from_when_it_can_be_heard_again() {
    let direct = LockRecord { carried: false, ..lock() };
    let judge = |rig: &mut Rig, sight, now_ms| {
        rig.orphans.begin_pass();
        rig.orphans.see(&HashMap::from([(node(), sight)]), now_ms);
        let verdict = rig.orphans.judge(&direct, sight, GRACE_MS, now_ms);
        rig.orphans.end_pass();
        verdict
    };
    let mut rig = Rig::default();
    assert_eq!(judge(&mut rig, Sight::Absent, 0), Verdict::Keep);
    assert_eq!(judge(&mut rig, Sight::Absent, 10 * GRACE_MS), Verdict::Keep);
    let back_ms = 11 * GRACE_MS;
    assert_eq!(judge(&mut rig, Sight::Unseen, back_ms), Verdict::Keep);
    assert_eq!(judge(&mut rig, Sight::Unseen, back_ms + GRACE_MS - 1), Verdict::Keep);
    assert_eq!(judge(&mut rig, Sight::Unseen, back_ms + GRACE_MS), Verdict::Ask);
    // One that was carried goes by its absence alone, which counts anew as well.
    assert_eq!(rig.sees(Sight::Absent, back_ms + GRACE_MS + 1), Verdict::Keep);
    assert_eq!(rig.sees(Sight::Absent, back_ms + 2 * GRACE_MS), Verdict::Keep);
    assert_eq!(rig.sees(Sight::Absent, back_ms + 2 * GRACE_MS + 1), Verdict::Crashed);
}

/// It lives, and publishes no heartbeats.
#[test]
fn an_unseen_worker_that_knows_its_task_keeps_the_lock() {
    let mut rig = Rig::default();
    assert_eq!(rig.sees(Sight::Unseen, 0), Verdict::Keep);
    let (mut now_ms, mut asked) = (GRACE_MS, 0);
    while asked < 3 {
        let (verdict, ticket) = rig.look(Sight::Unseen, now_ms);
        if verdict == Verdict::Ask {
            rig.answer(&ticket, "w@one", now_ms + 1_000, &["a"]);
            asked += 1;
        } else {
            assert_eq!(verdict, Verdict::Keep, "{now_ms}");
        }
        now_ms += 5_000;
    }
    for known in [1, 2] {
        now_ms += 60_000;
        let (verdict, ticket) = rig.look(Sight::Unseen, now_ms);
        assert_eq!(verdict, Verdict::Ask, "{known}");
        rig.answer(&ticket, "w@one", now_ms + 1_000, &[]);
    }
    assert_eq!(
        rig.sees(Sight::Unseen, now_ms + 10_000),
        Verdict::Crashed,
        "it does not know it any more"
    );
}

#[test]
fn an_absent_worker_loses_its_lock_after_the_grace_and_not_before() {
    let mut rig = Rig::default();
    for (now_ms, wanted) in [
        (0, Verdict::Keep),
        (5_000, Verdict::Keep),
        (GRACE_MS - 1, Verdict::Keep),
        (GRACE_MS, Verdict::Crashed),
    ] {
        assert_eq!(rig.sees(Sight::Absent, now_ms), wanted, "{now_ms}");
    }
}

#[test]
fn a_worker_that_is_seen_meanwhile_has_the_grace_anew() {
    for seen in [Sight::Elsewhere, Sight::Here { since_ms: 40_000 }] {
        let mut rig = Rig::default();
        assert_eq!(rig.sees(Sight::Absent, 0), Verdict::Keep);
        assert_eq!(rig.sees(seen, 55_000), Verdict::Keep);
        assert_eq!(rig.sees(Sight::Absent, 60_000), Verdict::Keep, "{seen:?}");
        assert_eq!(rig.sees(Sight::Absent, 119_999), Verdict::Keep);
        assert_eq!(rig.sees(Sight::Absent, 120_000), Verdict::Crashed);
    }
}

#[test]
fn a_grace_that_is_changed_holds_for_workers_that_are_in_doubt_already() {
    let mut orphans = Orphans::default();
    let now_ms = YOUNG_MS + 5_000;
    assert_eq!(orphans.judge(&lock(), YOUNG, GRACE_MS, now_ms), Verdict::Keep);
    assert_eq!(orphans.judge(&lock(), YOUNG, 1_000, now_ms), Verdict::Ask);
    assert_eq!(orphans.judge(&lock(), YOUNG, u64::MAX, now_ms), Verdict::Keep);
}

#[test]
fn nothing_goes_at_first_sight() {
    let mut orphans = Orphans::default();
    assert_eq!(orphans.judge(&lock(), Sight::Absent, 0, 5_000), Verdict::Keep);
    assert_eq!(orphans.judge(&lock(), Sight::Absent, 0, 10_000), Verdict::Crashed);
}

#[test]
fn no_absence_counts_while_the_store_is_away_nor_for_a_note_after_it() {
    let mut rig = Rig::default();
    assert_eq!(rig.sees(Sight::Absent, 0), Verdict::Keep);
    rig.orphans.store_is_away();
    assert_eq!(rig.sees(Sight::Absent, 100_000), Verdict::Keep, "it is back");
    assert_eq!(rig.sees(Sight::Absent, 114_999), Verdict::Keep);
    assert_eq!(rig.sees(Sight::Absent, 115_000), Verdict::Keep, "from here it counts");
    assert_eq!(rig.sees(Sight::Absent, 174_999), Verdict::Keep);
    assert_eq!(rig.sees(Sight::Absent, 175_000), Verdict::Crashed);
}

#[test]
fn a_worker_older_than_the_lock_is_not_asked() {
    let mut rig = Rig::default();
    let since_ms = LOCKED_MS - SKEW_MS;
    assert_eq!(rig.sees(Sight::Here { since_ms }, LOCKED_MS + 10 * GRACE_MS), Verdict::Keep);
}

#[test]
fn a_worker_that_may_be_younger_by_another_clock_is_asked() {
    let mut rig = Rig::default();
    let since_ms = LOCKED_MS - SKEW_MS + 1;
    assert_eq!(rig.sees(Sight::Here { since_ms }, LOCKED_MS + 10 * GRACE_MS), Verdict::Ask);
}

#[test]
fn a_worker_that_does_not_know_the_task_twice_loses_it() {
    let mut rig = Rig::default();
    assert_eq!(rig.sees(YOUNG, DUE_MS - 1), Verdict::Keep, "it has the grace");
    rig.answers(YOUNG_MS, DUE_MS, &[]);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 5_999), Verdict::Keep, "five seconds after the answer");
    rig.answers(YOUNG_MS, DUE_MS + 6_000, &["b"]);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 7_000), Verdict::Crashed);
}

#[test]
fn a_worker_that_knows_the_task_keeps_it_and_is_asked_again_later() {
    let mut rig = Rig::default();
    rig.answers(YOUNG_MS, DUE_MS, &[]);
    rig.answers(YOUNG_MS, DUE_MS + 10_000, &["a"]);
    let again_ms = DUE_MS + 11_000 + AGAIN_MS;
    assert_eq!(rig.sees(YOUNG, again_ms - 1), Verdict::Keep);
    rig.answers(YOUNG_MS, again_ms, &[]);
    assert_eq!(
        rig.sees(YOUNG, again_ms + 2_000),
        Verdict::Keep,
        "what it said before it knew the task does not count"
    );
}

#[test]
fn a_silent_worker_keeps_its_task_and_is_asked_less_often() {
    let mut rig = Rig::default();
    assert_eq!(rig.sees(YOUNG, DUE_MS), Verdict::Ask);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 4_999), Verdict::Keep, "it may still answer");
    assert_eq!(rig.sees(YOUNG, DUE_MS + 5_000), Verdict::Ask);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 10_000), Verdict::Keep);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 10_000 + AGAIN_MS - 1), Verdict::Keep);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 10_000 + AGAIN_MS), Verdict::Ask);
    assert_eq!(rig.sees(Sight::Elsewhere, DUE_MS + 100_000), Verdict::Keep);
}

#[test]
fn a_silence_between_does_not_undo_what_was_answered() {
    let mut rig = Rig::default();
    rig.answers(YOUNG_MS, DUE_MS, &[]);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 6_000), Verdict::Ask);
    rig.answers(YOUNG_MS, DUE_MS + 11_000, &[]);
    assert_eq!(rig.sees(YOUNG, DUE_MS + 12_000), Verdict::Crashed);
}

#[test]
fn what_another_incarnation_said_does_not_count() {
    let mut rig = Rig::default();
    rig.answers(YOUNG_MS, DUE_MS, &[]);
    let (verdict, late) = rig.look(YOUNG, DUE_MS + 6_000);
    assert_eq!(verdict, Verdict::Ask);
    // It reconnects; the answer to what was asked before is none of the new one's.
    let since_ms = DUE_MS + 7_000;
    assert_eq!(rig.sees(Sight::Here { since_ms }, since_ms), Verdict::Keep);
    rig.answer(&late, "w@one", since_ms + 500, &[]);
    rig.answers(since_ms, since_ms + GRACE_MS, &[]);
    assert_eq!(rig.sees(Sight::Here { since_ms }, since_ms + GRACE_MS + 2_000), Verdict::Keep);
}

#[test]
fn what_was_not_asked_or_of_another_says_nothing() {
    let mut rig = Rig::default();
    let (_, ticket) = rig.look(YOUNG, DUE_MS);
    rig.answer("guessed", "w@one", DUE_MS + 1, &[]);
    rig.answer(&ticket, "w@two", DUE_MS + 1, &[]);
    rig.answer(&ticket, "w@one", DUE_MS + 2, &["a"]);
    rig.answer(&ticket, "w@one", DUE_MS + 3, &[]);
    assert_eq!(rig.sees(YOUNG, DUE_MS + AGAIN_MS), Verdict::Keep, "it knows the task");
}

#[test]
fn what_no_lock_names_any_more_is_forgotten() {
    let mut rig = Rig::default();
    rig.sees(Sight::Absent, 0);
    rig.orphans.ask(&node(), &[Doubtful::of(&lock())], "t".into(), 0);
    rig.sees(YOUNG, DUE_MS);
    rig.sees(Sight::Absent, DUE_MS + 1);
    rig.orphans.begin_pass();
    rig.orphans.end_pass();
    rig.orphans.see(&HashMap::new(), DUE_MS + 100_000);
    let left = (rig.orphans.absent.len(), rig.orphans.doubts.len(), rig.orphans.questions.len());
    assert_eq!(left, (0, 0, 0));
}

#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        LOCKED_MS + self.0.load(Ordering::Relaxed)
    }
}

/// A proxy and its store, by one clock, with a lock of a task that a worker has acknowledged and runs.
struct World {
    clock: Arc<Hand>,
    watcher: Watcher,
    rules: RuleSet,
}

impl World {
    async fn new() -> World {
        let clock = Arc::new(Hand::default());
        let memory = Memory::new(Arc::clone(&clock) as Arc<dyn Clock>, "p1".into());
        let spec = RuleSpec {
            name: Some("r".to_owned()),
            task: vec!["t".to_owned()],
            unique: Some(Unique::UntilFinished),
            orphan_grace: Duration::from_secs(20),
            ..RuleSpec::default()
        };
        let nodes = Arc::new(Nodes::new(Arc::clone(&clock) as Arc<dyn Clock>));
        let watcher = Watcher {
            store: Store::memory(Arc::new(memory), Arc::new(Unobserved)).client(),
            runs: Arc::new(Runs::new(&nodes)),
            nodes,
            control: Control::default(),
            note: "proxy:p1".to_owned(),
            orphans: Orphans::default(),
            cursor: None,
        };
        let world = World {
            clock,
            watcher,
            rules: RuleSet::compile(vec![spec], &[]).expect("the rule is right"),
        };
        world.take().await;
        world
    }

    async fn take(&self) {
        let claim = Claim {
            digest: Digest([7; 32]),
            id: "a".into(),
        };
        let note = Arc::new(LockNote {
            rule: "r".into(),
            task: "t".into(),
            summary: "".into(),
            vhost: "/".into(),
            queue: "q".into(),
            scope: Scope::UntilFinished,
            shadow: false,
            life_ms: 86_400_000,
            unstarted_ms: None,
            lease_ms: 10_000,
            settle_grace_ms: 1_000,
            acks_late: false,
            hears: Hears::ALL,
            release_on: ReleaseOn::Both,
            cooldown_ms: 0,
            owed: crate::rules::owed::Owed::Nothing,
            if_held: IfHeld::Yield,
        });
        let publish = Nonce(1);
        let acquire = Request::Acquire {
            claim: claim.clone(),
            publish,
            note: Arc::clone(&note),
            reentrant: false,
        };
        let acked = Request::Signal {
            id: "a".into(),
            settlement: Nonce(2),
            signal: Signal::Acked,
            source: Source::Ack,
            worker: "w@one".into(),
        };
        for request in [acquire, Request::Commit { claim, publish, note }, acked] {
            self.watcher.store.ask(request).await.expect("a memory store answers");
        }
    }

    async fn look_at(&mut self, ms: u64) {
        self.clock.0.store(ms, Ordering::Relaxed);
        self.watcher.try_look(&self.rules).await.expect("a memory store answers");
    }

    async fn is_locked(&self) -> bool {
        let digest = Digest([7; 32]);
        matches!(self.watcher.store.ask(Request::Show { digest }).await, Ok(Reply::Lock(Some(_))))
    }
}

#[tokio::test]
async fn a_lock_goes_the_grace_of_its_rule_after_its_worker() {
    let mut world = World::new().await;
    world.watcher.nodes.attach(node(), 1, Box::new(|_| ()));
    world.look_at(1_000).await;
    world.watcher.nodes.detach(&node(), 1);
    // What this or another proxy has noted of it counts as long as the note lives.
    for ms in [6_000, 16_000, 35_999] {
        world.look_at(ms).await;
        assert!(world.is_locked().await, "{ms}");
    }
    world.look_at(36_000).await;
    assert!(!world.is_locked().await);
}

#[tokio::test]
async fn a_worker_that_another_proxy_sees_keeps_its_lock() {
    let mut world = World::new().await;
    for ms in (0..200_000).step_by(10_000) {
        let note = [(node().note(), "1".to_owned())];
        world
            .watcher
            .store
            .announce(&note, NOTE_LIFE)
            .await
            .expect("a memory store answers");
        world.look_at(ms).await;
    }
    assert!(world.is_locked().await);
}

#[tokio::test]
async fn a_worker_that_came_back_is_asked_and_its_answers_decide() {
    let mut world = World::new().await;
    world.clock.0.store(50_000, Ordering::Relaxed);
    let asked: Arc<Mutex<Vec<Question>>> = Arc::default();
    let questions = Arc::clone(&asked);
    let ask = move |letter| match letter {
        Letter::Question(question) => questions.lock().expect("no panic").push(question),
        Letter::Revoke { .. } => {}
    };
    world.watcher.nodes.attach(node(), 1, Box::new(ask));
    let answer = |known: &[&str]| {
        let question = asked.lock().expect("no panic").pop().expect("it was asked");
        assert_eq!(*question.ids, [Arc::<str>::from("a")]);
        TasksKnown {
            ticket: (&*question.ticket).into(),
            node: question.node,
            known: known.iter().map(|id| (*id).into()).collect(),
        }
    };
    world.look_at(69_999).await;
    assert!(asked.lock().expect("no panic").is_empty(), "it has the grace");
    for (ms, known) in [(70_000, &["a"][..]), (130_000, &[]), (135_000, &[])] {
        world.look_at(ms).await;
        world.watcher.nodes.answered(answer(known));
        world.look_at(ms).await;
        assert_eq!(world.is_locked().await, ms < 135_000, "{ms}");
    }
}
