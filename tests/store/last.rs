//! Keys whose newest duplicate waits for the end of the holder.

use std::sync::Arc;

use oncegate::rules::lock::{
    Acquired, Admitted, Alive, Claim, Committed, IfHeld, LockNote, LockState, Nonce, ReleaseReason, Renewed, Reply, Request, Running,
    Scope, Signal,
};
use oncegate::rules::owed::{Owed, Via};
use oncegate::rules::source::Source;
use oncegate::store::Filter;

use crate::world::{World, claim, digest, note_with};

scenarios! {
    duplicate_waits_and_has_the_lock_after_the_end
    newest_of_those_that_wait_is_kept
    every_end_of_the_holder_passes_the_lock_on
    settle_grace_passes_the_lock_on
    lapsed_lock_is_taken_by_the_one_that_waits
    lapsed_lock_goes_to_the_one_that_waits_before_a_newer
    failed_newer_leaves_the_older_waiting
    lapsed_newer_leaves_the_older_waiting
    end_of_the_holder_while_a_newer_is_leased
    failed_newer_that_has_the_lock_by_now_gives_it_to_the_older
    commit_that_comes_after_the_end
    newest_waits_behind_a_holder_that_is_only_leased
    holder_that_fails_passes_the_lock_on
    retry_of_the_holder_keeps_the_lock
    one_that_waits_is_renewed
    one_that_waits_and_is_revoked_leaves_its_place
    one_that_waits_and_whose_queue_is_purged_leaves_its_place
    place_that_has_lapsed_is_taken_again
    late_one_takes_a_free_place
    late_one_is_newer_than_what_was_delivered
    late_one_is_older_than_what_was_not
    redelivered_one_is_neither_lost_nor_let_past
    waiting_ones_keep_their_order
    both_are_listed
    operator_frees_the_holder_and_the_other_has_the_lock
    superseded_ones_get_the_result_of_the_newest
    observing_rule_counts_alike
    rule_that_replaces_by_now_keeps_who_waits
}

fn keeping() -> Arc<LockNote> {
    note_with(Scope::UntilFinished, |note| note.if_held = IfHeld::KeepLast)
}

fn brief() -> Arc<LockNote> {
    note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::KeepLast;
        note.lease_ms = 20;
    })
}

fn kept(holder: &str) -> Acquired {
    Acquired::Kept { holder: holder.into() }
}

fn outdated(newer: &str) -> Admitted {
    Admitted::Outdated { newer: newer.into() }
}

async fn ask(w: &World, claim: &Claim, delivery: u64, note: &Arc<LockNote>, reentrant: bool) -> Admitted {
    let request = Request::Admit {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: note.clone(),
        reentrant,
        worker: "w1".into(),
    };
    match w.ask(request).await {
        Reply::Admit(_, admitted) => admitted,
        other => panic!("{other:?}"),
    }
}

async fn admit(w: &World, claim: &Claim, delivery: u64, note: &Arc<LockNote>) -> Admitted {
    ask(w, claim, delivery, note, false).await
}

async fn waits(w: &World, claim: &Claim, delivery: u64, note: &Arc<LockNote>, behind: &str) {
    match admit(w, claim, delivery, note).await {
        Admitted::Waits { holder, .. } => assert_eq!(&*holder, behind),
        other => panic!("{other:?}"),
    }
}

/// `a` holds the key and runs.
async fn running(w: &World, note: &Arc<LockNote>) -> Claim {
    let a = claim(1, "a");
    assert_eq!(w.acquire(&a, 1, note).await, Acquired::Taken);
    assert_eq!(w.commit(&a, 1, note).await, Committed::Held);
    assert_eq!(admit(w, &a, 11, note).await, Admitted::Holds);
    w.signal("a", 11, Signal::Acked).await;
    a
}

/// The id publishes and waits.
async fn waiting(w: &World, id: &str, publish: u64, note: &Arc<LockNote>) -> Claim {
    let claim = claim(1, id);
    assert!(matches!(w.acquire(&claim, publish, note).await, Acquired::Kept { .. }));
    w.commit(&claim, publish, note).await;
    claim
}

async fn says(w: &World, id: &str, signal: Signal) {
    let request = Request::Signal {
        id: id.into(),
        settlement: Nonce(0),
        signal,
        source: Source::Events,
        worker: "".into(),
    };
    w.ask(request).await;
}

async fn holder(w: &World) -> Option<String> {
    w.holder(digest(1)).await
}

async fn duplicate_waits_and_has_the_lock_after_the_end(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = claim(1, "b");
    assert_eq!(w.acquire(&b, 2, &note).await, kept("a"));
    assert_eq!(w.commit(&b, 2, &note).await, Committed::Held);
    for _ in 0..3 {
        waits(w, &b, 12, &note, "a").await;
    }
    assert_eq!(w.signal("a", 11, Signal::Succeeded).await, [ReleaseReason::Success]);
    let lock = w.show(digest(1)).await.expect("a lock");
    assert_eq!((&*lock.holder, lock.state, &*lock.worker), ("b", LockState::Queued, ""));
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
    assert_eq!(&*w.show(digest(1)).await.expect("a lock").worker, "w1");
    assert_eq!(w.signal("b", 12, Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(holder(w).await, None);
}

async fn newest_of_those_that_wait_is_kept(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    waits(w, &b, 12, &note, "a").await;
    let newest = claim(1, "c");
    assert_eq!(w.acquire(&newest, 3, &note).await, kept("a"));
    assert!(
        matches!(admit(w, &b, 12, &note).await, Admitted::Leased { .. }),
        "the newer may fail"
    );
    let Committed::Replaced(older) = w.commit(&newest, 3, &note).await else {
        panic!("replaced")
    };
    assert_eq!((&*older.freed.holder, &*older.worker), ("b", ""), "no worker has it");
    assert_eq!(admit(w, &b, 12, &note).await, outdated("c"));
    waits(w, &newest, 13, &note, "a").await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &newest, 13, &note).await, Admitted::Holds);
    assert_eq!(admit(w, &b, 14, &note).await, outdated("c"), "whenever it comes");
}

async fn every_end_of_the_holder_passes_the_lock_on(w: &World) {
    let note = keeping();
    for (key, signal) in (10..).zip([
        Signal::Succeeded,
        Signal::Failed,
        Signal::Revoked,
        Signal::Rejected,
        Signal::Crashed,
        Signal::Expired,
        Signal::RevokeAsked,
        Signal::Purged,
    ]) {
        let (a, b) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")));
        w.acquire(&a, 1, &note).await;
        w.commit(&a, 1, &note).await;
        assert!(matches!(w.acquire(&b, 2, &note).await, Acquired::Kept { .. }));
        w.commit(&b, 2, &note).await;
        says(w, &a.id, signal).await;
        assert_eq!(w.holder(digest(key)).await.as_deref(), Some(&*b.id), "{signal:?}");
        assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
    }
}

async fn settle_grace_passes_the_lock_on(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::KeepLast;
        note.acks_late = true;
        note.settle_grace_ms = 20;
    });
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    admit(w, &a, 11, &note).await;
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    w.signal("a", 11, Signal::Acked).await;
    w.until("the grace passes", async || admit(w, &b, 12, &note).await == Admitted::Holds)
        .await;
}

async fn lapsed_lock_is_taken_by_the_one_that_waits(w: &World) {
    let short = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::KeepLast;
        note.lease_ms = 20;
        note.life_ms = 30;
    });
    let (a, b, note) = (claim(1, "a"), claim(1, "b"), keeping());
    w.acquire(&a, 1, &short).await;
    w.commit(&a, 1, &short).await;
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    w.until("the lock lapses", async || admit(w, &b, 12, &note).await == Admitted::Holds)
        .await;
    let renew = Request::Renew {
        claim: a,
        delivery: Nonce(11),
        note: short,
        alive: Alive::Begun,
        worker: "w1".into(),
    };
    assert_eq!(w.ask(renew).await, Reply::Renewed(Renewed::Gone));
}

async fn lapsed_lock_goes_to_the_one_that_waits_before_a_newer(w: &World) {
    let short = brief();
    let (a, b, newest, note) = (claim(1, "a"), claim(1, "b"), claim(1, "c"), keeping());
    w.acquire(&a, 1, &short).await;
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    w.acquire(&claim(2, "other"), 1, &short).await;
    w.until("a lease lapses", async || w.holder(digest(2)).await.is_none()).await;
    assert_eq!(w.acquire(&newest, 3, &note).await, kept("b"));
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
    w.commit(&newest, 3, &note).await;
    waits(w, &newest, 13, &note, "b").await;
}

async fn failed_newer_leaves_the_older_waiting(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let newest = claim(1, "c");
    w.acquire(&newest, 3, &note).await;
    w.unpublish(&newest, 3, ReleaseReason::Returned).await;
    waits(w, &b, 12, &note, "a").await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
}

async fn lapsed_newer_leaves_the_older_waiting(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let newest = claim(1, "c");
    assert_eq!(w.acquire(&newest, 3, &brief()).await, kept("a"));
    w.acquire(&claim(2, "other"), 1, &brief()).await;
    w.until("a lease lapses", async || w.holder(digest(2)).await.is_none()).await;
    w.signal("a", 11, Signal::Succeeded).await;
    w.until("it has the lock", async || admit(w, &b, 12, &note).await == Admitted::Holds)
        .await;
}

async fn end_of_the_holder_while_a_newer_is_leased(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let newest = claim(1, "c");
    w.acquire(&newest, 3, &note).await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert!(matches!(admit(w, &b, 12, &note).await, Admitted::Leased { .. }));
    assert!(matches!(w.commit(&newest, 3, &note).await, Committed::Replaced(_)));
    assert_eq!(admit(w, &b, 12, &note).await, outdated("c"));
    assert_eq!(admit(w, &newest, 13, &note).await, Admitted::Holds);
}

async fn failed_newer_that_has_the_lock_by_now_gives_it_to_the_older(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let newer = claim(1, "c");
    w.acquire(&newer, 3, &note).await;
    w.signal("a", 11, Signal::Succeeded).await;
    let last = claim(1, "d");
    assert_eq!(w.acquire(&last, 4, &note).await, kept("c"));
    w.unpublish(&newer, 3, ReleaseReason::Unconfirmed).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
    w.commit(&last, 4, &note).await;
    waits(w, &last, 14, &note, "b").await;
    w.signal("b", 12, Signal::Succeeded).await;
    assert_eq!(admit(w, &last, 14, &note).await, Admitted::Holds);
}

async fn commit_that_comes_after_the_end(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = claim(1, "b");
    w.acquire(&b, 2, &note).await;
    waits(w, &b, 12, &note, "a").await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
    w.signal("b", 12, Signal::Acked).await;
    w.signal("b", 12, Signal::Succeeded).await;
    assert_eq!(w.commit(&b, 2, &note).await, Committed::Ended);
    assert_eq!(holder(w).await, None);
}

async fn newest_waits_behind_a_holder_that_is_only_leased(w: &World) {
    let note = keeping();
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &note).await;
    assert_eq!(w.acquire(&b, 2, &note).await, kept("a"));
    w.commit(&b, 2, &note).await;
    w.commit(&a, 1, &note).await;
    waits(w, &b, 12, &note, "a").await;
    assert_eq!(admit(w, &a, 11, &note).await, Admitted::Holds);
}

async fn holder_that_fails_passes_the_lock_on(w: &World) {
    let note = keeping();
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    w.unpublish(&a, 1, ReleaseReason::Returned).await;
    assert_eq!(w.commit(&b, 2, &note).await, Committed::Held);
    assert_eq!(holder(w).await.as_deref(), Some("b"));
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
}

async fn retry_of_the_holder_keeps_the_lock(w: &World) {
    let note = keeping();
    let a = running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    assert_eq!(w.acquire_as(&a, 3, &note, true).await, Acquired::Reentry { holds: true });
    w.commit(&a, 3, &note).await;
    w.signal("a", 0, Signal::Retried).await;
    waits(w, &b, 12, &note, "a").await;
    assert_eq!(ask(w, &a, 13, &note, true).await, Admitted::Holds);
    w.signal("a", 13, Signal::Succeeded).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
}

async fn one_that_waits_is_renewed(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.if_held = IfHeld::KeepLast;
        note.life_ms = 400;
    });
    running(w, &keeping()).await;
    let b = waiting(w, "b", 2, &note).await;
    let began = w.client.now_ms().await.expect("the time");
    let mut beat = 0;
    w.until("its first life passes", async || {
        let now = w.client.now_ms().await.expect("the time");
        if now > began + beat * 50 {
            beat += 1;
            let renew = Request::Renew {
                claim: b.clone(),
                delivery: Nonce(12),
                note: note.clone(),
                alive: Alive::Delivered,
                worker: "".into(),
            };
            assert_eq!(w.ask(renew).await, Reply::Renewed(Renewed::Held));
        }
        now > began + 600
    })
    .await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(holder(w).await.as_deref(), Some("b"));
}

async fn one_that_waits_and_is_revoked_leaves_its_place(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    assert_eq!(w.signal("b", 0, Signal::RevokeAsked).await, [ReleaseReason::Revoked]);
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Superseded, "its worker tells so");
    assert_eq!(holder(w).await.as_deref(), Some("a"));
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(holder(w).await, None);
}

async fn one_that_waits_and_whose_queue_is_purged_leaves_its_place(w: &World) {
    let note = keeping();
    running(w, &note).await;
    waiting(w, "b", 2, &note).await;
    w.signal("b", 0, Signal::Purged).await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(holder(w).await, None);
}

async fn place_that_has_lapsed_is_taken_again(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = claim(1, "b");
    assert_eq!(w.acquire(&b, 2, &brief()).await, kept("a"));
    w.acquire(&claim(2, "other"), 1, &brief()).await;
    w.until("a lease lapses", async || w.holder(digest(2)).await.is_none()).await;
    w.until("so does the other", async || w.commit(&b, 2, &note).await == Committed::Held)
        .await;
    waits(w, &b, 12, &note, "a").await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
}

async fn late_one_takes_a_free_place(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let late = claim(1, "late");
    waits(w, &late, 12, &note, "a").await;
    waits(w, &late, 12, &note, "a").await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &late, 12, &note).await, Admitted::Holds);
}

async fn late_one_is_newer_than_what_was_delivered(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    waits(w, &b, 12, &note, "a").await;
    let late = claim(1, "late");
    waits(w, &late, 13, &note, "a").await;
    assert_eq!(admit(w, &b, 12, &note).await, outdated("late"));
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &late, 13, &note).await, Admitted::Holds);
}

async fn late_one_is_older_than_what_was_not(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let late = claim(1, "late");
    assert_eq!(admit(w, &late, 13, &note).await, outdated("b"));
    waits(w, &b, 12, &note, "a").await;
    assert_eq!(admit(w, &late, 14, &note).await, outdated("b"));
}

async fn redelivered_one_is_neither_lost_nor_let_past(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let crashed = claim(1, "crashed");
    assert!(matches!(ask(w, &crashed, 13, &note, true).await, Admitted::Waits { .. }));
    waits(w, &b, 12, &note, "a").await;
    w.signal("a", 11, Signal::Succeeded).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
    assert!(matches!(ask(w, &crashed, 13, &note, true).await, Admitted::Waits { .. }));
    w.signal("b", 12, Signal::Succeeded).await;
    assert_eq!(ask(w, &crashed, 13, &note, true).await, Admitted::Holds);
}

async fn waiting_ones_keep_their_order(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let (b, newer, last) = (claim(1, "b"), claim(1, "c"), claim(1, "d"));
    w.acquire(&b, 2, &note).await;
    let leased = |holder: &str| Acquired::Leased { holder: holder.into() };
    assert_eq!(w.acquire(&newer, 3, &note).await, leased("b"));
    w.commit(&b, 2, &note).await;
    // It comes before the other has asked again.
    assert_eq!(w.acquire(&last, 4, &note).await, kept("a"));
    assert_eq!(w.acquire(&newer, 3, &note).await, leased("d"));
    w.commit(&last, 4, &note).await;
    assert_eq!(w.acquire(&newer, 3, &note).await, Acquired::Outrun { holder: "d".into() });
    assert_eq!(admit(w, &newer, 13, &note).await, outdated("d"));
    waits(w, &last, 14, &note, "a").await;
}

async fn both_are_listed(w: &World) {
    let note = keeping();
    running(w, &note).await;
    waiting(w, "b", 2, &note).await;
    let mut found = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = w.client.list(&Filter::default(), cursor.as_deref(), 1).await.expect("a page");
        found.extend(page.locks.into_iter().map(|lock| (lock.holder.to_string(), lock.state)));
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    found.sort_by(|left, right| left.0.cmp(&right.0));
    let expected = [("a".to_owned(), LockState::Running), ("b".to_owned(), LockState::Queued)];
    assert_eq!(found, expected);
}

async fn operator_frees_the_holder_and_the_other_has_the_lock(w: &World) {
    let note = keeping();
    running(w, &note).await;
    let b = waiting(w, "b", 2, &note).await;
    let freed = w.release_if(digest(1), None, Running::Include).await;
    assert_eq!(freed.iter().map(|freed| &*freed.holder).collect::<Vec<_>>(), ["a"]);
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
}

async fn superseded_ones_get_the_result_of_the_newest(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Joined(Via::Backend);
        note.if_held = IfHeld::KeepLast;
    });
    running(w, &note).await;
    for (publish, id) in (2..).zip(["b", "c", "d"]) {
        waiting(w, id, publish, &note).await;
    }
    w.pass(600);
    let mut joins = Vec::new();
    for due in w.client.joins_due().await.expect("the store answers") {
        let group = due.group;
        let joined = w.client.joined(&group).await.expect("the store answers");
        let mut ids: Vec<String> = joined.iter().map(|joined| joined.id.to_string()).collect();
        ids.sort_unstable();
        joins.push((group.holder.to_string(), ids));
    }
    assert_eq!(joins, [("d".to_owned(), vec!["b".to_owned(), "c".to_owned()])]);
}

async fn observing_rule_counts_alike(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.shadow = true;
        note.if_held = IfHeld::KeepLast;
    });
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    assert_eq!(w.acquire(&a, 1, &note).await, Acquired::Taken);
    assert_eq!(w.acquire(&b, 2, &note).await, kept("a"));
    w.commit(&a, 1, &note).await;
    w.commit(&b, 2, &note).await;
    says(w, "a", Signal::Succeeded).await;
    assert_eq!(holder(w).await.as_deref(), Some("b"));
    says(w, "b", Signal::Succeeded).await;
    assert_eq!(holder(w).await, None);
}

async fn rule_that_replaces_by_now_keeps_who_waits(w: &World) {
    let (note, replacing) = (keeping(), note_with(Scope::UntilFinished, |note| note.if_held = IfHeld::Replace));
    let (a, b, newest) = (claim(1, "a"), claim(1, "b"), claim(1, "c"));
    w.acquire(&a, 1, &note).await;
    w.commit(&a, 1, &note).await;
    w.acquire(&b, 2, &note).await;
    w.commit(&b, 2, &note).await;
    assert!(matches!(w.acquire(&newest, 3, &replacing).await, Acquired::Replaces { .. }));
    assert!(matches!(w.commit(&newest, 3, &replacing).await, Committed::Replaced(_)));
    says(w, "c", Signal::Succeeded).await;
    assert_eq!(admit(w, &b, 12, &note).await, Admitted::Holds);
}
