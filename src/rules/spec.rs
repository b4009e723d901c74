//! What a user writes in one `[[rule]]`, each value already of its type, and what can be wrong with it.
//!
//! Here are the words; [`RuleSpec`] and [`LimitSpec`] hold them by key. Nothing is checked here: that is what
//! [`RuleSet::compile`](super::RuleSet::compile) does.

mod rule;

use std::fmt;

pub use rule::{LimitSpec, RuleSpec};

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

/// Who brings the result of a duplicate that the rule asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ResultBy {
    /// Oncegate writes it.
    #[default]
    Oncegate,
    /// A worker stores it, for the duplicate's own message (`results.kind = "worker"`).
    Worker,
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

/// Why a rule is refused. The config module knows where its text stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{remedy}", if .remedy.is_empty() { "" } else { " " })]
pub struct SpecError {
    /// Which rule, from 0.
    pub rule: usize,
    /// Which of its limits, from 0, where it is about one.
    pub limit: Option<usize>,
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
