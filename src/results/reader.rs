//! Reads the results of holders for messages that wait for them.

use std::sync::Arc;

use redis::RedisResult;
use tokio::sync::{mpsc, oneshot, watch};

use super::backend::Backend;
use super::{Failures, Settings};
use crate::celery::result::{Status, value_of};
use crate::session::Fetched;

/// Who asks for a result, and for whose.
pub(super) type Question = (Arc<str>, oneshot::Sender<Fetched>);

/// Answers until nobody can ask any more.
pub(super) async fn run(
    mut questions: mpsc::UnboundedReceiver<Question>,
    mut settings: watch::Receiver<Option<Settings>>,
    failures: Arc<Failures>,
) {
    let mut backend: Option<Backend> = None;
    while let Some((holder, answer)) = questions.recv().await {
        let wanted = settings.borrow_and_update().clone();
        if backend.as_ref().map(Backend::settings) != wanted.as_ref() {
            backend = wanted.map(Backend::new);
        }
        let fetched = match &mut backend {
            None => Fetched::Nothing,
            Some(backend) => read(backend, &holder).await.unwrap_or_else(|trouble| {
                failures.waits(&trouble.to_string());
                Fetched::Silent
            }),
        };
        // A connection that has ended needs no answer.
        let _ = answer.send(fetched);
    }
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
            .map_or(Fetched::Nothing, |value| Fetched::Value(value.into())),
        Status::Failure => Fetched::Failed,
        Status::Revoked => Fetched::Revoked,
        Status::Pending | Status::Started | Status::Retry | Status::Other => Fetched::Nothing,
    })
}
