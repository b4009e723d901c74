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

#[cfg(test)]
mod tests {
    use super::*;

    fn header(body: u8, properties: &str) -> Vec<u8> {
        [&[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, body][..], properties.as_bytes()].concat()
    }

    fn ledger(keys: &[(&str, &str)]) -> Ledger<usize> {
        let mut ledger = Ledger::default();
        for (waits, (routing_key, properties)) in (1..).zip(keys) {
            ledger.push(Sent {
                exchange: "letters".into(),
                routing_key: (*routing_key).into(),
                header: header(1, properties),
                fault: None,
                waits,
            });
        }
        ledger
    }

    fn settled(ledger: &mut Ledger<usize>, number: u64, multiple: bool) -> Vec<(usize, Option<RepublishFault>)> {
        let settled = ledger.settle(number, multiple);
        settled.into_iter().map(|sent| (sent.waits, sent.fault)).collect()
    }

    #[test]
    fn answers_concern_one_or_all_up_to_it_in_any_order() {
        let mut ledger = ledger(&[("q", "a"); 6]);
        assert_eq!(settled(&mut ledger, 5, false), [(5, None)]);
        assert_eq!(settled(&mut ledger, 3, true), [(1, None), (2, None), (3, None)]);
        for (number, multiple) in [(5, false), (2, false), (3, true), (7, false)] {
            assert_eq!(settled(&mut ledger, number, multiple), []);
        }
        assert_eq!(settled(&mut ledger, 0, true), [(4, None), (6, None)]);
        assert!(ledger.is_empty());
        assert_eq!(settled(&mut ledger, u64::MAX, true), []);
    }

    #[test]
    fn what_comes_back_is_known_by_what_it_carries() {
        let returned = Some(RepublishFault::Returned);
        let mut ledger = ledger(&[("q", "a"), ("q", "b"), ("q", "b"), ("r", "a")]);
        // The size of the body is what was sent, whatever stood in the header.
        ledger.returned(b"letters", b"q", &header(9, "b"));
        ledger.returned(b"letters", b"q", &header(9, "b"));
        assert_eq!(settled(&mut ledger, 4, true), [(1, None), (2, returned), (3, returned), (4, None)]);
    }

    #[test]
    fn what_cannot_be_told_apart_may_be_any_of_them() {
        let mut ledger = ledger(&[("q", "a"), ("r", "a"), ("r", "b"), ("s", "c")]);
        ledger.returned(b"letters", b"q", &header(1, "changed"));
        ledger.returned(b"letters", b"r", &header(1, "changed"));
        ledger.returned(b"other", b"s", &header(1, "c"));
        let [returned, unknown] = [RepublishFault::Returned, RepublishFault::Unknown].map(Some);
        assert_eq!(
            settled(&mut ledger, 4, true),
            [(1, returned), (2, unknown), (3, unknown), (4, None)]
        );
    }

    #[test]
    fn numbers_of_what_is_forgotten_are_not_given_again_but_on_a_new_channel() {
        let mut ledger = ledger(&[("q", "a"), ("q", "b")]);
        ledger.forget(|waits| *waits == 1);
        assert_eq!(settled(&mut ledger, 1, false), []);
        let left: Vec<usize> = ledger.close().into_iter().map(|sent| sent.waits).collect();
        assert_eq!(left, [2]);
        ledger.push(Sent {
            exchange: "".into(),
            routing_key: "q".into(),
            header: Vec::new(),
            fault: None,
            waits: 9,
        });
        assert_eq!(settled(&mut ledger, 1, false), [(9, None)]);
    }
}
