//! `status`, `reload` and `drain` of a running proxy.

use std::fmt::Write;

use serde_json::Value;

use super::args::ProxyArgs;
use super::http::Proxy;
use super::output::{Exit, Failure, Output};
use crate::logging::printable;

pub(super) fn status(args: &ProxyArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let answer = Proxy::new(args)?.get("/api/v1/status", &[])?;
    output.answer(&answer, status_text);
    Ok(Exit::Done)
}

pub(super) fn reload(args: &ProxyArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let answer = Proxy::new(args)?.post("/api/v1/reload")?;
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        output.note(&format!("warning: {}", plain(warning)));
    }
    output.answer(&answer, |answer| {
        format!("reloaded: {} rules, sha256 {}\n", plain(&answer["rules"]), plain(&answer["sha256"]))
    });
    Ok(Exit::Done)
}

pub(super) fn drain(args: &ProxyArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let answer = Proxy::new(args)?.post("/api/v1/drain")?;
    output.answer(&answer, |_| "draining\n".to_owned());
    Ok(Exit::Done)
}

fn status_text(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("instance", plain(&status["instance"]));
    line("version", plain(&status["version"]));
    line(
        "phase",
        format!("{}, up {} s", plain(&status["phase"]), plain(&status["uptime_seconds"])),
    );
    line("status", plain(&status["status"]));
    for reason in status["reasons"].as_array().into_iter().flatten() {
        line("", plain(reason));
    }
    let (open, limit) = (plain(&status["connections"]), plain(&status["connections_limit"]));
    line("connections", format!("{open} of {limit}, {} channels", plain(&status["channels"])));
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        let state = match upstream["up"].as_bool() {
            Some(true) => "up",
            Some(false) => "down",
            None => "not dialled yet",
        };
        line("upstream", format!("{} {state}", plain(&upstream["address"])));
    }
    let store = &status["store"];
    let state = if store["up"] == true { "up" } else { "down" };
    line(
        "store",
        format!(
            "{} {state}, circuit {}, {} orders kept",
            plain(&store["type"]),
            plain(&store["circuit"]),
            plain(&store["orders_kept"])
        ),
    );
    for mode in mode_lines(&status["mode"]) {
        line("mode", mode);
    }
    let config = &status["config"];
    let file = config["file"].as_str().map_or("no file".to_owned(), printable);
    line(
        "config",
        format!(
            "{file}, {} rules, loaded {}, sha256 {}",
            plain(&config["rules"]),
            plain(&config["loaded"]),
            plain(&config["sha256"])
        ),
    );
    if let Some(refused) = config["refused"].as_str() {
        line("", format!("the last reload was refused: {}", printable(refused)));
    }
    text
}

/// What is set above the modes of the configuration.
pub(super) fn mode_lines(mode: &Value) -> Vec<String> {
    let off = (mode["off_here"] == true).then(|| "off on this proxy until its next SIGHUP".to_owned());
    let set = mode["overrides"].as_array().into_iter().flatten().map(super::mode::line);
    off.into_iter().chain(set).collect()
}

/// A value without quotes, safe for a terminal.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => printable(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
