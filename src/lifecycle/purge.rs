//! The locks of tasks whose queue was purged or deleted: those that were queued and not delivered are freed, by a scan in the background.
//!
//! A session tells of a queue once the broker has answered ([`crate::session::Event::Emptied`]). One scan at a time goes through the locks
//! of all queues that were emptied since the last one began, and says of each that may go that it was purged
//! ([`Signal::Purged`]); whether it is still that holder's, and still waits, the store looks at itself.
//!
//! Only a lock that was taken before the client asked for the purge may go, by the clock of the store: a message that was published later
//! may lie in the queue. So may one whose publish was on its way at that very moment: if its lock goes, its delivery takes the key again
//! where no other task has taken it meanwhile.
//!
//! Not covered: a queue that goes with its connection, its last consumer or its time (exclusive, auto-delete, `x-expires`), or that is
//! emptied past every proxy, because nobody tells of it; a lock whose queue was not known at its publish; one whose holder's message is
//! acknowledged by the broker only after the scan. They end with their lives, or by an operator.
//!
//! Bounded: in the queues that wait to be scanned for, and in the locks of one scan.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::logging::OncePerMinute;
use crate::metrics::Metrics;
use crate::rules::lock::{LockRecord, LockState, Nonce, Request, Signal};
use crate::rules::outcome::ExceptionReason;
use crate::rules::source::Source;
use crate::store::{Client, Filter, QueueName, Store, Unavailable};

/// How many queues wait to be scanned for at most.
const WAITING_MAX: usize = 1_000;
const BOUNDS: Bounds = Bounds {
    freed: 100_000,
    page: 5_000,
    batch: 500,
};
/// How long a scan waits for further queues: one that is asked for by many purges in a row serves them all.
const GATHER: Duration = Duration::from_millis(100);
/// How long the store may take to do them.
const BATCH_TIME: Duration = Duration::from_secs(30);
/// The pauses before a scan that the store has not let come to its end begins anew.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How much one scan may do.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How many locks it frees at most.
    freed: usize,
    /// How many locks are asked for at once.
    page: usize,
    /// How many orders are given before the store has done them.
    batch: usize,
}

/// Takes word of emptied queues. All clones speak of the same.
#[derive(Clone)]
pub struct Purges {
    shared: Arc<Shared>,
}

struct Shared {
    /// The oldest first; each queue once.
    waiting: Mutex<VecDeque<Emptied>>,
    more: Notify,
    metrics: Arc<Metrics>,
    dropped: OncePerMinute,
}

/// A queue, and when it was emptied for the last time: no message that was published later is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Emptied {
    queue: QueueName,
    at: Instant,
}

impl std::fmt::Debug for Purges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Purges").field("waiting", &*self.waiting()).finish_non_exhaustive()
    }
}

impl Purges {
    /// With nothing to scan for.
    pub fn new(metrics: Arc<Metrics>) -> Purges {
        Purges {
            shared: Arc::new(Shared {
                waiting: Mutex::default(),
                more: Notify::new(),
                metrics,
                dropped: OncePerMinute::default(),
            }),
        }
    }

    /// A queue was purged or deleted; the client asked for it at that time. Cheap: the locks are looked for in the background.
    pub fn emptied(&self, queue: QueueName, at: Instant) {
        self.add(Emptied { queue, at });
        self.shared.more.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Emptied>> {
        // Each change of it is one step.
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut emptied: Emptied) {
        let mut waiting = self.waiting();
        if let Some(index) = waiting.iter().position(|other| other.queue == emptied.queue)
            && let Some(other) = waiting.remove(index)
        {
            emptied.at = emptied.at.max(other.at);
        }
        waiting.push_back(emptied);
        let dropped = if waiting.len() > WAITING_MAX { waiting.pop_front() } else { None };
        drop(waiting);
        if let Some(Emptied { queue, .. }) = dropped {
            self.shared.metrics.rule("").count_exception(ExceptionReason::ReleaseGivenUp);
            if let Some(suppressed) = self.shared.dropped.allow("") {
                tracing::warn!(
                    vhost = &*queue.vhost,
                    queue = &*queue.queue,
                    suppressed,
                    "too many queues were emptied at once: the locks of this one end with their lives; such lines are written once a minute"
                );
            }
        }
    }

    fn take(&self) -> VecDeque<Emptied> {
        std::mem::take(&mut *self.waiting())
    }
}

/// Scans for what is told, one scan after another.
pub(super) async fn run(store: Store, purges: Purges) -> Infallible {
    let store = store.client();
    let mut pause = FIRST_PAUSE;
    loop {
        purges.shared.more.notified().await;
        tokio::time::sleep(GATHER).await;
        let emptied = purges.take();
        if emptied.is_empty() {
            continue;
        }
        match scan(&store, &emptied, BOUNDS).await {
            Ok(Scanned { found, end }) => {
                pause = FIRST_PAUSE;
                if end == End::Limit {
                    tracing::warn!(
                        queues = emptied.len(),
                        limit = BOUNDS.freed,
                        "queues were emptied that held more tasks than one scan frees the locks of: the others end with their lives"
                    );
                } else if found > 0 {
                    tracing::info!(
                        queues = emptied.len(),
                        locks = found,
                        "the locks of tasks that were purged are freed"
                    );
                }
            }
            Err(why) => {
                tracing::warn!(queues = emptied.len(), %why, "the locks of tasks that were purged cannot be freed now: it is tried again");
                tokio::time::sleep(pause).await;
                for Emptied { queue, at } in emptied {
                    purges.emptied(queue, at);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What a scan did.
#[derive(Debug, PartialEq, Eq)]
struct Scanned {
    /// How many locks it told the store of.
    found: usize,
    end: End,
}

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It has seen every lock.
    All,
    /// It has freed as many as it may.
    Limit,
}

/// Frees the locks of the tasks that lay in these queues.
async fn scan(store: &Client, emptied: &VecDeque<Emptied>, bounds: Bounds) -> Result<Scanned, Unavailable> {
    let taken_before = taken_before(emptied, store.now_ms().await?, Instant::now());
    let filter = Filter {
        queues: Some(taken_before.keys().cloned().collect()),
        ..Filter::default()
    };
    let (mut found, mut cursor) = (0, None);
    loop {
        let page = store.list(&filter, cursor.as_deref(), bounds.page).await?;
        let mut gone: Vec<LockRecord> = page.locks;
        gone.retain(|lock| was_purged(lock, &taken_before));
        for batch in gone.chunks(bounds.batch) {
            let batch = batch.get(..bounds.freed - found).unwrap_or(batch);
            found += batch.len();
            give(store, batch).await?;
            if found == bounds.freed {
                return Ok(Scanned { found, end: End::Limit });
            }
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(Scanned { found, end: End::All });
        }
    }
}

/// Tells the store of some, and waits until it has heard: the orders of a large scan must not push out others.
async fn give(store: &Client, locks: &[LockRecord]) -> Result<(), Unavailable> {
    for lock in locks {
        store.tell(Request::Signal {
            id: Arc::clone(&lock.holder),
            // It is no settlement.
            settlement: Nonce(0),
            signal: Signal::Purged,
            source: Source::Other,
            worker: "".into(),
        });
    }
    tokio::time::timeout(BATCH_TIME, store.flush())
        .await
        .map_err(|_| Unavailable::Timeout)
}

/// When each queue was emptied by the clock of the store, which showed `now_ms` at `read` or before: never too late.
fn taken_before(emptied: &VecDeque<Emptied>, now_ms: u64, read: Instant) -> HashMap<QueueName, u64> {
    let before = |emptied: &Emptied| {
        let ago_ms = read.saturating_duration_since(emptied.at).as_millis() as u64 + 1;
        (emptied.queue.clone(), now_ms.saturating_sub(ago_ms))
    };
    emptied.iter().map(before).collect()
}

/// Whether the holder's message lay in one of the queues when that was emptied, as far as the lock tells.
fn was_purged(lock: &LockRecord, taken_before: &HashMap<QueueName, u64>) -> bool {
    let queue = QueueName {
        vhost: Arc::clone(&lock.vhost),
        queue: Arc::clone(&lock.queue),
    };
    lock.state == LockState::Queued && taken_before.get(&queue).is_some_and(|before| lock.since_ms < *before)
}
