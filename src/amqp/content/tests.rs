use super::*;
use crate::amqp::frame::{Split, split};

fn header_frame(properties: &Properties<'_>) -> Vec<u8> {
    let mut payload = vec![0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    properties.encode(&mut payload).expect("short strings");
    let mut frame = vec![2, 0, 1];
    put_long(&mut frame, &payload).expect("small");
    frame.push(END);
    frame
}

fn only_frame(bytes: &[u8]) -> Frame<'_> {
    match split(bytes, usize::MAX) {
        Split::Frame(frame) if frame.raw.len() == bytes.len() => frame,
        other => panic!("not one frame: {other:?}"),
    }
}

#[test]
fn a_header_is_replaced_in_place() {
    let mut entries = Vec::new();
    for name in [b"a", b"b", b"c"] {
        put_entry(&mut entries, name, &FieldValue::U8(1)).expect("fits");
    }
    let properties = Properties {
        content_type: Some(b"x"),
        headers: Some(Table::new(&entries)),
        priority: Some(3),
        ..Default::default()
    };
    let bytes = header_frame(&properties);
    let spliced = splice_header(&only_frame(&bytes), b"b", &FieldValue::LongStr(b"new"), 0).expect("spliced");
    let header = ContentHeader::decode(only_frame(&spliced).payload).expect("a header");
    let headers = header.properties.headers.expect("headers");
    let names: Vec<_> = headers.iter().map(|entry| entry.expect("an entry").name).collect();
    assert_eq!(names, [b"a", b"b", b"c"]);
    assert_eq!(headers.get(b"b"), Ok(Some(FieldValue::LongStr(b"new"))));
    assert_eq!((header.body_size, header.properties.priority), (7, Some(3)));
}
