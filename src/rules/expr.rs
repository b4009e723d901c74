//! Expressions of `key` and `when` over a message.
//!
//! A path such as `customer_id` or `kwargs.order['id']` is taken from the arguments as it is, so that no type is lost. Anything else
//! is minijinja, strict: an undefined name is an error, never an empty text, which would give every call one key.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::value::{Value as Jinja, ValueKind};
use minijinja::{Environment, Expression, UndefinedBehavior};

use super::decision::Facts;
use crate::amqp::table::{FieldValue, Table};
use crate::celery::value::Value;

/// Steps that one evaluation may take.
const FUEL: u64 = 10_000;
/// How deep header tables are shown to expressions.
const HEADER_DEPTH: usize = 8;

/// The names that every expression may use beside the parameters.
pub const NAMES: &[&str] = &[
    "args",
    "kwargs",
    "task",
    "id",
    "headers",
    "queue",
    "exchange",
    "routing_key",
    "vhost",
    "user",
    "priority",
    "eta",
    "retries",
    "origin",
];

/// The language: fixed, and shared by all expressions, which borrow from it.
static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment
});

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(i64),
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expr {
    text: String,
    code: Code,
    names: Vec<String>,
}

#[derive(Debug)]
enum Code {
    /// The name is the first step.
    Path(String, Vec<Step>),
    Jinja(Expression<'static, 'static>),
}

/// Why an expression has no value for a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExprError {
    /// An argument that it names is not there.
    Missing(String),
    /// It failed.
    Failed(String),
}

/// A message as expressions see it.
pub struct Scope<'a> {
    /// The facts beside the arguments.
    pub facts: &'a Facts<'a>,
    /// The positional arguments.
    pub args: &'a Value,
    /// The named arguments.
    pub kwargs: &'a Value,
    /// The arguments by the names of `params`, where there is a signature and the call fits it.
    pub named: &'a [(&'a str, Cow<'a, Value>)],
}

impl Expr {
    /// Compiles an expression.
    pub fn compile(text: &str) -> Result<Expr, String> {
        let text = text.trim().to_owned();
        if let Some((name, steps)) = path(&text) {
            return Ok(Expr {
                code: Code::Path(name.clone(), steps),
                names: vec![name],
                text,
            });
        }
        let code = LANGUAGE
            .compile_expression_owned(text.clone())
            .map_err(|error| error.detail().unwrap_or("no expression").to_owned())?;
        let mut names: Vec<_> = code.undeclared_variables(false).into_iter().collect();
        names.sort_unstable();
        Ok(Expr {
            code: Code::Jinja(code),
            names,
            text,
        })
    }

    /// The names that it uses.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value for a message.
    pub fn value<'a>(&self, scope: &Scope<'a>) -> Result<Cow<'a, Value>, ExprError> {
        match &self.code {
            Code::Path(name, steps) => follow(scope.lookup(name)?, steps).ok_or_else(|| ExprError::Missing(self.text.clone())),
            Code::Jinja(_) => from_jinja(&self.jinja(scope)?).map(Cow::Owned),
        }
    }

    /// Whether it holds for a message.
    pub fn holds(&self, scope: &Scope<'_>) -> Result<bool, ExprError> {
        match &self.code {
            Code::Path(..) => Ok(to_jinja(&*self.value(scope)?).is_true()),
            Code::Jinja(_) => Ok(self.jinja(scope)?.is_true()),
        }
    }

    fn jinja(&self, scope: &Scope<'_>) -> Result<Jinja, ExprError> {
        let Code::Jinja(code) = &self.code else {
            return Err(ExprError::Failed("not compiled".to_owned()));
        };
        let mut context: BTreeMap<&str, Jinja> = BTreeMap::new();
        for name in &self.names {
            let value = if name == "headers" {
                headers(scope.facts.task.headers(), HEADER_DEPTH)
            } else {
                to_jinja(&*scope.lookup(name)?)
            };
            context.insert(name, value);
        }
        let value = code
            .eval(Jinja::from_pairs(context))
            .map_err(|error| ExprError::Failed(error.to_string()))?;
        if value.is_undefined() {
            return Err(ExprError::Missing(self.text.clone()));
        }
        Ok(value)
    }
}

impl<'a> Scope<'a> {
    fn lookup(&self, name: &str) -> Result<Cow<'a, Value>, ExprError> {
        if let Some((_, value)) = self.named.iter().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        let facts = self.facts;
        let task = facts.task;
        let text = |text: &str| Value::Str(text.to_owned());
        let optional = |known: Option<&str>| known.map_or(Value::Null, |known| Value::Str(known.to_owned()));
        let value = match name {
            "args" => return Ok(Cow::Borrowed(self.args)),
            "kwargs" => return Ok(Cow::Borrowed(self.kwargs)),
            "task" => text(&task.name),
            "id" => text(&task.id),
            "queue" => optional(facts.queues.and_then(|queues| queues.first()).map(|queue| &**queue)),
            "exchange" => text(facts.exchange),
            "routing_key" => text(facts.routing_key),
            "vhost" => text(facts.vhost),
            "user" => optional(facts.user),
            "priority" => task.priority.map_or(Value::Null, |priority| Value::Int(i64::from(priority))),
            "eta" => task.eta.map_or(Value::Null, Value::Int),
            "retries" => Value::Int(i64::from(task.retries)),
            "origin" => optional(task.origin.as_deref()),
            "headers" => from_jinja(&headers(task.headers(), HEADER_DEPTH))?,
            _ => return Err(ExprError::Missing(name.to_owned())),
        };
        Ok(Cow::Owned(value))
    }
}

/// Reads a text as a path, if it is one.
fn path(text: &str) -> Option<(String, Vec<Step>)> {
    let end = text
        .find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty()
        || name.starts_with(|first: char| first.is_ascii_digit())
        || matches!(name, "not" | "true" | "false" | "none" | "True" | "False" | "None")
    {
        return None;
    }
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after
                .find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
                .unwrap_or(after.len());
            let (step, after) = after.split_at(end);
            if step.is_empty() || after.starts_with('(') {
                return None;
            }
            steps.push(Step::Name(step.to_owned()));
            rest = after;
        } else {
            let (inside, after) = rest.strip_prefix('[')?.split_once(']')?;
            let inside = inside.trim();
            let quoted = ['\'', '"']
                .into_iter()
                .find_map(|quote| inside.strip_prefix(quote)?.strip_suffix(quote));
            steps.push(match (quoted, inside.parse()) {
                (Some(key), _) if !key.contains(['\\', '\'', '"']) => Step::Name(key.to_owned()),
                (None, Ok(index)) => Step::Index(index),
                _ => return None,
            });
            rest = after;
        }
    }
    Some((name.to_owned(), steps))
}

fn follow<'a>(start: Cow<'a, Value>, steps: &[Step]) -> Option<Cow<'a, Value>> {
    let mut at = start;
    for step in steps {
        at = match at {
            Cow::Borrowed(value) => Cow::Borrowed(child(value, step)?),
            Cow::Owned(value) => Cow::Owned(child(&value, step)?.clone()),
        };
    }
    Some(at)
}

fn child<'v>(value: &'v Value, step: &Step) -> Option<&'v Value> {
    match (value, step) {
        (Value::Map(entries), Step::Name(name)) => entries
            .iter()
            .rev()
            .find(|(key, _)| key.as_str() == Some(name))
            .map(|(_, value)| value),
        (Value::Map(entries), Step::Index(index)) => entries
            .iter()
            .rev()
            .find(|(key, _)| *key == Value::Int(*index))
            .map(|(_, value)| value),
        (Value::List(items) | Value::Tuple(items), Step::Index(index)) => {
            let index = if *index < 0 {
                items.len().checked_sub(index.unsigned_abs() as usize)?
            } else {
                *index as usize
            };
            items.get(index)
        }
        _ => None,
    }
}

/// A value as minijinja sees it. The depth of a value is bounded by whoever decoded it.
fn to_jinja(value: &Value) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(truth) => Jinja::from(*truth),
        Value::Int(number) => Jinja::from(*number),
        Value::BigInt(digits) => digits.parse::<i128>().map_or_else(|_| Jinja::from(digits.as_str()), Jinja::from),
        Value::Float(number) => Jinja::from(*number),
        Value::Str(text) => Jinja::from(text.as_str()),
        Value::Bytes(bytes) => Jinja::from_bytes(bytes.clone()),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => Jinja::from(items.iter().map(to_jinja).collect::<Vec<_>>()),
        Value::Map(entries) => Jinja::from_pairs(entries.iter().map(|(key, value)| (to_jinja(key), to_jinja(value)))),
        Value::Object { class, parts } => Jinja::from_pairs([
            (Jinja::from("class"), Jinja::from(class.as_str())),
            (Jinja::from("parts"), Jinja::from(parts.iter().map(to_jinja).collect::<Vec<_>>())),
        ]),
    }
}

fn from_jinja(value: &Jinja) -> Result<Value, ExprError> {
    let fault = |what: &str| ExprError::Failed(format!("the expression gives {what}, which is no part of a key"));
    let items = |value: &Jinja| -> Result<Vec<Value>, ExprError> {
        value
            .try_iter()
            .map_err(|error| ExprError::Failed(error.to_string()))?
            .map(|item| from_jinja(&item))
            .collect()
    };
    Ok(match value.kind() {
        ValueKind::None => Value::Null,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match value.as_i64() {
            Some(number) => Value::Int(number),
            None => Value::BigInt(value.to_string()),
        },
        ValueKind::Number => Value::Float(f64::try_from(value.clone()).map_err(|_| fault("a number"))?),
        ValueKind::String => Value::Str(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Bytes => Value::Bytes(value.as_bytes().unwrap_or_default().to_vec()),
        ValueKind::Seq | ValueKind::Iterable => Value::List(items(value)?),
        ValueKind::Map => {
            let keys: Vec<_> = value.try_iter().map_err(|error| ExprError::Failed(error.to_string()))?.collect();
            let mut entries = Vec::with_capacity(keys.len());
            for key in keys {
                let item = value.get_item(&key).map_err(|error| ExprError::Failed(error.to_string()))?;
                entries.push((from_jinja(&key)?, from_jinja(&item)?));
            }
            Value::Map(entries)
        }
        ValueKind::Undefined => return Err(fault("nothing")),
        other => return Err(fault(&other.to_string())),
    })
}

/// The header table as a mapping; what is too deep or broken is left out.
fn headers(table: Table<'_>, depth: usize) -> Jinja {
    let entries = table.iter().map_while(Result::ok);
    Jinja::from_pairs(entries.map(|entry| {
        (
            Jinja::from(String::from_utf8_lossy(entry.name).into_owned()),
            field(&entry.value, depth),
        )
    }))
}

fn field(value: &FieldValue<'_>, depth: usize) -> Jinja {
    match value {
        FieldValue::Bool(truth) => Jinja::from(*truth),
        FieldValue::Table(table) if depth > 0 => headers(*table, depth - 1),
        FieldValue::Array(array) if depth > 0 => Jinja::from(
            array
                .iter()
                .map_while(Result::ok)
                .map(|item| field(&item, depth - 1))
                .collect::<Vec<_>>(),
        ),
        FieldValue::F64(number) => Jinja::from(*number),
        other => match (other.as_i64(), other.as_octets()) {
            (Some(number), _) => Jinja::from(number),
            (None, Some(octets)) => Jinja::from(String::from_utf8_lossy(octets).into_owned()),
            (None, None) => Jinja::from(()),
        },
    }
}
