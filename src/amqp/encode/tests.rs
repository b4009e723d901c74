use super::*;
use crate::amqp::content::ContentHeader;
use crate::amqp::frame::{Split, split};
use crate::amqp::method::connection::Close;

/// The frames of a buffer that holds nothing else.
fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let Split::Frame(frame) = split(bytes, usize::MAX) else {
            panic!("no frame: {bytes:?}")
        };
        bytes = &bytes[frame.raw.len()..];
        found.push(frame);
    }
    found
}

const PUBLISH: Publish<'static> = Publish {
    exchange: b"e",
    routing_key: b"rk",
    mandatory: false,
    immediate: false,
    bits_offset: 11,
};

#[test]
fn frames_are_as_the_specification_has_them() {
    let mut out = Vec::new();
    basic_ack(
        &mut out,
        0x0102,
        Ack {
            delivery_tag: 3,
            multiple: true,
        },
    );
    assert_eq!(
        out,
        b"\x01\x01\x02\x00\x00\x00\x0d\x00\x3c\x00\x50\x00\x00\x00\x00\x00\x00\x00\x03\x01\xce"
    );
    out.clear();
    confirm_select(&mut out, 1, true);
    assert_eq!(out, b"\x01\x00\x01\x00\x00\x00\x05\x00\x55\x00\x0a\x01\xce");
    out.clear();
    channel_close_ok(&mut out, 1);
    assert_eq!(out, b"\x01\x00\x01\x00\x00\x00\x04\x00\x14\x00\x29\xce");
    out.clear();
    heartbeat(&mut out);
    assert_eq!(out, b"\x08\x00\x00\x00\x00\x00\x00\xce");
}

#[test]
fn frames_are_appended() {
    let mut out = Vec::new();
    basic_nack(
        &mut out,
        1,
        Nack {
            delivery_tag: 1,
            multiple: true,
            requeue: false,
        },
    );
    basic_nack(
        &mut out,
        1,
        Nack {
            delivery_tag: 1,
            multiple: false,
            requeue: true,
        },
    );
    basic_reject(
        &mut out,
        1,
        Reject {
            delivery_tag: u64::MAX,
            requeue: true,
        },
    );
    basic_cancel(&mut out, 1, b"tag", true).expect("a short tag");
    connection_close_ok(&mut out);
    let found = frames(&out);
    assert_eq!(
        Nack::decode(found[0].payload),
        Some(Nack {
            delivery_tag: 1,
            multiple: true,
            requeue: false
        })
    );
    assert_eq!(
        Nack::decode(found[1].payload),
        Some(Nack {
            delivery_tag: 1,
            multiple: false,
            requeue: true
        })
    );
    assert_eq!(
        Reject::decode(found[2].payload),
        Some(Reject {
            delivery_tag: u64::MAX,
            requeue: true
        })
    );
    assert_eq!(found[3].method_id(), Some(MethodId::BASIC_CANCEL));
    assert_eq!((found[4].method_id(), found[4].channel), (Some(MethodId::CONNECTION_CLOSE_OK), 0));
}

#[test]
fn a_reply_text_is_cut_between_characters() {
    let mut out = Vec::new();
    connection_close(&mut out, 541, &"ü".repeat(300), None);
    channel_close(&mut out, 7, 404, "NOT_FOUND", Some(MethodId::BASIC_PUBLISH));
    let found = frames(&out);
    let close = Close::decode(found[0].payload).expect("a close");
    assert_eq!(
        (close.code, close.text, close.cause),
        (541, "ü".repeat(127).as_bytes(), MethodId { class: 0, method: 0 })
    );
    let close = Close::decode_channel(found[1].payload).expect("a close");
    assert_eq!(
        close,
        Close {
            code: 404,
            text: b"NOT_FOUND",
            cause: MethodId::BASIC_PUBLISH
        }
    );
    assert_eq!(found[1].channel, 7);
}

#[test]
fn a_body_is_split_at_frame_max() {
    let body: Vec<u8> = (0..=255).collect();
    for (frame_max, sizes) in [
        (0, vec![256]),
        (264, vec![256]),
        (263, vec![255, 1]),
        (136, vec![128, 128]),
        (100, vec![92, 92, 72]),
    ] {
        let mut out = Vec::new();
        basic_publish(
            &mut out,
            3,
            &PUBLISH,
            &Content {
                properties: Properties::default(),
                body: &body,
            },
            frame_max,
        )
        .expect("short");
        let found = frames(&out);
        assert_eq!(Publish::decode(found[0].payload), Some(PUBLISH));
        assert_eq!(ContentHeader::decode(found[1].payload).map(|header| header.body_size), Some(256));
        let bodies: Vec<usize> = found[2..].iter().map(|frame| frame.payload.len()).collect();
        assert_eq!(bodies, sizes, "frame_max {frame_max}");
    }
}

#[test]
fn an_empty_body_has_no_frame() {
    let mut out = Vec::new();
    let content = Content {
        properties: Properties::default(),
        body: b"",
    };
    basic_publish(&mut out, 3, &PUBLISH, &content, 4096).expect("short");
    let kinds: Vec<FrameKind> = frames(&out).iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [FrameKind::Method, FrameKind::Header]);
}

#[test]
fn what_does_not_fit_leaves_nothing_behind() {
    let long = [b'x'; 256];
    let mut out = vec![1, 2, 3];
    let content = Content {
        properties: Properties {
            reply_to: Some(&long),
            ..Default::default()
        },
        body: b"",
    };
    let error = Err(EncodeError::ShortString(256));
    assert_eq!(basic_publish(&mut out, 3, &PUBLISH, &content, 0), error);
    let publish = Publish {
        routing_key: &long,
        ..PUBLISH
    };
    let content = Content {
        properties: Properties::default(),
        body: b"",
    };
    assert_eq!(basic_publish(&mut out, 3, &publish, &content, 0), error);
    assert_eq!(basic_cancel(&mut out, 3, &long, false), error);
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn mandatory_is_set_in_place() {
    for immediate in [false, true] {
        let publish = Publish { immediate, ..PUBLISH };
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
        assert_eq!(
            Publish::decode(frames(&out)[0].payload),
            Some(Publish {
                mandatory: true,
                ..publish
            })
        );
    }
}

#[test]
fn mandatory_is_set_in_nothing_else() {
    let mut ack = Vec::new();
    basic_ack(
        &mut ack,
        1,
        Ack {
            delivery_tag: 1,
            multiple: false,
        },
    );
    for mut bytes in [Vec::new(), vec![1, 0, 1], ack] {
        let before = bytes.clone();
        assert!(!set_mandatory(&mut bytes));
        assert_eq!(bytes, before);
    }
}
