//! What an operator asks about a message that was never sent: which rule takes it, and what its key is.
//!
//! The message is put together as a producer would send it and is read as any other, so the answer is the one that it would get.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::lock::Digest;
use super::spec::Unique;
use super::{Facts, Rule, RuleSet, Step, Verdict};
use crate::amqp::coding::EncodeError;
use crate::amqp::content::Properties;
use crate::amqp::table::{FieldValue, Table, put_entry};
use crate::celery::body::{Body, Canvas};
use crate::celery::value::Value;
use crate::celery::{Limits, Unreadable, json, task};

/// The names that a question in JSON may have.
const NAMES: &str = "task, id, args, kwargs, vhost, user, queue, exchange, routing_key, headers, eta";

/// The id of a message whose id was not given.
pub const NO_ID: &str = "00000000-0000-0000-0000-000000000000";

/// A message, as an operator describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The name of the task.
    pub task: String,
    /// Its id.
    pub id: String,
    /// Positional arguments: a list.
    pub args: Value,
    /// Keyword arguments: a mapping.
    pub kwargs: Value,
    /// The virtual host.
    pub vhost: String,
    /// The user who publishes.
    pub user: Option<String>,
    /// The queue it goes to.
    pub queue: Option<String>,
    /// The exchange; empty for the default exchange.
    pub exchange: String,
    /// The routing key; without one, the queue.
    pub routing_key: Option<String>,
    /// Further headers: text, numbers and truth values.
    pub headers: Vec<(String, Value)>,
    /// The due time, in ISO 8601.
    pub eta: Option<String>,
}

/// Why a question cannot be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// It is not JSON.
    #[error("not JSON: {0}")]
    Json(Unreadable),
    /// A member has a name that is not known.
    #[error("`{0}` is not known here: {NAMES}")]
    Unknown(String),
    /// A member is not what it should be.
    #[error("`{name}` must be {must_be}")]
    Type {
        /// Its name.
        name: String,
        /// What it must be.
        must_be: &'static str,
    },
    /// The message could not be sent: a header is too long.
    #[error("the message could not be sent: {0}")]
    Encode(#[from] EncodeError),
    /// A worker could not read the message.
    #[error("the message could not be read: {0}")]
    Message(Unreadable),
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Explained {
    /// What the rules decide.
    pub verdict: Verdict,
    /// How it came about, rule by rule.
    pub steps: Vec<Step>,
}

impl Question {
    /// A question about this task, called without arguments.
    pub fn new(task: &str) -> Question {
        Question {
            task: task.to_owned(),
            id: NO_ID.to_owned(),
            args: Value::List(Vec::new()),
            kwargs: Value::Map(Vec::new()),
            vhost: "/".to_owned(),
            user: None,
            queue: None,
            exchange: String::new(),
            routing_key: None,
            headers: Vec::new(),
            eta: None,
        }
    }

    /// Reads `{"task", "args", "kwargs", …}`. Values are read as those of a message in JSON.
    pub fn from_json(octets: &[u8]) -> Result<Question, QuestionError> {
        Question::from_members(read_members(octets)?)
    }

    /// The same, of members that [`read_members`] has read.
    pub fn from_members(members: Vec<(Value, Value)>) -> Result<Question, QuestionError> {
        let must_be = |name: &str, must_be| QuestionError::Type {
            name: name.to_owned(),
            must_be,
        };
        let mut question = Question::new("");
        for (name, value) in members {
            let Value::Str(name) = name else { continue };
            let text = |value: Value| match value {
                Value::Str(text) => Ok(Some(text)),
                Value::Null => Ok(None),
                _ => Err(must_be(&name, "text")),
            };
            match name.as_str() {
                "task" => question.task = text(value)?.unwrap_or_default(),
                "id" => question.id = text(value)?.unwrap_or(question.id),
                "vhost" => question.vhost = text(value)?.unwrap_or(question.vhost),
                "user" => question.user = text(value)?,
                "queue" => question.queue = text(value)?,
                "exchange" => question.exchange = text(value)?.unwrap_or_default(),
                "routing_key" => question.routing_key = text(value)?,
                "eta" => question.eta = text(value)?,
                "args" => question.args = none_as(value, Value::List(Vec::new())),
                "kwargs" => question.kwargs = none_as(value, Value::Map(Vec::new())),
                "headers" => question.headers = headers(none_as(value, Value::Map(Vec::new())))?,
                _ => return Err(QuestionError::Unknown(name)),
            }
        }
        if question.task.is_empty() {
            return Err(must_be("task", "the name of a task"));
        }
        Ok(question)
    }

    /// What these rules say of it. `now_ms`: milliseconds since the Unix epoch.
    pub fn explain(&self, rules: &RuleSet, now_ms: u64) -> Result<Explained, QuestionError> {
        let must_be = |name: &str, must_be| QuestionError::Type {
            name: name.to_owned(),
            must_be,
        };
        if !matches!(self.args, Value::List(_)) {
            return Err(must_be("args", "a list"));
        }
        if !matches!(self.kwargs, Value::Map(_)) {
            return Err(must_be("kwargs", "an object"));
        }
        let table = self.table()?;
        let properties = Properties {
            headers: Some(Table::new(&table)),
            correlation_id: Some(self.id.as_bytes()),
            ..Properties::default()
        };
        let task = task::read(&properties).map_err(QuestionError::Message)?;
        let task = task.ok_or_else(|| must_be("task", "the name of a task"))?;
        let body = Body {
            args: self.args.clone(),
            kwargs: self.kwargs.clone(),
            canvas: Canvas::default(),
        };
        let routing_key = self.routing_key.as_deref().or(self.queue.as_deref()).unwrap_or("");
        let queues: Option<Vec<Arc<str>>> = self.goes_to().map(|queue| vec![queue.into()]);
        let facts = Facts {
            task: &task,
            vhost: &self.vhost,
            user: self.user.as_deref(),
            queues: queues.as_deref(),
            exchange: &self.exchange,
            routing_key,
        };
        let (verdict, steps) = rules.explain(&facts, &body, now_ms);
        Ok(Explained { verdict, steps })
    }

    /// The queue that it goes to, as far as that is known: the default exchange routes to the one that the routing key names.
    pub fn goes_to(&self) -> Option<&str> {
        let routing_key = self.routing_key.as_deref().filter(|_| self.exchange.is_empty());
        self.queue.as_deref().or(routing_key)
    }

    /// The headers, as the table of a message has them.
    fn table(&self) -> Result<Vec<u8>, QuestionError> {
        let mut table = Vec::new();
        let own = [("task", Some(&self.task)), ("id", Some(&self.id)), ("eta", self.eta.as_ref())];
        for (name, value) in own {
            if let Some(value) = value {
                put_entry(&mut table, name.as_bytes(), &FieldValue::LongStr(value.as_bytes()))?;
            }
        }
        for (name, value) in &self.headers {
            put_entry(&mut table, name.as_bytes(), &field(name, value)?)?;
        }
        Ok(table)
    }
}

/// Reads a value as it would be read from a message in JSON.
pub fn read_json(octets: &[u8]) -> Result<Value, QuestionError> {
    json::parse(octets, Limits::new(octets.len())).map_err(QuestionError::Json)
}

/// The members of a question, before they are understood.
pub fn read_members(octets: &[u8]) -> Result<Vec<(Value, Value)>, QuestionError> {
    match read_json(octets)? {
        Value::Map(members) => Ok(members),
        _ => Err(QuestionError::Type {
            name: "the question".to_owned(),
            must_be: "an object",
        }),
    }
}

fn none_as(value: Value, default: Value) -> Value {
    if value == Value::Null { default } else { value }
}

fn headers(value: Value) -> Result<Vec<(String, Value)>, QuestionError> {
    let Value::Map(entries) = value else {
        return Err(QuestionError::Type {
            name: "headers".to_owned(),
            must_be: "an object",
        });
    };
    let text = |(name, value)| match name {
        Value::Str(name) => Some((name, value)),
        _ => None,
    };
    Ok(entries.into_iter().filter_map(text).collect())
}

fn field<'a>(name: &str, value: &'a Value) -> Result<FieldValue<'a>, QuestionError> {
    match value {
        Value::Null => Ok(FieldValue::Void),
        Value::Bool(truth) => Ok(FieldValue::Bool(*truth)),
        Value::Int(number) => Ok(FieldValue::I64(*number)),
        Value::Float(number) => Ok(FieldValue::F64(*number)),
        Value::Str(text) => Ok(FieldValue::LongStr(text.as_bytes())),
        _ => Err(QuestionError::Type {
            name: format!("headers.{name}"),
            must_be: "text, a number or a truth value",
        }),
    }
}

impl Explained {
    /// The rule that decides, if one does.
    pub fn rule(&self) -> Option<&Arc<Rule>> {
        match &self.verdict {
            Verdict::Unmatched { .. } => None,
            Verdict::Keyless { rule }
            | Verdict::Bypassed { rule, .. }
            | Verdict::WhenError { rule, .. }
            | Verdict::Unkeyable { rule, .. } => Some(rule),
            Verdict::Claim(claimed) => Some(&claimed.rule),
        }
    }

    /// The key, if it has one.
    pub fn digest(&self) -> Option<Digest> {
        match &self.verdict {
            Verdict::Claim(claimed) => Some(claimed.digest),
            _ => None,
        }
    }

    /// In one word.
    pub fn decision(&self) -> &'static str {
        match &self.verdict {
            Verdict::Unmatched { .. } => "unmatched",
            Verdict::Keyless { .. } => "keyless",
            Verdict::Bypassed { .. } => "bypassed",
            Verdict::WhenError { .. } => "when_error",
            Verdict::Unkeyable { .. } => "unkeyable",
            Verdict::Claim(_) => "claim",
        }
    }

    /// Why it is so, and what exactly was wrong, where something was.
    fn reason(&self) -> (Option<&'static str>, Option<&str>) {
        match &self.verdict {
            Verdict::Unmatched { queue_unknown: Some(_) } => (Some("queue_unknown"), None),
            Verdict::Unmatched { queue_unknown: None } | Verdict::Keyless { .. } | Verdict::Claim(_) => (None, None),
            Verdict::Bypassed { reason, .. } => (Some(reason.as_str()), None),
            Verdict::WhenError { detail, .. } => (None, Some(detail)),
            Verdict::Unkeyable { reason, detail, .. } => (Some(reason.as_str()), Some(detail)),
        }
    }

    /// The fields of the answer.
    pub fn to_json(&self) -> Json {
        let (reason, detail) = self.reason();
        let mut answer = Map::new();
        let mut put = |name: &str, value: Json| {
            answer.insert(name.to_owned(), value);
        };
        put("decision", self.decision().into());
        put("rule", self.rule().map(|rule| &*rule.name).into());
        put("mode", self.rule().map(|rule| rule.mode.as_str()).into());
        put("reason", reason.into());
        put("detail", detail.into());
        put("digest", self.digest().map(Digest::to_hex).into());
        if let Verdict::Claim(claimed) = &self.verdict {
            put("unique", claimed.rule.unique.map(Unique::as_str).into());
            put("summary", (*claimed.summary).into());
            put("life_seconds", (claimed.life_ms as f64 / 1000.0).into());
        }
        let steps: Vec<Json> = self
            .steps
            .iter()
            .map(|step| json!({ "rule": &*step.rule, "outcome": step.outcome }))
            .collect();
        put("steps", steps.into());
        Json::Object(answer)
    }

    /// The same for people: a line for each rule that was looked at, and one for what follows.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let _ = writeln!(text, "rule {}: {}", step.rule, step.outcome);
        }
        let (reason, detail) = self.reason();
        let why: Vec<&str> = reason.into_iter().chain(detail).collect();
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(" ({})", why.join(": "))
        };
        let _ = match &self.verdict {
            Verdict::Unmatched { .. } => writeln!(text, "no rule decides{why}: it is forwarded"),
            Verdict::Keyless { .. } => writeln!(text, "it needs no key: it is forwarded, as the rule's other keys say"),
            Verdict::Bypassed { .. } => writeln!(text, "bypassed{why}: it is forwarded"),
            Verdict::WhenError { .. } => writeln!(text, "the rule's `when` fails{why}: it is forwarded"),
            Verdict::Unkeyable { .. } => writeln!(text, "it has no key{why}: it is forwarded"),
            Verdict::Claim(claimed) => writeln!(
                text,
                "it claims {} {} for {} s at most ({})",
                claimed.digest,
                claimed.rule.unique.map_or("nothing", Unique::as_str),
                claimed.life_ms.div_ceil(1000),
                if claimed.summary.is_empty() {
                    "no summary"
                } else {
                    &claimed.summary
                },
            ),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Key, RuleSpec, Unique};
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn rules() -> RuleSet {
        let rule = |name: &str, task: &str| RuleSpec {
            name: Some(name.to_owned()),
            task: vec![task.to_owned()],
            unique: Some(Unique::UntilFinished),
            ..RuleSpec::default()
        };
        let specs = vec![
            RuleSpec {
                params: Some("customer, day=None".to_owned()),
                key: Key::List(vec!["customer".to_owned()]),
                ..rule("reports", "reports.*")
            },
            RuleSpec {
                queue: vec!["mail".to_owned()],
                ..rule("mail", "mail.*")
            },
            RuleSpec {
                bypass: true,
                unique: None,
                ..rule("free", "free.*")
            },
        ];
        RuleSet::compile(specs, &[]).expect("right rules")
    }

    fn ask(json: &str) -> Explained {
        Question::from_json(json.as_bytes())
            .and_then(|question| question.explain(&rules(), NOW))
            .expect("an answer")
    }

    #[test]
    fn the_same_call_has_the_same_key_however_it_is_written() {
        let plain = ask(r#"{"task": "reports.build", "args": [7]}"#);
        assert_eq!(plain.decision(), "claim");
        let named = ask(r#"{"task": "reports.build", "kwargs": {"customer": 7, "day": "monday"}, "eta": null, "headers": {"x": 1}}"#);
        assert_eq!(plain.digest(), named.digest());
        let other = ask(r#"{"task": "reports.build", "args": [7.0]}"#);
        assert_ne!(plain.digest(), other.digest());
        let vhost = ask(r#"{"task": "reports.build", "args": [7], "vhost": "b"}"#);
        assert_ne!(plain.digest(), vhost.digest());
    }

    #[test]
    fn an_integer_of_any_length_keeps_its_digits() {
        let digest = |number: &str| ask(&format!(r#"{{"task": "reports.build", "args": [{number}]}}"#)).digest();
        assert_ne!(digest("123456789012345678901234567890"), digest("123456789012345678901234567891"));
    }

    #[test]
    fn an_eta_makes_the_life_longer() {
        let answer = ask(r#"{"task": "reports.build", "args": [7], "eta": "2027-01-15T08:01:40+00:00"}"#).to_json();
        assert_eq!(answer["life_seconds"], 24.0 * 3600.0 + 100.0);
    }

    #[test]
    fn every_outcome_says_why() {
        let unmatched = ask(r#"{"task": "other"}"#);
        assert_eq!((unmatched.decision(), unmatched.steps.len()), ("unmatched", 3));
        assert!(unmatched.to_text().ends_with("no rule decides: it is forwarded\n"));
        let bypassed = ask(r#"{"task": "free.x"}"#).to_json();
        assert_eq!(
            (&bypassed["decision"], &bypassed["reason"], &bypassed["rule"]),
            (&json!("bypassed"), &json!("rule"), &json!("free"))
        );
        let member = ask(r#"{"task": "reports.build", "args": [7], "headers": {"group": "g"}}"#).to_json();
        assert_eq!((&member["decision"], &member["reason"]), (&json!("bypassed"), &json!("canvas")));
        let unkeyable = ask(r#"{"task": "reports.build"}"#).to_json();
        assert_eq!(
            (&unkeyable["decision"], &unkeyable["reason"]),
            (&json!("unkeyable"), &json!("missing_argument"))
        );
        assert!(
            unkeyable["detail"].as_str().is_some_and(|detail| detail.contains("customer")),
            "{unkeyable}"
        );
    }

    #[test]
    fn the_queue_is_the_routing_key_on_the_default_exchange_alone() {
        assert_eq!(ask(r#"{"task": "mail.send", "routing_key": "mail"}"#).decision(), "claim");
        assert_eq!(
            ask(r#"{"task": "mail.send", "queue": "mail", "exchange": "x"}"#).decision(),
            "claim"
        );
        assert_eq!(ask(r#"{"task": "mail.send", "queue": "celery"}"#).decision(), "unmatched");
        let unknown = ask(r#"{"task": "mail.send", "routing_key": "mail", "exchange": "x"}"#).to_json();
        assert_eq!(
            (&unknown["decision"], &unknown["reason"]),
            (&json!("unmatched"), &json!("queue_unknown"))
        );
    }

    #[test]
    fn where_it_goes_is_the_queue_or_what_the_default_exchange_makes_of_the_key() {
        let goes_to = |json: &str| {
            let question = Question::from_json(json.as_bytes()).expect("a question");
            question.goes_to().map(str::to_owned)
        };
        assert_eq!(goes_to(r#"{"task": "t"}"#), None);
        assert_eq!(goes_to(r#"{"task": "t", "queue": "q", "routing_key": "k"}"#).as_deref(), Some("q"));
        assert_eq!(goes_to(r#"{"task": "t", "routing_key": "k"}"#).as_deref(), Some("k"));
        assert_eq!(goes_to(r#"{"task": "t", "routing_key": "k", "exchange": "x"}"#), None);
    }

    #[test]
    fn a_wrong_question_is_told_what_is_wrong() {
        let refused = |json: &str| {
            let answer = Question::from_json(json.as_bytes()).and_then(|question| question.explain(&rules(), NOW));
            answer.expect_err("refused").to_string()
        };
        assert!(refused("{").starts_with("not JSON"));
        assert_eq!(refused("[]"), "`the question` must be an object");
        assert_eq!(refused("{}"), "`task` must be the name of a task");
        assert_eq!(refused(r#"{"task": 3}"#), "`task` must be text");
        assert!(refused(r#"{"task": "t", "arg": []}"#).starts_with("`arg` is not known here"));
        assert_eq!(refused(r#"{"task": "t", "args": {}}"#), "`args` must be a list");
        assert_eq!(refused(r#"{"task": "t", "kwargs": []}"#), "`kwargs` must be an object");
        assert_eq!(
            refused(r#"{"task": "t", "headers": {"x": []}}"#),
            "`headers.x` must be text, a number or a truth value"
        );
        assert!(refused(r#"{"task": "t", "eta": "tomorrow"}"#).starts_with("the message could not be read"));
    }
}
