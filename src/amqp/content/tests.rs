use super::*;
use crate::amqp::frame::{Split, split};

/// A content header frame over `payload`.
fn frame_of(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 1];
    put_long(&mut frame, payload).expect("small");
    frame.push(END);
    frame
}

fn payload_of(properties: &Properties<'_>) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    properties.encode(&mut payload).expect("short strings");
    payload
}

fn only_frame(bytes: &[u8]) -> Frame<'_> {
    match split(bytes, usize::MAX) {
        Split::Frame(frame) if frame.raw.len() == bytes.len() => frame,
        other => panic!("not one frame: {other:?}"),
    }
}

fn splice(payload: &[u8], name: &[u8], value: &FieldValue<'_>) -> Vec<u8> {
    let bytes = frame_of(payload);
    let spliced = splice_header(&only_frame(&bytes), name, value, 0).expect("spliced");
    only_frame(&spliced).payload.to_vec()
}

const CLASS_TO_SIZE: &[u8] = &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

#[test]
fn properties_are_read_where_the_flags_say() {
    // From the specification, 4.2.6.1: the first property has the highest bit.
    type Set = fn(&mut Properties<'_>);
    let cases: &[(&[u8], Set)] = &[
        (b"\x00\x00", |_| {}),
        (b"\x80\x00\x02ct", |p| p.content_type = Some(b"ct")),
        (b"\x40\x00\x02ce", |p| p.content_encoding = Some(b"ce")),
        (b"\x20\x00\x00\x00\x00\x03\x01aV", |p| p.headers = Some(Table::new(b"\x01aV"))),
        (b"\x10\x00\x02", |p| p.delivery_mode = Some(2)),
        (b"\x08\x00\x09", |p| p.priority = Some(9)),
        (b"\x04\x00\x01c", |p| p.correlation_id = Some(b"c")),
        (b"\x02\x00\x01r", |p| p.reply_to = Some(b"r")),
        (b"\x01\x00\x0210", |p| p.expiration = Some(b"10")),
        (b"\x00\x80\x01m", |p| p.message_id = Some(b"m")),
        (b"\x00\x40\x00\x00\x00\x00\x00\x00\x00\x05", |p| p.timestamp = Some(5)),
        (b"\x00\x20\x01t", |p| p.kind = Some(b"t")),
        (b"\x00\x10\x01u", |p| p.user_id = Some(b"u")),
        (b"\x00\x08\x01a", |p| p.app_id = Some(b"a")),
        (b"\x00\x04\x00", |p| p.cluster_id = Some(b"")),
    ];
    for (bytes, set) in cases {
        let mut properties = Properties::default();
        set(&mut properties);
        let payload = [CLASS_TO_SIZE, bytes].concat();
        assert_eq!(payload_of(&properties), payload);
        let header = ContentHeader {
            class: 60,
            weight: 0,
            body_size: 7,
            properties,
        };
        assert_eq!(ContentHeader::decode(&payload), Some(header), "{bytes:?}");
        assert_eq!(body_size(&payload), Some(7));
        for end in 0..payload.len() {
            assert_eq!(ContentHeader::decode(&payload[..end]), None, "{bytes:?} cut to {end}");
        }
    }
}

#[test]
fn further_words_of_flags_are_stepped_over() {
    let payload = [CLASS_TO_SIZE, b"\x80\x01\x80\x01\x80\x00\x02ct\x07unknown"].concat();
    let header = ContentHeader::decode(&payload).expect("a content header");
    assert_eq!(
        header.properties,
        Properties {
            content_type: Some(b"ct"),
            ..Default::default()
        }
    );
    let endless = [CLASS_TO_SIZE, &[0xff; 64]].concat();
    assert_eq!(ContentHeader::decode(&endless), None);
    let spliced = splice(&payload, b"k", &FieldValue::Void);
    assert_eq!(
        spliced,
        [CLASS_TO_SIZE, b"\xa0\x01\x80\x01\x80\x00\x02ct\x00\x00\x00\x03\x01kV\x07unknown"].concat()
    );
}

#[test]
fn any_body_size_is_read() {
    let payload = [&[0, 60, 0, 0][..], &[0xff; 8], &[0, 0]].concat();
    assert_eq!(ContentHeader::decode(&payload).map(|header| header.body_size), Some(u64::MAX));
}

#[test]
fn a_header_is_replaced_in_place() {
    let before = [CLASS_TO_SIZE, b"\xa8\x00\x01x\x00\x00\x00\x0c\x01aB\x01\x01bB\x02\x01cB\x03\x05"].concat();
    let after = [
        CLASS_TO_SIZE,
        b"\xa8\x00\x01x\x00\x00\x00\x12\x01aB\x01\x01bS\x00\x00\x00\x03new\x01cB\x03\x05",
    ]
    .concat();
    assert_eq!(splice(&before, b"b", &FieldValue::LongStr(b"new")), after);
    assert_eq!(splice(&after, b"b", &FieldValue::U8(2)), before);
}

#[test]
fn a_header_is_appended_to_the_headers_that_are_there() {
    let before = [CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x05\x01aU\x00\x01"].concat();
    let after = [CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x09\x01aU\x00\x01\x01kB\x05"].concat();
    assert_eq!(splice(&before, b"k", &FieldValue::U8(5)), after);
}

#[test]
fn headers_are_made_where_there_are_none() {
    let before = [CLASS_TO_SIZE, b"\xd8\x00\x02ct\x02ce\x02\x09"].concat();
    let after = [CLASS_TO_SIZE, b"\xf8\x00\x02ct\x02ce\x00\x00\x00\x04\x01kt\x01\x02\x09"].concat();
    assert_eq!(splice(&before, b"k", &FieldValue::Bool(true)), after);
}

#[test]
fn every_entry_of_the_name_is_replaced() {
    let before = [CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x0b\x01kB\x01\x01aV\x01kB\x02"].concat();
    let after = [CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x09\x01kV\x01aV\x01kV"].concat();
    assert_eq!(splice(&before, b"k", &FieldValue::Void), after);
}

#[test]
fn what_cannot_be_spliced_is_refused() {
    let broken = frame_of(&[CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x03\x01kz"].concat());
    let error = splice_header(&only_frame(&broken), b"a", &FieldValue::Void, 0);
    assert_eq!(error, Err(SpliceError::Table(TableError::UnknownType(b'z'))));

    let cut = frame_of(&[CLASS_TO_SIZE, b"\x20\x00\x00\x00\x00\x09\x01kV"].concat());
    assert_eq!(
        splice_header(&only_frame(&cut), b"a", &FieldValue::Void, 0),
        Err(SpliceError::Malformed)
    );

    let bytes = frame_of(&payload_of(&Properties::default()));
    let frame = only_frame(&bytes);
    let body = Frame {
        kind: FrameKind::Body,
        ..frame
    };
    assert_eq!(splice_header(&body, b"a", &FieldValue::Void, 0), Err(SpliceError::Malformed));
    let long_name = splice_header(&frame, &[b'n'; 256], &FieldValue::Void, 0);
    assert_eq!(long_name, Err(SpliceError::Encode(EncodeError::ShortString(256))));

    let size = bytes.len() + 4 + 3;
    let too_large = splice_header(&frame, b"a", &FieldValue::Void, size - 1);
    assert_eq!(too_large, Err(SpliceError::TooLarge { size, frame_max: size - 1 }));
    assert_eq!(
        splice_header(&frame, b"a", &FieldValue::Void, size).map(|spliced| spliced.len()),
        Ok(size)
    );
}

#[test]
fn properties_too_long_for_the_wire_are_refused() {
    let long = [b'x'; 256];
    let properties = Properties {
        reply_to: Some(&long),
        ..Default::default()
    };
    assert_eq!(properties.encode(&mut Vec::new()), Err(EncodeError::ShortString(256)));
}
