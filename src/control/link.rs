//! One virtual host: connected, prepared, served, and again after a while whenever that ends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::announce::{Announcer, Notice, TAKEN};
use super::post::Post;
use super::prepare::{self, CONSUMING, EVENTS_TAG, PUBLISHING, REPLIES_TAG, StepFault};
use super::told::Told;
use super::wire::{Delivery, Fault, Incoming, Wire};
use super::{Order, Orders, Parts, Say, Settings, Status};
use crate::amqp::content::ContentHeader;
use crate::amqp::encode;
use crate::amqp::method::basic::Ack;
use crate::celery::control::{self, Answer, Answers, Ask, DEFAULT_NAMESPACE, Message};
use crate::celery::{Limits, event};
use crate::metrics::{EventDrop, EventMetrics};
use crate::rules::lock::{Nonce, Request};
use crate::rules::source::Source;
use crate::session::{Heard, Pulse, RepublishFault, TasksKnown, read_events};
use crate::store::Client;

/// The first pause after a failure, which doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that has lasted so long has not failed at once.
const LASTED: Duration = Duration::from_secs(30);
/// How often workers are looked for that are to be told to publish events.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A worker that has not answered by then may be busy, or gone.
const ANSWER: Duration = Duration::from_secs(3);
/// So many questions are remembered.
const ASKED_KEPT: usize = 1_000;

/// Why a link is not there.
#[derive(Debug, thiserror::Error)]
enum Down {
    #[error("{0}")]
    Connection(#[from] Fault),
    #[error("{0}")]
    Step(#[from] StepFault),
}

/// Keeps up the link of one virtual host for as long as it is polled.
pub(super) async fn run(settings: Settings, parts: Parts, status: Arc<Status>, mut orders: Orders) {
    let vhost = Arc::clone(&settings.dial.account.vhost);
    let mut pause = PAUSE;
    let mut said = None;
    parts.metrics.set_control_up(&vhost, false);
    loop {
        let begun = Instant::now();
        let down = match connect(&settings).await {
            Ok((wire, replies)) => {
                tracing::info!(vhost = &*vhost, broker = %settings.dial.account.url, "the control connection stands");
                parts.metrics.set_control_up(&vhost, true);
                said = None;
                // What was asked meanwhile has waited too long.
                orders.discard(&parts.metrics.events);
                status.is_up.store(true, Ordering::Release);
                let mut served = Served::new(&settings, &parts, &status, wire, replies);
                let down = Down::from(served.serve(&mut orders).await);
                status.is_up.store(false, Ordering::Release);
                status.is_blocked.store(false, Ordering::Release);
                served.post.end();
                served.announcer.end();
                orders.discard(&parts.metrics.events);
                down
            }
            Err(down) => down,
        };
        parts.metrics.set_control_up(&vhost, false);
        if said.is_none() {
            let why = down.to_string();
            tracing::warn!(vhost = &*vhost, broker = %settings.dial.account.url, why, "no control connection; what needs it is off until it is there");
            said = Some(());
        } else {
            tracing::debug!(vhost = &*vhost, why = %down, "still no control connection");
        }
        if begun.elapsed() >= LASTED {
            pause = PAUSE;
        }
        tokio::time::sleep(super::spread(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Orders {
    fn discard(&mut self, metrics: &EventMetrics) {
        while self.says.try_recv().is_ok() {}
        while let Ok(job) = self.jobs.try_recv() {
            // Whoever waited may have given up.
            let _ = job.reply.send(Err(RepublishFault::NotAvailable));
        }
        while self.notices.try_recv().is_ok() {
            metrics.count_dropped(EventDrop::Unavailable, 1);
        }
    }
}

async fn connect(settings: &Settings) -> Result<(Wire, Option<String>), Down> {
    let mut wire = Wire::open(&settings.dial).await?;
    if !settings.follows {
        return Ok((wire, None));
    }
    let prepared = timeout(settings.dial.timeout, prepare::prepare(&mut wire)).await;
    let replies = prepared.map_err(|_| Fault::Silent(settings.dial.timeout))??;
    Ok((wire, Some(replies)))
}

/// The store has taken what it was told, up to a delivery.
type Taken = Pin<Box<dyn Future<Output = u64> + Send>>;

/// A connection that stands.
struct Served<'a> {
    settings: &'a Settings,
    parts: &'a Parts,
    status: &'a Status,
    vhost: Arc<str>,
    wire: Wire,
    post: Post,
    announcer: Announcer,
    /// The queue to which workers answer; `None` where nothing is asked or heard.
    replies: Option<String>,
    told: Told,
    /// The questions that are not answered: ticket, worker, and when they were asked.
    asked: Vec<(Arc<str>, Arc<str>, Instant)>,
    /// The last delivery that was heard, and the last that was acknowledged or is about to be.
    heard: u64,
    settled: u64,
    /// Ends when the store has taken what was heard.
    taken: Option<Taken>,
}

impl<'a> Served<'a> {
    fn new(settings: &'a Settings, parts: &'a Parts, status: &'a Status, wire: Wire, replies: Option<String>) -> Served<'a> {
        let vhost = Arc::clone(&settings.dial.account.vhost);
        let post = Post::new(&vhost, Arc::clone(&settings.park_prefix), wire.frame_max());
        let announcer = Announcer::new(&vhost, Arc::clone(&parts.metrics.events), wire.frame_max());
        Served {
            settings,
            parts,
            status,
            vhost,
            wire,
            post,
            announcer,
            replies,
            told: Told::default(),
            asked: Vec::new(),
            heard: 0,
            settled: 0,
            taken: None,
        }
    }

    /// Serves until the connection ends: the reason.
    async fn serve(&mut self, orders: &mut Orders) -> Fault {
        let mut tick = interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut notices: Vec<Notice> = Vec::with_capacity(TAKEN);
        loop {
            if self.taken.is_none() && self.settled < self.heard {
                self.settled = self.heard;
                self.taken = Some(taken(self.parts.store.clone(), self.heard));
            }
            if let Err(fault) = self.publish_letters() {
                return fault;
            }
            let done = tokio::select! {
                incoming = self.wire.next() => match incoming {
                    Ok(incoming) => self.take(incoming).await,
                    Err(fault) => Err(fault),
                },
                tag = next(&mut self.taken) => self.acknowledge(tag),
                Some(order) = orders.says.recv() => self.obey(&order),
                Some(job) = orders.jobs.recv() => {
                    // Those that came with it go in the same write.
                    self.post.hand_in(job);
                    while let Ok(job) = orders.jobs.try_recv() {
                        self.post.hand_in(job);
                    }
                    Ok(())
                }
                1.. = orders.notices.recv_many(&mut notices, TAKEN), if self.announcer.has_room() => {
                    self.announcer.hand_in(notices.drain(..));
                    Ok(())
                }
                _ = tick.tick() => self.look().await,
            };
            if let Err(fault) = done {
                return fault;
            }
        }
    }

    /// Sends what can be sent of the messages in place of deliveries, and then of those that tell what was decided.
    fn publish_letters(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        self.post.proceed(now, self.wire.backlog());
        let mut frames = self.post.frames();
        self.announcer
            .proceed(now, self.post.is_blocked(), self.wire.backlog() + frames.len());
        frames.append(&mut self.announcer.frames());
        self.wire.send(|out| {
            out.append(&mut frames);
            Ok(())
        })
    }

    async fn take(&mut self, incoming: Incoming) -> Result<(), Fault> {
        let now = Instant::now();
        let Some(incoming) = self.post.hear(incoming, now)? else {
            self.status.is_blocked.store(self.post.is_blocked(), Ordering::Release);
            return Ok(());
        };
        let Some(incoming) = self.announcer.hear(incoming, now)? else {
            return Ok(());
        };
        match incoming {
            Incoming::Delivery(delivery) if delivery.consumer_tag == EVENTS_TAG => {
                self.hear(&delivery);
                self.heard = delivery.tag;
                Ok(())
            }
            Incoming::Delivery(delivery) => {
                if delivery.consumer_tag == REPLIES_TAG {
                    self.answered(&delivery);
                }
                Ok(())
            }
            Incoming::ChannelClosed {
                channel: PUBLISHING,
                fault,
            } => {
                tracing::debug!(vhost = &*self.vhost, why = %fault, "a message to workers was refused");
                prepare::open_channel(&mut self.wire, PUBLISHING).await
            }
            Incoming::ChannelClosed { fault, .. } => Err(fault),
            Incoming::Answer { .. } | Incoming::Returned(_) => Ok(()),
        }
    }

    fn limits(&self) -> Limits {
        Limits::new(self.settings.dial.max_message)
    }

    /// Tells what events say; those of workers that this process carries have been heard in passing.
    fn hear(&mut self, delivery: &Delivery) {
        if !event::may_matter(&delivery.routing_key) {
            return;
        }
        let (Some(header), Some(body)) = (ContentHeader::decode(&delivery.header), &delivery.body) else {
            return;
        };
        for heard in read_events(&header.properties, body, self.limits()) {
            if self.parts.workers.is_carried(&self.vhost, heard.node()) {
                continue;
            }
            match heard {
                Heard::Signal { id, signal, worker } => self.parts.store.tell(Request::Signal {
                    id,
                    // None of these signals is a settlement.
                    settlement: Nonce(0),
                    signal,
                    source: Source::Events,
                    worker,
                }),
                Heard::Pulse { node, pulse } => {
                    self.told.heard(&node, pulse, Instant::now());
                    self.parts.workers.pulse(&self.vhost, node, pulse);
                }
            }
        }
    }

    fn answered(&mut self, delivery: &Delivery) {
        let (Some(header), Some(body)) = (ContentHeader::decode(&delivery.header), &delivery.body) else {
            return;
        };
        let Some(ticket) = control::ticket(&header.properties) else {
            return;
        };
        let ticket = String::from_utf8_lossy(ticket);
        self.asked.retain(|(asked, _, _)| **asked != *ticket);
        // One that cannot be read is no answer; the question is asked again.
        for reply in control::read_reply(&header.properties, body, self.limits()).unwrap_or_default() {
            if let Answer::Tasks(tasks) = reply.answer {
                self.parts.workers.answered(TasksKnown {
                    ticket: (*ticket).into(),
                    node: reply.node.into(),
                    known: tasks.into_iter().map(|task| task.id.into()).collect(),
                });
            }
        }
    }

    fn acknowledge(&mut self, delivery_tag: u64) -> Result<(), Fault> {
        self.wire.send(|out| {
            let ack = Ack {
                delivery_tag,
                multiple: true,
            };
            encode::basic_ack(out, CONSUMING, ack);
            Ok(())
        })
    }

    fn obey(&mut self, order: &Order) -> Result<(), Fault> {
        let nodes: Vec<&str> = order.nodes.iter().map(|node| &**node).collect();
        match &order.say {
            Say::EnableEvents => self.publish(Ask::EnableEvents, &nodes, None),
            Say::Revoke(ids) => {
                let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
                self.publish(Ask::Revoke(&ids), &nodes, None)
            }
            Say::QueryTask { ids, ticket } => {
                let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
                let room = ASKED_KEPT.saturating_sub(self.asked.len());
                let now = Instant::now();
                let asked = order
                    .nodes
                    .iter()
                    .take(room)
                    .map(|node| (Arc::clone(ticket), Arc::clone(node), now));
                self.asked.extend(asked);
                self.publish(Ask::QueryTask(&ids), &nodes, Some(ticket))
            }
        }
    }

    /// Looks after what has become due.
    async fn look(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        self.post.look(now);
        let (late, asked) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|(_, _, at)| now >= *at + ANSWER);
        self.asked = asked;
        for (_, node, _) in late {
            // A worker that is busy with a task in its main process neither answers nor publishes heartbeats, but has its connection.
            if prepare::has_mailbox(&mut self.wire, &node).await? {
                self.parts.workers.pulse(&self.vhost, node, Pulse::Heartbeat { every_ms: None });
            }
        }
        self.tell_of_events()
    }

    fn tell_of_events(&mut self) -> Result<(), Fault> {
        let due = self.told.take_due();
        if due.is_empty() || !self.settings.enable_events {
            return Ok(());
        }
        tracing::debug!(vhost = &*self.vhost, workers = ?due, "told to publish task events");
        let nodes: Vec<&str> = due.iter().map(|node| &**node).collect();
        self.publish(Ask::EnableEvents, &nodes, None)
    }

    fn publish(&mut self, ask: Ask<'_>, nodes: &[&str], ticket: Option<&str>) -> Result<(), Fault> {
        let Some(replies) = &self.replies else { return Ok(()) };
        let answers = ticket.map(|ticket| Answers {
            exchange: "",
            routing_key: replies,
            ticket,
        });
        match Message::new(ask, DEFAULT_NAMESPACE, nodes, answers) {
            Some(message) => self.wire.send(|out| prepare::publish(out, PUBLISHING, &message)),
            None => Ok(()),
        }
    }
}

/// Ends when the store has taken all that it was told: gives the tag back.
fn taken(store: Client, tag: u64) -> Taken {
    Box::pin(async move {
        store.flush().await;
        tag
    })
}

async fn next(taken: &mut Option<Taken>) -> u64 {
    match taken {
        Some(pending) => {
            let tag = pending.await;
            *taken = None;
            tag
        }
        None => std::future::pending().await,
    }
}
