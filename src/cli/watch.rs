//! `watch`: what a running proxy decides, as it decides it.

use std::fmt::Write;
use std::io::BufRead;

use serde_json::Value;

use super::args::ProxyArgs;
use super::http::Proxy;
use super::output::{Exit, Failure, Output};
use super::process::plain;

/// Prints decisions until the proxy ends.
pub(super) fn watch(args: &ProxyArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let proxy = Proxy::new(args)?;
    let events = proxy.stream("/api/v1/decisions/stream")?;
    show(events, output);
    Err(proxy.ended())
}

/// Server-sent events: lines of `name: value`, and an empty line after each event. Only their data is of interest: it says what it is.
fn show(events: impl BufRead, output: &mut Output<'_>) {
    for line in events.lines().map_while(Result::ok) {
        let Some(data) = line.strip_prefix("data:") else { continue };
        let Ok(told) = serde_json::from_str::<Value>(data.trim_start()) else {
            continue;
        };
        output.answer(&told, text);
    }
}

fn text(told: &Value) -> String {
    if told.get("missed").is_some() {
        return format!(
            "{} decisions were missed: they came faster than they were read\n",
            plain(&told["missed"])
        );
    }
    let mut text = format!("{} {:<8} {}", plain(&told["ts"]), plain(&told["event"]), plain(&told["decision"]));
    for name in ["rule", "task", "id", "holder", "reason", "limit", "mode", "vhost", "client"] {
        if told.get(name).is_some() {
            let _ = write!(text, " {name}={}", plain(&told[name]));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "event: decision\ndata: {\"ts\":\"2026-01-01T00:00:00.000Z\",\"event\":\"publish\",\"decision\":\"dropped\",\
        \"rule\":\"r\",\"task\":\"t\\u001b[2J\",\"id\":\"b\",\"holder\":\"a\",\"instance\":\"p\"}\n\n:\n\nevent: missed\ndata: {\"missed\":3}\n\ndata: half";

    fn shown(json: bool) -> String {
        let (mut input, mut out, mut err) = (&b""[..], Vec::new(), Vec::new());
        let mut output = Output::new(&mut input, &mut out, &mut err);
        output.set_json(json);
        show(EVENTS.as_bytes(), &mut output);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn each_decision_is_a_line_and_controls_do_not_reach_the_terminal() {
        assert_eq!(
            shown(false),
            "2026-01-01T00:00:00.000Z publish  dropped rule=r task=t\\u001b[2J id=b holder=a\n\
             3 decisions were missed: they came faster than they were read\n"
        );
    }

    #[test]
    fn json_is_passed_on() {
        let lines = shown(true);
        let values: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(values.len(), 2);
        assert_eq!(values[0]["holder"], "a");
        assert_eq!(values[1]["missed"], 3);
    }
}
