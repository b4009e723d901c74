//! Running locks of what was acknowledged early.

use super::*;
use crate::rules::running::{IfBusy, Ran, RunNote};

fn run_note() -> Arc<RunNote> {
    Arc::new(RunNote {
        rule: "r".into(),
        task: "t".into(),
        summary: "s".into(),
        vhost: "/".into(),
        queue: "q".into(),
        life_ms: TTL_MS,
        settle_grace_ms: 1_000,
        acks_late: false,
        hears: Hears::ALL,
        retries: 0,
        owed: crate::rules::owed::Owed::Nothing,
    })
}

fn run_of(id: &str, delivery: u64) -> Run {
    Run {
        claim: claim(id),
        delivery: Nonce(delivery),
        kept: Kept::Run(run_note()),
        worker: "w@one".into(),
    }
}

impl World {
    /// A worker is connected, and runs a task alone that it has acknowledged.
    async fn running_alone() -> World {
        let world = World::new();
        world.attach();
        assert_eq!(world.asks_to_run("a", 9).await, Ran::Runs);
        world.tells("a", 9, Signal::Acked, "w@one");
        world.runs.began(run_of("a", 9));
        world
    }

    async fn asks_to_run(&self, id: &str, delivery: u64) -> Ran {
        let question = Request::Run {
            claim: claim(id),
            delivery: Nonce(delivery),
            note: run_note(),
            busy: IfBusy::Wait { place_ms: None },
            worker: "w@one".into(),
        };
        match self.store.ask(question).await {
            Ok(Reply::Run(ran)) => ran,
            other => panic!("{other:?}"),
        }
    }

    async fn renews(&self, id: &str, delivery: u64) -> Renewed {
        let request = Request::RenewRun {
            claim: claim(id),
            delivery: Nonce(delivery),
            note: run_note(),
            worker: "w@two".into(),
        };
        match self.store.ask(request).await {
            Ok(Reply::Renewed(renewed)) => renewed,
            other => panic!("{other:?}"),
        }
    }

    fn tells(&self, id: &str, settlement: u64, signal: Signal, worker: &str) {
        self.store.tell(Request::Signal {
            id: id.into(),
            settlement: Nonce(settlement),
            signal,
            source: if signal.settles() { Source::Ack } else { Source::Events },
            worker: worker.into(),
        });
    }

    async fn runs(&self) -> bool {
        let digest = Digest([7; 32]);
        match self.store.ask(Request::ShowRun { digest }).await {
            Ok(Reply::Lock(lock)) => lock.is_some(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_runs_alone_keeps_its_lock_for_as_long_as_its_worker_is_there() {
    let world = World::running_alone().await;
    world.pass_answering(10 * TTL_MS, &["a"]);
    assert!(world.runs().await);
    world.nodes.detach(&node(), 1);
    world.pass(TTL_MS + TTL_MS / 3);
    assert!(!world.runs().await, "nobody knows that it is alive");
    assert_eq!(world.runs.state().count, 0);
}

#[tokio::test]
async fn a_store_that_has_forgotten_a_run_is_told_again_at_once() {
    let mut world = World::running_alone().await;
    world.pass(1_000);
    world.store_forgets();
    assert!(!world.runs().await);
    world.pass(250);
    assert!(matches!(world.asks_to_run("b", 10).await, Ran::Waits { holder, .. } if &*holder == "a"));
}

#[tokio::test]
async fn a_run_that_its_worker_does_not_know_any_more_has_ended() {
    let world = World::running_alone().await;
    world.pass_answering(CHECK_MS + 2 * ANSWER_MS, &[]);
    assert!(!world.runs().await);
    assert_eq!(world.asks_to_run("b", 10).await, Ran::Runs);
}

#[tokio::test]
async fn only_what_is_of_the_run_ends_its_tracking() {
    for (settlement, signal, worker, ends) in [
        (0, Signal::Succeeded, "w@one", true),
        (0, Signal::Failed, "", true),
        (0, Signal::Retried, "w@one", true),
        (9, Signal::AckedLate, "w@one", true),
        (9, Signal::Rejected, "w@one", true),
        // Of a second copy, which waited or ran elsewhere.
        (8, Signal::AckedLate, "w@one", false),
        (8, Signal::Rejected, "w@two", false),
        (0, Signal::Succeeded, "w@two", false),
        (0, Signal::Started, "w@one", false),
    ] {
        let mut world = World::running_alone().await;
        world.tells("a", settlement, signal, worker);
        assert_eq!(world.runs.state().count, usize::from(!ends), "{signal:?} of {worker}");
        world.store_forgets();
        world.pass(250);
        assert_eq!(world.runs().await, !ends, "{signal:?} of {worker}");
    }
}

#[tokio::test]
async fn a_renewal_that_finds_nothing_ends_the_tracking_of_its_own_delivery_alone() {
    let world = World::running_alone().await;
    let renewal = |delivery| Request::RenewRun {
        claim: claim("a"),
        delivery: Nonce(delivery),
        note: run_note(),
        worker: "w@one".into(),
    };
    world.store.tell(renewal(8));
    assert_eq!(world.runs.state().count, 1, "another delivery was given up");
    world.store.tell(Request::LeaveRun {
        claim: claim("a"),
        delivery: Nonce(9),
    });
    assert_eq!(world.asks_to_run("b", 10).await, Ran::Runs);
    world.store.tell(renewal(9));
    assert_eq!(world.runs.state().count, 0, "another has the lock");
}

/// A run that had ended is renewed by a proxy that has not heard of it, in a store that has forgotten all.
async fn lost() -> World {
    let mut world = World::running_alone().await;
    world.store_forgets();
    assert_eq!(world.renews("stray", 8).await, Renewed::Retaken);
    world.runs.store_is_back();
    world.pass(1);
    assert_eq!(world.renews("stray", 8).await, Renewed::Held);
    world
}

#[tokio::test]
async fn a_lock_that_was_lost_to_another_is_taken_again_when_it_is_free() {
    let world = lost().await;
    world.pass_answering(3 * TTL_MS / 2, &["a"]);
    assert_eq!(world.renews("stray", 8).await, Renewed::Lost, "it lapsed, and who runs has it");
    assert_ne!(world.asks_to_run("b", 10).await, Ran::Runs);
    world.pass_answering(3 * TTL_MS, &["a"]);
    assert!(world.runs().await);
}

#[tokio::test]
async fn what_has_ended_does_not_wait_for_a_lock_that_was_lost() {
    let world = lost().await;
    world.pass_answering(TTL_MS / 2, &[]);
    assert!(
        world.runs.state().tracked.values().flatten().all(|tracked| tracked.over),
        "its worker does not know it"
    );
    world.tells("stray", 0, Signal::Succeeded, "w@two");
    world.pass_answering(TTL_MS / 4, &[]);
    assert!(!world.runs().await);
    assert_eq!(world.asks_to_run("b", 10).await, Ran::Runs);
}

/// A later try runs on the same worker.
async fn tried_again() -> World {
    let world = World::new();
    world.attach();
    let second = Arc::new(RunNote {
        retries: 1,
        ..RunNote::clone(&run_note())
    });
    let question = Request::Run {
        claim: claim("a"),
        delivery: Nonce(10),
        note: Arc::clone(&second),
        busy: IfBusy::Wait { place_ms: None },
        worker: "w@one".into(),
    };
    assert_eq!(world.store.ask(question).await.ok(), Some(Reply::Run(Ran::Runs)));
    world.runs.began(Run {
        kept: Kept::Run(second),
        ..run_of("a", 10)
    });
    world
}

#[tokio::test]
async fn a_later_try_is_kept_when_a_retry_is_told_late() {
    let world = tried_again().await;
    world.tells("a", 0, Signal::Retried, "w@one");
    world.pass_answering(3 * TTL_MS, &["a"]);
    assert!(world.runs().await);
    world.tells("a", 0, Signal::Retried, "w@one");
    world.pass_answering(2 * ANSWER_MS, &[]);
    assert!(!world.runs().await, "its worker is asked at once");
}

#[tokio::test]
async fn an_orphan_of_an_earlier_try_ends_no_later_one() {
    let world = tried_again().await;
    world.tells("a", 9, Signal::Orphaned, "w@one");
    assert_eq!(world.runs.state().count, 1);
    assert!(world.runs().await);
    world.tells("a", 10, Signal::Orphaned, "w@one");
    assert_eq!(world.runs.state().count, 0);
    assert!(!world.runs().await);
}
