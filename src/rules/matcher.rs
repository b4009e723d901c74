//! Globs over names. `*` stands for any characters, dots included.

use globset::{GlobBuilder, GlobMatcher};

/// Tasks of Celery's own, which only a pattern that begins so matches: a rule for all tasks must not take `celery.chord_unlock`.
const CELERY: &str = "celery.";

/// One pattern.
#[derive(Debug)]
pub struct Glob {
    text: String,
    /// None where the pattern is plain text.
    matcher: Option<GlobMatcher>,
}

impl Glob {
    /// Compiles a pattern.
    pub fn compile(text: &str) -> Result<Glob, String> {
        let matcher = if text.contains(['*', '?', '[', '{', '\\']) {
            let glob = GlobBuilder::new(text)
                .literal_separator(false)
                .build()
                .map_err(|error| format!("\"{text}\" is no pattern: {}", error.kind()))?;
            Some(glob.compile_matcher())
        } else {
            None
        };
        Ok(Glob {
            text: text.to_owned(),
            matcher,
        })
    }

    fn is_match(&self, name: &str) -> bool {
        match &self.matcher {
            None => self.text == name,
            Some(matcher) => matcher.is_match(name),
        }
    }
}

/// Patterns of which one must match; none at all match everything.
#[derive(Debug)]
pub struct Globs(Vec<Glob>);

impl Globs {
    /// These patterns.
    pub fn new(globs: Vec<Glob>) -> Globs {
        Globs(globs)
    }

    /// True if there are no patterns.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a name matches.
    pub fn is_match(&self, name: &str) -> bool {
        self.is_any() || self.0.iter().any(|glob| glob.is_match(name))
    }

    /// Whether a task name matches: Celery's own tasks only by a pattern that names them.
    pub fn is_task(&self, name: &str) -> bool {
        if !name.starts_with(CELERY) {
            return self.is_match(name);
        }
        self.0.iter().any(|glob| glob.text.starts_with(CELERY) && glob.is_match(name))
    }

    /// The names, if all patterns are plain text.
    pub fn plain(&self) -> Option<impl Iterator<Item = &str>> {
        let plain = !self.is_any() && self.0.iter().all(|glob| glob.matcher.is_none());
        plain.then(|| self.0.iter().map(|glob| glob.text.as_str()))
    }
}
