//! Which signals a lock listens to, and what an acknowledgement says of a task whose way to acknowledge is learnt; the same for every store.

use std::sync::Arc;

use oncegate::rules::lock::{Acquired, Committed, LockNote, LockState, ReleaseReason, Scope, Signal};
use oncegate::rules::source::{Hears, Source};

use crate::life::{held, queued, tell, tell_by};
use crate::world::{GRACE, LIFE, World, claim, note, note_with};

scenarios! {
    source_that_is_not_listed_ends_nothing
    source_that_is_not_listed_starts_nothing
    ack_that_is_not_listed_ends_nothing_and_is_counted
    ack_alone_ends_what_listens_to_acks_alone
    what_is_no_question_of_completion_always_frees
    end_from_a_source_that_is_not_listed_stops_no_late_commit
    ack_of_a_run_that_began_long_before_ends_it
    ack_of_a_run_that_began_long_before_waits_for_its_retry
}

fn hearing(scope: Scope, sources: &[Source]) -> Arc<LockNote> {
    note_with(scope, |note| note.hears = Hears::only(sources.iter().copied()))
}

async fn source_that_is_not_listed_ends_nothing(w: &World) {
    let only_redis = hearing(Scope::UntilFinished, &[Source::Redis]);
    for (key, signal, reason) in [
        (1, Signal::Succeeded, ReleaseReason::Success),
        (2, Signal::Failed, ReleaseReason::Failure),
    ] {
        let id = format!("a{key}");
        queued(w, key, &id, &only_redis).await;
        for source in [Source::Events, Source::Rpc] {
            assert_eq!(tell_by(w, &id, signal, source).await, [], "{source:?}");
        }
        assert_eq!(held(w, key).await.state, LockState::Queued);
        assert_eq!(tell_by(w, &id, signal, Source::Redis).await, [reason]);
    }
}

async fn source_that_is_not_listed_starts_nothing(w: &World) {
    queued(w, 1, "a", &hearing(Scope::UntilStarted, &[Source::Events])).await;
    assert_eq!(tell_by(w, "a", Signal::Acked, Source::Ack).await, []);
    assert_eq!(tell_by(w, "a", Signal::Started, Source::Redis).await, []);
    assert_eq!(held(w, 1).await.state, LockState::Queued);
    assert_eq!(tell_by(w, "a", Signal::Started, Source::Events).await, [ReleaseReason::Started]);
    // One that lasts until the end shows that it runs, so that a revoke asked of all workers does not free it.
    queued(w, 2, "b", &hearing(Scope::UntilFinished, &[Source::Redis])).await;
    assert_eq!(tell_by(w, "b", Signal::Acked, Source::Ack).await, []);
    assert_eq!(held(w, 2).await.state, LockState::Running);
    assert_eq!(tell_by(w, "b", Signal::RevokeAsked, Source::Other).await, []);
}

async fn ack_that_is_not_listed_ends_nothing_and_is_counted(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.acks_late = true;
        note.hears = Hears::only([Source::Redis]);
    });
    queued(w, 1, "a", &note).await;
    assert_eq!(tell_by(w, "a", Signal::Acked, Source::Ack).await, []);
    let lock = held(w, 1).await;
    assert_eq!((lock.in_flight, lock.state), (0, LockState::Queued));
    assert!(lock.expires_ms - lock.since_ms > GRACE, "it does not go with the settle grace");
    assert_eq!(tell_by(w, "a", Signal::Succeeded, Source::Redis).await, [ReleaseReason::Success]);
}

async fn ack_alone_ends_what_listens_to_acks_alone(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.acks_late = true;
        note.hears = Hears::only([Source::Ack]);
    });
    queued(w, 1, "a", &note).await;
    for source in [Source::Events, Source::Rpc, Source::Redis] {
        assert_eq!(tell_by(w, "a", Signal::Succeeded, source).await, [], "{source:?}");
    }
    assert_eq!(tell_by(w, "a", Signal::Acked, Source::Ack).await, [ReleaseReason::Ended]);
}

async fn what_is_no_question_of_completion_always_frees(w: &World) {
    let only_redis = hearing(Scope::UntilFinished, &[Source::Redis]);
    for (key, signal, reason) in [
        (1, Signal::Rejected, ReleaseReason::Ended),
        (2, Signal::Revoked, ReleaseReason::Revoked),
        (3, Signal::RevokeAsked, ReleaseReason::Revoked),
        (4, Signal::Expired, ReleaseReason::Expired),
        (5, Signal::Crashed, ReleaseReason::Crash),
        (6, Signal::Purged, ReleaseReason::Purged),
    ] {
        let id = format!("a{key}");
        queued(w, key, &id, &only_redis).await;
        assert_eq!(tell_by(w, &id, signal, Source::Events).await, [reason]);
    }
}

async fn end_from_a_source_that_is_not_listed_stops_no_late_commit(w: &World) {
    let only_redis = hearing(Scope::UntilFinished, &[Source::Redis]);
    // Neither id is known yet: the signal of each overtakes the commit.
    assert_eq!(tell_by(w, "a", Signal::Succeeded, Source::Events).await, []);
    assert_eq!(w.commit(&claim(1, "a"), 1, &only_redis).await, Committed::Held);
    assert_eq!(tell_by(w, "b", Signal::Succeeded, Source::Events).await, []);
    assert_eq!(tell_by(w, "b", Signal::Succeeded, Source::Redis).await, []);
    assert_eq!(w.commit(&claim(2, "b"), 1, &only_redis).await, Committed::Ended);
    // The end that frees a lock, told by another source once more, is no end of a later publish of the id.
    queued(w, 3, "c", &only_redis).await;
    assert_eq!(tell_by(w, "c", Signal::Succeeded, Source::Redis).await, [ReleaseReason::Success]);
    assert_eq!(tell_by(w, "c", Signal::Succeeded, Source::Rpc).await, []);
    assert_eq!(tell_by(w, "c", Signal::Succeeded, Source::Redis).await, []);
    assert_eq!(w.commit(&claim(3, "c"), 2, &only_redis).await, Committed::Held);
}

async fn ack_of_a_run_that_began_long_before_ends_it(w: &World) {
    queued(w, 1, "a", &note(Scope::UntilFinished)).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(tell_by(w, "a", Signal::AckedLate, Source::Ack).await, [ReleaseReason::Ended]);
    let lock = held(w, 1).await;
    assert!(lock.expires_ms - lock.since_ms < LIFE, "it goes with the settle grace");
    // A start of which another source tells late brings it no new life.
    assert_eq!(tell(w, "a", Signal::Started).await, []);
    assert_eq!(held(w, 1).await.expires_ms, lock.expires_ms);
    queued(w, 2, "b", &note(Scope::UntilStarted)).await;
    assert_eq!(tell_by(w, "b", Signal::AckedLate, Source::Ack).await, [ReleaseReason::Started]);
}

async fn ack_of_a_run_that_began_long_before_waits_for_its_retry(w: &World) {
    let note = note(Scope::UntilFinished);
    let claim = queued(w, 1, "a", &note).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(w.acquire(&claim, 2, &note).await, Acquired::Reentry { holds: true });
    assert_eq!(tell_by(w, "a", Signal::AckedLate, Source::Ack).await, [], "the retry is in flight");
    assert_eq!(held(w, 1).await.in_flight, 1);
}
