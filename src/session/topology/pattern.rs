//! Patterns of topic exchanges: words between dots, `*` for one word, `#` for any number of words, none included.

/// How much work one decision may cost; when it is spent, the answer is not known.
#[derive(Debug)]
pub(super) struct Budget(u32);

impl Budget {
    pub fn new(steps: u32) -> Budget {
        Budget(steps)
    }

    /// Takes one step; `None` if there is none left.
    pub fn spend(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
}

/// The words of a routing key or a pattern. An empty one has none (`RabbitMQ`, `rabbit_exchange_type_topic:split_topic_key`).
pub(super) fn words(key: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
    let words = if key.is_empty() {
        None
    } else {
        Some(key.split(|octet| *octet == b'.'))
    };
    words.into_iter().flatten()
}

/// Whether a pattern means more than one routing key.
pub(super) fn is_wild(pattern: &[u8]) -> bool {
    words(pattern).any(|word| matches!(word, b"*" | b"#"))
}

/// Whether a pattern takes a routing key of these words; `None` if the budget does not suffice to say.
pub(super) fn matches(pattern: &[u8], key: &[&[u8]], budget: &mut Budget) -> Option<bool> {
    let mut pattern = words(pattern);
    budget.spend()?;
    // Most patterns of an exchange end in another word, as the many `#.queue` of Celery's delayed delivery.
    if pattern
        .clone()
        .next_back()
        .is_some_and(|last| !matches!(last, b"*" | b"#") && key.last() != Some(&last))
    {
        return Some(false);
    }
    let mut at = 0;
    // The pattern behind the last `#`, and the first word that this one leaves to it. To give the last `#` more words is enough: what
    // the earlier ones took has been matched, and a longer choice of theirs gains nothing.
    let mut last_hash = None;
    loop {
        budget.spend()?;
        match pattern.next() {
            Some(b"#") => {
                last_hash = Some((pattern.clone(), at));
                continue;
            }
            Some(word) if key.get(at).is_some_and(|found| word == b"*" || word == *found) => {
                at += 1;
                continue;
            }
            None if at == key.len() => return Some(true),
            _ => {}
        }
        match &mut last_hash {
            Some((behind, from)) if *from < key.len() => {
                *from += 1;
                at = *from;
                pattern = behind.clone();
            }
            _ => return Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(pattern: &str, key: &str) -> bool {
        let key: Vec<_> = words(key.as_bytes()).collect();
        matches(pattern.as_bytes(), &key, &mut Budget::new(100_000)).expect("enough steps")
    }

    #[test]
    fn stars_stand_for_one_word_and_hashes_for_any_number() {
        // Among them the table of RabbitMQ's own suite (`topic_matching_test`).
        for (pattern, yes, no) in [
            ("a.b.c", "a.b.c", "a.b a.b.c.d b.b.c a.b.cc A.b.c"),
            ("a.*.c", "a.b.c a.a.c a..c", "a.c a.b.b.c a.b.d"),
            ("a.#.b", "a.b a.b.b a.c.b a.c.d.e.b", "a b b.a a.c.b.d"),
            ("#.#", "a a.b a.b.c .", ""),
            ("*", "a b", "a.b"),
            ("*.*", "a.b .", "a a.b.c"),
            ("#", "a a.b a.b.c.d . ..", ""),
            ("#.reports", "reports x.reports 0.0.1.reports", "reports.x xreports"),
            ("reports.#", "reports reports.a reports.a.b", "a.reports reportsa"),
            ("*.#", "a a.b", ""),
            ("#.*", "a a.b", ""),
            ("#.a.#.a.#", "a.a b.a.b.a.b a.b.b.a", "a b.a.b"),
            ("*.a.#.b.*", "x.a.b.y x.a.c.c.b.y x.a.b.b.y", "a.b.y x.a.b x.a.y"),
            ("a*", "a*", "ab a"),
            ("a.", "a.", "a"),
        ] {
            for key in yes.split_whitespace() {
                assert!(takes(pattern, key), "{pattern} takes {key}");
            }
            for key in no.split_whitespace() {
                assert!(!takes(pattern, key), "{pattern} does not take {key}");
            }
        }
    }

    #[test]
    fn an_empty_key_has_no_words() {
        for (pattern, taken) in [("", true), ("#", true), ("#.#", true), ("*", false), ("*.#", false), ("a", false)] {
            assert_eq!(takes(pattern, ""), taken, "{pattern}");
        }
        assert!(!takes("", "a") && !takes("", "."));
    }

    #[test]
    fn every_short_pattern_agrees_with_a_plain_definition() {
        fn plain(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
            match pattern.split_first() {
                None => key.is_empty(),
                Some((&b"#", rest)) => (0..=key.len()).any(|taken| plain(rest, &key[taken..])),
                Some((word, rest)) => key.first().is_some_and(|first| word == b"*" || word == first) && plain(rest, &key[1..]),
            }
        }
        let all = |alphabet: &[&str], longest: u32| -> Vec<String> {
            let mut texts = vec![String::new()];
            for length in 1..=longest {
                for number in 0..alphabet.len().pow(length) {
                    let word = |place| alphabet[number / alphabet.len().pow(place) % alphabet.len()];
                    texts.push((0..length).map(word).collect::<Vec<_>>().join("."));
                }
            }
            texts
        };
        let keys = all(&["a", "b"], 5);
        for pattern in all(&["a", "b", "*", "#"], 5) {
            let pattern_words: Vec<_> = words(pattern.as_bytes()).collect();
            for key in &keys {
                let key_words: Vec<_> = words(key.as_bytes()).collect();
                assert_eq!(takes(&pattern, key), plain(&pattern_words, &key_words), "{pattern} of {key}");
            }
        }
    }

    #[test]
    fn a_costly_pattern_ends_with_the_budget() {
        let key = vec![&b"a"[..]; 120];
        let pattern = "#.a.a.a.a.b.".repeat(10) + "a";
        let mut budget = Budget::new(50);
        assert_eq!(matches(pattern.as_bytes(), &key, &mut budget), None);
        assert_eq!(matches(b"b", &key, &mut budget), None);
        // Another last word costs one step.
        let mut budget = Budget::new(1);
        assert_eq!(matches(b"#.a.a.b", &key, &mut budget), Some(false));
        assert_eq!(matches(b"#.a.a.b", &key, &mut budget), None);
    }
}
