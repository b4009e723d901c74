//! What is known of parked messages, the same for every store.

use std::sync::Arc;

use oncegate::rules::lock::{Reply, Request};
use oncegate::rules::park::{Fingerprint, Found, ParkNote, ParkState, Parked, Seen, Token};

use crate::world::{LIFE, World, digest};

scenarios! {
    what_was_never_parked_is_unknown
    a_copy_is_found_with_what_was_written
    a_copy_that_was_handed_over_may_run_again
    a_copy_that_is_done_is_over
    an_original_is_over_once_its_copy_is_with_the_broker
    a_copy_is_over_once_a_newer_one_is_with_the_broker
    a_copy_stays_while_a_newer_one_may_be_lost
    an_original_of_which_a_copy_was_sent_is_over_while_a_newer_one_is_on_its_way
    what_is_done_in_place_of_a_lost_copy_is_done
    a_question_that_is_repeated_changes_nothing
    a_state_never_falls
    marks_of_what_is_not_the_newest_change_nothing
    messages_of_one_id_are_apart
    ids_are_apart
    a_retry_under_the_token_of_its_former_run_is_unknown
    the_oldest_of_many_copies_are_unknown
    a_record_goes_with_its_life
    a_mark_renews_the_life
    a_shorter_life_does_not_shorten_a_longer_one
    what_is_done_is_known_for_a_day
    of_too_many_messages_the_one_that_goes_first_is_forgotten
    what_has_lapsed_takes_no_room
}

const DAY: u64 = 24 * 3_600_000;

const MESSAGE: Fingerprint = Fingerprint(0x00ab_cdef_0123_4567);

fn note_with(change: impl FnOnce(&mut ParkNote)) -> Arc<ParkNote> {
    let mut note = ParkNote {
        fingerprint: MESSAGE,
        digest: digest(1),
        rule: "nightly reports".into(),
        place_ms: Some(1_800_000_000_123),
        life_ms: LIFE,
    };
    change(&mut note);
    Arc::new(note)
}

fn note() -> Arc<ParkNote> {
    note_with(|_| {})
}

/// With a life that passes while the scenario waits.
fn lapsing() -> Arc<ParkNote> {
    note_with(|note| note.life_ms = 20)
}

fn token(name: &str) -> Token {
    Token(name.into())
}

async fn park_as(w: &World, id: &str, name: &str, note: &Arc<ParkNote>) {
    let request = Request::Park {
        id: id.into(),
        token: token(name),
        note: note.clone(),
    };
    assert_eq!(w.ask(request).await, Reply::Done);
}

async fn park(w: &World, name: &str) {
    park_as(w, "a", name, &note()).await;
}

async fn mark_of(w: &World, id: &str, name: &str, fingerprint: Fingerprint, state: ParkState) {
    let request = Request::MarkParked {
        id: id.into(),
        token: token(name),
        fingerprint,
        state,
    };
    assert_eq!(w.ask(request).await, Reply::Done);
}

async fn mark(w: &World, name: &str, state: ParkState) {
    mark_of(w, "a", name, MESSAGE, state).await;
}

async fn find(w: &World, id: &str, fingerprint: Fingerprint, seen: Seen) -> Found {
    let request = Request::FindParked {
        id: id.into(),
        fingerprint,
        seen,
    };
    match w.ask(request).await {
        Reply::Parked(found) => found,
        other => panic!("{other:?}"),
    }
}

async fn copy(w: &World, name: &str) -> Found {
    find(w, "a", MESSAGE, Seen::Copy(token(name))).await
}

async fn original(w: &World) -> Found {
    find(w, "a", MESSAGE, Seen::Original).await
}

/// What is found of a message that may run, with the note of [`note`].
fn parked(newest: &str) -> Found {
    let note = note();
    Found::Parked(Parked {
        token: token(newest),
        digest: note.digest,
        rule: note.rule.clone(),
        place_ms: note.place_ms,
    })
}

async fn what_was_never_parked_is_unknown(w: &World) {
    assert_eq!(original(w).await, Found::Unknown);
    assert_eq!(copy(w, "one").await, Found::Unknown);
    mark(w, "one", ParkState::Done).await;
    assert_eq!(copy(w, "one").await, Found::Unknown, "a mark brings nothing into being");
    park(w, "one").await;
    assert_eq!(copy(w, "two").await, Found::Unknown);
}

async fn a_copy_is_found_with_what_was_written(w: &World) {
    let notes = [
        note(),
        note_with(|note| note.place_ms = None),
        note_with(|note| note.place_ms = Some(0)),
        note_with(|note| {
            note.rule = "r\u{e9}gles\n \0 of 'all' sorts".into();
            note.digest = digest(255);
        }),
    ];
    for (number, note) in notes.iter().enumerate() {
        let name = format!("token {number}");
        park_as(w, "a", &name, note).await;
        for state in [None, Some(ParkState::Sent)] {
            if let Some(state) = state {
                mark(w, &name, state).await;
            }
            let expected = Found::Parked(Parked {
                token: token(&name),
                digest: note.digest,
                rule: note.rule.clone(),
                place_ms: note.place_ms,
            });
            assert_eq!(copy(w, &name).await, expected, "{state:?}");
        }
    }
}

async fn a_copy_that_was_handed_over_may_run_again(w: &World) {
    park(w, "one").await;
    mark(w, "one", ParkState::Sent).await;
    mark(w, "one", ParkState::Handed).await;
    assert_eq!(copy(w, "one").await, parked("one"));
}

async fn a_copy_that_is_done_is_over(w: &World) {
    park(w, "one").await;
    for state in [ParkState::Sent, ParkState::Handed, ParkState::Done] {
        assert_eq!(copy(w, "one").await, parked("one"));
        mark(w, "one", state).await;
    }
    assert_eq!(copy(w, "one").await, Found::Over);
    assert_eq!(original(w).await, Found::Over);
}

async fn an_original_is_over_once_its_copy_is_with_the_broker(w: &World) {
    park(w, "one").await;
    assert_eq!(original(w).await, parked("one"));
    for state in [ParkState::Sent, ParkState::Handed, ParkState::Done] {
        mark(w, "one", state).await;
        assert_eq!(original(w).await, Found::Over, "{state:?}");
    }
}

async fn a_copy_is_over_once_a_newer_one_is_with_the_broker(w: &World) {
    park(w, "one").await;
    mark(w, "one", ParkState::Sent).await;
    park(w, "two").await;
    for state in [ParkState::Sent, ParkState::Handed, ParkState::Done] {
        mark(w, "two", state).await;
        assert_eq!(copy(w, "one").await, Found::Over, "{state:?}");
    }
    park(w, "three").await;
    assert_eq!(copy(w, "one").await, Found::Over, "two was there, whatever becomes of three");
}

async fn a_copy_stays_while_a_newer_one_may_be_lost(w: &World) {
    park(w, "one").await;
    mark(w, "one", ParkState::Handed).await;
    park(w, "two").await;
    assert_eq!(copy(w, "one").await, parked("two"), "two may never have reached the broker");
    park(w, "three").await;
    for name in ["one", "two", "three"] {
        assert_eq!(copy(w, name).await, parked("three"), "{name}");
    }
    mark(w, "three", ParkState::Sent).await;
    for name in ["one", "two"] {
        assert_eq!(copy(w, name).await, Found::Over, "{name}");
    }
    assert_eq!(copy(w, "three").await, parked("three"));
}

async fn an_original_of_which_a_copy_was_sent_is_over_while_a_newer_one_is_on_its_way(w: &World) {
    park(w, "one").await;
    park(w, "two").await;
    assert_eq!(original(w).await, parked("two"), "neither may have reached the broker");
    mark(w, "two", ParkState::Sent).await;
    park(w, "three").await;
    assert_eq!(original(w).await, Found::Over);
    assert_eq!(copy(w, "one").await, Found::Over);
    assert_eq!(copy(w, "two").await, parked("three"));
}

async fn what_is_done_in_place_of_a_lost_copy_is_done(w: &World) {
    park(w, "one").await;
    assert_eq!(original(w).await, parked("one"));
    mark(w, "one", ParkState::Done).await;
    assert_eq!(copy(w, "one").await, Found::Over, "it was not lost after all");
    assert_eq!(original(w).await, Found::Over);
}

async fn a_question_that_is_repeated_changes_nothing(w: &World) {
    let other = note_with(|note| note.digest = digest(9));
    park(w, "one").await;
    mark(w, "one", ParkState::Sent).await;
    park_as(w, "a", "one", &other).await;
    assert_eq!(original(w).await, Found::Over, "it does not fall back");
    assert_eq!(copy(w, "one").await, parked("one"));
    park(w, "two").await;
    mark(w, "two", ParkState::Sent).await;
    park_as(w, "a", "one", &other).await;
    assert_eq!(copy(w, "one").await, Found::Over, "what comes late is not the newest");
    assert_eq!(copy(w, "two").await, parked("two"));
}

async fn a_state_never_falls(w: &World) {
    park(w, "one").await;
    mark(w, "one", ParkState::Sent).await;
    mark(w, "one", ParkState::Sending).await;
    assert_eq!(original(w).await, Found::Over);
    mark(w, "one", ParkState::Done).await;
    for state in [ParkState::Sending, ParkState::Sent, ParkState::Handed] {
        mark(w, "one", state).await;
        assert_eq!(copy(w, "one").await, Found::Over, "{state:?}");
    }
}

async fn marks_of_what_is_not_the_newest_change_nothing(w: &World) {
    park(w, "one").await;
    park(w, "two").await;
    for name in ["one", "three"] {
        for state in [ParkState::Sent, ParkState::Handed, ParkState::Done] {
            mark(w, name, state).await;
            assert_eq!(original(w).await, parked("two"), "{name} {state:?}");
        }
    }
}

async fn messages_of_one_id_are_apart(w: &World) {
    let (other, third) = (Fingerprint(u64::MAX), Fingerprint(0));
    park(w, "one").await;
    park_as(w, "a", "two", &note_with(|note| note.fingerprint = other)).await;
    mark(w, "one", ParkState::Done).await;
    assert_eq!(copy(w, "one").await, Found::Over);
    assert_eq!(find(w, "a", other, Seen::Original).await, parked("two"));
    assert_eq!(find(w, "a", other, Seen::Copy(token("two"))).await, parked("two"));
    assert_eq!(find(w, "a", third, Seen::Original).await, Found::Unknown);
}

async fn ids_are_apart(w: &World) {
    park(w, "one").await;
    mark_of(w, "b", "one", MESSAGE, ParkState::Done).await;
    assert_eq!(copy(w, "one").await, parked("one"));
    assert_eq!(find(w, "b", MESSAGE, Seen::Copy(token("one"))).await, Found::Unknown);
}

async fn a_retry_under_the_token_of_its_former_run_is_unknown(w: &World) {
    let retry = Fingerprint(MESSAGE.0 + 1);
    park(w, "one").await;
    mark(w, "one", ParkState::Done).await;
    assert_eq!(find(w, "a", retry, Seen::Copy(token("one"))).await, Found::Unknown);
    park_as(w, "a", "two", &note_with(|note| note.fingerprint = retry)).await;
    assert_eq!(find(w, "a", retry, Seen::Copy(token("one"))).await, Found::Unknown);
    assert_eq!(find(w, "a", retry, Seen::Copy(token("two"))).await, parked("two"));
}

async fn the_oldest_of_many_copies_are_unknown(w: &World) {
    let names: Vec<String> = (0..20).map(|number| format!("token {number}")).collect();
    for name in &names {
        park(w, name).await;
        mark(w, name, ParkState::Sent).await;
    }
    for name in &names[..11] {
        assert_eq!(copy(w, name).await, Found::Unknown, "{name}");
    }
    for name in &names[11..19] {
        assert_eq!(copy(w, name).await, Found::Over, "{name}");
    }
    assert_eq!(copy(w, "token 19").await, parked("token 19"));
    // So many that are in doubt push the last that is surely over out, and then each other.
    for number in 20..35 {
        park(w, &format!("token {number}")).await;
    }
    assert_eq!(copy(w, "token 25").await, Found::Unknown);
    for number in 26..35 {
        assert_eq!(copy(w, &format!("token {number}")).await, parked("token 34"), "{number}");
    }
    assert_eq!(original(w).await, Found::Over, "the first of them was sent");
}

async fn a_record_goes_with_its_life(w: &World) {
    park_as(w, "a", "one", &lapsing()).await;
    w.until("it is unknown", async || copy(w, "one").await == Found::Unknown).await;
    mark(w, "one", ParkState::Done).await;
    assert_eq!((original(w).await, copy(w, "one").await), (Found::Unknown, Found::Unknown));
    park(w, "two").await;
    assert_eq!(copy(w, "one").await, Found::Unknown, "nothing is left of it");
    assert_eq!(copy(w, "two").await, parked("two"));
}

async fn a_mark_renews_the_life(w: &World) {
    let life_ms = 400;
    park_as(w, "a", "one", &note_with(|note| note.life_ms = life_ms)).await;
    let parked_at = w.client.now_ms().await.expect("the time");
    let (mut marked_at, mut late) = (parked_at, false);
    w.until("three lives are over", async || {
        mark(w, "one", ParkState::Sent).await;
        let now = w.client.now_ms().await.expect("the time");
        // On a slow machine one may be over between two marks.
        late |= now >= marked_at + life_ms;
        marked_at = now;
        now >= parked_at + 3 * life_ms
    })
    .await;
    let found = copy(w, "one").await;
    late |= w.client.now_ms().await.expect("the time") >= marked_at + life_ms;
    assert!(late || found == parked("one"), "{found:?}");
    w.until("it is unknown", async || copy(w, "one").await == Found::Unknown).await;
}

async fn a_shorter_life_does_not_shorten_a_longer_one(w: &World) {
    park(w, "one").await;
    mark(w, "one", ParkState::Sent).await;
    park_as(w, "a", "two", &lapsing()).await;
    mark(w, "two", ParkState::Sent).await;
    park_as(w, "b", "brief", &lapsing()).await;
    w.until("the shorter life is over", async || {
        find(w, "b", MESSAGE, Seen::Original).await == Found::Unknown
    })
    .await;
    assert_eq!(copy(w, "one").await, Found::Over, "it may still come back");
    assert_eq!(copy(w, "two").await, parked("two"));
}

async fn what_is_done_is_known_for_a_day(w: &World) {
    park_as(w, "a", "one", &lapsing()).await;
    mark(w, "one", ParkState::Done).await;
    if copy(w, "one").await == Found::Unknown {
        return; // On a slow machine its life was over before the mark.
    }
    park_as(w, "b", "brief", &lapsing()).await;
    w.until("such a life is over", async || {
        find(w, "b", MESSAGE, Seen::Original).await == Found::Unknown
    })
    .await;
    assert_eq!(copy(w, "one").await, Found::Over);
    w.pass(DAY - 120_000);
    assert_eq!(copy(w, "one").await, Found::Over);
}

/// Each lives a minute longer than the one before.
async fn park_many(w: &World, messages: std::ops::Range<u64>) {
    for number in messages {
        let note = note_with(|note| {
            note.fingerprint = Fingerprint(number);
            note.life_ms = LIFE + 60_000 * number;
        });
        park_as(w, "a", "one", &note).await;
    }
}

async fn known(w: &World, number: u64) -> bool {
    find(w, "a", Fingerprint(number), Seen::Original).await != Found::Unknown
}

async fn of_too_many_messages_the_one_that_goes_first_is_forgotten(w: &World) {
    park_many(w, 0..64).await;
    assert!(known(w, 0).await && known(w, 63).await);
    // Again, and a second copy of it: no new message.
    park_many(w, 63..64).await;
    park_as(w, "a", "two", &note_with(|note| note.fingerprint = Fingerprint(63))).await;
    assert!(known(w, 0).await);
    // A mark gives the first a day.
    mark_of(w, "a", "one", Fingerprint(0), ParkState::Done).await;
    park_many(w, 64..66).await;
    for (number, expected) in [(0, true), (1, false), (2, false), (3, true), (64, true), (65, true)] {
        assert_eq!(known(w, number).await, expected, "{number}");
    }
    // The new one is never the one that goes.
    let brief = note_with(|note| {
        note.fingerprint = Fingerprint(100);
        note.life_ms = LIFE / 2;
    });
    park_as(w, "a", "one", &brief).await;
    assert!(known(w, 100).await && !known(w, 3).await && known(w, 4).await);
}

async fn what_has_lapsed_takes_no_room(w: &World) {
    park_many(w, 0..63).await;
    park_as(w, "a", "one", &lapsing()).await;
    w.until("it has lapsed", async || original(w).await == Found::Unknown).await;
    park_many(w, 63..64).await;
    assert!(known(w, 0).await && known(w, 63).await);
}
