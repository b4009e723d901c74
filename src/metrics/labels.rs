//! The bounded label values of the metrics, each set as an enum, so that a child is found by index and never by hashing.

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

label_values! {
    /// Whether the rule that decided enforces or only observes.
    Mode {
        /// Decisions are carried out.
        Enforce = "enforce",
        /// Decisions are made on shadow locks, counted and logged; every message is forwarded.
        Observe = "observe",
    }
}

label_values! {
    /// What became of a publish, as the `decision` label of `oncegate_publishes_total`.
    PublishDecision {
        /// The key was free (or the message has no unique key, only limits): forwarded.
        Forwarded = "forwarded",
        /// A duplicate, dropped.
        Dropped = "dropped",
        /// It took the lock of an older one that had not started.
        Replaced = "replaced",
        /// It took the lock of an older one and waits for the quiet period.
        Debounced = "debounced",
        /// It became the one waiting behind a running holder.
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
    }
}

label_values! {
    /// What the store was asked, as the `op` label of the store metrics.
    StoreOp {
        /// May this publish go out?
        Acquire = "acquire",
        /// The broker has it.
        Commit = "commit",
        /// The publish still waits for the broker.
        RenewLease = "renew_lease",
        /// The broker does not have it.
        Unpublish = "unpublish",
        /// A worker settled a delivery.
        Signal = "signal",
        /// An operator frees a lock.
        Release = "release",
        /// What is known of a key.
        Show = "show",
        /// A page of locks.
        List = "list",
        /// Is the store there, and able to write?
        Ping = "ping",
    }
}

label_values! {
    /// Which socket of a connection.
    Peer {
        /// The socket that a producer or worker opened.
        Client = "client",
        /// The socket that the proxy opened to the broker.
        Broker = "broker",
    }
}

label_values! {
    /// Which way bytes and frames went, as the proxy sees it.
    Direction {
        /// Read by the proxy.
        In = "in",
        /// Written by the proxy.
        Out = "out",
    }
}

label_values! {
    /// Why a client's connection was refused, as the `reason` label of `oncegate_connections_rejected_total`.
    RejectReason {
        /// `max_connections` are open.
        Limit = "limit",
        /// The proxy shuts down.
        Draining = "draining",
        /// No upstream could be connected.
        NoUpstream = "no_upstream",
        /// The TLS handshake failed.
        Tls = "tls",
        /// The PROXY header was missing or malformed.
        ProxyProtocol = "proxy_protocol",
        /// The client was silent for longer than `handshake_timeout`.
        HandshakeTimeout = "handshake_timeout",
        /// The first bytes were not an AMQP 0-9-1 protocol header.
        Protocol = "protocol",
    }
}

label_values! {
    /// Who ended a connection, as the `by` label of `oncegate_connections_closed_total`.
    ClosedBy {
        /// The client.
        Client = "client",
        /// The broker.
        Broker = "broker",
        /// The proxy.
        Oncegate = "oncegate",
    }
}

label_values! {
    /// How a connection ended, as the `reason` label of `oncegate_connections_closed_total`.
    CloseReason {
        /// `connection.close` without an error, and its answer.
        Closed = "closed",
        /// `connection.close` with an error code.
        Error = "error",
        /// The end of the stream, without `connection.close`.
        Eof = "eof",
        /// A read or write error of the socket.
        Io = "io",
        /// Nothing was heard for two heartbeat intervals.
        Heartbeat = "heartbeat",
        /// Bytes that are not AMQP 0-9-1, or frames out of place.
        Protocol = "protocol",
        /// The handshake took longer than `handshake_timeout`.
        HandshakeTimeout = "handshake_timeout",
        /// The proxy shuts down.
        Drained = "drained",
        /// An invariant of the proxy failed; the connection is not reused.
        Internal = "internal",
    }
}
