//! What the process is and does, and the two orders to it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::answer::{Problem, Reach, respond};
use super::{Admin, Answered, Command};
use crate::store::Circuit;
use crate::store::modes::ModeOverride;

/// How long a reload may take before the operator is told to look into the log.
const RELOAD_WAIT: Duration = Duration::from_secs(30);

pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Answered {
    let health = admin.store.health();
    let readiness = admin.state.readiness(health);
    let reload = admin.state.reload();
    let current = admin.current.load();
    let upstreams: Vec<Value> = admin
        .state
        .upstreams()
        .iter()
        .map(|(name, up)| json!({ "address": name, "up": up }))
        .collect();
    let circuit = match health.circuit {
        Circuit::Closed => "closed",
        Circuit::Open => "open",
        Circuit::HalfOpen => "half_open",
    };
    let fields = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "phase": admin.state.phase().as_str(),
        "status": readiness.status.as_str(),
        "reasons": readiness.reasons,
        "uptime_seconds": admin.started.elapsed().as_secs(),
        "connections": admin.metrics.connections.get(),
        "connections_limit": admin.metrics.connections_limit.get(),
        "channels": admin.metrics.channels.get(),
        "upstreams": upstreams,
        "store": { "type": admin.store_kind, "up": health.up, "circuit": circuit, "orders_kept": health.orders_kept },
        "mode": mode_of(&admin),
        "config": {
            "file": current.config.file,
            "sha256": current.config.sha256,
            "rules": current.config.rules.rules().len(),
            "loaded": time_text(reload.at),
            "refused": reload.refused,
        },
    });
    respond(StatusCode::OK, &admin.instance, Reach::Instance, fields)
}

/// The modes above those of the configuration that this process follows.
pub(super) fn mode_of(admin: &Admin) -> Value {
    let modes = admin.state.modes();
    let overrides: Vec<Value> = modes.overrides.iter().map(ModeOverride::to_json).collect();
    json!({ "off_here": modes.is_off, "overrides": overrides })
}

pub(super) async fn config(State(admin): State<Arc<Admin>>) -> Answered {
    let current = admin.current.load();
    let fields = json!({ "file": current.config.file, "sha256": current.config.sha256, "config": current.config.shown() });
    respond(StatusCode::OK, &admin.instance, Reach::Instance, fields)
}

pub(super) async fn reload(State(admin): State<Arc<Admin>>) -> Answered {
    let answer = async {
        let (done, wait) = oneshot::channel();
        order(&admin, Command::Reload(done))?;
        let reloaded = match tokio::time::timeout(RELOAD_WAIT, wait).await {
            Ok(Ok(Ok(reloaded))) => reloaded,
            Ok(Ok(Err(refused))) => return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "config_refused", refused)),
            Ok(Err(_)) | Err(_) => return Err(busy("the reload was not answered: see the log")),
        };
        let fields = json!({ "sha256": reloaded.sha256, "rules": reloaded.rules, "warnings": reloaded.warnings });
        Ok(respond(StatusCode::OK, &admin.instance, Reach::Instance, fields))
    };
    admin.answer(answer.await)
}

pub(super) async fn drain(State(admin): State<Arc<Admin>>) -> Answered {
    let answer = order(&admin, Command::Drain).map(|()| {
        respond(
            StatusCode::ACCEPTED,
            &admin.instance,
            Reach::Instance,
            json!({ "phase": "draining" }),
        )
    });
    admin.answer(answer)
}

fn order(admin: &Admin, command: Command) -> Result<(), Problem> {
    admin
        .commands
        .try_send(command)
        .map_err(|_| busy("another order is being carried out, or the process ends"))
}

fn busy(message: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
}

/// RFC 3339, UTC, seconds.
fn time_text(time: SystemTime) -> Option<String> {
    let format = time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::from(time).format(format).ok()
}
