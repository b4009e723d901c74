//! Limits, the same for every store.

use std::sync::Arc;

use oncegate::rules::limit::{Ask, Asker, Bucket, Cause, Concurrent, Limited, Rate, Wait};
use oncegate::rules::lock::{Digest, Nonce, Reply, Request, Signal};
use oncegate::rules::owed::Owed;
use oncegate::rules::running::RunNote;
use oncegate::rules::source::Hears;

use crate::likeness::Dice;
use crate::world::{LIFE, World, digest};

scenarios! {
    a_burst_goes_at_once_and_no_more
    beyond_a_burst_they_are_spaced
    a_place_is_found_again_by_every_delivery_of_its_id
    a_lost_answer_counts_once
    who_leaves_gives_its_permission_back
    who_leaves_lets_those_behind_it_go
    a_reservation_permits_nothing_and_keeps_the_place
    an_id_that_was_handed_over_gets_a_new_place
    buckets_and_rules_are_apart
    all_limits_of_a_rule_must_agree
    the_first_goes_first
    who_does_not_ask_is_passed_over
    so_many_run_at_a_time
    the_end_of_a_run_makes_room
    a_run_that_is_given_up_makes_room
    a_run_that_lapses_makes_room
    an_id_that_runs_counts_once
    who_waits_first_for_a_run_gets_it
    what_one_limit_holds_up_lets_others_go
    who_asks_about_fewer_limits_than_before_waits_for_no_others
    no_window_has_too_many_of_them
    an_even_pace_is_kept
}

/// Longer than any scenario takes.
pub const LONG: u64 = 1_000_000;

pub fn rate(times: u64, per_ms: u64, burst: u64) -> Rate {
    Rate { times, per_ms, burst }
}

/// Names the value of the limit's key that this bucket is of.
pub fn key_of(key: u8) -> Digest {
    Digest([key; 32])
}

pub fn bucket(key: u8, rate: Rate) -> Bucket {
    Bucket {
        digest: digest(key),
        limit: "1".into(),
        key: Some(key_of(key)),
        rate: Some(rate),
        concurrent: None,
    }
}

fn run_of(key: u8, id: &str) -> Digest {
    let mut octets = [key; 32];
    for (octet, letter) in octets.iter_mut().skip(1).zip(id.bytes()) {
        *octet = letter;
    }
    Digest(octets)
}

pub fn runs(key: u8, id: &str, runs: u64) -> Bucket {
    Bucket {
        digest: digest(key),
        limit: "1".into(),
        key: Some(key_of(key)),
        rate: None,
        concurrent: Some(Concurrent {
            runs,
            run: run_of(key, id),
        }),
    }
}

fn note(life_ms: u64) -> Arc<RunNote> {
    Arc::new(RunNote {
        rule: "reports".into(),
        task: "reports.generate".into(),
        summary: "".into(),
        vhost: "shop".into(),
        queue: "celery".into(),
        life_ms,
        settle_grace_ms: 1,
        acks_late: false,
        hears: Hears::ALL,
        retries: 0,
        owed: Owed::Nothing,
    })
}

pub fn ask(id: &str, buckets: Vec<Bucket>) -> Arc<Ask> {
    Arc::new(Ask {
        rule: "reports".into(),
        id: id.into(),
        buckets,
        note: Some(note(LIFE)),
    })
}

pub async fn limited(w: &World, request: Request) -> Limited {
    match w.ask(request).await {
        Reply::Limit(limited) => limited,
        other => panic!("{other:?}"),
    }
}

pub async fn permit(w: &World, ask: &Arc<Ask>, delivery: u64) -> Limited {
    let asker = Asker {
        delivery: Nonce(delivery),
        worker: "celery@one".into(),
    };
    limited(w, Request::Permit { ask: ask.clone(), asker }).await
}

pub async fn is_permitted(w: &World, ask: &Arc<Ask>, delivery: u64) -> bool {
    matches!(permit(w, ask, delivery).await, Limited::Permitted { .. })
}

pub fn wait_of(limited: &Limited) -> Wait {
    match limited {
        Limited::Waits(wait) => *wait,
        Limited::Permitted { .. } => panic!("it goes at once"),
    }
}

pub async fn waits(w: &World, ask: &Arc<Ask>, delivery: u64) -> Wait {
    wait_of(&permit(w, ask, delivery).await)
}

pub async fn reserve(w: &World, ask: &Arc<Ask>) -> Wait {
    wait_of(&limited(w, Request::Reserve { ask: ask.clone() }).await)
}

pub async fn leave(w: &World, ask: &Arc<Ask>, delivery: u64) {
    let request = Request::LeaveLimit {
        ask: ask.clone(),
        delivery: Nonce(delivery),
    };
    assert_eq!(w.ask(request).await, Reply::Done);
}

/// Within a second below the bound: the clock of a store goes on.
pub fn about(ms: u64, bound: u64) -> bool {
    (bound.saturating_sub(1_000)..=bound).contains(&ms)
}

async fn a_burst_goes_at_once_and_no_more(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(3, LONG, 3))]);
    for (nonce, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(is_permitted(w, &of(id), nonce as u64).await, "{id}");
    }
    let wait = waits(w, &of("d"), 4).await;
    assert!(about(wait.wait_ms, LONG + 1), "{wait:?}");
    assert_eq!((wait.bucket, wait.cause), (0, Cause::Rate));
    for (number, id) in ["e", "f"].into_iter().enumerate() {
        let wait = waits(w, &of(id), 5 + number as u64).await;
        assert!(about(wait.wait_ms, LONG + 1), "{id}: {wait:?}");
    }
    let wait = waits(w, &of("g"), 7).await;
    assert!(about(wait.wait_ms, 2 * (LONG + 1)), "the next window: {wait:?}");
}

async fn beyond_a_burst_they_are_spaced(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(10, 10 * LONG, 2))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(is_permitted(w, &of("b"), 2).await);
    for (number, id) in ["c", "d", "e"].into_iter().enumerate() {
        let wait = waits(w, &of(id), 3).await;
        assert!(about(wait.wait_ms, (1 + number as u64) * LONG), "{id}: {wait:?}");
    }
}

async fn a_place_is_found_again_by_every_delivery_of_its_id(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, LONG, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(about(waits(w, &of("b"), 2).await.wait_ms, LONG + 1));
    assert!(about(waits(w, &of("c"), 3).await.wait_ms, 2 * (LONG + 1)));
    for delivery in [2, 4, 5] {
        assert!(about(waits(w, &of("b"), delivery).await.wait_ms, LONG + 1));
    }
    w.pass(50);
    let wait = waits(w, &of("b"), 6).await;
    assert!(wait.waited_ms <= 30_000, "{wait:?}");
    w.until("the time that it has waited", async || waits(w, &of("b"), 7).await.waited_ms >= 50)
        .await;
}

async fn a_lost_answer_counts_once(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(3, LONG, 3))]);
    for _ in 0..5 {
        assert!(is_permitted(w, &of("a"), 1).await);
    }
    assert!(is_permitted(w, &of("b"), 2).await);
    assert!(is_permitted(w, &of("c"), 3).await);
    assert!(!is_permitted(w, &of("d"), 4).await);
    assert!(is_permitted(w, &of("b"), 2).await);
}

async fn who_leaves_gives_its_permission_back(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, LONG, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(!is_permitted(w, &of("b"), 2).await);
    leave(w, &of("a"), 9).await;
    assert!(!is_permitted(w, &of("b"), 2).await, "another delivery gives nothing back");
    for _ in 0..2 {
        leave(w, &of("a"), 1).await;
    }
    leave(w, &of("nobody"), 1).await;
    assert!(is_permitted(w, &of("b"), 2).await);
    assert!(!is_permitted(w, &of("a"), 1).await);
}

async fn who_leaves_lets_those_behind_it_go(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, LONG, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(about(waits(w, &of("b"), 2).await.wait_ms, LONG + 1));
    assert!(about(waits(w, &of("c"), 3).await.wait_ms, 2 * (LONG + 1)));
    leave(w, &of("b"), 2).await;
    assert!(about(waits(w, &of("c"), 3).await.wait_ms, LONG + 1));
    assert!(about(waits(w, &of("b"), 4).await.wait_ms, LONG + 1), "its place is the first still");
    assert!(about(waits(w, &of("c"), 3).await.wait_ms, 2 * (LONG + 1)));
}

async fn a_reservation_permits_nothing_and_keeps_the_place(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, LONG, 1))]);
    assert_eq!(reserve(w, &of("a")).await.wait_ms, 0);
    assert!(!is_permitted(w, &of("b"), 2).await, "that of the one before it");
    assert_eq!(reserve(w, &of("a")).await.wait_ms, 0);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(about(reserve(w, &of("b")).await.wait_ms, LONG + 1));
}

async fn an_id_that_was_handed_over_gets_a_new_place(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(2, LONG, 2))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(is_permitted(w, &of("a"), 2).await, "it runs once more");
    assert!(!is_permitted(w, &of("b"), 3).await);
    assert!(about(waits(w, &of("a"), 4).await.wait_ms, LONG + 1));
}

async fn buckets_and_rules_are_apart(w: &World) {
    let of = |id: &str, key| ask(id, vec![bucket(key, rate(1, LONG, 1))]);
    for key in 1..4 {
        assert!(is_permitted(w, &of("a", key), key.into()).await);
        assert!(!is_permitted(w, &of("b", key), 10).await);
    }
    let elsewhere = Arc::new(Ask {
        rule: "mails".into(),
        ..Ask::clone(&of("a", 9))
    });
    assert!(is_permitted(w, &elsewhere, 1).await);
}

async fn all_limits_of_a_rule_must_agree(w: &World) {
    let of = |id: &str, key| ask(id, vec![bucket(1, rate(2, LONG, 2)), bucket(key, rate(1, 2 * LONG, 1))]);
    assert!(is_permitted(w, &of("a", 2), 1).await);
    let wait = waits(w, &of("b", 2), 2).await;
    assert!(about(wait.wait_ms, 2 * LONG + 1), "{wait:?}");
    assert_eq!(wait.bucket, 1);
    assert!(is_permitted(w, &of("c", 3), 3).await, "a refusal counts nowhere");
    let wait = waits(w, &of("d", 4), 4).await;
    assert!(about(wait.wait_ms, LONG + 1), "{wait:?}");
    assert_eq!(wait.bucket, 0);
}

async fn the_first_goes_first(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, 40, 1))]);
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        permit(w, &of(id), 1).await;
    }
    let mut went = vec!["a"];
    w.until("all go", async || {
        for id in ids.iter().skip(1).rev() {
            if !went.contains(id) && is_permitted(w, &of(id), 1).await {
                went.push(id);
            }
        }
        went.len() == ids.len()
    })
    .await;
    assert_eq!(went, ids);
}

async fn who_does_not_ask_is_passed_over(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, 20, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    waits(w, &of("gone"), 2).await;
    waits(w, &of("b"), 3).await;
    w.until("it is passed over", async || is_permitted(w, &of("b"), 3).await).await;
    w.until("it is back", async || is_permitted(w, &of("gone"), 4).await).await;
}

async fn so_many_run_at_a_time(w: &World) {
    let of = |id: &str| ask(id, vec![runs(1, id, 2)]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(is_permitted(w, &of("b"), 2).await);
    for _ in 0..3 {
        let wait = waits(w, &of("c"), 3).await;
        assert_eq!((wait.cause, wait.bucket), (Cause::Runs, 0));
        assert!((1..=1_000).contains(&wait.wait_ms), "{wait:?}");
    }
    let run = w.show_run(run_of(1, "a")).await.expect("it runs");
    assert_eq!((&*run.holder, &*run.rule, &*run.worker), ("a", "reports", "celery@one"));
    assert!(w.show_run(run_of(1, "c")).await.is_none());
}

async fn the_end_of_a_run_makes_room(w: &World) {
    let of = |id: &str| ask(id, vec![runs(1, id, 2)]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(is_permitted(w, &of("b"), 2).await);
    assert!(!is_permitted(w, &of("c"), 3).await);
    w.signal("a", 1, Signal::Started).await;
    assert!(!is_permitted(w, &of("c"), 3).await);
    w.signal("a", 1, Signal::Succeeded).await;
    assert!(is_permitted(w, &of("c"), 3).await);
    assert!(!is_permitted(w, &of("d"), 4).await);
}

async fn a_run_that_is_given_up_makes_room(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(2, rate(5, LONG, 5)), runs(1, id, 1)]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(!is_permitted(w, &of("b"), 2).await);
    leave(w, &of("a"), 9).await;
    assert!(!is_permitted(w, &of("b"), 2).await);
    leave(w, &of("a"), 1).await;
    assert!(is_permitted(w, &of("b"), 2).await);
    assert!(w.show_run(run_of(1, "a")).await.is_none());
}

async fn a_run_that_lapses_makes_room(w: &World) {
    let of = |id: &str| {
        Arc::new(Ask {
            note: Some(note(40)),
            ..Ask::clone(&ask(id, vec![runs(1, id, 1)]))
        })
    };
    assert!(is_permitted(w, &of("a"), 1).await);
    waits(w, &of("b"), 2).await;
    w.until("it lapses", async || is_permitted(w, &of("b"), 2).await).await;
}

async fn an_id_that_runs_counts_once(w: &World) {
    let of = |id: &str| ask(id, vec![runs(1, id, 1)]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(is_permitted(w, &of("a"), 1).await, "its answer was lost");
    assert!(is_permitted(w, &of("a"), 2).await, "it is delivered again");
    assert!(!is_permitted(w, &of("b"), 3).await);
}

async fn who_waits_first_for_a_run_gets_it(w: &World) {
    let of = |id: &str| ask(id, vec![runs(1, id, 1)]);
    assert!(is_permitted(w, &of("a"), 1).await);
    for id in ["b", "c", "d"] {
        waits(w, &of(id), 2).await;
    }
    assert!(waits(w, &of("b"), 2).await.wait_ms <= 100);
    w.signal("a", 1, Signal::Failed).await;
    assert!(!is_permitted(w, &of("d"), 2).await);
    assert!(is_permitted(w, &of("b"), 2).await);
}

async fn what_one_limit_holds_up_lets_others_go(w: &World) {
    let of = |id: &str, key: u8| ask(id, vec![bucket(1, rate(100, 100, 1)), bucket(key, rate(1, LONG, 1))]);
    assert!(is_permitted(w, &of("a", 2), 1).await);
    for number in 0..50 {
        waits(w, &of(&format!("held up {number}"), 2), 2).await;
    }
    w.until("another goes", async || is_permitted(w, &of("b", 3), 3).await).await;
    let wait = waits(w, &of("held up 0", 2), 4).await;
    assert!(about(wait.wait_ms, LONG + 1), "{wait:?}");
}

async fn who_asks_about_fewer_limits_than_before_waits_for_no_others(w: &World) {
    let one = || bucket(1, rate(1, LONG, 1));
    let all = |id: &str| ask(id, vec![one(), bucket(2, rate(10, LONG, 10))]);
    let fewer = |id: &str| ask(id, vec![bucket(2, rate(10, LONG, 10))]);
    assert!(is_permitted(w, &all("first"), 1).await);
    for (delivery, id) in [(2, "goes"), (3, "leaves")] {
        waits(w, &all(id), delivery).await;
    }
    assert!(is_permitted(w, &fewer("goes"), 4).await);
    leave(w, &fewer("leaves"), 3).await;
    let wait = waits(w, &all("last"), 5).await;
    assert!(about(wait.wait_ms, LONG + 1), "{wait:?}");
}

/// A message of the story.
struct Message {
    ask: Arc<Ask>,
    delivery: u64,
    may_ask_at: u64,
    asks_at: u64,
    arrived: usize,
    has_left: bool,
}

/// A hand-over, and the times between which it was.
struct HandOver {
    arrived: usize,
    bucket: Digest,
    from: u64,
    to: u64,
    has_left: bool,
    /// How much later it asked than it might have.
    asked_late: u64,
}

/// Lets a backlog of messages go as a proxy would: each asks when it was told to, or a little later; answers are lost, and some go back to
/// their queue and come again.
async fn story(w: &World, seed: u64, rate: Rate, keys: std::ops::RangeInclusive<u8>, backlog: usize, for_ms: u64) -> Vec<HandOver> {
    let mut dice = Dice(seed);
    let now = async || w.client.now_ms().await.expect("a time");
    let start = now().await;
    let mut waiting: Vec<Message> = Vec::new();
    let mut went = Vec::new();
    let (mut arrived, mut delivery) = (0, 0);
    loop {
        let at = now().await;
        if at >= start + for_ms {
            return went;
        }
        while waiting.len() < backlog {
            arrived += 1;
            delivery += 1;
            let key = keys.start() + dice.roll(keys.len() as u64) as u8;
            waiting.push(Message {
                ask: ask(&format!("{seed}-{arrived}"), vec![bucket(key, rate)]),
                delivery,
                may_ask_at: 0,
                asks_at: 0,
                arrived,
                has_left: false,
            });
        }
        for message in &mut waiting {
            if message.asks_at > at {
                continue;
            }
            if dice.roll(20) == 0 {
                permit(w, &message.ask, message.delivery).await;
            }
            if dice.roll(100) == 0 {
                leave(w, &message.ask, message.delivery).await;
                delivery += 1;
                message.delivery = delivery;
                message.has_left = true;
                message.asks_at = at + dice.roll(5);
                continue;
            }
            let from = now().await;
            match permit(w, &message.ask, message.delivery).await {
                Limited::Permitted { .. } => {
                    message.asks_at = u64::MAX;
                    went.push(HandOver {
                        arrived: message.arrived,
                        bucket: message.ask.buckets[0].digest,
                        from,
                        to: now().await,
                        has_left: message.has_left,
                        asked_late: from.saturating_sub(message.may_ask_at),
                    });
                }
                Limited::Waits(wait) => {
                    message.may_ask_at = from + wait.wait_ms.min(1_000);
                    message.asks_at = message.may_ask_at + dice.roll(3);
                }
            }
        }
        waiting.retain(|message| message.asks_at != u64::MAX);
        w.pass(1);
        tokio::task::yield_now().await;
    }
}

/// What must hold of the hand-overs of one bucket.
fn judge(w: &World, went: &[HandOver], of: Digest, rate: Rate, for_ms: u64) {
    let went: Vec<&HandOver> = went.iter().filter(|went| went.bucket == of).collect();
    for pair in went.windows(rate.times as usize + 1) {
        let (first, last) = (pair[0], pair[pair.len() - 1]);
        assert!(last.to > first.from + rate.per_ms, "{} in less than {} ms", pair.len(), rate.per_ms);
    }
    let stayed: Vec<&&HandOver> = went.iter().filter(|went| !went.has_left).collect();
    for (place, first) in stayed.iter().enumerate() {
        let later = stayed.iter().skip(place).filter(|later| later.arrived < first.arrived);
        for later in later {
            assert!(
                later.from <= first.to + later.asked_late,
                "{} before {}",
                first.arrived,
                later.arrived
            );
        }
    }
    // How fast a machine is, is not what is tested.
    let allowed = if w.time_is_ours() { (for_ms / rate.per_ms) * rate.times } else { 1 };
    assert!(went.len() as u64 * 100 >= allowed * 95, "{} of {allowed}: {rate:?}", went.len());
}

async fn no_window_has_too_many_of_them(w: &World) {
    for (key, rate) in [(1, rate(10, 400, 10)), (2, rate(7, 300, 3))] {
        let for_ms = 5 * rate.per_ms - 20;
        let went = story(w, 10 + u64::from(key), rate, key..=key, 60, for_ms).await;
        judge(w, &went, digest(key), rate, 4 * rate.per_ms);
    }
}

async fn an_even_pace_is_kept(w: &World) {
    let rate = rate(20, 1_000, 1);
    let went = story(w, 13, rate, 1..=1, 30, 1_500).await;
    judge(
        w,
        &went,
        digest(1),
        Rate {
            times: 1,
            per_ms: 1,
            ..rate
        },
        28,
    );
    judge(w, &went, digest(1), rate, 1_000);
}

/// Long stories, where time costs nothing.
#[tokio::test]
async fn seeded_stories_keep_every_window_order_and_pace() {
    for seed in 1..=8_u64 {
        let mut dice = Dice(seed * 7_919);
        let times = 1 + dice.roll(30);
        let rate = Rate {
            times,
            per_ms: 300 + dice.roll(2_000),
            burst: 1 + dice.roll(times),
        };
        let keys = 1 + dice.roll(3) as u8;
        let for_ms = 8 * rate.per_ms;
        let w = World::memory();
        let went = story(&w, seed, rate, 1..=keys, 40 * usize::from(keys), for_ms).await;
        for key in 1..=keys {
            judge(&w, &went, digest(key), rate, 7 * rate.per_ms);
        }
    }
}

/// One limit for all and one for each customer: neither is exceeded, and the first is used up although each customer is held up.
#[tokio::test]
async fn two_limits_together_waste_nothing() {
    let (all, each, customers) = (rate(20, 1_000, 20), rate(2, 1_000, 2), 15_u8);
    let w = World::memory();
    let mut dice = Dice(5);
    let mut waiting: Vec<(Arc<Ask>, u64)> = Vec::new();
    let mut went: Vec<(u64, Digest)> = Vec::new();
    let now = async || w.client.now_ms().await.expect("a time");
    let (start, mut number) = (now().await, 0);
    while now().await < start + 20_000 {
        let at = now().await;
        for customer in 2..2 + customers {
            let waits = waiting.iter().filter(|(ask, _)| ask.buckets[1].digest == digest(customer)).count();
            // One customer has most of them.
            let backlog = if customer == 2 { 60 } else { 1 + dice.roll(5) as usize };
            for _ in waits..backlog {
                number += 1;
                waiting.push((ask(&number.to_string(), vec![bucket(1, all), bucket(customer, each)]), 0));
            }
        }
        let mut gone = Vec::new();
        for (place, (ask, asks_at)) in waiting.iter_mut().enumerate() {
            if *asks_at > at {
                continue;
            }
            match permit(&w, ask, 1).await {
                Limited::Permitted { .. } => {
                    went.push((at, ask.buckets[1].digest));
                    gone.push(place);
                }
                Limited::Waits(wait) => *asks_at = at + wait.wait_ms.min(1_000),
            }
        }
        for place in gone.into_iter().rev() {
            waiting.remove(place);
        }
        w.pass(1);
    }
    let too_many = |went: &[u64], rate: Rate| {
        went.windows(rate.times as usize + 1)
            .any(|some| some[some.len() - 1] - some[0] < rate.per_ms)
    };
    let times: Vec<u64> = went.iter().map(|(at, _)| *at).collect();
    assert!(!too_many(&times, all));
    for customer in 2..2 + customers {
        let times: Vec<u64> = went.iter().filter(|(_, of)| *of == digest(customer)).map(|(at, _)| *at).collect();
        assert!(!too_many(&times, each), "{customer}");
    }
    assert!(went.len() >= 380, "{}", went.len());
}
