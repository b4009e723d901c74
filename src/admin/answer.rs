//! The form of every answer: JSON that names `instance` and `scope`, errors as `{"error": {"code", "message"}}`.

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::access::Refusal;
use crate::store::Unavailable;

/// How far what an answer says or does reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// All proxies that share the store.
    Fleet,
    /// This process.
    Instance,
}

impl Reach {
    /// The value of `scope`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reach::Fleet => "fleet",
            Reach::Instance => "instance",
        }
    }
}

/// What an operator asked cannot be answered as he wishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            status,
            code,
            message: message.into(),
        }
    }

    pub(super) fn bad(code: &'static str, message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, code, message)
    }

    /// The answer of this proxy, whose name is `instance`.
    pub(super) fn into_response(self, instance: &str) -> Response {
        let fields = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = respond(self.status, instance, Reach::Instance, fields);
        if self.status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"oncegate\""));
            headers.append(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"oncegate: any name, the token as password\""),
            );
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let forbidden = |code, message: &str| Problem::new(StatusCode::FORBIDDEN, code, message);
        match refusal {
            Refusal::Host => forbidden("host_refused", "the Host header is neither the listen address nor in admin.hosts"),
            Refusal::Origin => forbidden("origin_refused", "the Origin header names another site"),
            Refusal::ContentType => Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "json_required",
                "every method but GET needs the header Content-Type: application/json",
            ),
            Refusal::Token => Problem::new(
                StatusCode::UNAUTHORIZED,
                "token_required",
                "Authorization: Bearer TOKEN is missing or wrong",
            ),
            Refusal::Role => forbidden("role_refused", "this needs a token with role = \"operate\""),
        }
    }
}

impl From<Unavailable> for Problem {
    fn from(why: Unavailable) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", why.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::bad("bad_query", rejection.body_text())
    }
}

/// An answer with these fields, which must be an object.
pub(super) fn respond(status: StatusCode, instance: &str, reach: Reach, fields: Value) -> Response {
    let mut answer = match fields {
        Value::Object(fields) => fields,
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    answer.insert("instance".to_owned(), instance.into());
    answer.insert("scope".to_owned(), reach.as_str().into());
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, Value::Object(answer).to_string()).into_response()
}
