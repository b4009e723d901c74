//! An ordered set whose copies share what they have in common.

use std::cmp::Ordering;
use std::sync::Arc;

/// The most items of a chunk. A change copies one chunk and the list of chunks.
const CHUNK: usize = 128;

/// An ordered set in chunks. A clone copies the list of chunks only, so a set of 100,000 items is copied and changed at the price of about 2,000.
#[derive(Debug, Clone)]
pub(super) struct SharedSet<T> {
    /// None is empty; the last item of each is less than the first of the next.
    chunks: Vec<Arc<Vec<T>>>,
    len: usize,
}

impl<T> Default for SharedSet<T> {
    fn default() -> Self {
        SharedSet {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<T: Clone + Ord> SharedSet<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The items in order, from the first for which `before` is false. It must be true for all items up to some place and false after.
    pub fn from(&self, before: impl Fn(&T) -> bool) -> impl Iterator<Item = &T> {
        let index = self.chunk_of(&before);
        let skipped = self.chunks.get(index).map_or(0, |chunk| chunk.partition_point(before));
        self.chunks.iter().skip(index).flat_map(|chunk| chunk.iter()).skip(skipped)
    }

    /// True if the item was not there.
    pub fn insert(&mut self, item: T) -> bool {
        // Behind everything, the last chunk takes it.
        let index = self.chunk_of(|held| *held < item).min(self.chunks.len().saturating_sub(1));
        let Some(chunk) = self.chunks.get_mut(index) else {
            self.chunks.push(Arc::new(vec![item]));
            self.len += 1;
            return true;
        };
        let Err(place) = chunk.binary_search(&item) else { return false };
        let items = Arc::make_mut(chunk);
        items.insert(place, item);
        if items.len() > CHUNK {
            let behind = items.split_off(CHUNK / 2);
            self.chunks.insert(index + 1, Arc::new(behind));
        }
        self.len += 1;
        true
    }

    /// True if the item was there.
    pub fn remove(&mut self, item: &T) -> bool {
        let index = self.chunk_of(|held| held.cmp(item) == Ordering::Less);
        let Some(chunk) = self.chunks.get_mut(index) else { return false };
        let Ok(place) = chunk.binary_search(item) else { return false };
        if chunk.len() == 1 {
            self.chunks.remove(index);
        } else {
            Arc::make_mut(chunk).remove(place);
        }
        self.len -= 1;
        true
    }

    /// The chunk that holds the first item for which `before` is false.
    fn chunk_of(&self, before: impl Fn(&T) -> bool) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(&before))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Numbers in no order, each once or twice.
    fn numbers() -> impl Iterator<Item = u32> {
        (0..5000u32).map(|n| n.wrapping_mul(2_654_435_761) % 3001)
    }

    #[test]
    fn it_holds_what_a_plain_set_holds() {
        let (mut set, mut plain) = (SharedSet::default(), BTreeSet::new());
        for (turn, number) in numbers().enumerate() {
            assert_eq!(set.insert(number), plain.insert(number));
            if turn % 3 == 0 {
                let other = number / 2;
                assert_eq!(set.remove(&other), plain.remove(&other));
            }
            assert_eq!(set.len(), plain.len());
        }
        for start in [0, 1, 77, 1500, 3000, 9999] {
            assert!(set.from(|item| *item < start).eq(plain.range(start..)), "from {start}");
        }
        for number in plain {
            assert!(set.remove(&number));
        }
        assert_eq!((set.len(), set.chunks.len()), (0, 0));
    }

    #[test]
    fn a_copy_keeps_what_it_had_and_shares_what_stays() {
        let mut set = SharedSet::default();
        for number in 0..5000 {
            set.insert(number * 2);
        }
        let copy = set.clone();
        set.insert(3001);
        set.remove(&8000);
        assert!(copy.from(|_| false).copied().eq((0..5000).map(|number| number * 2)));
        let shared = set
            .chunks
            .iter()
            .filter(|chunk| copy.chunks.iter().any(|other| Arc::ptr_eq(chunk, other)))
            .count();
        assert!(shared + 3 >= copy.chunks.len(), "{shared} of {}", copy.chunks.len());
    }
}
