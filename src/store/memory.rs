//! The store inside this process: the rules of the locks, stated in Rust.
//!
//! One mutex, no I/O, no allocation per request but for what is stored. Everything has an end: a lapsed lock is never seen, and each
//! request removes a few of those whose time has passed.

mod lock;
mod table;

use std::collections::BinaryHeap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::{Answer, Filter, Page, Ticket};
use crate::rules::lock::{
    Acquired, Claim, Committed, Digest, Freed, LockNote, LockState, Nonce, ReleaseReason, Reply, Request, Scope, Signal,
};
use lock::{Lock, SignalEffect};
use table::{EndedPublishes, Table};

/// How long after a worker's signal a late commit is known to be late. A commit that the store could not take is repeated within
/// seconds of the store's return, and one that waits for the broker prolongs this by its lease renewals.
pub(super) const ENDED_KEPT_MS: u64 = 60_000;
/// The same for a signal of an id that the store does not know.
pub(super) const UNKNOWN_KEPT_MS: u64 = 10_000;
/// No life or lease is longer: ten years.
pub(super) const LONGEST_MS: u64 = 315_360_000_000;

/// Where a memory store reads the time.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch; never less than before.
    fn now_ms(&self) -> u64;
}

/// The machine's clock, read once; from then on monotonic.
#[derive(Debug, Clone)]
pub struct SystemClock {
    started: Instant,
    epoch_ms: u64,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SystemClock {
            started: Instant::now(),
            epoch_ms: since_epoch.as_millis() as u64,
        }
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        self.epoch_ms + self.started.elapsed().as_millis() as u64
    }
}

/// A store inside this process.
pub struct Memory {
    clock: Arc<dyn Clock>,
    proxy: Arc<str>,
    table: Mutex<Table>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty store. `proxy` is the name of this process, as locks show it.
    pub fn new(clock: Arc<dyn Clock>, proxy: Arc<str>) -> Memory {
        Memory {
            clock,
            proxy,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic while the table was held cannot leave it half changed in a way that matters: each lock stands alone.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is asked, at once.
    pub fn execute(&self, request: &Request) -> Reply {
        let now = self.clock.now_ms();
        Step {
            table: &mut self.table(),
            now,
            proxy: &self.proxy,
        }
        .execute(request)
    }

    /// Does all that is asked, in order.
    pub(super) fn execute_all(&self, requests: &[(Ticket, Request)], answers: &mut Vec<(Ticket, Answer)>) {
        let now = self.clock.now_ms();
        let mut table = self.table();
        let mut step = Step {
            table: &mut table,
            now,
            proxy: &self.proxy,
        };
        answers.extend(requests.iter().map(|(ticket, request)| (*ticket, Ok(step.execute(request)))));
    }

    /// How many locks and id records are held, lapsed ones included until they are swept.
    pub fn len(&self) -> (usize, usize) {
        self.table().len()
    }

    /// One page of locks in the order of their digests; the cursor is the last digest of the page before.
    pub(super) fn list(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Page {
        let now = self.clock.now_ms();
        let after = cursor.and_then(Digest::from_hex);
        let limit = limit.max(1);
        let mut table = self.table();
        // The first ones of all, found in one pass that holds publishes up as little as possible.
        let mut first = BinaryHeap::new();
        for (digest, lock) in table.locks(now) {
            if after.is_none_or(|after| *digest > after) && filter.takes(&lock.note.rule, &lock.note.task) {
                first.push(*digest);
                if first.len() > limit + 1 {
                    first.pop();
                }
            }
        }
        let more = first.len() > limit;
        let mut digests = first.into_sorted_vec();
        digests.truncate(limit);
        let locks = digests
            .iter()
            .filter_map(|digest| table.lock(digest, now).map(|lock| lock.record(*digest)))
            .collect();
        Page {
            locks,
            cursor: digests.last().filter(|_| more).map(|digest| digest.to_hex()),
        }
    }
}

/// One request being executed.
struct Step<'a> {
    table: &'a mut Table,
    now: u64,
    proxy: &'a Arc<str>,
}

impl Step<'_> {
    fn execute(&mut self, request: &Request) -> Reply {
        self.table.sweep(self.now);
        match request {
            Request::Acquire {
                claim,
                publish,
                note,
                reentrant,
            } => Reply::Acquire(self.acquire(claim, *publish, note, *reentrant)),
            Request::Commit { claim, publish, note } => Reply::Commit(self.commit(claim, *publish, note)),
            Request::RenewLease { claim, publish, note } => {
                self.renew_lease(claim, *publish, note);
                Reply::Done
            }
            Request::Unpublish { claim, publish, reason } => Reply::Released(self.unpublish(claim, *publish, *reason)),
            Request::Signal { id, settlement, signal } => Reply::Released(self.signal(id, *settlement, *signal)),
            Request::Release { digest, holder } => Reply::Released(self.release(*digest, holder.as_deref())),
            Request::Show { digest } => Reply::Lock(self.table.lock(digest, self.now).map(|lock| Box::new(lock.record(*digest)))),
        }
    }

    fn acquire(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, reentrant: bool) -> Acquired {
        let lease_end = self.now + note.lease_ms.clamp(1, LONGEST_MS);
        let record_end = lease_end + note.life_ms.min(LONGEST_MS);
        let Some(lock) = self.table.lock(&claim.digest, self.now) else {
            self.take(claim, publish, note, LockState::Leased, lease_end);
            self.table.note_id(&claim.id, claim.digest, record_end, self.now);
            return Acquired::Taken;
        };
        if lock.holder == claim.id {
            lock.publish(publish);
            lock.prolong(lease_end);
            self.table.note_id(&claim.id, claim.digest, record_end, self.now);
            return Acquired::Reentry { holds: true };
        }
        let (holder, state, expires) = (lock.holder.clone(), lock.state, lock.expires_ms);
        if reentrant || self.table.knows(&claim.id, &claim.digest, self.now) {
            self.table.note_id(&claim.id, claim.digest, record_end, self.now);
            return Acquired::Reentry { holds: false };
        }
        if state == LockState::Leased {
            return Acquired::Leased { holder };
        }
        Acquired::Held {
            holder,
            state,
            expires_in_ms: expires.saturating_sub(self.now),
        }
    }

    fn commit(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>) -> Committed {
        let life_end = self.now + note.life_ms.clamp(1, LONGEST_MS);
        let (holder, own) = match self.table.lock(&claim.digest, self.now) {
            Some(lock) if lock.holder == claim.id => (None, Some(lock)),
            Some(lock) => (Some(lock.holder.clone()), None),
            None => (None, None),
        };
        if let Some(lock) = own {
            lock.confirm(publish);
            if lock.ends_by_ack() && lock.in_flight() == 0 {
                return Committed::Ended;
            }
            if lock.state == LockState::Leased {
                lock.state = LockState::Queued;
            }
            lock.prolong(life_end);
            if self.now - lock.since_ms <= note.lease_ms {
                // The acquire has written the record for a lease more than a life.
                return Committed::Held;
            }
        } else if self.ended(claim, publish, note) {
            return Committed::Ended;
        } else if let Some(holder) = holder {
            return Committed::Lost { holder };
        } else {
            self.take(claim, publish, note, LockState::Queued, life_end);
        }
        self.table.note_id(&claim.id, claim.digest, life_end, self.now);
        Committed::Held
    }

    fn renew_lease(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>) {
        let lease_end = self.now + note.lease_ms.clamp(1, LONGEST_MS);
        if let Some(lock) = self.table.lock(&claim.digest, self.now) {
            if lock.holder == claim.id && lock.state == LockState::Leased && lock.in_flight() > 0 {
                lock.prolong(lease_end);
            }
            self.table.prolong_ended(&claim.id, self.now);
        } else if self.ended(claim, publish, note) {
            self.table.prolong_ended(&claim.id, self.now);
        } else {
            self.take(claim, publish, note, LockState::Leased, lease_end);
            self.table
                .note_id(&claim.id, claim.digest, lease_end + note.life_ms.min(LONGEST_MS), self.now);
        }
    }

    fn unpublish(&mut self, claim: &Claim, publish: Nonce, reason: ReleaseReason) -> Vec<Freed> {
        let Some(lock) = self.table.lock(&claim.digest, self.now) else {
            return Vec::new();
        };
        let waits = matches!(lock.state, LockState::Leased | LockState::Queued);
        if lock.holder != claim.id || !lock.withdraw(publish) || lock.in_flight() > 0 || !waits {
            return Vec::new();
        }
        self.free(claim.digest, reason).into_iter().collect()
    }

    fn signal(&mut self, id: &Arc<str>, settlement: Nonce, signal: Signal) -> Vec<Freed> {
        let digests = self.table.digests(id, self.now);
        let mut freed = Vec::new();
        let mut ended = digests.is_empty().then_some(EndedPublishes::Any);
        let kept_ms = if digests.is_empty() { UNKNOWN_KEPT_MS } else { ENDED_KEPT_MS };
        for digest in digests {
            let Some(lock) = self.table.lock(&digest, self.now).filter(|lock| lock.holder == *id) else {
                self.table.forget_id(id, &digest, self.now);
                ended = Some(EndedPublishes::Any);
                continue;
            };
            match lock.signal(settlement, signal, self.now) {
                SignalEffect::None => {}
                SignalEffect::Frees { reason, settled } => {
                    ended.get_or_insert_with(EndedPublishes::none).add(settled);
                    freed.extend(self.free(digest, reason));
                }
                SignalEffect::Settles { settled } => {
                    let expires = lock.expires_ms;
                    freed.push(lock.freed(digest, ReleaseReason::Ended, self.now));
                    ended.get_or_insert_with(EndedPublishes::none).add(settled);
                    self.table.shorten_id(id, &digest, expires);
                }
            }
        }
        if let Some(publishes) = ended {
            self.table.note_ended(id, signal, publishes, self.now + kept_ms, self.now);
        }
        freed
    }

    fn release(&mut self, digest: Digest, holder: Option<&str>) -> Vec<Freed> {
        let held = self
            .table
            .lock(&digest, self.now)
            .is_some_and(|lock| holder.is_none_or(|holder| *lock.holder == *holder));
        if held {
            self.free(digest, ReleaseReason::Admin).into_iter().collect()
        } else {
            Vec::new()
        }
    }

    fn take(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, state: LockState, expires_ms: u64) {
        let lock = Lock::new(
            claim.id.clone(),
            state,
            note.clone(),
            self.proxy.clone(),
            self.now,
            expires_ms,
            publish,
        );
        self.table.insert(claim.digest, lock, self.now);
    }

    fn free(&mut self, digest: Digest, reason: ReleaseReason) -> Option<Freed> {
        let lock = self.table.remove(&digest)?;
        self.table.forget_id(&lock.holder, &digest, self.now);
        Some(lock.freed(digest, reason, self.now))
    }

    /// Whether a worker's signal that would have freed this lock was heard before this publish was committed.
    fn ended(&self, claim: &Claim, publish: Nonce, note: &LockNote) -> bool {
        let Some(ended) = self.table.ended(&claim.id, self.now) else {
            return false;
        };
        let frees: &[Signal] = match note.scope {
            Scope::UntilStarted => &[Signal::Acked, Signal::Rejected, Signal::DeliveredNoAck],
            Scope::UntilFinished if note.acks_late => &[Signal::Acked, Signal::Rejected],
            Scope::UntilFinished => &[Signal::Rejected],
            Scope::UntilExpired => &[],
        };
        ended.by(frees, publish)
    }
}
