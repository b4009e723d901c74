//! The question about an entry of a schedule and its reply, as `scripts/beat.lua` reads and writes them.

use std::sync::Arc;

use redis::{Cmd, Value};

use super::{Names, number, span, text};
use crate::rules::beat::Turn;
use crate::rules::lock::Digest;

impl Names {
    pub(super) fn beat(&self, digest: Digest) -> String {
        format!("{}:beat:{{{}}}", self.prefix, digest.to_hex())
    }
}

pub(super) fn write_arguments(cmd: &mut Cmd, origin: &Arc<str>, life_ms: u64) {
    cmd.arg("B").arg(&**origin).arg(span(life_ms));
}

pub(super) fn turn(value: &Value) -> Option<Turn> {
    match value {
        Value::Int(0) => Some(Turn::Own),
        Value::Array(parts) => match parts.as_slice() {
            [origin, expires_in] => Some(Turn::Other {
                origin: text(origin)?,
                expires_in_ms: number(expires_in)?,
            }),
            _ => None,
        },
        _ => None,
    }
}
