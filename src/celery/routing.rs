//! Routing keys of Celery's native delayed delivery.
//!
//! A task with a countdown is published to the topic exchange `celery_delayed_27`, with the seconds as 28 binary digits before the
//! routing key: `0.0.….1.0.1.queue`. It wanders through the exchanges of the levels below and comes out of `celery_delayed_delivery`
//! (kombu, `transport/native_delayed_delivery.py`). All names may carry a prefix of the application: `prefix_celery_delayed_27`.

/// Digits of the delay, one component of the routing key each.
const BITS: usize = 28;

/// The routing key without the delay, if `exchange` is one of native delayed delivery and the key carries one.
pub fn strip_delay<'a>(exchange: &[u8], routing_key: &'a [u8]) -> Option<&'a [u8]> {
    if !is_delay_exchange(exchange) {
        return None;
    }
    let (digits, rest) = routing_key.split_at_checked(2 * BITS)?;
    digits.chunks_exact(2).all(|digit| matches!(digit, b"0." | b"1.")).then_some(rest)
}

/// Whether messages in this exchange carry a delay in their routing keys.
pub fn is_delay_exchange(exchange: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(exchange) else { return false };
    let Some((prefix, step)) = name.rsplit_once("celery_delayed_") else {
        return false;
    };
    if !prefix.is_empty() && !prefix.ends_with('_') {
        return false;
    }
    step == "delivery" || (is_plain_number(step) && step.parse::<usize>().is_ok_and(|level| level < BITS))
}

/// The exchange that the messages of a delay exchange come out of.
pub fn delivery_exchange(exchange: &[u8]) -> Option<Vec<u8>> {
    let name = std::str::from_utf8(exchange).ok().filter(|_| is_delay_exchange(exchange))?;
    let (prefix, _) = name.rsplit_once("celery_delayed_")?;
    Some(format!("{prefix}celery_delayed_delivery").into_bytes())
}

fn is_plain_number(text: &str) -> bool {
    text == "0" || (!text.starts_with('0') && text.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(rest: &str) -> Vec<u8> {
        format!("{}1.0.1.{rest}", "0.".repeat(25)).into_bytes()
    }

    #[test]
    fn the_delay_is_stripped_once() {
        for exchange in [
            "celery_delayed_27",
            "celery_delayed_0",
            "celery_delayed_delivery",
            "shop_celery_delayed_9",
            "a_b_celery_delayed_delivery",
        ] {
            assert_eq!(
                strip_delay(exchange.as_bytes(), &key("orders.eu")),
                Some(&b"orders.eu"[..]),
                "{exchange}"
            );
        }
        assert_eq!(strip_delay(b"celery_delayed_27", &key("0.1.x")), Some(&b"0.1.x"[..]));
        assert_eq!(strip_delay(b"celery_delayed_27", &key("")), Some(&b""[..]));
    }

    #[test]
    fn other_exchanges_and_keys_stay() {
        for exchange in [
            "",
            "celery",
            "celery_delayed_28",
            "celery_delayed_01",
            "celery_delayed_",
            "xcelery_delayed_1",
            "celery_delayed_+1",
        ] {
            assert_eq!(strip_delay(exchange.as_bytes(), &key("orders")), None, "{exchange}");
        }
        assert_eq!(strip_delay(b"\xff_celery_delayed_1", &key("orders")), None);
        for routing_key in [
            "orders",
            "",
            "0.1.0.orders",
            &"0.".repeat(27),
            &format!("{}2.orders", "0.".repeat(27)),
        ] {
            assert_eq!(strip_delay(b"celery_delayed_27", routing_key.as_bytes()), None, "{routing_key}");
        }
    }
}
