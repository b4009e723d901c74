//! A map whose entries go by themselves.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use super::table::{SLOT_MS, SWEPT_PER_REQUEST, slot_of};

/// What has an end, in milliseconds since the Unix epoch.
pub(super) trait Lapses {
    fn lives_until(&self) -> u64;
}

/// What has lapsed is never seen, and is removed a little at a time.
pub(super) struct Lapsing<K, V> {
    /// Each with the slot of its entry in `due`; other entries of the same key are left over from the past.
    map: HashMap<K, (V, u64), RandomState>,
    /// By slot of time: what may lapse in it.
    due: BTreeMap<u64, Vec<K>>,
}

impl<K, V> Default for Lapsing<K, V> {
    fn default() -> Lapsing<K, V> {
        Lapsing {
            map: HashMap::default(),
            due: BTreeMap::default(),
        }
    }
}

impl<K: Eq + Hash + Clone, V: Lapses> Lapsing<K, V> {
    pub(super) fn get(&self, key: &K, now: u64) -> Option<&V> {
        self.map.get(key).map(|(value, _)| value).filter(|value| value.lives_until() > now)
    }

    pub(super) fn get_mut(&mut self, key: &K, now: u64) -> Option<&mut V> {
        let value = self.map.get_mut(key).map(|(value, _)| value);
        value.filter(|value| value.lives_until() > now)
    }

    pub(super) fn iter(&self, now: u64) -> impl Iterator<Item = (&K, &V)> {
        let all = self.map.iter().map(|(key, (value, _))| (key, value));
        all.filter(move |(_, value)| value.lives_until() > now)
    }

    pub(super) fn insert(&mut self, key: K, value: V, now: u64) {
        let slot = slot_of(value.lives_until(), now);
        self.due.entry(slot).or_default().push(key.clone());
        self.map.insert(key, (value, slot));
    }

    /// The value of a key, or this one.
    pub(super) fn or_insert_with(&mut self, key: K, now: u64, make: impl FnOnce() -> V) -> &mut V {
        let lives = self.get(&key, now).is_some();
        let slot = &mut self.due;
        match self.map.entry(key) {
            Entry::Occupied(entry) if lives => &mut entry.into_mut().0,
            entry => {
                let value = make();
                let indexed = slot_of(value.lives_until(), now);
                slot.entry(indexed).or_default().push(entry.key().clone());
                &mut entry.insert_entry((value, indexed)).into_mut().0
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K, now: u64) -> Option<V> {
        let (value, _) = self.map.remove(key)?;
        (value.lives_until() > now).then_some(value)
    }

    /// How many entries are held, lapsed ones included until they are swept.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Removes a few of those that have lapsed.
    pub(super) fn sweep(&mut self, now: u64) {
        for _ in 0..SWEPT_PER_REQUEST {
            let Some(mut slot) = self.due.first_entry().filter(|slot| *slot.key() <= now / SLOT_MS) else {
                return;
            };
            let at = *slot.key();
            let Some(key) = slot.get_mut().pop() else {
                slot.remove();
                continue;
            };
            let Some((value, indexed)) = self.map.get_mut(&key).filter(|(_, indexed)| *indexed == at) else {
                continue;
            };
            if value.lives_until() > now {
                *indexed = slot_of(value.lives_until(), now);
                self.due.entry(*indexed).or_default().push(key);
            } else {
                self.map.remove(&key);
            }
        }
    }
}
