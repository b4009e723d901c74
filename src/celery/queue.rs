//! What the name of a queue says: mailboxes of workers, queues for their answers, queues for events.
//!
//! kombu, `pidbox.py`, and celery, `events/receiver.py`: a worker's mailbox is `<node>.<namespace>.pidbox`, the queue for answers to a
//! process `<uuid>.reply.<namespace>.pidbox`, one for events `celeryev.<uuid>`. The namespace is the setting `control_exchange`,
//! `celery` unless set; the prefix of queues for events is `event_queue_prefix`. A node name is `name@host`, always with an `@`.

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// The mailbox of a worker: who declares and consumes it is that worker.
    Mailbox {
        /// The worker's node name.
        node: &'a str,
        /// The namespace.
        namespace: &'a str,
    },
    /// Answers to control messages that a process sent.
    Answers {
        /// The namespace.
        namespace: &'a str,
    },
    /// Events, for a monitor, or for the gossip of a worker.
    Events,
    /// Anything else: tasks, results, and what is not Celery's.
    Other,
}

/// What a queue is for, by its name alone.
///
/// A namespace with a dot in it is not told from the host of a node: then [`node`] knows better.
pub fn purpose(queue: &[u8]) -> Purpose<'_> {
    let Ok(name) = std::str::from_utf8(queue) else {
        return Purpose::Other;
    };
    if let Some((owner, namespace)) = name.strip_suffix(".pidbox").and_then(|rest| rest.rsplit_once('.')) {
        return match owner {
            node if node.contains('@') => Purpose::Mailbox { node, namespace },
            process if process.strip_suffix(".reply").is_some_and(is_uuid) => Purpose::Answers { namespace },
            _ => Purpose::Other,
        };
    }
    match name.strip_prefix("celeryev.") {
        Some(uuid) if is_uuid(uuid) => Purpose::Events,
        _ => Purpose::Other,
    }
}

/// The mailbox of a worker.
pub fn mailbox(node: &str, namespace: &str) -> String {
    format!("{node}.{namespace}.pidbox")
}

/// The node whose mailbox a queue is, given the exchange to which it is bound, whatever the namespace. `None` if it is none.
pub fn node<'a>(queue: &'a [u8], exchange: &[u8]) -> Option<&'a str> {
    super::control::namespace(exchange)?;
    let node = std::str::from_utf8(queue.strip_suffix(exchange)?.strip_suffix(b".")?).ok()?;
    node.contains('@').then_some(node)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, octet)| match at {
            8 | 13 | 18 | 23 => octet == b'-',
            _ => octet.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "0d1c7f7e-4dd5-3f1b-8f0e-6d1f6b8f3f5a";

    #[test]
    fn mailboxes() {
        for (queue, node, namespace) in [
            ("w1@vm.celery.pidbox", "w1@vm", "celery"),
            ("celery@a.example.com.celery.pidbox", "celery@a.example.com", "celery"),
            ("w1@reply.celery.pidbox", "w1@reply", "celery"),
            ("w1@a.reply.celery.pidbox", "w1@a.reply", "celery"),
            ("wörker@vm.shop.pidbox", "wörker@vm", "shop"),
        ] {
            assert_eq!(purpose(queue.as_bytes()), Purpose::Mailbox { node, namespace }, "{queue}");
            assert_eq!(mailbox(node, namespace), queue);
            let exchange = crate::celery::control::exchange(namespace);
            assert_eq!(super::node(queue.as_bytes(), exchange.as_bytes()), Some(node), "{queue}");
        }
        assert_eq!(node(b"w1@vm.shop.control.pidbox", b"shop.control.pidbox"), Some("w1@vm"));
    }

    #[test]
    fn other_queues() {
        let answers = format!("{UUID}.reply.celery.pidbox");
        assert_eq!(purpose(answers.as_bytes()), Purpose::Answers { namespace: "celery" });
        assert_eq!(purpose(format!("celeryev.{UUID}").as_bytes()), Purpose::Events);
        for queue in [
            "",
            "celery",
            ".pidbox",
            "pidbox",
            "celery.pidbox",
            "w1.celery.pidbox",
            "reply.celery.pidbox",
            "orders@eu",
            "celeryev",
            "celeryev.orders",
            UUID,
        ] {
            assert_eq!(purpose(queue.as_bytes()), Purpose::Other, "{queue}");
        }
        assert_eq!(purpose(b"\xff@vm.celery.pidbox"), Purpose::Other);
        for (queue, exchange) in [
            (&b"w1@vm.celery.pidbox"[..], &b"shop.pidbox"[..]),
            (b"w1@vm.celery.pidbox", b"celery"),
            (b"w1@vm.celery.pidbox", b""),
            (b"w1@vm.celery.pidbox", b".pidbox"),
            (b"w1.celery.pidbox", b"celery.pidbox"),
            (b"celery.pidbox", b"celery.pidbox"),
            (b"\xff@vm.celery.pidbox", b"celery.pidbox"),
            (answers.as_bytes(), b"reply.celery.pidbox"),
        ] {
            assert_eq!(node(queue, exchange), None, "{}", String::from_utf8_lossy(queue));
        }
    }
}
