//! What is decided, and who may see it.

use tokio::io::{AsyncBufReadExt, BufReader};

use super::*;
use crate::logging::tests::dropped;
use crate::logging::{DecisionKind, DecisionLog, Decisions};

/// A proxy with the log of what it decides.
pub(super) async fn deciding(tokens: Vec<AdminToken>) -> (Proxy, DecisionLog) {
    let log = DecisionLog::new(Decisions::None, 0);
    let store = Store::memory(
        Arc::new(Memory::new(Arc::new(SystemClock::default()), "p1".into())),
        Arc::new(Unobserved),
    );
    let proxy = start_feeding(tokens, store, Arc::clone(log.feed())).await;
    (proxy, log)
}

fn ids(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    let decisions = json["decisions"].as_array().expect("a list");
    decisions
        .iter()
        .map(|made| made["id"].as_str().expect("an id").to_owned())
        .collect()
}

#[tokio::test]
async fn the_last_duplicates_are_shown_newest_first() {
    let (proxy, log) = deciding(Vec::new()).await;
    assert_eq!(ids(&proxy.get("/api/v1/decisions").await), [""; 0]);
    for number in 0..1_200 {
        log.log(DecisionKind::Duplicate, dropped(&number.to_string()));
        log.log(DecisionKind::Other, dropped("nobody watches"));
    }
    let answer = proxy.get("/api/v1/decisions?limit=2").await;
    assert_eq!(ids(&answer), ["1199", "1198"]);
    let shown = &answer.json()["decisions"][0];
    assert_eq!(
        (&shown["decision"], &shown["holder"], &shown["instance"]),
        (&"dropped".into(), &"a".into(), &"p1".into())
    );
    assert!(
        shown.get("digest").is_none() && shown.get("client").is_none(),
        "what is not known is left out: {shown}"
    );
    assert_eq!(answer.json()["scope"], "instance");
    assert_eq!(ids(&proxy.get("/api/v1/decisions").await).len(), 100);
    assert_eq!(
        ids(&proxy.get("/api/v1/decisions?limit=100000").await).len(),
        1_000,
        "no more are kept"
    );
    assert_eq!(proxy.get("/api/v1/decisions?limit=x").await.code(), "bad_query");
    assert_eq!(proxy.get("/api/v1/decisions?last=1").await.code(), "bad_query");
}

#[tokio::test]
async fn who_watches_is_told_of_each_decision_as_it_is_made() {
    let (proxy, log) = deciding(Vec::new()).await;
    log.log(DecisionKind::Duplicate, dropped("before"));
    let mut socket = TcpStream::connect(proxy.address).await.expect("listens");
    let request = format!("GET /api/v1/decisions/stream HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address);
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut lines = BufReader::new(socket).lines();
    let mut next = async || lines.next_line().await.expect("it goes on").expect("it goes on");
    let mut head = Vec::new();
    loop {
        match next().await.to_ascii_lowercase() {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    assert!(head.contains(&"content-type: text/event-stream".to_owned()), "{head:?}");
    assert!(head.contains(&"x-oncegate-instance: p1".to_owned()), "{head:?}");
    // The head is sent once the watch has begun.
    log.log(DecisionKind::Other, dropped("passes"));
    log.log(DecisionKind::Duplicate, dropped("drops"));
    let mut told = Vec::new();
    while told.len() < 2 {
        let line = next().await;
        if let Some(data) = line.strip_prefix("data: ") {
            let data: Value = serde_json::from_str(data).expect("JSON");
            told.push(data["id"].as_str().expect("an id").to_owned());
        }
    }
    assert_eq!(told, ["passes", "drops"]);
}

#[tokio::test]
async fn only_who_may_read_may_watch() {
    let (proxy, _log) = deciding(vec![token("reader", "s3cret", Role::Read)]).await;
    for path in ["/api/v1/decisions", "/api/v1/decisions/stream"] {
        assert_eq!(proxy.get(path).await.code(), "token_required", "{path}");
    }
    let answer = proxy.send("GET /api/v1/decisions", &["Authorization: Bearer s3cret"], "").await;
    assert_eq!(answer.status, 200);
}
