//! `[control]`: the proxy's own accounts at the broker, and whether it tells workers to publish task events.

use serde_json::{Map, Value as Json};

use super::ProxyConfig;
use super::account::{Account, BrokerUrl, is_own};
use super::address::Transport;
use super::context::sentence;
use super::reader::TableReader;
use super::report::Reader;
use super::rule::words;
use super::secrets::read_secret;
use super::source::Span;
use super::tables::open;
use super::tree::{Table, Value};
use crate::rules::spec::EnableEvents;

/// `[control]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlConfig {
    /// The accounts, at most one for each virtual host.
    pub accounts: Vec<Account>,
    /// Whether workers are told to publish task events.
    pub enable_events: EnableEvents,
}

impl ControlConfig {
    /// Whether one of the accounts is dialled with TLS.
    pub fn dials_tls(&self) -> bool {
        self.accounts.iter().any(|account| account.url.transport == Transport::Tls)
    }
}

/// Reads `[control]`. An account that dials a listener of this very proxy is refused.
pub(super) fn read_control(root: &mut TableReader<'_>, proxy: &ProxyConfig) -> ControlConfig {
    let mut control = open(root, "control", "control");
    let mut accounts = Vec::new();
    if let Some(url) = read_url(&mut control, proxy) {
        let vhost = url.vhost.clone().unwrap_or_else(|| "/".into());
        accounts.push(Account { vhost, url });
    }
    let enable_events = control.choice(
        "enable_events",
        EnableEvents::Auto,
        &words(EnableEvents::NAMES, EnableEvents::from_name),
    );
    let vhosts = open(&mut control, "vhosts", "control.vhosts");
    let mut shown = Map::new();
    for entry in vhosts.entries() {
        let Value::Table(table) = &entry.node.value else {
            let says = format!("{} is {} where a table is meant", entry.name, entry.node.value.kind());
            let message = sentence(&says, &format!("Write [control.vhosts.{:?}].", entry.name));
            root.reader().error_at(entry.name_at, message);
            continue;
        };
        let (account, table) = read_vhost(root.reader(), Some(table), Some(entry.name_at), &entry.name, Some(proxy));
        if let Some(account) = account {
            if accounts.iter().any(|other| other.vhost == account.vhost) {
                let says = format!("control.url is an account for the virtual host {:?} too", entry.name);
                root.reader().error_at(entry.name_at, sentence(&says, "Keep one of them."));
            }
            accounts.push(account);
        }
        shown.insert(entry.name.clone(), table);
    }
    if !shown.is_empty() {
        control.show("vhosts", Json::Object(shown));
    }
    let shown = control.finish();
    root.show("control", shown);
    ControlConfig { accounts, enable_events }
}

/// One `[control.vhosts."NAME"]`: its account, and the table as it is shown.
fn read_vhost(
    reader: &Reader,
    table: Option<&Table>,
    at: Option<Span>,
    name: &str,
    proxy: Option<&ProxyConfig>,
) -> (Option<Account>, Json) {
    let mut table = TableReader::new(reader, "control.vhosts.*", table, at);
    let Some(proxy) = proxy else {
        read_secret::<BrokerUrl>(&mut table, "url", "url_file");
        return (None, table.finish());
    };
    let account = read_url(&mut table, proxy).and_then(|mut url| {
        if url.vhost.as_deref().is_some_and(|named| named != name) {
            let remedy = format!(
                "Leave the virtual host out of url, or write [control.vhosts.{:?}].",
                url.vhost.as_deref().unwrap_or_default()
            );
            table.refuse(key_of(&table), &format!("names another virtual host than {name:?}"), &remedy);
            return None;
        }
        url.vhost = Some(name.into());
        Some(Account { vhost: name.into(), url })
    });
    if !table.has("url") && !table.has("url_file") {
        table.refuse_table("url is missing", "Write url = \"amqp://USER:PASSWORD@HOST:5672\".");
    }
    (account, table.finish())
}

/// Asks for every key of a `[control.vhosts."NAME"]` once, so that the reader knows them.
pub(super) fn read_every_key(reader: &Reader) {
    read_vhost(reader, None, None, "", None);
}

/// The key under which the URL was written.
fn key_of(table: &TableReader<'_>) -> &'static str {
    if table.has("url_file") { "url_file" } else { "url" }
}

fn read_url(table: &mut TableReader<'_>, proxy: &ProxyConfig) -> Option<BrokerUrl> {
    let url = read_secret::<BrokerUrl>(table, "url", "url_file")?;
    if let Some(own) = proxy.listen.iter().find(|listen| is_own(listen, &url.address)) {
        let says = format!("dials {own}, where this proxy itself listens");
        table.refuse(key_of(table), &says, "Write the address of the broker, as in proxy.upstream.");
        return None;
    }
    Some(url)
}
