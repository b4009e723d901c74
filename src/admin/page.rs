//! The page: status, rules, limits and locks, read through the API by the browser. It needs nothing from elsewhere.

use axum::http::header;
use axum::response::{Html, IntoResponse};

use super::Answered;

const PAGE: &str = include_str!("page.html");
/// Nothing is loaded from elsewhere and nobody may frame the page; its own script and style are inline.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(super) async fn page() -> Answered {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(PAGE)).into_response()
}
