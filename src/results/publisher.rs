//! Publishes results to the callers of Celery's RPC backend, as a worker would (celery, `backends/rpc.py`, `store_result`): to the default
//! exchange, routing key `reply_to`, correlation id the task's.

use std::sync::Arc;

use crate::amqp::content::{CLASS_BASIC, Properties};
use crate::amqp::table::Table;
use crate::celery::result::Given;
use crate::control::Control;
use crate::rules::owed::ReplyTo;
use crate::session::{Republish, RepublishFault, Target};

/// At most so many are on their way at once: messages that are parked go the same way, and have bounds together.
pub(super) const AT_ONCE: usize = 200;

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Published {
    /// The broker has it.
    Done,
    /// Nobody waits: the queue is gone, or never was there.
    Nobody,
    /// It cannot be published, and could not later.
    Refused,
    /// It is to be tried again.
    NotNow(RepublishFault),
}

/// Publishes this result for these ids, as many as may be at once. What became of each, in their order.
pub(super) async fn publish<'a>(control: &Control, given: &Given, to: impl Iterator<Item = (&'a str, &'a ReplyTo)>) -> Vec<Published> {
    // They go out at once, and are answered in any order.
    let sent: Vec<_> = to
        .map(|(id, to)| message(given, id, to).map(|message| control.publish(&to.vhost, message)))
        .collect();
    let mut published = Vec::with_capacity(sent.len());
    for answer in sent {
        let answer = match answer {
            Some(answer) => answer.await,
            None => Err(RepublishFault::Refused),
        };
        published.push(match answer {
            Ok(()) => Published::Done,
            Err(RepublishFault::Returned) => Published::Nobody,
            Err(RepublishFault::Refused) => Published::Refused,
            Err(fault @ (RepublishFault::NotAvailable | RepublishFault::Full | RepublishFault::Nacked | RepublishFault::Unknown)) => {
                Published::NotNow(fault)
            }
        });
    }
    published
}

/// The result of this id as a message; `None` if its names do not fit into one.
fn message(given: &Given, id: &str, to: &ReplyTo) -> Option<Republish> {
    let body = given.for_id(id);
    let properties = Properties {
        content_type: Some(b"application/json"),
        content_encoding: Some(b"utf-8"),
        headers: Some(Table::new(&[])),
        delivery_mode: Some(1),
        correlation_id: Some(to.correlation_id.as_deref().unwrap_or(id).as_bytes()),
        ..Properties::default()
    };
    let mut header = CLASS_BASIC.to_be_bytes().to_vec();
    header.extend(0_u16.to_be_bytes());
    header.extend((body.len() as u64).to_be_bytes());
    properties.encode(&mut header).ok()?;
    (to.queue.len() <= 255).then(|| Republish {
        header,
        body,
        target: Target::Caller {
            queue: Arc::clone(&to.queue),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::content::ContentHeader;
    use crate::celery::Limits;
    use crate::celery::result::{Status, read_rpc};

    fn reply(queue: &str, correlation_id: Option<&str>) -> ReplyTo {
        ReplyTo {
            vhost: "/".into(),
            queue: queue.into(),
            correlation_id: correlation_id.map(Into::into),
        }
    }

    #[test]
    fn a_result_as_a_worker_publishes_it() {
        let given = Given::success("a", 1_800_000_000_000);
        for (to, correlation_id) in [(reply("q", None), "b"), (reply("q", Some("c")), "c")] {
            let message = message(&given, "b", &to).expect("it fits");
            let header = ContentHeader::decode(&message.header).expect("a header");
            assert_eq!((header.class, header.weight, header.body_size), (60, 0, message.body.len() as u64));
            assert_eq!(header.properties.correlation_id, Some(correlation_id.as_bytes()));
            assert_eq!(header.properties.reply_to, None);
            let read = read_rpc(&header.properties, &message.body, Limits::new(1 << 20))
                .expect("readable")
                .expect("a result");
            assert_eq!((&*read.id, read.status), ("b", Status::Success));
            assert_eq!(message.target, Target::Caller { queue: "q".into() });
        }
    }

    #[test]
    fn names_that_fit_into_no_message() {
        let given = Given::success("a", 0);
        let long = "x".repeat(256);
        assert!(message(&given, &long, &reply("q", None)).is_none());
        assert!(message(&given, "b", &reply(&long, None)).is_none());
        assert!(message(&given, "b", &reply(&long[1..], Some(&long[1..]))).is_some());
    }

    #[tokio::test]
    async fn without_an_account_it_is_not_now() {
        let given = Given::success("a", 0);
        let to = reply("q", None);
        let published = publish(&Control::default(), &given, [("b", &to), ("c", &to)].into_iter()).await;
        assert_eq!(published, [Published::NotNow(RepublishFault::NotAvailable); 2]);
    }
}
