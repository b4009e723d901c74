//! What operators set of limits, the same for every store.

use std::sync::Arc;
use std::time::Duration;

use oncegate::rules::limit::control::{KeyValue, SET_MAX, Setting, Target, What};
use oncegate::rules::limit::{Ask, Cause, Limited, Rate};
use oncegate::rules::lock::{Nonce, Request};
use oncegate::store::limits::{Asked, Bucket as Counts, Done, Known, Wanted};

use crate::likeness::Dice;
use crate::limit::{LONG, about, ask, bucket, is_permitted, key_of, leave, permit, rate, reserve, runs, waits};
use crate::world::{World, digest};

scenarios! {
    a_paused_limit_lets_nothing_go_and_keeps_the_order
    a_pause_ends_by_itself
    a_pause_holds_up_no_other_limit
    who_waits_for_a_pause_asks_ever_less_often
    one_value_of_a_key_is_paused_alone
    one_value_of_a_key_goes_while_the_limit_is_paused
    a_raised_rate_lets_those_go_that_wait
    a_lowered_rate_lets_no_more_go
    a_rate_for_one_value_goes_before_that_of_the_limit
    a_rate_ends_by_itself_and_the_windows_of_the_configuration_are_kept
    an_even_pace_stays_even
    what_has_gone_counts_by_the_new_rate
    a_permission_that_is_given_back_counts_by_the_new_rate
    a_limit_of_runs_is_paused_and_gets_a_rate
    what_is_set_is_told_and_taken_back
    no_more_is_set_than_is_kept
    rules_and_limits_are_apart
    it_is_told_how_many_wait_and_have_gone
}

fn whole() -> Target {
    Target {
        limit: "1".into(),
        key: None,
    }
}

fn of_key(key: u8) -> Target {
    Target {
        key: Some(KeyValue {
            digest: key_of(key),
            shown: key.to_string().into(),
        }),
        ..whole()
    }
}

fn faster(times: u64, per_ms: u64) -> What {
    What::Rate { times, per_ms }
}

const PAUSED: What = What::Paused(true);
const GOES: What = What::Paused(false);

async fn set_for(w: &World, target: Target, what: What, life_ms: Option<u64>) {
    let wanted = Wanted {
        target,
        what,
        life: life_ms.map(Duration::from_millis),
        by: "ann".into(),
    };
    assert_eq!(w.client.set_limits(&"reports".into(), &[wanted]).await, Ok(Done::Set));
}

async fn set(w: &World, target: Target, what: What) {
    set_for(w, target, what, None).await;
}

async fn reset(w: &World, target: &Target) -> u64 {
    w.client.reset_limit(&"reports".into(), target).await.expect("an answer")
}

async fn known(w: &World, asked: &[Asked]) -> Known {
    w.client.limits(&"reports".into(), asked).await.expect("an answer")
}

/// What is set, without times, in an order of its own.
fn shape(known: &Known) -> Vec<(Target, What, bool)> {
    let mut set: Vec<_> = known
        .set
        .iter()
        .map(|set| (set.target.clone(), set.what, set.until_ms.is_some()))
        .collect();
    set.sort_by_key(|(target, what, _)| {
        let key = target.key.as_ref().map(|key| key.shown.clone());
        (key, target.limit.clone(), format!("{what:?}"))
    });
    set
}

async fn a_paused_limit_lets_nothing_go_and_keeps_the_order(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(2, LONG, 2))]);
    set(w, whole(), PAUSED).await;
    for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
        let wait = waits(w, &of(id), number as u64).await;
        assert_eq!((wait.bucket, wait.cause), (0, Cause::Rate));
        assert!(wait.wait_ms >= 1_000, "{wait:?}");
    }
    assert!(reserve(w, &of("d")).await.wait_ms >= 1_000);
    set(w, whole(), GOES).await;
    assert!(is_permitted(w, &of("a"), 0).await);
    assert!(!is_permitted(w, &of("c"), 2).await, "that of the one before it");
    assert!(is_permitted(w, &of("b"), 1).await);
    assert!(about(waits(w, &of("c"), 2).await.wait_ms, LONG + 1));
}

async fn a_pause_ends_by_itself(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, LONG, 1))]);
    set_for(w, whole(), PAUSED, Some(200)).await;
    let wait = waits(w, &of("a"), 1).await;
    assert!(wait.wait_ms <= 200, "{wait:?}");
    let wait = waits(w, &of("b"), 2).await;
    assert!(wait.wait_ms > LONG / 2, "its turn comes after that: {wait:?}");
    w.until("the pause is over", async || is_permitted(w, &of("a"), 1).await).await;
    assert!(shape(&known(w, &[]).await).is_empty());
}

async fn a_pause_holds_up_no_other_limit(w: &World) {
    let of = |id: &str, key: u8| ask(id, vec![bucket(1, rate(1, 40, 1)), bucket(key, rate(9, LONG, 9))]);
    set(w, of_key(2), PAUSED).await;
    for number in 0..20 {
        assert!(waits(w, &of(&format!("paused {number}"), 2), 1).await.bucket == 1);
    }
    for number in 0..3 {
        w.until("another goes", async || is_permitted(w, &of(&format!("{number}"), 3), 1).await)
            .await;
    }
}

async fn who_waits_for_a_pause_asks_ever_less_often(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, 10, 1))]);
    set(w, whole(), PAUSED).await;
    let first = waits(w, &of("a"), 1).await;
    assert_eq!(first.wait_ms, 1_000);
    for number in 0..100 {
        waits(w, &of(&format!("b{number}")), 2).await;
    }
    let last = waits(w, &of("b99"), 2).await;
    assert!(last.wait_ms >= 1_900, "each asks when its turn would come: {last:?}");
    if w.time_is_ours() {
        w.pass(4_000);
        assert_eq!(waits(w, &of("a"), 1).await.wait_ms, 2_000);
        w.pass(86_000_000);
        assert_eq!(waits(w, &of("a"), 1).await.wait_ms, 30_000);
    }
}

async fn one_value_of_a_key_is_paused_alone(w: &World) {
    let of = |id: &str, key: u8| ask(id, vec![bucket(key, rate(5, LONG, 5))]);
    set(w, of_key(1), PAUSED).await;
    assert!(!is_permitted(w, &of("a", 1), 1).await);
    assert!(is_permitted(w, &of("b", 2), 2).await);
    set(w, of_key(1), GOES).await;
    assert!(is_permitted(w, &of("a", 1), 1).await);
    assert!(shape(&known(w, &[]).await).is_empty(), "what is not paused needs no exception");
    set(w, whole(), PAUSED).await;
    assert!(!is_permitted(w, &of("c", 1), 3).await, "a pause of the limit is for all its keys");
}

async fn one_value_of_a_key_goes_while_the_limit_is_paused(w: &World) {
    let of = |id: &str, key: u8| ask(id, vec![bucket(key, rate(5, LONG, 5))]);
    set_for(w, whole(), PAUSED, Some(LONG)).await;
    set(w, of_key(1), GOES).await;
    assert!(is_permitted(w, &of("a", 1), 1).await);
    assert!(!is_permitted(w, &of("b", 2), 2).await);
    let told = known(w, &[]).await;
    assert_eq!(
        shape(&told),
        [(whole(), PAUSED, true), (of_key(1), GOES, true)],
        "it ends with the pause"
    );
    set(w, whole(), PAUSED).await;
    assert!(!is_permitted(w, &of("c", 1), 3).await, "what is said last counts");
    set(w, of_key(1), GOES).await;
    assert_eq!(reset(w, &whole()).await, 2);
    assert!(is_permitted(w, &of("b", 2), 2).await);
}

async fn a_raised_rate_lets_those_go_that_wait(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(1, LONG, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    for (number, id) in ["b", "c", "d", "e"].into_iter().enumerate() {
        waits(w, &of(id), 2 + number as u64).await;
    }
    set(w, whole(), faster(3, LONG)).await;
    assert!(is_permitted(w, &of("b"), 2).await);
    assert!(is_permitted(w, &of("c"), 3).await);
    let wait = waits(w, &of("d"), 4).await;
    assert!(about(wait.wait_ms, LONG + 1), "one has gone before: {wait:?}");
    set(w, whole(), faster(3, 1)).await;
    w.until("the next goes", async || is_permitted(w, &of("d"), 4).await).await;
    assert!(reset(w, &whole()).await == 1);
    let wait = waits(w, &of("e"), 5).await;
    assert!(about(wait.wait_ms, LONG + 1), "as configured: {wait:?}");
}

async fn a_lowered_rate_lets_no_more_go(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(10, LONG, 10))]);
    for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(is_permitted(w, &of(id), number as u64).await);
    }
    set(w, whole(), faster(3, LONG)).await;
    let wait = waits(w, &of("d"), 4).await;
    assert!(about(wait.wait_ms, LONG + 1), "three have gone: {wait:?}");
    set(w, whole(), faster(4, LONG)).await;
    assert!(is_permitted(w, &of("d"), 4).await);
    assert!(!is_permitted(w, &of("e"), 5).await);
    assert_eq!(reset(w, &whole()).await, 1);
    for number in 0..6 {
        assert!(is_permitted(w, &of(&format!("f{number}")), 6 + number).await, "{number}");
    }
    let wait = waits(w, &of("g"), 99).await;
    assert!(about(wait.wait_ms, LONG + 1), "ten have gone: {wait:?}");
}

async fn a_rate_for_one_value_goes_before_that_of_the_limit(w: &World) {
    let of = |id: &str, key: u8| ask(id, vec![bucket(key, rate(3, LONG, 3))]);
    set(w, whole(), faster(2, LONG)).await;
    set(w, of_key(1), faster(1, LONG)).await;
    for (key, most) in [(1, 1), (2, 2)] {
        let went = async |number: u64| is_permitted(w, &of(&format!("{key} {number}"), key), number).await;
        let mut count = 0;
        for number in 0..4 {
            count += u64::from(went(number).await);
        }
        assert_eq!(count, most, "{key}");
    }
    assert_eq!(reset(w, &of_key(1)).await, 1);
    assert!(is_permitted(w, &of("1 1", 1), 1).await);
    assert!(!is_permitted(w, &of("1 2", 1), 2).await);
}

async fn a_rate_ends_by_itself_and_the_windows_of_the_configuration_are_kept(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(4, LONG, 4))]);
    set_for(w, whole(), faster(1, 20), Some(150)).await;
    let mut went = 0_u64;
    w.until("the rate is over", async || {
        went += u64::from(is_permitted(w, &of(&went.to_string()), went).await);
        known(w, &[]).await.set.is_empty()
    })
    .await;
    // However many have gone one by one, the last of them count.
    while is_permitted(w, &of(&went.to_string()), went).await {
        went += 1;
        assert!(went <= 4, "{went} in one window");
    }
    let wait = waits(w, &of(&went.to_string()), went).await;
    assert!(wait.wait_ms > LONG / 2, "{wait:?}");
}

async fn an_even_pace_stays_even(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(10, 10 * LONG, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(about(waits(w, &of("b"), 2).await.wait_ms, LONG));
    set(w, whole(), faster(20, 2 * LONG)).await;
    let wait = waits(w, &of("b"), 2).await;
    assert!(about(wait.wait_ms, LONG / 10), "one each tenth of the time: {wait:?}");
    let wait = waits(w, &of("c"), 3).await;
    assert!(about(wait.wait_ms, LONG / 5), "{wait:?}");
    set(w, whole(), faster(5, 10 * LONG)).await;
    let wait = waits(w, &of("b"), 2).await;
    assert!(wait.wait_ms.abs_diff(2 * LONG) < 20_000, "{wait:?}");
}

async fn what_has_gone_counts_by_the_new_rate(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(3, 3 * LONG, 3))]);
    for (number, id) in ["a", "b", "c"].into_iter().enumerate() {
        assert!(is_permitted(w, &of(id), number as u64).await);
    }
    assert!(about(waits(w, &of("d"), 4).await.wait_ms, 3 * LONG + 1));
    set(w, whole(), faster(1, 2 * LONG)).await;
    let wait = waits(w, &of("d"), 4).await;
    assert!(about(wait.wait_ms, 2 * LONG + 1), "no longer than a window: {wait:?}");
}

async fn a_permission_that_is_given_back_counts_by_the_new_rate(w: &World) {
    let of = |id: &str| ask(id, vec![bucket(1, rate(4, 4 * LONG, 1))]);
    assert!(is_permitted(w, &of("a"), 1).await);
    set(w, whole(), faster(8, 4 * LONG)).await;
    leave(w, &of("a"), 1).await;
    assert!(is_permitted(w, &of("b"), 2).await);
    let wait = waits(w, &of("c"), 3).await;
    assert!(about(wait.wait_ms, LONG / 2), "{wait:?}");
}

async fn a_limit_of_runs_is_paused_and_gets_a_rate(w: &World) {
    let of = |id: &str| ask(id, vec![runs(1, id, 5)]);
    set(w, whole(), PAUSED).await;
    let wait = waits(w, &of("a"), 1).await;
    assert_eq!((wait.cause, wait.wait_ms), (Cause::Rate, 1_000));
    let wait = waits(w, &of("b"), 2).await;
    assert!((1_020..1_030).contains(&wait.wait_ms), "{wait:?}");
    set(w, whole(), GOES).await;
    set(w, whole(), faster(2, LONG)).await;
    assert!(is_permitted(w, &of("a"), 1).await);
    assert!(is_permitted(w, &of("b"), 2).await);
    assert_eq!(waits(w, &of("c"), 3).await.cause, Cause::Rate);
    reset(w, &whole()).await;
    assert!(is_permitted(w, &of("c"), 3).await);
}

async fn what_is_set_is_told_and_taken_back(w: &World) {
    assert_eq!(shape(&known(w, &[]).await), []);
    set_for(w, whole(), faster(7, 9), Some(LONG)).await;
    set(w, whole(), PAUSED).await;
    set(w, of_key(3), faster(1, 2)).await;
    set_for(w, of_key(3), PAUSED, Some(LONG)).await;
    let told = known(w, &[]).await;
    let wanted = [
        (whole(), PAUSED, false),
        (whole(), faster(7, 9), true),
        (of_key(3), PAUSED, true),
        (of_key(3), faster(1, 2), false),
    ];
    assert_eq!(shape(&told), wanted);
    for set in &told.set {
        assert_eq!(&*set.by, "ann");
        assert!(set.since_ms <= told.now_ms && set.since_ms + 30_000 > told.now_ms, "{set:?}");
        assert!(set.until_ms.is_none_or(|until| until == set.since_ms + LONG), "{set:?}");
    }
    set(w, whole(), faster(8, 9)).await;
    assert!(
        shape(&known(w, &[]).await).contains(&(whole(), faster(8, 9), false)),
        "in place of the one before"
    );
    assert_eq!(reset(w, &of_key(3)).await, 2);
    assert_eq!(reset(w, &of_key(3)).await, 0);
    assert_eq!(reset(w, &whole()).await, 2);
    assert_eq!(shape(&known(w, &[]).await), []);
}

async fn no_more_is_set_than_is_kept(w: &World) {
    let of = |number: usize| Wanted {
        target: Target {
            key: Some(KeyValue {
                digest: oncegate::rules::lock::Digest([(number / 256) as u8, (number % 256) as u8].repeat(16).try_into().expect("32")),
                shown: number.to_string().into(),
            }),
            ..whole()
        },
        what: PAUSED,
        life: None,
        by: "-".into(),
    };
    let all: Vec<Wanted> = (0..SET_MAX).map(of).collect();
    for some in all.chunks(500) {
        assert_eq!(w.client.set_limits(&"reports".into(), some).await, Ok(Done::Set));
    }
    assert_eq!(known(w, &[]).await.set.len(), SET_MAX);
    assert_eq!(w.client.set_limits(&"reports".into(), &[of(SET_MAX)]).await, Ok(Done::TooMany));
    assert_eq!(w.client.set_limits(&"mails".into(), &[of(SET_MAX)]).await, Ok(Done::Set));
    assert_eq!(reset(w, &of(0).target).await, 1);
    assert_eq!(w.client.set_limits(&"reports".into(), &[of(SET_MAX)]).await, Ok(Done::Set));
}

async fn rules_and_limits_are_apart(w: &World) {
    let of = |id: &str, limit: &str| {
        let mut bucket = bucket(1, rate(5, LONG, 5));
        bucket.limit = limit.into();
        ask(id, vec![bucket])
    };
    set(w, whole(), PAUSED).await;
    assert!(is_permitted(w, &of("a", "10"), 1).await);
    assert!(!is_permitted(w, &of("a", "1"), 1).await);
    let elsewhere = Arc::new(Ask {
        rule: "mails".into(),
        ..Ask::clone(&of("a", "1"))
    });
    assert!(is_permitted(w, &elsewhere, 1).await);
}

async fn it_is_told_how_many_wait_and_have_gone(w: &World) {
    let of = |id: &str, key: u8| ask(id, vec![bucket(key, rate(2, LONG, 2))]);
    for (number, id) in ["a", "b", "c", "d"].into_iter().enumerate() {
        permit(w, &of(id, 1), number as u64).await;
    }
    permit(w, &of("e", 2), 5).await;
    let asked = [1, 2, 3].map(|key| Asked {
        digest: digest(key),
        rate: (key != 2).then_some(rate(2, LONG, 2)),
    });
    let told = known(w, &asked).await;
    let counts = |waiting, given| Counts { waiting, given };
    assert_eq!((told.waiting, told.buckets), (2, vec![counts(2, 2), counts(0, 0), counts(0, 0)]));
    leave(w, &of("c", 1), 2).await;
    assert_eq!(known(w, &asked).await.waiting, 1);
}

/// What an operator does in a story, and what holds from then on: the rate of the limit, and whether it is paused.
struct Held {
    from: u64,
    rate: Rate,
    paused: bool,
    configured: bool,
}

/// Operators pause, resume and change a limit while a backlog goes as proxies let it: those who wait ask when they were told to.
async fn story(w: &World, seed: u64, configured: Rate, for_ms: u64) -> (Vec<u64>, Vec<Held>) {
    let mut dice = Dice(seed);
    let now = async || w.client.now_ms().await.expect("a time");
    let start = now().await;
    let held = |from, rate, paused, configured| Held {
        from,
        rate,
        paused,
        configured,
    };
    let mut all = vec![held(start, configured, false, true)];
    let mut waiting: Vec<(Arc<Ask>, u64, u64)> = Vec::new();
    let mut went = Vec::new();
    let (mut number, mut delivery) = (0, 0);
    while now().await < start + for_ms {
        let at = now().await;
        if dice.roll(700) == 0 {
            let (before, paused) = all.last().map(|held| (held.rate, held.paused)).expect("one");
            let was = all.last().is_some_and(|held| held.configured);
            match dice.roll(5) {
                0 => {
                    set(w, whole(), PAUSED).await;
                    all.push(held(at, before, true, was));
                }
                1 | 2 => {
                    set(w, whole(), GOES).await;
                    all.push(held(at, before, false, was));
                }
                3 => {
                    let (times, per_ms) = (1 + dice.roll(20), 100 + dice.roll(1_500));
                    set(w, whole(), faster(times, per_ms)).await;
                    let burst = if configured.burst < configured.times {
                        configured.burst.min(times)
                    } else {
                        times
                    };
                    all.push(held(at, rate(times, per_ms, burst), paused, false));
                }
                _ => {
                    reset(w, &whole()).await;
                    all.push(held(at, configured, false, true));
                }
            }
        }
        while waiting.len() < 40 {
            (number, delivery) = (number + 1, delivery + 1);
            waiting.push((ask(&format!("{seed}-{number}"), vec![bucket(1, configured)]), delivery, at));
        }
        for (ask, by, asks_at) in &mut waiting {
            if *asks_at > at {
                continue;
            }
            if dice.roll(60) == 0 {
                leave(w, ask, *by).await;
                delivery += 1;
                *by = delivery;
                *asks_at = at + dice.roll(5);
                continue;
            }
            match permit(w, ask, *by).await {
                Limited::Permitted { .. } => {
                    if dice.roll(20) == 0 {
                        // The answer is lost.
                        *asks_at = at + 1;
                        leave(w, ask, *by).await;
                        continue;
                    }
                    went.push(at);
                    *asks_at = u64::MAX;
                }
                Limited::Waits(wait) => *asks_at = at + wait.wait_ms.min(1_000) + dice.roll(3),
            }
        }
        waiting.retain(|(_, _, asks_at)| *asks_at != u64::MAX);
        w.pass(1);
    }
    (went, all)
}

/// Time costs nothing here.
#[tokio::test]
async fn seeded_stories_obey_what_is_set() {
    for seed in 1..=12_u64 {
        let mut dice = Dice(seed * 104_729);
        let times = 2 + dice.roll(20);
        let configured = rate(times, 300 + dice.roll(1_200), if seed % 3 == 0 { 1 } else { times });
        let w = World::memory();
        let (went, held) = story(&w, seed, configured, 30_000).await;
        let mut allowed = 0.0;
        for (place, now) in held.iter().enumerate() {
            let until = held.get(place + 1).map_or(u64::MAX, |next| next.from);
            let here: Vec<u64> = went.iter().copied().filter(|at| (now.from..until).contains(at)).collect();
            if now.paused {
                assert!(here.is_empty(), "seed {seed}: {} went while it was paused", here.len());
                continue;
            }
            // How long it is until those who wait hear of it: a second, and the spaces of the rate before.
            let length = until.min(held[0].from + 30_000) - now.from;
            allowed += (length / now.rate.per_ms) as f64 * now.rate.times as f64;
            for last in &here {
                let begins = if now.configured { 0 } else { now.from };
                let begins = begins.max(last.saturating_sub(now.rate.per_ms));
                let count = went.iter().filter(|at| (begins..=*last).contains(at)).count() as u64;
                assert!(
                    count <= now.rate.times,
                    "seed {seed}: {count} by {:?}, {}",
                    now.rate,
                    now.configured
                );
            }
        }
        println!("seed {seed}: {} went of about {allowed}", went.len());
        assert!(went.len() as f64 >= allowed * 0.7, "seed {seed}: {} of {allowed}", went.len());
    }
}

fn random_target(dice: &mut Dice) -> Target {
    let mut target = match dice.roll(3) {
        0 => of_key(1 + dice.roll(3) as u8),
        _ => whole(),
    };
    if dice.roll(3) == 0 {
        target.limit = "2".into();
    }
    target
}

fn random_ask(dice: &mut Dice) -> Arc<Ask> {
    let key = 1 + dice.roll(3) as u8;
    let rates = [rate(3, LONG, 3), rate(6, 3 * LONG, 1), rate(2, 10 * LONG, 2), rate(20, LONG, 7)];
    let mut bucket = bucket(key, rates[usize::from(key)]);
    if dice.roll(3) == 0 {
        bucket.limit = "2".into();
        bucket.digest = digest(9);
        bucket.key = None;
    }
    // Where limits are joined, a millisecond between the clocks may make a difference to who is planned before whom.
    ask(&format!("{} {}", bucket.digest, dice.roll(12)), vec![bucket])
}

fn alike(left: &Limited, right: &Limited) -> bool {
    match (left, right) {
        (Limited::Permitted { .. }, Limited::Permitted { .. }) => true,
        (Limited::Waits(left), Limited::Waits(right)) => {
            (left.bucket, left.cause) == (right.bucket, right.cause) && left.wait_ms.abs_diff(right.wait_ms) < 15_000
        }
        _ => false,
    }
}

async fn tell_the_same_story_of_limits(seed: u64, steps: usize) {
    let (memory, redis) = (World::memory(), World::redis());
    let mut dice = Dice(seed);
    let began = redis.client.now_ms().await.expect("the time");
    let mut passed = 0;
    for step in 0..steps {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = redis.client.now_ms().await.expect("the time") - began;
        memory.pass(now - passed);
        passed = now;
        if now > 4_000 {
            // On a slow machine one of them may pass somebody over before the other does.
            break;
        }
        let delivery = Nonce(dice.roll(3));
        match dice.roll(16) {
            0..3 => {
                let what = [
                    PAUSED,
                    GOES,
                    GOES,
                    faster(1 + dice.roll(9), LONG),
                    faster(1 + dice.roll(30), 5 * LONG),
                ];
                let what = what[dice.roll(5) as usize];
                let (target, life) = (random_target(&mut dice), (dice.roll(2) == 0).then_some(LONG));
                for w in [&memory, &redis] {
                    set_for(w, target.clone(), what, life).await;
                }
            }
            3 => {
                let target = random_target(&mut dice);
                let (left, right) = (reset(&memory, &target).await, reset(&redis, &target).await);
                assert_eq!(left, right, "seed {seed} step {step}: {target:?}");
            }
            4..6 => {
                let ask = random_ask(&mut dice);
                let request = Request::LeaveLimit { ask, delivery };
                assert_eq!(memory.ask(request.clone()).await, redis.ask(request).await);
            }
            6 => {
                let ask = random_ask(&mut dice);
                let (left, right) = (reserve(&memory, &ask).await, reserve(&redis, &ask).await);
                assert!(
                    alike(&Limited::Waits(left), &Limited::Waits(right)),
                    "seed {seed} step {step}: {left:?} and {right:?}"
                );
            }
            _ => {
                let ask = random_ask(&mut dice);
                let (left, right) = (permit(&memory, &ask, delivery.0).await, permit(&redis, &ask, delivery.0).await);
                assert!(alike(&left, &right), "seed {seed} step {step}: {left:?} and {right:?} to {ask:?}");
            }
        }
        let asked = [1, 2, 3, 9].map(|key| Asked {
            digest: digest(key),
            rate: Some(rate(1, LONG, 1)),
        });
        let (left, right) = (known(&memory, &asked).await, known(&redis, &asked).await);
        assert_eq!(
            (left.waiting, &left.buckets),
            (right.waiting, &right.buckets),
            "seed {seed} step {step}"
        );
        assert_eq!(shape(&left), shape(&right), "seed {seed} step {step}");
        let ends = |known: &Known| {
            known
                .set
                .iter()
                .filter_map(|set: &Setting| set.until_ms)
                .map(|end| end - known.now_ms)
                .min()
        };
        assert!(
            ends(&left).unwrap_or(0).abs_diff(ends(&right).unwrap_or(0)) < 15_000,
            "seed {seed} step {step}"
        );
    }
    redis.check().await;
}

#[tokio::test]
async fn both_stores_tell_the_same_of_limits() {
    for seed in 1..=5 {
        tell_the_same_story_of_limits(0x2545_F491_4F6C_DD1D_u64.wrapping_mul(seed), 500).await;
    }
}
