//! Messages that wait for the end of a holder instead of being dropped.

use std::sync::Arc;

use oncegate::rules::lock::{Acquired, Admitted, Claim, Fate, LockNote, LockState, Nonce, ReleaseReason, Reply, Request, Scope, Signal};
use oncegate::rules::owed::Owed;

use crate::world::{COOLDOWN, World, claim, digest, note_with};

scenarios! {
    it_waits_while_its_holder_has_the_lock
    it_never_takes_the_lock_of_an_end
    a_holder_that_fails_is_known_to_have_failed
    a_holder_that_has_begun_is_waited_for
    one_that_had_little_time_to_begin_is_waited_for_all_the_same
    an_end_that_nobody_tells_is_waited_for_as_long_as_a_lock_lives
    the_end_of_a_retry_is_the_end
    the_end_of_a_retry_that_came_before_the_start_is_the_end
    the_end_of_a_run_that_was_delivered_again_is_the_end
    a_cooldown_is_an_end
    a_late_ack_is_an_end
    one_that_comes_behind_a_late_ack_waits_for_that_end
    a_revoke_behind_a_late_ack_changes_nothing
    without_a_word_of_the_holder_it_is_decided_anew
    a_message_that_was_never_published_leaves_the_lock
    an_operator_lets_it_run
    it_waits_for_the_newer_holder
    a_redelivery_is_the_same
    published_again_it_waits_again
    a_retry_is_none
    one_found_late_waits_too
    others_do_not_wait
    what_observes_does_not_wait
}

fn carried(scope: Scope) -> Arc<LockNote> {
    note_with(scope, |note| note.owed = Owed::Carried)
}

/// `a` holds the key, and `b` waits for it.
async fn with_a_twin(w: &World, note: &Arc<LockNote>) {
    w.acquire(&claim(1, "a"), 1, note).await;
    w.commit(&claim(1, "a"), 1, note).await;
    let found = w.acquire(&claim(1, "b"), 2, note).await;
    assert!(matches!(&found, Acquired::Held { holder, .. } if &**holder == "a"), "{found:?}");
}

async fn admit_as(w: &World, claim: &Claim, note: &Arc<LockNote>, reentrant: bool) -> Admitted {
    let request = Request::Admit {
        claim: claim.clone(),
        delivery: Nonce(77),
        note: note.clone(),
        reentrant,
        worker: "".into(),
    };
    match w.ask(request).await {
        Reply::Admit(found, admitted) => {
            assert_eq!(found, claim.digest);
            admitted
        }
        other => panic!("{other:?}"),
    }
}

async fn admit(w: &World, id: &str, note: &Arc<LockNote>) -> Admitted {
    admit_as(w, &claim(1, id), note, false).await
}

fn ended(admitted: &Admitted) -> Option<Fate> {
    match admitted {
        Admitted::Ended { holder, fate } if &**holder == "a" => Some(*fate),
        _ => None,
    }
}

async fn it_waits_while_its_holder_has_the_lock(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    for signal in [None, Some(Signal::Started)] {
        if let Some(signal) = signal {
            w.signal("a", 3, signal).await;
        }
        let found = admit(w, "b", &note).await;
        assert!(matches!(&found, Admitted::Held { holder, .. } if &**holder == "a"), "{found:?}");
    }
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("a"));
}

async fn it_never_takes_the_lock_of_an_end(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    assert_eq!(w.signal("a", 3, Signal::Succeeded).await, [ReleaseReason::Success]);
    assert!(matches!(
        ended(&admit(w, "b", &note).await),
        Some(Fate::Ended { since_ms: 0..1000 })
    ));
    w.pass(5_000);
    if let Some(Fate::Ended { since_ms }) = ended(&admit(w, "b", &note).await) {
        assert!(since_ms < 10_000);
    } else {
        panic!("it has ended");
    }
    assert_eq!(w.holder(digest(1)).await, None);
    // Another that comes now is no duplicate, and that changes nothing.
    assert_eq!(w.acquire(&claim(1, "c"), 9, &note).await, Acquired::Taken);
    assert!(ended(&admit(w, "b", &note).await).is_some());
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("c"));
}

async fn a_holder_that_fails_is_known_to_have_failed(w: &World) {
    for (signal, reason) in [
        (Signal::Failed, ReleaseReason::Failure),
        (Signal::Revoked, ReleaseReason::Revoked),
        (Signal::RevokeAsked, ReleaseReason::Revoked),
        (Signal::Expired, ReleaseReason::Expired),
        (Signal::Purged, ReleaseReason::Purged),
        (Signal::Crashed, ReleaseReason::Crash),
    ] {
        let key = 10 + signal as u8;
        let note = carried(Scope::UntilFinished);
        let (a, b) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")));
        w.acquire(&a, 1, &note).await;
        w.commit(&a, 1, &note).await;
        w.acquire(&b, 2, &note).await;
        assert_eq!(w.signal(&a.id, 3, signal).await, [reason]);
        let found = admit_as(w, &b, &note, false).await;
        assert!(
            matches!(&found, Admitted::Ended { holder, fate: Fate::Failed } if *holder == a.id),
            "{signal:?}: {found:?}"
        );
    }
}

async fn a_holder_that_has_begun_is_waited_for(w: &World) {
    for (end, fate) in [(Signal::Succeeded, None), (Signal::Failed, Some(Fate::Failed))] {
        let note = carried(Scope::UntilStarted);
        let key = 20 + end as u8;
        let (a, b) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")));
        w.acquire(&a, 1, &note).await;
        w.commit(&a, 1, &note).await;
        w.acquire(&b, 2, &note).await;
        assert_eq!(w.signal(&a.id, 3, Signal::Started).await, [ReleaseReason::Started]);
        let begun = Admitted::Ended {
            holder: a.id.clone(),
            fate: Fate::Begun,
        };
        assert_eq!(admit_as(w, &b, &note, false).await, begun);
        w.signal(&a.id, 4, Signal::Retried).await;
        assert_eq!(admit_as(w, &b, &note, false).await, begun);
        w.signal(&a.id, 5, end).await;
        match admit_as(w, &b, &note, false).await {
            Admitted::Ended { fate: found, .. } if fate.is_some() => assert_eq!(Some(found), fate),
            Admitted::Ended {
                fate: Fate::Ended { .. }, ..
            } => {}
            other => panic!("{end:?}: {other:?}"),
        }
        assert_eq!(w.holder(digest(key)).await, None);
    }
}

async fn one_that_had_little_time_to_begin_is_waited_for_all_the_same(w: &World) {
    let note = note_with(Scope::UntilStarted, |note| {
        note.owed = Owed::Carried;
        note.unstarted_ms = Some(note.life_ms / 4);
    });
    with_a_twin(w, &note).await;
    assert_eq!(w.signal("a", 3, Signal::Started).await, [ReleaseReason::Started]);
    w.pass(note.life_ms / 2);
    assert_eq!(ended(&admit(w, "b", &note).await), Some(Fate::Begun));
    w.signal("a", 3, Signal::Succeeded).await;
    assert!(matches!(ended(&admit(w, "b", &note).await), Some(Fate::Ended { .. })));
}

async fn an_end_that_nobody_tells_is_waited_for_as_long_as_a_lock_lives(w: &World) {
    let note = note_with(Scope::UntilStarted, |note| {
        note.owed = Owed::Carried;
        note.life_ms = 2_000;
    });
    with_a_twin(w, &note).await;
    assert_eq!(w.signal("a", 3, Signal::Started).await, [ReleaseReason::Started]);
    assert_eq!(ended(&admit(w, "b", &note).await), Some(Fate::Begun));
    w.until("it counts as ended", async || {
        matches!(ended(&admit(w, "b", &note).await), Some(Fate::Ended { since_ms: 0..1_000 }))
    })
    .await;
    assert_eq!(w.holder(digest(1)).await, None);
    // What is told late is known all the same.
    w.signal("a", 4, Signal::Failed).await;
    assert_eq!(ended(&admit(w, "b", &note).await), Some(Fate::Failed));
}

async fn the_end_of_a_retry_is_the_end(w: &World) {
    let note = carried(Scope::UntilStarted);
    // One that a rate limit puts off says of itself that it was never published before.
    for (key, reentrant) in [(1, false), (2, true)] {
        let (a, b) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")));
        w.acquire(&a, 1, &note).await;
        w.commit(&a, 1, &note).await;
        w.acquire(&b, 2, &note).await;
        assert_eq!(w.signal(&a.id, 3, Signal::Started).await, [ReleaseReason::Started]);
        assert_eq!(w.acquire_as(&a, 4, &note, reentrant).await, Acquired::Taken);
        w.commit(&a, 4, &note).await;
        w.signal(&a.id, 5, Signal::Retried).await;
        let found = admit_as(w, &b, &note, false).await;
        assert!(matches!(&found, Admitted::Held { holder, .. } if *holder == a.id), "{found:?}");
        assert_eq!(w.signal(&a.id, 6, Signal::Started).await, [ReleaseReason::Started]);
        let found = admit_as(w, &b, &note, false).await;
        assert!(matches!(&found, Admitted::Ended { fate: Fate::Begun, .. }), "{found:?}");
        w.signal(&a.id, 7, Signal::Succeeded).await;
        let found = admit_as(w, &b, &note, false).await;
        assert!(
            matches!(
                &found,
                Admitted::Ended {
                    fate: Fate::Ended { .. },
                    ..
                }
            ),
            "{found:?}"
        );
    }
}

async fn the_end_of_a_retry_that_came_before_the_start_is_the_end(w: &World) {
    let note = carried(Scope::UntilStarted);
    for renewed in [false, true] {
        let key = 1 + u8::from(renewed);
        let (a, b) = (claim(key, &format!("a{key}")), claim(key, &format!("b{key}")));
        w.acquire(&a, 1, &note).await;
        w.commit(&a, 1, &note).await;
        w.acquire(&b, 2, &note).await;
        assert_eq!(w.acquire_as(&a, 3, &note, true).await, Acquired::Reentry { holds: true });
        assert_eq!(w.signal(&a.id, 4, Signal::Started).await, [ReleaseReason::Started]);
        if renewed {
            w.renew(&a, 3, &note).await;
        }
        w.commit(&a, 3, &note).await;
        assert_eq!(w.signal(&a.id, 5, Signal::Started).await, [ReleaseReason::Started]);
        w.signal(&a.id, 6, Signal::Failed).await;
        let found = admit_as(w, &b, &note, false).await;
        assert!(
            matches!(&found, Admitted::Ended { fate: Fate::Failed, .. }),
            "renewed {renewed}: {found:?}"
        );
    }
}

async fn the_end_of_a_run_that_was_delivered_again_is_the_end(w: &World) {
    let note = carried(Scope::UntilStarted);
    with_a_twin(w, &note).await;
    w.signal("a", 3, Signal::Started).await;
    // Its worker dies, and its message comes to another.
    assert_eq!(admit_as(w, &claim(1, "a"), &note, true).await, Admitted::Holds);
    assert_eq!(w.signal("a", 4, Signal::Started).await, [ReleaseReason::Started]);
    assert_eq!(ended(&admit(w, "b", &note).await), Some(Fate::Begun));
    w.signal("a", 5, Signal::Failed).await;
    assert_eq!(ended(&admit(w, "b", &note).await), Some(Fate::Failed));
}

async fn a_cooldown_is_an_end(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Carried;
        note.cooldown_ms = COOLDOWN;
    });
    with_a_twin(w, &note).await;
    w.signal("a", 3, Signal::Succeeded).await;
    assert!(matches!(
        ended(&admit(w, "b", &note).await),
        Some(Fate::Ended { since_ms: 0..1000 })
    ));
    // One that comes while the key rests waits, too.
    let found = w.acquire(&claim(1, "c"), 4, &note).await;
    assert!(matches!(
        found,
        Acquired::Held {
            state: LockState::Cooldown,
            ..
        }
    ));
    assert!(ended(&admit(w, "c", &note).await).is_some());
}

async fn a_late_ack_is_an_end(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Carried;
        note.acks_late = true;
        note.settle_grace_ms = 20;
    });
    with_a_twin(w, &note).await;
    w.signal("a", 3, Signal::Acked).await;
    w.until("the grace is over", async || ended(&admit(w, "b", &note).await).is_some())
        .await;
    assert_eq!(w.holder(digest(1)).await, None);
}

async fn one_that_comes_behind_a_late_ack_waits_for_that_end(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Carried;
        note.acks_late = true;
        note.settle_grace_ms = 500;
    });
    w.acquire(&claim(1, "a"), 1, &note).await;
    w.commit(&claim(1, "a"), 1, &note).await;
    assert_eq!(w.signal("a", 3, Signal::Acked).await, [ReleaseReason::Ended]);
    assert!(matches!(w.acquire(&claim(1, "b"), 4, &note).await, Acquired::Held { .. }));
    assert!(matches!(admit(w, "c", &note).await, Admitted::Held { .. }));
    w.until("the grace is over", async || w.holder(digest(1)).await.is_none()).await;
    for id in ["b", "c"] {
        let found = admit(w, id, &note).await;
        assert!(matches!(ended(&found), Some(Fate::Ended { .. })), "{id}: {found:?}");
    }
}

async fn a_revoke_behind_a_late_ack_changes_nothing(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Carried;
        note.acks_late = true;
        note.settle_grace_ms = 100;
    });
    with_a_twin(w, &note).await;
    assert_eq!(w.signal("a", 3, Signal::Acked).await, [ReleaseReason::Ended]);
    assert_eq!(w.signal("a", 4, Signal::RevokeAsked).await, []);
    w.until("the grace is over", async || ended(&admit(w, "b", &note).await).is_some())
        .await;
    assert!(matches!(ended(&admit(w, "b", &note).await), Some(Fate::Ended { .. })));
}

async fn without_a_word_of_the_holder_it_is_decided_anew(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Carried;
        (note.life_ms, note.lease_ms) = (50, 50);
    });
    with_a_twin(w, &note).await;
    w.until("the lock lapses", async || w.holder(digest(1)).await.is_none()).await;
    let note = carried(Scope::UntilFinished);
    assert_eq!(admit(w, "b", &note).await, Admitted::Holds);
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
}

async fn a_message_that_was_never_published_leaves_the_lock(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    w.unpublish(&claim(1, "a"), 1, ReleaseReason::Returned).await;
    assert_eq!(admit(w, "b", &note).await, Admitted::Holds);
}

async fn an_operator_lets_it_run(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    w.release(digest(1), None).await;
    assert_eq!(admit(w, "b", &note).await, Admitted::Holds);
}

async fn it_waits_for_the_newer_holder(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    w.release(digest(1), None).await;
    w.acquire(&claim(1, "c"), 3, &note).await;
    w.commit(&claim(1, "c"), 3, &note).await;
    let found = admit(w, "b", &note).await;
    assert!(matches!(&found, Admitted::Held { holder, .. } if &**holder == "c"), "{found:?}");
    w.signal("c", 4, Signal::Failed).await;
    let found = admit(w, "b", &note).await;
    assert!(
        matches!(&found, Admitted::Ended { holder, fate: Fate::Failed } if &**holder == "c"),
        "{found:?}"
    );
}

async fn a_redelivery_is_the_same(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    let found = admit_as(w, &claim(1, "b"), &note, true).await;
    assert!(matches!(&found, Admitted::Held { holder, .. } if &**holder == "a"), "{found:?}");
    w.signal("a", 3, Signal::Succeeded).await;
    assert!(ended(&admit_as(w, &claim(1, "b"), &note, true).await).is_some());
    // One that never waited passes, as any redelivery does.
    w.acquire(&claim(1, "c"), 4, &note).await;
    assert_eq!(admit_as(w, &claim(1, "d"), &note, true).await, Admitted::Passes);
}

async fn published_again_it_waits_again(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    w.signal("a", 3, Signal::Succeeded).await;
    let found = w.acquire(&claim(1, "b"), 4, &note).await;
    assert!(matches!(&found, Acquired::Held { holder, .. } if &**holder == "a"), "{found:?}");
    assert_eq!(w.holder(digest(1)).await, None);
}

async fn a_retry_is_none(w: &World) {
    let note = carried(Scope::UntilFinished);
    with_a_twin(w, &note).await;
    assert_eq!(
        w.acquire_as(&claim(1, "b"), 3, &note, true).await,
        Acquired::Reentry { holds: false }
    );
    let plain = note_with(Scope::UntilFinished, |_| {});
    assert_eq!(admit_as(w, &claim(1, "b"), &plain, true).await, Admitted::Passes);
}

async fn one_found_late_waits_too(w: &World) {
    let note = carried(Scope::UntilFinished);
    w.acquire(&claim(1, "a"), 1, &note).await;
    w.commit(&claim(1, "a"), 1, &note).await;
    assert!(matches!(admit(w, "b", &note).await, Admitted::Held { .. }));
    w.signal("a", 3, Signal::Succeeded).await;
    assert!(ended(&admit(w, "b", &note).await).is_some());
}

async fn others_do_not_wait(w: &World) {
    let note = note_with(Scope::UntilFinished, |_| {});
    with_a_twin(w, &note).await;
    w.signal("a", 3, Signal::Succeeded).await;
    assert_eq!(admit(w, "b", &note).await, Admitted::Holds);
}

async fn what_observes_does_not_wait(w: &World) {
    let note = note_with(Scope::UntilFinished, |note| {
        note.owed = Owed::Carried;
        note.shadow = true;
    });
    with_a_twin(w, &note).await;
    w.signal("a", 3, Signal::Succeeded).await;
    assert_eq!(w.acquire(&claim(1, "b"), 4, &note).await, Acquired::Taken);
}
