//! The bounded label values of the metrics, each set as an enum, so that a child is found by index and never by hashing.

use crate::rules::outcome::label_values;

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
    /// What the store was asked, as the `op` label of the store metrics.
    StoreOp {
        /// May this publish go out?
        Acquire = "acquire",
        /// The broker has it.
        Commit = "commit",
        /// The publish still waits for the broker.
        RenewLease = "renew_lease",
        /// Its id waits for the result of the holder.
        Join = "join",
        /// A worker has published its result.
        Result = "result",
        /// A caller has declared the queue of its results.
        Caller = "caller",
        /// The broker does not have it.
        Unpublish = "unpublish",
        /// Something was learnt of a task.
        Signal = "signal",
        /// May this delivery go to its worker?
        Admit = "admit",
        /// The holder is alive.
        Renew = "renew",
        /// May this delivery begin to run?
        Run = "run",
        /// The run goes on.
        RenewRun = "renew_run",
        /// A delivery does not wait for its run any more.
        LeaveRun = "leave_run",
        /// Whose entry of a schedule is it?
        BeatLease = "beat_lease",
        /// A place in the limits of a rule.
        Reserve = "reserve",
        /// May this delivery be handed over now?
        Permit = "permit",
        /// A delivery is not handed over, or waits for its limits no more.
        LeaveLimit = "leave_limit",
        /// A copy of a message is about to be published.
        Park = "park",
        /// A copy has come so far.
        MarkParked = "mark_parked",
        /// Was this delivery parked?
        FindParked = "find_parked",
        /// A key is locked by hand.
        Cool = "cool",
        /// An operator frees a lock.
        Release = "release",
        /// What is known of a key.
        Show = "show",
    }
}

label_values! {
    /// Why a decision was not published, as the `reason` label of `oncegate_events_dropped_total`.
    EventDrop {
        /// They were made faster than they could be sent, or it is too long.
        Overflow = "overflow",
        /// There is no control connection, or it ended before the broker had answered.
        Unavailable = "unavailable",
        /// The broker did not take it: the exchange, a right, a limit of a queue.
        Refused = "refused",
    }
}

label_values! {
    /// Why a decision is not on record, as the `reason` label of `oncegate_decisions_unrecorded_total`.
    Unrecorded {
        /// They were made faster than the store is to be given them.
        Overflow = "overflow",
        /// The store did not take them.
        Store = "store",
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
