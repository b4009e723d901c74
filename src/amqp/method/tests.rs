use super::basic::{Ack, Cancel, Consume, Deliver, GetOk, Nack, Publish, Qos, Recover, Reject};
use super::connection::{Close, StartOk, Tune};
use super::queue::{Bind, Declare, Delete};
use super::*;
use crate::amqp::table::Table;

#[test]
fn every_id_has_one_name() {
    let mut names: Vec<_> = ALL.iter().map(|id| id.name().expect("a name")).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ALL.len());
    assert_eq!(MethodId::BASIC_PUBLISH.to_string(), "basic.publish");
    assert_eq!(MethodId { class: 60, method: 99 }.to_string(), "60.99");
}

#[test]
fn an_id_is_read_from_a_payload() {
    assert_eq!(MethodId::of_payload(&[0, 60, 0, 40, 9]), Some(MethodId::BASIC_PUBLISH));
    assert_eq!(
        MethodId::of_payload(&[1, 2, 3, 4]),
        Some(MethodId {
            class: 0x0102,
            method: 0x0304
        })
    );
    assert_eq!(MethodId::of_payload(&[0, 60, 0]), None);
}

#[test]
fn four_methods_carry_content() {
    let carrying: Vec<_> = ALL.iter().filter(|id| id.carries_content()).map(ToString::to_string).collect();
    assert_eq!(carrying, ["basic.publish", "basic.return", "basic.deliver", "basic.get-ok"]);
}

#[test]
fn another_method_is_not_decoded() {
    let ack = [0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    assert_eq!(
        Ack::decode(&ack),
        Some(Ack {
            delivery_tag: 1,
            multiple: true
        })
    );
    assert_eq!((Nack::decode(&ack), Reject::decode(&ack)), (None, None));
    for (index, other) in [(1, 61), (3, 81)] {
        let mut bytes = ack;
        bytes[index] = other;
        assert_eq!(Ack::decode(&bytes), None);
    }
}

#[test]
fn a_publish_keeps_octets_and_knows_where_its_flags_are() {
    let payload = b"\x00\x3c\x00\x28\xff\xff\x02\xff\xfe\x03a\x00b\x03";
    let publish = Publish::decode(payload).expect("a publish");
    assert_eq!((publish.exchange, publish.routing_key), (&b"\xff\xfe"[..], &b"a\x00b"[..]));
    assert!(publish.mandatory && publish.immediate);
    assert_eq!((publish.bits_offset, payload[publish.bits_offset]), (13, 3));
}

#[test]
fn delivery_tags_are_found_where_they_stand() {
    let payload = b"\x00\x3c\x00\x3c\x03tag\x00\x00\x00\x00\x00\x00\x01\x02\x01\x01e\x00";
    let deliver = Deliver::decode(payload).expect("a delivery");
    assert_eq!(
        (deliver.consumer_tag, deliver.delivery_tag, deliver.redelivered),
        (&b"tag"[..], 258, true)
    );
    assert_eq!(
        (deliver.exchange, deliver.routing_key, deliver.tag_offset),
        (&b"e"[..], &b""[..], 8)
    );
    let payload = b"\x00\x3c\x00\x47\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x01k\x00\x00\x00\x07";
    let get_ok = GetOk::decode(payload).expect("get-ok");
    assert_eq!((get_ok.delivery_tag, get_ok.message_count, get_ok.tag_offset), (9, 7, 4));
}

#[test]
fn each_flag_has_its_bit() {
    let tail = b"\x00\x00\x00\x00";
    for bits in 0..32_u8 {
        let declare = [b"\x00\x32\x00\x0a\x00\x00\x01q", &[bits][..], tail].concat();
        let declare = Declare::decode(&declare).expect("declare");
        let flags = [
            declare.passive,
            declare.durable,
            declare.exclusive,
            declare.auto_delete,
            declare.nowait,
        ];
        assert_eq!(flags, [0, 1, 2, 3, 4].map(|index| bits >> index & 1 == 1));

        let consume = [b"\x00\x3c\x00\x14\x00\x00\x01q\x01t", &[bits][..], tail].concat();
        let consume = Consume::decode(&consume).expect("consume");
        let flags = [consume.no_local, consume.no_ack, consume.exclusive, consume.nowait];
        assert_eq!(flags, [0, 1, 2, 3].map(|index| bits >> index & 1 == 1));

        let nack = [b"\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x05", &[bits][..]].concat();
        let nack = Nack::decode(&nack).expect("nack");
        assert_eq!((nack.multiple, nack.requeue), (bits & 1 == 1, bits & 2 == 2));

        let delete = [b"\x00\x32\x00\x28\x00\x00\x01q", &[bits][..]].concat();
        let delete = Delete::decode(&delete).expect("delete");
        assert_eq!(
            [delete.if_unused, delete.if_empty, delete.nowait],
            [0, 1, 2].map(|index| bits >> index & 1 == 1)
        );
    }
}

#[test]
fn bind_and_unbind_differ_by_one_octet() {
    let bind = b"\x00\x32\x00\x14\x00\x00\x01q\x01e\x01r\x01\x00\x00\x00\x03\x01aV";
    let expected = Bind {
        queue: b"q",
        exchange: b"e",
        routing_key: b"r",
        nowait: true,
        arguments: Table::new(b"\x01aV"),
    };
    assert_eq!(Bind::decode(bind), Some(expected));
    let unbind = b"\x00\x32\x00\x32\x00\x00\x01q\x01e\x01r\x00\x00\x00\x03\x01aV";
    assert_eq!(Bind::decode_unbind(unbind), Some(Bind { nowait: false, ..expected }));
    assert_eq!((Bind::decode(unbind), Bind::decode_unbind(bind)), (None, None));
}

#[test]
fn recover_has_two_ids() {
    assert_eq!(Recover::decode(&[0, 60, 0, 110, 1]), Some(Recover { requeue: true }));
    assert_eq!(Recover::decode(&[0, 60, 0, 100, 0]), Some(Recover { requeue: false }));
    assert_eq!(Recover::decode(&[0, 60, 0, 111, 0]), None);
}

#[test]
fn tune_and_tune_ok_are_told_apart() {
    let tune = [0, 10, 0, 30, 7, 255, 0, 2, 0, 0, 0, 60];
    let expected = Tune {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 60,
    };
    assert_eq!((Tune::decode(&tune), Tune::decode_ok(&tune)), (Some(expected), None));
    let tune_ok = [0, 10, 0, 31, 7, 255, 0, 2, 0, 0, 0, 60];
    assert_eq!((Tune::decode(&tune_ok), Tune::decode_ok(&tune_ok)), (None, Some(expected)));
}

#[test]
fn close_is_told_apart_by_class() {
    let close = b"\x00\x0a\x00\x32\x01\x40\x03bye\x00\x3c\x00\x28";
    let expected = Close {
        code: 320,
        text: b"bye",
        cause: MethodId::BASIC_PUBLISH,
    };
    assert_eq!((Close::decode(close), Close::decode_channel(close)), (Some(expected), None));
    let close = b"\x00\x14\x00\x28\x01\x40\x03bye\x00\x3c\x00\x28";
    assert_eq!((Close::decode(close), Close::decode_channel(close)), (None, Some(expected)));
}

#[test]
fn capabilities_are_true_booleans_only() {
    let properties = b"\x0ccapabilitiesF\x00\x00\x00\x0c\x01at\x01\x01bt\x00\x01cB\x01";
    let start_ok = |properties: &[u8]| {
        let size = (properties.len() as u32).to_be_bytes();
        [
            b"\x00\x0a\x00\x0b",
            &size[..],
            properties,
            b"\x05PLAIN\x00\x00\x00\x04\x00u\x00p\x05en_US",
        ]
        .concat()
    };
    let payload = start_ok(properties);
    let decoded = StartOk::decode(&payload).expect("start-ok");
    let found = [b"a", b"b", b"c", b"d"].map(|name| decoded.has_capability(name));
    assert_eq!(found, [Ok(true), Ok(false), Ok(false), Ok(false)]);
    assert_eq!(
        (decoded.mechanism, decoded.response, decoded.locale),
        (&b"PLAIN"[..], &b"\x00u\x00p"[..], &b"en_US"[..])
    );
    let payload = start_ok(b"\x0ccapabilitiesV");
    let decoded = StartOk::decode(&payload).expect("start-ok");
    assert_eq!(decoded.has_capability(b"a"), Ok(false));
    let payload = start_ok(b"\x0ccapabilitiesz");
    assert!(StartOk::decode(&payload).expect("start-ok").has_capability(b"a").is_err());
}

#[test]
fn small_methods() {
    let qos = Qos {
        prefetch_size: 0,
        prefetch_count: 258,
        global: true,
    };
    assert_eq!(Qos::decode(&[0, 60, 0, 10, 0, 0, 0, 0, 1, 2, 1]), Some(qos));
    assert_eq!(
        Cancel::decode(b"\x00\x3c\x00\x1e\x01t\x01"),
        Some(Cancel {
            consumer_tag: b"t",
            nowait: true
        })
    );
    assert_eq!(Cancel::decode(b"\x00\x3c\x00\x1e\x01t"), None);
}
