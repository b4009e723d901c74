//! Python signatures: the text of `params`, and the binding of a call's arguments to its names.

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
        let mut params: Vec<Parameter> = Vec::new();
        let mut kind = Kind::Either;
        for (offset, piece) in split(text, ',')? {
            let trimmed = piece.trim();
            let offset = offset + (piece.len() - piece.trim_start().len());
            let fault = |message: String| ParamsError { offset, message };
            match trimmed {
                "" => continue,
                "/" => {
                    if params.is_empty() || params.iter().any(|parameter| parameter.kind != Kind::Either) {
                        return Err(fault("`/` must follow the positional parameters".to_owned()));
                    }
                    for parameter in &mut params {
                        parameter.kind = Kind::PositionalOnly;
                    }
                    continue;
                }
                "*" => {
                    kind = Kind::KeywordOnly;
                    continue;
                }
                _ => {}
            }
            let parameter = parameter(trimmed, kind).map_err(fault)?;
            if params.iter().any(|known| known.name == parameter.name) {
                return Err(fault(format!("`{}` stands twice", parameter.name)));
            }
            if parameter.kind == Kind::Either
                && parameter.default.is_none()
                && params
                    .iter()
                    .any(|known| known.default.is_some() && known.kind != Kind::KeywordOnly)
            {
                return Err(fault(format!(
                    "`{}` has no default and follows a parameter that has one",
                    parameter.name
                )));
            }
            if parameter.kind == Kind::VarPositional {
                kind = Kind::KeywordOnly;
            }
            params.push(parameter);
        }
        Ok(Params(params))
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
    if !starts || !letters.all(|letter| letter.is_alphanumeric() || letter == '_') {
        return Err(format!(
            "`{text}` is no parameter: write a signature as in Python, such as `customer_id, region='eu', *, force=False`"
        ));
    }
    if default == Some("") {
        return Err(format!("`{name}` has an empty default"));
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
    let mut quote: Option<(usize, char)> = None;
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        if let Some((_, end)) = quote {
            if escaped {
                escaped = false;
            } else if letter == '\\' {
                escaped = true;
            } else if letter == end {
                quote = None;
            }
            continue;
        }
        match letter {
            '\'' | '"' => quote = Some((at, letter)),
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
    match quote.or(open.pop()) {
        Some((offset, letter)) => Err(ParamsError {
            offset,
            message: format!("nothing closes this: `{letter}` is missing"),
        }),
        None => Ok(found),
    }
}

/// A default as a value. What is no literal is opaque, and equal to itself only.
fn literal(text: &str) -> Value {
    simple(text).or_else(|| collection(text)).unwrap_or_else(|| Value::Object {
        class: "oncegate.default".to_owned(),
        parts: vec![Value::Str(text.to_owned())],
    })
}

fn simple(text: &str) -> Option<Value> {
    match text {
        "None" => return Some(Value::Null),
        "True" => return Some(Value::Bool(true)),
        "False" => return Some(Value::Bool(false)),
        _ => {}
    }
    let mut letters = text.chars();
    if let (Some(quote @ ('\'' | '"')), Some(end)) = (letters.next(), letters.next_back())
        && quote == end
    {
        let inner = letters.as_str();
        return (!inner.contains('\\') && !inner.contains(quote)).then(|| Value::Str(inner.to_owned()));
    }
    let digits = text.replace('_', "");
    if let Ok(number) = digits.parse::<i64>() {
        return Some(Value::Int(number));
    }
    let numeric = digits
        .chars()
        .all(|letter| letter.is_ascii_digit() || matches!(letter, '.' | 'e' | 'E' | '-' | '+'));
    digits.parse::<f64>().ok().filter(|_| numeric).map(Value::Float)
}

/// A tuple, list or mapping of literals. Nesting is bounded by the text of the configuration.
fn collection(text: &str) -> Option<Value> {
    let inner = text.get(1..text.len().checked_sub(1)?)?;
    let pieces = split(inner, ',').ok()?;
    let items = || pieces.iter().map(|(_, piece)| piece.trim()).filter(|piece| !piece.is_empty());
    match (text.chars().next()?, text.chars().next_back()?) {
        ('[', ']') => Some(Value::List(items().map(literal).collect())),
        ('(', ')') if pieces.len() > 1 || inner.trim().is_empty() => Some(Value::Tuple(items().map(literal).collect())),
        ('{', '}') => items()
            .map(|piece| {
                let at = top_level(piece, ':')?;
                Some((literal(piece.get(..at)?.trim()), literal(piece.get(at + 1..)?.trim())))
            })
            .collect::<Option<Vec<_>>>()
            .map(Value::Map),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(signature: &str, args: &[i64], kwargs: &[(&str, i64)]) -> Result<Vec<Value>, BindError> {
        let params = Params::parse(signature).expect("a signature");
        let args: Vec<_> = args.iter().map(|number| Value::Int(*number)).collect();
        let kwargs: Vec<_> = kwargs
            .iter()
            .map(|(name, number)| (Value::Str((*name).to_owned()), Value::Int(*number)))
            .collect();
        params
            .bind(&args, &kwargs)
            .map(|values| values.into_iter().map(Cow::into_owned).collect())
    }

    #[test]
    fn positional_and_named_calls_are_one() {
        let signature = "a, b: int = 2, *, c=3";
        let same = Ok(vec![Value::Int(1), Value::Int(2), Value::Int(3)]);
        assert_eq!(bound(signature, &[1], &[]), same);
        assert_eq!(bound(signature, &[], &[("a", 1)]), same);
        assert_eq!(bound(signature, &[1, 2], &[("c", 3)]), same);
        assert_eq!(bound(signature, &[], &[("c", 3), ("b", 2), ("a", 1)]), same);
    }

    #[test]
    fn a_call_that_python_refuses_does_not_bind() {
        assert_eq!(bound("a, b", &[1], &[]), Err(BindError::Missing("b".to_owned())));
        assert_eq!(bound("a", &[1, 2], &[]), Err(BindError::TooMany));
        assert_eq!(bound("a", &[1], &[("a", 2)]), Err(BindError::Twice("a".to_owned())));
        assert_eq!(bound("a", &[1], &[("z", 2)]), Err(BindError::Unexpected("z".to_owned())));
        assert_eq!(bound("a, /", &[], &[("a", 1)]), Err(BindError::Missing("a".to_owned())));
        assert_eq!(bound("*, a", &[1], &[]), Err(BindError::Missing("a".to_owned())));
    }

    #[test]
    fn the_rest_goes_to_the_stars() {
        let values = bound("a, /, *rest, **others", &[1, 2, 3], &[("a", 9), ("z", 8)]);
        let others = Value::Map(vec![
            (Value::Str("a".to_owned()), Value::Int(9)),
            (Value::Str("z".to_owned()), Value::Int(8)),
        ]);
        assert_eq!(
            values,
            Ok(vec![Value::Int(1), Value::List(vec![Value::Int(2), Value::Int(3)]), others])
        );
    }

    #[test]
    fn defaults_are_read_as_python_reads_them() {
        let cases = [
            ("None", Value::Null),
            ("-5", Value::Int(-5)),
            ("1_000", Value::Int(1000)),
            ("2.5e3", Value::Float(2500.0)),
            ("'x, y'", Value::Str("x, y".to_owned())),
            ("[1, 'a']", Value::List(vec![Value::Int(1), Value::Str("a".to_owned())])),
            ("(1,)", Value::Tuple(vec![Value::Int(1)])),
            ("()", Value::Tuple(vec![])),
            ("{'a': 1}", Value::Map(vec![(Value::Str("a".to_owned()), Value::Int(1))])),
            (
                "SOME.CONSTANT",
                Value::Object {
                    class: "oncegate.default".to_owned(),
                    parts: vec![Value::Str("SOME.CONSTANT".to_owned())],
                },
            ),
        ];
        for (text, value) in cases {
            assert_eq!(literal(text), value, "{text}");
        }
    }

    #[test]
    fn wrong_signatures_are_refused_with_their_place() {
        for (text, offset) in [
            ("a, 1b", 3),
            ("a, a", 3),
            ("a=1, b", 5),
            ("a, (b", 3),
            ("/, a", 0),
            ("a=", 0),
            ("a b", 0),
        ] {
            assert_eq!(Params::parse(text).expect_err(text).offset, offset, "{text}");
        }
    }
}
