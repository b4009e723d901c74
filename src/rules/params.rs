//! Python signatures: the text of `params`, and the binding of a call's arguments to its names.

mod literal;

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
            Some(inner) => Cow::Owned(format!("{:>width$}", inner, width = inner.len() + text.find('(').unwrap_or(0) + 1)),
            None => Cow::Borrowed(text),
        };
        let mut params: Vec<Parameter> = Vec::new();
        let mut kind = Kind::Either;
        let mut bare_star = false;
        let pieces = split(&text, ',')?;
        let last = pieces.len() - 1;
        for (position, (offset, piece)) in pieces.into_iter().enumerate() {
            let trimmed = piece.trim();
            let offset = offset + (piece.len() - piece.trim_start().len());
            let fault = |message: String| ParamsError { offset, message };
            if trimmed.is_empty() {
                if position == last && (last == 0 || !params.is_empty()) {
                    continue;
                }
                return Err(fault("a parameter is missing before the comma".to_owned()));
            }
            if params.last().is_some_and(|parameter| parameter.kind == Kind::VarKeyword) {
                return Err(fault("nothing may follow the `**` parameter".to_owned()));
            }
            match trimmed {
                "/" => {
                    if kind == Kind::KeywordOnly || params.is_empty() || params.iter().any(|parameter| parameter.kind != Kind::Either) {
                        return Err(fault("`/` must follow the positional parameters".to_owned()));
                    }
                    for parameter in &mut params {
                        parameter.kind = Kind::PositionalOnly;
                    }
                    continue;
                }
                "*" if kind == Kind::KeywordOnly => return Err(fault("`*` may stand only once".to_owned())),
                "*" => {
                    kind = Kind::KeywordOnly;
                    bare_star = true;
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
            match parameter.kind {
                Kind::VarPositional if kind == Kind::KeywordOnly => return Err(fault("`*` may stand only once".to_owned())),
                Kind::VarPositional => kind = Kind::KeywordOnly,
                Kind::VarKeyword if bare_star => return Err(fault("`*` must be followed by a named parameter".to_owned())),
                _ => bare_star = false,
            }
            if parameter.name == "self" && params.is_empty() {
                return Err(fault("`self` is no argument of a message: leave it out".to_owned()));
            }
            params.push(parameter);
        }
        if bare_star {
            return Err(ParamsError {
                offset: text.len(),
                message: "`*` must be followed by a named parameter".to_owned(),
            });
        }
        Ok(Params(params))
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
    let annotated = !declared.contains(':') || !declared.ends_with(':');
    if !starts || !letters.all(|letter| letter.is_alphanumeric() || letter == '_') || KEYWORDS.contains(&name) || !annotated {
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

    /// The typed form that `tests/params/golden.py` writes.
    fn typed(value: &Value) -> String {
        let items = |name: &str, items: &[Value]| format!("{name}[{}]", items.iter().map(typed).collect::<Vec<_>>().join("; "));
        let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        match value {
            Value::Null => "None".to_owned(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Int(number) => format!("int {number}"),
            Value::BigInt(digits) => format!("int {digits}"),
            Value::Float(number) => format!("float {number:?}"),
            Value::Str(text) => format!("str {}", hex(text.as_bytes())),
            Value::Bytes(octets) => format!("bytes {}", hex(octets)),
            Value::List(list) => items("list", list),
            Value::Tuple(list) => items("tuple", list),
            Value::Set(list) => items("set", list),
            Value::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| format!("{} = {}", typed(key), typed(value)))
                    .collect();
                format!("map{{{}}}", entries.join("; "))
            }
            Value::Object { class, .. } => format!("object {class}"),
        }
    }

    fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(truth) => Value::Bool(*truth),
            serde_json::Value::Number(number) => Value::Int(number.as_i64().expect("an integer")),
            serde_json::Value::String(text) => Value::Str(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(from_json).collect()),
            serde_json::Value::Object(entries) => {
                let entry = |(key, value): (&String, &serde_json::Value)| (Value::Str(key.clone()), from_json(value));
                Value::Map(entries.iter().map(entry).collect())
            }
        }
    }

    fn read(json: &str) -> Value {
        from_json(&serde_json::from_str(json).expect("JSON"))
    }

    fn check_bind(signature: &str, args: &str, kwargs: &str, expected: &str) {
        let case = format!("f({signature}) with {args} {kwargs}");
        let params = Params::parse(signature).unwrap_or_else(|error| panic!("{case}: {error:?}"));
        let (Value::List(args), Value::Map(kwargs)) = (read(args), read(kwargs)) else {
            panic!("{case}")
        };
        let bound = params
            .bind(&args, &kwargs)
            .map(|values| values.into_iter().map(Cow::into_owned).collect());
        match expected {
            // Python names the first fault that it finds; which one that is means nothing here.
            "missing" | "refused" => assert!(bound.is_err(), "{case}: {bound:?}"),
            values => assert_eq!(bound.map(Value::List), Ok(read(values)), "{case}"),
        }
    }

    /// Computed by Python itself: `tests/params/golden.py`.
    #[test]
    fn as_python_has_it() {
        for line in include_str!("../../tests/params/golden.txt").lines() {
            match line.split('\t').collect::<Vec<_>>().as_slice() {
                ["bind", signature, args, kwargs, expected] => check_bind(signature, args, kwargs, expected),
                ["default", text, expected] => {
                    assert_eq!(typed(&literal(text)), *expected, "{text}");
                    let params = Params::parse(&format!("a={text}")).expect(text);
                    let bound = params.bind(&[], &[]).expect(text);
                    assert_eq!(bound.first().map(|value| typed(value)).as_deref(), Some(*expected), "{text}");
                }
                ["syntax", signature] => assert!(Params::parse(signature).is_err(), "{signature}"),
                _ => panic!("{line}"),
            }
        }
    }

    #[test]
    fn what_would_bind_wrongly_is_refused() {
        for text in ["self, a", "a=lambda x, y: x", "a, b=lambda: 1"] {
            assert!(Params::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Params::parse("(a, b=(1, 2))"),
            Params::parse("a, b=(1, 2)"),
            "with the parentheses too"
        );
    }
}
