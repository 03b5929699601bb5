//! The objects of an informer and their indexes.
//!
//! **Invariant:** a key is in an index under a value exactly when the index function gives that
//! value for the object that is there now.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::IndexFn;
use crate::client::meta::Key;

struct Index<P> {
    name: &'static str,
    values: IndexFn<P>,
    keys: HashMap<String, BTreeSet<Key>>,
}

pub(super) struct Cache<P> {
    objects: HashMap<Key, Arc<P>>,
    indexes: Vec<Index<P>>,
}

impl<P> Cache<P> {
    pub(super) fn new(indexes: Vec<(&'static str, IndexFn<P>)>) -> Self {
        let indexes = indexes
            .into_iter()
            .map(|(name, values)| Index { name, values, keys: HashMap::new() })
            .collect();
        Self { objects: HashMap::new(), indexes }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<P>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn list(&self) -> Vec<Arc<P>> {
        self.objects.values().cloned().collect()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.objects.keys().cloned().collect()
    }

    pub(super) fn entries(&self) -> Vec<(Key, Arc<P>)> {
        self.objects.iter().map(|(key, object)| (key.clone(), object.clone())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    fn found(&self, index: &str, value: &str) -> Option<&BTreeSet<Key>> {
        let index = self
            .indexes
            .iter()
            .find(|candidate| candidate.name == index)
            .unwrap_or_else(|| panic!("the informer was built without the index {index}"));
        index.keys.get(value)
    }

    pub(super) fn indexed(&self, index: &str, value: &str) -> Vec<Arc<P>> {
        let keys = self.found(index, value).into_iter().flatten();
        keys.map(|key| self.objects[key].clone()).collect()
    }

    pub(super) fn count(&self, index: &str, value: &str) -> usize {
        self.found(index, value).map_or(0, BTreeSet::len)
    }

    /// Puts `new` (or nothing) under `key` and returns what was there.
    pub(super) fn put(&mut self, key: &Key, new: Option<Arc<P>>) -> Option<Arc<P>> {
        let old = match &new {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(key),
        };
        for index in &mut self.indexes {
            let before = old.as_deref().map(&index.values).unwrap_or_default();
            let after = new.as_deref().map(&index.values).unwrap_or_default();
            for value in before.iter().filter(|value| !after.contains(value)) {
                if let Some(keys) = index.keys.get_mut(value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        index.keys.remove(value);
                    }
                }
            }
            for value in after.into_iter().filter(|value| !before.contains(value)) {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        old
    }
}
