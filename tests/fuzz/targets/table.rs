//! Any bytes as a table: the ways to read it agree with each other, and with amq-protocol wherever that can read it.
#![no_main]

use amq_protocol::types::parsing::parse_field_table;
use libfuzzer_sys::fuzz_target;
use oncegate::amqp::table::{FieldValue, MAX_DEPTH, Table};

fuzz_target!(|data: &[u8]| {
    let table = Table::new(data);
    let entries: Result<Vec<_>, _> = table.iter().collect();
    let sound = table.check(MAX_DEPTH);
    if sound.is_ok() {
        assert!(entries.is_ok());
    }
    match &entries {
        Ok(entries) => {
            let raw: Vec<u8> = entries.iter().flat_map(|entry| entry.raw.iter().copied()).collect();
            assert_eq!(raw, data);
            for entry in entries.iter().take(8) {
                let found = table.get(entry.name).expect("every entry can be read").expect("the name is there");
                let last = entries
                    .iter()
                    .rev()
                    .find(|other| other.name == entry.name)
                    .expect("it is there itself");
                assert_eq!(format!("{found:?}"), format!("{:?}", last.value));
                let mut again = Vec::new();
                found.encode(&mut again).expect("it was on a wire before");
                if let FieldValue::Array(array) = found {
                    let _ = array.iter().count();
                }
            }
        }
        Err(error) => assert_eq!(table.get(b"task"), Err(*error)),
    }
    if table.check(16).is_ok() {
        let mut sized = (data.len() as u32).to_be_bytes().to_vec();
        sized.extend_from_slice(data);
        if let Ok((rest, theirs)) = parse_field_table(&sized[..]) {
            assert!(rest.is_empty());
            for (name, _) in theirs.inner() {
                assert!(matches!(table.get(name.as_str().as_bytes()), Ok(Some(_))));
            }
        }
    }
});
