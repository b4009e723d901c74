//! `check`: what is wrong with a configuration, and with `--connect` whether the broker and the store are there and fit.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::args::CheckArgs;
use super::output::{Exit, Output};
use super::process::plain;
use crate::config::address::{HostPort, StoreUrl, Transport};
use crate::config::error::{Colour, ConfigErrors};
use crate::config::{self, Config, Flags};
use crate::store::{ServerInfo, Settings, Store, Unobserved};

const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// What a client says first, and how the broker's first method begins on channel 0: `connection.start` (AMQP 0-9-1, 4.2.2 and 1.4.2.2).
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
const START_CLASS_AND_METHOD: [u8; 4] = [0, 10, 0, 10];

/// What asking one server brought.
struct Finding {
    what: String,
    verdict: Verdict,
    says: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        }
    }
}

pub(super) fn check(args: &CheckArgs, output: &mut Output<'_>) -> Exit {
    let loaded = config::load(args.file.as_deref(), &config::environment(), &Flags::default());
    let config = match loaded {
        Ok(config) => config,
        Err(errors) => return report_errors(&errors, output),
    };
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
    });
    output.answer(&report, report_text);
    exit
}

fn report_errors(errors: &ConfigErrors, output: &mut Output<'_>) -> Exit {
    let listed: Vec<Value> = errors
        .0
        .iter()
        .map(|error| json!({ "place": error.place.to_string(), "message": error.message }))
        .collect();
    output.answer(&json!({ "ok": false, "errors": listed, "warnings": [], "connect": [] }), |_| {
        String::new()
    });
    output.note(errors.render(Colour::Off).trim_end());
    Exit::Config
}

fn report_text(report: &Value) -> String {
    let mut lines = Vec::new();
    for warning in report["warnings"].as_array().into_iter().flatten() {
        lines.push(format!("warning: {}: {}", plain(&warning["place"]), plain(&warning["message"])));
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

fn connect(config: &Config) -> Vec<Finding> {
    let timeout = config.proxy.connect_timeout;
    let mut findings: Vec<Finding> = Vec::new();
    for upstream in &config.proxy.upstream {
        let what = format!("upstream {upstream}");
        let (verdict, says) = match greet(&upstream.address, upstream.transport, timeout) {
            Ok(says) => (Verdict::Ok, says.to_owned()),
            Err(error) => (Verdict::Failed, error.to_string()),
        };
        findings.push(Finding { what, verdict, says });
    }
    if let StoreUrl::Redis(redis) = &config.store.url {
        let settings = Settings {
            url: redis.url.expose().to_owned(),
            prefix: config.store.prefix.clone(),
            timeout: config.store.timeout.max(STORE_TIMEOUT),
            proxy: Arc::from("oncegate-check"),
            ca: None,
        };
        let what = format!("store {redis}");
        match inspect(&settings) {
            Ok(info) => findings.extend(judge(&what, &info)),
            Err(says) => findings.push(Finding {
                what,
                verdict: Verdict::Failed,
                says,
            }),
        }
    }
    if let Some(results) = &config.results {
        let settings = Settings {
            url: results.url.url.expose().to_owned(),
            prefix: String::new(),
            timeout: STORE_TIMEOUT,
            proxy: Arc::from("oncegate-check"),
            ca: None,
        };
        let (verdict, says) = match inspect(&settings) {
            Ok(info) => judge_results(&info),
            Err(says) => (Verdict::Failed, says),
        };
        findings.push(Finding {
            what: format!("results {}", results.url),
            verdict,
            says,
        });
    }
    findings
}

/// Publications beside answers on one connection (RESP3) came with Redis 6. A replica will do.
fn judge_results(info: &ServerInfo) -> (Verdict, String) {
    let major = info.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < 6) {
        return (
            Verdict::Failed,
            format!("Redis {} is too old to be followed: it must be 6 or later", info.version),
        );
    }
    (Verdict::Ok, format!("Redis {}", info.version))
}

/// Says the protocol header and waits for `connection.start`. Of a TLS port only the TCP connection is tried.
fn greet(address: &HostPort, transport: Transport, timeout: Duration) -> io::Result<&'static str> {
    let mut socket = dial(address, timeout)?;
    if transport == Transport::Tls {
        return Ok("accepts connections (TLS is not tried)");
    }
    socket.set_read_timeout(Some(timeout))?;
    socket.set_write_timeout(Some(timeout))?;
    socket.write_all(PROTOCOL_HEADER)?;
    // A frame's header (type 1 = method, channel, size), then the class and method ids.
    let mut start = [0; 11];
    socket.read_exact(&mut start)?;
    if start[..3] == [1, 0, 0] && start[7..] == START_CLASS_AND_METHOD {
        return Ok("speaks AMQP 0-9-1");
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "what answers there does not speak AMQP 0-9-1",
    ))
}

fn dial(address: &HostPort, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn inspect(settings: &Settings) -> Result<ServerInfo, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let store = Store::open(settings, Arc::new(Unobserved)).map_err(|error| error.to_string())?;
        let info = store.client().inspect().await.map_err(|error| error.to_string())?;
        Ok(info.unwrap_or_default())
    })
}

fn judge(what: &str, info: &ServerInfo) -> Vec<Finding> {
    let finding = |verdict, says: String| Finding {
        what: what.to_owned(),
        verdict,
        says,
    };
    let mut findings = vec![finding(Verdict::Ok, format!("Redis {}", info.version))];
    if info.role != "master" {
        findings.push(finding(
            Verdict::Failed,
            format!("role {}: locks can only be written to a master", info.role),
        ));
    }
    match info.maxmemory_policy.as_str() {
        "noeviction" => {}
        "" => findings.push(finding(
            Verdict::Warning,
            "does not say its maxmemory-policy: it must be noeviction".to_owned(),
        )),
        policy => findings.push(finding(
            Verdict::Warning,
            format!("maxmemory-policy {policy} may evict locks when memory is short: set noeviction"),
        )),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(role: &str, policy: &str) -> Vec<&'static str> {
        let info = ServerInfo {
            role: role.to_owned(),
            maxmemory_policy: policy.to_owned(),
            ..ServerInfo::default()
        };
        judge("store", &info).iter().map(|finding| finding.verdict.as_str()).collect()
    }

    #[test]
    fn a_result_backend_must_not_be_too_old() {
        for (version, verdict) in [("5.0.14", "failed"), ("6.0.0", "ok"), ("10.1", "ok"), ("", "ok")] {
            let info = ServerInfo {
                version: version.to_owned(),
                role: "slave".to_owned(),
                ..ServerInfo::default()
            };
            assert_eq!(judge_results(&info).0.as_str(), verdict, "{version}");
        }
    }

    #[test]
    fn a_store_must_be_a_master_that_evicts_nothing() {
        assert_eq!(verdicts("master", "noeviction"), ["ok"]);
        assert_eq!(verdicts("slave", "noeviction"), ["ok", "failed"]);
        assert_eq!(verdicts("master", "allkeys-lru"), ["ok", "warning"]);
        assert_eq!(verdicts("master", ""), ["ok", "warning"]);
    }
}
