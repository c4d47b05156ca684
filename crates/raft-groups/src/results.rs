//! The results of a group's last proposals, so that a repeated operation id gets the first result.
//!
//! Results live in the group's state (keys `0xFF r index`), in the order of the log, so all replicas agree on what is
//! still known; the map from operation id to index is only an index over them, rebuilt when the group is opened or gets a
//! snapshot. A repeat that comes after [`RESULTS_KEPT`] other proposals is taken for a new one: callers give up long
//! before.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use ids::OperationId;
use raft_machine::{Batch, StoreError, View};

/// How many results a group keeps.
pub const RESULTS_KEPT: u64 = 65_536;
const PREFIX: [u8; 2] = [0xFF, b'r'];

/// Which operations have results, and where.
#[derive(Debug, Default)]
pub(crate) struct Results {
    index_of: BTreeMap<OperationId, u64>,
    by_index: BTreeMap<u64, OperationId>,
}

fn key(index: u64) -> [u8; 10] {
    let mut out = [0; 10];
    out[..2].copy_from_slice(&PREFIX);
    out[2..].copy_from_slice(&index.to_be_bytes());
    out
}

impl Results {
    /// Reads the index from a group's state.
    pub fn load(view: &dyn View) -> Result<Self, StoreError> {
        let mut results = Results::default();
        let mut damaged = false;
        view.scan(&PREFIX, Some(&[0xFF, b'r' + 1]), &mut |key, value| {
            let index = key[2..].try_into().map(u64::from_be_bytes);
            let operation = value.first_chunk::<16>();
            match (index, operation) {
                (Ok(index), Some(operation)) => {
                    results.index_of.insert(OperationId(*operation), index);
                    results.by_index.insert(index, OperationId(*operation));
                    ControlFlow::Continue(())
                }
                _ => {
                    damaged = true;
                    ControlFlow::Break(())
                }
            }
        })?;
        if damaged {
            return Err(StoreError::Damaged("a kept result is too short".into()));
        }
        Ok(results)
    }

    /// The first result of an operation, if it is still kept.
    pub fn get(
        &self,
        view: &dyn View,
        operation: OperationId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(index) = self.index_of.get(&operation) else {
            return Ok(None);
        };
        let value = view.get(&key(*index))?;
        Ok(value.map(|value| value[16..].to_vec()))
    }

    /// Keeps a result and lets go of the oldest.
    pub fn put(
        &mut self,
        batch: &mut dyn Batch,
        index: u64,
        operation: OperationId,
        result: &[u8],
    ) -> Result<(), StoreError> {
        let mut value = operation.0.to_vec();
        value.extend_from_slice(result);
        batch.put(&key(index), &value)?;
        self.index_of.insert(operation, index);
        self.by_index.insert(index, operation);
        while let Some((&oldest, &operation)) = self.by_index.first_key_value()
            && oldest + RESULTS_KEPT <= index
        {
            batch.delete(&key(oldest))?;
            self.by_index.remove(&oldest);
            self.index_of.remove(&operation);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft_machine::memory::MemoryStore;

    use super::*;

    #[test]
    fn results_are_found_after_a_reload_and_forgotten_in_order() {
        let mut store = MemoryStore::default();
        let mut results = Results::default();
        let operation = |n: u64| OperationId(u128::from(n).to_be_bytes());
        for index in 1..=RESULTS_KEPT + 10 {
            results
                .put(&mut store, index, operation(index), &index.to_le_bytes())
                .unwrap();
        }
        let results = Results::load(&store).unwrap();
        assert_eq!(results.get(&store, operation(10)).unwrap(), None);
        assert_eq!(
            results.get(&store, operation(11)).unwrap(),
            Some(11_u64.to_le_bytes().to_vec())
        );
        assert_eq!(store.len() as u64, RESULTS_KEPT);
    }
}
