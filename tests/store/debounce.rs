//! Locks whose newest holder's run is put off until its key has been quiet.

use std::sync::Arc;

use oncegate::rules::lock::Alive;
use oncegate::rules::lock::{
    Acquired, Admitted, Begun, Claim, Committed, IfHeld, LockNote, LockState, Nonce, Quiet, ReleaseReason, Renewed, Reply, Request, Scope,
    Signal, Weight,
};
use oncegate::rules::owed::{Owed, ReplyTo, Via};
use oncegate::rules::source::Source;
use oncegate::store::join::Kept;

use crate::world::{World, claim, digest, note_with};

scenarios! {
    each_publish_puts_the_run_off_and_supersedes_the_one_before
    no_run_is_put_off_for_longer_than_the_bound
    burst_ends_with_the_start_of_its_newest
    bound_counts_from_the_first_though_it_was_replaced
    failed_newer_leaves_the_older_its_time
    repeated_question_gets_the_same_answer
    second_message_of_the_holder_is_due_at_its_time
    retry_is_not_put_off
    holder_that_waits_for_its_retry_ends_the_burst
    outdated_one_is_told_so_whenever_it_comes
    revoked_one_is_not_outdated
    outdated_one_that_no_worker_has_needs_no_revoke
    one_that_a_worker_has_needs_one
    holder_whose_time_has_come_at_a_worker_is_left_to_begin
    holder_whose_time_has_come_in_its_queue_is_replaced
    renewal_of_a_held_one_hears_that_it_was_replaced
    observing_rule_counts_alike
    outdated_ones_get_the_result_of_the_newest
    one_that_a_worker_has_gets_none_of_another
    who_wants_no_result_gets_none
    callers_of_outdated_ones_keep_their_addresses
}

const QUIET: u64 = 60_000;

fn quiet(scope: Scope, period_ms: u64, longest_ms: Option<u64>) -> Arc<LockNote> {
    note_with(scope, |note| note.if_held = IfHeld::Debounce(Quiet { period_ms, longest_ms }))
}

async fn now(w: &World) -> u64 {
    w.client.now_ms().await.expect("the time")
}

/// Publishes: who had the lock, and when it is due.
async fn put_off(w: &World, claim: &Claim, publish: u64, note: &Arc<LockNote>) -> (Option<String>, u64) {
    match w.acquire(claim, publish, note).await {
        Acquired::PutOff { holder, due_ms } => (holder.map(|holder| holder.to_string()), due_ms),
        other => panic!("{other:?}"),
    }
}

/// The same, and the broker has it.
async fn published(w: &World, claim: &Claim, publish: u64, note: &Arc<LockNote>) -> (Option<String>, u64) {
    let found = put_off(w, claim, publish, note).await;
    w.commit(claim, publish, note).await;
    found
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

/// A worker that is not known by its acks says this.
async fn says(w: &World, id: &str, signal: Signal) {
    let request = Request::Signal {
        id: id.into(),
        settlement: Nonce(0),
        signal,
        source: Source::Events,
        worker: "w1".into(),
    };
    w.ask(request).await;
}

fn outdated(newer: &str) -> Admitted {
    Admitted::Outdated { newer: newer.into() }
}

async fn each_publish_puts_the_run_off_and_supersedes_the_one_before(w: &World) {
    let (a, b, c) = (claim(1, "a"), claim(1, "b"), claim(1, "c"));
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let mut before = None;
    for (publish, claim) in (1..).zip([&a, &b, &c]) {
        let from = now(w).await;
        let (holder, due) = put_off(w, claim, publish, &note).await;
        assert!((from + QUIET..=now(w).await + QUIET).contains(&due), "{from} {due}");
        assert_eq!(holder, before);
        let committed = w.commit(claim, publish, &note).await;
        match (&before, committed) {
            (None, Committed::Held) => {}
            (Some(older), Committed::Replaced(superseded)) => {
                assert_eq!((&*superseded.freed.holder, superseded.begun), (older.as_str(), Begun::No));
                assert_eq!(superseded.freed.reason, ReleaseReason::Replaced);
            }
            other => panic!("{other:?}"),
        }
        before = Some(claim.id.to_string());
    }
    assert_eq!(admit(w, &a, 11, &note, "").await, outdated("b"));
    assert_eq!(admit(w, &b, 12, &note, "").await, outdated("c"));
    assert_eq!(admit(w, &c, 13, &note, "").await, Admitted::Holds);
}

async fn no_run_is_put_off_for_longer_than_the_bound(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, Some(QUIET + 20));
    let from = now(w).await;
    let (_, first) = published(w, &claim(1, "a"), 1, &note).await;
    let latest = now(w).await + QUIET + 20;
    w.until("the bound is nearer than the period", async || now(w).await > latest - QUIET)
        .await;
    let (_, second) = published(w, &claim(1, "b"), 2, &note).await;
    let (_, third) = published(w, &claim(1, "c"), 3, &note).await;
    assert!(second > first && (from + QUIET + 20..=latest).contains(&second), "{first} {second}");
    assert_eq!(third, second);
}

async fn burst_ends_with_the_start_of_its_newest(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, Some(QUIET));
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    let (_, first) = published(w, &a, 1, &note).await;
    w.until("time passes", async || now(w).await > first - QUIET + 5).await;
    w.signal("a", 11, Signal::Acked).await;
    let (holder, second) = published(w, &b, 2, &note).await;
    assert_eq!(holder, None);
    assert!(second > first, "a bound of its own");
}

async fn bound_counts_from_the_first_though_it_was_replaced(w: &World) {
    let note = quiet(Scope::UntilFinished, QUIET, Some(QUIET));
    let (_, due) = published(w, &claim(1, "id-0"), 0, &note).await;
    for at in 1..6 {
        w.until("time passes", async || now(w).await > due - QUIET + at).await;
        let (holder, again) = published(w, &claim(1, &format!("id-{at}")), at, &note).await;
        assert_eq!((holder, again), (Some(format!("id-{}", at - 1)), due));
    }
}

async fn failed_newer_leaves_the_older_its_time(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, Some(QUIET));
    let (a, b, c) = (claim(1, "a"), claim(1, "b"), claim(1, "c"));
    let (_, due) = published(w, &a, 1, &note).await;
    put_off(w, &b, 2, &note).await;
    w.unpublish(&b, 2, ReleaseReason::Returned).await;
    assert_eq!(admit(w, &a, 11, &note, "").await, Admitted::Holds);
    assert_eq!(
        put_off(w, &c, 3, &note).await,
        (Some("a".to_owned()), due),
        "of the burst of the first"
    );
}

async fn repeated_question_gets_the_same_answer(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    let first = put_off(w, &a, 1, &note).await;
    assert_eq!(put_off(w, &a, 1, &note).await, first);
    w.commit(&a, 1, &note).await;
    let second = put_off(w, &b, 2, &note).await;
    assert_eq!(put_off(w, &b, 2, &note).await, second);
}

async fn second_message_of_the_holder_is_due_at_its_time(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let a = claim(1, "a");
    let (_, due) = published(w, &a, 1, &note).await;
    assert_eq!(put_off(w, &a, 2, &note).await, (Some("a".to_owned()), due));
    w.commit(&a, 2, &note).await;
    assert_eq!(w.show(digest(1)).await.expect("a lock").in_flight, 2);
}

async fn retry_is_not_put_off(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let a = claim(1, "a");
    assert_eq!(w.acquire_as(&a, 1, &note, true).await, Acquired::Taken);
    w.commit(&a, 1, &note).await;
    assert_eq!(w.acquire_as(&a, 2, &note, true).await, Acquired::Reentry { holds: true });
    let (holder, _) = put_off(w, &claim(1, "b"), 3, &note).await;
    assert_eq!(holder.as_deref(), Some("a"), "a newer one replaces it");
}

async fn holder_that_waits_for_its_retry_ends_the_burst(w: &World) {
    let note = quiet(Scope::UntilFinished, QUIET, Some(QUIET));
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    let (_, due) = published(w, &a, 1, &note).await;
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Holds);
    says(w, "a", Signal::Started).await;
    assert!(matches!(
        w.acquire(&b, 2, &note).await,
        Acquired::Held {
            state: LockState::Running,
            ..
        }
    ));
    says(w, "a", Signal::Retried).await;
    w.until("time passes", async || now(w).await > due - QUIET + 5).await;
    let (holder, again) = put_off(w, &b, 3, &note).await;
    assert_eq!(holder.as_deref(), Some("a"));
    assert!(again > due, "{again} {due}");
}

async fn outdated_one_is_told_so_whenever_it_comes(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    published(w, &a, 1, &note).await;
    published(w, &b, 2, &note).await;
    w.signal("b", 12, Signal::Acked).await;
    assert_eq!(w.holder(digest(1)).await, None);
    assert_eq!(admit(w, &a, 11, &note, "w1").await, outdated("b"), "when the key is free");
    published(w, &claim(1, "c"), 3, &note).await;
    assert_eq!(admit(w, &a, 13, &note, "w1").await, outdated("b"), "when it is another's");
    let plain = note_with(Scope::UntilStarted, |note| note.if_held = IfHeld::Replace);
    assert_eq!(
        admit(w, &a, 14, &plain, "w1").await,
        Admitted::Superseded,
        "where workers are to hear of it"
    );
}

async fn revoked_one_is_not_outdated(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let a = claim(1, "a");
    published(w, &a, 1, &note).await;
    w.signal("a", 11, Signal::RevokeAsked).await;
    assert_eq!(admit(w, &a, 12, &note, "w1").await, Admitted::Superseded);
}

async fn outdated_one_that_no_worker_has_needs_no_revoke(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    published(w, &a, 1, &note).await;
    assert_eq!(admit(w, &a, 11, &note, "").await, Admitted::Holds);
    put_off(w, &b, 2, &note).await;
    let Committed::Replaced(older) = w.commit(&b, 2, &note).await else {
        panic!("replaced")
    };
    assert_eq!((&*older.freed.holder, &*older.worker), ("a", ""));
}

async fn one_that_a_worker_has_needs_one(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    published(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "").await;
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Holds);
    put_off(w, &b, 2, &note).await;
    let Committed::Replaced(older) = w.commit(&b, 2, &note).await else {
        panic!("replaced")
    };
    assert_eq!((&*older.freed.holder, &*older.worker), ("a", "w1"));
}

async fn holder_whose_time_has_come_at_a_worker_is_left_to_begin(w: &World) {
    let note = quiet(Scope::UntilStarted, 5, None);
    let (a, b, newest) = (claim(1, "a"), claim(1, "b"), claim(1, "c"));
    let (_, due) = published(w, &a, 1, &note).await;
    w.until("its time comes", async || now(w).await > due).await;
    assert_eq!(admit(w, &a, 11, &note, "w1").await, Admitted::Holds);
    let leased = Acquired::Leased { holder: "a".into() };
    assert_eq!(w.acquire(&b, 2, &note).await, leased);
    assert_eq!(w.acquire(&newest, 3, &note).await, leased);
    w.signal("a", 11, Signal::Acked).await;
    assert_eq!(published(w, &b, 2, &note).await.0, None, "the first of a new burst");
    assert_eq!(published(w, &newest, 3, &note).await.0.as_deref(), Some("b"));
    w.until("its time comes", async || {
        matches!(admit(w, &newest, 13, &note, "w1").await, Admitted::Holds)
    })
    .await;
    // A worker that has other work does not hold others up.
    w.until("it is given up", async || {
        !matches!(w.acquire(&claim(1, "d"), 4, &note).await, Acquired::Leased { .. })
    })
    .await;
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("d"));
}

async fn holder_whose_time_has_come_in_its_queue_is_replaced(w: &World) {
    let note = quiet(Scope::UntilStarted, 5, None);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    let (_, due) = published(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "").await;
    w.until("its time comes", async || now(w).await > due).await;
    assert_eq!(put_off(w, &b, 2, &note).await.0.as_deref(), Some("a"));
}

async fn renewal_of_a_held_one_hears_that_it_was_replaced(w: &World) {
    let note = quiet(Scope::UntilStarted, QUIET, None);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    published(w, &a, 1, &note).await;
    admit(w, &a, 11, &note, "").await;
    published(w, &b, 2, &note).await;
    let renew = Request::Renew {
        claim: a,
        delivery: Nonce(11),
        note,
        alive: Alive::Delivered,
        worker: "".into(),
    };
    assert_eq!(w.ask(renew).await, Reply::Renewed(Renewed::Superseded));
}

async fn observing_rule_counts_alike(w: &World) {
    let note = note_with(Scope::UntilStarted, |note| {
        note.shadow = true;
        note.if_held = IfHeld::Debounce(Quiet {
            period_ms: QUIET,
            longest_ms: None,
        });
    });
    assert_eq!(published(w, &claim(1, "a"), 1, &note).await.0, None);
    assert_eq!(published(w, &claim(1, "b"), 2, &note).await.0.as_deref(), Some("a"));
}

fn joining() -> Arc<LockNote> {
    note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Joined(Via::Backend);
        note.if_held = IfHeld::Debounce(Quiet {
            period_ms: QUIET,
            longest_ms: None,
        });
    })
}

/// Who waits for whose result.
async fn joins(w: &World) -> Vec<(String, Vec<String>)> {
    w.pass(600);
    let mut all = Vec::new();
    for due in w.client.joins_due().await.expect("the store answers") {
        let joined = w.client.joined(&due.group).await.expect("the store answers");
        let mut ids: Vec<String> = joined.iter().map(|joined| joined.id.to_string()).collect();
        ids.sort_unstable();
        all.push((due.group.holder.to_string(), ids));
    }
    all
}

async fn outdated_ones_get_the_result_of_the_newest(w: &World) {
    let note = joining();
    let ids: Vec<Claim> = ["a", "b", "c", "d"].map(|id| claim(1, id)).to_vec();
    published(w, &ids[0], 0, &note).await;
    put_off(w, &ids[1], 1, &note).await;
    // It waits for the lease, and is outrun by another meanwhile.
    assert!(matches!(w.acquire(&ids[2], 2, &note).await, Acquired::Leased { .. }));
    w.commit(&ids[1], 1, &note).await;
    published(w, &ids[3], 3, &note).await;
    assert!(matches!(w.acquire(&ids[2], 2, &note).await, Acquired::Outrun { .. }));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(joins(w).await, [("d".to_owned(), names(&["a", "b", "c"]))]);
    published(w, &claim(1, "e"), 4, &note).await;
    assert_eq!(joins(w).await, [("e".to_owned(), names(&["a", "b", "c", "d"]))]);
}

async fn one_that_a_worker_has_gets_none_of_another(w: &World) {
    let note = joining();
    let (a, b, newest) = (claim(1, "a"), claim(1, "b"), claim(1, "c"));
    published(w, &a, 1, &note).await;
    published(w, &b, 2, &note).await;
    assert_eq!(admit(w, &b, 12, &note, "w1").await, Admitted::Holds);
    published(w, &newest, 3, &note).await;
    assert_eq!(joins(w).await, [("c".to_owned(), vec!["a".to_owned()])]);
}

async fn callers_of_outdated_ones_keep_their_addresses(w: &World) {
    let to = |queue: &str| {
        Arc::new(ReplyTo {
            vhost: "/".into(),
            queue: queue.into(),
            correlation_id: None,
        })
    };
    let called = |queue: &str| {
        let mut note = LockNote::clone(&joining());
        note.owed = Owed::Joined(Via::Reply(to(queue)));
        Arc::new(note)
    };
    published(w, &claim(1, "a"), 1, &called("qa")).await;
    put_off(w, &claim(1, "b"), 2, &called("qb")).await;
    // One that waits for the lease is outrun.
    assert!(matches!(w.acquire(&claim(1, "x"), 3, &called("qx")).await, Acquired::Leased { .. }));
    w.commit(&claim(1, "b"), 2, &called("qb")).await;
    published(w, &claim(1, "c"), 4, &called("qc")).await;
    assert!(matches!(w.acquire(&claim(1, "x"), 3, &called("qx")).await, Acquired::Outrun { .. }));
    w.pass(600);
    let due = w.client.joins_due().await.expect("the store answers");
    assert_eq!(due.iter().map(|due| &*due.group.holder).collect::<Vec<_>>(), ["c"]);
    // Its result is seen for all of them.
    let result = Request::Result {
        id: "c".into(),
        weight: Weight::Final,
        json: b"{}"[..].into(),
        least_ms: 0,
    };
    assert_eq!(w.ask(result).await, Reply::Done);
    let again = w.client.joins_due().await.expect("the store answers");
    assert_eq!(again.iter().map(|due| due.kept).collect::<Vec<_>>(), [Kept::Yes]);
    let mut joined = w.client.joined(&due[0].group).await.expect("the store answers");
    joined.sort_unstable();
    let addresses: Vec<_> = joined.into_iter().map(|joined| (joined.id.to_string(), joined.reply_to)).collect();
    let expected = [("a", "qa"), ("b", "qb"), ("x", "qx")].map(|(id, queue)| (id.to_owned(), Some(to(queue))));
    assert_eq!(addresses, expected);
}

async fn who_wants_no_result_gets_none(w: &World) {
    let note = quiet(Scope::UntilFinished, QUIET, None);
    published(w, &claim(1, "a"), 1, &note).await;
    published(w, &claim(1, "b"), 2, &note).await;
    assert_eq!(joins(w).await, []);
}
