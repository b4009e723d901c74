//! A connection whose frames the test reads, and whose answers it gives.

use tokio::sync::{Semaphore, oneshot::error::TryRecvError};

use super::*;
use crate::amqp::content::Properties;
use crate::amqp::encode::Content;
use crate::amqp::frame::{FrameKind, Split, split};
use crate::amqp::method::queue::Declare;
use crate::session::QueueKind;

const FRAME_MAX: usize = 4_096;

type Answer = oneshot::Receiver<Result<(), RepublishFault>>;

struct Bench {
    post: Post,
    now: Instant,
    backlog: usize,
    jobs: u8,
}

fn header(id: &str) -> Vec<u8> {
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let properties = Properties {
        correlation_id: Some(id.as_bytes()),
        ..Properties::default()
    };
    properties.encode(&mut header).expect("fits");
    header
}

fn delay(queue: &str) -> Target {
    Target::Delay {
        queue: queue.into(),
        wait_ms: 2_500,
        kind: QueueKind::Classic,
    }
}

fn exchange(name: &str) -> Target {
    Target::Exchange {
        exchange: name.into(),
        routing_key: "key".into(),
    }
}

fn refusal(code: u16) -> Fault {
    Fault::Refused {
        code,
        text: "no".to_owned(),
    }
}

impl Bench {
    /// Nothing is open yet.
    fn new() -> Bench {
        Bench {
            post: Post::new(&"jobs".into(), "park".into(), FRAME_MAX),
            now: Instant::now(),
            backlog: 0,
            jobs: 0,
        }
    }

    fn opened() -> Bench {
        let mut bench = Bench::new();
        assert_eq!(bench.sends(), ["4 channel.open", "4 confirm.select", "5 channel.open"]);
        bench.answers(REPUBLISHING, MethodId::CHANNEL_OPEN_OK);
        bench.answers(REPUBLISHING, MethodId::CONFIRM_SELECT_OK);
        bench.answers(DECLARING, MethodId::CHANNEL_OPEN_OK);
        bench
    }

    /// With this exchange known, and delay queues of a, b and c declared.
    fn used(known: &str) -> Bench {
        let mut bench = Bench::opened();
        for target in ["a", "b", "c"].map(delay).into_iter().chain([exchange(known)]) {
            let is_delay = matches!(target, Target::Delay { .. });
            let mut answer = bench.publish(target);
            bench.sends();
            if is_delay {
                bench.declared();
                bench.sends();
            }
            bench.acks(0, true);
            assert_eq!(said(&mut answer), OK);
        }
        bench
    }

    /// Hands in a message whose body is its number.
    fn publish(&mut self, target: Target) -> Answer {
        self.jobs += 1;
        let body = vec![b'0' + self.jobs % 10];
        self.publish_of(target, header(&self.jobs.to_string()), body)
    }

    fn publish_of(&mut self, target: Target, header: Vec<u8>, body: Vec<u8>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let room = || Arc::new(Semaphore::new(1)).try_acquire_owned().expect("room");
        let message = Republish { header, body, target };
        let job = Job {
            message,
            reply,
            at: self.now,
            at_s: 1_800_000_000,
            room: [room(), room()],
        };
        self.post.hand_in(job);
        answer
    }

    /// What is sent now, in words.
    fn sends(&mut self) -> Vec<String> {
        self.post.proceed(self.now, self.backlog);
        let frames = self.post.frames();
        let mut rest = &frames[..];
        let mut said = Vec::new();
        while let Split::Frame(frame) = split(rest, FRAME_MAX - OVERHEAD) {
            rest = rest.get(frame.raw.len()..).expect("the rest");
            let name = frame.method_id().and_then(MethodId::name).unwrap_or_default();
            let shown = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
            said.push(match frame.kind {
                FrameKind::Method if let Some(publish) = Publish::decode(frame.payload) => {
                    assert!(publish.mandatory);
                    format!(
                        "{} publish {:?} {}",
                        frame.channel,
                        shown(publish.exchange),
                        shown(publish.routing_key)
                    )
                }
                FrameKind::Method if let Some(declare) = Declare::decode(frame.payload) => {
                    format!("{} declare {}", frame.channel, shown(declare.queue))
                }
                FrameKind::Method => format!("{} {name}", frame.channel),
                FrameKind::Header => continue,
                _ => format!("body {}", shown(frame.payload.get(..8).unwrap_or(frame.payload))),
            });
        }
        assert_eq!(rest, b"");
        said
    }

    fn hears(&mut self, incoming: Incoming) {
        let left = self.post.hear(incoming, self.now).expect("the connection goes on");
        assert!(left.is_none(), "{left:?}");
    }

    fn answers(&mut self, channel: u16, id: MethodId) {
        self.hears(Incoming::Answer {
            channel,
            id,
            payload: Vec::new(),
        });
    }

    fn declared(&mut self) {
        self.answers(DECLARING, MethodId::QUEUE_DECLARE_OK);
    }

    fn method(&mut self, id: MethodId, write: impl FnOnce(&mut Vec<u8>)) {
        let mut raw = Vec::new();
        write(&mut raw);
        let Split::Frame(frame) = split(&raw, FRAME_MAX) else {
            panic!("a frame")
        };
        self.hears(Incoming::Answer {
            channel: REPUBLISHING,
            id,
            payload: frame.payload.to_vec(),
        });
    }

    fn acks(&mut self, delivery_tag: u64, multiple: bool) {
        let ack = Ack { delivery_tag, multiple };
        self.method(MethodId::BASIC_ACK, |out| encode::basic_ack(out, REPUBLISHING, ack));
    }

    fn nacks(&mut self, delivery_tag: u64, multiple: bool) {
        let nack = Nack {
            delivery_tag,
            multiple,
            requeue: false,
        };
        self.method(MethodId::BASIC_NACK, |out| encode::basic_nack(out, REPUBLISHING, nack));
    }

    fn returns(&mut self, exchange: &str, routing_key: &str, id: &str) {
        self.hears(Incoming::Returned(Returned {
            channel: REPUBLISHING,
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            header: header(id),
        }));
    }

    fn closes(&mut self, channel: u16, code: u16) {
        self.hears(Incoming::ChannelClosed {
            channel,
            fault: refusal(code),
        });
    }

    fn reopens(&mut self) {
        assert_eq!(self.sends(), ["4 channel.open", "4 confirm.select"]);
        self.answers(REPUBLISHING, MethodId::CHANNEL_OPEN_OK);
        assert_eq!(self.sends(), [""; 0]);
        self.answers(REPUBLISHING, MethodId::CONFIRM_SELECT_OK);
    }

    fn after(&mut self, time: Duration) {
        self.now += time;
        self.post.look(self.now);
    }
}

fn waits(answer: &mut Answer) -> bool {
    answer.try_recv() == Err(TryRecvError::Empty)
}

/// The answer that is there.
fn said(answer: &mut Answer) -> Result<(), RepublishFault> {
    answer.try_recv().expect("an answer")
}

const OK: Result<(), RepublishFault> = Ok(());
const REFUSED: Result<(), RepublishFault> = Err(RepublishFault::Refused);
const UNKNOWN: Result<(), RepublishFault> = Err(RepublishFault::Unknown);
const NOT_AVAILABLE: Result<(), RepublishFault> = Err(RepublishFault::NotAvailable);
const RETURNED: Result<(), RepublishFault> = Err(RepublishFault::Returned);
const NACKED: Result<(), RepublishFault> = Err(RepublishFault::Nacked);
const MOMENT: Duration = Duration::from_millis(1);

#[test]
fn a_delay_queue_is_declared_before_the_first_message_to_it() {
    let mut bench = Bench::new();
    let mut answer = bench.publish(delay("jobs"));
    assert_eq!(bench.sends(), ["4 channel.open", "4 confirm.select", "5 channel.open"]);
    bench.answers(REPUBLISHING, MethodId::CHANNEL_OPEN_OK);
    bench.answers(REPUBLISHING, MethodId::CONFIRM_SELECT_OK);
    assert_eq!(bench.sends(), [""; 0]);
    bench.answers(DECLARING, MethodId::CHANNEL_OPEN_OK);
    assert_eq!(bench.sends(), ["5 declare park.jobs.2"]);
    assert_eq!(bench.sends(), [""; 0]);
    bench.declared();
    assert_eq!(bench.sends(), ["4 publish \"\" park.jobs.2", "body 1"]);
    assert!(waits(&mut answer));
    bench.acks(1, false);
    assert_eq!(said(&mut answer), OK);
}

#[test]
fn many_are_out_at_once_and_are_answered_in_any_order() {
    let mut bench = Bench::used("letters");
    let mut answers: Vec<Answer> = (0..5).map(|_| bench.publish(exchange("letters"))).collect();
    assert_eq!(bench.sends().len(), 10);
    // Four were sent before them.
    bench.acks(8, false);
    bench.nacks(6, true);
    bench.acks(6, false);
    bench.acks(99, false);
    let [first, second, third, fourth, fifth] = answers.as_mut_slice() else {
        panic!("five")
    };
    assert_eq!([said(first), said(second), said(fourth)], [NACKED, NACKED, OK]);
    assert!(waits(third) && waits(fifth));
    bench.acks(9, true);
    assert_eq!([said(third), said(fifth)], [OK, OK]);
}

#[test]
fn one_that_no_queue_takes_comes_back_before_its_ack() {
    let mut bench = Bench::used("letters");
    let mut parked = bench.publish(delay("a"));
    let mut second = bench.publish(delay("a"));
    let mut letter = bench.publish(exchange("letters"));
    bench.sends();
    bench.returns("", "park.a.2", "6");
    assert!(waits(&mut second));
    bench.acks(7, true);
    assert_eq!([said(&mut parked), said(&mut second), said(&mut letter)], [OK, RETURNED, OK]);
    let _third = bench.publish(delay("a"));
    assert_eq!(bench.sends(), ["5 declare park.a.2"], "the queue has gone");
}

#[test]
fn the_first_to_an_exchange_goes_alone() {
    let mut bench = Bench::used("letters");
    let mut known = bench.publish(exchange("letters"));
    let mut unknown = bench.publish(exchange("new"));
    let mut behind = bench.publish(exchange("letters"));
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 5"]);
    bench.acks(5, false);
    assert_eq!(said(&mut known), OK);
    assert_eq!(bench.sends(), ["4 publish \"new\" key", "body 6"]);
    assert_eq!(bench.sends(), [""; 0]);
    bench.acks(6, false);
    assert_eq!(said(&mut unknown), OK);
    let also = bench.publish(exchange("new"));
    let sent = ["4 publish \"letters\" key", "body 7", "4 publish \"new\" key", "body 8"];
    assert_eq!(bench.sends(), sent);
    assert!(waits(&mut behind));
    drop(also);
}

#[test]
fn what_is_refused_alone_fails_alone_and_is_not_tried_again_at_once() {
    let mut bench = Bench::used("letters");
    let mut missing = bench.publish(exchange("missing"));
    let mut behind = bench.publish(exchange("letters"));
    bench.sends();
    bench.closes(REPUBLISHING, 404);
    assert_eq!(said(&mut missing), REFUSED);
    bench.reopens();
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 6"], "it was known before");
    let mut again = bench.publish(exchange("missing"));
    assert_eq!(bench.sends(), [""; 0]);
    assert_eq!(said(&mut again), REFUSED);
    bench.acks(1, false);
    assert_eq!(said(&mut behind), OK, "numbers begin anew");
    bench.after(WARY);
    let mut later = bench.publish(exchange("missing"));
    assert_eq!(bench.sends(), ["4 publish \"missing\" key", "body 8"]);
    bench.acks(2, false);
    assert_eq!(said(&mut later), OK);
}

#[test]
fn an_exchange_that_went_is_tried_alone_again() {
    let mut bench = Bench::used("letters");
    let mut refused = bench.publish(exchange("letters"));
    bench.sends();
    bench.closes(REPUBLISHING, 404);
    assert_eq!(said(&mut refused), REFUSED);
    bench.reopens();
    bench.after(WARY);
    let _answers = [exchange("letters"), exchange("letters")].map(|target| bench.publish(target));
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 6"]);
}

#[test]
fn a_refusal_of_the_message_itself_says_nothing_of_the_exchange() {
    let mut bench = Bench::used("letters");
    let mut wrong = bench.publish(exchange("letters"));
    bench.sends();
    bench.closes(REPUBLISHING, 406);
    assert_eq!(said(&mut wrong), REFUSED);
    bench.reopens();
    let _other = bench.publish(exchange("letters"));
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 6"]);
}

#[test]
fn what_of_several_is_refused_is_unknown_and_then_found_out() {
    let mut bench = Bench::used("letters");
    let mut first = bench.publish(exchange("letters"));
    let mut second = bench.publish(delay("a"));
    bench.sends();
    bench.closes(REPUBLISHING, 406);
    for answer in [&mut first, &mut second] {
        assert_eq!(said(answer), UNKNOWN);
    }
    bench.reopens();
    let mut first = bench.publish(exchange("letters"));
    let mut second = bench.publish(delay("a"));
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 7"]);
    bench.closes(REPUBLISHING, 406);
    assert_eq!(said(&mut first), REFUSED);
    bench.reopens();
    assert_eq!(bench.sends(), ["4 publish \"\" park.a.2", "body 8"]);
    bench.acks(1, false);
    assert_eq!(said(&mut second), OK);
    let _answers = [delay("a"), delay("a")].map(|target| bench.publish(target));
    assert_eq!(bench.sends(), ["4 publish \"\" park.a.2", "body 9"], "still one by one");
    bench.acks(2, false);
    assert_eq!(bench.sends(), ["4 publish \"\" park.a.2", "body 0"]);
    bench.acks(3, false);
    bench.after(WARY);
    let _answers = [delay("a"), delay("a")].map(|target| bench.publish(target));
    assert_eq!(bench.sends().len(), 4, "side by side again");
}

#[test]
fn a_declare_that_is_refused_fails_what_waits_for_that_queue() {
    let mut bench = Bench::opened();
    let mut refused = [bench.publish(delay("taken")), bench.publish(delay("taken"))];
    let mut other = bench.publish(delay("free"));
    assert_eq!(bench.sends(), ["5 declare park.taken.2"]);
    bench.closes(DECLARING, 406);
    assert_eq!(bench.sends(), ["5 channel.open"]);
    for answer in &mut refused {
        assert_eq!(said(answer), REFUSED);
    }
    bench.answers(DECLARING, MethodId::CHANNEL_OPEN_OK);
    assert_eq!(bench.sends(), ["5 declare park.free.2"]);
    bench.declared();
    assert_eq!(bench.sends(), ["4 publish \"\" park.free.2", "body 3"]);
    bench.acks(1, false);
    assert_eq!(said(&mut other), OK);
    let mut again = bench.publish(delay("taken"));
    assert_eq!(bench.sends(), [""; 0]);
    assert_eq!(said(&mut again), REFUSED);
    bench.after(WARY);
    let _later = bench.publish(delay("taken"));
    assert_eq!(bench.sends(), ["5 declare park.taken.2"]);
}

#[test]
fn a_delay_queue_is_declared_again_after_five_minutes() {
    let mut bench = Bench::used("letters");
    bench.after(RENEW.saturating_sub(MOMENT));
    let _fresh = bench.publish(delay("a"));
    assert_eq!(bench.sends(), ["4 publish \"\" park.a.2", "body 5"]);
    bench.after(MOMENT);
    let _stale = bench.publish(delay("a"));
    assert_eq!(bench.sends(), ["5 declare park.a.2"]);
    bench.declared();
    assert_eq!(bench.sends(), ["4 publish \"\" park.a.2", "body 6"]);
}

#[test]
fn the_end_of_the_connection_leaves_unknown_what_was_sent() {
    let mut bench = Bench::used("letters");
    let mut sent = bench.publish(exchange("letters"));
    bench.sends();
    let mut waiting = bench.publish(delay("new"));
    bench.sends();
    bench.post.end();
    assert_eq!([said(&mut sent), said(&mut waiting)], [UNKNOWN, NOT_AVAILABLE]);
}

#[test]
fn what_cannot_be_sent_in_time_is_not_sent() {
    let mut bench = Bench::used("letters");
    bench.answers(0, MethodId::CONNECTION_BLOCKED);
    assert!(bench.post.is_blocked());
    let mut late = bench.publish(exchange("letters"));
    let given_up = bench.publish(exchange("letters"));
    assert_eq!(bench.sends(), [""; 0]);
    bench.after(UNSENT.saturating_sub(MOMENT));
    let given_up_later = bench.publish(exchange("letters"));
    let mut in_time = bench.publish(exchange("letters"));
    bench.after(MOMENT);
    assert_eq!(said(&mut late), NOT_AVAILABLE);
    drop(given_up_later);
    drop(given_up);
    bench.answers(0, MethodId::CONNECTION_UNBLOCKED);
    assert!(!bench.post.is_blocked());
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 8"]);
    assert!(waits(&mut in_time));
}

#[test]
fn what_nobody_waits_for_any_more_holds_nothing_up() {
    let mut bench = Bench::used("letters");
    let given_up = bench.publish(exchange("new"));
    bench.sends();
    let mut next = bench.publish(exchange("letters"));
    assert_eq!(bench.sends(), [""; 0]);
    drop(given_up);
    bench.after(Duration::from_secs(1));
    assert_eq!(bench.sends(), ["4 publish \"letters\" key", "body 6"]);
    bench.acks(5, false);
    assert!(waits(&mut next), "the late answer is not its own");
    bench.acks(6, false);
    assert_eq!(said(&mut next), OK);
}

#[test]
fn no_more_is_written_than_the_socket_takes() {
    let mut bench = Bench::used("letters");
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(bench.publish_of(exchange("letters"), header("1"), vec![b'x'; BACKLOG]));
    }
    let publishes = |sent: &[String]| sent.iter().filter(|said| said.contains("publish")).count();
    assert_eq!(publishes(&bench.sends()), 1);
    bench.backlog = BACKLOG;
    assert_eq!(publishes(&bench.sends()), 0);
    bench.backlog = 0;
    assert_eq!(publishes(&bench.sends()), 1);
}

#[test]
fn a_body_is_cut_to_the_frames_of_the_connection_and_its_size_told() {
    let mut bench = Bench::used("letters");
    let body = vec![b'x'; 2 * (FRAME_MAX - OVERHEAD) + 1];
    let _answer = bench.publish_of(exchange("letters"), header("1"), body.clone());
    bench.post.proceed(bench.now, 0);
    let frames = bench.post.frames();
    let (mut rest, mut sizes) = (&frames[..], Vec::new());
    while let Split::Frame(frame) = split(rest, FRAME_MAX - OVERHEAD) {
        rest = rest.get(frame.raw.len()..).expect("the rest");
        match frame.kind {
            FrameKind::Header => {
                let header = ContentHeader::decode(frame.payload).expect("a header");
                assert_eq!(
                    (header.body_size, header.properties.correlation_id),
                    (body.len() as u64, Some(&b"1"[..]))
                );
            }
            FrameKind::Body => sizes.push(frame.payload.len()),
            _ => {}
        }
    }
    assert_eq!((sizes, rest), (vec![FRAME_MAX - OVERHEAD, FRAME_MAX - OVERHEAD, 1], &b""[..]));
    // The same as of a message that is made here.
    let content = Content {
        properties: Properties {
            correlation_id: Some(b"1"),
            ..Properties::default()
        },
        body: &body,
    };
    let publish = Publish {
        exchange: b"letters",
        routing_key: b"key",
        mandatory: true,
        immediate: false,
        bits_offset: 0,
    };
    let mut made = Vec::new();
    encode::basic_publish(&mut made, REPUBLISHING, &publish, &content, FRAME_MAX).expect("fits");
    assert_eq!(frames, made);
}

#[test]
fn headers_that_would_end_the_connection_are_not_sent() {
    let mut bench = Bench::used("letters");
    let mut other_class = header("1");
    *other_class.get_mut(1).expect("the class") = 61;
    let mut too_long = header("1");
    too_long.resize(FRAME_MAX - OVERHEAD + 1, 0);
    for header in [Vec::new(), vec![0; 13], other_class, too_long] {
        let mut answer = bench.publish_of(exchange("letters"), header, Vec::new());
        assert_eq!(bench.sends(), [""; 0]);
        assert_eq!(said(&mut answer), REFUSED);
    }
    let mut answer = bench.publish_of(exchange(&"x".repeat(256)), header("1"), Vec::new());
    assert_eq!(bench.sends(), [""; 0]);
    assert_eq!(said(&mut answer), REFUSED);
}

#[test]
fn a_channel_that_cannot_be_opened_ends_the_connection() {
    for channel in [REPUBLISHING, DECLARING] {
        let mut bench = Bench::new();
        let closed = Incoming::ChannelClosed {
            channel,
            fault: refusal(504),
        };
        assert!(bench.post.hear(closed, bench.now).is_err());
    }
}
