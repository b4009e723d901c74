//! Oncegate: a transparent AMQP 0-9-1 proxy between Celery clients and `RabbitMQ`.
//!
//! It reads the task messages that pass, computes a unique key for those that a rule matches, and drops the duplicates; its locks live in
//! Redis or in its own memory. Everything else passes byte by byte.
//!
//! # The way of a publish
//!
//! ```text
//!  client socket ──bytes──▶ ┌───────────────── Session (pure) ─────────────────┐ ──bytes──▶ broker socket
//!  client socket ◀──bytes── │ amqp ▸ channel ▸ celery task ▸ rules ▸ decision  │ ◀──bytes── broker socket
//!                           └─ (ticket, Request::Acquire) ▼   ▲ (ticket, Reply) ┘
//!                                               store: memory or Redis
//! ```
//!
//! [`proxy`] reads a socket and gives the bytes to a [`session`]. The session walks the frames ([`amqp`]); a publish whose task a rule may
//! concern is read in full, decoded ([`celery`]) and judged ([`rules`]). A claim to a key becomes a question to the [`store`]; the publish
//! and all later frames of its channel wait for the answer. Taken: it goes to the broker, with a confirm of the broker's as the moment when
//! the lock gets its full life. Held by another: it is acknowledged to the client, if it wants that, and dropped, or takes the lock over from
//! a holder that has not begun where its rule replaces, or goes out and waits for the holder's end where its rule keeps the last. Held for
//! a lease only: it is kept until the holder's message is safe, and goes in its place if it is not.
//!
//! # The way of a delivery
//!
//! A delivery whose key is locked until its start or end is read in full, too, and the store is asked to admit it; what comes behind it on
//! its channel waits for its turn, and deliveries among that are asked about meanwhile. Admitted: it goes to the worker and keeps its lock
//! alive. A duplicate found late: it is acknowledged unrun. Superseded: it goes to the worker as a task whose time has passed, or is
//! acknowledged unrun where its id gets the result of the newer one. Not due yet under a rule that puts runs off, or behind another where
//! the last is kept: it is held, and the store is asked again. Where runs of a key exclude each other, the store is asked for the running
//! lock, too; a delivery whose key runs elsewhere is held, and what comes behind it goes on. What is held for too long is parked:
//! [`control`] publishes a copy of it into a delay queue, and once the broker has confirmed that the original is acknowledged. The copy
//! comes back as a delivery of the same queue, says by a header what it is, and is decided under the rule and the key of then. What is not
//! to wait is dropped, or dead-lettered in the same way.
//!
//! # Modules, lowest first: arrows point only downward
//!
//! | module | what |
//! |---|---|
//! | [`amqp`] | bytes ⇄ frames; knows nothing of Celery |
//! | [`celery`] | message ⇄ meaning: headers, bodies in every serializer, the pickle reader; knows nothing of rules |
//! | [`rules`] | the only place with policy: matching, signatures, keys, digests; and the vocabulary of locks ([`rules::lock`]) |
//! | [`session`] | one AMQP connection as a pure state machine |
//! | [`store`] | locks in memory or Redis, the circuit breaker, orders that are kept until they are done |
//! | [`config`] | files, environment and flags → a [`config::Config`] that is valid by construction |
//! | [`tls`] | TLS of every listener and of every leg to a broker, from the files that the configuration names |
//! | [`metrics`], [`logging`] | every counter and log line |
//! | [`control`] | Oncegate's own account at the broker: events of workers that do not pass, and messages to them |
//! | [`lifecycle`] | what becomes of tasks, where no connection that passes tells it |
//! | [`events`] | decisions as messages for other programs, and on record for who asks later |
//! | [`results`] | what the ids of dropped tasks get, in Celery's result backend |
//! | [`admin`], [`cli`] | the HTTP API and page; the commands |
//! | [`proxy`] | listeners, worker threads, the two sockets around each session |
//! | [`run`] | start, reload, graceful end |
//!
//! `amqp`, `celery`, `rules` and `session` are pure: no sockets, clock, randomness, logging. `tests/layering.rs` holds all of this to be true.
//!
//! # Invariants
//!
//! 1. What is not understood is forwarded byte-identical. A rewrite splices bytes; it never re-encodes a table.
//! 2. A publish leaves whole or not at all; nothing is injected on a channel inside a content.
//! 3. Frames of one channel leave in the order they came. A waiting channel delays no other channel, and never heartbeats.
//! 4. On a confirming channel each client publish gets exactly one confirm, broker's or ours. An unmatched ledger closes the connection.
//! 5. A tag that the client never saw is never settled by the client's `multiple`; a tag that Oncegate settled is never settled again.
//! 6. Memory per connection is bounded; at the bound waiting publishes are forwarded unchecked, and only the broker's own back-pressure
//!    stops the reading of a client.
//! 7. A lock is freed only by a step that names its present holder, by an operator, or by time. A lock never outlives, beyond its lease,
//!    a message that the broker does not have.
//! 8. A message is acked at the broker only when a worker acked it, when the broker has confirmed a copy of it elsewhere, or when it is a
//!    duplicate, superseded, a second copy of a run that succeeded or of a parked message, or dropped by `on_running`, each with its
//!    reason.
//! 9. The core cannot block, do I/O, or panic on network bytes. Recursion on network data is bounded or absent.
//! 10. One immutable [`rules::RuleSet`] per decision, swapped whole at reload.
//!
//! # Words
//!
//! client (producer or worker) · broker (`RabbitMQ`) · publish (client to broker) · delivery (broker to client) · rule · key (what makes two
//! messages the same) · digest (the name of a key) · lock (key + holder) · holder (the task id that holds it) · claim (a key and the id that
//! wants it) · running lock (key + the one run that has it) · held (a delivery that is neither shown nor settled yet) · parked (a message of
//! which a copy lies in a delay queue) · token (the name of that copy) · grant (a claim on its way to the broker) · lease (the short life of a
//! lock until the broker has its message) · duplicate (a publish whose key is held by another id) · kept (a publish whose key is only leased
//! to another) · entry (what beats publish on a schedule: virtual host, task, all arguments) · ask (a question that wants an answer) · tell (an
//! order that wants none) · ticket (the name of a question).
#![forbid(unsafe_code)]

pub mod admin;
pub mod amqp;
pub mod celery;
pub mod cli;
pub mod config;
pub mod control;
pub mod events;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod proxy;
pub mod results;
pub mod rules;
pub mod run;
pub mod session;
pub mod store;
pub mod tls;
