//! Requests about limits and the replies to them, as `scripts/limit.lua` reads and writes them.

use redis::{Cmd, Value};

use super::running::{fields, packed};
use super::{Hex, Names, Request, number, span};
use crate::rules::limit::{Ask, Asker, Cause, Limited, Wait};
use crate::rules::lock::{Digest, Extent};

impl Names {
    pub(super) fn write_limit(&self, cmd: &mut Cmd, ask: &Ask) {
        cmd.arg(format!("{}:slot:{{{}}}:{}", self.prefix, ask.rule, ask.id));
        cmd.arg(format!("{}:due:{{{}}}", self.prefix, ask.rule));
    }
}

pub(super) fn write_arguments(cmd: &mut Cmd, names: &Names, request: &Request) {
    match request {
        Request::Permit { ask, asker } => write_permit(cmd, names, ask, asker),
        Request::LeaveLimit { ask, delivery } => {
            cmd.arg("Y").arg(Hex(delivery.0)).arg(buckets(ask));
        }
        Request::Reserve { ask } => {
            cmd.arg("Z").arg("").arg(buckets(ask));
        }
        _ => {}
    }
}

fn write_permit(cmd: &mut Cmd, names: &Names, ask: &Ask, asker: &Asker) {
    cmd.arg("X").arg(Hex(asker.delivery.0)).arg(buckets(ask)).arg(&*asker.worker);
    if let Some(note) = &ask.note {
        cmd.arg(note.retries).arg(span(note.life_ms));
        cmd.arg(format!(" {} {}", Extent::Run.as_str(), note.rule));
        cmd.arg(fields(note, names));
    } else {
        cmd.arg(0).arg(1).arg("").arg("");
    }
}

/// The first half of a digest: it names a bucket among those of its rule.
pub(in crate::store::redis) fn name(digest: Digest) -> String {
    let mut name = digest.to_hex();
    name.truncate(32);
    name
}

fn buckets(ask: &Ask) -> Vec<u8> {
    let text = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let mut words = Vec::with_capacity(8 * ask.buckets.len());
    for bucket in &ask.buckets {
        let rate = bucket.rate;
        words.push(name(bucket.digest));
        words.push(text(rate.map(|rate| rate.times)));
        words.push(text(rate.map(|rate| rate.per_ms)));
        words.push(text(rate.map(|rate| rate.burst)));
        words.push(text(bucket.concurrent.map(|concurrent| concurrent.runs)));
        words.push(bucket.concurrent.map(|concurrent| concurrent.run.to_hex()).unwrap_or_default());
        words.push(bucket.limit.to_string());
        words.push(bucket.key.map(Digest::to_hex).unwrap_or_default());
    }
    packed(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(super) fn limited(value: &Value) -> Option<Limited> {
    match value {
        Value::Int(waited_ms) => Some(Limited::Permitted {
            waited_ms: u64::try_from(*waited_ms).ok()?,
        }),
        Value::Array(parts) => match parts.as_slice() {
            [wait_ms, waited_ms, bucket, cause] => Some(Limited::Waits(Wait {
                wait_ms: number(wait_ms)?,
                waited_ms: number(waited_ms)?,
                bucket: usize::try_from(number(bucket)?).ok()?,
                cause: if number(cause)? == 1 { Cause::Runs } else { Cause::Rate },
            })),
            _ => None,
        },
        _ => None,
    }
}
