//! The life of a running lock, the same for every store.

use std::sync::Arc;

use oncegate::rules::lock::{
    Acquired, Admitted, Alive, Claim, Committed, Extent, Freed, LockRecord, LockState, Nonce, ReleaseReason, Renewed, Reply, Request,
    Running, Scope, Signal,
};
use oncegate::rules::running::{IfBusy, Ran, RunNote};
use oncegate::rules::source::{Hears, Source};
use oncegate::store::Filter;
use oncegate::store::operator::{self, Act, Choice};

use crate::world::{GRACE, LIFE, World, claim, digest, note};

scenarios! {
    a_free_key_is_taken_and_shown
    the_same_run_asked_twice_has_the_lock
    another_id_waits_and_runs_when_the_first_has_ended
    those_that_wait_run_in_the_order_of_their_places
    a_named_place_goes_before_later_ones
    who_keeps_silent_is_passed_over
    who_leaves_is_not_waited_for
    who_waits_for_a_forgotten_run_does_not_begin_at_once
    a_forgotten_run_takes_its_lock_again_and_ends_as_any
    a_second_copy_of_a_forgotten_run_does_not_begin_at_once
    what_ended_while_it_was_waited_for_is_not_forgotten
    every_end_frees_with_its_reason
    a_rejected_delivery_frees_its_own_run_only
    an_end_told_by_another_worker_changes_nothing
    an_early_ack_is_a_start
    a_late_ack_frees_after_the_grace
    an_ack_known_to_be_late_frees_after_the_grace
    what_the_rule_does_not_listen_to_ends_nothing
    a_success_within_the_grace_frees_at_once
    a_retry_keeps_the_lock_for_the_next_run
    a_retry_within_the_grace_keeps_the_lock
    a_late_ack_behind_a_retry_changes_nothing
    a_publish_of_the_id_before_its_late_ack_keeps_the_lock
    a_publish_that_is_counted_after_its_delivery_is_no_second_one
    a_late_commit_of_what_was_retried_counts_no_message
    a_publish_lock_that_is_taken_again_counts_its_own_run_once
    a_higher_retry_takes_the_lock_over
    a_retry_that_is_told_late_of_a_former_run_stops_no_renewal
    what_is_told_late_of_the_former_run_ends_no_later_one
    a_retry_that_is_told_late_leaves_no_lock_behind
    a_retry_that_is_published_keeps_the_lock
    a_retry_that_is_published_within_the_grace_keeps_the_lock
    a_redelivery_of_what_was_retried_is_not_overtaken
    a_retry_that_is_not_counted_ends_in_the_next
    a_second_copy_waits_and_runs_after_a_failure
    a_second_copy_of_a_success_does_not_run
    a_new_message_of_an_id_that_has_succeeded_runs
    a_copy_that_comes_back_without_a_place_is_found_once
    a_retry_behind_a_success_runs
    leaving_frees_the_publish_lock_of_the_id
    leaving_survives_a_late_commit
    a_second_copy_is_never_told_to_leave
    what_is_given_back_is_free
    renewal_gives_the_full_life_and_retakes
    renewal_never_steals
    a_run_that_goes_on_and_has_lost_its_lock_is_the_next
    a_run_that_has_lost_its_lock_and_ends_is_not_waited_for
    renewal_behind_the_end_is_of_no_use
    renewal_does_not_undo_a_release
    renewal_behind_an_end_that_met_no_lock_is_of_no_use
    renewals_of_what_was_given_up_never_bring_it_back
    an_orphan_is_freed_if_its_worker_is_named
    an_orphan_that_is_named_is_no_later_run_of_its_worker
    a_revoke_that_is_asked_for_ends_a_run_that_has_not_begun
    publish_lock_and_run_of_one_key_are_two
    the_record_of_an_id_keeps_both
    an_id_that_runs_is_known_to_its_key
    an_id_is_noted_for_the_key_that_it_runs
    signals_of_an_id_that_only_runs_still_meet_a_late_commit
    runs_are_listed_and_cleared_with_their_kind
}

const ONE: &str = "celery@one";
const TWO: &str = "celery@two";

fn run_note_with(change: impl FnOnce(&mut RunNote)) -> Arc<RunNote> {
    let mut note = RunNote {
        rule: "reports".into(),
        task: "reports.generate".into(),
        summary: "customer_id".into(),
        vhost: "shop".into(),
        queue: "celery".into(),
        life_ms: LIFE,
        settle_grace_ms: GRACE,
        acks_late: false,
        hears: Hears::ALL,
        retries: 0,
        owed: oncegate::rules::owed::Owed::Nothing,
    };
    change(&mut note);
    Arc::new(note)
}

fn early() -> Arc<RunNote> {
    run_note_with(|_| {})
}

fn late() -> Arc<RunNote> {
    run_note_with(|note| note.acks_late = true)
}

fn retry(retries: u32) -> Arc<RunNote> {
    run_note_with(|note| note.retries = retries)
}

/// With a life and a grace that pass while the scenario waits.
fn lapsing() -> Arc<RunNote> {
    run_note_with(|note| {
        note.life_ms = 20;
        note.settle_grace_ms = 20;
    })
}

/// Who keeps silent for so long is passed over.
const SILENCE: u64 = 5_000;

const WAIT: IfBusy = IfBusy::Wait { place_ms: None };
const LEAVE: IfBusy = IfBusy::Leave { place_ms: None };

/// For so long nobody gets a lock whose waiters were forgotten.
const FORGOTTEN: u64 = 5_000;

fn at(place_ms: u64) -> IfBusy {
    IfBusy::Wait { place_ms: Some(place_ms) }
}

async fn ask(w: &World, claim: &Claim, delivery: u64, note: &Arc<RunNote>, busy: IfBusy) -> Ran {
    let request = Request::Run {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: note.clone(),
        busy,
        worker: ONE.into(),
    };
    match w.ask(request).await {
        Reply::Run(ran) => ran,
        other => panic!("{other:?}"),
    }
}

/// The place and the holder that are told.
async fn waits(w: &World, claim: &Claim, delivery: u64, note: &Arc<RunNote>, busy: IfBusy) -> (u64, String) {
    match ask(w, claim, delivery, note, busy).await {
        Ran::Waits { holder, place_ms, .. } => (place_ms, holder.to_string()),
        other => panic!("{other:?}"),
    }
}

/// A run that has the lock of a key.
async fn running(w: &World, key: u8, id: &str, delivery: u64, note: &Arc<RunNote>) -> Claim {
    let claim = claim(key, id);
    assert_eq!(ask(w, &claim, delivery, note, WAIT).await, Ran::Runs);
    claim
}

async fn renew(w: &World, claim: &Claim, delivery: u64, note: &Arc<RunNote>) -> Renewed {
    let request = Request::RenewRun {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: note.clone(),
        worker: ONE.into(),
    };
    match w.ask(request).await {
        Reply::Renewed(renewed) => renewed,
        other => panic!("{other:?}"),
    }
}

/// The id is published as a retry.
async fn republished(w: &World, claim: &Claim, retries: u32) {
    let claim = claim.clone();
    assert_eq!(w.ask(Request::Republished { claim, retries }).await, Reply::Done);
}

fn reasons(freed: Vec<Freed>) -> Vec<ReleaseReason> {
    freed.into_iter().map(|freed| freed.reason).collect()
}

async fn released(w: &World, request: Request) -> Vec<ReleaseReason> {
    match w.ask(request).await {
        Reply::Released(freed) => reasons(freed),
        other => panic!("{other:?}"),
    }
}

async fn leave(w: &World, claim: &Claim, delivery: u64) -> Vec<ReleaseReason> {
    let request = Request::LeaveRun {
        claim: claim.clone(),
        delivery: Nonce(delivery),
    };
    released(w, request).await
}

/// What is learnt of an id from its worker.
async fn tell_from(w: &World, worker: &str, id: &str, signal: Signal) -> Vec<ReleaseReason> {
    let request = Request::Signal {
        id: id.into(),
        settlement: Nonce(0),
        signal,
        source: Source::Events,
        worker: worker.into(),
    };
    released(w, request).await
}

async fn tell(w: &World, id: &str, signal: Signal) -> Vec<ReleaseReason> {
    tell_from(w, ONE, id, signal).await
}

/// A delivery of an id is settled.
async fn settle(w: &World, id: &str, delivery: u64, signal: Signal) -> Vec<ReleaseReason> {
    let request = Request::Signal {
        id: id.into(),
        settlement: Nonce(delivery),
        signal,
        source: Source::Ack,
        worker: ONE.into(),
    };
    released(w, request).await
}

async fn run_of(w: &World, key: u8) -> LockRecord {
    w.show_run(digest(key)).await.expect("something runs")
}

async fn holder(w: &World, key: u8) -> Option<String> {
    w.show_run(digest(key)).await.map(|run| run.holder.to_string())
}

async fn span(w: &World, key: u8) -> u64 {
    let run = run_of(w, key).await;
    run.expires_ms - run.since_ms
}

/// The lock of a key lapses by itself.
async fn lapses(w: &World, key: u8) {
    w.until("the lock lapses", async || w.show_run(digest(key)).await.is_none()).await;
}

async fn tick(w: &World) {
    let now = w.client.now_ms().await.expect("the time");
    w.until("a millisecond passes", async || w.client.now_ms().await.expect("the time") > now)
        .await;
}

/// Watches a key until it was done without anybody being passed over for keeping silent, which on a slow machine may happen at any time.
async fn in_time<T>(w: &World, watch: impl AsyncFn(u8) -> T) -> T {
    for key in 1..=100 {
        let began = w.client.now_ms().await.expect("the time");
        let seen = watch(key).await;
        if w.client.now_ms().await.expect("the time") < began + SILENCE {
            return seen;
        }
    }
    panic!("this machine is too slow");
}

async fn a_free_key_is_taken_and_shown(w: &World) {
    assert_eq!(w.show_run(digest(1)).await, None);
    running(w, 1, "a", 7, &early()).await;
    let run = run_of(w, 1).await;
    assert_eq!((&*run.holder, run.state, run.scope), ("a", LockState::Queued, Extent::Run));
    assert_eq!(
        (&*run.rule, &*run.task, &*run.summary),
        ("reports", "reports.generate", "customer_id")
    );
    assert_eq!(
        (&*run.worker, &*run.proxy, &*run.vhost, &*run.queue),
        (ONE, "proxy-1", "shop", "celery")
    );
    assert_eq!((run.expires_ms - run.since_ms, run.in_flight, run.shadow), (LIFE, 0, false));
    assert_eq!(tell(w, "a", Signal::Started).await, []);
    assert_eq!(run_of(w, 1).await.state, LockState::Running);
    assert_eq!(w.show(digest(1)).await, None, "it is no publish lock");
}

async fn the_same_run_asked_twice_has_the_lock(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    tick(w).await;
    assert_eq!(ask(w, &a, 7, &early(), WAIT).await, Ran::Runs);
    assert!(span(w, 1).await > LIFE, "and its full life anew");
    assert_eq!(ask(w, &a, 7, &early(), LEAVE).await, Ran::Runs);
}

async fn another_id_waits_and_runs_when_the_first_has_ended(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    let b = claim(1, "b");
    let Ran::Waits { holder, expires_in_ms, .. } = ask(w, &b, 8, &early(), WAIT).await else {
        panic!("it waits")
    };
    assert_eq!(&*holder, "a");
    assert!((LIFE / 2..=LIFE).contains(&expires_in_ms));
    assert_eq!(ask(w, &claim(2, "b"), 9, &early(), WAIT).await, Ran::Runs, "another key is free");
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(ask(w, &b, 8, &early(), WAIT).await, Ran::Runs);
}

async fn those_that_wait_run_in_the_order_of_their_places(w: &World) {
    let (places, second, third) = in_time(w, async |key| {
        running(w, key, "a", 7, &early()).await;
        let mut places = Vec::new();
        for id in ["d", "c", "b"] {
            places.push(waits(w, &claim(key, id), 8, &early(), WAIT).await.0);
            tick(w).await;
        }
        tell(w, "a", Signal::Succeeded).await;
        let third = ask(w, &claim(key, "b"), 8, &early(), at(places[2])).await;
        let second = ask(w, &claim(key, "c"), 8, &early(), WAIT).await;
        for id in ["d", "c", "b"] {
            assert_eq!(ask(w, &claim(key, id), 8, &early(), WAIT).await, Ran::Runs);
            tell(w, id, Signal::Failed).await;
        }
        (places, second, third)
    })
    .await;
    assert!(places.is_sorted());
    for (answer, place) in [(third, places[2]), (second, places[1])] {
        let Ran::Waits { holder, place_ms, .. } = answer else {
            panic!("the key is free, and the first takes it: {answer:?}")
        };
        assert_eq!((&*holder, place_ms), ("d", place), "its place is known, named or not");
    }
}

async fn a_named_place_goes_before_later_ones(w: &World) {
    let (place, before, after, later) = in_time(w, async |key| {
        running(w, key, "a", 7, &early()).await;
        let (place, _) = waits(w, &claim(key, "b"), 8, &early(), WAIT).await;
        let (before, _) = waits(w, &claim(key, "c"), 9, &early(), at(place - 1)).await;
        let (after, _) = waits(w, &claim(key, "c"), 9, &early(), at(place + 5)).await;
        tell(w, "a", Signal::Succeeded).await;
        let later = ask(w, &claim(key, "b"), 8, &early(), at(place)).await;
        assert_eq!(ask(w, &claim(key, "c"), 9, &early(), at(place - 1)).await, Ran::Runs);
        tell(w, "c", Signal::Succeeded).await;
        (place, before, after, later)
    })
    .await;
    assert_eq!((before, after), (place - 1, place - 1), "it only falls");
    assert!(matches!(&later, Ran::Waits { holder, .. } if **holder == *"c"), "{later:?}");
}

async fn who_keeps_silent_is_passed_over(w: &World) {
    let (key, silent, place, while_heard) = in_time(w, async |key| {
        running(w, key, "a", 7, &early()).await;
        let (silent, _) = waits(w, &claim(key, "b"), 8, &early(), WAIT).await;
        tick(w).await;
        let (place, _) = waits(w, &claim(key, "c"), 9, &early(), WAIT).await;
        tell(w, "a", Signal::Succeeded).await;
        (key, silent, place, ask(w, &claim(key, "c"), 9, &early(), at(place)).await)
    })
    .await;
    assert!(
        matches!(&while_heard, Ran::Waits { holder, expires_in_ms, .. } if **holder == *"b" && *expires_in_ms <= SILENCE),
        "{while_heard:?}"
    );
    w.pass(4_000);
    let runs = async || ask(w, &claim(key, "c"), 9, &early(), at(place)).await == Ran::Runs;
    w.until("c runs", runs).await;
    assert_eq!(
        waits(w, &claim(key, "b"), 8, &early(), at(silent)).await.0,
        silent,
        "it has its place again"
    );
}

async fn who_leaves_is_not_waited_for(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    waits(w, &claim(1, "b"), 8, &early(), WAIT).await;
    tick(w).await;
    waits(w, &claim(1, "c"), 9, &early(), WAIT).await;
    assert_eq!(leave(w, &claim(1, "b"), 8).await, []);
    tell(w, "a", Signal::Succeeded).await;
    assert_eq!(ask(w, &claim(1, "c"), 9, &early(), WAIT).await, Ran::Runs);
    assert_eq!(leave(w, &claim(1, "b"), 8).await, [], "it holds nothing");
    assert_eq!(holder(w, 1).await.as_deref(), Some("c"));
}

/// The place that is told to one who waits for a run that the store has forgotten.
fn forgotten(ran: &Ran) -> u64 {
    match ran {
        Ran::Forgotten { place_ms } => *place_ms,
        other => panic!("{other:?}"),
    }
}

async fn who_waits_for_a_forgotten_run_does_not_begin_at_once(w: &World) {
    let (key, began, waiting, coming) = in_time(w, async |key| {
        let began = w.client.now_ms().await.expect("the time");
        let mut waiting = Vec::new();
        for (id, place) in [("b", 5), ("c", 7), ("b", 5)] {
            waiting.push(ask(w, &claim(key, id), 8, &early(), at(place)).await);
        }
        let coming = [
            ask(w, &claim(key, "d"), 9, &early(), WAIT).await,
            ask(w, &claim(key, "e"), 10, &early(), LEAVE).await,
        ];
        (key, began, waiting, coming)
    })
    .await;
    let places: Vec<u64> = waiting.iter().map(forgotten).collect();
    assert_eq!(places, [5, 7, 5], "their places are as they say");
    assert!(coming.iter().all(|ran| forgotten(ran) > 7), "nor does anybody who comes now begin");
    assert_eq!(holder(w, key).await, None);
    let first = async || ask(w, &claim(key, "b"), 8, &early(), at(5)).await == Ran::Runs;
    w.until("the key is free", first).await;
    assert!(w.client.now_ms().await.expect("the time") >= began + FORGOTTEN);
    let (place, holder) = waits(w, &claim(key, "c"), 8, &early(), at(7)).await;
    assert_eq!((place, &*holder), (7, "b"));
    tell(w, "b", Signal::Succeeded).await;
    assert_eq!(
        ask(w, &claim(key, "c"), 8, &early(), at(7)).await,
        Ran::Runs,
        "one such time is enough"
    );
}

async fn a_forgotten_run_takes_its_lock_again_and_ends_as_any(w: &World) {
    let (before, after) = in_time(w, async |key| {
        let (a, b) = (claim(key, "a"), claim(key, "b"));
        let before = ask(w, &b, 8, &early(), at(5)).await;
        assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Retaken);
        assert_eq!(waits(w, &b, 8, &early(), at(5)).await, (5, "a".into()));
        assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
        let after = ask(w, &b, 8, &early(), at(5)).await;
        tell(w, "b", Signal::Succeeded).await;
        (before, after)
    })
    .await;
    assert_eq!((forgotten(&before), after), (5, Ran::Runs), "at once");
}

async fn a_second_copy_of_a_forgotten_run_does_not_begin_at_once(w: &World) {
    let (before, after) = in_time(w, async |key| {
        let (a, named) = (claim(key, "a"), IfBusy::Leave { place_ms: Some(5) });
        let before = ask(w, &a, 8, &early(), named).await;
        assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Retaken);
        assert_eq!(waits(w, &a, 8, &early(), named).await, (5, "a".into()));
        assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure]);
        let after = ask(w, &a, 8, &early(), named).await;
        tell(w, "a", Signal::Failed).await;
        (before, after)
    })
    .await;
    assert_eq!((forgotten(&before), after), (5, Ran::Runs), "at once");
}

async fn what_ended_while_it_was_waited_for_is_not_forgotten(w: &World) {
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    running(w, 1, "a", 7, &lapsing()).await;
    let (place, _) = waits(w, &b, 8, &early(), WAIT).await;
    lapses(w, 1).await;
    assert_eq!(ask(w, &b, 8, &early(), at(place)).await, Ran::Runs, "its lock has lapsed");
    waits(w, &a, 9, &early(), WAIT).await;
    leave(w, &b, 8).await;
    assert_eq!(ask(w, &a, 9, &early(), at(place)).await, Ran::Runs, "it was given back");
    waits(w, &b, 10, &early(), WAIT).await;
    let request = Request::Release {
        digest: digest(1),
        holder: None,
        running: Running::Include,
    };
    assert_eq!(released(w, request).await, [ReleaseReason::Admin]);
    assert_eq!(ask(w, &b, 10, &early(), at(place)).await, Ran::Runs, "an operator has freed it");
}

async fn every_end_frees_with_its_reason(w: &World) {
    let ends = [
        (Signal::Succeeded, ReleaseReason::Success),
        (Signal::Failed, ReleaseReason::Failure),
        (Signal::Revoked, ReleaseReason::Revoked),
        (Signal::Expired, ReleaseReason::Expired),
        (Signal::Crashed, ReleaseReason::Crash),
        (Signal::Orphaned, ReleaseReason::Crash),
    ];
    for (key, (signal, reason)) in (1..).zip(ends) {
        let id = format!("task {key}");
        running(w, key, &id, 7, &early()).await;
        tell(w, &id, Signal::Started).await;
        assert_eq!(tell(w, &id, signal).await, [reason]);
        assert_eq!(tell(w, &id, signal).await, [], "a repeat does nothing");
        assert_eq!(tell(w, &id, Signal::Started).await, []);
        assert_eq!(w.show_run(digest(key)).await, None);
    }
    running(w, 9, "z", 7, &early()).await;
    assert_eq!(
        tell_from(w, "", "z", Signal::Succeeded).await,
        [ReleaseReason::Success],
        "a backend names no worker"
    );
}

async fn a_rejected_delivery_frees_its_own_run_only(w: &World) {
    running(w, 1, "a", 7, &late()).await;
    for signal in [Signal::Rejected, Signal::Acked] {
        assert_eq!(settle(w, "a", 8, signal).await, []);
    }
    assert_eq!(span(w, 1).await, LIFE);
    assert_eq!(settle(w, "a", 7, Signal::Rejected).await, [ReleaseReason::Ended]);
    assert_eq!(holder(w, 1).await, None);
}

async fn an_end_told_by_another_worker_changes_nothing(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    let told = [
        Signal::Succeeded,
        Signal::Failed,
        Signal::Revoked,
        Signal::Expired,
        Signal::Orphaned,
        Signal::Retried,
        Signal::Started,
    ];
    for signal in told {
        assert_eq!(tell_from(w, TWO, "a", signal).await, [], "{signal:?}");
    }
    let run = run_of(w, 1).await;
    assert_eq!((run.state, &*run.worker), (LockState::Queued, ONE));
    waits(w, &claim(1, "a"), 8, &early(), WAIT).await;
}

async fn an_early_ack_is_a_start(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, []);
    let run = run_of(w, 1).await;
    assert_eq!((run.state, &*run.worker), (LockState::Running, ONE));
    assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure]);
}

async fn a_late_ack_frees_after_the_grace(w: &World) {
    running(w, 1, "a", 7, &late()).await;
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, [ReleaseReason::Ended]);
    assert!(span(w, 1).await < LIFE / 2);
    waits(w, &claim(1, "b"), 8, &late(), WAIT).await;
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, [], "a repeat does nothing");
    assert_eq!(tell(w, "a", Signal::Started).await, [], "started never follows ended");
    assert_eq!(renew(w, &claim(1, "a"), 7, &late()).await, Renewed::Gone);
    assert!(span(w, 1).await < LIFE / 2, "its grace goes on");
    let soon = run_note_with(|note| (note.acks_late, note.settle_grace_ms) = (true, 20));
    running(w, 2, "c", 7, &soon).await;
    assert_eq!(settle(w, "c", 7, Signal::Acked).await, [ReleaseReason::Ended]);
    lapses(w, 2).await;
    assert_eq!(renew(w, &claim(2, "c"), 7, &soon).await, Renewed::Gone);
    assert_eq!(ask(w, &claim(2, "d"), 8, &soon, WAIT).await, Ran::Runs);
}

async fn an_ack_known_to_be_late_frees_after_the_grace(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    assert_eq!(settle(w, "a", 8, Signal::AckedLate).await, [], "of another delivery");
    assert_eq!(settle(w, "a", 7, Signal::AckedLate).await, [ReleaseReason::Ended]);
    assert!(span(w, 1).await < LIFE / 2);
}

async fn what_the_rule_does_not_listen_to_ends_nothing(w: &World) {
    let acks = run_note_with(|note| (note.acks_late, note.hears) = (true, Hears::only([Source::Ack])));
    running(w, 1, "a", 7, &acks).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, []);
    assert_eq!(tell(w, "a", Signal::Started).await, []);
    assert_eq!(
        run_of(w, 1).await.state,
        LockState::Running,
        "it shows nevertheless that it has begun"
    );
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, [ReleaseReason::Ended]);
    let events = run_note_with(|note| (note.acks_late, note.hears) = (true, Hears::only([Source::Events])));
    running(w, 2, "b", 7, &events).await;
    assert_eq!(settle(w, "b", 7, Signal::Acked).await, []);
    assert!(span(w, 2).await >= LIFE);
    assert_eq!(
        tell(w, "b", Signal::Revoked).await,
        [ReleaseReason::Revoked],
        "what counts for all counts for it"
    );
    running(w, 3, "c", 7, &events).await;
    assert_eq!(tell(w, "c", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(settle(w, "d", 9, Signal::Acked).await, []);
    assert_eq!(
        renew(w, &claim(4, "d"), 7, &events).await,
        Renewed::Retaken,
        "an early ack is no end"
    );
}

async fn a_success_within_the_grace_frees_at_once(w: &World) {
    running(w, 1, "a", 7, &late()).await;
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, [ReleaseReason::Ended]);
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [], "it was told before");
    assert_eq!(holder(w, 1).await, None);
}

async fn a_retry_keeps_the_lock_for_the_next_run(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(tell(w, "a", Signal::Retried).await, []);
    let run = run_of(w, 1).await;
    assert_eq!((run.state, &*run.worker), (LockState::Queued, ""), "no worker has it");
    waits(w, &claim(1, "b"), 8, &early(), WAIT).await;
    assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Gone, "that run has ended");
    assert_eq!(tell(w, "a", Signal::Started).await, [], "what is told late of it says nothing");
    assert_eq!(tell(w, "a", Signal::Orphaned).await, []);
    assert_eq!(ask(w, &a, 9, &early(), WAIT).await, Ran::Runs, "also one that counts no retries");
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(ask(w, &claim(1, "b"), 8, &early(), WAIT).await, Ran::Runs);
}

async fn a_retry_within_the_grace_keeps_the_lock(w: &World) {
    let a = running(w, 1, "a", 7, &late()).await;
    settle(w, "a", 7, Signal::Acked).await;
    assert_eq!(tell(w, "a", Signal::Retried).await, []);
    assert!(span(w, 1).await >= LIFE);
    assert_eq!(ask(w, &a, 8, &late(), WAIT).await, Ran::Runs);
    assert_eq!(
        settle(w, "a", 8, Signal::Acked).await,
        [ReleaseReason::Ended],
        "the next run tells for itself"
    );
}

async fn a_late_ack_behind_a_retry_changes_nothing(w: &World) {
    running(w, 1, "a", 7, &late()).await;
    tell(w, "a", Signal::Retried).await;
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, []);
    assert!(span(w, 1).await >= LIFE);
}

async fn a_publish_of_the_id_before_its_late_ack_keeps_the_lock(w: &World) {
    let publish = note(Scope::UntilStarted);
    for (key, started) in [(1, false), (2, true)] {
        let id = format!("task {key}");
        let a = claim(key, &id);
        w.acquire(&a, 1, &publish).await;
        w.commit(&a, 1, &publish).await;
        running(w, key, &id, 7, &late()).await;
        if started {
            assert_eq!(tell(w, &id, Signal::Started).await, [ReleaseReason::Started]);
        }
        w.acquire_as(&a, 2, &publish, true).await;
        let freed = settle(w, &id, 7, Signal::Acked).await;
        assert_eq!(freed, [ReleaseReason::Started], "the publish lock only");
        assert!(span(w, key).await >= LIFE);
        assert_eq!(ask(w, &a, 8, &late(), WAIT).await, Ran::Runs);
    }
}

async fn admit(w: &World, claim: &Claim, delivery: u64) {
    let request = Request::Admit {
        claim: claim.clone(),
        delivery: Nonce(delivery),
        note: note(Scope::UntilStarted),
        reentrant: true,
        worker: ONE.into(),
    };
    assert_eq!(w.ask(request).await, Reply::Admit(claim.digest, Admitted::Holds));
}

async fn a_publish_that_is_counted_after_its_delivery_is_no_second_one(w: &World) {
    let (a, publish) = (claim(1, "a"), note(Scope::UntilStarted));
    // Its first message was decided without the store.
    admit(w, &a, 7).await;
    assert_eq!(w.commit(&a, 1, &publish).await, Committed::Held);
    assert_eq!(w.commit(&a, 1, &publish).await, Committed::Held, "told again");
    assert_eq!(w.show(digest(1)).await.map(|lock| lock.in_flight), Some(1));
    running(w, 1, "a", 7, &late()).await;
    let freed = settle(w, "a", 7, Signal::Acked).await;
    assert_eq!(freed, [ReleaseReason::Ended, ReleaseReason::Started]);
    assert_eq!(w.commit(&a, 1, &publish).await, Committed::Ended);
}

async fn a_late_commit_of_what_was_retried_counts_no_message(w: &World) {
    let (a, publish) = (claim(1, "a"), note(Scope::UntilStarted));
    w.acquire(&a, 1, &publish).await;
    admit(w, &a, 7).await;
    running(w, 1, "a", 7, &late()).await;
    assert_eq!(tell(w, "a", Signal::Started).await, [ReleaseReason::Started]);
    w.acquire_as(&a, 2, &publish, true).await;
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, [ReleaseReason::Started]);
    w.acquire_as(&a, 3, &publish, true).await;
    assert_eq!(w.commit(&a, 1, &publish).await, Committed::Ended);
    assert_eq!(w.commit(&a, 3, &publish).await, Committed::Held);
    admit(w, &a, 8).await;
    assert_eq!(ask(w, &a, 8, &late(), WAIT).await, Ran::Runs);
    let freed = settle(w, "a", 8, Signal::Acked).await;
    assert_eq!(freed, [ReleaseReason::Ended, ReleaseReason::Started]);
}

async fn a_publish_lock_that_is_taken_again_counts_its_own_run_once(w: &World) {
    let a = running(w, 1, "a", 7, &late()).await;
    tell(w, "a", Signal::Started).await;
    // The store has forgotten that it was begun.
    let request = Request::Renew {
        claim: a,
        delivery: Nonce(7),
        note: note(Scope::UntilStarted),
        alive: Alive::Delivered,
        worker: ONE.into(),
    };
    assert_eq!(w.ask(request).await, Reply::Renewed(Renewed::Retaken));
    let freed = settle(w, "a", 7, Signal::Acked).await;
    assert_eq!(freed, [ReleaseReason::Ended, ReleaseReason::Started]);
}

async fn a_higher_retry_takes_the_lock_over(w: &World) {
    let a = running(w, 1, "a", 7, &late()).await;
    let higher = run_note_with(|note| (note.acks_late, note.retries) = (true, 1));
    assert_eq!(ask(w, &a, 8, &higher, WAIT).await, Ran::Runs);
    assert_eq!(settle(w, "a", 7, Signal::Acked).await, [], "the former run's ack");
    assert_eq!(renew(w, &a, 7, &late()).await, Renewed::Gone);
    assert_eq!(renew(w, &a, 8, &higher).await, Renewed::Held);
    waits(w, &a, 9, &late(), WAIT).await;
    assert_eq!(settle(w, "a", 8, Signal::Rejected).await, [ReleaseReason::Ended]);
    assert_eq!(renew(w, &a, 7, &late()).await, Renewed::Gone);
}

async fn a_retry_that_is_told_late_of_a_former_run_stops_no_renewal(w: &World) {
    let a = running(w, 1, "a", 7, &late()).await;
    tell(w, "a", Signal::Retried).await;
    let second = run_note_with(|note| (note.acks_late, note.retries) = (true, 1));
    assert_eq!(ask(w, &a, 8, &second, WAIT).await, Ran::Runs);
    tell(w, "a", Signal::Started).await;
    assert_eq!(tell(w, "a", Signal::Retried).await, [], "once more");
    tick(w).await;
    assert_eq!(renew(w, &a, 8, &second).await, Renewed::Held);
    assert!(span(w, 1).await > LIFE, "its full life anew");
    assert_eq!(run_of(w, 1).await.worker.as_ref(), ONE, "it has it still");
    waits(w, &a, 9, &second, WAIT).await;
    assert_eq!(renew(w, &a, 7, &late()).await, Renewed::Gone, "it is over");
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
}

async fn what_is_told_late_of_the_former_run_ends_no_later_one(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    assert_eq!(ask(w, &a, 8, &retry(1), WAIT).await, Ran::Runs);
    assert_eq!(
        tell(w, "a", Signal::Retried).await,
        [],
        "the former run's retry is heard of at last"
    );
    waits(w, &a, 9, &retry(1), WAIT).await;
    tell(w, "a", Signal::Started).await;
    assert_eq!(tell(w, "a", Signal::Retried).await, [], "and once more");
    republished(w, &a, 1).await;
    waits(w, &a, 9, &retry(1), WAIT).await;
    republished(w, &a, 2).await;
    assert_eq!(ask(w, &a, 9, &retry(1), WAIT).await, Ran::Runs, "this one was its own");
}

async fn a_retry_that_is_told_late_leaves_no_lock_behind(w: &World) {
    // An ack ends the run; nobody tells how.
    let a = running(w, 1, "a", 7, &late()).await;
    republished(w, &a, 1).await;
    let second = run_note_with(|note| (note.acks_late, note.retries) = (true, 1));
    assert_eq!(ask(w, &a, 8, &second, WAIT).await, Ran::Runs);
    tell(w, "a", Signal::Retried).await;
    republished(w, &a, 1).await;
    assert_eq!(settle(w, "a", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    tell(w, "a", Signal::Retried).await;
    assert!(span(w, 1).await < LIFE, "it goes after the grace");
    // Its worker does not know it any more.
    let b = running(w, 2, "b", 7, &early()).await;
    republished(w, &b, 1).await;
    assert_eq!(ask(w, &b, 8, &retry(1), WAIT).await, Ran::Runs);
    tell(w, "b", Signal::Started).await;
    tell(w, "b", Signal::Retried).await;
    assert_eq!(renew(w, &b, 8, &retry(1)).await, Renewed::Held);
    assert_eq!(tell(w, "b", Signal::Orphaned).await, [ReleaseReason::Crash]);
}

async fn a_retry_that_is_published_keeps_the_lock(w: &World) {
    for (key, retries) in [(1, 0), (2, 1), (3, 5)] {
        let of = |retries| run_note_with(|note| (note.acks_late, note.retries) = (key == 2, retries));
        let id = format!("task {key}");
        let a = running(w, key, &id, 7, &of(retries)).await;
        tell(w, &id, Signal::Started).await;
        republished(w, &claim(key, "another"), retries + 1).await;
        republished(w, &a, retries).await;
        assert_eq!(run_of(w, key).await.worker.as_ref(), ONE, "it is this run");
        for told in 0..2 {
            republished(w, &a, retries + 1).await;
            assert_eq!(run_of(w, key).await.worker.as_ref(), "", "{told}");
        }
        if key == 2 {
            assert_eq!(settle(w, &id, 7, Signal::Acked).await, []);
        }
        assert!(span(w, key).await >= LIFE);
        waits(w, &claim(key, "another"), 9, &of(0), WAIT).await;
        assert_eq!(ask(w, &a, 8, &of(retries + 1), WAIT).await, Ran::Runs);
        assert_eq!(tell(w, &id, Signal::Succeeded).await, [ReleaseReason::Success]);
    }
    republished(w, &claim(4, "nobody"), 1).await;
    assert_eq!(w.show_run(digest(4)).await, None);
}

async fn a_retry_that_is_published_within_the_grace_keeps_the_lock(w: &World) {
    let second = run_note_with(|note| (note.acks_late, note.retries) = (true, 1));
    let a = running(w, 1, "a", 8, &second).await;
    assert_eq!(settle(w, "a", 8, Signal::Acked).await, [ReleaseReason::Ended]);
    republished(w, &a, 2).await;
    assert!(span(w, 1).await >= LIFE);
    waits(w, &claim(1, "b"), 9, &late(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure]);
}

async fn a_redelivery_of_what_was_retried_is_not_overtaken(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    tell(w, "a", Signal::Retried).await;
    assert_eq!(
        ask(w, &a, 8, &early(), WAIT).await,
        Ran::Runs,
        "its ack was lost, and it came again"
    );
    waits(w, &a, 9, &retry(1), WAIT).await;
    republished(w, &a, 1).await;
    assert_eq!(ask(w, &a, 9, &retry(1), WAIT).await, Ran::Runs);
}

async fn a_retry_that_is_not_counted_ends_in_the_next(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    for delivery in 8..11 {
        waits(w, &a, delivery, &early(), WAIT).await;
        assert_eq!(tell(w, "a", Signal::Retried).await, []);
        assert_eq!(
            ask(w, &a, delivery, &early(), WAIT).await,
            Ran::Runs,
            "its number is that of a first try"
        );
    }
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
}

async fn a_second_copy_waits_and_runs_after_a_failure(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    let (place, before) = waits(w, &a, 8, &early(), WAIT).await;
    assert_eq!(before, "a");
    assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure]);
    assert_eq!(ask(w, &a, 8, &early(), at(place)).await, Ran::Runs);
}

async fn a_second_copy_of_a_success_does_not_run(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    let (place, _) = waits(w, &a, 8, &early(), WAIT).await;
    waits(w, &claim(1, "b"), 9, &early(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    for _ in 0..2 {
        assert_eq!(ask(w, &a, 8, &early(), at(place)).await, Ran::Succeeded);
    }
    assert_eq!(ask(w, &claim(1, "b"), 9, &early(), WAIT).await, Ran::Runs, "it is not waited for");
    assert_eq!(ask(w, &a, 8, &early(), LEAVE).await, Ran::Succeeded, "whoever runs now");
    tick(w).await;
    waits(w, &a, 10, &early(), WAIT).await;
}

async fn a_new_message_of_an_id_that_has_succeeded_runs(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(ask(w, &a, 8, &early(), WAIT).await, Ran::Runs, "no copy was about");
    let (place, _) = waits(w, &a, 9, &early(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(ask(w, &a, 9, &early(), at(place)).await, Ran::Succeeded);
    assert_eq!(ask(w, &a, 10, &early(), WAIT).await, Ran::Runs, "the copy was told");
}

async fn a_copy_that_comes_back_without_a_place_is_found_once(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    waits(w, &a, 8, &early(), WAIT).await;
    leave(w, &a, 8).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(ask(w, &a, 9, &early(), WAIT).await, Ran::Succeeded);
    assert_eq!(ask(w, &a, 9, &early(), WAIT).await, Ran::Succeeded);
    assert_eq!(ask(w, &a, 10, &early(), WAIT).await, Ran::Runs);
}

async fn a_retry_behind_a_success_runs(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    waits(w, &a, 8, &early(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(ask(w, &a, 9, &retry(1), WAIT).await, Ran::Runs);
}

async fn leaving_frees_the_publish_lock_of_the_id(w: &World) {
    let publish = note(Scope::UntilStarted);
    running(w, 1, "a", 7, &early()).await;
    let b = claim(1, "b");
    w.acquire(&b, 1, &publish).await;
    w.commit(&b, 1, &publish).await;
    let Ran::Leaves { holder, freed } = ask(w, &b, 8, &early(), LEAVE).await else {
        panic!("it leaves")
    };
    assert_eq!((&*holder, reasons(freed)), ("a", vec![ReleaseReason::Ended]));
    assert_eq!(w.show(digest(1)).await, None);
    let again = ask(w, &b, 8, &early(), LEAVE).await;
    assert!(matches!(&again, Ran::Leaves { freed, .. } if freed.is_empty()), "{again:?}");
    let c = claim(1, "c");
    assert_eq!(w.acquire(&c, 2, &publish).await, Acquired::Taken);
    assert!(matches!(ask(w, &claim(1, "d"), 9, &early(), LEAVE).await, Ran::Leaves { freed, .. } if freed.is_empty()));
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("c"), "another's stays");
    assert_eq!(ask(w, &claim(2, "d"), 9, &early(), LEAVE).await, Ran::Runs, "nothing runs there");
}

async fn leaving_survives_a_late_commit(w: &World) {
    let publish = note(Scope::UntilStarted);
    running(w, 1, "a", 7, &early()).await;
    let (b, c) = (claim(1, "b"), claim(1, "c"));
    w.acquire(&b, 1, &publish).await;
    ask(w, &b, 8, &early(), LEAVE).await;
    assert_eq!(w.commit(&b, 1, &publish).await, Committed::Ended);
    ask(w, &c, 9, &early(), LEAVE).await;
    assert_eq!(
        w.commit(&c, 1, &publish).await,
        Committed::Ended,
        "also of one that was forwarded unchecked"
    );
    assert_eq!(w.show(digest(1)).await, None);
}

async fn a_second_copy_is_never_told_to_leave(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    waits(w, &a, 8, &early(), LEAVE).await;
    assert_eq!(tell(w, "a", Signal::Crashed).await, [ReleaseReason::Crash]);
    assert_eq!(ask(w, &a, 8, &early(), LEAVE).await, Ran::Runs);
}

async fn what_is_given_back_is_free(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    waits(w, &claim(1, "b"), 9, &early(), WAIT).await;
    assert_eq!(leave(w, &a, 8).await, [], "another delivery");
    assert_eq!(holder(w, 1).await.as_deref(), Some("a"));
    assert_eq!(leave(w, &a, 7).await, [ReleaseReason::Ended]);
    assert_eq!(leave(w, &a, 7).await, []);
    assert_eq!(ask(w, &claim(1, "b"), 9, &early(), WAIT).await, Ran::Runs);
    assert_eq!(
        tell(w, "a", Signal::Succeeded).await,
        [],
        "its record does not list the key any more"
    );
}

async fn renewal_gives_the_full_life_and_retakes(w: &World) {
    let a = running(w, 1, "a", 7, &lapsing()).await;
    assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Held);
    assert!(span(w, 1).await >= LIFE);
    let b = running(w, 2, "b", 7, &lapsing()).await;
    lapses(w, 2).await;
    assert_eq!(renew(w, &b, 7, &early()).await, Renewed::Retaken);
    assert_eq!(holder(w, 2).await.as_deref(), Some("b"));
    assert_eq!(
        tell(w, "b", Signal::Succeeded).await,
        [ReleaseReason::Success],
        "its record is back as well"
    );
}

async fn renewal_never_steals(w: &World) {
    let a = running(w, 1, "a", 7, &lapsing()).await;
    lapses(w, 1).await;
    running(w, 1, "b", 8, &early()).await;
    assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Lost);
    assert_eq!(holder(w, 1).await.as_deref(), Some("b"));
    assert_eq!(
        renew(w, &claim(1, "b"), 9, &early()).await,
        Renewed::Gone,
        "nor from another delivery of the id"
    );
}

async fn a_run_that_goes_on_and_has_lost_its_lock_is_the_next(w: &World) {
    let renewed = run_note_with(|note| note.life_ms = 3 * SILENCE);
    let [stray, live, next, last] = ["stray", "live", "next", "last"].map(|id| claim(1, id));
    // The store has forgotten both, and nobody has told it that the first had ended.
    assert_eq!(renew(w, &stray, 7, &renewed).await, Renewed::Retaken);
    let (place, _) = waits(w, &next, 9, &early(), WAIT).await;
    assert_eq!(renew(w, &live, 8, &renewed).await, Renewed::Lost);
    assert_eq!(tell(w, "stray", Signal::Orphaned).await, [ReleaseReason::Crash]);
    // It is renewed at a third of its life.
    w.pass(SILENCE);
    let waited = waits(w, &next, 9, &early(), at(place)).await;
    assert_eq!(waited, (place, "live".into()), "it does not overtake");
    let left = ask(w, &last, 10, &early(), LEAVE).await;
    assert!(matches!(left, Ran::Leaves { holder, .. } if *holder == *"live"), "it runs");
    assert_eq!(renew(w, &live, 8, &renewed).await, Renewed::Retaken);
    assert_eq!(holder(w, 1).await.as_deref(), Some("live"));
}

async fn a_run_that_has_lost_its_lock_and_ends_is_not_waited_for(w: &World) {
    for (key, signal) in (1..).zip([Signal::Succeeded, Signal::Failed, Signal::Orphaned]) {
        let [stray, live, next] = ["stray", "live", "next"].map(|id| claim(key, &format!("{id} {key}")));
        assert_eq!(renew(w, &stray, 7, &early()).await, Renewed::Retaken);
        assert_eq!(renew(w, &live, 8, &early()).await, Renewed::Lost);
        assert_eq!(tell(w, &live.id, signal).await, []);
        assert_eq!(tell(w, &stray.id, Signal::Succeeded).await, [ReleaseReason::Success]);
        assert_eq!(ask(w, &next, 9, &early(), WAIT).await, Ran::Runs, "{signal:?}");
    }
}

async fn renewal_behind_the_end_is_of_no_use(w: &World) {
    for (key, signal) in (1..).zip([Signal::Succeeded, Signal::Failed, Signal::Revoked, Signal::Crashed]) {
        let id = format!("task {key}");
        let a = running(w, key, &id, 7, &early()).await;
        tell(w, &id, signal).await;
        assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Gone, "{signal:?}");
        assert_eq!(holder(w, key).await, None);
        assert_eq!(
            ask(w, &a, 8, &early(), WAIT).await,
            Ran::Runs,
            "a later delivery is a run of its own"
        );
        assert_eq!(renew(w, &a, 8, &early()).await, Renewed::Held);
    }
}

async fn renewal_does_not_undo_a_release(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    assert_eq!(w.release_if(digest(1), None, Running::Skip).await, []);
    assert_eq!(w.release_if(digest(1), Some("b"), Running::Include).await, []);
    assert_eq!(reasons(w.release(digest(1), Some("a")).await), [ReleaseReason::Admin]);
    assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Gone);
    assert_eq!(ask(w, &claim(1, "b"), 8, &early(), WAIT).await, Ran::Runs);
}

async fn renewal_behind_an_end_that_met_no_lock_is_of_no_use(w: &World) {
    let a = claim(1, "a");
    assert_eq!(tell(w, "a", Signal::Succeeded).await, []);
    assert_eq!(
        renew(w, &a, 7, &early()).await,
        Renewed::Gone,
        "the store was emptied, and the end came first"
    );
    assert_eq!(ask(w, &a, 8, &early(), WAIT).await, Ran::Runs);
}

async fn renewals_of_what_was_given_up_never_bring_it_back(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    assert_eq!(tell(w, "a", Signal::Orphaned).await, [ReleaseReason::Crash]);
    for _ in 0..6 {
        w.pass(LIFE / 2);
        assert_eq!(renew(w, &a, 7, &early()).await, Renewed::Gone);
    }
}

async fn an_orphan_that_is_named_is_no_later_run_of_its_worker(w: &World) {
    let a = running(w, 1, "a", 7, &early()).await;
    republished(w, &a, 1).await;
    assert_eq!(ask(w, &a, 8, &retry(1), WAIT).await, Ran::Runs);
    assert_eq!(settle(w, "a", 7, Signal::Orphaned).await, []);
    assert_eq!(settle(w, "a", 8, Signal::Orphaned).await, [ReleaseReason::Crash]);
}

async fn an_orphan_is_freed_if_its_worker_is_named(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    assert_eq!(tell_from(w, "", "a", Signal::Orphaned).await, []);
    assert_eq!(tell_from(w, TWO, "a", Signal::Orphaned).await, []);
    waits(w, &claim(1, "a"), 8, &early(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Orphaned).await, [ReleaseReason::Crash]);
    assert_eq!(ask(w, &claim(1, "a"), 8, &early(), WAIT).await, Ran::Runs, "its second copy");
}

async fn a_revoke_that_is_asked_for_ends_a_run_that_has_not_begun(w: &World) {
    running(w, 1, "a", 7, &early()).await;
    waits(w, &claim(1, "b"), 8, &early(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Purged).await, []);
    assert_eq!(tell(w, "a", Signal::RevokeAsked).await, [ReleaseReason::Revoked]);
    assert_eq!(ask(w, &claim(1, "b"), 8, &early(), WAIT).await, Ran::Runs);
    tell(w, "b", Signal::Started).await;
    for signal in [Signal::RevokeAsked, Signal::Purged] {
        assert_eq!(tell(w, "b", signal).await, [], "it runs");
    }
    assert_eq!(holder(w, 1).await.as_deref(), Some("b"));
}

async fn publish_lock_and_run_of_one_key_are_two(w: &World) {
    let publish = note(Scope::UntilStarted);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    w.acquire(&a, 1, &publish).await;
    w.commit(&a, 1, &publish).await;
    running(w, 1, "a", 7, &early()).await;
    assert_eq!(
        settle(w, "a", 7, Signal::Acked).await,
        [ReleaseReason::Started],
        "the one goes, the other stays"
    );
    assert_eq!(w.acquire(&b, 2, &publish).await, Acquired::Taken);
    assert_eq!(
        (w.holder(digest(1)).await.as_deref(), holder(w, 1).await.as_deref()),
        (Some("b"), Some("a"))
    );
    w.commit(&b, 2, &publish).await;
    waits(w, &b, 8, &early(), WAIT).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
    assert_eq!(ask(w, &b, 8, &early(), WAIT).await, Ran::Runs);
    let mut freed = reasons(w.release(digest(1), None).await);
    assert_eq!(freed.pop(), Some(ReleaseReason::Admin));
    assert_eq!(freed, [ReleaseReason::Admin], "an operator frees both");
}

async fn the_record_of_an_id_keeps_both(w: &World) {
    let publish = note(Scope::UntilFinished);
    let a = claim(1, "a");
    running(w, 1, "a", 7, &early()).await;
    w.acquire(&a, 1, &publish).await;
    w.commit(&a, 1, &publish).await;
    assert_eq!(leave(w, &a, 7).await, [ReleaseReason::Ended]);
    assert_eq!(
        tell(w, "a", Signal::Succeeded).await,
        [ReleaseReason::Success],
        "the publish lock is found"
    );
    running(w, 1, "a", 8, &early()).await;
    w.acquire(&a, 2, &publish).await;
    w.unpublish(&a, 2, ReleaseReason::Returned).await;
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(tell(w, "a", Signal::Failed).await, [ReleaseReason::Failure], "and so is the run");
    running(w, 1, "a", 9, &early()).await;
    w.acquire(&a, 3, &publish).await;
    w.commit(&a, 3, &publish).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success; 2]);
}

async fn an_id_is_noted_for_the_key_that_it_runs(w: &World) {
    let (one, other) = (claim(1, "a"), claim(2, "a"));
    w.acquire(&other, 1, &note(Scope::UntilFinished)).await;
    ask(w, &one, 2, &early(), WAIT).await;
    let mut claimed = w.client.claimed("a").await.expect("the store answers");
    claimed.sort_unstable_by_key(|digest| digest.0);
    assert_eq!(claimed, [digest(1), digest(2)]);
    for key in [1, 2] {
        let freed = w.release(digest(key), None).await;
        assert_eq!(
            freed.iter().map(|freed| &*freed.vhost).collect::<Vec<_>>(),
            ["shop"],
            "what is freed names its virtual host"
        );
    }
    assert_eq!(w.client.claimed("a").await, Ok(Vec::new()));
}

async fn an_id_that_runs_is_known_to_its_key(w: &World) {
    let publish = note(Scope::UntilStarted);
    let (a, b) = (claim(1, "a"), claim(1, "b"));
    running(w, 1, "a", 7, &early()).await;
    w.acquire(&b, 1, &publish).await;
    w.commit(&b, 1, &publish).await;
    assert_eq!(
        w.acquire(&a, 2, &publish).await,
        Acquired::Reentry { holds: false },
        "its retry is never a duplicate"
    );
    let admit = |claim: &Claim| Request::Admit {
        claim: claim.clone(),
        delivery: Nonce(8),
        note: publish.clone(),
        reentrant: false,
        worker: ONE.into(),
    };
    assert_eq!(w.ask(admit(&a)).await, Reply::Admit(digest(1), Admitted::Passes));
    running(w, 3, "c", 7, &early()).await;
    assert_eq!(
        w.ask(admit(&claim(4, "c"))).await,
        Reply::Admit(digest(3), Admitted::Holds),
        "the key that it runs goes before the one that the present rules compute"
    );
}

async fn signals_of_an_id_that_only_runs_still_meet_a_late_commit(w: &World) {
    let publish = note(Scope::UntilStarted);
    let a = claim(1, "a");
    running(w, 1, "a", 7, &early()).await;
    assert_eq!(tell(w, "a", Signal::Succeeded).await, [ReleaseReason::Success]);
    assert_eq!(w.commit(&a, 1, &publish).await, Committed::Ended);
    assert_eq!(w.show(digest(1)).await, None);
}

async fn runs_are_listed_and_cleared_with_their_kind(w: &World) {
    let publish = note(Scope::UntilStarted);
    let waiting = claim(1, "b");
    running(w, 1, "a", 7, &early()).await;
    running(w, 2, "c", 8, &run_note_with(|note| note.rule = "other".into())).await;
    w.acquire(&waiting, 1, &publish).await;
    w.commit(&waiting, 1, &publish).await;
    waits(w, &waiting, 9, &early(), WAIT).await;
    let mut listed = Vec::new();
    let mut cursor = None;
    loop {
        let page = w.client.list(&Filter::default(), cursor.as_deref(), 1).await.expect("a page");
        listed.extend(
            page.locks
                .iter()
                .map(|lock| (lock.digest, lock.scope.as_str(), lock.holder.to_string())),
        );
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    listed.sort();
    listed.dedup();
    let expected = [
        (digest(1), "until_started", "b".to_owned()),
        (digest(1), "while_running", "a".to_owned()),
        (digest(2), "while_running", "c".to_owned()),
    ];
    assert_eq!(listed, expected);

    let locks = operator::show(&w.client, digest(1))
        .await
        .expect("an answer")
        .to_json()
        .expect("locks");
    assert_eq!((&locks["holder"], &locks["unique"]), (&"b".into(), &"until_started".into()));
    assert_eq!(
        (&locks["run"]["holder"], &locks["run"]["unique"]),
        (&"a".into(), &"while_running".into())
    );
    let run = operator::show(&w.client, digest(2))
        .await
        .expect("an answer")
        .to_json()
        .expect("a run");
    assert_eq!((&run["holder"], &run["unique"]), (&"c".into(), &"while_running".into()));

    let mut choice = Choice {
        filter: Filter {
            rule: Some("reports".into()),
            ..Filter::default()
        },
        ..Choice::default()
    };
    for (act, running, released, skipped) in [
        (Act::DryRun, Running::Include, 2, 0),
        (Act::Release, Running::Skip, 1, 1),
        (Act::Release, Running::Include, 1, 0),
        (Act::Release, Running::Include, 0, 0),
    ] {
        (choice.act, choice.running) = (act, running);
        let cleared = operator::clear(&w.client, &choice, |_| {}).await.expect("an answer");
        assert_eq!(
            (cleared.released, cleared.skipped_running),
            (released, skipped),
            "{act:?} {running:?}"
        );
    }
    assert_eq!(holder(w, 2).await.as_deref(), Some("c"), "another rule's");
}
