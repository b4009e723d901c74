//! A queue of those that wait, which tells for each how many are before it.

use std::collections::HashMap;

/// A place in the order of all that have waited for the limits of one rule.
pub(super) type Place = u64;

/// How many stand in one chunk at most.
const CHUNK: usize = 512;

/// Places by the times that are planned for them. To add, to remove and to count costs a walk over the chunks, of which there are few.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    /// Each sorted and not empty, one after the other.
    chunks: Vec<Vec<(u64, Place)>>,
    planned: HashMap<Place, u64>,
}

impl Ranks {
    pub(super) fn len(&self) -> usize {
        self.planned.len()
    }

    pub(super) fn planned(&self, place: Place) -> Option<u64> {
        self.planned.get(&place).copied()
    }

    /// The time that is planned for the first.
    pub(super) fn first(&self) -> Option<u64> {
        self.chunks.first()?.first().map(|(planned, _)| *planned)
    }

    /// The time that is planned for the last.
    pub(super) fn last(&self) -> Option<u64> {
        self.chunks.last()?.last().map(|(planned, _)| *planned)
    }

    /// How many are before this entry, itself not counted.
    fn before(&self, entry: (u64, Place)) -> usize {
        let at = self.chunk_of(entry);
        let whole: usize = self.chunks.iter().take(at).map(Vec::len).sum();
        let part = self.chunks.get(at).map_or(0, |chunk| chunk.partition_point(|known| *known < entry));
        whole + part
    }

    /// How many are before this place; nothing if it does not wait.
    pub(super) fn rank(&self, place: Place) -> Option<usize> {
        Some(self.before((self.planned(place)?, place)))
    }

    /// How many are planned for no later than this.
    pub(super) fn planned_by(&self, ms: u64) -> usize {
        self.before((ms, Place::MAX))
    }

    /// Puts a place where its time belongs, wherever it was before.
    pub(super) fn put(&mut self, place: Place, planned: u64) {
        self.remove(place);
        self.planned.insert(place, planned);
        let entry = (planned, place);
        let at = self.chunk_of(entry).min(self.chunks.len().saturating_sub(1));
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(vec![entry]);
            return;
        };
        let index = chunk.partition_point(|known| *known < entry);
        chunk.insert(index, entry);
        if chunk.len() > CHUNK {
            let rest = chunk.split_off(CHUNK / 2);
            self.chunks.insert(at + 1, rest);
        }
    }

    pub(super) fn remove(&mut self, place: Place) {
        let Some(planned) = self.planned.remove(&place) else { return };
        let entry = (planned, place);
        let at = self.chunk_of(entry);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        if let Ok(index) = chunk.binary_search(&entry) {
            chunk.remove(index);
        }
        if chunk.is_empty() {
            self.chunks.remove(at);
        }
    }

    /// The chunk in which this entry is, or the one behind which all are before it.
    fn chunk_of(&self, entry: (u64, Place)) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|last| *last < entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_agree_with_a_sorted_list() {
        let mut ranks = Ranks::default();
        let mut list: Vec<(u64, Place)> = Vec::new();
        let mut state = 1_u64;
        for step in 0..20_000_u64 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (place, planned) = ((state >> 33) % 3_000, (state >> 50) % 500);
            list.retain(|(_, known)| *known != place);
            if step % 3 == 0 {
                ranks.remove(place);
            } else {
                ranks.put(place, planned);
                list.push((planned, place));
                list.sort_unstable();
            }
            if step % 97 == 0 {
                assert_eq!(ranks.len(), list.len());
                assert_eq!(ranks.first(), list.first().map(|(planned, _)| *planned));
                assert_eq!(
                    ranks.planned_by(planned),
                    list.iter().filter(|(known, _)| *known <= planned).count()
                );
                assert_eq!(ranks.rank(place), list.iter().position(|(_, known)| *known == place));
            }
        }
    }
}
