//! Seeing, freeing and making locks over HTTP.

use super::*;
use crate::rules::lock::Signal;

#[tokio::test]
async fn locks_are_listed_shown_and_freed() {
    let proxy = start(Vec::new()).await;
    let digest = proxy.lock(1, "reports", "reports.build", "id-1").await;
    proxy.lock(2, "mail", "mail.send", "id-2").await;
    let all = proxy.get("/api/v1/locks").await.json();
    assert_eq!(all["locks"].as_array().map(Vec::len), Some(2));
    assert_eq!(all["cursor"], Value::Null);
    let reports = proxy.get("/api/v1/locks?rule=reports").await.json();
    let lock = &reports["locks"][0];
    assert_eq!(lock["digest"], digest.to_hex().as_str());
    for (field, value) in [
        ("holder", "id-1"),
        ("state", "queued"),
        ("rule", "reports"),
        ("task", "reports.build"),
        ("proxy", "p1"),
    ] {
        assert_eq!(lock[field], value, "{field}");
    }
    assert_eq!(lock["shadow"], false);
    assert!(
        lock["expires_in"].as_u64().is_some_and(|seconds| (50..=60).contains(&seconds)),
        "{lock}"
    );
    let since = lock["since"].as_str().expect("a time");
    assert!(since.len() == 24 && since.starts_with("20"), "{since}");
    assert_eq!(proxy.get("/api/v1/locks?task=mail.send").await.json()["locks"][0]["holder"], "id-2");
    let path = format!("/api/v1/locks/{digest}");
    assert_eq!(proxy.get(&path).await.json()["holder"], "id-1");
    let other = proxy.change(&format!("DELETE {path}?holder=id-9"), "").await;
    assert_eq!((other.status, other.code().as_str()), (404, "no_lock"));
    let freed = proxy.change(&format!("DELETE {path}"), "").await.json();
    assert_eq!(freed["locks"][0]["holder"], "id-1");
    assert_eq!(proxy.get(&path).await.code(), "no_lock");
    assert_eq!(proxy.change(&format!("DELETE {path}"), "").await.status, 404);
    assert_eq!(proxy.get("/api/v1/locks/zz").await.code(), "bad_digest");
    let metrics = proxy.get("/metrics").await.body;
    assert!(
        metrics.contains(r#"oncegate_locks_released_total{reason="admin",rule="reports"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn pages_of_locks_follow_a_cursor() {
    let proxy = start(Vec::new()).await;
    for key in 1..=7 {
        proxy.lock(key, "r", "t", &format!("id-{key}")).await;
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let page = proxy.get(&format!("/api/v1/locks?limit=3{cursor}")).await.json();
        let locks = page["locks"].as_array().expect("locks").clone();
        assert!(locks.len() <= 3);
        seen.extend(locks.iter().map(|lock| lock["holder"].as_str().expect("a holder").to_owned()));
        match page["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 7);
}

#[tokio::test]
async fn freeing_many_needs_a_filter() {
    let proxy = start(Vec::new()).await;
    for key in 1..=3 {
        proxy.lock(key, "a", "t", "id").await;
    }
    proxy.lock(9, "b", "t", "id").await;
    for request in [
        "DELETE /api/v1/locks",
        "DELETE /api/v1/locks?dry_run=true",
        "DELETE /api/v1/locks?include_running=true",
    ] {
        let answer = proxy.change(request, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "filter_required"), "{request}");
    }
    for request in [
        "DELETE /api/v1/locks?rul=a",
        "DELETE /api/v1/locks?rule=a&older-than=1h",
        "DELETE /api/v1/locks?older_than=soon",
    ] {
        let answer = proxy.change(request, "").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_query"), "{request}");
    }
    let old = proxy.change("DELETE /api/v1/locks?older_than=1h", "").await.json();
    assert_eq!(old["released"], 0);
    let dry = proxy.change("DELETE /api/v1/locks?rule=a&dry_run=true", "").await.json();
    assert_eq!((&dry["released"], dry["digests"].as_array().map(Vec::len)), (&json!(3), Some(3)));
    assert_eq!(proxy.get("/api/v1/locks").await.json()["locks"].as_array().map(Vec::len), Some(4));
    assert_eq!(proxy.change("DELETE /api/v1/locks?rule=a", "").await.json()["released"], 3);
    assert_eq!(proxy.change("DELETE /api/v1/locks?older_than=0s", "").await.json()["released"], 1);
}

#[tokio::test]
async fn locks_are_counted_by_rule_and_state() {
    let proxy = start(Vec::new()).await;
    for key in 1..=3 {
        proxy.lock(key, "a", "t", "id").await;
    }
    proxy.lock(9, "b", "t", "id").await;
    let counting = tokio::spawn(count_locks(Arc::clone(&proxy.admin)));
    let metrics = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let metrics = proxy.get("/metrics").await.body;
            if metrics.contains(r#"oncegate_locks{rule="b",state="queued"} 1"#) {
                break metrics;
            }
        }
    });
    let metrics = metrics.await.expect("counted at once");
    assert!(metrics.contains(r#"oncegate_locks{rule="a",state="queued"} 3"#), "{metrics}");
    counting.abort();
}

#[tokio::test]
async fn a_lookup_tells_who_holds_a_key() {
    let proxy = start(Vec::new()).await;
    let ask = async |body: &str| proxy.change("POST /api/v1/lookup", body).await;
    let call = r#"{"task": "reports.build", "args": [1]}"#;
    let free = ask(call).await;
    assert_eq!(free.status, 200, "{}", free.body);
    let free = free.json();
    assert_eq!(
        (&free["rule"], &free["locked"], &free["holder"]),
        (&json!("reports.build"), &json!(false), &Value::Null)
    );
    let digest = Digest::from_hex(free["digest"].as_str().expect("a digest")).expect("a digest");
    proxy.lock_key(digest, "reports.build", "reports.build", "id-7").await;
    let held = ask(r#"{"task": "reports.build", "kwargs": {"b": 2, "a": 1}}"#).await.json();
    assert_eq!(
        (&held["locked"], &held["holder"], &held["state"]),
        (&json!(true), &json!("id-7"), &json!("queued"))
    );
    assert!(
        held["expires_in"].as_u64().is_some_and(|seconds| (50..=60).contains(&seconds)),
        "{held}"
    );
    for (body, status, code) in [
        (r#"{"task": "other"}"#, 404, "no_rule"),
        (r#"{"task": "free.x"}"#, 404, "no_key"),
        (r#"{"task": "reports.build"}"#, 404, "no_key"),
        ("{", 400, "bad_question"),
        (r#"{"tsk": "x"}"#, 400, "bad_question"),
    ] {
        let answer = ask(body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
}
