//! Oncegate's own account at the broker: one connection for each virtual host that `[control]` names.
//!
//! Workers that connect to the broker past every proxy are heard and asked here:
//!
//! - their events come through one durable queue, `oncegate.events`, which all proxies of a virtual host share, and which is bound to
//!   Celery's exchange of events. A message of it is acknowledged once the store has taken what it says;
//! - messages to them go to the exchange of mailboxes, and always name whom they are for. Answers come to a queue of the connection's
//!   own, whose name nobody can guess, through the default exchange, so that a worker declares nothing.
//!
//! Messages that Oncegate publishes in place of a delivery go this way, too: into delay queues, and to exchanges of dead letters; and those
//! that tell what was decided.
//!
//! The broker is dialled, never a proxy. A connection that is lost is made anew; until then what needs it is off, and the proxy works on.
//!
//! - `wire`: a connection as a client, on the codec of this crate.
//! - `prepare`: what is declared and consumed, and the rights that this takes.
//! - `link`: one virtual host.
//! - `told`: which workers are to be told to publish events.
//! - `announce`: messages that tell what was decided.
//! - `post`: messages that are published in place of deliveries.
//! - `publish`: those of them that the broker has not answered.
//! - `delay`: the queues in which they wait.
//! - `complaints`: what an operator is told of them.

mod announce;
mod complaints;
mod delay;
mod link;
mod post;
mod prepare;
mod publish;
mod told;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::config::account::Account;
use crate::metrics::{EventDrop, Metrics};
use crate::session::{Pulse, Republish, RepublishFault, TasksKnown};
use crate::store::Client;

pub use announce::Notice;
pub use prepare::{Needs, Step, StepFault, check, least_rights};
pub use wire::{Dial, Fault};

/// So many messages to workers wait to be sent; more are not taken.
const ORDERS: usize = 1_000;
/// So many messages in place of deliveries, and so many octets of them, may be without the broker's answer.
const LETTERS: usize = 10_000;
const LETTER_OCTETS: usize = 64 << 20;
/// So many messages that tell what was decided wait to be sent, none longer than so many octets.
const NOTICES: usize = 1_000;
const NOTICE_OCTETS: usize = 1 << 14;
/// So long the broker's answer to one is waited for.
const ANSWER: Duration = Duration::from_secs(30);

/// How one virtual host is looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The connection.
    pub dial: Dial,
    /// Whether a rule has locks whose life depends on what workers do: without one nothing is declared, heard or asked.
    pub follows: bool,
    /// Whether workers are told to publish task events.
    pub enable_events: bool,
    /// What the names of delay queues begin with.
    pub park_prefix: Arc<str>,
}

/// Who is told what comes.
pub trait Workers: Send + Sync {
    /// Whether the mailbox of this worker is consumed on a connection of this process.
    fn is_carried(&self, vhost: &Arc<str>, node: &Arc<str>) -> bool;
    /// A worker tells of itself.
    fn pulse(&self, vhost: &Arc<str>, node: Arc<str>, pulse: Pulse);
    /// A worker has answered.
    fn answered(&self, answer: TasksKnown);
}

/// What workers can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Say {
    /// Publish task events.
    EnableEvents,
    /// Never run these tasks. What runs goes on.
    Revoke(Arc<[Arc<str>]>),
    /// Say what is known of these tasks.
    QueryTask {
        /// Their ids.
        ids: Arc<[Arc<str>]>,
        /// Comes back with the answer; unguessable.
        ticket: Arc<str>,
    },
}

/// Something to be told to workers of these node names.
#[derive(Debug)]
struct Order {
    nodes: Vec<Arc<str>>,
    say: Say,
}

/// What all links share.
#[derive(Clone)]
struct Parts {
    store: Client,
    workers: Arc<dyn Workers>,
    metrics: Arc<Metrics>,
}

/// What a link tells of itself.
#[derive(Debug, Default)]
struct Status {
    /// It is connected and prepared.
    is_up: AtomicBool,
    /// The broker reads nothing from it.
    is_blocked: AtomicBool,
}

/// What a link is given to do.
struct Orders {
    says: mpsc::Receiver<Order>,
    jobs: mpsc::Receiver<post::Job>,
    notices: mpsc::Receiver<Notice>,
}

/// A virtual host that is looked after.
struct Link {
    settings: Settings,
    status: Arc<Status>,
    says: mpsc::Sender<Order>,
    jobs: mpsc::Sender<post::Job>,
    notices: mpsc::Sender<Notice>,
    /// What is left of the bounds on messages in place of deliveries.
    letters: Arc<Semaphore>,
    octets: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Link {
    fn start(settings: Settings, parts: &Parts) -> Link {
        let (says, said) = mpsc::channel(ORDERS);
        let (jobs, given) = mpsc::channel(LETTERS);
        let (notices, told) = mpsc::channel(NOTICES);
        let status = Arc::<Status>::default();
        let orders = Orders {
            says: said,
            jobs: given,
            notices: told,
        };
        Link {
            status: Arc::clone(&status),
            says,
            jobs,
            notices,
            letters: Arc::new(Semaphore::new(LETTERS)),
            octets: Arc::new(Semaphore::new(LETTER_OCTETS)),
            task: tokio::spawn(link::run(settings.clone(), parts.clone(), status, orders)),
            settings,
        }
    }

    fn publishes(&self) -> bool {
        self.status.is_up.load(Ordering::Acquire) && !self.status.is_blocked.load(Ordering::Acquire)
    }

    /// Takes a message, if there is room for it: the broker's answer.
    fn hand_in(&self, message: Republish) -> Result<oneshot::Receiver<Result<(), RepublishFault>>, RepublishFault> {
        if !self.publishes() {
            return Err(RepublishFault::NotAvailable);
        }
        let room = self.room_for(&message).ok_or(RepublishFault::Full)?;
        let (reply, answer) = oneshot::channel();
        let at = Instant::now();
        let at_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let job = post::Job {
            message,
            reply,
            at,
            at_s,
            room,
        };
        self.jobs.try_send(job).map_err(|_| RepublishFault::Full)?;
        Ok(answer)
    }

    fn room_for(&self, message: &Republish) -> Option<[OwnedSemaphorePermit; 2]> {
        let octets = u32::try_from(message.header.len() + message.body.len()).ok()?;
        Some([
            Arc::clone(&self.letters).try_acquire_owned().ok()?,
            Arc::clone(&self.octets).try_acquire_many_owned(octets).ok()?,
        ])
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The links of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Control {
    links: Arc<Mutex<HashMap<Arc<str>, Link>>>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    fn links(&self) -> MutexGuard<'_, HashMap<Arc<str>, Link>> {
        // Each entry stands alone: a panic elsewhere cannot have left it half changed.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether workers of this virtual host are heard and can be asked now.
    pub fn reaches(&self, vhost: &str) -> bool {
        let reaches = |link: &Link| link.settings.follows && link.status.is_up.load(Ordering::Acquire);
        self.links().get(vhost).is_some_and(reaches)
    }

    /// Tells workers something, by name: without a name nothing is sent, since workers take that for a message to all. It may be lost, as
    /// with the connection; an answer comes to [`Workers::answered`], or never.
    pub fn say(&self, vhost: &str, nodes: Vec<Arc<str>>, say: Say) {
        if let Some(link) = self.links().get(vhost) {
            // Where too many wait the broker does not take them anyway.
            let _ = link.says.try_send(Order { nodes, say });
        }
    }

    /// Whether messages can be published in this virtual host now.
    pub fn publishes(&self, vhost: &str) -> bool {
        self.links().get(vhost).is_some_and(Link::publishes)
    }

    /// Publishes a message in this virtual host, confirmed and mandatory. It is handed in at once, whether what this gives is polled or not;
    /// that ends with the broker's answer, or without one after half a minute. Once it is dropped, the message may still be sent.
    pub fn publish(&self, vhost: &str, message: Republish) -> impl Future<Output = Result<(), RepublishFault>> + Send + 'static + use<> {
        let link = |link: &Link| link.hand_in(message);
        let answer = self.links().get(vhost).map_or(Err(RepublishFault::NotAvailable), link);
        async move {
            match timeout(ANSWER, answer?).await {
                Ok(Ok(answer)) => answer,
                // It took too long, or the link is no more.
                Ok(Err(_)) | Err(_) => Err(RepublishFault::Unknown),
            }
        }
    }

    /// Hands in a message that tells what was decided, to be published in this virtual host in its turn. Nobody hears what becomes of it;
    /// what is lost is counted.
    pub fn announce(&self, vhost: &str, notice: Notice) -> Result<(), EventDrop> {
        let links = self.links();
        let link = links.get(vhost).filter(|link| link.status.is_up.load(Ordering::Acquire));
        let link = link.ok_or(EventDrop::Unavailable)?;
        if notice.body.len() > NOTICE_OCTETS {
            return Err(EventDrop::Overflow);
        }
        link.notices.try_send(notice).map_err(|_| EventDrop::Overflow)
    }

    /// Looks after the virtual hosts that the settings name, until their sender is gone.
    pub async fn run(self, store: Client, workers: Arc<dyn Workers>, metrics: Arc<Metrics>, mut settings: watch::Receiver<Vec<Settings>>) {
        let parts = Parts { store, workers, metrics };
        loop {
            let wanted = settings.borrow_and_update().clone();
            self.configure(wanted, &parts);
            if settings.changed().await.is_err() {
                return;
            }
        }
    }

    /// Starts and ends links; one whose settings are the same goes on.
    fn configure(&self, wanted: Vec<Settings>, parts: &Parts) {
        let mut links = self.links();
        links.retain(|vhost, link| {
            let stays = wanted.contains(&link.settings);
            if !stays {
                parts.metrics.forget_control(vhost);
            }
            stays
        });
        for settings in wanted {
            let vhost = Arc::clone(&settings.dial.account.vhost);
            links.entry(vhost).or_insert_with(|| Link::start(settings, parts));
        }
    }
}

/// What is asked of the accounts of this configuration beside following workers.
pub fn needs(config: &Config) -> Needs {
    let dead_letters = config.rules.rules().iter().filter_map(|rule| rule.dead_letter.as_ref());
    Needs {
        replies: config.rules.tells_callers(),
        park_prefix: config.rules.may_hold(None).then(|| Arc::clone(&config.park.prefix)),
        events: config.events.exchange.clone(),
        dead_letter: dead_letters.map(|dead_letter| dead_letter.exchange.as_str().into()).collect(),
    }
}

/// How an account of the configuration is dialled. `name`: what the broker shows of the connection.
pub fn dial(config: &Config, account: &Account, name: &str) -> Dial {
    Dial {
        account: account.clone(),
        tls: config.proxy.upstream_tls.clone(),
        timeout: config.proxy.connect_timeout,
        max_message: config.proxy.max_message,
        name: name.to_owned(),
    }
}

/// A time near this one, so that many proxies do not act at once.
pub fn spread(time: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u64_pair().0 % 1024;
    time * 3 / 4 + time / 2 * (random as u32) / 1024
}

#[cfg(test)]
mod tests;
