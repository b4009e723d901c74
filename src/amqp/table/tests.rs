use super::*;

fn table(entries: &[(&[u8], FieldValue<'_>)]) -> Vec<u8> {
    let mut raw = Vec::new();
    for (name, value) in entries {
        put_entry(&mut raw, name, value).expect("short names");
    }
    raw
}

/// Every type as the wire has it, under the name `k`, and what it is read as.
const TYPES: &[(&[u8], FieldValue<'static>)] = &[
    (b"\x01kt\x00", FieldValue::Bool(false)),
    (b"\x01kt\x02", FieldValue::Bool(true)),
    (b"\x01kb\xff", FieldValue::I8(-1)),
    (b"\x01kB\xff", FieldValue::U8(255)),
    (b"\x01ks\xff\xfe", FieldValue::I16(-2)),
    (b"\x01kU\xff\xfe", FieldValue::I16(-2)),
    (b"\x01ku\xff\xfe", FieldValue::U16(65534)),
    (b"\x01kI\xff\xff\xff\xfd", FieldValue::I32(-3)),
    (b"\x01ki\xff\xff\xff\xfd", FieldValue::U32(4_294_967_293)),
    (b"\x01kl\xff\xff\xff\xff\xff\xff\xff\xfc", FieldValue::I64(-4)),
    (b"\x01kL\xff\xff\xff\xff\xff\xff\xff\xfc", FieldValue::I64(-4)),
    (b"\x01kf\x3f\xc0\x00\x00", FieldValue::F32(1.5)),
    (b"\x01kd\x3f\xf8\x00\x00\x00\x00\x00\x00", FieldValue::F64(1.5)),
    (b"\x01kD\x02\x00\x00\x01\x3a", FieldValue::Decimal { scale: 2, value: 314 }),
    (b"\x01kS\x00\x00\x00\x02hi", FieldValue::LongStr(b"hi")),
    (b"\x01kx\x00\x00\x00\x02\x00\xff", FieldValue::Bytes(b"\x00\xff")),
    (b"\x01kA\x00\x00\x00\x02t\x01", FieldValue::Array(Array { raw: b"t\x01" })),
    (b"\x01kT\x00\x00\x00\x00\x00\x00\x00\x05", FieldValue::Timestamp(5)),
    (b"\x01kF\x00\x00\x00\x03\x01aV", FieldValue::Table(Table { raw: b"\x01aV" })),
    (b"\x01kV", FieldValue::Void),
];

#[test]
fn every_type_is_read_stepped_over_and_written() {
    for (raw, value) in TYPES {
        let alone = Table::new(raw);
        assert_eq!(alone.get(b"k"), Ok(Some(*value)), "{raw:?}");
        assert_eq!(alone.check(2), Ok(()), "{raw:?}");
        let followed = [raw, &b"\x04lastB\x07"[..]].concat();
        assert_eq!(Table::new(&followed).get(b"last"), Ok(Some(FieldValue::U8(7))), "{raw:?}");
        let entries: Vec<_> = Table::new(&followed).iter().collect();
        assert_eq!(
            entries[0],
            Ok(Entry {
                name: b"k",
                value: *value,
                raw
            })
        );
        assert_eq!(entries.len(), 2);
        let canonical = !matches!(raw[2], b'U' | b'L') && raw[3..] != [2];
        assert_eq!(table(&[(b"k", *value)]) == *raw, canonical, "{raw:?}");
    }
}

#[test]
fn every_type_cut_short_is_an_error() {
    for (raw, _) in TYPES {
        for end in 1..raw.len() {
            let cut = Table::new(&raw[..end]);
            assert_eq!(cut.get(b"k"), Err(TableError::Truncated), "{raw:?} cut to {end}");
            assert_eq!(cut.get(b"other"), Err(TableError::Truncated));
            assert_eq!(cut.check(2), Err(TableError::Truncated));
            assert_eq!(cut.iter().collect::<Vec<_>>(), [Err(TableError::Truncated)]);
        }
    }
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

#[test]
fn names_are_octets() {
    let raw = table(&[
        (b"", FieldValue::U8(1)),
        (b"\xff\x00", FieldValue::U8(2)),
        (&[b'n'; 255], FieldValue::U8(3)),
    ]);
    let table = Table::new(&raw);
    for (name, number) in [(&b""[..], 1), (b"\xff\x00", 2), (&[b'n'; 255], 3)] {
        assert_eq!(table.get(name), Ok(Some(FieldValue::U8(number))));
    }
    assert_eq!(table.get(&[b'n'; 256]), Ok(None));
}

#[test]
fn hostile_lengths_and_types_are_errors() {
    let cases: &[(&[u8], TableError)] = &[
        (b"\xffk", TableError::Truncated),
        (b"\x01kS\xff\xff\xff\xff", TableError::Truncated),
        (b"\x01kF\x00\x00\x00\x01", TableError::Truncated),
        (b"\x01kA\x80\x00\x00\x00t\x01", TableError::Truncated),
        (b"\x01k\x00", TableError::UnknownType(0)),
        (b"\x01kz\x01", TableError::UnknownType(b'z')),
    ];
    for (raw, error) in cases {
        let table = Table::new(raw);
        assert_eq!(table.get(b"k"), Err(*error), "{raw:?}");
        assert_eq!(table.get(b"other"), Err(*error), "{raw:?}");
        assert_eq!(table.check(8), Err(*error), "{raw:?}");
        assert_eq!(table.iter().collect::<Vec<_>>(), [Err(*error)], "{raw:?}");
    }
}

#[test]
fn an_error_ends_the_walk_of_an_array() {
    let array = Array::new(b"t\x01zt\x01");
    assert_eq!(
        array.iter().collect::<Vec<_>>(),
        [Ok(FieldValue::Bool(true)), Err(TableError::UnknownType(b'z'))]
    );
}

#[test]
fn a_fault_within_a_nested_table_is_found_by_check_only() {
    let raw = table(&[(b"outer", FieldValue::Table(Table { raw: b"\x01kz" })), (b"k", FieldValue::U8(1))]);
    let table = Table::new(&raw);
    assert_eq!(table.get(b"k"), Ok(Some(FieldValue::U8(1))));
    assert_eq!(table.check(8), Err(TableError::UnknownType(b'z')));
}

/// `depth` tables (or arrays) within each other.
fn nested(depth: usize, shape: Shape) -> Vec<u8> {
    let mut raw = Vec::new();
    for _ in 1..depth {
        let mut outer = Vec::new();
        match shape {
            Shape::Table => put_entry(&mut outer, b"n", &FieldValue::Table(Table { raw: &raw })).expect("fits"),
            Shape::Array => FieldValue::Array(Array { raw: &raw }).encode(&mut outer).expect("fits"),
        }
        raw = outer;
    }
    raw
}

#[test]
fn depth_is_limited_exactly() {
    for shape in [Shape::Table, Shape::Array] {
        for depth in [1, 2, 31, 32, MAX_DEPTH] {
            let raw = nested(depth, shape);
            assert_eq!(check(&raw, shape, depth), Ok(()), "{shape:?} {depth}");
            assert_eq!(
                check(&raw, shape, depth - 1),
                Err(TableError::TooDeep(depth - 1)),
                "{shape:?} {depth}"
            );
        }
        let raw = nested(MAX_DEPTH + 1, shape);
        assert_eq!(check(&raw, shape, usize::MAX), Err(TableError::TooDeep(MAX_DEPTH)));
    }
}

#[test]
fn siblings_do_not_add_depth() {
    let leaf = nested(3, Shape::Table);
    let entries: Vec<(&[u8], FieldValue<'_>)> = vec![(b"x", FieldValue::Table(Table { raw: &leaf })); 100];
    let raw = table(&entries);
    assert_eq!(Table::new(&raw).check(4), Ok(()));
    assert_eq!(Table::new(&raw).check(3), Err(TableError::TooDeep(3)));
}

#[test]
fn a_table_nested_5000_deep_is_stepped_over() {
    let deep = nested(5000, Shape::Table);
    let raw = table(&[
        (b"deep", FieldValue::Table(Table { raw: &deep })),
        (b"task", FieldValue::LongStr(b"t")),
    ]);
    let table = Table::new(&raw);
    assert_eq!(table.get(b"task"), Ok(Some(FieldValue::LongStr(b"t"))));
    assert_eq!(table.iter().count(), 2);
    assert_eq!(table.check(32), Err(TableError::TooDeep(32)));
}

#[test]
fn an_empty_table_has_nothing() {
    let table = Table::new(b"");
    assert_eq!((table.get(b""), table.check(1), table.iter().count()), (Ok(None), Ok(()), 0));
    assert_eq!(table.check(0), Err(TableError::TooDeep(0)));
}

#[test]
fn values_are_seen_as_text_and_numbers() {
    assert_eq!(FieldValue::LongStr("é".as_bytes()).as_str(), Some("é"));
    assert_eq!(FieldValue::Bytes(b"b").as_str(), Some("b"));
    assert_eq!(FieldValue::LongStr(b"\xff").as_str(), None);
    assert_eq!(FieldValue::LongStr(b"\xff").as_octets(), Some(&b"\xff"[..]));
    assert_eq!(FieldValue::U8(1).as_octets(), None);
    let integers = [
        FieldValue::I8(-1),
        FieldValue::I16(-1),
        FieldValue::I32(-1),
        FieldValue::I64(-1),
        FieldValue::U8(1),
        FieldValue::U16(1),
    ];
    let numbers: Vec<_> = integers.iter().map(FieldValue::as_i64).collect();
    assert_eq!(numbers, [Some(-1), Some(-1), Some(-1), Some(-1), Some(1), Some(1)]);
    assert_eq!(FieldValue::U32(u32::MAX).as_i64(), Some(4_294_967_295));
    assert_eq!(
        (
            FieldValue::F64(1.0).as_i64(),
            FieldValue::Bool(true).as_i64(),
            FieldValue::Timestamp(1).as_i64()
        ),
        (None, None, None)
    );
}
