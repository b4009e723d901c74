//! One client connection: two sockets around a [`Session`]. The only place where they are waited for.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, Sleep};

use super::fetch::Fetching;
use super::hub::{Hub, Seat};
use super::leg::{Leg, Written};
use super::report::Reporter;
use super::republish::Republishing;
use super::topology::View;
use super::transport::Transport;
use super::upstream::{DialError, Dialled};
use crate::lifecycle::nodes::Letter;
use crate::rules::RuleSet;
use crate::session::{Neighbours, Now, Session, Side, Spares, StoreSilent, Ticket};
use crate::store;

/// How much is read at once.
const READ: usize = 64 * 1024;

/// Room before what is read, for the beginning of a frame that came with the last read.
const ROOM: usize = 16 * 1024;

/// A client that does not read holds the broker's reading up beyond this much, in bytes.
const CLIENT_BACKLOG: usize = 1 << 20;

/// How long the last bytes for a peer may take once its side of the session is done.
pub(super) const LAST_WRITE: Duration = Duration::from_secs(5);

/// How many reads one connection may do before the others have their turn.
const TURN: usize = 8;

thread_local! {
    /// One read buffer for all connections of a thread: an idle connection holds none.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; ROOM + READ]);
    static SPARES: RefCell<Spares> = RefCell::new(Spares::default());
}

/// An order to a connection from outside.
#[derive(Debug, Clone)]
pub enum Command {
    /// New rules.
    Rules(Arc<RuleSet>),
    /// No more work to workers; close when nothing is in hand, not before this time.
    Drain {
        /// In monotonic microseconds, as sessions count.
        close_from_us: u64,
    },
    /// No connection from the same address has work in hand any more.
    NeighboursIdle,
    /// For the worker whose mailbox is consumed on this connection.
    Letter(Letter),
    /// The store can be asked again, and may have forgotten what it knew.
    StoreBack,
    /// Close now; goodbyes may last until this time.
    Close {
        /// In monotonic microseconds, as sessions count.
        until_us: u64,
    },
}

type Answer = (store::Ticket, store::Answer);

/// The broker's side before and after it is connected.
enum Dial {
    NotYet,
    Dialling(Pin<Box<dyn Future<Output = Result<Dialled, DialError>> + Send>>),
    Over,
}

/// A connection, to be polled to its end.
pub struct Connection {
    session: Session,
    client: Leg,
    broker: Leg,
    dial: Dial,
    upstream: Option<super::upstream::Lease>,
    hub: Arc<Hub>,
    seat: Seat,
    /// While draining: the hub waits to hear that no work is in hand.
    reports: bool,
    store: store::Client,
    answer_sender: UnboundedSender<Answer>,
    answers: UnboundedReceiver<Answer>,
    republishing: Republishing,
    fetching: Fetching,
    commands: UnboundedReceiver<Command>,
    timer: Pin<Box<Sleep>>,
    timer_us: u64,
    reporter: Reporter,
    view: View,
    client_paused: bool,
    broker_paused: bool,
    /// Runs from the moment when a side is done: a peer that takes nothing must not keep the connection.
    last_write: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// A connection whose client has just been accepted.
    pub fn new(seat: Seat, store: store::Client, client: Transport, peer: SocketAddr, commands: UnboundedReceiver<Command>) -> Connection {
        let hub = Arc::clone(seat.hub());
        let now = hub.now();
        let (answer_sender, answers) = mpsc::unbounded_channel();
        let mut leg = Leg::default();
        leg.set(client);
        let mut session = Session::new(hub.settings(), hub.rules(), uuid::Uuid::new_v4().as_u64_pair().0, now);
        session.handle_witness(Arc::clone(hub.witness()));
        Connection {
            session,
            client: leg,
            broker: Leg::default(),
            dial: Dial::NotYet,
            upstream: None,
            reporter: Reporter::new(&hub, seat.number(), peer),
            view: View::new(hub.topologies()),
            hub,
            seat,
            reports: false,
            store,
            answer_sender,
            answers,
            republishing: Republishing::default(),
            fetching: Fetching::default(),
            commands,
            timer: Box::pin(tokio::time::sleep(Duration::from_secs(86_400))),
            timer_us: u64::MAX,
            client_paused: false,
            broker_paused: false,
            last_write: None,
        }
    }

    fn now(&self) -> Now {
        self.hub.now()
    }

    fn leg(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        }
    }

    fn poll_commands(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(command)) = self.commands.poll_recv(cx) {
            let now = self.now();
            match command {
                Command::Rules(rules) => self.session.handle_rules(rules),
                Command::Drain { close_from_us } => {
                    self.reports = true;
                    self.session.handle_drain(close_from_us, Neighbours::Busy, now);
                }
                Command::NeighboursIdle => self.session.handle_neighbours_idle(now),
                Command::Letter(Letter::Question(question)) => {
                    self.session.handle_query(&question.node, &question.ids, &question.ticket, now);
                }
                Command::Letter(Letter::Revoke { node, ids }) => self.session.handle_revoke(&node, &ids, now),
                Command::StoreBack => self.session.handle_store_back(now),
                Command::Close { until_us } => self.session.handle_close(until_us, now),
            }
        }
    }

    fn poll_answers(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((ticket, answer))) = self.answers.poll_recv(cx) {
            let now = self.now();
            self.session.handle_answer(Ticket(ticket), answer.map_err(|why| silent(&why)), now);
        }
    }

    /// Lets the session's deadlines pass. True if one has.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let mut fired = false;
        loop {
            let due = self.session.poll_timeout();
            if due == u64::MAX {
                return fired;
            }
            // Each read and write moves a deadline further off: that is found when the timer goes off, not each time.
            if due < self.timer_us {
                self.timer_us = due;
                let wait = due.saturating_sub(self.now().us);
                self.timer.as_mut().reset(Instant::now() + Duration::from_micros(wait));
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return fired;
            }
            fired = true;
            self.timer_us = u64::MAX;
            let now = self.now();
            self.session.handle_timeout(now);
        }
    }

    /// Connects to a broker once the client has shown what it speaks.
    fn poll_dial(&mut self, cx: &mut Context<'_>) {
        if matches!(self.dial, Dial::NotYet) && self.session.wants_broker() {
            self.dial = Dial::Dialling(Box::pin(self.hub.upstream().dial()));
        }
        let Dial::Dialling(dialling) = &mut self.dial else { return };
        let Poll::Ready(result) = dialling.as_mut().poll(cx) else { return };
        self.dial = Dial::Over;
        match result {
            Ok(dialled) => {
                self.broker.set(dialled.transport);
                self.upstream = Some(dialled.lease);
            }
            Err(error) => {
                self.reporter.upstream_failed(&error);
                let now = self.now();
                self.session.handle_eof(Side::Broker, now);
            }
        }
    }

    /// Reads one side once, and writes what passes as it lies. True if something came.
    fn poll_input(&mut self, cx: &mut Context<'_>, side: Side) -> bool {
        let held_up = match side {
            Side::Client => self.client_paused,
            Side::Broker => self.broker_paused,
        };
        if held_up || !self.leg(side).is_readable() {
            return false;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let (room, buffer) = scratch.split_at_mut(ROOM);
            let Poll::Ready(count) = self.leg(side).poll_read(cx, buffer) else {
                return false;
            };
            let now = self.now();
            if count == 0 {
                self.session.handle_eof(side, now);
                return true;
            }
            self.reporter.bytes_in(side, count);
            self.view.show(&mut self.session);
            let begun = self.session.unread(side, room);
            let bytes = scratch.get(ROOM - begun..ROOM + count).unwrap_or_default();
            let passed = self.session.handle_read(side, bytes, now);
            if !passed.is_empty() {
                self.ask();
                self.reporter.report(&mut self.session, &self.seat);
                self.view.note(&mut self.session);
                self.poll_output(cx, side.other(), passed);
            }
            true
        })
    }

    /// Puts the session's questions to the store; a store in this process answers at once.
    fn ask(&mut self) {
        loop {
            let (asks, tells) = self.session.questions();
            if asks.is_empty() && tells.is_empty() {
                break;
            }
            let mut answers = Vec::new();
            self.store.submit(asks, &mut answers, &self.answer_sender);
            let mut tells = std::mem::take(tells);
            // First, so that an order to give a lock back finds nobody who takes it again.
            for ticket in self.session.cancelled().drain(..) {
                self.store.cancel(ticket.0, &self.answer_sender);
            }
            self.store.tell_all(&mut tells);
            let now = self.now();
            for (ticket, answer) in answers {
                self.session.handle_answer(Ticket(ticket), answer.map_err(|why| silent(&why)), now);
            }
        }
        for ticket in self.session.cancelled().drain(..) {
            self.store.cancel(ticket.0, &self.answer_sender);
        }
    }

    /// Writes what is due to one side, and then `passed`.
    fn poll_output(&mut self, cx: &mut Context<'_>, side: Side, passed: &[u8]) -> Written {
        let leg = match side {
            Side::Client => &mut self.client,
            Side::Broker => &mut self.broker,
        };
        let (state, count) = leg.poll_write(cx, &mut self.session, side, passed);
        if count > 0 {
            self.reporter.bytes_out(side, count);
            let now = self.hub.now();
            self.session.handle_written(side, now);
        }
        state
    }

    /// A side that takes nothing more holds up the reading of the other, and nothing else does.
    fn pace(&mut self) {
        let to_broker = self.broker.backlog() + self.session.pending(Side::Broker);
        let pause = to_broker > 0 && to_broker + self.session.held_bytes() > self.hub.connection_memory();
        if pause != self.client_paused {
            self.client_paused = pause;
            let now = self.now();
            self.session.handle_paused(Side::Client, pause, now);
        }
        if !self.session.wants(Side::Client) && !self.session.is_done(Side::Client) {
            // What a client that is gone does not take must not hold up the broker's confirms.
            self.client.silence();
        }
        let pause = self.client.backlog() + self.session.pending(Side::Client) > CLIENT_BACKLOG;
        if pause != self.broker_paused {
            self.broker_paused = pause;
            let now = self.now();
            self.session.handle_paused(Side::Broker, pause, now);
        }
    }

    /// While draining: tells once that no work is in hand.
    fn report_finished(&mut self) {
        if self.reports && !self.session.has_work_in_hand() {
            self.reports = false;
            self.seat.finished();
        }
    }

    /// Shuts what is done. True when both sides are.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> bool {
        for side in [Side::Client, Side::Broker] {
            if !self.session.is_done(side) {
                continue;
            }
            let timer = self.last_write.get_or_insert_with(|| Box::pin(tokio::time::sleep(LAST_WRITE)));
            let late = timer.is_elapsed() || timer.as_mut().poll(cx).is_ready();
            let pending = self.session.pending(side);
            let leg = self.leg(side);
            if late {
                leg.abort();
            } else if leg.backlog() == 0 && pending == 0 || !leg.is_open() {
                let _ = leg.poll_close(cx);
            }
        }
        let done = self.session.is_done(Side::Client) && self.session.is_done(Side::Broker);
        done && !self.client.is_open() && !self.broker.is_open() && !self.session.awaits_answers()
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        SPARES.with_borrow_mut(|spares| this.session.lend_buffers(spares));
        this.poll_commands(cx);
        for _ in 0..TURN {
            this.poll_answers(cx);
            this.republishing.poll(cx, &mut this.session, &this.hub);
            this.fetching.poll(cx, &mut this.session, &this.hub);
            this.poll_timer(cx);
            this.poll_dial(cx);
            let mut progress = this.poll_input(cx, Side::Client);
            progress |= this.poll_input(cx, Side::Broker);
            this.ask();
            progress |= this.republishing.hand_over(&mut this.session, &this.hub);
            progress |= this.fetching.hand_over(&mut this.session, &this.hub);
            let before = (this.client_paused, this.broker_paused);
            // What is told is counted first: who has read an answer finds it in the metrics.
            this.reporter.report(&mut this.session, &this.seat);
            this.view.note(&mut this.session);
            let written = (this.poll_output(cx, Side::Broker, &[]), this.poll_output(cx, Side::Client, &[]));
            this.pace();
            this.report_finished();
            if this.poll_end(cx) {
                return Poll::Ready(());
            }
            progress |= before != (this.client_paused, this.broker_paused);
            if !progress {
                if written == (Written::All, Written::All) {
                    SPARES.with_borrow_mut(|spares| {
                        this.client.release_buffers(spares);
                        this.broker.release_buffers(spares);
                        this.session.release_buffers(spares);
                    });
                }
                // A deadline may have moved nearer since the timer was looked at.
                if !this.poll_timer(cx) {
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn silent(unavailable: &store::Unavailable) -> StoreSilent {
    match unavailable {
        store::Unavailable::Timeout => StoreSilent::Timeout,
        store::Unavailable::CircuitOpen => StoreSilent::CircuitOpen,
        store::Unavailable::Disconnected | store::Unavailable::Refused(_) => StoreSilent::Unreachable,
    }
}
