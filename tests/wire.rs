//! The wire codec against frames of real clients and brokers, against another codec, and against random frames.
//!
//! `wire/capture.py` made the dialogues in `wire/golden`.

#[path = "wire/golden.rs"]
mod golden;
#[path = "wire/oracle.rs"]
mod oracle;
#[path = "wire/random.rs"]
mod random;
#[path = "wire/render.rs"]
mod render;
