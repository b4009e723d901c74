//! Results of tasks that the session of one connection wants to hand on.

use std::task::{Context, Poll};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::hub::Hub;
use crate::session::{Fetched, Session, Ticket};

type Answer = (Ticket, Fetched);

/// What is asked for by one connection. Most never ask for anything, and take no memory for it.
#[derive(Default)]
pub(super) struct Fetching(Option<(UnboundedSender<Answer>, UnboundedReceiver<Answer>)>);

impl Fetching {
    /// Hands over what the session asks for. True if there was something: then its answer is to be polled for.
    pub(super) fn hand_over(&mut self, session: &mut Session, hub: &Hub) -> bool {
        if session.fetches().is_empty() {
            return false;
        }
        let (sender, _) = self.0.get_or_insert_with(mpsc::unbounded_channel);
        for (ticket, fetch) in session.fetches().drain(..) {
            let (sender, fetched) = (sender.clone(), hub.results().fetch(fetch));
            tokio::spawn(async move {
                // A connection that has ended needs no answer.
                let _ = sender.send((ticket, fetched.await));
            });
        }
        true
    }

    /// Tells the session what there is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session, hub: &Hub) {
        let Some((_, answers)) = &mut self.0 else { return };
        while let Poll::Ready(Some((ticket, fetched))) = answers.poll_recv(cx) {
            session.handle_fetched(ticket, &fetched, hub.now());
        }
    }
}
