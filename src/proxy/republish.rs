//! Messages that the session of one connection wants published anew, by Oncegate's own account at the broker.

use std::task::{Context, Poll};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::hub::Hub;
use crate::session::{RepublishFault, Session, Ticket};

type Outcome = (Ticket, Result<(), RepublishFault>);

/// What is on its way for one connection. Most never have anything, and take no memory for it.
#[derive(Default)]
pub(super) struct Republishing(Option<(UnboundedSender<Outcome>, UnboundedReceiver<Outcome>)>);

impl Republishing {
    /// Hands over what the session wants published. True if there was something: then its outcome is to be polled for.
    pub(super) fn hand_over(&mut self, session: &mut Session, hub: &Hub) -> bool {
        if session.republishes().is_empty() {
            return false;
        }
        let vhost = session.vhost().clone();
        let (sender, _) = self.0.get_or_insert_with(mpsc::unbounded_channel);
        for (ticket, message) in session.republishes().drain(..) {
            let (sender, outcome) = (sender.clone(), hub.control().publish(&vhost, message));
            tokio::spawn(async move {
                // A connection that has ended needs no answer.
                let _ = sender.send((ticket, outcome.await));
            });
        }
        true
    }

    /// Tells the session what has become of them.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session, hub: &Hub) {
        let Some((_, outcomes)) = &mut self.0 else { return };
        while let Poll::Ready(Some((ticket, outcome))) = outcomes.poll_recv(cx) {
            session.handle_republished(ticket, outcome, hub.now());
        }
    }
}
