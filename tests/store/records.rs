//! What was decided about ids, written down and read again.

use std::time::Duration;

use oncegate::rules::lock::Scope;
use oncegate::store::{Keep, Record};

use crate::world::{World, claim, digest, note};

scenarios! {
    what_was_decided_is_read_in_its_order
    records_are_seen_by_other_processes
    the_last_decisions_of_an_id_are_kept
    records_go_after_their_time
    a_new_decision_keeps_those_before_it
    the_oldest_ids_go_where_there_are_too_many
    many_decisions_of_few_ids_are_too_many
    a_decision_comes_out_as_it_went_in
    what_is_too_long_is_left_out
    an_id_is_noted_for_the_keys_of_its_locks
    records_are_no_locks
}

const KEEP: Keep = Keep {
    life: Duration::from_secs(1_000),
    most: 1_000_000,
};

fn record(id: &str, line: &str) -> Record {
    Record {
        id: id.into(),
        line: line.to_owned(),
    }
}

async fn write(w: &World, records: &[(&str, &str)], keep: Keep) {
    let records: Vec<Record> = records.iter().map(|(id, line)| record(id, line)).collect();
    w.client.record(&records, keep).await.expect("the store answers");
}

async fn read(w: &World, id: &str) -> Vec<String> {
    w.client.recorded(id).await.expect("the store answers")
}

async fn what_was_decided_is_read_in_its_order(w: &World) {
    write(w, &[], KEEP).await;
    assert_eq!(read(w, "a").await, [""; 0]);
    write(w, &[("a", "{\"n\":1}"), ("b", "2"), ("a", "three %n 'x'"), ("", "nobody")], KEEP).await;
    write(w, &[("a", "four")], KEEP).await;
    assert_eq!(read(w, "a").await, ["{\"n\":1}", "three %n 'x'", "four"]);
    assert_eq!(read(w, "b").await, ["2"]);
    assert_eq!(read(w, "").await, ["nobody"]);
}

async fn records_are_seen_by_other_processes(w: &World) {
    write(w, &[("a", "1")], KEEP).await;
    let elsewhere = w.elsewhere().client();
    elsewhere.record(&[record("a", "2")], KEEP).await.expect("the store answers");
    assert_eq!(elsewhere.recorded("a").await, Ok(vec!["1".to_owned(), "2".to_owned()]));
    assert_eq!(read(w, "a").await, ["1", "2"]);
}

async fn the_last_decisions_of_an_id_are_kept(w: &World) {
    let lines: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for lines in lines.chunks(7) {
        let records: Vec<Record> = lines.iter().map(|line| record("a", line)).collect();
        w.client.record(&records, KEEP).await.expect("the store answers");
    }
    assert_eq!(read(w, "a").await, lines[30..]);
}

async fn records_go_after_their_time(w: &World) {
    let short = Keep {
        life: Duration::from_millis(300),
        ..KEEP
    };
    write(w, &[("a", "1")], short).await;
    write(w, &[("b", "1")], KEEP).await;
    w.until("the record goes", async || read(w, "a").await.is_empty()).await;
    write(w, &[("a", "2")], KEEP).await;
    assert_eq!(read(w, "a").await, ["2"], "what has gone does not come back");
    assert_eq!(read(w, "b").await, ["1"]);
}

async fn a_new_decision_keeps_those_before_it(w: &World) {
    let short = Keep {
        life: Duration::from_millis(300),
        ..KEEP
    };
    write(w, &[("a", "1"), ("b", "1")], short).await;
    write(w, &[("a", "2")], KEEP).await;
    w.until("the other goes", async || read(w, "b").await.is_empty()).await;
    assert_eq!(read(w, "a").await, ["1", "2"]);
}

async fn the_oldest_ids_go_where_there_are_too_many(w: &World) {
    let few = Keep { most: 128, ..KEEP };
    let ids: Vec<String> = (0..2_000).map(|number| format!("id-{number}")).collect();
    for ids in ids.chunks(100) {
        let records: Vec<Record> = ids.iter().map(|id| record(id, "1")).collect();
        w.client.record(&records, few).await.expect("the store answers");
        w.pass(2);
    }
    let mut left = Vec::new();
    for id in &ids {
        if !read(w, id).await.is_empty() {
            left.push(id);
        }
    }
    assert!(!left.is_empty() && left.len() <= 128, "{}", left.len());
    assert!(read(w, "id-0").await.is_empty() && !read(w, "id-1999").await.is_empty());
}

async fn many_decisions_of_few_ids_are_too_many(w: &World) {
    let few = Keep { most: 640, ..KEEP };
    let ids: Vec<String> = (0..200).map(|number| format!("id-{number}")).collect();
    for id in &ids {
        let records: Vec<Record> = (0..25).map(|number| record(id, &number.to_string())).collect();
        w.client.record(&records, few).await.expect("the store answers");
        w.pass(2);
    }
    let mut count = 0;
    for id in &ids {
        count += read(w, id).await.len();
    }
    assert!(count <= 640, "{count}");
}

async fn a_decision_comes_out_as_it_went_in(w: &World) {
    let line = r#"{"decision":"dropped","event":"publish","holder":"b","id":"a","rule":"r","task":"t","ts":"2026-11-21T20:06:37.400Z"}"#;
    write(w, &[("a", line), ("b", line)], KEEP).await;
    assert_eq!(
        (read(w, "a").await, read(w, "b").await),
        (vec![line.to_owned()], vec![line.to_owned()])
    );
}

async fn what_is_too_long_is_left_out(w: &World) {
    let long = "x".repeat(1 << 20);
    write(w, &[(&long, "1"), ("a", &long), ("a", "2\n3"), ("a", "4")], KEEP).await;
    assert_eq!(read(w, "a").await, ["4"]);
    assert_eq!(read(w, &long).await, [""; 0]);
}

async fn an_id_is_noted_for_the_keys_of_its_locks(w: &World) {
    assert_eq!(w.client.claimed("a").await, Ok(Vec::new()));
    w.acquire(&claim(1, "a"), 1, &note(Scope::UntilFinished)).await;
    assert_eq!(w.client.claimed("a").await, Ok(vec![digest(1)]));
    assert_eq!(w.client.claimed("b").await, Ok(Vec::new()));
}

async fn records_are_no_locks(w: &World) {
    write(w, &[("a", "1")], KEEP).await;
    let page = w
        .client
        .list(&oncegate::store::Filter::default(), None, 1_000)
        .await
        .expect("the store answers");
    assert_eq!(page.locks, []);
}
