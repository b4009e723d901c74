//! A limit with what is set of it, as it is shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Found;
use crate::celery::value::Value as Part;
use crate::rules::limit::control::{Setting, Target, What};
use crate::store::limits::{self, Asked, Known};
use crate::store::operator::time_json;

/// Of how many values of a key it is counted who waits.
const COUNTED: usize = 200;

pub(super) fn is_rate(what: What) -> bool {
    matches!(what, What::Rate { .. })
}

pub(super) fn is_pause(what: What) -> bool {
    matches!(what, What::Paused(_))
}

pub(super) fn says(what: What) -> String {
    match what {
        What::Paused(true) => "paused".to_owned(),
        What::Paused(false) => "resumed".to_owned(),
        What::Rate { times, per_ms } => format!("{times} per {per_ms} ms"),
    }
}

/// Of what is set, that which holds for a limit or for one value of its key, and whether it is set for that itself.
pub(super) fn in_force<'a>(known: &'a Known, target: &Target, kind: fn(What) -> bool) -> (Option<&'a Setting>, bool) {
    let of = |target: &Target| {
        let mut set = known.set.iter();
        set.find(|set| kind(set.what) && set.target.limit == target.limit && same_key(&set.target, target))
    };
    let own = of(target);
    let whole = Target {
        limit: Arc::clone(&target.limit),
        key: None,
    };
    (own.or_else(|| of(&whole)), own.is_some())
}

pub(super) fn same_key(one: &Target, other: &Target) -> bool {
    let digest = |target: &Target| target.key.as_ref().map(|key| key.digest);
    digest(one) == digest(other)
}

/// A limit, or one value of its key, as it is shown.
struct Side {
    target: Target,
    /// The places of its buckets, one in each virtual host, among what the store is asked.
    asked: Vec<usize>,
    counts: Option<limits::Bucket>,
}

/// A limit as it is shown.
pub(super) struct Shown<'a> {
    found: &'a Found,
    whole: Side,
    keys: Vec<Side>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(found: &'a Found, known: &Known, vhosts: &[Arc<str>], asked: &mut Vec<Asked>) -> Shown<'a> {
        let mut side = |target: Target, parts: Option<Vec<Part>>| {
            let rate = found.rate(known, &target);
            let mut places = Vec::new();
            for vhost in parts.iter().flat_map(|_| vhosts) {
                let digest = found.limit.bucket_of(&found.rule, vhost, parts.as_deref().unwrap_or_default());
                places.push(asked.len());
                asked.push(Asked { digest, rate });
            }
            Side {
                target,
                asked: places,
                counts: None,
            }
        };
        let limit = Arc::clone(&found.limit.name);
        let keyless = found.limit.key_texts().is_empty().then(Vec::new);
        let whole = side(Target { limit, key: None }, keyless);
        let of_keys = known.set.iter().filter(|set| set.is_of(&found.limit.name));
        let of_keys = of_keys.filter_map(|set| Some((set.target.key.as_ref()?.shown.clone(), set.target.clone())));
        let of_keys: BTreeMap<Arc<str>, Target> = of_keys.collect();
        let keys = of_keys.into_iter().enumerate().map(|(number, (shown, target))| {
            let parts = found.parts(&shown).ok().filter(|_| number < COUNTED);
            side(target, parts)
        });
        let keys = keys.collect();
        Shown { found, whole, keys }
    }

    pub(super) fn counts(&mut self, known: &Known) {
        for side in self.keys.iter_mut().chain([&mut self.whole]) {
            let counts = side.asked.iter().filter_map(|place| known.buckets.get(*place));
            side.counts = counts.copied().reduce(|sum, bucket| limits::Bucket {
                waiting: sum.waiting + bucket.waiting,
                given: sum.given + bucket.given,
            });
        }
    }

    pub(super) fn to_json(&self, known: &Known) -> Value {
        let limit = &self.found.limit;
        let mut json = self.side(&self.whole, known);
        let configured = limit.rate;
        json["rule"] = (*self.found.rule).into();
        json["limit"] = (*limit.name).into();
        json["key"] = limit.key_texts().into();
        json["configured"] = json!({
            "times": configured.map(|rate| rate.times),
            "per": configured.map(|rate| seconds(rate.per_ms)),
            "burst": configured.map(|rate| rate.burst),
            "concurrent": limit.concurrent,
        });
        json["concurrent"] = limit.concurrent.into();
        json["waiting"] = known.waiting.into();
        json["keys"] = self
            .keys
            .iter()
            .map(|side| {
                let mut json = self.side(side, known);
                let shown = side.target.key.as_ref().map_or("null", |key| &*key.shown);
                json["key"] = serde_json::from_str(shown).unwrap_or_else(|_| shown.into());
                json["waiting"] = side.counts.map(|counts| counts.waiting).into();
                json
            })
            .collect();
        json
    }

    fn side(&self, side: &Side, known: &Known) -> Value {
        let ((pause, own_pause), (rate, own_rate)) = (in_force(known, &side.target, is_pause), in_force(known, &side.target, is_rate));
        let now = self.found.rate(known, &side.target);
        let own = [pause.filter(|_| own_pause), rate.filter(|_| own_rate)];
        let ends = own.iter().flatten().filter_map(|set| set.until_ms).min();
        let shown = |set: Option<&Setting>| {
            set.map(|set| {
                json!({
                    "by": &*set.by,
                    "since": time_json(set.since_ms),
                    "until": set.until_ms.map(time_json),
                    "expires_in": set.until_ms.map(|until_ms| left(until_ms, known.now_ms)),
                })
            })
        };
        json!({
            "times": now.map(|rate| rate.times),
            "per": now.map(|rate| seconds(rate.per_ms)),
            "burst": now.map(|rate| rate.burst),
            "paused": pause.is_some_and(|set| set.what == What::Paused(true)),
            "pause_set": shown(own[0]),
            "rate_set": shown(own[1]),
            "expires_in": ends.map(|until_ms| left(until_ms, known.now_ms)),
            "given": side.counts.map(|counts| counts.given),
        })
    }
}

fn left(until_ms: u64, now_ms: u64) -> u64 {
    until_ms.saturating_sub(now_ms).div_ceil(1_000)
}

/// A whole number where it is one.
fn seconds(ms: u64) -> Value {
    if ms.is_multiple_of(1_000) {
        (ms / 1_000).into()
    } else {
        (ms as f64 / 1_000.0).into()
    }
}
