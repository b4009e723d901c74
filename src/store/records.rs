//! What was decided about ids, so that it can be asked for later: a few lines for each id, bounded in number and in time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// So many decisions are kept of one id: the last ones.
pub(super) const EACH: usize = 20;
/// An id with a longer name, in octets, is not recorded.
const LONGEST_ID: usize = 1_024;
/// Nor is a decision with a longer text.
const LONGEST_LINE: usize = 8_192;

/// One decision about an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The id.
    pub id: Arc<str>,
    /// The decision, in one line.
    pub line: String,
}

impl Record {
    /// Whether it is taken: names come from the network.
    pub(super) fn is_fit(&self) -> bool {
        self.id.len() <= LONGEST_ID && self.line.len() <= LONGEST_LINE && !self.line.contains('\n')
    }
}

/// What of the records is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long after the last decision about an id.
    pub life: Duration,
    /// Of how many ids; those that would go first go before.
    pub most: u64,
}

#[derive(Debug)]
struct Kept {
    until_ms: u64,
    lines: VecDeque<String>,
}

/// The records of a memory store.
#[derive(Debug, Default)]
pub(super) struct Records {
    ids: HashMap<Arc<str>, Kept>,
    order: BTreeSet<(u64, Arc<str>)>,
}

impl Records {
    pub(super) fn write(&mut self, records: &[Record], keep: Keep, now: u64) {
        let until_ms = now.saturating_add(keep.life.as_millis() as u64);
        while self.order.first().is_some_and(|(until_ms, _)| *until_ms <= now) {
            self.forget_first();
        }
        for record in records.iter().filter(|record| record.is_fit()) {
            let kept = self.ids.entry(Arc::clone(&record.id)).or_insert_with(|| Kept {
                until_ms,
                lines: VecDeque::new(),
            });
            self.order.remove(&(kept.until_ms, Arc::clone(&record.id)));
            kept.until_ms = until_ms;
            if kept.lines.len() == EACH {
                kept.lines.pop_front();
            }
            kept.lines.push_back(record.line.clone());
            self.order.insert((until_ms, Arc::clone(&record.id)));
        }
        while self.order.len() as u64 > keep.most {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, id)) = self.order.pop_first() {
            self.ids.remove(&id);
        }
    }

    pub(super) fn read(&self, id: &str, now: u64) -> Vec<String> {
        let kept = self.ids.get(id).filter(|kept| kept.until_ms > now);
        kept.map(|kept| kept.lines.iter().cloned().collect()).unwrap_or_default()
    }
}
