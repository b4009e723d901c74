//! Links whose other end is the test.

use amq_protocol::frame::{AMQPFrame, WriteContext, gen_frame};
use amq_protocol::protocol::{AMQPClass, basic, channel, confirm, connection, queue};
use amq_protocol::types::FieldTable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::amqp::content::Properties;
use crate::amqp::frame::{PROTOCOL_HEADER, Split, split};
use crate::amqp::method::MethodId;
use crate::config::ClientTls;
use crate::config::account::BrokerUrl;
use crate::config::address::{HostPort, Transport};
use crate::config::unit::Secret;
use crate::session::{QueueKind, Target};
use crate::store::{self, Store, Unobserved};

fn settings(port: u16) -> Settings {
    let account = Account {
        vhost: "jobs".into(),
        url: BrokerUrl {
            address: HostPort {
                host: "127.0.0.1".to_owned(),
                port,
            },
            transport: Transport::Tcp,
            user: "me".to_owned(),
            password: Secret::new("secret"),
            vhost: None,
        },
    };
    Settings {
        dial: Dial {
            account,
            tls: ClientTls::default(),
            timeout: Duration::from_secs(5),
            max_message: 1_000,
            name: "a test".to_owned(),
        },
        follows: false,
        enable_events: false,
        park_prefix: "oncegate.park".into(),
    }
}

/// Links with one to the virtual host `jobs`, and what that is given.
fn linked(up: bool) -> (Control, mpsc::Receiver<post::Job>, Arc<Status>) {
    let status = Arc::<Status>::default();
    status.is_up.store(up, Ordering::Release);
    let (says, _) = mpsc::channel(1);
    let (jobs, given) = mpsc::channel(LETTERS);
    let (notices, _) = mpsc::channel(1);
    let link = Link {
        settings: settings(5672),
        status: Arc::clone(&status),
        says,
        jobs,
        notices,
        letters: Arc::new(Semaphore::new(LETTERS)),
        octets: Arc::new(Semaphore::new(LETTER_OCTETS)),
        task: tokio::spawn(std::future::pending()),
    };
    let control = Control::default();
    control.links().insert("jobs".into(), link);
    (control, given, status)
}

fn message(octets: usize) -> Republish {
    Republish {
        header: Vec::new(),
        body: vec![0; octets],
        target: Target::Exchange {
            exchange: "letters".into(),
            routing_key: "key".into(),
        },
    }
}

const NOT_AVAILABLE: Result<(), RepublishFault> = Err(RepublishFault::NotAvailable);
const FULL: Result<(), RepublishFault> = Err(RepublishFault::Full);

#[tokio::test(start_paused = true)]
async fn without_a_link_that_works_nothing_is_taken() {
    let (control, mut given, status) = linked(false);
    assert_eq!(control.publish("jobs", message(1)).await, NOT_AVAILABLE);
    assert_eq!(control.publish("elsewhere", message(1)).await, NOT_AVAILABLE);
    status.is_up.store(true, Ordering::Release);
    assert!(control.publishes("jobs") && !control.publishes("elsewhere"));
    assert!(!control.reaches("jobs"), "its workers are not followed");
    status.is_blocked.store(true, Ordering::Release);
    assert!(!control.publishes("jobs"));
    assert_eq!(control.publish("jobs", message(1)).await, NOT_AVAILABLE);
    assert!(given.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn the_answer_is_that_of_the_broker_and_is_not_waited_for_without_end() {
    let (control, mut given, _) = linked(true);
    for answer in [Ok(()), Err(RepublishFault::Returned)] {
        let published = control.publish("jobs", message(1));
        // It is handed in before anybody polls.
        let job = given.try_recv().expect("it is handed in");
        job.reply.send(answer).expect("somebody waits");
        assert_eq!(published.await, answer);
    }
    let unknown = Err(RepublishFault::Unknown);
    let begun = Instant::now();
    let published = control.publish("jobs", message(1));
    let job = given.try_recv().expect("it is handed in");
    assert_eq!(published.await, unknown);
    assert_eq!(begun.elapsed(), ANSWER);
    assert!(job.reply.is_closed());
    let published = control.publish("jobs", message(1));
    drop(given);
    assert_eq!(published.await, unknown);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_answered_is_bounded_in_number_and_in_octets() {
    let (control, mut given, _) = linked(true);
    let waiting: Vec<_> = (0..LETTERS).map(|_| control.publish("jobs", message(1))).collect();
    assert_eq!(control.publish("jobs", message(1)).await, FULL);
    let job = given.try_recv().expect("a message");
    assert_eq!(control.publish("jobs", message(1)).await, FULL, "it is on its way");
    drop(job);
    let _one_more = control.publish("jobs", message(1));
    assert_eq!(given.len(), LETTERS);
    drop(waiting);

    let (control, mut given, _) = linked(true);
    let half = control.publish("jobs", message(LETTER_OCTETS / 2));
    let other_half = control.publish("jobs", message(LETTER_OCTETS / 2));
    assert_eq!(control.publish("jobs", message(1)).await, FULL);
    drop(given.try_recv().expect("a message"));
    let _small = control.publish("jobs", message(1));
    assert_eq!(control.publish("jobs", message(LETTER_OCTETS / 2)).await, FULL);
    assert_eq!(given.len(), 2);
    drop((half, other_half));
}

/// One connection of a link, as a broker sees it.
struct Broker {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Broker {
    async fn accept(listener: &TcpListener) -> Broker {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut broker = Broker { stream, read: Vec::new() };
        let mut header = [0; 8];
        broker.stream.read_exact(&mut header).await.expect("the protocol header");
        assert_eq!(header, PROTOCOL_HEADER);
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: FieldTable::default(),
            mechanisms: "PLAIN".into(),
            locales: "en_US".into(),
        };
        let tune = connection::Tune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        };
        broker.says(0, AMQPClass::Connection(connection::AMQPMethod::Start(start))).await;
        broker.hears(MethodId::CONNECTION_START_OK).await;
        broker.says(0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune))).await;
        broker.hears(MethodId::CONNECTION_OPEN).await;
        let opened = connection::AMQPMethod::OpenOk(connection::OpenOk {});
        broker.says(0, AMQPClass::Connection(opened)).await;
        for channel in [post::REPUBLISHING, post::DECLARING] {
            broker.hears(MethodId::CHANNEL_OPEN).await;
            let opened = channel::AMQPMethod::OpenOk(channel::OpenOk {});
            broker.says(channel, AMQPClass::Channel(opened)).await;
        }
        let selected = confirm::AMQPMethod::SelectOk(confirm::SelectOk {});
        broker.says(post::REPUBLISHING, AMQPClass::Confirm(selected)).await;
        broker
    }

    async fn says(&mut self, channel: u16, class: AMQPClass) {
        let written = gen_frame(&AMQPFrame::Method(channel, class))(WriteContext::from(Vec::new()));
        let (frame, _) = written.expect("encodes").into_inner();
        self.stream.write_all(&frame).await.expect("the link reads");
    }

    /// Waits until the link has sent this method.
    async fn hears(&mut self, wanted: MethodId) {
        loop {
            if let Split::Frame(frame) = split(&self.read, 1 << 20) {
                let (method, length) = (frame.method_id(), frame.raw.len());
                self.read.drain(..length);
                if method == Some(wanted) {
                    return;
                }
            } else {
                let read = self.stream.read_buf(&mut self.read).await.expect("the link writes");
                assert_ne!(read, 0, "the link has gone");
            }
        }
    }

    async fn declares(&mut self) {
        self.hears(MethodId::QUEUE_DECLARE).await;
        let declared = queue::DeclareOk {
            queue: "".into(),
            message_count: 0,
            consumer_count: 0,
        };
        let declared = queue::AMQPMethod::DeclareOk(declared);
        self.says(post::DECLARING, AMQPClass::Queue(declared)).await;
        self.hears(MethodId::BASIC_PUBLISH).await;
    }

    async fn acks(&mut self, delivery_tag: u64) {
        let ack = basic::Ack {
            delivery_tag,
            multiple: false,
        };
        self.says(post::REPUBLISHING, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))).await;
    }
}

struct Nobody;

impl Workers for Nobody {
    fn is_carried(&self, _: &Arc<str>, _: &Arc<str>) -> bool {
        false
    }

    fn pulse(&self, _: &Arc<str>, _: Arc<str>, _: Pulse) {}

    fn answered(&self, _: TasksKnown) {}
}

fn parked(queue: &str) -> Republish {
    let mut header = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    Properties::default().encode(&mut header).expect("fits");
    Republish {
        header,
        body: b"body".to_vec(),
        target: Target::Delay {
            queue: queue.into(),
            wait_ms: 1_000,
            kind: QueueKind::Classic,
        },
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_connection_that_goes_leaves_what_was_sent_unknown_and_the_next_begins_anew() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let store = store::Settings {
        url: "memory:".to_owned(),
        prefix: "test".to_owned(),
        timeout: Duration::from_secs(1),
        proxy: "test".into(),
        ca: None,
    };
    let store = Store::open(&store, Arc::new(Unobserved)).expect("a store");
    let control = Control::default();
    let (_settings, wanted) = watch::channel(vec![settings(port)]);
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    tokio::spawn(control.clone().run(store.client(), Arc::new(Nobody), metrics, wanted));

    for _ in 0..2 {
        let mut broker = Broker::accept(&listener).await;
        until(|| control.publishes("jobs")).await;
        let kept = control.publish("jobs", parked("q"));
        broker.declares().await;
        broker.acks(1).await;
        assert_eq!(kept.await, Ok(()));
        let lost = control.publish("jobs", parked("q"));
        broker.hears(MethodId::BASIC_PUBLISH).await;
        let waiting = control.publish("jobs", parked("other"));
        broker.hears(MethodId::QUEUE_DECLARE).await;
        drop(broker);
        assert_eq!(lost.await, Err(RepublishFault::Unknown));
        assert_eq!(waiting.await, NOT_AVAILABLE, "it was not sent");
        assert_eq!(control.publish("jobs", parked("q")).await, NOT_AVAILABLE);
    }
}
