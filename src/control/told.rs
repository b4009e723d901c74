//! Which workers are to be told to publish task events.
//!
//! A worker forgets it when it is started anew, and says so by an event of its own (`worker.online`). Told is each one on that, and when it
//! is heard for the first time, or again after a silence in which that event may have been lost.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

use crate::session::Pulse;

/// After so long a silence a worker may be another one than before. Where several proxies share the events, each hears only some.
const SILENCE: Duration = Duration::from_secs(120);
/// So many workers are remembered: their names come from what clients publish.
const REMEMBERED: usize = 10_000;
/// So many are told in one message.
const AT_ONCE: usize = 100;

/// The workers of one virtual host.
#[derive(Debug, Default)]
pub(super) struct Told {
    heard: HashMap<Arc<str>, Instant>,
    due: BTreeSet<Arc<str>>,
}

impl Told {
    /// A worker tells of itself.
    pub(super) fn heard(&mut self, node: &Arc<str>, pulse: Pulse, now: Instant) {
        if pulse == Pulse::Offline {
            self.heard.remove(node);
            self.due.remove(node);
            return;
        }
        if self.heard.len() >= REMEMBERED && !self.heard.contains_key(node) {
            self.heard.retain(|_, last| now < *last + SILENCE);
            if self.heard.len() >= REMEMBERED {
                return;
            }
        }
        let before = self.heard.insert(Arc::clone(node), now);
        let is_online = matches!(pulse, Pulse::Online { .. });
        if is_online || before.is_none_or(|last| now >= last + SILENCE) {
            self.due.insert(Arc::clone(node));
        }
    }

    /// Some of those that are to be told; each is given once.
    pub(super) fn take_due(&mut self) -> Vec<Arc<str>> {
        let some: Vec<_> = self.due.iter().take(AT_ONCE).cloned().collect();
        for node in &some {
            self.due.remove(node);
        }
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Pulse = Pulse::Heartbeat { every_ms: Some(2_000) };
    const ONLINE: Pulse = Pulse::Online { every_ms: Some(2_000) };

    fn names(told: &mut Told) -> Vec<String> {
        told.take_due().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_worker_is_told_at_first_sight_when_it_starts_and_after_a_silence() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let node: Arc<str> = "w@a".into();
        let mut told = Told::default();
        assert_eq!(names(&mut told), [""; 0]);
        told.heard(&node, BEAT, at(0));
        told.heard(&node, BEAT, at(2));
        assert_eq!(names(&mut told), ["w@a"]);
        told.heard(&node, BEAT, at(100));
        assert_eq!(names(&mut told), [""; 0], "it was told");
        told.heard(&node, ONLINE, at(102));
        assert_eq!(names(&mut told), ["w@a"], "it was started anew");
        told.heard(&node, BEAT, at(222));
        assert_eq!(names(&mut told), ["w@a"], "it may have been started anew");
        told.heard(&node, BEAT, at(223));
        told.heard(&node, Pulse::Offline, at(224));
        assert_eq!(names(&mut told), [""; 0]);
        told.heard(&node, BEAT, at(225));
        assert_eq!(names(&mut told), ["w@a"]);
    }

    #[test]
    fn no_more_workers_are_remembered_than_are_heard() {
        let now = Instant::now();
        let mut told = Told::default();
        for number in 0..=REMEMBERED {
            told.heard(&format!("w{number}@a").into(), BEAT, now);
        }
        assert_eq!(told.heard.len(), REMEMBERED);
        let mut given = 0;
        while let some @ 1.. = told.take_due().len() {
            assert!(some <= AT_ONCE);
            given += some;
        }
        assert_eq!(given, REMEMBERED);
        told.heard(&"late@a".into(), BEAT, now + SILENCE);
        assert_eq!(names(&mut told), ["late@a"]);
    }
}
