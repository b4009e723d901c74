use super::*;

fn table(entries: &[(&[u8], FieldValue<'_>)]) -> Vec<u8> {
    let mut raw = Vec::new();
    for (name, value) in entries {
        put_entry(&mut raw, name, value).expect("short names");
    }
    raw
}

#[test]
fn the_last_of_equal_names_counts() {
    let raw = table(&[(b"a", FieldValue::I32(1)), (b"b", FieldValue::Void), (b"a", FieldValue::I32(2))]);
    let table = Table::new(&raw);
    assert_eq!(table.get(b"a"), Ok(Some(FieldValue::I32(2))));
    assert_eq!(
        table.get_many([b"b", b"c", b"a"]),
        Ok([Some(FieldValue::Void), None, Some(FieldValue::I32(2))])
    );
}
