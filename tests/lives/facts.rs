//! What is true of each task, whoever knows it, and the story of the run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use oncegate::rules::lock::{Digest, LockRecord};

/// How many events a story has.
const STORY: usize = 4_000;
/// How many of them are shown.
const SHOWN: usize = 200;

/// One task id. The flags are facts that do not exclude each other.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact about one task")]
pub struct Task {
    pub id: Arc<str>,
    pub row: usize,
    pub key: usize,
    pub expires_ms: Option<u64>,
    /// It is a member of a canvas.
    pub member: bool,
    pub digest: Option<Digest>,
    /// Its producer was told that the broker has it.
    pub confirmed: bool,
    /// The broker has had it.
    pub reached: bool,
    /// How often a worker began it, and how often one came to an end with it.
    pub begun: u32,
    pub ended: u32,
    /// A worker acknowledged it.
    pub acked: bool,
    /// It was dropped as a duplicate, at its publish or its delivery.
    pub dropped: bool,
    pub revoked: bool,
    pub purged: bool,
    /// A worker has had it in its hands.
    pub delivered: bool,
    /// A scan for purged tasks did not take its lock for one of them.
    pub passed_over: bool,
    pub expired: bool,
    /// A worker published it again.
    pub retried: bool,
    /// A message of it was published without the store's decision, or the store has forgotten what it knew of it.
    pub unchecked: bool,
    /// A message of it went to a worker without the store's decision.
    pub handed_unchecked: bool,
    /// A copy of it was delivered to a second worker, or while the first still ran it.
    pub doubled: bool,
    /// Its producer published it again, since it did not hear that the broker has it.
    pub republished: bool,
    /// A connection ended before the broker's word on a publish of it was heard.
    pub unconfirmed: bool,
    /// What was to be told of it was lost with a proxy.
    pub untold: bool,
    /// Its lock lapsed although it was not done, as is documented.
    pub lapsed: bool,
    /// When the store last heard something that ends its lock.
    pub heard_ms: Option<u64>,
    /// When a publish of it was last written, or a message of it went back to its queue; and when a worker last began it.
    pub came_ms: u64,
    pub begun_ms: u64,
    /// When the last run of it ended.
    pub ended_ms: Option<u64>,
}

/// An event of the story: when, of which rule and key if of one, and what.
type Told = (u64, Option<(usize, usize)>, String);

#[derive(Default)]
pub struct Facts {
    pub tasks: Vec<Task>,
    /// Each lock as it was after the last step that concerned it.
    pub locks: BTreeMap<Digest, LockRecord>,
    story: VecDeque<Told>,
    pub now_ms: u64,
}

impl Facts {
    pub fn index(id: &str) -> usize {
        id[1..].parse().expect("an id of this simulation")
    }

    pub fn add(&mut self, row: usize, key: usize, expires_ms: Option<u64>) -> usize {
        let index = self.tasks.len();
        self.tasks.push(Task {
            id: format!("t{index}").into(),
            row,
            key,
            expires_ms,
            ..Task::default()
        });
        index
    }

    /// Something happened to a task.
    pub fn note(&mut self, task: usize, what: impl std::fmt::Display) {
        let of = (self.tasks[task].row, self.tasks[task].key);
        self.tell(Some(of), format!("t{task} {what}"));
    }

    /// Something happened to all.
    pub fn note_all(&mut self, what: impl std::fmt::Display) {
        self.tell(None, format!("── {what}"));
    }

    fn tell(&mut self, of: Option<(usize, usize)>, what: String) {
        if self.story.len() == STORY {
            self.story.pop_front();
        }
        self.story.push_back((self.now_ms, of, what));
    }

    /// Ends the run with the story of this task's key.
    pub fn fail(&self, task: usize, what: impl std::fmt::Display) -> ! {
        let of = (self.tasks[task].row, self.tasks[task].key);
        let mut lines: Vec<String> = self
            .story
            .iter()
            .filter(|(_, about, _)| about.is_none_or(|about| about == of))
            .map(|(ms, _, what)| format!("{:>9.3} {what}", *ms as f64 / 1000.0))
            .collect();
        lines.drain(..lines.len().saturating_sub(SHOWN));
        panic!("{}\nt{task} of rule r{}, key {}: {what}", lines.join("\n"), of.0, of.1);
    }
}
