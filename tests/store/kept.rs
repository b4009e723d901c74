//! Acquires that find the key leased, and what becomes of them.

use std::sync::Arc;
use std::time::Duration;

use oncegate::rules::lock::{Acquired, Claim, LockNote, ReleaseReason, Reply, Scope};
use oncegate::store::{Answer, Client, Replies, Ticket};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::world::{World, acquire, claim, commit, digest, note, short_lease, unpublish};

scenarios! {
    is_a_duplicate_when_the_holder_is_committed
    takes_the_lock_when_the_holder_fails
    one_of_many_is_elected_and_the_others_wait_for_it
    outcome_in_another_process_is_found
    lapsed_lease_is_found
    cancelled_one_hears_nothing_and_holds_nothing
    gone_one_holds_nothing
    same_ticket_of_two_askers
}

/// Asks, and takes the first answer.
async fn ask(
    client: &Client,
    ticket: Ticket,
    claim: &Claim,
    note: &Arc<LockNote>,
    replies: &mut (Replies, UnboundedReceiver<(Ticket, Answer)>),
) -> Answer {
    let mut answers = Vec::new();
    client.submit(&mut vec![(ticket, acquire(claim, ticket, note, false))], &mut answers, &replies.0);
    let (answered, answer) = match answers.pop() {
        Some(answer) => answer,
        None => next(&mut replies.1).await,
    };
    assert_eq!(answered, ticket);
    answer
}

async fn next(replies: &mut UnboundedReceiver<(Ticket, Answer)>) -> (Ticket, Answer) {
    let reply = tokio::time::timeout(Duration::from_secs(30), replies.recv()).await;
    reply.expect("in time").expect("an answer")
}

fn leased() -> Reply {
    Reply::Acquire(Acquired::Leased { holder: "a".into() })
}

const TAKEN: Answer = Ok(Reply::Acquire(Acquired::Taken));

async fn is_a_duplicate_when_the_holder_is_committed(w: &World) {
    let note = note(Scope::UntilFinished);
    let mut replies = unbounded_channel();
    w.acquire(&claim(1, "a"), 1, &note).await;
    assert_eq!(ask(&w.client, 7, &claim(1, "b"), &note, &mut replies).await, Ok(leased()));
    w.client.tell(commit(&claim(1, "a"), 1, &note));
    let (ticket, answer) = next(&mut replies.1).await;
    assert_eq!(ticket, 7);
    assert!(matches!(answer, Ok(Reply::Acquire(Acquired::Held { .. }))), "{answer:?}");
}

async fn takes_the_lock_when_the_holder_fails(w: &World) {
    let note = note(Scope::UntilFinished);
    let mut replies = unbounded_channel();
    w.acquire(&claim(1, "a"), 1, &note).await;
    assert_eq!(ask(&w.client, 7, &claim(1, "b"), &note, &mut replies).await, Ok(leased()));
    w.client.tell(unpublish(&claim(1, "a"), 1, ReleaseReason::Returned));
    assert_eq!(next(&mut replies.1).await, (7, TAKEN));
    assert_eq!(w.holder(digest(1)).await.as_deref(), Some("b"));
}

async fn one_of_many_is_elected_and_the_others_wait_for_it(w: &World) {
    let note = note(Scope::UntilFinished);
    let mut replies = unbounded_channel();
    w.acquire(&claim(1, "a"), 1, &note).await;
    let clients: Vec<Client> = (0..3).map(|_| w.store.client()).collect();
    for ticket in 10..40 {
        let client = &clients[ticket as usize % clients.len()];
        assert_eq!(
            ask(client, ticket, &claim(1, &format!("id-{ticket}")), &note, &mut replies).await,
            Ok(leased())
        );
    }
    w.client.tell(unpublish(&claim(1, "a"), 1, ReleaseReason::Unconfirmed));
    assert_eq!(next(&mut replies.1).await, (10, TAKEN), "the oldest");
    // While the elected one is leased nobody else hears anything: the next answers come after its outcome.
    w.client.tell(unpublish(&claim(1, "id-10"), 10, ReleaseReason::Unconfirmed));
    assert_eq!(next(&mut replies.1).await, (11, TAKEN));
    w.client.tell(commit(&claim(1, "id-11"), 11, &note));
    let mut duplicates = Vec::new();
    for _ in 12..40 {
        let (ticket, answer) = next(&mut replies.1).await;
        assert!(
            matches!(&answer, Ok(Reply::Acquire(Acquired::Held { holder, .. })) if &**holder == "id-11"),
            "{answer:?}"
        );
        duplicates.push(ticket);
    }
    duplicates.sort_unstable();
    assert!(duplicates.into_iter().eq(12..40));
}

async fn outcome_in_another_process_is_found(w: &World) {
    let note = note(Scope::UntilFinished);
    let mut replies = unbounded_channel();
    let elsewhere = w.elsewhere().client();
    w.acquire(&claim(1, "a"), 1, &note).await;
    w.acquire(&claim(2, "a"), 2, &note).await;
    assert_eq!(ask(&w.client, 7, &claim(1, "b"), &note, &mut replies).await, Ok(leased()));
    elsewhere.tell(unpublish(&claim(1, "a"), 1, ReleaseReason::Unconfirmed));
    assert_eq!(next(&mut replies.1).await, (7, TAKEN));
    assert_eq!(ask(&w.client, 8, &claim(2, "b"), &note, &mut replies).await, Ok(leased()));
    elsewhere.tell(commit(&claim(2, "a"), 2, &note));
    assert!(matches!(next(&mut replies.1).await, (8, Ok(Reply::Acquire(Acquired::Held { .. })))));
}

async fn lapsed_lease_is_found(w: &World) {
    let mut replies = unbounded_channel();
    w.acquire(&claim(1, "a"), 1, &short_lease(Scope::UntilFinished)).await;
    let long = note(Scope::UntilFinished);
    let first = ask(&w.client, 7, &claim(1, "b"), &long, &mut replies).await;
    if first == TAKEN {
        return; // On a slow machine the lease has lapsed already.
    }
    assert_eq!(first, Ok(leased()));
    w.until("the kept one takes the lock", async || {
        w.holder(digest(1)).await.as_deref() == Some("b")
    })
    .await;
    assert_eq!(next(&mut replies.1).await, (7, TAKEN));
}

async fn cancelled_one_hears_nothing_and_holds_nothing(w: &World) {
    let note = note(Scope::UntilFinished);
    let mut replies = unbounded_channel();
    w.acquire(&claim(1, "a"), 1, &note).await;
    for (ticket, id) in [(7, "b"), (8, "c")] {
        assert_eq!(ask(&w.client, ticket, &claim(1, id), &note, &mut replies).await, Ok(leased()));
    }
    w.client.cancel(7, &replies.0);
    w.client.tell(unpublish(&claim(1, "a"), 1, ReleaseReason::Unconfirmed));
    assert_eq!(next(&mut replies.1).await, (8, TAKEN));
    w.until("c holds it", async || w.holder(digest(1)).await.as_deref() == Some("c"))
        .await;
    w.client.tell(unpublish(&claim(1, "c"), 8, ReleaseReason::Unconfirmed));
    w.until("it is free", async || w.holder(digest(1)).await.is_none()).await;
    assert!(replies.1.is_empty());
}

async fn gone_one_holds_nothing(w: &World) {
    let note = note(Scope::UntilFinished);
    let mut replies = unbounded_channel();
    w.acquire(&claim(1, "a"), 1, &note).await;
    assert_eq!(ask(&w.client, 7, &claim(1, "b"), &note, &mut replies).await, Ok(leased()));
    drop(replies.1);
    w.client.tell(unpublish(&claim(1, "a"), 1, ReleaseReason::Unconfirmed));
    w.until("it is free", async || w.holder(digest(1)).await.is_none()).await;
}

async fn same_ticket_of_two_askers(w: &World) {
    let note = note(Scope::UntilFinished);
    let (mut first, mut second) = (unbounded_channel(), unbounded_channel());
    w.acquire(&claim(1, "a"), 1, &note).await;
    assert_eq!(ask(&w.client, 7, &claim(1, "b"), &note, &mut first).await, Ok(leased()));
    assert_eq!(ask(&w.client, 7, &claim(1, "c"), &note, &mut second).await, Ok(leased()));
    w.client.cancel(7, &first.0);
    w.client.tell(unpublish(&claim(1, "a"), 1, ReleaseReason::Unconfirmed));
    assert_eq!(next(&mut second.1).await, (7, TAKEN));
    assert!(first.1.is_empty());
}
