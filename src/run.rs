//! `oncegate run`: from a configuration to a process that serves, reloads and ends.

mod modes;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::admin::{self, Admin, Command, Phase, Reload, Reloaded, State};
use crate::cli::{Exit, RunArgs};
use crate::config::address::HostPort;
use crate::config::error::Colour;
use crate::config::reload::WithoutRules;
use crate::config::{self, Config, LogDecisions, LogFormat, ProxyConfig};
use crate::events::Events;
use crate::lifecycle::Lifecycle;
use crate::lifecycle::revokes::Revokes;
use crate::logging::{self, DecisionLog, Logging};
use crate::metrics::Metrics;
use crate::proxy::upstream::Upstreams;
use crate::proxy::{Hub, Listener, StoreObserver, Workers, drain};
use crate::rules::spec::Mode;
use crate::store::modes::ALL;
use crate::store::{self, Store};
use crate::tls;
use modes::Followed;

/// Why the proxy does not run.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot listen on {address} ({key}): {source}. {}", listen_remedy(source))]
    Listen {
        key: &'static str,
        address: String,
        source: io::Error,
    },
    #[error("ONCEGATE_MODE = {0:?} is not understood. Write off, or leave it out.")]
    Mode(String),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error(transparent)]
    Store(#[from] store::OpenError),
    #[error("{0}")]
    System(#[from] io::Error),
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Logging(#[from] logging::LoggingError),
}

impl StartError {
    fn exit(&self) -> Exit {
        match self {
            StartError::Listen { .. } => Exit::Unavailable,
            StartError::Mode(_) | StartError::Tls(_) | StartError::Store(_) => Exit::Config,
            StartError::System(_) | StartError::Metrics(_) | StartError::Logging(_) => Exit::TryAgain,
        }
    }
}

/// Runs the proxy until it is told to end.
pub fn run(args: &RunArgs) -> Exit {
    let config = match config::load(args.config.as_deref(), &config::environment(), &args.flags()) {
        Ok(config) => Arc::new(config),
        Err(errors) => {
            eprint!("{}", errors.render(Colour::Off));
            return Exit::Config;
        }
    };
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::from)
        .and_then(|runtime| runtime.block_on(serve(args, config)));
    match served {
        Ok(()) => Exit::Done,
        Err(error) => {
            eprintln!("oncegate: {error}");
            error.exit()
        }
    }
}

/// What a reload changes.
struct Running<'a> {
    args: &'a RunArgs,
    config: Arc<Config>,
    instance: String,
    logging: Logging,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    hub: Arc<Hub>,
    lifecycle: Lifecycle,
    events: Events,
    modes: Followed,
    upstreams: Arc<Upstreams>,
    admin: Arc<Admin>,
    limits: Arc<ArcSwapOption<ProxyConfig>>,
    acceptor: Arc<ArcSwapOption<TlsAcceptor>>,
    watch: Option<config::watch::Watch>,
}

async fn serve(args: &RunArgs, config: Arc<Config>) -> Result<(), StartError> {
    let is_off = modes::off_at_start(&config::environment()).map_err(StartError::Mode)?;
    let instance = instance();
    let logging = Logging::init(&log_settings(&config), &instance, &config.sha256)?;
    let metrics = Arc::new(Metrics::new()?);
    let state = Arc::new(State::default());
    metrics.connections_limit.set(config.proxy.max_connections as i64);
    let upstreams = Arc::new(Upstreams::new(&config.proxy, Arc::clone(&metrics), Arc::clone(&state))?);
    let rules = Arc::clone(&config.rules);
    let hub = Arc::new(Hub::new(
        &config.proxy,
        rules,
        Arc::clone(&upstreams),
        Arc::clone(&metrics),
        logging.decisions(),
    ));
    let revokes = Revokes::new(hub.nodes(), hub.control());
    let observer = StoreObserver::new(Arc::clone(&metrics), logging.decisions(), Arc::clone(hub.runs()), revokes);
    let store = Store::open(&store_settings(&config, &instance), Arc::new(observer))?;
    metrics.set_store_type(store.kind());
    hub.witness().configured(config.results.is_some());
    let acceptor = Arc::new(ArcSwapOption::from(acceptor(&config)?));
    let limits = Arc::new(ArcSwapOption::from_pointee(config.proxy.clone()));

    let (commands, orders) = mpsc::channel(8);
    let (admin, admin_tasks) = start_admin(&config, &instance, &store, &metrics, &logging.decisions(), &state, commands).await?;
    let clients = {
        let store = store.clone();
        Arc::new(move || store.client()) as Arc<dyn Fn() -> store::Client + Send + Sync>
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = Arc::new(Workers::start(threads, &hub, &clients)?);
    let lifecycle = Lifecycle::start(&store, &metrics, hub.purges(), hub.runs(), hub.control(), &instance)?;
    lifecycle.configure(&config);
    let events = Events::start(logging.decisions().feed(), hub.control(), store.client(), &metrics, &instance);
    events.configure(&config);
    hub.results().start(&store, hub.control())?;
    hub.results().configure(&config);
    let modes = Followed::start(store.client(), &config.rules, is_off).await;
    hub.set_rules(&config.proxy, &modes.in_force(&config.rules));
    let mut accepting = Vec::new();
    for listen in &config.proxy.listen {
        let listener = Listener::bind(listen).await.map_err(|source| StartError::Listen {
            key: "proxy.listen",
            address: listen.to_string(),
            source,
        })?;
        tracing::info!(address = %listener.address()?, "listening for clients");
        let accept = listener.accept(Arc::clone(&hub), Arc::clone(&workers), Arc::clone(&limits), Arc::clone(&acceptor));
        accepting.push(tokio::spawn(accept));
    }
    tokio::spawn(Arc::clone(&upstreams).watch());
    let (watch, changes) = if config.watch_config && config.file.is_some() {
        let (watch, changes) = config::watch::watch(&config).map_err(|error| StartError::System(io::Error::other(error)))?;
        (Some(watch), Some(changes))
    } else {
        (None, None)
    };
    let hub_at_end = Arc::clone(&hub);
    let running = Running {
        args,
        config: Arc::clone(&config),
        instance,
        logging,
        metrics,
        state,
        hub,
        lifecycle,
        events,
        modes,
        upstreams,
        admin,
        limits,
        acceptor,
        watch,
    };
    running.follow_modes();
    announce(&running);
    running.until_end(orders, changes, accepting).await?;
    for task in admin_tasks {
        task.abort();
    }
    // Each worker thread has its own way to the store; a commit that is lost now leaves a message without its lock.
    if !drain::last_orders(workers.flush()).await {
        tracing::warn!("the store has not done all that it was told; those locks end with their leases or lives");
    }
    if !drain::last_orders(hub_at_end.results().flush()).await {
        tracing::warn!("results of dropped tasks are not written: the result backend does not answer");
    }
    Ok(())
}

fn announce(running: &Running<'_>) {
    let config = &running.config;
    running.metrics.set_config(&config.sha256);
    running.state.set_phase(Phase::Running);
    let rules = config.rules.rules().len();
    if let Some(file) = &config.file {
        tracing::info!(file = %file.display(), rules, "running");
    } else {
        tracing::warn!("running without a configuration file: no rules, every message is forwarded");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    tell_unanswered(config);
}

fn tell_unanswered(config: &Config) {
    if let Some(unanswered) = &config.unanswered {
        let (rules, remedy) = (unanswered.rules.join(", "), unanswered.why.remedy());
        tracing::info!(rules, remedy, "{}", unanswered.why.says());
    }
}

/// The admin listener and the one for probes alone.
async fn start_admin(
    config: &Arc<Config>,
    instance: &str,
    store: &Store,
    metrics: &Arc<Metrics>,
    log: &DecisionLog,
    state: &Arc<State>,
    commands: mpsc::Sender<Command>,
) -> Result<(Arc<Admin>, Vec<tokio::task::JoinHandle<()>>), StartError> {
    let listener = bind("admin.listen", &config.admin.listen).await?;
    let port = listener.local_addr()?.port();
    let admin = Admin::new(admin::Parts {
        instance: instance.to_owned(),
        port,
        config: Arc::clone(config),
        store: store.clone(),
        metrics: Arc::clone(metrics),
        feed: Arc::clone(log.feed()),
        state: Arc::clone(state),
        commands,
    });
    tracing::info!(address = %listener.local_addr()?, "listening for operators");
    let routes = admin::router(&admin);
    let acceptor = config.admin.tls.as_ref().map(tls::acceptor).transpose()?;
    let mut tasks = vec![tokio::spawn(admin::serve(listener, acceptor, routes))];
    if let Some(address) = &config.admin.probes_listen {
        let listener = bind("admin.probes_listen", address).await?;
        let routes = admin::probes_router(&admin);
        tasks.push(tokio::spawn(admin::serve(listener, None, routes)));
    }
    tasks.push(tokio::spawn(admin::count_locks(Arc::clone(&admin))));
    tasks.push(tokio::spawn(admin::follow_limits(Arc::clone(&admin))));
    Ok((admin, tasks))
}

async fn bind(key: &'static str, address: &HostPort) -> Result<TcpListener, StartError> {
    TcpListener::bind((address.host.as_str(), address.port))
        .await
        .map_err(|source| StartError::Listen {
            key,
            address: format!("{}:{}", address.host, address.port),
            source,
        })
}

impl Running<'_> {
    /// Serves until a signal or an operator ends it, and then ends without losing anything.
    async fn until_end(
        mut self,
        mut orders: mpsc::Receiver<Command>,
        mut changes: Option<mpsc::Receiver<config::watch::Changed>>,
        accepting: Vec<tokio::task::JoinHandle<()>>,
    ) -> Result<(), StartError> {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut off = signal(SignalKind::user_defined1())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    self.modes.set_off(false);
                    drop(self.reload("SIGHUP"));
                    self.follow_modes();
                }
                _ = off.recv() => {
                    self.modes.set_off(true);
                    self.follow_modes();
                }
                () = self.modes.changed() => self.follow_modes(),
                Some(_) = next(&mut changes) => drop(self.reload("a file has changed")),
                Some(order) = orders.recv() => match order {
                    Command::Reload(answer) => drop(answer.send(self.reload("an operator asks"))),
                    Command::Drain => break,
                },
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        self.drain(&mut terminate, &mut interrupt, accepting).await;
        Ok(())
    }

    /// The configuration with its rules in the modes that are in force.
    fn in_force(&self, config: &Arc<Config>) -> Arc<Config> {
        let rules = self.modes.in_force(&config.rules);
        if Arc::ptr_eq(&rules, &config.rules) {
            return Arc::clone(config);
        }
        let mut config = Config::clone(config);
        config.rules = rules;
        Arc::new(config)
    }

    /// Puts the modes in force that are set now.
    fn follow_modes(&self) {
        let config = self.in_force(&self.config);
        self.hub.set_rules(&config.proxy, &config.rules);
        self.admin.set_config(config);
        let set = self.modes.set();
        let off_here = set.is_off.then_some((ALL, Mode::Off.as_str()));
        let overrides = set.overrides.iter().map(|set| (&*set.rule, set.mode.as_str()));
        self.metrics.set_modes(off_here.into_iter().chain(overrides));
        self.state.set_modes(set.clone());
    }

    /// Loads the configuration anew. When the new one is wrong, the old one stays.
    fn reload(&mut self, why: &str) -> Result<Reloaded, String> {
        let result = self.try_reload();
        let refused = result.as_ref().err().cloned();
        self.metrics.count_reload(refused.is_none());
        self.state.set_reload(Reload {
            at: SystemTime::now(),
            refused,
        });
        match &result {
            Ok(reloaded) => tracing::info!(why, rules = reloaded.rules, sha256 = reloaded.sha256, "reloaded"),
            Err(refusal) => tracing::error!(why, "the reload is refused and the old configuration stays: {refusal}"),
        }
        result
    }

    fn try_reload(&mut self) -> Result<Reloaded, String> {
        let empty = if self.args.allow_empty {
            WithoutRules::Allowed
        } else {
            WithoutRules::Refused
        };
        let reloaded =
            config::reload::reload(&self.config, &config::environment(), &self.args.flags(), empty).map_err(|error| error.to_string())?;
        let new = reloaded.config;
        let new_acceptor = acceptor(&new).map_err(|error| error.to_string())?;
        self.upstreams.reload_tls(&new.proxy).map_err(|error| error.to_string())?;
        self.logging
            .reload(&log_settings(&new), &new.sha256)
            .map_err(|error| error.to_string())?;
        for setting in reloaded.needs_restart {
            tracing::warn!(setting, "a changed setting counts from the next start");
        }
        // The listeners stay those of the start: one that takes TLS still does where the new configuration has none.
        if new_acceptor.is_some() {
            self.acceptor.store(new_acceptor);
        }
        self.limits.store(Some(Arc::new(new.proxy.clone())));
        self.metrics.connections_limit.set(new.proxy.max_connections as i64);
        self.hub.witness().configured(new.results.is_some());
        self.hub.set_rules(&new.proxy, &self.modes.in_force(&new.rules));
        self.lifecycle.configure(&new);
        self.events.configure(&new);
        self.hub.results().configure(&new);
        self.metrics.set_config(&new.sha256);
        let new = Arc::new(new);
        self.admin.set_config(self.in_force(&new));
        if let Some(watch) = &self.watch {
            watch.set(&new);
        }
        for warning in &reloaded.new_warnings {
            tracing::warn!("{warning}");
        }
        if new.unanswered != self.config.unanswered {
            tell_unanswered(&new);
        }
        let warnings = new.warnings.iter().map(ToString::to_string).collect();
        self.config = new;
        Ok(Reloaded {
            sha256: self.config.sha256.clone(),
            rules: self.config.rules.rules().len(),
            warnings,
        })
    }

    /// Not ready; accepting for a while; no more work to workers; each connection closes when nothing is in hand, the rest at the end.
    async fn drain(self, terminate: &mut Signal, interrupt: &mut Signal, accepting: Vec<tokio::task::JoinHandle<()>>) {
        self.state.set_phase(Phase::Draining);
        tracing::info!(instance = self.instance, connections = self.hub.connection_count(), "draining");
        let patience = drain::Patience {
            delay: self.config.proxy.drain_delay,
            timeout: self.config.proxy.drain_timeout,
        };
        let stop_accepting = || accepting.iter().for_each(tokio::task::JoinHandle::abort);
        let again = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        drain::drain(&self.hub, patience, stop_accepting, again).await;
        self.events.finish().await;
        tracing::info!(connections = self.hub.connection_count(), "ended");
        self.logging.flush();
    }
}

/// The next change of the files; never, if they are not watched.
async fn next(changes: &mut Option<mpsc::Receiver<config::watch::Changed>>) -> Option<config::watch::Changed> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

fn acceptor(config: &Config) -> Result<Option<Arc<TlsAcceptor>>, tls::TlsError> {
    config.proxy.tls.as_ref().map(|tls| tls::acceptor(tls).map(Arc::new)).transpose()
}

/// What to do where an address cannot be listened on.
fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "Another process has it, perhaps an oncegate that still drains: `ss -ltnp` shows which.",
        io::ErrorKind::AddrNotAvailable => "Write an address that this machine has.",
        io::ErrorKind::PermissionDenied => "Write a port from 1024, or give oncegate CAP_NET_BIND_SERVICE.",
        _ => "Write HOST:PORT with an address of this machine.",
    }
}

/// The name of this process among proxies that share a store.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("{}-{}", host.trim(), unique.get(..8).unwrap_or_default())
}

fn store_settings(config: &Config, instance: &str) -> store::Settings {
    let url = match &config.store.url {
        config::address::StoreUrl::Memory => "memory:".to_owned(),
        config::address::StoreUrl::Redis(redis) => redis.url.expose().to_owned(),
    };
    store::Settings {
        url,
        prefix: config.store.prefix.clone(),
        timeout: config.store.timeout,
        proxy: Arc::from(instance),
        ca: None,
    }
}

fn log_settings(config: &Config) -> logging::Settings {
    logging::Settings {
        level: config.log.level.as_str().to_owned(),
        format: match config.log.format {
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        },
        decisions: match config.log.decisions {
            LogDecisions::Duplicates => logging::Decisions::Duplicates,
            LogDecisions::All => logging::Decisions::All,
            LogDecisions::None => logging::Decisions::None,
        },
        decisions_per_second: config.log.decisions_per_second,
    }
}
