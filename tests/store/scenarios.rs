//! The semantics of the locks, the same for every store.

use std::collections::HashSet;
use std::sync::Arc;

use oncegate::rules::lock::{Acquired, Committed, Extent, LockState, ReleaseReason, Reply, Scope, Signal};
use oncegate::store::{Filter, QueueName};

use crate::world::{GRACE, LEASE, LIFE, World, acquire, claim, commit, digest, late, note, note_with, short_lease, signal};

scenarios! {
    first_takes_and_another_is_a_duplicate
    own_id_reenters_and_is_renewed
    known_id_reenters_when_another_holds
    duplicate_leaves_no_trace
    retries_are_never_duplicates
    late_commit_after_another_took_it_is_lost
    late_commit_takes_a_free_lock
    commit_without_acquire_takes_and_is_recorded
    repeated_requests_count_once
    unpublish_frees_when_nothing_is_in_flight
    unpublish_is_owner_checked
    renewal_prolongs_retakes_and_never_steals
    renewal_changes_no_committed_lock
    until_started_is_freed_by_any_settlement
    until_finished_without_late_acks_waits_for_its_ttl
    until_finished_with_late_acks_settles
    until_expired_is_freed_by_time_only
    late_ack_retry_keeps_the_lock
    publish_within_the_settle_grace_restores_the_lock
    repeated_settlement_takes_one
    settle_grace_ends
    signal_before_commit_until_started
    signal_before_commit_until_finished
    signal_before_commit_and_another_takes_it
    signal_before_commit_without_acquire
    retry_published_before_the_early_ack_retakes
    signal_of_a_lapsed_lock_marks_the_id
    later_signals_take_no_earlier_one_back
    observed_publish_that_has_ended_takes_nothing
    operator_releases
    lapsed_lock_is_free
    list_filters_and_pages
    the_clock_dates_the_locks
    one_batch_is_executed_in_order
    many_ask_and_one_wins
    strange_names_survive
    two_keys_of_one_id
}

async fn first_takes_and_another_is_a_duplicate(w: &World) {
    let note = note(Scope::UntilFinished);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    assert_eq!(w.acquire(&a, 1, &note).await, Acquired::Taken);
    assert_eq!(w.span(digest(1)).await, Some(LEASE));
    assert_eq!(w.acquire(&b, 2, &note).await, Acquired::Leased { holder: "a".into() });
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Held);
    let Acquired::Held {
        holder,
        state,
        expires_in_ms,
    } = w.acquire(&b, 2, &note).await
    else {
        panic!("not held")
    };
    assert_eq!((&*holder, state), ("a", LockState::Queued));
    assert!(expires_in_ms <= LIFE && expires_in_ms > LEASE);

    let lock = w.show(digest(1)).await.expect("held");
    assert_eq!(
        (&*lock.holder, lock.state, &*lock.rule, &*lock.task),
        ("a", LockState::Queued, "reports", "reports.generate")
    );
    assert_eq!(
        (&*lock.summary, &*lock.vhost, &*lock.queue, &*lock.proxy, &*lock.worker),
        ("customer_id", "shop", "celery", "proxy-1", "")
    );
    assert_eq!(
        (lock.scope, lock.in_flight, lock.shadow),
        (Extent::Publish(Scope::UntilFinished), 1, false)
    );
    assert!(lock.expires_ms - lock.since_ms >= LIFE);
    assert_eq!(w.acquire(&claim(2, "b"), 3, &note).await, Acquired::Taken, "another key");
}

async fn own_id_reenters_and_is_renewed(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    assert_eq!(w.acquire(&a, 2, &note).await, Acquired::Reentry { holds: true });
    assert!(w.span(digest(1)).await >= Some(LEASE));
    w.commit(&a, 1, &note).await;
    let full = w.span(digest(1)).await;
    assert!(full >= Some(LIFE));
    assert_eq!(w.acquire(&a, 3, &note).await, Acquired::Reentry { holds: true });
    assert_eq!(w.span(digest(1)).await, full, "never shortened");
    let lock = w.show(digest(1)).await.expect("held");
    assert_eq!((lock.state, lock.in_flight), (LockState::Queued, 3));
}

async fn known_id_reenters_when_another_holds(w: &World) {
    let short = short_lease(Scope::UntilFinished);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &short).await;
    w.until("the lease lapses", async || w.show(digest(1)).await.is_none()).await;
    assert_eq!(w.acquire(&b, 2, &note(Scope::UntilFinished)).await, Acquired::Taken);
    assert_eq!(w.acquire(&a, 3, &short).await, Acquired::Reentry { holds: false });
    let lock = w.show(digest(1)).await.expect("held");
    assert_eq!((&*lock.holder, lock.in_flight), ("b", 1));
}

async fn duplicate_leaves_no_trace(w: &World) {
    let note = note(Scope::UntilStarted);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &note).await;
    for _ in 0..2 {
        assert_eq!(w.acquire(&b, 2, &note).await, Acquired::Leased { holder: "a".into() });
    }
    w.commit(&a, 1, &note).await;
    for _ in 0..2 {
        assert!(matches!(w.acquire(&b, 2, &note).await, Acquired::Held { .. }));
    }
    assert_eq!(w.signal("b", 9, Signal::Acked).await, [], "an id without a record frees nothing");
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
}

async fn retries_are_never_duplicates(w: &World) {
    let note = note(Scope::UntilStarted);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    assert_eq!(w.acquire_as(&a, 1, &note, true).await, Acquired::Taken);
    assert_eq!(w.acquire_as(&b, 2, &note, true).await, Acquired::Reentry { holds: false });
    w.commit(&a, 1, &note).await;
    assert_eq!(w.acquire_as(&b, 3, &note, true).await, Acquired::Reentry { holds: false });
    assert_eq!(
        w.acquire(&b, 4, &note).await,
        Acquired::Reentry { holds: false },
        "known to the key by now"
    );
    assert_eq!(w.commit(&b, 3, &note).await, Committed::Lost { holder: "a".into() });
    assert_eq!(w.signal("b", 9, Signal::Acked).await, [], "b holds nothing");
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
}

async fn late_commit_after_another_took_it_is_lost(w: &World) {
    let short = short_lease(Scope::UntilFinished);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &short).await;
    w.until("the lease lapses", async || w.show(digest(1)).await.is_none()).await;
    let long = note(Scope::UntilFinished);
    w.acquire(&b, 2, &long).await;
    let before = w.show(digest(1)).await;
    assert_eq!(w.commit(&a, 1, &short).await, Committed::Lost { holder: "b".into() });
    assert_eq!(w.show(digest(1)).await, before, "nothing has changed");
    assert_eq!(w.commit(&b, 2, &long).await, Committed::Held);
    assert_eq!(w.commit(&a, 1, &short).await, Committed::Lost { holder: "b".into() });
}

async fn late_commit_takes_a_free_lock(w: &World) {
    let short = short_lease(Scope::UntilFinished);
    let a = claim(1, "a");
    w.acquire(&a, 1, &short).await;
    w.until("the lease lapses", async || w.show(digest(1)).await.is_none()).await;
    assert_eq!(w.commit(&a, 1, &short).await, Committed::Held);
    let lock = w.show(digest(1)).await.expect("held");
    assert_eq!((&*lock.holder, lock.state, lock.in_flight), ("a", LockState::Queued, 1));
    assert_eq!(lock.expires_ms - lock.since_ms, LIFE);
}

async fn commit_without_acquire_takes_and_is_recorded(w: &World) {
    let note = note(Scope::UntilStarted);
    assert_eq!(w.commit(&claim(1, "a"), 1, &note).await, Committed::Held);
    assert_eq!(w.span(digest(1)).await, Some(LIFE));
    assert!(matches!(w.acquire(&claim(1, "b"), 2, &note).await, Acquired::Held { .. }));
    assert_eq!(w.signal("a", 9, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn repeated_requests_count_once(w: &World) {
    let note = late();
    let a = claim(1, "a");
    assert_eq!(w.acquire(&a, 1, &note).await, Acquired::Taken);
    assert_eq!(
        w.acquire(&a, 1, &note).await,
        Acquired::Reentry { holds: true },
        "its first answer was lost"
    );
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Held);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Held);
    assert_eq!(w.show(digest(1)).await.expect("held").in_flight, 1);
    assert_eq!(
        w.commit(&a, 2, &note).await,
        Committed::Held,
        "another publish, whose acquire never came"
    );
    assert_eq!(w.show(digest(1)).await.expect("held").in_flight, 2);
    assert_eq!(w.signal("a", 8, Signal::Acked).await, []);
    assert_eq!(
        w.commit(&a, 1, &note).await,
        Committed::Held,
        "repeated after its message was settled"
    );
    assert_eq!(w.show(digest(1)).await.expect("held").in_flight, 1);
    assert_eq!(w.signal("a", 9, Signal::Acked).await, [ReleaseReason::Ended]);
}

async fn unpublish_frees_when_nothing_is_in_flight(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    let freed = w.unpublish(&a, 1, ReleaseReason::Returned).await;
    assert_eq!(freed.len(), 1);
    assert_eq!(
        (freed[0].digest, &*freed[0].holder, freed[0].reason),
        (digest(1), "a", ReleaseReason::Returned)
    );
    assert_eq!(
        (&*freed[0].rule, &*freed[0].task, freed[0].shadow),
        ("reports", "reports.generate", false)
    );
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.unpublish(&a, 1, ReleaseReason::Returned).await, [], "once");
    assert_eq!(w.acquire(&claim(1, "b"), 2, &note).await, Acquired::Taken);

    let c = claim(2, "c");
    w.acquire(&c, 1, &note).await;
    w.acquire(&c, 2, &note).await;
    w.commit(&c, 1, &note).await;
    assert_eq!(w.unpublish(&c, 2, ReleaseReason::Unconfirmed).await, [], "the first is still there");
    assert_eq!(
        w.unpublish(&c, 2, ReleaseReason::Unconfirmed).await,
        [],
        "a repetition takes no other"
    );
    let lock = w.show(digest(2)).await.expect("held");
    assert_eq!((lock.state, lock.in_flight), (LockState::Queued, 1));
    assert_eq!(w.unpublish(&c, 1, ReleaseReason::Unconfirmed).await.len(), 1, "after its commit");
    assert_eq!(w.show(digest(2)).await, None);
}

async fn unpublish_is_owner_checked(w: &World) {
    let short = short_lease(Scope::UntilFinished);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &short).await;
    w.until("the lease lapses", async || w.show(digest(1)).await.is_none()).await;
    w.acquire(&b, 2, &note(Scope::UntilFinished)).await;
    assert_eq!(w.unpublish(&a, 1, ReleaseReason::Unconfirmed).await, []);
    assert_eq!(
        w.unpublish(&b, 7, ReleaseReason::Unconfirmed).await,
        [],
        "a publish that was never counted"
    );
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
}

async fn renewal_prolongs_retakes_and_never_steals(w: &World) {
    let short = short_lease(Scope::UntilFinished);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &short).await;
    w.until("the lease lapses", async || w.show(digest(1)).await.is_none()).await;
    let long = note(Scope::UntilFinished);
    w.renew(&a, 1, &long).await;
    let lock = w.show(digest(1)).await.expect("retaken");
    assert_eq!((&*lock.holder, lock.state, lock.in_flight), ("a", LockState::Leased, 1));
    assert_eq!(lock.expires_ms - lock.since_ms, LEASE);
    let longer = note_with(Scope::UntilFinished, |note| note.lease_ms = 2 * LEASE);
    w.renew(&a, 1, &longer).await;
    assert!(w.span(digest(1)).await >= Some(2 * LEASE));
    let before = w.show(digest(1)).await;
    w.renew(&b, 2, &note_with(Scope::UntilFinished, |note| note.lease_ms = 3 * LEASE))
        .await;
    assert_eq!(w.show(digest(1)).await, before, "not b's");
    assert_eq!(w.commit(&a, 1, &long).await, Committed::Held);
}

async fn renewal_changes_no_committed_lock(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    let before = w.show(digest(1)).await;
    w.renew(&a, 1, &note).await;
    assert_eq!(w.show(digest(1)).await, before);
}

async fn until_started_is_freed_by_any_settlement(w: &World) {
    let note = note(Scope::UntilStarted);
    let signals = [
        (Signal::Acked, ReleaseReason::Started),
        (Signal::DeliveredNoAck, ReleaseReason::Started),
        (Signal::Rejected, ReleaseReason::Ended),
    ];
    for (key, (signal, reason)) in (1..).zip(signals) {
        let a = claim(key, &format!("a{key}"));
        w.acquire(&a, 1, &note).await;
        w.commit(&a, 1, &note).await;
        assert_eq!(w.signal(&a.id, 9, signal).await, [reason]);
        assert_eq!(w.show(digest(key)).await, None);
        assert_eq!(w.signal(&a.id, 9, signal).await, [], "once");
        assert_eq!(w.acquire(&claim(key, "b"), 2, &note).await, Acquired::Taken);
    }
}

async fn until_finished_without_late_acks_waits_for_its_ttl(w: &World) {
    let note = note(Scope::UntilFinished);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    assert_eq!(w.signal("a", 8, Signal::Acked).await, []);
    assert_eq!(w.signal("a", 9, Signal::DeliveredNoAck).await, []);
    assert!(w.span(digest(1)).await >= Some(LIFE));
    assert_eq!(w.signal("a", 10, Signal::Rejected).await, [ReleaseReason::Ended]);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn until_finished_with_late_acks_settles(w: &World) {
    let note = late();
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    assert_eq!(w.signal("a", 8, Signal::DeliveredNoAck).await, [], "no ack will say when it ends");
    assert!(w.span(digest(1)).await >= Some(LIFE));

    let b = claim(2, "b");
    w.acquire(&b, 1, &note).await;
    w.commit(&b, 1, &note).await;
    assert_eq!(w.signal("b", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    let lock = w.show(digest(2)).await.expect("held for the settle grace");
    assert_eq!((&*lock.holder, lock.in_flight), ("b", 0));
    assert!(lock.expires_ms - lock.since_ms < LEASE, "{}", lock.expires_ms - lock.since_ms);

    let c = claim(3, "c");
    w.acquire(&c, 1, &note).await;
    w.commit(&c, 1, &note).await;
    assert_eq!(w.signal("c", 8, Signal::Rejected).await, [ReleaseReason::Ended]);
    assert_eq!(w.show(digest(3)).await, None, "a rejection is not followed by a retry");
}

async fn until_expired_is_freed_by_time_only(w: &World) {
    let note = note(Scope::UntilExpired);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    assert_eq!(w.signal("a", 7, Signal::Acked).await, []);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Held, "whatever the worker has said");
    for (settlement, signal) in (8..).zip([Signal::Acked, Signal::DeliveredNoAck, Signal::Rejected]) {
        assert_eq!(w.signal("a", settlement, signal).await, []);
    }
    assert!(w.span(digest(1)).await >= Some(LIFE));
    let brief = note_with(Scope::UntilExpired, |note| note.life_ms = 30);
    w.commit(&claim(2, "b"), 1, &brief).await;
    w.until("its time is over", async || w.show(digest(2)).await.is_none()).await;
}

async fn late_ack_retry_keeps_the_lock(w: &World) {
    let note = late();
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    // The worker publishes the retry and then acknowledges the first run, which comes before the broker's confirm.
    assert_eq!(w.acquire_as(&a, 2, &note, true).await, Acquired::Reentry { holds: true });
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [], "the retry is in flight");
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Held);
    let lock = w.show(digest(1)).await.expect("held");
    assert_eq!((lock.in_flight, lock.state), (1, LockState::Queued));
    assert!(lock.expires_ms - lock.since_ms >= LIFE);
    assert!(matches!(w.acquire(&claim(1, "b"), 3, &note).await, Acquired::Held { .. }));
    assert_eq!(w.signal("a", 9, Signal::Acked).await, [ReleaseReason::Ended]);
}

async fn publish_within_the_settle_grace_restores_the_lock(w: &World) {
    let note = late();
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    assert_eq!(w.acquire_as(&a, 2, &note, true).await, Acquired::Reentry { holds: true });
    assert!(w.span(digest(1)).await >= Some(LEASE), "no longer the grace");
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Held);
    let lock = w.show(digest(1)).await.expect("held");
    assert_eq!(lock.in_flight, 1);
    assert!(lock.expires_ms - lock.since_ms >= LIFE);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Held, "a repeated commit changes nothing");
    assert_eq!(w.signal("a", 9, Signal::Acked).await, [ReleaseReason::Ended]);
}

async fn repeated_settlement_takes_one(w: &World) {
    let note = late();
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.acquire(&a, 2, &note).await;
    w.commit(&a, 1, &note).await;
    w.commit(&a, 2, &note).await;
    for _ in 0..3 {
        assert_eq!(w.signal("a", 8, Signal::Acked).await, []);
    }
    assert_eq!(w.show(digest(1)).await.expect("held").in_flight, 1);
    assert_eq!(w.signal("a", 9, Signal::Acked).await, [ReleaseReason::Ended]);
}

async fn settle_grace_ends(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.acks_late = true;
        note.settle_grace_ms = 20;
    });
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    w.until("the grace is over", async || w.show(digest(1)).await.is_none()).await;
    assert_eq!(
        w.commit(&a, 1, &note).await,
        Committed::Ended,
        "a repeated commit does not raise it from the dead"
    );
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.acquire(&claim(1, "b"), 2, &note).await, Acquired::Taken);
}

async fn signal_before_commit_until_started(w: &World) {
    let note = note(Scope::UntilStarted);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [ReleaseReason::Started]);
    w.renew(&a, 1, &note).await;
    assert_eq!(w.show(digest(1)).await, None, "a renewal does not retake it");
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Ended);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.acquire(&claim(1, "b"), 2, &note).await, Acquired::Taken);
    assert_eq!(w.acquire(&claim(2, "a"), 3, &note).await, Acquired::Taken, "another key of that id");
    assert_eq!(
        w.commit(&claim(2, "a"), 3, &note).await,
        Committed::Held,
        "only the settled publish is late"
    );
}

async fn signal_before_commit_until_finished(w: &World) {
    let a = claim(1, "a");
    w.acquire(&a, 1, &late()).await;
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    let grace = w.span(digest(1)).await;
    assert!(grace < Some(LEASE));
    w.renew(&a, 1, &late()).await;
    assert_eq!(w.commit(&a, 1, &late()).await, Committed::Ended);
    assert_eq!(w.span(digest(1)).await, grace, "neither renewed nor committed");

    let early = note(Scope::UntilFinished);
    let b = claim(2, "b");
    w.acquire(&b, 1, &early).await;
    assert_eq!(w.signal("b", 8, Signal::Acked).await, [], "started, not ended");
    assert_eq!(w.commit(&b, 1, &early).await, Committed::Held);
    let lock = w.show(digest(2)).await.expect("held");
    assert_eq!((lock.state, lock.in_flight), (LockState::Running, 0));
    assert!(lock.expires_ms - lock.since_ms >= LIFE);

    let c = claim(3, "c");
    w.acquire(&c, 1, &early).await;
    assert_eq!(w.signal("c", 8, Signal::Rejected).await, [ReleaseReason::Ended]);
    assert_eq!(w.commit(&c, 1, &early).await, Committed::Ended);
    assert_eq!(w.show(digest(3)).await, None);
}

async fn signal_before_commit_and_another_takes_it(w: &World) {
    let note = note(Scope::UntilStarted);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &note).await;
    w.signal("a", 8, Signal::Acked).await;
    assert_eq!(w.acquire(&b, 2, &note).await, Acquired::Taken);
    let before = w.show(digest(1)).await;
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Ended, "not lost: a has had its time");
    assert_eq!(w.show(digest(1)).await, before);
    assert_eq!(w.commit(&b, 2, &note).await, Committed::Held);
}

async fn signal_before_commit_without_acquire(w: &World) {
    let note = note(Scope::UntilStarted);
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [], "nothing is known of it");
    assert_eq!(w.commit(&claim(1, "a"), 1, &note).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
    w.signal("b", 8, Signal::Acked).await;
    assert_eq!(
        w.commit(&claim(2, "b"), 1, &note_with(Scope::UntilFinished, |_| {})).await,
        Committed::Held,
        "an early ack ends nothing"
    );
    w.signal("c", 8, Signal::Acked).await;
    assert_eq!(w.commit(&claim(3, "c"), 1, &late()).await, Committed::Ended);
    w.signal("d", 8, Signal::DeliveredNoAck).await;
    assert_eq!(w.commit(&claim(4, "d"), 1, &late()).await, Committed::Held);
}

async fn retry_published_before_the_early_ack_retakes(w: &World) {
    let note = note(Scope::UntilStarted);
    let a = claim(1, "a");
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    assert_eq!(w.acquire_as(&a, 2, &note, true).await, Acquired::Reentry { holds: true });
    assert_eq!(w.signal("a", 8, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.commit(&a, 1, &note).await, Committed::Ended, "the run that was acknowledged");
    assert_eq!(w.commit(&a, 2, &note).await, Committed::Held, "the retry waits for its own start");
    assert_eq!(w.signal("a", 9, Signal::Acked).await, [ReleaseReason::Started]);
}

async fn signal_of_a_lapsed_lock_marks_the_id(w: &World) {
    let short = short_lease(Scope::UntilStarted);
    let a = claim(1, "a");
    w.acquire(&a, 1, &short).await;
    w.until("the lease lapses", async || w.show(digest(1)).await.is_none()).await;
    assert_eq!(w.signal("a", 8, Signal::Acked).await, []);
    assert_eq!(w.commit(&a, 1, &short).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn later_signals_take_no_earlier_one_back(w: &World) {
    w.signal("a", 8, Signal::Acked).await;
    w.signal("a", 9, Signal::DeliveredNoAck).await;
    assert_eq!(
        w.commit(&claim(1, "a"), 1, &late()).await,
        Committed::Ended,
        "a weaker signal came after"
    );
    assert_eq!(w.show(digest(1)).await, None);

    let note = note(Scope::UntilStarted);
    let b = claim(2, "b");
    w.acquire(&b, 1, &note).await;
    assert_eq!(w.signal("b", 8, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(w.acquire_as(&b, 2, &note, true).await, Acquired::Taken);
    assert_eq!(w.signal("b", 9, Signal::Acked).await, [ReleaseReason::Started]);
    assert_eq!(w.commit(&b, 1, &note).await, Committed::Ended, "the first of two runs");
    assert_eq!(w.commit(&b, 2, &note).await, Committed::Ended, "the second");
    assert_eq!(w.show(digest(2)).await, None);
    assert_eq!(w.commit(&b, 3, &note).await, Committed::Held, "a third, which nobody has settled");

    let c = claim(3, "c");
    for number in 0..70 {
        w.acquire_as(&c, number, &note, true).await;
        w.signal("c", 100 + number, Signal::Acked).await;
    }
    for number in 0..70 {
        assert_eq!(w.commit(&c, number, &note).await, Committed::Ended, "run {number} of many");
    }
}

async fn observed_publish_that_has_ended_takes_nothing(w: &World) {
    // It went on its way unasked, and its worker may be quicker than the question about it.
    let observing = note_with(Scope::UntilStarted, |note| note.shadow = true);
    let a = claim(1, "a");
    w.signal("a", 8, Signal::Acked).await;
    assert_eq!(w.acquire(&a, 1, &observing).await, Acquired::Taken, "so it would have been");
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.commit(&a, 1, &observing).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);

    let b = claim(2, "b");
    w.signal("b", 8, Signal::Acked).await;
    assert_eq!(w.acquire(&b, 1, &note(Scope::UntilStarted)).await, Acquired::Taken);
    assert!(
        w.show(digest(2)).await.is_some(),
        "one that waits for the answer has not ended: it was another run"
    );

    let c = claim(3, "c");
    w.commit(&c, 1, &late()).await;
    assert_eq!(w.signal("c", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    let grace = w.span(digest(3)).await;
    assert_eq!(w.acquire(&c, 1, &late()).await, Acquired::Reentry { holds: true });
    assert_eq!(w.span(digest(3)).await, grace, "it is in its settle grace already");
    w.signal("c", 9, Signal::DeliveredNoAck).await;
    assert_eq!(w.span(digest(3)).await, grace);
}

async fn operator_releases(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| note.shadow = true);
    w.acquire(&claim(1, "a"), 1, &note).await;
    assert!(w.show(digest(1)).await.expect("held").shadow);
    assert_eq!(w.release(digest(1), Some("b")).await, []);
    let freed = w.release(digest(1), Some("a")).await;
    assert_eq!(
        (&*freed[0].holder, freed[0].reason, freed[0].shadow),
        ("a", ReleaseReason::Admin, true)
    );
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.release(digest(1), None).await, []);
    w.commit(&claim(1, "b"), 1, &note).await;
    assert_eq!(w.release(digest(1), None).await.len(), 1);
    assert_eq!(w.acquire(&claim(1, "c"), 1, &note).await, Acquired::Taken);
}

async fn lapsed_lock_is_free(w: &World) {
    let brief = note_with(Scope::UntilFinished, |note| note.life_ms = 30);
    w.commit(&claim(1, "a"), 1, &brief).await;
    w.until("its ttl is over", async || w.show(digest(1)).await.is_none()).await;
    assert_eq!(w.acquire(&claim(1, "b"), 2, &brief).await, Acquired::Taken);
    let page = w.client.list(&Filter::default(), None, 10).await.expect("a page");
    assert_eq!(page.locks.len(), 1);
}

async fn list_filters_and_pages(w: &World) {
    for key in 0..60 {
        let note = note_with(Scope::UntilFinished, |note| {
            note.rule = if key % 3 == 0 { "third".into() } else { "other".into() };
            note.task = format!("task.{}", key % 2).into();
            note.vhost = format!("v{}", key % 4).into();
            note.queue = format!("q{}", key % 5).into();
        });
        w.commit(&claim(key, "a"), u64::from(key), &note).await;
    }
    let mut seen = HashSet::new();
    let mut cursor = None;
    loop {
        let page = w.client.list(&Filter::default(), cursor.as_deref(), 7).await.expect("a page");
        seen.extend(page.locks.iter().map(|lock| lock.digest));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 60);
    let filter = Filter {
        rule: Some("third".into()),
        task: Some("task.0".into()),
        ..Filter::default()
    };
    let page = w.client.list(&filter, None, 1_000).await.expect("a page");
    assert_eq!((page.locks.len(), page.cursor), (10, None));
    assert!(page.locks.iter().all(|lock| &*lock.rule == "third" && &*lock.task == "task.0"));
    let name = |vhost: &str, queue: &str| QueueName {
        vhost: vhost.into(),
        queue: queue.into(),
    };
    let queues = HashSet::from([name("v0", "q0"), name("v1", "q1"), name("v9", "q0")]);
    let filter = Filter {
        queues: Some(queues),
        ..Filter::default()
    };
    let page = w.client.list(&filter, None, 1_000).await.expect("a page");
    let mut seen: Vec<u8> = page.locks.iter().map(|lock| lock.digest.0[0]).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 20, 21, 40, 41]);
}

async fn the_clock_dates_the_locks(w: &World) {
    let before = w.client.now_ms().await.expect("a time");
    w.commit(&claim(1, "a"), 1, &note(Scope::UntilFinished)).await;
    let after = w.client.now_ms().await.expect("a time");
    let since = w.show(digest(1)).await.expect("held").since_ms;
    assert!((before..=after).contains(&since), "{before} {since} {after}");
}

async fn one_batch_is_executed_in_order(w: &World) {
    let note = note(Scope::UntilStarted);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    let mut requests = vec![
        (10, acquire(&a, 1, &note, false)),
        (11, commit(&a, 1, &note)),
        (12, acquire(&b, 2, &note, false)),
        (13, signal("a", 3, Signal::Acked)),
        (14, acquire(&b, 2, &note, false)),
    ];
    let (reply_to, mut replies) = tokio::sync::mpsc::unbounded_channel();
    let mut answers = Vec::new();
    w.client.submit(&mut requests, &mut answers, &reply_to);
    assert!(requests.is_empty());
    while answers.len() < 5 {
        answers.push(replies.recv().await.expect("an answer"));
    }
    let tickets: Vec<_> = answers.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets, [10, 11, 12, 13, 14]);
    let mut replies = answers.into_iter().map(|(_, answer)| answer.expect("the store answers"));
    assert_eq!(replies.next(), Some(Reply::Acquire(Acquired::Taken)));
    assert_eq!(replies.next(), Some(Reply::Commit(Committed::Held)));
    assert!(matches!(replies.next(), Some(Reply::Acquire(Acquired::Held { .. }))));
    assert!(matches!(replies.next(), Some(Reply::Released(freed)) if freed.len() == 1));
    assert_eq!(replies.next(), Some(Reply::Acquire(Acquired::Taken)));
}

async fn many_ask_and_one_wins(w: &World) {
    let note = note(Scope::UntilFinished);
    for key in 1..=20 {
        let mut tasks = tokio::task::JoinSet::new();
        for publish in 0..20_u64 {
            let (client, note) = (w.store.client(), note.clone());
            tasks.spawn(async move {
                let claim = claim(key, &format!("id-{publish}"));
                client.ask(acquire(&claim, publish, &note, false)).await
            });
        }
        let answers = tasks.join_all().await;
        let taken = answers
            .iter()
            .filter(|answer| **answer == Ok(Reply::Acquire(Acquired::Taken)))
            .count();
        let leased = answers
            .iter()
            .filter(|answer| matches!(answer, Ok(Reply::Acquire(Acquired::Leased { .. }))))
            .count();
        assert_eq!((taken, leased), (1, 19));
    }
}

async fn strange_names_survive(w: &World) {
    let ids = ["", " ", "a b+c-d", "{x}", "\u{1F980}\0\r\n", &"long".repeat(20_000)];
    for (key, id) in (1..).zip(ids) {
        let note = note_with(Scope::UntilStarted, |note| {
            note.summary = format!("sum\0mary {}", "é".repeat(40_000)).into();
            note.task = format!("{id}*").into();
            note.vhost = "v\0 {é}".into();
            note.queue = "q\"\\".into();
        });
        let a = claim(key, id);
        assert_eq!(w.acquire(&a, u64::MAX, &note).await, Acquired::Taken);
        assert_eq!(w.commit(&a, u64::MAX, &note).await, Committed::Held);
        let lock = w.show(digest(key)).await.expect("held");
        assert_eq!(
            (&lock.holder, &lock.summary, &lock.task, &lock.vhost, &lock.queue),
            (&a.id, &note.summary, &note.task, &note.vhost, &note.queue)
        );
        assert_eq!(w.signal(id, 0, Signal::Acked).await, [ReleaseReason::Started]);
    }
}

async fn two_keys_of_one_id(w: &World) {
    let started = note(Scope::UntilStarted);
    let finished = late();
    let expired = Arc::new((*note_with(Scope::UntilExpired, |note| note.life_ms = 2 * LIFE)).clone());
    w.commit(&claim(1, "a"), 1, &started).await;
    w.commit(&claim(2, "a"), 2, &finished).await;
    w.commit(&claim(3, "a"), 3, &expired).await;
    let mut reasons = w.signal("a", 8, Signal::Acked).await;
    reasons.sort_by_key(|reason| reason.as_str());
    assert_eq!(reasons, [ReleaseReason::Ended, ReleaseReason::Started]);
    assert_eq!(w.show(digest(1)).await, None);
    assert!(w.span(digest(2)).await.expect("in its grace") <= GRACE + LEASE);
    assert_eq!(w.span(digest(3)).await, Some(2 * LIFE));
}
