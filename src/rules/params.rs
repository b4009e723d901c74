//! Python signatures: the text of `params`, and the binding of a call's arguments to its names.

mod literal;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::celery::value::Value;

/// What kind of parameter it is, as `inspect.Parameter.kind` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    PositionalOnly,
    Either,
    VarPositional,
    KeywordOnly,
    VarKeyword,
}

#[derive(Debug, Clone, PartialEq)]
struct Parameter {
    name: String,
    kind: Kind,
    default: Option<Value>,
}

/// A signature.
#[derive(Debug, Clone, PartialEq)]
pub struct Params(Vec<Parameter>);

/// What is wrong with a signature's text, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamsError {
    /// The octet at which it was found.
    pub offset: usize,
    /// What.
    pub message: String,
}

/// A call that Python would refuse with `TypeError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// A parameter without a default has no argument.
    #[error("missing a required argument: '{0}'")]
    Missing(String),
    /// More positional arguments than parameters.
    #[error("too many positional arguments")]
    TooMany,
    /// A parameter has two arguments.
    #[error("multiple values for argument '{0}'")]
    Twice(String),
    /// A keyword argument fits no parameter.
    #[error("got an unexpected keyword argument '{0}'")]
    Unexpected(String),
}

impl Params {
    /// Reads a signature as in Python, with or without the parentheses, without `self`.
    pub fn parse(text: &str) -> Result<Params, ParamsError> {
        let text = match text.trim().strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
            // Blanks keep the offsets.
            Some(inner) => Cow::Owned(" ".repeat(text.find('(').unwrap_or(0) + 1) + inner),
            None => Cow::Borrowed(text),
        };
        let mut reader = Reader::default();
        let pieces = split(&text, ',')?;
        let last = pieces.len() - 1;
        for (position, (offset, piece)) in pieces.into_iter().enumerate() {
            let trimmed = piece.trim();
            let offset = offset + (piece.len() - piece.trim_start().len());
            let ends = position == last && (last == 0 || !reader.params.is_empty());
            match trimmed {
                "" if ends => Ok(()),
                "" => Err("a parameter is missing before the comma".to_owned()),
                piece => reader.read(piece),
            }
            .map_err(|message| ParamsError { offset, message })?;
        }
        if reader.bare_star {
            return Err(ParamsError {
                offset: text.len(),
                message: NOTHING_NAMED.to_owned(),
            });
        }
        Ok(Params(reader.params))
    }

    /// Whether there is a parameter of that name.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|parameter| parameter.name.as_str())
    }

    /// Binds a call as Python does, defaults applied: one value per parameter, in order.
    pub fn bind<'v>(&'v self, args: &'v [Value], kwargs: &'v [(Value, Value)]) -> Result<Vec<Cow<'v, Value>>, BindError> {
        let keyword = |name: &str| {
            kwargs
                .iter()
                .rev()
                .find(|(key, _)| key.as_str() == Some(name))
                .map(|(_, value)| value)
        };
        let mut positional = args.iter();
        let mut bound = Vec::with_capacity(self.0.len());
        for parameter in &self.0 {
            let name = parameter.name.as_str();
            let value = match parameter.kind {
                Kind::VarPositional => Cow::Owned(Value::List(positional.by_ref().cloned().collect())),
                Kind::VarKeyword => Cow::Owned(Value::Map(self.unnamed(kwargs).cloned().collect())),
                Kind::PositionalOnly => given(positional.next(), parameter)?,
                Kind::KeywordOnly => given(keyword(name), parameter)?,
                Kind::Either => match (positional.next(), keyword(name)) {
                    (Some(_), Some(_)) => return Err(BindError::Twice(name.to_owned())),
                    (value, other) => given(value.or(other), parameter)?,
                },
            };
            bound.push(value);
        }
        if positional.next().is_some() {
            return Err(BindError::TooMany);
        }
        if !self.0.iter().any(|parameter| parameter.kind == Kind::VarKeyword)
            && let Some((key, _)) = self.unnamed(kwargs).next()
        {
            return Err(BindError::Unexpected(key.as_str().unwrap_or("?").to_owned()));
        }
        Ok(bound)
    }

    /// The keyword arguments that no parameter takes by name.
    fn unnamed<'v>(&self, kwargs: &'v [(Value, Value)]) -> impl Iterator<Item = &'v (Value, Value)> {
        kwargs.iter().filter(|(key, _)| {
            let takes = |parameter: &&Parameter| matches!(parameter.kind, Kind::Either | Kind::KeywordOnly);
            !self.0.iter().filter(takes).any(|parameter| key.as_str() == Some(&parameter.name))
        })
    }
}

const NOTHING_NAMED: &str = "`*` must be followed by a named parameter";

/// What was read of a signature so far.
#[derive(Default)]
struct Reader {
    params: Vec<Parameter>,
    /// `*` or `*name` was read.
    star: bool,
    /// `*` was read, and no parameter after it.
    bare_star: bool,
}

impl Reader {
    fn read(&mut self, piece: &str) -> Result<(), String> {
        if self.params.last().is_some_and(|last| last.kind == Kind::VarKeyword) {
            return Err("nothing may follow the `**` parameter".to_owned());
        }
        match piece {
            "/" => self.slash(),
            "*" if self.star => Err("`*` may stand only once".to_owned()),
            "*" => {
                self.star = true;
                self.bare_star = true;
                Ok(())
            }
            piece => self.parameter(piece),
        }
    }

    fn slash(&mut self) -> Result<(), String> {
        if self.star || self.params.is_empty() || self.params.iter().any(|known| known.kind != Kind::Either) {
            return Err("`/` must follow the positional parameters".to_owned());
        }
        for known in &mut self.params {
            known.kind = Kind::PositionalOnly;
        }
        Ok(())
    }

    fn parameter(&mut self, piece: &str) -> Result<(), String> {
        let kind = if self.star { Kind::KeywordOnly } else { Kind::Either };
        let parameter = parameter(piece, kind)?;
        let name = &parameter.name;
        if self.params.iter().any(|known| known.name == *name) {
            return Err(format!("`{name}` stands twice"));
        }
        if name == "self" && self.params.is_empty() {
            return Err("`self` is no argument of a message: leave it out".to_owned());
        }
        let optional = |known: &Parameter| known.default.is_some() && known.kind != Kind::KeywordOnly;
        match parameter.kind {
            Kind::Either if parameter.default.is_none() && self.params.iter().any(optional) => {
                return Err(format!("`{name}` has no default and follows a parameter that has one"));
            }
            Kind::VarPositional if self.star => return Err("`*` may stand only once".to_owned()),
            Kind::VarPositional => self.star = true,
            Kind::VarKeyword if self.bare_star => return Err(NOTHING_NAMED.to_owned()),
            _ => self.bare_star = false,
        }
        self.params.push(parameter);
        Ok(())
    }
}

fn given<'v>(value: Option<&'v Value>, parameter: &'v Parameter) -> Result<Cow<'v, Value>, BindError> {
    value
        .or(parameter.default.as_ref())
        .map(Cow::Borrowed)
        .ok_or_else(|| BindError::Missing(parameter.name.clone()))
}

fn parameter(text: &str, kind: Kind) -> Result<Parameter, String> {
    let (kind, text) = if let Some(rest) = text.strip_prefix("**") {
        (Kind::VarKeyword, rest)
    } else if let Some(rest) = text.strip_prefix('*') {
        (Kind::VarPositional, rest)
    } else {
        (kind, text)
    };
    let (declared, default) = match top_level(text, '=') {
        Some(at) => (text.get(..at).unwrap_or_default(), text.get(at + 1..).map(str::trim)),
        None => (text, None),
    };
    let name = declared.split(':').next().unwrap_or_default().trim();
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(|first| first.is_alphabetic() || first == '_');
    if !starts
        || !letters.all(|letter| letter.is_alphanumeric() || letter == '_')
        || KEYWORDS.contains(&name)
        || declared.trim_end().ends_with(':')
    {
        return Err(format!(
            "`{text}` is no parameter: write a signature as in Python, such as `customer_id, region='eu', *, force=False`"
        ));
    }
    if default == Some("") {
        return Err(format!("`{name}` has an empty default"));
    }
    if default.is_some() && matches!(kind, Kind::VarPositional | Kind::VarKeyword) {
        return Err(format!("`{name}` takes what is left and has no default"));
    }
    // The comma between a lambda's own parameters looks like the end of the default.
    let is_word = |letter: char| letter == '_' || letter.is_alphanumeric();
    if default.is_some_and(|text| literal::read(text).is_none() && text.split(|letter| !is_word(letter)).any(|word| word == "lambda")) {
        return Err(format!(
            "`{name}` has a lambda as its default: write a name for it, such as `DEFAULT`"
        ));
    }
    Ok(Parameter {
        name: name.to_owned(),
        kind,
        default: default.map(literal),
    })
}

/// Where a character first stands outside of brackets and quotes.
fn top_level(text: &str, wanted: char) -> Option<usize> {
    scan(text)
        .ok()?
        .into_iter()
        .find(|(_, letter, depth)| *depth == 0 && *letter == wanted)
        .map(|(at, _, _)| at)
}

/// The pieces of a text between a character that stands outside of brackets and quotes, with their offsets.
fn split(text: &str, at: char) -> Result<Vec<(usize, &str)>, ParamsError> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (offset, letter, depth) in scan(text)? {
        if depth == 0 && letter == at {
            pieces.push((start, text.get(start..offset).unwrap_or_default()));
            start = offset + letter.len_utf8();
        }
    }
    pieces.push((start, text.get(start..).unwrap_or_default()));
    Ok(pieces)
}

/// The characters outside of quotes, with their offset and the number of brackets that they stand in.
fn scan(text: &str) -> Result<Vec<(usize, char, usize)>, ParamsError> {
    let mut found = Vec::new();
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut quote: Option<(usize, &str)> = None;
    let mut escaped = false;
    let mut next = 0;
    for (at, letter) in text.char_indices() {
        // The rest of a triple quote.
        if at < next {
            continue;
        }
        let rest = text.get(at..).unwrap_or_default();
        if let Some((_, end)) = quote {
            if escaped {
                escaped = false;
            } else if letter == '\\' {
                escaped = true;
            } else if rest.starts_with(end) {
                quote = None;
                next = at + end.len();
            }
            continue;
        }
        if let Some(start) = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|start| rest.starts_with(start)) {
            quote = Some((at, start));
            next = at + start.len();
            continue;
        }
        match letter {
            '(' => open.push((at, ')')),
            '[' => open.push((at, ']')),
            '{' => open.push((at, '}')),
            ')' | ']' | '}' => {
                if open.pop().map(|(_, close)| close) != Some(letter) {
                    return Err(ParamsError {
                        offset: at,
                        message: format!("`{letter}` closes nothing"),
                    });
                }
            }
            _ => found.push((at, letter, open.len())),
        }
    }
    let unclosed = quote.map(|(offset, end)| (offset, end.to_owned()));
    match unclosed.or_else(|| open.pop().map(|(offset, close)| (offset, close.to_string()))) {
        Some((offset, end)) => Err(ParamsError {
            offset,
            message: format!("nothing closes this: `{end}` is missing"),
        }),
        None => Ok(found),
    }
}

/// A default as a value. What is no literal is opaque, and equal to itself only.
fn literal(text: &str) -> Value {
    literal::read(text).unwrap_or_else(|| Value::Object {
        class: "oncegate.default".to_owned(),
        parts: vec![Value::Str(text.to_owned())],
    })
}

/// Words that name no parameter in Python.
const KEYWORDS: &[&str] = &[
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else", "except",
    "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try",
    "while", "with", "yield",
];
