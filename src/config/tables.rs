//! The tables beside the rules: each key with its default, and what must hold between keys.

use std::sync::Arc;
use std::time::Duration;

use super::account::Account;
use super::address::{HostPort, Listen, RedisUrl, StoreUrl, Transport, Upstream};
use super::admin::{read_admin, read_token};
use super::check::Offered;
use super::context::Context;
use super::control::{self, read_control};
use super::events::{self, read_events};
use super::layer::Layered;
use super::park::read_park;
use super::reader::TableReader;
use super::report::{Reader, Shown};
use super::rule;
use super::secrets::{check_tls, read_client_tls, read_secret, read_server_tls, warn_of_unused_tls};
use super::setting::{Setting as _, Size};
use super::tree::{Table, Value};
use super::unit::show_size;
use super::{
    Config, DecisionsConfig, LogConfig, LogDecisions, LogFormat, LogLevel, ProxyConfig, ResultsConfig, StoreConfig, UpstreamConfirms,
    UpstreamPolicy, WhyUnanswered,
};
use crate::rules::owed::{Callers, Told};
use crate::rules::spec::EnableEvents;

const MIB: usize = 1 << 20;

/// Reads the whole tree. What is wrong goes to the reader; the result counts only if nothing is.
pub(super) fn read_config(reader: &Reader, layered: &Layered) -> Config {
    let mut root = TableReader::new(reader, "", Some(&layered.root), None);
    root.get("include", Vec::<String>::new());
    let watch_config = root.get("watch_config", true);
    let mut proxy = read_proxy(&mut root);
    let control = read_control(&mut root, &proxy);
    proxy.enable_events = control.enable_events;
    warn_of_unused_tls(&root, &proxy, &control);
    let store = read_store(&mut root, &proxy.listen);
    let admin = read_admin(&mut root);
    let log = read_log(&mut root);
    let decisions = read_decisions(&mut root);
    let (results, told, why_unanswered, carried) = read_results(&mut root, &control.accounts);
    let park = read_park(&mut root);
    let events = read_events(&mut root);
    let offered = Offered {
        events: proxy.enable_events != EnableEvents::False,
        redis: results.is_some(),
        carried,
        unanswered: why_unanswered,
        accounts: &control.accounts,
    };
    let (rules, unanswered) = rule::read_set(&mut root, offered, told);
    events::warn(&root, &events, &control, &rules);
    let shown = root.finish();
    let mut read = layered.included.clone();
    read.extend(reader.files());
    Config {
        file: layered.file.clone(),
        watch_config,
        proxy,
        control,
        store,
        admin,
        log,
        decisions,
        results,
        unanswered,
        park,
        events: events.config,
        rules,
        sha256: layered.sha256.clone(),
        warnings: Vec::new(),
        read,
        included_from: layered.included_from.clone(),
        fingerprint: [0; 32],
        shown,
    }
}

/// Asks for every key once, with nothing set, so that the reader knows them all.
pub(super) fn read_every_key(reader: &Reader) {
    let nothing = Layered {
        file: None,
        root: Table::default(),
        included: Vec::new(),
        included_from: Vec::new(),
        sha256: String::new(),
        is_whole: true,
    };
    read_config(reader, &nothing);
    read_token(reader, &Table::default(), None, &mut Vec::new());
    control::read_every_key(reader);
    rule::read_every_key(reader);
}

/// A table of the top level or within one.
pub(super) fn open<'r>(parent: &mut TableReader<'r>, key: &'static str, path: &'static str) -> TableReader<'r> {
    let (table, at) = parent.table(key);
    TableReader::new(parent.reader(), path, table, at)
}

/// A duration that must not be zero.
pub(super) fn positive(table: &mut TableReader<'_>, key: &'static str, default: Duration) -> Duration {
    let duration = table.get(key, default);
    if duration.is_zero() {
        table.refuse(
            key,
            "is no time at all",
            &format!("Write a longer one, such as \"{}\".", super::unit::show_duration(default)),
        );
    }
    duration
}

/// A number that must not be zero.
fn at_least_one(table: &mut TableReader<'_>, key: &'static str, default: u64) -> u64 {
    let number = table.get(key, default);
    if number == 0 {
        table.refuse(key, "is too small", &format!("Write at least {key} = 1."));
    }
    number
}

const POLICIES: [(&str, UpstreamPolicy); 3] = [
    ("round_robin", UpstreamPolicy::RoundRobin),
    ("first", UpstreamPolicy::First),
    ("least_connections", UpstreamPolicy::LeastConnections),
];

fn read_proxy(root: &mut TableReader<'_>) -> ProxyConfig {
    let mut table = open(root, "proxy", "proxy");
    let loopback = |port| HostPort {
        host: "127.0.0.1".to_owned(),
        port,
    };
    let listen = table.get(
        "listen",
        vec![Listen {
            address: loopback(5673),
            transport: Transport::Tcp,
        }],
    );
    let upstream = table.get(
        "upstream",
        vec![Upstream {
            address: loopback(5672),
            transport: Transport::Tcp,
        }],
    );
    for (key, empty) in [("listen", listen.is_empty()), ("upstream", upstream.is_empty())] {
        if empty {
            table.refuse(key, "is empty", &format!("Write at least one address, or leave {key} out."));
        }
    }
    let max_message = table.get("max_message", Size(16 * MIB)).0;
    let connection_memory = table.get("connection_memory", Size(32 * MIB)).0;
    check_memory(&table, max_message, connection_memory);
    let config = ProxyConfig {
        upstream_policy: table.choice("upstream_policy", UpstreamPolicy::RoundRobin, &POLICIES),
        max_connections: at_least_one(&mut table, "max_connections", 10_000) as usize,
        max_message,
        connect_timeout: positive(&mut table, "connect_timeout", Duration::from_secs(5)),
        handshake_timeout: positive(&mut table, "handshake_timeout", Duration::from_secs(10)),
        tcp_keepalive: read_keepalive(&mut table),
        connection_memory,
        held_max: at_least_one(&mut table, "held_max", 10_000) as usize,
        consumer_timeout: positive(&mut table, "consumer_timeout", Duration::from_secs(30 * 60)),
        drain_delay: table.get("drain_delay", Duration::from_secs(5)),
        drain_timeout: table.get("drain_timeout", Duration::from_secs(30)),
        upstream_confirms: if table.get("upstream_confirms", true) {
            UpstreamConfirms::Select
        } else {
            UpstreamConfirms::Off
        },
        enable_events: EnableEvents::Auto,
        tls: read_server_tls(&mut table, "proxy.tls"),
        upstream_tls: read_client_tls(&mut table),
        listen,
        upstream,
    };
    table.get("proxy_protocol_from", Vec::<String>::new());
    table.choice("send_proxy_protocol", "off", &[("off", "off"), ("v1", "v1"), ("v2", "v2")]);
    check_tls(&table, &config);
    let shown = table.finish();
    root.show("proxy", shown);
    config
}

/// A message that is looked into must fit into the memory of its connection, with room for the frames around it.
fn check_memory(table: &TableReader<'_>, max_message: usize, connection_memory: usize) {
    let least = max_message.saturating_add(MIB);
    if connection_memory >= least {
        return;
    }
    if table.has("connection_memory") {
        let remedy = format!("Write at least connection_memory = \"{}\".", show_size(least));
        table.refuse(
            "connection_memory",
            &format!("is less than max_message ({}) and 1MiB", show_size(max_message)),
            &remedy,
        );
    } else {
        let remedy = format!("Write connection_memory = \"{}\" beside it.", show_size(least.saturating_mul(2)));
        table.refuse(
            "max_message",
            &format!("does not fit into connection_memory ({})", show_size(connection_memory)),
            &remedy,
        );
    }
}

fn read_keepalive(table: &mut TableReader<'_>) -> Duration {
    let keepalive = table.get("tcp_keepalive", Duration::from_secs(60));
    if keepalive < Duration::from_secs(1) {
        table.refuse(
            "tcp_keepalive",
            "is less than a second, which the kernel cannot count",
            "Write tcp_keepalive = \"60s\".",
        );
    }
    keepalive
}

fn read_store(root: &mut TableReader<'_>, listen: &[Listen]) -> StoreConfig {
    let mut table = open(root, "store", "store");
    let url = read_secret::<StoreUrl>(&mut table, "url", "url_file");
    let is_given = table.has("url") || table.has("url_file");
    table.show("url", url.as_ref().unwrap_or(&StoreUrl::Memory).show());
    let prefix = table.get("prefix", "oncegate".to_owned());
    if prefix.is_empty() || prefix.contains(|character: char| character.is_whitespace() || "{}*?[]\\".contains(character)) {
        table.refuse(
            "prefix",
            "cannot begin the names of keys",
            "Write letters, digits and any of . : _ - such as \"oncegate\".",
        );
    }
    let timeout = positive(&mut table, "timeout", Duration::from_millis(250));
    let shown = table.finish();
    root.show("store", shown);
    let exposed = listen.iter().position(|listen| !listen.address.is_loopback());
    if let Some(index) = exposed.filter(|_| !is_given) {
        refuse_listener(root, index);
    }
    StoreConfig {
        url: url.unwrap_or(StoreUrl::Memory),
        prefix,
        timeout,
    }
}

/// Beyond loopback the locks are not put into one process's memory unless the operator says so.
fn refuse_listener(root: &TableReader<'_>, index: usize) {
    let Some(Value::Table(proxy)) = root.node("proxy").map(|node| &node.value) else {
        return;
    };
    let Some(entry) = proxy.get("listen") else { return };
    let node = match &entry.node.value {
        Value::List(items) => items.get(index).unwrap_or(&entry.node),
        _ => &entry.node,
    };
    let cx = Context {
        reader: root.reader(),
        table: "proxy",
        key: "listen",
        shown: Shown::Plain,
    };
    let says = "is reached from other machines, and no store is named for the locks";
    cx.refuse(
        node,
        says,
        "Write [store] with url = \"redis://HOST:6379/0\", or url = \"memory:\" if this is the only proxy.",
    );
}

const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

fn read_log(root: &mut TableReader<'_>) -> LogConfig {
    let mut table = open(root, "log", "log");
    let decisions = [
        ("duplicates", LogDecisions::Duplicates),
        ("all", LogDecisions::All),
        ("none", LogDecisions::None),
    ];
    let config = LogConfig {
        level: table.choice("level", LogLevel::Info, &LEVELS),
        format: table.choice("format", LogFormat::Text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        decisions: table.choice("decisions", LogDecisions::Duplicates, &decisions),
        decisions_per_second: table.get("decisions_per_second", 100),
    };
    let shown = table.finish();
    root.show("log", shown);
    config
}

fn read_decisions(root: &mut TableReader<'_>) -> DecisionsConfig {
    let mut table = open(root, "decisions", "decisions");
    let keep = positive(&mut table, "keep", Duration::from_secs(24 * 3600));
    let max = table.get("max", 1_000_000);
    let shown = table.finish();
    root.show("decisions", shown);
    DecisionsConfig { keep, max }
}

/// `results.kind`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResultsKind {
    Auto,
    Redis,
    Rpc,
    Worker,
    None,
}

const RESULTS_KINDS: [(&str, ResultsKind); 5] = [
    ("auto", ResultsKind::Auto),
    ("redis", ResultsKind::Redis),
    ("rpc", ResultsKind::Rpc),
    ("worker", ResultsKind::Worker),
    ("none", ResultsKind::None),
];

/// `[results]`: the result backend that is read, if any, how the results of dropped ids are told, why some may not be, and whether duplicates
/// bring their results themselves.
fn read_results(root: &mut TableReader<'_>, accounts: &[Account]) -> (Option<ResultsConfig>, Told, Option<WhyUnanswered>, bool) {
    let mut table = open(root, "results", "results");
    let url = read_secret::<RedisUrl>(&mut table, "url", "url_file");
    let kind = table.choice("kind", ResultsKind::Auto, &RESULTS_KINDS);
    let key_prefix = table.get("key_prefix", String::new());
    let expires = positive(&mut table, "expires", Duration::from_secs(24 * 3600));
    if kind == ResultsKind::Redis && !table.has("url") && !table.has("url_file") {
        table.refuse(
            "kind",
            "does not say where the Redis is",
            "Write url = \"redis://HOST:6379/1\" beside it.",
        );
    }
    let shown = table.finish();
    root.show("results", shown);
    let published = |to| {
        let vhosts = accounts.iter().map(|account| Arc::clone(&account.vhost)).collect();
        Told::Published { vhosts, to }
    };
    let (results, told, why) = match (kind, url) {
        (ResultsKind::Auto | ResultsKind::Redis, Some(url)) => (Some(ResultsConfig { url, key_prefix, expires }), Told::Written, None),
        (ResultsKind::Rpc, _) if accounts.is_empty() => (None, Told::Written, Some(WhyUnanswered::NoAccount)),
        (ResultsKind::Rpc, _) => (None, published(Callers::All), None),
        (ResultsKind::Auto, None) if !accounts.is_empty() => (None, published(Callers::Declaring), Some(WhyUnanswered::OnlyRpc)),
        _ => (None, Told::Written, Some(WhyUnanswered::NoBackend)),
    };
    (results, told, why, kind == ResultsKind::Worker)
}
