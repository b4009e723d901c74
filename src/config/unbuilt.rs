//! The tables of which nothing is built.

use super::reader::TableReader;
use super::tables::open;

/// Typed, so that a mistake in them is told as such.
pub(super) fn read_unbuilt_tables(root: &mut TableReader<'_>) {
    let mut events = open(root, "events", "events");
    events.optional::<String>("exchange");
    let shown = events.finish();
    root.show("events", shown);
}
