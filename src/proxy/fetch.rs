//! Results of tasks that the session of one connection wants to hand on.

use std::task::Context;

use super::answers::Answers;
use super::hub::Hub;
use crate::session::{Fetched, Session};

/// What is asked for by one connection.
#[derive(Default)]
pub(super) struct Fetching(Answers<Fetched>);

impl Fetching {
    /// Hands over what the session asks for. True if there was something: then its answer is to be polled for.
    pub(super) fn hand_over(&mut self, session: &mut Session, hub: &Hub) -> bool {
        let any = !session.fetches().is_empty();
        for (ticket, fetch) in session.fetches().drain(..) {
            self.0.wait_for(ticket, hub.results().fetch(fetch));
        }
        any
    }

    /// Tells the session what there is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, session: &mut Session, hub: &Hub) {
        while let Some((ticket, fetched)) = self.0.poll(cx) {
            session.handle_fetched(ticket, &fetched, hub.now());
        }
    }
}
