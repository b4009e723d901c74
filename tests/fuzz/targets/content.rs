//! Any bytes as a content header: what decodes is spliced into a frame that differs in one header only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oncegate::amqp::content::{ContentHeader, splice_header};
use oncegate::amqp::frame::{self, END, Frame, FrameKind, Split};
use oncegate::amqp::table::FieldValue;

const NAME: &[u8] = b"eta";
const VALUE: FieldValue<'static> = FieldValue::LongStr(b"2026-12-24T00:00:00+00:00");

fuzz_target!(|data: &[u8]| {
    let mut raw = vec![2, 0, 1];
    raw.extend_from_slice(&(data.len() as u32).to_be_bytes());
    raw.extend_from_slice(data);
    raw.push(END);
    let frame = Frame {
        kind: FrameKind::Header,
        channel: 1,
        payload: data,
        raw: &raw,
    };
    let Some(before) = ContentHeader::decode(data) else {
        let _ = splice_header(&frame, NAME, &VALUE, 0);
        return;
    };
    let entries = before
        .properties
        .headers
        .map(|headers| headers.iter().collect::<Result<Vec<_>, _>>());
    let spliced = match (splice_header(&frame, NAME, &VALUE, 0), &entries) {
        (Ok(spliced), None | Some(Ok(_))) => spliced,
        (Err(_), Some(Err(_))) => return,
        (outcome, entries) => panic!("{outcome:?} with {entries:?}"),
    };
    let Split::Frame(new) = frame::split(&spliced, usize::MAX) else {
        panic!("no frame: {spliced:?}")
    };
    assert_eq!(new.raw.len(), spliced.len());
    let after = ContentHeader::decode(new.payload).expect("a content header");
    let headers = after.properties.headers.expect("headers");
    assert_eq!(headers.get(NAME), Ok(Some(VALUE)));
    let others = |name: &[u8]| name != NAME;
    let kept: Vec<&[u8]> = entries
        .iter()
        .flatten()
        .flatten()
        .filter(|entry| others(entry.name))
        .map(|entry| entry.raw)
        .collect();
    let found: Vec<&[u8]> = headers
        .iter()
        .map(|entry| entry.expect("readable"))
        .filter(|entry| others(entry.name))
        .map(|entry| entry.raw)
        .collect();
    assert_eq!(kept, found);
    let mut rest = (before.properties, after.properties);
    (rest.0.headers, rest.1.headers) = (None, None);
    assert_eq!(rest.0, rest.1);
    assert_eq!(
        (before.class, before.weight, before.body_size),
        (after.class, after.weight, after.body_size)
    );
    assert_eq!(splice_header(&frame, NAME, &VALUE, spliced.len()), Ok(spliced));
});
