//! Requests about running locks and the replies to them, as `scripts/run.lua` reads and writes them.

use std::borrow::Cow;

use redis::{Cmd, Value};

use super::{Hex, Names, freed, join, number, span, text};
use crate::rules::lock::{Claim, Digest, Extent, Request};
use crate::rules::running::{IfBusy, Ran, RunNote};
use crate::rules::source::Hears;
use crate::store::memory::LONGEST_MS;

pub(super) fn write_arguments(cmd: &mut Cmd, names: &Names, request: &Request) {
    match request {
        Request::Run {
            claim: Claim { id, digest },
            delivery,
            note,
            busy,
            worker,
        } => {
            let (busy, place_ms) = match busy {
                IfBusy::Wait { place_ms } => ("w".into(), *place_ms),
                IfBusy::Leave { place_ms } => (join::waits(&note.owed).map_or("l".into(), Cow::from), *place_ms),
            };
            let place_ms = place_ms.map(|place_ms| place_ms.to_string()).unwrap_or_default();
            cmd.arg("G").arg(&**id).arg(Hex(delivery.0)).arg(busy).arg(place_ms);
            write_note(cmd, *digest, note, worker, names);
        }
        Request::RenewRun {
            claim: Claim { id, digest },
            delivery,
            note,
            worker,
        } => {
            cmd.arg("K").arg(&**id).arg(Hex(delivery.0));
            write_note(cmd, *digest, note, worker, names);
            cmd.arg(format!("r{}", note.hears.letters()));
        }
        Request::LeaveRun { claim, delivery } => {
            cmd.arg("L").arg(&*claim.id).arg(Hex(delivery.0));
        }
        Request::Republished { claim, retries } => {
            cmd.arg("E").arg(&*claim.id).arg(*retries);
        }
        _ => {
            cmd.arg("V");
        }
    }
}

/// What it needs to take a running lock.
fn write_note(cmd: &mut Cmd, digest: Digest, note: &RunNote, worker: &str, names: &Names) {
    cmd.arg(worker).arg(note.retries).arg(span(note.life_ms));
    cmd.arg(format!("\n+{} {} {}", digest.to_hex(), Extent::Run.as_str(), note.rule));
    cmd.arg(fields(note, names));
}

/// The fields of a running lock that do not change, as a `MessagePack` array of names and values.
fn fields(note: &RunNote, names: &Names) -> Vec<u8> {
    let grace = note.settle_grace_ms.min(LONGEST_MS).to_string();
    let life = span(note.life_ms).to_string();
    let hears = note.hears.letters();
    let mut fields: Vec<&str> = vec!["rule", &note.rule, "task", &note.task, "summary", &note.summary];
    fields.extend(["proxy", &*names.proxy, "vhost", &note.vhost, "queue", &note.queue]);
    fields.extend(["scope", Extent::Run.as_str(), "life", &life, "grace", &grace, "carried", "1"]);
    if note.acks_late {
        fields.extend(["late", "1"]);
    }
    if note.hears != Hears::ALL {
        fields.extend(["hears", &hears]);
    }
    packed(&fields)
}

fn packed(fields: &[&str]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(3 + fields.iter().map(|field| field.len() + 5).sum::<usize>());
    packed.push(0xdc);
    packed.extend((fields.len() as u16).to_be_bytes());
    for field in fields {
        match field.len() {
            length @ 0..32 => packed.push(0xa0 | length as u8),
            length => {
                packed.push(0xdb);
                packed.extend((length as u32).to_be_bytes());
            }
        }
        packed.extend(field.as_bytes());
    }
    packed
}

pub(super) fn ran(value: Value) -> Option<Ran> {
    match value {
        Value::Int(0) => Some(Ran::Runs),
        Value::Int(1) => Some(Ran::Succeeded),
        Value::Int(2) => Some(Ran::Superseded),
        Value::Array(parts) => match parts.as_slice() {
            [holder] => Some(Ran::Leaves {
                holder: text(holder)?,
                freed: Vec::new(),
            }),
            [Value::Nil, place_ms] => Some(Ran::Forgotten {
                place_ms: number(place_ms)?,
            }),
            [holder, lock] => Some(Ran::Leaves {
                holder: text(holder)?,
                freed: vec![freed(lock)?],
            }),
            [holder, place_ms, expires_in_ms] => Some(Ran::Waits {
                holder: text(holder)?,
                place_ms: number(place_ms)?,
                expires_in_ms: number(expires_in_ms)?,
            }),
            _ => None,
        },
        _ => None,
    }
}
