use super::super::value::object;
use super::*;

fn read(body: &[u8]) -> Result<Value, Unreadable> {
    parse(body, Limits::new(1 << 20))
}

fn text(text: &str) -> Value {
    Value::Str(text.to_owned())
}

fn refused(body: &[u8]) -> bool {
    matches!(read(body), Err(Unreadable::Pickle(_)))
}

#[test]
fn opcodes() {
    for (body, value) in [
        (&b"N."[..], Value::Null),
        (b"I01\n.", Value::Bool(true)),
        (b"I00\n.", Value::Bool(false)),
        (b"\x88.", Value::Bool(true)),
        (b"I1\n.", Value::Int(1)),
        (b"I0\n.", Value::Int(0)),
        (b"I-5\n.", Value::Int(-5)),
        (b"L5L\n.", Value::Int(5)),
        (b"L99999999999999999999L\n.", Value::BigInt("99999999999999999999".into())),
        (b"J\xff\xff\xff\xff.", Value::Int(-1)),
        (b"M\xff\xff.", Value::Int(65535)),
        (b"\x8a\0.", Value::Int(0)),
        (b"\x8a\x01\xff.", Value::Int(-1)),
        (b"F1.5\n.", Value::Float(1.5)),
        (b"G\x3f\xf8\0\0\0\0\0\0.", Value::Float(1.5)),
        (b"Va\\u00e9\xe9\\U0001f600\n.", text("aéé😀")),
        (b"S'abc'\n.", text("abc")),
        (b"U\x03abc.", text("abc")),
        (b"T\x03\0\0\0abc.", text("abc")),
        (b"\x8c\x02\xc3\xa9.", text("é")),
        (b"X\x02\0\0\0\xc3\xa9.", text("é")),
        (b"C\x01\xff.", Value::Bytes(vec![255])),
        (b"\x96\x01\0\0\0\0\0\0\0\xff.", object("bytearray", vec![Value::Bytes(vec![255])])),
        (b"(K\x01K\x02t.", Value::Tuple(vec![Value::Int(1), Value::Int(2)])),
        (
            b"K\x01K\x02K\x03\x87.",
            Value::Tuple(vec![Value::Int(1), Value::Int(2), Value::Int(3)]),
        ),
        (b"(K\x01l.", Value::List(vec![Value::Int(1)])),
        (b"](K\x01K\x02e.", Value::List(vec![Value::Int(1), Value::Int(2)])),
        (b"(K\x01Nd.", Value::Map(vec![(Value::Int(1), Value::Null)])),
        (b"}K\x01Ns.", Value::Map(vec![(Value::Int(1), Value::Null)])),
        (b"}(K\x01NK\x01K\x02u.", Value::Map(vec![(Value::Int(1), Value::Int(2))])),
        (b"\x8f(K\x01\x90.", Value::Set(vec![Value::Int(1)])),
        (b"(K\x01\x91.", Value::Set(vec![Value::Int(1)])),
        (b"NK\x010.", Value::Null),
        (b"N(K\x01K\x021.", Value::Null),
        (b"N(0.", Value::Null),
        (b"]2\x86.", Value::Tuple(vec![Value::List(vec![]), Value::List(vec![])])),
        (b"cmodule\nname\n.", object("module.name", vec![text("global")])),
        (b"\x8c\x01m\x8c\x03a.b\x93.", object("m:a.b", vec![text("global")])),
        (b"c__builtin__\nset\n](K\x01e\x85R.", Value::Set(vec![Value::Int(1)])),
    ] {
        assert_eq!(read(body), Ok(value), "{body:?}");
    }
}

#[test]
fn what_is_refused() {
    for body in [
        &b""[..],
        b".",
        b"N",
        b"NN.",
        b"(.",
        b"N(.",
        b"t.",
        b"e.",
        b"]e.",
        b"a.",
        b"Na.",
        b"NNa.",
        b"K\x01Ns.",
        b"}K\x01s.",
        b"}(K\x01u.",
        b"(K\x01d.",
        b"0.",
        b"1.",
        b"2.",
        b"(2.",
        b"h\0.",
        b"g0\n.",
        b"gx\n.",
        b"q\0.",
        b"\x94.",
        b"\x80\x06N.",
        b"P1\n.",
        b"NQ.",
        b"\x82\x01.",
        b"\x83\x01\0.",
        b"\x84\x01\0\0\0.",
        b"\x97.",
        b"N\x98.",
        b"(cos\nsystem\nVls\no.",
        b"(ios\nsystem\n.",
        b"I0x10\n.",
        b"I1_0\n.",
        b"I01x\n.",
        b"I 1\n.",
        b"I007\n.",
        b"L\n.",
        b"Fx\n.",
        b"S'a\\n'\n.",
        b"S'a\n.",
        b"S'\n.",
        b"U\x01\xff.",
        b"V\\x41\n.",
        b"V\\ud800\n.",
        b"V\\ud83d\\ude00\n.",
        b"V\\\n.",
        b"X\x03\0\0\0\xed\xa0\x80.",
        b"c\n\n.",
        b"cm\n\n.",
        b"ca:b\nc\n.",
        b"NN\x93.",
        b"NN\x81.",
        b")N\x81.",
        b")NR.",
        b"cm\nf\nNR.",
        b"cm\nf\n]R.",
        b"cm\nf\n)N\x92.",
        b"NNb.",
        b"]Nb.",
        b"Na.",
        b")Na.",
        b"](\x90.",
        b"N(\x90.",
        b"\xff.",
        b"\0.",
        b"c_codecs\nencode\nV\\u0100\nVlatin1\n\x86R.",
        b"cdatetime\ndate\nC\x04\x07\xea\x0d\x01\x85R.",
        b"cdatetime\ndate\nC\x03\x07\xea\x0d\x85R.",
    ] {
        assert!(refused(body), "{body:?}: {:?}", read(body));
    }
}

#[test]
fn what_contains_itself_is_refused() {
    for body in [
        &b"]q\0h\0a."[..],
        b"}q\0K\x01h\0s.",
        b"cm\nC\n)\x81q\0}K\x01h\0sb.",
        b"]q\0h\0\x85a.",
    ] {
        assert!(refused(body), "{body:?}: {:?}", read(body));
    }
}

#[test]
fn shared_and_copied_parts_are_the_same_value() {
    let shared = read(b"](\x8c\x04textq\0h\0]q\x01(K\x01eh\x01e.");
    let copied = read(b"](\x8c\x04text\x8c\x04text](K\x01e](K\x01ee.");
    assert!(shared.is_ok());
    assert_eq!(shared, copied);
}

#[test]
fn nothing_is_called() {
    let value = read(b"cos\nsystem\n(Vrm -rf /\ntR.");
    let expected = object(
        "os.system",
        vec![
            text("call"),
            Value::Tuple(vec![text("rm -rf /")]),
            Value::Map(vec![]),
            Value::List(vec![]),
            Value::List(vec![]),
            Value::List(vec![]),
        ],
    );
    assert_eq!(value, Ok(expected));
}

/// `set([])` stays empty if the list is filled afterwards; a reader by reference would see it full.
#[test]
fn arguments_that_change_after_the_call_are_refused() {
    assert_eq!(read(b"]q\0(K\x01e0cbuiltins\nset\nh\0\x85R."), Ok(Value::Set(vec![Value::Int(1)])));
    assert!(refused(b"]q\0cbuiltins\nset\nh\0\x85Rq\x010h\0(K\x01e0h\x01."));
    assert!(refused(b"cm\nC\n)\x81q\0}q\x01b0h\x01K\x01Ns0h\0."));
    assert!(refused(b"cm\nC\n)\x81q\0cm\nf\nh\0\x85Rq\x010h\0}b0h\x01."));
}

#[test]
fn instances_that_differ_in_any_part_differ() {
    let bodies: [&[u8]; 12] = [
        b"cm\nC\n)\x81.",
        b"cm\nC\n)R.",
        b"cm\nD\n)\x81.",
        b"cm\nC\n.",
        b"cm\nC\nN\x85\x81.",
        b"cm\nC\n)}Vk\nNs\x92.",
        b"cm\nC\n)\x81Nb.",
        b"cm\nC\n)\x81]b.",
        b"cm\nC\n)\x81NbNb.",
        b"cm\nC\n)\x81Na.",
        b"cm\nC\n)\x81NNs.",
        b"cm\nC\n)\x81N\x85a.",
    ];
    let values: Vec<Value> = bodies
        .iter()
        .map(|body| read(body).unwrap_or_else(|error| panic!("{body:?}: {error}")))
        .collect();
    for (at, value) in values.iter().enumerate() {
        for other in values.iter().skip(at + 1) {
            assert_ne!(value, other);
        }
    }
    assert_eq!(
        read(b"ccopy_reg\n_reconstructor\n(cm\nC\nc__builtin__\nobject\nNtR.").as_ref(),
        Ok(&values[0])
    );
    assert_eq!(read(b"ccopyreg\n__newobj__\ncm\nC\nN\x86R.").as_ref(), Ok(&values[4]));
}

#[test]
fn nested_names_are_the_same_by_getattr_and_by_qualname() {
    let by_name = read(b"\x8c\x01m\x8c\x0bOuter.Inner\x93)\x81.");
    assert_eq!(read(b"cbuiltins\ngetattr\ncm\nOuter\nVInner\n\x86R)\x81."), by_name);
    assert_ne!(by_name, read(b"\x8c\x07m.Outer\x8c\x05Inner\x93)\x81."));
}
