//! Requests and replies as `scripts/lock.lua` reads and writes them.

mod beat;
mod limit;
mod park;
mod running;

pub(super) use limit::name as bucket_name;

use std::borrow::Cow;
use std::io::Write;
use std::sync::Arc;

use redis::{Cmd, RedisWrite, Script, ToRedisArgs, Value};

use super::join;
use crate::rules::lock::{
    Acquired, Admitted, Alive, Begun, Committed, Cooled, Digest, Extent, Fate, Freed, IfHeld, LockNote, LockRecord, LockState,
    ReleaseReason, Renewed, Reply, Request, Running, Scope, Signal, Superseded, Weight,
};
use crate::rules::owed::Owed;
use crate::rules::source::{Hears, Source};
use crate::store::memory::LONGEST_MS;

/// The script.
pub(super) const SCRIPT: &str = concat!(
    include_str!("../scripts/lock.lua"),
    include_str!("../scripts/run.lua"),
    include_str!("../scripts/beat.lua"),
    include_str!("../scripts/limit.lua"),
    include_str!("../scripts/join.lua"),
    include_str!("../scripts/twin.lua"),
    include_str!("../scripts/park.lua"),
    include_str!("../scripts/replace.lua"),
    include_str!("../scripts/last.lua"),
    include_str!("../scripts/answer.lua")
);

/// The names of this program in a store.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) prefix: String,
    pub(super) proxy: Arc<str>,
}

impl Names {
    /// The key of a lock.
    fn lock(&self, digest: Digest) -> String {
        format!("{}:lock:{{{}}}", self.prefix, digest.to_hex())
    }

    fn run(&self, digest: Digest) -> String {
        format!("{}:run:{{{}}}", self.prefix, digest.to_hex())
    }

    /// The key of the lock of one that waits for the end of another.
    fn last(&self, digest: Digest) -> String {
        format!("{}:last:{{{}}}", self.prefix, digest.to_hex())
    }

    /// Whose lock this is, publish or running, if it is one.
    pub(super) fn digest_of(&self, key: &str) -> Option<Digest> {
        let digest = Digest::from_hex(key.get(key.len().checked_sub(65)?..key.len() - 1)?)?;
        (key == self.lock(digest) || key == self.run(digest) || key == self.last(digest)).then_some(digest)
    }

    /// A pattern that matches the keys of all locks, publish and running, for SCAN.
    pub(super) fn lock_pattern(&self) -> String {
        let mut pattern = String::new();
        for letter in self.prefix.chars() {
            if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        pattern + ":[lr]*:{*}"
    }

    /// The key of a note.
    pub(super) fn note(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// The key of the queues of callers.
    pub(super) fn callers(&self) -> String {
        format!("{}:callers", self.prefix)
    }

    fn write_lock(&self, cmd: &mut Cmd, digest: Digest) {
        cmd.arg(Parts([self.prefix.as_bytes(), b":lock:{", &digest.hex_digits(), b"}"]));
    }

    fn write_id(&self, cmd: &mut Cmd, id: &str) {
        cmd.arg(Parts([self.prefix.as_bytes(), b":id:", id.as_bytes()]));
    }
}

/// One argument in several pieces, which are put together where they are written.
struct Parts<'a, const N: usize>([&'a [u8]; N]);

impl<const N: usize> ToRedisArgs for Parts<'_, N> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut out = out.writer_for_next_arg();
        for part in self.0 {
            // The command is in memory: writing does not fail.
            let _ = out.write_all(part);
        }
    }
}

/// How the script is called: by its digest, or with its text when the server does not have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Digest,
    Text,
}

/// One call of the script with all these questions.
pub(super) fn command<'a>(names: &Names, call: Call, requests: impl ExactSizeIterator<Item = &'a Request> + Clone) -> Cmd {
    let mut cmd = Cmd::with_capacity(4 + 10 * requests.len(), 64 + 512 * requests.len());
    match call {
        Call::Digest => cmd.arg("EVALSHA").arg(script_digest()),
        Call::Text => cmd.arg("EVAL").arg(SCRIPT),
    };
    cmd.arg(2 * requests.len());
    for request in requests.clone() {
        write_keys(&mut cmd, names, request);
    }
    cmd.arg(&names.prefix);
    let notes = Notes::of(requests.clone());
    notes.write(&mut cmd, names);
    for (request, place) in requests.zip(notes.places) {
        write_arguments(&mut cmd, names, request, place);
    }
    cmd
}

/// The notes of the questions of one call, each written once: mostly they are the same but for a few.
struct Notes<'a> {
    distinct: Vec<&'a LockNote>,
    /// For each question the place of its note, from 1; 0 for one without a note.
    places: Vec<usize>,
}

impl<'a> Notes<'a> {
    /// A note is looked for among this many of the last ones.
    const LOOKED_AT: usize = 8;

    fn of(requests: impl ExactSizeIterator<Item = &'a Request>) -> Notes<'a> {
        let mut notes = Notes {
            distinct: Vec::new(),
            places: Vec::with_capacity(requests.len()),
        };
        for request in requests {
            let place = note_of(request).map_or(0, |note| notes.place(note));
            notes.places.push(place);
        }
        notes
    }

    fn place(&mut self, note: &'a LockNote) -> usize {
        let last = self.distinct.iter().enumerate().rev().take(Self::LOOKED_AT);
        let known = last.into_iter().find(|(_, known)| std::ptr::eq(**known, note) || **known == note);
        if let Some((at, _)) = known {
            return at + 1;
        }
        self.distinct.push(note);
        self.distinct.len()
    }

    fn write(&self, cmd: &mut Cmd, names: &Names) {
        cmd.arg(self.distinct.len());
        for note in &self.distinct {
            let (scope, rule) = (note.scope.as_str().as_bytes(), note.rule.as_bytes());
            let ends = ends(note);
            cmd.arg(&ends).arg(if note.shadow { &ends } else { "n" });
            cmd.arg(Parts([b" ", scope, b" ", rule]));
            cmd.arg(span(note.lease_ms))
                .arg(span(note.life_ms))
                .arg(span(note.queued_life_ms()));
            cmd.arg(if_held(note)).arg(Fields(note, names));
        }
    }
}

/// What a publish does that finds its key held, as the script reads it.
fn if_held(note: &LockNote) -> Cow<'static, str> {
    match note.if_held {
        IfHeld::Yield => "0".into(),
        IfHeld::Replace => "1".into(),
        IfHeld::KeepLast => format!("k{}", join::waits(&note.owed).unwrap_or_default()).into(),
        IfHeld::Debounce(quiet) => {
            let longest = quiet.longest_ms.map(|longest| span(longest).to_string()).unwrap_or_default();
            let joins = join::waits(&note.owed).unwrap_or_default();
            format!("d{} {longest}{joins}", span(quiet.period_ms)).into()
        }
    }
}

fn note_of(request: &Request) -> Option<&LockNote> {
    match request {
        Request::Acquire { note, .. }
        | Request::Commit { note, .. }
        | Request::RenewLease { note, .. }
        | Request::Admit { note, .. }
        | Request::Join { note, .. }
        | Request::Renew { note, .. }
        | Request::Cool { note, .. } => Some(note),
        _ => None,
    }
}

fn script_digest() -> &'static str {
    static DIGEST: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    DIGEST.get_or_init(|| Script::new(SCRIPT).get_hash().to_owned())
}

fn write_keys(cmd: &mut Cmd, names: &Names, request: &Request) {
    match request {
        Request::Acquire { claim, .. }
        | Request::Commit { claim, .. }
        | Request::RenewLease { claim, .. }
        | Request::Unpublish { claim, .. }
        | Request::Join { claim, .. }
        | Request::Admit { claim, .. }
        | Request::Renew { claim, .. }
        | Request::Run { claim, .. }
        | Request::RenewRun { claim, .. }
        | Request::LeaveRun { claim, .. }
        | Request::Republished { claim, .. }
        | Request::Cool { claim, .. } => {
            names.write_lock(cmd, claim.digest);
            names.write_id(cmd, &claim.id);
        }
        Request::BeatLease { digest, .. } => {
            let key = names.beat(*digest);
            cmd.arg(&key).arg(&key);
        }
        Request::Park { id, .. } | Request::MarkParked { id, .. } | Request::FindParked { id, .. } => {
            names.write_park(cmd, id);
            names.write_park(cmd, id);
        }
        Request::Reserve { ask } | Request::Permit { ask, .. } | Request::LeaveLimit { ask, .. } => names.write_limit(cmd, ask),
        Request::Caller { .. } => {
            let key = names.callers();
            cmd.arg(&key).arg(&key);
        }
        Request::Signal { id, .. } | Request::Result { id, .. } => {
            names.write_id(cmd, id);
            names.write_id(cmd, id);
        }
        Request::Release { digest, .. } | Request::Show { digest } | Request::ShowRun { digest } => {
            names.write_lock(cmd, *digest);
            names.write_lock(cmd, *digest);
        }
    }
}

fn write_arguments(cmd: &mut Cmd, names: &Names, request: &Request, note: usize) {
    match request {
        Request::Acquire {
            publish,
            reentrant,
            note: fields,
            ..
        } => {
            cmd.arg("A").arg(Hex(publish.0)).arg(&*dropped_as(*reentrant, fields)).arg(note);
        }
        Request::Commit { publish, .. } => {
            cmd.arg("C").arg(Hex(publish.0)).arg(note);
        }
        Request::RenewLease { publish, .. } => {
            cmd.arg("R").arg(Hex(publish.0)).arg(note);
        }
        Request::Join { holder, note: fields, .. } => {
            let reply = fields.owed.joins().map(join::reply).unwrap_or_default();
            cmd.arg("J").arg(&**holder).arg(reply).arg(note);
        }
        Request::Result {
            weight, json, least_ms, ..
        } => {
            cmd.arg("O")
                .arg(u8::from(*weight == Weight::Provisional))
                .arg(&**json)
                .arg(*least_ms);
        }
        Request::Caller { vhost, queue } => {
            cmd.arg("H").arg(Parts([vhost.as_bytes(), b"\n", queue.as_bytes()]));
        }
        Request::Unpublish { publish, reason, .. } => {
            cmd.arg("U").arg(Hex(publish.0)).arg(reason.as_str());
        }
        Request::Signal {
            settlement,
            signal,
            source,
            worker,
            ..
        } => {
            let source = if signal.counts_always() { Source::Other } else { *source };
            cmd.arg("S").arg(Hex(settlement.0)).arg(letter(*signal)).arg(&**worker);
            cmd.arg(source.letter());
        }
        Request::Admit {
            delivery,
            reentrant,
            note: fields,
            worker,
            ..
        } => {
            cmd.arg("M")
                .arg(Hex(delivery.0))
                .arg(
                    match (*reentrant, &fields.owed) {
                        (true, Owed::Carried) => "v".into(),
                        _ => dropped_as(*reentrant, fields),
                    }
                    .as_ref(),
                )
                .arg(note)
                .arg(&**worker);
        }
        Request::Renew {
            delivery, alive, worker, ..
        } => {
            cmd.arg("N").arg(Hex(delivery.0)).arg(match alive {
                Alive::Delivered => "d",
                Alive::Begun => "b",
                Alive::Acknowledged => "a",
            });
            cmd.arg(note).arg(&**worker);
        }
        Request::Run { .. }
        | Request::RenewRun { .. }
        | Request::LeaveRun { .. }
        | Request::Republished { .. }
        | Request::ShowRun { .. } => {
            running::write_arguments(cmd, names, request);
        }
        Request::Reserve { .. } | Request::Permit { .. } | Request::LeaveLimit { .. } => limit::write_arguments(cmd, names, request),
        Request::BeatLease { origin, life_ms, .. } => beat::write_arguments(cmd, origin, *life_ms),
        Request::Park { .. } | Request::MarkParked { .. } | Request::FindParked { .. } => park::write_arguments(cmd, request),
        Request::Cool { note: fields, .. } => {
            cmd.arg("W").arg(span(fields.cooldown_ms)).arg(note);
        }
        Request::Release { holder, running, .. } => {
            cmd.arg("D")
                .arg(u8::from(holder.is_some()))
                .arg(holder.as_deref().unwrap_or_default())
                .arg(u8::from(*running == Running::Include));
        }
        Request::Show { .. } => {
            cmd.arg("Q");
        }
    }
}

/// What is to be done with an id that turns out to be a duplicate, as the script is told.
fn dropped_as(reentrant: bool, note: &LockNote) -> Cow<'static, str> {
    if reentrant {
        return "1".into();
    }
    // What only observes waits for nobody.
    if note.owed == Owed::Carried && !note.shadow {
        return "w".into();
    }
    join::waits(&note.owed).map_or("0".into(), Cow::from)
}

/// As the script names a signal.
fn letter(signal: Signal) -> &'static str {
    match signal {
        Signal::Acked => "a",
        Signal::AckedLate => "l",
        Signal::Rejected => "r",
        Signal::DeliveredNoAck => "d",
        Signal::Started => "s",
        Signal::Retried => "t",
        Signal::Succeeded => "k",
        Signal::Failed => "f",
        Signal::Revoked => "v",
        Signal::RevokeAsked => "q",
        Signal::Expired => "x",
        Signal::Crashed => "c",
        Signal::Orphaned => "o",
        Signal::Purged => "p",
    }
}

pub(super) fn span(milliseconds: u64) -> u64 {
    milliseconds.clamp(1, LONGEST_MS)
}

/// Which signals free such a lock: how much they must say, and the sources that it listens to.
fn ends(note: &LockNote) -> String {
    let least = match note.scope {
        Scope::UntilStarted => "s",
        Scope::UntilFinished if note.acks_late => "a",
        Scope::UntilFinished => "r",
        Scope::UntilExpired => return "n".to_owned(),
    };
    least.to_owned() + &note.hears.letters()
}

/// The fields of a lock that do not change, as a `MessagePack` array of names and values.
struct Fields<'a>(&'a LockNote, &'a Names);

/// What frees such a lock, in words; see `scripts/lock.lua`.
fn terms(note: &LockNote) -> String {
    let late = if note.acks_late { "late" } else { "early" };
    let hears = note.hears.letters();
    format!(
        "{} {} {late} {} {} {} {}",
        note.scope.as_str(),
        note.settle_grace_ms.min(LONGEST_MS),
        if note.hears == Hears::ALL { "*" } else { &hears },
        span(note.life_ms),
        note.release_on.as_str(),
        note.cooldown_ms.min(LONGEST_MS),
    )
}

impl Fields<'_> {
    fn each(&self, mut put: impl FnMut(&str, &str)) {
        let Fields(note, names) = self;
        put("terms", &terms(note));
        put("rule", &note.rule);
        put("task", &note.task);
        put("summary", &note.summary);
        put("worker", "");
        put("proxy", &names.proxy);
        put("vhost", &note.vhost);
        put("queue", &note.queue);
        put("scope", note.scope.as_str());
        if note.shadow {
            put("shadow", "1");
        }
        if note.if_held.hides() {
            put("hides", join::waits(&note.owed).as_deref().unwrap_or("1"));
        }
    }
}

impl ToRedisArgs for Fields<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut fields: u16 = 0;
        self.each(|_, _| fields += 1);
        let mut out = out.writer_for_next_arg();
        // The command is in memory: writing does not fail.
        let mut write = |octets: &[u8]| drop(out.write_all(octets));
        write(&[0xdc]);
        write(&(2 * fields).to_be_bytes());
        self.each(|name, value| {
            for text in [name, value] {
                match text.len() {
                    length @ 0..32 => write(&[0xa0 | length as u8]),
                    length => {
                        write(&[0xdb]);
                        write(&(length as u32).to_be_bytes());
                    }
                }
                write(text.as_bytes());
            }
        });
    }
}

/// A nonce as the script writes it.
struct Hex(u64);

impl ToRedisArgs for Hex {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        out.write_arg_fmt(format_args!("{:x}", self.0));
    }
}

/// Why a reply could not be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadReply {
    /// The server refused this question, in its own words.
    Refused(Arc<str>),
    /// The reply is not what the script writes.
    Unreadable,
}

/// The script's reply to this request.
pub(super) fn reply(request: &Request, value: Value) -> Result<Reply, BadReply> {
    let unread = BadReply::Unreadable;
    if let Value::Array(parts) = &value
        && let [Value::BulkString(mark), why] = parts.as_slice()
        && mark == b"!"
    {
        return Err(BadReply::Refused(text(why).unwrap_or_default()));
    }
    match request {
        Request::Acquire { .. } => acquired(value).map(Reply::Acquire).ok_or(unread),
        Request::Commit { .. } => committed(value).map(Reply::Commit).ok_or(unread),
        Request::Reserve { .. } | Request::Permit { .. } => limit::limited(&value).map(Reply::Limit).ok_or(unread),
        Request::RenewLease { .. }
        | Request::Republished { .. }
        | Request::Join { .. }
        | Request::LeaveLimit { .. }
        | Request::Result { .. }
        | Request::Caller { .. }
        | Request::Park { .. }
        | Request::MarkParked { .. } => Ok(Reply::Done),
        Request::FindParked { .. } => park::found(value).map(Reply::Parked).ok_or(unread),
        Request::Unpublish { .. } | Request::Signal { .. } | Request::LeaveRun { .. } | Request::Release { .. } => {
            let Value::Array(locks) = value else { return Err(unread) };
            released(&locks).ok_or(unread)
        }
        Request::Admit { claim, .. } => admitted(claim.digest, value).ok_or(unread),
        Request::Renew { .. } | Request::RenewRun { .. } => match value {
            Value::Int(0) => Ok(Reply::Renewed(Renewed::Held)),
            Value::Int(1) => Ok(Reply::Renewed(Renewed::Retaken)),
            Value::Int(2) => Ok(Reply::Renewed(Renewed::Gone)),
            Value::Int(3) => Ok(Reply::Renewed(Renewed::Superseded)),
            Value::Int(4) => Ok(Reply::Renewed(Renewed::Lost)),
            _ => Err(unread),
        },
        Request::Run { .. } => running::ran(value).map(Reply::Run).ok_or(unread),
        Request::BeatLease { .. } => beat::turn(&value).map(Reply::Beat).ok_or(unread),
        Request::Cool { .. } => match value {
            Value::Int(0) => Ok(Reply::Cooled(Cooled::Locked)),
            Value::Array(parts) => parts
                .first()
                .and_then(text)
                .map(|holder| Reply::Cooled(Cooled::Held { holder }))
                .ok_or(unread),
            _ => Err(unread),
        },
        Request::Show { digest } | Request::ShowRun { digest } => {
            let Value::Array(fields) = value else { return Err(unread) };
            Ok(Reply::Lock(record(*digest, &fields).map(Box::new)))
        }
    }
}

fn acquired(value: Value) -> Option<Acquired> {
    match value {
        Value::Int(0) => Some(Acquired::Taken),
        Value::Int(1) => Some(Acquired::Reentry { holds: true }),
        Value::Int(2) => Some(Acquired::Reentry { holds: false }),
        Value::Array(parts) => match parts.as_slice() {
            [holder] => Some(Acquired::Leased { holder: text(holder)? }),
            [holder, Value::Int(0)] => Some(Acquired::Replaces { holder: text(holder)? }),
            [holder, Value::Int(1)] => Some(Acquired::Outrun { holder: text(holder)? }),
            [holder, Value::Int(3)] => Some(Acquired::Kept { holder: text(holder)? }),
            [holder, Value::Int(2), due_ms] => Some(Acquired::PutOff {
                holder: text(holder).filter(|holder| !holder.is_empty()),
                due_ms: number(due_ms)?,
            }),
            [holder, state, expires_in] => Some(Acquired::Held {
                holder: text(holder)?,
                state: LockState::from_name(&text(state)?)?,
                expires_in_ms: number(expires_in)?,
            }),
            _ => None,
        },
        _ => None,
    }
}

fn admitted(computed: Digest, value: Value) -> Option<Reply> {
    // As it mostly is: the computed key, and the id holds it.
    if value == Value::Int(0) {
        return Some(Reply::Admit(computed, Admitted::Holds));
    }
    let Value::Array(parts) = value else { return None };
    let (what, rest) = parts.split_first()?;
    let (digest, rest) = rest.split_first()?;
    let digest = Digest::from_hex(&text(digest)?).unwrap_or(computed);
    let admitted = match (&*text(what)?, rest) {
        ("h", []) => Admitted::Holds,
        ("p", []) => Admitted::Passes,
        ("x", []) => Admitted::Superseded,
        ("w", [holder, since_ms]) => Admitted::Waits {
            holder: text(holder)?,
            since_ms: number(since_ms)?,
        },
        ("o", [newer]) => Admitted::Outdated { newer: text(newer)? },
        ("l", [holder]) => Admitted::Leased { holder: text(holder)? },
        ("d", [holder, state, expires_in]) => Admitted::Held {
            holder: text(holder)?,
            state: LockState::from_name(&text(state)?)?,
            expires_in_ms: number(expires_in)?,
        },
        ("e", [holder, fate, since]) => Admitted::Ended {
            holder: text(holder)?,
            fate: match &*text(fate)? {
                "b" => Fate::Begun,
                "f" => Fate::Failed,
                _ => Fate::Ended { since_ms: number(since)? },
            },
        },
        _ => return None,
    };
    Some(Reply::Admit(digest, admitted))
}

fn committed(value: Value) -> Option<Committed> {
    match value {
        Value::Int(0) => Some(Committed::Held),
        Value::Int(1) => Some(Committed::Ended),
        Value::Array(parts) => match parts.as_slice() {
            [holder] => Some(Committed::Lost { holder: text(holder)? }),
            [older, vhost, worker, begun] => Some(Committed::Replaced(Box::new(Superseded {
                freed: freed(older)?,
                vhost: text(vhost)?,
                worker: text(worker)?,
                begun: if *begun == Value::Int(1) { Begun::Yes } else { Begun::No },
            }))),
            _ => None,
        },
        _ => None,
    }
}

/// The locks that were freed, and those that ids had lost which ran all the same: these give `ran` as their reason.
fn released(locks: &[Value]) -> Option<Reply> {
    let outlived = |lock: &&Value| matches!(lock, Value::Array(parts) if parts.get(4).and_then(text).as_deref() == Some("ran"));
    let freed = locks.iter().filter(|lock| !outlived(lock)).map(freed).collect::<Option<Vec<_>>>()?;
    if freed.len() == locks.len() {
        return Some(Reply::Released(freed));
    }
    let ran = locks.iter().filter(outlived).map(lost).collect::<Option<Vec<_>>>()?;
    Some(Reply::Outlived { freed, ran })
}

fn lost(value: &Value) -> Option<Freed> {
    let Value::Array(parts) = value else { return None };
    let [digest, holder, rule, ..] = parts.as_slice() else {
        return None;
    };
    Some(Freed {
        digest: Digest::from_hex(&text(digest)?)?,
        holder: text(holder)?,
        rule: text(rule)?,
        task: "".into(),
        vhost: "".into(),
        reason: ReleaseReason::Replaced,
        held_ms: 0,
        shadow: false,
    })
}

fn freed(value: &Value) -> Option<Freed> {
    let Value::Array(parts) = value else { return None };
    let [digest, holder, rule, task, reason, held_ms, shadow, vhost] = parts.as_slice() else {
        return None;
    };
    Some(Freed {
        digest: Digest::from_hex(&text(digest)?)?,
        holder: text(holder)?,
        rule: text(rule)?,
        task: text(task)?,
        reason: ReleaseReason::from_name(&text(reason)?)?,
        held_ms: number(held_ms)?,
        shadow: *shadow == Value::Int(1),
        vhost: text(vhost)?,
    })
}

/// The fields that [`record`] reads, as the script's `Q` asks for them.
pub(super) const RECORD_FIELDS: [&str; 16] = [
    "holder",
    "state",
    "rule",
    "task",
    "summary",
    "worker",
    "proxy",
    "vhost",
    "queue",
    "since",
    "expires",
    "scope",
    "shadow",
    "publishes",
    "carried",
    "marks",
];

/// A lock from its fields; `None` if it is not there, or not a lock.
pub(super) fn record(digest: Digest, fields: &[Value]) -> Option<LockRecord> {
    let [
        holder,
        state,
        rule,
        task,
        summary,
        worker,
        proxy,
        vhost,
        queue,
        since,
        expires,
        scope,
        shadow,
        publishes,
        carried,
        marks @ ..,
    ] = fields
    else {
        return None;
    };
    let or_empty = |value| text(value).unwrap_or_default();
    Some(LockRecord {
        digest,
        holder: text(holder)?,
        state: LockState::from_name(&text(state)?)?,
        rule: or_empty(rule),
        task: or_empty(task),
        summary: or_empty(summary),
        worker: or_empty(worker),
        proxy: or_empty(proxy),
        vhost: or_empty(vhost),
        queue: or_empty(queue),
        since_ms: number(since).unwrap_or_default(),
        expires_ms: number(expires).unwrap_or_default(),
        scope: Extent::from_name(&or_empty(scope)).unwrap_or(Extent::Publish(Scope::UntilExpired)),
        in_flight: or_empty(publishes)
            .split(' ')
            .filter(|publish| !publish.is_empty() && !publish.contains('-'))
            .count() as u32,
        // A running lock always is; of a publish lock a mark tells.
        carried: text(carried).is_some() || marks.first().and_then(text).is_some_and(|marks| marks.contains('c')),
        shadow: text(shadow).as_deref() == Some("1"),
    })
}

fn text(value: &Value) -> Option<Arc<str>> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into()),
        Value::SimpleString(text) => Some(text.as_str().into()),
        Value::Okay => Some("OK".into()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}
