//! What became of a message, as the labels of metrics and the fields of logs.
//!
//! The enums lie below both the session, which decides, and the metrics, which count.

/// Declares an enum whose variants are the values of one label.
macro_rules! label_values {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$inner])* $variant,)+
        }

        impl $name {
            /// Every value, in the order of declaration: the position of a value is its index.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];
            /// How many values there are.
            pub const COUNT: usize = $name::ALL.len();

            /// The label value.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }
    };
}

pub(crate) use label_values;

label_values! {
    /// What became of a publish, as the `decision` label of `oncegate_publishes_total`.
    PublishDecision {
        /// The key was free (or the message has no unique key, only limits): forwarded.
        Forwarded = "forwarded",
        /// A duplicate, dropped.
        Dropped = "dropped",
        /// It took the lock of an older one that had not started.
        Replaced = "replaced",
        /// It took the lock of an older one and waits for the quiet period, or a newer one had it already.
        Debounced = "debounced",
        /// It became the one that waits for the holder's end, or a newer one had that place already.
        Kept = "kept",
        /// A duplicate, answered with a channel error.
        Raised = "raised",
        /// A duplicate, answered with a nack.
        Rejected = "rejected",
        /// A duplicate, published to the rule's dead-letter address.
        DeadLettered = "dead_lettered",
        /// The rule, a header, a canvas or a transaction says not to look.
        Bypassed = "bypassed",
        /// Its key could not be computed: forwarded.
        Unkeyable = "unkeyable",
        /// The id was published before (a retry, a redelivery, a repeated publish): forwarded.
        Reentry = "reentry",
        /// The store did not answer, or memory was short: forwarded without a decision.
        ForwardedUnchecked = "forwarded_unchecked",
        /// No rule matched: forwarded.
        Unmatched = "unmatched",
    }
}

label_values! {
    /// What became of a delivery, as the `decision` label of `oncegate_deliveries_total`.
    DeliveryDecision {
        /// Handed to the consumer.
        Forwarded = "forwarded",
        /// A duplicate found late, settled unrun.
        Dropped = "dropped",
        /// Its id lost its lock to a newer one: killed.
        Superseded = "superseded",
        /// Kept back in the proxy.
        Held = "held",
        /// Moved to a delay queue.
        Parked = "parked",
        /// Settled with the result of its holder.
        Joined = "joined",
        /// Published to the rule's dead-letter address.
        DeadLettered = "dead_lettered",
        /// The store did not answer: handed over without a decision.
        ForwardedUnchecked = "forwarded_unchecked",
        /// No rule matched.
        Unmatched = "unmatched",
    }
}

label_values! {
    /// Why no key could be computed, as the `reason` label of `oncegate_messages_unkeyable_total`.
    UnkeyableReason {
        /// The content type or encoding is unknown, or the body is not what it says.
        ContentType = "content_type",
        /// The pickle cannot be read without executing it, or two values could become equal.
        Pickle = "pickle",
        /// The compression is unknown or broken.
        Compression = "compression",
        /// The body, plain or decompressed, exceeds `max_message`.
        TooLarge = "too_large",
        /// An argument that `key` names is missing, or the arguments do not fit `params`.
        MissingArgument = "missing_argument",
        /// An expression of `key` failed.
        Expression = "expression",
    }
}

label_values! {
    /// What went another way than the rule promises, as the `reason` label of `oncegate_exceptions_total`.
    ExceptionReason {
        /// A commit found the lock in another id's hands.
        Lost = "lost",
        /// A lock lapsed before its task started.
        LapsedUnstarted = "lapsed_unstarted",
        /// `raise` could not be told to this client and became a drop.
        RaiseFallback = "raise_fallback",
        /// A superseded task ran all the same.
        SupersededRan = "superseded_ran",
        /// The `when` of a rule failed: the message passed undecided.
        WhenError = "when_error",
        /// A rule matches on the queue, and the queue was not known at publish.
        QueueUnknown = "queue_unknown",
        /// A duplicate could not be published to its dead-letter address.
        DeadLetterFailed = "dead_letter_failed",
        /// A release or commit failed until its lock's life had passed, or too many were pending.
        ReleaseGivenUp = "release_given_up",
        /// A waiting delivery was handed over because the broker would have lost it.
        DeliveryLimit = "delivery_limit",
        /// A duplicate that should have waited for its holder's result cannot be rewritten: it ran.
        NotJoined = "not_joined",
        /// The result of a dropped id could not be written.
        ResultFailed = "result_failed",
    }
}
