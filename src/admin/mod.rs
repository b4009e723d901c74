//! The admin listener: page, API, metrics and probes, and the listener for metrics and probes alone.
//!
//! It changes nothing by itself but what is in the store, locks, modes and limits: reload and drain are [`Command`]s to main. What it shows of the process comes from
//! [`State`], which the proxy and main write, and from the store's client.

mod access;
mod answer;
mod base64;
mod census;
mod decisions;
mod limits;
mod locks;
mod modes;
mod page;
mod probes;
mod process;
mod rules;
mod server;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

pub use answer::Reach;
pub use census::count_locks;
pub use limits::follow_limits;
pub use server::{Peer, serve};
pub use state::{ModesSet, Phase, Readiness, ReadyStatus, Reload, State};

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{self, ConnectInfo, DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, patch, post};
use tokio::sync::{mpsc, oneshot};

use access::Access;
use answer::Problem;

use crate::config::{Config, Role};
use crate::logging::Feed;
use crate::metrics::{Metrics, Mode};
use crate::rules::lock::{Digest, Freed};
use crate::rules::spec as rules_spec;
use crate::store::{Client, Store};

/// The largest body of a request: lookups carry the arguments of a task.
const BODY_MAX: usize = 4 << 20;

/// What an operator wants of the process.
#[derive(Debug)]
pub enum Command {
    /// Load the configuration anew. The answer is what was refused, as an operator should read it.
    Reload(oneshot::Sender<Result<Reloaded, String>>),
    /// Shut down as SIGTERM does.
    Drain,
}

/// What a reload brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The SHA-256 of the configuration that is in force now.
    pub sha256: String,
    /// How many rules it has.
    pub rules: usize,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
}

/// The configuration in force, and what it says about who may ask.
struct Current {
    config: Arc<Config>,
    access: Access,
}

/// What the handlers share.
pub struct Admin {
    instance: String,
    started: Instant,
    /// The port of the admin listener, which is its own choice where the configuration says 0.
    port: u16,
    store: Client,
    store_kind: &'static str,
    store_reach: Reach,
    metrics: Arc<Metrics>,
    feed: Arc<Feed>,
    state: Arc<State>,
    current: ArcSwap<Current>,
    commands: mpsc::Sender<Command>,
}

/// What main gives to the admin listener.
pub struct Parts {
    /// The name of this proxy.
    pub instance: String,
    /// The port that the admin listener is bound to.
    pub port: u16,
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The store. A client of it is made: this is done on the runtime that will serve.
    pub store: Store,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// What is decided.
    pub feed: Arc<Feed>,
    /// What `/readyz` follows.
    pub state: Arc<State>,
    /// Where orders go.
    pub commands: mpsc::Sender<Command>,
}

/// What a request changed that neither its path nor its query tells, for its audit line.
#[derive(Debug, Clone)]
struct Changed {
    /// The rule.
    rule: Arc<str>,
    /// The key.
    digest: Option<Digest>,
    /// For how long.
    seconds: Option<f64>,
    /// Which limit, and what was set of it.
    limit: Option<(Arc<str>, String)>,
}

/// What a handler gives: an answer, already in its form.
type Answered = Response;

impl Admin {
    /// The admin listener's state, to be routed by [`router`] and [`probes_router`].
    pub fn new(parts: Parts) -> Arc<Admin> {
        let store_kind = parts.store.kind();
        announce(&parts.metrics, &parts.config);
        for rule in parts.config.rules.rules() {
            for limit in rule.own_limits() {
                let times = limit.rate.map(|rate| rate.times);
                parts.metrics.rule(&rule.name).show_limit(&limit.name, false, times);
            }
        }
        Arc::new(Admin {
            instance: parts.instance,
            started: Instant::now(),
            port: parts.port,
            store: parts.store.client(),
            store_kind,
            store_reach: if store_kind == "memory" { Reach::Instance } else { Reach::Fleet },
            metrics: parts.metrics,
            feed: parts.feed,
            state: parts.state,
            current: ArcSwap::from_pointee(Current::new(parts.config, parts.port)),
            commands: parts.commands,
        })
    }

    /// Takes on a new configuration.
    pub fn set_config(&self, config: Arc<Config>) {
        announce(&self.metrics, &config);
        self.current.store(Arc::new(Current::new(config, self.port)));
    }

    fn answer(&self, answer: Result<Response, Problem>) -> Answered {
        answer.unwrap_or_else(|problem| problem.into_response(&self.instance))
    }

    fn count_freed(&self, freed: &[Freed]) {
        for freed in freed {
            self.metrics.rule(&freed.rule).count_released(freed.reason, freed.held_ms);
        }
    }
}

/// Shows the rules in the metrics before their first messages.
fn announce(metrics: &Metrics, config: &Config) {
    for rule in config.rules.rules() {
        let mode = if rule.mode == rules_spec::Mode::Observe {
            Mode::Observe
        } else {
            Mode::Enforce
        };
        metrics.rule(&rule.name).announce(mode);
    }
}

impl Current {
    fn new(config: Arc<Config>, port: u16) -> Current {
        Current {
            access: Access::new(&config.admin, port),
            config,
        }
    }
}

/// The routes of the listener at `probes_listen`, which are answered to everyone.
pub fn probes_router(admin: &Arc<Admin>) -> Router {
    with_fallbacks(probe_routes(), admin).with_state(Arc::clone(admin))
}

/// The routes of the admin listener.
pub fn router(admin: &Arc<Admin>) -> Router {
    let guarded = Router::new()
        .route("/", get(page::page))
        .route("/api/v1/locks", get(locks::list).delete(locks::clear))
        .route("/api/v1/locks/{digest}", get(locks::show).delete(locks::release))
        .route("/api/v1/lookup", post(rules::lookup))
        .route("/api/v1/cooldown", post(rules::cooldown))
        .route("/api/v1/explain", post(rules::explain))
        .route("/api/v1/tasks/{id}", get(tasks::show))
        .route("/api/v1/decisions", get(decisions::recent))
        .route("/api/v1/decisions/stream", get(decisions::stream))
        .route("/api/v1/mode", get(modes::show).put(modes::set).delete(modes::reset))
        .route("/api/v1/limits", get(limits::list))
        .route("/api/v1/limits/{rule}/{limit}", patch(limits::set).delete(limits::reset))
        .route("/api/v1/rules", get(rules::list))
        .route("/api/v1/status", get(process::status))
        .route("/api/v1/config", get(process::config))
        .route("/api/v1/reload", post(process::reload))
        .route("/api/v1/drain", post(process::drain));
    let guarded = with_fallbacks(guarded, admin)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(Arc::clone(admin), guard));
    probe_routes().merge(guarded).with_state(Arc::clone(admin))
}

fn probe_routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/metrics", get(probes::metrics))
        .route("/livez", get(probes::livez))
        .route("/healthz", get(probes::livez))
        .route("/readyz", get(probes::readyz))
}

fn with_fallbacks(routes: Router<Arc<Admin>>, admin: &Arc<Admin>) -> Router<Arc<Admin>> {
    let problem = |status, code, message: &'static str| {
        let admin = Arc::clone(admin);
        move || async move { Problem::new(status, code, message).into_response(&admin.instance) }
    };
    routes
        .fallback(problem(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path"))
        .method_not_allowed_fallback(problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path has other methods",
        ))
}

/// Lets through who may ask, and writes an audit line for every change that was asked for, also for one that was refused.
async fn guard(
    extract::State(admin): extract::State<Arc<Admin>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or("").to_owned();
    let needed = needed_role(&method, &path);
    let caller = admin.current.load().access.check(&method, request.headers(), needed);
    let name = caller.as_ref().map_or("-", |caller| caller.name.as_str()).to_owned();
    let response = match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => Problem::from(refusal).into_response(&admin.instance),
    };
    if needed == Role::Operate {
        let status = response.status().as_u16();
        let changed = response.extensions().get::<Changed>();
        let rule = changed.map(|changed| &*changed.rule);
        let digest = changed.and_then(|changed| Some(changed.digest?.to_hex()));
        let seconds = changed.and_then(|changed| changed.seconds);
        let limit = changed.and_then(|changed| changed.limit.as_ref());
        let (limit, set) = limit.map(|(limit, set)| (&**limit, &**set)).unzip();
        tracing::info!(
            target: "oncegate::audit",
            token = name, client = %peer, method = %method, path, query, status, rule, limit, set, digest, seconds, "admin"
        );
    }
    response
}

/// Lookups are questions, though their arguments come in a body.
fn needed_role(method: &Method, path: &str) -> Role {
    match *method {
        Method::GET | Method::HEAD => Role::Read,
        Method::POST if matches!(path, "/api/v1/lookup" | "/api/v1/explain") => Role::Read,
        _ => Role::Operate,
    }
}
