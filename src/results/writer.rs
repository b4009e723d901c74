//! Writes the results that need no other task's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::RedisError;
use tokio::sync::{mpsc, watch};

use super::backend::{Backend, IDS_AT_ONCE};
use super::publisher::{self, Published};
use super::{Failures, Order, Settings};
use crate::celery::result::Given;
use crate::control::{Control, spread};
use crate::rules::owed::{Outcome, ReplyTo, Via};
use crate::session::RepublishFault;
use crate::store::join::{Group, Joined, Taken};
use crate::store::{Client, Unavailable};

/// For how long a result is tried to be written: a backend that restarts is back by then.
const TRIED_FOR: Duration = Duration::from_secs(60);
/// The pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why a result cannot be written or published at the moment.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the result backend: {0}")]
    Backend(#[from] RedisError),
    #[error(transparent)]
    Store(#[from] Unavailable),
    #[error("it cannot be published: {}", .0.as_str())]
    Control(RepublishFault),
}

/// Writes and publishes what is ordered until nobody can order any more.
pub(super) async fn run(
    mut orders: mpsc::Receiver<Order>,
    store: Client,
    control: Control,
    mut settings: watch::Receiver<Settings>,
    failures: Arc<Failures>,
    owing: Arc<AtomicUsize>,
) {
    let mut backend = None;
    let mut waiting = VecDeque::new();
    let mut pause = FIRST_PAUSE;
    loop {
        if waiting.is_empty() {
            let mut came = Vec::new();
            if orders.recv_many(&mut came, IDS_AT_ONCE).await == 0 {
                return;
            }
            waiting.extend(came);
        }
        Backend::becomes(&mut backend, settings.borrow_and_update().written.clone());
        let before = waiting.len();
        let told = tell(backend.as_mut(), &store, &control, &failures, &mut waiting).await;
        if let Err(trouble) = &told {
            hand_over(&store, &mut waiting).await;
            give_up(&mut waiting, &failures, &trouble.to_string());
        }
        owing.fetch_sub(before - waiting.len(), Ordering::Relaxed);
        if told.is_ok() {
            pause = FIRST_PAUSE;
        } else {
            tokio::time::sleep(spread(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Tells what waits, the oldest first; what is told waits no longer.
async fn tell(
    mut backend: Option<&mut Backend>,
    store: &Client,
    control: &Control,
    failures: &Failures,
    waiting: &mut VecDeque<Order>,
) -> Result<(), Trouble> {
    while let Some(first) = waiting.front() {
        let given = given(first.outcome, &first.holder);
        let is_written = first.via == Via::Backend;
        let alike =
            |order: &&Order| order.holder == first.holder && order.outcome == first.outcome && (order.via == Via::Backend) == is_written;
        let most = if is_written { usize::MAX } else { publisher::AT_ONCE };
        let some: Vec<&Order> = waiting.iter().take_while(alike).take(most).collect();
        let count = some.len();
        if is_written {
            let ids: Vec<Arc<str>> = some.iter().map(|order| Arc::clone(&order.id)).collect();
            // The rules of a configuration without a backend owe nothing: what is left is of the one before.
            if let Some(backend) = &mut backend {
                backend.write(&given, &ids).await?;
            }
            waiting.drain(..count);
        } else {
            let published = publish(store, control, &given, &some).await?;
            publish_done(failures, waiting, &published)?;
        }
    }
    Ok(())
}

/// Publishes this result for all that wait for it: what became of each.
async fn publish(store: &Client, control: &Control, given: &Given, orders: &[&Order]) -> Result<Vec<Published>, Trouble> {
    let unknown = |order: &&&Order| matches!(order.via, Via::ReplyToCaller(_));
    let asked: Vec<&ReplyTo> = orders
        .iter()
        .filter(unknown)
        .filter_map(|order| Some(&**order.via.reply_to()?))
        .collect();
    let mut callers = store.are_callers(&asked).await?.into_iter();
    let wanted: Vec<bool> = orders
        .iter()
        .map(|order| !unknown(&order) || callers.next().unwrap_or_default())
        .collect();
    let to = orders.iter().zip(&wanted).filter(|(_, wanted)| **wanted);
    let to = to.filter_map(|(order, _)| Some((&*order.id, &**order.via.reply_to()?)));
    let mut published = publisher::publish(control, given, to).await.into_iter();
    let of = |wanted: bool| if wanted { published.next() } else { Some(Published::Nobody) };
    Ok(wanted.into_iter().map_while(of).collect())
}

/// The first of those that wait were published so: they wait no longer, but for those that are to be tried again.
fn publish_done(failures: &Failures, waiting: &mut VecDeque<Order>, published: &[Published]) -> Result<(), Trouble> {
    let mut trouble = Ok(());
    let mut left = Vec::new();
    for (order, published) in waiting.drain(..published.len().min(waiting.len())).zip(published) {
        match published {
            Published::Done | Published::Nobody => {}
            Published::Refused => failures.count(&order.rule, &order.id, "the broker refuses it", 1),
            Published::NotNow(fault) => {
                trouble = Err(Trouble::Control(*fault));
                left.push(order);
            }
        }
    }
    for order in left.into_iter().rev() {
        waiting.push_front(order);
    }
    trouble
}

pub(super) fn given(outcome: Outcome, holder: &str) -> Given {
    match outcome {
        Outcome::Success => Given::success(holder, now_ms()),
        Outcome::Revoked => Given::revoked(&format!("duplicate of {holder}"), holder, now_ms()),
        Outcome::Overdue => Given::revoked("it has waited for a rate limit for longer than max_wait", holder, now_ms()),
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What cannot be told now is left to the store, if that outlives this process: any proxy goes on with it (`joiner`).
async fn hand_over(store: &Client, waiting: &mut VecDeque<Order>) {
    while let Some(first) = waiting.front() {
        let group = Group::owed(first.outcome, &first.holder);
        let alike = |order: &&Order| order.holder == first.holder && order.outcome == first.outcome;
        let owed = waiting.iter().take_while(alike).take(IDS_AT_ONCE).map(|order| Joined {
            id: Arc::clone(&order.id),
            rule: Arc::clone(&order.rule),
            reply_to: order.via.reply_to().cloned(),
        });
        let owed: Vec<Joined> = owed.collect();
        match store.owe(&group, &owed).await {
            Ok(Taken::Yes) => drop(waiting.drain(..owed.len())),
            Ok(Taken::No) | Err(_) => return,
        }
    }
}

fn give_up(waiting: &mut VecDeque<Order>, failures: &Failures, why: &str) {
    while let Some(order) = waiting.front().filter(|order| order.since.elapsed() > TRIED_FOR) {
        failures.count(&order.rule, &order.id, why, 1);
        waiting.pop_front();
    }
}
