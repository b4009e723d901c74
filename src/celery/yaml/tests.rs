use super::super::value::object;
use super::*;

fn read(text: &str) -> Result<Value, Unreadable> {
    parse(text.as_bytes(), Limits::new(1 << 20))
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

#[test]
fn documents() {
    for (yaml, value) in [
        (
            "- 1\n- [a, 'b', \"\\u00e9\"]\n",
            Value::List(vec![Value::Int(1), Value::List(vec![text("a"), text("b"), text("é")])]),
        ),
        (
            "--- {a: 1, b: {c: []}}\n...\n",
            Value::Map(vec![
                (text("a"), Value::Int(1)),
                (text("b"), Value::Map(vec![(text("c"), Value::List(vec![]))])),
            ]),
        ),
        ("a: 1\na: 2\n", Value::Map(vec![(text("a"), Value::Int(2))])),
        ("1: x\n", Value::Map(vec![(Value::Int(1), text("x"))])),
        ("'1'", text("1")),
        ("!!str 1", text("1")),
        ("!!int '1'", Value::Int(1)),
        ("!!float 1.5", Value::Float(1.5)),
        ("!!binary |\n  /w\n  A=\n", Value::Bytes(vec![255, 0])),
        ("!!set {a: null, b: null}", Value::Set(vec![text("a"), text("b")])),
        ("!!timestamp 2026-01-02", object("datetime.date", vec![text("2026-01-02")])),
        ("|\n  a\n  b\n", text("a\nb\n")),
        (">\n  a\n  b\n", text("a b\n")),
        ("# nothing\n- ", Value::List(vec![Value::Null])),
    ] {
        assert_eq!(read(yaml), Ok(value), "{yaml}");
    }
}

#[test]
fn what_is_refused() {
    for yaml in [
        "",
        "# nothing",
        "- &a 1\n- *a\n",
        "- *a",
        "&a [1]",
        "!mine 1",
        "!!python/object:os.system {}",
        "!!python/tuple [1]",
        "!!omap [a: 1]",
        "a: 1\n---\nb: 2\n",
        "[1",
        "{a: 1",
        "'a",
        "\"\\q\"",
        "a: b: c",
        "{<<: {a: 1}}",
        "!!int x",
        "!!float 1",
        "!!bool 1",
        "!!null x",
        "!!binary '?'",
        "!!timestamp x",
        "!!seq {a: 1}",
        "!!map [1]",
        "- a\u{2028}b",
        "\u{feff}a",
    ] {
        assert!(matches!(read(yaml), Err(Unreadable::ContentType(_))), "{yaml:?}: {:?}", read(yaml));
    }
    assert!(matches!(parse(b"\xff", Limits::new(10)), Err(Unreadable::ContentType(_))));
}

#[test]
fn limits() {
    for depth in [MAX_DEPTH + 1, 5_000, 100_000] {
        for part in ["[", "{a: ", "- ", "[{"] {
            let read = read(&part.repeat(depth));
            // The scanner has a limit of its own, in brackets.
            assert!(
                matches!(read, Err(Unreadable::TooLarge(_) | Unreadable::ContentType(_))),
                "{part} {depth}: {read:?}"
            );
        }
    }
    let nested = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert!(read(&nested).is_ok());
    let few = Limits {
        max_message: 100,
        max_values: 3,
    };
    assert!(parse(b"[1, 2]", few).is_ok());
    assert!(matches!(parse(b"[1, 2, 3]", few), Err(Unreadable::TooLarge(_))));
}
