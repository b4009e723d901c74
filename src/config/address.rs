//! Where the proxy listens, what it dials, and where the locks live.

use std::fmt;
use std::net::IpAddr;

use super::unit::Secret;

/// Whether a leg is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Plain TCP.
    Tcp,
    /// TLS.
    Tls,
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; 0 takes a free one and is refused where it is dialled.
    pub port: u16,
}

impl HostPort {
    /// True for `localhost` and for addresses of the loopback interface.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An address to listen on: `host:port`, or `amqps://host:port` for TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Listen {
    /// Where.
    pub address: HostPort,
    /// With TLS or without.
    pub transport: Transport,
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "{}", self.address),
            Transport::Tls => write!(f, "amqps://{}", self.address),
        }
    }
}

/// A broker: `amqp://host:port` or `amqps://host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Where.
    pub address: HostPort,
    /// With TLS or without.
    pub transport: Transport,
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => write!(f, "amqp://{}", self.address),
            Transport::Tls => write!(f, "amqps://{}", self.address),
        }
    }
}

/// Where the locks live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(RedisUrl),
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreUrl::Memory => f.write_str("memory:"),
            StoreUrl::Redis(url) => write!(f, "{url}"),
        }
    }
}

/// A Redis server: `redis://` or `rediss://`, `user:password@`, host, port, database. Prints without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisUrl {
    /// The whole URL with its password, as the client library takes it.
    pub url: Secret,
    /// Where.
    pub address: HostPort,
    /// With TLS or without.
    pub transport: Transport,
    /// The database number.
    pub database: u32,
    /// The user name, if the URL has one.
    pub user: Option<String>,
    /// The password, if the URL has one.
    pub password: Option<Secret>,
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.transport == Transport::Tls { "rediss" } else { "redis" };
        let credentials = if self.user.is_some() || self.password.is_some() {
            "***@"
        } else {
            ""
        };
        write!(f, "{scheme}://{credentials}{}/{}", self.address, self.database)
    }
}

/// Why an address is wrong: what to say after the offending text, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFault {
    /// Follows the offending text: `is not an address`.
    pub says: String,
    /// A whole sentence.
    pub remedy: String,
}

pub(super) fn fault(says: impl Into<String>, remedy: impl Into<String>) -> AddressFault {
    AddressFault {
        says: says.into(),
        remedy: remedy.into(),
    }
}

/// Reads an address to listen on for AMQP.
pub fn parse_listen(text: &str) -> Result<Listen, AddressFault> {
    let (transport, rest) = match text.split_once("://") {
        None | Some(("amqp", _)) => (Transport::Tcp, text.strip_prefix("amqp://").unwrap_or(text)),
        Some(("amqps", rest)) => (Transport::Tls, rest),
        Some((scheme, _)) => return Err(fault(format!("has the scheme {scheme}://, which is not AMQP"), LISTEN_REMEDY)),
    };
    let address = parse_host_port(rest, None).map_err(|says| fault(says, LISTEN_REMEDY))?;
    Ok(Listen { address, transport })
}

const LISTEN_REMEDY: &str = "Write \"HOST:PORT\", or \"amqps://HOST:PORT\" for TLS.";

/// Reads an address to listen on for HTTP: a host and a port, no scheme.
pub fn parse_host_and_port(text: &str) -> Result<HostPort, AddressFault> {
    let remedy = "Write \"HOST:PORT\".";
    if text.contains("://") {
        return Err(fault("is a URL where an address is meant", remedy));
    }
    parse_host_port(text, None).map_err(|says| fault(says, remedy))
}

/// Reads the address of a broker. Credentials and a vhost are refused: each client brings its own.
pub fn parse_upstream(text: &str) -> Result<Upstream, AddressFault> {
    let remedy = "Write \"amqp://HOST:5672\", or \"amqps://HOST:5671\" for TLS.";
    let (transport, port, rest) = match text.split_once("://") {
        None => (Transport::Tcp, 5672, text),
        Some(("amqp", rest)) => (Transport::Tcp, 5672, rest),
        Some(("amqps", rest)) => (Transport::Tls, 5671, rest),
        Some((scheme, _)) => return Err(fault(format!("has the scheme {scheme}://, which is not AMQP"), remedy)),
    };
    if rest.contains('@') {
        return Err(fault(
            "holds a user name: the proxy logs in with the credentials of each client",
            remedy,
        ));
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if !path.is_empty() || authority.contains(['?', '#']) {
        return Err(fault(
            "holds more than a host and a port: the vhost is the one that each client names",
            remedy,
        ));
    }
    let address = parse_host_port(authority, Some(port)).map_err(|says| fault(says, remedy))?;
    if address.port == 0 {
        return Err(fault("has port 0, which cannot be dialled", remedy));
    }
    Ok(Upstream { address, transport })
}

/// Reads where the locks live.
pub fn parse_store_url(text: &str) -> Result<StoreUrl, AddressFault> {
    let remedy = "Write \"redis://HOST:6379/0\", \"rediss://USER:PASSWORD@HOST:6379/0\", or \"memory:\".";
    if text == "memory:" {
        return Ok(StoreUrl::Memory);
    }
    match text.split_once("://") {
        Some(("redis", rest)) => parse_redis(text, Transport::Tcp, rest, remedy).map(StoreUrl::Redis),
        Some(("rediss", rest)) => parse_redis(text, Transport::Tls, rest, remedy).map(StoreUrl::Redis),
        Some((scheme @ ("redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster"), _)) => Err(not_built(scheme, remedy)),
        Some((scheme, _)) => Err(fault(format!("has the scheme {scheme}://, which is not a store"), remedy)),
        None => Err(fault("is not the URL of a store", remedy)),
    }
}

/// Reads where Celery's Redis result backend is. Celery's own form for sentinels is `sentinel://HOST:26379;sentinel://…`.
pub fn parse_results_url(text: &str) -> Result<RedisUrl, AddressFault> {
    let remedy = "Write \"redis://HOST:6379/0\" or \"rediss://USER:PASSWORD@HOST:6379/0\".";
    match text.split_once("://") {
        Some(("redis", rest)) => parse_redis(text, Transport::Tcp, rest, remedy),
        Some(("rediss", rest)) => parse_redis(text, Transport::Tls, rest, remedy),
        Some((scheme @ ("sentinel" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster" | "rediss+cluster"), _)) => {
            Err(not_built(scheme, remedy))
        }
        Some((scheme, _)) => Err(fault(
            format!("has the scheme {scheme}://, which is not the Redis result backend"),
            remedy,
        )),
        None => Err(fault("is not the URL of a result backend", remedy)),
    }
}

fn not_built(scheme: &str, remedy: &str) -> AddressFault {
    fault(format!("is not available in this version: {scheme}:// is not built yet"), remedy)
}

/// Reads what follows `redis://` or `rediss://` in `text`.
fn parse_redis(text: &str, transport: Transport, rest: &str, remedy: &str) -> Result<RedisUrl, AddressFault> {
    let (credentials, rest) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(credentials, rest)| (Some(credentials), rest));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains(['?', '#']) || authority.contains(['?', '#']) {
        return Err(fault("holds options behind the database number, which are not understood", remedy));
    }
    let address = parse_host_port(authority, Some(6379)).map_err(|says| fault(says, remedy))?;
    let database = if path.is_empty() { Ok(0) } else { path.parse() };
    let database = database.map_err(|_| fault(format!("has {path:?} where the number of a database is meant"), remedy))?;
    let (user, password) = match credentials.map(|pair| pair.split_once(':').unwrap_or((pair, ""))) {
        Some((user, password)) => (decode(user)?, decode(password)?.map(Secret::new)),
        None => (None, None),
    };
    Ok(RedisUrl {
        url: Secret::new(text),
        address,
        transport,
        database,
        user,
        password,
    })
}

/// Undoes percent encoding; `None` for an empty text.
pub(super) fn decode(text: &str) -> Result<Option<String>, AddressFault> {
    let wrong = || {
        fault(
            "has a % in its user or password that is not followed by two hex digits",
            "Write % as %25.",
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong);
        bytes.push((digit()? * 16 + digit()?) as u8);
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// Splits `host:port` or `[v6]:port`. The error follows the offending text.
pub(super) fn parse_host_port(text: &str, default_port: Option<u16>) -> Result<HostPort, String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has a [ without a ]")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("has {host:?} in brackets, which is not an IPv6 address"));
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(format!("has {rest:?} behind the ]")),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err("is not an address: an IPv6 address goes in [ ]".to_owned()),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("has no host (0.0.0.0 is every IPv4 interface, [::] every interface)".to_owned());
    }
    let is_host = |character: char| character.is_ascii_alphanumeric() || "-._:".contains(character);
    if !host.chars().all(is_host) {
        return Err(format!("has {host:?} for a host"));
    }
    let port = match port {
        Some(port) => port
            .parse()
            .map_err(|_| format!("has {port:?} for a port, which is not a number up to 65535"))?,
        None => default_port.ok_or("has no port")?,
    };
    Ok(HostPort {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        for (text, shown, loopback) in [
            ("127.0.0.1:5673", "127.0.0.1:5673", true),
            ("amqp://localhost:5673", "localhost:5673", true),
            ("amqps://0.0.0.0:5671", "amqps://0.0.0.0:5671", false),
            ("[::1]:5673", "[::1]:5673", true),
            ("[::ffff:127.0.0.1]:0", "[::ffff:127.0.0.1]:0", true),
            ("amqps://[::]:5671", "amqps://[::]:5671", false),
            ("gate.example:1", "gate.example:1", false),
        ] {
            let listen = parse_listen(text).unwrap();
            assert_eq!(listen.to_string(), shown);
            assert_eq!(listen.address.is_loopback(), loopback, "{text}");
        }
    }

    #[test]
    fn wrong_addresses_say_why() {
        for (text, says) in [
            ("127.0.0.1", "has no port"),
            (":5673", "has no host (0.0.0.0 is every IPv4 interface, [::] every interface)"),
            ("::1:5673", "is not an address: an IPv6 address goes in [ ]"),
            ("127.0.0.1:70000", "has \"70000\" for a port, which is not a number up to 65535"),
            ("http://127.0.0.1:5673", "has the scheme http://, which is not AMQP"),
            ("[::1:5673", "has a [ without a ]"),
            ("[x]:1", "has \"x\" in brackets, which is not an IPv6 address"),
            ("[::1]5673", "has \"5673\" behind the ]"),
            ("a b:1", "has \"a b\" for a host"),
        ] {
            assert_eq!(parse_listen(text).unwrap_err().says, says, "{text}");
        }
    }

    #[test]
    fn upstreams() {
        for (text, shown) in [
            ("amqp://rabbit", "amqp://rabbit:5672"),
            ("amqps://rabbit/", "amqps://rabbit:5671"),
            ("rabbit:5672", "amqp://rabbit:5672"),
            ("amqp://[::1]:7", "amqp://[::1]:7"),
        ] {
            assert_eq!(parse_upstream(text).unwrap().to_string(), shown);
        }
        for (text, says) in [
            (
                "amqp://guest:guest@rabbit",
                "holds a user name: the proxy logs in with the credentials of each client",
            ),
            (
                "amqp://rabbit/jobs",
                "holds more than a host and a port: the vhost is the one that each client names",
            ),
            ("redis://rabbit", "has the scheme redis://, which is not AMQP"),
            ("amqp://rabbit:0", "has port 0, which cannot be dialled"),
        ] {
            assert_eq!(parse_upstream(text).unwrap_err().says, says, "{text}");
        }
    }

    #[test]
    fn stores() {
        assert_eq!(parse_store_url("memory:"), Ok(StoreUrl::Memory));
        let StoreUrl::Redis(redis) = parse_store_url("rediss://me:p%40ss@cache:6380/3").unwrap() else {
            panic!("not Redis")
        };
        assert_eq!(redis.to_string(), "rediss://***@cache:6380/3");
        assert!(!format!("{redis:?}").contains("p@ss"));
        assert_eq!(redis.user.as_deref(), Some("me"));
        assert_eq!(redis.password.as_ref().map(Secret::expose), Some("p@ss"));
        assert_eq!(redis.url.expose(), "rediss://me:p%40ss@cache:6380/3");
        assert_eq!(parse_store_url("redis://cache").unwrap().to_string(), "redis://cache:6379/0");
        for (text, says) in [
            ("memory", "is not the URL of a store"),
            (
                "redis+cluster://a,b",
                "is not available in this version: redis+cluster:// is not built yet",
            ),
            ("mysql://a", "has the scheme mysql://, which is not a store"),
            ("redis://a/x", "has \"x\" where the number of a database is meant"),
            (
                "redis://a:%zz@b",
                "has a % in its user or password that is not followed by two hex digits",
            ),
            (
                "redis://a/0?x=1",
                "holds options behind the database number, which are not understood",
            ),
        ] {
            assert_eq!(parse_store_url(text).unwrap_err().says, says, "{text}");
        }
    }
}
