use super::*;
use crate::rules::lock::ReleaseReason;
use crate::rules::outcome::{DeliveryDecision, ExceptionReason, PublishDecision, UnkeyableReason};

/// The line of a sample without its value, and the value.
fn samples(text: &str) -> HashMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series.to_owned(), value.to_owned()))
        .collect()
}

fn fed() -> Metrics {
    let metrics = Metrics::new().expect("names are unique");
    let rule = metrics.rule("reports");
    rule.announce(Mode::Enforce);
    rule.count_publish(PublishDecision::Dropped, Mode::Enforce);
    rule.count_publish(PublishDecision::Dropped, Mode::Enforce);
    rule.count_publish(PublishDecision::ForwardedUnchecked, Mode::Observe);
    rule.count_delivery(DeliveryDecision::Forwarded, Mode::Enforce);
    rule.count_released(ReleaseReason::Returned, 250);
    rule.count_unkeyable(UnkeyableReason::MissingArgument);
    rule.count_exception(ExceptionReason::Lost);
    rule.count_cooldown();
    rule.count_parked();
    rule.count_unparked();
    metrics.publishes_unmatched.inc_by(7);
    metrics.traffic(Peer::Broker, Direction::Out).bytes.inc_by(100);
    metrics.traffic(Peer::Client, Direction::In).frames.inc_by(3);
    metrics.count_store_op(StoreOp::Acquire, Duration::from_micros(90), true);
    metrics.count_store_op(StoreOp::Commit, Duration::from_millis(250), false);
    metrics.count_rejected(RejectReason::Limit);
    metrics.count_closed(ClosedBy::Client, CloseReason::Eof);
    metrics.set_upstream_up("127.0.0.1:5672", true);
    metrics.set_config("abc");
    metrics.set_store_type("memory");
    metrics.set_locks([("reports", "queued", 4)]);
    metrics.set_results_up(false);
    metrics
}

#[test]
fn names_and_labels_are_the_fixed_ones() {
    let text = fed().render().expect("renders");
    let samples = samples(&text);
    for (series, value) in [
        (
            r#"oncegate_publishes_total{decision="forwarded",mode="enforce",rule="reports"}"#,
            "0",
        ),
        (r#"oncegate_publishes_total{decision="dropped",mode="enforce",rule="reports"}"#, "2"),
        (
            r#"oncegate_publishes_total{decision="forwarded_unchecked",mode="observe",rule="reports"}"#,
            "1",
        ),
        (r#"oncegate_publishes_total{decision="unmatched",mode="",rule=""}"#, "7"),
        (
            r#"oncegate_deliveries_total{decision="forwarded",mode="enforce",rule="reports"}"#,
            "1",
        ),
        (r#"oncegate_deliveries_total{decision="unmatched",mode="",rule=""}"#, "0"),
        (r#"oncegate_locks_released_total{reason="returned",rule="reports"}"#, "1"),
        (r#"oncegate_cooldowns_total{rule="reports"}"#, "1"),
        (r#"oncegate_messages_parked_total{rule="reports"}"#, "1"),
        (r#"oncegate_messages_unparked_total{rule="reports"}"#, "1"),
        (r#"oncegate_lock_held_seconds_sum{rule="reports"}"#, "0.25"),
        (
            r#"oncegate_messages_unkeyable_total{reason="missing_argument",rule="reports"}"#,
            "1",
        ),
        (r#"oncegate_exceptions_total{reason="lost",rule="reports"}"#, "1"),
        (r#"oncegate_locks{rule="reports",state="queued"}"#, "4"),
        ("oncegate_publish_added_seconds_count", "0"),
        (r#"oncegate_store_request_duration_seconds_count{op="acquire"}"#, "1"),
        (r#"oncegate_store_errors_total{op="commit"}"#, "1"),
        ("oncegate_store_up", "0"),
        (r#"oncegate_store_info{type="memory"}"#, "1"),
        (r#"oncegate_circuit_open{dependency="store"}"#, "0"),
        (r#"oncegate_circuit_open{dependency="results"}"#, "1"),
        (r#"oncegate_upstream_up{upstream="127.0.0.1:5672"}"#, "1"),
        ("oncegate_connections", "0"),
        ("oncegate_connections_limit", "0"),
        (r#"oncegate_connections_rejected_total{reason="limit"}"#, "1"),
        (r#"oncegate_connections_closed_total{by="client",reason="eof"}"#, "1"),
        ("oncegate_channels", "0"),
        (r#"oncegate_network_bytes_total{direction="out",peer="broker"}"#, "100"),
        (r#"oncegate_frames_total{direction="in",peer="client"}"#, "3"),
        (r#"oncegate_config_reloads_total{result="success"}"#, "0"),
        ("oncegate_config_last_reload_successful", "1"),
        (r#"oncegate_config_info{sha256="abc"}"#, "1"),
    ] {
        assert_eq!(samples.get(series).map(String::as_str), Some(value), "{series}\n{text}");
    }
    let version = format!(
        r#"oncegate_build_info{{revision="unknown",version="{}"}}"#,
        env!("CARGO_PKG_VERSION")
    );
    assert!(
        option_env!("ONCEGATE_REVISION").is_some() || samples.contains_key(&version),
        "{text}"
    );
}

#[test]
fn nothing_is_exported_that_has_no_source() {
    let text = fed().render().expect("renders");
    for prefix in ["oncegate_limit_", "oncegate_control_up", "oncegate_mode_override"] {
        assert!(!text.contains(prefix), "{prefix} is exported but nothing feeds it");
    }
    assert!(
        !text.contains(r#"decision="replaced""#),
        "a decision that was never made shows no series"
    );
}

#[test]
fn a_result_backend_that_is_not_followed_has_no_series() {
    let metrics = fed();
    let series = r#"oncegate_circuit_open{dependency="results"}"#;
    metrics.set_results_up(true);
    assert_eq!(
        samples(&metrics.render().expect("renders")).get(series).map(String::as_str),
        Some("0")
    );
    metrics.forget_results();
    metrics.forget_results();
    assert!(!metrics.render().expect("renders").contains(series));
}

#[test]
fn the_process_is_described() {
    let metrics = Metrics::new().expect("names are unique");
    let samples = samples(&metrics.render().expect("renders"));
    let value = |name: &str| samples.get(name).and_then(|text| text.parse::<f64>().ok());
    assert!(value("process_resident_memory_bytes") > Some(100_000.0));
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    assert!(value("process_open_fds") >= Some(3.0));
    assert!(value("process_max_fds") > value("process_open_fds"));
    assert!(value("process_start_time_seconds") > Some(1_500_000_000.0));
    assert!(value("process_cpu_seconds_total") >= Some(0.0));
}

#[test]
fn the_handles_of_one_name_are_one() {
    let metrics = Metrics::new().expect("names are unique");
    assert!(Arc::ptr_eq(&metrics.rule("a"), &metrics.rule("a")));
    assert!(!Arc::ptr_eq(&metrics.rule("a"), &metrics.rule("b")));
}

#[test]
fn info_shows_one_value_and_old_upstreams_go() {
    let metrics = fed();
    metrics.set_config("def");
    metrics.set_store_type("redis");
    metrics.set_upstream_up("10.0.0.1:5672", false);
    metrics.keep_upstreams(&["10.0.0.1:5672"]);
    metrics.count_reload(false);
    let text = metrics.render().expect("renders");
    assert!(!text.contains("abc") && text.contains(r#"sha256="def""#));
    assert!(!text.contains(r#"type="memory""#) && text.contains(r#"type="redis""#));
    assert!(!text.contains("127.0.0.1:5672") && text.contains("10.0.0.1:5672"));
    assert!(text.contains("oncegate_config_last_reload_successful 0"));
    assert!(text.contains(r#"oncegate_config_reloads_total{result="failure"} 1"#));
}

#[test]
fn every_label_value_is_its_own() {
    let mut seen = Vec::new();
    for decision in PublishDecision::ALL {
        assert_eq!(PublishDecision::ALL[*decision as usize], *decision);
        assert!(!seen.contains(&decision.as_str()));
        seen.push(decision.as_str());
    }
    let documented = "forwarded|dropped|replaced|debounced|kept|raised|rejected|dead_lettered|bypassed|unkeyable|reentry|\
                      forwarded_unchecked|unmatched";
    assert_eq!(seen.join("|"), documented);
}
