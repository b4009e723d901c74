//! Which rule takes a message, what its key is, and whether that is locked.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{Problem, Reach, respond};
use super::{Admin, Answered};
use crate::rules::question::{Explained, Question};
use crate::store::operator;

/// How long a client may take for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a request, all of it.
pub(super) struct Body(Bytes);

impl FromRequest<Arc<Admin>> for Body {
    type Rejection = Response;

    async fn from_request(request: Request, admin: &Arc<Admin>) -> Result<Body, Response> {
        let problem = match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, admin)).await {
            Ok(Ok(body)) => return Ok(Body(body)),
            Ok(Err(rejection)) => Problem::new(rejection.status(), "bad_body", rejection.body_text()),
            Err(_) => Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
            ),
        };
        Err(problem.into_response(&admin.instance))
    }
}

pub(super) async fn explain(State(admin): State<Arc<Admin>>, Body(body): Body) -> Answered {
    let answer = answer_to(&admin, &body).map(|explained| respond(StatusCode::OK, &admin.instance, Reach::Instance, explained.to_json()));
    admin.answer(answer)
}

pub(super) async fn lookup(State(admin): State<Arc<Admin>>, Body(body): Body) -> Answered {
    let answer = async {
        let explained = answer_to(&admin, &body)?;
        let Some(rule) = explained.rule() else {
            return Err(Problem::not_found("no_rule", "no rule with uniqueness takes this message"));
        };
        let Some(digest) = explained.digest() else {
            let message = explained.to_text();
            let last = message.lines().last().unwrap_or_default();
            return Err(Problem::not_found("no_key", format!("rule {}: {last}", rule.name)));
        };
        let lock = operator::show(&admin.store, digest).await?;
        let fields = json!({
            "rule": &*rule.name,
            "digest": digest.to_hex(),
            "locked": lock.is_some(),
            "holder": lock.as_ref().map(|lock| &*lock.holder),
            "state": lock.as_ref().map(|lock| lock.state.as_str()),
            "expires_in": lock.as_ref().map(|lock| operator::expires_in(lock)),
        });
        Ok(respond(StatusCode::OK, &admin.instance, admin.store_reach, fields))
    };
    admin.answer(answer.await)
}

fn answer_to(admin: &Admin, body: &[u8]) -> Result<Explained, Problem> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let explained = Question::from_json(body).and_then(|question| question.explain(&admin.current.load().config.rules, now_ms));
    explained.map_err(|error| Problem::bad("bad_question", error.to_string()))
}

/// Every rule with its settings as they are in effect, those that are off included, in order.
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Answered {
    let config = Arc::clone(&admin.current.load().config);
    let mut rules: Vec<Value> = config.shown()["rule"].as_array().cloned().unwrap_or_default();
    for (rule, spec) in rules.iter_mut().zip(config.rules.specs()) {
        rule["name"] = spec.name.as_ref().or(spec.task.first()).cloned().into();
    }
    respond(StatusCode::OK, &admin.instance, Reach::Instance, json!({ "rules": rules }))
}
