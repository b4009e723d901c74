//! Reads the results of holders for messages that wait for them.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::{mpsc, oneshot, watch};

use super::backend::Backend;
use super::{Failures, Settings};
use crate::celery::Limits;
use crate::celery::result::{Status, read_stored, value_of};
use crate::session::{Fetch, Fetched, Value, name_of_token};
use crate::store::Client;

/// The largest value that is kept in the store, in octets.
pub(super) const KEPT_MAX: usize = 64 << 10;

/// So many questions wait at most, some of them values that are to be kept.
pub(super) const QUESTIONS_MAX: usize = 1_000;

/// For how long it is kept.
const KEPT_FOR: Duration = Duration::from_secs(3600);

/// What is to be done.
pub(super) enum Question {
    /// Somebody asks for a result.
    Fetch(Fetch, oneshot::Sender<Fetched>),
    /// One is to be kept.
    Keep(Value),
}

/// Answers until nobody can ask any more.
pub(super) async fn run(
    store: Client,
    mut questions: mpsc::Receiver<Question>,
    mut settings: watch::Receiver<Settings>,
    failures: Arc<Failures>,
) {
    let mut backend: Option<Backend> = None;
    while let Some(question) = questions.recv().await {
        let (fetch, answer) = match question {
            Question::Fetch(fetch, answer) => (fetch, answer),
            Question::Keep(value) => {
                keep(&store, value).await;
                continue;
            }
        };
        Backend::becomes(&mut backend, settings.borrow_and_update().written.clone());
        let fetched = match &mut backend {
            None => kept(&store, &fetch).await,
            Some(backend) => read(backend, &fetch.holder).await.unwrap_or_else(|trouble| {
                failures.waits(&trouble.to_string());
                Fetched::Silent
            }),
        };
        // A connection that has ended needs no answer.
        let _ = answer.send(fetched);
    }
}

async fn keep(store: &Client, value: Value) {
    let text = String::from_utf8_lossy(&value.value).into_owned();
    if let Err(unavailable) = store.announce(&[(value.name.to_string(), text)], KEPT_FOR).await {
        tracing::debug!(name = &*value.name, %unavailable, "a result is not kept");
    }
}

/// What is kept of the result in the store: what the holder's worker has published, or what another has read.
async fn kept(store: &Client, fetch: &Fetch) -> Fetched {
    let Ok(published) = store.kept_result(&fetch.holder).await else {
        return Fetched::Silent;
    };
    if let Some(value) = published.as_deref().and_then(|json| succeeded(&fetch.holder, json)) {
        return Fetched::Value(value);
    }
    match store.announced(&[name_of_token(&fetch.token)]).await {
        Ok(values) => match values.into_iter().flatten().next() {
            Some(value) => Fetched::Value(value.into_bytes().into()),
            None => Fetched::Unread,
        },
        Err(_) => Fetched::Silent,
    }
}

/// The value in a result that a worker has published.
fn succeeded(holder: &str, json: &[u8]) -> Option<Arc<[u8]>> {
    let read = read_stored(holder, json, Limits::new(json.len())).ok().flatten()?;
    (read.status == Status::Success).then(|| value_of(json).map(Arc::from)).flatten()
}

async fn read(backend: &mut Backend, holder: &Arc<str>) -> RedisResult<Fetched> {
    let sizes = backend.sizes(std::slice::from_ref(holder)).await?;
    let record = backend.read(holder, sizes.first().copied().unwrap_or_default()).await?;
    let Some(record) = record else { return Ok(Fetched::Nothing) };
    Ok(match record.status {
        Status::Success => record
            .json
            .as_deref()
            .and_then(value_of)
            // In another serializer a worker can read it.
            .map_or(Fetched::Unread, |value| Fetched::Value(value.into())),
        Status::Failure => Fetched::Failed,
        Status::Revoked => Fetched::Revoked,
        Status::Pending | Status::Started | Status::Retry | Status::Other => Fetched::Nothing,
    })
}
