//! The maps of the memory store, and the index by which what has lapsed is removed.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use super::beat::Owner;
use super::lapsing::Lapsing;
use super::limit::{Pace, Slot, Waiters};
use super::lock::Lock;
use super::park::Messages;
use super::replace::{Asked, Over};
use super::run::{Done, Run, Waiting};
use crate::rules::lock::{Digest, Freed, Nonce, SignalVerdict};
use crate::rules::source::Source;

/// The index of lapses is this coarse.
pub(super) const SLOT_MS: u64 = 1_000;
/// The index looks no further ahead: what is removed before its time leaves an entry behind that is dropped when it comes up.
const LONGEST_STEP_MS: u64 = 300_000;
/// How many entries of the index one request looks at. Each request adds at most two.
pub(super) const SWEPT_PER_REQUEST: usize = 6;

/// So many words are remembered of the signals of one id; of more only which signals there were.
const ENDED_WORDS: usize = 64;

/// How much a signal said, and where it was heard: [`Source::Other`] also where it has freed a lock that listens to its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) verdict: SignalVerdict,
    pub(super) source: Source,
}

impl Said {
    /// Whether it tells every lock as much as `other` does.
    fn covers(self, other: Said) -> bool {
        self.verdict >= other.verdict && (self.source == Source::Other || self.source == other.source)
    }
}

/// What workers' signals leave behind for commits that come after them. A later one takes no earlier one back.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Each what a signal said, and a publish that it ended, none if it is not known which.
    words: Vec<(Said, Option<Nonce>)>,
    until_ms: u64,
}

impl Ended {
    /// Whether a signal that `frees` has ended this publish, or any one if none is given.
    pub(super) fn by(&self, frees: impl Fn(Said) -> bool, publish: Option<Nonce>) -> bool {
        let mut words = self.words.iter();
        words.any(|(said, ended)| frees(*said) && (publish.is_none() || ended.is_none() || *ended == publish))
    }

    fn add(&mut self, said: Said, publish: Option<Nonce>) {
        if self.words.contains(&(said, publish)) {
            return;
        }
        if self.words.len() >= ENDED_WORDS {
            for (said, _) in std::mem::take(&mut self.words) {
                if !self.words.contains(&(said, None)) {
                    self.words.push((said, None));
                }
            }
        }
        self.words.push((said, publish));
    }
}

/// Which publishes a signal has ended.
#[derive(Debug)]
pub(super) enum EndedPublishes {
    /// It is not known which.
    Any,
    /// These, [`None`] one that only its delivery was known of.
    These(Vec<Option<Nonce>>),
}

impl EndedPublishes {
    pub(super) fn none() -> EndedPublishes {
        EndedPublishes::These(Vec::new())
    }

    pub(super) fn add(&mut self, mut more: Vec<Option<Nonce>>) {
        match self {
            EndedPublishes::These(these) if !more.is_empty() => these.append(&mut more),
            EndedPublishes::These(_) => *self = EndedPublishes::Any,
            EndedPublishes::Any => {}
        }
    }
}

/// Which lock of a key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claims {
    /// The publish lock.
    Publish,
    /// The running lock.
    Run,
    /// The publish lock of the one that waits for the end of another.
    Last,
}

/// A key that an id has claimed.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    pub(super) digest: Digest,
    pub(super) what: Claims,
    /// The rule by which.
    pub(super) rule: Arc<str>,
}

/// What is known of a task id.
#[derive(Debug, Default)]
struct IdRecord {
    claims: Vec<Claimed>,
    expires_ms: u64,
    ended: Option<Ended>,
    indexed: u64,
}

impl IdRecord {
    fn lives_until(&self) -> u64 {
        let claims_end = if self.claims.is_empty() { 0 } else { self.expires_ms };
        claims_end.max(self.ended.as_ref().map_or(0, |ended| ended.until_ms))
    }
}

enum Key {
    Lock(Digest),
    Id(Arc<str>),
    Dead(Digest, Arc<str>),
}

/// An id that is not to run any more under a key.
#[derive(Debug)]
struct Dead {
    until_ms: u64,
    /// Its lock that a newer id took, if one did.
    lost: Option<Lost>,
    indexed: u64,
}

/// A lock that a newer id took.
#[derive(Debug)]
pub(super) struct Lost {
    /// Until its holder is known to have run.
    pub(super) lock: Option<Freed>,
    /// Who took it.
    pub(super) to: Arc<str>,
}

/// Digests are uniform already: two words of one, mixed with a secret so that nobody can aim at one bucket.
struct DigestHasher {
    secret: u64,
    hash: u64,
}

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes
            .chunks_exact(8)
            .map(|word| word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        let (first, second) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
        let product = u128::from(first ^ self.secret) * u128::from(second ^ self.secret.rotate_left(32) | 1);
        self.hash ^= product as u64 ^ (product >> 64) as u64;
    }

    fn write_usize(&mut self, _length: usize) {}
}

struct DigestHashing(u64);

impl Default for DigestHashing {
    fn default() -> DigestHashing {
        DigestHashing(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for DigestHashing {
    type Hasher = DigestHasher;

    fn build_hasher(&self) -> DigestHasher {
        DigestHasher { secret: self.0, hash: 0 }
    }
}

/// All that a memory store holds.
#[derive(Default)]
pub(super) struct Table {
    locks: HashMap<Digest, Lock, DigestHashing>,
    ids: HashMap<Arc<str>, IdRecord>,
    dead: HashMap<(Digest, Arc<str>), Dead>,
    /// The running locks.
    pub(super) runs: Lapsing<Digest, Run>,
    /// Who waits for the running lock of a key.
    pub(super) waiting: Lapsing<Digest, Waiting>,
    /// What ended runs leave behind.
    pub(super) done: Lapsing<(Digest, Arc<str>), Done>,
    /// Who waits for a lease to end, to replace its holder.
    pub(super) asked: Lapsing<Digest, Asked>,
    /// Who was superseded by whom of late.
    pub(super) over: Lapsing<Digest, Over>,
    /// Entries of schedules, and whose they are.
    pub(super) beats: Lapsing<Digest, Owner>,
    /// The places of ids in the limits of a rule.
    pub(super) slots: Lapsing<(Arc<str>, Arc<str>), Slot>,
    /// Who waits for the limits of a rule.
    pub(super) waiters: Lapsing<Arc<str>, Waiters>,
    /// The buckets of limits.
    pub(super) paces: Lapsing<Digest, Pace>,
    /// What operators have set of the limits of a rule.
    pub(super) limits_set: HashMap<Arc<str>, Vec<crate::rules::limit::control::Setting>>,
    /// Who waits for a holder's result.
    pub(super) joins: super::join::Joins,
    /// Of whom a message is a duplicate that waits.
    pub(super) twins: Lapsing<(Digest, Arc<str>), super::twin::Twin>,
    /// What became of holders that somebody waits for.
    pub(super) fates: Lapsing<(Digest, Arc<str>), super::twin::Known>,
    /// Queues of callers that wait for results.
    pub(super) callers: super::join::CallersKnown,
    /// Results that workers have published, by id.
    pub(super) results: Lapsing<Arc<str>, super::join::KeptResult>,
    /// The parked messages of an id.
    pub(super) parked: Lapsing<Arc<str>, Messages>,
    /// What was announced, and until when.
    notes: HashMap<String, (String, u64)>,
    /// By slot of time: what may lapse in it. Each lock and record names the slot of its entry, which moves on when it comes up too
    /// early; other entries of the same key are left over from the past.
    due: BTreeMap<u64, Vec<Key>>,
}

impl Table {
    pub(super) fn len(&self) -> (usize, usize) {
        (self.locks.len(), self.ids.len())
    }

    /// What waits for the end of the holder of this key.
    pub(super) fn last(&mut self, digest: &Digest, now: u64) -> Option<&mut Lock> {
        self.lock(digest, now)?.waiting(now)
    }

    pub(super) fn locks(&self, now: u64) -> impl Iterator<Item = (&Digest, &Lock)> {
        self.locks.iter().filter_map(move |(digest, lock)| Some((digest, lock.seen(now)?)))
    }

    /// The lock of this key, unless it has lapsed. One that was set aside for a lease that has lapsed is the lock again; else the one that
    /// waits is.
    pub(super) fn lock(&mut self, digest: &Digest, now: u64) -> Option<&mut Lock> {
        let lock = self.locks.get_mut(digest)?;
        lock.give_way(now);
        (lock.expires_ms > now).then_some(lock)
    }

    /// The same as it is for this id, which may have a lock that was set aside, or that waits, or a lease over one whose lapse nobody has
    /// noticed.
    pub(super) fn lock_for(&mut self, digest: &Digest, id: &Arc<str>, now: u64) -> Option<&mut Lock> {
        self.locks.get_mut(digest)?.of(id, now)
    }

    /// Whether the lock that was set aside for a lease of another is this id's.
    pub(super) fn is_aside(&mut self, digest: &Digest, id: &Arc<str>, now: u64) -> bool {
        let Some(lock) = self.lock(digest, now) else { return false };
        let last = lock.last.as_ref().and_then(|last| last.aside.as_ref());
        let mut older = lock.aside.iter().chain(last);
        older.any(|older| older.holder == *id && older.expires_ms > now)
    }

    /// Removes what this id holds of the key; what it was to replace is there again, or who waits has it.
    pub(super) fn remove_of(&mut self, digest: &Digest, id: &Arc<str>, now: u64) -> Option<Lock> {
        let lock = self.locks.get_mut(digest)?;
        if lock.holder != *id {
            return lock.remove_inner(id, now);
        }
        let mut lock = self.locks.remove(digest)?;
        if let Some(follower) = lock.follower(now) {
            self.insert(*digest, follower, now);
        }
        Some(lock)
    }

    pub(super) fn insert(&mut self, digest: Digest, mut lock: Lock, now: u64) {
        lock.indexed = index(&mut self.due, Key::Lock(digest), lock.expires_ms, now);
        self.locks.insert(digest, lock);
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Lock> {
        self.locks.remove(digest)
    }

    /// Whether the record of this id lists this key.
    pub(super) fn knows(&self, id: &str, digest: &Digest, now: u64) -> bool {
        self.ids
            .get(id)
            .is_some_and(|record| record.expires_ms > now && record.claims.iter().any(|claimed| claimed.digest == *digest))
    }

    /// The keys that this id has claimed.
    pub(super) fn claims(&self, id: &str, now: u64) -> &[Claimed] {
        self.ids
            .get(id)
            .filter(|record| record.expires_ms > now)
            .map_or(&[], |record| &record.claims)
    }

    /// `lost`: its lock that a newer id took, if one did.
    pub(super) fn supersede(&mut self, id: &Arc<str>, digest: Digest, lost: Option<Lost>, until_ms: u64, now: u64) {
        let indexed = index(&mut self.due, Key::Dead(digest, id.clone()), until_ms, now);
        self.dead.insert((digest, id.clone()), Dead { until_ms, lost, indexed });
    }

    /// The id runs, or has: the lock that it had lost to a newer one, the first time.
    pub(super) fn outlived(&mut self, id: &Arc<str>, digest: Digest, now: u64) -> Option<Freed> {
        if self.dead.is_empty() {
            return None;
        }
        let dead = self.dead.get_mut(&(digest, id.clone())).filter(|dead| dead.until_ms > now)?;
        dead.lost.as_mut()?.lock.take()
    }

    /// The newer id that the id has lost its lock to, if it has not run for all that.
    pub(super) fn replaced_by(&self, id: &Arc<str>, digest: Digest, now: u64) -> Option<&Arc<str>> {
        let dead = self.dead.get(&(digest, id.clone())).filter(|dead| dead.until_ms > now)?;
        dead.lost.as_ref().filter(|lost| lost.lock.is_some()).map(|lost| &lost.to)
    }

    /// Whether the id has lost its lock to a newer one, whether or not it has run for all that.
    pub(super) fn was_replaced(&self, id: &Arc<str>, digest: Digest, now: u64) -> bool {
        let dead = self.dead.get(&(digest, id.clone())).filter(|dead| dead.until_ms > now);
        dead.is_some_and(|dead| dead.lost.is_some())
    }

    pub(super) fn is_superseded(&self, id: &Arc<str>, digest: Digest, now: u64) -> bool {
        // The common case asks for no key.
        !self.dead.is_empty() && self.dead.get(&(digest, id.clone())).is_some_and(|dead| dead.until_ms > now)
    }

    fn record(&mut self, id: &Arc<str>, first_end: u64, now: u64) -> &mut IdRecord {
        match self.ids.entry(id.clone()) {
            Entry::Occupied(occupied) => {
                let record = occupied.into_mut();
                if record.expires_ms <= now {
                    record.claims.clear();
                }
                record
            }
            Entry::Vacant(vacant) => {
                let indexed = index(&mut self.due, Key::Id(id.clone()), first_end, now);
                vacant.insert(IdRecord {
                    indexed,
                    ..IdRecord::default()
                })
            }
        }
    }

    pub(super) fn note_id(&mut self, id: &Arc<str>, digest: Digest, rule: &Arc<str>, until_ms: u64, now: u64) {
        self.note_claim(id, digest, Claims::Publish, rule, until_ms, now);
    }

    pub(super) fn note_claim(&mut self, id: &Arc<str>, digest: Digest, what: Claims, rule: &Arc<str>, until_ms: u64, now: u64) {
        let record = self.record(id, until_ms, now);
        if !record.claims.iter().any(|claimed| claimed.digest == digest && claimed.what == what) {
            let rule = rule.clone();
            record.claims.push(Claimed { digest, what, rule });
        }
        record.expires_ms = record.expires_ms.max(until_ms);
    }

    pub(super) fn forget_id(&mut self, id: &str, digest: &Digest, what: Claims, now: u64) {
        if let Some(record) = self.ids.get_mut(id) {
            record.claims.retain(|claimed| claimed.digest != *digest || claimed.what != what);
            if record.lives_until() <= now {
                self.ids.remove(id);
            }
        }
    }

    /// The record ends with the only lock that it lists, if there is but one.
    pub(super) fn shorten_id(&mut self, id: &str, until_ms: u64) {
        if let Some(record) = self.ids.get_mut(id)
            && record.claims.len() == 1
        {
            record.expires_ms = record.expires_ms.min(until_ms);
        }
    }

    /// Notes a signal and the publishes that it ended. One that does not know which, behind one that said as much, is the same told twice.
    pub(super) fn note_ended(&mut self, id: &Arc<str>, said: Said, publishes: EndedPublishes, until_ms: u64, now: u64) {
        let record = self.record(id, until_ms, now);
        let mut ended = record.ended.take().filter(|ended| ended.until_ms > now).unwrap_or_default();
        match publishes {
            EndedPublishes::Any if ended.words.iter().any(|(earlier, _)| earlier.covers(said)) => {
                record.ended = Some(ended);
                return;
            }
            EndedPublishes::Any => ended.add(said, None),
            EndedPublishes::These(these) => these.into_iter().for_each(|publish| ended.add(said, publish)),
        }
        ended.until_ms = ended.until_ms.max(until_ms);
        record.ended = Some(ended);
    }

    pub(super) fn ended(&self, id: &str, now: u64) -> Option<&Ended> {
        self.ids.get(id)?.ended.as_ref().filter(|ended| ended.until_ms > now)
    }

    /// A commit or a renewal that does not know of the end is still to come.
    pub(super) fn prolong_ended(&mut self, id: &str, until_ms: u64, now: u64) {
        let ended = self.ids.get_mut(id).and_then(|record| record.ended.as_mut());
        if let Some(ended) = ended.filter(|ended| ended.until_ms > now) {
            ended.until_ms = ended.until_ms.max(until_ms);
        }
    }

    /// Each writing removes what has lapsed: notes are few.
    pub(super) fn announce(&mut self, notes: &[(String, String)], until_ms: u64, now: u64) {
        self.notes.retain(|_, (_, until_ms)| *until_ms > now);
        for (name, value) in notes {
            self.notes.insert(name.clone(), (value.clone(), until_ms));
        }
    }

    pub(super) fn announced(&self, name: &str, now: u64) -> Option<&str> {
        let (value, until_ms) = self.notes.get(name)?;
        (*until_ms > now).then_some(value)
    }

    /// Removes a few of those that have lapsed.
    pub(super) fn sweep(&mut self, now: u64) {
        self.runs.sweep(now);
        self.waiting.sweep(now);
        self.done.sweep(now);
        self.over.sweep(now);
        self.asked.sweep(now);
        self.beats.sweep(now);
        self.parked.sweep(now);
        self.twins.sweep(now);
        self.fates.sweep(now);
        self.slots.sweep(now);
        self.waiters.sweep(now);
        self.paces.sweep(now);
        self.results.sweep(now);
        for _ in 0..SWEPT_PER_REQUEST {
            let Some(mut slot) = self.due.first_entry().filter(|slot| *slot.key() <= now / SLOT_MS) else {
                return;
            };
            let at = *slot.key();
            match slot.get_mut().pop() {
                None => {
                    slot.remove();
                }
                Some(Key::Lock(digest)) => {
                    let Some(lock) = self.locks.get_mut(&digest).filter(|lock| lock.indexed == at) else {
                        continue;
                    };
                    if lock.lives_until() > now {
                        lock.indexed = index(&mut self.due, Key::Lock(digest), lock.lives_until(), now);
                    } else {
                        self.locks.remove(&digest);
                    }
                }
                Some(Key::Id(id)) => {
                    let Some(record) = self.ids.get_mut(&id).filter(|record| record.indexed == at) else {
                        continue;
                    };
                    if record.lives_until() > now {
                        record.indexed = index(&mut self.due, Key::Id(id), record.lives_until(), now);
                    } else {
                        self.ids.remove(&id);
                    }
                }
                Some(Key::Dead(digest, id)) => {
                    let key = (digest, id);
                    let Some(dead) = self.dead.get_mut(&key).filter(|dead| dead.indexed == at) else {
                        continue;
                    };
                    if dead.until_ms > now {
                        dead.indexed = index(&mut self.due, Key::Dead(key.0, key.1), dead.until_ms, now);
                    } else {
                        self.dead.remove(&key);
                    }
                }
            }
        }
    }
}

/// Where the index has what lapses then.
pub(super) fn slot_of(at_ms: u64, now: u64) -> u64 {
    at_ms.min(now + LONGEST_STEP_MS) / SLOT_MS + 1
}

fn index(due: &mut BTreeMap<u64, Vec<Key>>, key: Key, at_ms: u64, now: u64) -> u64 {
    let slot = slot_of(at_ms, now);
    due.entry(slot).or_default().push(key);
    slot
}
