use super::*;
use crate::celery::result::Status;
use crate::rules::lock::Digest;

const SINCE: u64 = 1_800_000_000_000;

fn lock(state: LockState) -> LockRecord {
    LockRecord {
        digest: Digest([1; 32]),
        holder: "a".into(),
        state,
        rule: "r".into(),
        task: "t".into(),
        summary: "".into(),
        worker: "".into(),
        proxy: "p".into(),
        vhost: "/".into(),
        queue: "q".into(),
        since_ms: SINCE,
        expires_ms: SINCE + 1000,
        scope: Scope::UntilFinished,
        in_flight: 1,
        carried: true,
        shadow: false,
    }
}

fn record(status: Status, done_ms: Option<i64>) -> TaskResult<'static> {
    TaskResult {
        id: "a".into(),
        status,
        done_ms,
        json: None,
    }
}

#[test]
fn a_record_of_an_earlier_run_says_nothing() {
    let queued = lock(LockState::Queued);
    let before = Some(SINCE as i64 - 1);
    let since = Some(SINCE as i64);
    for (status, done_ms, is_new, says) in [
        (Status::Success, since, false, Some(Signal::Succeeded)),
        (Status::Failure, since, false, Some(Signal::Failed)),
        (Status::Revoked, since, false, Some(Signal::RevokeAsked)),
        (Status::Success, before, false, None),
        (Status::Failure, before, false, None),
        (Status::Revoked, before, false, None),
        (Status::Success, None, false, None),
        (Status::Started, None, false, None),
        // The clock of the worker is behind that of the store.
        (Status::Success, before, true, Some(Signal::Succeeded)),
        (Status::Started, None, true, Some(Signal::Started)),
        (Status::Retry, None, true, None),
        (Status::Pending, None, true, None),
        (Status::Other, since, true, None),
    ] {
        let said = what_it_says(&queued, &record(status, done_ms), is_new);
        assert_eq!(said, says, "{status:?} {done_ms:?} {is_new}");
    }
    let mut other = record(Status::Success, since);
    other.id = "b".into();
    assert_eq!(what_it_says(&queued, &other, true), None);
}

#[test]
fn a_start_is_told_once() {
    let running = lock(LockState::Running);
    assert_eq!(what_it_says(&running, &record(Status::Started, None), true), None);
}

#[test]
fn a_lock_without_a_record_is_remembered_for_a_pass() {
    let (mut unrecorded, lock) = (Unrecorded::default(), lock(LockState::Queued));
    let retaken = LockRecord {
        since_ms: SINCE + 1,
        ..lock.clone()
    };
    assert!(!unrecorded.has(&lock));
    unrecorded.note(&lock);
    assert!(unrecorded.has(&lock) && !unrecorded.has(&retaken));
    unrecorded.begin();
    assert!(unrecorded.has(&lock));
    unrecorded.begin();
    assert!(!unrecorded.has(&lock));
}

#[test]
fn only_what_waits_is_looked_up() {
    for (scope, state, waits) in [
        (Scope::UntilStarted, LockState::Queued, true),
        (Scope::UntilFinished, LockState::Running, true),
        (Scope::UntilFinished, LockState::Leased, false),
        (Scope::UntilFinished, LockState::Cooldown, false),
        (Scope::UntilExpired, LockState::Queued, false),
    ] {
        assert_eq!(
            waits_for_a_signal(&LockRecord { scope, ..lock(state) }),
            waits,
            "{scope:?} {state:?}"
        );
    }
}

#[test]
fn a_prefix_is_no_pattern() {
    assert_eq!(pattern("celery-task-meta-"), "celery-task-meta-*");
    assert_eq!(pattern("a[b]*?\\_celery-task-meta-"), "a\\[b\\]\\*\\?\\\\_celery-task-meta-*");
}

#[test]
fn times_are_spread() {
    for _ in 0..100 {
        let time = spread(Duration::from_secs(100));
        assert!((75..125).contains(&time.as_secs()), "{time:?}");
    }
}
