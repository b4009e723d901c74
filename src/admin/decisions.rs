//! What is decided: the last decisions, and each new one as it is made.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::StreamExt;

use super::answer::{Problem, Reach, respond};
use super::{Admin, Answered};
use crate::logging::Told;

/// So many are shown if nothing else is asked for.
const SHOWN: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    limit: Option<usize>,
}

/// The last decisions of this process, the newest first.
pub(super) async fn recent(State(admin): State<Arc<Admin>>, query: Result<Query<Asked>, QueryRejection>) -> Answered {
    let answer = || -> Result<Response, Problem> {
        let Query(asked) = query?;
        let made = admin.feed.recent(asked.limit.unwrap_or(SHOWN));
        let decisions: Vec<Value> = made.iter().map(|made| made.to_json(&admin.instance)).collect();
        Ok(respond(
            StatusCode::OK,
            &admin.instance,
            Reach::Instance,
            json!({ "decisions": decisions }),
        ))
    };
    admin.answer(answer())
}

/// Each decision of this process from now on, as server-sent events: `decision`, and `missed` where the reader was too slow.
pub(super) async fn stream(State(admin): State<Arc<Admin>>) -> Answered {
    let watch = admin.feed.watch();
    let instance = admin.instance.clone();
    let events = watch.map(move |told| {
        let event = match told {
            Told::Made(made) => Event::default().event("decision").data(made.to_json(&instance).to_string()),
            Told::Missed(missed) => Event::default().event("missed").data(json!({ "missed": missed }).to_string()),
        };
        Ok::<_, Infallible>(event)
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-oncegate-instance", header_text(&admin.instance));
    response
}

fn header_text(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
