//! A store in memory, for tests of machines and as the model in property tests.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use crate::{Batch, StoreError, View, Visit};

/// Ordered bytes in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl View for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.keys.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in self.keys.range::<[u8], _>((Bound::Included(from), upper)) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}

impl Batch for MemoryStore {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.keys.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.keys.remove(key);
        Ok(())
    }
}
