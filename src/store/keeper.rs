//! The keeper: asks again for the publishes whose key another publish has leased.
//!
//! Per key one question is out at a time, the oldest first, however many publishes wait: its answer tells about all. If it took the
//! lock, the others wait for its outcome; if the key is held, all of them are asked and answered.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Answer, Client, Replies, Shared, Ticket, acquire_digest, ask_again, give_back, passes};
use crate::rules::lock::{Acquired, Digest, Reply, Request};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// One acquire that found its key leased.
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) request: Request,
    pub(super) client: Client,
    digest: Digest,
    reply_to: Replies,
    cancelled: Arc<AtomicBool>,
}

impl Waiter {
    /// `None` if the request is not an acquire.
    pub(super) fn new(ticket: Ticket, request: &Request, reply_to: &Replies, client: &Client) -> Option<Waiter> {
        Some(Waiter {
            ticket,
            digest: acquire_digest(request)?,
            request: request.clone(),
            client: client.clone(),
            reply_to: reply_to.clone(),
            cancelled: Arc::default(),
        })
    }

    fn gone(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.reply_to.is_closed()
    }

    fn answer(self, answer: Answer) {
        let passes = passes(&answer);
        let cancelled = self.cancelled.load(Ordering::Acquire);
        let gone = cancelled || self.reply_to.send((self.ticket, answer)).is_err();
        if gone
            && passes
            && let Some(order) = give_back(&self.request)
        {
            self.client.tell(order);
        }
    }
}

/// The waiters of one key.
struct Group {
    waiting: VecDeque<Waiter>,
    asking: usize,
    /// An outcome came while a question was out: its answer may be older than the outcome.
    outcome: bool,
    pause: Duration,
    next_at: Instant,
}

impl Group {
    fn new() -> Group {
        Group {
            waiting: VecDeque::new(),
            asking: 0,
            outcome: false,
            pause: FIRST_PAUSE,
            next_at: Instant::now() + FIRST_PAUSE,
        }
    }

    /// Takes the oldest waiter that is still there, to ask for it.
    fn next(&mut self) -> Option<Waiter> {
        while let Some(waiter) = self.waiting.pop_front() {
            if !waiter.gone() {
                self.asking += 1;
                self.outcome = false;
                return Some(waiter);
            }
        }
        None
    }
}

#[derive(Default)]
struct State {
    groups: HashMap<Digest, Group>,
    by_ticket: HashMap<Ticket, Vec<(Replies, Arc<AtomicBool>)>>,
    timer_runs: bool,
}

impl State {
    fn forget(&mut self, ticket: Ticket, reply_to: &Replies) -> Option<Arc<AtomicBool>> {
        let entries = self.by_ticket.get_mut(&ticket)?;
        let at = entries.iter().position(|(other, _)| other.same_channel(reply_to))?;
        let (_, cancelled) = entries.swap_remove(at);
        if entries.is_empty() {
            self.by_ticket.remove(&ticket);
        }
        Some(cancelled)
    }

    fn drop_if_empty(&mut self, digest: &Digest) {
        if self
            .groups
            .get(digest)
            .is_some_and(|group| group.waiting.is_empty() && group.asking == 0)
        {
            self.groups.remove(digest);
        }
    }
}

/// All acquires of this process that found their key leased.
#[derive(Default)]
pub(super) struct Keeper {
    state: Mutex<State>,
    /// How many keys have waiters, readable without the mutex: mostly none.
    keys: AtomicUsize,
    somebody: Notify,
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlock(&self, state: MutexGuard<'_, State>) {
        self.keys.store(state.groups.len(), Ordering::Release);
        drop(state);
    }

    pub(super) fn add(&self, waiter: Waiter, shared: &Arc<Shared>) {
        let mut state = self.lock();
        let entry = (waiter.reply_to.clone(), waiter.cancelled.clone());
        state.by_ticket.entry(waiter.ticket).or_default().push(entry);
        state
            .groups
            .entry(waiter.digest)
            .or_insert_with(Group::new)
            .waiting
            .push_back(waiter);
        let start_timer = !state.timer_runs;
        // Without a runtime only outcomes of this process make the keeper ask again.
        if start_timer && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            state.timer_runs = true;
            runtime.spawn(run_timer(TimerGuard(shared.clone())));
        }
        self.unlock(state);
        self.somebody.notify_one();
    }

    pub(super) fn cancel(&self, ticket: Ticket, reply_to: &Replies) {
        if self.keys.load(Ordering::Acquire) == 0 {
            return;
        }
        if let Some(cancelled) = self.lock().forget(ticket, reply_to) {
            cancelled.store(true, Ordering::Release);
        }
    }

    /// The outcome of a publish of this key is known: whom to ask for now.
    pub(super) fn on_outcome(&self, digest: Digest) -> Vec<Waiter> {
        if self.keys.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut state = self.lock();
        let mut ask = Vec::new();
        if let Some(group) = state.groups.get_mut(&digest) {
            if group.asking == 0 {
                ask.extend(group.next());
            } else {
                group.outcome = true;
            }
        }
        state.drop_if_empty(&digest);
        self.unlock(state);
        ask
    }

    /// The answer to a repeated question: hands it on if it is final, and says whom to ask for now.
    pub(super) fn on_answer(&self, waiter: Waiter, answer: Answer) -> Vec<Waiter> {
        let digest = waiter.digest;
        let leased = matches!(answer, Ok(Reply::Acquire(Acquired::Leased { .. })));
        let taken = matches!(
            answer,
            Ok(Reply::Acquire(
                Acquired::Taken
                    | Acquired::Replaces { .. }
                    | Acquired::PutOff { .. }
                    | Acquired::Kept { .. }
                    | Acquired::Reentry { holds: true }
            ))
        );
        let mut ask = Vec::new();
        let mut done = None;
        let mut state = self.lock();
        let group = state.groups.entry(digest).or_insert_with(Group::new);
        group.asking = group.asking.saturating_sub(1);
        if leased {
            group.waiting.push_front(waiter);
            if group.outcome && group.asking == 0 {
                ask.extend(group.next());
            } else if group.asking == 0 {
                group.pause = (group.pause * 2).min(LONGEST_PAUSE);
                group.next_at = Instant::now() + group.pause;
            }
        } else {
            if taken {
                group.pause = FIRST_PAUSE;
                group.next_at = Instant::now() + FIRST_PAUSE;
            } else {
                ask.extend(std::iter::from_fn(|| group.next()));
            }
            state.forget(waiter.ticket, &waiter.reply_to);
            done = Some(waiter);
        }
        state.drop_if_empty(&digest);
        self.unlock(state);
        if let Some(waiter) = done {
            waiter.answer(answer);
        }
        ask
    }

    /// Whom to ask for at this time; `None` if nobody waits.
    fn on_time(&self, now: Instant) -> Option<Vec<Waiter>> {
        let mut ask = Vec::new();
        let mut waiting = 0;
        let mut state = self.lock();
        state.groups.retain(|_, group| {
            if group.asking == 0 && group.next_at <= now {
                ask.extend(group.next());
            }
            waiting += group.waiting.len() + group.asking;
            group.asking > 0 || !group.waiting.is_empty()
        });
        if state.by_ticket.len() > 2 * waiting {
            state.by_ticket.retain(|_, entries| {
                entries.retain(|(reply_to, _)| !reply_to.is_closed());
                !entries.is_empty()
            });
        }
        let nobody = state.groups.is_empty();
        self.unlock(state);
        (!nobody || !ask.is_empty()).then_some(ask)
    }
}

/// Lets the next waiter start the timer anew if the runtime that drove it ends.
struct TimerGuard(Arc<Shared>);

impl Drop for TimerGuard {
    fn drop(&mut self) {
        self.0.keeper.lock().timer_runs = false;
    }
}

async fn run_timer(guard: TimerGuard) {
    let keeper = &guard.0.keeper;
    loop {
        let Some(waiters) = keeper.on_time(Instant::now()) else {
            keeper.somebody.notified().await;
            continue;
        };
        for waiter in waiters {
            ask_again(&guard.0, vec![waiter]);
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}
