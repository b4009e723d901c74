//! Tasks that were superseded while a worker holds them for their time: it is told never to run them.
//!
//! Its revoke is put straight into the consumer of its mailbox, as a question is. The worker stores that the task was revoked at once, and
//! acknowledges its message when its time comes. What a worker has begun goes on.

use std::sync::Arc;

use super::{ClientEnd, Now, Phase, Session};
use crate::celery::control::Ask;

impl Session {
    /// Tells the worker of this node, whose mailbox is consumed on this connection, never to run these tasks.
    pub fn handle_revoke(&mut self, node: &str, ids: &[Arc<str>], now: Now) {
        self.shared.now = now;
        if self.phase != Phase::Running || self.client_end != ClientEnd::Open {
            return;
        }
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        for channel in &mut self.channels.open {
            if channel.put_letter(&mut self.shared, node, Ask::Revoke(&ids), None) {
                break;
            }
        }
        self.settle();
    }
}
