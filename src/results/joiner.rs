//! Gives the ids that wait for a holder the holder's result.
//!
//! The store holds who waits, so any process goes on with what another has begun ([`crate::store::join`]). The result is read where the
//! holder's worker has written it. Only what is written in JSON is passed on: of anything else, and of a holder that has ended and left
//! nothing, the outcome is unknown, and its duplicates are revoked.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::sync::watch;

use super::backend::{Backend, Record};
use super::writer::now_ms;
use super::{Failures, Settings};
use crate::celery::result::{Given, Status};
use crate::control::spread;
use crate::store::join::{Awaits, Group, Stage};
use crate::store::{Client, Unavailable};

/// How often the store is asked whom to look at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The longest pause after trouble.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For how long the result of a holder that has ended may keep its callers waiting: its worker writes it before or after its end is told.
const AWAITED: Duration = Duration::from_secs(5);

/// Why nobody can be given anything at the moment.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the result backend: {0}")]
    Backend(#[from] RedisError),
    #[error(transparent)]
    Store(#[from] Unavailable),
}

/// Works until the settings are gone.
pub(super) async fn run(store: Client, mut settings: watch::Receiver<Option<Settings>>, failures: Arc<Failures>) {
    let mut backend: Option<Backend> = None;
    let mut pause = LOOK_EVERY;
    loop {
        let wanted = settings.borrow_and_update().clone();
        if backend.as_ref().map(Backend::settings) != wanted.as_ref() {
            backend = wanted.map(Backend::new);
        }
        let Some(backend) = &mut backend else {
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        };
        match look(&store, backend, &failures).await {
            Ok(()) => pause = LOOK_EVERY,
            Err(trouble) => {
                failures.waits(&trouble.to_string());
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(spread(pause)).await;
    }
}

/// Looks at all that are to be looked at now.
async fn look(store: &Client, backend: &mut Backend, failures: &Failures) -> Result<(), Trouble> {
    let mut trouble = Ok(());
    loop {
        let due = store.joins_due().await?;
        if due.is_empty() {
            return trouble;
        }
        let awaiting = |(group, _): &&(Group, Stage)| group.awaits == Awaits::Result;
        let holders: Vec<Arc<str>> = due.iter().filter(awaiting).map(|(group, _)| Arc::clone(&group.holder)).collect();
        let mut sizes = backend.sizes(&holders).await?.into_iter();
        for (group, stage) in &due {
            let size = match group.awaits {
                Awaits::Nothing => 0,
                Awaits::Result => sizes.next().unwrap_or_default(),
            };
            match look_at(store, backend, failures, group, *stage, size).await {
                // The others may have more luck.
                Err(Trouble::Backend(refused)) if !refused.is_io_error() => trouble = Err(Trouble::Backend(refused)),
                looked => looked?,
            }
        }
    }
}

/// Looks at one group, of whose holder there is a record of this size.
async fn look_at(
    store: &Client,
    backend: &mut Backend,
    failures: &Failures,
    group: &Group,
    stage: Stage,
    size: usize,
) -> Result<(), Trouble> {
    let holder = &group.holder;
    let given = match group.awaits {
        Awaits::Nothing => Some((Given::revoked(&format!("duplicate of {holder}"), holder, now_ms()), Kind::Own)),
        Awaits::Result => given(holder, stage, backend.read(holder, size).await?.as_ref()),
    };
    match given {
        Some((given, kind)) => give(store, backend, failures, group, &given, kind).await,
        None => Ok(()),
    }
}

/// Whose result it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The holder's.
    Holders,
    /// One that says that there is none.
    Own,
}

/// What those get that wait for this holder, if it is time.
fn given(holder: &str, stage: Stage, record: Option<&Record>) -> Option<(Given, Kind)> {
    if let Some(record) = record {
        let is_final = match record.status {
            Status::Success | Status::Failure => true,
            // Idle workers write it over a task that runs elsewhere when a revoke is sent to all.
            Status::Revoked => matches!(stage, Stage::Keeps | Stage::Ended { .. }),
            Status::Pending | Status::Started | Status::Retry | Status::Other => false,
        };
        let joined = record
            .json
            .as_deref()
            .filter(|_| is_final)
            .and_then(|json| Given::joined(json, holder));
        if let Some(joined) = joined {
            return Some((joined, Kind::Holders));
        }
    }
    match stage {
        Stage::Ended { since } if since >= AWAITED => {
            let text = format!("duplicate of {holder}: outcome unknown");
            Some((Given::revoked(&text, holder, now_ms()), Kind::Own))
        }
        Stage::Ended { .. } | Stage::Holds | Stage::Keeps | Stage::Runs => None,
    }
}

async fn give(store: &Client, backend: &mut Backend, failures: &Failures, group: &Group, given: &Given, kind: Kind) -> Result<(), Trouble> {
    loop {
        let joined = store.joined(group).await?;
        let ids: Vec<Arc<str>> = joined.iter().map(|joined| Arc::clone(&joined.id)).collect();
        if ids.is_empty() {
            return Ok(store.joins_done(group, &ids).await?);
        }
        backend.write(given, &ids).await?;
        store.joins_done(group, &ids).await?;
        if kind == Kind::Holders {
            for joined in joined {
                failures.metrics.rule(&joined.rule).count_joined("redis", 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: Status, json: bool) -> Record {
        Record {
            status,
            json: json.then(|| br#"{"status": "X", "task_id": "a"}"#.to_vec()),
        }
    }

    const LONG_ENDED: Stage = Stage::Ended { since: AWAITED };
    const JUST_ENDED: Stage = Stage::Ended { since: Duration::ZERO };

    #[test]
    fn what_is_passed_on_and_when() {
        use Status as S;
        let joined = |stage, record: Option<Record>| given("a", stage, record.as_ref()).map(|(_, kind)| kind);
        for stage in [Stage::Holds, Stage::Keeps, Stage::Runs, JUST_ENDED, LONG_ENDED] {
            for status in [S::Success, S::Failure] {
                assert_eq!(
                    joined(stage, Some(record(status, true))),
                    Some(Kind::Holders),
                    "{stage:?} {status:?}"
                );
            }
            let ended_long_ago = (stage == LONG_ENDED).then_some(Kind::Own);
            for status in [S::Pending, S::Started, S::Retry, S::Other] {
                assert_eq!(joined(stage, Some(record(status, true))), ended_long_ago, "{stage:?} {status:?}");
            }
            assert_eq!(joined(stage, Some(record(S::Success, false))), ended_long_ago, "{stage:?}");
            assert_eq!(joined(stage, None), ended_long_ago, "{stage:?}");
        }
        for (stage, expected) in [
            (Stage::Holds, None),
            (Stage::Runs, None),
            (Stage::Keeps, Some(Kind::Holders)),
            (JUST_ENDED, Some(Kind::Holders)),
            (LONG_ENDED, Some(Kind::Holders)),
        ] {
            assert_eq!(joined(stage, Some(record(S::Revoked, true))), expected, "{stage:?}");
        }
        let (unknown, _) = given("a", LONG_ENDED, None).expect("the outcome is unknown");
        assert!(String::from_utf8_lossy(&unknown.for_id("b")).contains("duplicate of a: outcome unknown"));
    }
}
