//! Dialogues in one line per step: who sends what, and what each leg must have been sent.
//!
//! `C name args` is a frame of the client, `B name args` one of the broker, both channel 1 unless `@2` follows the name. Each frame must
//! reach the other leg byte-identical, at every cut; a step that begins with `-` must not.

use std::sync::Arc;

use oncegate::amqp::frame;
use oncegate::rules::RuleSet;
use oncegate::rules::spec::{RuleSpec, Unique};
use oncegate::session::{Now, Session, Settings, Side};

/// Class and method of a name, as the specification numbers them.
fn id_of(name: &str) -> (u16, u16) {
    match name {
        "connection.update-secret" => (10, 70),
        "connection.update-secret-ok" => (10, 71),
        "connection.blocked" => (10, 60),
        "connection.unblocked" => (10, 61),
        "channel.open" => (20, 10),
        "channel.open-ok" => (20, 11),
        "channel.flow" => (20, 20),
        "channel.close" => (20, 40),
        "channel.close-ok" => (20, 41),
        "basic.qos" => (60, 10),
        "basic.consume" => (60, 20),
        "basic.consume-ok" => (60, 21),
        "basic.cancel" => (60, 30),
        "basic.cancel-ok" => (60, 31),
        "basic.publish" => (60, 40),
        "basic.get" => (60, 70),
        "basic.get-empty" => (60, 72),
        "basic.recover" => (60, 110),
        "basic.recover-ok" => (60, 111),
        "confirm.select" => (85, 10),
        "confirm.select-ok" => (85, 11),
        "tx.select" => (90, 10),
        "tx.select-ok" => (90, 11),
        "tx.commit" => (90, 20),
        "tx.commit-ok" => (90, 21),
        other => panic!("the scripts do not know {other}"),
    }
}

/// `name[@channel] hex…` as a frame.
fn frame_of(step: &str) -> Vec<u8> {
    let mut words = step.split_whitespace();
    let name = words.next().expect("a name");
    let (name, channel) = name
        .split_once('@')
        .map_or((name, 1), |(name, number)| (name, number.parse().expect("a channel")));
    let channel: u16 = if name.starts_with("connection.") { 0 } else { channel };
    let (class, method) = id_of(name);
    let mut payload = [class.to_be_bytes(), method.to_be_bytes()].concat();
    payload.extend(words.map(|word| u8::from_str_radix(word, 16).expect("hex octets")));
    let mut raw = vec![1];
    raw.extend_from_slice(&channel.to_be_bytes());
    raw.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    raw.extend_from_slice(&payload);
    raw.push(frame::END);
    raw
}

fn session(now: Now) -> Session {
    let spec = RuleSpec {
        name: Some("r".to_owned()),
        task: vec!["t.unique".to_owned()],
        unique: Some(Unique::UntilFinished),
        ..RuleSpec::default()
    };
    let rules = Arc::new(RuleSet::compile(vec![spec], &[]).expect("the rule is right"));
    let mut session = Session::new(Arc::new(Settings::default()), rules, 0, now);
    session.handle_bytes(Side::Client, &frame::PROTOCOL_HEADER, now);
    let open_ok = [1, 0, 0, 0, 0, 0, 5, 0, 10, 0, 41, 0, frame::END];
    session.handle_bytes(Side::Broker, &open_ok, now);
    take(&mut session, Side::Client);
    take(&mut session, Side::Broker);
    session
}

fn take(session: &mut Session, side: Side) -> Vec<u8> {
    let mut bytes = Vec::new();
    session.swap_output(side, &mut bytes);
    bytes
}

/// Plays a script, each frame cut in two at `cut`.
fn play(name: &str, script: &str, cut: usize) {
    let now = Now {
        us: 1_000_000,
        unix_ms: 1_800_000_000_000,
    };
    let mut session = session(now);
    for (number, line) in script.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let (hidden, line) = line.strip_prefix('-').map_or((false, line), |line| (true, line));
        let (from, to) = match line.split_at(1).0 {
            "C" => (Side::Client, Side::Broker),
            "B" => (Side::Broker, Side::Client),
            other => panic!("{name}: who is {other}?"),
        };
        let raw = frame_of(&line[1..]);
        let (head, tail) = raw.split_at(cut.min(raw.len()));
        session.handle_bytes(from, head, now);
        session.handle_bytes(from, tail, now);
        let expected = if hidden { Vec::new() } else { raw };
        assert_eq!(take(&mut session, to), expected, "{name}, step {number}: {line}, cut at {cut}");
        assert_eq!(
            take(&mut session, from),
            Vec::<u8>::new(),
            "{name}, step {number}: {line} is answered by nobody else"
        );
    }
    assert_eq!(session.held_bytes(), 0, "{name}");
}

const SCRIPTS: &[(&str, &str)] = &[
    (
        "update-secret",
        "C connection.update-secret 0 0 0 1 61 1 62\nB connection.update-secret-ok",
    ),
    (
        "blocked",
        "B connection.blocked 1 78\nC channel.open 0\nB connection.unblocked\nB channel.open-ok 0 0 0 0",
    ),
    (
        "tx",
        "C channel.open 0\nB channel.open-ok 0 0 0 0\nC tx.select\nB tx.select-ok\nC tx.commit\nB tx.commit-ok",
    ),
    (
        "get of an empty queue",
        "C channel.open 0\nC basic.get 0 0 1 71 0\nB basic.get-empty 0\nC basic.get 0 0 1 71 1\nB basic.get-empty 0",
    ),
    (
        "a consumer that the broker names",
        "C channel.open 0\nC basic.consume 0 0 1 71 0 0 0 0 0 0\nB basic.consume-ok 1 63\nC basic.cancel 1 63 0\nB basic.cancel-ok 1 63",
    ),
    (
        "the broker cancels",
        "C channel.open 0\nC basic.consume 0 0 1 71 1 63 0 0 0 0 0\nB basic.consume-ok 1 63\nB basic.cancel 1 63 1",
    ),
    ("recover", "C channel.open 0\nC basic.recover 1\nB basic.recover-ok"),
    (
        "confirm.select with and without an answer",
        "C channel.open 0\nC confirm.select 0\nB confirm.select-ok\nC confirm.select 1",
    ),
    (
        "a channel number is used again",
        "C channel.open 0\nB channel.open-ok 0 0 0 0\nC channel.close 0 c8 0 0 0 0 0\nB channel.close-ok\nC channel.open 0\nB channel.open-ok 0 0 0 0\nC confirm.select 1",
    ),
    (
        "both sides close a channel",
        "C channel.open 0\nB channel.open-ok 0 0 0 0\nC channel.close 0 c8 0 0 0 0 0\nB channel.close 1 94 0 0 0 0 0\nC channel.close-ok\nB channel.close-ok\nC channel.open 0\nB channel.open-ok 0 0 0 0",
    ),
    (
        "the broker closes first",
        "C channel.open 0\nB channel.close 1 94 0 0 0 0 0\nC channel.close-ok\nC channel.open 0\nB channel.open-ok 0 0 0 0",
    ),
    (
        "channels side by side",
        "C channel.open@1 0\nC channel.open@2 0\nB channel.open-ok@2 0 0 0 0\nB channel.open-ok@1 0 0 0 0\nC basic.qos@2 0 0 0 0 0 4 0",
    ),
];

#[test]
fn every_script_passes_at_every_cut() {
    for (name, script) in SCRIPTS {
        for cut in 0..=24 {
            play(name, script, cut);
        }
    }
}

#[test]
fn a_publish_without_a_content_goes_with_the_frame_behind_it() {
    let now = Now::default();
    let mut session = session(now);
    let publish = frame_of("basic.publish 0 0 0 1 71 0");
    let qos = frame_of("basic.qos 0 0 0 0 0 4 0");
    session.handle_bytes(Side::Client, &frame_of("channel.open 0"), now);
    take(&mut session, Side::Broker);
    session.handle_bytes(Side::Client, &publish, now);
    assert_eq!(take(&mut session, Side::Broker), Vec::<u8>::new());
    session.handle_bytes(Side::Client, &qos, now);
    assert_eq!(take(&mut session, Side::Broker), [publish, qos].concat());
}
