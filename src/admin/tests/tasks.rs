//! What is on record of a task.

use super::decisions::deciding;
use super::*;
use crate::logging::DecisionKind;
use crate::logging::tests::dropped;
use crate::store::{Keep, Record};

const KEEP: Keep = Keep {
    life: Duration::from_secs(1_000),
    most: 1_000,
};

fn written(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let decisions = json["decisions"].as_array().expect("a list");
    decisions
        .iter()
        .map(|made| {
            format!(
                "{} {}",
                made["ts"].as_str().unwrap_or("-"),
                made["decision"].as_str().expect("a decision")
            )
        })
        .collect()
}

#[tokio::test]
async fn what_is_written_down_is_shown_with_what_was_just_decided() {
    let (proxy, log) = deciding(Vec::new()).await;
    assert_eq!(proxy.get("/api/v1/tasks/b").await.code(), "unknown_task");
    assert_eq!(proxy.get("/api/v1/tasks/b").await.status, 404);
    let line = |ts: &str, decision: &str| Record {
        id: "b".into(),
        line: json!({ "ts": ts, "decision": decision, "instance": "p2" }).to_string(),
    };
    let records = [line("2020-01-01T00:00:02.000Z", "held"), line("2020-01-01T00:00:01.000Z", "parked")];
    proxy.store.record(&records, KEEP).await.expect("it is written");
    log.log(DecisionKind::Duplicate, dropped("b"));
    log.log(DecisionKind::Duplicate, dropped("c"));
    let answer = proxy.get("/api/v1/tasks/b").await;
    let [first, second, third] = written(&answer).try_into().expect("three");
    assert_eq!(
        (&*first, &*second),
        ("2020-01-01T00:00:01.000Z parked", "2020-01-01T00:00:02.000Z held")
    );
    assert!(third.ends_with(" dropped"), "{third}");
    let json = answer.json();
    assert_eq!(
        (&json["id"], &json["locks"], &json["decisions"][2]["holder"]),
        (&"b".into(), &json!([]), &"a".into())
    );
    // Once that is written down, too, it is not shown twice.
    let made = log.feed().recent(2).pop().expect("it was made");
    let record = Record {
        id: "b".into(),
        line: made.to_json("p1").to_string(),
    };
    proxy.store.record(&[record.clone(), record], KEEP).await.expect("it is written");
    assert_eq!(written(&proxy.get("/api/v1/tasks/b").await).len(), 3);
}

#[tokio::test]
async fn a_holder_is_shown_with_its_lock() {
    let proxy = start(Vec::new()).await;
    proxy.lock(1, "r", "t", "a/b c").await;
    let answer = proxy.get("/api/v1/tasks/a%2Fb%20c").await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!((&json["id"], &json["decisions"]), (&"a/b c".into(), &json!([])));
    assert_eq!(
        (&json["locks"][0]["holder"], &json["locks"][0]["state"]),
        (&"a/b c".into(), &"queued".into())
    );
    assert_eq!(json["scope"], "instance", "a memory store is of one process");
}

#[tokio::test]
async fn only_who_may_read_may_ask() {
    let proxy = start(vec![token("reader", "s3cret", Role::Read)]).await;
    assert_eq!(proxy.get("/api/v1/tasks/a").await.code(), "token_required");
    let answer = proxy.send("GET /api/v1/tasks/a", &["Authorization: Bearer s3cret"], "").await;
    assert_eq!(answer.code(), "unknown_task");
}
