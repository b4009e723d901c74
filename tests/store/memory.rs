//! What only the memory store promises.

use std::sync::Arc;

use oncegate::rules::lock::{Acquired, Nonce, Reply, Request, Scope, Signal};
use oncegate::rules::park::{Fingerprint, ParkNote, ParkState, Token};
use oncegate::rules::running::{IfBusy, RunNote};
use oncegate::rules::source::Hears;
use oncegate::store::Memory;

use crate::world::{ManualClock, acquire, claim, commit, note, note_with, signal};
use oncegate::rules::lock::{Claim, Digest};

fn numbered(number: u32) -> Claim {
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&number.to_be_bytes());
    digest[8..12].copy_from_slice(&number.to_be_bytes());
    Claim {
        digest: Digest(digest),
        id: format!("id-{number}").into(),
    }
}

#[test]
fn what_has_lapsed_is_removed() {
    let clock = Arc::new(ManualClock::default());
    let memory = Memory::new(clock.clone(), "proxy-1".into());
    let brief = note_with(Scope::UntilFinished, |note| {
        note.lease_ms = 10_000;
        note.life_ms = 3_600_000;
    });
    for number in 0..10_000 {
        let claim = numbered(number);
        memory.execute(&acquire(&claim, 1, &brief, false));
        memory.execute(&commit(&claim, 1, &brief));
    }
    assert_eq!(memory.len(), (10_000, 10_000));
    clock.advance(1_800_000);
    for _ in 0..10_000 {
        memory.execute(&signal("nobody", 1, Signal::Acked));
    }
    assert_eq!(memory.len().0, 10_000, "nothing goes before its time");
    clock.advance(1_900_000);
    for _ in 0..10_000 {
        memory.execute(&signal("nobody", 1, Signal::Acked));
    }
    let (locks, ids) = memory.len();
    assert!(locks == 0 && ids <= 1, "{locks} locks, {ids} ids");
}

#[test]
fn a_busy_key_leaves_nothing_behind() {
    let clock = Arc::new(ManualClock::default());
    let memory = Memory::new(clock.clone(), "proxy-1".into());
    let note = note(Scope::UntilStarted);
    for number in 0..20_000 {
        let claim = claim(1, &format!("id-{number}"));
        assert_eq!(memory.execute(&acquire(&claim, 1, &note, false)), Reply::Acquire(Acquired::Taken));
        memory.execute(&commit(&claim, 1, &note));
        memory.execute(&signal(&claim.id, 2, Signal::Acked));
        clock.advance(100);
    }
    let (locks, ids) = memory.len();
    assert!(
        locks == 0 && ids < 5_000,
        "{locks} locks, {ids} ids: the marks of the last minute and what waits for its sweep"
    );
}

#[test]
fn what_is_known_of_runs_is_removed() {
    let clock = Arc::new(ManualClock::default());
    let memory = Memory::new(clock.clone(), "proxy-1".into());
    let note = Arc::new(RunNote {
        rule: "reports".into(),
        task: "reports.generate".into(),
        summary: "".into(),
        vhost: "/".into(),
        queue: "celery".into(),
        life_ms: 3_600_000,
        settle_grace_ms: 1_000,
        acks_late: false,
        hears: Hears::ALL,
        retries: 0,
        owed: oncegate::rules::owed::Owed::Nothing,
    });
    let run = |claim: Claim| Request::Run {
        claim,
        delivery: Nonce(1),
        note: note.clone(),
        busy: IfBusy::Wait { place_ms: None },
        worker: "".into(),
    };
    for number in 0..10_000 {
        let claim = numbered(number);
        let copy = Claim {
            id: "another".into(),
            ..claim.clone()
        };
        memory.execute(&run(claim.clone()));
        memory.execute(&run(copy));
        if number % 2 == 0 {
            memory.execute(&signal(&claim.id, 1, Signal::Succeeded));
        }
    }
    assert_eq!(memory.runs_len(), (5_000, 10_000, 5_000));
    let sweep = || {
        for _ in 0..10_000 {
            memory.execute(&signal("nobody", 1, Signal::Retried));
        }
    };
    clock.advance(1_800_000);
    sweep();
    assert_eq!(memory.runs_len(), (5_000, 0, 0), "who waits is forgotten sooner than who runs");
    clock.advance(1_900_000);
    sweep();
    assert_eq!((memory.runs_len(), memory.len()), ((0, 0, 0), (0, 0)));
}

#[test]
fn what_is_known_of_parked_messages_is_removed() {
    let clock = Arc::new(ManualClock::default());
    let memory = Memory::new(clock.clone(), "proxy-1".into());
    for number in 0..10_000_u64 {
        let note = Arc::new(ParkNote {
            fingerprint: Fingerprint(number),
            digest: Digest([1; 32]),
            rule: "reports".into(),
            place_ms: None,
            life_ms: 3_600_000,
        });
        let (id, token): (Arc<str>, _) = (format!("id-{}", number / 2).into(), Token("one".into()));
        memory.execute(&Request::Park {
            id: id.clone(),
            token: token.clone(),
            note,
        });
        if number % 4 == 0 {
            memory.execute(&Request::MarkParked {
                id,
                token,
                fingerprint: Fingerprint(number),
                state: ParkState::Done,
            });
        }
    }
    let sweep = || {
        for _ in 0..10_000 {
            memory.execute(&signal("nobody", 1, Signal::Retried));
        }
        memory.parked_len()
    };
    clock.advance(1_800_000);
    assert_eq!(sweep(), 5_000);
    clock.advance(1_900_000);
    assert_eq!(sweep(), 2_500, "what is done is known for a day");
    clock.advance(24 * 3_600_000);
    assert_eq!(sweep(), 0);
}

#[test]
fn entries_of_schedules_that_are_nobodys_are_removed() {
    let clock = Arc::new(ManualClock::default());
    let memory = Memory::new(clock.clone(), "proxy-1".into());
    let publish = |key: u8| {
        memory.execute(&Request::BeatLease {
            digest: Digest([key; 32]),
            origin: "gen1@a".into(),
            life_ms: 15_000,
        })
    };
    for second in 0..100 {
        (0..100).for_each(|key| drop(publish(key)));
        assert_eq!(memory.beats_len(), 100, "{second}: each publish of an entry renews it");
        clock.advance(1_000);
    }
    for _ in 0..100 {
        clock.advance(1_000);
        publish(200);
    }
    assert_eq!(memory.beats_len(), 1);
}
