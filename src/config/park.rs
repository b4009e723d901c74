//! `[park]`: where messages wait that may not run yet.

use std::sync::Arc;

use super::reader::TableReader;
use super::tables::open;

/// What the names of delay queues begin with, unless it is said otherwise.
const PREFIX: &str = "oncegate.park";
/// The longest: the name of a delay queue has at most 255 octets, with a hash of 64 and the length of the wait behind the prefix.
const LONGEST_PREFIX: usize = 100;
/// What names begin with that the broker keeps for itself.
const RESERVED: &str = "amq.";

/// `[park]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkConfig {
    /// What the names of delay queues begin with: 1 to 100 octets.
    pub prefix: Arc<str>,
}

pub(super) fn read_park(root: &mut TableReader<'_>) -> ParkConfig {
    let mut park = open(root, "park", "park");
    let prefix = park.get("prefix", PREFIX.to_owned());
    let wrong = match prefix.as_str() {
        "" => Some("is empty"),
        _ if prefix.len() > LONGEST_PREFIX => Some("is longer than 100 octets, and the names of queues are bounded"),
        _ if prefix.contains(char::is_control) => Some("has a control character"),
        _ if prefix.starts_with(RESERVED) => Some("begins with amq., which is the broker's own"),
        _ => None,
    };
    if let Some(says) = wrong {
        park.refuse("prefix", says, &format!("Write prefix = {PREFIX:?}, or leave prefix out."));
    }
    let shown = park.finish();
    root.show("park", shown);
    ParkConfig { prefix: prefix.into() }
}
