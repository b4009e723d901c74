//! Modes that operators set.

use super::*;
use crate::rules::spec::Mode;
use crate::store::modes;

async fn set(proxy: &Proxy, body: &str) -> Answer {
    proxy.change("PUT /api/v1/mode", body).await
}

fn shown(answer: &Answer) -> Vec<(Value, Value)> {
    let json = answer.json();
    let overrides = json["overrides"].as_array().expect("a list");
    overrides.iter().map(|set| (set["rule"].clone(), set["mode"].clone())).collect()
}

#[tokio::test]
async fn modes_are_set_shown_and_reset() {
    let proxy = start(Vec::new()).await;
    let answer = proxy.get("/api/v1/mode").await;
    assert_eq!(shown(&answer), []);
    assert_eq!(answer.json()["rules"][2], json!({ "rule": "mail", "mode": "observe" }));
    let answer = set(&proxy, r#"{"mode": "off", "expires_in": "30m", "reason": "it drops too much"}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    assert_eq!(
        (&json["rule"], &json["mode"], &json["reason"], &json["by"]),
        (&Value::Null, &"off".into(), &"it drops too much".into(), &"-".into())
    );
    let expires_in = json["expires_in"].as_u64().expect("seconds");
    assert!((1_700..=1_800).contains(&expires_in), "{expires_in}");
    set(&proxy, r#"{"mode": "enforce", "rule": "mail", "expires_in": 60.5}"#).await;
    let wanted = [(Value::Null, "off".into()), ("mail".into(), "enforce".into())];
    assert_eq!(shown(&proxy.get("/api/v1/mode").await), wanted);
    let all: Vec<Arc<str>> = ["*", "mail", "free"].map(Arc::from).to_vec();
    let found = modes::read(&proxy.store, &all).await.expect("the store answers");
    let modes = modes::modes(&found);
    assert_eq!(
        (modes.all, modes.rules.get("mail"), modes.rules.len()),
        (Some(Mode::Off), Some(&Mode::Enforce), 1)
    );

    let answer = proxy.change("DELETE /api/v1/mode?rule=mail", "").await;
    assert_eq!(answer.json()["reset"][0]["rule"], "mail");
    gone(&proxy, 1).await;
    proxy.change("DELETE /api/v1/mode", "").await;
    gone(&proxy, 0).await;
    assert_eq!(proxy.change("DELETE /api/v1/mode", "").await.json()["reset"], json!([]));
}

/// A note goes a moment after it is taken back.
async fn gone(proxy: &Proxy, left: usize) {
    while shown(&proxy.get("/api/v1/mode").await).len() > left {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn what_cannot_be_set_is_refused() {
    let proxy = start(Vec::new()).await;
    for (body, code) in [
        ("", "bad_body"),
        ("{}", "bad_body"),
        (r#"{"mode": "off", "for": 5}"#, "bad_body"),
        (r#"{"mode": "drop"}"#, "bad_mode"),
        (r#"{"mode": "off", "rule": "nobody"}"#, "no_rule"),
        (r#"{"mode": "off", "rule": "*"}"#, "no_rule"),
        (r#"{"mode": "off", "expires_in": 0}"#, "bad_expires_in"),
        (r#"{"mode": "off", "expires_in": -1}"#, "bad_expires_in"),
        (r#"{"mode": "off", "expires_in": "31d"}"#, "bad_expires_in"),
        (r#"{"mode": "off", "expires_in": "soon"}"#, "bad_expires_in"),
        (r#"{"mode": "off", "expires_in": true}"#, "bad_expires_in"),
    ] {
        assert_eq!(set(&proxy, body).await.code(), code, "{body}");
    }
    let long = json!({ "mode": "off", "reason": "x".repeat(501) }).to_string();
    assert_eq!(set(&proxy, &long).await.code(), "bad_reason");
    assert_eq!(proxy.change("DELETE /api/v1/mode?rule=nobody", "").await.code(), "no_rule");
    assert_eq!(proxy.change("DELETE /api/v1/mode?all=1", "").await.code(), "bad_query");
    assert_eq!(shown(&proxy.get("/api/v1/mode").await), []);
}

#[tokio::test]
async fn who_may_read_may_not_set_and_who_sets_is_named() {
    let proxy = start(vec![token("reader", "r3ad", Role::Read), token("ann", "0perate", Role::Operate)]).await;
    let json = "Content-Type: application/json";
    let as_reader = ["Authorization: Bearer r3ad", json];
    assert_eq!(
        proxy.send("PUT /api/v1/mode", &as_reader, r#"{"mode": "off"}"#).await.code(),
        "role_refused"
    );
    assert_eq!(proxy.send("DELETE /api/v1/mode", &as_reader, "{}").await.code(), "role_refused");
    let as_ann = ["Authorization: Bearer 0perate", json];
    let answer = proxy.send("PUT /api/v1/mode", &as_ann, r#"{"mode": "off"}"#).await;
    assert_eq!((answer.status, &answer.json()["by"]), (200, &"ann".into()));
    let answer = proxy.send("GET /api/v1/mode", &as_reader, "").await;
    assert_eq!(answer.json()["overrides"][0]["by"], "ann");
}
