//! Modes, as they are asked for and shown.

use super::*;

fn set(rule: Option<&str>, mode: &str) -> Value {
    json!({
        "rule": rule, "mode": mode, "reason": "it \u{1b}[2J drops", "by": "ann", "since": "2026-01-01T00:00:00.000Z",
        "until": "2026-01-01T00:30:00.000Z", "expires_in": 1800, "instance": "p1", "scope": "fleet",
    })
}

const TIMES: &str = "until 2026-01-01T00:30:00.000Z, set by ann at 2026-01-01T00:00:00.000Z: it \\u001b[2J drops\n";

#[test]
fn a_mode_is_set_with_rule_end_and_reason() {
    let (url, questions) = proxy(vec![(200, set(Some("r"), "off")), (200, set(None, "observe"))]);
    let ran = run(&[
        "mode", "off", "--rule", "r", "--for", "30m", "--reason", "it drops", "--admin", &url,
    ]);
    assert_eq!((ran.exit(), ran.out), (Exit::Done, format!("rule r off {TIMES}")));
    assert!(questions.recv().expect("asked").starts_with("PUT /api/v1/mode HTTP/1.1\r\n"));
    let ran = run(&["mode", "observe", "--admin", &url]);
    assert_eq!((ran.exit(), ran.out), (Exit::Done, format!("all rules observe {TIMES}")));
}

#[test]
fn what_is_set_is_shown_and_reset() {
    let shown = json!({ "overrides": [set(Some("r"), "off")], "off_here": true, "rules": [], "instance": "p1", "scope": "fleet" });
    let nothing = json!({ "overrides": [], "off_here": false, "rules": [], "instance": "p1", "scope": "fleet" });
    let reset = json!({ "reset": [set(Some("r"), "off")], "instance": "p1", "scope": "fleet" });
    let none = json!({ "reset": [], "instance": "p1", "scope": "fleet" });
    let (url, questions) = proxy(vec![(200, shown), (200, nothing), (200, reset), (200, none)]);
    let ran = run(&["mode", "show", "--admin", &url]);
    assert_eq!(ran.out, format!("off on this proxy until its next SIGHUP\nrule r off {TIMES}"));
    assert_eq!(
        run(&["mode", "show", "--admin", &url]).out,
        "every rule is in the mode of the configuration\n"
    );
    let ran = run(&["mode", "reset", "--rule", "r", "--admin", &url]);
    assert_eq!(ran.out, format!("reset: rule r off {TIMES}"));
    let asked: Vec<String> = questions.iter().take(3).collect();
    assert!(asked[2].starts_with("DELETE /api/v1/mode?rule=r HTTP/1.1\r\n"), "{}", asked[2]);
    assert_eq!(run(&["mode", "reset", "--admin", &url]).out, "nothing was set\n");
}

#[test]
fn wrong_usage_is_told() {
    for arguments in [
        &["mode"][..],
        &["mode", "on"],
        &["mode", "off", "--for", "soon"],
        &["mode", "show", "--rule", "r"],
        &["mode", "show", "--for", "5m"],
        &["mode", "reset", "--reason", "x"],
    ] {
        assert_eq!(run(arguments).exit(), Exit::Usage, "{arguments:?}");
    }
    let (url, _questions) = proxy(vec![(404, error("no_rule"))]);
    assert_eq!(run(&["mode", "off", "--rule", "r", "--admin", &url]).exit(), Exit::No);
}
