//! The configuration: TOML files, environment and flags become one [`Config`] that is valid by construction.
//!
//! `source` (texts and places) → `tree` (values with places) → `layer` (include, environment, flags) → `reader` (typed keys,
//! defaults, unknown keys) → `tables`, `control`, `admin`, `secrets`, `rule` (what the keys mean together) → [`Config`]. Every error of a load is reported, each
//! with file, line, column, the offending text and the remedy. `not_built` is the one list of what is known and refused.

pub mod account;
pub mod address;
mod admin;
mod check;
mod context;
mod control;
pub mod error;
mod events;
mod file;
mod layer;
mod limit;
mod not_built;
mod park;
mod reader;
pub mod reload;
mod report;
mod rule;
mod secrets;
mod setting;
mod source;
mod suggest;
mod tables;
mod tree;
pub mod unit;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::rules::RuleSet;
use crate::rules::spec::EnableEvents;

pub use control::ControlConfig;
pub use events::EventsConfig;
pub use park::ParkConfig;

use address::{HostPort, Listen, RedisUrl, StoreUrl, Upstream};
use error::{ConfigErrors, Warning};
use unit::Secret;

/// Everything that an operator can set, checked and with every default filled in.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main file; `None` if there is none.
    pub file: Option<PathBuf>,
    /// Whether a change of the files is a reload, as SIGHUP is.
    pub watch_config: bool,
    /// `[proxy]`.
    pub proxy: ProxyConfig,
    /// `[control]`.
    pub control: ControlConfig,
    /// `[store]`.
    pub store: StoreConfig,
    /// `[admin]`.
    pub admin: AdminConfig,
    /// `[log]`.
    pub log: LogConfig,
    /// `[decisions]`.
    pub decisions: DecisionsConfig,
    /// `[results]`; `None` if no result backend is to be read.
    pub results: Option<ResultsConfig>,
    /// The rules whose dropped ids may get no result although their `result` asks for one; none if all get theirs.
    pub unanswered: Option<Unanswered>,
    /// `[park]`.
    pub park: ParkConfig,
    /// `[events]`.
    pub events: EventsConfig,
    /// The rules, in order.
    pub rules: Arc<RuleSet>,
    /// Lower-case hex SHA-256 of the texts that this came from: files, variables, flags.
    pub sha256: String,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Warning>,
    /// The files that this came from or that it names: see [`files`].
    read: Vec<PathBuf>,
    /// The directories that an `include` pattern looks into.
    included_from: Vec<PathBuf>,
    /// What the files held when the config was loaded.
    fingerprint: watch::Fingerprint,
    /// Every setting as it is in effect, secrets as `***`.
    shown: serde_json::Value,
}

/// `[proxy]`: where clients come in, where the broker is, and the bounds of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where clients connect. Never empty.
    pub listen: Vec<Listen>,
    /// The brokers. Never empty.
    pub upstream: Vec<Upstream>,
    /// Which broker a new connection takes.
    pub upstream_policy: UpstreamPolicy,
    /// The most client connections at one time. At least 1.
    pub max_connections: usize,
    /// The largest message body that is looked into, in bytes; larger ones stream through.
    pub max_message: usize,
    /// How long to wait for the broker's TCP (and TLS) connection.
    pub connect_timeout: Duration,
    /// How long a client may take from connecting to the end of the AMQP handshake.
    pub handshake_timeout: Duration,
    /// How long a TCP connection is idle before it is probed.
    pub tcp_keepalive: Duration,
    /// The most memory that one connection's kept and waiting messages take, in bytes. At least `max_message` and 1 MiB.
    pub connection_memory: usize,
    /// The most deliveries that are held for one connection. At least 1.
    pub held_max: usize,
    /// After how long the broker closes a channel that leaves a delivery unsettled.
    pub consumer_timeout: Duration,
    /// How long new connections are still accepted after SIGTERM, while `/readyz` already says 503.
    pub drain_delay: Duration,
    /// After how long the connections that are left are closed.
    pub drain_timeout: Duration,
    /// Whether publishes on a plain channel get confirms of the proxy's own.
    pub upstream_confirms: UpstreamConfirms,
    /// Whether workers are told to publish task events: `control.enable_events`.
    pub enable_events: EnableEvents,
    /// What `amqps://` listeners show to clients; present if there is one.
    pub tls: Option<ServerTls>,
    /// How `amqps://` brokers are dialled.
    pub upstream_tls: ClientTls,
}

/// Which broker a new connection takes; the next one where one fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamPolicy {
    /// One after the other.
    RoundRobin,
    /// The first that answers, in the order of the config.
    First,
    /// The one with the fewest connections of this proxy.
    LeastConnections,
}

/// Whether publishes on a channel without confirms are confirmed to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamConfirms {
    /// The proxy selects confirms before the first publish that takes a lock, and commits the lock at the broker's ack.
    Select,
    /// The lock is committed once the publish is written to the socket.
    Off,
}

/// The TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The authorities whose client certificates are asked for, PEM: mutual TLS.
    pub client_ca: Option<PathBuf>,
}

/// The TLS of a connection that the proxy dials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientTls {
    /// The authorities to trust, PEM; the system's if absent.
    pub ca: Option<PathBuf>,
    /// The proxy's own certificate chain and private key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// `[store]`: where the locks live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Where.
    pub url: StoreUrl,
    /// What all keys begin with.
    pub prefix: String,
    /// How long one question to the store may take.
    pub timeout: Duration,
}

/// `[admin]`: the HTTP listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// API, page, metrics and probes.
    pub listen: HostPort,
    /// Probes and metrics alone.
    pub probes_listen: Option<HostPort>,
    /// Host headers that are answered beside the listen address.
    pub hosts: Vec<String>,
    /// HTTPS on `listen`.
    pub tls: Option<ServerTls>,
    /// Who may ask; empty only on loopback, where then everyone may.
    pub tokens: Vec<AdminToken>,
}

/// One `[[admin.token]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminToken {
    /// What the audit log calls it. Unique.
    pub name: String,
    /// The file that holds it.
    pub file: PathBuf,
    /// What it may do.
    pub role: Role,
    /// The token itself, read from the file without surrounding white space. Never empty.
    pub secret: Secret,
}

/// What the bearer of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Look and change.
    Operate,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// What is logged at least.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Which decisions are logged.
    pub decisions: LogDecisions,
    /// The most decisions logged in a second.
    pub decisions_per_second: u64,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Errors.
    Error,
    /// And warnings.
    Warn,
    /// And what happens.
    Info,
    /// And details.
    Debug,
    /// And everything.
    Trace,
}

impl LogLevel {
    /// The word in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which decisions are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDecisions {
    /// All but plain forwards.
    Duplicates,
    /// All.
    All,
    /// None.
    None,
}

/// `[decisions]`: the records that answer why a task was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionsConfig {
    /// How long a record is kept.
    pub keep: Duration,
    /// The most records.
    pub max: u64,
}

/// `[results]`: the Redis result backend of the Celery applications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultsConfig {
    /// Where.
    pub url: RedisUrl,
    /// Celery's `global_keyprefix`; empty if it has none.
    pub key_prefix: String,
    /// How long the results live that are written for dropped ids.
    pub expires: Duration,
}

/// Rules whose dropped ids may get no result although their `result` asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// Their names.
    pub rules: Vec<String>,
    /// Why.
    pub why: WhyUnanswered,
}

/// Why dropped ids get no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyUnanswered {
    /// No result backend is known.
    NoBackend,
    /// Results are to be published to callers of Celery's RPC backend, and there is no account to do that with.
    NoAccount,
    /// They are published to callers of that backend alone.
    OnlyRpc,
}

impl WhyUnanswered {
    /// What becomes of the ids.
    pub fn says(self) -> &'static str {
        match self {
            WhyUnanswered::NoBackend | WhyUnanswered::NoAccount => {
                "the ids of tasks that these rules drop get no result, so that get() on them waits for ever"
            }
            WhyUnanswered::OnlyRpc => {
                "the ids of tasks that these rules drop get a result only where the caller uses Celery's rpc:// backend through Oncegate; get() \
                 on others waits for ever"
            }
        }
    }

    /// What can be done about it.
    pub fn remedy(self) -> &'static str {
        match self {
            WhyUnanswered::NoBackend => {
                "Set results.url to Celery's Redis result backend, or for its rpc:// backend write [control] with an account of Oncegate's \
                 own, or write result = \"none\" if nobody asks for results"
            }
            WhyUnanswered::NoAccount => {
                "For results.kind = \"rpc\" write [control] with an account of Oncegate's own, which publishes them"
            }
            WhyUnanswered::OnlyRpc => {
                "Set results.url to Celery's Redis result backend, or results.kind = \"rpc\" where all use rpc://, or write result = \"none\" if \
                 nobody asks for results"
            }
        }
    }
}

/// What the command line sets; it beats the environment, which beats the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen`, as often as it was given.
    pub listen: Vec<String>,
    /// `--upstream`, as often as it was given.
    pub upstream: Vec<String>,
    /// `--store`.
    pub store: Option<String>,
    /// `--admin-listen`.
    pub admin_listen: Option<String>,
}

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// The variables of this process that begin with `ONCEGATE_`.
pub fn environment() -> Environment {
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(name, _)| name.starts_with(layer::PREFIX)).collect()
}

/// Reads the config: the file at `path`, else `./oncegate.toml`, else `/etc/oncegate/oncegate.toml`, else none; over it the
/// environment, over that the flags.
pub fn load(path: Option<&Path>, environment: &Environment, flags: &Flags) -> Result<Config, ConfigErrors> {
    let path = path.map(Path::to_owned).or_else(default_file);
    let layers = layer::Layers {
        main: path.map_or(layer::Main::None, layer::Main::File),
        environment,
        flags,
    };
    build(&layers)
}

/// Reads a config from a text, as if it were a file of that name in the working directory.
pub fn load_text(name: &str, text: &str, environment: &Environment, flags: &Flags) -> Result<Config, ConfigErrors> {
    build(&layer::Layers {
        main: layer::Main::Text { name, text },
        environment,
        flags,
    })
}

/// The config file that is read if none is named. A link to nowhere is one, and will be refused: its rules are missed.
pub fn default_file() -> Option<PathBuf> {
    ["oncegate.toml", "/etc/oncegate/oncegate.toml"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.symlink_metadata().is_ok())
}

/// Every file that the config came from or names (certificates, keys, tokens, secrets), and every directory that an `include`
/// pattern looks into: what to watch.
pub fn files(config: &Config) -> Vec<PathBuf> {
    config
        .file
        .iter()
        .chain(&config.read)
        .chain(&config.included_from)
        .cloned()
        .collect()
}

impl Config {
    /// Every setting as it is in effect, for `/api/v1/config`: tables as in the file, rules under `rule`, secrets as `***`.
    pub fn shown(&self) -> &serde_json::Value {
        &self.shown
    }
}

impl Default for Config {
    /// What an empty file means.
    fn default() -> Config {
        // An empty text has nothing that can be wrong; the tests load it.
        load_text("default", "", &Environment::new(), &Flags::default()).unwrap_or_else(|errors| unreachable!("{errors}"))
    }
}

/// The path of every key that is known: `proxy.listen`, `rule.unique`, `admin.token.name`, `control.vhosts.*.url`.
pub fn known_keys() -> Vec<String> {
    let reader = report::Reader::default();
    tables::read_every_key(&reader);
    reader.into_parts().2.into_iter().collect()
}

fn build(layers: &layer::Layers<'_>) -> Result<Config, ConfigErrors> {
    let mut reader = report::Reader::default();
    let layered = layer::read(layers, &mut reader);
    let config = layered.is_whole.then(|| tables::read_config(&reader, &layered));
    let (errors, warnings, _) = reader.into_parts();
    match config {
        Some(config) if errors.is_empty() => Ok(Config {
            warnings,
            fingerprint: watch::fingerprint(&files(&config)),
            ..config
        }),
        _ => Err(ConfigErrors(errors)),
    }
}
