//! Bodies made to hurt: they end in an error, in bounded time and memory.

use super::*;
use oncegate::celery::compression::{Compression, decompress};
use oncegate::celery::{Unreadable, control, event, result};

type Parser = fn(&[u8], Limits) -> Result<Value, Unreadable>;

const PARSERS: [(&str, Parser); 4] = [
    ("application/json", oncegate::celery::json::parse),
    ("application/x-python-serialize", oncegate::celery::pickle::parse),
    ("application/x-msgpack", oncegate::celery::msgpack::parse),
    ("application/x-yaml", oncegate::celery::yaml::parse),
];

const COMPRESSIONS: [Compression; 5] = [
    Compression::Zlib,
    Compression::Bzip2,
    Compression::Xz,
    Compression::Zstd,
    Compression::Brotli,
];

/// Numbers that look random and are the same in every run (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % sides as u64) as usize
    }
}

#[test]
fn truncated_at_every_octet() {
    for (name, header, body, _) in captured() {
        let properties = properties(&header);
        let encoding = Encoding::of(&properties).expect("an encoding");
        // The beginning of a YAML document is often a document; it has to be read without harm, no more.
        let may_be_whole = name.contains("/yaml/");
        for length in 0..body.len() {
            let read = body::decode(&encoding, &body[..length], limits());
            assert!(read.is_err() || may_be_whole, "{name} at {length}");
        }
    }
}

#[test]
fn pickles_truncated_and_with_more_behind() {
    for file in [include_str!("known_objects.jsonl"), include_str!("other_objects.jsonl")] {
        for row in rows(file) {
            for hex in row["pickles"].as_array().expect("a list") {
                let whole = octets(hex);
                for length in 0..whole.len() {
                    assert!(matches!(pickle::parse(&whole[..length], limits()), Err(Unreadable::Pickle(_))));
                }
                for more in [&b"."[..], b"N", b"N.", b"\0"] {
                    let longer = [&whole, more].concat();
                    assert!(matches!(pickle::parse(&longer, limits()), Err(Unreadable::Pickle(_))));
                }
            }
        }
    }
}

#[test]
fn changed_octets_do_no_harm() {
    let mut dice = Dice(1);
    for (_, header, body, _) in captured() {
        let properties = properties(&header);
        let encoding = Encoding::of(&properties).expect("an encoding");
        for _ in 0..60 {
            let mut changed = body.clone();
            for _ in 0..=dice.roll(4) {
                let at = dice.roll(changed.len());
                changed[at] = dice.roll(256) as u8;
            }
            if let Ok(read) = body::decode(&encoding, &changed, limits()) {
                assert!(matches!(read.args, Value::List(_) | Value::Tuple(_)));
                assert!(matches!(read.kwargs, Value::Map(_)));
            }
            let _ = task::read_with_body(&properties, &changed, limits());
        }
        for at in (12..header.len()).step_by(7) {
            let mut changed = header.clone();
            changed[at] = dice.roll(256) as u8;
            if let Some(header) = ContentHeader::decode(&changed) {
                let _ = task::read_with_body(&header.properties, &body, limits());
            }
        }
    }
}

#[test]
fn random_octets_do_no_harm() {
    let mut dice = Dice(2);
    // Opcodes and brackets, so that more than the first octet is looked at.
    let alphabet = b"\x80\x04\x95\x8c\x94\x93\x81\x92\x85\x86\x87\x8f\x90\x91(].){}0123ueasdtlNKMJX\x88\x89RbcGhjpqr\n\x01\x02[]{},:\"- '\\u0|>&*!#%@?";
    for _ in 0..20_000 {
        let body: Vec<u8> = (0..dice.roll(40)).map(|_| alphabet[dice.roll(alphabet.len())]).collect();
        for (_, parse) in PARSERS {
            let _ = parse(&body, limits());
        }
        for compression in COMPRESSIONS {
            let _ = decompress(compression, &body, limits());
        }
    }
}

#[test]
fn nested_very_deep() {
    for (content_type, open) in [
        ("application/json", "["),
        ("application/json", "{\"a\":"),
        ("application/x-msgpack", "\u{11}"),
        ("application/x-yaml", "["),
        ("application/x-yaml", "- "),
        ("application/x-yaml", "? "),
        ("application/x-yaml", "{a: "),
        ("application/x-python-serialize", "("),
        ("application/x-python-serialize", "]"),
    ] {
        for depth in [5_000, 200_000] {
            let encoding = Encoding {
                content_type: Some(content_type.as_bytes()),
                ..Encoding::default()
            };
            let body = match content_type {
                "application/x-msgpack" => vec![0x91; depth],
                _ => open.repeat(depth).into_bytes(),
            };
            assert!(body::decode(&encoding, &body, limits()).is_err(), "{content_type} {open} {depth}");
        }
    }
    let lists = |depth: usize| [vec![b']'; depth], vec![b'a'; depth - 1], vec![b'.']].concat();
    let tuples = |depth: usize| [vec![b')'], vec![0x85; depth - 1], vec![b'.']].concat();
    assert!(pickle::parse(&lists(100), limits()).is_ok());
    assert!(pickle::parse(&tuples(100), limits()).is_ok());
    for depth in [200, 5_000, 500_000] {
        assert!(matches!(pickle::parse(&lists(depth), limits()), Err(Unreadable::Pickle(_))));
        assert!(matches!(pickle::parse(&tuples(depth), limits()), Err(Unreadable::Pickle(_))));
    }
}

#[test]
fn lengths_that_nothing_stands_behind() {
    for body in [
        &b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."[..],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\0\0\0\0.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"X\xff\xff\xff\xff.",
        b"B\xff\xff\xff\xff.",
        b"T\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\xff.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x8a\xff.",
        b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xfe.",
        b"Np99999999999999999999\n.",
    ] {
        assert!(matches!(pickle::parse(body, limits()), Err(Unreadable::Pickle(_))), "{body:?}");
    }
    assert_eq!(pickle::parse(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.", limits()), Ok(Value::Null));
}

#[test]
fn a_memo_bomb_is_refused() {
    // Each list holds the one before ten times.
    let mut bomb = b"]q\0".to_vec();
    for level in 1..=20_u8 {
        bomb.extend(b"0](");
        for _ in 0..10 {
            bomb.extend([b'h', level - 1]);
        }
        bomb.extend([b'e', b'q', level]);
    }
    bomb.push(b'.');
    assert!(matches!(pickle::parse(&bomb, limits()), Err(Unreadable::Pickle(_))));
    // A long text, many times.
    let mut bomb = b"X\0\0\x10\0".to_vec();
    bomb.extend(vec![b'x'; 1 << 20]);
    bomb.extend(b"q\0(");
    for _ in 0..1000 {
        bomb.extend(b"h\0");
    }
    bomb.extend(b"l.");
    assert!(matches!(pickle::parse(&bomb, limits()), Err(Unreadable::Pickle(_))));
}

#[test]
fn long_integers_are_bounded() {
    let long = |octets: usize| [&b"\x8b"[..], &(octets as u32).to_le_bytes(), &vec![0x7f; octets], b"."].concat();
    assert!(matches!(pickle::parse(&long(1000), limits()), Ok(Value::BigInt(digits)) if digits.len() == 2408));
    assert!(matches!(pickle::parse(&long(10_000_000), limits()), Err(Unreadable::Pickle(_))));
    let many = [&b"("[..], &long(8000)[..8005].repeat(1000), b"l."].concat();
    assert!(matches!(pickle::parse(&many, limits()), Err(Unreadable::Pickle(_))));
}

#[test]
fn many_of_everything_is_refused() {
    for part in [&b"N"[..], b"(", b"]", b")", b"}", b"K\x01"] {
        assert!(matches!(
            pickle::parse(&part.repeat(3_000_000), limits()),
            Err(Unreadable::Pickle(_))
        ));
    }
    let copies = [b"N".to_vec(), b"2".repeat(3_000_000)].concat();
    assert!(matches!(pickle::parse(&copies, limits()), Err(Unreadable::Pickle(_))));
    let json = format!("[{}0]", "0,".repeat(3_000_000));
    assert!(matches!(PARSERS[0].1(json.as_bytes(), limits()), Err(Unreadable::TooLarge(_))));
    let msgpack = [&b"\xdd\x00\x30\x00\x00"[..], &vec![0; 0x30_0000]].concat();
    assert!(matches!(PARSERS[2].1(&msgpack, limits()), Err(Unreadable::TooLarge(_))));
}

#[test]
fn compressions_by_each_of_their_names_and_bombs() {
    for row in rows(include_str!("compressed.jsonl")) {
        let name = text(&row, "compression");
        let compression = Compression::from_header(name.as_bytes()).expect("known");
        let body = octets(&row["body"]);
        let read = decompress(compression, &body, limits());
        match row["size"].as_u64() {
            Some(0) => assert_eq!(read.as_deref(), Ok(&b""[..]), "{name}"),
            Some(3) => assert_eq!(read.as_deref(), Ok(&b"abc"[..]), "{name}"),
            _ => {
                assert!(body.len() < 40_000, "{name}");
                assert!(matches!(read, Err(Unreadable::TooLarge(_))), "{name}: {read:?}");
                let exact = Limits::new(20 << 20);
                assert_eq!(
                    decompress(compression, &body, exact).map(|octets| octets.len()),
                    Ok(20 << 20),
                    "{name}"
                );
                assert!(
                    matches!(
                        decompress(compression, &body, Limits::new((20 << 20) - 1)),
                        Err(Unreadable::TooLarge(_))
                    ),
                    "{name}"
                );
            }
        }
        for length in 0..body.len().min(64) {
            assert!(decompress(compression, &body[..length], limits()).is_err(), "{name} at {length}");
        }
    }
}

/// Reads a body as each of the things that workers and their controllers say; whether it is one of the kind.
fn read_signal(kind: &str, properties: &Properties<'_>, body: &[u8]) -> bool {
    let read = [
        ("event", event::read(properties, body, limits()).is_ok()),
        ("control", control::read(properties, body, limits()).is_ok()),
        ("reply", control::read_reply(properties, body, limits()).is_ok()),
        ("rpc", matches!(result::read_rpc(properties, body, limits()), Ok(Some(_)))),
        ("stored", matches!(result::read_stored("id", body, limits()), Ok(Some(_)))),
    ];
    read.iter().any(|(name, read)| *name == kind && *read)
}

#[test]
fn cut_and_changed_signals_do_no_harm() {
    let mut dice = Dice(3);
    for kind in ["event", "control", "reply", "rpc", "stored"] {
        for row in super::signals::signals(kind) {
            let name = text(&row, "name");
            let body = octets(&row["body"]);
            let header = if kind == "stored" { Vec::new() } else { octets(&row["header"]) };
            let properties = if kind == "stored" {
                Properties::default()
            } else {
                properties(&header)
            };
            assert!(read_signal(kind, &properties, &body), "{name}");
            // The beginning of a YAML document is often a document.
            let may_be_whole = name.starts_with("yaml/");
            for _ in 0..3 {
                let cut = &body[..dice.roll(body.len())];
                assert!(!read_signal(kind, &properties, cut) || may_be_whole, "{name} at {}", cut.len());
                let mut changed = body.clone();
                for _ in 0..=dice.roll(4) {
                    let at = dice.roll(changed.len());
                    changed[at] = dice.roll(256) as u8;
                }
                read_signal(kind, &properties, &changed);
            }
        }
    }
}
