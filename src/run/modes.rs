//! The modes that operators have set: what the store says of them, and what signals say of this process alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::admin::ModesSet;
use crate::config::Environment;
use crate::rules::RuleSet;
use crate::rules::modes::Modes;
use crate::store::Client;
use crate::store::modes::{self, ALL, ModeOverride};

/// How often the store is asked: what is set holds everywhere within a second.
const EVERY: Duration = Duration::from_millis(400);
/// How long the start waits for the answer of the store.
const AT_START: Duration = Duration::from_secs(1);
/// Sets every rule off at the start.
pub(super) const VARIABLE: &str = "ONCEGATE_MODE";

/// Whether the environment has every rule off; what it says otherwise is given back.
pub(super) fn off_at_start(environment: &Environment) -> Result<bool, String> {
    match environment.get(VARIABLE).map(String::as_str) {
        None | Some("") => Ok(false),
        Some("off") => Ok(true),
        Some(other) => Err(other.to_owned()),
    }
}

/// The names under which something may be set for these rules.
fn names(rules: &RuleSet) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = rules.modes().map(|(name, _)| Arc::from(name)).collect();
    names.push(Arc::from(ALL));
    names
}

/// What the store says now, if it answers soon.
async fn at_start(store: &Client, rules: &RuleSet) -> Vec<ModeOverride> {
    let names = names(rules);
    let mut tick = interval(EVERY / 4);
    let asked = async {
        loop {
            tick.tick().await;
            if let Ok(found) = modes::read(store, &names).await {
                return found;
            }
        }
    };
    timeout(AT_START, asked).await.unwrap_or_default()
}

/// Asks the store, until the sender of the names is gone. While it does not answer, what it said last holds until its end.
async fn follow(store: Client, names: watch::Receiver<Vec<Arc<str>>>, overrides: watch::Sender<Vec<ModeOverride>>) {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if names.has_changed().is_err() {
            return;
        }
        let asked = names.borrow().clone();
        let found = match modes::read(&store, &asked).await {
            Ok(found) => found,
            Err(_) => overrides.borrow().iter().filter(|set| !set.is_over()).cloned().collect(),
        };
        overrides.send_if_modified(|current| {
            let differs = *current != found;
            *current = found;
            differs
        });
    }
}

/// The modes above those of the configuration that this process follows.
pub(super) struct Followed {
    set: ModesSet,
    names: watch::Sender<Vec<Arc<str>>>,
    overrides: watch::Receiver<Vec<ModeOverride>>,
}

impl Followed {
    /// Asks the store what is set, and goes on doing so on the present runtime. `is_off`: every rule is off here.
    pub(super) async fn start(store: Client, rules: &RuleSet, is_off: bool) -> Followed {
        let overrides = at_start(&store, rules).await;
        let (names, asked) = watch::channel(names(rules));
        let (sender, found) = watch::channel(overrides.clone());
        tokio::spawn(follow(store, asked, sender));
        let followed = Followed {
            set: ModesSet { is_off, overrides },
            names,
            overrides: found,
        };
        tell(&ModesSet::default(), &followed.set);
        followed
    }

    /// Ends when an operator has set something else.
    pub(super) async fn changed(&mut self) {
        // The sender goes only with the runtime.
        if self.overrides.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let overrides = self.overrides.borrow_and_update().clone();
        self.become_set(ModesSet {
            overrides,
            is_off: self.set.is_off,
        });
    }

    /// Every rule is off here, or no more.
    pub(super) fn set_off(&mut self, is_off: bool) {
        self.become_set(ModesSet {
            is_off,
            ..self.set.clone()
        });
    }

    fn become_set(&mut self, set: ModesSet) {
        tell(&self.set, &set);
        self.set = set;
    }

    /// What is set.
    pub(super) fn set(&self) -> &ModesSet {
        &self.set
    }

    /// These are the rules of the configuration from now on: as they are in force.
    pub(super) fn in_force(&self, rules: &Arc<RuleSet>) -> Arc<RuleSet> {
        self.names.send_if_modified(|current| {
            let wanted = names(rules);
            let differs = *current != wanted;
            *current = wanted;
            differs
        });
        let wanted = Modes {
            all_off: self.set.is_off,
            ..modes::modes(&self.set.overrides)
        };
        rules.in_modes(&wanted).map_or_else(|| Arc::clone(rules), Arc::new)
    }
}

/// Says what is other than before.
fn tell(before: &ModesSet, now: &ModesSet) {
    match (before.is_off, now.is_off) {
        (false, true) => tracing::warn!("every rule is off on this proxy until its next SIGHUP: all messages are forwarded undecided"),
        (true, false) => tracing::warn!("rules are no more off on this proxy"),
        _ => {}
    }
    for set in now.overrides.iter().filter(|set| !before.overrides.contains(set)) {
        let seconds = set.until_ms.saturating_sub(set.since_ms) / 1_000;
        tracing::warn!(
            rule = &*set.rule,
            mode = set.mode.as_str(),
            seconds,
            by = set.by,
            reason = set.reason,
            "a mode is set above that of the configuration"
        );
    }
    let ended = before
        .overrides
        .iter()
        .filter(|set| now.overrides.iter().all(|other| other.rule != set.rule));
    for set in ended {
        tracing::warn!(rule = &*set.rule, "the mode is that of the configuration again");
    }
}
