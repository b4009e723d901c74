//! What one channel has delivered and the client has not yet settled.

use std::collections::VecDeque;
use std::sync::Arc;

use super::hear::Mailbox;
use super::renew::Hold;

/// Who sees a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// The client has it.
    Shown,
    /// It was kept from the client; the broker has it back, or gets it back.
    Hidden,
    /// The client has settled it.
    Settled,
}

#[derive(Debug)]
struct Delivery {
    tag: u64,
    sight: Sight,
    /// The task id, where a rule may care for the task.
    task: Option<Arc<str>>,
    /// The lock that it holds, as long as the client has it.
    hold: Option<Box<Hold>>,
}

/// A delivery that the client settles.
#[derive(Debug)]
pub struct Settled {
    /// The task id.
    pub task: Arc<str>,
    /// The lock that it held until now.
    pub(super) hold: Option<Box<Hold>>,
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
    /// One by one with these tags: what the client has seen and what it has not are mixed.
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

/// The unsettled deliveries of one channel, by delivery tag, which rises with each delivery.
#[derive(Debug, Default)]
pub struct Deliveries {
    open: VecDeque<Delivery>,
    shown: usize,
    hidden: usize,
    /// The hidden ones that the broker has not been given back.
    returns: Vec<u64>,
    /// How many requests of the client's to take everything back the broker has not answered.
    recovers: usize,
    coming: Coming,
}

impl Deliveries {
    /// A delivery that needs an acknowledgement passes to the client.
    pub fn shown(&mut self, tag: u64, task: Option<Arc<str>>) {
        self.shown_holding(tag, task, None);
    }

    /// As [`Deliveries::shown`]; its task holds a lock, perhaps.
    pub(super) fn shown_holding(&mut self, tag: u64, task: Option<Arc<str>>, hold: Option<Box<Hold>>) {
        self.shown += 1;
        self.open.push_back(Delivery {
            tag,
            sight: Sight::Shown,
            task,
            hold,
        });
    }

    /// The lock of a delivery that the client has not settled.
    pub(super) fn hold(&self, tag: u64) -> Option<&Hold> {
        self.find(tag).and_then(|index| self.open.get(index)?.hold.as_deref())
    }

    /// As [`Deliveries::hold`], to be changed.
    pub(super) fn hold_mut(&mut self, tag: u64) -> Option<&mut Hold> {
        let index = self.find(tag)?;
        self.open.get_mut(index)?.hold.as_deref_mut()
    }

    /// The locks of all deliveries that the client has not settled, with their tags.
    pub(super) fn holds_mut(&mut self) -> impl Iterator<Item = (u64, &mut Hold)> {
        self.open
            .iter_mut()
            .filter_map(|delivery| Some((delivery.tag, delivery.hold.as_deref_mut()?)))
    }

    /// The last delivery that the client has and has not settled.
    fn last_shown(&self) -> Option<u64> {
        let shown = |delivery: &&Delivery| delivery.sight == Sight::Shown;
        self.open.iter().rfind(shown).map(|delivery| delivery.tag)
    }

    /// A delivery that needs an acknowledgement is kept from the client.
    pub fn hidden(&mut self, tag: u64) {
        self.hidden += 1;
        // To settle it once more would cost the channel.
        if self.coming != Coming::Forgone {
            self.returns.push(tag);
        }
        self.open.push_back(Delivery {
            tag,
            sight: Sight::Hidden,
            task: None,
            hold: None,
        });
    }

    /// The tags of the deliveries kept from the client since the last call, none while the broker is about to take everything back itself.
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

    /// True if something was kept from the client.
    pub fn any_hidden(&self) -> bool {
        self.hidden > 0
    }

    /// True if the broker waits for an acknowledgement of anything.
    pub fn any_open(&self) -> bool {
        self.shown + self.hidden > 0
    }

    /// The client settles one delivery, or all up to `tag` (0 with `multiple`: all). `each` gets what it settles of tasks that a rule may care for.
    ///
    /// The answer says how to pass it on so that a `multiple` covers nothing that the client has not seen.
    pub fn settle(&mut self, tag: u64, multiple: bool, mut each: impl FnMut(Settled)) -> Pass {
        if !multiple {
            return self.settle_one(tag, each);
        }
        let end = if tag == 0 {
            self.open.len()
        } else {
            self.open.partition_point(|delivery| delivery.tag <= tag)
        };
        let mut shown = Vec::new();
        let mut first_hidden = None;
        for delivery in self.open.range_mut(..end) {
            match delivery.sight {
                Sight::Shown => {
                    delivery.sight = Sight::Settled;
                    let hold = delivery.hold.take();
                    self.shown -= 1;
                    if self.hidden > 0 {
                        shown.push(delivery.tag);
                    }
                    if let Some(task) = delivery.task.take() {
                        each(Settled { task, hold });
                    }
                }
                Sight::Hidden => first_hidden = first_hidden.or(Some(delivery.tag)),
                Sight::Settled => {}
            }
        }
        self.forget_settled();
        match (first_hidden, shown.last()) {
            (None, _) => Pass::Verbatim,
            (Some(hidden), Some(last)) if *last < hidden => Pass::UpTo(*last),
            (Some(_), Some(_)) => Pass::Singly(shown),
            (Some(_), None) => Pass::Swallow,
        }
    }

    fn settle_one(&mut self, tag: u64, mut each: impl FnMut(Settled)) -> Pass {
        let Some(delivery) = self.find(tag).and_then(|index| self.open.get_mut(index)) else {
            return Pass::Verbatim;
        };
        match delivery.sight {
            Sight::Hidden => return Pass::Swallow,
            Sight::Settled => return Pass::Verbatim,
            Sight::Shown => delivery.sight = Sight::Settled,
        }
        let hold = delivery.hold.take();
        if let Some(task) = delivery.task.take() {
            each(Settled { task, hold });
        }
        self.shown -= 1;
        self.forget_settled();
        Pass::Verbatim
    }

    /// The place of this tag. Mostly no tag is missing between two, which saves the search.
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
        let live = self.shown + self.hidden;
        if self.open.len() > 2 * live + 64 {
            self.open.retain(|delivery| delivery.sight != Sight::Settled);
        }
    }

    /// The client settles all that is out, and names no tag. With `names_last` the last one that it has seen is named for it, so that what
    /// is on its way is not met.
    pub fn settle_all(&mut self, names_last: bool, each: impl FnMut(Settled)) -> Pass {
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
            ..Deliveries::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_though_others_are_missing_before_it() {
        let mut deliveries = Deliveries::default();
        // Deliveries without acknowledgement take tags too.
        for tag in [2, 3, 7, 8, 20] {
            deliveries.shown(tag, Some(tag.to_string().into()));
        }
        let mut settled = Vec::new();
        for tag in [8, 7, 5, 21, 1, 8, 20, 2, 3] {
            let pass = deliveries.settle(tag, false, |delivery| settled.push(delivery.task));
            assert_eq!(pass, Pass::Verbatim, "{tag}");
        }
        assert_eq!(settled, ["8", "7", "20", "2", "3"].map(Arc::from));
        assert_eq!((deliveries.unsettled(), deliveries.remembered()), (0, 0));
    }
}
