//! What a supervisor and Prometheus ask. No token is needed, and nothing here names a key, an id or a secret.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::json;

use super::answer::{Problem, Reach, respond};
use super::{Admin, Answered, ReadyStatus};

pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Answered {
    let answer = match admin.metrics.render() {
        Ok(text) => Ok(([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", error.to_string())),
    };
    admin.answer(answer)
}

/// The process answers: that is all that a restart could mend.
pub(super) async fn livez(State(admin): State<Arc<Admin>>) -> Answered {
    respond(StatusCode::OK, &admin.instance, Reach::Instance, json!({ "status": "ok" }))
}

pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> Answered {
    let readiness = admin.state.readiness(admin.store.health());
    let status = if readiness.status == ReadyStatus::NotReady {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    let fields = json!({ "status": readiness.status.as_str(), "reasons": readiness.reasons });
    respond(status, &admin.instance, Reach::Instance, fields)
}
