//! Asking a running proxy over its admin listener.

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, Response, StatusCode};
use ureq::{Agent, Body};

use super::args::ProxyArgs;
use super::output::{Exit, Failure};

/// The longest answer: a page of locks.
const ANSWER_MAX: u64 = 64 << 20;
/// A reload may take half a minute.
const WAIT: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

/// A running proxy.
pub(super) struct Proxy {
    agent: Agent,
    base: String,
    token: Option<String>,
}

impl Proxy {
    pub(super) fn new(args: &ProxyArgs) -> Result<Proxy, Failure> {
        let token = match &args.token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let token = read.map_err(|error| usage(format!("cannot read the token in {}: {error}", path.display())))?;
                Some(token.trim().to_owned())
            }
            None => None,
        };
        let base = args.admin.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") && !base.starts_with("https://") {
            return Err(usage(format!("--admin {base}: write http://HOST:PORT")));
        }
        // The listener is addressed as it is written: a proxy for the web has no business between.
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(WAIT))
            .timeout_connect(Some(CONNECT));
        let agent = config.proxy(None).max_redirects(0).build().into();
        Ok(Proxy { agent, base, token })
    }

    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.ask(Method::GET, path, query, String::new())
    }

    pub(super) fn post(&self, path: &str) -> Result<Value, Failure> {
        self.ask(Method::POST, path, &[], "{}".to_owned())
    }

    pub(super) fn delete(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        self.ask(Method::DELETE, path, query, "{}".to_owned())
    }

    pub(super) fn delete_with(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::DELETE, path, &[], body.to_string())
    }

    pub(super) fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::PATCH, path, &[], body.to_string())
    }

    pub(super) fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.ask(Method::PUT, path, &[], body.to_string())
    }

    /// An answer that goes on until the proxy ends it.
    pub(super) fn stream(&self, path: &str) -> Result<impl BufRead + use<>, Failure> {
        let request = self.request(Method::GET, path, &[], String::new())?;
        let request = self.agent.configure_request(request).timeout_global(None).build();
        let response = self.agent.run(request).map_err(|error| self.unreachable(&error.to_string()))?;
        if !response.status().is_success() || !response.headers().contains_key("x-oncegate-instance") {
            self.read(response)?;
            return Err(self.unreachable("what answers there is not Oncegate"));
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    /// What was to go on has ended.
    pub(super) fn ended(&self) -> Failure {
        self.unreachable("it has ended the connection")
    }

    fn unreachable(&self, why: &str) -> Failure {
        unreachable_at(&self.base, why)
    }

    fn request(&self, method: Method, path: &str, query: &[(&str, &str)], body: String) -> Result<Request<String>, Failure> {
        let pairs: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let mark = if pairs.is_empty() { "" } else { "?" };
        let url = format!("{}{path}{mark}{}", self.base, pairs.join("&"));
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(body).map_err(|error| usage(format!("{url}: {error}")))
    }

    fn ask(&self, method: Method, path: &str, query: &[(&str, &str)], body: String) -> Result<Value, Failure> {
        let request = self.request(method, path, query, body)?;
        let response = self.agent.run(request).map_err(|error| self.unreachable(&error.to_string()))?;
        self.read(response)
    }

    fn read(&self, mut response: Response<Body>) -> Result<Value, Failure> {
        let status = response.status();
        let text = response.body_mut().with_config().limit(ANSWER_MAX).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error.to_string()))?;
        let answer: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if answer.get("instance").is_none() {
            return Err(self.unreachable(&format!("what answers there (status {status}) is not Oncegate")));
        }
        if status.is_success() {
            Ok(answer)
        } else {
            Err(refused(status, &answer))
        }
    }
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, "usage", message)
}

fn unreachable_at(base: &str, why: &str) -> Failure {
    Failure::new(
        Exit::Unavailable,
        "unreachable",
        format!("cannot reach a running proxy at {base}: {why}"),
    )
}

fn refused(status: StatusCode, answer: &Value) -> Failure {
    let text = |name: &str| answer["error"][name].as_str().unwrap_or("unknown").to_owned();
    let exit = match status.as_u16() {
        // The path is of no such proxy: --admin names the wrong one.
        404 if answer["error"]["code"] == "not_found" => Exit::Usage,
        401 | 403 => Exit::Refused,
        404 => Exit::No,
        409 | 422 => Exit::Config,
        400..=499 => Exit::Usage,
        _ => Exit::TryAgain,
    };
    Failure {
        exit,
        code: text("code"),
        message: text("message"),
    }
}

/// Percent-encodes everything but the unreserved characters (RFC 3986, section 2.3).
pub(super) fn encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for octet in value.bytes() {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            encoded.push(char::from(octet));
        } else {
            let _ = write!(encoded, "%{octet:02X}");
        }
    }
    encoded
}
