//! What one channel has delivered and the client has not yet settled.
//!
//! The client's delivery tags are the broker's, until a delivery goes to the client later than one that came after it. From then on they
//! are Oncegate's own: each delivery gets a tag above all before it, so that what the client settles up to a tag is what it has seen up to
//! that tag. They agree with the broker's again as soon as those have come up to them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::hear::Mailbox;
use super::park::Newest;
use super::renew::Hold;
use super::window::{Via, Window};
use crate::rules::lock::Nonce;

/// How far the client is with a delivery that it was handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// The client has it.
    Shown,
    /// The client has settled it.
    Settled,
}

/// What is known of a delivery that the client was handed.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The task id, where a rule may care for the task.
    pub task: Option<Arc<str>>,
    /// The delivery as the store knows it, if it was asked about it.
    pub asked: Option<Nonce>,
    /// The locks that it holds, as long as the client has it.
    pub hold: Option<Box<Hold>>,
    /// Which consumer at the broker it came to.
    pub source: Via,
    /// Its newest parked copy, if there is one.
    pub parked: Option<Box<Newest>>,
    /// Oncegate has made it, to have the result of this task read.
    pub reads: Option<Arc<str>>,
}

#[derive(Debug)]
struct Delivery {
    /// The client's tag.
    tag: u64,
    /// The broker's tag.
    broker: u64,
    sight: Sight,
    known: Known,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The client has asked for it; the broker has not answered.
    Asked,
    /// The broker sends to it.
    Running,
    /// Oncegate has cancelled it at the broker, of which the client knows nothing.
    Stopped,
    /// The client has cancelled it before the broker's answer, which is still to come.
    Left,
}

/// A consumer of the client.
#[derive(Debug)]
pub struct Consumer {
    /// Its tag; empty while the broker has not named it yet.
    pub tag: Vec<u8>,
    /// True if its deliveries need no acknowledgement: the broker forgets them when it sends them.
    pub no_ack: bool,
    /// The mailbox of a worker, if that is what it consumes.
    pub mailbox: Option<Box<Mailbox>>,
    /// The queue that it consumes, if its name is known.
    pub queue: Option<Arc<str>>,
    /// How far it has come.
    pub standing: Standing,
    /// What the broker lets out to it.
    pub window: Window,
}

impl Consumer {
    /// True if it can be cancelled. `RabbitMQ` 3.10 loses the whole channel by a cancel of a consumer that it has not answered yet: the
    /// answer comes from the queue, and the channel looks for the consumer then.
    pub fn is_cancellable(&self) -> bool {
        self.standing == Standing::Running && !self.tag.is_empty()
    }
}

/// How to pass a client's settlement on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// As it is.
    Verbatim,
    /// With this tag in place of the client's.
    UpTo(u64),
    /// One by one with these tags: what the client has seen and what it has not are mixed, or its tags are not the broker's.
    Singly(Vec<u64>),
    /// Not at all: it would settle nothing that the client has seen.
    Swallow,
}

/// What is known of the deliveries that are still on their way from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Coming {
    /// Nothing has settled them.
    #[default]
    Unsettled,
    /// A word of the client's for all that was out may have settled them: kept back they might be lost.
    MaybeSettled,
    /// They may be settled, and the client is handed nothing any more: what is out returns with the channel.
    Forgone,
}

/// A tag that no broker has given out: it answers a settlement of it as one of any unknown tag.
const UNKNOWN_TAG: u64 = u64::MAX;

/// In place of the broker's tag of a delivery that it knows nothing of. It gives out none below 1.
const NO_TAG: u64 = 0;

/// The unsettled deliveries of one channel.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// Those that the client was handed, by its tag, which rises with each delivery.
    open: VecDeque<Delivery>,
    /// The last tag that the client was handed.
    last: u64,
    shown: usize,
    /// How many of those that the client has have another tag at the broker.
    shifted: usize,
    /// The broker's tags of what the client does not see, and the broker has not been told of yet, or gets back.
    aside: BTreeSet<u64>,
    /// Those of them that go back to the broker.
    returns: Vec<u64>,
    /// How many requests of the client's to take everything back the broker has not answered.
    recovers: usize,
    coming: Coming,
}

impl Deliveries {
    /// True if a delivery with this tag of the broker's may have it for the client too.
    pub fn agrees(&self, broker: u64) -> bool {
        broker > self.last
    }

    /// The client's tag of the delivery with this tag of the broker's, which it is handed now.
    pub fn number(&mut self, broker: u64) -> u64 {
        self.last = broker.max(self.last.saturating_add(1));
        self.last
    }

    /// A delivery that needs an acknowledgement passes to the client, under the tag that [`Deliveries::number`] has given it.
    pub(super) fn shown(&mut self, tag: u64, broker: u64, known: Known) {
        self.shown += 1;
        self.shifted += usize::from(tag != broker);
        self.open.push_back(Delivery {
            tag,
            broker,
            sight: Sight::Shown,
            known,
        });
    }

    /// A client's tag for a delivery that the broker knows nothing of.
    pub(super) fn next_tag(&mut self) -> u64 {
        self.number(NO_TAG)
    }

    /// Such a delivery passes to the client.
    pub(super) fn invented(&mut self, tag: u64, known: Known) {
        self.shown(tag, NO_TAG, known);
    }

    /// The locks of a delivery that the client has not settled, by the client's tag.
    pub(super) fn hold(&self, tag: u64) -> Option<&Hold> {
        self.find(tag).and_then(|index| self.open.get(index)?.known.hold.as_deref())
    }

    /// As [`Deliveries::hold`], to be changed.
    pub(super) fn hold_mut(&mut self, tag: u64) -> Option<&mut Hold> {
        let index = self.find(tag)?;
        self.open.get_mut(index)?.known.hold.as_deref_mut()
    }

    /// The locks of all that the client has.
    pub(super) fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.open.iter().filter_map(|delivery| delivery.known.hold.as_deref())
    }

    /// The locks of all deliveries that the client has not settled, with their tags.
    pub(super) fn holds_mut(&mut self) -> impl Iterator<Item = (u64, &mut Hold)> {
        self.open
            .iter_mut()
            .filter_map(|delivery| Some((delivery.tag, delivery.known.hold.as_deref_mut()?)))
    }

    /// The client's tag of the last delivery that it has and has not settled.
    fn last_shown(&self) -> Option<u64> {
        let shown = |delivery: &&Delivery| delivery.sight == Sight::Shown;
        self.open.iter().rfind(shown).map(|delivery| delivery.tag)
    }

    /// A delivery that needs an acknowledgement is held: the client does not see it for now.
    pub fn held(&mut self, broker: u64) {
        self.aside.insert(broker);
    }

    /// A delivery that was held goes to the client, or is settled.
    pub fn unheld(&mut self, broker: u64) {
        self.aside.remove(&broker);
    }

    /// A delivery that needs an acknowledgement is kept from the client.
    pub fn hidden(&mut self, broker: u64) {
        // To settle it once more would cost the channel.
        if self.coming != Coming::Forgone {
            self.returns.push(broker);
        }
        self.aside.insert(broker);
    }

    /// The broker's tags of the deliveries kept from the client since the last call, none while the broker is about to take everything
    /// back itself.
    pub fn take_returns(&mut self) -> Vec<u64> {
        if self.recovers > 0 {
            return Vec::new();
        }
        std::mem::take(&mut self.returns)
    }

    /// True if what comes now is surely unsettled until it is settled here: no word of the client's for all that is out is on its way.
    pub fn will_be_ours(&self) -> bool {
        self.recovers == 0 && self.coming == Coming::Unsettled
    }

    /// True if a word of the client's may have settled what comes now: kept from the client it might be lost.
    pub fn may_be_settled(&self) -> bool {
        self.coming == Coming::MaybeSettled
    }

    /// How many deliveries the client has and has not settled.
    pub fn unsettled(&self) -> usize {
        self.shown
    }

    /// How many deliveries take memory.
    #[cfg(test)]
    pub fn remembered(&self) -> usize {
        self.open.len()
    }

    /// True if a settlement of the client's means the same to the broker.
    pub fn is_plain(&self) -> bool {
        self.shifted == 0 && self.aside.is_empty()
    }

    /// True if the broker waits for an acknowledgement of anything.
    pub fn any_open(&self) -> bool {
        self.shown > 0 || !self.aside.is_empty()
    }

    /// The client settles one delivery, or all up to `tag` (0 with `multiple`: all). `each` gets what is known of those that it settles.
    ///
    /// The answer says how to pass it on so that a `multiple` covers nothing that the client has not seen.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool, mut each: impl FnMut(Known)) -> Pass {
        if !multiple {
            return self.settle_one(tag, each);
        }
        let plain = self.is_plain();
        let end = if tag == 0 {
            self.open.len()
        } else {
            self.open.partition_point(|delivery| delivery.tag <= tag)
        };
        let (mut settled, mut invented) = (Vec::new(), false);
        for delivery in self.open.range_mut(..end).filter(|delivery| delivery.sight == Sight::Shown) {
            delivery.sight = Sight::Settled;
            self.shown -= 1;
            if !plain {
                self.shifted -= usize::from(delivery.tag != delivery.broker);
                if delivery.broker == NO_TAG {
                    invented = true;
                } else {
                    settled.push(delivery.broker);
                }
            }
            each(std::mem::take(&mut delivery.known));
        }
        let pass = match plain {
            true => Pass::Verbatim,
            false if invented && settled.is_empty() => Pass::Swallow,
            false => self.pass_of(tag, settled),
        };
        self.forget_settled();
        pass
    }

    /// How to settle these at the broker, and nothing else.
    fn pass_of(&self, tag: u64, mut settled: Vec<u64>) -> Pass {
        let Some(last) = settled.iter().max().copied() else {
            let aside = self.shifted > 0 || tag == 0 || self.aside.range(..=tag).next().is_some();
            return if aside { Pass::Swallow } else { Pass::Verbatim };
        };
        let in_hand = |delivery: &Delivery| delivery.sight == Sight::Shown && delivery.broker != NO_TAG && delivery.broker < last;
        let others = self.aside.range(..last).next().is_some() || self.open.iter().any(in_hand);
        if others {
            settled.sort_unstable();
            Pass::Singly(settled)
        } else {
            Pass::UpTo(last)
        }
    }

    fn settle_one(&mut self, tag: u64, mut each: impl FnMut(Known)) -> Pass {
        let shifted = self.shifted > 0;
        let Some(delivery) = self.find(tag).and_then(|index| self.open.get_mut(index)) else {
            return match self.aside.contains(&tag) {
                _ if shifted => Pass::Singly(vec![UNKNOWN_TAG]),
                true => Pass::Swallow,
                false => Pass::Verbatim,
            };
        };
        let broker = delivery.broker;
        let pass = match broker {
            NO_TAG => Pass::Swallow,
            _ if broker == tag => Pass::Verbatim,
            _ => Pass::Singly(vec![broker]),
        };
        if delivery.sight == Sight::Settled {
            return pass;
        }
        delivery.sight = Sight::Settled;
        each(std::mem::take(&mut delivery.known));
        self.shown -= 1;
        self.shifted -= usize::from(broker != tag);
        self.forget_settled();
        pass
    }

    /// The place of this tag of the client's. Mostly no tag is missing between two, which saves the search.
    fn find(&self, tag: u64) -> Option<usize> {
        let likely = tag.checked_sub(self.open.front()?.tag)? as usize;
        if self.open.get(likely).is_some_and(|delivery| delivery.tag == tag) {
            return Some(likely);
        }
        self.open.binary_search_by_key(&tag, |delivery| delivery.tag).ok()
    }

    /// What is settled goes; behind a delivery that stays open for long it goes in batches, so that the cost per delivery is constant.
    fn forget_settled(&mut self) {
        while self.open.front().is_some_and(|delivery| delivery.sight == Sight::Settled) {
            self.open.pop_front();
        }
        if self.open.len() > 2 * self.shown + 64 {
            self.open.retain(|delivery| delivery.sight != Sight::Settled);
        }
    }

    /// The client settles all that is out, and names no tag. With `names_last` the last one that it has seen is named for it, so that what
    /// is on its way is not met.
    pub(super) fn settle_all(&mut self, names_last: bool, each: impl FnMut(Known)) -> Pass {
        if !names_last || self.recovers > 0 {
            self.coming = Coming::MaybeSettled;
            self.settle(0, true, each);
            return Pass::Verbatim;
        }
        let Some(last) = self.last_shown() else { return Pass::Swallow };
        match self.settle(last, true, each) {
            Pass::Verbatim => Pass::UpTo(last),
            pass => pass,
        }
    }

    /// The client asks the broker to take everything back.
    pub fn recover(&mut self) {
        self.recovers += 1;
    }

    /// The broker has taken everything back: what came before its answer is void.
    pub fn recovered(&mut self) {
        self.recovers = self.recovers.saturating_sub(1);
        self.clear();
    }

    /// The client asks the same, and the broker will not answer.
    pub fn recover_unanswered(&mut self) {
        self.coming = Coming::MaybeSettled;
        self.clear();
    }

    /// The client is handed nothing any more.
    pub fn client_told(&mut self) {
        if self.coming == Coming::MaybeSettled {
            self.coming = Coming::Forgone;
        }
    }

    /// The client is gone, and all was given back for it.
    pub fn given_back(&mut self) {
        self.coming = Coming::Forgone;
        self.clear();
    }

    /// Everything is back in its queue and every tag is void.
    pub fn clear(&mut self) {
        *self = Deliveries {
            recovers: self.recovers,
            coming: self.coming,
            last: self.last,
            ..Deliveries::default()
        };
    }
}

#[cfg(test)]
mod tests;
