//! Gives the ids that wait for a holder the holder's result.
//!
//! The store holds who waits, so any process goes on with what another has begun ([`crate::store::join`]). The result is read where the
//! holder's worker has written it, or in the store, if the worker has published it through a proxy. Only what is written in JSON is passed on: of anything else, and of a holder that has ended and left
//! nothing, the outcome is unknown, and its duplicates are revoked.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::sync::watch;

use super::backend::{Backend, Record};
use super::publisher::{self, Published};
use super::writer::{self, now_ms};
use super::{Failures, Settings};
use crate::celery::Limits;
use crate::celery::result::{self, Given, Status};
use crate::control::{Control, spread};
use crate::rules::owed::Outcome;
use crate::session::RepublishFault;
use crate::store::join::{Awaits, Due, Group, Joined, Kept, Stage};
use crate::store::{Client, Unavailable};

/// How often the store is asked whom to look at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The longest pause after trouble.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For how long the result of a holder that has ended may keep its callers waiting: its worker writes it before or after its end is told.
const AWAITED: Duration = Duration::from_secs(5);

/// Why somebody cannot be given anything at the moment.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the result backend: {0}")]
    Backend(#[from] RedisError),
    #[error(transparent)]
    Store(#[from] Unavailable),
    #[error("results cannot be published in the virtual host {vhost:?}: {}", .fault.as_str())]
    Control { vhost: Arc<str>, fault: RepublishFault },
}

impl Trouble {
    /// Whether others may have more luck.
    fn is_of_one(&self) -> bool {
        match self {
            Trouble::Backend(refused) => !refused.is_io_error(),
            Trouble::Store(_) => false,
            Trouble::Control { .. } => true,
        }
    }
}

/// Who reads, writes and publishes.
struct Joiner {
    store: Client,
    control: Control,
    failures: Arc<Failures>,
    backend: Option<Backend>,
}

/// Works until the settings are gone.
pub(super) async fn run(store: Client, control: Control, mut settings: watch::Receiver<Settings>, failures: Arc<Failures>) {
    let mut joiner = Joiner {
        store,
        control,
        failures,
        backend: None,
    };
    let mut pause = LOOK_EVERY;
    loop {
        let wanted = settings.borrow_and_update().clone();
        Backend::becomes(&mut joiner.backend, wanted.written);
        if joiner.backend.is_none() && !wanted.published {
            if settings.changed().await.is_err() {
                return;
            }
            continue;
        }
        match joiner.look().await {
            Ok(()) => pause = LOOK_EVERY,
            Err(trouble) => {
                joiner.failures.waits(&trouble.to_string());
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        tokio::time::sleep(spread(pause)).await;
    }
}

impl Joiner {
    /// Looks at all that are to be looked at now.
    async fn look(&mut self) -> Result<(), Trouble> {
        let mut trouble = Ok(());
        loop {
            let due = self.store.joins_due().await?;
            if due.is_empty() {
                return trouble;
            }
            let awaiting = |due: &&Due| due.group.awaits == Awaits::Result;
            let holders: Vec<Arc<str>> = due.iter().filter(awaiting).map(|due| Arc::clone(&due.group.holder)).collect();
            let mut sizes = match &mut self.backend {
                Some(backend) => backend.sizes(&holders).await?,
                None => Vec::new(),
            }
            .into_iter();
            for due in &due {
                let size = match due.group.awaits {
                    Awaits::Nothing | Awaits::Success | Awaits::Overdue => 0,
                    Awaits::Result => sizes.next().unwrap_or_default(),
                };
                match self.look_at(due, size).await {
                    Err(refused) if refused.is_of_one() => trouble = Err(refused),
                    looked => looked?,
                }
            }
        }
    }

    /// Looks at one group, of whose holder the backend has a record of this size.
    async fn look_at(&mut self, due: &Due, size: usize) -> Result<(), Trouble> {
        let holder = &due.group.holder;
        let given = match due.group.awaits {
            Awaits::Nothing => Some((writer::given(Outcome::Revoked, holder), Kind::Own)),
            Awaits::Success => Some((writer::given(Outcome::Success, holder), Kind::Own)),
            Awaits::Overdue => Some((writer::given(Outcome::Overdue, holder), Kind::Own)),
            Awaits::Result => {
                let record = self.record(due, size).await?;
                given(holder, due.stage, record.as_ref())
            }
        };
        match given {
            Some((given, kind)) => self.give(&due.group, &given, kind).await,
            None => Ok(()),
        }
    }

    /// What the holder's worker has written, or else published.
    async fn record(&mut self, due: &Due, size: usize) -> Result<Option<Record>, Trouble> {
        let holder = &due.group.holder;
        if let Some(backend) = &mut self.backend
            && let Some(record) = backend.read(holder, size).await?
        {
            return Ok(Some(record));
        }
        if due.kept == Kept::No {
            return Ok(None);
        }
        let Some(json) = self.store.kept_result(holder).await? else {
            return Ok(None);
        };
        let read = result::read_stored(holder, &json, Limits::new(json.len())).ok().flatten();
        Ok(read.map(|read| Record {
            status: read.status,
            json: read.json.map(Cow::into_owned),
        }))
    }

    async fn give(&mut self, group: &Group, given: &Given, kind: Kind) -> Result<(), Trouble> {
        loop {
            let joined = self.store.joined(group).await?;
            if joined.is_empty() {
                return Ok(self.store.joins_done(group, &[]).await?);
            }
            let mut trouble = Ok(());
            let mut done = Vec::with_capacity(joined.len());
            let (published, written): (Vec<_>, Vec<_>) = joined.iter().partition(|joined| joined.reply_to.is_some());
            if !written.is_empty() {
                let ids: Vec<Arc<str>> = written.iter().map(|joined| Arc::clone(&joined.id)).collect();
                if let Some(backend) = &mut self.backend {
                    backend.write(given, &ids).await?;
                }
                // Without a backend they were noted under another configuration, which is gone.
                done.extend(ids);
                self.count(kind, "redis", &written);
            }
            for some in published.chunks(publisher::AT_ONCE) {
                if trouble.is_ok() {
                    trouble = self.publish(given, kind, some, &mut done).await;
                }
            }
            self.store.joins_done(group, &done).await?;
            trouble?;
        }
    }

    /// Publishes for some of those that wait; adds those that wait no longer.
    async fn publish(&self, given: &Given, kind: Kind, some: &[&Joined], done: &mut Vec<Arc<str>>) -> Result<(), Trouble> {
        let to = some.iter().filter_map(|joined| Some((&*joined.id, &**joined.reply_to.as_ref()?)));
        let published = publisher::publish(&self.control, given, to).await;
        let mut trouble = Ok(());
        for (joined, published) in some.iter().zip(published) {
            match published {
                Published::Done => self.count(kind, "rpc", &[joined]),
                Published::Nobody => {}
                Published::Refused => self.failures.count(&joined.rule, &joined.id, "the broker refuses it", 1),
                Published::NotNow(fault) => {
                    let vhost = joined.reply_to.as_ref().map(|to| Arc::clone(&to.vhost)).unwrap_or_default();
                    trouble = Err(Trouble::Control { vhost, fault });
                    continue;
                }
            }
            done.push(Arc::clone(&joined.id));
        }
        trouble
    }

    fn count(&self, kind: Kind, backend: &str, joined: &[&Joined]) {
        if kind == Kind::Holders {
            for joined in joined {
                self.failures.metrics.rule(&joined.rule).count_joined(backend, 1);
            }
        }
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
