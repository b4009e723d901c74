//! Who may ask the admin listener what.
//!
//! A browser on the operator's machine can be made to send requests by any page that it shows. So the Host must be one that this
//! listener goes by (a page that has its own name resolve to this machine sends that name), an Origin must be the same, and every
//! method but GET needs a JSON content type, which a page of another origin cannot send without being asked first.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, header};
use sha2::{Digest as _, Sha256};

use super::base64;
use crate::config::address::HostPort;
use crate::config::{AdminConfig, Role};

/// A token, of which only the hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    name: String,
    role: Role,
    sha256: [u8; 32],
}

/// What a request must show to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The values of Host that are answered, in lower case.
    hosts: Vec<String>,
    /// Set if the listener has every address of the machine: then any literal address with this port is its own. No name resolves to a
    /// literal address, so no page but the proxy's own has it as its origin.
    any_address: Option<u16>,
    tokens: Vec<Token>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token, `-` if none is needed.
    pub name: String,
    /// What the token allows.
    pub role: Role,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The Host is missing or not one that this listener goes by.
    Host,
    /// The request was sent by a page of another origin.
    Origin,
    /// A method that changes something came without a JSON content type.
    ContentType,
    /// No token was shown, or one that nobody has.
    Token,
    /// The token may only look.
    Role,
}

impl Access {
    /// What `[admin]` says, for a listener whose port is `port` (its configured one may be 0). As soon as there is one token, every
    /// request needs one.
    pub fn new(admin: &AdminConfig, port: u16) -> Access {
        let host = admin.listen.host.to_ascii_lowercase();
        let address: Option<IpAddr> = host.parse().ok();
        let mut names = vec![host];
        if admin.listen.is_loopback() {
            names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        }
        let own = names.into_iter().map(|host| HostPort { host, port }.to_string());
        let tokens = admin.tokens.iter().map(|token| Token {
            name: token.name.clone(),
            role: token.role,
            sha256: Sha256::digest(token.secret.expose()).into(),
        });
        Access {
            hosts: own.chain(admin.hosts.iter().map(|host| host.to_ascii_lowercase())).collect(),
            any_address: address.filter(IpAddr::is_unspecified).map(|_| port),
            tokens: tokens.collect(),
        }
    }

    /// Whether this request may be answered, where `needed` is what it takes.
    pub fn check(&self, method: &Method, headers: &HeaderMap, needed: Role) -> Result<Caller, Refusal> {
        let host = text(headers, header::HOST).unwrap_or("").to_ascii_lowercase();
        if !self.is_own(&host) {
            return Err(Refusal::Host);
        }
        if headers
            .get_all(header::ORIGIN)
            .iter()
            .any(|origin| !is_same_origin(origin.to_str().unwrap_or(""), &host))
        {
            return Err(Refusal::Origin);
        }
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if !reads && !text(headers, header::CONTENT_TYPE).is_some_and(is_json) {
            return Err(Refusal::ContentType);
        }
        if self.tokens.is_empty() {
            return Ok(Caller {
                name: "-".to_owned(),
                role: Role::Operate,
            });
        }
        let token = self.token(headers).ok_or(Refusal::Token)?;
        if token.role < needed {
            return Err(Refusal::Role);
        }
        Ok(Caller {
            name: token.name.clone(),
            role: token.role,
        })
    }

    fn is_own(&self, host: &str) -> bool {
        if self
            .hosts
            .iter()
            .any(|own| own == host || without_port(host).is_some_and(|name| own == name))
        {
            return true;
        }
        let Some(port) = self.any_address else { return false };
        let Some(name) = host.strip_suffix(&format!(":{port}")) else {
            return false;
        };
        name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
    }

    /// The token in `Authorization: Bearer TOKEN`, or as the password of Basic, which is what a browser asks its user for.
    ///
    /// Hashes are compared, so that the time it takes says nothing of the token.
    fn token(&self, headers: &HeaderMap) -> Option<&Token> {
        let (scheme, value) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
        let secret = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => value.trim().to_owned(),
            "basic" => String::from_utf8(base64::decode(value.trim())?).ok()?.split_once(':')?.1.to_owned(),
            _ => return None,
        };
        let sha256: [u8; 32] = Sha256::digest(secret).into();
        self.tokens.iter().find(|token| token.sha256 == sha256)
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn without_port(host: &str) -> Option<&str> {
    let (name, port) = host.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    Some(name)
}

fn is_same_origin(origin: &str, host: &str) -> bool {
    let origin = origin.to_ascii_lowercase();
    ["http://", "https://"]
        .iter()
        .any(|scheme| origin.strip_prefix(scheme) == Some(host))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AdminToken;
    use crate::config::unit::Secret;

    fn access(host: &str, hosts: &[&str], tokens: &[(&str, &str, Role)]) -> Access {
        let token = |(name, secret, role): &(&str, &str, Role)| AdminToken {
            name: (*name).to_owned(),
            file: "/run/token".into(),
            role: *role,
            secret: Secret::new(*secret),
        };
        let admin = AdminConfig {
            listen: HostPort {
                host: host.to_owned(),
                port: 0,
            },
            probes_listen: None,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            tls: None,
            tokens: tokens.iter().map(token).collect(),
        };
        Access::new(&admin, 9672)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().expect("a header")))
            .collect()
    }

    fn refused(access: &Access, method: &Method, pairs: &[(&'static str, &str)], needed: Role) -> Option<Refusal> {
        access.check(method, &headers(pairs), needed).err()
    }

    #[test]
    fn the_host_must_be_the_listeners() {
        let access = access("127.0.0.1", &["oncegate.internal", "Proxy:80"], &[]);
        let get = |host: &str| refused(&access, &Method::GET, &[("host", host)], Role::Read);
        for host in [
            "127.0.0.1:9672",
            "localhost:9672",
            "LOCALHOST:9672",
            "[::1]:9672",
            "oncegate.internal",
            "oncegate.internal:9672",
            "proxy:80",
        ] {
            assert_eq!(get(host), None, "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1",
            "127.0.0.1:80",
            "10.0.0.1:9672",
            "proxy",
            "proxy:81",
            "localhost:9672.evil.example",
            "",
        ] {
            assert_eq!(get(host), Some(Refusal::Host), "{host}");
        }
        assert_eq!(refused(&access, &Method::GET, &[], Role::Read), Some(Refusal::Host));
    }

    #[test]
    fn a_listener_on_every_address_goes_by_every_address_and_by_no_name() {
        let access = access("0.0.0.0", &[], &[]);
        let get = |host: &str| refused(&access, &Method::GET, &[("host", host)], Role::Read);
        assert_eq!(get("10.1.2.3:9672"), None);
        assert_eq!(get("[fe80::1]:9672"), None);
        assert_eq!(get("10.1.2.3:80"), Some(Refusal::Host));
        assert_eq!(get("evil.example:9672"), Some(Refusal::Host));
    }

    #[test]
    fn an_origin_must_be_our_own() {
        let access = access("127.0.0.1", &[], &[]);
        let get = |origin: &str| refused(&access, &Method::GET, &[("host", "localhost:9672"), ("origin", origin)], Role::Read);
        assert_eq!(get("http://localhost:9672"), None);
        assert_eq!(get("https://localhost:9672"), None);
        for origin in [
            "http://evil.example",
            "null",
            "http://localhost",
            "http://127.0.0.1:9672",
            "localhost:9672",
            "",
        ] {
            assert_eq!(get(origin), Some(Refusal::Origin), "{origin}");
        }
    }

    #[test]
    fn every_method_but_get_needs_json() {
        let access = access("127.0.0.1", &[], &[]);
        let send = |method: &Method, content_type: &str| {
            refused(
                &access,
                method,
                &[("host", "localhost:9672"), ("content-type", content_type)],
                Role::Read,
            )
        };
        for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
            assert_eq!(send(&method, "application/json; charset=utf-8"), None);
            assert_eq!(send(&method, "text/plain"), Some(Refusal::ContentType));
            assert_eq!(
                refused(&access, &method, &[("host", "localhost:9672")], Role::Read),
                Some(Refusal::ContentType)
            );
        }
        assert_eq!(send(&Method::GET, "text/plain"), None);
    }

    #[test]
    fn a_token_names_its_bearer_and_bounds_him() {
        let access = access(
            "10.0.0.1",
            &[],
            &[("grafana", "look", Role::Read), ("ops", "s3:cret", Role::Operate)],
        );
        let ask = |authorization: &str, needed| {
            access.check(
                &Method::GET,
                &headers(&[("host", "10.0.0.1:9672"), ("authorization", authorization)]),
                needed,
            )
        };
        assert_eq!(
            ask("Bearer look", Role::Read),
            Ok(Caller {
                name: "grafana".to_owned(),
                role: Role::Read
            })
        );
        assert_eq!(ask("Bearer look", Role::Operate), Err(Refusal::Role));
        assert_eq!(
            ask("bearer s3:cret", Role::Operate),
            Ok(Caller {
                name: "ops".to_owned(),
                role: Role::Operate
            })
        );
        // "any:s3:cret": the password may hold a colon, the user may not.
        assert_eq!(
            ask("Basic YW55OnMzOmNyZXQ=", Role::Operate).map(|caller| caller.name),
            Ok("ops".to_owned())
        );
        for wrong in ["Bearer ", "Bearer lookk", "Basic look", "Basic !", "look", "Digest look"] {
            assert_eq!(ask(wrong, Role::Read), Err(Refusal::Token), "{wrong}");
        }
        assert_eq!(
            refused(&access, &Method::GET, &[("host", "10.0.0.1:9672")], Role::Read),
            Some(Refusal::Token)
        );
    }
}
