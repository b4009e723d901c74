//! Both stores, given the same long random story, say the same all along.

use std::sync::Arc;
use std::time::Duration;

use oncegate::rules::beat::Turn;
use oncegate::rules::lock::{
    Acquired, Admitted, Alive, Claim, Committed, Fate, IfHeld, LockNote, LockRecord, Nonce, Quiet, ReleaseOn, ReleaseReason, Reply,
    Request, Running, Scope, Signal,
};
use oncegate::rules::owed::Owed;
use oncegate::rules::park::{Fingerprint, ParkNote, ParkState, Seen, Token};
use oncegate::rules::running::{IfBusy, Ran, RunNote};
use oncegate::rules::source::{Hears, Source};

use crate::world::{
    COOLDOWN, GRACE, LEASE, LIFE, UNSTARTED, World, acquire, claim, commit, digest, late, note, note_with, signal, unpublish,
};

/// Both clocks are asked within less than this of each other.
const SKEW: u64 = 15_000;

/// Who has kept silent for so long is passed over.
const UNSEEN: u64 = 5_000;

/// The life of a run whose question comes behind its own end.
const BEHIND_ITS_END: u64 = 60_000;

/// Places that are named are before this, all times of any clock behind it.
const NAMED: u64 = 1_000;

/// One per kind of lock.
const KEYS: u64 = 18;

/// Random numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn request(dice: &mut Dice, notes: &[Arc<LockNote>]) -> Request {
    let key = dice.roll(KEYS) as u8;
    let note = &notes[key as usize];
    let claim = claim(key, ["a", "b", "c"][dice.roll(3) as usize]);
    let nonce = dice.roll(5);
    let worker: Arc<str> = ["", "celery@one"][dice.roll(2) as usize].into();
    match dice.roll(23) {
        0..5 => acquire(&claim, nonce, note, dice.roll(6) == 0),
        5..9 => commit(&claim, nonce, note),
        9 => Request::RenewLease {
            claim,
            publish: Nonce(nonce),
            note: note.clone(),
        },
        10 | 11 => unpublish(&claim, nonce, ReleaseReason::Returned),
        12..15 => {
            let signals = [Signal::Acked, Signal::Acked, Signal::Rejected, Signal::DeliveredNoAck];
            signal(&claim.id, 100 + dice.roll(40), signals[dice.roll(4) as usize])
        }
        15 | 16 => Request::Signal {
            id: claim.id,
            settlement: Nonce(100 + dice.roll(40)),
            signal: Signal::ALL[dice.roll(Signal::ALL.len() as u64) as usize],
            source: Source::NAMED[dice.roll(4) as usize],
            worker,
        },
        17..20 => Request::Admit {
            claim,
            delivery: Nonce(200 + nonce),
            note: note.clone(),
            reentrant: dice.roll(4) == 0,
            worker,
        },
        20 => Request::Renew {
            claim,
            delivery: Nonce(200 + nonce),
            note: note.clone(),
            alive: [Alive::Delivered, Alive::Begun, Alive::Acknowledged][dice.roll(3) as usize],
            worker,
        },
        21 => Request::BeatLease {
            digest: claim.digest,
            origin: worker,
            life_ms: LIFE,
        },
        _ if dice.roll(2) == 0 => Request::Cool {
            claim: Claim {
                id: "by hand".into(),
                ..claim
            },
            note: note_with(Scope::UntilFinished, |note| note.cooldown_ms = COOLDOWN),
        },
        _ => Request::Release {
            digest: claim.digest,
            holder: (dice.roll(2) == 0).then_some(claim.id),
            running: if dice.roll(2) == 0 { Running::Skip } else { Running::Include },
        },
    }
}

/// No time comes while a story is told.
const QUIET: u64 = 1_000_000;

fn put_off(longest_ms: Option<u64>) -> IfHeld {
    IfHeld::Debounce(Quiet {
        period_ms: QUIET,
        longest_ms,
    })
}

/// Without what depends on the clock; times as the class they fall into.
fn timeless(reply: Reply) -> Reply {
    match reply {
        Reply::Admit(digest, Admitted::Waits { holder, .. }) => Reply::Admit(digest, Admitted::Waits { holder, since_ms: 0 }),
        Reply::Acquire(Acquired::PutOff { holder, due_ms }) => Reply::Acquire(Acquired::PutOff {
            holder,
            // The clocks count from different times.
            due_ms: due_ms.min(1),
        }),
        Reply::Acquire(Acquired::Held {
            holder,
            state,
            expires_in_ms,
        }) => Reply::Acquire(Acquired::Held {
            holder,
            state,
            expires_in_ms: class(expires_in_ms),
        }),
        Reply::Admit(
            digest,
            Admitted::Held {
                holder,
                state,
                expires_in_ms,
            },
        ) => Reply::Admit(
            digest,
            Admitted::Held {
                holder,
                state,
                expires_in_ms: class(expires_in_ms),
            },
        ),
        Reply::Admit(
            digest,
            Admitted::Ended {
                holder,
                fate: Fate::Ended { .. },
            },
        ) => Reply::Admit(
            digest,
            Admitted::Ended {
                holder,
                fate: Fate::Ended { since_ms: 0 },
            },
        ),
        Reply::Run(Ran::Waits {
            holder,
            place_ms,
            expires_in_ms,
        }) => Reply::Run(Ran::Waits {
            holder,
            // The clocks count from different times.
            place_ms: if place_ms < NAMED { place_ms } else { NAMED },
            expires_in_ms: if expires_in_ms <= UNSEEN { UNSEEN } else { class(expires_in_ms) },
        }),
        Reply::Commit(Committed::Replaced(mut superseded)) => {
            superseded.freed.held_ms = 0;
            Reply::Commit(Committed::Replaced(superseded))
        }
        Reply::Beat(Turn::Other { origin, expires_in_ms }) => Reply::Beat(Turn::Other {
            origin,
            expires_in_ms: class(expires_in_ms),
        }),
        Reply::Run(Ran::Forgotten { place_ms }) => Reply::Run(Ran::Forgotten {
            place_ms: place_ms.min(NAMED),
        }),
        Reply::Run(Ran::Leaves { holder, mut freed }) => {
            for freed in &mut freed {
                freed.held_ms = 0;
            }
            Reply::Run(Ran::Leaves { holder, freed })
        }
        Reply::Released(mut freed) => {
            for freed in &mut freed {
                freed.held_ms = 0;
            }
            freed.sort_by_key(|freed| (freed.digest, freed.reason.as_str(), freed.rule.clone()));
            Reply::Released(freed)
        }
        Reply::Outlived { mut freed, ran } => {
            for freed in &mut freed {
                freed.held_ms = 0;
            }
            Reply::Outlived { freed, ran }
        }
        other => other,
    }
}

/// Which of the spans in use this is.
fn class(ms: u64) -> u64 {
    [0, GRACE, COOLDOWN, BEHIND_ITS_END, LEASE, UNSTARTED, LIFE]
        .into_iter()
        .find(|span| ms <= *span && *span - ms <= SKEW)
        .unwrap_or(ms)
}

fn alike(left: Option<LockRecord>, right: Option<LockRecord>) -> bool {
    let span = |lock: &Option<LockRecord>| lock.as_ref().map_or(0, |lock| lock.expires_ms - lock.since_ms);
    let shape = |lock: Option<LockRecord>| {
        lock.map(|lock| LockRecord {
            since_ms: 0,
            expires_ms: 0,
            ..lock
        })
    };
    span(&left).abs_diff(span(&right)) <= SKEW && shape(left) == shape(right)
}

fn run_note(key: u8, retries: u32) -> Arc<RunNote> {
    Arc::new(RunNote {
        rule: format!("rule {key}").into(),
        task: "reports.generate".into(),
        summary: "customer_id".into(),
        vhost: "shop".into(),
        queue: "celery".into(),
        life_ms: LIFE,
        settle_grace_ms: GRACE,
        acks_late: key != 0,
        hears: if key == 2 {
            Hears::only([Source::Ack, Source::Redis])
        } else {
            Hears::ALL
        },
        retries,
        owed: oncegate::rules::owed::Owed::Nothing,
    })
}

/// Three keys, three ids and their copies, all that may happen to a run, and the publish locks beside it.
fn run_request(dice: &mut Dice, notes: &[Arc<LockNote>]) -> Request {
    let key = dice.roll(3) as u8;
    let claim = claim(key, ["a", "b", "c"][dice.roll(3) as usize]);
    let delivery = Nonce(200 + dice.roll(4));
    let note = run_note(key, dice.roll(8).saturating_sub(5) as u32);
    let worker: Arc<str> = ["", "celery@one", "celery@one", "celery@two"][dice.roll(4) as usize].into();
    match dice.roll(20) {
        0..8 => Request::Run {
            claim,
            delivery,
            note,
            busy: match dice.roll(6) {
                0 => IfBusy::Leave {
                    place_ms: (dice.roll(2) == 0).then_some(1 + dice.roll(NAMED - 1)),
                },
                1 => IfBusy::Wait {
                    place_ms: Some(1 + dice.roll(NAMED - 1)),
                },
                2 => IfBusy::Wait {
                    place_ms: Some(u64::MAX >> 12),
                },
                _ => IfBusy::Wait { place_ms: None },
            },
            worker,
        },
        8 | 9 => Request::RenewRun {
            claim,
            delivery,
            note,
            worker,
        },
        10 if dice.roll(2) == 0 => Request::Republished {
            claim,
            retries: dice.roll(4) as u32,
        },
        10 => Request::LeaveRun { claim, delivery },
        11..15 => Request::Signal {
            id: claim.id,
            settlement: delivery,
            signal: Signal::ALL[dice.roll(Signal::ALL.len() as u64) as usize],
            source: Source::NAMED[dice.roll(4) as usize],
            worker,
        },
        15 => Request::Signal {
            id: claim.id,
            settlement: delivery,
            signal: [Signal::Acked, Signal::Retried, Signal::Succeeded, Signal::Orphaned][dice.roll(4) as usize],
            source: Source::Ack,
            worker,
        },
        _ => request(dice, notes),
    }
}

async fn tell_the_same_story_of_runs(seed: u64, steps: usize) {
    let (memory, redis) = (World::memory(), World::redis());
    let notes: Vec<_> = (0..KEYS)
        .map(|key| {
            of_its_own_rule(
                key as usize,
                &note_with(if key == 2 { Scope::UntilFinished } else { Scope::UntilStarted }, |note| {
                    if key == 1 {
                        note.if_held = IfHeld::Replace;
                    }
                }),
            )
        })
        .collect();
    let mut dice = Dice(seed);
    let began = redis.client.now_ms().await.expect("the time");
    let mut passed = 0;
    for step in 0..steps {
        let request = run_request(&mut dice, &notes);
        // Who came first must be the same for both: no two steps in one millisecond, and the same time between them.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = redis.client.now_ms().await.expect("the time") - began;
        memory.pass(now - passed);
        passed = now;
        let (left, right) = (memory.ask(request.clone()).await, redis.ask(request.clone()).await);
        if redis.client.now_ms().await.expect("the time") - began >= UNSEEN {
            // On a slow machine one of them may pass somebody over before the other does.
            break;
        }
        assert_eq!(timeless(left), timeless(right), "seed {seed} step {step}: {request:?}");
        for key in 0..3 {
            let (left, right) = (memory.show_run(digest(key)).await, redis.show_run(digest(key)).await);
            assert!(
                alike(left.clone(), right.clone()),
                "seed {seed} step {step}: {request:?}: {left:?} and {right:?}"
            );
            let (left, right) = (memory.show(digest(key)).await, redis.show(digest(key)).await);
            assert!(
                alike(left.clone(), right.clone()),
                "seed {seed} step {step}: {request:?}: {left:?} and {right:?}"
            );
        }
    }
    redis.check().await;
}

#[tokio::test]
async fn both_stores_tell_the_same_of_runs() {
    for seed in 1..=8 {
        tell_the_same_story_of_runs(0xD1B5_4A32_D192_ED03_u64.wrapping_mul(seed), 300).await;
    }
}

/// Three ids, two messages of each, and so many copies that the oldest are forgotten.
fn park_request(dice: &mut Dice) -> Request {
    let id: Arc<str> = ["a", "b", "c"][dice.roll(3) as usize].into();
    let fingerprint = Fingerprint([7, u64::MAX][dice.roll(2) as usize]);
    let token = Token(format!("token {}", dice.roll(14)).into());
    match dice.roll(12) {
        0..4 => Request::Park {
            id,
            token,
            note: Arc::new(ParkNote {
                fingerprint,
                digest: digest(dice.roll(3) as u8),
                rule: ["nightly reports", ""][dice.roll(2) as usize].into(),
                place_ms: (dice.roll(2) == 0).then(|| dice.roll(NAMED)),
                life_ms: [1, LIFE][usize::from(dice.roll(8) != 0)],
            }),
        },
        4..9 => Request::MarkParked {
            id,
            token,
            fingerprint,
            state: [
                ParkState::Sending,
                ParkState::Sent,
                ParkState::Sent,
                ParkState::Handed,
                ParkState::Done,
            ][dice.roll(5) as usize],
        },
        9 => Request::FindParked {
            id,
            fingerprint,
            seen: Seen::Original,
        },
        _ => Request::FindParked {
            id,
            fingerprint,
            seen: Seen::Copy(token),
        },
    }
}

/// All that is known of every message.
async fn parked(world: &World) -> Vec<Reply> {
    let mut found = Vec::new();
    for id in ["a", "b", "c"] {
        for fingerprint in [7, u64::MAX] {
            let copies = (0..14).map(|number| Seen::Copy(Token(format!("token {number}").into())));
            for seen in copies.chain([Seen::Original]) {
                let (id, fingerprint) = (id.into(), Fingerprint(fingerprint));
                found.push(world.ask(Request::FindParked { id, fingerprint, seen }).await);
            }
        }
    }
    found
}

async fn tell_the_same_story_of_parking(seed: u64, steps: usize) {
    let (memory, redis) = (World::memory(), World::redis());
    let mut dice = Dice(seed);
    for step in 0..steps {
        let request = park_request(&mut dice);
        let (left, right) = (memory.ask(request.clone()).await, redis.ask(request.clone()).await);
        assert_eq!(left, right, "seed {seed} step {step}: {request:?}");
        // A life of one is over for both.
        tokio::time::sleep(Duration::from_millis(2)).await;
        memory.pass(2);
        assert_eq!(parked(&memory).await, parked(&redis).await, "seed {seed} step {step}: {request:?}");
    }
    redis.check().await;
}

#[tokio::test]
async fn both_stores_tell_the_same_of_parking() {
    for seed in 1..=5 {
        tell_the_same_story_of_parking(0xA076_1D64_78BD_642F_u64.wrapping_mul(seed), 100).await;
    }
}

/// An id has one key per rule.
fn of_its_own_rule(key: usize, note: &Arc<LockNote>) -> Arc<LockNote> {
    Arc::new(LockNote {
        rule: format!("rule {key}").into(),
        vhost: if key.is_multiple_of(2) {
            "/".into()
        } else {
            format!("vhost {key}").into()
        },
        ..LockNote::clone(note)
    })
}

async fn tell_the_same_story(seed: u64, steps: usize) {
    let (memory, redis) = (World::memory(), World::redis());
    let notes = [
        note(Scope::UntilStarted),
        late(),
        note(Scope::UntilFinished),
        note_with(Scope::UntilFinished, |note| note.cooldown_ms = COOLDOWN),
        note_with(Scope::UntilFinished, |note| {
            note.acks_late = true;
            note.release_on = ReleaseOn::Success;
        }),
        note(Scope::UntilExpired),
        note_with(Scope::UntilFinished, |note| note.unstarted_ms = Some(UNSTARTED)),
        note_with(Scope::UntilFinished, |note| note.hears = Hears::only([Source::Redis, Source::Rpc])),
        note_with(Scope::UntilFinished, |note| {
            note.acks_late = true;
            note.hears = Hears::only([Source::Ack]);
        }),
        note_with(Scope::UntilStarted, |note| note.hears = Hears::only([Source::Events])),
        note_with(Scope::UntilStarted, |note| note.if_held = IfHeld::Replace),
        note_with(Scope::UntilFinished, |note| note.if_held = IfHeld::Replace),
        note_with(Scope::UntilStarted, |note| note.if_held = put_off(None)),
        note_with(Scope::UntilFinished, |note| note.if_held = put_off(Some(2 * QUIET))),
        note_with(Scope::UntilFinished, |note| note.if_held = IfHeld::KeepLast),
        note_with(Scope::UntilFinished, |note| {
            note.acks_late = true;
            note.if_held = IfHeld::KeepLast;
        }),
        note_with(Scope::UntilFinished, |note| {
            note.acks_late = true;
            note.if_held = IfHeld::Replace;
        }),
        note_with(Scope::UntilStarted, |note| note.owed = Owed::Carried),
        note_with(Scope::UntilFinished, |note| {
            note.owed = Owed::Carried;
            note.cooldown_ms = COOLDOWN;
        }),
        note_with(Scope::UntilFinished, |note| {
            note.acks_late = true;
            note.owed = Owed::Carried;
        }),
    ];
    let notes: Vec<_> = notes.iter().enumerate().map(|(key, note)| of_its_own_rule(key, note)).collect();
    let mut dice = Dice(seed);
    for step in 0..steps {
        let request = request(&mut dice, &notes);
        let (left, right) = (memory.ask(request.clone()).await, redis.ask(request.clone()).await);
        assert_eq!(timeless(left), timeless(right), "seed {seed} step {step}: {request:?}");
        for key in 0..KEYS as u8 {
            let (left, right) = (memory.show(digest(key)).await, redis.show(digest(key)).await);
            assert!(
                alike(left.clone(), right.clone()),
                "seed {seed} step {step}: {request:?}: {left:?} and {right:?}"
            );
        }
    }
    redis.check().await;
}

#[tokio::test]
async fn both_stores_tell_the_same() {
    for seed in 1..=8 {
        tell_the_same_story(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed), 400).await;
    }
}
