use proptest::prelude::*;

use super::*;
use crate::celery::Limits;
use crate::celery::body::{self, Encoding};

fn listed(key: &[&str]) -> RuleSpec {
    RuleSpec {
        key: KeySpec::List(key.iter().map(|text| (*text).to_owned()).collect()),
        ..rule("t")
    }
}

fn template(text: &str) -> RuleSpec {
    RuleSpec {
        key: KeySpec::Template(text.to_owned()),
        ..rule("t")
    }
}

fn unkeyable(message: &Message, rules: &RuleSet) -> Option<UnkeyableReason> {
    match message.decide(rules) {
        Verdict::Unkeyable { reason, .. } => Some(reason),
        _ => None,
    }
}

fn first_error(spec: RuleSpec) -> SpecError {
    RuleSet::compile(vec![spec], &Signatures::new()).expect_err("refused").remove(0)
}

#[test]
fn a_call_that_does_not_bind_never_takes_a_fact_for_an_argument() {
    // `user` is a parameter and the name of a fact: the fact is the same for all calls.
    let rules = one(keyed("user, amount", &["user"]));
    let call = Message {
        user: Some("app"),
        ..message("t").args(vec![Value::Int(1)])
    };
    assert_eq!(unkeyable(&call, &rules), Some(UnkeyableReason::MissingArgument));
    let rules = one(RuleSpec {
        params: Some("user, amount".to_owned()),
        ..template("{{ user | upper }}")
    });
    assert!(unkeyable(&call, &rules).is_some());
    let when = RuleSpec {
        when: Some("user == 'app'".to_owned()),
        ..keyed("user, amount", &["user"])
    };
    assert!(matches!(call.decide(&one(when)), Verdict::WhenError { .. }));
}

#[test]
fn a_task_without_a_signature_never_takes_a_fact_for_another_task_s_argument() {
    let signatures = Signatures::from([("app.a".to_owned(), "task, n".to_owned())]);
    let spec = RuleSpec {
        key: KeySpec::List(vec!["task".to_owned()]),
        ..rule("app.*").named("r")
    };
    let rules = RuleSet::compile(vec![spec], &signatures).expect("compiles");
    let call = message("app.b").args(vec![Value::Int(1), Value::Int(2)]);
    assert_eq!(unkeyable(&call, &rules), Some(UnkeyableReason::MissingArgument));
}

#[test]
fn what_is_not_known_of_a_message_is_no_part_of_a_key() {
    let unknown = Message {
        queues: None,
        ..message("t")
    };
    assert_eq!(unkeyable(&unknown, &one(listed(&["queue"]))), Some(UnkeyableReason::Expression));
    assert_eq!(unkeyable(&unknown, &one(listed(&["user"]))), Some(UnkeyableReason::Expression));
    let several = Message {
        queues: Some(vec!["q".into(), "r".into()]),
        ..message("t")
    };
    assert_eq!(unkeyable(&several, &one(listed(&["queue"]))), Some(UnkeyableReason::Expression));
    assert_eq!(unkeyable(&message("t"), &one(listed(&["queue"]))), None);
    assert_eq!(
        unkeyable(&unknown, &one(listed(&["user is defined"]))),
        None,
        "an expression may ask"
    );
}

#[test]
fn a_given_key_that_is_empty_or_no_text_makes_no_key() {
    let rules = one(RuleSpec {
        allow_overrides: vec![Override::Key],
        ..rule("t")
    });
    for value in [text(""), FieldValue::LongStr(b"\xff"), FieldValue::F64(1.5), FieldValue::Bool(true)] {
        let call = message("t").header("x-oncegate-key", value);
        assert_eq!(unkeyable(&call, &rules), Some(UnkeyableReason::Expression), "{value:?}");
    }
    let ignored = message("t").header("x-oncegate-key", text(""));
    assert_eq!(
        unkeyable(&ignored, &one(rule("t"))),
        None,
        "where it is not allowed it is not looked at"
    );
}

#[test]
fn a_given_ttl_may_be_a_fraction_or_text() {
    let rules = one(RuleSpec {
        allow_overrides: vec![Override::Ttl],
        ..rule("t")
    });
    for (value, life_ms) in [
        (FieldValue::F64(1.5), 1500),
        (text("2.5"), 2500),
        (text("30"), 30_000),
        (FieldValue::F64(f64::NAN), 86_400_000),
        (FieldValue::F64(f64::INFINITY), 86_400_000),
        (text("0"), 86_400_000),
        (text("soon"), 86_400_000),
        (FieldValue::I64(i64::MAX), 86_400_000),
    ] {
        assert_eq!(
            message("t").header("x-oncegate-ttl", value).claim(&rules).life_ms,
            life_ms,
            "{value:?}"
        );
    }
}

#[test]
fn headers_of_a_key_keep_their_types() {
    let rules = one(listed(&["headers['x']"]));
    let values = [
        text("1"),
        FieldValue::I32(1),
        FieldValue::F64(1.0),
        FieldValue::F32(2.0),
        FieldValue::Bool(true),
        FieldValue::Timestamp(1),
        FieldValue::Timestamp(2),
        FieldValue::Decimal { scale: 1, value: 1 },
        FieldValue::Decimal { scale: 1, value: 2 },
        FieldValue::LongStr(b"\xff"),
        FieldValue::LongStr(b"\xfe"),
    ];
    let digests: BTreeSet<_> = values.iter().map(|value| message("t").header("x", *value).digest(&rules)).collect();
    assert_eq!(digests.len(), values.len());
    assert_eq!(
        unkeyable(&message("t"), &rules),
        Some(UnkeyableReason::Expression),
        "an absent header is no argument"
    );
}

fn object(class: &str, part: &str) -> Value {
    Value::Object {
        class: class.to_owned(),
        parts: vec![name(part)],
    }
}

#[test]
fn values_go_through_expressions_unchanged() {
    let big = |digits: &str| Value::BigInt(digits.to_owned());
    let huge = "1606938044258990275541962092341162602522202993782792835301376";
    let values = [
        Value::Null,
        Value::Bool(true),
        Value::Int(1),
        Value::Float(1.0),
        name("1"),
        big("18446744073709551616"),
        big(huge),
        name(huge),
        Value::Bytes(vec![0xff]),
        Value::Bytes(vec![0xfe]),
        Value::List(vec![Value::Int(1)]),
        Value::Tuple(vec![Value::Int(1)]),
        Value::Set(vec![Value::Int(1)]),
        Value::Map(vec![(name("1"), Value::Null)]),
        Value::Map(vec![(Value::Int(1), Value::Null)]),
        Value::Map(vec![(Value::Bool(true), Value::Null)]),
        object("decimal.Decimal", "1"),
        object("uuid.UUID", "1"),
        Value::Map(vec![
            (name("class"), name("uuid.UUID")),
            (name("parts"), Value::List(vec![name("1")])),
        ]),
    ];
    // Not a plain path, so it goes through the expression language.
    let through = one(keyed("a", &["(a)"]));
    let straight = one(keyed("a", &["a"]));
    let mut digests = BTreeSet::new();
    for value in &values {
        let call = message("t").args(vec![value.clone()]);
        assert_eq!(call.digest(&through), call.digest(&straight), "{value:?}");
        digests.insert(call.digest(&through));
    }
    assert_eq!(digests.len(), values.len());
}

#[test]
fn a_template_writes_sets_and_mappings_in_one_order() {
    let rules = one(template("{{ kwargs }}"));
    let ab = message("t").kwargs(vec![("a", Value::Int(1)), ("b", Value::Int(2))]);
    let ba = message("t").kwargs(vec![("b", Value::Int(2)), ("a", Value::Int(1))]);
    assert_eq!(ab.digest(&rules), ba.digest(&rules));
    let rules = one(template("{{ args[0] }}"));
    let set = |items: [i64; 2]| message("t").args(vec![Value::Set(items.map(Value::Int).to_vec())]);
    assert_eq!(set([1, 2]).digest(&rules), set([2, 1]).digest(&rules));
}

#[test]
fn a_condition_sees_the_signature_of_its_own_rule() {
    let first = RuleSpec {
        and_next: true,
        ..keyed("a", &["a"]).named("first")
    };
    let second = RuleSpec {
        params: Some("b".to_owned()),
        when: Some("b > 1".to_owned()),
        namespace: Some("n".to_owned()),
        ..rule("t").named("second")
    };
    let rules = set(vec![first, second]);
    let call = |n| message("t").args(vec![Value::Int(n)]);
    let expected = |n, namespace: Option<&str>| {
        call(n).digest(&one(RuleSpec {
            namespace: namespace.map(str::to_owned),
            ..keyed("a", &["a"])
        }))
    };
    assert_eq!(call(2).digest(&rules), expected(2, Some("n")), "joined");
    assert_eq!(call(1).digest(&rules), expected(1, None), "alone, since the second's when is false");
    assert_eq!(&*call(2).claim(&rules).rule.name, "first");
}

#[test]
fn a_key_and_its_signature_come_from_one_rule() {
    let first = RuleSpec {
        and_next: true,
        params: Some("x, y".to_owned()),
        ..rule("t").named("first")
    };
    let second = keyed("a, b", &["b"]).named("second");
    let call = message("t").args(vec![Value::Int(1), Value::Int(2)]);
    let expected = call.digest(&one(RuleSpec {
        params: Some("x, y".to_owned()),
        ..rule("t")
    }));
    assert_eq!(call.digest(&set(vec![first, second])), expected);
}

#[test]
fn a_life_beyond_all_numbers_is_no_fault() {
    let rules = one(RuleSpec {
        ttl: Duration::MAX,
        ..rule("t")
    });
    let call = message("t").header("eta", text("9999-12-31T23:59:59+00:00"));
    assert_eq!(call.claim(&rules).life_ms, u64::MAX);
}

#[test]
fn words_that_the_language_does_not_have_are_refused_at_load() {
    for spec in [
        listed(&["kwargs.a | uppr"]),
        listed(&["kwargs.a is evn"]),
        template("{{ kwargs.a | uppr }}"),
    ] {
        let error = first_error(spec);
        assert_eq!(error.key, "key");
        assert!(error.message.contains("uppr") || error.message.contains("evn"), "{}", error.message);
    }
    for text in ["{% if args %}a{% endif %}{{ kwargs.a }}", "{# note #}{{ kwargs.a }}"] {
        assert!(first_error(template(text)).message.contains("only {{ }}"), "{text}");
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    type Change = fn(&mut RuleSpec);
    let cases: [(Change, &str); 5] = [
        (|spec| spec.ttl = Duration::ZERO, "ttl"),
        (|spec| spec.lease = Duration::from_micros(1), "lease"),
        (|spec| spec.max_ttl = Some(Duration::from_secs(1)), "max_ttl"),
        (|spec| spec.namespace = Some(String::new()), "namespace"),
        (|spec| (spec.bypass, spec.and_next) = (true, true), "continue"),
    ];
    for (change, key) in cases {
        let mut spec = rule("t");
        change(&mut spec);
        let error = first_error(spec);
        assert_eq!(error.key, key);
        assert!(!error.remedy.is_empty(), "{key}");
    }
}

#[test]
fn args_are_one_sequence_whatever_carried_them() {
    for spec in [listed(&["args"]), listed(&["(args)"]), template("{{ args }}"), rule("t")] {
        let rules = one(spec);
        let list = message("t").args(vec![Value::Int(1)]);
        let mut tuple = message("t");
        tuple.body.args = Value::Tuple(vec![Value::Int(1)]);
        assert_eq!(list.digest(&rules), tuple.digest(&rules));
    }
}

/// JSON and msgpack of values that both can carry, written here so that the readers are not tested against themselves.
fn json(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Str(text) => serde_json::to_string(text).expect("text"),
        Value::List(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(", ")),
        Value::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", json(key), json(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => panic!("not in JSON: {other:?}"),
    }
}

fn msgpack(value: &Value) -> rmpv::Value {
    match value {
        Value::Null => rmpv::Value::Nil,
        Value::Bool(truth) => rmpv::Value::from(*truth),
        Value::Int(number) => rmpv::Value::from(*number),
        Value::Float(number) => rmpv::Value::from(*number),
        Value::Str(text) => rmpv::Value::from(text.as_str()),
        Value::List(items) => rmpv::Value::Array(items.iter().map(msgpack).collect()),
        Value::Map(entries) => rmpv::Value::Map(entries.iter().map(|(key, value)| (msgpack(key), msgpack(value))).collect()),
        other => panic!("not in msgpack: {other:?}"),
    }
}

/// Pickle of protocol 2, without memo: what `pickle.dumps` writes but for the order of its memo. The arguments are a tuple, as Celery
/// sends them.
fn pickle(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(truth) => out.push(if *truth { 0x88 } else { 0x89 }),
        Value::Int(number) => {
            out.extend([0x8a, 8]);
            out.extend(number.to_le_bytes());
        }
        Value::Float(number) => {
            out.push(b'G');
            out.extend(number.to_be_bytes());
        }
        Value::Str(text) => {
            out.push(b'X');
            out.extend((text.len() as u32).to_le_bytes());
            out.extend(text.as_bytes());
        }
        Value::List(items) => {
            out.extend(b"](");
            for item in items {
                pickle(item, out);
            }
            out.push(b'e');
        }
        Value::Tuple(items) => {
            out.push(b'(');
            for item in items {
                pickle(item, out);
            }
            out.push(b't');
        }
        Value::Map(entries) => {
            out.extend(b"}(");
            for (key, value) in entries {
                pickle(key, out);
                pickle(value, out);
            }
            out.push(b'u');
        }
        other => panic!("not written: {other:?}"),
    }
}

fn carried() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-1e9_f64..1e9).prop_map(Value::Float),
        "[a-c\u{e9}\"\\\\ \n]{0,4}".prop_map(Value::Str),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::List),
            prop::collection::btree_map("[a-d]{1,2}", inner, 0..3)
                .prop_map(|entries| Value::Map(entries.into_iter().map(|(key, value)| (Value::Str(key), value)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_carrier_of_the_same_arguments_gives_the_same_key(
        args in prop::collection::vec(carried(), 0..3),
        kwargs in prop::collection::btree_map("[a-d]", carried(), 0..3),
    ) {
        let kwargs = Value::Map(kwargs.into_iter().map(|(key, value)| (Value::Str(key), value)).collect());
        let embed = Value::Map(Vec::new());
        let whole = Value::List(vec![Value::List(args.clone()), kwargs.clone(), embed.clone()]);
        let mut packed = Vec::new();
        rmpv::encode::write_value(&mut packed, &msgpack(&whole)).expect("written");
        let mut pickled = vec![0x80, 2];
        pickle(&Value::Tuple(vec![Value::Tuple(args), kwargs, embed]), &mut pickled);
        pickled.push(b'.');
        let rules = one(rule("t"));
        let digests: BTreeSet<_> = [
            ("application/json", "utf-8", json(&whole).into_bytes()),
            ("application/x-msgpack", "binary", packed),
            ("application/x-python-serialize", "binary", pickled),
        ]
        .into_iter()
        .map(|(content_type, content_encoding, octets)| {
            let encoding = Encoding {
                content_type: Some(content_type.as_bytes()),
                content_encoding: Some(content_encoding.as_bytes()),
                compression: None,
            };
            let body = body::decode(&encoding, &octets, Limits::new(1 << 20)).expect(content_type);
            Message { body, ..message("t") }.digest(&rules)
        })
        .collect();
        prop_assert_eq!(digests.len(), 1);
    }
}
