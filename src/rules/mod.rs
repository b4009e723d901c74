//! The only place with policy: which rule a message falls under, and what its unique key is.

pub mod lock;
pub mod spec;
