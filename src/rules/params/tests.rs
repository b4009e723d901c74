//! Signatures and calls, as Python has them.

use super::*;

fn bound(signature: &str, args: &[i64], kwargs: &[(&str, i64)]) -> Result<Vec<Value>, BindError> {
    let params = Params::parse(signature).expect("a signature");
    let args: Vec<_> = args.iter().map(|number| Value::Int(*number)).collect();
    let kwargs: Vec<_> = kwargs
        .iter()
        .map(|(name, number)| (Value::Str((*name).to_owned()), Value::Int(*number)))
        .collect();
    params
        .bind(&args, &kwargs)
        .map(|values| values.into_iter().map(Cow::into_owned).collect())
}

#[test]
fn positional_and_named_calls_are_one() {
    let signature = "a, b: int = 2, *, c=3";
    let same = Ok(vec![Value::Int(1), Value::Int(2), Value::Int(3)]);
    assert_eq!(bound(signature, &[1], &[]), same);
    assert_eq!(bound(signature, &[], &[("a", 1)]), same);
    assert_eq!(bound(signature, &[1, 2], &[("c", 3)]), same);
    assert_eq!(bound(signature, &[], &[("c", 3), ("b", 2), ("a", 1)]), same);
}

#[test]
fn a_call_that_python_refuses_does_not_bind() {
    assert_eq!(bound("a, b", &[1], &[]), Err(BindError::Missing("b".to_owned())));
    assert_eq!(bound("a", &[1, 2], &[]), Err(BindError::TooMany));
    assert_eq!(bound("a", &[1], &[("a", 2)]), Err(BindError::Twice("a".to_owned())));
    assert_eq!(bound("a", &[1], &[("z", 2)]), Err(BindError::Unexpected("z".to_owned())));
    assert_eq!(bound("a, /", &[], &[("a", 1)]), Err(BindError::Missing("a".to_owned())));
    assert_eq!(bound("*, a", &[1], &[]), Err(BindError::Missing("a".to_owned())));
}

#[test]
fn the_rest_goes_to_the_stars() {
    let values = bound("a, /, *rest, **others", &[1, 2, 3], &[("a", 9), ("z", 8)]);
    let others = Value::Map(vec![
        (Value::Str("a".to_owned()), Value::Int(9)),
        (Value::Str("z".to_owned()), Value::Int(8)),
    ]);
    assert_eq!(
        values,
        Ok(vec![Value::Int(1), Value::List(vec![Value::Int(2), Value::Int(3)]), others])
    );
}

#[test]
fn defaults_are_read_as_python_reads_them() {
    let cases = [
        ("None", Value::Null),
        ("-5", Value::Int(-5)),
        ("1_000", Value::Int(1000)),
        ("2.5e3", Value::Float(2500.0)),
        ("'x, y'", Value::Str("x, y".to_owned())),
        ("[1, 'a']", Value::List(vec![Value::Int(1), Value::Str("a".to_owned())])),
        ("(1,)", Value::Tuple(vec![Value::Int(1)])),
        ("()", Value::Tuple(vec![])),
        ("{'a': 1}", Value::Map(vec![(Value::Str("a".to_owned()), Value::Int(1))])),
        (
            "SOME.CONSTANT",
            Value::Object {
                class: "oncegate.default".to_owned(),
                parts: vec![Value::Str("SOME.CONSTANT".to_owned())],
            },
        ),
    ];
    for (text, value) in cases {
        assert_eq!(literal(text), value, "{text}");
    }
}

#[test]
fn wrong_signatures_are_refused_with_their_place() {
    for (text, offset) in [
        ("a, 1b", 3),
        ("a, a", 3),
        ("a=1, b", 5),
        ("a, (b", 3),
        ("/, a", 0),
        ("a=", 0),
        ("a b", 0),
    ] {
        assert_eq!(Params::parse(text).expect_err(text).offset, offset, "{text}");
    }
}

/// The typed form that `tests/params/golden.py` writes.
fn typed(value: &Value) -> String {
    let items = |name: &str, items: &[Value]| format!("{name}[{}]", items.iter().map(typed).collect::<Vec<_>>().join("; "));
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().concat();
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Int(number) => format!("int {number}"),
        Value::BigInt(digits) => format!("int {digits}"),
        Value::Float(number) => format!("float {number:?}"),
        Value::Str(text) => format!("str {}", hex(text.as_bytes())),
        Value::Bytes(octets) => format!("bytes {}", hex(octets)),
        Value::List(list) => items("list", list),
        Value::Tuple(list) => items("tuple", list),
        Value::Set(list) => items("set", list),
        Value::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{} = {}", typed(key), typed(value)))
                .collect();
            format!("map{{{}}}", entries.join("; "))
        }
        Value::Object { class, .. } => format!("object {class}"),
    }
}

fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::Number(number) => Value::Int(number.as_i64().expect("an integer")),
        serde_json::Value::String(text) => Value::Str(text.clone()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(from_json).collect()),
        serde_json::Value::Object(entries) => {
            let entry = |(key, value): (&String, &serde_json::Value)| (Value::Str(key.clone()), from_json(value));
            Value::Map(entries.iter().map(entry).collect())
        }
    }
}

fn read(json: &str) -> Value {
    from_json(&serde_json::from_str(json).expect("JSON"))
}

fn check_bind(signature: &str, args: &str, kwargs: &str, expected: &str) {
    let case = format!("f({signature}) with {args} {kwargs}");
    let params = Params::parse(signature).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let (Value::List(args), Value::Map(kwargs)) = (read(args), read(kwargs)) else {
        panic!("{case}")
    };
    let bound = params
        .bind(&args, &kwargs)
        .map(|values| values.into_iter().map(Cow::into_owned).collect());
    match expected {
        // Python names the first fault that it finds; which one that is means nothing here.
        "missing" | "refused" => assert!(bound.is_err(), "{case}: {bound:?}"),
        values => assert_eq!(bound.map(Value::List), Ok(read(values)), "{case}"),
    }
}

/// Computed by Python itself: `tests/params/golden.py`.
#[test]
fn as_python_has_it() {
    for line in include_str!("../../../tests/params/golden.txt").lines() {
        match line.split('\t').collect::<Vec<_>>().as_slice() {
            ["bind", signature, args, kwargs, expected] => check_bind(signature, args, kwargs, expected),
            ["default", text, expected] => {
                assert_eq!(typed(&literal(text)), *expected, "{text}");
                let params = Params::parse(&format!("a={text}")).expect(text);
                let bound = params.bind(&[], &[]).expect(text);
                assert_eq!(bound.first().map(|value| typed(value)).as_deref(), Some(*expected), "{text}");
            }
            ["syntax", signature] => assert!(Params::parse(signature).is_err(), "{signature}"),
            _ => panic!("{line}"),
        }
    }
}

#[test]
fn what_would_bind_wrongly_is_refused() {
    for text in ["self, a", "a=lambda x, y: x", "a, b=lambda: 1"] {
        assert!(Params::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        Params::parse("(a, b=(1, 2))"),
        Params::parse("a, b=(1, 2)"),
        "with the parentheses too"
    );
}
