//! The store inside this process: the rules of the locks, stated in Rust.
//!
//! One mutex, no I/O, no allocation per request but for what is stored. Everything has an end: a lapsed lock is never seen, and each
//! request removes a few of those whose time has passed.

mod beat;
mod join;
mod lapsing;
mod last;
mod limit;
mod lock;
mod park;
mod ranks;
mod replace;
mod run;
mod running;
mod table;
mod twin;

use std::collections::BinaryHeap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::records::Records;
use super::{Answer, Filter, Keep, Page, Record, Ticket};
use crate::rules::lock::{
    Acquired, Admitted, Alive, Claim, Committed, Cooled, Digest, Extent, Freed, LockNote, LockState, Nonce, ReleaseReason, Renewed, Reply,
    Request, Running, Scope, Signal, SignalVerdict,
};
use crate::rules::source::Source;
use lock::{Lock, SignalEffect};
use table::{Claimed, Claims, EndedPublishes, Said, Table};

/// For so long after a task that was put off has gone to a worker nothing takes its lock over: it is about to begin.
pub(super) const HANDED_MS: u64 = 1_000;
/// How long after a worker's signal a late commit is known to be late. A commit that the store could not take is repeated within
/// seconds of the store's return, and one that waits for the broker prolongs this by its lease renewals.
pub(super) const ENDED_KEPT_MS: u64 = 60_000;
/// The same for a signal of an id that the store does not know.
pub(super) const UNKNOWN_KEPT_MS: u64 = 10_000;
/// For how long an id that is not to run is known beyond the life of the lock that it lost.
pub(super) const DEAD_KEPT_MS: u64 = 24 * 3_600_000;
/// No id is known to be dead for longer: 400 days.
pub(super) const DEAD_LONGEST_MS: u64 = 400 * 24 * 3_600_000;
/// So many may wait for one running lock; of more it is not noted who came first.
const WAITERS_KEPT: usize = 100_000;
/// Who waits is passed over when it has not asked for so long.
const UNSEEN_MS: u64 = 5_000;
/// How many are passed over at once.
const PASSED_OVER: usize = 1_000;
/// For how long nobody gets the lock of a key whose waiters were forgotten: a proxy whose store is back renews what runs within less.
const FORGOTTEN_MS: u64 = 5_000;
/// For how long it is known who waits, if nobody asks.
const WAIT_KEPT_MS: u64 = 60_000;
/// For how long a success is known to a copy that was about.
const DONE_KEPT_MS: u64 = 3_600_000;
/// How many ended runs of one id are remembered under one key.
const OVER_KEPT: usize = 16;
/// So many parked messages of one id are known; of more the one that would be forgotten first goes, and is decided as any other when it
/// comes back.
const PARKED_KEPT: usize = 64;
/// So many earlier copies of one parked message are known.
const FORMER_KEPT: usize = 8;
/// For how long at least a parked message is known once a worker has acknowledged it.
const PARK_DONE_KEPT_MS: u64 = 24 * 3_600_000;
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
    /// What was decided about ids. Apart, so that writing it down holds up no lock.
    records: Mutex<Records>,
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
            records: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic while the table was held cannot leave it half changed in a way that matters: each lock stands alone.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What time it is.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
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

    /// Writes notes that go after this time; see [`super::Client::announce`].
    pub(super) fn announce(&self, notes: &[(String, String)], life: Duration) {
        let now = self.clock.now_ms();
        let until_ms = now + (life.as_millis() as u64).clamp(1, LONGEST_MS);
        self.table().announce(notes, until_ms, now);
    }

    pub(super) fn announced(&self, names: &[String]) -> Vec<Option<String>> {
        let now = self.clock.now_ms();
        let table = self.table();
        names.iter().map(|name| table.announced(name, now).map(str::to_owned)).collect()
    }

    /// See [`super::Client::record`].
    pub(super) fn record(&self, records: &[Record], keep: Keep) {
        self.records().write(records, keep, self.clock.now_ms());
    }

    pub(super) fn recorded(&self, id: &str) -> Vec<String> {
        self.records().read(id, self.clock.now_ms())
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`super::Client::claimed`].
    pub(super) fn claimed(&self, id: &str) -> Vec<Digest> {
        let now = self.clock.now_ms();
        self.table().claims(id, now).iter().map(|claimed| claimed.digest).collect()
    }

    /// How many locks and id records are held, lapsed ones included until they are swept.
    pub fn len(&self) -> (usize, usize) {
        self.table().len()
    }

    /// How many running locks are held, how many keys have had somebody wait, and of how many ended runs something is known; lapsed ones
    /// included until they are swept.
    pub fn runs_len(&self) -> (usize, usize, usize) {
        let table = self.table();
        (table.runs.len(), table.waiting.len(), table.done.len())
    }

    /// How many entries of schedules are somebody's, lapsed ones included until they are swept.
    pub fn beats_len(&self) -> usize {
        self.table().beats.len()
    }

    /// How many places in limits and how many buckets are known, lapsed ones included until they are swept.
    pub fn limits_len(&self) -> (usize, usize) {
        let table = self.table();
        (table.slots.len(), table.paces.len())
    }

    /// How many wait for limits, as far as is known: each of them is to ask again.
    pub fn limits_waiting(&self) -> usize {
        let now = self.clock.now_ms();
        self.table().waiters.iter(now).map(|(_, waiters)| waiters.len()).sum()
    }

    /// Of how many ids parked messages are known, lapsed ones included until they are swept.
    pub fn parked_len(&self) -> usize {
        self.table().parked.len()
    }

    /// How many messages wait for the ends of holders, and of how many such holders the end is known, lapsed ones included until they are
    /// swept.
    pub fn twins_len(&self) -> (usize, usize) {
        let table = self.table();
        (table.twins.len(), table.fates.len())
    }

    /// One page of locks in the order of their digests, publish locks first; the cursor names the last lock of the page before.
    pub(super) fn list(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Page {
        let now = self.clock.now_ms();
        let after = cursor.and_then(read_cursor);
        let limit = limit.max(1);
        let mut table = self.table();
        // The first ones of all, found in one pass that holds publishes up as little as possible.
        let mut first = BinaryHeap::new();
        let mut offer = |place: Place| {
            if after.is_some_and(|after| place <= after) {
                return;
            }
            if first.len() > limit {
                if first.peek().is_some_and(|last| *last < place) {
                    return;
                }
                first.pop();
            }
            first.push(place);
        };
        for (digest, lock) in table.locks(now) {
            let note = &lock.note;
            if filter.takes(&note.rule, &note.task, &note.vhost, &note.queue) {
                offer((*digest, Claims::Publish));
            }
            let last = lock.last.as_ref().map(|last| &last.note);
            if last.is_some_and(|note| filter.takes(&note.rule, &note.task, &note.vhost, &note.queue)) {
                offer((*digest, Claims::Last));
            }
        }
        for (digest, run) in table.runs.iter(now) {
            let note = &run.note;
            if filter.takes(&note.rule, &note.task, &note.vhost, &note.queue) {
                offer((*digest, Claims::Run));
            }
        }
        let more = first.len() > limit;
        let mut places = first.into_sorted_vec();
        places.truncate(limit);
        let record = |(digest, what): &Place| match what {
            Claims::Publish => table.lock(digest, now).map(|lock| lock.record(*digest)),
            Claims::Run => table.runs.get(digest, now).map(|run| run.record(*digest)),
            Claims::Last => table.last(digest, now).map(|last| last.record(*digest)),
        };
        Page {
            locks: places.iter().filter_map(record).collect(),
            cursor: places.last().filter(|_| more).map(write_cursor),
        }
    }
}

/// A lock among those of a list.
type Place = (Digest, Claims);

fn write_cursor((digest, what): &Place) -> String {
    match what {
        Claims::Publish => digest.to_hex(),
        Claims::Run => format!("{digest}r"),
        Claims::Last => format!("{digest}w"),
    }
}

fn read_cursor(cursor: &str) -> Option<Place> {
    match cursor.strip_suffix('r') {
        Some(digest) => Some((Digest::from_hex(digest)?, Claims::Run)),
        None if cursor.ends_with('w') => Some((Digest::from_hex(cursor.strip_suffix('w')?)?, Claims::Last)),
        None => Some((Digest::from_hex(cursor)?, Claims::Publish)),
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
            Request::Signal {
                id,
                settlement,
                signal,
                source,
                worker,
            } => {
                let ran = self.outlived(id, *signal);
                let freed = self.signal(id, *settlement, *signal, *source, worker);
                if ran.is_empty() {
                    Reply::Released(freed)
                } else {
                    Reply::Outlived { freed, ran }
                }
            }
            Request::Admit {
                claim,
                delivery,
                note,
                reentrant,
                worker,
            } => {
                let (digest, admitted) = self.admit(claim, *delivery, note, *reentrant, worker);
                Reply::Admit(digest, admitted)
            }
            Request::Renew {
                claim,
                delivery,
                note,
                alive,
                worker,
            } => Reply::Renewed(self.renew(claim, *delivery, note, *alive, worker)),
            Request::Run {
                claim,
                delivery,
                note,
                busy,
                worker,
            } => Reply::Run(self.run(claim, *delivery, note, *busy, worker)),
            Request::RenewRun {
                claim,
                delivery,
                note,
                worker,
            } => Reply::Renewed(self.renew_run(claim, *delivery, note, worker)),
            Request::Republished { claim, retries } => {
                self.republished(claim, *retries);
                Reply::Done
            }
            Request::Join { .. } | Request::Caller { .. } | Request::Result { .. } => {
                self.joins(request);
                Reply::Done
            }
            Request::LeaveRun { claim, delivery } => Reply::Released(self.leave_run(claim, *delivery)),
            Request::BeatLease { digest, origin, life_ms } => Reply::Beat(self.beat_lease(*digest, origin, *life_ms)),
            Request::Reserve { .. } | Request::Permit { .. } | Request::LeaveLimit { .. } => self.limits(request),
            Request::Park { id, token, note } => {
                self.park(id, token, note);
                Reply::Done
            }
            Request::MarkParked {
                id,
                token,
                fingerprint,
                state,
            } => {
                self.mark_parked(id, token, *fingerprint, *state);
                Reply::Done
            }
            Request::FindParked { id, fingerprint, seen } => Reply::Parked(self.find_parked(id, *fingerprint, seen)),
            Request::Cool { claim, note } => Reply::Cooled(self.cool(claim, note)),
            Request::Release { digest, holder, running } => {
                let mut freed = self.release(*digest, holder.as_deref(), *running);
                if *running == Running::Include {
                    freed.extend(self.release_run(*digest, holder.as_deref()));
                }
                Reply::Released(freed)
            }
            Request::Show { digest } => Reply::Lock(self.table.lock(digest, self.now).map(|lock| Box::new(lock.record(*digest)))),
            Request::ShowRun { digest } => Reply::Lock(self.table.runs.get(digest, self.now).map(|run| Box::new(run.record(*digest)))),
        }
    }

    fn acquire(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>, reentrant: bool) -> Acquired {
        let lease_end = self.now + note.lease_ms.clamp(1, LONGEST_MS);
        let record_end = lease_end + note.life_ms.min(LONGEST_MS);
        if self.table.is_superseded(&claim.id, claim.digest, self.now) {
            return Acquired::Reentry { holds: false };
        }
        let twin = self.twin_of(claim).filter(|_| twin::waits(note) && !reentrant);
        let Some(lock) = self.table.lock_for(&claim.digest, &claim.id, self.now) else {
            if let Some(holder) = twin {
                return Acquired::Held {
                    holder,
                    state: LockState::Queued,
                    expires_in_ms: 0,
                };
            }
            // What only observes does not wait for this answer, and may have ended.
            if note.shadow && self.ended(claim, publish, note) {
                return Acquired::Taken;
            }
            self.take(claim, publish, note, LockState::Leased, lease_end);
            if reentrant || !self.table.claims(&claim.id, self.now).is_empty() {
                self.waited_again(claim);
            }
            self.table.note_id(&claim.id, claim.digest, &note.rule, record_end, self.now);
            self.takes_place(claim, note);
            let due_ms = if reentrant { None } else { self.put_off(claim, note, None) };
            return due_ms.map_or(Acquired::Taken, |due_ms| Acquired::PutOff { holder: None, due_ms });
        };
        if lock.holder == claim.id {
            // A question that comes behind its own end brings nothing back.
            if lock.is_over(publish) {
                return Acquired::Reentry { holds: true };
            }
            let asked_before = lock.counts(publish);
            lock.publish(publish);
            lock.prolong(lease_end);
            let aside = lock.aside.as_ref().map(|older| older.holder.clone());
            let burst = lock
                .burst
                .filter(|_| !reentrant && note.if_held.quiet().is_some() && lock.state != LockState::Running);
            self.table.note_id(&claim.id, claim.digest, &note.rule, record_end, self.now);
            return burst.map_or(Acquired::Reentry { holds: true }, |burst| Acquired::PutOff {
                holder: if asked_before { aside } else { Some(claim.id.clone()) },
                due_ms: burst.due_ms,
            });
        }
        let (holder, state, expires) = (lock.holder.clone(), lock.state, lock.expires_ms);
        if reentrant || self.table.knows(&claim.id, &claim.digest, self.now) {
            self.table.note_id(&claim.id, claim.digest, &note.rule, record_end, self.now);
            return Acquired::Reentry { holds: false };
        }
        let taken = self.keep(claim, publish, note, lease_end);
        if let Some(replaces) = taken.or_else(|| self.replace(claim, publish, note, lease_end)) {
            if matches!(replaces, Acquired::Leased { .. }) {
                return replaces;
            }
            self.table.note_id(&claim.id, claim.digest, &note.rule, record_end, self.now);
            return replaces;
        }
        if state == LockState::Leased {
            self.note_asked(claim, note);
            return Acquired::Leased { holder };
        }
        self.join(claim, &holder, &note.owed, Extent::Publish(note.scope), &note.rule, note.life_ms);
        if twin::waits(note) {
            self.note_twin(claim, &holder, note);
        }
        Acquired::Held {
            holder,
            state,
            expires_in_ms: expires.saturating_sub(self.now),
        }
    }

    fn commit(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>) -> Committed {
        self.supersede_aside(claim.digest, &claim.id);
        let found = self.commit_to(claim, publish, note);
        self.committed(claim, publish, note, found)
    }

    fn commit_to(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>) -> Committed {
        let life_end = self.now + note.queued_life_ms().clamp(1, LONGEST_MS);
        let lock = self.table.lock_for(&claim.digest, &claim.id, self.now);
        // Its end may have come first, and the lock be that of a later message.
        let unknown = lock.is_some_and(|lock| lock.holder == claim.id && lock.is_unknown(publish));
        if unknown && self.ended(claim, publish, note) {
            return Committed::Ended;
        }
        let (holder, own) = match self.table.lock_for(&claim.digest, &claim.id, self.now) {
            Some(lock) if lock.holder == claim.id => (None, Some(lock)),
            Some(lock) => (Some(lock.holder.clone()), None),
            None => (None, None),
        };
        if let Some(lock) = own {
            lock.confirm(publish);
            if lock.has_ended() {
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
            match self.commit_behind(claim, publish, note, life_end) {
                Some(committed) => {
                    self.table.note_id(&claim.id, claim.digest, &note.rule, life_end, self.now);
                    return committed;
                }
                None => return Committed::Lost { holder },
            }
        } else {
            self.take(claim, publish, note, LockState::Queued, life_end);
            self.waited_again(claim);
        }
        self.table.note_id(&claim.id, claim.digest, &note.rule, life_end, self.now);
        Committed::Held
    }

    fn renew_lease(&mut self, claim: &Claim, publish: Nonce, note: &Arc<LockNote>) {
        let lease_end = self.now + note.lease_ms.clamp(1, LONGEST_MS);
        if let Some(lock) = self.table.lock_for(&claim.digest, &claim.id, self.now) {
            if lock.holder == claim.id && lock.state == LockState::Leased && lock.in_flight() > 0 {
                lock.prolong(lease_end);
            }
            self.table.prolong_ended(&claim.id, self.now + ENDED_KEPT_MS, self.now);
        } else if self.ended(claim, publish, note) {
            self.table.prolong_ended(&claim.id, self.now + ENDED_KEPT_MS, self.now);
        } else {
            self.take(claim, publish, note, LockState::Leased, lease_end);
            self.waited_again(claim);
            let record_end = lease_end + note.life_ms.min(LONGEST_MS);
            self.table.note_id(&claim.id, claim.digest, &note.rule, record_end, self.now);
        }
    }

    fn unpublish(&mut self, claim: &Claim, publish: Nonce, reason: ReleaseReason) -> Vec<Freed> {
        let Some(lock) = self.table.lock_for(&claim.digest, &claim.id, self.now) else {
            return Vec::new();
        };
        let waits = matches!(lock.state, LockState::Leased | LockState::Queued);
        if lock.is_delivery_of(publish) {
            return Vec::new();
        }
        if lock.holder != claim.id || !lock.withdraw(publish) || lock.in_flight() > 0 || !waits {
            return Vec::new();
        }
        self.free(claim.digest, &claim.id, reason).into_iter().collect()
    }

    fn signal(&mut self, id: &Arc<str>, settlement: Nonce, signal: Signal, source: Source, worker: &Arc<str>) -> Vec<Freed> {
        let claims = self.table.claims(id, self.now).to_vec();
        let (mut freed, only) = (Vec::new(), claims.len() == 1);
        for claimed in claims.iter().filter(|claimed| claimed.what == Claims::Run) {
            freed.extend(self.signal_run(claimed.digest, id, (settlement, signal, source), worker));
        }
        let unknown = claims.iter().all(|claimed| claimed.what == Claims::Run);
        // Whether some key of the id has no lock of its own that would say whether the signal counts.
        let mut unjudged = unknown;
        let mut ended = None;
        for Claimed { digest, rule, .. } in claims.into_iter().filter(|claimed| claimed.what == Claims::Publish) {
            if signal.tells_of_message() {
                self.supersede_aside(digest, id);
            }
            let lock = self.table.lock_for(&digest, id, self.now);
            let Some(lock) = lock.filter(|lock| lock.holder == *id) else {
                if self.hears_of_begun(digest, id, signal) {
                    unjudged = true;
                    continue;
                }
                let of_the_lock = signal.verdict() == SignalVerdict::GoesOn || signal == Signal::Orphaned;
                if !of_the_lock && !self.table.is_superseded(id, digest, self.now) {
                    self.table.forget_id(id, &digest, Claims::Publish, self.now);
                    unjudged = true;
                }
                continue;
            };
            let expires = lock.expires_ms;
            let (waited, life_ms) = (lock.twins > 0, lock.note.life_ms);
            let (told, dead_until) = (
                lock.was_told(),
                self.now + lock.note.life_ms.saturating_add(DEAD_KEPT_MS).min(DEAD_LONGEST_MS),
            );
            match lock.signal(settlement, signal, source, worker, self.now) {
                SignalEffect::None => {}
                SignalEffect::Lives => {
                    let until = lock.expires_ms;
                    let rests = waited && lock.state == LockState::Cooldown;
                    if rests {
                        let reason = if signal == Signal::Succeeded {
                            ReleaseReason::Success
                        } else {
                            ReleaseReason::Failure
                        };
                        self.note_fate(digest, id, reason, life_ms);
                    }
                    self.table.note_id(id, digest, &rule, until, self.now);
                }
                SignalEffect::Frees { reason, settled } => {
                    ended.get_or_insert_with(EndedPublishes::none).add(settled);
                    freed.extend(self.free(digest, id, reason).filter(|_| !told));
                    if waited {
                        self.note_fate(digest, id, reason, life_ms);
                    }
                    // The end of one that has begun is waited for, though it had less time to begin.
                    if waited && reason == ReleaseReason::Started {
                        let until = expires.max(self.now + life_ms.clamp(1, LONGEST_MS));
                        self.table.note_id(id, digest, &rule, until, self.now);
                    }
                }
                SignalEffect::Supersedes { reason, settled } => {
                    ended.get_or_insert_with(EndedPublishes::none).add(settled);
                    freed.extend(self.free(digest, id, reason).filter(|_| !told));
                    if waited {
                        self.note_fate(digest, id, reason, life_ms);
                    }
                    self.table.supersede(id, digest, None, dead_until, self.now);
                    self.table.note_id(id, digest, &rule, dead_until, self.now);
                }
                SignalEffect::Settles { settled } => {
                    let expires = lock.expires_ms.min(expires);
                    freed.extend((!told).then(|| lock.freed(digest, ReleaseReason::Ended, self.now)));
                    ended.get_or_insert_with(EndedPublishes::none).add(settled);
                    if waited {
                        self.note_fate(digest, id, ReleaseReason::Ended, life_ms);
                    }
                    if only {
                        self.table.shorten_id(id, expires);
                    }
                }
            }
        }
        if unjudged && !(unknown && matches!(signal, Signal::Started | Signal::RevokeAsked | Signal::Orphaned)) {
            let source = if signal.counts_always() { Source::Other } else { source };
            self.note_ended(id, signal, source, unknown, EndedPublishes::Any);
        }
        if let Some(ended) = ended {
            self.note_ended(id, signal, Source::Other, unknown, ended);
        }
        if !freed.is_empty() {
            self.joins_are_due(id);
        }
        freed
    }

    /// For the commits that come after the signal. `source` is [`Source::Other`] where a lock has heard it.
    fn note_ended(&mut self, id: &Arc<str>, signal: Signal, source: Source, unknown: bool, publishes: EndedPublishes) {
        let verdict = signal.verdict();
        if verdict == SignalVerdict::GoesOn {
            return;
        }
        let kept_ms = if unknown { UNKNOWN_KEPT_MS } else { ENDED_KEPT_MS };
        let said = Said { verdict, source };
        self.table.note_ended(id, said, publishes, self.now + kept_ms, self.now);
    }

    fn admit(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<LockNote>, reentrant: bool, worker: &Arc<str>) -> (Digest, Admitted) {
        if twin::waits(note)
            && let Some(waits) = self.admit_twin(claim)
        {
            return (claim.digest, waits);
        }
        let claims = self.table.claims(&claim.id, self.now);
        let known = claims.iter().any(|claimed| claimed.digest == claim.digest);
        let by_rule = |what| claims.iter().find(|claimed| claimed.what == what && claimed.rule == note.rule);
        let digest = if known || claims.is_empty() {
            claim.digest
        } else if let Some(claimed) = by_rule(Claims::Publish).or_else(|| by_rule(Claims::Run)) {
            claimed.digest
        } else {
            return (claim.digest, Admitted::Passes);
        };
        let claim = &Claim {
            digest,
            id: claim.id.clone(),
        };
        (digest, self.admit_to(claim, delivery, note, reentrant, worker))
    }

    fn admit_to(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<LockNote>, reentrant: bool, worker: &Arc<str>) -> Admitted {
        if self.table.is_superseded(&claim.id, claim.digest, self.now) {
            let newer = self.table.replaced_by(&claim.id, claim.digest, self.now);
            return match newer.filter(|_| note.if_held.hides()) {
                Some(newer) => Admitted::Outdated { newer: newer.clone() },
                None => Admitted::Superseded,
            };
        }
        if note.scope == Scope::UntilExpired {
            return Admitted::Passes;
        }
        let life_end = self.now + note.queued_life_ms().clamp(1, LONGEST_MS);
        self.supersede_aside(claim.digest, &claim.id);
        let Some(lock) = self.table.lock(&claim.digest, self.now) else {
            self.take(claim, delivery, note, LockState::Queued, life_end);
            if self.table.knows(&claim.id, &claim.digest, self.now) {
                self.waited_again(claim);
            }
            self.delivered(claim, delivery, note, worker);
            return Admitted::Holds;
        };
        if lock.holder == claim.id {
            if lock.state == LockState::Cooldown {
                return Admitted::Passes;
            }
            self.delivered(claim, delivery, note, worker);
            return Admitted::Holds;
        }
        let (holder, state, expires) = (lock.holder.clone(), lock.state, lock.expires_ms);
        if self.table.is_aside(&claim.digest, &claim.id, self.now) {
            return Admitted::Leased { holder };
        }
        if let Some(admitted) = self.admit_behind(claim, delivery, note, reentrant) {
            return admitted;
        }
        if reentrant || self.table.knows(&claim.id, &claim.digest, self.now) {
            return Admitted::Passes;
        }
        if state == LockState::Leased {
            return Admitted::Leased { holder };
        }
        self.join(claim, &holder, &note.owed, Extent::Publish(note.scope), &note.rule, note.life_ms);
        if twin::waits(note) {
            self.note_twin(claim, &holder, note);
        }
        Admitted::Held {
            holder,
            state,
            expires_in_ms: expires.saturating_sub(self.now),
        }
    }

    fn delivered(&mut self, claim: &Claim, delivery: Nonce, note: &LockNote, worker: &Arc<str>) {
        if let Some(lock) = self.table.lock(&claim.digest, self.now) {
            lock.deliver(delivery, worker, self.now + note.queued_life_ms().clamp(1, LONGEST_MS));
            if !worker.is_empty() {
                lock.handed_ms = Some(self.now);
            }
            let until = lock.expires_ms;
            self.table.note_id(&claim.id, claim.digest, &note.rule, until, self.now);
        }
    }

    fn renew(&mut self, claim: &Claim, delivery: Nonce, note: &Arc<LockNote>, alive: Alive, worker: &Arc<str>) -> Renewed {
        let life = if alive.runs() { note.life_ms } else { note.queued_life_ms() };
        let until = self.now + life.clamp(1, LONGEST_MS);
        if let Some(lock) = self.table.lock_for(&claim.digest, &claim.id, self.now) {
            if lock.holder != claim.id || lock.has_ended() {
                return self.renewed_in_vain(claim, note);
            }
            lock.prolong(until);
            let until = lock.expires_ms;
            self.table.note_id(&claim.id, claim.digest, &note.rule, until, self.now);
            return Renewed::Held;
        }
        let ended = self.table.ended(&claim.id, self.now);
        let ended = ended.is_some_and(|ended| ended.by(|said| frees(said, note), None));
        let dead = self.table.is_superseded(&claim.id, claim.digest, self.now);
        if dead || ended {
            return self.renewed_in_vain(claim, note);
        }
        let state = if alive == Alive::Acknowledged {
            LockState::Running
        } else {
            LockState::Queued
        };
        self.take(claim, delivery, note, state, until);
        if let Some(lock) = self.table.lock(&claim.digest, self.now) {
            lock.stands_for_a_publish(delivery);
            if alive.runs() {
                lock.state = LockState::Running;
            }
            lock.reached(worker);
        }
        self.table.note_id(&claim.id, claim.digest, &note.rule, until, self.now);
        Renewed::Retaken
    }

    /// Who has not heard of the end by now renews again.
    fn renewed_in_vain(&mut self, claim: &Claim, note: &LockNote) -> Renewed {
        let kept_ms = note.life_ms.clamp(ENDED_KEPT_MS, LONGEST_MS);
        self.table.prolong_ended(&claim.id, self.now + kept_ms, self.now);
        self.gone(claim)
    }

    fn cool(&mut self, claim: &Claim, note: &Arc<LockNote>) -> Cooled {
        let until = self.now + note.cooldown_ms.clamp(1, LONGEST_MS);
        match self.table.lock(&claim.digest, self.now) {
            None => self.take(claim, Nonce(0), note, LockState::Cooldown, until),
            Some(lock) if lock.state == LockState::Cooldown => lock.rest(until),
            Some(lock) => {
                return Cooled::Held {
                    holder: lock.holder.clone(),
                };
            }
        }
        Cooled::Locked
    }

    fn release(&mut self, digest: Digest, holder: Option<&str>, running: Running) -> Vec<Freed> {
        let lock = self.table.lock(&digest, self.now).map(|lock| &*lock);
        let meant = |lock: &&Lock| holder.is_none_or(|holder| *lock.holder == *holder);
        let spared = |lock: &Lock| lock.state == LockState::Running && running == Running::Skip;
        let Some(lock) = lock.filter(meant).filter(|lock| !spared(lock)) else {
            return Vec::new();
        };
        // A worker has it and may go on: no renewal is to bring back what was freed.
        let goes_on = lock.was_delivered().then(|| (lock.holder.clone(), lock.expires_ms));
        let held = lock.holder.clone();
        let aside = self.table.lock(&digest, self.now).and_then(|lock| lock.aside.take());
        if let Some(older) = aside {
            self.table.forget_id(&older.holder, &digest, Claims::Publish, self.now);
        }
        let freed = self.free(digest, &held, ReleaseReason::Admin).into_iter().collect();
        if let Some((holder, expires_ms)) = goes_on {
            let until_ms = expires_ms.max(self.now + ENDED_KEPT_MS);
            let said = Said {
                verdict: SignalVerdict::Ends,
                source: Source::Other,
            };
            self.table.note_ended(&holder, said, EndedPublishes::Any, until_ms, self.now);
        }
        freed
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

    fn free(&mut self, digest: Digest, holder: &Arc<str>, reason: ReleaseReason) -> Option<Freed> {
        let lock = self.table.remove_of(&digest, holder, self.now)?;
        self.table.forget_id(&lock.holder, &digest, Claims::Publish, self.now);
        Some(lock.freed(digest, reason, self.now))
    }

    /// Whether a worker's signal that would have freed this lock was heard before this publish was committed.
    fn ended(&self, claim: &Claim, publish: Nonce, note: &LockNote) -> bool {
        if self.table.is_superseded(&claim.id, claim.digest, self.now) {
            return true;
        }
        let ended = self.table.ended(&claim.id, self.now);
        ended.is_some_and(|ended| ended.by(|said| frees(said, note), Some(publish)))
    }
}

/// Whether a signal of this kind frees such a lock.
fn frees(said: Said, note: &LockNote) -> bool {
    if !note.hears.hears(said.source) {
        return false;
    }
    match note.scope {
        Scope::UntilStarted => said.verdict >= SignalVerdict::Starts,
        Scope::UntilFinished if note.acks_late => said.verdict >= SignalVerdict::Acks,
        Scope::UntilFinished => said.verdict >= SignalVerdict::Ends,
        Scope::UntilExpired => false,
    }
}
