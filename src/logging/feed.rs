//! Decisions as they are made, for whoever watches: the last ones, and each new one. Bounded: who reads too slowly misses some, and hears how
//! many; nothing ever waits for a reader.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::broadcast;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::decisions::{Decision, DecisionKind};
use super::format;
use crate::rules::lock::Digest;

/// So many decisions are kept, and so many wait for one reader.
const KEPT: usize = 1_000;
/// So many of duplicates wait to be collected.
const COLLECTED: usize = 10_000;

/// A decision, and when it was made.
#[derive(Debug)]
pub struct Made {
    /// When.
    pub at: SystemTime,
    /// Whether it is about a duplicate.
    pub kind: DecisionKind,
    /// The decision.
    pub decision: Decision,
}

impl Made {
    /// As JSON, with the names that a line of the log has; `instance` is this proxy.
    pub fn to_json(&self, instance: &str) -> Value {
        let Decision {
            event,
            rule,
            decision,
            reason,
            mode,
            vhost,
            task,
            id,
            holder,
            digest,
            client,
            limit,
        } = &self.decision;
        let known = [
            ("ts", Some(format::timestamp_of(self.at))),
            ("event", Some((*event).to_owned())),
            ("rule", Some(rule.to_string())),
            ("decision", Some((*decision).to_owned())),
            ("reason", reason.map(str::to_owned)),
            ("mode", Some((*mode).to_owned())),
            ("vhost", vhost.as_deref().map(str::to_owned)),
            ("task", Some(task.to_string())),
            ("id", Some(id.to_string())),
            ("holder", holder.as_deref().map(str::to_owned)),
            ("digest", digest.map(Digest::to_hex)),
            ("client", client.map(|client| client.to_string())),
            ("limit", limit.as_ref().map(|limit| limit.limit.to_string())),
            ("instance", Some(instance.to_owned())),
        ];
        let mut json: Value = known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        if let Some(limit) = limit {
            json["wait_ms"] = limit.wait_ms.into();
        }
        json
    }
}

/// What has been decided in this process.
#[derive(Debug)]
pub struct Feed {
    watchers: AtomicUsize,
    kept: Mutex<Kept>,
    sender: broadcast::Sender<Arc<Made>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The last ones.
    last: VecDeque<Arc<Made>>,
    /// What was decided about duplicates since the last collection, if anybody collects.
    collected: Option<VecDeque<Arc<Made>>>,
    /// How many more there were.
    missed: u64,
}

impl Default for Feed {
    fn default() -> Feed {
        Feed {
            watchers: AtomicUsize::new(0),
            kept: Mutex::default(),
            sender: broadcast::Sender::new(KEPT),
        }
    }
}

impl Feed {
    /// Whether a decision of this kind is kept: of other than duplicates only while somebody watches, since they are as many as messages.
    pub(super) fn wants(&self, kind: DecisionKind) -> bool {
        kind == DecisionKind::Duplicate || self.watchers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn push(&self, kind: DecisionKind, decision: Decision) {
        let made = Arc::new(Made {
            at: SystemTime::now(),
            kind,
            decision,
        });
        let mut kept = self.kept();
        if kept.last.len() == KEPT {
            kept.last.pop_front();
        }
        kept.last.push_back(Arc::clone(&made));
        if kind == DecisionKind::Duplicate {
            kept.collect(&made);
        }
        drop(kept);
        // Mostly nobody watches.
        let _ = self.sender.send(made);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last decisions, `limit` at most, the newest first.
    pub fn recent(&self, limit: usize) -> Vec<Arc<Made>> {
        self.kept().last.iter().rev().take(limit).cloned().collect()
    }

    /// Whether what is decided about duplicates waits to be collected, from now on. Whoever collects is not woken: a decision costs no more
    /// than a place in a list.
    pub fn collect(&self, is_collected: bool) {
        let mut kept = self.kept();
        if is_collected {
            kept.collected.get_or_insert_default();
        } else {
            (kept.collected, kept.missed) = (None, 0);
        }
    }

    /// Takes what waits to be collected, `most` at most, the oldest first; and how many did not find room since the last time.
    pub fn take_collected(&self, most: usize) -> (Vec<Arc<Made>>, u64) {
        let mut kept = self.kept();
        let missed = std::mem::take(&mut kept.missed);
        let Some(collected) = &mut kept.collected else {
            return (Vec::new(), missed);
        };
        let count = collected.len().min(most);
        (collected.drain(..count).collect(), missed)
    }

    /// Watches from now on: decisions of every kind are kept as long as somebody does.
    pub fn watch(self: &Arc<Feed>) -> Watch {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watch {
            decisions: BroadcastStream::new(self.sender.subscribe()),
            feed: Arc::clone(self),
        }
    }
}

impl Kept {
    fn collect(&mut self, made: &Arc<Made>) {
        match &mut self.collected {
            Some(collected) if collected.len() < COLLECTED => collected.push_back(Arc::clone(made)),
            Some(_) => self.missed += 1,
            None => {}
        }
    }
}

/// Somebody who watches: a stream of decisions that ends with the process.
#[derive(Debug)]
pub struct Watch {
    feed: Arc<Feed>,
    decisions: BroadcastStream<Arc<Made>>,
}

/// What a watcher is told.
#[derive(Debug)]
pub enum Told {
    /// A decision.
    Made(Arc<Made>),
    /// So many came faster than they were read, and are not told.
    Missed(u64),
}

impl Stream for Watch {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        let next = Pin::new(&mut self.decisions).poll_next(cx);
        next.map(|next| {
            next.map(|told| match told {
                Ok(made) => Told::Made(made),
                Err(BroadcastStreamRecvError::Lagged(missed)) => Told::Missed(missed),
            })
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.feed.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::super::tests::dropped;
    use super::super::{DecisionLog, Decisions};
    use super::*;

    fn decision(id: usize) -> Decision {
        Decision {
            decision: "forwarded",
            reason: None,
            holder: None,
            ..dropped(&id.to_string())
        }
    }

    #[tokio::test]
    async fn who_reads_too_slowly_hears_how_many_are_missed() {
        let log = DecisionLog::new(Decisions::None, 0);
        let mut watch = log.feed().watch();
        for id in 0..KEPT * 3 {
            log.log(DecisionKind::Other, decision(id));
        }
        let Some(Told::Missed(missed)) = watch.next().await else {
            panic!("some must be missed")
        };
        let Some(Told::Made(first)) = watch.next().await else {
            panic!("the rest is told")
        };
        assert_eq!(*first.decision.id, *missed.to_string());
        assert!(missed as usize <= KEPT * 2, "{missed}");
    }

    #[test]
    fn duplicates_are_collected_in_bounded_number() {
        let log = DecisionLog::new(Decisions::None, 0);
        let made = |range: std::ops::Range<usize>| range.for_each(|id| log.log(DecisionKind::Duplicate, decision(id)));
        let take = |most| {
            let (collected, missed) = log.feed().take_collected(most);
            let ids: Vec<String> = collected.iter().map(|made| made.decision.id.to_string()).collect();
            (ids, missed)
        };
        made(0..5);
        assert_eq!(take(9), (Vec::new(), 0), "nobody collects");
        log.feed().collect(true);
        made(5..8);
        let _watch = log.feed().watch();
        log.log(DecisionKind::Other, decision(8));
        log.feed().collect(true);
        assert_eq!(take(2), (vec!["5".to_owned(), "6".to_owned()], 0));
        assert_eq!(take(9), (vec!["7".to_owned()], 0), "only duplicates");
        made(0..COLLECTED + 7);
        let (ids, missed) = take(COLLECTED);
        assert_eq!((ids.len(), missed), (COLLECTED, 7));
        assert_eq!(take(1), (Vec::new(), 0));
        made(0..1);
        log.feed().collect(false);
        assert_eq!(take(1), (Vec::new(), 0));
    }

    #[tokio::test]
    async fn what_is_no_duplicate_is_kept_only_while_somebody_watches() {
        let log = DecisionLog::new(Decisions::None, 0);
        assert!(!log.wants(DecisionKind::Other) && log.wants(DecisionKind::Duplicate));
        let (one, other) = (log.feed().watch(), log.feed().watch());
        drop(one);
        assert!(log.wants(DecisionKind::Other));
        drop(other);
        assert!(!log.wants(DecisionKind::Other));
        log.log(DecisionKind::Other, decision(1));
        assert!(log.feed().recent(1).is_empty());
    }
}
