//! Answers that the session of one connection waits for, from elsewhere in this process.

use std::task::{Context, Poll};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::session::Ticket;

type Answer<T> = (Ticket, T);
type Channel<T> = (UnboundedSender<T>, UnboundedReceiver<T>);

/// What was asked for by one connection and not answered. Most never ask for anything, and take no memory for it.
pub(super) struct Answers<T>(Option<Channel<Answer<T>>>);

impl<T> Default for Answers<T> {
    fn default() -> Answers<T> {
        Answers(None)
    }
}

impl<T: Send + 'static> Answers<T> {
    /// Waits for this answer.
    pub(super) fn wait_for(&mut self, ticket: Ticket, answer: impl Future<Output = T> + Send + 'static) {
        let (sender, _) = self.0.get_or_insert_with(mpsc::unbounded_channel);
        let sender = sender.clone();
        tokio::spawn(async move {
            // A connection that has ended needs no answer.
            let _ = sender.send((ticket, answer.await));
        });
    }

    /// The next one that has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Option<Answer<T>> {
        let (_, answers) = self.0.as_mut()?;
        match answers.poll_recv(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending => None,
        }
    }
}
