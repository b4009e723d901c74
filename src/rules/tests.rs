//! Decisions about messages.

use std::collections::BTreeSet;

use super::outcome::UnkeyableReason;
use super::spec::Key as KeySpec;
use super::*;
use crate::amqp::content::Properties;
use crate::amqp::table::{FieldValue, Table, put_entry};
use crate::celery::body::Canvas as Links;
use crate::celery::task::{self, Task};
use crate::celery::value::Value;

/// What must never make one key of two calls, and what must.
mod apart;
/// Entries of schedules.
mod beat;
/// Messages that expire with their lock.
mod expiry;
/// When retries are due.
mod timing;

const NOW: u64 = 1_800_000_000_000;

/// A message in the making.
struct Message {
    headers: Vec<(&'static str, FieldValue<'static>)>,
    body: Body,
    queues: Option<Vec<Arc<str>>>,
    vhost: &'static str,
    user: Option<&'static str>,
}

fn text(text: &'static str) -> FieldValue<'static> {
    FieldValue::LongStr(text.as_bytes())
}

fn name(name: &str) -> Value {
    Value::Str(name.to_owned())
}

fn message(task: &'static str) -> Message {
    let body = Body {
        args: Value::List(vec![]),
        kwargs: Value::Map(vec![]),
        canvas: Links::default(),
    };
    Message {
        headers: vec![("task", text(task)), ("id", text("id-1"))],
        body,
        queues: Some(vec!["q".into()]),
        vhost: "/",
        user: None,
    }
}

impl Message {
    fn header(mut self, name: &'static str, value: FieldValue<'static>) -> Message {
        self.headers.push((name, value));
        self
    }

    fn args(mut self, args: Vec<Value>) -> Message {
        self.body.args = Value::List(args);
        self
    }

    fn kwargs(mut self, kwargs: Vec<(&str, Value)>) -> Message {
        self.body.kwargs = Value::Map(kwargs.into_iter().map(|(key, value)| (name(key), value)).collect());
        self
    }

    fn with<T>(&self, check: impl FnOnce(&Facts<'_>, &Body) -> T) -> T {
        let mut table = Vec::new();
        for (name, value) in &self.headers {
            put_entry(&mut table, name.as_bytes(), value).expect("short");
        }
        let properties = Properties {
            headers: Some(Table::new(&table)),
            ..Properties::default()
        };
        let task: Task<'_> = task::read(&properties).expect("readable").expect("a task");
        let facts = Facts {
            task: &task,
            vhost: self.vhost,
            user: self.user,
            queues: self.queues.as_deref(),
            exchange: "",
            routing_key: "q",
        };
        check(&facts, &self.body)
    }

    fn decide(&self, rules: &RuleSet) -> Verdict {
        self.with(|facts, body| rules.decide(facts, body, NOW))
    }

    fn digest(&self, rules: &RuleSet) -> lock::Digest {
        self.claim(rules).digest
    }

    fn claim(&self, rules: &RuleSet) -> Claimed {
        match self.decide(rules) {
            Verdict::Claim(claimed) => claimed,
            other => panic!("no claim: {other:?}"),
        }
    }
}

fn rule(task: &str) -> RuleSpec {
    RuleSpec {
        task: vec![task.to_owned()],
        unique: Some(Unique::UntilFinished),
        ..RuleSpec::default()
    }
}

fn set(specs: Vec<RuleSpec>) -> RuleSet {
    RuleSet::compile(specs, &Signatures::new()).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn one(spec: RuleSpec) -> RuleSet {
    set(vec![spec])
}

fn keyed(params: &str, key: &[&str]) -> RuleSpec {
    RuleSpec {
        params: Some(params.to_owned()),
        key: KeySpec::List(key.iter().map(|text| (*text).to_owned()).collect()),
        ..rule("t")
    }
}

#[test]
fn all_arguments_make_the_key_by_default() {
    let rules = one(rule("t"));
    let call = |n| message("t").args(vec![Value::Int(n)]);
    assert_eq!(call(1).digest(&rules), call(1).digest(&rules));
    assert_ne!(call(1).digest(&rules), call(2).digest(&rules));
    assert_ne!(
        call(1).digest(&rules),
        message("t").kwargs(vec![("n", Value::Int(1))]).digest(&rules)
    );
    let ab = message("t").kwargs(vec![("a", Value::Int(1)), ("b", Value::Int(2))]);
    let ba = message("t").kwargs(vec![("b", Value::Int(2)), ("a", Value::Int(1))]);
    assert_eq!(ab.digest(&rules), ba.digest(&rules), "the order of named arguments means nothing");
}

#[test]
fn with_params_a_call_is_the_same_however_it_is_written() {
    let rules = one(RuleSpec {
        params: Some("a, b=2".to_owned()),
        ..rule("t")
    });
    let digest = message("t").args(vec![Value::Int(1)]).digest(&rules);
    assert_eq!(message("t").kwargs(vec![("a", Value::Int(1))]).digest(&rules), digest);
    assert_eq!(message("t").args(vec![Value::Int(1), Value::Int(2)]).digest(&rules), digest);
    assert_ne!(message("t").args(vec![Value::Int(1), Value::Int(3)]).digest(&rules), digest);
}

#[test]
fn listed_expressions_make_the_key() {
    let rules = one(keyed("customer, order, note=''", &["customer", "order.id"]));
    let call = |id, note| message("t").args(vec![Value::Int(7), Value::Map(vec![(name("id"), Value::Int(id))]), name(note)]);
    assert_eq!(call(1, "x").digest(&rules), call(1, "y").digest(&rules));
    assert_ne!(call(1, "x").digest(&rules), call(2, "x").digest(&rules));
}

#[test]
fn computed_expressions_and_templates() {
    let rules = one(keyed("name", &["name | lower"]));
    assert_eq!(
        message("t").args(vec![name("Ann")]).digest(&rules),
        message("t").args(vec![name("ANN")]).digest(&rules)
    );
    let template = RuleSpec {
        params: Some("a, b".to_owned()),
        key: KeySpec::Template("{{ a }} with {{ b }}".to_owned()),
        ..rule("t")
    };
    let rules = one(template);
    let call = |a, b| message("t").args(vec![Value::Int(a), Value::Int(b)]);
    assert_eq!(call(1, 2).digest(&rules), call(1, 2).digest(&rules));
    assert_ne!(call(1, 2).digest(&rules), call(12, 2).digest(&rules));
}

#[test]
fn an_empty_list_is_one_key_per_namespace() {
    let rules = one(RuleSpec {
        key: KeySpec::List(vec![]),
        ..rule("*").named("all")
    });
    let a = message("a").args(vec![Value::Int(1)]).digest(&rules);
    assert_eq!(message("a").args(vec![Value::Int(2)]).digest(&rules), a);
    assert_ne!(message("b").digest(&rules), a, "the namespace is the task name");
    let shared = one(RuleSpec {
        key: KeySpec::List(vec![]),
        namespace: Some("n".to_owned()),
        ..rule("*").named("all")
    });
    assert_eq!(message("a").digest(&shared), message("b").digest(&shared));
}

#[test]
fn virtual_hosts_and_modes_have_keys_of_their_own() {
    let rules = one(rule("t"));
    let here = message("t").digest(&rules);
    let there = Message {
        vhost: "prod",
        ..message("t")
    }
    .digest(&rules);
    assert_ne!(here, there);
    let observing = one(RuleSpec {
        mode: Mode::Observe,
        ..rule("t")
    });
    assert_ne!(message("t").digest(&observing), here);
}

#[test]
fn a_missing_argument_is_unkeyable_and_never_one_key_for_all() {
    let cases = [
        (keyed("a", &["a"]), message("t"), UnkeyableReason::MissingArgument),
        (
            RuleSpec {
                key: KeySpec::List(vec!["kwargs.a".to_owned()]),
                ..rule("t")
            },
            message("t"),
            UnkeyableReason::MissingArgument,
        ),
        (
            RuleSpec {
                key: KeySpec::List(vec!["args[0]".to_owned()]),
                ..rule("t")
            },
            message("t"),
            UnkeyableReason::MissingArgument,
        ),
        (
            RuleSpec {
                key: KeySpec::List(vec!["kwargs.a | upper".to_owned()]),
                ..rule("t")
            },
            message("t"),
            UnkeyableReason::Expression,
        ),
        (
            RuleSpec {
                params: Some("a".to_owned()),
                ..rule("t")
            },
            message("t"),
            UnkeyableReason::MissingArgument,
        ),
        (
            keyed("a", &["a.b"]),
            message("t").args(vec![Value::Int(1)]),
            UnkeyableReason::MissingArgument,
        ),
    ];
    for (spec, message, expected) in cases {
        let text = format!("{:?}", spec.key);
        match message.decide(&one(spec)) {
            Verdict::Unkeyable { reason, .. } => assert_eq!(reason, expected, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn celery_s_own_tasks_match_only_a_pattern_that_names_them() {
    let any = one(RuleSpec {
        unique: Some(Unique::UntilFinished),
        name: Some("any".to_owned()),
        queue: vec!["q".to_owned()],
        ..RuleSpec::default()
    });
    assert!(matches!(message("celery.chord_unlock").decide(&any), Verdict::Unmatched { .. }));
    assert!(matches!(
        message("celery.chord_unlock").decide(&one(rule("*").named("all"))),
        Verdict::Unmatched { .. }
    ));
    assert!(matches!(
        message("celery.chord_unlock").decide(&one(rule("celery.*").named("own"))),
        Verdict::Claim(_)
    ));
    assert!(!any.may_match(b"celery.chord_unlock") && any.may_match(b"anything"));
}

#[test]
fn matchers_narrow_a_rule() {
    let spec = |change: fn(&mut RuleSpec)| {
        let mut spec = rule("app.*").named("r");
        change(&mut spec);
        one(spec)
    };
    let claimed = |rules: &RuleSet, message: &Message| matches!(message.decide(rules), Verdict::Claim(_));
    assert!(claimed(&spec(|_| ()), &message("app.a.b")), "* stands for dots too");
    assert!(!claimed(&spec(|_| ()), &message("other.a")));
    assert!(!claimed(&spec(|spec| spec.vhost = vec!["prod*".to_owned()]), &message("app.a")));
    assert!(claimed(
        &spec(|spec| spec.vhost = vec!["prod*".to_owned()]),
        &Message {
            vhost: "prod-1",
            ..message("app.a")
        }
    ));
    assert!(
        !claimed(&spec(|spec| spec.user = vec!["*".to_owned()]), &message("app.a")),
        "an unknown user is no match"
    );
    assert!(claimed(
        &spec(|spec| spec.user = vec!["ann".to_owned()]),
        &Message {
            user: Some("ann"),
            ..message("app.a")
        }
    ));
    assert!(claimed(&spec(|spec| spec.queue = vec!["q".to_owned()]), &message("app.a")));
    let unknown = Message {
        queues: None,
        ..message("app.a")
    };
    assert!(matches!(
        unknown.decide(&spec(|spec| spec.queue = vec!["q".to_owned()])),
        Verdict::Unmatched { queue_unknown: Some(_) }
    ));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = set(vec![
        rule("app.special"),
        RuleSpec {
            bypass: true,
            ..rule("app.quiet")
        },
        rule("app.*").named("rest"),
    ]);
    assert_eq!(&*message("app.special").claim(&rules).rule.name, "app.special");
    assert_eq!(&*message("app.other").claim(&rules).rule.name, "rest");
    assert!(matches!(
        message("app.quiet").decide(&rules),
        Verdict::Bypassed { reason: Bypass::Rule, .. }
    ));
}

#[test]
fn a_rule_that_is_off_is_as_if_it_were_not_there() {
    let rules = set(vec![
        RuleSpec {
            mode: Mode::Off,
            ..rule("t")
        },
        rule("*").named("rest"),
    ]);
    assert_eq!(&*message("t").claim(&rules).rule.name, "rest");
}

#[test]
fn when_false_goes_on_to_the_next_rule_and_an_error_passes_undecided() {
    let when = |text: &str| RuleSpec {
        when: Some(text.to_owned()),
        ..rule("t").named("w")
    };
    let rules = set(vec![when("retries > 3"), rule("t").named("rest")]);
    assert_eq!(&*message("t").claim(&rules).rule.name, "rest");
    let rules = set(vec![when("kwargs.n > 3"), rule("t").named("rest")]);
    assert!(matches!(message("t").decide(&rules), Verdict::WhenError { .. }));
    assert_eq!(&*message("t").kwargs(vec![("n", Value::Int(4))]).claim(&rules).rule.name, "w");
}

#[test]
fn when_eta_means_an_eta_that_is_not_a_retry_s() {
    let rules = one(RuleSpec {
        when: Some("eta".to_owned()),
        ..rule("t")
    });
    let eta = || message("t").header("eta", text("2030-01-01T00:00:00+00:00"));
    assert!(matches!(message("t").decide(&rules), Verdict::Unmatched { .. }));
    assert!(matches!(eta().decide(&rules), Verdict::Claim(_)));
    assert!(matches!(
        eta().header("retries", FieldValue::I32(1)).decide(&rules),
        Verdict::Unmatched { .. }
    ));
}

#[test]
fn continue_joins_rules_and_earlier_keys_win() {
    let first = RuleSpec {
        and_next: true,
        ttl: Duration::from_secs(5),
        unique: None,
        ..rule("app.*").named("first")
    };
    let second = RuleSpec {
        ttl: Duration::from_secs(7),
        namespace: Some("n".to_owned()),
        ..rule("app.x")
    };
    let rules = set(vec![first, second]);
    let claimed = message("app.x").claim(&rules);
    assert_eq!((&*claimed.rule.name, claimed.life_ms), ("first", 5000));
    assert_eq!(
        claimed.digest,
        message("app.x")
            .claim(&one(RuleSpec {
                namespace: Some("n".to_owned()),
                ..rule("app.x")
            }))
            .digest
    );
    assert!(
        matches!(message("app.y").decide(&rules), Verdict::Unmatched { .. }),
        "alone, the first has no uniqueness"
    );
}

#[test]
fn keys_given_in_a_rule_win_even_at_their_default() {
    let given = Some(BTreeSet::from(["ttl".to_owned()]));
    let first = RuleSpec {
        and_next: true,
        given,
        ..rule("t").named("first")
    };
    let second = RuleSpec {
        ttl: Duration::from_secs(7),
        ..rule("t").named("second")
    };
    assert_eq!(message("t").claim(&set(vec![first, second])).life_ms, 24 * 3600 * 1000);
}

#[test]
fn members_of_a_canvas_are_bypassed() {
    let rules = one(rule("t"));
    let bypassed = |message: Message| {
        matches!(
            message.decide(&rules),
            Verdict::Bypassed {
                reason: Bypass::Canvas,
                ..
            }
        )
    };
    assert!(bypassed(message("t").header("group", text("g"))));
    for links in [
        Links {
            callbacks: true,
            ..Links::default()
        },
        Links {
            errbacks: true,
            ..Links::default()
        },
        Links {
            chain: true,
            ..Links::default()
        },
        Links {
            chord: true,
            ..Links::default()
        },
    ] {
        let mut member = message("t");
        member.body.canvas = links;
        assert!(bypassed(member));
    }
    assert!(!bypassed(message("t")));
}

#[test]
fn overrides_count_only_where_they_are_allowed() {
    let all = vec![Override::Key, Override::Ttl, Override::Bypass];
    let allowed = one(RuleSpec {
        allow_overrides: all,
        max_ttl: Some(Duration::from_secs(60)),
        ttl: Duration::from_secs(10),
        ..rule("t")
    });
    let refused = one(RuleSpec {
        ttl: Duration::from_secs(10),
        ..rule("t")
    });
    let with_key = |key| message("t").header("x-oncegate-key", text(key));
    assert_eq!(
        with_key("k").args(vec![Value::Int(1)]).digest(&allowed),
        with_key("k").digest(&allowed)
    );
    assert_ne!(with_key("k").digest(&allowed), with_key("l").digest(&allowed));
    assert_ne!(
        with_key("k").args(vec![Value::Int(1)]).digest(&refused),
        with_key("k").digest(&refused)
    );
    let with_ttl = |seconds| message("t").header("x-oncegate-ttl", FieldValue::I32(seconds));
    assert_eq!(with_ttl(30).claim(&allowed).life_ms, 30_000);
    assert_eq!(with_ttl(3000).claim(&allowed).life_ms, 60_000, "within max_ttl");
    assert_eq!(with_ttl(-1).claim(&allowed).life_ms, 10_000);
    assert_eq!(with_ttl(30).claim(&refused).life_ms, 10_000);
    let bypass = message("t").header("x-oncegate", text("bypass"));
    assert!(matches!(
        bypass.decide(&allowed),
        Verdict::Bypassed {
            reason: Bypass::Header,
            ..
        }
    ));
    assert!(matches!(bypass.decide(&refused), Verdict::Claim(_)));
}

#[test]
fn the_life_counts_from_the_eta() {
    let rules = one(RuleSpec {
        ttl: Duration::from_secs(10),
        ..rule("t")
    });
    // NOW is 2027-01-15T08:00:00Z.
    assert_eq!(
        message("t").header("eta", text("2027-01-15T08:01:00+00:00")).claim(&rules).life_ms,
        70_000
    );
    assert_eq!(
        message("t").header("eta", text("2020-01-01T00:00:00+00:00")).claim(&rules).life_ms,
        10_000
    );
}

#[test]
fn a_summary_shows_what_the_rule_lets_be_seen() {
    let spec = |summary| RuleSpec {
        summary,
        ..keyed("a, b", &["a", "b"])
    };
    let call = message("t").args(vec![Value::Int(1), name("secret")]);
    assert_eq!(&*call.claim(&one(spec(Summary::Names))).summary, "a, b");
    assert_eq!(&*call.claim(&one(spec(Summary::Full))).summary, "a=1, b='secret'");
    assert_eq!(&*call.claim(&one(spec(Summary::None))).summary, "");
}

#[test]
fn signatures_name_the_arguments_of_tasks_under_a_glob() {
    let signatures = Signatures::from([("app.a".to_owned(), "x, y=1".to_owned())]);
    let spec = RuleSpec {
        key: KeySpec::List(vec!["x".to_owned()]),
        ..rule("app.*").named("r")
    };
    let rules = RuleSet::compile(vec![spec], &signatures).expect("compiles");
    let digest = message("app.a").args(vec![Value::Int(1)]).digest(&rules);
    assert_eq!(
        message("app.a")
            .kwargs(vec![("x", Value::Int(1)), ("y", Value::Int(5))])
            .digest(&rules),
        digest
    );
    assert!(matches!(
        message("app.b").args(vec![Value::Int(1)]).decide(&rules),
        Verdict::Unkeyable { .. }
    ));
}

#[test]
fn explain_tells_each_step() {
    let rules = set(vec![
        rule("other"),
        RuleSpec {
            when: Some("retries > 0".to_owned()),
            ..rule("t").named("w")
        },
        rule("t").named("rest"),
    ]);
    let (verdict, steps) = message("t").with(|facts, body| rules.explain(facts, body, NOW));
    assert!(matches!(verdict, Verdict::Claim(_)));
    let steps: Vec<_> = steps.iter().map(|step| format!("{}: {}", step.rule, step.outcome)).collect();
    assert_eq!(
        steps,
        ["other: task does not match", "w: when is false", "rest: matches and decides"]
    );
}

#[test]
fn wrong_rules_are_refused_with_a_remedy() {
    let refusal = |spec: RuleSpec| {
        let errors = RuleSet::compile(vec![spec], &Signatures::new()).expect_err("refused");
        (errors[0].key, errors[0].message.clone(), errors[0].remedy.clone())
    };
    let template = |text: &str| RuleSpec {
        key: KeySpec::Template(text.to_owned()),
        ..rule("t")
    };
    let (key, message, remedy) = refusal(template("customer_id"));
    assert_eq!(
        (key, format!("{message} {remedy}").as_str()),
        (
            "key",
            "key = \"customer_id\" is a constant: every call would be a duplicate. Write key = [\"customer_id\"] or \
             \"{{ customer_id }}\"; for one per task write key = []."
        )
    );
    assert!(refusal(template("{{ 'x' }}")).1.contains("is a constant"));
    assert!(refusal(template("{{ args")).1.contains("has no }}"));
    assert!(refusal(keyed("a", &["b"])).1.contains("`b` in `b` is neither a parameter"));
    assert!(refusal(keyed("a", &["a +"])).1.contains("is no expression"));
    assert!(refusal(keyed("a", &["'x'"])).1.contains("is a constant"));
    assert_eq!(refusal(keyed("a,, 1", &["a"])).0, "params");
    assert_eq!(
        refusal(RuleSpec {
            when: Some("nothing > 1".to_owned()),
            ..rule("t")
        })
        .0,
        "when"
    );
    assert_eq!(refusal(rule("a.*")).0, "name");
    assert_eq!(refusal(rule("t").named("a b")).0, "name");
    assert_eq!(refusal(rule("t[").named("x")).0, "task");
    assert_eq!(
        refusal(RuleSpec {
            unique: Some(Unique::UntilFinished),
            name: Some("x".to_owned()),
            ..RuleSpec::default()
        })
        .0,
        "task"
    );
    let twice = RuleSet::compile(vec![rule("t"), rule("t")], &Signatures::new()).expect_err("refused");
    assert!(twice[0].message.contains("two rules are named \"t\""));
}

impl RuleSpec {
    fn named(self, name: &str) -> RuleSpec {
        RuleSpec {
            name: Some(name.to_owned()),
            ..self
        }
    }
}
