//! Limits that operators see and change.

use super::*;

const RULES: &str = "[[rule]]\nname = \"mails\"\ntask = \"mail.*\"\n\
    [[rule.limit]]\nrate = \"60/m\"\n\
    [[rule.limit]]\nname = \"each\"\ntimes = 5\nper = \"500ms\"\nburst = 1\nkey = [\"args[0]\", \"args[1]\"]\n\
    [[rule]]\nname = \"calls\"\ntask = \"call.*\"\n\
    [[rule.limit]]\nconcurrent = 4\nkey = [\"args[0]\"]\n\
    [[rule]]\nname = \"free\"\ntask = \"free.*\"\nunique = \"until_started\"\n";

async fn limited(tokens: Vec<AdminToken>) -> Proxy {
    let proxy = start(Vec::new()).await;
    configure(&proxy, RULES, tokens);
    proxy
}

fn configure(proxy: &Proxy, rules: &str, tokens: Vec<AdminToken>) {
    let mut config = config::load_text("oncegate.toml", rules, &BTreeMap::new(), &Flags::default()).expect("right");
    config.admin.tokens = tokens;
    proxy.admin.set_config(Arc::new(config));
}

async fn patch(proxy: &Proxy, limit: &str, body: &str) -> Answer {
    proxy.change(&format!("PATCH /api/v1/limits/{limit}"), body).await
}

async fn list(proxy: &Proxy) -> Vec<Value> {
    let answer = proxy.get("/api/v1/limits").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["limits"].as_array().expect("a list").clone()
}

fn rate_of(limit: &Value) -> (Option<u64>, Option<f64>, Option<u64>, bool) {
    let paused = limit["paused"].as_bool().expect("a truth");
    (limit["times"].as_u64(), limit["per"].as_f64(), limit["burst"].as_u64(), paused)
}

#[tokio::test]
async fn limits_are_listed_as_they_are_configured() {
    let proxy = limited(Vec::new()).await;
    let all = list(&proxy).await;
    let names: Vec<_> = all.iter().map(|limit| (limit["rule"].clone(), limit["limit"].clone())).collect();
    let pair = |rule: &str, limit: &str| (Value::from(rule), Value::from(limit));
    assert_eq!(names, [pair("mails", "1"), pair("mails", "each"), pair("calls", "1")]);
    assert_eq!(rate_of(&all[0]), (Some(60), Some(60.0), Some(60), false));
    assert_eq!(rate_of(&all[1]), (Some(5), Some(0.5), Some(1), false));
    assert_eq!(rate_of(&all[2]), (None, None, None, false));
    assert_eq!(
        all[0]["configured"],
        json!({ "times": 60, "per": 60, "burst": 60, "concurrent": null })
    );
    assert_eq!((&all[2]["concurrent"], &all[1]["concurrent"]), (&4.into(), &Value::Null));
    assert_eq!((&all[0]["key"], &all[1]["key"]), (&json!([]), &json!(["args[0]", "args[1]"])));
    for limit in &all {
        assert_eq!(
            (
                &limit["waiting"],
                &limit["keys"],
                &limit["pause_set"],
                &limit["rate_set"],
                &limit["expires_in"]
            ),
            (&0.into(), &json!([]), &Value::Null, &Value::Null, &Value::Null)
        );
    }
    assert_eq!(
        (&all[0]["given"], &all[1]["given"]),
        (&0.into(), &Value::Null),
        "a key has a count of its own"
    );
    let one = proxy.get("/api/v1/limits?rule=calls").await.json();
    assert_eq!(one["limits"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["scope"], "instance", "the store is in this process");
    assert_eq!(proxy.get("/api/v1/limits?rule=free").await.json()["limits"], json!([]));
    assert_eq!(proxy.get("/api/v1/limits?rule=nobody").await.code(), "no_rule");
    assert_eq!(proxy.get("/api/v1/limits?task=x").await.code(), "bad_query");
}

#[tokio::test]
async fn a_limit_is_paused_resumed_changed_and_taken_back() {
    let proxy = limited(Vec::new()).await;
    let answer = patch(&proxy, "mails/1", r#"{"paused": true, "expires_in": "30m"}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let json = answer.json();
    assert_eq!(
        (
            &json["rule"],
            &json["limit"],
            &json["paused"],
            &json["pause_set"]["by"],
            &json["instance"]
        ),
        (&"mails".into(), &"1".into(), &true.into(), &"-".into(), &"p1".into())
    );
    let expires_in = json["expires_in"].as_u64().expect("seconds");
    assert!((1_700..=1_800).contains(&expires_in), "{expires_in}");
    assert!(!list(&proxy).await[1]["paused"].as_bool().expect("a truth"), "the other is not");

    let json = patch(&proxy, "mails/1", r#"{"times": 6}"#).await.json();
    assert_eq!(
        rate_of(&json),
        (Some(6), Some(60.0), Some(6), true),
        "the time is the configured one"
    );
    assert_eq!(
        (&json["rate_set"]["until"], &json["configured"]["times"]),
        (&Value::Null, &60.into())
    );
    let json = patch(&proxy, "mails/1", r#"{"per": "2m", "paused": false}"#).await.json();
    assert_eq!(
        rate_of(&json),
        (Some(6), Some(120.0), Some(6), false),
        "the number is the one that was set"
    );
    assert_eq!(json["pause_set"], Value::Null);
    let json = patch(&proxy, "mails/1", r#"{"times": 1, "per": 0.25, "expires_in": 100.5}"#)
        .await
        .json();
    assert_eq!(rate_of(&json), (Some(1), Some(0.25), Some(1), false));
    let json = proxy.change("DELETE /api/v1/limits/mails/1", "").await.json();
    assert_eq!(rate_of(&json), (Some(60), Some(60.0), Some(60), false));
    let json = patch(&proxy, "calls/1", r#"{"times": 9, "per": "1m"}"#).await.json();
    assert_eq!(
        rate_of(&json),
        (Some(9), Some(60.0), Some(9), false),
        "one of runs gets a rate as well"
    );
}

#[tokio::test]
async fn one_value_of_a_key_is_set_apart() {
    let proxy = limited(Vec::new()).await;
    let json = patch(&proxy, "mails/each", r#"{"paused": true, "key": ["acme", 7]}"#).await.json();
    assert!(!json["paused"].as_bool().expect("a truth"));
    let key = &json["keys"][0];
    assert_eq!(
        (&key["key"], &key["paused"], &key["waiting"]),
        (&json!(["acme", 7]), &true.into(), &0.into())
    );
    let json = patch(&proxy, "mails/each", r#"{"times": 2, "key": ["acme", "7"]}"#).await.json();
    assert_eq!(json["keys"].as_array().map(Vec::len), Some(2), "text is no number");
    assert_eq!(rate_of(&json["keys"][0]), (Some(2), Some(0.5), Some(1), false));
    patch(&proxy, "mails/each", r#"{"times": 9, "per": 1}"#).await;
    let keys = &list(&proxy).await[1]["keys"];
    assert_eq!(rate_of(&keys[0]), (Some(2), Some(0.5), Some(1), false), "its own goes before");
    assert_eq!(rate_of(&keys[1]), (Some(9), Some(1.0), Some(1), true));
    let json = proxy
        .change("DELETE /api/v1/limits/mails/each", r#"{"key": ["acme", 7]}"#)
        .await
        .json();
    assert_eq!(json["keys"].as_array().map(Vec::len), Some(1));
    let path = "/api/v1/limits/mails/each?key=%5B%22acme%22%2C%20%227%22%5D";
    let json = proxy.change(&format!("DELETE {path}"), "").await.json();
    assert_eq!((&json["keys"], &json["times"]), (&json!([]), &9.into()));
    // One part is written with brackets or without.
    for key in ["\"acme\"", "[\"acme\"]", "17"] {
        let json = patch(&proxy, "calls/1", &format!(r#"{{"paused": true, "key": {key}}}"#))
            .await
            .json();
        assert_eq!(json["keys"].as_array().map_or(0, Vec::len), if key == "17" { 2 } else { 1 });
    }
}

#[tokio::test]
async fn what_cannot_be_set_is_refused() {
    let proxy = limited(Vec::new()).await;
    for (limit, body, code) in [
        ("mails/1", "", "bad_body"),
        ("mails/1", "{}", "bad_body"),
        ("mails/1", r#"{"expires_in": 5}"#, "bad_body"),
        ("mails/1", r#"{"pause": true}"#, "bad_body"),
        ("mails/1", r#"{"paused": "yes"}"#, "bad_body"),
        ("mails/1", r#"{"times": -1}"#, "bad_body"),
        ("mails/1", r#"{"times": 0}"#, "bad_rate"),
        ("mails/1", r#"{"times": 100001}"#, "bad_rate"),
        ("mails/1", r#"{"per": 0}"#, "bad_rate"),
        ("mails/1", r#"{"per": "soon"}"#, "bad_rate"),
        ("mails/1", r#"{"per": "401d"}"#, "bad_rate"),
        ("calls/1", r#"{"times": 5}"#, "bad_rate"),
        ("mails/1", r#"{"paused": true, "expires_in": 0}"#, "bad_expires_in"),
        ("mails/1", r#"{"paused": true, "expires_in": -5}"#, "bad_expires_in"),
        ("mails/1", r#"{"paused": true, "expires_in": 1e300}"#, "bad_expires_in"),
        ("mails/1", r#"{"paused": true, "expires_in": "401d"}"#, "bad_expires_in"),
        ("mails/1", r#"{"paused": true, "expires_in": true}"#, "bad_expires_in"),
        ("mails/1", r#"{"paused": true, "key": "acme"}"#, "bad_key"),
        ("mails/each", r#"{"paused": true, "key": "acme"}"#, "bad_key"),
        ("mails/each", r#"{"paused": true, "key": ["acme"]}"#, "bad_key"),
        ("calls/1", r#"{"paused": true, "key": [1, 2]}"#, "bad_key"),
        ("mails/2", r#"{"paused": true}"#, "no_limit"),
        ("nobody/1", r#"{"paused": true}"#, "no_limit"),
    ] {
        let answer = patch(&proxy, limit, body).await;
        assert_eq!(answer.code(), code, "{limit} {body}: {}", answer.body);
    }
    let delete = async |path: &str, body| proxy.change(&format!("DELETE /api/v1/limits/{path}"), body).await.code();
    assert_eq!(delete("mails/1", r#"{"paused": true}"#).await, "bad_body");
    assert_eq!(delete("mails/9", "").await, "no_limit");
    assert_eq!(delete("mails/each?key=x", "").await, "bad_key");
    assert_eq!(delete("mails/each?all=1", "").await, "bad_query");
    for limit in list(&proxy).await {
        assert_eq!(
            (&limit["pause_set"], &limit["rate_set"], &limit["keys"]),
            (&Value::Null, &Value::Null, &json!([]))
        );
    }
}

#[tokio::test]
async fn who_may_read_may_not_change_and_who_changes_is_named() {
    let proxy = limited(vec![token("reader", "r3ad", Role::Read), token("ann", "0perate", Role::Operate)]).await;
    let as_reader = ["Authorization: Bearer r3ad", JSON];
    for method in ["PATCH", "DELETE"] {
        let answer = proxy
            .send(&format!("{method} /api/v1/limits/mails/1"), &as_reader, r#"{"paused": true}"#)
            .await;
        assert_eq!(answer.code(), "role_refused");
    }
    let as_ann = ["Authorization: Bearer 0perate", JSON];
    let answer = proxy.send("PATCH /api/v1/limits/mails/1", &as_ann, r#"{"paused": true}"#).await;
    assert_eq!((answer.status, &answer.json()["pause_set"]["by"]), (200, &"ann".into()));
    let answer = proxy.send("GET /api/v1/limits", &as_reader, "").await;
    assert_eq!(answer.json()["limits"][0]["pause_set"]["by"], "ann");
}

#[tokio::test]
async fn the_metrics_follow_what_is_set() {
    let proxy = limited(Vec::new()).await;
    tokio::spawn(follow_limits(Arc::clone(&proxy.admin)));
    let shows = async |series: &str, value: &str| {
        loop {
            let text = proxy.get("/metrics").await.body;
            let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            if found.unwrap_or("none") == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let paused = "oncegate_limit_paused{limit=\"1\",rule=\"mails\"}";
    let times = "oncegate_limit_times{limit=\"1\",rule=\"mails\"}";
    shows(paused, "0").await;
    shows(times, "60").await;
    shows("oncegate_limit_paused{limit=\"1\",rule=\"calls\"}", "0").await;
    shows("oncegate_limit_times{limit=\"1\",rule=\"calls\"}", "none").await;
    patch(&proxy, "mails/1", r#"{"paused": true, "times": 7}"#).await;
    shows(paused, "1").await;
    shows(times, "7").await;
    patch(&proxy, "mails/each", r#"{"paused": true, "key": [1, 2]}"#).await;
    shows("oncegate_limit_paused{limit=\"each\",rule=\"mails\"}", "0").await;
    proxy.change("DELETE /api/v1/limits/mails/1", "").await;
    shows(paused, "0").await;
    shows(times, "60").await;
    configure(&proxy, "", Vec::new());
    shows(paused, "none").await;
    shows(times, "none").await;
}

#[tokio::test]
async fn a_store_that_is_away_is_told() {
    let settings = crate::store::Settings {
        url: "redis://127.0.0.1:1/0".to_owned(),
        prefix: "oncegate".to_owned(),
        timeout: Duration::from_millis(250),
        proxy: Arc::from("p1"),
        ca: None,
    };
    let store = Store::open(&settings, Arc::new(Unobserved)).expect("a store");
    let proxy = start_with(Vec::new(), store).await;
    configure(&proxy, RULES, Vec::new());
    let answers = [
        proxy.get("/api/v1/limits").await,
        patch(&proxy, "mails/1", r#"{"paused": true}"#).await,
        patch(&proxy, "mails/1", r#"{"times": 3}"#).await,
        proxy.change("DELETE /api/v1/limits/mails/1", "").await,
    ];
    for answer in answers {
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "store_unavailable"),
            "{}",
            answer.body
        );
    }
}
