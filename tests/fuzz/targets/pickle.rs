//! Any bytes as a pickle: what can be read is the same value, and so the same key, every time it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oncegate::celery::{Limits, pickle};
use oncegate::rules::{Domain, digest};

/// Small, so that what grows beyond a limit is found fast.
const LIMITS: Limits = Limits {
    max_message: 1 << 16,
    max_values: 10_000,
};

fuzz_target!(|data: &[u8]| {
    let again = pickle::parse(data, LIMITS);
    match (pickle::parse(data, LIMITS), again) {
        (Ok(first), Ok(second)) => {
            let key = |value| digest(Domain::Computed, false, "/", "", std::iter::once(value));
            assert_eq!(key(&first), key(&second), "{first:?}");
        }
        (Err(first), Err(second)) => assert_eq!(first, second),
        (first, second) => panic!("{first:?} and {second:?}"),
    }
});
