//! The messages that are published on a confirming channel and not answered yet.
//!
//! The broker numbers them from 1 and answers by number, one or all up to it, in any order. A message that no queue took it sends back
//! before it answers it; that one is known by what it carries, since a number does not come with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::session::RepublishFault;

/// Where the flags stand in the payload of a content header: after class (2), weight (2) and body size (8).
const PROPERTIES_OFFSET: usize = 12;

/// A published message. `T` is who waits for its answer.
#[derive(Debug)]
pub(super) struct Sent<T> {
    pub(super) exchange: Arc<str>,
    pub(super) routing_key: Arc<str>,
    /// The payload of its content header.
    pub(super) header: Vec<u8>,
    /// What is known against it before its answer.
    pub(super) fault: Option<RepublishFault>,
    pub(super) waits: T,
}

/// The messages that wait for the broker's answer, by their number on the channel.
#[derive(Debug)]
pub(super) struct Ledger<T> {
    sent: BTreeMap<u64, Sent<T>>,
    last: u64,
}

impl<T> Default for Ledger<T> {
    fn default() -> Ledger<T> {
        Ledger {
            sent: BTreeMap::new(),
            last: 0,
        }
    }
}

impl<T> Ledger<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// A message is published.
    pub(super) fn push(&mut self, sent: Sent<T>) {
        self.last += 1;
        self.sent.insert(self.last, sent);
    }

    /// The broker answers a number, or with `multiple` all up to it (0: all that are out): the messages that this concerns. Numbers that
    /// nobody waits for concern none.
    pub(super) fn settle(&mut self, number: u64, multiple: bool) -> Vec<Sent<T>> {
        if !multiple {
            return self.sent.remove(&number).into_iter().collect();
        }
        let first_left = if number == 0 { u64::MAX } else { number.saturating_add(1) };
        let left = self.sent.split_off(&first_left);
        std::mem::replace(&mut self.sent, left).into_values().collect()
    }

    /// The broker sends a message back. Where it cannot be told which of several it is, each of them may be.
    pub(super) fn returned(&mut self, exchange: &[u8], routing_key: &[u8], header: &[u8]) {
        let mut alike: Vec<&mut Sent<T>> = self
            .sent
            .values_mut()
            .filter(|sent| sent.fault.is_none() && sent.exchange.as_bytes() == exchange && sent.routing_key.as_bytes() == routing_key)
            .collect();
        if let Some(same) = alike.iter_mut().find(|sent| properties(&sent.header) == properties(header)) {
            same.fault = Some(RepublishFault::Returned);
            return;
        }
        let fault = if alike.len() == 1 {
            RepublishFault::Returned
        } else {
            RepublishFault::Unknown
        };
        for sent in alike {
            sent.fault = Some(fault);
        }
    }

    /// Forgets those that nobody waits for any more; their answers concern none.
    pub(super) fn forget(&mut self, is_forgotten: impl Fn(&T) -> bool) {
        self.sent.retain(|_, sent| !is_forgotten(&sent.waits));
    }

    /// The channel is gone: what was out. Numbers begin anew.
    pub(super) fn close(&mut self) -> Vec<Sent<T>> {
        std::mem::take(self).sent.into_values().collect()
    }
}

/// What of a content header does not change with how its body is counted.
fn properties(header: &[u8]) -> Option<&[u8]> {
    header.get(PROPERTIES_OFFSET..)
}
