//! Modes that operators set for all proxies of a store, each with its end: notes with the name of the rule.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::operator::time_json;
use super::{Client, Unavailable};
use crate::rules::modes::Modes;
use crate::rules::spec::Mode;

/// Stands for all rules; no rule has that name.
pub const ALL: &str = "*";
/// A note is not deleted but goes after this.
const AT_ONCE: Duration = Duration::from_millis(1);

/// One mode that an operator has set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeOverride {
    /// For this rule, or [`ALL`].
    pub rule: Arc<str>,
    /// The mode.
    pub mode: Mode,
    /// Why, in the operator's words.
    pub reason: String,
    /// The name of the operator's token.
    pub by: String,
    /// When it was set, and when it ends, in milliseconds since 1970.
    pub since_ms: u64,
    /// See `since_ms`.
    pub until_ms: u64,
}

impl ModeOverride {
    /// As JSON, as it is shown.
    pub fn to_json(&self) -> Value {
        json!({
            "rule": (*self.rule != *ALL).then_some(&*self.rule),
            "mode": self.mode.as_str(),
            "reason": self.reason,
            "by": self.by,
            "since": time_json(self.since_ms),
            "until": time_json(self.until_ms),
            "expires_in": self.until_ms.saturating_sub(now_ms()).div_ceil(1_000),
        })
    }

    fn written(&self) -> String {
        let fields = json!({
            "mode": self.mode.as_str(), "reason": self.reason, "by": self.by, "since_ms": self.since_ms, "until_ms": self.until_ms,
        });
        fields.to_string()
    }

    fn read(rule: &Arc<str>, written: &str) -> Option<ModeOverride> {
        let fields: Value = serde_json::from_str(written).ok()?;
        let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        Some(ModeOverride {
            rule: Arc::clone(rule),
            mode: Mode::from_name(fields["mode"].as_str()?)?,
            reason: text("reason"),
            by: text("by"),
            since_ms: fields["since_ms"].as_u64()?,
            until_ms: fields["until_ms"].as_u64()?,
        })
    }

    /// Whether its time is over, by the clock of this machine.
    pub fn is_over(&self) -> bool {
        self.until_ms <= now_ms()
    }
}

/// What these overrides say together.
pub fn modes(overrides: &[ModeOverride]) -> Modes {
    let mut modes = Modes::default();
    for set in overrides {
        if *set.rule == *ALL {
            modes.all = Some(set.mode);
        } else {
            modes.rules.insert(Arc::clone(&set.rule), set.mode);
        }
    }
    modes
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn note(rule: &str) -> String {
    format!("mode:{rule}")
}

/// Sets a mode.
pub async fn set(store: &Client, set: &ModeOverride) -> Result<(), Unavailable> {
    let life = Duration::from_millis(set.until_ms.saturating_sub(set.since_ms).max(1));
    store.announce(&[(note(&set.rule), set.written())], life).await
}

/// Takes back what is set for these rules.
pub async fn reset(store: &Client, rules: &[Arc<str>]) -> Result<(), Unavailable> {
    let notes: Vec<(String, String)> = rules.iter().map(|rule| (note(rule), String::new())).collect();
    store.announce(&notes, AT_ONCE).await
}

/// What is set for these rules.
pub async fn read(store: &Client, rules: &[Arc<str>]) -> Result<Vec<ModeOverride>, Unavailable> {
    let names: Vec<String> = rules.iter().map(|rule| note(rule)).collect();
    let notes = store.followed(&names).await?;
    let found = rules.iter().zip(notes).filter_map(|(rule, note)| ModeOverride::read(rule, &note?));
    Ok(found.collect())
}
