//! Entries of schedules that several beats publish.

use oncegate::rules::beat::Turn;
use oncegate::rules::lock::{Acquired, Reply, Request, Scope};

use crate::world::{LIFE, World, claim, digest, note};

/// Longer than any scenario takes.
const LEASE: u64 = 100_000;

async fn asks(w: &World, key: u8, origin: &str, life_ms: u64) -> Turn {
    let request = Request::BeatLease {
        digest: digest(key),
        origin: origin.into(),
        life_ms,
    };
    match w.ask(request).await {
        Reply::Beat(turn) => turn,
        other => panic!("{other:?}"),
    }
}

fn owner(turn: Turn) -> (String, u64) {
    match turn {
        Turn::Other { origin, expires_in_ms } => (origin.to_string(), expires_in_ms),
        Turn::Own => panic!("it is the other's"),
    }
}

scenarios! {
    the_beat_that_came_first_has_the_entry
    each_of_its_publishes_renews_it
    after_the_lease_it_is_anybodys
    an_entry_is_no_lock
    origins_of_any_form_are_told_apart
}

async fn the_beat_that_came_first_has_the_entry(w: &World) {
    assert_eq!(asks(w, 1, "gen1@a", LEASE).await, Turn::Own);
    assert_eq!(asks(w, 1, "gen1@a", LEASE).await, Turn::Own, "its own pass");
    for _ in 0..2 {
        let (origin, expires_in_ms) = owner(asks(w, 1, "gen1@b", LEASE).await);
        assert_eq!(origin, "gen1@a");
        assert!((1..=LEASE).contains(&expires_in_ms), "{expires_in_ms}");
    }
    assert_eq!(asks(w, 2, "gen1@b", LEASE).await, Turn::Own, "another entry");
}

async fn each_of_its_publishes_renews_it(w: &World) {
    assert_eq!(asks(w, 1, "a", LEASE).await, Turn::Own);
    assert_eq!(asks(w, 1, "a", 10 * LEASE).await, Turn::Own);
    let (_, expires_in_ms) = owner(asks(w, 1, "b", 1).await);
    assert!(expires_in_ms > LEASE, "{expires_in_ms}");
    let (_, again_ms) = owner(asks(w, 1, "b", 100 * LEASE).await);
    assert!(again_ms <= expires_in_ms, "what another asks renews nothing");
}

async fn after_the_lease_it_is_anybodys(w: &World) {
    assert_eq!(asks(w, 1, "a", 40).await, Turn::Own);
    assert_eq!(owner(asks(w, 1, "b", LEASE).await).0, "a");
    w.until("the end of the lease", async || asks(w, 1, "b", LEASE).await == Turn::Own)
        .await;
    assert_eq!(owner(asks(w, 1, "a", LEASE).await).0, "b");
}

async fn an_entry_is_no_lock(w: &World) {
    let claim = claim(1, "id");
    assert_eq!(asks(w, 1, "a", LIFE).await, Turn::Own);
    assert_eq!(w.show(digest(1)).await, None);
    assert_eq!(w.acquire(&claim, 1, &note(Scope::UntilFinished)).await, Acquired::Taken);
    w.release(digest(1), None).await;
    assert_eq!(owner(asks(w, 1, "b", LIFE).await).0, "a");
}

async fn origins_of_any_form_are_told_apart(w: &World) {
    for (key, origin) in ["gen1@höst", " ", "0", "a b\nc", "{x}"].into_iter().enumerate() {
        assert_eq!(asks(w, key as u8, origin, LEASE).await, Turn::Own);
        assert_eq!(asks(w, key as u8, origin, LEASE).await, Turn::Own);
        assert_eq!(owner(asks(w, key as u8, "other", LEASE).await).0, origin);
    }
}
