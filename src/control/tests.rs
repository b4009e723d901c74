//! A link whose other end is the test.

use super::*;
use crate::config::ClientTls;
use crate::config::account::BrokerUrl;
use crate::config::address::{HostPort, Transport};
use crate::config::unit::Secret;
use crate::session::Target;

/// Links with one to the virtual host `jobs`, and what that is given.
fn linked(up: bool) -> (Control, mpsc::Receiver<post::Job>, Arc<Status>) {
    let account = Account {
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
    };
    let settings = Settings {
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
    };
    let status = Arc::<Status>::default();
    status.is_up.store(up, Ordering::Release);
    let (says, _) = mpsc::channel(1);
    let (jobs, given) = mpsc::channel(LETTERS);
    let link = Link {
        settings,
        status: Arc::clone(&status),
        says,
        jobs,
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
    assert_eq!(control.publish("jobs", message(1)).await, NOT_AVAILABLE);
    let job = given.try_recv().expect("a message");
    assert_eq!(control.publish("jobs", message(1)).await, NOT_AVAILABLE, "it is on its way");
    drop(job);
    let _one_more = control.publish("jobs", message(1));
    assert_eq!(given.len(), LETTERS);
    drop(waiting);

    let (control, mut given, _) = linked(true);
    let half = control.publish("jobs", message(LETTER_OCTETS / 2));
    let other_half = control.publish("jobs", message(LETTER_OCTETS / 2));
    assert_eq!(control.publish("jobs", message(1)).await, NOT_AVAILABLE);
    drop(given.try_recv().expect("a message"));
    let _small = control.publish("jobs", message(1));
    assert_eq!(control.publish("jobs", message(LETTER_OCTETS / 2)).await, NOT_AVAILABLE);
    assert_eq!(given.len(), 2);
    drop((half, other_half));
}
