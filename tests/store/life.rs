//! The life of a lock between the publish and the end of the task, the same for every store.

use std::sync::Arc;

use oncegate::rules::lock::{
    Acquired, Admitted, Alive, Claim, Committed, Cooled, Digest, LockNote, LockRecord, LockState, Nonce, ReleaseOn, ReleaseReason, Renewed,
    Reply, Request, Running, Scope, Signal,
};
use oncegate::rules::source::Source;

use crate::world::{COOLDOWN, GRACE, LEASE, LIFE, World, claim, digest, late, note, note_with};

scenarios! {
    start_frees_until_started
    start_shows_the_worker_and_gives_the_full_life
    outcome_frees_until_finished
    outcome_before_the_commit_frees
    outcome_told_twice_ends_no_later_publish_of_the_id
    outcome_that_does_not_release_keeps_the_key_for_its_ttl
    success_is_followed_by_the_cooldown
    cooldown_survives_the_holders_late_commit
    late_ack_then_success_still_cools_down
    failure_knows_no_cooldown
    retry_cancels_the_settle_grace
    retry_that_is_heard_after_its_own_end_brings_nothing_back
    commit_that_comes_after_the_end_of_its_delivery
    commit_of_a_retry_that_has_begun
    publish_whose_confirm_is_lost_and_that_was_delivered
    start_that_comes_after_the_late_ack_changes_nothing
    revoke_of_a_waiting_holder_frees_and_kills
    revoke_of_a_running_holder_changes_nothing
    revoke_between_acquire_and_commit
    revoke_told_by_the_worker_frees
    expiry_kills_unless_it_runs
    lock_of_a_message_that_expires_goes_with_it
    purge_frees_what_no_worker_has_had
    crash_frees
    signal_of_a_former_holder_changes_nothing
    until_expired_ignores_every_signal
    admission_marks_the_holder_delivered
    admission_retakes_what_has_lapsed
    admission_finds_a_late_duplicate
    admission_lets_the_known_and_the_reentrant_pass
    admission_waits_for_a_lease
    admission_uses_the_key_of_the_ids_record
    admission_without_its_rule_passes
    admission_before_the_commit
    admission_in_the_cooldown_takes_nothing
    admission_of_until_expired_takes_nothing
    renewal_gives_the_full_life
    renewal_retakes_and_never_steals
    renewal_after_the_end_is_of_no_use
    renewals_after_the_end_never_bring_it_back
    renewal_of_what_runs_takes_a_lock_that_a_crash_frees
    locked_by_hand
    release_spares_what_runs
    renewal_does_not_undo_a_release
}

const WORKER: &str = "celery@one";

pub async fn tell(w: &World, id: &str, signal: Signal) -> Vec<ReleaseReason> {
    tell_by(w, id, signal, Source::Events).await
}

pub async fn tell_by(w: &World, id: &str, signal: Signal, source: Source) -> Vec<ReleaseReason> {
    let request = Request::Signal {
        id: id.into(),
        settlement: Nonce(77),
        signal,
        source,
        worker: WORKER.into(),
    };
    match w.ask(request).await {
        Reply::Released(freed) => freed.into_iter().map(|freed| freed.reason).collect(),
        other => panic!("{other:?}"),
    }
}

async fn admit(w: &World, claim: &Claim, delivery: u64, note: &Arc<LockNote>, reentrant: bool) -> (Digest, Admitted) {
    let request = Request::Admit {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: note.clone(),
        reentrant,
        worker: WORKER.into(),
    };
    match w.ask(request).await {
        Reply::Admit(digest, admitted) => (digest, admitted),
        other => panic!("{other:?}"),
    }
}

async fn renew(w: &World, claim: &Claim, note: &Arc<LockNote>, alive: Alive) -> Renewed {
    let request = Request::Renew {
        claim: claim.clone(),
        delivery: Nonce(500),
        note: note.clone(),
        alive,
        worker: WORKER.into(),
    };
    match w.ask(request).await {
        Reply::Renewed(renewed) => renewed,
        other => panic!("{other:?}"),
    }
}

/// A holder whose message the broker has.
pub async fn queued(w: &World, key: u8, id: &str, note: &Arc<LockNote>) -> Claim {
    let claim = claim(key, id);
    assert_eq!(w.acquire(&claim, 1, note).await, Acquired::Taken);
    assert_eq!(w.commit(&claim, 1, note).await, Committed::Held);
    claim
}

pub async fn held(w: &World, key: u8) -> LockRecord {
    w.show(digest(key)).await.expect("somebody holds it")
}

fn lapsing(scope: Scope) -> Arc<LockNote> {
    note_with(scope, |note| {
        note.life_ms = 20;
        note.lease_ms = 20;
    })
}

fn cooling() -> Arc<LockNote> {
    note_with(Scope::UntilFinished, |note| note.cooldown_ms = COOLDOWN)
}

async fn start_frees_until_started(w: &World) {
    let a = queued(w, 1, "a", &note(Scope::UntilStarted)).await;
    assert_eq!(tell(w, "a", Signal::Started).await, [ReleaseReason::Started]);
    assert_eq!(w.show(a.digest).await, None);
    assert_eq!(tell(w, "a", Signal::Started).await, [], "a repeat does nothing");
}

async fn start_shows_the_worker_and_gives_the_full_life(w: &World) {
    let a = claim(1, "a");
    w.acquire(&a, 1, &note(Scope::UntilFinished)).await;
    assert_eq!(w.span(digest(1)).await, Some(LEASE));
    assert_eq!(tell(w, "a", Signal::Started).await, []);
    let lock = held(w, 1).await;
    assert_eq!((lock.state, &*lock.worker), (LockState::Running, WORKER));
    assert!(lock.expires_ms - lock.since_ms >= LIFE, "the broker must have it");
    assert_eq!(w.commit(&a, 1, &note(Scope::UntilFinished)).await, Committed::Held);
    assert_eq!(held(w, 1).await.state, LockState::Running);
}

async fn outcome_frees_until_finished(w: &World) {
    for (key, signal, reason) in [
        (1, Signal::Succeeded, ReleaseReason::Success),
        (2, Signal::Failed, ReleaseReason::Failure),
    ] {
        queued(w, key, "a", &note(Scope::UntilFinished)).await;
        tell(w, "a", Signal::Started).await;
        assert_eq!(tell(w, "a", signal).await, [reason]);
        assert_eq!(w.show(digest(key)).await, None);
        assert_eq!(tell(w, "a", Signal::Started).await, [], "started never follows ended");
        assert_eq!(w.show(digest(key)).await, None);
    }
}

async fn outcome_before_the_commit_frees(w: &World) {
    let (a, note) = (claim(1, "a"), note(Scope::UntilFinished));
    w.acquire(&a, 1, &note).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn outcome_told_twice_ends_no_later_publish_of_the_id(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [], "another source says the same");
    // The store was silent when it was asked about this publish, which was forwarded.
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Held);
    assert!(w.span(digest(1)).await >= Some(LIFE));
}

async fn outcome_that_does_not_release_keeps_the_key_for_its_ttl(w: &World) {
    let on = |release_on| note_with(Scope::UntilFinished, |note| note.release_on = release_on);
    let cases = [(1, ReleaseOn::Success, Signal::Failed), (2, ReleaseOn::Failure, Signal::Succeeded)];
    for (key, release_on, other) in cases {
        let note = on(release_on);
        queued(w, key, "a", &note).await;
        assert_eq!(tell(w, "a", other).await, []);
        assert_eq!(held(w, key).await.state, LockState::Cooldown);
        assert!(matches!(w.acquire(&claim(key, "b"), 2, &note).await, Acquired::Held { expires_in_ms, .. } if expires_in_ms > LIFE / 2));
        assert_eq!(
            renew(w, &claim(key, "a"), &note, Alive::Acknowledged).await,
            Renewed::Gone,
            "what has ended is not renewed"
        );
        w.release(digest(key), None).await;
    }
    queued(w, 3, "a", &on(ReleaseOn::Failure)).await;
    assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure]);
}

async fn success_is_followed_by_the_cooldown(w: &World) {
    queued(w, 1, "a", &cooling()).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, []);
    let lock = held(w, 1).await;
    assert_eq!(lock.state, LockState::Cooldown);
    assert!(lock.expires_ms - lock.since_ms < 2 * COOLDOWN, "{lock:?}");
    let duplicate = w.acquire(&claim(1, "b"), 2, &cooling()).await;
    assert!(
        matches!(duplicate, Acquired::Held { state: LockState::Cooldown, expires_in_ms, .. } if expires_in_ms <= COOLDOWN),
        "{duplicate:?}"
    );
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [], "a repeat does nothing");
    assert_eq!(tell(w, "a", Signal::Failed).await, []);
    assert!(w.span(digest(1)).await < Some(2 * COOLDOWN));
}

async fn cooldown_survives_the_holders_late_commit(w: &World) {
    let a = claim(1, "a");
    w.acquire(&a, 1, &cooling()).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, []);
    assert_eq!(w.commit(&a, 1, &cooling()).await, Committed::Ended);
    let lock = held(w, 1).await;
    assert_eq!(lock.state, LockState::Cooldown);
    assert!(lock.expires_ms - lock.since_ms < 2 * COOLDOWN);
}

async fn late_ack_then_success_still_cools_down(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.acks_late = true;
        note.cooldown_ms = COOLDOWN;
    });
    queued(w, 1, "a", &note).await;
    assert_eq!(tell(w, "a", Signal::Acked).await, [ReleaseReason::Ended]);
    assert!(w.span(digest(1)).await < Some(GRACE + LEASE));
    assert_eq!(tell(w, "a", Signal::Succeeded).await, []);
    assert_eq!(held(w, 1).await.state, LockState::Cooldown);
    assert!(w.span(digest(1)).await >= Some(COOLDOWN));
}

async fn failure_knows_no_cooldown(w: &World) {
    queued(w, 1, "a", &cooling()).await;
    assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure]);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn retry_cancels_the_settle_grace(w: &World) {
    queued(w, 1, "a", &late()).await;
    assert_eq!(tell(w, "a", Signal::Acked).await, [ReleaseReason::Ended]);
    assert!(w.span(digest(1)).await < Some(LEASE));
    assert_eq!(tell(w, "a", Signal::Retried).await, []);
    let lock = held(w, 1).await;
    assert_eq!(lock.state, LockState::Queued);
    assert!(lock.expires_ms - lock.since_ms >= LIFE);
}

async fn retry_that_is_heard_after_its_own_end_brings_nothing_back(w: &World) {
    let a = queued(w, 1, "a", &late()).await;
    assert_eq!(w.acquire_as(&a, 2, &late(), true).await, Acquired::Reentry { holds: true });
    assert_eq!(w.commit(&a, 2, &late()).await, Committed::Held);
    assert_eq!(w.signal("a", 11, Signal::Acked).await, [], "the retry is under way");
    assert_eq!(w.signal("a", 12, Signal::Acked).await, [ReleaseReason::Ended]);
    let grace = w.span(digest(1)).await;
    assert_eq!(
        tell(w, "a", Signal::Retried).await,
        [],
        "the first run's word, past the end of the second"
    );
    assert_eq!(w.span(digest(1)).await, grace);
}

/// The retry is published before the ack of the first run is heard, delivered and started before the broker's word on it is.
async fn commit_that_comes_after_the_end_of_its_delivery(w: &World) {
    let note = note(Scope::UntilStarted);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(w.acquire_as(&a, 2, &note, true).await, Acquired::Reentry { holds: true });
    assert_eq!(w.signal("a", 11, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(admit(w, &a, 9, &note, true).await, (digest(1), Admitted::Holds));
    assert_eq!(w.signal("a", 12, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.acquire_as(&a, 3, &note, true).await, Acquired::Taken, "a later retry");
    assert_eq!(w.commit(&a, 3, &note).await, Committed::Held);
}

async fn commit_of_a_retry_that_has_begun(w: &World) {
    let note = note(Scope::UntilStarted);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(w.signal("a", 11, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(w.acquire_as(&a, 2, &note, true).await, Acquired::Taken);
    assert_eq!(admit(w, &a, 9, &note, true).await, (digest(1), Admitted::Holds));
    assert_eq!(
        tell(w, "a", Signal::Started).await,
        [ReleaseReason::Started],
        "the event comes before the ack"
    );
    assert_eq!(w.signal("a", 12, Signal::Acked).await, []);
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn publish_whose_confirm_is_lost_and_that_was_delivered(w: &World) {
    let a = claim(1, "a");
    assert_eq!(w.acquire(&a, 1, &late()).await, Acquired::Taken);
    assert_eq!(admit(w, &a, 9, &late(), false).await, (digest(1), Admitted::Holds));
    assert_eq!(w.unpublish(&a, 1, ReleaseReason::Unconfirmed).await, [], "a worker has it");
    assert_eq!(held(w, 1).await.in_flight, 1);
    assert_eq!(w.acquire_as(&a, 2, &late(), true).await, Acquired::Reentry { holds: true });
    assert_eq!(w.unpublish(&a, 2, ReleaseReason::Unconfirmed).await, [], "a retry that is lost");
    assert_eq!(w.signal("a", 12, Signal::Acked).await, [ReleaseReason::Ended]);
}

async fn start_that_comes_after_the_late_ack_changes_nothing(w: &World) {
    queued(w, 1, "a", &late()).await;
    assert_eq!(tell(w, "a", Signal::Acked).await, [ReleaseReason::Ended]);
    let grace = w.span(digest(1)).await;
    assert_eq!(tell(w, "a", Signal::Started).await, []);
    assert_eq!(w.span(digest(1)).await, grace);
}

async fn revoke_of_a_waiting_holder_frees_and_kills(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(tell(w, "a", Signal::RevokeAsked).await, [ReleaseReason::Revoked]);
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(
        admit(w, &a, 9, &note, true).await,
        (digest(1), Admitted::Superseded),
        "nor a redelivery"
    );
    assert_eq!(w.acquire(&a, 2, &note).await, Acquired::Reentry { holds: false });
    assert_eq!(
        w.acquire_as(&a, 3, &note, true).await,
        Acquired::Reentry { holds: false },
        "nor a retry"
    );
    assert_eq!(w.commit(&a, 3, &note).await, Committed::Ended);
    assert_eq!(renew(w, &a, &note, Alive::Acknowledged).await, Renewed::Gone);
    assert_eq!(w.show(digest(1)).await, None, "it takes no lock any more");
    let b = queued(w, 1, "b", &note).await;
    assert_eq!(admit(w, &a, 9, &note, false).await.1, Admitted::Superseded);
    assert_eq!(admit(w, &b, 10, &note, false).await.1, Admitted::Holds);
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [], "what it is worth is nobody's business");
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    assert_eq!(admit(w, &a, 11, &note, false).await.1, Admitted::Superseded, "a kill only marks");
}

async fn revoke_of_a_running_holder_changes_nothing(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(tell(w, "a", Signal::RevokeAsked).await, []);
    assert_eq!(held(w, 1).await.state, LockState::Running);
    assert_eq!(admit(w, &a, 9, &note, true).await.1, Admitted::Holds);
}

async fn revoke_between_acquire_and_commit(w: &World) {
    let (a, note) = (claim(1, "a"), note(Scope::UntilStarted));
    w.acquire(&a, 1, &note).await;
    assert_eq!(tell(w, "a", Signal::RevokeAsked).await, [ReleaseReason::Revoked]);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Ended);
    w.renew(&a, 1, &note).await;
    assert_eq!(w.show(digest(1)).await, None);
}

async fn revoke_told_by_the_worker_frees(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(tell(w, "a", Signal::Revoked).await, [ReleaseReason::Revoked]);
    assert_eq!(w.show(a.digest).await, None);
}

async fn expiry_kills_unless_it_runs(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(tell(w, "a", Signal::Expired).await, [ReleaseReason::Expired]);
    assert_eq!(admit(w, &a, 9, &note, false).await.1, Admitted::Superseded);
    let b = queued(w, 2, "b", &note).await;
    tell(w, "b", Signal::Started).await;
    assert_eq!(tell(w, "b", Signal::Expired).await, [ReleaseReason::Expired]);
    assert_eq!(admit(w, &b, 9, &note, true).await.1, Admitted::Holds);
}

async fn lock_of_a_message_that_expires_goes_with_it(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| note.unstarted_ms = Some(LEASE + 1));
    let a = queued(w, 1, "a", &note).await;
    assert!((LEASE + 1..LIFE).contains(&w.span(digest(1)).await.expect("held")));
    admit(w, &a, 9, &note, false).await;
    assert_eq!(renew(w, &a, &note, Alive::Delivered).await, Renewed::Held);
    assert!(w.span(digest(1)).await < Some(LIFE), "it has not begun");
    tell(w, "a", Signal::Started).await;
    assert!(w.span(digest(1)).await >= Some(LIFE));
    let soon = note_with(Scope::UntilFinished, |note| {
        note.lease_ms = 20;
        note.unstarted_ms = Some(20);
    });
    queued(w, 2, "a", &soon).await;
    w.until("the lock goes with its message", async || w.show(digest(2)).await.is_none())
        .await;
}

async fn purge_frees_what_no_worker_has_had(w: &World) {
    let note = note(Scope::UntilFinished);
    queued(w, 1, "a", &note).await;
    assert_eq!(tell(w, "a", Signal::Purged).await, [ReleaseReason::Purged]);
    let b = queued(w, 2, "b", &note).await;
    admit(w, &b, 9, &note, false).await;
    assert_eq!(tell(w, "b", Signal::Purged).await, []);
    assert_eq!(w.holder(digest(2)).await.as_deref(), Some("b"));
}

async fn crash_frees(w: &World) {
    for (key, scope) in [(1, Scope::UntilFinished), (2, Scope::UntilStarted)] {
        queued(w, key, "a", &note(scope)).await;
        assert_eq!(tell(w, "a", Signal::Crashed).await, [ReleaseReason::Crash]);
        assert_eq!(w.show(digest(key)).await, None);
    }
}

async fn signal_of_a_former_holder_changes_nothing(w: &World) {
    let note = note(Scope::UntilFinished);
    queued(w, 1, "a", &note).await;
    w.release(digest(1), None).await;
    queued(w, 1, "b", &note).await;
    for signal in Signal::ALL {
        assert_eq!(tell(w, "a", signal).await, [], "{signal:?}");
    }
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    assert_eq!(held(w, 1).await.state, LockState::Queued);
}

async fn until_expired_ignores_every_signal(w: &World) {
    queued(w, 1, "a", &note(Scope::UntilExpired)).await;
    for signal in Signal::ALL {
        assert_eq!(tell(w, "a", signal).await, [], "{signal:?}");
    }
    let lock = held(w, 1).await;
    assert_eq!((&*lock.holder, lock.state), ("a", LockState::Queued));
}

async fn admission_marks_the_holder_delivered(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(admit(w, &a, 9, &note, false).await, (digest(1), Admitted::Holds));
    let lock = held(w, 1).await;
    assert_eq!((lock.state, &*lock.worker, lock.in_flight), (LockState::Queued, WORKER, 1));
    assert_eq!(admit(w, &a, 9, &note, true).await, (digest(1), Admitted::Holds), "and again");
}

async fn admission_retakes_what_has_lapsed(w: &World) {
    let lapsing = lapsing(Scope::UntilFinished);
    let a = queued(w, 1, "a", &lapsing).await;
    w.until("the lock lapses", async || w.show(digest(1)).await.is_none()).await;
    let note = note(Scope::UntilFinished);
    assert_eq!(admit(w, &a, 9, &note, false).await, (digest(1), Admitted::Holds));
    let lock = held(w, 1).await;
    assert_eq!((&*lock.holder, lock.in_flight), ("a", 1));
    assert_eq!(
        tell(w, "a", Signal::Succeeded).await,
        [ReleaseReason::Success],
        "its record is back as well"
    );
}

async fn admission_finds_a_late_duplicate(w: &World) {
    let note = note(Scope::UntilFinished);
    queued(w, 1, "a", &note).await;
    let (_, admitted) = admit(w, &claim(1, "b"), 9, &note, false).await;
    assert!(
        matches!(&admitted, Admitted::Held { holder, state: LockState::Queued, .. } if **holder == *"a"),
        "{admitted:?}"
    );
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
}

async fn admission_lets_the_known_and_the_reentrant_pass(w: &World) {
    let note = note(Scope::UntilFinished);
    queued(w, 1, "a", &note).await;
    assert_eq!(admit(w, &claim(1, "b"), 9, &note, true).await.1, Admitted::Passes);
    let retry = claim(1, "c");
    assert_eq!(w.acquire_as(&retry, 5, &note, true).await, Acquired::Reentry { holds: false });
    assert_eq!(admit(w, &retry, 9, &note, false).await.1, Admitted::Passes);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
}

async fn admission_waits_for_a_lease(w: &World) {
    let note = note(Scope::UntilFinished);
    w.acquire(&claim(1, "a"), 1, &note).await;
    let (_, admitted) = admit(w, &claim(1, "b"), 9, &note, false).await;
    assert_eq!(admitted, Admitted::Leased { holder: "a".into() });
}

async fn admission_uses_the_key_of_the_ids_record(w: &World) {
    let note = note(Scope::UntilFinished);
    queued(w, 1, "a", &note).await;
    queued(w, 2, "other", &note).await;
    assert_eq!(admit(w, &claim(2, "a"), 9, &note, false).await, (digest(1), Admitted::Holds));
    assert_eq!(w.holder(digest(2)).await.as_deref(), Some("other"));
}

async fn admission_without_its_rule_passes(w: &World) {
    queued(w, 1, "a", &note(Scope::UntilFinished)).await;
    queued(w, 2, "other", &note(Scope::UntilFinished)).await;
    let renamed = note_with(Scope::UntilFinished, |note| note.rule = "renamed".into());
    assert_eq!(admit(w, &claim(2, "a"), 9, &renamed, false).await.1, Admitted::Passes);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"), "its lock lives on");
}

async fn admission_before_the_commit(w: &World) {
    let (a, note) = (claim(1, "a"), note(Scope::UntilFinished));
    w.acquire(&a, 1, &note).await;
    assert_eq!(admit(w, &a, 9, &note, false).await.1, Admitted::Holds);
    let lock = held(w, 1).await;
    assert_eq!((lock.state, lock.in_flight), (LockState::Queued, 1));
    assert!(lock.expires_ms - lock.since_ms >= LIFE);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Held);
    assert_eq!(held(w, 1).await.in_flight, 1);
}

async fn admission_in_the_cooldown_takes_nothing(w: &World) {
    let a = queued(w, 1, "a", &cooling()).await;
    tell(w, "a", Signal::Succeeded).await;
    assert_eq!(admit(w, &a, 9, &cooling(), true).await.1, Admitted::Passes);
    assert!(w.span(digest(1)).await < Some(2 * COOLDOWN));
}

async fn admission_of_until_expired_takes_nothing(w: &World) {
    let note = note(Scope::UntilExpired);
    assert_eq!(admit(w, &claim(1, "a"), 9, &note, false).await.1, Admitted::Passes);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn renewal_gives_the_full_life(w: &World) {
    let (a, note) = (claim(1, "a"), note(Scope::UntilFinished));
    w.acquire(&a, 1, &note).await;
    assert_eq!(w.span(digest(1)).await, Some(LEASE));
    assert_eq!(renew(w, &a, &note, Alive::Delivered).await, Renewed::Held);
    assert!(w.span(digest(1)).await >= Some(LIFE));
}

async fn renewal_retakes_and_never_steals(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    w.release(digest(1), None).await;
    assert_eq!(renew(w, &a, &note, Alive::Acknowledged).await, Renewed::Retaken);
    assert_eq!(held(w, 1).await.state, LockState::Running);
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    queued(w, 1, "b", &note).await;
    assert_eq!(renew(w, &a, &note, Alive::Acknowledged).await, Renewed::Gone);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
}

async fn renewals_after_the_end_never_bring_it_back(w: &World) {
    let note = note(Scope::UntilStarted);
    let a = queued(w, 1, "a", &note).await;
    assert_eq!(tell(w, "a", Signal::Started).await, [ReleaseReason::Started]);
    for round in 0..9 {
        w.pass(30_000);
        assert_eq!(renew(w, &a, &note, Alive::Delivered).await, Renewed::Gone);
        match round {
            3 => drop(queued(w, 1, "b", &note).await),
            6 => assert_eq!(tell(w, "b", Signal::Started).await, [ReleaseReason::Started]),
            _ => {}
        }
    }
}

async fn renewal_of_what_runs_takes_a_lock_that_a_crash_frees(w: &World) {
    let note = note(Scope::UntilFinished);
    for (key, alive) in [(1, Alive::Acknowledged), (2, Alive::Begun), (3, Alive::Delivered)] {
        let id = format!("task {key}");
        let lost = claim(key, &id);
        assert_eq!(renew(w, &lost, &note, alive).await, Renewed::Retaken);
        let lock = held(w, key).await;
        let lost = alive == Alive::Acknowledged;
        assert_eq!((&*lock.worker, lock.in_flight), (WORKER, u32::from(!lost)));
        assert_eq!(lock.state == LockState::Running, alive.runs());
        let freed = tell(w, &id, Signal::Orphaned).await;
        assert_eq!(!freed.is_empty(), lost, "a message in flight runs elsewhere");
        assert_eq!(tell(w, &id, Signal::Purged).await, [], "a worker has it");
    }
}

async fn renewal_after_the_end_is_of_no_use(w: &World) {
    let cases = [
        (1, note(Scope::UntilFinished), Signal::Succeeded),
        (2, note(Scope::UntilStarted), Signal::Started),
        (3, note(Scope::UntilFinished), Signal::Revoked),
    ];
    for (key, note, signal) in cases {
        let id = format!("task {key}");
        let a = queued(w, key, &id, &note).await;
        tell(w, &id, signal).await;
        assert_eq!(renew(w, &a, &note, Alive::Acknowledged).await, Renewed::Gone);
        assert_eq!(w.show(digest(key)).await, None);
    }
    let a = queued(w, 4, "late", &late()).await;
    tell(w, "late", Signal::Acked).await;
    assert_eq!(renew(w, &a, &late(), Alive::Acknowledged).await, Renewed::Gone);
    assert!(w.span(digest(4)).await < Some(LEASE), "its grace goes on");
}

async fn locked_by_hand(w: &World) {
    let by_hand = claim(1, "operator");
    let cool = |note: Arc<LockNote>| Request::Cool {
        claim: by_hand.clone(),
        note,
    };
    assert_eq!(w.ask(cool(cooling())).await, Reply::Cooled(Cooled::Locked));
    let lock = held(w, 1).await;
    assert_eq!((lock.state, lock.expires_ms - lock.since_ms), (LockState::Cooldown, COOLDOWN));
    assert_eq!(lock.in_flight, 0, "there is no message");
    assert!(matches!(w.acquire(&claim(1, "a"), 1, &cooling()).await, Acquired::Held { .. }));
    let longer = note_with(Scope::UntilFinished, |note| note.cooldown_ms = 10 * COOLDOWN);
    assert_eq!(w.ask(cool(longer)).await, Reply::Cooled(Cooled::Locked));
    assert!(w.span(digest(1)).await >= Some(10 * COOLDOWN));
    queued(w, 2, "a", &cooling()).await;
    let busy = Request::Cool {
        claim: claim(2, "operator"),
        note: cooling(),
    };
    assert_eq!(w.ask(busy).await, Reply::Cooled(Cooled::Held { holder: "a".into() }));
}

async fn release_spares_what_runs(w: &World) {
    let note = note(Scope::UntilFinished);
    queued(w, 1, "a", &note).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(w.release_if(digest(1), Some("a"), Running::Skip).await, []);
    assert_eq!(held(w, 1).await.state, LockState::Running);
    assert_eq!(w.release_if(digest(1), Some("a"), Running::Include).await.len(), 1);
    queued(w, 1, "b", &note).await;
    assert_eq!(w.release_if(digest(1), Some("b"), Running::Skip).await.len(), 1, "it only waits");
}

async fn renewal_does_not_undo_a_release(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = queued(w, 1, "a", &note).await;
    admit(w, &a, 9, &note, false).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(w.release(digest(1), None).await.len(), 1);
    assert_eq!(renew(w, &a, &note, Alive::Acknowledged).await, Renewed::Gone);
    assert_eq!(w.show(digest(1)).await, None);
    // Its retry, and its redelivery, are calls like any other.
    assert_eq!(w.acquire(&a, 2, &note).await, Acquired::Taken);
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Held);
    assert_eq!(renew(w, &a, &note, Alive::Acknowledged).await, Renewed::Held);
}
