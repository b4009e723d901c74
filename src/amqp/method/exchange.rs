//! Methods of class `exchange`. `bind` and `unbind` are extensions of `RabbitMQ`.

use super::{MethodId, bit};
use crate::amqp::table::Table;

/// `exchange.declare`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the wire has these flags, each independent of the others"
)]
pub struct Declare<'a> {
    /// The exchange.
    pub exchange: &'a [u8],
    /// Its type, as `direct`; without a meaning where `passive` is set.
    pub kind: &'a [u8],
    /// Only ask whether it exists.
    pub passive: bool,
    /// It survives a restart of the broker.
    pub durable: bool,
    /// It goes away after its last binding.
    pub auto_delete: bool,
    /// Clients may not publish to it.
    pub internal: bool,
    /// No `exchange.declare-ok` is wanted.
    pub nowait: bool,
    /// `x-…` arguments and `alternate-exchange`.
    pub arguments: Table<'a>,
}

impl<'a> Declare<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::EXCHANGE_DECLARE.arguments(payload)?;
        reader.u16()?;
        let exchange = reader.short()?;
        let kind = reader.short()?;
        let bits = reader.u8()?;
        Some(Declare {
            exchange,
            kind,
            passive: bit(bits, 0),
            durable: bit(bits, 1),
            auto_delete: bit(bits, 2),
            internal: bit(bits, 3),
            nowait: bit(bits, 4),
            arguments: Table::new(reader.long()?),
        })
    }
}

/// `exchange.delete`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The exchange.
    pub exchange: &'a [u8],
    /// Only if nothing is bound to it.
    pub if_unused: bool,
    /// No `exchange.delete-ok` is wanted.
    pub nowait: bool,
}

impl<'a> Delete<'a> {
    /// From the payload of a method frame.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = MethodId::EXCHANGE_DELETE.arguments(payload)?;
        reader.u16()?;
        let exchange = reader.short()?;
        let bits = reader.u8()?;
        Some(Delete {
            exchange,
            if_unused: bit(bits, 0),
            nowait: bit(bits, 1),
        })
    }
}

/// The arguments of `exchange.bind` and `exchange.unbind`, which are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The exchange that messages go to.
    pub destination: &'a [u8],
    /// The exchange that they come from.
    pub source: &'a [u8],
    /// The routing key.
    pub routing_key: &'a [u8],
    /// No answer is wanted.
    pub nowait: bool,
    /// Arguments, as those of a headers exchange.
    pub arguments: Table<'a>,
}

impl<'a> Bind<'a> {
    /// From the payload of a method frame that holds `exchange.bind`.
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        Self::decode_as(MethodId::EXCHANGE_BIND, payload)
    }

    /// From the payload of a method frame that holds `exchange.unbind`.
    pub fn decode_unbind(payload: &'a [u8]) -> Option<Self> {
        Self::decode_as(MethodId::EXCHANGE_UNBIND, payload)
    }

    fn decode_as(id: MethodId, payload: &'a [u8]) -> Option<Self> {
        let mut reader = id.arguments(payload)?;
        reader.u16()?;
        Some(Bind {
            destination: reader.short()?,
            source: reader.short()?,
            routing_key: reader.short()?,
            nowait: bit(reader.u8()?, 0),
            arguments: Table::new(reader.long()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shorter payload is no method; one with octets behind it is the same method.
    fn whole<T: PartialEq + std::fmt::Debug>(payload: &[u8], decode: impl Fn(&[u8]) -> Option<T>) {
        for end in 0..payload.len() {
            assert_eq!(decode(&payload[..end]), None, "cut at {end}");
        }
        assert!(decode(&[payload, b"behind"].concat()).is_some());
    }

    #[test]
    fn a_declaration_says_the_type_and_the_flags() {
        let payload = b"\x00\x28\x00\x0a\x00\x00\x01e\x05topic\x12\x00\x00\x00\x00";
        let declare = Declare::decode(payload).expect("a declaration");
        assert_eq!((declare.exchange, declare.kind), (&b"e"[..], &b"topic"[..]));
        assert!(declare.durable && declare.nowait);
        assert!(!declare.passive && !declare.auto_delete && !declare.internal);
        assert!(declare.arguments.raw().is_empty());
        whole(payload, |payload| Declare::decode(payload).map(|declare| declare.exchange.to_vec()));
    }

    #[test]
    fn a_deletion_names_the_exchange() {
        let payload = b"\x00\x28\x00\x14\x00\x00\x01e\x02";
        let delete = Delete::decode(payload).expect("a deletion");
        assert_eq!((delete.exchange, delete.if_unused, delete.nowait), (&b"e"[..], false, true));
        whole(payload, |payload| Delete::decode(payload).map(|delete| delete.exchange.to_vec()));
    }

    #[test]
    fn a_bind_names_the_destination_first() {
        let bind = b"\x00\x28\x00\x1e\x00\x00\x02to\x04from\x03key\x01\x00\x00\x00\x00";
        let mut unbind = *bind;
        unbind[3] = 40;
        assert_eq!((Bind::decode(&unbind), Bind::decode_unbind(bind)), (None, None));
        for found in [Bind::decode(bind), Bind::decode_unbind(&unbind)] {
            let found = found.expect("a bind");
            assert_eq!(
                (found.destination, found.source, found.routing_key),
                (&b"to"[..], &b"from"[..], &b"key"[..])
            );
            assert!(found.nowait && found.arguments.raw().is_empty());
        }
        whole(bind, |payload| Bind::decode(payload).map(|bind| bind.nowait));
        whole(&unbind, |payload| Bind::decode_unbind(payload).map(|bind| bind.nowait));
    }
}
