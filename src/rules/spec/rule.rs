//! The keys of a `[[rule]]` and of its limits. The field names are those of the config file; the defaults are the documented ones.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{
    AcksLate, Canvas, Completion, DeadLetter, Key, Mode, OnDuplicate, OnMaxWait, OnRunning, OnStoreError, Outcome, Override, ResultBy,
    ResultMode, Summary, Unique,
};

/// One `[[rule]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// `name`: the task pattern if it has no glob; else required.
    pub name: Option<String>,
    /// `task`: globs; none = any task that is not one of Celery's own.
    pub task: Vec<String>,
    /// `queue`: globs; none = any.
    pub queue: Vec<String>,
    /// `exchange`: globs; none = any.
    pub exchange: Vec<String>,
    /// `routing_key`: globs; none = any.
    pub routing_key: Vec<String>,
    /// `vhost`: globs; none = any.
    pub vhost: Vec<String>,
    /// `user`: globs; none = any.
    pub user: Vec<String>,
    /// `when`: an expression.
    pub when: Option<String>,
    /// `continue`: also apply the next matching rule.
    pub and_next: bool,
    /// `bypass`: matches, forwards untouched, stops.
    pub bypass: bool,
    /// `mode`.
    pub mode: Mode,
    /// `unique`.
    pub unique: Option<Unique>,
    /// `params`: the signature as in Python.
    pub params: Option<String>,
    /// `key`.
    pub key: Key,
    /// `namespace`: the task name if none.
    pub namespace: Option<String>,
    /// `ttl`: life of the publish lock.
    pub ttl: Duration,
    /// `running_ttl`: life of the running lock.
    pub running_ttl: Duration,
    /// `max_ttl`: the most that `x-oncegate-ttl` may ask for; `ttl` if none.
    pub max_ttl: Option<Duration>,
    /// `lease`: life of a lock until the broker has acknowledged its message.
    pub lease: Duration,
    /// `orphan_grace`.
    pub orphan_grace: Duration,
    /// `settle_grace`.
    pub settle_grace: Duration,
    /// `hold_max`.
    pub hold_max: Duration,
    /// `on_duplicate`.
    pub on_duplicate: OnDuplicate,
    /// `on_running`.
    pub on_running: OnRunning,
    /// `debounce`.
    pub debounce: Option<Duration>,
    /// `debounce_max`.
    pub debounce_max: Option<Duration>,
    /// `release_on`.
    pub release_on: Vec<Outcome>,
    /// `cooldown`.
    pub cooldown: Option<Duration>,
    /// `result`.
    pub result: ResultMode,
    /// Who brings what `result` says (`results.kind`).
    pub result_by: ResultBy,
    /// `canvas`.
    pub canvas: Canvas,
    /// `acks_late`.
    pub acks_late: AcksLate,
    /// `completion`.
    pub completion: Completion,
    /// `dead_letter`.
    pub dead_letter: Option<DeadLetter>,
    /// `expires_with_lock`.
    pub expires_with_lock: bool,
    /// `retry_delays`: none = the delays stay as the task sets them.
    pub retry_delays: Vec<Duration>,
    /// `beat_lease`.
    pub beat_lease: Option<Duration>,
    /// `beat_origins`: globs.
    pub beat_origins: Vec<String>,
    /// `on_store_error`.
    pub on_store_error: OnStoreError,
    /// `store_wait`.
    pub store_wait: Duration,
    /// `summary`.
    pub summary: Summary,
    /// `allow_overrides`.
    pub allow_overrides: Vec<Override>,
    /// `[[rule.limit]]`.
    pub limits: Vec<LimitSpec>,
    /// The keys that were written in this very rule (as in the file), not taken from `[defaults]`. They tell which rule's value holds
    /// where `continue` joins two. `None` = those that differ from the documented defaults.
    pub given: Option<BTreeSet<String>>,
}

impl Default for RuleSpec {
    fn default() -> Self {
        RuleSpec {
            name: None,
            task: Vec::new(),
            queue: Vec::new(),
            exchange: Vec::new(),
            routing_key: Vec::new(),
            vhost: Vec::new(),
            user: Vec::new(),
            when: None,
            and_next: false,
            bypass: false,
            mode: Mode::Enforce,
            unique: None,
            params: None,
            key: Key::All,
            namespace: None,
            ttl: Duration::from_secs(24 * 60 * 60),
            running_ttl: Duration::from_secs(60 * 60),
            max_ttl: None,
            lease: Duration::from_secs(10),
            orphan_grace: Duration::from_secs(60),
            settle_grace: Duration::from_secs(1),
            hold_max: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Drop,
            on_running: OnRunning::Wait,
            debounce: None,
            debounce_max: None,
            release_on: vec![Outcome::Success, Outcome::Failure],
            cooldown: None,
            result: ResultMode::Join,
            result_by: ResultBy::Oncegate,
            canvas: Canvas::Bypass,
            acks_late: AcksLate::Auto,
            completion: Completion::Auto,
            dead_letter: None,
            expires_with_lock: false,
            retry_delays: Vec::new(),
            beat_lease: None,
            beat_origins: Vec::new(),
            on_store_error: OnStoreError::Forward,
            store_wait: Duration::from_secs(10),
            summary: Summary::Names,
            allow_overrides: Vec::new(),
            limits: Vec::new(),
            given: None,
        }
    }
}

impl RuleSpec {
    /// Whether this rule's own text gives the key.
    fn gives(&self, key: &str, differs: bool) -> bool {
        self.given.as_ref().map_or(differs, |given| given.contains(key))
    }

    /// Puts the keys of an earlier rule over this one's, as `continue` joins them: earlier keys win, limits add up. Matchers and `when`
    /// are each rule's own.
    pub fn override_with(&mut self, earlier: &RuleSpec) {
        let default = RuleSpec::default();
        macro_rules! take {
            ($($key:literal $field:ident,)+) => {$(
                if earlier.gives($key, earlier.$field != default.$field) {
                    self.$field = earlier.$field.clone();
                    if let Some(given) = &mut self.given {
                        given.insert($key.to_owned());
                    }
                }
            )+};
        }
        take! {
            "bypass" bypass,
            "mode" mode,
            "unique" unique,
            "namespace" namespace,
            "ttl" ttl,
            "running_ttl" running_ttl,
            "max_ttl" max_ttl,
            "lease" lease,
            "orphan_grace" orphan_grace,
            "settle_grace" settle_grace,
            "hold_max" hold_max,
            "on_duplicate" on_duplicate,
            "on_running" on_running,
            "debounce" debounce,
            "debounce_max" debounce_max,
            "release_on" release_on,
            "cooldown" cooldown,
            "result" result,
            "canvas" canvas,
            "acks_late" acks_late,
            "completion" completion,
            "dead_letter" dead_letter,
            "expires_with_lock" expires_with_lock,
            "retry_delays" retry_delays,
            "beat_lease" beat_lease,
            "beat_origins" beat_origins,
            "on_store_error" on_store_error,
            "store_wait" store_wait,
            "summary" summary,
            "allow_overrides" allow_overrides,
        }
        // A key speaks of its own signature, and names the arguments of its own tasks: they come from one rule.
        let key = earlier.gives("key", earlier.key != default.key);
        let params = earlier.gives("params", earlier.params != default.params);
        if key || params {
            self.key = earlier.key.clone();
            self.params.clone_from(&earlier.params);
            self.task.clone_from(&earlier.task);
            if let Some(given) = &mut self.given {
                given.extend(["key".to_owned(), "params".to_owned()]);
            }
        }
        self.limits.splice(0..0, earlier.limits.iter().cloned());
    }
}

/// One `[[rule.limit]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSpec {
    /// `name`: its position from "1" if none.
    pub name: Option<String>,
    /// `times`, also as the number in `rate`.
    pub times: Option<u64>,
    /// `per`, also as the unit in `rate`.
    pub per: Option<Duration>,
    /// `burst`: `times` if none.
    pub burst: Option<u64>,
    /// `concurrent`.
    pub concurrent: Option<u64>,
    /// `key`: [`Key::List`] of nothing unless written.
    pub key: Key,
    /// `max_wait`.
    pub max_wait: Option<Duration>,
    /// `on_max_wait`.
    pub on_max_wait: Option<OnMaxWait>,
    /// `hold_max`: the rule's if none.
    pub hold_max: Option<Duration>,
    /// `count_retries`.
    pub count_retries: bool,
}

impl Default for LimitSpec {
    fn default() -> Self {
        LimitSpec {
            name: None,
            times: None,
            per: None,
            burst: None,
            concurrent: None,
            key: Key::List(Vec::new()),
            max_wait: None,
            on_max_wait: None,
            hold_max: None,
            count_retries: true,
        }
    }
}
