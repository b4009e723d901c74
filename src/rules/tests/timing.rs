//! When a retry is due.

use std::time::Duration;

use super::*;
use crate::rules::lock::{IfHeld, Quiet};

/// [`NOW`] is 2027-01-15T08:00:00Z; Celery's own countdown of a retry is 180 s.
const OWN: &str = "2027-01-15T08:03:00.471471+00:00";
const NOW_MS: i64 = NOW as i64;

fn delays(spec: RuleSpec) -> RuleSpec {
    RuleSpec {
        retry_delays: [10, 60, 300].map(Duration::from_secs).to_vec(),
        ..spec
    }
}

fn keyless() -> RuleSpec {
    RuleSpec {
        unique: None,
        ..delays(rule("t"))
    }
}

fn retry(number: i32) -> Message {
    message("t").header("eta", text(OWN)).header("retries", FieldValue::I32(number))
}

fn publishing(message: &Message, rules: &RuleSet) -> Publishing {
    message.with(|facts, body| rules.decide_publish(facts, body, NOW))
}

#[test]
fn the_nth_retry_comes_after_the_nth_delay_and_each_later_one_after_the_last() {
    for spec in [delays(rule("t")), keyless()] {
        let rules = one(spec);
        let due = |number| publishing(&retry(number), &rules).due;
        assert_eq!(due(0), Due::Own, "no retry");
        assert_eq!(publishing(&message("t"), &rules).due, Due::Own);
        for (number, seconds) in [(1, 10), (2, 60), (3, 300), (4, 300), (i32::MAX, 300)] {
            assert_eq!(due(number), Due::At(NOW_MS + seconds * 1000), "{number}");
        }
    }
}

#[test]
fn the_life_of_the_lock_counts_from_it() {
    let rules = one(RuleSpec {
        ttl: Duration::from_secs(600),
        expires_with_lock: true,
        ..delays(rule("t"))
    });
    let message = retry(2).header("expires", FieldValue::Void);
    let Verdict::Claim(claimed) = publishing(&message, &rules).verdict else {
        panic!("a claim")
    };
    assert_eq!(claimed.life_ms, 660_000);
    assert!(matches!(claimed.expiry, Expiry::WithLock { at_ms, .. } if at_ms == NOW_MS + 660_000));
    let own = message.claim(&rules);
    assert_eq!(own.life_ms, 780_471, "what is delivered is due when it says");
    assert_eq!(claimed.digest, own.digest);
}

#[test]
fn members_of_canvas_are_retried_so_too_and_what_is_bypassed_is_left_alone() {
    let member = retry(1).header("group", text("g"));
    let publishing_of = |spec| publishing(&member, &one(spec));
    let canvas = publishing_of(delays(rule("t")));
    assert!(matches!(
        canvas.verdict,
        Verdict::Bypassed {
            reason: Bypass::Canvas,
            ..
        }
    ));
    assert_eq!(canvas.due, Due::At(NOW_MS + 10_000));
    let bypass = RuleSpec {
        bypass: true,
        ..delays(rule("t"))
    };
    assert_eq!(publishing_of(bypass).due, Due::Own);
    let told = retry(1).header("x-oncegate", text("bypass"));
    for spec in [delays(rule("t")), keyless()] {
        let allowing = RuleSpec {
            allow_overrides: vec![spec::Override::Bypass],
            ..spec
        };
        let header = publishing(&told, &one(allowing));
        assert!(matches!(
            header.verdict,
            Verdict::Bypassed {
                reason: Bypass::Header,
                ..
            }
        ));
        assert_eq!(header.due, Due::Own);
    }
}

#[test]
fn a_message_without_a_key_is_retried_so_too() {
    let spec = RuleSpec {
        key: KeySpec::List(vec!["args[3]".to_owned()]),
        ..delays(rule("t"))
    };
    let publishing = publishing(&retry(1), &one(spec));
    assert!(matches!(publishing.verdict, Verdict::Unkeyable { .. }), "{publishing:?}");
    assert_eq!(publishing.due, Due::At(NOW_MS + 10_000));
}

#[test]
fn an_observing_rule_changes_nothing() {
    for spec in [delays(rule("t")), keyless()] {
        let observing = RuleSpec {
            mode: Mode::Observe,
            ..spec
        };
        assert_eq!(publishing(&retry(1), &one(observing)).due, Due::Own);
    }
}

#[test]
fn what_has_no_place_for_it_is_left_as_it_is() {
    let rules = one(delays(rule("t")));
    let bare = message("t").header("retries", FieldValue::I32(1));
    let due = publishing(&bare, &rules).due;
    assert!(matches!(due, Due::Unwritable(why) if why.contains("protocol 1")), "{due:?}");
    for exchange in ["celery_delayed_27", "celery_delayed_0", "shop_celery_delayed_3"] {
        let due = retry(1).with(|facts, body| {
            let facts = Facts { exchange, ..*facts };
            rules.decide_publish(&facts, body, NOW).due
        });
        assert!(matches!(due, Due::Unwritable(why) if why.contains("native")), "{exchange}: {due:?}");
    }
    let other = retry(1).with(|facts, body| {
        let facts = Facts {
            exchange: "celery_delayed_orders",
            ..*facts
        };
        rules.decide_publish(&facts, body, NOW).due
    });
    assert_eq!(other, Due::At(NOW_MS + 10_000), "its name only begins like one");
}

#[test]
fn a_rule_may_have_nothing_else_and_another_may_go_on_from_it() {
    let first = RuleSpec {
        name: Some("delays".to_owned()),
        and_next: true,
        ..keyless()
    };
    let both = set(vec![first.clone(), rule("t")]);
    let joined = publishing(&retry(1), &both);
    assert!(
        matches!(&joined.verdict, Verdict::Claim(claimed) if claimed.unstarted_ms.is_none()),
        "{joined:?}"
    );
    assert_eq!(joined.due, Due::At(NOW_MS + 10_000));
    let alone = publishing(&retry(1), &one(first));
    assert!(matches!(&alone.verdict, Verdict::Keyless { rule } if &*rule.name == "delays"));
    assert_eq!(alone.due, Due::At(NOW_MS + 10_000));
}

fn debounced() -> RuleSpec {
    RuleSpec {
        ttl: Duration::from_secs(600),
        debounce: Some(Duration::from_secs(10)),
        debounce_max: Some(Duration::from_secs(60)),
        ..rule("t")
    }
}

fn claimed(publishing: Publishing) -> Claimed {
    match publishing.verdict {
        Verdict::Claim(claimed) => claimed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_debounced_call_is_put_off_and_its_lock_lives_from_then() {
    let rules = one(debounced());
    for (own, due, life_ms) in [
        (FieldValue::Void, Due::At(NOW_MS + 10_000), 610_000),
        (text("2027-01-15T08:00:05+00:00"), Due::At(NOW_MS + 10_000), 610_000),
        (text(OWN), Due::Own, 780_471),
    ] {
        let publishing = publishing(&message("t").header("eta", own), &rules);
        assert_eq!(publishing.due, due);
        let claimed = claimed(publishing);
        let quiet = Quiet {
            period_ms: 10_000,
            longest_ms: Some(60_000),
        };
        assert_eq!((claimed.life_ms, claimed.if_held), (life_ms, IfHeld::Debounce(quiet)));
    }
}

#[test]
fn what_ran_before_and_what_is_observed_is_not_put_off() {
    let rules = one(debounced());
    for header in ["retries", "replaced_task_nesting"] {
        let again = message("t").header("eta", FieldValue::Void).header(header, FieldValue::I32(1));
        assert_eq!(publishing(&again, &rules).due, Due::Own, "{header}");
    }
    let observing = one(RuleSpec {
        mode: Mode::Observe,
        ..debounced()
    });
    let publishing = publishing(&message("t").header("eta", FieldValue::Void), &observing);
    assert_eq!(publishing.due, Due::Own);
    assert!(claimed(publishing).if_held.quiet().is_some(), "it is counted alike");
}

#[test]
fn a_debounced_call_whose_time_cannot_be_written_replaces_at_once() {
    let publishing = publishing(&message("t"), &one(debounced()));
    assert!(matches!(publishing.due, Due::Unwritable(_)));
    let claimed = claimed(publishing);
    assert_eq!((claimed.life_ms, claimed.if_held), (600_000, IfHeld::Replace));
}

#[test]
fn the_quiet_period_ends_at_the_bound_at_the_latest() {
    let quiet = |longest_ms| Quiet { period_ms: 10, longest_ms };
    assert_eq!(quiet(None).due_ms(0, 1_000), 1_010);
    assert_eq!(quiet(Some(30)).due_ms(1_000, 1_015), 1_025);
    assert_eq!(quiet(Some(30)).due_ms(1_000, 1_025), 1_030);
    assert_eq!(quiet(Some(30)).due_ms(1_000, 2_000), 1_030, "in the past");
    assert_eq!(quiet(Some(u64::MAX)).due_ms(1, u64::MAX), u64::MAX);
}
