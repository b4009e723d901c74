//! The tables beside the rules: each key with its default, and what must hold between keys.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{HostPort, Listen, StoreUrl, Transport, Upstream};
use super::context::Context;
use super::layer::Layered;
use super::reader::{Reader, Shown, TableReader};
use super::rule;
use super::setting::{Setting, Size, read_text};
use super::source::Span;
use super::tree::{Node, Table, Value};
use super::unit::{Secret, show_size};
use super::{
    AdminConfig, AdminToken, ClientTls, Config, DecisionsConfig, LogConfig, LogDecisions, LogFormat, LogLevel, ProxyConfig, Role,
    ServerTls, StoreConfig, UpstreamConfirms, UpstreamPolicy,
};

const MIB: usize = 1 << 20;

/// Reads the whole tree. What is wrong goes to the reader; the result counts only if nothing is.
pub(super) fn read_config(reader: &Reader, layered: &Layered) -> Config {
    let mut root = TableReader::new(reader, "", Some(&layered.root), None);
    root.get("include", Vec::<String>::new());
    let watch_config = root.get("watch_config", true);
    let proxy = read_proxy(&mut root);
    let store = read_store(&mut root, &proxy.listen);
    let admin = read_admin(&mut root);
    let log = read_log(&mut root);
    let decisions = read_decisions(&mut root);
    read_unbuilt_tables(&mut root);
    let rules = rule::read_set(&mut root);
    let shown = root.finish();
    let mut read = layered.included.clone();
    read.extend(reader.files());
    Config {
        file: layered.file.clone(),
        watch_config,
        proxy,
        store,
        admin,
        log,
        decisions,
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
    };
    read_config(reader, &nothing);
    read_token(reader, &Table::default(), None, &mut Vec::new());
    read_vhost(reader, None, None);
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
        drain_delay: table.get("drain_delay", Duration::from_secs(5)),
        drain_timeout: table.get("drain_timeout", Duration::from_secs(30)),
        upstream_confirms: if table.get("upstream_confirms", true) {
            UpstreamConfirms::Select
        } else {
            UpstreamConfirms::Off
        },
        tls: read_server_tls(&mut table, "proxy.tls"),
        upstream_tls: read_client_tls(&mut table),
        listen,
        upstream,
    };
    at_least_one(&mut table, "held_max", 10_000);
    positive(&mut table, "consumer_timeout", Duration::from_secs(30 * 60));
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

/// A certificate and its key belong together, and to a listener or broker that speaks TLS.
fn check_tls(table: &TableReader<'_>, proxy: &ProxyConfig) {
    let speaks = |transport: Transport| transport == Transport::Tls;
    let listens = proxy.listen.iter().any(|listen| speaks(listen.transport));
    if listens && proxy.tls.is_none() {
        table.refuse(
            "listen",
            "takes TLS and there is no certificate",
            "Write [proxy.tls] with cert and key.",
        );
    }
    let at = |key: &str| table.node(key).map(|node| node.at);
    if let Some(at) = at("tls").filter(|_| proxy.tls.is_some() && !listens) {
        table.reader().warn(
            at,
            None,
            "[proxy.tls] is not used: no listener is amqps://. Write listen = [\"amqps://…\"].".to_owned(),
        );
    }
    let dials = proxy.upstream.iter().any(|upstream| speaks(upstream.transport));
    if let Some(at) = at("upstream_tls").filter(|_| proxy.upstream_tls != ClientTls::default() && !dials) {
        let message = "[proxy.upstream_tls] is not used: no upstream is amqps://. Write upstream = [\"amqps://…\"].";
        table.reader().warn(at, None, message.to_owned());
    }
}

/// `cert`, `key` and `client_ca` of a listener.
fn read_server_tls(parent: &mut TableReader<'_>, path: &'static str) -> Option<ServerTls> {
    let mut table = open(parent, "tls", path);
    let (cert, key) = read_pair(&mut table);
    let client_ca = read_path(&mut table, "client_ca");
    if let (Some(_), None) = (&client_ca, &cert) {
        table.refuse(
            "client_ca",
            "asks for client certificates and there is no cert",
            "Write cert and key beside it.",
        );
    }
    let shown = table.finish();
    parent.show("tls", shown);
    Some(ServerTls {
        cert: cert?,
        key: key?,
        client_ca,
    })
}

fn read_client_tls(parent: &mut TableReader<'_>) -> ClientTls {
    let mut table = open(parent, "upstream_tls", "proxy.upstream_tls");
    let ca = read_path(&mut table, "ca");
    let (cert, key) = read_pair(&mut table);
    let shown = table.finish();
    parent.show("upstream_tls", shown);
    ClientTls {
        ca,
        identity: cert.zip(key),
    }
}

/// A certificate and its key, of which one without the other is refused.
fn read_pair(table: &mut TableReader<'_>) -> (Option<PathBuf>, Option<PathBuf>) {
    let pair = (read_path(table, "cert"), read_path(table, "key"));
    for (here, other) in [("cert", "key"), ("key", "cert")] {
        if table.has(here) && !table.has(other) {
            table.refuse(
                here,
                &format!("has no {other} beside it"),
                &format!("Write {other} = \"….pem\" beside it."),
            );
        }
    }
    pair
}

/// The path of a file that must be there.
fn read_path(table: &mut TableReader<'_>, key: &'static str) -> Option<PathBuf> {
    let path: PathBuf = table.optional(key)?;
    table.reader().note_file(path.clone());
    match fs::File::open(&path).and_then(|file| file.metadata()) {
        Ok(found) if found.is_dir() => table.refuse(key, "is a directory", "Write the path of a file."),
        Ok(_) => {}
        Err(error) => {
            let remedy = "Write the path of a file that the user of oncegate may read; paths are relative to the config file.";
            table.refuse(key, &format!("cannot be read: {error}"), remedy);
        }
    }
    Some(path)
}

/// A secret, given as `key` or in the file that `key_file` names.
fn read_secret<T: Setting>(table: &mut TableReader<'_>, key: &'static str, file_key: &'static str) -> Option<T> {
    let path = read_path(table, file_key);
    if let Some(path) = path {
        if table.has(key) {
            table.refuse_table(&format!("{key} and {file_key} are both set"), "Keep one of them.");
        }
        // A file that cannot be read has been reported.
        let content = fs::read_to_string(&path).ok()?;
        let reader = table.reader();
        let value = table.read(file_key, Shown::Hidden, |node, cx| {
            let inside = Node {
                at: node.at,
                value: Value::Bare(content.trim().to_owned()),
            };
            T::read(&inside, &Context { reader, ..*cx })
        });
        let value = value.flatten();
        table.show(key, value.as_ref().map_or(serde_json::Value::Null, Setting::show));
        return value;
    }
    // Only a URL with credentials in it is hidden: of any other, the text helps.
    let has_password = match table.node(key).map(|node| &node.value) {
        Some(Value::Text(text) | Value::Bare(text)) => text.contains('@'),
        _ => false,
    };
    if has_password {
        table.optional_hidden(key)
    } else {
        table.optional(key)
    }
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

fn read_admin(root: &mut TableReader<'_>) -> AdminConfig {
    let mut table = open(root, "admin", "admin");
    let listen = table.get(
        "listen",
        HostPort {
            host: "127.0.0.1".to_owned(),
            port: 9672,
        },
    );
    let probes_listen = table.optional("probes_listen");
    let hosts: Vec<String> = table.get("hosts", Vec::new());
    if hosts.iter().any(|host| host.is_empty() || host.contains(['/', '*', ' '])) {
        table.refuse(
            "hosts",
            "is not a list of host names",
            "Write names as they stand in the Host header, such as [\"oncegate.example\"].",
        );
    }
    let tls = read_server_tls(&mut table, "admin.tls");
    let mut tokens = Vec::new();
    let mut shown = Vec::new();
    for (token, at) in table.tables("token") {
        shown.push(read_token(table.reader(), token, Some(at), &mut tokens));
    }
    table.show("token", shown.into());
    if !listen.is_loopback() && !table.has("token") {
        let remedy = "Write [[admin.token]] with name, file and role, or listen on 127.0.0.1.";
        table.refuse("listen", "is reached from other machines and there is no token", remedy);
    }
    let shown = table.finish();
    root.show("admin", shown);
    AdminConfig {
        listen,
        probes_listen,
        hosts,
        tls,
        tokens,
    }
}

/// One `[[admin.token]]`; a right one is added to those before it.
fn read_token(reader: &Reader, table: &Table, at: Option<Span>, tokens: &mut Vec<AdminToken>) -> serde_json::Value {
    let mut table = TableReader::new(reader, "admin.token", Some(table), at);
    let name: Option<String> = table.optional("name");
    let file = read_path(&mut table, "file");
    let role = table.choice("role", Role::Read, &[("read", Role::Read), ("operate", Role::Operate)]);
    for (key, remedy) in [
        ("name", "Write name = \"…\", which the audit log shows."),
        ("file", "Write file = \"…\", which holds the token."),
    ] {
        if !table.has(key) {
            table.refuse_table(&format!("[[admin.token]] has no {key}"), remedy);
        }
    }
    if let (Some(name), Some(file)) = (name, file) {
        if tokens.iter().any(|token| token.name == name) {
            table.refuse("name", "is the name of an earlier token", "Write another name.");
        }
        // A file that cannot be read has been reported.
        if let Ok(text) = fs::read_to_string(&file) {
            let secret = Secret::new(text.trim());
            if secret.expose().is_empty() {
                table.refuse(
                    "file",
                    "is empty",
                    "Put the token into it, for example the output of: openssl rand -hex 32",
                );
            }
            tokens.push(AdminToken { name, file, role, secret });
        }
    }
    table.finish()
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
    let keep = table.get("keep", Duration::from_secs(24 * 3600));
    let max = table.get("max", 1_000_000);
    let shown = table.finish();
    root.show("decisions", shown);
    DecisionsConfig { keep, max }
}

/// The tables of which nothing is built: typed, so that a mistake in them is told as such.
fn read_unbuilt_tables(root: &mut TableReader<'_>) {
    let mut control = open(root, "control", "control");
    read_broker_url(&mut control);
    let events = [("auto", "auto"), ("true", "true"), ("false", "false")];
    control.choice("enable_events", "auto", &events);
    let vhosts = open(&mut control, "vhosts", "control.vhosts");
    for entry in vhosts.entries() {
        match &entry.node.value {
            Value::Table(table) => read_vhost(root.reader(), Some(table), Some(entry.name_at)),
            other => {
                let message = format!(
                    "{} is {} where a table is meant. Write [control.vhosts.{:?}].",
                    entry.name,
                    other.kind(),
                    entry.name
                );
                root.reader().error_at(entry.name_at, message);
            }
        }
    }
    let shown = control.finish();
    root.show("control", shown);

    let mut results = open(root, "results", "results");
    read_secret::<Secret>(&mut results, "url", "url_file");
    let kinds = ["auto", "redis", "rpc", "worker", "none"].map(|kind| (kind, kind));
    results.choice("kind", "auto", &kinds);
    results.get("key_prefix", String::new());
    positive(&mut results, "expires", Duration::from_secs(24 * 3600));
    let shown = results.finish();
    root.show("results", shown);

    let mut park = open(root, "park", "park");
    park.get("prefix", "oncegate.park".to_owned());
    let shown = park.finish();
    root.show("park", shown);

    let mut events = open(root, "events", "events");
    events.optional::<String>("exchange");
    let shown = events.finish();
    root.show("events", shown);
}

fn read_vhost(reader: &Reader, table: Option<&Table>, at: Option<Span>) {
    let mut table = TableReader::new(reader, "control.vhosts.*", table, at);
    read_broker_url(&mut table);
    table.finish();
}

/// The URL of the proxy's own broker account.
fn read_broker_url(table: &mut TableReader<'_>) {
    read_secret::<Secret>(table, "url", "url_file");
    let wrong = table.node("url").filter(|node| match &node.value {
        Value::Text(text) | Value::Bare(text) => !text.starts_with("amqp://") && !text.starts_with("amqps://"),
        _ => false,
    });
    if let Some(node) = wrong {
        let cx = Context {
            reader: table.reader(),
            table: "control",
            key: "url",
            shown: Shown::Hidden,
        };
        if read_text(node, &cx, "a URL", "amqp://…").is_some() {
            cx.refuse(
                node,
                "is not the URL of a broker",
                "Write url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\".",
            );
        }
    }
}
