//! The time at which a message is due, written when it is published (`retry_delays`, `debounce`).

use std::sync::Arc;

use super::Shared;
use super::channel::Collect;
use super::event::{Event, PublishEvent};
use super::expiry::with_header;
use super::publish::Grant;
use crate::amqp::frame::{self, Split};
use crate::celery::body::Body;
use crate::celery::instant::write_iso8601;
use crate::celery::task::Task;
use crate::rules::beat::Entry;
use crate::rules::outcome::PublishDecision;
use crate::rules::{Due, Facts, Rule, RuleSet, Verdict};

/// The decision about a publish, with the entry that it is of, and its frames if they are to be others than came.
pub(super) struct Decided {
    pub verdict: Verdict,
    pub entry: Option<Entry>,
    pub frames: Option<Vec<u8>>,
}

impl Shared {
    /// Asks the rules about a publish, and writes the header `eta` if they give it a due time of their own.
    pub(super) fn decide(&mut self, rules: &RuleSet, facts: &Facts<'_>, body: &Body, collect: &Collect) -> Decided {
        let publishing = rules.decide_publish(facts, body, self.now.unix_ms);
        let mut decided = Decided {
            verdict: publishing.verdict,
            entry: publishing.entry,
            frames: None,
        };
        let why = match publishing.due {
            Due::Own => return decided,
            Due::Unwritable(why) => why,
            Due::At(at_ms) => {
                let text = write_iso8601(at_ms);
                decided.frames =
                    text.and_then(|text| with_header(&collect.frames, collect.header_at, b"eta", text.as_bytes(), self.frame_max));
                if decided.frames.is_some() {
                    return decided;
                }
                decided.verdict = rules.decide(facts, body, self.now.unix_ms);
                if let Verdict::Claim(claimed) = &mut decided.verdict {
                    claimed.if_held = claimed.if_held.at_once();
                }
                "its headers have no room for it"
            }
        };
        if let Some(rule) = decided.verdict.amending() {
            self.events.push(Event::DueKept {
                rule: Arc::clone(rule),
                why,
                task: Arc::from(&*facts.task.name),
                id: Arc::from(&*facts.task.id),
            });
        }
        decided
    }

    /// Writes the header `eta` of a publish whose run is put off, unless its own is later.
    pub(super) fn write_due(grant: &Grant, frames: &mut Vec<u8>, frame_max: usize) {
        let Some(due_ms) = grant.due_ms.and_then(|due_ms| i64::try_from(due_ms).ok()) else {
            return;
        };
        let due_ms = grant.eta_ms.map_or(due_ms, |own| own.max(due_ms));
        let Split::Frame(method) = frame::split(frames, usize::MAX) else {
            return;
        };
        let header_at = method.raw.len();
        let text = write_iso8601(due_ms);
        // There is room for it: a time was written there when the publish came, or its own is as long.
        if let Some(written) = text.and_then(|text| with_header(frames, header_at, b"eta", text.as_bytes(), frame_max)) {
            *frames = written;
        }
    }

    /// A publish under a rule that has no say on its key: it passes.
    pub(super) fn pass_keyless(&mut self, rule: Arc<Rule>, task: &Task<'_>) {
        self.events.push(Event::Publish(PublishEvent {
            rule,
            decision: PublishDecision::Forwarded,
            reason: "keyless",
            id: Arc::from(&*task.id),
            task: Arc::from(&*task.name),
            digest: None,
            holder: None,
        }));
    }
}
