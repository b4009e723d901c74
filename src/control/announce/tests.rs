//! A connection whose frames the test reads, and whose answers it gives.

use super::*;
use crate::amqp::content::ContentHeader;
use crate::amqp::frame::{FrameKind, Split, split};
use crate::amqp::method::exchange;
use crate::metrics::Metrics;

const FRAME_MAX: usize = 4_096;

struct Bench {
    announcer: Announcer,
    metrics: Metrics,
    now: Instant,
    is_blocked: bool,
    backlog: usize,
}

fn notice(exchange: &str, routing_key: &str) -> Notice {
    Notice {
        exchange: exchange.into(),
        routing_key: routing_key.to_owned(),
        body: b"{}".to_vec(),
        at_s: 1_800_000_000,
    }
}

fn refusal(code: u16) -> Fault {
    Fault::Refused {
        code,
        text: "no".to_owned(),
    }
}

impl Bench {
    fn new() -> Bench {
        let metrics = Metrics::new().expect("metrics");
        Bench {
            announcer: Announcer::new(&"jobs".into(), Arc::clone(&metrics.events), FRAME_MAX),
            metrics,
            now: Instant::now(),
            is_blocked: false,
            backlog: 0,
        }
    }

    /// With this exchange there, and its first message published and acknowledged.
    fn ready(exchange: &str) -> Bench {
        let mut bench = Bench::new();
        bench.hand_in(exchange, 1);
        assert_eq!(bench.sends(), ["channel.open", "confirm.select"]);
        bench.opened();
        assert_eq!(bench.sends(), [format!("passive {exchange}")]);
        bench.answers(MethodId::EXCHANGE_DECLARE_OK);
        assert_eq!(bench.sends(), [format!("publish {exchange} key1")]);
        bench.acks(1, false);
        assert_eq!(bench.counts(), (1, [0, 0, 0]));
        bench
    }

    fn hand_in(&mut self, exchange: &str, count: usize) {
        let notices = (1..=count).map(|number| notice(exchange, &format!("key{number}")));
        self.announcer.hand_in(notices);
    }

    /// What is sent now, in words.
    fn sends(&mut self) -> Vec<String> {
        self.announcer.proceed(self.now, self.is_blocked, self.backlog);
        let frames = self.announcer.frames();
        let mut rest = &frames[..];
        let mut said = Vec::new();
        let shown = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        while let Split::Frame(frame) = split(rest, FRAME_MAX) {
            rest = rest.get(frame.raw.len()..).expect("the rest");
            assert_eq!(frame.channel, ANNOUNCING);
            if frame.kind == FrameKind::Header {
                let header = ContentHeader::decode(frame.payload).expect("a header").properties;
                assert_eq!(header.content_type, Some(&b"application/json"[..]));
                assert_eq!(
                    (header.delivery_mode, header.timestamp, header.app_id),
                    (Some(1), Some(1_800_000_000), Some(&b"oncegate"[..]))
                );
            } else if let Some(publish) = Publish::decode(frame.payload) {
                assert!(!publish.mandatory, "what nobody binds is not sent back");
                said.push(format!("publish {} {}", shown(publish.exchange), shown(publish.routing_key)));
            } else if let Some(declare) = exchange::Declare::decode(frame.payload) {
                let ask = if declare.passive { "passive" } else { "declare" };
                said.push(format!("{ask} {}", shown(declare.exchange)));
            } else if frame.kind == FrameKind::Method {
                said.push(frame.method_id().and_then(MethodId::name).unwrap_or_default().to_owned());
            }
        }
        assert_eq!(rest, b"");
        said
    }

    fn hears(&mut self, incoming: Incoming) -> Result<(), Fault> {
        let left = self.announcer.hear(incoming, self.now)?;
        assert!(left.is_none(), "{left:?}");
        Ok(())
    }

    fn answers_with(&mut self, id: MethodId, payload: Vec<u8>) {
        let channel = ANNOUNCING;
        self.hears(Incoming::Answer { channel, id, payload })
            .expect("the connection goes on");
    }

    fn answers(&mut self, id: MethodId) {
        self.answers_with(id, Vec::new());
    }

    fn opened(&mut self) {
        self.answers(MethodId::CHANNEL_OPEN_OK);
        self.answers(MethodId::CONFIRM_SELECT_OK);
    }

    fn acks(&mut self, delivery_tag: u64, multiple: bool) {
        let mut frame = Vec::new();
        encode::basic_ack(&mut frame, ANNOUNCING, Ack { delivery_tag, multiple });
        self.answers_with(MethodId::BASIC_ACK, payload(&frame));
    }

    fn nacks(&mut self, delivery_tag: u64) {
        let mut frame = Vec::new();
        let nack = Nack {
            delivery_tag,
            multiple: false,
            requeue: false,
        };
        encode::basic_nack(&mut frame, ANNOUNCING, nack);
        self.answers_with(MethodId::BASIC_NACK, payload(&frame));
    }

    fn closes(&mut self, code: u16) {
        let channel = ANNOUNCING;
        let fault = refusal(code);
        self.hears(Incoming::ChannelClosed { channel, fault })
            .expect("the connection goes on");
    }

    /// How many are published, and dropped for each reason.
    fn counts(&self) -> (u64, [u64; EventDrop::COUNT]) {
        let text = self.metrics.render().expect("renders");
        let dropped = |reason: &EventDrop| {
            let series = format!("oncegate_events_dropped_total{{reason=\"{}\"}} ", reason.as_str());
            let count = text.lines().find_map(|line| line.strip_prefix(&series)).expect("a series");
            count.parse().expect("a number")
        };
        let mut counts = [0; EventDrop::COUNT];
        for (count, reason) in counts.iter_mut().zip(EventDrop::ALL) {
            *count = dropped(reason);
        }
        (self.metrics.events.published.get(), counts)
    }
}

fn payload(frame: &[u8]) -> Vec<u8> {
    match split(frame, FRAME_MAX) {
        Split::Frame(frame) => frame.payload.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_opened_before_there_is_something_to_tell() {
    let mut bench = Bench::new();
    assert_eq!(bench.sends(), [""; 0]);
    let mut bench = Bench::ready("told");
    assert_eq!(bench.sends(), [""; 0]);
}

#[test]
fn an_exchange_that_is_not_there_is_made() {
    let mut bench = Bench::new();
    bench.hand_in("told", 2);
    assert_eq!(bench.sends(), ["channel.open", "confirm.select"]);
    bench.opened();
    assert_eq!(bench.sends(), ["passive told"]);
    bench.closes(NOT_FOUND);
    assert_eq!(bench.sends(), ["channel.open", "confirm.select"]);
    bench.opened();
    assert_eq!(bench.sends(), ["declare told"]);
    bench.answers(MethodId::EXCHANGE_DECLARE_OK);
    assert_eq!(bench.sends(), ["publish told key1", "publish told key2"]);
    bench.acks(2, true);
    assert_eq!(bench.counts(), (2, [0, 0, 0]));
}

#[test]
fn an_exchange_that_goes_is_made_again_and_what_was_out_is_counted() {
    let mut bench = Bench::ready("told");
    bench.hand_in("told", 2);
    assert_eq!(bench.sends().len(), 2);
    bench.closes(NOT_FOUND);
    assert_eq!(bench.counts(), (1, [0, 0, 2]));
    bench.hand_in("told", 1);
    for (ask, answer) in [("passive told", None), ("declare told", Some(MethodId::EXCHANGE_DECLARE_OK))] {
        assert_eq!(bench.sends(), ["channel.open", "confirm.select"]);
        bench.opened();
        assert_eq!(bench.sends(), [ask]);
        match answer {
            Some(answer) => bench.answers(answer),
            None => bench.closes(NOT_FOUND),
        }
    }
    assert_eq!(bench.sends(), ["publish told key1"]);
    // Numbers begin anew.
    bench.acks(1, false);
    assert_eq!(bench.counts(), (2, [0, 0, 2]));
}

#[test]
fn an_exchange_that_goes_while_nothing_is_to_be_told_is_no_trouble() {
    let mut bench = Bench::ready("told");
    bench.closes(NOT_FOUND);
    assert_eq!(bench.sends(), ["channel.open", "confirm.select"]);
    bench.opened();
    assert_eq!(bench.sends(), [""; 0]);
    bench.hand_in("told", 1);
    assert_eq!(bench.sends(), ["passive told"]);
}

#[test]
fn what_is_refused_is_dropped_and_tried_again_after_a_while() {
    for refused in ["declare", "publish"] {
        let mut bench = Bench::ready("told");
        if refused == "declare" {
            bench.hand_in("other", 2);
            assert_eq!(bench.sends(), ["passive other"]);
        } else {
            bench.hand_in("told", 2);
            assert_eq!(bench.sends().len(), 2);
        }
        bench.closes(ACCESS_REFUSED);
        assert_eq!(bench.counts(), (1, [0, 0, 2]), "{refused}");
        bench.hand_in("told", 3);
        assert_eq!(bench.sends(), [""; 0]);
        assert_eq!(bench.counts(), (1, [0, 0, 5]));
        bench.now += WARY;
        bench.hand_in("told", 1);
        assert_eq!(bench.sends(), ["channel.open", "confirm.select"]);
        bench.opened();
        bench.sends();
        bench.answers(MethodId::EXCHANGE_DECLARE_OK);
        assert_eq!(bench.sends(), ["publish told key1"]);
    }
}

#[test]
fn another_exchange_is_asked_for_in_its_turn() {
    let mut bench = Bench::ready("told");
    bench.hand_in("told", 1);
    bench.hand_in("other", 1);
    assert_eq!(bench.sends(), ["publish told key1", "passive other"]);
    bench.answers(MethodId::EXCHANGE_DECLARE_OK);
    assert_eq!(bench.sends(), ["publish other key1"]);
}

#[test]
fn no_more_is_sent_than_the_broker_and_the_socket_take() {
    let mut bench = Bench::ready("told");
    bench.backlog = BACKLOG;
    bench.hand_in("told", 1);
    assert_eq!(bench.sends(), [""; 0]);
    bench.backlog = 0;
    bench.is_blocked = true;
    assert_eq!(bench.sends(), [""; 0]);
    bench.is_blocked = false;
    bench.hand_in("told", UNANSWERED + 9);
    let mut sent = 0;
    loop {
        match bench.sends().len() {
            0 => break,
            more => sent += more,
        }
    }
    assert_eq!(sent, UNANSWERED);
    assert!(bench.announcer.has_room());
    bench.hand_in("told", TAKEN);
    assert!(!bench.announcer.has_room());
    bench.acks(9, true);
    assert_eq!(bench.sends().len(), 8, "the first of the channel was answered before");
}

#[test]
fn what_a_queue_refuses_and_what_ends_with_the_connection_is_counted() {
    let mut bench = Bench::ready("told");
    bench.hand_in("told", 3);
    assert_eq!(bench.sends().len(), 3);
    bench.nacks(3);
    bench.nacks(3);
    bench.backlog = BACKLOG;
    bench.hand_in("told", 2);
    assert_eq!(bench.sends(), [""; 0]);
    bench.announcer.end();
    bench.announcer.end();
    assert_eq!(bench.counts(), (1, [0, 4, 1]));
}

#[test]
fn what_nobody_asked_for_ends_the_connection_and_the_rest_is_not_its_own() {
    let mut bench = Bench::new();
    bench.hand_in("told", 1);
    bench.sends();
    let channel = ANNOUNCING;
    let fault = refusal(504);
    assert!(bench.hears(Incoming::ChannelClosed { channel, fault }).is_err());
    let elsewhere = Incoming::Answer {
        channel: 4,
        id: MethodId::BASIC_ACK,
        payload: Vec::new(),
    };
    assert!(bench.announcer.hear(elsewhere, bench.now).expect("goes on").is_some());
}
