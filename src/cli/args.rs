//! The arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Flags;
use crate::config::unit::parse_duration;
use crate::rules::lock::Digest;

const DEFAULT_ADMIN: &str = "http://127.0.0.1:9672";

/// A transparent proxy between Celery and `RabbitMQ` that drops duplicate tasks.
#[derive(Debug, Parser)]
#[command(name = "oncegate", version, disable_help_subcommand = true)]
pub struct Cli {
    /// Options of `run`, which may be left out.
    #[command(flatten)]
    pub run: RunArgs,
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// Options of `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RunArgs {
    /// The configuration: without it ./oncegate.toml, else /etc/oncegate/oncegate.toml, else no rules.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The broker, `amqp://HOST:PORT`; may be repeated.
    #[arg(long, value_name = "URL")]
    pub upstream: Vec<String>,
    /// Where clients connect, `HOST:PORT`; may be repeated.
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<String>,
    /// Where the locks live, `redis://HOST:PORT/DB` or `memory:`.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Where the admin listener is, `HOST:PORT`.
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// A reload may take all rules away.
    #[arg(long)]
    pub allow_empty: bool,
}

impl RunArgs {
    /// What beats the environment and the file.
    pub fn flags(&self) -> Flags {
        Flags {
            listen: self.listen.clone(),
            upstream: self.upstream.clone(),
            store: self.store.clone(),
            admin_listen: self.admin_listen.clone(),
        }
    }
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy.
    Run(RunArgs),
    /// Say what is wrong with a configuration.
    Check(CheckArgs),
    /// Say which rule takes a message and what its key is, without a running proxy.
    Explain(ExplainArgs),
    /// Say what was decided about a task, and by which rule and holder.
    Why {
        #[command(flatten)]
        proxy: ProxyArgs,
        /// The id of the task.
        #[arg(value_name = "TASK_ID")]
        id: String,
    },
    /// Show, set or reset modes above those of the configuration, on all proxies of a store.
    Mode(ModeArgs),
    /// Show what a running proxy does.
    Status(ProxyArgs),
    /// Have a running proxy load its configuration anew.
    Reload(ProxyArgs),
    /// Have a running proxy shut down without losing anything.
    Drain(ProxyArgs),
    /// Show what a running proxy decides, as it decides it.
    Watch(ProxyArgs),
    /// See and free locks.
    #[command(subcommand)]
    Locks(LocksCommand),
    /// See limits, and pause, resume or change them on all proxies of a store.
    #[command(subcommand)]
    Limits(LimitsCommand),
}

/// Options of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The configuration: without it the one that `run` would read.
    pub(super) file: Option<PathBuf>,
    /// Warnings count as errors.
    #[arg(long)]
    pub(super) strict: bool,
    /// Also ask the broker and the store whether they are there and fit.
    #[arg(long)]
    pub(super) connect: bool,
}

/// Options of `explain`: the message.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The name of the task.
    #[arg(long, value_name = "NAME")]
    pub(super) task: String,
    /// Positional arguments, a JSON list.
    #[arg(long, value_name = "JSON")]
    pub(super) args: Option<String>,
    /// Keyword arguments, a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(super) kwargs: Option<String>,
    /// A header; may be repeated.
    #[arg(long, value_name = "K=V", value_parser = read_header)]
    pub(super) header: Vec<(String, String)>,
    /// The virtual host: without it `/`.
    #[arg(long, value_name = "V")]
    pub(super) vhost: Option<String>,
    /// The queue that it goes to.
    #[arg(long, value_name = "Q")]
    pub(super) queue: Option<String>,
    /// The exchange: without it the default exchange.
    #[arg(long, value_name = "E")]
    pub(super) exchange: Option<String>,
    /// The routing key: without it the queue.
    #[arg(long, value_name = "K")]
    pub(super) routing_key: Option<String>,
    /// The due time, ISO 8601.
    #[arg(long, value_name = "ISO")]
    pub(super) eta: Option<String>,
    /// The configuration: without it the one that `run` would read.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// Options of `mode`.
#[derive(Debug, Args)]
pub(super) struct ModeArgs {
    /// What to do.
    #[arg(value_enum)]
    pub(super) action: ModeAction,
    #[command(flatten)]
    pub(super) proxy: ProxyArgs,
    /// Only this rule: without it all that the configuration does not have off.
    #[arg(long)]
    pub(super) rule: Option<String>,
    /// How long it holds, such as 30m: without it an hour.
    #[arg(long = "for", value_name = "DURATION", value_parser = check_duration)]
    pub(super) duration: Option<String>,
    /// Why, for those who find it set.
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
}

/// What `mode` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeAction {
    /// Show what is set.
    Show,
    /// Rules are as if they were not there.
    Off,
    /// Rules decide and count, and forward all.
    Observe,
    /// Rules act.
    Enforce,
    /// Back to the configuration.
    Reset,
}

/// Which running proxy is meant.
#[derive(Debug, Clone, Args)]
pub(super) struct ProxyArgs {
    /// The admin listener of a running proxy.
    #[arg(long, value_name = "URL", env = "ONCEGATE_ADMIN_URL", default_value = DEFAULT_ADMIN)]
    pub(super) admin: String,
    /// A file that holds a token.
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// Where locks are looked for.
#[derive(Debug, Clone, Args)]
pub(super) struct PlaceArgs {
    #[command(flatten)]
    pub(super) proxy: ProxyArgs,
    /// Go straight to this store, `redis://HOST:PORT/DB`, without a running proxy.
    #[arg(long, value_name = "URL", conflicts_with = "token_file")]
    pub(super) store: Option<String>,
    /// What the keys in the store begin with.
    #[arg(long, value_name = "PREFIX", requires = "store", default_value = "oncegate")]
    pub(super) prefix: String,
}

/// Options of `locks`.
#[derive(Debug, Subcommand)]
pub(super) enum LocksCommand {
    /// List locks.
    List {
        #[command(flatten)]
        place: PlaceArgs,
        /// Only those of this rule.
        #[arg(long)]
        rule: Option<String>,
        /// Only those of this task.
        #[arg(long)]
        task: Option<String>,
        /// About this many at most; 0 for all.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Show the lock of one key.
    Show {
        #[command(flatten)]
        place: PlaceArgs,
        /// The key, 64 hexadecimal digits.
        #[arg(value_parser = read_digest)]
        digest: Digest,
    },
    /// Free the lock of one key.
    Release {
        #[command(flatten)]
        place: PlaceArgs,
        /// The key, 64 hexadecimal digits.
        #[arg(value_parser = read_digest)]
        digest: Digest,
        /// Only if this task id holds it.
        #[arg(long, value_name = "ID")]
        holder: Option<String>,
    },
    /// Free many locks.
    Clear {
        #[command(flatten)]
        place: PlaceArgs,
        #[command(flatten)]
        clear: ClearArgs,
    },
}

/// Options of `limits`.
#[derive(Debug, Subcommand)]
pub(super) enum LimitsCommand {
    /// List limits: what they let go now, what is set of them, and how many wait.
    List {
        #[command(flatten)]
        proxy: ProxyArgs,
        /// Only those of this rule.
        #[arg(long)]
        rule: Option<String>,
    },
    /// Let nothing go.
    Pause {
        /// The limit, or the rule for all its limits.
        #[arg(value_name = "RULE[/LIMIT]")]
        which: String,
        #[command(flatten)]
        aside: SetAside,
    },
    /// Let tasks go again.
    Resume {
        /// The limit, or the rule for all its limits.
        #[arg(value_name = "RULE[/LIMIT]")]
        which: String,
        #[command(flatten)]
        aside: SetAside,
    },
    /// Set another rate.
    Set {
        /// The limit.
        #[arg(value_name = "RULE/LIMIT")]
        which: String,
        /// How often in which time, such as 10/m.
        #[arg(long)]
        rate: String,
        #[command(flatten)]
        aside: SetAside,
    },
    /// Back to the configuration.
    Reset {
        /// The limit, or the rule for all its limits.
        #[arg(value_name = "RULE[/LIMIT]")]
        which: String,
        /// Only what is set for this value of its key, in JSON.
        #[arg(long, value_name = "JSON")]
        key: Option<String>,
        #[command(flatten)]
        proxy: ProxyArgs,
    },
}

/// For what, and for how long, something is set of a limit.
#[derive(Debug, Clone, Args)]
pub(super) struct SetAside {
    /// Only for this value of its key, in JSON: the value, or a list of all parts.
    #[arg(long, value_name = "JSON")]
    pub(super) key: Option<String>,
    /// How long it holds, such as 5m: without it until it is taken back.
    #[arg(long = "for", value_name = "DURATION", value_parser = check_duration)]
    pub(super) duration: Option<String>,
    #[command(flatten)]
    pub(super) proxy: ProxyArgs,
}

/// Which locks `locks clear` frees.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[derive(Debug, Clone, Args)]
pub(super) struct ClearArgs {
    /// Only those of this rule.
    #[arg(long, required_unless_present_any = ["task", "older_than", "all"])]
    pub(super) rule: Option<String>,
    /// Only those of this task.
    #[arg(long)]
    pub(super) task: Option<String>,
    /// Only those held for at least this long, such as 10m.
    #[arg(long, value_name = "DURATION", value_parser = check_duration)]
    pub(super) older_than: Option<String>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["rule", "task", "older_than"])]
    pub(super) all: bool,
    /// Also those whose holder runs.
    #[arg(long)]
    pub(super) include_running: bool,
    /// Only say which.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub(super) yes: bool,
}

fn read_header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn read_digest(text: &str) -> Result<Digest, &'static str> {
    Digest::from_hex(text).ok_or("a digest is 64 hexadecimal digits")
}

fn check_duration(text: &str) -> Result<String, &'static str> {
    parse_duration(text)
        .map(|_| text.to_owned())
        .ok_or("a duration is a number and a unit, such as 90s, 10m or 2h")
}
