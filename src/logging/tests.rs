use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::limit::{Grant, TokenBucket};
use super::*;
use crate::rules::lock::Digest;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `work` with a subscriber of its own and returns what was written.
fn capture(format: Format, level: &str, work: impl FnOnce(&Lines)) -> String {
    let output = Output::default();
    let writer = Writer::start(output.clone()).expect("starts");
    let lines = Arc::new(Lines::new(format, "proxy-1", "c0ffee", writer.sink()));
    let subscriber = Registry::default()
        .with(filter(level).expect("a level"))
        .with(LinesLayer(Arc::clone(&lines)));
    tracing::subscriber::with_default(subscriber, || work(&lines));
    writer.flush();
    let bytes = output.0.lock().expect("not poisoned").clone();
    String::from_utf8(bytes).expect("UTF-8")
}

/// A duplicate is dropped.
pub(crate) fn dropped(id: &str) -> Decision {
    Decision {
        event: "publish",
        rule: "r".into(),
        decision: "dropped",
        reason: Some("duplicate"),
        mode: "enforce",
        vhost: Some("/".into()),
        task: "t".into(),
        id: id.into(),
        holder: Some("a".into()),
        digest: None,
        client: None,
        limit: None,
    }
}

fn decision(task: &str) -> Decision {
    Decision {
        rule: "reports".into(),
        reason: None,
        task: task.into(),
        holder: Some("a-1".into()),
        digest: Some(Digest([0xab; 32])),
        client: Some(([10, 0, 0, 7], 4411).into()),
        ..dropped("b-2")
    }
}

#[test]
fn a_decision_is_one_json_object_with_the_fixed_names() {
    let text = capture(Format::Json, "info", |_| {
        let log = DecisionLog::new(Decisions::Duplicates, 100);
        log.log(
            DecisionKind::Duplicate,
            Decision {
                reason: Some("lost"),
                ..decision("reports.build")
            },
        );
    });
    let line: serde_json::Map<String, Value> = serde_json::from_str(&text).expect("one object");
    let mut names: Vec<&str> = line.keys().map(String::as_str).collect();
    names.sort_unstable();
    let mut fixed: Vec<&str> = "ts level event rule decision reason mode vhost task id holder digest client instance config"
        .split(' ')
        .collect();
    fixed.sort_unstable();
    assert_eq!(names, fixed);
    assert_eq!(line["level"], "info");
    assert_eq!(line["event"], "publish");
    assert_eq!(line["digest"], "ab".repeat(32).as_str());
    assert_eq!(line["instance"], "proxy-1");
    assert_eq!(line["config"], "c0ffee");
    let ts = line["ts"].as_str().expect("a text");
    assert!(ts.len() == 24 && ts.ends_with('Z'), "{ts}");
}

#[test]
fn what_is_not_known_is_left_out() {
    let text = capture(Format::Json, "info", |_| {
        let log = DecisionLog::new(Decisions::All, 100);
        log.log(
            DecisionKind::Other,
            Decision {
                holder: None,
                digest: None,
                ..decision("t")
            },
        );
    });
    assert!(
        !text.contains("holder") && !text.contains("digest") && !text.contains("reason"),
        "{text}"
    );
}

#[test]
fn a_limit_is_named_with_its_wait() {
    let limited = || Decision {
        limit: Some(LimitWait {
            limit: "each".into(),
            wait_ms: 1_500,
        }),
        ..decision("t")
    };
    let text = capture(Format::Json, "info", |_| {
        DecisionLog::new(Decisions::All, 100).log(DecisionKind::Other, limited());
    });
    let line: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!((&line["limit"], &line["wait_ms"]), (&"each".into(), &1_500.into()));
    let made = Made {
        at: std::time::SystemTime::UNIX_EPOCH,
        kind: DecisionKind::Other,
        decision: limited(),
    };
    let made = made.to_json("p");
    assert_eq!((&made["limit"], &made["wait_ms"]), (&line["limit"], &line["wait_ms"]));
}

#[test]
fn text_is_readable() {
    let text = capture(Format::Text, "info", |_| {
        DecisionLog::new(Decisions::Duplicates, 100).log(DecisionKind::Duplicate, decision("my task"));
        tracing::warn!(upstream = "a:5672", tries = 3, ok = false, "cannot connect: {}", "refused");
    });
    let mut lines = text.lines();
    let first = lines.next().expect("two lines");
    let expected = " INFO  publish rule=reports decision=dropped mode=enforce vhost=/ task=\"my task\" id=b-2 holder=a-1 digest=abab";
    assert!(first[24..].starts_with(expected), "{first}");
    let second = lines.next().expect("two lines");
    assert_eq!(&second[24..], " WARN  cannot connect: refused upstream=a:5672 tries=3 ok=false");
}

#[test]
fn control_characters_from_the_network_are_escaped_and_long_values_cut() {
    let hostile = "a\u{1b}[2J\nINFO forged\u{9b}0m\u{202e}\u{2028}\"\\x\u{7f}";
    for format in [Format::Text, Format::Json] {
        let text = capture(format, "info", |_| {
            DecisionLog::new(Decisions::All, 100).log(DecisionKind::Other, decision(hostile));
            DecisionLog::new(Decisions::All, 100).log(DecisionKind::Other, decision(&"x".repeat(100_000)));
            tracing::info!("{hostile}");
        });
        assert_eq!(text.lines().count(), 3, "{text:?}");
        assert!(
            text.chars()
                .all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}' && c != '\u{2028}')),
            "{text:?}"
        );
        assert!(text.len() < 3000);
        if format == Format::Json {
            let line: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
            assert_eq!(line["task"], hostile, "the value survives in JSON");
        }
    }
}

#[test]
fn decisions_are_chosen_by_kind_and_level() {
    let logged = |decisions: Decisions, level: &str, kind| {
        let text = capture(Format::Text, level, |_| DecisionLog::new(decisions, 100).log(kind, decision("t")));
        !text.is_empty()
    };
    assert!(logged(Decisions::Duplicates, "info", DecisionKind::Duplicate));
    assert!(!logged(Decisions::Duplicates, "info", DecisionKind::Other));
    assert!(logged(Decisions::All, "info", DecisionKind::Other));
    assert!(!logged(Decisions::None, "info", DecisionKind::Duplicate));
    assert!(!logged(Decisions::All, "warn", DecisionKind::Duplicate));
    assert!(logged(Decisions::All, "warn,oncegate::decision=info", DecisionKind::Duplicate));
}

#[test]
fn decisions_beyond_the_rate_are_counted() {
    let text = capture(Format::Text, "info", |_| {
        // A rate of nought allows nothing, at whatever speed the test runs.
        let log = DecisionLog::new(Decisions::All, 0);
        for _ in 0..5 {
            log.log(DecisionKind::Other, decision("t"));
        }
        log.set(Decisions::None, 0);
        log.log(DecisionKind::Other, decision("t"));
        log.log_suppressed();
        log.log_suppressed();
    });
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("suppressed=5"), "{text}");
}

#[test]
fn a_token_bucket_holds_one_second() {
    let start = Instant::now();
    let mut bucket = TokenBucket::new(2, start);
    assert_eq!(bucket.take(start), Grant::Allowed { suppressed: 0 });
    assert_eq!(bucket.take(start), Grant::Allowed { suppressed: 0 });
    assert_eq!(bucket.take(start), Grant::Suppressed);
    assert_eq!(bucket.take(start + Duration::from_millis(400)), Grant::Suppressed);
    assert_eq!(bucket.take(start + Duration::from_millis(500)), Grant::Allowed { suppressed: 2 });
    let later = start + Duration::from_secs(3600);
    assert_eq!(bucket.take(later), Grant::Allowed { suppressed: 0 });
    assert_eq!(bucket.take(later), Grant::Allowed { suppressed: 0 });
    assert_eq!(bucket.take(later), Grant::Suppressed);
}

#[test]
fn once_a_minute_per_name() {
    let start = Instant::now();
    let lines = OncePerMinute::default();
    assert_eq!(lines.allow_at("a", start), Some(0));
    assert_eq!(lines.allow_at("a", start + Duration::from_secs(59)), None);
    assert_eq!(lines.allow_at("b", start + Duration::from_secs(59)), Some(0));
    assert_eq!(lines.allow_at("a", start + Duration::from_secs(60)), Some(1));
    assert_eq!(lines.allow_at("a", start + Duration::from_secs(61)), None);
}

#[test]
fn once_per_name() {
    let lines = Once::default();
    assert_eq!(
        ["a", "b", "a", "b", "c"].map(|name| lines.allow(name)),
        [true, true, false, false, true]
    );
}

#[test]
fn a_level_is_a_level() {
    for level in ["info", "WARN", "off", "warn,oncegate::proxy=debug", "error, oncegate=trace"] {
        assert!(check_level(level).is_ok(), "{level}");
    }
    for level in ["", "loud", "info,", "oncegate=loud", "info,loud"] {
        assert!(check_level(level).is_err(), "{level}");
    }
}

#[test]
fn format_and_config_change_at_reload() {
    let text = capture(Format::Text, "info", |lines| {
        tracing::info!("one");
        lines.set(Format::Json, "beef");
        tracing::info!("two");
    });
    let last: Value = serde_json::from_str(text.lines().last().expect("two lines")).expect("JSON");
    assert_eq!(last["config"], "beef");
    assert_eq!(last["event"], "two");
}

#[test]
fn no_name_stands_twice_in_a_line() {
    let text = capture(Format::Json, "info", |_| {
        tracing::info!(instance = "another", config = "x", rules = 2, "running");
    });
    assert_eq!((text.matches("instance").count(), text.matches("config").count()), (1, 1), "{text}");
    assert!(text.contains(r#""rules":2"#) && text.contains(r#""instance":"proxy-1""#), "{text}");
}

#[test]
fn quotes_in_plain_text_stay_as_they_are() {
    let text = capture(Format::Text, "info", |_| tracing::info!(path = "C:\\a \"b\"", "rule \"r\""));
    assert!(text.ends_with(" rule \"r\" path=\"C:\\\\a \\\"b\\\"\"\n"), "{text}");
    assert_eq!(printable("a \"b\" \\ \u{1b}\n"), "a \"b\" \\ \\u001b\\n");
}

/// An output that nobody reads: it blocks until it is told to go on.
struct Stuck(std::sync::mpsc::Receiver<()>, Output);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_blocks_holds_nobody_up() {
    let (go_on, wait) = std::sync::mpsc::channel();
    let output = Output::default();
    let writer = Writer::with_queue(Stuck(wait, output.clone()), 4).expect("starts");
    let sink = writer.sink();
    for _ in 0..100 {
        sink.put("line\n".to_owned());
    }
    drop(go_on);
    writer.flush();
    let text = String::from_utf8(output.0.lock().expect("not poisoned").clone()).expect("UTF-8");
    assert!(text.contains("log lines were lost"), "{text}");
    assert!(text.matches("line\n").count() < 10, "{text}");
}

#[test]
fn numbers_are_numbers_and_what_is_none_is_left_out() {
    let text = capture(Format::Json, "info", |_| {
        let nothing: Option<&str> = None;
        tracing::info!(
            seconds = 90.5,
            whole = Some(3600.0),
            infinite = f64::INFINITY,
            rule = nothing,
            "admin"
        );
    });
    let line: Value = serde_json::from_str(&text).expect("one object");
    assert_eq!((&line["seconds"], line["whole"].as_f64()), (&Value::from(90.5), Some(3600.0)));
    assert_eq!(line["infinite"], "inf");
    assert_eq!(line.get("rule"), None);
}
