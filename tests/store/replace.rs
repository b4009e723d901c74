//! Locks that change hands before their holders have begun.

use std::sync::Arc;

use oncegate::rules::lock::{
    Acquired, Admitted, Alive, Begun, Claim, Committed, IfHeld, LockNote, LockState, Nonce, ReleaseReason, Renewed, Reply, Request, Scope,
    Signal, Superseded,
};
use oncegate::rules::running::{IfBusy, Ran, RunNote};
use oncegate::rules::source::{Hears, Source};

use crate::world::{GRACE, LEASE, LIFE, World, claim, digest, note, note_with};

scenarios! {
    newer_takes_the_lock_and_the_older_is_dead_at_its_commit
    failed_newer_gives_the_lock_back
    lapsed_newer_gives_the_lock_back
    own_commit_after_an_unnoticed_lapse_still_replaces
    older_waits_at_its_delivery_while_the_newer_is_leased
    newer_of_a_newer_waits_for_it
    many_in_turn
    one_that_waited_does_not_replace_a_newer_one
    waiting_ones_replace_each_other_in_their_order
    one_that_waited_is_older_than_one_that_found_the_key_free
    begun_holder_is_not_replaced
    resting_key_is_not_replaced
    rule_that_does_not_replace_keeps_the_older
    retry_of_a_superseded_task_takes_nothing
    retry_while_the_newer_is_leased_counts_for_the_older
    signals_of_the_older_change_nothing_of_the_newer
    superseded_one_that_runs_is_told_once
    older_that_begins_meanwhile_is_told
    worker_of_a_superseded_retry_is_told_whatever_is_heard_of_an_earlier_run
    older_that_ends_meanwhile_is_not_dead
    older_that_fails_meanwhile_leaves_nothing_to_give_back
    delivery_of_the_newer_overtakes_its_commit
    start_of_the_newer_overtakes_its_commit
    newer_that_is_revoked_before_the_broker_has_it_leaves_the_older
    worker_of_the_older_is_told
    repeated_commit_tells_the_same
    older_is_renewed_while_it_is_set_aside
    operator_frees_both
    delivery_that_waits_for_a_run_hears_that_it_is_superseded
    life_of_the_dead_is_that_of_its_message
}

/// As a rule that replaces has it.
fn replacing(scope: Scope) -> Arc<LockNote> {
    note_with(scope, |note| note.if_held = IfHeld::Replace)
}

fn brief() -> Arc<LockNote> {
    note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::Replace;
        note.lease_ms = 20;
    })
}

fn replaces(holder: &str) -> Acquired {
    Acquired::Replaces { holder: holder.into() }
}

/// What a commit told of the older one.
fn superseded(committed: Committed) -> Superseded {
    match committed {
        Committed::Replaced(superseded) => *superseded,
        other => panic!("{other:?}"),
    }
}

async fn queued(w: &World, claim: &Claim, publish: u64, note: &Arc<LockNote>) {
    assert_eq!(w.acquire(claim, publish, note).await, Acquired::Taken);
    assert_eq!(w.commit(claim, publish, note).await, Committed::Held);
}

async fn admit(w: &World, claim: &Claim, delivery: u64, note: &Arc<LockNote>, worker: &str) -> Admitted {
    let request = Request::Admit {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: note.clone(),
        reentrant: false,
        worker: worker.into(),
    };
    match w.ask(request).await {
        Reply::Admit(_, admitted) => admitted,
        other => panic!("{other:?}"),
    }
}

fn leased(holder: &str) -> Admitted {
    Admitted::Leased { holder: holder.into() }
}

async fn newer_takes_the_lock_and_the_older_is_dead_at_its_commit(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    assert_eq!(w.acquire(&b, 2, &note).await, replaces("a"));
    let lock = w.show(digest(1)).await.expect("a lock");
    assert_eq!((&*lock.holder, lock.state), ("b", LockState::Leased));
    let older = superseded(w.commit(&b, 2, &note).await);
    assert_eq!((&*older.freed.holder, older.freed.reason), ("a", ReleaseReason::Replaced));
    assert_eq!((&*older.freed.rule, &*older.freed.task), ("reports", "reports.generate"));
    assert_eq!((&*older.vhost, &*older.worker, older.begun), ("shop", "", Begun::No));
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Superseded);
    assert_eq!(admit(w, &a, 12, &note, "w2").await, Admitted::Superseded, "whenever it comes");
    assert_eq!(admit(w, &b, 13, &note, "w1").await, Admitted::Holds);
    w.signal("b", 13, Signal::Succeeded).await;
    assert_eq!(w.holder(digest(1)).await, None);
    assert_eq!(
        admit(w, &a, 14, &note, "w1").await,
        Admitted::Superseded,
        "also when the key is free"
    );
}

async fn failed_newer_gives_the_lock_back(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Holds);
    let before = w.show(digest(1)).await;
    assert_eq!(w.acquire(&b, 2, &note).await, replaces("a"));
    let freed = w.unpublish(&b, 2, ReleaseReason::Returned).await;
    assert_eq!(
        freed.iter().map(|freed| (&*freed.holder, freed.reason)).collect::<Vec<_>>(),
        [("b", ReleaseReason::Returned)]
    );
    assert_eq!(w.show(digest(1)).await, before, "as it was");
    assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Holds);
    assert_eq!(w.acquire(&claim(1, "c"), 3, &note).await, replaces("a"));
}

async fn lapsed_newer_gives_the_lock_back(w: &World) {
    let (a, b, c, note) = (claim(1, "a"), claim(1, "b"), claim(1, "c"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    assert_eq!(w.acquire(&b, 2, &brief()).await, replaces("a"));
    w.until("the lease lapses", async || w.holder(digest(1)).await.as_deref() == Some("a"))
        .await;
    assert_eq!(w.show(digest(1)).await.expect("a lock").state, LockState::Queued);
    assert_eq!(w.commit(&b, 2, &brief()).await, Committed::Lost { holder: "a".into() });
    assert_eq!(w.acquire(&c, 3, &note).await, replaces("a"));
    assert_eq!(&*superseded(w.commit(&c, 3, &note).await).freed.holder, "a");
}

async fn own_commit_after_an_unnoticed_lapse_still_replaces(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    queued(w, &claim(2, "x"), 1, &note).await;
    assert_eq!(w.acquire(&b, 2, &brief()).await, replaces("a"));
    // Another key tells that the time has passed.
    assert_eq!(w.acquire(&claim(2, "y"), 2, &brief()).await, replaces("x"));
    w.until("the lease lapses", async || w.holder(digest(2)).await.as_deref() == Some("x"))
        .await;
    assert_eq!(&*superseded(w.commit(&b, 2, &brief()).await).freed.holder, "a");
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Superseded);
}

async fn older_waits_at_its_delivery_while_the_newer_is_leased(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    assert_eq!(w.acquire(&b, 2, &note).await, replaces("a"));
    assert_eq!(admit(w, &a, 11, &note, "w1").await, leased("b"));
    let again = Request::Admit {
        claim: a.clone(),
        delivery: Nonce(12),
        note: note.clone(),
        reentrant: true,
        worker: "w1".into(),
    };
    assert_eq!(w.ask(again).await, Reply::Admit(digest(1), leased("b")), "a redelivery, too");
    w.unpublish(&b, 2, ReleaseReason::Unconfirmed).await;
    assert_eq!(admit(w, &a, 13, &note, "w1").await, Admitted::Holds);
}

async fn newer_of_a_newer_waits_for_it(w: &World) {
    let (a, b, c, note) = (claim(1, "a"), claim(1, "b"), claim(1, "c"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    assert_eq!(w.acquire(&b, 2, &note).await, replaces("a"));
    assert_eq!(w.acquire(&c, 3, &note).await, Acquired::Leased { holder: "b".into() });
    w.unpublish(&b, 2, ReleaseReason::Unconfirmed).await;
    assert_eq!(w.acquire(&c, 3, &note).await, replaces("a"));
    w.commit(&c, 3, &note).await;
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Superseded);
}

async fn many_in_turn(w: &World) {
    let note = replacing(Scope::UntilStarted);
    let ids: Vec<Claim> = (0..12).map(|id| claim(1, &format!("id-{id}"))).collect();
    queued(w, &ids[0], 0, &note).await;
    for (at, pair) in ids.windows(2).enumerate() {
        let publish = at as u64 + 1;
        assert_eq!(w.acquire(&pair[1], publish, &note).await, replaces(&pair[0].id));
        assert_eq!(&*superseded(w.commit(&pair[1], publish, &note).await).freed.holder, &*pair[0].id);
    }
    for (at, id) in ids.iter().enumerate() {
        let admitted = admit(w, id, 100 + at as u64, &note, "w1").await;
        assert_eq!(admitted, if at == 11 { Admitted::Holds } else { Admitted::Superseded }, "{at}");
    }
}

async fn one_that_waited_does_not_replace_a_newer_one(w: &World) {
    let (first, b, c, last, note) = (
        claim(1, "a"),
        claim(1, "b"),
        claim(1, "c"),
        claim(1, "d"),
        replacing(Scope::UntilFinished),
    );
    queued(w, &first, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.acquire(&c, 3, &note).await, Acquired::Leased { holder: "b".into() });
    w.commit(&b, 2, &note).await;
    // It comes before the other has asked again.
    assert_eq!(w.acquire(&last, 4, &note).await, replaces("b"));
    assert_eq!(w.acquire(&c, 3, &note).await, Acquired::Leased { holder: "d".into() });
    w.commit(&last, 4, &note).await;
    assert_eq!(w.acquire(&c, 3, &note).await, Acquired::Outrun { holder: "d".into() });
    assert_eq!(
        w.acquire(&c, 3, &note).await,
        Acquired::Reentry { holds: false },
        "its answer may have been lost"
    );
    assert_eq!(admit(w, &c, 11, &note, "w1").await, Admitted::Superseded);
    assert_eq!(admit(w, &last, 12, &note, "w1").await, Admitted::Holds);
    assert_eq!(w.acquire(&claim(1, "e"), 5, &note).await, replaces("d"));
}

async fn waiting_ones_replace_each_other_in_their_order(w: &World) {
    let (first, b, c, last, note) = (
        claim(1, "a"),
        claim(1, "b"),
        claim(1, "c"),
        claim(1, "d"),
        replacing(Scope::UntilFinished),
    );
    queued(w, &first, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    for (id, publish) in [(&c, 3), (&last, 4)] {
        assert_eq!(w.acquire(id, publish, &note).await, Acquired::Leased { holder: "b".into() });
    }
    w.commit(&b, 2, &note).await;
    assert_eq!(w.acquire(&last, 4, &note).await, replaces("b"), "another proxy asks for it first");
    // Should it fail, the one that waits is the newest.
    w.unpublish(&last, 4, ReleaseReason::Unconfirmed).await;
    assert_eq!(w.acquire(&c, 3, &note).await, replaces("b"));
    w.commit(&c, 3, &note).await;
    assert_eq!(w.acquire(&last, 5, &note).await, replaces("c"), "it was published again");
}

async fn one_that_waited_is_older_than_one_that_found_the_key_free(w: &World) {
    let (b, c, d, note) = (claim(1, "b"), claim(1, "c"), claim(1, "d"), replacing(Scope::UntilStarted));
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.acquire(&c, 3, &note).await, Acquired::Leased { holder: "b".into() });
    w.commit(&b, 2, &note).await;
    w.signal("b", 11, Signal::Started).await;
    queued(w, &d, 4, &note).await;
    assert_eq!(w.acquire(&c, 3, &note).await, Acquired::Outrun { holder: "d".into() });
    assert_eq!(admit(w, &d, 12, &note, "w1").await, Admitted::Holds);
}

async fn begun_holder_is_not_replaced(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "w1").await;
    w.signal("a", 11, Signal::Started).await;
    let found = w.acquire(&b, 2, &note).await;
    assert!(
        matches!(&found, Acquired::Held { holder, state: LockState::Running, .. } if &**holder == "a"),
        "{found:?}"
    );
    assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Holds);
}

async fn resting_key_is_not_replaced(w: &World) {
    let cooling = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::Replace;
        note.cooldown_ms = LIFE;
    });
    queued(w, &claim(1, "a"), 1, &cooling).await;
    w.signal("a", 11, Signal::Succeeded).await;
    let found = w.acquire(&claim(1, "b"), 2, &cooling).await;
    assert!(
        matches!(
            found,
            Acquired::Held {
                state: LockState::Cooldown,
                ..
            }
        ),
        "{found:?}"
    );
    // One that has ended by its late ack and is about to go.
    let late = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::Replace;
        note.acks_late = true;
    });
    queued(w, &claim(2, "a2"), 1, &late).await;
    w.signal("a2", 12, Signal::Acked).await;
    let found = w.acquire(&claim(2, "b2"), 2, &late).await;
    assert!(
        matches!(
            found,
            Acquired::Held {
                expires_in_ms: ..=GRACE,
                ..
            }
        ),
        "{found:?}"
    );
}

async fn rule_that_does_not_replace_keeps_the_older(w: &World) {
    queued(w, &claim(1, "a"), 1, &replacing(Scope::UntilFinished)).await;
    let found = w.acquire(&claim(1, "b"), 2, &note(Scope::UntilFinished)).await;
    assert!(matches!(found, Acquired::Held { .. }), "{found:?}");
}

async fn retry_of_a_superseded_task_takes_nothing(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    for (publish, reentrant) in [(3, true), (4, false)] {
        let found = w.acquire_as(&a, publish, &note, reentrant).await;
        assert_eq!(found, Acquired::Reentry { holds: false });
        assert_eq!(w.commit(&a, publish, &note).await, Committed::Ended);
    }
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    w.signal("b", 13, Signal::Succeeded).await;
    for (publish, reentrant) in [(5, true), (6, false)] {
        let found = w.acquire_as(&a, publish, &note, reentrant).await;
        assert_eq!(found, Acquired::Reentry { holds: false }, "also when the key is free");
        assert_eq!(w.commit(&a, publish, &note).await, Committed::Ended);
    }
    assert_eq!(w.holder(digest(1)).await, None);
    assert_eq!(admit(w, &a, 14, &note, "w1").await, Admitted::Superseded);
}

async fn retry_while_the_newer_is_leased_counts_for_the_older(w: &World) {
    let late = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::Replace;
        note.acks_late = true;
    });
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    queued(w, &a, 1, &late).await;
    assert_eq!(w.acquire(&b, 2, &late).await, replaces("a"));
    assert_eq!(w.acquire_as(&a, 3, &late, true).await, Acquired::Reentry { holds: true });
    assert_eq!(w.commit(&a, 3, &late).await, Committed::Held);
    w.unpublish(&b, 2, ReleaseReason::Unconfirmed).await;
    let lock = w.show(digest(1)).await.expect("a lock");
    assert_eq!((&*lock.holder, lock.in_flight), ("a", 2));
}

async fn signals_of_the_older_change_nothing_of_the_newer(w: &World) {
    for (key, signal) in Signal::ALL.into_iter().enumerate() {
        let (a, b) = (claim(key as u8, &format!("a{key}")), claim(key as u8, &format!("b{key}")));
        let note = replacing(Scope::UntilFinished);
        queued(w, &a, 1, &note).await;
        w.acquire(&b, 2, &note).await;
        w.commit(&b, 2, &note).await;
        let before = w.show(b.digest).await;
        assert_eq!(w.signal(&a.id, 11, signal).await, [], "{signal:?}");
        assert_eq!(w.show(b.digest).await, before, "{signal:?}");
        assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Superseded, "{signal:?}");
    }
}

async fn superseded_one_that_runs_is_told_once(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    let said = async |signal| {
        let request = Request::Signal {
            id: "a".into(),
            settlement: Nonce(11),
            signal,
            source: Source::Events,
            worker: "w1".into(),
        };
        w.ask(request).await
    };
    // A worker acknowledges what it is told not to run, and says that it was revoked.
    for signal in [Signal::Acked, Signal::Revoked, Signal::Expired] {
        assert_eq!(said(signal).await, Reply::Released(Vec::new()), "{signal:?}");
    }
    match said(Signal::Started).await {
        Reply::Outlived { freed, ran } => {
            assert_eq!(freed, []);
            let ran: Vec<_> = ran.iter().map(|ran| (&*ran.holder, &*ran.rule, ran.reason)).collect();
            assert_eq!(ran, [("a", "reports", ReleaseReason::Replaced)]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(said(Signal::Succeeded).await, Reply::Released(Vec::new()));
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Superseded, "it does not run again");
}

async fn older_that_begins_meanwhile_is_told(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "w1").await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.signal("a", 11, Signal::Started).await, []);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"), "it stays the newer one's");
    assert_eq!(superseded(w.commit(&b, 2, &note).await).begun, Begun::Yes);
    // Had the newer one failed, a running lock would have come back.
    let (third, fourth) = (claim(2, "c"), claim(2, "d"));
    queued(w, &third, 1, &note).await;
    w.acquire(&fourth, 2, &note).await;
    w.signal("c", 11, Signal::Started).await;
    w.unpublish(&fourth, 2, ReleaseReason::Unconfirmed).await;
    assert_eq!(w.show(digest(2)).await.expect("a lock").state, LockState::Running);
}

async fn worker_of_a_superseded_retry_is_told_whatever_is_heard_of_an_earlier_run(w: &World) {
    let note = replacing(Scope::UntilFinished);
    let renew = |claim: &Claim| Request::Renew {
        claim: claim.clone(),
        delivery: Nonce(12),
        note: Arc::clone(&note),
        alive: Alive::Delivered,
        worker: "w2".into(),
    };
    for (key, heard_before_commit) in [(1, false), (2, true)] {
        let (a, b) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")));
        let start = async || {
            w.ask(Request::Signal {
                id: a.id.clone(),
                settlement: Nonce(11),
                signal: Signal::Started,
                source: Source::Events,
                worker: "w1".into(),
            })
            .await
        };
        queued(w, &a, 1, &note).await;
        admit(w, &a, 11, &note, "w1").await;
        start().await;
        w.acquire_as(&a, 2, &note, true).await;
        w.commit(&a, 2, &note).await;
        w.signal(&a.id, 11, Signal::Retried).await;
        admit(w, &a, 12, &note, "w2").await;
        w.acquire(&b, 3, &note).await;
        if heard_before_commit {
            start().await;
        }
        let begun = if heard_before_commit { Begun::Yes } else { Begun::No };
        assert_eq!(superseded(w.commit(&b, 3, &note).await).begun, begun);
        assert_eq!(w.ask(renew(&a)).await, Reply::Renewed(Renewed::Superseded));
        let told = matches!(start().await, Reply::Outlived { .. });
        assert_eq!(told, !heard_before_commit, "it is told once");
        assert_eq!(w.ask(renew(&a)).await, Reply::Renewed(Renewed::Superseded), "{key}");
    }
}

async fn older_that_ends_meanwhile_is_not_dead(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilStarted));
    queued(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "w1").await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.signal("a", 11, Signal::Started).await, [ReleaseReason::Started]);
    assert_eq!(w.commit(&b, 2, &note).await, Committed::Held, "there is nobody to replace");
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
}

async fn older_that_fails_meanwhile_leaves_nothing_to_give_back(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.unpublish(&a, 1, ReleaseReason::Returned).await.len(), 1);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    w.unpublish(&b, 2, ReleaseReason::Returned).await;
    assert_eq!(w.holder(digest(1)).await, None);
}

async fn delivery_of_the_newer_overtakes_its_commit(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(admit(w, &b, 11, &note, "w1").await, Admitted::Holds);
    assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Superseded, "the broker has it");
    assert_eq!(w.span(digest(1)).await.map(|span| span > LEASE), Some(true));
    assert_eq!(&*superseded(w.commit(&b, 2, &note).await).freed.holder, "a");
}

async fn newer_that_is_revoked_before_the_broker_has_it_leaves_the_older(w: &World) {
    for scope in [Scope::UntilStarted, Scope::UntilFinished] {
        let key = if scope == Scope::UntilStarted { 1 } else { 2 };
        let (a, b, note) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")), replacing(scope));
        queued(w, &a, 1, &note).await;
        w.acquire(&b, 2, &note).await;
        assert_eq!(w.signal(&b.id, 11, Signal::RevokeAsked).await, [ReleaseReason::Revoked]);
        assert_eq!(w.holder(digest(key)).await.as_deref(), Some(&*a.id));
        // Whether or not the broker takes its message after all.
        assert_eq!(w.commit(&b, 2, &note).await, Committed::Ended);
        assert_eq!(admit(w, &b, 12, &note, "w1").await, Admitted::Superseded);
        assert_eq!(admit(w, &a, 13, &note, "w1").await, Admitted::Holds);
    }
}

async fn start_of_the_newer_overtakes_its_commit(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilStarted));
    queued(w, &a, 1, &note).await;
    assert_eq!(admit(w, &a, 10, &note, "w1").await, Admitted::Holds);
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.signal("b", 11, Signal::Started).await, [ReleaseReason::Started]);
    assert_eq!(w.holder(digest(1)).await, None, "the older one is not holder again");
    let older = superseded(w.commit(&b, 2, &note).await);
    assert_eq!((&*older.freed.holder, &*older.worker), ("a", "w1"));
    assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Superseded);
}

async fn worker_of_the_older_is_told(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilStarted));
    queued(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "celery@one").await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(&*superseded(w.commit(&b, 2, &note).await).worker, "celery@one");
}

async fn repeated_commit_tells_the_same(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    let first = superseded(w.commit(&b, 2, &note).await);
    assert_eq!(
        superseded(w.commit(&b, 2, &note).await),
        first,
        "its first answer may have been lost"
    );
    w.acquire_as(&b, 3, &note, true).await;
    assert_eq!(
        w.commit(&b, 3, &note).await,
        Committed::Held,
        "another publish has superseded nobody"
    );
}

async fn older_is_renewed_while_it_is_set_aside(w: &World) {
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    let short = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::Replace;
        note.life_ms = 2 * LEASE;
    });
    queued(w, &a, 1, &short).await;
    admit(w, &a, 11, &short, "w1").await;
    w.acquire(&b, 2, &short).await;
    let renew = Request::Renew {
        claim: a.clone(),
        delivery: Nonce(11),
        note: replacing(Scope::UntilFinished),
        alive: Alive::Delivered,
        worker: "w1".into(),
    };
    assert_eq!(w.ask(renew.clone()).await, Reply::Renewed(Renewed::Held));
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    w.renew(&b, 2, &short).await;
    w.unpublish(&b, 2, ReleaseReason::Unconfirmed).await;
    let span = w.span(digest(1)).await.expect("a lock");
    assert!(span > 5 * LEASE, "{span}");
    w.acquire(&b, 3, &short).await;
    w.commit(&b, 3, &short).await;
    assert_eq!(w.ask(renew).await, Reply::Renewed(Renewed::Superseded));
}

async fn operator_frees_both(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilFinished));
    queued(w, &a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    assert_eq!(w.release(digest(1), Some("a")).await, [], "not the holder");
    assert_eq!(w.release(digest(1), None).await.len(), 1);
    assert_eq!(w.holder(digest(1)).await, None);
    assert_eq!(w.acquire(&claim(1, "c"), 3, &note).await, Acquired::Taken);
}

async fn delivery_that_waits_for_a_run_hears_that_it_is_superseded(w: &World) {
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), replacing(Scope::UntilStarted));
    let run = Arc::new(RunNote {
        rule: "reports".into(),
        task: "reports.generate".into(),
        summary: "".into(),
        vhost: "shop".into(),
        queue: "celery".into(),
        life_ms: LIFE,
        settle_grace_ms: GRACE,
        acks_late: false,
        hears: Hears::ALL,
        retries: 0,
        owed: oncegate::rules::owed::Owed::Nothing,
    });
    let ask = |claim: &Claim, delivery, place_ms| Request::Run {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: run.clone(),
        busy: IfBusy::Wait { place_ms },
        worker: "w1".into(),
    };
    assert_eq!(w.ask(ask(&claim(1, "x"), 9, None)).await, Reply::Run(Ran::Runs));
    queued(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "w1").await;
    let place_ms = match w.ask(ask(&a, 11, None)).await {
        Reply::Run(Ran::Waits { place_ms, .. }) => place_ms,
        other => panic!("{other:?}"),
    };
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    assert_eq!(w.ask(ask(&a, 11, Some(place_ms))).await, Reply::Run(Ran::Superseded));
    let ended = Request::Signal {
        id: "x".into(),
        settlement: Nonce(9),
        signal: Signal::Succeeded,
        source: Source::Events,
        worker: "w1".into(),
    };
    w.ask(ended).await;
    assert_eq!(w.ask(ask(&b, 12, None)).await, Reply::Run(Ran::Runs), "nobody waits before it");
}

async fn life_of_the_dead_is_that_of_its_message(w: &World) {
    const DAY: u64 = 24 * 3_600_000;
    let far = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::Replace;
        note.life_ms = 30 * DAY;
    });
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    queued(w, &a, 1, &far).await;
    w.acquire(&b, 2, &far).await;
    w.commit(&b, 2, &far).await;
    w.pass(31 * DAY - 1);
    assert_eq!(admit(w, &a, 11, &far, "w1").await, Admitted::Superseded);
}
