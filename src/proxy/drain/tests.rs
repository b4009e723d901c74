//! The stages on a clock that stands still until all wait for it.

use std::cell::Cell;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::time::Instant;

use super::*;
use crate::proxy::connection::Command;
use crate::proxy::tests::hub;
use crate::proxy::{Hub, Workers};
use crate::rules::lock::{Nonce, Request, Signal};
use crate::rules::source::Source;
use crate::store::{self, Store};

const PATIENCE: Patience = Patience {
    delay: Duration::from_secs(5),
    timeout: Duration::from_secs(30),
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The times of the orders that a connection gets, which ends when it is told to close.
async fn orders(hub: Arc<Hub>) -> Vec<(Duration, Command)> {
    let began = Instant::now();
    let (seat, mut commands) = hub.seat(HERE, 0);
    let mut got = Vec::new();
    while let Some(command) = commands.recv().await {
        let last = matches!(command, Command::Close { .. });
        got.push((began.elapsed(), command));
        if last {
            break;
        }
    }
    drop(seat);
    got
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_work_is_told_after_the_delay_and_closed_at_the_timeout() {
    let hub = hub(1);
    let began = Instant::now();
    let accepting = Cell::new(None);
    let ending = drain(&hub, PATIENCE, || accepting.set(Some(began.elapsed())), pending());
    let ((), got) = tokio::join!(ending, orders(Arc::clone(&hub)));
    assert_eq!(accepting.get(), Some(seconds(5)));
    let [(drained, Command::Drain { .. }), (closed, Command::Close { until_us })] = got.as_slice() else {
        panic!("{got:?}")
    };
    assert_eq!((*drained, *closed), (seconds(5), seconds(35)));
    assert_eq!(*until_us, (seconds(35) + GOODBYE).as_micros() as u64);
    assert!(began.elapsed() < seconds(36), "nobody is left to wait for");
}

#[tokio::test(start_paused = true)]
async fn the_end_comes_when_the_last_connection_has_ended() {
    let hub = hub(1);
    let began = Instant::now();
    let (seat, _commands) = hub.seat(HERE, 0);
    let busy = async {
        tokio::time::sleep(seconds(12)).await;
        drop(seat);
    };
    tokio::join!(drain(&hub, PATIENCE, || (), pending()), busy);
    assert!((seconds(12)..seconds(13)).contains(&began.elapsed()));
}

#[tokio::test(start_paused = true)]
async fn told_again_while_it_still_accepts_it_ends_at_once() {
    let hub = hub(1);
    let accepting = Cell::new(true);
    let again = tokio::time::sleep(seconds(1));
    let ((), got) = tokio::join!(drain(&hub, PATIENCE, || accepting.set(false), again), orders(Arc::clone(&hub)));
    assert!(!accepting.get());
    assert!(
        matches!(got.as_slice(), [(at, Command::Close { .. })] if *at == seconds(1)),
        "{got:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn told_again_while_it_drains_it_ends_at_once() {
    let hub = hub(1);
    let stops = Cell::new(0);
    let again = tokio::time::sleep(seconds(7));
    let ending = drain(&hub, PATIENCE, || stops.set(stops.get() + 1), again);
    let ((), got) = tokio::join!(ending, orders(Arc::clone(&hub)));
    assert_eq!(stops.get(), 1);
    assert!(
        matches!(got.as_slice(), [(_, Command::Drain { .. }), (at, Command::Close { .. })] if *at == seconds(7)),
        "{got:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_never_ends_holds_nothing_up() {
    let hub = hub(1);
    let began = Instant::now();
    let (_seat, _commands) = hub.seat(HERE, 0);
    drain(&hub, PATIENCE, || (), std::future::ready(())).await;
    assert_eq!(began.elapsed(), GOODBYE + LAST_BYTES);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_while_the_proxy_drains_is_told_too() {
    let hub = hub(1);
    hub.drain(seconds(15));
    let (_seat, mut commands) = hub.seat(HERE, 0);
    assert!(matches!(commands.try_recv(), Ok(Command::Drain { .. })));
}

#[tokio::test(start_paused = true)]
async fn each_connection_has_a_turn_of_its_own() {
    let hub = hub(1);
    let mut seats: Vec<_> = (0..100).map(|_| hub.seat(HERE, 0)).collect();
    tokio::time::sleep(seconds(1)).await;
    hub.drain(seconds(15));
    let mut turns: Vec<_> = seats
        .iter_mut()
        .map(|(_, commands)| match commands.try_recv() {
            Ok(Command::Drain { close_from_us }) => close_from_us,
            other => panic!("{other:?}"),
        })
        .collect();
    turns.sort_unstable();
    let expected: Vec<_> = (0..100).map(|number| 1_000_000 + number * 2_000).collect();
    assert_eq!(turns, expected);
}

#[tokio::test]
async fn neighbours_are_told_when_the_last_of_them_has_finished() {
    let hub = hub(1);
    let there = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    let (worker, mut to_worker) = hub.seat(HERE, 0);
    let (events, mut to_events) = hub.seat(HERE, 0);
    let (_other, mut to_other) = hub.seat(there, 0);
    hub.drain(seconds(15));
    for orders in [&mut to_worker, &mut to_events, &mut to_other] {
        assert!(matches!(orders.try_recv(), Ok(Command::Drain { .. })));
    }
    events.finished();
    assert!(to_events.try_recv().is_err(), "the worker is busy");
    // It ends without a word.
    drop(worker);
    assert!(matches!(to_events.try_recv(), Ok(Command::NeighboursIdle)));
    assert!(to_other.try_recv().is_err());
}

#[test]
fn turns_are_spread_evenly_and_never_beyond_the_time_for_them() {
    assert_eq!(turn(0, 1, seconds(15)), Duration::ZERO);
    assert_eq!(turn(2, 3, seconds(15)), APART * 2, "few wait for nobody");
    assert_eq!(turn(5_000, 10_000, seconds(15)), Duration::from_millis(7_500));
    assert!(turn(9_999, 10_000, seconds(15)) < seconds(15));
    assert_eq!(turn(9_999, 10_000, Duration::ZERO), Duration::ZERO, "no time, no spreading");
    assert_eq!(turn(0, 0, seconds(15)), Duration::ZERO);
}

#[test]
fn now_is_within_eight_seconds() {
    assert_eq!(GOODBYE + LAST_BYTES + LAST_ORDERS, seconds(8));
}

#[tokio::test(start_paused = true)]
async fn the_store_has_a_bounded_time_for_the_last_orders() {
    let began = Instant::now();
    assert!(last_orders(tokio::time::sleep(seconds(1))).await);
    assert_eq!(began.elapsed(), seconds(1));
    assert!(!last_orders(pending()).await);
    assert_eq!(began.elapsed(), seconds(1) + LAST_ORDERS);
}

/// Worker threads whose store is this one, and which has an order to do.
fn workers(hub: &Arc<Hub>, store: &Store) -> Workers {
    let store = store.clone();
    let clients = Arc::new(move || {
        let client = store.client();
        client.tell(Request::Signal {
            id: Arc::from("id"),
            signal: Signal::Acked,
            source: Source::Ack,
            settlement: Nonce(1),
            worker: Arc::from(""),
        });
        client
    }) as Arc<dyn Fn() -> store::Client + Send + Sync>;
    Workers::start(2, hub, &clients).expect("threads can be had")
}

#[tokio::test]
async fn worker_threads_that_have_nothing_left_to_tell_flush() {
    let hub = hub(1);
    workers(&hub, &crate::proxy::tests::memory()).flush().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_nothing_does_not_hold_the_exit_up() {
    let hub = hub(1);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let settings = store::Settings {
        url: format!("redis://{}/0", silent.local_addr().expect("bound")),
        prefix: "t".to_owned(),
        timeout: Duration::from_millis(250),
        proxy: Arc::from("test"),
        ca: None,
    };
    let store = Store::open(&settings, crate::proxy::tests::observer()).expect("the settings are right");
    let workers = workers(&hub, &store);
    let began = Instant::now();
    assert!(!last_orders(workers.flush()).await, "an order is left");
    assert_eq!(began.elapsed(), LAST_ORDERS);
}
