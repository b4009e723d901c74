//! From the feed to a store.

use super::*;
use crate::logging::tests::dropped;
use crate::logging::{DecisionKind, DecisionLog, Decisions};
use crate::metrics::Metrics;
use crate::store::{Memory, Settings, Store, SystemClock, Unobserved};

const KEEP: Keep = Keep {
    life: Duration::from_secs(1_000),
    most: 1_000_000,
};

struct Bench {
    log: DecisionLog,
    metrics: Metrics,
    store: Store,
}

impl Bench {
    fn new(store: Store) -> Bench {
        Bench {
            log: DecisionLog::new(Decisions::None, 0),
            metrics: Metrics::new().expect("metrics"),
            store,
        }
    }

    fn memory() -> Bench {
        let memory = Memory::new(Arc::new(SystemClock::default()), "p1".into());
        Bench::new(Store::memory(Arc::new(memory), Arc::new(Unobserved)))
    }

    fn recorder(&self) -> Recorder {
        Recorder {
            feed: Arc::clone(self.log.feed()),
            store: self.store.client(),
            metrics: Arc::clone(&self.metrics.records),
            instance: "p1".to_owned(),
        }
    }

    fn decide(&self, kind: DecisionKind, id: &str) {
        self.log.log(kind, dropped(id));
    }

    async fn read(&self, id: &str) -> Vec<serde_json::Value> {
        let lines = self.store.client().recorded(id).await.expect("the store answers");
        lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn unrecorded(&self, reason: Unrecorded) -> u64 {
        let text = self.metrics.render().expect("renders");
        let series = format!("oncegate_decisions_unrecorded_total{{reason=\"{}\"}} ", reason.as_str());
        let count = text.lines().find_map(|line| line.strip_prefix(&series)).expect("a series");
        count.parse().expect("a number")
    }
}

#[tokio::test]
async fn duplicates_are_written_down_as_they_are_shown() {
    let bench = Bench::memory();
    bench.log.feed().collect(true);
    let _watch = bench.log.feed().watch();
    bench.decide(DecisionKind::Duplicate, "b");
    bench.decide(DecisionKind::Other, "c");
    bench.recorder().write(KEEP).await;
    let shown = bench.log.feed().recent(2).pop().expect("it was made").to_json("p1");
    assert_eq!(bench.read("b").await, [shown]);
    assert_eq!(bench.read("c").await, [serde_json::Value::Null; 0]);
    assert_eq!(bench.metrics.records.recorded.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn settings_turn_it_on_and_off() {
    let bench = Bench::memory();
    let (settings, keep) = watch::channel(None);
    let recorder = tokio::spawn(bench.recorder().run(keep));
    tokio::time::sleep(EVERY).await;
    bench.decide(DecisionKind::Duplicate, "before");
    settings.send_replace(Some(KEEP));
    tokio::time::sleep(EVERY).await;
    bench.decide(DecisionKind::Duplicate, "while");
    tokio::time::sleep(EVERY * 3).await;
    settings.send_replace(None);
    tokio::time::sleep(EVERY).await;
    bench.decide(DecisionKind::Duplicate, "after");
    tokio::time::sleep(EVERY * 3).await;
    let found = [
        bench.read("before").await.len(),
        bench.read("while").await.len(),
        bench.read("after").await.len(),
    ];
    assert_eq!(found, [0, 1, 0]);
    drop(settings);
    recorder.await.expect("it ends");
}

#[tokio::test]
async fn what_is_left_at_the_end_is_written() {
    let bench = Bench::memory();
    let (settings, keep) = watch::channel(Some(KEEP));
    let recorder = tokio::spawn(bench.recorder().run(keep));
    // The first look is at once.
    tokio::task::yield_now().await;
    for number in 0..2_500 {
        bench.decide(DecisionKind::Duplicate, &number.to_string());
    }
    drop(settings);
    recorder.await.expect("it ends");
    assert_eq!(bench.metrics.records.recorded.get(), 2_500);
}

#[tokio::test]
async fn no_more_is_written_at_once_than_is_said_and_the_rest_is_counted() {
    let bench = Bench::memory();
    bench.log.feed().collect(true);
    for number in 0..10_050 {
        bench.decide(DecisionKind::Duplicate, &number.to_string());
    }
    let recorder = bench.recorder();
    recorder.write(KEEP).await;
    assert_eq!(bench.metrics.records.recorded.get(), AT_ONCE as u64);
    assert_eq!(bench.unrecorded(Unrecorded::Overflow), 50);
    for _ in 0..12 {
        recorder.write(KEEP).await;
    }
    assert_eq!(
        (bench.metrics.records.recorded.get(), bench.unrecorded(Unrecorded::Overflow)),
        (10_000, 50)
    );
}

#[tokio::test]
async fn what_a_store_does_not_take_is_counted() {
    let settings = Settings {
        url: "redis://127.0.0.1:1/0".to_owned(),
        prefix: "test".to_owned(),
        timeout: Duration::from_millis(50),
        proxy: "p1".into(),
        ca: None,
    };
    let bench = Bench::new(Store::open(&settings, Arc::new(Unobserved)).expect("a store"));
    bench.log.feed().collect(true);
    bench.decide(DecisionKind::Duplicate, "b");
    bench.recorder().write(KEEP).await;
    assert_eq!((bench.metrics.records.recorded.get(), bench.unrecorded(Unrecorded::Store)), (0, 1));
}
