//! The vocabulary of locks: what a session asks of a store, and what a store answers.
//!
//! It lies below both, so that neither knows the other. Times are milliseconds; a store counts them on its own clock.

use std::fmt;
use std::sync::Arc;

use super::beat::Turn;
use super::limit::{Ask, Asker, Limited};
use super::owed::Owed;
use super::park::{Fingerprint, Found, ParkNote, ParkState, Seen, Token};
use super::running::{IfBusy, Ran, RunNote};
use super::source::{Hears, Source};
use crate::celery::result::Status;

/// The identity of a unique key: SHA-256 over the canonical encoding of domain, vhost, namespace and key parts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Lower-case hex, 64 characters, as locks are named in the store.
    pub fn to_hex(self) -> String {
        self.hex_digits().map(char::from).iter().collect()
    }

    /// The octets of [`Digest::to_hex`].
    pub fn hex_digits(self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        hex
    }

    /// Reads 64 hex digits of either case; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Digest> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            *byte = (nibble(*high)? * 16 + nibble(*low)?) as u8;
        }
        Some(Digest(bytes))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

/// Names one publish or one settlement, so that a request repeated after an unknown outcome is counted once. Two of the same task id
/// must differ, whichever proxy they pass: a random start per connection and a counter do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(pub u64);

impl Nonce {
    /// Whether it names this delivery, or, as nought, no one in particular.
    pub fn names(self, delivery: Nonce) -> bool {
        self == Nonce(0) || self == delivery
    }
}

/// How long a publish lock lasts: which signal ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// From publish to start.
    UntilStarted,
    /// From publish to end.
    UntilFinished,
    /// From publish until its ttl has passed, whatever happens to the task.
    UntilExpired,
}

impl Scope {
    /// The name that users type and that the store holds.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::UntilStarted => "until_started",
            Scope::UntilFinished => "until_finished",
            Scope::UntilExpired => "until_expired",
        }
    }

    /// The scope of that name.
    pub fn from_name(name: &str) -> Option<Scope> {
        [Scope::UntilStarted, Scope::UntilFinished, Scope::UntilExpired]
            .into_iter()
            .find(|scope| scope.as_str() == name)
    }
}

/// What a lock in the store spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// A publish lock: from the publish on.
    Publish(Scope),
    /// A running lock: from the hand-over to the end of the run.
    Run,
}

impl Extent {
    /// The name that users type and that the store holds.
    pub fn as_str(self) -> &'static str {
        match self {
            Extent::Publish(scope) => scope.as_str(),
            Extent::Run => "while_running",
        }
    }

    /// The extent of that name.
    pub fn from_name(name: &str) -> Option<Extent> {
        if name == Extent::Run.as_str() {
            return Some(Extent::Run);
        }
        Scope::from_name(name).map(Extent::Publish)
    }
}

/// Where a lock is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockState {
    /// Taken for a short lease; the broker has not yet acknowledged the holder's message.
    Leased,
    /// The broker has the holder's message.
    Queued,
    /// The holder runs.
    Running,
    /// The holder has succeeded and the key rests.
    Cooldown,
}

impl LockState {
    /// The name that the store holds.
    pub fn as_str(self) -> &'static str {
        match self {
            LockState::Leased => "leased",
            LockState::Queued => "queued",
            LockState::Running => "running",
            LockState::Cooldown => "cooldown",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<LockState> {
        [LockState::Leased, LockState::Queued, LockState::Running, LockState::Cooldown]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What names one claim: the key and the task id that claims it. Every change of a lock is checked against it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The key.
    pub digest: Digest,
    /// The task id.
    pub id: Arc<str>,
}

/// What is written beside a lock when it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockNote {
    /// The name of the rule.
    pub rule: Arc<str>,
    /// The name of the task.
    pub task: Arc<str>,
    /// What the rule's `summary` lets be seen of the key.
    pub summary: Arc<str>,
    /// The virtual host of the message.
    pub vhost: Arc<str>,
    /// The queue, as far as it is known at publish: the routing key on the default exchange, else empty.
    pub queue: Arc<str>,
    /// Which signal frees the lock.
    pub scope: Scope,
    /// True for the locks of an observing rule.
    pub shadow: bool,
    /// The full life, from now: the ttl, plus the time to the ETA if there is one.
    pub life_ms: u64,
    /// For how long from now the task may still begin (its `expires`), if that is bounded: a lock whose holder has not begun by then is
    /// of no use.
    pub unstarted_ms: Option<u64>,
    /// The two-phase lease.
    pub lease_ms: u64,
    /// Where the ack is the only signal of an end: how long after it the lock goes.
    pub settle_grace_ms: u64,
    /// True where an ack of this task means that it has ended (`acks_late`).
    pub acks_late: bool,
    /// The sources whose starts and ends count.
    pub hears: Hears,
    /// Which outcomes free a lock that lasts until the end.
    pub release_on: ReleaseOn,
    /// How long the key stays locked after a success.
    pub cooldown_ms: u64,
    /// What the id is owed if it is dropped.
    pub owed: Owed,
    /// What a publish does that finds its key held.
    pub if_held: IfHeld,
}

impl LockNote {
    /// The life of the lock while its holder has not begun.
    pub fn queued_life_ms(&self) -> u64 {
        self.unstarted_ms.map_or(self.life_ms, |unstarted| unstarted.min(self.life_ms))
    }
}

/// What a publish does that finds its key held by another id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum IfHeld {
    /// It is a duplicate.
    #[default]
    Yield,
    /// It takes the lock over from a holder that has not begun. That one's lock is set aside for the newcomer's lease: it has it again if
    /// the newcomer fails, and is not to run any more once the broker has the newcomer's message.
    Replace,
    /// As [`IfHeld::Replace`], and its run is put off: the store says until when.
    Debounce(Quiet),
    /// It waits for the holder's end, and then has the lock. Of those that wait only the newest does: once the broker has its message the
    /// one before is not to run any more.
    KeepLast,
}

/// How long a key must be quiet before its newest task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quiet {
    /// For so long after each publish its run is put off, in milliseconds.
    pub period_ms: u64,
    /// But not for longer than this after the first publish of a burst, in milliseconds.
    pub longest_ms: Option<u64>,
}

impl Quiet {
    /// When a task is due that is published now, in a burst that began then, in milliseconds since the Unix epoch.
    pub fn due_ms(self, first_ms: u64, now_ms: u64) -> u64 {
        let latest_ms = self.longest_ms.map_or(u64::MAX, |longest| first_ms.saturating_add(longest));
        now_ms.saturating_add(self.period_ms).min(latest_ms)
    }
}

impl IfHeld {
    /// Whether publishes of a key come one after the other: each waits for the lease of the one before, and they keep their order.
    pub fn takes_turns(self) -> bool {
        self != IfHeld::Yield
    }

    /// Whether it takes the lock over from a holder that has not begun.
    pub fn replaces(self) -> bool {
        matches!(self, IfHeld::Replace | IfHeld::Debounce(_))
    }

    /// Whether no worker hears of an id that a newer one has replaced: it gets the result of that one.
    pub fn hides(self) -> bool {
        matches!(self, IfHeld::Debounce(_) | IfHeld::KeepLast)
    }

    /// How long its run is put off, if it is.
    pub fn quiet(self) -> Option<Quiet> {
        match self {
            IfHeld::Debounce(quiet) => Some(quiet),
            IfHeld::Yield | IfHeld::Replace | IfHeld::KeepLast => None,
        }
    }

    /// The same where the run cannot be put off.
    #[must_use]
    pub fn at_once(self) -> IfHeld {
        match self {
            IfHeld::Debounce(_) => IfHeld::Replace,
            other => other,
        }
    }
}

/// Which outcomes free a lock that lasts until the end; revoke, reject, expiry, purge and crash always do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ReleaseOn {
    /// Success and failure.
    #[default]
    Both,
    /// Success only: after a failure the lock lives on to its ttl.
    Success,
    /// Failure only: after a success the lock lives on to its ttl.
    Failure,
}

impl ReleaseOn {
    /// As the store holds it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseOn::Both => "both",
            ReleaseOn::Success => "success",
            ReleaseOn::Failure => "failure",
        }
    }
}

/// One question or order to the store. Each is one atomic step and idempotent per (digest, id).
///
/// A lock counts the holder's messages, by the nonces of their publishes: an acquire that lets its publish pass counts it, and so does
/// a commit whose acquire never reached the store; an unpublish takes its own out, a signal the oldest. What is counted or taken twice
/// changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// May this publish go out? Takes the lock for a lease if it is free. Answered by [`Reply::Acquire`].
    Acquire {
        /// The key and the id that asks.
        claim: Claim,
        /// This publish; its commit, renewals and unpublish carry the same.
        publish: Nonce,
        /// What to write if the lock is taken.
        note: Arc<LockNote>,
        /// The message says of itself that its id was published before (`retries` or `replaced_task_nesting` above 0): never a
        /// duplicate.
        reentrant: bool,
    },
    /// The id was dropped for this holder although its acquire did not say that it would wait for the holder's result: it waits now.
    /// Answered by [`Reply::Done`].
    Join {
        /// The key and the id.
        claim: Claim,
        /// Whose duplicate it is.
        holder: Arc<str>,
        /// The same note as at acquire, but for what the id is owed.
        note: Arc<LockNote>,
    },
    /// A worker has published the result of a task, which is kept while others wait for it, or may yet be dropped for the task. Answered by
    /// [`Reply::Done`].
    Result {
        /// The id.
        id: Arc<str>,
        /// How much it counts.
        weight: Weight,
        /// The result, in JSON.
        json: Arc<[u8]>,
        /// For how long it is kept at least, in milliseconds, whether or not the store knows of others that want it.
        least_ms: u64,
    },
    /// A client has declared a queue for the results of its calls, as Celery's RPC backend does: ids that are dropped anywhere may be
    /// answered there. Known for a day and an hour. Answered by [`Reply::Done`].
    Caller {
        /// The virtual host of the queue.
        vhost: Arc<str>,
        /// The queue.
        queue: Arc<str>,
    },
    /// The broker has acknowledged the message of this claim: a lease becomes the full life. Answered by [`Reply::Commit`].
    Commit {
        /// The key and the id.
        claim: Claim,
        /// The publish that the broker acknowledged.
        publish: Nonce,
        /// The same note as at acquire; a lock that has lapsed is taken anew with it.
        note: Arc<LockNote>,
    },
    /// The publish still waits for the broker on a live connection: the lease starts anew, and a lock that is missing is taken again;
    /// never one that another id holds. Answered by [`Reply::Done`].
    RenewLease {
        /// The key and the id.
        claim: Claim,
        /// The publish that waits.
        publish: Nonce,
        /// The same note as at acquire.
        note: Arc<LockNote>,
    },
    /// The broker does not have this message of the claim (returned, nacked, its channel or connection gone before the ack): one
    /// message less in flight; at none the lock is freed if the claim still holds it. Answered by [`Reply::Released`].
    Unpublish {
        /// The key and the id.
        claim: Claim,
        /// The publish that failed.
        publish: Nonce,
        /// Why.
        reason: ReleaseReason,
    },
    /// Something was learnt of what a worker does with this id. Frees what the id's record says this signal frees. Answered by
    /// [`Reply::Released`].
    Signal {
        /// The task id.
        id: Arc<str>,
        /// This settlement: the same again changes nothing. Where the delivery that is settled was asked about, its nonce: it names the
        /// run. Of no meaning where the signal is no settlement.
        settlement: Nonce,
        /// What was learnt.
        signal: Signal,
        /// What it was learnt from. Of no meaning where a signal counts for every lock: see [`Signal::counts_always`].
        source: Source,
        /// The worker's node name, empty if it is not known.
        worker: Arc<str>,
    },
    /// May this delivery go to the worker? Retakes a lock that has lapsed. Answered by [`Reply::Admit`].
    Admit {
        /// The key, as the present rules compute it, and the id that is delivered. A key that the id's record names for the same rule
        /// goes before it.
        claim: Claim,
        /// This delivery, for the count of messages in flight.
        delivery: Nonce,
        /// What to write if the lock is taken; its life is the full one.
        note: Arc<LockNote>,
        /// Never a duplicate: a retry, a redelivery, a delivery that needs no ack.
        reentrant: bool,
        /// The worker's node name, empty if it is not known.
        worker: Arc<str>,
    },
    /// The holder is alive: its lock gets its full life anew; a lock that is missing is taken again, never one that another id holds.
    /// Answered by [`Reply::Renewed`].
    Renew {
        /// The key and the id.
        claim: Claim,
        /// The delivery by which it is known to be alive.
        delivery: Nonce,
        /// The same note as at admission.
        note: Arc<LockNote>,
        /// By what that is known: what a lock that is taken again says of its holder.
        alive: Alive,
        /// The worker's node name, empty if it is not known.
        worker: Arc<str>,
    },
    /// May this delivery begin to run? Takes the running lock of the key, unless another run has it. Answered by [`Reply::Run`].
    ///
    /// The same run asked about twice has the lock. A second copy of the id that runs waits like any other, unless the run was retried.
    Run {
        /// The key and the id that is delivered.
        claim: Claim,
        /// This delivery: with the id it names the run.
        delivery: Nonce,
        /// What to write if the lock is taken.
        note: Arc<RunNote>,
        /// What is to be done with it if another run has the lock.
        busy: IfBusy,
        /// The worker's node name, empty if it is not known.
        worker: Arc<str>,
    },
    /// The id was published under the key as a retry: a run of an earlier try ends in it, and the id keeps the running lock for the next.
    /// It may be told before that run's ack, or long after the next has begun. Answered by [`Reply::Done`].
    Republished {
        /// The key and the id.
        claim: Claim,
        /// Which retry it is, from one.
        retries: u32,
    },
    /// The run goes on: its lock gets its full life anew; one that is missing is taken again, never one that another run holds, nor one
    /// whose run has ended. Answered by [`Reply::Renewed`].
    RenewRun {
        /// The key and the id.
        claim: Claim,
        /// The delivery that was handed over.
        delivery: Nonce,
        /// The same note as when it was taken.
        note: Arc<RunNote>,
        /// The worker's node name, empty if it is not known.
        worker: Arc<str>,
    },
    /// This delivery does not wait any more, or has been given back: its place is free, and so is the running lock if this run has it.
    /// Answered by [`Reply::Released`].
    LeaveRun {
        /// The key and the id.
        claim: Claim,
        /// The delivery.
        delivery: Nonce,
    },
    /// Whose entry of a schedule is it? It is the beat's that asks, for its lease, unless it is another's. Answered by [`Reply::Beat`].
    BeatLease {
        /// The entry.
        digest: Digest,
        /// The beat that asks.
        origin: Arc<str>,
        /// For how long it is that beat's.
        life_ms: u64,
    },
    /// A place in the limits of a rule: it is the id's until a delivery of it is permitted, and is found again by every delivery of it.
    /// Answered by [`Reply::Limit`], and never permitted.
    Reserve {
        /// The id and its buckets.
        ask: Arc<Ask>,
    },
    /// May this delivery be handed over now? If all buckets agree it counts in all of them; else it keeps its place, which it takes if the
    /// id has none. The same delivery asking again takes an earlier permission back first: what counts is the last. Answered by
    /// [`Reply::Limit`].
    Permit {
        /// The id and its buckets.
        ask: Arc<Ask>,
        /// The delivery.
        asker: Asker,
    },
    /// This delivery is not handed over, though it may have been permitted, or does not wait any more: nobody waits behind it. Its id
    /// keeps its place for whoever asks next. Answered by [`Reply::Done`].
    LeaveLimit {
        /// The id and its buckets.
        ask: Arc<Ask>,
        /// The delivery.
        delivery: Nonce,
    },
    /// A copy of this message is about to be published: it is the newest, in [`ParkState::Sending`]. The original and the copies before it
    /// are over as soon as the broker has it, not before. The same token again changes nothing. Of an id, the newest 64 messages are known
    /// at most, and of a message its newest 9 copies; what is not known is decided as any other. Answered by [`Reply::Done`].
    Park {
        /// The task id.
        id: Arc<str>,
        /// The copy.
        token: Token,
        /// What to write of it.
        note: Arc<ParkNote>,
    },
    /// The newest copy of a message has come so far, or a worker has acknowledged its original ([`ParkState::Done`]); a state never falls.
    /// Nothing happens if this copy is not the newest, or not known. Answered by [`Reply::Done`].
    MarkParked {
        /// The task id.
        id: Arc<str>,
        /// The copy.
        token: Token,
        /// The message.
        fingerprint: Fingerprint,
        /// How far.
        state: ParkState,
    },
    /// Was this message parked, and may it run? Answered by [`Reply::Parked`].
    FindParked {
        /// The task id.
        id: Arc<str>,
        /// The message.
        fingerprint: Fingerprint,
        /// The copy or the original.
        seen: Seen,
    },
    /// Locks a key by hand, as after a success. Answered by [`Reply::Cooled`].
    Cool {
        /// The key, and the id that is written as its holder.
        claim: Claim,
        /// What to write beside it; its cooldown is the life of the lock.
        note: Arc<LockNote>,
    },
    /// An operator frees the locks of a key, the running lock only with [`Running::Include`]: renewals of a holder that runs on do not
    /// bring them back. Answered by [`Reply::Released`].
    Release {
        /// The key.
        digest: Digest,
        /// If given, only what this id holds.
        holder: Option<Arc<str>>,
        /// What becomes of it if its holder runs.
        running: Running,
    },
    /// What is known of the publish lock of a key. Answered by [`Reply::Lock`].
    Show {
        /// The key.
        digest: Digest,
    },
    /// What is known of the running lock of a key. Answered by [`Reply::Lock`].
    ShowRun {
        /// The key.
        digest: Digest,
    },
}

/// By what a holder is known to be alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alive {
    /// A worker has its message, and is not heard to have begun.
    Delivered,
    /// A worker has begun it, and has not acknowledged its message: should the worker go, the message runs elsewhere.
    Begun,
    /// A worker runs it, and has acknowledged its message: should the worker go, it is lost.
    Acknowledged,
}

impl Alive {
    /// True if a worker has begun it.
    pub fn runs(self) -> bool {
        self != Alive::Delivered
    }
}

/// What a release does with the lock of a holder that runs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Running {
    /// It stays: freeing it lets a second run begin beside the first.
    #[default]
    Skip,
    /// It is freed too.
    Include,
}

/// What was learnt of a task id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `basic.ack`: started if the task acks early, ended if it acks late.
    Acked,
    /// `basic.ack` of a run that had begun long before: ended, unless the rule says that the task acks early.
    AckedLate,
    /// `basic.reject` or `basic.nack` without requeue: ended.
    Rejected,
    /// Delivered to a consumer that does not acknowledge: started, and nothing more will be heard.
    DeliveredNoAck,
    /// A worker runs it.
    Started,
    /// A worker will run it again: the run has ended, the task has not.
    Retried,
    /// It has succeeded.
    Succeeded,
    /// It has failed.
    Failed,
    /// Its worker says that it was revoked: it has ended.
    Revoked,
    /// Somebody asks all workers to revoke it, or a backend says that it is: true unless it runs. Its message is not to run any more.
    RevokeAsked,
    /// Its time has passed: a worker or the broker has dropped it, or will.
    Expired,
    /// Its worker is gone and does not know it any more.
    Crashed,
    /// The worker that is named with it is gone, or does not know it any more: crashed, if the lock still names that worker and none of
    /// the holder's messages is in flight, since what the broker has will run elsewhere. Where no proxy has carried the message to its
    /// worker, the count says nothing, and is not looked at. A settlement that is not nought names the run that is meant, of a running lock.
    Orphaned,
    /// Its queue was purged or deleted while the message lay in it.
    Purged,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Signal; 14] = [
        Signal::Acked,
        Signal::AckedLate,
        Signal::Rejected,
        Signal::DeliveredNoAck,
        Signal::Started,
        Signal::Retried,
        Signal::Succeeded,
        Signal::Failed,
        Signal::Revoked,
        Signal::RevokeAsked,
        Signal::Expired,
        Signal::Crashed,
        Signal::Orphaned,
        Signal::Purged,
    ];

    /// What a state in a result backend says, if anything.
    pub fn of_result(status: Status) -> Option<Signal> {
        match status {
            Status::Started => Some(Signal::Started),
            Status::Retry => Some(Signal::Retried),
            Status::Success => Some(Signal::Succeeded),
            Status::Failure => Some(Signal::Failed),
            // Idle workers write it over a task that runs elsewhere when a revoke is sent to all.
            Status::Revoked => Some(Signal::RevokeAsked),
            Status::Pending | Status::Other => None,
        }
    }

    /// Whether it settles one message of the holder, so that it is counted.
    pub fn settles(self) -> bool {
        matches!(self, Signal::Acked | Signal::AckedLate | Signal::Rejected | Signal::DeliveredNoAck)
    }

    /// Whether the broker must have had the message that it is about.
    pub fn tells_of_message(self) -> bool {
        // A revoke may be asked for before the publish has come so far.
        !matches!(self, Signal::Purged | Signal::Orphaned | Signal::RevokeAsked)
    }

    /// Whether it tells that its task was run.
    pub fn tells_of_run(self) -> bool {
        matches!(self, Signal::Started | Signal::Succeeded | Signal::Failed)
    }

    /// Whether it counts for a lock that does not listen to its source: all but the starts, and the ends that tell an outcome. That a
    /// task goes on frees nothing.
    pub fn counts_always(self) -> bool {
        !matches!(
            self,
            Signal::Acked | Signal::AckedLate | Signal::DeliveredNoAck | Signal::Started | Signal::Succeeded | Signal::Failed
        )
    }

    /// Whether a lock that listens to these sources hears it from this one.
    pub fn is_heard(self, source: Source, hears: Hears) -> bool {
        self.counts_always() || hears.hears(source)
    }

    /// What a commit that comes after it makes of it.
    pub fn verdict(self) -> SignalVerdict {
        match self {
            Signal::Started | Signal::DeliveredNoAck => SignalVerdict::Starts,
            Signal::Acked | Signal::AckedLate => SignalVerdict::Acks,
            Signal::Rejected
            | Signal::Succeeded
            | Signal::Failed
            | Signal::Revoked
            | Signal::RevokeAsked
            | Signal::Expired
            | Signal::Crashed
            | Signal::Orphaned
            | Signal::Purged => SignalVerdict::Ends,
            Signal::Retried => SignalVerdict::GoesOn,
        }
    }
}

/// How far a signal says that a task has come, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignalVerdict {
    /// It will be published or run again.
    GoesOn,
    /// A worker has begun it.
    Starts,
    /// A worker has acknowledged it, early or late.
    Acks,
    /// It is over.
    Ends,
}

/// Why a lock was freed, as the label of `oncegate_locks_released_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleaseReason {
    /// A worker started the holder.
    Started,
    /// The holder succeeded.
    Success,
    /// The holder failed.
    Failure,
    /// The holder ended, its outcome unknown.
    Ended,
    /// The holder was revoked.
    Revoked,
    /// The holder's message expired.
    Expired,
    /// The lock's life passed.
    Lapsed,
    /// The holder's worker died.
    Crash,
    /// The broker did not acknowledge the holder's message.
    Unconfirmed,
    /// No queue took the holder's message.
    Returned,
    /// A newer publish took the lock over.
    Replaced,
    /// The holder's queue was purged or deleted.
    Purged,
    /// An operator freed it.
    Admin,
}

impl ReleaseReason {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseReason::Started => "started",
            ReleaseReason::Success => "success",
            ReleaseReason::Failure => "failure",
            ReleaseReason::Ended => "ended",
            ReleaseReason::Revoked => "revoked",
            ReleaseReason::Expired => "expired",
            ReleaseReason::Lapsed => "lapsed",
            ReleaseReason::Crash => "crash",
            ReleaseReason::Unconfirmed => "unconfirmed",
            ReleaseReason::Returned => "returned",
            ReleaseReason::Replaced => "replaced",
            ReleaseReason::Purged => "purged",
            ReleaseReason::Admin => "admin",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<ReleaseReason> {
        use ReleaseReason as R;
        [
            R::Started,
            R::Success,
            R::Failure,
            R::Ended,
            R::Revoked,
            R::Expired,
            R::Lapsed,
            R::Crash,
            R::Unconfirmed,
            R::Returned,
            R::Replaced,
            R::Purged,
            R::Admin,
        ]
        .into_iter()
        .find(|reason| reason.as_str() == name)
    }
}

/// How much a result counts that a worker has published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It is what the task's run gave.
    Final,
    /// It says that the task was revoked, which an idle worker may say while it runs elsewhere: it stands until a run gives one.
    Provisional,
}

/// The store's answer to one [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Acquire`].
    Acquire(Acquired),
    /// To [`Request::Commit`].
    Commit(Committed),
    /// To [`Request::Unpublish`], [`Request::Signal`], [`Request::LeaveRun`] and [`Request::Release`]: the locks that were freed, none if none.
    Released(Vec<Freed>),
    /// To [`Request::Signal`] if it tells that ids ran that had lost their locks to newer ones: what was freed beside, and those locks as
    /// far as they are known. Told once of each.
    Outlived {
        /// The locks that were freed.
        freed: Vec<Freed>,
        /// The locks that the ids had lost.
        ran: Vec<Freed>,
    },
    /// To [`Request::Show`] and [`Request::ShowRun`].
    Lock(Option<Box<LockRecord>>),
    /// To [`Request::RenewLease`], [`Request::Republished`], [`Request::Join`], [`Request::Result`], [`Request::Caller`], [`Request::LeaveLimit`],
    /// [`Request::Park`] and [`Request::MarkParked`].
    Done,
    /// To [`Request::Admit`]: which key the id has, and what was found.
    Admit(Digest, Admitted),
    /// To [`Request::Renew`] and [`Request::RenewRun`].
    Renewed(Renewed),
    /// To [`Request::Run`].
    Run(Ran),
    /// To [`Request::BeatLease`].
    Beat(Turn),
    /// To [`Request::Reserve`] and [`Request::Permit`].
    Limit(Limited),
    /// To [`Request::FindParked`].
    Parked(Found),
    /// To [`Request::Cool`].
    Cooled(Cooled),
}

/// What an admission found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// The id holds the lock, or has taken it now.
    Holds,
    /// It goes out without a lock: it is known to the key or is never a duplicate, and another id holds the lock; or the lock rests, or
    /// the rule that took its lock is gone.
    Passes,
    /// The id has lost its lock to a newer one, or was revoked: it is not to run.
    Superseded,
    /// The id has lost its lock to a newer one, and no worker is to hear of that ([`IfHeld::hides`]).
    Outdated {
        /// The newer one.
        newer: Arc<str>,
    },
    /// Another id has the lock, and this one waits for its end ([`IfHeld::KeepLast`]).
    Waits {
        /// Who has it.
        holder: Arc<str>,
        /// Since when it waits, in milliseconds since the Unix epoch, on the store's clock.
        since_ms: u64,
    },
    /// Another id has the lock, for a lease only; that of this id may be the one that was set aside.
    Leased {
        /// Who has it.
        holder: Arc<str>,
    },
    /// Another id holds the lock: this delivery is a duplicate found late.
    Held {
        /// Who holds it.
        holder: Arc<str>,
        /// Where that lock is in its life.
        state: LockState,
        /// How long until it lapses by itself.
        expires_in_ms: u64,
    },
    /// The message waits for a holder (its note has [`Owed::Carried`]), and that has no lock any more, or one that rests.
    Ended {
        /// Who it is.
        holder: Arc<str>,
        /// What is known of it.
        fate: Fate,
    },
}

/// What is known of a holder whose lock has gone, or rests, by a word of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A worker has begun it, and its end was not heard. That is waited for as long as its lock would live.
    Begun,
    /// It has ended, and may have succeeded; or its end was waited for in vain.
    Ended {
        /// For how long that is known, in milliseconds.
        since_ms: u64,
    },
    /// It has failed, or will never run.
    Failed,
}

/// What a renewal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Renewed {
    /// The lock has its full life.
    Held,
    /// The lock had gone and was taken again.
    Retaken,
    /// The holder has ended, or another id has the lock: there is nothing to renew.
    Gone,
    /// Another id has the running lock, and no end of this run is known. It is the next to get it, as long as it renews.
    Lost,
    /// The id has lost its lock to a newer one, and is not to run.
    Superseded,
}

/// What a lock by hand found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cooled {
    /// The key is locked for that long.
    Locked,
    /// A task holds the key; nothing was changed.
    Held {
        /// Who holds it.
        holder: Arc<str>,
    },
}

/// What an acquire found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// The lock was free and is now this id's, for the lease.
    Taken,
    /// The lock is now this id's, for the lease; that of an older id was set aside ([`IfHeld::Replace`]).
    Replaces {
        /// Who had it.
        holder: Arc<str>,
    },
    /// As [`Acquired::Taken`] or [`Acquired::Replaces`], and the message is to go out with this due time ([`IfHeld::Debounce`]). The same
    /// again for another message of the holder.
    PutOff {
        /// Who had the lock, this id itself included; none if it was free.
        holder: Option<Arc<str>>,
        /// When it is due, in milliseconds since the Unix epoch, on the store's clock.
        due_ms: u64,
    },
    /// Another id has the lock, and this one waits for its end, for the lease ([`IfHeld::KeepLast`]).
    Kept {
        /// Who has it.
        holder: Arc<str>,
    },
    /// While this publish waited for a lease to end, one that had come later has taken the lock ([`IfHeld::Replace`]): it goes out, and is
    /// not to run.
    Outrun {
        /// Who has it.
        holder: Arc<str>,
    },
    /// Never a duplicate: this id holds the lock (renewed), is known to the key, or says that it was published before. `holds` tells
    /// whether it holds the lock now.
    Reentry {
        /// True if the id holds the lock.
        holds: bool,
    },
    /// Another id has the lock, for a lease only: its message is not safe yet.
    Leased {
        /// Who has it.
        holder: Arc<str>,
    },
    /// Another id holds the lock: this publish is a duplicate.
    Held {
        /// Who holds it.
        holder: Arc<str>,
        /// Where that lock is in its life.
        state: LockState,
        /// How long until it lapses by itself.
        expires_in_ms: u64,
    },
}

/// What a commit found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The lock has its full life.
    Held,
    /// As [`Committed::Held`] or [`Committed::Ended`]; and the older id whose lock was set aside is not to run any more.
    Replaced(Box<Superseded>),
    /// A worker's signal that frees the lock overtook this commit (deliveries overtake the broker's confirm); nothing was changed.
    Ended,
    /// Another id holds the lock; nothing was changed.
    Lost {
        /// Who holds it.
        holder: Arc<str>,
    },
}

/// An id that has lost its lock to a newer one, and is not to run any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superseded {
    /// Its lock.
    pub freed: Freed,
    /// The virtual host of its message.
    pub vhost: Arc<str>,
    /// The worker that has had its message in its hands, empty if none is known.
    pub worker: Arc<str>,
    /// Whether a worker had begun it before it was too late.
    pub begun: Begun,
}

/// Whether a worker has begun a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// None is heard to have.
    No,
    /// One has.
    Yes,
}

/// A lock that was freed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freed {
    /// The key.
    pub digest: Digest,
    /// Who held it.
    pub holder: Arc<str>,
    /// The rule that took it.
    pub rule: Arc<str>,
    /// The task.
    pub task: Arc<str>,
    /// The virtual host of the holder's message, empty if unknown.
    pub vhost: Arc<str>,
    /// Why it was freed.
    pub reason: ReleaseReason,
    /// For how long it was held.
    pub held_ms: u64,
    /// True for the lock of an observing rule.
    pub shadow: bool,
}

/// A lock as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRecord {
    /// The key.
    pub digest: Digest,
    /// Who holds it.
    pub holder: Arc<str>,
    /// Where it is in its life.
    pub state: LockState,
    /// The rule that took it.
    pub rule: Arc<str>,
    /// The task.
    pub task: Arc<str>,
    /// What the rule lets be seen of the key.
    pub summary: Arc<str>,
    /// The worker's node name, empty while none is known.
    pub worker: Arc<str>,
    /// The proxy that took it.
    pub proxy: Arc<str>,
    /// The virtual host of the holder's message, empty if unknown.
    pub vhost: Arc<str>,
    /// The queue of the holder's message, empty if unknown.
    pub queue: Arc<str>,
    /// Since when it is held, in milliseconds since the Unix epoch, on the store's clock.
    pub since_ms: u64,
    /// When it lapses by itself, in milliseconds since the Unix epoch, on the store's clock.
    pub expires_ms: u64,
    /// Whether it is the publish lock of the key, and which signal then frees it, or the running lock.
    pub scope: Extent,
    /// How many messages of the holder are published and not settled.
    pub in_flight: u32,
    /// Whether a proxy has carried the holder's message to a worker; else its settlement is not seen, and `in_flight` says nothing of it.
    pub carried: bool,
    /// True for the lock of an observing rule.
    pub shadow: bool,
}

impl LockRecord {
    /// Whether what a worker does with the holder frees it.
    pub fn follows_its_task(&self) -> bool {
        matches!(
            self.scope,
            Extent::Publish(Scope::UntilStarted | Scope::UntilFinished) | Extent::Run
        )
    }

    /// Whether freeing it may let a second run begin beside the first: a run begins, as far as anybody can tell, with its hand-over.
    pub fn runs(&self) -> bool {
        self.scope == Extent::Run || self.state == LockState::Running
    }
}
