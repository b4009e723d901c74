//! Counting the locks in the store, for `oncegate_locks`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Admin;
use crate::store::{Client, Filter, Unavailable};

/// Locks that are asked for at once.
const PAGE: usize = 1000;
/// A count is at most this old, unless counting takes long.
const EVERY: Duration = Duration::from_secs(15);
/// Counting takes at most one part in this many of the time, however many locks there are.
const SHARE: u32 = 20;

/// Counts the locks again and again, for as long as the process lives. While they cannot be counted nothing is shown, rather than what
/// was true once.
pub async fn count_locks(admin: Arc<Admin>) {
    loop {
        let began = Instant::now();
        let counts = count(&admin.store).await.unwrap_or_default();
        admin
            .metrics
            .set_locks(counts.iter().map(|((rule, state), count)| (&**rule, *state, *count)));
        tokio::time::sleep(EVERY.max(began.elapsed() * SHARE)).await;
    }
}

type Counts = BTreeMap<(Arc<str>, &'static str), u64>;

async fn count(store: &Client) -> Result<Counts, Unavailable> {
    let mut counts = Counts::new();
    let mut cursor = None;
    loop {
        let page = store.list(&Filter::default(), cursor.as_deref(), PAGE).await?;
        for lock in page.locks {
            *counts.entry((lock.rule, lock.state.as_str())).or_default() += 1;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(counts);
        }
    }
}
