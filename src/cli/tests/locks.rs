//! `locks` through a running proxy.

use super::*;

fn lock(holder: &str) -> Value {
    json!({ "digest": DIGEST, "holder": holder, "state": "queued", "rule": "r", "task": "t", "since": "s", "expires_in": 5, "shadow": false })
}

#[test]
fn locks_are_listed_over_pages() {
    let page = |holder: &str, cursor: Value| {
        (
            200,
            json!({ "locks": [lock(holder)], "cursor": cursor, "instance": "p1", "scope": "fleet" }),
        )
    };
    let (url, questions) = proxy(vec![page("a", json!("7/ 8")), page("b\u{1b}[2J", Value::Null)]);
    let ran = run(&["locks", "list", "--admin", &url, "--rule", "r&x", "--limit", "0"]);
    assert_eq!(ran.exit(), Exit::Done);
    assert_eq!(ran.out.lines().count(), 2);
    assert!(ran.out.contains("held by b\\u001b[2J"), "{}", ran.out);
    assert!(
        questions
            .recv()
            .expect("asked")
            .starts_with("GET /api/v1/locks?limit=1000&rule=r%26x HTTP/1.1\r\n")
    );
    assert!(
        questions
            .recv()
            .expect("asked")
            .starts_with("GET /api/v1/locks?limit=1000&rule=r%26x&cursor=7%2F%208 HTTP/1.1\r\n")
    );
    let (url, _questions) = proxy(vec![page("a", json!("7"))]);
    let ran = run(&["locks", "list", "--admin", &url, "--limit", "1", "--json"]);
    assert_eq!(ran.json(), json!({ "locks": [lock("a")], "cursor": "7" }));
}

#[test]
fn a_list_shows_who_runs_what_and_says_when_there_is_nothing() {
    let mut running = lock("a");
    running["state"] = json!("running");
    running["worker"] = json!("celery@one");
    running["expires"] = json!("2026-01-01T00:00:00.000Z");
    let mut waiting = lock("b");
    waiting["worker"] = json!("");
    waiting["vhost"] = json!("sh\u{1b}op");
    running["vhost"] = json!("/");
    let page = |locks: Value| json!({ "locks": locks, "cursor": null, "instance": "p1", "scope": "fleet" });
    let mut shown = running.clone();
    shown["instance"] = json!("p1");
    let (url, _questions) = proxy(vec![(200, page(json!([running, waiting]))), (200, shown), (200, page(json!([])))]);
    let ran = run(&["locks", "list", "--admin", &url]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines[0].contains("  running  ") && lines[0].contains("held by a on celery@one  since"),
        "{}",
        ran.out
    );
    assert!(
        lines[1].contains("  queued  ") && lines[1].contains("  t  vhost sh\\u001bop  held by b  since"),
        "{}",
        ran.out
    );
    let ran = run(&["locks", "show", DIGEST, "--admin", &url]);
    for line in [
        "state      running",
        "worker     celery@one",
        "expires    2026-01-01T00:00:00.000Z",
        "expires_in 5",
    ] {
        assert!(ran.out.lines().any(|shown| shown == line), "{line} in {}", ran.out);
    }
    assert!(!ran.out.contains("vhost"), "{}", ran.out);
    let ran = run(&["locks", "list", "--admin", &url]);
    assert_eq!((ran.exit(), ran.out.as_str(), ran.err.as_str()), (Exit::Done, "", "no locks\n"));
}

#[test]
fn a_run_is_told_from_a_publish_lock() {
    let mut run = lock("a");
    run["unique"] = json!("while_running");
    let mut publish = lock("b");
    publish["unique"] = json!("until_started");
    let list = json!({ "locks": [run, publish], "cursor": null, "instance": "p1", "scope": "fleet" });
    let mut shown = publish.clone();
    shown["run"] = run.clone();
    shown["instance"] = json!("p1");
    let freed = json!({ "released": 2, "locks": [publish, run], "instance": "p1", "scope": "fleet" });
    let (url, _questions) = proxy(vec![(200, list), (200, shown), (200, freed)]);
    let ran = super::run(&["locks", "list", "--admin", &url]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines[0].contains("  queued (run)  r  ") && lines[1].contains("  queued  r  "),
        "{}",
        ran.out
    );
    let ran = super::run(&["locks", "show", DIGEST, "--admin", &url]);
    let (before, after) = ran.out.split_once("\n\n").expect("two locks");
    assert!(
        before.contains("holder     b\n") && before.contains("unique     until_started"),
        "{}",
        ran.out
    );
    assert!(
        after.contains("holder     a\n") && after.contains("unique     while_running"),
        "{}",
        ran.out
    );
    let ran = super::run(&["locks", "release", DIGEST, "--admin", &url]);
    assert_eq!(ran.out, format!("released {DIGEST} held by b\nreleased {DIGEST} held by a\n"));
}

#[test]
fn clear_asks_first_and_frees_nothing_without_a_yes() {
    let cleared = |count: u64| {
        (
            200,
            json!({ "released": count, "skipped_running": 1, "dry_run": false, "digests": [], "instance": "p1", "scope": "fleet" }),
        )
    };
    let (url, questions) = proxy(vec![cleared(3)]);
    let ran = run_with(&["locks", "clear", "--rule", "r", "--admin", &url], "no\n");
    assert_eq!(ran.exit(), Exit::Refused);
    assert!(ran.err.contains("free 3 locks?"), "{}", ran.err);
    assert!(questions.recv().expect("asked").contains("dry_run=true"));
    assert!(questions.recv().is_err(), "nothing else was asked");

    let (url, questions) = proxy(vec![cleared(3), cleared(3)]);
    let ran = run_with(&["locks", "clear", "--all", "--include-running", "--admin", &url], "y\n");
    assert_eq!(ran.exit(), Exit::Done);
    assert!(ran.out.starts_with("freed 3 locks, left 1 whose holder runs"), "{}", ran.out);
    assert!(questions.recv().expect("asked").contains("dry_run=true"));
    assert!(
        questions
            .recv()
            .expect("asked")
            .starts_with("DELETE /api/v1/locks?older_than=0s&include_running=true HTTP/1.1\r\n")
    );

    let (url, questions) = proxy(vec![cleared(1), cleared(1)]);
    assert_eq!(run(&["locks", "clear", "--task", "t", "--yes", "--admin", &url]).exit(), Exit::Done);
    assert!(!questions.recv().expect("asked").contains("dry_run"));
    let ran = run(&["locks", "clear", "--older-than", "10m", "--dry-run", "--admin", &url]);
    assert!(ran.out.starts_with("would free 1 locks"), "{}", ran.out);

    let dry = json!({ "released": 1, "skipped_running": 0, "dry_run": true, "digests": [DIGEST], "instance": "p1", "scope": "fleet" });
    let (url, _questions) = proxy(vec![(200, dry)]);
    let ran = run(&["locks", "clear", "--all", "--dry-run", "--admin", &url]);
    assert_eq!(ran.out, format!("would free 1 locks\n{DIGEST}\n"), "it says which");
}
