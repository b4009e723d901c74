//! `why`: what became of a task.

use std::fmt::Write;

use serde_json::Value;

use super::args::ProxyArgs;
use super::http::{Proxy, encode};
use super::output::{Exit, Failure, Output};
use super::process::{mode_lines, plain};

pub(super) fn why(args: &ProxyArgs, id: &str, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let answer = Proxy::new(args)?.get(&format!("/api/v1/tasks/{}", encode(id)), &[])?;
    output.answer(&answer, text);
    Ok(Exit::Done)
}

/// A line for each decision, and one for each lock.
fn text(answer: &Value) -> String {
    let mut text = String::new();
    for made in answer["decisions"].as_array().into_iter().flatten() {
        let _ = write!(
            text,
            "{} {:<8} {}",
            plain(&made["ts"]),
            plain(&made["event"]),
            plain(&made["decision"])
        );
        for name in ["reason", "rule", "limit", "task", "holder", "mode", "vhost", "client", "instance"] {
            if made.get(name).is_some() {
                let _ = write!(text, " {name}={}", plain(&made[name]));
            }
        }
        text.push('\n');
    }
    for mode in mode_lines(&answer["mode"]) {
        let _ = writeln!(text, "now {mode}");
    }
    for lock in answer["locks"].as_array().into_iter().flatten() {
        let own = lock["holder"] == answer["id"];
        let holder = if own {
            "holds".to_owned()
        } else {
            format!("{} holds", plain(&lock["holder"]))
        };
        let shadow = if lock["shadow"] == true { " (shadow)" } else { "" };
        let _ = writeln!(
            text,
            "{holder} {}{shadow}: {}, unique={} rule={} task={} since {}, expires in {} s",
            plain(&lock["digest"]),
            plain(&lock["state"]),
            plain(&lock["unique"]),
            plain(&lock["rule"]),
            plain(&lock["task"]),
            plain(&lock["since"]),
            plain(&lock["expires_in"]),
        );
    }
    text
}
