//! The name that was probably meant.

/// The known name nearest to a wrong one, if it is near enough to be a slip: at most a third of its characters differ.
pub(super) fn nearest<'n>(wrong: &str, known: &[&'n str]) -> Option<&'n str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace('-', "_");
    let wrong = plain(wrong);
    let distances = known.iter().map(|name| (distance(&wrong, &plain(name)), *name));
    let (slips, name) = distances.min_by_key(|(slips, _)| *slips)?;
    (slips * 3 <= name.len().max(wrong.len()).min(24)).then_some(name)
}

/// How many characters have to be inserted, removed, replaced or swapped with their neighbour to make one name of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, to) in b.iter().enumerate() {
            let mut best = (last[column] + usize::from(from != to))
                .min(last[column + 1] + 1)
                .min(next[column] + 1);
            if row > 0 && column > 0 && *from == b[column - 1] && a[row - 1] == *to {
                best = best.min(before[column - 1] + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut last, next);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let known = ["on_duplicate", "unique", "ttl", "max_ttl", "queue", "task"];
        for (wrong, meant) in [
            ("on_duplicates", Some("on_duplicate")),
            ("on-duplicate", Some("on_duplicate")),
            ("uniqe", Some("unique")),
            ("unqiue", Some("unique")),
            ("Task", Some("task")),
            ("tll", Some("ttl")),
            ("timeout", None),
            ("x", None),
        ] {
            assert_eq!(nearest(wrong, &known), meant, "{wrong}");
        }
    }
}
