//! What became of a task, as it is asked and shown.

use super::*;

#[test]
fn each_decision_and_lock_is_a_line() {
    let answer = json!({
        "id": "a/b",
        "decisions": [
            { "ts": "2026-01-01T00:00:00.000Z", "event": "publish", "decision": "dropped", "reason": "duplicate", "rule": "r", "task": "t\u{1b}[2J",
              "id": "a/b", "holder": "c", "mode": "enforce", "instance": "p2" },
        ],
        "locks": [
            { "digest": DIGEST, "holder": "a/b", "state": "running", "unique": "while_running", "rule": "r", "task": "t",
              "since": "2026-01-01T00:00:00.000Z", "expires_in": 5, "shadow": false },
            { "digest": DIGEST, "holder": "c", "state": "queued", "unique": "until_started", "rule": "r", "task": "t",
              "since": "2026-01-01T00:00:00.000Z", "expires_in": 7, "shadow": true },
        ],
        "instance": "p1", "scope": "fleet",
    });
    let (url, questions) = proxy(vec![(200, answer.clone()), (200, answer)]);
    let ran = run(&["why", "a/b", "--admin", &url]);
    assert_eq!(ran.exit(), Exit::Done);
    assert_eq!(
        ran.out,
        format!(
            "2026-01-01T00:00:00.000Z publish  dropped reason=duplicate rule=r task=t\\u001b[2J holder=c mode=enforce instance=p2\n\
             holds {DIGEST}: running, unique=while_running rule=r task=t since 2026-01-01T00:00:00.000Z, expires in 5 s\n\
             c holds {DIGEST} (shadow): queued, unique=until_started rule=r task=t since 2026-01-01T00:00:00.000Z, expires in 7 s\n"
        )
    );
    assert!(questions.recv().expect("asked").starts_with("GET /api/v1/tasks/a%2Fb HTTP/1.1\r\n"));
    let ran = run(&["why", "a/b", "--admin", &url, "--json"]);
    assert_eq!(ran.json()["decisions"][0]["holder"], "c");
}

#[test]
fn an_id_that_is_not_known_is_a_no() {
    let (url, _questions) = proxy(vec![(404, error("unknown_task")), (503, error("store_unavailable"))]);
    let ran = run(&["why", "a", "--admin", &url]);
    assert_eq!(ran.exit(), Exit::No);
    assert!(ran.err.contains("as it is"), "{}", ran.err);
    assert_eq!(run(&["why", "a", "--admin", &url]).exit(), Exit::TryAgain);
    assert_eq!(run(&["why"]).exit(), Exit::Usage);
    assert_eq!(
        run(&["why", "a", "--admin", &format!("http://{}", nobody())]).exit(),
        Exit::Unavailable
    );
}
