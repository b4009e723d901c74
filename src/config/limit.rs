//! `[[rule.limit]]`.

use serde_json::{Value as Json, json};

use crate::rules::spec::{Key, LimitSpec, OnMaxWait};

use super::check::check_limit;
use super::reader::TableReader;
use super::report::Shown;
use super::rule::{optional_positive, read_key, words};
use super::setting::read_text;
use super::unit::{parse_rate, show_duration};

pub(super) fn read_limits(table: &mut TableReader<'_>) -> Vec<LimitSpec> {
    let reader = table.reader();
    let mut limits = Vec::new();
    let mut shown = Vec::new();
    for (own, at) in table.tables("limit") {
        let mut limit = TableReader::new(reader, "rule.limit", Some(own), Some(at));
        let read = read_limit(&mut limit);
        check_limit(&limit, &read);
        limits.push(read);
        shown.push(limit.finish());
    }
    table.show("limit", shown.into());
    limits
}

pub(super) fn read_limit(table: &mut TableReader<'_>) -> LimitSpec {
    let rate = table.read("rate", Shown::Plain, |node, cx| {
        let text = read_text(node, cx, "a rate", "2/m")?;
        let rate = parse_rate(text);
        if rate.is_none() {
            cx.refuse(
                node,
                "is not a rate",
                "Write a whole number from 1, a slash, and one of s, m, h, d, such as \"2/m\".",
            );
        }
        rate
    });
    table.show(
        "rate",
        rate.map_or(Json::Null, |(times, per)| json!(format!("{times} per {}", show_duration(per)))),
    );
    for key in ["times", "per"] {
        if rate.is_some() && table.has(key) {
            table.refuse(
                key,
                "says again what rate says",
                &format!("Keep rate, or times and per: leave {key} or rate out."),
            );
        }
    }
    let times: Option<u64> = table.optional("times");
    let per = optional_positive(table, "per");
    LimitSpec {
        name: table.optional("name"),
        times: rate.map(|(times, _)| times).or(times),
        per: rate.map(|(_, per)| per).or(per),
        burst: table.optional("burst"),
        concurrent: table.optional("concurrent"),
        key: read_key(table, Key::List(Vec::new())),
        max_wait: optional_positive(table, "max_wait"),
        on_max_wait: table.optional_choice("on_max_wait", &words(OnMaxWait::NAMES, OnMaxWait::from_name)),
        hold_max: optional_positive(table, "hold_max"),
        count_retries: table.get("count_retries", true),
    }
}
