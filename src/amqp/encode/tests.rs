use super::*;
use crate::amqp::frame::{Split, split};

#[test]
fn mandatory_is_set_in_place() {
    let publish = Publish {
        exchange: b"e",
        routing_key: b"rk",
        mandatory: false,
        immediate: false,
        bits_offset: 0,
    };
    let mut out = Vec::new();
    basic_publish(
        &mut out,
        3,
        &publish,
        &Content {
            properties: Properties::default(),
            body: b"",
        },
        0,
    )
    .expect("short");
    assert!(set_mandatory(&mut out));
    let Split::Frame(frame) = split(&out, usize::MAX) else {
        panic!("no frame")
    };
    assert!(Publish::decode(frame.payload).is_some_and(|publish| publish.mandatory));
}
