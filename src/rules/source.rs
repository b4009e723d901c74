//! Where signals of tasks come from, and to which of these sources the locks of a rule listen (`completion`).

use super::spec::{Completion, CompletionSource};

/// What a signal was heard from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// A worker's acknowledgement, or a delivery that needs none.
    Ack,
    /// An event that a worker published.
    Events,
    /// A result on its way to its caller.
    Rpc,
    /// The Redis result backend.
    Redis,
    /// Anything else: a reject, a revoke, a purge, the loss of a worker. It counts for every lock.
    Other,
}

impl Source {
    /// Every source that `completion` names.
    pub const NAMED: [Source; 4] = [Source::Ack, Source::Events, Source::Rpc, Source::Redis];

    /// As the store holds it.
    pub fn letter(self) -> &'static str {
        match self {
            Source::Ack => "A",
            Source::Events => "E",
            Source::Rpc => "P",
            Source::Redis => "B",
            Source::Other => "O",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Source::Ack => 1,
            Source::Events => 2,
            Source::Rpc => 4,
            Source::Redis => 8,
            Source::Other => 0,
        }
    }
}

impl From<CompletionSource> for Source {
    fn from(source: CompletionSource) -> Source {
        match source {
            CompletionSource::Ack => Source::Ack,
            CompletionSource::Events => Source::Events,
            CompletionSource::Rpc => Source::Rpc,
            CompletionSource::Redis => Source::Redis,
        }
    }
}

/// The sources whose starts and ends count for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hears(u8);

impl Default for Hears {
    fn default() -> Hears {
        Hears::ALL
    }
}

impl Hears {
    /// Every source: `completion = "auto"`.
    pub const ALL: Hears = Hears(15);

    /// Only these.
    pub fn only(sources: impl IntoIterator<Item = Source>) -> Hears {
        Hears(sources.into_iter().fold(0, |bits, source| bits | source.bit()))
    }

    /// What a rule says.
    pub fn of(completion: &Completion) -> Hears {
        match completion {
            Completion::Auto => Hears::ALL,
            Completion::Only(sources) => Hears::only(sources.iter().copied().map(Source::from)),
        }
    }

    /// Whether what is heard from there counts.
    pub fn hears(self, source: Source) -> bool {
        source == Source::Other || self.0 & source.bit() != 0
    }

    /// The names of the sources, as users type them.
    pub fn names(self) -> String {
        let heard = CompletionSource::NAMES
            .iter()
            .filter(|name| CompletionSource::from_name(name).is_some_and(|source| self.hears(source.into())));
        heard.copied().collect::<Vec<_>>().join(",")
    }

    /// The letters of the sources, as the store holds them.
    pub fn letters(self) -> String {
        let heard = Source::NAMED.into_iter().filter(|source| self.hears(*source));
        heard.map(Source::letter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_heard() {
        let hears = Hears::of(&Completion::Only(vec![CompletionSource::Redis, CompletionSource::Ack]));
        let of_each = Source::NAMED.map(|source| hears.hears(source));
        assert_eq!(of_each, [true, false, false, true]);
        assert!(hears.hears(Source::Other));
        assert_eq!(hears.letters(), "AB");
        assert_eq!(hears.names(), "ack,redis");
        assert_eq!(Hears::of(&Completion::Auto).letters(), "AEPB");
    }
}
