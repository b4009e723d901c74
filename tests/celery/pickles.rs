//! Pickles of all protocols.

use super::describe::describe;
use super::*;
use oncegate::celery::json;

fn pickles(row: &Json) -> Vec<Value> {
    row["pickles"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|hex| pickle::parse(&octets(hex), limits()).unwrap_or_else(|error| panic!("{error}: {row}")))
        .collect()
}

/// Shared and copied parts, frames, batches, protocols: whatever the pickle looks like, it is the value that JSON has.
#[test]
fn a_pickle_is_the_value_that_json_has() {
    for row in rows(include_str!("json_values.jsonl")) {
        let value = json::parse(text(&row, "json").as_bytes(), limits()).expect("json");
        for (number, pickled) in pickles(&row).iter().enumerate() {
            assert_eq!(describe(pickled), describe(&value), "{number}");
            if !describe(&value).contains("fnan") {
                assert_eq!(*pickled, value, "{number}");
            }
        }
    }
}

#[test]
fn known_types_are_the_same_in_every_protocol_and_differ_from_each_other() {
    let mut seen = std::collections::HashSet::new();
    for row in rows(include_str!("known_objects.jsonl")) {
        let expected = text(&row, "value");
        let values = pickles(&row);
        assert_eq!(values.len(), 6);
        for (protocol, value) in values.iter().enumerate() {
            assert_eq!(describe(value), expected, "protocol {protocol}");
        }
        assert!(seen.insert(expected.to_owned()), "{expected}");
    }
}

/// Protocols that lose `fold`, as Python itself does.
const WITHOUT_FOLD: usize = 4;

#[test]
fn other_types_differ_where_python_differs() {
    let objects: Vec<(String, Vec<Value>)> = rows(include_str!("other_objects.jsonl"))
        .iter()
        .map(|row| {
            let name = text(row, "name").trim_end_matches(" again").to_owned();
            let mut values = pickles(row);
            if name.starts_with("zone fold") {
                values.drain(..WITHOUT_FOLD);
            }
            (name, values)
        })
        .collect();
    for (name, values) in &objects {
        for (other, other_values) in &objects {
            for (value, other_value) in values.iter().flat_map(|value| other_values.iter().map(move |other| (value, other))) {
                if name != other {
                    assert_ne!(value, other_value, "{name}, {other}");
                }
            }
            if name == other {
                assert_eq!(values, other_values, "{name}");
            }
        }
        let newest: Vec<&Value> = values.iter().rev().take(4).collect();
        assert!(
            newest.windows(2).all(|pair| pair[0] == pair[1]),
            "{name}: the protocols 2 to 5 agree"
        );
    }
}

#[test]
fn an_object_keeps_its_class_and_state() {
    let rows = rows(include_str!("other_objects.jsonl"));
    let described = |wanted: &str| {
        let row = rows.iter().find(|row| text(row, "name") == wanted).expect("a row");
        pickles(row).iter().map(describe).next_back().expect("protocol 5")
    };
    for (name, value) in [
        ("order 1", r#"@__main__.Order("new",(),{},[{"number":1}],[],[])"#),
        ("point", r#"@__main__.Point("new",(1,2),{},[],[],[])"#),
        ("red", r#"@__main__.Color("call",(1),{},[],[],[])"#),
        ("items", r#"@__main__.Items("new",(),{},[],[1,2],[])"#),
        ("class", r#"@__main__.Order("global")"#),
        ("function", r#"@builtins.len("global")"#),
        ("range", r#"@builtins.range("call",(1,5,1),{},[],[],[])"#),
        ("error", r#"@builtins.ValueError("call",("x",1),{},[],[],[])"#),
        (
            "default",
            r#"@collections.defaultdict("call",(@builtins.list("global")),{},[],[],[("a",[1])])"#,
        ),
    ] {
        assert_eq!(described(name), value, "{name}");
    }
}
