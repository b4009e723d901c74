//! The confirm ledger of one channel: which publish of the client became which publish at the broker, and what is owed to whom.
//!
//! Confirm numbers count publishes per channel from 1, from the first `confirm.select` on. They differ between the two legs as soon as
//! a publish is dropped, kept back past a younger one, or was sent before the client asked for confirms.

use std::collections::VecDeque;

use super::publish::Grant;
use crate::amqp::encode;
use crate::amqp::method::basic::{Ack, Nack};

/// What the broker said of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `basic.ack`.
    Ack,
    /// `basic.nack`.
    Nack,
}

/// The broker named a publish that it was never sent: the ledger cannot be trusted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownTag(pub u64);

/// A publish that the broker has been sent, by broker number.
#[derive(Debug)]
struct Slot {
    /// The client's number, 0 if the client counts no confirm for it.
    client: u64,
    grant: Option<Box<Grant>>,
    resolved: bool,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    client_confirms: bool,
    counting: bool,
    shifted: bool,
    client_base: u64,
    client_open: VecDeque<bool>,
    broker_base: u64,
    slots: VecDeque<Slot>,
    grants: usize,
    fresh_acks: Vec<u64>,
    fresh_nacks: Vec<u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        Ledger {
            client_confirms: false,
            counting: false,
            shifted: false,
            client_base: 1,
            client_open: VecDeque::new(),
            broker_base: 1,
            slots: VecDeque::new(),
            grants: 0,
            fresh_acks: Vec::new(),
            fresh_nacks: Vec::new(),
        }
    }
}

impl Ledger {
    /// The client has asked for confirms: its next publish is number 1 (a repeated request does not restart the count).
    pub fn client_selects(&mut self) {
        self.client_confirms = true;
    }

    /// True once the client has asked for confirms.
    pub fn client_confirms(&self) -> bool {
        self.client_confirms
    }

    /// A `confirm.select` has been written to the broker: it counts publishes from here.
    pub fn broker_counts(&mut self) {
        self.counting = true;
    }

    /// True once the broker counts publishes.
    pub fn counting(&self) -> bool {
        self.counting
    }

    /// A publish has arrived. Its number for the client, 0 if the client does not count.
    pub fn arrive(&mut self) -> u64 {
        if !self.client_confirms {
            return 0;
        }
        self.client_open.push_back(true);
        self.client_base + self.client_open.len() as u64 - 1
    }

    /// A publish is being written to the broker. Its number there, if the broker counts.
    pub fn sent(&mut self, client: u64, grant: Option<Box<Grant>>) -> Option<u64> {
        if !self.counting {
            return None;
        }
        let broker = self.broker_base + self.slots.len() as u64;
        self.shifted |= client != broker;
        self.grants += usize::from(grant.is_some());
        self.slots.push_back(Slot {
            client,
            grant,
            resolved: false,
        });
        Some(broker)
    }

    /// The claim of the publish with this number at the broker, while it waits for the broker's word.
    pub fn grant(&self, broker: u64) -> Option<&Grant> {
        self.slots.get(broker.checked_sub(self.broker_base)? as usize)?.grant.as_deref()
    }

    /// The same, to be changed.
    pub fn grant_mut(&mut self, broker: u64) -> Option<&mut Grant> {
        self.slots
            .get_mut(broker.checked_sub(self.broker_base)? as usize)?
            .grant
            .as_deref_mut()
    }

    /// True while both legs count alike, so that the broker's confirms can pass as they are.
    pub fn aligned(&self) -> bool {
        !self.shifted
    }

    /// How many claims wait for the broker's word.
    pub fn open_grants(&self) -> usize {
        self.grants
    }

    /// True while a publish that the client counts has no confirm.
    pub fn owes_client(&self) -> bool {
        !self.client_open.is_empty()
    }

    /// True if this publish is the only one whose fate the client or the broker has not been told.
    pub fn owes_only(&self, client: u64) -> bool {
        let open = self.client_open.iter().zip(self.client_base..).filter(|(open, _)| **open);
        open.map(|(_, number)| number).eq([client]) && self.slots.iter().all(|slot| slot.resolved)
    }

    /// The claims that wait for the broker's word, oldest first.
    pub fn grants_mut(&mut self) -> impl Iterator<Item = &mut Grant> {
        self.slots
            .iter_mut()
            .filter(|slot| !slot.resolved)
            .filter_map(|slot| slot.grant.as_deref_mut())
    }

    /// Takes every claim that waits for the broker's word, as when the channel is lost.
    pub fn take_grants(&mut self) -> Vec<Box<Grant>> {
        self.grants = 0;
        self.slots
            .iter_mut()
            .filter(|slot| !slot.resolved)
            .filter_map(|slot| slot.grant.take())
            .collect()
    }

    /// The broker's word on one publish or on all up to `tag` (`tag` 0 with `multiple` means all). `each` gets the claims that it settles.
    pub fn resolve(&mut self, tag: u64, multiple: bool, outcome: Outcome, mut each: impl FnMut(Box<Grant>)) -> Result<(), UnknownTag> {
        let sent = self.broker_base + self.slots.len() as u64 - 1;
        if tag > sent || (tag == 0 && !multiple) {
            return Err(UnknownTag(tag));
        }
        let last = if tag == 0 { sent } else { tag };
        if last < self.broker_base {
            return Ok(());
        }
        let end = (last - self.broker_base) as usize;
        let start = if multiple { 0 } else { end };
        for index in start..=end {
            let Some(slot) = self.slots.get_mut(index) else { break };
            if slot.resolved {
                continue;
            }
            slot.resolved = true;
            let client = slot.client;
            if let Some(grant) = slot.grant.take() {
                self.grants -= 1;
                each(grant);
            }
            self.confirm(client, outcome);
        }
        while self.slots.front().is_some_and(|slot| slot.resolved) {
            self.slots.pop_front();
            self.broker_base += 1;
        }
        Ok(())
    }

    /// A publish of the client is settled without the broker: it was a duplicate, or was refused.
    pub fn settle(&mut self, client: u64, outcome: Outcome) {
        self.shifted |= client != 0;
        self.confirm(client, outcome);
    }

    fn confirm(&mut self, client: u64, outcome: Outcome) {
        let Some(index) = client.checked_sub(self.client_base) else {
            return;
        };
        let Some(open) = self.client_open.get_mut(index as usize) else {
            return;
        };
        if !std::mem::replace(open, false) {
            return;
        }
        match outcome {
            Outcome::Ack => self.fresh_acks.push(client),
            Outcome::Nack => self.fresh_nacks.push(client),
        }
    }

    /// True if confirms wait to be written to the client.
    pub fn has_confirms(&self) -> bool {
        !self.fresh_acks.is_empty() || !self.fresh_nacks.is_empty()
    }

    /// Forgets the confirms that the broker's own frame, passed on as it is, has just told the client.
    pub fn told(&mut self) {
        self.fresh_acks.clear();
        self.fresh_nacks.clear();
        self.advance();
    }

    /// Writes the confirms that are due: nacks one by one, the acks of the settled prefix as one `multiple`, later ones one by one.
    ///
    /// This is how the broker itself coalesces, so that a `multiple` never covers a publish that is still open.
    pub fn write_confirms(&mut self, channel: u16, out: &mut Vec<u8>) {
        for tag in self.fresh_nacks.drain(..) {
            encode::basic_nack(
                out,
                channel,
                Nack {
                    delivery_tag: tag,
                    multiple: false,
                    requeue: false,
                },
            );
        }
        self.advance();
        self.fresh_acks.sort_unstable();
        let settled = self.fresh_acks.partition_point(|tag| *tag < self.client_base);
        if let Some(last) = settled.checked_sub(1).and_then(|index| self.fresh_acks.get(index)) {
            encode::basic_ack(
                out,
                channel,
                Ack {
                    delivery_tag: *last,
                    multiple: settled > 1,
                },
            );
        }
        for tag in self.fresh_acks.iter().skip(settled) {
            encode::basic_ack(
                out,
                channel,
                Ack {
                    delivery_tag: *tag,
                    multiple: false,
                },
            );
        }
        self.fresh_acks.clear();
    }

    fn advance(&mut self) {
        while self.client_open.front() == Some(&false) {
            self.client_open.pop_front();
            self.client_base += 1;
        }
    }
}
