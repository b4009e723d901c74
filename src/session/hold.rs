//! Deliveries that are held: neither shown to the client nor settled, because their key runs elsewhere or their time has not come.
//!
//! What comes behind a held delivery on its channel goes on. The store is asked about it again every second, and at once when a run that
//! it waits for is heard of here. It does not stay for ever: after `hold_max` it is parked, where that can be done. The broker closes a
//! channel that leaves a delivery unsettled for too long, so at half of that time it is parked, too, or goes back to its queue. At the
//! bounds of memory and number the oldest goes back.
//!
//! The store is told of each that goes back, so that nobody waits behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admit::{Admission, Asks, Await, Way};
use super::agenda::Place;
use super::channel::{Channel, Down, Life};
use super::event::Event;
use super::limit::Waiting;
use super::owed::OVERDUE;
use super::park::Leaving;
use super::renew::Hold;
use super::republish::RepublishFault;
use super::window::{self, ReadsAhead, Window};
use super::{Now, Session, Shared, StoreSilent, Ticket};
use crate::amqp::encode;
use crate::amqp::method::basic::Nack;
use crate::rules::lock::Reply;
use crate::rules::outcome::{DeliveryDecision, ExceptionReason};
use crate::rules::spec::OnMaxWait;

/// How often the store is asked about a held delivery, in microseconds.
pub(super) const POLL_US: u64 = 1_000_000;

/// How soon it is asked when a run that is waited for is heard of here, in microseconds: what was heard goes to the store first.
const SOON_US: u64 = 20_000;

/// Among so many held deliveries those that wait for a run are looked for; more wait for their next question.
const SOON_MAX: usize = 256;

/// From so many returns on, a quorum queue may drop the message: by default at 20.
const RETURNS_MAX: u64 = 10;

/// What a held delivery waits for.
#[derive(Debug)]
pub(super) enum Until {
    /// The store's answer to this question.
    Answer(Ticket),
    /// The next question, at this time in monotonic microseconds.
    Poll(u64),
    /// The end of the broker's content; then it goes this way.
    Boundary(Way),
    /// The end of this step on its way to elsewhere.
    Leaving(Leaving),
    /// What the result backend has of its holder.
    Fetching,
}

/// Whether the place that a held delivery takes at the broker is about to be free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    /// Nobody knows when.
    Stays,
    /// It is on its way to elsewhere, and is settled then.
    Leaves,
}

/// A held delivery.
#[derive(Debug)]
pub(super) struct Held {
    pub admission: Box<Admission>,
    since_us: u64,
    pub until: Until,
    /// The id that runs, or waits before it.
    pub holder: Option<Arc<str>>,
    /// Since when the store does not answer.
    silent_us: Option<u64>,
    /// When it is parked, in monotonic microseconds: the maximum for never.
    pub park_us: u64,
    /// How long the pause was after the last attempt to park it, in microseconds.
    pub pause_us: u64,
    /// When it must be settled, in monotonic microseconds.
    back_us: u64,
    stay: Stay,
}

impl Held {
    /// When it must be settled, in monotonic microseconds.
    pub(super) fn back_us(&self) -> u64 {
        self.back_us
    }

    /// Notes what its limits have told: when the store is asked again, and that it is parked if that is long.
    fn waits(&mut self, now: Now) {
        let Some(waiting) = self.admission.waiting() else { return };
        self.holder = None;
        self.until = Until::Poll(waiting.asks_us(now.us));
        if waiting.is_long(now.us) && self.pause_us == 0 && self.admission.is_parkable(now) {
            self.park_us = now.us;
        }
    }

    /// When the store is to be asked about it next, if it was not asked for a while: in monotonic microseconds.
    pub(super) fn asks_us(&self, now: Now) -> u64 {
        let eta = self.admission.eta_ahead(now).filter(|_| self.holder.is_none());
        let limited_us = self.admission.waiting().map_or(now.us, |waiting| waiting.asks_us(now.us));
        eta.map_or(limited_us, |ahead_ms| now.us.saturating_add(ahead_ms.saturating_mul(1000)))
    }

    /// When something other than a renewal is due for it, in monotonic microseconds.
    fn due_us(&self) -> Option<u64> {
        match &self.until {
            Until::Poll(us) => Some((*us).min(self.park_us).min(self.back_us)),
            // The store answers soon, and then it is parked.
            Until::Answer(_) if self.park_us != u64::MAX => None,
            Until::Answer(_) => Some(self.back_us),
            Until::Leaving(Leaving::DeadLetter { until_us, .. }) => Some(*until_us),
            Until::Boundary(_) | Until::Leaving(_) | Until::Fetching => None,
        }
    }
}

/// The held deliveries of one channel, in the order in which their holding began.
#[derive(Debug, Default)]
pub(super) struct HeldList {
    deliveries: BTreeMap<u64, Held>,
    /// How many wait for the end of the broker's content.
    boundary: usize,
    /// How many are on their way to elsewhere.
    leaving: usize,
}

impl HeldList {
    /// The one with this number.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Held> {
        self.deliveries.get_mut(&number)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// How many are about to be settled, as they are on their way to elsewhere.
    pub(super) fn leaving(&self) -> usize {
        self.leaving
    }

    /// True if one waits for the end of the broker's content.
    pub(super) fn waits_for_boundary(&self) -> bool {
        self.boundary > 0
    }

    /// Since when the first of them is held, in monotonic microseconds.
    pub(super) fn oldest_us(&self) -> Option<u64> {
        self.deliveries.values().next().map(|held| held.since_us)
    }

    /// The locks of all, with their numbers.
    pub(super) fn holds_mut(&mut self) -> impl Iterator<Item = (u64, &mut Hold)> {
        self.deliveries
            .iter_mut()
            .map(|(number, held)| (*number, &mut *held.admission.hold))
    }

    /// When something is due for the one with this number.
    pub(super) fn due_us(&self, number: u64) -> Option<u64> {
        let held = self.deliveries.get(&number)?;
        if matches!(held.until, Until::Boundary(_)) {
            return None;
        }
        held.admission.hold.renewal_us().into_iter().chain(held.due_us()).min()
    }
}

impl Admission {
    /// True if it may be held.
    pub(super) fn may_be_held(&self) -> bool {
        let waits = self.run.is_some() || self.limits.is_some() || self.carry.is_some();
        waits || self.rule.holds_until_due() || self.rule.keeps_last()
    }

    /// When the store is asked about it again that is held for so long, in microseconds from now. `eta`: for how long it may not begin yet,
    /// in milliseconds. One that may be outdated by then is asked about meanwhile, ever more seldom.
    fn pause_us(&self, eta: Option<u64>, held_us: u64) -> u64 {
        let eta = eta.filter(|_| self.carry.is_none());
        let Some(ahead_us) = eta.map(|ahead_ms| ahead_ms.saturating_mul(1000)) else {
            return POLL_US;
        };
        match self.asks {
            Asks::Admission => ahead_us.min(held_us.max(POLL_US)),
            Asks::Run => ahead_us,
        }
    }
}

impl Session {
    /// How many deliveries are held, and since when the first of them, in monotonic microseconds.
    pub fn held(&self) -> (usize, Option<u64>) {
        if self.shared.held == 0 {
            return (0, None);
        }
        let oldest = self.channels.open.iter().filter_map(|channel| channel.held.oldest_us()).min();
        (self.shared.held, oldest)
    }

    /// The store's answer about a held delivery, or that there is none.
    pub(super) fn held_answered(&mut self, ticket: Ticket, answer: Result<Reply, StoreSilent>) {
        if let Some(channel) = self.channels.get_mut(ticket.channel()) {
            channel.held_answered(&mut self.shared, ticket.position(), answer);
        }
    }

    /// What waits for runs that may have ended asks soon.
    pub(super) fn ask_soon(&mut self) {
        let ended = std::mem::take(&mut self.shared.ended);
        for channel in &mut self.channels.open {
            channel.ask_soon(&mut self.shared, &ended);
        }
    }

    /// More are held than may be: the oldest go back.
    pub(super) fn relieve_held(&mut self) {
        while self.shared.held > self.shared.settings.held_max {
            let held = self.channels.open.iter_mut().filter(|channel| channel.held.len() > 0);
            let Some(channel) = held.min_by_key(|channel| channel.held.oldest_us()) else {
                return;
            };
            channel.give_back_oldest(&mut self.shared, "held_max");
        }
    }
}

impl Channel {
    /// A delivery is held from now on.
    pub(super) fn hold_back(&mut self, shared: &mut Shared, admission: Box<Admission>, holder: Option<Arc<str>>) {
        let now = shared.now;
        let eta = admission.eta_ahead(now).filter(|_| holder.is_none());
        let fate = admission.carry.as_ref().and_then(|carry| carry.fate);
        // It was foreseen that it will have to wait, and where it was not refused it is asked about at once.
        let unasked = admission.limits.as_ref().is_some_and(|limits| limits.is_unasked());
        let foreseen = unasked && admission.run.is_none() && eta.is_none();
        let reason = if foreseen { "limit" } else { admission.held_for(now) };
        let asks_us = admission.pause_us(eta, 0);
        let hold_max_us = match admission.waiting() {
            Some(waiting) => waiting.hold_max_us(),
            None => u64::try_from(admission.rule.hold_max.as_micros()).unwrap_or(u64::MAX),
        };
        let parkable = admission.is_parkable(now);
        let Some(held) = self.keep_held(shared, admission, holder) else {
            return;
        };
        shared.admission(&held.admission, DeliveryDecision::Held, reason, held.holder.clone());
        held.until = Until::Poll(now.us.saturating_add(asks_us));
        if let Some(carry) = &mut held.admission.carry {
            carry.since_ms.get_or_insert(now.unix_ms);
        }
        let number = shared.next_held - 1;
        let known_us = eta.unwrap_or(0).saturating_mul(1000);
        held.park_us = match parkable {
            false => u64::MAX,
            true if known_us > hold_max_us => now.us,
            true => now.us.saturating_add(hold_max_us).min(held.back_us),
        };
        held.waits(now);
        if foreseen {
            self.set_stay(shared, number, Stay::Leaves);
            return self.ask_held(shared, number);
        }
        if let Some(fate) = fate {
            return self.holder_ended(shared, number, fate);
        }
        if held.park_us <= now.us || parkable && self.is_window_full(number) {
            return self.park(shared, number);
        }
        self.schedule(shared, Place::Held(number));
    }

    /// Where no further consumer may read ahead for one, what is held of it must not take its whole window.
    fn is_window_full(&self, number: u64) -> bool {
        let Some(held) = self.held.deliveries.get(&number) else {
            return false;
        };
        let consumer = self.consumers.iter().find(|known| known.tag == held.admission.consumer());
        consumer.is_some_and(|known| {
            let Window {
                size, held, reads_ahead, ..
            } = known.window;
            size > 0 && reads_ahead == ReadsAhead::No && held >= usize::from(size)
        })
    }

    /// The key of a delivery runs, and its copy goes elsewhere: until it is there it is held.
    pub(super) fn hold_for_dead_letter(&mut self, shared: &mut Shared, admission: Box<Admission>, reason: &'static str, holder: Arc<str>) {
        if self.keep_held(shared, admission, None).is_some() {
            let number = shared.next_held - 1;
            self.dead_letter(shared, number, reason, holder);
        }
    }

    /// Keeps a delivery, under the number [`Shared::next_held`], or gives it back.
    fn keep_held(&mut self, shared: &mut Shared, admission: Box<Admission>, holder: Option<Arc<str>>) -> Option<&mut Held> {
        let now = shared.now;
        self.deliveries.held(admission.tag);
        // After the cancel of its consumer the client is shown nothing more.
        if self.windows.is_leaving(admission.consumer()) {
            self.give_back(shared, &admission, "cancelled");
            return None;
        }
        shared.held += 1;
        shared.held_bytes += admission.frames.len();
        self.windows_change(shared);
        self.note_held(&admission, 1);
        let back_us = admission.hold.judged_us.saturating_add(shared.settings.consumer_timeout_us / 2);
        let number = shared.next_held;
        shared.next_held += 1;
        let held = Held {
            since_us: now.us,
            until: Until::Poll(u64::MAX),
            holder,
            silent_us: None,
            park_us: u64::MAX,
            pause_us: 0,
            back_us,
            stay: Stay::Stays,
            admission,
        };
        self.held.deliveries.insert(number, held);
        self.held.get_mut(number)
    }

    /// A held delivery is about to be settled, or is not any more.
    pub(super) fn set_stay(&mut self, shared: &mut Shared, number: u64, stay: Stay) {
        let Some(held) = self.held.deliveries.get_mut(&number).filter(|held| held.stay != stay) else {
            return;
        };
        held.stay = stay;
        let change = if stay == Stay::Leaves { 1 } else { -1 };
        self.held.leaving = self.held.leaving.saturating_add_signed(change);
        if let Some((_, leaving)) = window::tally(&mut self.windows, &mut self.consumers, &held.admission) {
            *leaving = leaving.saturating_add_signed(change);
        }
        self.windows_change(shared);
    }

    /// Something is due for a held delivery.
    pub(super) fn held_is_due(&mut self, shared: &mut Shared, number: u64) {
        let now_us = shared.now.us;
        let Some(held) = self.held.deliveries.get_mut(&number) else {
            return;
        };
        if held.admission.hold.renewal_us().is_some_and(|us| us <= now_us) {
            let worker = held.admission.asked.worker(&shared.worker);
            shared.renew_hold(&mut held.admission.hold, &worker);
        }
        match &held.until {
            Until::Poll(_) if held.back_us <= now_us && held.park_us > now_us => return self.holding_ends(shared, number),
            Until::Answer(_) if held.back_us <= now_us && held.park_us == u64::MAX => return self.holding_ends(shared, number),
            // Where the next question is due it is asked first: it may run.
            Until::Poll(us) if *us > now_us && held.park_us <= now_us => return self.park(shared, number),
            Until::Leaving(Leaving::DeadLetter { until_us, .. }) if *until_us <= now_us => {
                return self.dead_letter_ends(shared, number, Err(RepublishFault::Unknown));
            }
            Until::Poll(_) | Until::Answer(_) | Until::Boundary(_) | Until::Leaving(_) | Until::Fetching => {}
        }
        if matches!(held.until, Until::Poll(us) if us <= now_us) {
            self.ask_held(shared, number);
        }
    }

    /// The store is asked about a held delivery, from the first step on.
    fn ask_held(&mut self, shared: &mut Shared, number: u64) {
        if let Some(held) = self.held.get_mut(number) {
            held.admission.asks_again();
        }
        self.ask_on(shared, number);
    }

    /// Asks the next question about a held delivery, or lets it go if there is none.
    fn ask_on(&mut self, shared: &mut Shared, number: u64) {
        let ticket = Ticket::of_held(number, self.number);
        let Some(held) = self.held.get_mut(number) else { return };
        if let Await::Turn(way) = &held.admission.wait {
            let way = way.clone();
            return self.let_go(shared, number, way);
        }
        held.until = Until::Answer(ticket);
        if let Some(question) = held.admission.question(&shared.worker, shared.now) {
            shared.asks.push((ticket.0, question));
        }
        self.schedule(shared, Place::Held(number));
    }

    /// It cannot stay unsettled any longer.
    fn holding_ends(&mut self, shared: &mut Shared, number: u64) {
        let Some(held) = self.held.deliveries.get(&number) else { return };
        if held.admission.returns < RETURNS_MAX {
            if let Some(held) = self.take_held(shared, number) {
                self.give_back_held(shared, &held, "consumer_timeout");
            }
            return;
        }
        shared.events.push(Event::Exception {
            rule: Some(Arc::clone(&held.admission.rule)),
            reason: ExceptionReason::DeliveryLimit,
        });
        self.let_go(shared, number, Way::Unchecked(ExceptionReason::DeliveryLimit.as_str()));
    }

    fn held_answered(&mut self, shared: &mut Shared, number: u64, answer: Result<Reply, StoreSilent>) {
        let (now, now_us) = (shared.now, shared.now.us);
        let Some(held) = self.held.deliveries.get_mut(&number) else {
            return;
        };
        match held.until {
            Until::Answer(_) => {}
            Until::Leaving(_) => return self.leaving_answered(shared, number, &answer),
            Until::Poll(_) | Until::Boundary(_) | Until::Fetching => return,
        }
        let eta = held.admission.eta_ahead(now).filter(|_| held.admission.carry.is_none());
        held.until = Until::Poll(now_us.saturating_add(held.admission.pause_us(eta, now_us - held.since_us)));
        let asked = matches!(
            (held.admission.asks, &answer),
            (Asks::Admission, Ok(Reply::Admit(..))) | (Asks::Run, Ok(Reply::Run(_) | Reply::Limit(_)))
        );
        let silent = match answer {
            Ok(Reply::Admit(digest, admitted)) if held.admission.carry.is_some() => {
                held.silent_us = None;
                held.admission.hold.answered(digest, now_us);
                return self.carry_answered(shared, number, admitted);
            }
            Ok(reply) if asked => {
                held.silent_us = None;
                let of_limits = matches!(reply, Reply::Limit(_));
                held.admission.answered(Ok(reply), now, shared.settings.max_message);
                if of_limits {
                    shared.foreseen.note(&held.admission);
                }
                shared.tells.extend(held.admission.gives_back());
                None
            }
            // A reply of another kind says nothing of the question.
            Ok(_) => Some(StoreSilent::Unreachable),
            Err(silent) => Some(silent),
        };
        match (&mut held.admission.wait, silent) {
            (_, Some(_)) | (Await::Answer { .. }, None) => {}
            (Await::Turn(Way::Held(holder)), None) => {
                held.holder = holder.take().or(held.holder.take());
                held.waits(now);
            }
            (Await::Turn(way), None) => {
                let way = way.clone();
                return self.let_go(shared, number, way);
            }
            (Await::Lease { again_us, .. }, None) => held.until = Until::Poll(*again_us),
            // It may run at all: whether it may now is asked at once.
            (Await::Reserve | Await::Run | Await::Limit, None) => return self.ask_on(shared, number),
        }
        // Before its time nothing is lost by an answer that is missing.
        if let Some(silent) = silent.filter(|_| eta.is_none() || held.admission.asks == Asks::Run) {
            // That another run has the lock was known a moment ago: one answer that is missing does not undo that.
            let since_us = *held.silent_us.get_or_insert(now_us);
            let store_wait_us = u64::try_from(held.admission.rule.store_wait.as_micros()).unwrap_or(u64::MAX);
            // A limit is not passed by all at once because nobody knows it.
            if now_us - since_us >= store_wait_us && held.admission.limits.is_none() {
                return self.let_go(shared, number, Way::Unchecked(silent.as_str()));
            }
        }
        if held.park_us <= now_us {
            return self.park(shared, number);
        }
        self.set_stay(shared, number, Stay::Stays);
        self.schedule(shared, Place::Held(number));
    }

    /// A held delivery goes this way, outside of the broker's contents.
    pub(super) fn let_go(&mut self, shared: &mut Shared, number: u64, way: Way) {
        let way = match (way, self.held.deliveries.get(&number)) {
            (Way::Busy(holder, freed), Some(held)) if held.admission.is_dead_lettered() => {
                shared.events.extend(freed.into_iter().map(Event::Freed));
                return self.dead_letter(shared, number, "running", holder);
            }
            (Way::Overdue(OnMaxWait::DeadLetter), Some(held)) if held.admission.rule.dead_letter.is_some() => {
                let holder = Arc::clone(&held.admission.hold.claim.id);
                shared.frees_overdue(&held.admission);
                return self.dead_letter(shared, number, OVERDUE, holder);
            }
            (way, _) => way,
        };
        if !matches!(self.down, Down::Idle) {
            if let Some(held) = self.held.deliveries.get_mut(&number) {
                held.until = Until::Boundary(way);
                self.held.boundary += 1;
            }
            return;
        }
        if let Some(held) = self.take_held(shared, number) {
            self.deliveries.unheld(held.admission.tag);
            self.goes(shared, held.admission, &way);
        }
    }

    /// The broker's content has ended: what waited for that goes.
    pub(super) fn boundary_reached(&mut self, shared: &mut Shared) {
        if self.held.boundary == 0 {
            return;
        }
        let waits = |held: &Held| matches!(held.until, Until::Boundary(_));
        let ready = self.held.deliveries.iter().filter(|(_, held)| waits(held));
        let ready: Vec<u64> = ready.map(|(number, _)| *number).collect();
        for number in ready {
            if let Some(held) = self.take_held(shared, number)
                && let Until::Boundary(way) = held.until
            {
                self.deliveries.unheld(held.admission.tag);
                self.goes(shared, held.admission, &way);
            }
        }
    }

    /// Takes one out; what becomes of it is the caller's.
    pub(super) fn take_held(&mut self, shared: &mut Shared, number: u64) -> Option<Held> {
        let held = self.held.deliveries.remove(&number)?;
        shared.held -= 1;
        shared.held_bytes -= held.admission.frames.len();
        self.windows_change(shared);
        self.note_held(&held.admission, -1);
        if held.stay == Stay::Leaves {
            self.held.leaving -= 1;
            if let Some((_, leaving)) = window::tally(&mut self.windows, &mut self.consumers, &held.admission) {
                *leaving = leaving.saturating_sub(1);
            }
        }
        match held.until {
            // Nobody waits for it any more.
            Until::Answer(ticket) => shared.cancelled.push(ticket),
            Until::Leaving(ref step) if step.asks() => shared.cancelled.push(Ticket::of_held(number, self.number)),
            Until::Boundary(_) => self.held.boundary -= 1,
            Until::Poll(_) | Until::Leaving(_) | Until::Fetching => {}
        }
        Some(held)
    }

    /// Takes all out that are for this consumer of the client's, or for any.
    fn take_all_held(&mut self, shared: &mut Shared, consumer: Option<&[u8]>) -> Vec<Held> {
        let meant = |held: &Held| consumer.is_none_or(|tag| held.admission.consumer() == tag);
        let numbers = self.held.deliveries.iter().filter(|(_, held)| meant(held));
        let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.take_held(shared, number)).collect()
    }

    fn give_back_held(&mut self, shared: &mut Shared, held: &Held, reason: &'static str) {
        shared.abandon_held(held);
        self.give_back(shared, &held.admission, reason);
    }

    /// A delivery that the client has not seen goes back to its queue, behind the client's frames that wait and outside of its contents.
    fn give_back(&mut self, shared: &mut Shared, admission: &Admission, reason: &'static str) {
        shared.leave(admission);
        shared.events.push(Event::GivenBack {
            rule: Arc::clone(&admission.rule),
            task: Arc::clone(&admission.task),
            id: Arc::clone(&admission.hold.claim.id),
            reason,
        });
        self.deliveries.unheld(admission.tag);
        if self.life != Life::Open {
            return;
        }
        let nack = Nack {
            delivery_tag: admission.tag,
            multiple: false,
            requeue: true,
        };
        let mut frame = Vec::new();
        encode::basic_nack(&mut frame, self.number, nack);
        if self.inside_publish() {
            self.own_acks.append(&mut frame);
        } else {
            self.pass_on(shared, &frame);
        }
    }

    /// The one that is held longest goes back, and what is held does not make the window wider for a while. True if there was one.
    pub(super) fn give_back_oldest(&mut self, shared: &mut Shared, reason: &'static str) -> bool {
        let oldest = self.held.deliveries.keys().next().copied();
        let Some(held) = oldest.and_then(|number| self.take_held(shared, number)) else {
            return false;
        };
        self.bound_window(shared);
        // First, or the broker would send it here again at once.
        self.adjust_windows(shared);
        self.give_back_held(shared, &held, reason);
        true
    }

    /// The client has cancelled a consumer, or the broker has: what is held for it goes back.
    pub(super) fn give_back_held_of(&mut self, shared: &mut Shared, consumer: &[u8]) {
        for held in self.take_all_held(shared, Some(consumer)) {
            self.give_back_held(shared, &held, "cancelled");
        }
    }

    /// All that is held goes back to its queue.
    pub(super) fn give_back_all_held(&mut self, shared: &mut Shared, reason: &'static str) {
        for held in self.take_all_held(shared, None) {
            self.give_back_held(shared, &held, reason);
        }
    }

    /// The broker takes back all that is held by itself.
    pub(super) fn forget_held(&mut self, shared: &mut Shared) {
        for held in self.take_all_held(shared, None) {
            shared.leave_held(&held);
        }
    }

    /// Oncegate hands out no more work: all that is held goes back behind the cancels.
    pub(super) fn withhold_held(&mut self, shared: &mut Shared) {
        for held in self.take_all_held(shared, None) {
            shared.leave_held(&held);
            self.deliveries.hidden(held.admission.tag);
        }
    }

    fn ask_soon(&mut self, shared: &mut Shared, ended: &[Arc<str>]) {
        if self.held.len() > SOON_MAX {
            return;
        }
        let soon_us = shared.now.us + SOON_US;
        let mut numbers = Vec::new();
        for (number, held) in &mut self.held.deliveries {
            let for_runs = held.admission.waiting().is_some_and(Waiting::is_for_runs);
            let waits = for_runs || held.holder.as_ref().is_some_and(|holder| ended.contains(holder));
            if waits && matches!(held.until, Until::Poll(us) if us > soon_us) {
                held.until = Until::Poll(soon_us);
                numbers.push(*number);
            }
        }
        for number in numbers {
            self.schedule(shared, Place::Held(number));
        }
    }
}

impl Shared {
    /// A question about this delivery may be open: its answer may give it the lock.
    fn abandon_held(&mut self, held: &Held) {
        if let Until::Answer(ticket) = held.until {
            self.abandon_run(ticket, &held.admission);
        }
    }

    /// The broker takes this delivery back.
    fn leave_held(&mut self, held: &Held) {
        self.abandon_held(held);
        self.leave(&held.admission);
    }
}
