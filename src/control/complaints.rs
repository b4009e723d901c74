//! What the broker does not take of the messages that are published in place of deliveries, as an operator is told of it: each once.

use std::collections::HashSet;
use std::sync::Arc;

use super::wire::Fault;
use crate::session::RepublishFault;

pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
const PRECONDITION_FAILED: u16 = 406;

/// So many are remembered.
const REMEMBERED: usize = 10_000;
/// The remedy for a right that is missing.
pub(super) const RIGHTS: &str = "Give the account the rights that `oncegate check` prints.";
/// The remedy where there is no better one.
pub(super) const SEE_LOG: &str = "See the broker's log for its side of it.";

/// What is wrong, for each name once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wrong {
    /// The broker refuses a declare or a publish with this code; 0: the name does not fit.
    Refused(u16),
    Fault(RepublishFault),
}

/// What one connection was told.
#[derive(Debug)]
pub(super) struct Complaints {
    vhost: Arc<str>,
    told: HashSet<(Arc<str>, Wrong)>,
}

impl Complaints {
    pub(super) fn new(vhost: Arc<str>) -> Complaints {
        Complaints {
            vhost,
            told: HashSet::new(),
        }
    }

    /// Nothing is wrong with this name any more.
    pub(super) fn forget(&mut self, name: &Arc<str>) {
        self.told.retain(|(told, _)| told != name);
    }

    fn is_news(&mut self, name: &Arc<str>, wrong: Wrong) -> bool {
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        self.told.insert((Arc::clone(name), wrong))
    }

    /// A delay queue cannot be declared.
    pub(super) fn declare(&mut self, queue: &Arc<str>, fault: &Fault) {
        let remedy = match fault.code() {
            Some(ACCESS_REFUSED) => RIGHTS,
            Some(PRECONDITION_FAILED) => "A queue of that name is there that is unlike. Delete it once it is empty; it is declared again.",
            Some(_) => SEE_LOG,
            None => "Shorten park.prefix.",
        };
        if self.is_news(queue, Wrong::Refused(fault.code().unwrap_or_default())) {
            tracing::warn!(vhost = &*self.vhost, queue = &**queue, why = %fault, remedy, "a delay queue cannot be declared: nothing is parked in it");
        }
    }

    /// The channel of messages was closed. `exchange`: where the first of them went that were out.
    pub(super) fn refusal(&mut self, exchange: Option<&Arc<str>>, fault: &Fault) {
        let remedy = match fault.code() {
            Some(ACCESS_REFUSED) => RIGHTS,
            Some(NOT_FOUND) => "Declare that exchange, or name another in the rule's dead_letter.",
            _ => SEE_LOG,
        };
        let exchange = exchange.map_or_else(|| Arc::from(""), Arc::clone);
        if self.is_news(&exchange, Wrong::Refused(fault.code().unwrap_or_default())) {
            tracing::warn!(vhost = &*self.vhost, exchange = &*exchange, why = %fault, remedy, "the broker refuses a message that was published in place of a delivery");
        }
    }

    /// The broker answers that it did not keep a message.
    pub(super) fn message(&mut self, exchange: &Arc<str>, routing_key: &Arc<str>, fault: RepublishFault) {
        let remedy = match fault {
            RepublishFault::Nacked => "A limit of that queue is reached, or the broker is in trouble: see its log.",
            _ if exchange.is_empty() => "No queue of that name was there.",
            _ => "Bind a queue there, or name another target in the rule's dead_letter.",
        };
        if self.is_news(routing_key, Wrong::Fault(fault)) {
            tracing::warn!(
                vhost = &*self.vhost,
                exchange = &**exchange,
                routing_key = &**routing_key,
                fault = fault.as_str(),
                remedy,
                "the broker did not keep a message that was published in place of a delivery"
            );
        }
    }

    /// A message cannot be sent because of its headers.
    pub(super) fn headers(&self, octets: usize) {
        tracing::debug!(
            vhost = &*self.vhost,
            octets,
            "the headers of a message cannot be published by this connection"
        );
    }
}
