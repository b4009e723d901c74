//! Seeing, freeing and making locks over HTTP.

use super::*;

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
        ("vhost", "/"),
        ("queue", "celery"),
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
async fn runs_are_listed_shown_and_freed_beside_publish_locks() {
    let proxy = start(Vec::new()).await;
    let digest = proxy.lock(1, "reports", "reports.build", "id-2").await;
    proxy.run(1, "reports", "id-1").await;
    let run_only = proxy.run(2, "reports", "id-3").await;
    let kinds = async || {
        let list = proxy.get("/api/v1/locks").await.json();
        let locks = list["locks"].as_array().expect("locks").clone();
        let kind = |lock: &Value| format!("{} {}", lock["holder"], lock["unique"]).replace('"', "");
        let mut kinds: Vec<String> = locks.iter().map(kind).collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds().await, ["id-1 while_running", "id-2 until_finished", "id-3 while_running"]);
    let shown = proxy.get(&format!("/api/v1/locks/{digest}")).await.json();
    assert_eq!((&shown["holder"], &shown["unique"]), (&json!("id-2"), &json!("until_finished")));
    assert_eq!(
        (&shown["run"]["holder"], &shown["run"]["unique"]),
        (&json!("id-1"), &json!("while_running"))
    );
    let shown = proxy.get(&format!("/api/v1/locks/{run_only}")).await.json();
    assert_eq!((&shown["holder"], &shown["unique"]), (&json!("id-3"), &json!("while_running")));
    assert_eq!(shown.get("run"), None);
    let cleared = proxy.change("DELETE /api/v1/locks?rule=reports", "").await.json();
    assert_eq!((&cleared["released"], &cleared["skipped_running"]), (&json!(1), &json!(2)));
    assert_eq!(kinds().await, ["id-1 while_running", "id-3 while_running"]);
    let freed = proxy.change(&format!("DELETE /api/v1/locks/{digest}?holder=id-1"), "").await.json();
    assert_eq!((&freed["released"], &freed["locks"][0]["holder"]), (&json!(1), &json!("id-1")));
    let cleared = proxy
        .change("DELETE /api/v1/locks?rule=reports&include_running=true", "")
        .await
        .json();
    assert_eq!(cleared["released"], 1);
    assert_eq!(kinds().await, [""; 0]);
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
    proxy.lock(10, "b", "t", "runs").await;
    proxy.hear("runs", Signal::Started).await;
    proxy.run(11, "c", "handed over").await;
    let body = r#"{"task": "reports.build", "args": [1], "seconds": 60}"#;
    assert_eq!(proxy.change("POST /api/v1/cooldown", body).await.status, 200);
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
    for sample in [
        r#"oncegate_locks{rule="a",state="queued"} 3"#,
        r#"oncegate_locks{rule="b",state="running"} 1"#,
        r#"oncegate_locks{rule="c",state="queued"} 1"#,
        r#"oncegate_locks{rule="reports.build",state="cooldown"} 1"#,
    ] {
        assert!(metrics.contains(sample), "{sample} in {metrics}");
    }
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
    assert_eq!((&held["worker"], &held["mode"]), (&Value::Null, &json!("enforce")));
    proxy.hear("id-7", Signal::Started).await;
    let runs = ask(call).await.json();
    assert_eq!((&runs["state"], &runs["worker"]), (&json!("running"), &json!("celery@one")));
    let shown = proxy.get(&format!("/api/v1/locks/{digest}")).await.json();
    for field in ["holder", "state", "worker", "since", "expires"] {
        assert_eq!(shown[field], runs[field], "{field}");
    }
    proxy.hear("id-7", Signal::Succeeded).await;
    assert_eq!(ask(call).await.json()["locked"], false);
    let nowhere = ask(r#"{"task": "mail.send", "exchange": "x"}"#).await;
    assert_eq!((nowhere.status, nowhere.code().as_str()), (404, "no_rule"));
    assert!(
        nowhere.body.contains("rule mail asks for its queue: name `queue`"),
        "{}",
        nowhere.body
    );
    assert_eq!(ask(r#"{"task": "mail.send", "queue": "mail"}"#).await.json()["mode"], "observe");
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

#[tokio::test]
async fn a_key_is_locked_by_hand() {
    let proxy = start(Vec::new()).await;
    let cool = async |body: &str| proxy.change("POST /api/v1/cooldown", body).await;
    let call = |more: &str| format!(r#"{{"task": "reports.build", "args": [1], "queue": "slow"{more}}}"#);
    let done = cool(&call(r#", "seconds": 90.5"#)).await;
    assert_eq!(done.status, 200, "{}", done.body);
    let done = done.json();
    assert_eq!(
        (&done["locked"], &done["state"], &done["holder"], &done["rule"]),
        (&json!(true), &json!("cooldown"), &json!("cooldown"), &json!("reports.build"))
    );
    assert!(
        done["expires_in"].as_u64().is_some_and(|seconds| (80..=91).contains(&seconds)),
        "{done}"
    );
    let path = format!("/api/v1/locks/{}", done["digest"].as_str().expect("a digest"));
    let lock = proxy.get(&path).await.json();
    assert_eq!(
        (&lock["task"], &lock["queue"], &lock["shadow"]),
        (&json!("reports.build"), &json!("slow"), &json!(false))
    );
    let longer = cool(&call(r#", "seconds": 7200"#)).await.json();
    assert!(longer["expires_in"].as_u64() > Some(7000), "{longer}");
    assert_eq!(proxy.change("POST /api/v1/lookup", &call("")).await.json()["state"], "cooldown");
    assert_eq!(proxy.change(&format!("DELETE {path}"), "").await.status, 200);
    let named = cool(&call(r#", "seconds": 60, "id": "id-3""#)).await.json();
    assert_eq!(named["holder"], "id-3");
    let metrics = proxy.get("/metrics").await.body;
    assert!(metrics.contains(r#"oncegate_cooldowns_total{rule="reports.build"} 3"#), "{metrics}");
}

#[tokio::test]
async fn an_observing_rules_shadow_lock_is_locked_by_hand() {
    let proxy = start(Vec::new()).await;
    let body = r#"{"task": "mail.send", "queue": "mail", "seconds": 60}"#;
    let done = proxy.change("POST /api/v1/cooldown", body).await.json();
    assert_eq!((&done["mode"], &done["state"]), (&json!("observe"), &json!("cooldown")));
    let locks = proxy.get("/api/v1/locks?rule=mail").await.json();
    assert_eq!(locks["locks"][0]["shadow"], true, "{locks}");
}

#[tokio::test]
async fn a_key_that_a_task_holds_cannot_be_locked_by_hand() {
    let proxy = start(Vec::new()).await;
    let call = r#"{"task": "reports.build", "args": [1], "seconds": 60}"#;
    let free = proxy
        .change("POST /api/v1/lookup", r#"{"task": "reports.build", "args": [1]}"#)
        .await;
    let digest = Digest::from_hex(free.json()["digest"].as_str().expect("a digest")).expect("a digest");
    proxy.lock_key(digest, "reports.build", "reports.build", "id-7").await;
    let held = proxy.change("POST /api/v1/cooldown", call).await;
    assert_eq!((held.status, held.code().as_str()), (409, "held"));
    assert!(held.body.contains("id-7"), "{}", held.body);
    assert_eq!(proxy.get(&format!("/api/v1/locks/{digest}")).await.json()["state"], "queued");
    assert!(!proxy.get("/metrics").await.body.contains("oncegate_cooldowns_total{"));
}

#[tokio::test]
async fn a_wrong_cooldown_is_refused() {
    let proxy = start(vec![token("dash", "look", Role::Read), token("ops", "do", Role::Operate)]).await;
    let operate = "Authorization: Bearer do";
    for (body, status, code) in [
        (r#"{"task": "reports.build", "args": [1]}"#, 400, "bad_question"),
        (r#"{"task": "reports.build", "args": [1], "seconds": 0}"#, 400, "bad_question"),
        (r#"{"task": "reports.build", "args": [1], "seconds": -5}"#, 400, "bad_question"),
        (r#"{"task": "reports.build", "args": [1], "seconds": "60"}"#, 400, "bad_question"),
        (r#"{"task": "reports.build", "args": [1], "seconds": 1e300}"#, 400, "bad_question"),
        (r#"{"tsk": "reports.build", "seconds": 60}"#, 400, "bad_question"),
        ("[]", 400, "bad_question"),
        ("{", 400, "bad_question"),
        (r#"{"task": "other", "seconds": 60}"#, 404, "no_rule"),
        (r#"{"task": "mail.send", "exchange": "x", "seconds": 60}"#, 404, "no_rule"),
        (r#"{"task": "free.x", "seconds": 60}"#, 404, "no_key"),
    ] {
        let answer = proxy.send("POST /api/v1/cooldown", &[JSON, operate], body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    let right = r#"{"task": "reports.build", "args": [1], "seconds": 60}"#;
    let reader = proxy
        .send("POST /api/v1/cooldown", &[JSON, "Authorization: Bearer look"], right)
        .await;
    assert_eq!((reader.status, reader.code().as_str()), (403, "role_refused"));
    let locks = proxy.send("GET /api/v1/locks", &[operate], "").await.json();
    assert_eq!(locks["locks"], json!([]));
}

#[tokio::test]
async fn freeing_many_leaves_those_that_run() {
    let proxy = start(Vec::new()).await;
    for (key, id) in [(1, "waits"), (2, "runs"), (3, "runs too")] {
        proxy.lock(key, "a", "t", id).await;
    }
    for id in ["runs", "runs too"] {
        proxy.hear(id, Signal::Started).await;
    }
    for (query, released, skipped) in [
        ("rule=a&dry_run=true", 1, 2),
        ("rule=a&dry_run=true&include_running=true", 3, 0),
        ("rule=a", 1, 2),
        ("rule=a&include_running=true", 2, 0),
    ] {
        let answer = proxy.change(&format!("DELETE /api/v1/locks?{query}"), "").await.json();
        assert_eq!(
            (&answer["released"], &answer["skipped_running"]),
            (&json!(released), &json!(skipped)),
            "{query}"
        );
    }
    assert_eq!(proxy.get("/api/v1/locks").await.json()["locks"], json!([]));
}
