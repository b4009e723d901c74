//! The time at which a message expires, written when it is published (`expires_with_lock`).

use std::sync::Arc;

use super::Shared;
use super::event::Event;
use super::publish::Grant;
use crate::amqp::content::splice_header;
use crate::amqp::frame::{self, Split};
use crate::amqp::table::FieldValue;
use crate::celery::instant::write_iso8601;
use crate::rules::Expiry;

impl Shared {
    /// Writes the header `expires` of a publish, if it is to expire with its lock; the property `expiration` stays as it is. `header_at`:
    /// where the content header stands in the frames.
    pub(super) fn write_expiry(&mut self, grant: &mut Grant, frames: &mut Vec<u8>, header_at: usize) {
        let why = match std::mem::replace(&mut grant.expiry, Expiry::Own) {
            Expiry::Own => return,
            Expiry::Unwritable(why) => why,
            Expiry::WithLock { at_ms, else_unstarted_ms } => {
                let text = write_iso8601(at_ms);
                let written = text.and_then(|text| with_expires(frames, header_at, text.as_bytes(), self.frame_max));
                if let Some(written) = written {
                    *frames = written;
                    return;
                }
                Arc::make_mut(&mut grant.note).unstarted_ms = else_unstarted_ms;
                "its headers have no room for it"
            }
        };
        self.events.push(Event::ExpiryKept {
            rule: Arc::clone(&grant.rule),
            why,
            task: Arc::clone(&grant.note.task),
            id: Arc::clone(&grant.claim.id),
        });
    }
}

/// The frames of a message with that header `expires`; `None` if it cannot be written. `frame_max`: in octets, 0 for no limit.
pub(super) fn with_expires(frames: &[u8], header_at: usize, text: &[u8], frame_max: usize) -> Option<Vec<u8>> {
    with_header(frames, header_at, b"expires", text, frame_max)
}

/// The frames of a message with this header; `None` if it cannot be written. `frame_max`: in octets, 0 for no limit.
pub(super) fn with_header(frames: &[u8], header_at: usize, name: &[u8], text: &[u8], frame_max: usize) -> Option<Vec<u8>> {
    let (method, rest) = frames.split_at_checked(header_at)?;
    let Split::Frame(header) = frame::split(rest, usize::MAX) else {
        return None;
    };
    let spliced = splice_header(&header, name, &FieldValue::LongStr(text), frame_max).ok()?;
    let body = rest.get(header.raw.len()..)?;
    Some([method, &spliced, body].concat())
}
