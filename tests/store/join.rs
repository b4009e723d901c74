//! Ids that wait for a holder's result.

use std::sync::Arc;
use std::time::Duration;

use oncegate::rules::lock::{
    Acquired, Admitted, IfHeld, LockNote, Nonce, ReleaseOn, ReleaseReason, Renewed, Reply, Request, Scope, Signal, Weight,
};
use oncegate::rules::owed::{Owed, ReplyTo, Via};
use oncegate::rules::running::{IfBusy, Ran, RunNote};
use oncegate::rules::source::{Hears, Source};
use oncegate::store::join::{Awaits, Due, Group, Joined, Kept, Stage};

use crate::world::{World, claim, digest, note_with};

scenarios! {
    a_duplicate_waits_for_the_holder
    who_wants_nothing_does_not_wait
    an_id_waits_once
    a_group_is_told_to_one
    a_group_ends_with_its_last_id
    a_holder_that_has_begun_may_not_have_ended
    a_lock_that_is_kept_beyond_the_end
    a_cooldown_is_an_end
    a_delivery_found_late_waits_too
    what_leaves_a_busy_key_waits_for_the_run
    what_leaves_for_a_run_that_lost_its_lock_waits_for_that
    too_many_wait_for_nothing
    a_holder_that_is_back_has_not_ended
    a_holder_that_is_set_aside_has_not_ended
    who_was_not_to_wait_joins_later
    callers_wait_with_their_addresses
    a_caller_that_may_be_one_waits_once_it_is_known
    of_callers_only_so_many_are_known
    a_result_is_kept_while_others_wait
    a_result_is_kept_for_those_that_may_come
    a_result_that_nobody_can_want_is_not_kept
    a_result_may_be_kept_for_a_while_in_any_case
    a_group_is_looked_at_when_its_holder_ends
}

fn joins() -> Owed {
    Owed::Joined(Via::Backend)
}

fn waiting(id: &str, rule: &Arc<str>, reply_to: Option<&Arc<ReplyTo>>) -> Joined {
    Joined {
        id: id.into(),
        rule: rule.clone(),
        reply_to: reply_to.cloned(),
    }
}

fn joining(scope: Scope) -> Arc<LockNote> {
    note_with(scope, |note| note.owed = joins())
}

/// `a` holds the key, and `b` is its duplicate.
async fn with_a_duplicate(w: &World, note: &Arc<LockNote>) {
    w.acquire(&claim(1, "a"), 1, note).await;
    w.commit(&claim(1, "a"), 1, note).await;
    assert!(matches!(w.acquire(&claim(1, "b"), 2, note).await, Acquired::Held { .. }));
}

/// What is to be looked at, once somebody else's look is over.
async fn due(w: &World) -> Vec<(Group, Stage)> {
    w.pass(600);
    let mut due: Vec<Due> = Vec::new();
    w.until("a group is due", async || {
        due = w.client.joins_due().await.expect("the store answers");
        !due.is_empty()
    })
    .await;
    due.into_iter().map(|due| (due.group, due.stage)).collect()
}

async fn only(w: &World) -> (Group, Stage) {
    let mut due = due(w).await;
    assert_eq!(due.len(), 1, "{due:?}");
    due.remove(0)
}

async fn ids(w: &World, group: &Group) -> Vec<String> {
    let joined = w.client.joined(group).await.expect("the store answers");
    let mut ids: Vec<String> = joined.iter().map(|joined| joined.id.to_string()).collect();
    ids.sort_unstable();
    ids
}

async fn a_duplicate_waits_for_the_holder(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilFinished)).await;
    let (group, stage) = only(w).await;
    let expected = Group {
        digest: digest(1),
        holder: "a".into(),
        awaits: Awaits::Result,
    };
    assert_eq!((&group, stage), (&expected, Stage::Holds));
    let joined = w.client.joined(&group).await.expect("the store answers");
    let rule = joining(Scope::UntilFinished).rule.clone();
    assert_eq!(joined, [waiting("b", &rule, None)]);
    w.signal("a", 3, Signal::Started).await;
    assert!(!w.signal("a", 4, Signal::Succeeded).await.is_empty());
    w.pass(5_000);
    let (_, stage) = only(w).await;
    assert!(
        matches!(stage, Stage::Ended { since } if since < Duration::from_secs(1)),
        "{stage:?}"
    );
    let (_, stage) = only(w).await;
    assert!(
        matches!(stage, Stage::Ended { since } if since >= Duration::from_millis(400)),
        "{stage:?}"
    );
    // Another takes the key: that is not the holder that is waited for.
    w.acquire(&claim(1, "c"), 5, &joining(Scope::UntilFinished)).await;
    assert!(matches!(only(w).await.1, Stage::Ended { .. }));
}

async fn who_wants_nothing_does_not_wait(w: &World) {
    for owed in [Owed::Nothing, Owed::Revoked(Via::Backend), Owed::Success(Via::Backend)] {
        with_a_duplicate(w, &note_with(Scope::UntilFinished, |note| note.owed = owed)).await;
    }
    let joins = joining(Scope::UntilFinished);
    // Never a duplicate, and one whose holder's message is not safe yet.
    assert!(matches!(
        w.acquire_as(&claim(1, "c"), 3, &joins, true).await,
        Acquired::Reentry { .. }
    ));
    w.acquire(&claim(2, "a"), 4, &joins).await;
    assert!(matches!(w.acquire(&claim(2, "b"), 5, &joins).await, Acquired::Leased { .. }));
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
}

async fn an_id_waits_once(w: &World) {
    let note = joining(Scope::UntilFinished);
    with_a_duplicate(w, &note).await;
    w.acquire(&claim(1, "b"), 2, &note).await;
    w.acquire(&claim(1, "b"), 3, &note).await;
    let (group, _) = only(w).await;
    assert_eq!(ids(w, &group).await, ["b"]);
}

async fn a_group_is_told_to_one(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilFinished)).await;
    let (group, _) = only(w).await;
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
    assert_eq!(w.elsewhere().client().joins_due().await, Ok(Vec::new()));
    // Who works on it keeps it for longer.
    assert_eq!(ids(w, &group).await, ["b"]);
    w.pass(600);
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
    w.pass(5_000);
    assert_eq!(only(w).await.0, group);
}

async fn a_group_ends_with_its_last_id(w: &World) {
    let note = joining(Scope::UntilFinished);
    with_a_duplicate(w, &note).await;
    w.acquire(&claim(1, "c"), 3, &note).await;
    let (group, _) = only(w).await;
    assert_eq!(ids(w, &group).await, ["b", "c"]);
    w.client.joins_done(&group, &["b".into()]).await.expect("the store answers");
    assert_eq!(ids(w, &group).await, ["c"]);
    w.client
        .joins_done(&group, &["c".into(), "c".into()])
        .await
        .expect("the store answers");
    assert_eq!(ids(w, &group).await, [""; 0]);
    w.pass(6_000);
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
    // A further duplicate begins anew.
    w.acquire(&claim(1, "d"), 4, &note).await;
    let (group, _) = only(w).await;
    assert_eq!(ids(w, &group).await, ["d"]);
}

async fn a_holder_that_has_begun_may_not_have_ended(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilStarted)).await;
    assert_eq!(only(w).await.1, Stage::Holds);
    assert!(!w.signal("a", 3, Signal::Acked).await.is_empty());
    assert_eq!(only(w).await.1, Stage::Runs);
    w.signal("a", 4, Signal::Succeeded).await;
    assert!(matches!(only(w).await.1, Stage::Ended { .. }));
}

async fn a_lock_that_is_kept_beyond_the_end(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilExpired)).await;
    w.signal("a", 3, Signal::Succeeded).await;
    assert_eq!(only(w).await.1, Stage::Keeps);
}

async fn a_cooldown_is_an_end(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = joins();
        note.cooldown_ms = 100_000;
    });
    w.acquire(&claim(1, "a"), 1, &note).await;
    w.commit(&claim(1, "a"), 1, &note).await;
    w.signal("a", 2, Signal::Succeeded).await;
    assert!(matches!(w.acquire(&claim(1, "b"), 2, &note).await, Acquired::Held { .. }));
    assert!(matches!(only(w).await.1, Stage::Ended { .. }));
}

async fn a_delivery_found_late_waits_too(w: &World) {
    let note = joining(Scope::UntilFinished);
    w.acquire(&claim(1, "a"), 1, &note).await;
    w.commit(&claim(1, "a"), 1, &note).await;
    let admit = |id: &str, reentrant| Request::Admit {
        claim: claim(1, id),
        delivery: Nonce(9),
        note: note.clone(),
        reentrant,
        worker: "w".into(),
    };
    assert!(matches!(w.ask(admit("c", true)).await, Reply::Admit(_, Admitted::Passes)));
    assert!(matches!(w.ask(admit("b", false)).await, Reply::Admit(_, Admitted::Held { .. })));
    let (group, _) = only(w).await;
    assert_eq!((&*group.holder, ids(w, &group).await), ("a", vec!["b".to_owned()]));
}

fn run(owed: Owed) -> Arc<RunNote> {
    Arc::new(RunNote {
        rule: "a rule".into(),
        task: "t".into(),
        summary: "".into(),
        vhost: "/".into(),
        queue: "q".into(),
        life_ms: 100_000,
        settle_grace_ms: 1_000,
        acks_late: false,
        hears: Hears::ALL,
        retries: 0,
        owed,
    })
}

async fn what_leaves_for_a_run_that_lost_its_lock_waits_for_that(w: &World) {
    let renew = |id: &str, delivery| Request::RenewRun {
        claim: claim(1, id),
        delivery: Nonce(delivery),
        note: run(Owed::Nothing),
        worker: "w".into(),
    };
    assert_eq!(w.ask(renew("stray", 1)).await, Reply::Renewed(Renewed::Retaken));
    assert_eq!(w.ask(renew("live", 2)).await, Reply::Renewed(Renewed::Lost));
    w.signal("stray", 5, Signal::Succeeded).await;
    let leaves = Request::Run {
        claim: claim(1, "a"),
        delivery: Nonce(3),
        note: run(Owed::Joined(Via::Reply(caller(None)))),
        busy: IfBusy::Leave { place_ms: None },
        worker: "w".into(),
    };
    assert!(matches!(w.ask(leaves).await, Reply::Run(Ran::Leaves { holder, .. }) if *holder == *"live"));
    let (group, _) = only(w).await;
    assert_eq!((&*group.holder, ids(w, &group).await), ("live", vec!["a".to_owned()]));
}

async fn what_leaves_a_busy_key_waits_for_the_run(w: &World) {
    let ask = |id: &str, delivery, busy, owed| Request::Run {
        claim: claim(1, id),
        delivery: Nonce(delivery),
        note: run(owed),
        busy,
        worker: "w".into(),
    };
    let leave = IfBusy::Leave { place_ms: None };
    assert_eq!(w.ask(ask("a", 1, leave, joins())).await, Reply::Run(Ran::Runs));
    let wait = IfBusy::Wait { place_ms: None };
    assert!(matches!(w.ask(ask("d", 2, wait, joins())).await, Reply::Run(Ran::Waits { .. })));
    assert!(matches!(
        w.ask(ask("c", 3, leave, Owed::Revoked(Via::Backend))).await,
        Reply::Run(Ran::Leaves { .. })
    ));
    assert!(matches!(w.ask(ask("b", 4, leave, joins())).await, Reply::Run(Ran::Leaves { .. })));
    let (group, stage) = only(w).await;
    assert_eq!(
        (&*group.holder, stage, ids(w, &group).await),
        ("a", Stage::Holds, vec!["b".to_owned()])
    );
    let joined = w.client.joined(&group).await.expect("the store answers");
    assert_eq!(joined.first().map(|joined| &*joined.rule), Some("a rule"));
    w.signal("a", 5, Signal::Succeeded).await;
    w.pass(5_000);
    assert!(matches!(only(w).await.1, Stage::Ended { .. }));
}

async fn a_holder_that_is_back_has_not_ended(w: &World) {
    let note = joining(Scope::UntilFinished);
    with_a_duplicate(w, &note).await;
    assert!(!w.unpublish(&claim(1, "a"), 1, ReleaseReason::Unconfirmed).await.is_empty());
    assert!(matches!(only(w).await.1, Stage::Ended { .. }));
    assert_eq!(w.acquire(&claim(1, "a"), 3, &note).await, Acquired::Taken);
    w.commit(&claim(1, "a"), 3, &note).await;
    assert_eq!(only(w).await.1, Stage::Holds);
    w.signal("a", 4, Signal::Succeeded).await;
    // It has ended now, not when its first publish failed.
    let (_, stage) = only(w).await;
    assert!(
        matches!(stage, Stage::Ended { since } if since < Duration::from_millis(400)),
        "{stage:?}"
    );
}

async fn a_holder_that_is_set_aside_has_not_ended(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilFinished)).await;
    let newer = note_with(Scope::UntilFinished, |note| note.if_held = IfHeld::Replace);
    let replaces = Acquired::Replaces { holder: "a".into() };
    assert_eq!(w.acquire(&claim(1, "c"), 3, &newer).await, replaces);
    assert_eq!(only(w).await.1, Stage::Holds);
    w.unpublish(&claim(1, "c"), 3, ReleaseReason::Unconfirmed).await;
    assert_eq!(only(w).await.1, Stage::Holds);
    assert_eq!(w.acquire(&claim(1, "d"), 4, &newer).await, replaces);
    w.commit(&claim(1, "d"), 4, &newer).await;
    assert!(matches!(only(w).await.1, Stage::Ended { .. }));
}

async fn who_was_not_to_wait_joins_later(w: &World) {
    with_a_duplicate(w, &note_with(Scope::UntilFinished, |note| note.owed = Owed::Nothing)).await;
    let note = joining(Scope::UntilFinished);
    let join = Request::Join {
        claim: claim(1, "b"),
        holder: "a".into(),
        note: note.clone(),
    };
    assert_eq!(w.ask(join).await, Reply::Done);
    let (group, stage) = only(w).await;
    assert_eq!((&*group.holder, group.awaits, stage), ("a", Awaits::Result, Stage::Holds));
    let joined = w.client.joined(&group).await.expect("the store answers");
    let rule = note.rule.clone();
    assert_eq!(joined, [waiting("b", &rule, None)]);
}

fn caller(correlation_id: Option<&str>) -> Arc<ReplyTo> {
    Arc::new(ReplyTo {
        vhost: "a\nvhost".into(),
        queue: "a \"queue\"\n".into(),
        correlation_id: correlation_id.map(Into::into),
    })
}

async fn callers_wait_with_their_addresses(w: &World) {
    let called = |to: &Arc<ReplyTo>| note_with(Scope::UntilFinished, |note| note.owed = Owed::Joined(Via::Reply(to.clone())));
    let (plain, other) = (caller(None), caller(Some("another id")));
    with_a_duplicate(w, &called(&plain)).await;
    assert!(matches!(w.acquire(&claim(1, "c"), 3, &called(&other)).await, Acquired::Held { .. }));
    w.acquire(&claim(1, "d"), 4, &joining(Scope::UntilFinished)).await;
    let join = Request::Join {
        claim: claim(1, "e"),
        holder: "a".into(),
        note: called(&plain),
    };
    assert_eq!(w.ask(join).await, Reply::Done);
    let (group, _) = only(w).await;
    let mut joined = w.client.joined(&group).await.expect("the store answers");
    joined.sort_unstable();
    let rule = joining(Scope::UntilFinished).rule.clone();
    let expected = [("b", Some(&plain)), ("c", Some(&other)), ("d", None), ("e", Some(&plain))];
    assert_eq!(joined, expected.map(|(id, to)| waiting(id, &rule, to)));
}

async fn declares(w: &World, vhost: &str, queue: &str) {
    let (vhost, queue) = (vhost.into(), queue.into());
    assert_eq!(w.ask(Request::Caller { vhost, queue }).await, Reply::Done);
}

async fn a_caller_that_may_be_one_waits_once_it_is_known(w: &World) {
    let to = caller(Some("another id"));
    let unsure = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Joined(Via::ReplyToCaller(to.clone()));
    });
    let elsewhere = ReplyTo {
        vhost: "/".into(),
        ..(*to).clone()
    };
    declares(w, "/", "another queue").await;
    with_a_duplicate(w, &unsure).await;
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
    assert_eq!(w.client.are_callers(&[&to, &elsewhere]).await, Ok(vec![false, false]));
    declares(w, &to.vhost, &to.queue).await;
    declares(w, &to.vhost, &to.queue).await;
    assert_eq!(w.client.are_callers(&[&elsewhere, &to]).await, Ok(vec![false, true]));
    assert!(matches!(w.acquire(&claim(1, "c"), 3, &unsure).await, Acquired::Held { .. }));
    let (group, _) = only(w).await;
    let rule = unsure.rule.clone();
    assert_eq!(w.client.joined(&group).await, Ok(vec![waiting("c", &rule, Some(&to))]));
}

async fn of_callers_only_so_many_are_known(w: &World) {
    let to = |number: usize| ReplyTo {
        vhost: "/".into(),
        queue: format!("queue-{number}").into(),
        correlation_id: None,
    };
    for some in (0..100_002).collect::<Vec<_>>().chunks(10_000) {
        let declared = some.iter().map(|number| Request::Caller {
            vhost: to(*number).vhost,
            queue: to(*number).queue,
        });
        w.client.tell_all(&mut declared.collect());
        w.client.flush().await;
    }
    let asked = [0, 1, 2, 100_001].map(to);
    let known = w.client.are_callers(&asked.each_ref()).await;
    assert_eq!(known, Ok(vec![false, false, true, true]));
}

async fn tell_result(w: &World, id: &str, weight: Weight, json: &str) {
    tell_result_for(w, id, weight, json, 0).await;
}

async fn tell_result_for(w: &World, id: &str, weight: Weight, json: &str, least_ms: u64) {
    let request = Request::Result {
        id: id.into(),
        weight,
        json: json.as_bytes().into(),
        least_ms,
    };
    assert_eq!(w.ask(request).await, Reply::Done);
}

async fn a_result_may_be_kept_for_a_while_in_any_case(w: &World) {
    tell_result_for(w, "a", Weight::Final, "a value", 100_000).await;
    assert_eq!(kept(w, "a").await.as_deref(), Some("a value"));
    w.pass(99_000);
    assert_eq!(kept(w, "a").await.as_deref(), Some("a value"));
    tell_result_for(w, "b", Weight::Final, "a value", 200).await;
    w.until("it to go", async || kept(w, "b").await.is_none()).await;
}

async fn kept(w: &World, holder: &str) -> Option<String> {
    let kept = w.client.kept_result(&holder.into()).await.expect("the store answers");
    kept.map(|json| String::from_utf8(json.to_vec()).expect("a text"))
}

async fn a_result_is_kept_while_others_wait(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilFinished)).await;
    let looked = w.client.joins_due().await.expect("the store answers");
    assert_eq!(looked.iter().map(|due| due.kept).collect::<Vec<_>>(), [Kept::No]);
    assert_eq!(kept(w, "a").await, None);
    tell_result(w, "a", Weight::Provisional, "revoked").await;
    // Nobody waits half a second for it.
    let looked = w.client.joins_due().await.expect("the store answers");
    assert_eq!(looked.iter().map(|due| due.kept).collect::<Vec<_>>(), [Kept::Yes]);
    assert_eq!(kept(w, "a").await.as_deref(), Some("revoked"));
    tell_result(w, "a", Weight::Final, "a value").await;
    tell_result(w, "a", Weight::Provisional, "revoked").await;
    assert_eq!(kept(w, "a").await.as_deref(), Some("a value"));
    tell_result(w, "b", Weight::Final, "of one that was dropped").await;
    assert_eq!(kept(w, "b").await, None);
    let group = looked[0].group.clone();
    w.client.joins_done(&group, &["b".into()]).await.expect("the store answers");
    w.signal("a", 5, Signal::Succeeded).await;
    w.pass(61_000);
    tell_result(w, "a", Weight::Provisional, "of an id that nobody waits for").await;
    assert_ne!(kept(w, "a").await.as_deref(), Some("of an id that nobody waits for"));
}

async fn a_result_is_kept_for_those_that_may_come(w: &World) {
    let notes = [
        note_with(Scope::UntilExpired, |_| ()),
        note_with(Scope::UntilFinished, |note| note.cooldown_ms = 100_000),
        note_with(Scope::UntilFinished, |note| note.release_on = ReleaseOn::Success),
        note_with(Scope::UntilFinished, |note| note.hears = Hears::only([Source::Ack])),
        note_with(Scope::UntilFinished, |note| {
            note.hears = Hears::only([Source::Events, Source::Redis]);
        }),
    ];
    for (key, note) in (1..).zip(notes) {
        let id = format!("id-{key}");
        w.acquire(&claim(key, &id), 1, &note).await;
        w.commit(&claim(key, &id), 1, &note).await;
        tell_result(w, &id, Weight::Final, "a value").await;
        assert_eq!(kept(w, &id).await.as_deref(), Some("a value"), "{key}");
    }
    // One whose lock is set aside, too.
    let newer = note_with(Scope::UntilFinished, |note| note.if_held = IfHeld::Replace);
    assert!(matches!(w.acquire(&claim(2, "newer"), 2, &newer).await, Acquired::Replaces { .. }));
    tell_result(w, "id-2", Weight::Final, "another").await;
    assert_eq!(kept(w, "id-2").await.as_deref(), Some("another"));
}

async fn a_result_that_nobody_can_want_is_not_kept(w: &World) {
    let note = joining(Scope::UntilFinished);
    w.acquire(&claim(1, "a"), 1, &note).await;
    w.commit(&claim(1, "a"), 1, &note).await;
    // A duplicate may come before the end is told.
    tell_result(w, "a", Weight::Final, "a value").await;
    assert_eq!(kept(w, "a").await.as_deref(), Some("a value"));
    w.acquire(&claim(2, "ended"), 2, &note).await;
    w.commit(&claim(2, "ended"), 2, &note).await;
    w.signal("ended", 3, Signal::Succeeded).await;
    for id in ["ended", "somebody else"] {
        tell_result(w, id, Weight::Final, "a value").await;
        assert_eq!(kept(w, id).await, None, "{id}");
    }
}

async fn a_group_is_looked_at_when_its_holder_ends(w: &World) {
    with_a_duplicate(w, &joining(Scope::UntilFinished)).await;
    assert_eq!(w.client.joins_due().await.expect("the store answers").len(), 1);
    w.signal("a", 3, Signal::Started).await;
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
    w.signal("a", 4, Signal::Succeeded).await;
    let due = w.client.joins_due().await.expect("the store answers");
    assert!(
        matches!(
            due[..],
            [Due {
                stage: Stage::Ended { .. },
                ..
            }]
        ),
        "{due:?}"
    );
}

async fn too_many_wait_for_nothing(w: &World) {
    let note = joining(Scope::UntilFinished);
    with_a_duplicate(w, &note).await;
    let (reply_to, mut replies) = tokio::sync::mpsc::unbounded_channel();
    for batch in 0..10_u64 {
        let request = |n: u64| Request::Acquire {
            claim: claim(1, &format!("id-{n}")),
            publish: Nonce(n),
            note: note.clone(),
            reentrant: false,
        };
        let mut requests: Vec<_> = (batch * 1_001..(batch + 1) * 1_001).map(|n| (n, request(n))).collect();
        let mut answers = Vec::new();
        w.client.submit(&mut requests, &mut answers, &reply_to);
        while answers.len() < 1_001 {
            answers.push(replies.recv().await.expect("an answer"));
        }
        assert!(
            answers
                .iter()
                .all(|(_, answer)| matches!(answer, Ok(Reply::Acquire(Acquired::Held { .. }))))
        );
    }
    let mut counts = Vec::new();
    for (group, _) in due(w).await {
        let mut count = 0;
        loop {
            let joined = w.client.joined(&group).await.expect("the store answers");
            if joined.is_empty() {
                break;
            }
            count += joined.len();
            let ids: Vec<Arc<str>> = joined.into_iter().map(|joined| joined.id).collect();
            w.client.joins_done(&group, &ids).await.expect("the store answers");
        }
        counts.push((group.awaits, count));
    }
    counts.sort_unstable();
    assert_eq!(counts, [(Awaits::Result, 10_000), (Awaits::Nothing, 11)]);
    w.pass(6_000);
    assert_eq!(w.client.joins_due().await, Ok(Vec::new()));
}
