//! Writes the results that need no other task's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};

use super::backend::{Backend, IDS_AT_ONCE};
use super::{Failures, Order, Settings};
use crate::celery::result::Given;
use crate::control::spread;
use crate::rules::owed::Outcome;

/// For how long a result is tried to be written: a backend that restarts is back by then.
const TRIED_FOR: Duration = Duration::from_secs(60);
/// The pauses between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Writes what is ordered until nobody can order any more.
pub(super) async fn run(
    mut orders: mpsc::Receiver<Order>,
    mut settings: watch::Receiver<Option<Settings>>,
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
        let wanted = settings.borrow_and_update().clone();
        if backend.as_ref().map(Backend::settings) != wanted.as_ref() {
            backend = wanted.map(Backend::new);
        }
        let Some(backend) = &mut backend else {
            // The rules of a configuration without a backend owe nothing: what is left is of the one before.
            owing.fetch_sub(waiting.len(), Ordering::Relaxed);
            waiting.clear();
            continue;
        };
        let before = waiting.len();
        let written = write(backend, &mut waiting).await;
        if let Err(trouble) = &written {
            give_up(&mut waiting, &failures, &trouble.to_string());
        }
        owing.fetch_sub(before - waiting.len(), Ordering::Relaxed);
        if written.is_ok() {
            pause = FIRST_PAUSE;
        } else {
            tokio::time::sleep(spread(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Writes what waits, the oldest first; what is written waits no longer.
async fn write(backend: &mut Backend, waiting: &mut VecDeque<Order>) -> redis::RedisResult<()> {
    while let Some(first) = waiting.front() {
        let (holder, outcome) = (Arc::clone(&first.holder), first.outcome);
        let alike = |order: &&Order| order.holder == holder && order.outcome == outcome;
        let ids: Vec<Arc<str>> = waiting.iter().take_while(alike).map(|order| Arc::clone(&order.id)).collect();
        backend.write(&given(outcome, &holder), &ids).await?;
        waiting.drain(..ids.len());
    }
    Ok(())
}

fn given(outcome: Outcome, holder: &str) -> Given {
    match outcome {
        Outcome::Success => Given::success(holder, now_ms()),
        Outcome::Revoked => Given::revoked(&format!("duplicate of {holder}"), holder, now_ms()),
    }
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn give_up(waiting: &mut VecDeque<Order>, failures: &Failures, why: &str) {
    while let Some(order) = waiting.front().filter(|order| order.since.elapsed() > TRIED_FOR) {
        failures.count(&order.rule, &order.id, why, 1);
        waiting.pop_front();
    }
}
