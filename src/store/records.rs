//! What was decided about ids, so that it can be asked for later: a few lines for each id, bounded in number and in time.

pub(super) mod pack;

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
        self.id.len() <= LONGEST_ID && self.line.len() <= LONGEST_LINE && !self.line.contains(['\n', '\u{1}'])
    }
}

/// What of the records is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long after the last decision about an id.
    pub life: Duration,
    /// So many in all; the ids that would go first go before.
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
    /// How many decisions there are of all ids.
    count: u64,
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
                self.count -= 1;
            }
            kept.lines.push_back(pack::pack(&record.id, &record.line));
            self.count += 1;
            self.order.insert((until_ms, Arc::clone(&record.id)));
        }
        while self.count > keep.most && !self.order.is_empty() {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, id)) = self.order.pop_first() {
            let gone = self.ids.remove(&id).map_or(0, |kept| kept.lines.len() as u64);
            self.count -= gone;
        }
    }

    pub(super) fn read(&self, id: &str, now: u64) -> Vec<String> {
        let kept = self.ids.get(id).filter(|kept| kept.until_ms > now);
        kept.map(|kept| kept.lines.iter().map(|held| pack::unpack(id, held)).collect())
            .unwrap_or_default()
    }
}
