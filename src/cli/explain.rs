//! `explain`: what the rules of a configuration say of a message, without a proxy.

use std::time::{SystemTime, UNIX_EPOCH};

use super::args::ExplainArgs;
use super::output::{Exit, Failure, Output};
use crate::celery::value::Value;
use crate::config::{self, Flags};
use crate::logging::printable;
use crate::rules::question::{Question, QuestionError, read_json};

pub(super) fn explain(args: &ExplainArgs, output: &mut Output<'_>) -> Result<Exit, Failure> {
    let question = question(args).map_err(|error| usage(&error))?;
    let config = config::load(args.config.as_deref(), &config::environment(), &Flags::default());
    let config = config.map_err(|errors| Failure::new(Exit::Config, "config", errors.to_string()))?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let explained = question.explain(&config.rules, now_ms).map_err(|error| usage(&error))?;
    output.answer(&explained.to_json(), |_| {
        let lines: Vec<String> = explained.to_text().lines().map(printable).collect();
        lines.join("\n") + "\n"
    });
    Ok(if explained.rule().is_some() { Exit::Done } else { Exit::No })
}

fn question(args: &ExplainArgs) -> Result<Question, QuestionError> {
    let json = |text: &Option<String>, default: Value| text.as_deref().map_or(Ok(default), |text| read_json(text.as_bytes()));
    let mut question = Question {
        args: json(&args.args, Value::List(Vec::new()))?,
        kwargs: json(&args.kwargs, Value::Map(Vec::new()))?,
        queue: args.queue.clone(),
        exchange: args.exchange.clone().unwrap_or_default(),
        routing_key: args.routing_key.clone(),
        eta: args.eta.clone(),
        ..Question::new(&args.task)
    };
    if let Some(vhost) = &args.vhost {
        question.vhost.clone_from(vhost);
    }
    question.headers = args
        .header
        .iter()
        .map(|(name, value)| (name.clone(), Value::Str(value.clone())))
        .collect();
    Ok(question)
}

fn usage(error: &QuestionError) -> Failure {
    Failure::new(Exit::Usage, "usage", error.to_string())
}
