//! `[events]`: where decisions are published.

use std::sync::Arc;

use super::ControlConfig;
use super::reader::TableReader;
use super::tables::open;
use crate::amqp::coding::SHORT_MAX;
use crate::rules::RuleSet;

const REMEDY: &str = "Write exchange = \"oncegate\", or leave exchange out.";

/// `[events]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventsConfig {
    /// The exchange to which each decision is published; `None`: they are not.
    pub exchange: Option<Arc<str>>,
}

/// What is to be warned of once the rules are known.
pub(super) struct Events {
    pub(super) config: EventsConfig,
    at: Option<super::source::Span>,
}

pub(super) fn read_events(root: &mut TableReader<'_>) -> Events {
    let mut events = open(root, "events", "events");
    let exchange = events.optional::<String>("exchange");
    let wrong = match exchange.as_deref() {
        Some("") => Some("is the exchange without a name, which takes the name of a queue for a routing key"),
        Some(name) if name.len() > SHORT_MAX => Some("is longer than 255 octets, and the names of exchanges are bounded"),
        Some(name) if name.contains(char::is_control) => Some("has a control character"),
        _ => None,
    };
    if let Some(says) = wrong {
        events.refuse("exchange", says, REMEDY);
    }
    let at = events.node("exchange").map(|node| node.at);
    let shown = events.finish();
    root.show("events", shown);
    let exchange = exchange.map(Arc::from);
    Events {
        config: EventsConfig { exchange },
        at,
    }
}

/// Says where nothing is published for want of an account, by what the configuration alone shows.
pub(super) fn warn(root: &TableReader<'_>, events: &Events, control: &ControlConfig, rules: &RuleSet) {
    let (Some(at), Some(_)) = (events.at, &events.config.exchange) else {
        return;
    };
    let reader = root.reader();
    if control.accounts.is_empty() {
        let message = "events.exchange takes an account of Oncegate's own at the broker ([control]), and there is none: no decision is \
                       published. Write [control] url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\", or leave exchange out.";
        reader.warn(at, None, message.to_owned());
        return;
    }
    let is_pattern = |vhost: &str| vhost.contains(['*', '?', '[', '{', '\\']);
    let named = rules.specs().iter().flat_map(|spec| &spec.vhost);
    for vhost in named.filter(|vhost| !is_pattern(vhost)) {
        if control.accounts.iter().any(|account| *account.vhost == **vhost) {
            continue;
        }
        let message = format!(
            "events.exchange takes an account of Oncegate's own ([control]) in each virtual host, and there is none in {vhost:?}: its \
             decisions are not published. Write [control.vhosts.{vhost:?}] url = \"amqp://USER:PASSWORD@HOST:5672\"."
        );
        reader.warn(at, None, message);
    }
}
