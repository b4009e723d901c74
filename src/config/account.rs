//! The accounts of the proxy itself at a broker.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::address::{AddressFault, HostPort, Listen, Transport, decode, fault, parse_host_port};
use super::unit::Secret;

/// What a broker takes from clients that name no user, over loopback (`RabbitMQ`, `loopback_users`).
const GUEST: &str = "guest";

/// An account at a broker: `amqp://` or `amqps://`, `user:password@`, host, port, virtual host. Prints without user and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Where.
    pub address: HostPort,
    /// With TLS or without.
    pub transport: Transport,
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// The virtual host; `None` if the URL names none.
    pub vhost: Option<Arc<str>>,
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.transport == Transport::Tls { "amqps" } else { "amqp" };
        write!(f, "{scheme}://***@{}", self.address)?;
        match self.vhost.as_deref() {
            None => Ok(()),
            Some("/") => f.write_str("/%2F"),
            Some(vhost) => write!(f, "/{vhost}"),
        }
    }
}

/// An account of the proxy's own, in one virtual host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The virtual host.
    pub vhost: Arc<str>,
    /// Where and as whom.
    pub url: BrokerUrl,
}

pub(super) const BROKER_REMEDY: &str = "Write url = \"amqp://USER:PASSWORD@HOST:5672/VHOST\", with amqps:// for TLS.";

/// Reads the URL of an account. The path is a virtual host, as other AMQP libraries read it: `/jobs` is `jobs`, `//` and `/%2F` are `/`;
/// none, and a single `/`, name none.
pub(super) fn parse_broker_url(text: &str) -> Result<BrokerUrl, AddressFault> {
    let (transport, port, rest) = match text.split_once("://") {
        Some(("amqp", rest)) => (Transport::Tcp, 5672, rest),
        Some(("amqps", rest)) => (Transport::Tls, 5671, rest),
        _ => return Err(fault("is not the URL of a broker", BROKER_REMEDY)),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (credentials, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.contains(['?', '#']) || path.contains(['?', '#']) {
        return Err(fault(
            "holds options behind the virtual host, which are not understood",
            BROKER_REMEDY,
        ));
    }
    let address = parse_host_port(host, Some(port)).map_err(|says| fault(says, BROKER_REMEDY))?;
    if address.port == 0 {
        return Err(fault("has port 0, which cannot be dialled", BROKER_REMEDY));
    }
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (user, password) = match (decode(user)?, decode(password)?) {
        (None, None) => (GUEST.to_owned(), GUEST.to_owned()),
        (user, password) => (user.unwrap_or_default(), password.unwrap_or_default()),
    };
    let vhost: Option<Arc<str>> = decode(path)?.map(Arc::from);
    if vhost.as_ref().is_some_and(|vhost| vhost.len() > 255) {
        return Err(fault("names a virtual host of more than 255 bytes", BROKER_REMEDY));
    }
    Ok(BrokerUrl {
        address,
        transport,
        user,
        password: Secret::new(password),
        vhost,
    })
}

/// Whether a client that dials this address would reach this listener, as far as the two tell.
pub(super) fn is_own(listen: &Listen, dialled: &HostPort) -> bool {
    if listen.address.port != dialled.port {
        return false;
    }
    let is_any = listen
        .address
        .host
        .parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_unspecified());
    listen.address.host == dialled.host || (dialled.is_loopback() && (is_any || listen.address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::super::address::parse_listen;
    use super::*;

    #[test]
    fn accounts() {
        for (text, user, password, vhost, shown) in [
            ("amqp://h", "guest", "guest", None, "amqp://***@h:5672"),
            ("amqp://h/", "guest", "guest", None, "amqp://***@h:5672"),
            ("amqp://me:p@h//", "me", "p", Some("/"), "amqp://***@h:5672/%2F"),
            ("amqp://me:p@h/%2f", "me", "p", Some("/"), "amqp://***@h:5672/%2F"),
            ("amqps://me:p%40ss%2F@h:7/jobs", "me", "p@ss/", Some("jobs"), "amqps://***@h:7/jobs"),
            ("amqp://me@h/jobs", "me", "", Some("jobs"), "amqp://***@h:5672/jobs"),
            ("amqps://me:p@[::1]/a b", "me", "p", Some("a b"), "amqps://***@[::1]:5671/a b"),
        ] {
            let url = parse_broker_url(text).unwrap();
            assert_eq!(
                (&*url.user, url.password.expose(), url.vhost.as_deref()),
                (user, password, vhost),
                "{text}"
            );
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("p@ss"));
        }
        for (text, says) in [
            ("redis://h", "is not the URL of a broker"),
            ("h:5672", "is not the URL of a broker"),
            ("amqp://", "has no host (0.0.0.0 is every IPv4 interface, [::] every interface)"),
            ("amqp://h:0/", "has port 0, which cannot be dialled"),
            (
                "amqp://h/jobs?heartbeat=5",
                "holds options behind the virtual host, which are not understood",
            ),
            (
                "amqp://a:%zz@h",
                "has a % in its user or password that is not followed by two hex digits",
            ),
        ] {
            assert_eq!(parse_broker_url(text).unwrap_err().says, says, "{text}");
        }
    }

    #[test]
    fn a_listener_of_the_proxy_is_known_by_its_address() {
        for (listen, dialled, own) in [
            ("127.0.0.1:5673", "amqp://localhost:5673", true),
            ("0.0.0.0:5673", "amqp://127.0.0.1:5673", true),
            ("amqps://[::]:5671", "amqps://[::1]", true),
            ("gate.example:5673", "amqp://gate.example:5673", true),
            ("127.0.0.1:5673", "amqp://127.0.0.1:5672", false),
            ("0.0.0.0:5673", "amqp://rabbit:5673", false),
        ] {
            let url = parse_broker_url(dialled).unwrap();
            assert_eq!(is_own(&parse_listen(listen).unwrap(), &url.address), own, "{listen} {dialled}");
        }
    }
}
