//! What a user writes in one `[[rule]]`, each value already of its type, and what can be wrong with it.
//!
//! The field names are the keys of the config file; the defaults are the documented ones. Nothing is checked here: that is what
//! [`RuleSet::compile`](super::RuleSet::compile) does.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

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

/// Declares an enum of values that users type, with their names.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// All values as users type them, in the order of the documentation.
            pub const NAMES: &'static [&'static str] = &[$($text),+];

            /// The value as users type it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }

            /// The value that users type so; `None` if there is none.
            pub fn from_name(name: &str) -> Option<$name> {
                match name {
                    $($text => Some($name::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

named! {
    /// `mode`.
    Mode {
        /// Decides and acts.
        Enforce = "enforce",
        /// Decides on shadow locks, counts and logs, forwards all.
        Observe = "observe",
        /// As if the rule were not there.
        Off = "off",
    }
}

named! {
    /// `unique`: what a key is locked for.
    Unique {
        /// From publish to start.
        UntilStarted = "until_started",
        /// From publish to end.
        UntilFinished = "until_finished",
        /// From publish until the ttl has passed.
        UntilExpired = "until_expired",
        /// From start to end.
        WhileRunning = "while_running",
        /// Two locks.
        UntilStartedAndWhileRunning = "until_started+while_running",
    }
}

named! {
    /// `on_duplicate`.
    OnDuplicate {
        /// The duplicate is acknowledged and gone.
        Drop = "drop",
        /// The newest wins.
        Replace = "replace",
        /// One runs and one waits.
        KeepLast = "keep_last",
        /// The producer's channel is closed with 406.
        Raise = "raise",
        /// `basic.nack`.
        Reject = "reject",
        /// Published elsewhere.
        DeadLetter = "dead_letter",
    }
}

named! {
    /// `on_running`.
    OnRunning {
        /// The delivery waits for the run to end.
        Wait = "wait",
        /// The delivery is dropped.
        Drop = "drop",
        /// The delivery is published elsewhere.
        DeadLetter = "dead_letter",
    }
}

named! {
    /// An element of `release_on`.
    Outcome {
        /// The task succeeded.
        Success = "success",
        /// The task failed.
        Failure = "failure",
    }
}

named! {
    /// `result`: what the id of a dropped task gets.
    ResultMode {
        /// The holder's result.
        Join = "join",
        /// REVOKED.
        Revoke = "revoke",
        /// SUCCESS with null.
        Success = "success",
        /// Nothing.
        None = "none",
    }
}

named! {
    /// `canvas`: what happens to members of groups, chords and chains and to tasks with links.
    Canvas {
        /// Forwarded untouched.
        Bypass = "bypass",
        /// Their duplicates go on with the holder's result.
        Dedupe = "dedupe",
    }
}

named! {
    /// `acks_late`: whether the tasks acknowledge after their run.
    AcksLate {
        /// Learnt per task.
        Auto = "auto",
        /// They do.
        True = "true",
        /// They do not.
        False = "false",
    }
}

named! {
    /// `control.enable_events`: whether workers are told to publish task events.
    EnableEvents {
        /// Where a rule needs them.
        Auto = "auto",
        /// Always.
        True = "true",
        /// Never.
        False = "false",
    }
}

named! {
    /// An element of `completion`: what tells that a task has ended.
    CompletionSource {
        /// A late acknowledgement.
        Ack = "ack",
        /// Task events.
        Events = "events",
        /// RPC results.
        Rpc = "rpc",
        /// The Redis result backend.
        Redis = "redis",
    }
}

named! {
    /// `on_store_error`.
    OnStoreError {
        /// The message is forwarded unchecked.
        Forward = "forward",
        /// The message waits for `store_wait`, then is forwarded unchecked.
        Wait = "wait",
        /// The message is nacked where that can be told.
        Reject = "reject",
    }
}

named! {
    /// `summary`: what locks and logs show of a key.
    Summary {
        /// Names and values.
        Full = "full",
        /// Names only.
        Names = "names",
        /// Nothing.
        None = "none",
    }
}

named! {
    /// An element of `allow_overrides`: what a message may set by header or stamp.
    Override {
        /// `x-oncegate-key`.
        Key = "key",
        /// `x-oncegate-ttl`.
        Ttl = "ttl",
        /// `x-oncegate: bypass`.
        Bypass = "bypass",
    }
}

named! {
    /// `on_max_wait` of a limit.
    OnMaxWait {
        /// Handed over in spite of the limit.
        Deliver = "deliver",
        /// Dropped.
        Drop = "drop",
        /// Published elsewhere.
        DeadLetter = "dead_letter",
    }
}

/// `completion`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Whatever the installation offers.
    Auto,
    /// Only these.
    Only(Vec<CompletionSource>),
}

/// `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Not written: all arguments.
    All,
    /// A list of expressions; an empty one makes one key per namespace.
    List(Vec<String>),
    /// A template.
    Template(String),
}

/// `dead_letter`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The exchange; empty = the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
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

/// Why a rule is refused. The config module knows where its text stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{remedy}", if .remedy.is_empty() { "" } else { " " })]
pub struct SpecError {
    /// Which rule, from 0.
    pub rule: usize,
    /// Which of its keys, as users type it; `signatures` for a text in `[signatures]`.
    pub key: &'static str,
    /// Which element, where the key's value is a list, from 0.
    pub element: Option<usize>,
    /// The octet of the text (of the element) at which the fault was found.
    pub offset: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to write instead; whole sentences, may be empty.
    pub remedy: String,
}
