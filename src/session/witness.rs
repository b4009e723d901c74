//! What all sessions of a process have seen of tasks: whether a task acknowledges before or after its run, and of which rules no task was
//! ever heard to end.
//!
//! **Early or late.** A worker that acknowledges early does so when a pool child accepts the task, at the moment of its `task-started`; one
//! that acknowledges late does so after the run (celery, `worker/request.py`: `on_accepted`, `on_success`). Both go over different
//! connections, whose order nothing keeps, so only a distance of [`APART_US`] counts. An ack so long after the start of its run speaks for
//! late, an end so long after the ack for early. A task is taken to acknowledge late once [`SURE`] runs in a row have spoken so; one run
//! that speaks otherwise takes that back. Until then, and where no start is heard, nothing is taken for granted: the ack says that the
//! task has begun, and its end is learnt from elsewhere.
//!
//! That a task is known to acknowledge late is not enough to end a run by its ack, since the application may have changed since: the ack
//! must also have come long after the start of this very run, or after its end was heard. So a wrong guess frees nothing.
//!
//! Bounded in the runs and in the tasks that are remembered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::rules::Rule;
use crate::rules::lock::Signal;
use crate::rules::source::Source;

/// Nothing that happens at one time is seen further apart than this, in microseconds.
const APART_US: u64 = 500_000;

/// So many runs in a row must have acknowledged late.
const SURE: u8 = 3;

/// How many runs are remembered; the oldest goes first.
const RUNS: usize = 20_000;

/// Of how many tasks it is remembered how they acknowledge.
const TASKS: usize = 10_000;

/// So many tasks of a rule must have been acknowledged, over this time in microseconds, and none heard to end, before that is told.
const UNHEARD: u32 = 10;
const UNHEARD_US: u64 = 60_000_000;

/// What an ack says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// The run has begun; perhaps it has ended.
    Begun,
    /// The run has ended.
    Ended,
}

/// One delivery of a task that is not known to have ended.
#[derive(Debug)]
struct Run {
    rule: Arc<Rule>,
    task: Arc<str>,
    started_us: Option<u64>,
    acked_us: Option<u64>,
    ended: bool,
    /// Tells it from an earlier run of the same id.
    number: u64,
}

/// What was heard of the tasks of one rule.
#[derive(Debug, Default)]
struct Ends {
    acked: u32,
    first_us: u64,
}

#[derive(Debug, Default)]
struct Seen {
    runs: HashMap<Arc<str>, Run>,
    order: VecDeque<(Arc<str>, u64)>,
    /// The ids for whose results messages may wait, the oldest first, whether or not they have ended.
    carried: HashSet<Arc<str>>,
    carried_order: VecDeque<Arc<str>>,
    next: u64,
    /// How many runs in a row have spoken for late.
    late: HashMap<Arc<str>, u8>,
    /// By rule, while none of its tasks was heard to end.
    silent: HashMap<Arc<str>, Ends>,
    /// The rules of which an end was heard, or it was told that none is.
    known: HashSet<Arc<str>>,
    /// The Redis result backend is read: an end that it tells is not seen here.
    backend: bool,
}

/// What all sessions of a process have seen.
#[derive(Debug, Default)]
pub struct Witness {
    seen: Mutex<Seen>,
}

impl Witness {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // What is half written is at worst one run that is not judged.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker is given a task that holds a lock.
    pub(super) fn delivered(&self, id: &Arc<str>, task: &Arc<str>, rule: &Arc<Rule>) {
        let mut seen = self.seen();
        let number = seen.next;
        seen.next += 1;
        let run = Run {
            rule: Arc::clone(rule),
            task: Arc::clone(task),
            started_us: None,
            acked_us: None,
            ended: false,
            number,
        };
        if rule.carries() && seen.carried.insert(Arc::clone(id)) {
            seen.carried_order.push_back(Arc::clone(id));
            if seen.carried_order.len() > RUNS
                && let Some(oldest) = seen.carried_order.pop_front()
            {
                seen.carried.remove(&oldest);
            }
        }
        seen.runs.insert(Arc::clone(id), run);
        seen.order.push_back((Arc::clone(id), number));
        seen.forget_oldest();
    }

    /// Something was heard of a task. `now_us`: on the clock of all sessions.
    pub(super) fn heard(&self, id: &str, signal: Signal, source: Source, now_us: u64) {
        let mut seen = self.seen();
        let Some(run) = seen.runs.get_mut(id) else { return };
        let rule = Arc::clone(&run.rule);
        match signal {
            Signal::Started => run.started_us = run.started_us.or(Some(now_us)),
            Signal::Succeeded | Signal::Failed => {
                run.ended = true;
                if let Some(acked_us) = run.acked_us {
                    if now_us.saturating_sub(acked_us) >= APART_US {
                        let task = Arc::clone(&run.task);
                        seen.late.remove(&task);
                    }
                    seen.runs.remove(id);
                }
            }
            Signal::Retried | Signal::Revoked | Signal::Expired | Signal::Rejected => {
                seen.runs.remove(id);
            }
            _ => return,
        }
        // A start that is heard promises an end from the same source.
        if signal.is_heard(source, rule.hears) {
            seen.silent.remove(&rule.name);
            if !seen.known.contains(&rule.name) {
                seen.known.insert(Arc::clone(&rule.name));
            }
        }
    }

    /// Whether messages may wait for the result of this task.
    pub(super) fn carries(&self, id: &str) -> bool {
        self.seen().carried.contains(id)
    }

    /// Whether the run that was delivered last has been heard to begin, and not to end.
    pub(super) fn has_begun(&self, id: &str) -> bool {
        let seen = self.seen();
        seen.runs.get(id).is_some_and(|run| run.started_us.is_some() && !run.ended)
    }

    /// A worker has acknowledged a task: what that says, and the rule of which it is to be told that none of its tasks is heard to end.
    pub(super) fn acked(&self, id: &str, now_us: u64) -> (Ack, Option<Arc<Rule>>) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let Some(run) = seen.runs.get_mut(id) else {
            return (Ack::Begun, None);
        };
        run.acked_us = run.acked_us.or(Some(now_us));
        let (rule, ended) = (Arc::clone(&run.rule), run.ended);
        let long_running = run
            .started_us
            .is_some_and(|started_us| now_us.saturating_sub(started_us) >= APART_US);
        let mut sure = false;
        if long_running && (seen.late.len() < TASKS || seen.late.contains_key(&run.task)) {
            let votes = seen.late.entry(Arc::clone(&run.task)).or_default();
            // This run itself is one more that speaks so.
            *votes = votes.saturating_add(1).min(SURE);
            sure = *votes >= SURE;
        }
        if ended {
            seen.runs.remove(id);
        }
        if rule.learns_acks() && (sure || ended) {
            return (Ack::Ended, None);
        }
        let silent = seen.falls_silent(&rule, now_us);
        (Ack::Begun, silent.then_some(rule))
    }

    /// Another configuration: what was told of a rule may have been mended. `backend`: the Redis result backend is read.
    pub fn configured(&self, backend: bool) {
        let mut seen = self.seen();
        seen.backend = backend;
        seen.silent.clear();
        seen.known.clear();
    }
}

impl Seen {
    fn forget_oldest(&mut self) {
        while self.runs.len() > RUNS || self.order.len() > 2 * RUNS {
            let Some((id, number)) = self.order.pop_front() else { return };
            if self.runs.get(&id).is_some_and(|run| run.number == number) {
                self.runs.remove(&id);
            }
        }
    }

    /// One more task of this rule was acknowledged. True once, when many were and none was ever heard to end.
    fn falls_silent(&mut self, rule: &Rule, now_us: u64) -> bool {
        let told_elsewhere = self.backend && rule.hears.hears(Source::Redis);
        if !rule.waits_for_ends() || told_elsewhere || self.known.contains(&rule.name) {
            return false;
        }
        let ends = self.silent.entry(Arc::clone(&rule.name)).or_default();
        if ends.acked == 0 {
            ends.first_us = now_us;
        }
        ends.acked = ends.acked.saturating_add(1);
        if ends.acked < UNHEARD || now_us.saturating_sub(ends.first_us) < UNHEARD_US {
            return false;
        }
        self.silent.remove(&rule.name);
        self.known.insert(Arc::clone(&rule.name));
        true
    }
}

#[cfg(test)]
mod tests;
