//! Which rule takes a message, what its key is, and whether that is locked; and locking it by hand.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::answer::{Problem, Reach, respond};
use super::{Admin, Answered, Changed};
use crate::celery::value::Value as Member;
use crate::rules::lock::{Claim, Cooled, Digest, LockRecord};
use crate::rules::question::{Explained, NO_ID, Question, QuestionError, read_members};
use crate::rules::{Claimed, Verdict};
use crate::store::operator;

/// The holder of a key that was locked by hand, where no task id was named.
const BY_HAND: &str = "cooldown";
/// The longest life of a lock, in seconds.
const COOLDOWN_MAX: f64 = 315_360_000.0;

/// How long a client may take for the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a request, all of it.
pub(super) struct Body(pub(super) Bytes);

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
        let claimed = claim_of(&explained)?;
        let locks = operator::show(&admin.store, claimed.digest).await?;
        let fields = state_of(claimed, locks.publish.or(locks.run).as_deref());
        Ok(respond(StatusCode::OK, &admin.instance, admin.store_reach, fields))
    };
    admin.answer(answer.await)
}

/// Locks a key by hand, as it is locked after a success.
pub(super) async fn cooldown(State(admin): State<Arc<Admin>>, Body(body): Body) -> Answered {
    let answer = async {
        let (question, seconds) = cooldown_of(&body)?;
        let explained = explained(&admin, &question)?;
        let claimed = claim_of(&explained)?;
        let queue = question.goes_to().unwrap_or_default().into();
        let Some(mut note) = claimed.note(question.task.as_str().into(), queue) else {
            let message = format!("rule {} locks runs only: no publish of the key can be refused", claimed.rule.name);
            return Err(Problem::not_found("no_publish_lock", message));
        };
        // The cast saturates, and the bound is far below.
        note.cooldown_ms = (seconds * 1000.0).ceil() as u64;
        let holder = if question.id == NO_ID { BY_HAND } else { question.id.as_str() };
        let claim = Claim {
            digest: claimed.digest,
            id: holder.into(),
        };
        if let Cooled::Held { holder } = operator::cool(&admin.store, claim, note).await? {
            return Err(held(claimed.digest, &holder));
        }
        admin.metrics.rule(&claimed.rule.name).count_cooldown();
        let lock = operator::show(&admin.store, claimed.digest).await?.publish;
        let fields = state_of(claimed, lock.as_deref());
        let mut response = respond(StatusCode::OK, &admin.instance, admin.store_reach, fields);
        response.extensions_mut().insert(Changed {
            rule: Arc::clone(&claimed.rule.name),
            digest: Some(claimed.digest),
            seconds: Some(seconds),
            limit: None,
        });
        Ok(response)
    };
    admin.answer(answer.await)
}

/// The message whose key is to be locked, and for how many seconds.
fn cooldown_of(body: &[u8]) -> Result<(Question, f64), QuestionError> {
    let mut members = read_members(body)?;
    let at = members.iter().position(|(name, _)| *name == Member::Str("seconds".to_owned()));
    let seconds = match at.map(|at| members.remove(at).1) {
        Some(Member::Int(seconds)) => Some(seconds as f64),
        Some(Member::Float(seconds)) => Some(seconds),
        _ => None,
    };
    // The comparison also refuses what is no number.
    let seconds = seconds.filter(|seconds| *seconds > 0.0 && *seconds <= COOLDOWN_MAX);
    let seconds = seconds.ok_or_else(|| QuestionError::Type {
        name: "seconds".to_owned(),
        must_be: "a number above 0, and 315360000 (ten years) at most",
    })?;
    Ok((Question::from_members(members)?, seconds))
}

/// The key of a message, or why it has none.
fn claim_of(explained: &Explained) -> Result<&Claimed, Problem> {
    match &explained.verdict {
        Verdict::Claim(claimed) => Ok(claimed),
        Verdict::Unmatched { queue_unknown: None } | Verdict::Keyless { .. } => {
            Err(Problem::not_found("no_rule", "no rule with uniqueness takes this message"))
        }
        Verdict::Unmatched { queue_unknown: Some(rule) } => {
            let rule = &rule.name;
            let message = format!("no rule with uniqueness takes this message, but rule {rule} asks for its queue: name `queue`");
            Err(Problem::not_found("no_rule", message))
        }
        Verdict::Bypassed { rule, .. } | Verdict::WhenError { rule, .. } | Verdict::Unkeyable { rule, .. } => {
            let text = explained.to_text();
            let last = text.lines().last().unwrap_or_default();
            Err(Problem::not_found("no_key", format!("rule {}: {last}", rule.name)))
        }
    }
}

/// Whether a key is locked, and how. A run locks the key for other runs only: `unique` then says `while_running`.
fn state_of(claimed: &Claimed, lock: Option<&LockRecord>) -> Value {
    json!({
        "rule": &*claimed.rule.name,
        "mode": claimed.rule.mode.as_str(),
        "digest": claimed.digest.to_hex(),
        "locked": lock.is_some(),
        "holder": lock.map(|lock| &*lock.holder),
        "state": lock.map(|lock| lock.state.as_str()),
        "unique": lock.map(|lock| lock.scope.as_str()),
        "worker": lock.map(|lock| &*lock.worker).filter(|worker| !worker.is_empty()),
        "since": lock.map(|lock| operator::time_json(lock.since_ms)),
        "expires": lock.map(|lock| operator::time_json(lock.expires_ms)),
        "expires_in": lock.map(operator::expires_in),
    })
}

fn held(digest: Digest, holder: &str) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "held",
        format!("task {holder} holds {digest}: only a key that no task holds can rest"),
    )
}

fn answer_to(admin: &Admin, body: &[u8]) -> Result<Explained, Problem> {
    let question = Question::from_json(body)?;
    explained(admin, &question)
}

fn explained(admin: &Admin, question: &Question) -> Result<Explained, Problem> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    Ok(question.explain(&admin.current.load().config.rules, now_ms)?)
}

impl From<QuestionError> for Problem {
    fn from(error: QuestionError) -> Problem {
        Problem::bad("bad_question", error.to_string())
    }
}

/// Every rule with its settings as they are in effect, those that are off included, in order.
pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Answered {
    let config = Arc::clone(&admin.current.load().config);
    let mut rules: Vec<Value> = config.shown()["rule"].as_array().cloned().unwrap_or_default();
    for (rule, spec) in rules.iter_mut().zip(config.rules.specs()) {
        rule["name"] = spec.name.as_ref().or(spec.task.first()).cloned().into();
        let mode = Value::from(spec.mode.as_str());
        if rule["mode"] != mode {
            // An operator has set another.
            rule["configured_mode"] = rule["mode"].take();
            rule["mode"] = mode;
        }
    }
    respond(StatusCode::OK, &admin.instance, Reach::Instance, json!({ "rules": rules }))
}
