//! Notes that proxies write for each other, and the signal of a worker's crash.

use std::time::Duration;

use oncegate::rules::lock::{Admitted, Claim, Nonce, ReleaseReason, Reply, Request, Scope, Signal};
use oncegate::rules::source::Source;

use crate::world::{World, claim, digest, note};

scenarios! {
    notes_are_read_in_the_order_of_the_question
    a_note_goes_unless_it_is_written_anew
    notes_are_seen_by_other_processes
    notes_are_no_locks
    a_crash_of_the_worker_frees_what_it_ran
    a_crash_of_another_worker_frees_nothing
    what_is_in_flight_survives_the_worker
    what_no_proxy_has_carried_goes_with_the_worker
    an_orphaned_id_without_a_lock_leaves_nothing_behind
}

const LONG: Duration = Duration::from_secs(1_000);

fn notes(names: &[(&str, &str)]) -> Vec<(String, String)> {
    names
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn read(w: &World, names: &[&str]) -> Vec<Option<String>> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    w.client.announced(&names).await.expect("the store answers")
}

async fn write(w: &World, names: &[(&str, &str)], life: Duration) {
    w.client.announce(&notes(names), life).await.expect("the store answers");
}

async fn notes_are_read_in_the_order_of_the_question(w: &World) {
    write(w, &[], LONG).await;
    write(w, &[("node:/:a@one", "1"), ("node:/:b@one", "2")], LONG).await;
    let read = read(w, &["node:/:b@one", "node:/:c@one", "node:/:a@one"]).await;
    assert_eq!(read, [Some("2".to_owned()), None, Some("1".to_owned())]);
    assert_eq!(super::notes::read(w, &[]).await, []);
}

async fn a_note_goes_unless_it_is_written_anew(w: &World) {
    write(w, &[("proxy:a", "1"), ("proxy:b", "1")], Duration::from_millis(300)).await;
    write(w, &[("proxy:b", "2")], LONG).await;
    w.until("the note lapses", async || read(w, &["proxy:a"]).await == [None]).await;
    assert_eq!(read(w, &["proxy:b"]).await, [Some("2".to_owned())]);
}

async fn notes_are_seen_by_other_processes(w: &World) {
    write(w, &[("proxy:a", "1")], LONG).await;
    let elsewhere = w.elsewhere().client();
    let found = elsewhere.announced(&["proxy:a".to_owned()]).await;
    assert_eq!(found, Ok(vec![Some("1".to_owned())]));
}

async fn notes_are_no_locks(w: &World) {
    write(w, &[("node:/:a@one", "1")], LONG).await;
    let page = w.client.list(&oncegate::store::Filter::default(), None, 10).await.expect("a page");
    assert_eq!(page.locks, []);
}

async fn tell(w: &World, id: &str, settlement: u64, signal: Signal, worker: &str) -> Vec<ReleaseReason> {
    let request = Request::Signal {
        id: id.into(),
        settlement: Nonce(settlement),
        signal,
        source: Source::Events,
        worker: worker.into(),
    };
    match w.ask(request).await {
        Reply::Released(freed) => freed.into_iter().map(|freed| freed.reason).collect(),
        other => panic!("{other:?}"),
    }
}

/// The lock of a task that a worker has begun, and has acknowledged early if so.
async fn running(w: &World, acked: bool) -> Claim {
    let (claim, note) = (claim(1, "a"), note(Scope::UntilFinished));
    w.acquire(&claim, 1, &note).await;
    w.commit(&claim, 1, &note).await;
    let signal = if acked { Signal::Acked } else { Signal::Started };
    assert_eq!(tell(w, "a", 2, signal, "w@one").await, []);
    claim
}

async fn a_crash_of_the_worker_frees_what_it_ran(w: &World) {
    running(w, true).await;
    assert!(w.show(digest(1)).await.is_some_and(|lock| lock.carried), "its ack was seen");
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@one").await, [ReleaseReason::Crash]);
    assert!(w.show(digest(1)).await.is_none());
    assert_eq!(
        tell(w, "a", 0, Signal::Orphaned, "w@one").await,
        [],
        "the second proxy finds nothing"
    );
}

async fn a_crash_of_another_worker_frees_nothing(w: &World) {
    running(w, true).await;
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@two").await, []);
    assert!(w.show(digest(1)).await.is_some());
    assert_eq!(tell(w, "a", 0, Signal::Succeeded, "").await, [ReleaseReason::Success]);
}

/// A proxy carries the message of a claim to its worker.
async fn carried(w: &World, claim: Claim) {
    let request = Request::Admit {
        claim,
        delivery: Nonce(1),
        note: note(Scope::UntilFinished),
        reentrant: false,
        worker: "w@one".into(),
    };
    assert_eq!(w.ask(request).await, Reply::Admit(digest(1), Admitted::Holds));
}

/// Its settlement is not seen, so that the count says nothing.
async fn what_no_proxy_has_carried_goes_with_the_worker(w: &World) {
    running(w, false).await;
    let lock = w.show(digest(1)).await.expect("locked");
    assert_eq!((lock.in_flight, lock.carried), (1, false));
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@two").await, []);
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@one").await, [ReleaseReason::Crash]);
}

async fn what_is_in_flight_survives_the_worker(w: &World) {
    let claim = running(w, false).await;
    carried(w, claim).await;
    assert!(w.show(digest(1)).await.is_some_and(|lock| lock.carried));
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@one").await, []);
    let lock = w.show(digest(1)).await.expect("the lock stays");
    assert_eq!((lock.in_flight, &*lock.worker), (1, "w@one"));
    // The broker delivers it to another.
    assert_eq!(tell(w, "a", 3, Signal::Acked, "w@two").await, []);
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@one").await, []);
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@two").await, [ReleaseReason::Crash]);
}

async fn an_orphaned_id_without_a_lock_leaves_nothing_behind(w: &World) {
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@one").await, []);
    running(w, true).await;
    assert!(w.show(digest(1)).await.is_some(), "the commit after it was no late one");
    w.release(digest(1), None).await;
    assert_eq!(tell(w, "a", 0, Signal::Orphaned, "w@one").await, []);
}
