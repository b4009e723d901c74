//! Limits, as they are asked for and shown.

use super::*;

fn setting(until: &Value) -> Value {
    json!({ "by": "a\u{1b}nn", "since": "2026-01-01T00:00:00.000Z", "until": until, "expires_in": null })
}

fn limit(rule: &str, name: &str) -> Value {
    json!({
        "rule": rule, "limit": name, "key": [], "configured": { "times": 60, "per": 60, "burst": 60, "concurrent": null },
        "times": 60, "per": 60, "burst": 60, "concurrent": null, "paused": false, "pause_set": null, "rate_set": null,
        "expires_in": null, "waiting": 3, "given": 2, "keys": [],
    })
}

fn listed(limits: &[Value]) -> Value {
    json!({ "limits": limits, "instance": "p1", "scope": "fleet" })
}

fn changed(limit: &Value) -> Value {
    let mut limit = limit.clone();
    limit["instance"] = "p1".into();
    limit["scope"] = "fleet".into();
    limit
}

/// The body of a question.
fn body(question: &str) -> Value {
    let (_, body) = question.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn limits_are_shown_with_what_is_set() {
    let mut one = limit("mails", "1");
    one["times"] = 5.into();
    one["rate_set"] = setting(&"2026-01-01T00:30:00.000Z".into());
    one["paused"] = true.into();
    one["pause_set"] = setting(&Value::Null);
    one["keys"] = json!([{
        "key": "ac\u{202e}me", "times": 5, "per": 0.5, "paused": false, "pause_set": setting(&Value::Null), "rate_set": null,
        "waiting": 4, "given": 1,
    }]);
    let mut runs = limit("calls", "each");
    for name in ["times", "per", "burst"] {
        runs[name] = Value::Null;
        runs["configured"][name] = Value::Null;
    }
    runs["concurrent"] = 4.into();
    let (url, questions) = proxy(vec![
        (200, listed(&[one, runs])),
        (200, listed(&[])),
        (200, listed(&[limit("mails", "1")])),
    ]);
    let ran = run(&["limits", "list", "--admin", &url]);
    let by = "set by a\\u001bnn at 2026-01-01T00:00:00.000Z";
    let wanted = format!(
        "mails/1  5 per 1m (configured 60 per 1m, until 2026-01-01T00:30:00.000Z, {by})  PAUSED (until it is taken back, {by})  3 waiting  \
         2 gone in its time\n  key \"ac\\u202eme\"  5 per 500ms  not paused (until it is taken back, {by})  4 waiting  1 gone in its time\n\
         calls/each  4 at a time  3 waiting\n"
    );
    assert_eq!((ran.exit(), ran.out), (Exit::Done, wanted));
    assert_eq!(run(&["limits", "list", "--rule", "x", "--admin", &url]).out, "no limits\n");
    let ran = run(&["--json", "limits", "list", "--admin", &url]);
    assert_eq!(ran.json()["limits"][0]["waiting"], 3);
    let asked: Vec<String> = questions.iter().take(3).collect();
    assert!(asked[0].starts_with("GET /api/v1/limits HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /api/v1/limits?rule=x HTTP/1.1\r\n"), "{}", asked[1]);
}

#[test]
fn a_limit_or_all_of_a_rule_are_asked_for() {
    let all = [limit("a/b", "1"), limit("a/b", "x y"), limit("a", "b")];
    let told = |which: &[usize]| {
        let answers = which.iter().map(|place| (200, changed(&all[*place])));
        [(200, listed(&all))].into_iter().chain(answers).collect::<Vec<_>>()
    };
    let ask = |arguments: &[&str], which: &[usize]| {
        let (url, questions) = proxy(told(which));
        let ran = run(&[arguments, &["--admin", &url]].concat());
        assert_eq!(ran.exit(), Exit::Done, "{arguments:?}: {}", ran.err);
        assert_eq!(ran.out.lines().count(), which.len());
        questions.iter().skip(1).take(which.len()).collect::<Vec<String>>()
    };
    let asked = ask(&["limits", "pause", "a/b/x y", "--for", "5m"], &[1]);
    assert!(
        asked[0].starts_with("PATCH /api/v1/limits/a%2Fb/x%20y HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    assert_eq!(body(&asked[0]), json!({ "paused": true, "expires_in": "5m" }));
    // The limit of a rule goes before the limits of another one.
    let asked = ask(&["limits", "resume", "a/b"], &[2]);
    assert!(asked[0].starts_with("PATCH /api/v1/limits/a/b HTTP/1.1\r\n"), "{}", asked[0]);
    assert_eq!(body(&asked[0]), json!({ "paused": false }));
    let asked = ask(&["limits", "set", "a", "--rate", "10/m", "--key", "[\"acme\", 1]"], &[2]);
    assert_eq!(body(&asked[0]), json!({ "times": 10, "per": 60, "key": ["acme", 1] }));
    let asked = ask(&["limits", "reset", "a/b/1", "--key", "\"acme\""], &[0]);
    assert!(asked[0].starts_with("DELETE /api/v1/limits/a%2Fb/1 HTTP/1.1\r\n"), "{}", asked[0]);
    assert_eq!(body(&asked[0]), json!({ "key": "acme" }));

    let (url, questions) = proxy(vec![
        (200, listed(&[limit("r", "1"), limit("r", "2")])),
        (200, changed(&limit("r", "1"))),
        (200, changed(&limit("r", "2"))),
    ]);
    let ran = run(&["limits", "pause", "r", "--admin", &url]);
    assert_eq!((ran.exit(), ran.out.lines().count()), (Exit::Done, 2));
    let asked: Vec<String> = questions.iter().take(3).collect();
    for (question, limit) in asked.iter().skip(1).zip(["1", "2"]) {
        assert!(question.starts_with(&format!("PATCH /api/v1/limits/r/{limit} ")), "{question}");
    }
}

#[test]
fn wrong_usage_is_told() {
    for arguments in [
        &["limits"][..],
        &["limits", "pause"],
        &["limits", "pause", "r/1", "--for", "soon"],
        &["limits", "pause", "r/1", "--key", "acme"],
        &["limits", "set", "r/1"],
        &["limits", "set", "r/1", "--rate", "10"],
        &["limits", "set", "r/1", "--rate", "0/m"],
        &["limits", "reset", "r/1", "--for", "5m"],
        &["limits", "list", "r/1"],
    ] {
        assert_eq!(run(arguments).exit(), Exit::Usage, "{arguments:?}");
    }
    let both = [limit("r", "1"), limit("r", "2")];
    let (url, _questions) = proxy(vec![
        (200, listed(&both)),
        (200, listed(&both)),
        (200, listed(&both)),
        (503, error("store_unavailable")),
    ]);
    let ran = run(&["limits", "pause", "r", "--key", "1", "--admin", &url]);
    assert_eq!((ran.exit(), ran.err.contains("RULE/LIMIT")), (Exit::Usage, true), "{}", ran.err);
    let ran = run(&["limits", "pause", "s", "--admin", &url]);
    assert_eq!(ran.exit(), Exit::No, "{}", ran.err);
    let ran = run(&["limits", "pause", "r/1", "--admin", &url]);
    assert_eq!(ran.exit(), Exit::TryAgain, "{}", ran.err);
}
