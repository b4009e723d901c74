//! `mode`: modes above those of the configuration.

use std::fmt::Write;

use serde_json::{Value, json};

use super::args::{ModeAction, ModeArgs};
use super::http::Proxy;
use super::output::{Exit, Failure, Output};
use super::process::plain;

const PATH: &str = "/api/v1/mode";

pub(super) fn mode(args: &ModeArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let says_more = args.duration.is_some() || args.reason.is_some();
    if matches!(args.action, ModeAction::Show | ModeAction::Reset)
        && (says_more || (args.action == ModeAction::Show && args.rule.is_some()))
    {
        let message = "show takes no options of a mode, and reset none but --rule";
        return Err(Failure::new(Exit::Usage, "usage", message));
    }
    let proxy = Proxy::new(&args.proxy)?;
    let mode = match args.action {
        ModeAction::Show => {
            let answer = proxy.get(PATH, &[])?;
            output.answer(&answer, show_text);
            return Ok(Exit::Done);
        }
        ModeAction::Reset => {
            let query: Vec<(&str, &str)> = args.rule.as_deref().map(|rule| ("rule", rule)).into_iter().collect();
            let answer = proxy.delete(PATH, &query)?;
            output.answer(&answer, |answer| lines(&answer["reset"], "reset: ", "nothing was set\n"));
            return Ok(Exit::Done);
        }
        ModeAction::Off => "off",
        ModeAction::Observe => "observe",
        ModeAction::Enforce => "enforce",
    };
    let wanted = json!({ "mode": mode, "rule": args.rule, "expires_in": args.duration, "reason": args.reason });
    let answer = proxy.put(PATH, &wanted)?;
    output.answer(&answer, |answer| line(answer) + "\n");
    Ok(Exit::Done)
}

fn show_text(answer: &Value) -> String {
    let mut text = String::new();
    if answer["off_here"] == true {
        text.push_str("off on this proxy until its next SIGHUP\n");
    }
    text + &lines(&answer["overrides"], "", "every rule is in the mode of the configuration\n")
}

fn lines(overrides: &Value, before: &str, none: &str) -> String {
    let mut text = String::new();
    for set in overrides.as_array().into_iter().flatten() {
        let _ = writeln!(text, "{before}{}", line(set));
    }
    if text.is_empty() { none.to_owned() } else { text }
}

/// One mode that is set.
pub(super) fn line(set: &Value) -> String {
    let rule = set["rule"]
        .as_str()
        .map_or("all rules".to_owned(), |_| format!("rule {}", plain(&set["rule"])));
    let reason = match set["reason"].as_str() {
        None | Some("") => String::new(),
        Some(_) => format!(": {}", plain(&set["reason"])),
    };
    format!(
        "{rule} {} until {}, set by {} at {}{reason}",
        plain(&set["mode"]),
        plain(&set["until"]),
        plain(&set["by"]),
        plain(&set["since"])
    )
}
