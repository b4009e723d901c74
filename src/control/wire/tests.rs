//! A connection to a broker that the test plays.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel as channels, connection};
use amq_protocol::types::FieldTable;
use tokio::io::DuplexStream;

use super::*;
use crate::amqp::content::{ContentHeader, Properties};
use crate::amqp::encode::Content;
use crate::amqp::frame::FrameKind;
use crate::amqp::method::basic::Deliver;
use crate::config::account::BrokerUrl;
use crate::config::address::HostPort;
use crate::config::unit::Secret;

const MAX_MESSAGE: usize = 1_000;

fn dial() -> Dial {
    Dial {
        account: Account {
            vhost: "jobs".into(),
            url: BrokerUrl {
                address: HostPort {
                    host: "localhost".to_owned(),
                    port: 5672,
                },
                transport: Transport::Tcp,
                user: "me".to_owned(),
                password: Secret::new("secret"),
                vhost: None,
            },
        },
        tls: ClientTls::default(),
        timeout: Duration::from_secs(5),
        max_message: MAX_MESSAGE,
        name: "a test".to_owned(),
    }
}

fn frame(channel: u16, class: AMQPClass) -> Vec<u8> {
    let written = gen_frame(&AMQPFrame::Method(channel, class))(WriteContext::from(Vec::new()));
    written.expect("encodes").into_inner().0
}

/// The other end of the connection.
struct Broker {
    stream: DuplexStream,
    read: Vec<u8>,
}

impl Broker {
    async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the client reads");
    }

    async fn class(&mut self, class: connection::AMQPMethod) {
        self.say(&frame(0, AMQPClass::Connection(class))).await;
    }

    /// The next frame of the client: its kind, method and payload.
    async fn hears(&mut self) -> (FrameKind, Option<MethodId>, Vec<u8>) {
        loop {
            if let Split::Frame(frame) = split(&self.read, READ_MAX) {
                let heard = (frame.kind, frame.method_id(), frame.payload.to_vec());
                let length = frame.raw.len();
                self.read.drain(..length);
                return heard;
            }
            assert_ne!(
                self.stream.read_buf(&mut self.read).await.expect("the client writes"),
                0,
                "the client has gone"
            );
        }
    }

    async fn hears_method(&mut self, wanted: MethodId) -> Vec<u8> {
        let (_, method, payload) = self.hears().await;
        assert_eq!(method, Some(wanted));
        payload
    }

    /// Takes the protocol header and offers mechanisms.
    async fn start(&mut self, mechanisms: &str) {
        let mut header = [0; 8];
        self.stream.read_exact(&mut header).await.expect("the protocol header");
        assert_eq!(header, PROTOCOL_HEADER);
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: mechanisms.into(),
            locales: "en_US".into(),
        };
        self.class(connection::AMQPMethod::Start(start)).await;
    }

    async fn login(&mut self, heartbeat: u16) {
        self.start("AMQPLAIN PLAIN").await;
        let payload = self.hears_method(MethodId::CONNECTION_START_OK).await;
        let said = StartOk::decode(&payload).expect("start-ok");
        assert_eq!((said.mechanism, said.response), (&b"PLAIN"[..], &b"\0me\0secret"[..]));
        assert_eq!(said.has_capability(b"authentication_failure_close"), Ok(true));
        let tune = connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat,
        };
        self.class(connection::AMQPMethod::Tune(tune)).await;
        let payload = self.hears_method(MethodId::CONNECTION_TUNE_OK).await;
        let tuned = Tune::decode_ok(&payload).expect("tune-ok");
        assert_eq!(
            (tuned.frame_max, tuned.heartbeat),
            (131_072, if heartbeat == 0 { 30 } else { heartbeat.min(30) })
        );
        let payload = self.hears_method(MethodId::CONNECTION_OPEN).await;
        assert!(payload.windows(4).any(|window| window == b"jobs"));
        self.class(connection::AMQPMethod::OpenOk(connection::OpenOk {})).await;
    }
}

fn pair() -> (Box<dyn Stream>, Broker) {
    let (client, stream) = tokio::io::duplex(1 << 16);
    (Box::new(client), Broker { stream, read: Vec::new() })
}

async fn opened(heartbeat: u16) -> (Wire, Broker) {
    let (client, mut broker) = pair();
    let dial = dial();
    let (wire, ()) = tokio::join!(Wire::over(client, &dial), broker.login(heartbeat));
    (wire.expect("it opens"), broker)
}

fn delivery(tag: u64, body: &[u8]) -> Vec<u8> {
    let deliver = Deliver {
        consumer_tag: b"events",
        delivery_tag: tag,
        redelivered: false,
        exchange: b"celeryev",
        routing_key: b"task.multi",
        tag_offset: 0,
    };
    let content = Content {
        properties: Properties {
            content_type: Some(b"application/json"),
            ..Properties::default()
        },
        body,
    };
    let mut frames = Vec::new();
    encode::basic_deliver(&mut frames, 1, &deliver, &content, 200).expect("fits");
    frames
}

async fn next_delivery(wire: &mut Wire) -> (u64, Option<Vec<u8>>) {
    match wire.next().await {
        Ok(Incoming::Delivery(delivery)) => {
            let header = ContentHeader::decode(&delivery.header).expect("a header");
            assert_eq!(header.properties.content_type, Some(&b"application/json"[..]));
            assert_eq!(
                (&*delivery.consumer_tag, &*delivery.routing_key),
                (&b"events"[..], &b"task.multi"[..])
            );
            (delivery.tag, delivery.body)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_whole_however_they_come() {
    let (mut wire, mut broker) = opened(60).await;
    let bodies: [&[u8]; 4] = [b"[]", b"", &[b'x'; MAX_MESSAGE], &[b'x'; MAX_MESSAGE + 1]];
    for (tag, body) in (1..).zip(bodies) {
        let kept = (body.len() <= MAX_MESSAGE).then(|| body.to_vec());
        let frames = delivery(tag, body);
        broker.say(&frames).await;
        assert_eq!(next_delivery(&mut wire).await, (tag, kept.clone()));
        for octet in &frames {
            broker.say(&[*octet]).await;
        }
        assert_eq!(next_delivery(&mut wire).await, (tag, kept));
    }
}

/// A message that comes back, as the library writes it.
fn returned(channel: u16, body: &[u8]) -> Vec<u8> {
    let returned = basic::Return {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "letters".into(),
        routing_key: "nowhere".into(),
    };
    let mut frames = frame(channel, AMQPClass::Basic(basic::AMQPMethod::Return(returned)));
    let content = delivery(1, body);
    let Split::Frame(method) = split(&content, READ_MAX) else {
        panic!("a method")
    };
    let mut content = content.get(method.raw.len()..).expect("the content").to_vec();
    let mut at = 0;
    while let Split::Frame(frame) = split(content.get(at..).expect("a frame"), READ_MAX) {
        let length = frame.raw.len();
        content
            .get_mut(at + 1..at + 3)
            .expect("the channel")
            .copy_from_slice(&channel.to_be_bytes());
        at += length;
    }
    frames.extend(content);
    frames
}

#[tokio::test(start_paused = true)]
async fn what_comes_back_is_told_from_what_is_delivered_even_interleaved() {
    let (mut wire, mut broker) = opened(60).await;
    let back = returned(4, &[b'y'; 300]);
    let delivered = delivery(7, &[b'x'; 300]);
    let frames = |raw: &[u8]| {
        let (mut rest, mut frames) = (raw.to_vec(), Vec::new());
        while let Split::Frame(frame) = split(&rest, READ_MAX) {
            let length = frame.raw.len();
            frames.push(rest.drain(..length).collect::<Vec<u8>>());
        }
        frames
    };
    let (back, delivered) = (frames(&back), frames(&delivered));
    assert_eq!((back.len(), delivered.len()), (4, 4));
    for (one, other) in back.iter().zip(&delivered) {
        broker.say(one).await;
        broker.say(other).await;
    }
    match wire.next().await {
        Ok(Incoming::Returned(returned)) => {
            assert_eq!(returned.channel, 4);
            assert_eq!((&*returned.exchange, &*returned.routing_key), (&b"letters"[..], &b"nowhere"[..]));
            assert_eq!(ContentHeader::decode(&returned.header).map(|header| header.body_size), Some(300));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(next_delivery(&mut wire).await, (7, Some(vec![b'x'; 300])));
    assert_eq!(wire.frame_max(), 131_072);
}

#[tokio::test(start_paused = true)]
async fn what_comes_before_an_answer_is_not_lost() {
    let (mut wire, mut broker) = opened(60).await;
    let mut said = delivery(1, b"one");
    said.extend(frame(2, AMQPClass::Channel(channels::AMQPMethod::OpenOk(channels::OpenOk {}))));
    said.extend(delivery(2, b"two"));
    let answer = wire.call(2, MethodId::CHANNEL_OPEN_OK, |out| {
        client::channel_open(out, 2);
        Ok(())
    });
    let answers = async {
        broker.hears_method(MethodId::CHANNEL_OPEN).await;
        broker.say(&said).await;
    };
    let (answer, ()) = tokio::join!(answer, answers);
    answer.expect("an answer");
    assert_eq!(next_delivery(&mut wire).await, (1, Some(b"one".to_vec())));
    assert_eq!(next_delivery(&mut wire).await, (2, Some(b"two".to_vec())));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_in_the_words_of_the_broker() {
    let (mut wire, mut broker) = opened(60).await;
    let mut closed = Vec::new();
    encode::channel_close(&mut closed, 1, 403, "ACCESS_REFUSED - no\n", None);
    broker.say(&closed).await;
    let refused = wire.call(1, MethodId::CHANNEL_OPEN_OK, |_| Ok(())).await;
    let fault = refused.expect_err("it is refused");
    assert_eq!(
        (fault.code(), fault.to_string()),
        (Some(403), "403 ACCESS_REFUSED - no\\n".to_owned())
    );
    let mut closed = Vec::new();
    encode::connection_close(&mut closed, 320, "CONNECTION_FORCED - bye", None);
    broker.say(&closed).await;
    assert_eq!(wire.next().await.expect_err("it ends").to_string(), "320 CONNECTION_FORCED - bye");
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_comes_is_given_up_and_heartbeats_are_sent() {
    let (mut wire, mut broker) = opened(10).await;
    let begun = Instant::now();
    let ended = tokio::spawn(async move { wire.next().await.map(drop) });
    for beat in 1..=3 {
        assert_eq!(broker.hears().await.0, FrameKind::Heartbeat);
        assert_eq!(begun.elapsed().as_secs(), 5 * beat);
    }
    let mut beat = Vec::new();
    encode::heartbeat(&mut beat);
    broker.say(&beat).await;
    let fault = ended.await.expect("no panic").expect_err("nothing comes");
    assert!(matches!(fault, Fault::Silent(_)), "{fault}");
    assert_eq!(begun.elapsed().as_secs(), 35);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_offers_no_heartbeats_gets_them() {
    let (wire, _broker) = opened(0).await;
    assert_eq!(wire.heartbeat, HEARTBEAT);
}

#[tokio::test(start_paused = true)]
async fn what_answers_otherwise_is_no_broker_of_use() {
    let noise: [(&[u8], &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\n", "what answers there does not speak AMQP 0-9-1"),
        (&PROTOCOL_HEADER, "what answers there does not speak AMQP 0-9-1"),
        (&[], "no answer within 5s"),
    ];
    for (says, wanted) in noise {
        let (client, mut broker) = pair();
        broker.say(says).await;
        let fault = Wire::over(client, &dial()).await.map(drop).expect_err("it is no broker");
        assert_eq!(fault.to_string(), wanted);
    }
    let (client, mut broker) = pair();
    let dial = dial();
    let (fault, ()) = tokio::join!(Wire::over(client, &dial), broker.start("EXTERNAL"));
    assert!(matches!(fault.map(drop), Err(Fault::NoPlain)));
}

#[tokio::test(start_paused = true)]
async fn contents_out_of_order_end_the_connection() {
    let frames = delivery(1, b"body");
    let Split::Frame(method) = split(&frames, READ_MAX) else {
        panic!("a method")
    };
    let (mut wire, mut broker) = opened(60).await;
    broker.say(frames.get(method.raw.len()..).expect("the content")).await;
    assert!(matches!(wire.next().await, Err(Fault::NotAmqp)));

    let (mut wire, mut broker) = opened(60).await;
    let mut longer = frames.clone();
    longer.extend([3, 0, 1, 0, 0, 0, 1, b'x', 0xce]);
    broker.say(&longer).await;
    assert_eq!(next_delivery(&mut wire).await, (1, Some(b"body".to_vec())));
    assert!(matches!(wire.next().await, Err(Fault::NotAmqp)));
}
