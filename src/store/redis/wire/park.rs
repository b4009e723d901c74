//! Requests about parked messages and the replies to them, as `scripts/park.lua` reads and writes them.

use redis::{Cmd, Value};

use super::{Names, Parts, number, span, text};
use crate::rules::lock::{Digest, Request};
use crate::rules::park::{Fingerprint, Found, Parked, Seen, Token};

impl Names {
    pub(super) fn write_park(&self, cmd: &mut Cmd, id: &str) {
        cmd.arg(Parts([self.prefix.as_bytes(), b":park:", id.as_bytes()]));
    }
}

pub(super) fn write_arguments(cmd: &mut Cmd, request: &Request) {
    match request {
        Request::Park { token, note, .. } => {
            cmd.arg("P").arg(&*token.0).arg(field(note.fingerprint)).arg(note.digest.to_hex());
            let place = note.place_ms.map(|place_ms| place_ms.to_string()).unwrap_or_default();
            cmd.arg(&*note.rule).arg(place).arg(span(note.life_ms));
        }
        Request::MarkParked {
            token, fingerprint, state, ..
        } => {
            cmd.arg("T").arg(&*token.0).arg(field(*fingerprint)).arg(state.as_str());
        }
        Request::FindParked { fingerprint, seen, .. } => {
            let (kind, token) = match seen {
                Seen::Copy(token) => ("c", &*token.0),
                Seen::Original => ("o", ""),
            };
            cmd.arg("F").arg(field(*fingerprint)).arg(kind).arg(token);
        }
        _ => {}
    }
}

/// Of a fixed length, so that the names stand in the order of the numbers.
fn field(fingerprint: Fingerprint) -> String {
    format!("{:016x}", fingerprint.0)
}

pub(super) fn found(value: Value) -> Option<Found> {
    match value {
        Value::Int(0) => Some(Found::Unknown),
        Value::Int(1) => Some(Found::Over),
        Value::Array(parts) => {
            let [token, digest, rule, place] = parts.as_slice() else {
                return None;
            };
            Some(Found::Parked(Parked {
                token: Token(text(token)?),
                digest: Digest::from_hex(&text(digest)?)?,
                rule: text(rule)?,
                place_ms: number(place),
            }))
        }
        _ => None,
    }
}
