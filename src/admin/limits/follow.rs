//! What the metrics and the log tell of limits that operators have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::shown::{in_force, is_pause, is_rate, same_key, says};
use crate::admin::Admin;
use crate::rules::limit::control::{Setting, Target};
use crate::store::limits::Known;

/// How often the store is asked what is set.
const EVERY: Duration = Duration::from_secs(1);

/// Shows again and again in the metrics what holds for each limit, and says in the log what is set anew, for as long as the process lives.
/// While the store does not answer, what it said last is shown.
pub async fn follow_limits(admin: Arc<Admin>) {
    let mut known: BTreeMap<Arc<str>, Known> = BTreeMap::new();
    let mut shown: BTreeSet<(Arc<str>, Arc<str>)> = BTreeSet::new();
    loop {
        let limits = admin.found_limits(None);
        let rules: BTreeSet<Arc<str>> = limits.iter().map(|found| Arc::clone(&found.rule)).collect();
        known.retain(|rule, _| rules.contains(rule));
        for rule in &rules {
            let Ok(mut now) = admin.store.limits(rule, &[]).await else {
                continue;
            };
            now.set
                .sort_by(|one, other| (one.target.limit.as_ref(), one.since_ms).cmp(&(other.target.limit.as_ref(), other.since_ms)));
            tell(rule, known.get(rule), &now);
            known.insert(Arc::clone(rule), now);
        }
        let mut current = BTreeSet::new();
        for found in &limits {
            let Some(known) = known.get(&found.rule) else { continue };
            let target = Target {
                limit: Arc::clone(&found.limit.name),
                key: None,
            };
            let paused = in_force(known, &target, is_pause).0.is_some();
            let times = found.rate(known, &target).map(|rate| rate.times);
            admin.metrics.rule(&found.rule).show_limit(&found.limit.name, paused, times);
            current.insert((Arc::clone(&found.rule), Arc::clone(&found.limit.name)));
        }
        for (rule, limit) in shown.difference(&current) {
            admin.metrics.rule(rule).forget_limit(limit);
        }
        shown = current;
        tokio::time::sleep(EVERY).await;
    }
}

/// Says what is other than before.
fn tell(rule: &str, before: Option<&Known>, now: &Known) {
    let before = before.map_or(&[][..], |known| known.set.as_slice());
    for set in now.set.iter().filter(|set| !before.contains(set)) {
        let seconds = set.until_ms.map(|until_ms| until_ms.saturating_sub(set.since_ms) / 1_000);
        let key = set.target.key.as_ref().map(|key| key.digest.to_hex());
        let (limit, what, by) = (&*set.target.limit, says(set.what), &*set.by);
        tracing::warn!(rule, limit, key, what, seconds, by, "a limit is set above the configuration");
    }
    let goes_on = |ended: &Setting| {
        let same = |set: &&Setting| {
            set.target.limit == ended.target.limit && same_key(&set.target, &ended.target) && is_rate(set.what) == is_rate(ended.what)
        };
        now.set.iter().any(|set| same(&set))
    };
    for ended in before.iter().filter(|ended| !goes_on(ended)) {
        let key = ended.target.key.as_ref().map(|key| key.digest.to_hex());
        let (limit, what) = (&*ended.target.limit, says(ended.what));
        tracing::warn!(rule, limit, key, what, "what was set of a limit holds no more");
    }
}
