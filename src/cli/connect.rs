//! What `check --connect` learns from the brokers, the store and the result backend: whether they are there and fit, and if not, what to do.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

use crate::amqp::frame::{FrameKind, PROTOCOL_HEADER, Split, split};
use crate::amqp::method::{MethodId, connection::Start};
use crate::config::Config;
use crate::config::account::Account;
use crate::config::address::{HostPort, RedisUrl, StoreUrl, Transport, Upstream};
use crate::config::unit::show_duration;
use crate::control;
use crate::logging::printable;
use crate::rules::lock::{Digest, Request};
use crate::store::{Client, ServerInfo, Settings, Store, Unavailable, Unobserved};
use crate::tls;

/// The store may take longer to answer an operator than to answer a publish.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most octets of a broker's first frame that are waited for; `RabbitMQ`'s has about five hundred.
const START_MAX: usize = 1 << 16;
/// How a TLS record of alerts begins (RFC 8446, 5.1): what a TLS server answers to what is no TLS.
const TLS_ALERT: u8 = 0x15;

/// What asking one server brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) what: String,
    pub(super) verdict: Verdict,
    pub(super) says: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        }
    }
}

/// Why a broker cannot be used, and what to do about it.
#[derive(Debug, thiserror::Error)]
enum BrokerFault {
    #[error("{0}. Is RabbitMQ running there, and is the address right?")]
    Unreachable(io::Error),
    #[error("no connection within proxy.connect_timeout ({}). Does a firewall swallow the packets, or is the host down?", show_duration(*.0))]
    NoConnection(Duration),
    #[error("{0}")]
    TlsFiles(String),
    #[error("the TLS handshake failed: {error}. {remedy}")]
    Tls { error: io::Error, remedy: &'static str },
    #[error("it took the connection and said nothing within proxy.connect_timeout ({}). Is it RabbitMQ, and is it healthy?", show_duration(*.0))]
    Silent(Duration),
    #[error("it closed the connection without a word of AMQP. Is it RabbitMQ, and does it take connections from this machine?")]
    Closed,
    #[error("the connection broke: {0}. Is it RabbitMQ, and does it take connections from this machine?")]
    Broke(io::Error),
    #[error("it speaks TLS. Write amqps:// in proxy.upstream, or the port of the broker's plain listener (5672).")]
    SpeaksTls,
    #[error("what answers there does not speak AMQP 0-9-1. Write the port of RabbitMQ's AMQP listener (5672, with TLS 5671).")]
    NotAmqp,
}

/// Asks every broker, the store and the result backend. Blocks.
pub(super) fn connect(config: &Config) -> Vec<Finding> {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![finding("this machine", Verdict::Failed, error.to_string())],
    };
    runtime.block_on(async {
        let mut findings = Vec::new();
        for upstream in &config.proxy.upstream {
            let (verdict, says) = match ask_broker(upstream, config).await {
                Ok(says) => (Verdict::Ok, says),
                Err(fault) => (Verdict::Failed, fault.to_string()),
            };
            findings.push(finding(&format!("upstream {upstream}"), verdict, says));
        }
        for account in &config.control.accounts {
            findings.extend(ask_control(account, config).await);
        }
        if let StoreUrl::Redis(redis) = &config.store.url {
            findings.extend(ask_store(redis, config).await);
        }
        if let Some(results) = &config.results {
            findings.push(ask_results(&results.url, config).await);
        }
        findings
    })
}

fn finding(what: &str, verdict: Verdict, says: impl Into<String>) -> Finding {
    Finding {
        what: what.to_owned(),
        verdict,
        says: says.into(),
    }
}

/// Connects as the proxy does, sends the protocol header and reads `connection.start`, all within `proxy.connect_timeout`.
async fn ask_broker(upstream: &Upstream, config: &Config) -> Result<String, BrokerFault> {
    let timeout = config.proxy.connect_timeout;
    let deadline = Instant::now() + timeout;
    let connector = match upstream.transport {
        Transport::Tcp => None,
        Transport::Tls => Some(tls::connector(&config.proxy.upstream_tls).map_err(|error| BrokerFault::TlsFiles(error.to_string()))?),
    };
    let stream = timeout_at(deadline, dial(&upstream.address))
        .await
        .map_err(|_| BrokerFault::NoConnection(timeout))?
        .map_err(BrokerFault::Unreachable)?;
    let greeted = timeout_at(deadline, greet_over(stream, connector, &upstream.address.host)).await;
    greeted.map_err(|_| BrokerFault::Silent(timeout))?
}

/// Opens the connection that the proxy opens with its own account, and tries all that it needs there.
async fn ask_control(account: &Account, config: &Config) -> Vec<Finding> {
    let what = format!("control {}", account.url);
    let dial = control::dial(config, account, "oncegate check");
    let failed = match control::check(&dial, &control::needs(config)).await {
        Ok(failed) => failed,
        Err(fault) => {
            let remedy = control_remedy(&fault, account, config);
            return vec![finding(&what, Verdict::Failed, format!("{fault}. {remedy}"))];
        }
    };
    if failed.is_empty() {
        return vec![finding(&what, Verdict::Ok, "has all the rights that it needs")];
    }
    let failed = failed.iter().map(|step| finding(&what, Verdict::Failed, step.to_string()));
    failed.collect()
}

fn control_remedy(fault: &control::Fault, account: &Account, config: &Config) -> String {
    use control::Fault;
    let vhost = &account.vhost;
    match fault {
        Fault::Unreachable(_) | Fault::NotAmqp => "Is RabbitMQ running there, and is the address in [control] right?".to_owned(),
        Fault::NoConnection(_) => "Does a firewall swallow the packets, or is the host down?".to_owned(),
        Fault::Refused { code: 403, .. } => "Write the user and the password of an account of that broker in [control].".to_owned(),
        Fault::Refused { code: 530, .. } => {
            format!(
                "Is there a virtual host {vhost:?}, and may the account enter it? {}",
                control::least_rights(account, &control::needs(config))
            )
        }
        _ => "See the broker's log for its side of it.".to_owned(),
    }
}

async fn dial(address: &HostPort) -> io::Result<TcpStream> {
    TcpStream::connect((address.host.as_str(), address.port)).await
}

async fn greet_over(stream: TcpStream, connector: Option<TlsConnector>, host: &str) -> Result<String, BrokerFault> {
    let Some(connector) = connector else { return greet(stream).await };
    let stream = tls::connect(&connector, host, stream).await.map_err(tls_fault)?;
    let version = stream.get_ref().1.protocol_version();
    let encrypted = version
        .and_then(|version| version.as_str())
        .unwrap_or("TLS")
        .replace("TLSv1_", "TLS 1.");
    greet(stream).await.map(|says| format!("{says} over {encrypted}"))
}

/// Says the protocol header and waits for `connection.start`. Gives what the broker says that it is.
async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, BrokerFault> {
    stream.write_all(&PROTOCOL_HEADER).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut read = Vec::new();
    loop {
        match split(&read, START_MAX) {
            Split::Frame(frame) if frame.kind == FrameKind::Method && frame.method_id() == Some(MethodId::CONNECTION_START) => {
                return Ok(introduced(frame.payload));
            }
            Split::Incomplete { .. } => {}
            _ if read.first() == Some(&TLS_ALERT) => return Err(BrokerFault::SpeaksTls),
            _ => return Err(BrokerFault::NotAmqp),
        }
        if stream.read_buf(&mut read).await.map_err(broken)? == 0 {
            return Err(match read.first() {
                None => BrokerFault::Closed,
                Some(&TLS_ALERT) => BrokerFault::SpeaksTls,
                Some(_) => BrokerFault::NotAmqp,
            });
        }
    }
}

/// What a broker says of itself in `connection.start`.
fn introduced(payload: &[u8]) -> String {
    let properties = Start::decode(payload).and_then(|start| start.server_properties.get_many([b"product", b"version"]).ok());
    let name: Vec<String> = properties
        .iter()
        .flatten()
        .filter_map(|value| value.as_ref()?.as_str().map(printable))
        .collect();
    match name.as_slice() {
        [] => "speaks AMQP 0-9-1".to_owned(),
        name => format!("{} speaks AMQP 0-9-1", name.join(" ")),
    }
}

/// A connection that broke after it stood. Under TLS 1.3 a broker refuses a client's certificate only then.
fn broken(error: io::Error) -> BrokerFault {
    if rustls_error(&error).is_some() {
        tls_fault(error)
    } else if matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    ) {
        BrokerFault::Closed
    } else {
        BrokerFault::Broke(error)
    }
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn tls_fault(error: io::Error) -> BrokerFault {
    use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error as Tls};
    let remedy = match rustls_error(&error) {
        Some(Tls::InvalidCertificate(Certificate::UnknownIssuer)) => {
            "Name the authority that signed the broker's certificate in proxy.upstream_tls.ca."
        }
        Some(Tls::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. })) => {
            "Write in proxy.upstream a name that the broker's certificate carries."
        }
        Some(Tls::InvalidCertificate(_)) => "Renew the broker's certificate, and see that this machine's clock is right.",
        Some(Tls::AlertReceived(Alert::CertificateRequired)) => {
            "The broker asks for a client certificate: write proxy.upstream_tls.cert and key."
        }
        Some(Tls::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown | Alert::CertificateExpired)) => {
            "The broker does not trust the certificate in proxy.upstream_tls.cert: see the broker's log and its cacertfile."
        }
        Some(Tls::InvalidMessage(_)) => "Nothing speaks TLS there: write amqp://, or the port of the broker's TLS listener (5671).",
        _ => "See the broker's log for its side of it.",
    };
    BrokerFault::Tls { error, remedy }
}

/// A client of this Redis, or why there can be none.
async fn redis_client(redis: &RedisUrl, prefix: &str, config: &Config) -> Result<Client, String> {
    let timeout = config.proxy.connect_timeout;
    // The store's own connection does not tell why it could not be made.
    match timeout_at(Instant::now() + timeout, dial(&redis.address)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("{error}. Is Redis running there, and is the address right?")),
        Err(_) => {
            let waited = show_duration(timeout);
            return Err(format!(
                "no connection within {waited}. Does a firewall swallow the packets, or is the host down?"
            ));
        }
    }
    let settings = Settings {
        url: redis.url.expose().to_owned(),
        prefix: prefix.to_owned(),
        timeout: config.store.timeout.max(STORE_TIMEOUT),
        proxy: Arc::from("oncegate-check"),
        ca: None,
    };
    let store = Store::open(&settings, Arc::new(Unobserved)).map_err(|error| error.to_string())?;
    Ok(store.client())
}

/// The result backend only has to be there and not too old; a replica will do.
async fn ask_results(redis: &RedisUrl, config: &Config) -> Finding {
    let what = format!("results {redis}");
    let client = match redis_client(redis, "", config).await {
        Ok(client) => client,
        Err(says) => return finding(&what, Verdict::Failed, says),
    };
    match client.inspect().await {
        Ok(info) => judge_results(&what, &info.unwrap_or_default()),
        Err(error) => finding(&what, Verdict::Failed, store_fault(&error, redis, "results.url")),
    }
}

/// Publications beside answers on one connection (RESP3) came with Redis 6.
fn judge_results(what: &str, info: &ServerInfo) -> Finding {
    let major = info.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < 6) {
        let says = format!("Redis {} is too old to be followed: it must be 6 or later", info.version);
        return finding(what, Verdict::Failed, says);
    }
    finding(what, Verdict::Ok, format!("Redis {}", info.version))
}

/// Connects, asks what the server is, and asks for a lock as every publish does.
async fn ask_store(redis: &RedisUrl, config: &Config) -> Vec<Finding> {
    let what = format!("store {redis}");
    let failed = |says: String| vec![finding(&what, Verdict::Failed, says)];
    let store = match redis_client(redis, &config.store.prefix, config).await {
        Ok(store) => store,
        Err(says) => return failed(says),
    };
    let mut findings = match store.inspect().await {
        Ok(info) => judge(&what, &info.unwrap_or_default()),
        Err(Unavailable::Refused(why)) if has_code(&why, &["noperm"]) => vec![finding(
            &what,
            Verdict::Warning,
            "does not let this account run INFO. See yourself that it is a master with maxmemory-policy noeviction.",
        )],
        Err(error) => return failed(store_fault(&error, redis, "store.url")),
    };
    if findings.iter().all(|finding| finding.verdict != Verdict::Failed)
        && let Err(error) = store.ask(Request::Show { digest: Digest([0; 32]) }).await
    {
        findings.push(finding(
            &what,
            Verdict::Failed,
            format!("a lock cannot be asked for: {}", store_fault(&error, redis, "store.url")),
        ));
    }
    findings
}

fn store_fault(error: &Unavailable, redis: &RedisUrl, key: &str) -> String {
    let remedy = match error {
        Unavailable::Timeout => "Is it Redis, and is it healthy?",
        Unavailable::Refused(why)
            if ["NOAUTH", "WRONGPASS", "AuthenticationFailed"]
                .iter()
                .any(|code| why.contains(code)) =>
        {
            &format!("Write user and password in {key}: redis://USER:PASSWORD@HOST:PORT/DB.")
        }
        Unavailable::Refused(why) if has_code(why, &["noperm"]) => {
            "Allow the account scripts (EVALSHA, SCRIPT LOAD) and the commands on hashes, strings and expiry, on keys that begin with store.prefix."
        }
        Unavailable::Refused(_) => "See the server's log.",
        Unavailable::Disconnected | Unavailable::CircuitOpen => match redis.transport {
            Transport::Tcp => &format!("Is it Redis? If it takes TLS, write rediss:// in {key}."),
            Transport::Tls => {
                "Does it take TLS, with a certificate for this name from an authority that the system trusts? Without TLS write redis://."
            }
        },
    };
    format!("{error}. {remedy}")
}

/// Whether one of these codes stands in what Redis, or the library in its own spelling, says.
fn has_code(says: &str, codes: &[&str]) -> bool {
    let says = says.to_ascii_lowercase();
    codes.iter().any(|code| says.contains(code))
}

fn judge(what: &str, info: &ServerInfo) -> Vec<Finding> {
    let mut findings = vec![finding(what, Verdict::Ok, format!("Redis {}", info.version))];
    if info.role != "master" {
        findings.push(finding(
            what,
            Verdict::Failed,
            format!(
                "role {}: locks can only be written to a master. Write the master's address in store.url.",
                info.role
            ),
        ));
    }
    match info.maxmemory_policy.as_str() {
        "noeviction" => {}
        "" => findings.push(finding(
            what,
            Verdict::Warning,
            "does not say its maxmemory-policy: it must be noeviction",
        )),
        policy => findings.push(finding(
            what,
            Verdict::Warning,
            format!("maxmemory-policy {policy} may evict locks when memory is short: set noeviction"),
        )),
    }
    findings
}

#[cfg(test)]
mod tests;
