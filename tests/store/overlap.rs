//! Whatever happens in whatever order, no two runs of one key overlap, and everybody who waits runs in the end.

use std::sync::Arc;

use oncegate::rules::lock::{Claim, Nonce, Renewed, Reply, Request, Running, Signal};
use oncegate::rules::running::{IfBusy, Ran, RunNote};
use oncegate::rules::source::{Hears, Source};

use crate::likeness::Dice;
use crate::world::{LIFE, World, claim, digest};

const KEYS: usize = 3;
const IDS: usize = 9;
/// For so long at least an end is known.
const END_KNOWN: u64 = 60_000;
const WORKERS: [&str; 2] = ["celery@one", "celery@two"];

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waits,
    /// It was handed over; its lock lasts until then unless it is renewed.
    Runs {
        until_ms: u64,
    },
    /// It ended at that time, as was told.
    Ended {
        at_ms: u64,
    },
    Gone,
}

#[derive(Debug)]
struct Delivery {
    id: usize,
    nonce: u64,
    retries: u32,
    worker: &'static str,
    place_ms: Option<u64>,
    stage: Stage,
}

impl Delivery {
    fn claim(&self) -> Claim {
        claim(key_of(self.id), &format!("task {}", self.id))
    }

    /// Half of the tasks acknowledge late.
    fn note(&self) -> Arc<RunNote> {
        Arc::new(RunNote {
            rule: "reports".into(),
            task: "reports.generate".into(),
            summary: "".into(),
            vhost: "/".into(),
            queue: "celery".into(),
            life_ms: LIFE,
            settle_grace_ms: 20,
            acks_late: self.acks_late(),
            hears: Hears::ALL,
            retries: self.retries,
            owed: oncegate::rules::owed::Owed::Nothing,
        })
    }

    fn acks_late(&self) -> bool {
        self.id.is_multiple_of(2)
    }
}

fn key_of(id: usize) -> u8 {
    (id % KEYS) as u8
}

struct Story<'a> {
    world: &'a World,
    dice: Dice,
    deliveries: Vec<Delivery>,
    /// Of each id: how often it was retried, and whether a run of it has succeeded.
    retries: [u32; IDS],
    succeeded: [bool; IDS],
    now_ms: u64,
}

impl Story<'_> {
    fn pick(&mut self, wanted: impl Fn(&Delivery) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.deliveries.len()).filter(|at| wanted(&self.deliveries[*at])).collect();
        let chosen = self.dice.roll(found.len().max(1) as u64) as usize;
        found.get(chosen).copied()
    }

    /// One whose lock has not lapsed: what is told of another may be taken for its id's next run.
    fn pick_running(&mut self) -> Option<usize> {
        let now_ms = self.now_ms;
        self.pick(|delivery| matches!(delivery.stage, Stage::Runs { until_ms } if until_ms > now_ms))
    }

    fn deliver(&mut self, id: usize) {
        let worker = WORKERS[self.dice.roll(2) as usize];
        self.deliveries.push(Delivery {
            id,
            nonce: 1_000 + self.deliveries.len() as u64,
            retries: self.retries[id],
            worker,
            place_ms: None,
            stage: Stage::Waits,
        });
    }

    async fn read_clock(&mut self) {
        self.now_ms = self.world.client.now_ms().await.expect("the time");
    }

    /// From here on this delivery runs, and no other of its key does.
    async fn begins(&mut self, at: usize) {
        self.read_clock().await;
        let key = key_of(self.deliveries[at].id);
        let now_ms = self.now_ms;
        let other = self.deliveries.iter().enumerate().find(|(other, delivery)| {
            *other != at && key_of(delivery.id) == key && matches!(delivery.stage, Stage::Runs { until_ms } if until_ms > now_ms)
        });
        assert!(other.is_none(), "{:?} begins beside {other:?}", self.deliveries[at]);
        self.deliveries[at].stage = Stage::Runs { until_ms: now_ms + LIFE };
    }

    async fn ask(&mut self, at: usize) {
        let delivery = &self.deliveries[at];
        let request = Request::Run {
            claim: delivery.claim(),
            delivery: Nonce(delivery.nonce),
            note: delivery.note(),
            busy: IfBusy::Wait {
                place_ms: delivery.place_ms,
            },
            worker: delivery.worker.into(),
        };
        match self.world.ask(request).await {
            Reply::Run(Ran::Runs) => self.begins(at).await,
            Reply::Run(Ran::Waits { place_ms, .. } | Ran::Forgotten { place_ms }) => self.deliveries[at].place_ms = Some(place_ms),
            Reply::Run(Ran::Succeeded) => {
                assert!(self.succeeded[self.deliveries[at].id], "no run of it has succeeded");
                self.deliveries[at].stage = Stage::Gone;
            }
            other => panic!("{other:?}"),
        }
    }

    async fn signal(&self, at: usize, worker: &str, signal: Signal) -> Reply {
        let delivery = &self.deliveries[at];
        let request = Request::Signal {
            id: delivery.claim().id,
            settlement: Nonce(delivery.nonce),
            signal,
            source: if signal.settles() { Source::Ack } else { Source::Events },
            worker: worker.into(),
        };
        self.world.ask(request).await
    }

    /// A run ends, as its worker says.
    async fn ends(&mut self, at: usize, signal: Signal) {
        let (id, worker) = (self.deliveries[at].id, self.deliveries[at].worker);
        self.deliveries[at].stage = Stage::Ended { at_ms: self.now_ms };
        self.succeeded[id] |= signal == Signal::Succeeded;
        self.signal(at, worker, signal).await;
        if self.dice.roll(3) == 0 {
            self.signal(at, worker, signal).await;
        }
    }

    /// A run ends in a retry, whose message is delivered later. That it was retried may not be heard of.
    async fn retries(&mut self, at: usize) {
        let (id, worker) = (self.deliveries[at].id, self.deliveries[at].worker);
        self.deliveries[at].stage = Stage::Gone;
        if self.dice.roll(2) == 0 {
            self.signal(at, worker, Signal::Retried).await;
        }
        if self.dice.roll(2) == 0 {
            self.signal(at, worker, Signal::Acked).await;
        }
        // A copy of what was retried would be a run of the past.
        for delivery in self.deliveries.iter_mut().filter(|delivery| delivery.id == id) {
            delivery.stage = Stage::Gone;
        }
        self.retries[id] += 1;
        self.deliver(id);
    }

    async fn renewal(&self, at: usize) -> Reply {
        let delivery = &self.deliveries[at];
        let request = Request::RenewRun {
            claim: delivery.claim(),
            delivery: Nonce(delivery.nonce),
            note: delivery.note(),
            worker: delivery.worker.into(),
        };
        self.world.ask(request).await
    }

    async fn renews(&mut self, at: usize) {
        let stage = self.deliveries[at].stage;
        let lapsed = matches!(stage, Stage::Runs { until_ms } if until_ms <= self.now_ms);
        match self.renewal(at).await {
            Reply::Renewed(Renewed::Held) => self.begins(at).await,
            Reply::Renewed(Renewed::Retaken) if lapsed => self.begins(at).await,
            // Another has taken what had lapsed, or is its id's next run: it runs without a lock.
            Reply::Renewed(Renewed::Lost) if lapsed => {}
            Reply::Renewed(Renewed::Gone) if lapsed => self.deliveries[at].stage = Stage::Gone,
            other => panic!("{other:?} to {:?}", self.deliveries[at]),
        }
    }

    async fn step(&mut self) {
        self.read_clock().await;
        match self.dice.roll(26) {
            0..4 => {
                let id = self.dice.roll(IDS as u64) as usize;
                self.deliver(id);
            }
            4..12 => {
                if let Some(at) = self.pick(|delivery| delivery.stage == Stage::Waits) {
                    self.ask(at).await;
                }
            }
            12..15 => {
                let ends = [
                    Signal::Succeeded,
                    Signal::Succeeded,
                    Signal::Failed,
                    Signal::Rejected,
                    Signal::Revoked,
                ];
                let end = ends[self.dice.roll(ends.len() as u64) as usize];
                if let Some(at) = self.pick_running() {
                    self.ends(at, end).await;
                }
            }
            15 => {
                if let Some(at) = self.pick_running() {
                    let late = self.deliveries[at].acks_late();
                    let worker = self.deliveries[at].worker;
                    self.signal(at, worker, Signal::Acked).await;
                    if late {
                        self.deliveries[at].stage = Stage::Gone;
                    }
                }
            }
            16 => {
                if let Some(at) = self.pick_running() {
                    self.retries(at).await;
                }
            }
            17 => {
                if let Some(at) = self.pick(|delivery| matches!(delivery.stage, Stage::Waits | Stage::Runs { .. })) {
                    self.deliveries[at].stage = Stage::Gone;
                    let request = Request::LeaveRun {
                        claim: self.deliveries[at].claim(),
                        delivery: Nonce(self.deliveries[at].nonce),
                    };
                    self.world.ask(request).await;
                }
            }
            18 | 19 => {
                if let Some(at) = self.pick(|delivery| matches!(delivery.stage, Stage::Runs { .. })) {
                    self.renews(at).await;
                }
            }
            20 => self.world.pass(self.dice.roll(8_000)),
            21 => {
                let much = if self.dice.roll(4) == 0 { LIFE } else { LIFE / 3 };
                self.world.pass(much);
            }
            22 | 23 => {
                // Who has not heard of the end.
                let now_ms = self.now_ms;
                if let Some(at) = self.pick(|delivery| matches!(delivery.stage, Stage::Ended { at_ms } if now_ms < at_ms + END_KNOWN)) {
                    assert_eq!(self.renewal(at).await, Reply::Renewed(Renewed::Gone), "{:?}", self.deliveries[at]);
                }
            }
            24 => {
                // What is told late of a delivery that is no more.
                if let Some(at) = self.pick(|delivery| matches!(delivery.stage, Stage::Gone | Stage::Ended { .. })) {
                    let late = [Signal::Acked, Signal::Rejected][self.dice.roll(2) as usize];
                    let worker = self.deliveries[at].worker;
                    self.signal(at, worker, late).await;
                }
            }
            _ => {
                // What another worker tells of its own run of the id.
                if let Some(at) = self.pick_running() {
                    let other = WORKERS[usize::from(self.deliveries[at].worker == WORKERS[0])];
                    let told = [Signal::Succeeded, Signal::Failed, Signal::Orphaned][self.dice.roll(3) as usize];
                    let freed = self.signal(at, other, told).await;
                    assert_eq!(freed, Reply::Released(Vec::new()), "{:?}", self.deliveries[at]);
                }
            }
        }
    }

    /// All runs end, and an operator frees what waits for a retry that never comes: then all that wait run, one after another.
    async fn comes_to_its_end(&mut self) {
        self.read_clock().await;
        while let Some(at) = self.pick_running() {
            self.ends(at, Signal::Failed).await;
        }
        for delivery in self.deliveries.iter_mut().filter(|delivery| delivery.stage != Stage::Waits) {
            delivery.stage = Stage::Gone;
        }
        for key in 0..KEYS as u8 {
            let request = Request::Release {
                digest: digest(key),
                holder: None,
                running: Running::Include,
            };
            self.world.ask(request).await;
        }
        let world = self.world;
        let nobody_waits = async || {
            for at in 0..self.deliveries.len() {
                if self.deliveries[at].stage == Stage::Waits {
                    self.ask(at).await;
                }
                if matches!(self.deliveries[at].stage, Stage::Runs { .. }) {
                    self.ends(at, Signal::Failed).await;
                }
            }
            // Who keeps silent is passed over, and who waits for what was forgotten waits on for a while.
            world.pass(100);
            self.deliveries.iter().all(|delivery| delivery.stage != Stage::Waits)
        };
        world.until("all have run", nobody_waits).await;
        for key in 0..KEYS as u8 {
            assert_eq!(world.show_run(digest(key)).await, None);
        }
    }
}

async fn no_runs_overlap(world: &World, seed: u64, steps: usize) {
    let mut story = Story {
        world,
        dice: Dice(0xA076_1D64_78BD_642F_u64.wrapping_mul(seed)),
        deliveries: Vec::new(),
        retries: [0; IDS],
        succeeded: [false; IDS],
        now_ms: 0,
    };
    for _ in 0..steps {
        story.step().await;
    }
    story.comes_to_its_end().await;
}

#[tokio::test]
async fn no_runs_overlap_in_memory() {
    for seed in 1..=200 {
        no_runs_overlap(&World::memory(), seed, 400).await;
    }
}

#[tokio::test]
async fn no_runs_overlap_in_redis() {
    for seed in 1..=4 {
        let world = World::redis();
        no_runs_overlap(&world, seed, 400).await;
        world.check().await;
    }
}
