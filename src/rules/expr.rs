//! Expressions of `key` and `when` over a message.
//!
//! A path such as `customer_id` or `kwargs.order['id']` is taken from the arguments as it is, so that no type is lost. Anything else
//! is minijinja, strict: an undefined name is an error, never an empty text, which would give every call one key.

mod convert;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use minijinja::value::Value as Jinja;
use minijinja::{Environment, ErrorKind, Expression, UndefinedBehavior};

use super::SignaturesOf;
use super::decision::Facts;
use crate::celery::value::Value;
use convert::{from_jinja, to_jinja};

/// Steps that one evaluation may take.
const FUEL: u64 = 10_000;

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

fn language(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment
}

/// The language: fixed, and shared by all expressions, which borrow from it.
static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(|| language(UndefinedBehavior::Strict));
/// The same, but every name may be missing: a trial without a message meets the filters and tests that an expression uses.
static TRIAL: LazyLock<Environment<'static>> = LazyLock::new(|| language(UndefinedBehavior::Chainable));

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
    pub(super) named: &'a [(&'a str, Cow<'a, Value>)],
    /// What the rule takes for arguments, whatever the call.
    pub(super) signatures: &'a SignaturesOf,
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
        let trial = TRIAL.compile_expression_owned(text.clone()).and_then(|trial| trial.eval(()));
        if let Err(error) = trial
            && matches!(error.kind(), ErrorKind::UnknownFilter | ErrorKind::UnknownTest)
        {
            return Err(error.to_string());
        }
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
            Code::Path(name, steps) => scope.follow(name, steps, &self.text),
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
            match scope.lookup(name) {
                Ok(value) => context.insert(name, to_jinja(&value)),
                Err(missing @ ExprError::Missing(_)) => return Err(missing),
                // The name stays undefined: it is an error where it is used, but an expression may ask whether it is defined.
                Err(ExprError::Failed(_)) => continue,
            };
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
    /// The positional arguments as a list: they are one sequence, whether they came as a list or as a tuple.
    pub(super) fn sequence(&self) -> Cow<'a, Value> {
        match self.args {
            Value::Tuple(items) => Cow::Owned(Value::List(items.clone())),
            other => Cow::Borrowed(other),
        }
    }

    fn follow(&self, name: &str, steps: &[Step], text: &str) -> Result<Cow<'a, Value>, ExprError> {
        let argument = self.signatures.has(name);
        match steps {
            [Step::Name(header)] if name == "headers" && !argument => {
                let found = self.facts.task.header(header).map(|value| Cow::Owned(convert::field(&value)));
                found.ok_or_else(|| ExprError::Failed(format!("`{text}` is not among the headers")))
            }
            [] => self.lookup(name),
            _ if name == "args" && !argument => follow(Cow::Borrowed(self.args), steps).ok_or_else(|| ExprError::Missing(text.to_owned())),
            _ => follow(self.lookup(name)?, steps).ok_or_else(|| ExprError::Missing(text.to_owned())),
        }
    }

    fn lookup(&self, name: &str) -> Result<Cow<'a, Value>, ExprError> {
        if let Some((_, value)) = self.named.iter().find(|(known, _)| *known == name) {
            return Ok(value.clone());
        }
        // A fact of the same name is the same for many calls: it must not stand in for an argument.
        if self.signatures.has(name) {
            return Err(ExprError::Missing(name.to_owned()));
        }
        let unknown = || ExprError::Failed(format!("`{name}` is not known of this message"));
        let facts = self.facts;
        let task = facts.task;
        let text = |text: &str| Value::Str(text.to_owned());
        let optional = |known: Option<&str>| known.map_or(Value::Null, |known| Value::Str(known.to_owned()));
        let value = match name {
            "args" => return Ok(self.sequence()),
            "kwargs" => return Ok(Cow::Borrowed(self.kwargs)),
            "task" => text(&task.name),
            "id" => text(&task.id),
            "queue" => match facts.queues {
                Some([queue]) => text(queue),
                _ => return Err(unknown()),
            },
            "exchange" => text(facts.exchange),
            "routing_key" => text(facts.routing_key),
            "vhost" => text(facts.vhost),
            "user" => text(facts.user.ok_or_else(unknown)?),
            "priority" => task.priority.map_or(Value::Null, |priority| Value::Int(i64::from(priority))),
            "eta" => task.eta.map_or(Value::Null, Value::Int),
            "retries" => Value::Int(i64::from(task.retries)),
            "origin" => optional(task.origin.as_deref()),
            "headers" => convert::table(task.headers()),
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
