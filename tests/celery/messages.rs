//! Field by field: what Celery meant.

use super::describe::describe;
use super::*;

fn optional<'j>(row: &'j Json, name: &str) -> Option<&'j str> {
    row[name].as_str()
}

fn assert_task(name: &str, task: &Task<'_>, expected: &Json) {
    let protocol = if expected["protocol"] == 1 { Protocol::V1 } else { Protocol::V2 };
    assert_eq!(task.protocol, protocol, "{name}");
    assert_eq!(task.name, text(expected, "name"), "{name}");
    assert_eq!(task.id, text(expected, "id"), "{name}");
    assert_eq!(Some(u64::from(task.retries)), expected["retries"].as_u64(), "{name}");
    assert_eq!(
        Some(u64::from(task.replaced_task_nesting)),
        expected["replaced_task_nesting"].as_u64(),
        "{name}"
    );
    assert_eq!(task.eta, expected["eta"].as_i64(), "{name}");
    assert_eq!(task.expires, expected["expires"].as_i64(), "{name}");
    assert_eq!(Some(task.group), expected["group"].as_bool(), "{name}");
    assert_eq!(task.parent_id.as_deref(), optional(expected, "parent_id"), "{name}");
    assert_eq!(task.root_id.as_deref(), optional(expected, "root_id"), "{name}");
    assert_eq!(task.origin.as_deref(), optional(expected, "origin"), "{name}");
    assert_eq!(task.timelimit.hard, expected["timelimit"][0].as_f64(), "{name}");
    assert_eq!(task.timelimit.soft, expected["timelimit"][1].as_f64(), "{name}");
    assert_eq!(task.ignore_result, expected["ignore_result"].as_bool(), "{name}");
    assert_eq!(task.reply_to, optional(expected, "reply_to").map(str::as_bytes), "{name}");
    assert_eq!(
        task.correlation_id,
        optional(expected, "correlation_id").map(str::as_bytes),
        "{name}"
    );
    assert_eq!(task.priority.map(u64::from), expected["priority"].as_u64(), "{name}");
    assert_eq!(Some(task.celery_beat_task), expected["celery_beat_task"].as_bool(), "{name}");
    assert_eq!(Some(task.periodic_task_name), expected["periodic_task_name"].as_bool(), "{name}");
}

fn assert_body(name: &str, body: &Body, row: &Json) {
    assert_eq!(describe(&body.args), text(row, "args"), "{name}");
    assert_eq!(describe(&body.kwargs), text(row, "kwargs"), "{name}");
    let canvas = body.canvas;
    let parts = [canvas.callbacks, canvas.errbacks, canvas.chain, canvas.chord];
    for (part, expected) in parts.iter().zip(row["canvas"].as_array().expect("four truths")) {
        assert_eq!(Some(*part), expected.as_bool(), "{name}");
    }
    assert_eq!(canvas.any(), parts.contains(&true), "{name}");
}

#[test]
fn every_message_is_read_as_celery_reads_it() {
    let captured = captured();
    for serializer in ["json", "pickle", "yaml", "msgpack"] {
        for compression in ["none", "gzip", "bzip2", "lzma", "zstd", "brotli"] {
            for protocol in ["v1", "v2"] {
                let name = format!("{protocol}/{serializer}/{compression}/plain/0");
                assert!(captured.iter().any(|(captured, ..)| *captured == name), "{name}");
            }
        }
    }
    for (name, header, body, row) in captured {
        let properties = properties(&header);
        let (task, read) = task::read_with_body(&properties, &body, limits())
            .unwrap_or_else(|error| panic!("{name}: {error}"))
            .unwrap_or_else(|| panic!("{name} is a task"));
        assert_task(&name, &task, &row["task"]);
        assert_body(&name, &read, &row);
        let decoded = body::decode(&Encoding::of(&properties).expect("an encoding"), &body, limits()).expect("readable");
        assert_body(&name, &decoded, &row);
    }
}

#[test]
fn protocols_are_told_apart() {
    for (name, header, body, row) in captured() {
        let properties = properties(&header);
        if name.starts_with("v2") {
            assert_eq!(task::peek(&properties), Some(text(&row["task"], "name").as_bytes()), "{name}");
            let task = task::read(&properties).expect("readable").expect("a task");
            assert_task(&name, &task, &row["task"]);
            assert!(!task::may_be_v1(&properties, &body), "{name}");
        } else {
            assert_eq!(task::peek(&properties), None, "{name}");
            assert_eq!(task::read(&properties), Ok(None), "{name}");
            assert!(task::may_be_v1(&properties, &body), "{name}");
            let (task, _) = task::read_v1(&properties, &body, limits()).expect("readable").expect("a task");
            assert_task(&name, &task, &row["task"]);
        }
    }
}

#[test]
fn what_the_caller_gave_is_found_in_headers_and_stamps() {
    let given = |wanted: &str, key: &str| {
        let (_, header, body, _) = captured().into_iter().find(|(name, ..)| name == wanted).expect("captured");
        let properties = properties(&header);
        let (task, _) = task::read_with_body(&properties, &body, limits())
            .expect("readable")
            .expect("a task");
        let value = task.given(key)?;
        value
            .as_str()
            .map(str::to_owned)
            .or_else(|| value.as_i64().map(|number| number.to_string()))
    };
    for (name, key, value) in [
        ("v2/json/none/headers/0", "x-oncegate-key", Some("K1")),
        ("v2/json/none/headers/0", "x-oncegate-ttl", Some("60")),
        ("v2/pickle/none/headers/0", "x-oncegate-key", Some("K1")),
        ("v1/json/none/headers/0", "x-oncegate-key", Some("K1")),
        ("v2/json/none/stamp/0", "x-oncegate-key", Some("K2")),
        ("v2/json/none/stamp_list/0", "x-oncegate-key", Some("K3")),
        ("v2/json/none/stamp/0", "other", None),
        ("v2/json/none/plain/0", "x-oncegate-key", None),
        ("v2/json/none/plain/0", "shadow", None),
    ] {
        assert_eq!(given(name, key).as_deref(), value, "{name} {key}");
    }
}

#[test]
fn other_messages_are_no_tasks() {
    let table = |entries: &[(&str, &str)]| {
        let mut raw = Vec::new();
        for (name, value) in entries {
            raw.push(name.len() as u8);
            raw.extend(name.as_bytes());
            raw.push(b'S');
            raw.extend((value.len() as u32).to_be_bytes());
            raw.extend(value.as_bytes());
        }
        raw
    };
    let event_headers = table(&[("hostname", "w1@vm")]);
    for (headers, body) in [
        (
            &[][..],
            r#"{"status": "SUCCESS", "result": 3, "traceback": null, "children": [], "task_id": "74b3"}"#,
        ),
        (
            &event_headers,
            r#"{"hostname": "w1@vm", "type": "task-received", "uuid": "74b3", "name": "shop.add"}"#,
        ),
        (&event_headers, r#"[{"type": "task-received", "task": "x"}]"#),
        (
            &[],
            r#"{"method": "rate_limit", "arguments": {"task_name": "shop.add"}, "destination": ["w1@vm"]}"#,
        ),
        (&[], r#""task""#),
        (&[], ""),
    ] {
        let properties = Properties {
            content_type: Some(b"application/json"),
            headers: Some(oncegate::amqp::table::Table::new(headers)),
            ..Properties::default()
        };
        assert!(!task::may_be_v1(&properties, body.as_bytes()), "{body}");
        assert_eq!(task::read_with_body(&properties, body.as_bytes(), limits()), Ok(None), "{body}");
    }
}

#[test]
fn what_oncegate_tells_of_a_task_is_none() {
    let body = br#"{"decision":"dropped","event":"publish","id":"b","holder":"a","rule":"r","task":"shop.add"}"#;
    let read = |app_id| {
        let properties = Properties {
            content_type: Some(b"application/json"),
            app_id,
            ..Properties::default()
        };
        assert_eq!(task::may_be_v1(&properties, body), app_id.is_none());
        let alone = task::read_v1(&properties, body, limits())
            .expect("readable")
            .map(|(task, _)| task.name.into_owned());
        let read = task::read_with_body(&properties, body, limits()).expect("readable");
        assert_eq!(read.map(|(task, _)| task.name.into_owned()), alone);
        alone
    };
    assert_eq!(read(Some(task::OWN_APP_ID)), None);
    assert_eq!(read(None).as_deref(), Some("shop.add"));
}

#[test]
fn a_hybrid_takes_from_the_body_what_the_headers_lack() {
    let body = r#"{"task": "in.body", "id": "b", "args": [1], "kwargs": {"x": 2}, "retries": 3, "eta": "2030-01-02T03:04:05+00:00", "callbacks": [1], "group": "g"}"#;
    let mut raw = b"\x04taskS\0\0\0\x09in.header\x07retriesI\0\0\0\x05".to_vec();
    let read = |raw: &[u8]| {
        let properties = Properties {
            content_type: Some(b"application/json"),
            headers: Some(oncegate::amqp::table::Table::new(raw)),
            ..Properties::default()
        };
        let (task, body) = task::read_with_body(&properties, body.as_bytes(), limits())
            .expect("readable")
            .expect("a task");
        assert_eq!(describe(&body.args), "[1]");
        assert_eq!(describe(&body.kwargs), "{\"x\":2}");
        assert!(body.canvas.callbacks && !body.canvas.chain);
        (task.name.into_owned(), task.id.into_owned(), task.retries, task.eta, task.group)
    };
    assert_eq!(read(&raw), ("in.header".into(), "b".into(), 5, Some(1_893_553_445_000), true));
    raw.extend(b"\x02idS\0\0\0\x01h");
    assert_eq!(read(&raw), ("in.header".into(), "h".into(), 5, Some(1_893_553_445_000), true));
}
