//! `check`: what is wrong with a configuration, and with `--connect` whether the broker and the store are there and fit.

use serde_json::{Value, json};

use super::args::CheckArgs;
use super::connect::{Verdict, connect};
use super::output::{Exit, Output};
use super::process::plain;
use crate::config::error::{Colour, ConfigErrors};
use crate::config::unit::show_duration;
use crate::config::{self, Config, Flags};
use crate::control;
use crate::rules::Rule;
use crate::rules::spec::OnRunning;
use crate::tls::{self, TlsError};

pub(super) fn check(args: &CheckArgs, output: &mut Output<'_>) -> Exit {
    let loaded = config::load(args.file.as_deref(), &config::environment(), &Flags::default());
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => return report_errors(&errors, output),
    };
    let wrong = tls::check(&config);
    if !wrong.is_empty() {
        return report_tls_errors(&wrong, output);
    }
    let findings = if args.connect { connect(&config) } else { Vec::new() };
    let warnings: Vec<Value> = config
        .warnings
        .iter()
        .map(|warning| json!({ "place": warning.place.to_string(), "rule": warning.rule, "message": warning.message }))
        .collect();
    let unreachable = findings.iter().any(|finding| finding.verdict == Verdict::Failed);
    let warned = !warnings.is_empty() || findings.iter().any(|finding| finding.verdict == Verdict::Warning);
    let exit = match () {
        () if unreachable => Exit::Unavailable,
        () if args.strict && warned => Exit::Config,
        () => Exit::Done,
    };
    let connected: Vec<Value> = findings
        .iter()
        .map(|finding| json!({ "what": finding.what, "verdict": finding.verdict.as_str(), "message": finding.says }))
        .collect();
    let report = json!({
        "ok": exit == Exit::Done,
        "file": config.file,
        "sha256": config.sha256,
        "errors": [],
        "warnings": warnings,
        "connect": connected,
        "control": control_notes(&config),
        "results": results_note(&config),
    });
    output.answer(&report, report_text);
    exit
}

/// Which rules would give results to the ids that they drop, and cannot to all.
fn results_note(config: &Config) -> Option<String> {
    let unanswered = config.unanswered.as_ref()?;
    let why = unanswered.why;
    Some(format!("{}: {}. {}", why.says(), unanswered.rules.join(", "), why.remedy()))
}

/// What an account of the proxy's own at the broker is for, or what rights it takes.
fn control_notes(config: &Config) -> Vec<String> {
    let accounts = config.control.accounts.iter().map(|account| {
        let rights = control::least_rights(account, &control::needs(config));
        format!(
            "the least rights of the account for the virtual host {:?}: {rights}",
            &*account.vhost
        )
    });
    let without = config.control.accounts.is_empty();
    let following = config.rules.rules().iter().filter(|rule| without && rule.follows_tasks());
    let rules = following.map(|rule| {
        format!(
            "rule {:?} follows only workers that connect through Oncegate: of others neither the end of a task by its events is heard, nor is \
             it asked whether they are gone. Where there are such, write [control] url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\" with the \
             broker's own address",
            &*rule.name
        )
    });
    let unparked = config.rules.rules().iter().filter_map(|rule| parks_not(config, rule));
    accounts.chain(rules).chain(unparked).collect()
}

/// Says that the deliveries of a rule cannot be parked, by what the configuration alone shows.
fn parks_not(config: &Config, rule: &Rule) -> Option<String> {
    if !rule.holds() || rule.on_running != OnRunning::Wait {
        return None;
    }
    let accounts = &config.control.accounts;
    let is_served = |vhost: &&str| accounts.iter().any(|account| *account.vhost == **vhost);
    let (place, remedy) = if accounts.is_empty() {
        (String::new(), "[control]".to_owned())
    } else {
        let vhost = rule.vhosts()?.find(|vhost| !is_served(vhost))?;
        (format!(" in the virtual host {vhost:?}"), format!("[control.vhosts.{vhost:?}]"))
    };
    let back = show_duration(config.proxy.consumer_timeout / 2);
    Some(format!(
        "rule {:?} cannot park messages{place}, for which Oncegate needs an account of its own: a delivery that may not run yet is held in \
         the proxy, and goes back to its queue after {back}, half of proxy.consumer_timeout. Write {remedy} url = \
         \"amqp://USER:PASSWORD@HOST:5672/VHOST\" with the broker's own address",
        &*rule.name
    ))
}

fn report_errors(errors: &ConfigErrors, output: &mut Output<'_>) -> Exit {
    let listed = errors
        .0
        .iter()
        .map(|error| json!({ "place": error.place.to_string(), "message": error.message }));
    refuse(&listed.collect::<Vec<_>>(), errors.render(Colour::Off).trim_end(), output)
}

/// The files are there, which is all that the configuration can tell, and cannot be used.
fn report_tls_errors(errors: &[(&'static str, TlsError)], output: &mut Output<'_>) -> Exit {
    let listed = errors
        .iter()
        .map(|(table, error)| json!({ "place": table, "message": error.to_string() }));
    let lines: Vec<String> = errors.iter().map(|(table, error)| format!("{table}: {error}")).collect();
    refuse(&listed.collect::<Vec<_>>(), &lines.join("\n"), output)
}

fn refuse(listed: &[Value], text: &str, output: &mut Output<'_>) -> Exit {
    output.answer(&json!({ "ok": false, "errors": listed, "warnings": [], "connect": [] }), |_| {
        String::new()
    });
    output.note(text);
    Exit::Config
}

fn report_text(report: &Value) -> String {
    let mut lines = Vec::new();
    for warning in report["warnings"].as_array().into_iter().flatten() {
        lines.push(format!("warning: {}: {}", plain(&warning["place"]), plain(&warning["message"])));
    }
    for note in report["control"].as_array().into_iter().flatten() {
        lines.push(format!("note: {}", plain(note)));
    }
    if let Some(note) = report["results"].as_str() {
        lines.push(format!("note: {note}"));
    }
    for finding in report["connect"].as_array().into_iter().flatten() {
        lines.push(format!(
            "{}: {}: {}",
            plain(&finding["what"]),
            plain(&finding["verdict"]),
            plain(&finding["message"])
        ));
    }
    let file = report["file"].as_str().unwrap_or("no file: every setting has its default");
    lines.push(format!("{file}: {}", if report["ok"] == true { "ok" } else { "not ok" }));
    lines.join("\n") + "\n"
}
