//! When a message is to expire with its lock.

use super::*;
use std::time::Duration;

const TTL_MS: u64 = 600_000;
const GRACE_MS: u64 = 1_000;
/// [`NOW`] is 2027-01-15T08:00:00Z.
const END_MS: i64 = 1_800_000_600_000;

fn expiring(unique: Unique) -> RuleSet {
    one(RuleSpec {
        unique: Some(unique),
        ttl: Duration::from_millis(TTL_MS),
        expires_with_lock: true,
        ..rule("t")
    })
}

/// Hard and soft limit, of which the first is given in seconds.
fn limits(hard: [u8; 4]) -> FieldValue<'static> {
    let mut octets = vec![b'I'];
    octets.extend(hard);
    octets.push(b'V');
    FieldValue::Array(crate::amqp::table::Array::new(octets.leak()))
}

fn with_lock(claimed: &Claimed) -> (i64, Option<u64>) {
    match claimed.expiry {
        Expiry::WithLock { at_ms, .. } => (at_ms, claimed.unstarted_ms),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_expires_at_the_end_of_its_lock() {
    let rules = expiring(Unique::UntilFinished);
    let claimed = message("t").header("expires", FieldValue::Void).claim(&rules);
    assert_eq!(with_lock(&claimed), (END_MS, Some(TTL_MS + GRACE_MS)));
    let claimed = message("t")
        .header("expires", FieldValue::Void)
        .header("eta", text("2027-01-15T09:00:00+00:00"))
        .claim(&rules);
    assert_eq!(
        with_lock(&claimed),
        (END_MS + 3_600_000, Some(TTL_MS + GRACE_MS + 3_600_000)),
        "the life counts from the ETA"
    );
}

#[test]
fn so_early_that_a_run_within_its_hard_limit_ends_before_the_lock() {
    let rules = expiring(Unique::UntilFinished);
    let claimed = message("t")
        .header("expires", FieldValue::Void)
        .header("timelimit", limits(120_u32.to_be_bytes()))
        .claim(&rules);
    assert_eq!(with_lock(&claimed), (END_MS - 120_000, Some(TTL_MS - 120_000 + GRACE_MS)));
}

#[test]
fn its_own_time_counts_if_it_comes_first() {
    let rules = expiring(Unique::UntilFinished);
    let claimed = message("t").header("expires", text("2027-01-15T08:05:00+00:00")).claim(&rules);
    assert_eq!((claimed.expiry, claimed.unstarted_ms), (Expiry::Own, Some(301_000)));
    let claimed = message("t").header("expires", text("2027-01-15T08:30:00+00:00")).claim(&rules);
    assert_eq!(with_lock(&claimed), (END_MS, Some(TTL_MS + GRACE_MS)));
    let Expiry::WithLock { else_unstarted_ms, .. } = claimed.expiry else {
        panic!("{:?}", claimed.expiry)
    };
    assert_eq!(else_unstarted_ms, Some(1_801_000), "as it is without");
}

#[test]
fn the_lock_of_until_expired_lives_for_its_ttl_whatever_expires() {
    let claimed = message("t")
        .header("expires", FieldValue::Void)
        .claim(&expiring(Unique::UntilExpired));
    assert_eq!(with_lock(&claimed), (END_MS, None));
}

#[test]
fn what_could_never_run_or_has_no_place_for_it_is_left_as_it_is() {
    let rules = expiring(Unique::UntilFinished);
    let hour = message("t")
        .header("expires", FieldValue::Void)
        .header("timelimit", limits(3600_u32.to_be_bytes()))
        .claim(&rules);
    assert!(
        matches!(hour.expiry, Expiry::Unwritable(why) if why.contains("time limit")),
        "{hour:?}"
    );
    assert_eq!(hour.unstarted_ms, None);
    let bare = message("t").claim(&rules);
    assert!(
        matches!(bare.expiry, Expiry::Unwritable(why) if why.contains("protocol 1")),
        "{bare:?}"
    );
    assert_eq!(bare.unstarted_ms, None);
}

#[test]
fn rules_that_do_not_ask_for_it_or_only_observe_change_nothing() {
    let message = message("t").header("expires", FieldValue::Void);
    assert_eq!(message.claim(&one(rule("t"))).expiry, Expiry::Own);
    let observing = one(RuleSpec {
        mode: Mode::Observe,
        expires_with_lock: true,
        ..rule("t")
    });
    assert_eq!(message.claim(&observing).expiry, Expiry::Own);
}
