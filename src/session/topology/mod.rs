//! What is known of the exchanges, queues and bindings of a virtual host, so that a rule may ask for the queue of a publish.
//!
//! Nobody tells a proxy what a broker holds: known is what clients were seen to declare and bind successfully. What was made before,
//! or past the proxy, or by policies, is not. So knowledge is used in one direction only: a queue that is found is a queue of the
//! publish, and where none is found the queues are not known, which is never the same as none. What the broker takes away by itself is
//! noticed where it can be: queues that are exclusive, auto-delete or expire are forgotten with the last connection that declared them.
//! What is taken away past the proxy is believed until it is declared or bound anew.
//!
//! A publish may reach several queues; all are found, over bindings of exchanges to exchanges too. Not followed are alternate exchanges,
//! the headers `CC` and `BCC`, headers exchanges and those of plugins.

mod pattern;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::celery::routing;
use pattern::Budget;
use shared::SharedSet;

/// How an exchange chooses among its bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The routing key is that of the binding.
    Direct,
    /// Every binding.
    Fanout,
    /// The routing key fits the pattern of the binding.
    Topic,
    /// By other means, as headers.
    Other,
}

impl Kind {
    /// From the name of a type.
    pub fn named(name: &[u8]) -> Kind {
        match name {
            b"direct" => Kind::Direct,
            b"fanout" => Kind::Fanout,
            b"topic" => Kind::Topic,
            _ => Kind::Other,
        }
    }

    /// The exchanges that every virtual host has (`rabbit_vhost`, `default_exchanges`).
    fn predeclared(exchange: &[u8]) -> Option<Kind> {
        match exchange {
            b"amq.direct" => Some(Kind::Direct),
            b"amq.fanout" => Some(Kind::Fanout),
            b"amq.topic" | b"amq.rabbitmq.trace" => Some(Kind::Topic),
            b"amq.headers" | b"amq.match" => Some(Kind::Other),
            _ => None,
        }
    }
}

/// Where a binding leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// To a queue.
    Queue(Arc<str>),
    /// To another exchange.
    Exchange(Arc<[u8]>),
}

/// A binding. Its arguments do not make it another one: of two that differ only there, the first unbind takes both, which errs towards
/// not knowing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: Arc<[u8]>,
    /// The routing key, or the pattern.
    pub routing_key: Arc<[u8]>,
    /// Where they go.
    pub destination: Destination,
}

/// Whether a binding has arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arguments {
    /// None: the routing key is all that can decide.
    None,
    /// Some: an exchange that was not seen declared may go by them.
    Some,
}

/// What a client did successfully.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// There is an exchange of this type.
    Exchange(Arc<[u8]>, Kind),
    /// There is no such exchange any more.
    NoExchange(Arc<[u8]>),
    /// There is a queue that the broker may take away without telling anyone: it is exclusive, goes with its last consumer, or expires.
    PassingQueue(Arc<str>),
    /// There is no such queue any more.
    NoQueue(Arc<str>),
    /// There is a binding.
    Bind(Binding, Arguments),
    /// There is no such binding any more.
    Unbind(Binding),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is known now.
    New,
    /// It was known before, or concerns nothing that is known.
    Known,
    /// There is no room for it: it stays unknown.
    Full,
}

/// A binding from its other end: destination, source, routing key.
type Arrival = (Destination, Arc<[u8]>, Arc<[u8]>);

/// What is known of one virtual host. Copies share their contents: to copy and change a large one is cheap.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    kinds: SharedSet<(Arc<[u8]>, Kind)>,
    bindings: SharedSet<Binding>,
    /// The bindings whose routing key is a pattern.
    wild: SharedSet<Binding>,
    /// The same bindings by destination.
    arrivals: SharedSet<Arrival>,
}

impl Topology {
    /// The most bindings and the most exchanges that are remembered: about 40 MB with names of usual length.
    pub const MAX: usize = 100_000;
    /// The most steps (bindings and words looked at) that one publish may take, about a millisecond; beyond, its queues are not known.
    const STEPS: u32 = 50_000;

    /// How many bindings are known.
    pub fn len(&self) -> usize {
        self.bindings.len()
    }

    /// True if no binding is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Learns of a change.
    pub fn apply(&mut self, change: &Change) -> Applied {
        match change {
            Change::Exchange(name, kind) => self.exchange(name, *kind),
            Change::NoExchange(name) => {
                let kind = self.kind(name);
                let known = kind.is_some_and(|kind| self.kinds.remove(&(Arc::clone(name), kind)));
                let cleared = self.clear_exchange(name);
                if known { Applied::New } else { cleared }
            }
            Change::PassingQueue(_) => Applied::Known,
            Change::NoQueue(name) => self.clear_destination(&Destination::Queue(Arc::clone(name))),
            Change::Bind(binding, arguments) => self.bind(binding, *arguments),
            Change::Unbind(binding) => self.unbind(binding),
        }
    }

    /// The queues that a publish reaches, in the order of their names; `None` if none is known. On the default exchange it is the one that the routing key names.
    ///
    /// A message of Celery's native delayed delivery is followed from where it comes out. From an exchange that was not seen declared
    /// only a binding with the very routing key is followed: direct, fanout and topic exchanges agree on that one.
    pub fn route(&self, exchange: &[u8], routing_key: &[u8]) -> Option<Vec<Arc<str>>> {
        if exchange.is_empty() {
            return std::str::from_utf8(routing_key).ok().map(|queue| vec![Arc::from(queue)]);
        }
        let delivery = routing::strip_delay(exchange, routing_key).and_then(|_| routing::delivery_exchange(exchange));
        let words: Vec<&[u8]> = pattern::words(routing_key).collect();
        let mut budget = Budget::new(Topology::STEPS);
        let mut queues = BTreeSet::new();
        let mut visited = BTreeSet::new();
        let mut waiting = vec![delivery.as_deref().unwrap_or(exchange)];
        while let Some(exchange) = waiting.pop() {
            if !visited.insert(exchange) {
                continue;
            }
            for destination in self.chosen(exchange, routing_key, &words, &mut budget)? {
                match destination {
                    Destination::Queue(queue) => _ = queues.insert(queue),
                    Destination::Exchange(next) => waiting.push(next),
                }
            }
        }
        (!queues.is_empty()).then(|| queues.into_iter().cloned().collect())
    }

    /// Where one exchange sends a message; `None` if the budget is spent.
    fn chosen<'a>(&'a self, exchange: &[u8], key: &[u8], words: &[&[u8]], budget: &mut Budget) -> Option<Vec<&'a Destination>> {
        let kind = self.kind(exchange);
        let mut chosen = Vec::new();
        if kind == Some(Kind::Other) {
            return Some(chosen);
        }
        let every = kind == Some(Kind::Fanout);
        let from = if every { &[][..] } else { key };
        let exact = self.bindings.from(|held| (&*held.source, &*held.routing_key) < (exchange, from));
        for binding in exact.take_while(|held| *held.source == *exchange && (every || *held.routing_key == *key)) {
            budget.spend()?;
            chosen.push(&binding.destination);
        }
        if kind == Some(Kind::Topic) {
            let wild = self.wild.from(|held| *held.source < *exchange);
            for binding in wild.take_while(|held| *held.source == *exchange) {
                if pattern::matches(&binding.routing_key, words, budget)? {
                    chosen.push(&binding.destination);
                }
            }
        }
        Some(chosen)
    }

    fn kind(&self, exchange: &[u8]) -> Option<Kind> {
        let declared = self.kinds.from(|(name, _)| **name < *exchange).next();
        declared
            .filter(|(name, _)| **name == *exchange)
            .map(|(_, kind)| *kind)
            .or_else(|| Kind::predeclared(exchange))
    }

    fn exchange(&mut self, name: &Arc<[u8]>, kind: Kind) -> Applied {
        let known = self.kind(name);
        if known == Some(kind) {
            return Applied::Known;
        }
        if let Some(other) = known {
            self.kinds.remove(&(Arc::clone(name), other));
            // The type of an exchange never changes: this is a new one. Of the old one only a guess may have been known.
            if other != Kind::Other {
                self.clear_exchange(name);
            }
        }
        if self.kinds.len() >= Topology::MAX {
            return Applied::Full;
        }
        self.kinds.insert((Arc::clone(name), kind));
        Applied::New
    }

    fn bind(&mut self, binding: &Binding, arguments: Arguments) -> Applied {
        // Nothing can be bound to the default exchange.
        if binding.source.is_empty() {
            return Applied::Known;
        }
        let binding = self.shared(binding);
        if arguments == Arguments::Some && self.kind(&binding.source).is_none() {
            self.exchange(&binding.source, Kind::Other);
        }
        if self.bindings.len() >= Topology::MAX {
            let known = self.bindings.from(|held| *held < binding).next() == Some(&binding);
            return if known { Applied::Known } else { Applied::Full };
        }
        if !self.bindings.insert(binding.clone()) {
            return Applied::Known;
        }
        self.arrivals.insert((
            binding.destination.clone(),
            Arc::clone(&binding.source),
            Arc::clone(&binding.routing_key),
        ));
        if pattern::is_wild(&binding.routing_key) {
            self.wild.insert(binding);
        }
        Applied::New
    }

    /// The binding, with the names that are in memory already.
    fn shared(&self, binding: &Binding) -> Binding {
        let Binding {
            source,
            routing_key,
            destination,
        } = binding;
        let sibling = self.bindings.from(|held| held.source < *source).next();
        let arrival = self.arrivals.from(|(held, _, _)| held < destination).next();
        Binding {
            source: Arc::clone(sibling.map(|held| &held.source).filter(|held| *held == source).unwrap_or(source)),
            routing_key: Arc::clone(routing_key),
            destination: arrival
                .map(|(held, _, _)| held)
                .filter(|held| *held == destination)
                .unwrap_or(destination)
                .clone(),
        }
    }

    fn unbind(&mut self, binding: &Binding) -> Applied {
        if !self.bindings.remove(binding) {
            return Applied::Known;
        }
        self.wild.remove(binding);
        self.arrivals.remove(&(
            binding.destination.clone(),
            Arc::clone(&binding.source),
            Arc::clone(&binding.routing_key),
        ));
        Applied::New
    }

    fn clear_exchange(&mut self, name: &Arc<[u8]>) -> Applied {
        let leaving = self.bindings.from(|held| held.source < *name);
        let leaving: Vec<Binding> = leaving.take_while(|held| held.source == *name).cloned().collect();
        for binding in &leaving {
            self.unbind(binding);
        }
        let arriving = self.clear_destination(&Destination::Exchange(Arc::clone(name)));
        if leaving.is_empty() { arriving } else { Applied::New }
    }

    fn clear_destination(&mut self, destination: &Destination) -> Applied {
        let arriving = self.arrivals.from(|(held, _, _)| held < destination);
        let arriving: Vec<Binding> = arriving
            .take_while(|(held, _, _)| held == destination)
            .map(|(destination, source, routing_key)| Binding {
                source: Arc::clone(source),
                routing_key: Arc::clone(routing_key),
                destination: destination.clone(),
            })
            .collect();
        for binding in &arriving {
            self.unbind(binding);
        }
        if arriving.is_empty() { Applied::Known } else { Applied::New }
    }
}
