//! From the feed to connections that are not there: what is counted, and for how long it is watched.

use super::*;
use crate::logging::tests::dropped;
use crate::logging::{DecisionKind, DecisionLog, Decisions};
use crate::metrics::Metrics;

fn decision(rule: &str, vhost: Option<&str>) -> Decision {
    Decision {
        rule: rule.into(),
        vhost: vhost.map(Arc::from),
        ..dropped("b")
    }
}

#[test]
fn the_routing_key_is_the_rule_and_the_decision() {
    for (rule, key) in [
        ("reports", "reports.dropped".to_owned()),
        ("reports.generate", "reports.generate.dropped".to_owned()),
        (&"r".repeat(300), format!("{}.dropped", "r".repeat(247))),
        (&"é".repeat(300), format!("{}.dropped", "é".repeat(123))),
    ] {
        assert_eq!(routing_key(&decision(rule, None)), key);
        assert!(key.len() <= SHORT_MAX);
    }
}

struct Bench {
    log: DecisionLog,
    metrics: Metrics,
    settings: watch::Sender<Option<Settings>>,
}

impl Bench {
    fn new() -> Bench {
        let log = DecisionLog::new(Decisions::None, 0);
        let metrics = Metrics::new().expect("metrics");
        let (settings, wanted) = watch::channel(None);
        let publisher = Publisher {
            feed: Arc::clone(log.feed()),
            control: Control::default(),
            metrics: Arc::clone(&metrics.events),
            instance: "p1".to_owned(),
        };
        tokio::spawn(publisher.run(wanted));
        Bench { log, metrics, settings }
    }

    fn publishes(&self, vhosts: &[&str]) {
        let settings = Settings {
            exchange: "oncegate".into(),
            vhosts: vhosts.iter().copied().map(Arc::from).collect(),
        };
        self.settings.send_replace(Some(settings));
    }

    async fn is_watched(&self, wanted: bool) {
        while self.log.wants(DecisionKind::Other) != wanted {
            tokio::task::yield_now().await;
        }
    }

    fn dropped(&self, reason: EventDrop) -> u64 {
        let text = self.metrics.render().expect("renders");
        let series = format!("oncegate_events_dropped_total{{reason=\"{}\"}} ", reason.as_str());
        let count = text.lines().find_map(|line| line.strip_prefix(&series)).expect("a series");
        count.parse().expect("a number")
    }

    async fn drops(&self, reason: EventDrop, count: u64) {
        while self.dropped(reason) != count {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn decisions_are_watched_only_while_they_are_to_be_published() {
    let bench = Bench::new();
    tokio::task::yield_now().await;
    assert!(!bench.log.wants(DecisionKind::Other));
    bench.publishes(&["jobs"]);
    bench.is_watched(true).await;
    bench.settings.send_replace(None);
    bench.is_watched(false).await;
    bench.publishes(&["jobs"]);
    bench.is_watched(true).await;
    drop(bench.settings);
    while bench.log.wants(DecisionKind::Other) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_cannot_be_published_is_counted_and_where_there_is_no_account_it_is_off() {
    let bench = Bench::new();
    bench.publishes(&["jobs"]);
    bench.is_watched(true).await;
    bench.log.log(DecisionKind::Duplicate, decision("r", Some("elsewhere")));
    bench.log.log(DecisionKind::Duplicate, decision("r", Some("elsewhere")));
    bench.log.log(DecisionKind::Other, decision("r", Some("jobs")));
    bench.drops(EventDrop::Unavailable, 1).await;
    assert_eq!((bench.dropped(EventDrop::Overflow), bench.dropped(EventDrop::Refused)), (0, 0));
}

#[tokio::test]
async fn decisions_that_come_too_fast_are_counted() {
    let bench = Bench::new();
    bench.publishes(&["jobs"]);
    bench.is_watched(true).await;
    for _ in 0..5_000 {
        bench.log.log(DecisionKind::Duplicate, decision("r", Some("jobs")));
    }
    while bench.dropped(EventDrop::Overflow) + bench.dropped(EventDrop::Unavailable) != 5_000 {
        tokio::task::yield_now().await;
    }
    assert!(bench.dropped(EventDrop::Overflow) > 0);
}
