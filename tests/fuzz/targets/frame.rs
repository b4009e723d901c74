//! A stream of any bytes is split into frames that are the stream again, and every decoder takes every method.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oncegate::amqp::content::{self, ContentHeader};
use oncegate::amqp::encode;
use oncegate::amqp::frame::{self, FrameKind, OVERHEAD, Split};
use oncegate::amqp::method::MethodId;
use oncegate::amqp::method::basic::{
    Ack, Cancel, CancelOk, Consume, ConsumeOk, Deliver, Get, GetOk, Nack, Publish, Qos, Recover, Reject, Return,
};
use oncegate::amqp::method::channel::{ConfirmSelect, Flow};
use oncegate::amqp::method::connection::{Blocked, Close, Open, Start, StartOk, Tune, UpdateSecret};
use oncegate::amqp::method::queue::{Bind, Declare, DeclareOk, Delete, Dropped, Purge};

const MAX_PAYLOAD: usize = 4096;

/// How many decoders accept the payload.
fn accepted(payload: &[u8]) -> usize {
    let verdicts = [
        Start::decode(payload).is_some(),
        StartOk::decode(payload).is_some_and(|start_ok| {
            let _ = start_ok.has_capability(b"connection.blocked");
            true
        }),
        Tune::decode(payload).is_some(),
        Tune::decode_ok(payload).is_some(),
        Open::decode(payload).is_some(),
        Close::decode(payload).is_some(),
        Close::decode_channel(payload).is_some(),
        Blocked::decode(payload).is_some(),
        UpdateSecret::decode(payload).is_some(),
        Flow::decode(payload).is_some(),
        ConfirmSelect::decode(payload).is_some(),
        Declare::decode(payload).is_some(),
        DeclareOk::decode(payload).is_some(),
        Bind::decode(payload).is_some(),
        Bind::decode_unbind(payload).is_some(),
        Purge::decode(payload).is_some(),
        Delete::decode(payload).is_some(),
        Dropped::decode_purge_ok(payload).is_some(),
        Dropped::decode_delete_ok(payload).is_some(),
        Publish::decode(payload).is_some(),
        Deliver::decode(payload).is_some(),
        GetOk::decode(payload).is_some(),
        Return::decode(payload).is_some(),
        Ack::decode(payload).is_some(),
        Nack::decode(payload).is_some(),
        Reject::decode(payload).is_some(),
        Consume::decode(payload).is_some(),
        ConsumeOk::decode(payload).is_some(),
        Cancel::decode(payload).is_some(),
        CancelOk::decode(payload).is_some(),
        Get::decode(payload).is_some(),
        Qos::decode(payload).is_some(),
        Recover::decode(payload).is_some(),
    ];
    verdicts.into_iter().filter(|accepted| *accepted).count()
}

fuzz_target!(|data: &[u8]| {
    let _ = frame::parse_protocol_header(data);
    let mut rest = data;
    loop {
        match frame::split(rest, MAX_PAYLOAD) {
            Split::Frame(frame) => {
                assert_eq!(frame.raw, &rest[..frame.raw.len()]);
                assert_eq!(frame.raw.len(), frame.payload.len() + OVERHEAD);
                assert!(frame.payload.len() <= MAX_PAYLOAD);
                assert!(accepted(frame.payload) <= 1, "an id belongs to one method");
                let _ = ContentHeader::decode(frame.payload);
                let _ = content::body_size(frame.payload);
                let mut changed = frame.raw.to_vec();
                let set = encode::set_mandatory(&mut changed);
                let publish = frame.kind == FrameKind::Method && Publish::decode(frame.payload).is_some();
                assert_eq!(set, publish);
                let differing = changed.iter().zip(frame.raw).filter(|(new, old)| new != old).count();
                assert!(differing <= 1);
                if publish {
                    assert_eq!(frame.method_id(), Some(MethodId::BASIC_PUBLISH));
                }
                rest = &rest[frame.raw.len()..];
            }
            Split::Incomplete { needed } => {
                assert!(needed > rest.len());
                break;
            }
            Split::Malformed(_) => break,
        }
    }
});
