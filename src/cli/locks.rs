//! `locks`: through a running proxy, or straight to the store.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{ClearArgs, LocksCommand, PlaceArgs};
use super::http::Proxy;
use super::output::{Exit, Failure, Output};
use super::process::plain;
use crate::config::address::{StoreUrl, parse_store_url};
use crate::config::unit::parse_duration;
use crate::logging::printable;
use crate::rules::lock::{Digest, Running};
use crate::store::operator::{self, Act, Choice};
use crate::store::{Client, Filter, Settings, Store, Unavailable, Unobserved};

/// An operator waits longer than a publish.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// Locks that are asked for at once.
const PAGE: usize = 1000;

/// Where the locks are.
enum Place {
    Proxy(Proxy),
    Store(Direct),
}

/// A store that is asked without a proxy.
struct Direct {
    runtime: tokio::runtime::Runtime,
    store: Client,
}

pub(super) fn locks(command: LocksCommand, output: &mut Output<'_>) -> Result<Exit, Failure> {
    match command {
        LocksCommand::List { place, rule, task, limit } => list(&Place::new(&place)?, &filter(rule, task), limit, output),
        LocksCommand::Show { place, digest } => {
            let lock = Place::new(&place)?.show(digest)?;
            output.answer(&lock, lock_text);
            Ok(Exit::Done)
        }
        LocksCommand::Release { place, digest, holder } => {
            let answer = Place::new(&place)?.release(digest, holder.as_deref())?;
            output.answer(&answer, |answer| {
                let mut text = String::new();
                for freed in answer["locks"].as_array().into_iter().flatten() {
                    let _ = writeln!(text, "released {} held by {}", plain(&freed["digest"]), plain(&freed["holder"]));
                }
                text
            });
            Ok(Exit::Done)
        }
        LocksCommand::Clear { place, clear: args } => clear(&Place::new(&place)?, &args, output),
    }
}

fn list(place: &Place, filter: &Filter, limit: usize, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let wanted = if limit == 0 { usize::MAX } else { limit };
    let mut locks = Vec::new();
    let mut cursor = None;
    loop {
        let left = wanted - locks.len();
        let mut page = place.page(filter, cursor.as_deref(), left.min(PAGE))?;
        locks.extend(page["locks"].as_array_mut().map(std::mem::take).unwrap_or_default());
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || locks.len() >= wanted {
            break;
        }
    }
    let (none, more) = (locks.is_empty(), cursor.is_some());
    output.answer(&json!({ "locks": locks, "cursor": cursor }), list_text);
    if none {
        output.note("no locks");
    }
    if more {
        output.note("there are more: --limit 0 shows all");
    }
    Ok(Exit::Done)
}

fn clear(place: &Place, args: &ClearArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    if !args.dry_run && !args.yes {
        let found = place.clear(args, Act::DryRun)?;
        let count = found["released"].as_u64().unwrap_or(0);
        if count > 0 && !output.confirm(&format!("free {count} locks?")) {
            return Err(Failure::new(Exit::Refused, "not_confirmed", "nothing was freed"));
        }
    }
    let act = if args.dry_run { Act::DryRun } else { Act::Release };
    let answer = place.clear(args, act)?;
    output.answer(&answer, |answer| {
        let verb = if act == Act::DryRun { "would free" } else { "freed" };
        let skipped = match answer["skipped_running"].as_u64() {
            None | Some(0) => String::new(),
            Some(count) => format!(", left {count} whose holder runs (--include-running frees them too)"),
        };
        let mut text = format!("{verb} {} locks{skipped}\n", plain(&answer["released"]));
        if act == Act::DryRun {
            for digest in answer["digests"].as_array().into_iter().flatten() {
                let _ = writeln!(text, "{}", plain(digest));
            }
        }
        text
    });
    Ok(Exit::Done)
}

impl Place {
    fn new(args: &PlaceArgs) -> Result<Place, Failure> {
        match &args.store {
            Some(url) => Ok(Place::Store(Direct::new(url, &args.prefix)?)),
            None => Ok(Place::Proxy(Proxy::new(&args.proxy)?)),
        }
    }

    fn page(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Value, Failure> {
        match self {
            Place::Proxy(proxy) => {
                let limit = limit.to_string();
                let mut query = vec![("limit", limit.as_str())];
                query.extend(filter.rule.as_deref().map(|rule| ("rule", rule)));
                query.extend(filter.task.as_deref().map(|task| ("task", task)));
                query.extend(cursor.map(|cursor| ("cursor", cursor)));
                proxy.get("/api/v1/locks", &query)
            }
            Place::Store(direct) => {
                let page = direct.ask(direct.store.list(filter, cursor, limit))?;
                let locks: Vec<Value> = page.locks.iter().map(operator::lock_json).collect();
                Ok(json!({ "locks": locks, "cursor": page.cursor }))
            }
        }
    }

    fn show(&self, digest: Digest) -> Result<Value, Failure> {
        match self {
            Place::Proxy(proxy) => proxy.get(&format!("/api/v1/locks/{digest}"), &[]),
            Place::Store(direct) => {
                let locks = direct.ask(operator::show(&direct.store, digest))?;
                locks.to_json().ok_or_else(|| no_lock(digest))
            }
        }
    }

    fn release(&self, digest: Digest, holder: Option<&str>) -> Result<Value, Failure> {
        match self {
            Place::Proxy(proxy) => {
                let query: Vec<(&str, &str)> = holder.map(|holder| ("holder", holder)).into_iter().collect();
                proxy.delete(&format!("/api/v1/locks/{digest}"), &query)
            }
            Place::Store(direct) => {
                let freed = direct.ask(operator::release(&direct.store, digest, holder))?;
                if freed.is_empty() {
                    return Err(no_lock(digest));
                }
                let freed: Vec<Value> = freed.iter().map(operator::freed_json).collect();
                Ok(json!({ "released": freed.len(), "locks": freed }))
            }
        }
    }

    fn clear(&self, args: &ClearArgs, act: Act) -> Result<Value, Failure> {
        match self {
            Place::Proxy(proxy) => {
                // The API has no way to say "all" by leaving everything out.
                let older_than = if args.all { Some("0s") } else { args.older_than.as_deref() };
                let mut query = Vec::new();
                query.extend(args.rule.as_deref().map(|rule| ("rule", rule)));
                query.extend(args.task.as_deref().map(|task| ("task", task)));
                query.extend(older_than.map(|age| ("older_than", age)));
                query.extend(args.include_running.then_some(("include_running", "true")));
                query.extend((act == Act::DryRun).then_some(("dry_run", "true")));
                proxy.delete("/api/v1/locks", &query)
            }
            Place::Store(direct) => {
                let choice = Choice {
                    filter: filter(args.rule.clone(), args.task.clone()),
                    older_than: args.older_than.as_deref().and_then(parse_duration),
                    running: if args.include_running { Running::Include } else { Running::Skip },
                    act,
                };
                let cleared = direct.ask(operator::clear(&direct.store, &choice, |_| {}))?;
                Ok(cleared.to_json(act))
            }
        }
    }
}

impl Direct {
    fn new(url: &str, prefix: &str) -> Result<Direct, Failure> {
        let usage = |message: String| Failure::new(Exit::Usage, "usage", message);
        let redis = match parse_store_url(url) {
            Ok(StoreUrl::Redis(redis)) => redis,
            Ok(StoreUrl::Memory) => return Err(usage("a memory store is inside its proxy: use --admin".to_owned())),
            Err(fault) => return Err(usage(format!("--store {} {}", fault.says, fault.remedy))),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Exit::TryAgain, "runtime", error.to_string()))?;
        let settings = Settings {
            url: redis.url.expose().to_owned(),
            prefix: prefix.to_owned(),
            timeout: STORE_TIMEOUT,
            proxy: Arc::from("oncegate-cli"),
            ca: None,
        };
        let store = Store::open(&settings, Arc::new(Unobserved)).map_err(|error| usage(format!("--store: {error}")))?;
        let guard = runtime.enter();
        let store = store.client();
        drop(guard);
        Ok(Direct { runtime, store })
    }

    fn ask<T>(&self, question: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Failure> {
        let answer = self.runtime.block_on(question);
        answer.map_err(|why| Failure::new(Exit::Unavailable, "store_unavailable", why.to_string()))
    }
}

fn filter(rule: Option<String>, task: Option<String>) -> Filter {
    Filter {
        rule,
        task,
        ..Filter::default()
    }
}

fn no_lock(digest: Digest) -> Failure {
    Failure::new(
        Exit::No,
        "no_lock",
        format!("nothing holds {digest}, or not the holder that was named"),
    )
}

fn lock_text(lock: &Value) -> String {
    let mut text = String::new();
    for (name, value) in lock.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "instance" | "scope" | "run") && (name != "vhost" || other_vhost(lock).is_some()) {
            let _ = writeln!(text, "{name:<10} {}", plain(value));
        }
    }
    if let Some(run) = lock.get("run") {
        text.push('\n');
        text.push_str(&lock_text(run));
    }
    text
}

/// The virtual host of a lock, where it is not the usual one.
fn other_vhost(lock: &Value) -> Option<&str> {
    lock["vhost"].as_str().filter(|vhost| !matches!(*vhost, "" | "/"))
}

fn list_text(list: &Value) -> String {
    let mut text = String::new();
    for lock in list["locks"].as_array().into_iter().flatten() {
        let shadow = match (&lock["shadow"], lock["unique"].as_str()) {
            (Value::Bool(true), _) => " (shadow)",
            (_, Some("while_running")) => " (run)",
            _ => "",
        };
        let worker = match lock["worker"].as_str() {
            None | Some("") => String::new(),
            Some(worker) => format!(" on {}", printable(worker)),
        };
        let vhost = other_vhost(lock)
            .map(|vhost| format!("  vhost {}", printable(vhost)))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "{}  {}{shadow}  {}  {}{vhost}  held by {}{worker}  since {}  expires in {} s",
            plain(&lock["digest"]),
            plain(&lock["state"]),
            plain(&lock["rule"]),
            plain(&lock["task"]),
            plain(&lock["holder"]),
            plain(&lock["since"]),
            plain(&lock["expires_in"]),
        );
    }
    text
}
