use super::super::value::object;
use super::*;

fn read(text: &str) -> Result<Value, Unreadable> {
    parse(text.as_bytes(), Limits::new(1 << 20))
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

#[test]
fn values() {
    let big = format!("1{}", "0".repeat(4299));
    for (json, value) in [
        ("null", Value::Null),
        (" \t\r\n true ", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("0", Value::Int(0)),
        ("-0", Value::Int(0)),
        ("9223372036854775807", Value::Int(i64::MAX)),
        ("-9223372036854775808", Value::Int(i64::MIN)),
        ("9223372036854775808", Value::BigInt("9223372036854775808".into())),
        ("-9223372036854775809", Value::BigInt("-9223372036854775809".into())),
        (&big, Value::BigInt(big.clone())),
        ("1.0", Value::Float(1.0)),
        ("-0.0", Value::Float(-0.0)),
        ("1e2", Value::Float(100.0)),
        ("1E+2", Value::Float(100.0)),
        ("12.5e-1", Value::Float(1.25)),
        ("1e400", Value::Float(f64::INFINITY)),
        ("Infinity", Value::Float(f64::INFINITY)),
        ("-Infinity", Value::Float(f64::NEG_INFINITY)),
        (r#""""#, text("")),
        (r#""a\"\\\/\b\f\n\r\tz""#, text("a\"\\/\u{8}\u{c}\n\r\tz")),
        (r#""\u00e9 \ud83d\ude00 é 😀\u0000""#, text("é 😀 é 😀\0")),
        ("[]", Value::List(vec![])),
        ("[ 1 , [ ] ]", Value::List(vec![Value::Int(1), Value::List(vec![])])),
        ("{ }", Value::Map(vec![])),
        (
            r#"{"a":1,"b":2}"#,
            Value::Map(vec![(text("a"), Value::Int(1)), (text("b"), Value::Int(2))]),
        ),
        (
            r#"{"a":1,"b":2,"a":3}"#,
            Value::Map(vec![(text("b"), Value::Int(2)), (text("a"), Value::Int(3))]),
        ),
    ] {
        assert_eq!(read(json), Ok(value), "{json}");
    }
    assert!(matches!(read("NaN"), Ok(Value::Float(number)) if number.is_nan()));
}

#[test]
fn numbers_that_look_alike_differ() {
    assert_ne!(read("1"), read("1.0"));
    assert_ne!(read("9007199254740993"), read("9007199254740992"));
    assert_ne!(read("18446744073709551616"), read("18446744073709551617"));
    assert_ne!(read("1"), read("true"));
    assert_ne!(read("1"), read("\"1\""));
}

#[test]
fn the_last_of_many_equal_keys_counts() {
    let body = (0..5000)
        .map(|number| format!("\"k{}\":{number}", number % 100))
        .collect::<Vec<_>>()
        .join(",");
    let Ok(Value::Map(entries)) = read(&format!("{{{body}}}")) else {
        panic!("a mapping")
    };
    assert_eq!(entries.len(), 100);
    for (key, value) in entries {
        let Value::Int(number) = value else { panic!("a number") };
        assert!(number >= 4900);
        assert_eq!(key, Value::Str(format!("k{}", number % 100)));
    }
}

#[test]
fn what_python_refuses() {
    for json in [
        "",
        " ",
        "nul",
        "True",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,]",
        "]",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1",
        "{\"a\":1,}",
        "{a:1}",
        "{1:1}",
        "\"",
        "\"a",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u+123\"",
        "\"\n\"",
        "01",
        "-",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "0x10",
        "1 2",
        "[1 2]",
        "--1",
        "-Inf",
        "\u{feff}1",
        "[1]x",
    ] {
        assert!(matches!(read(json), Err(Unreadable::ContentType(_))), "{json}");
    }
    assert!(matches!(parse(b"\"\xff\"", Limits::new(100)), Err(Unreadable::ContentType(_))));
}

#[test]
fn lone_surrogates_are_no_text() {
    for json in [
        r#""\ud800""#,
        r#""\ud800x""#,
        r#""\udc00""#,
        r#""\ud800\ud800""#,
        r#""\ud800\u0041""#,
        r#""\udc00\ud800""#,
    ] {
        assert!(matches!(read(json), Err(Unreadable::ContentType(_))), "{json}");
    }
}

#[test]
fn limits() {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(MAX_DEPTH)).is_ok());
    for depth in [MAX_DEPTH + 1, 5_000, 500_000] {
        assert!(matches!(read(&nested(depth)), Err(Unreadable::TooLarge(_))), "{depth}");
        assert!(matches!(read(&"[".repeat(depth)), Err(Unreadable::TooLarge(_))), "{depth}");
        assert!(matches!(read(&"{\"a\":".repeat(depth)), Err(Unreadable::TooLarge(_))), "{depth}");
    }
    let few = Limits {
        max_message: 100,
        max_values: 3,
    };
    assert!(parse(b"[1,2]", few).is_ok());
    assert!(matches!(parse(b"[1,2,3]", few), Err(Unreadable::TooLarge(_))));
    assert!(matches!(read(&"1".repeat(4301)), Err(Unreadable::TooLarge(_))));
}

#[test]
fn envelopes_become_what_they_stand_for() {
    for (json, value) in [
        (
            r#"{"__type__":"datetime","__value__":"2026-01-02T03:04:05"}"#,
            object("datetime.datetime", vec![text("2026-01-02T03:04:05")]),
        ),
        (
            r#"{"__value__":"2026-01-02","__type__":"date"}"#,
            object("datetime.date", vec![text("2026-01-02")]),
        ),
        (
            r#"{"__type__":"time","__value__":"01:02:00"}"#,
            object("datetime.time", vec![text("01:02:00")]),
        ),
        (
            r#"{"__type__":"decimal","__value__":"1.10"}"#,
            object("decimal.Decimal", vec![text("1.10")]),
        ),
        (
            r#"{"__type__":"uuid","__value__":{"hex":"00000000000000000000000000000005"}}"#,
            object("uuid.UUID", vec![text("00000000-0000-0000-0000-000000000005")]),
        ),
        (r#"{"__type__":"bytes","__value__":"abc"}"#, Value::Bytes(b"abc".to_vec())),
        (r#"{"__type__":"base64","__value__":"/wA="}"#, Value::Bytes(vec![255, 0])),
    ] {
        assert_eq!(read(json), Ok(value), "{json}");
    }
    for json in [
        r#"{"__type__":"money","__value__":"1"}"#,
        r#"{"__type__":"date","__value__":1}"#,
        r#"{"__type__":"date","__value__":"x","more":1}"#,
        r#"{"__type__":"uuid","__value__":{"hex":"5"}}"#,
        r#"{"__type__":"uuid","__value__":{"int":5}}"#,
        r#"{"__type__":"base64","__value__":"="}"#,
        r#"{"__type__":["date"],"__value__":"x"}"#,
    ] {
        assert!(matches!(read(json), Ok(Value::Map(entries)) if entries.len() >= 2), "{json}");
    }
}

#[test]
fn truncated_anywhere() {
    let whole = r#"[[1, -2.5e3, "é\u00e9\ud83d\ude00", {"a": null, "b": [true, false]}], {}, {"callbacks": null}]"#;
    assert!(read(whole).is_ok());
    for length in 0..whole.len() {
        let part = &whole.as_bytes()[..length];
        assert!(parse(part, Limits::new(1 << 20)).is_err(), "{length}");
    }
}
