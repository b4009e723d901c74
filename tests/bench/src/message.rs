//! A Celery task message, protocol 2, as `delay()` of Celery 5.7 sends it: encoded once, then patched in place.

use crate::frames::{self, BODY, HEADER, put_long_string, put_short_string, put_table};

/// The placeholder id; its last twelve digits are patched.
const ID: &str = "2afa5499-1f6e-4c53-9b0a-000000000000";
/// The placeholder for the first positional argument: twelve digits and no leading zero.
const NUMBER: &str = "100000000000";
/// Digits in either placeholder.
const DIGITS: usize = 12;
/// The first number that is written; every number below has twelve digits.
const FIRST_NUMBER: u64 = 100_000_000_000;

/// How often the broker may be asked to write the message to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// Delivery mode 1.
    Transient,
    /// Delivery mode 2, Celery's default.
    Persistent,
}

/// Encoded frames of one message and where its id and its first argument stand in them.
#[derive(Debug, Clone)]
pub struct Message {
    /// Method, content header and body frame.
    pub bytes: Vec<u8>,
    /// Where the last twelve characters of each copy of the id begin.
    id_at: Vec<usize>,
    /// Where each copy of the number begins.
    number_at: Vec<usize>,
}

impl Message {
    /// Puts the content of a task called `task` behind the method frame that `method` holds.
    pub fn behind(method: &[u8], channel: u16, task: &str, persistence: Persistence) -> Self {
        let mut bytes = method.to_vec();
        let body = body();
        frames::push(&mut bytes, HEADER, channel, |out| put_header(out, task, persistence, body.len()));
        frames::push(&mut bytes, BODY, channel, |out| out.extend_from_slice(body.as_bytes()));
        let id_at = find_all(&bytes, ID).into_iter().map(|at| at + ID.len() - DIGITS).collect();
        let number_at = find_all(&bytes, NUMBER);
        Self { bytes, id_at, number_at }
    }

    /// Writes the `id`-th id and the `number`-th argument into a copy of [`Self::bytes`].
    pub fn patch(&self, copy: &mut [u8], id: u64, number: u64) {
        let id = decimal(id);
        for &at in &self.id_at {
            copy[at..at + DIGITS].copy_from_slice(&id);
        }
        let number = decimal(FIRST_NUMBER + number % (9 * FIRST_NUMBER));
        for &at in &self.number_at {
            copy[at..at + DIGITS].copy_from_slice(&number);
        }
    }
}

/// Twelve decimal digits; they are hexadecimal ones too, so an id stays a UUID.
fn decimal(mut value: u64) -> [u8; DIGITS] {
    let mut digits = [b'0'; DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    digits
}

fn find_all(bytes: &[u8], needle: &str) -> Vec<usize> {
    let windows = bytes.windows(needle.len()).enumerate();
    windows
        .filter(|(_, window)| *window == needle.as_bytes())
        .map(|(at, _)| at)
        .collect()
}

fn arguments() -> String {
    format!("{NUMBER}, \"invoice-2026-11-customer-of-the-northern-region-0042\"")
}

fn body() -> String {
    format!(
        "[[{}], {{\"recipient\": \"customer@example.org\"}}, {{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}}]",
        arguments()
    )
}

/// Content-type, encoding, headers, delivery mode, priority, correlation id and reply-to, in the order of the wire.
fn put_header(out: &mut Vec<u8>, task: &str, persistence: Persistence, body_size: usize) {
    out.extend_from_slice(&60u16.to_be_bytes());
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&(body_size as u64).to_be_bytes());
    out.extend_from_slice(&0xFE00u16.to_be_bytes());
    put_short_string(out, b"application/json");
    put_short_string(out, b"utf-8");
    put_table(out, |out| put_headers(out, task));
    out.push(match persistence {
        Persistence::Transient => 1,
        Persistence::Persistent => 2,
    });
    out.push(0);
    put_short_string(out, ID.as_bytes());
    put_short_string(out, b"5b0d8a5e-7c1f-3d6e-8d38-0242ac110002");
}

/// The headers of Celery's `as_task_v2`, in its order and with py-amqp's types.
fn put_headers(out: &mut Vec<u8>, task: &str) {
    let argsrepr = format!("({})", arguments().replace('"', "'"));
    put_text(out, "lang", "py");
    put_text(out, "task", task);
    put_text(out, "id", ID);
    for name in ["shadow", "eta", "expires", "group", "group_index"] {
        put_field(out, name, b'V', &[]);
    }
    put_field(out, "retries", b'I', &[0; 4]);
    put_field(out, "timelimit", b'A', &[0, 0, 0, 2, b'V', b'V']);
    put_text(out, "root_id", ID);
    put_field(out, "parent_id", b'V', &[]);
    put_text(out, "argsrepr", &argsrepr);
    put_text(out, "kwargsrepr", "{'recipient': 'customer@example.org'}");
    put_text(out, "origin", "gen25058@web-7");
    put_field(out, "ignore_result", b't', &[0]);
    put_field(out, "replaced_task_nesting", b'I', &[0; 4]);
    put_field(out, "stamped_headers", b'V', &[]);
    put_field(out, "stamps", b'F', &[0; 4]);
}

fn put_field(out: &mut Vec<u8>, name: &str, kind: u8, value: &[u8]) {
    put_short_string(out, name.as_bytes());
    out.push(kind);
    out.extend_from_slice(value);
}

/// A field of type `S`, which py-amqp uses for every string.
pub fn put_text(out: &mut Vec<u8>, name: &str, value: &str) {
    put_short_string(out, name.as_bytes());
    out.push(b'S');
    put_long_string(out, value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::split;

    fn publish() -> Message {
        Message::behind(
            &crate::client::publish_method("bench.plain"),
            1,
            "bench.plain",
            Persistence::Persistent,
        )
    }

    #[test]
    fn a_message_is_about_eight_hundred_bytes_in_three_frames() {
        let message = publish();
        assert!((780..=820).contains(&message.bytes.len()), "{}", message.bytes.len());
        let mut rest = message.bytes.as_slice();
        let mut kinds = Vec::new();
        while let Some((frame, after)) = split(rest).unwrap() {
            kinds.push(frame.kind);
            if frame.kind == HEADER {
                assert_eq!(frame.body_size(), body().len() as u64);
            }
            rest = after;
        }
        assert_eq!((kinds, rest.len()), (vec![1, 2, 3], 0));
    }

    #[test]
    fn patching_changes_every_id_and_every_argument() {
        let message = publish();
        let mut copy = message.bytes.clone();
        message.patch(&mut copy, 42, 7);
        let text = String::from_utf8_lossy(&copy).into_owned();
        assert_eq!(
            text.matches("2afa5499-1f6e-4c53-9b0a-000000000042").count(),
            3,
            "id, root_id, correlation_id"
        );
        assert_eq!(text.matches("100000000007").count(), 2, "argsrepr, body");
        assert!(!text.contains(ID) && !text.contains(NUMBER));
    }
}
