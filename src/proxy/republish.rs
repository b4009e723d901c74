//! Messages that the session of one connection wants published anew, by Oncegate's own account at the broker.

use std::task::Context;

use super::answers::Answers;
use super::hub::Hub;
use crate::session::{RepublishFault, Session};

/// What is on its way for one connection.
#[derive(Default)]
pub(super) struct Republishing(Answers<Result<(), RepublishFault>>);

impl Republishing {
    /// Hands over what the session wants published. True if there was something: then its outcome is to be polled for.
    pub(super) fn hand_over(&mut self, session: &mut Session, hub: &Hub) -> bool {
        if session.republishes().is_empty() {
            return false;
        }
        let vhost = session.vhost().clone();
        for (ticket, message) in session.republishes().drain(..) {
            self.0.wait_for(ticket, hub.control().publish(&vhost, message));
        }
        true
    }

    /// Tells the session what has become of them.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session, hub: &Hub) {
        while let Some((ticket, outcome)) = self.0.poll(cx) {
            session.handle_republished(ticket, outcome, hub.now());
        }
    }
}
