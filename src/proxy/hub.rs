//! What all connections of the process share.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::connection::Command;
use super::drain;
use super::hosts::Hosts;
use super::topology::Topologies;
use super::upstream::Upstreams;
use crate::config::{ProxyConfig, UpstreamConfirms};
use crate::control::Control;
use crate::lifecycle::nodes::{Ask, Nodes};
use crate::lifecycle::purge::Purges;
use crate::lifecycle::running::Runs;
use crate::logging::{DecisionLog, Once, OncePerMinute};
use crate::metrics::Metrics;
use crate::results::Results;
use crate::rules::RuleSet;
use crate::session::{Now, Settings, Witness};
use crate::store::QueueName;

/// What all connections share.
pub struct Hub {
    started: Instant,
    settings: ArcSwap<Settings>,
    rules: ArcSwap<RuleSet>,
    upstream: Arc<Upstreams>,
    metrics: Arc<Metrics>,
    log: Arc<DecisionLog>,
    unreadable: OncePerMinute,
    unexpiring: OncePerMinute,
    undelayed: Once,
    unparkable: OncePerMinute,
    purges: Purges,
    connections: Mutex<HashMap<u64, Entry>>,
    hosts: Mutex<Hosts>,
    next: AtomicU64,
    draining: AtomicBool,
    topologies: Arc<Topologies>,
    runs: Arc<Runs>,
    witness: Arc<Witness>,
    results: Results,
    control: Control,
}

/// What the hub knows of a connection.
struct Entry {
    address: IpAddr,
    /// The worker thread that it is on.
    thread: usize,
    orders: UnboundedSender<Command>,
}

/// A connection's place in the hub, given up when dropped.
pub struct Seat {
    hub: Arc<Hub>,
    number: u64,
    address: IpAddr,
}

impl Seat {
    /// The hub.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The number of the connection, which no other connection of this process gets.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What hands letters to the worker of this connection; nothing happens once the connection is gone.
    pub fn ask(&self) -> Option<Ask> {
        let orders = self.hub.lock().get(&self.number)?.orders.clone();
        Some(Box::new(move |letter| drop(orders.send(Command::Letter(letter)))))
    }

    /// To be called once after each [`Command::Drain`], when the connection has no work in hand.
    pub fn finished(&self) {
        let members = self.hub.lock_hosts().finished(self.address, self.number).map(<[u64]>::to_vec);
        let connections = self.hub.lock();
        for entry in members.iter().flatten().filter_map(|number| connections.get(number)) {
            // A connection that has just ended needs no orders.
            let _ = entry.orders.send(Command::NeighboursIdle);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.lock().remove(&self.number);
        if self.hub.draining.load(Ordering::Acquire) {
            self.finished();
        }
        self.hub.metrics.connections.dec();
    }
}

impl Hub {
    /// A hub without connections.
    pub fn new(config: &ProxyConfig, rules: Arc<RuleSet>, upstream: Arc<Upstreams>, metrics: Arc<Metrics>, log: Arc<DecisionLog>) -> Hub {
        let nodes = Arc::new(Nodes::default());
        Hub {
            started: Instant::now(),
            settings: ArcSwap::from_pointee(settings(config, &nodes)),
            rules: ArcSwap::new(rules),
            upstream,
            purges: Purges::new(Arc::clone(&metrics)),
            results: Results::new(Arc::clone(&metrics)),
            metrics,
            log,
            unreadable: OncePerMinute::default(),
            unexpiring: OncePerMinute::default(),
            undelayed: Once::default(),
            unparkable: OncePerMinute::default(),
            connections: Mutex::new(HashMap::new()),
            hosts: Mutex::new(Hosts::default()),
            next: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            topologies: Arc::default(),
            runs: Arc::new(Runs::new(&nodes)),
            witness: Arc::default(),
            control: Control::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Entry>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_hosts(&self) -> std::sync::MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time as sessions count it.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now {
            us: self.started.elapsed().as_micros() as u64,
            unix_ms: unix.as_millis() as u64,
        }
    }

    /// The moment that a time of a session's is.
    pub fn time_of(&self, us: u64) -> std::time::Instant {
        (self.started + Duration::from_micros(us)).into_std()
    }

    /// What sessions need of the configuration.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// The bound on what one connection keeps in memory, in bytes.
    pub fn connection_memory(&self) -> usize {
        self.settings.load().connection_memory
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<RuleSet> {
        self.rules.load_full()
    }

    /// The brokers.
    pub fn upstream(&self) -> &Arc<Upstreams> {
        &self.upstream
    }

    /// The metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The decision log.
    pub fn log(&self) -> &Arc<DecisionLog> {
        &self.log
    }

    /// Bounds the log lines about messages that cannot be keyed.
    pub fn unreadable(&self) -> &OncePerMinute {
        &self.unreadable
    }

    /// Bounds the log lines about messages that do not expire with their lock.
    pub fn unexpiring(&self) -> &OncePerMinute {
        &self.unexpiring
    }

    /// Bounds the log lines about retries that keep their own delay.
    pub fn undelayed(&self) -> &Once {
        &self.undelayed
    }

    /// Bounds the log lines about deliveries that could not be published anew.
    pub fn unparkable(&self) -> &OncePerMinute {
        &self.unparkable
    }

    /// What is known of exchanges and queues.
    pub fn topologies(&self) -> &Arc<Topologies> {
        &self.topologies
    }

    /// What all sessions have seen of tasks.
    pub fn witness(&self) -> &Arc<Witness> {
        &self.witness
    }

    /// Oncegate's own account at the broker.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The workers that are connected.
    pub fn nodes(&self) -> &Arc<Nodes> {
        self.runs.nodes()
    }

    /// The tasks that run.
    pub fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// The store can be asked again by the connections of this worker thread.
    pub fn store_is_back(&self, thread: usize) {
        for entry in self.lock().values().filter(|entry| entry.thread == thread) {
            // A connection that has just ended needs no orders.
            let _ = entry.orders.send(Command::StoreBack);
        }
    }

    /// Takes a seat for a new connection from this address, on this worker thread.
    pub fn seat(self: &Arc<Self>, address: IpAddr, thread: usize) -> (Seat, UnboundedReceiver<Command>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            address,
            thread,
            orders: sender.clone(),
        };
        self.lock().insert(number, entry);
        // Looked at only now: a drain that begins between these lines gives its order twice rather than never.
        if self.draining.load(Ordering::Acquire) {
            self.lock_hosts().join(address, number);
            // The receiver is in hand, so the order cannot fail.
            let _ = sender.send(Command::Drain {
                close_from_us: self.now().us,
            });
        }
        self.metrics.connections.inc();
        (
            Seat {
                hub: Arc::clone(self),
                number,
                address,
            },
            receiver,
        )
    }

    /// Takes word of emptied queues.
    pub fn purges(&self) -> &Purges {
        &self.purges
    }

    /// Writes the results of dropped ids.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// A client has had a queue purged or deleted; it asked at that time, in monotonic microseconds.
    pub fn queue_emptied(&self, vhost: &str, queue: Arc<str>, at_us: u64) {
        let vhost = Arc::from(vhost);
        let at = self.started + Duration::from_micros(at_us);
        self.purges.emptied(QueueName { vhost, queue }, at.into_std());
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.lock().len()
    }

    /// Puts new rules in force everywhere.
    pub fn set_rules(&self, config: &ProxyConfig, rules: &Arc<RuleSet>) {
        self.settings.store(Arc::new(settings(config, self.nodes())));
        self.rules.store(Arc::clone(rules));
        self.order(&Command::Rules(Arc::clone(rules)));
    }

    /// Starts the graceful end of every connection, those to come included. Those without work are closed one after another, all of
    /// them within this time.
    pub fn drain(&self, within: Duration) {
        self.draining.store(true, Ordering::Release);
        let now = self.now().us;
        let connections = self.lock();
        // All of them before the first is told: it may have finished before the next line.
        let mut hosts = self.lock_hosts();
        for (number, entry) in &*connections {
            hosts.join(entry.address, *number);
        }
        drop(hosts);
        // A map knows no order, so neighbours in time are no neighbours otherwise.
        for (turn, entry) in connections.values().enumerate() {
            let close_from_us = now + drain::turn(turn, connections.len(), within).as_micros() as u64;
            // A connection that has just ended needs no orders.
            let _ = entry.orders.send(Command::Drain { close_from_us });
        }
    }

    /// Ends every connection; goodbyes may take this long.
    pub fn close(&self, within: Duration) {
        self.order(&Command::Close {
            until_us: self.now().us + within.as_micros() as u64,
        });
    }

    fn order(&self, command: &Command) {
        for entry in self.lock().values() {
            // A connection that has just ended needs no orders.
            let _ = entry.orders.send(command.clone());
        }
    }
}

fn settings(config: &ProxyConfig, nodes: &Nodes) -> Settings {
    Settings {
        max_message: config.max_message,
        connection_memory: config.connection_memory,
        held_max: config.held_max,
        consumer_timeout_us: u64::try_from(config.consumer_timeout.as_micros()).unwrap_or(u64::MAX),
        upstream_confirms: config.upstream_confirms == UpstreamConfirms::Select,
        enable_events: config.enable_events,
        handshake_us: config.handshake_timeout.as_micros() as u64,
        reply_prefix: Arc::clone(nodes.reply_prefix()),
        ..Settings::default()
    }
}
