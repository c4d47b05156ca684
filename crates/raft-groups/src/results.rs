//! The results of a group's last proposals, so that a repeated operation id gets the first result.
//!
//! Results live in the group's state (keys `0xFF r index`), in the order of the log, so all replicas agree on what is
//! still known; the map from operation to index is only an index over them, rebuilt when the group is opened or gets a
//! snapshot. A repeat that comes after [`RESULTS_KEPT`] other proposals is taken for a new one: callers give up long
//! before. Large results are forgotten sooner: [`RESULT_BYTES_KEPT`] bounds their bytes.
//!
//! The map knows the first 8 bytes of an operation id, the row has them all. Of two kept operations that share them
//! only the later is found, on every replica alike.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use ids::OperationId;
use raft_machine::{Batch, StoreError, View};

/// How many results a group keeps.
pub const RESULTS_KEPT: u64 = 16_384;
/// How many bytes of results a group keeps, besides the newest.
pub const RESULT_BYTES_KEPT: u64 = 8 << 20;
const PREFIX: [u8; 2] = [0xFF, b'r'];

/// Which operations have results, and where.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// The first bytes of an operation id to the index of its row.
    index_of: HashMap<u64, u64>,
    oldest_first: VecDeque<Row>,
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    index: u64,
    operation: u64,
    len: u32,
}

fn key(index: u64) -> [u8; 10] {
    let mut out = [0; 10];
    out[..2].copy_from_slice(&PREFIX);
    out[2..].copy_from_slice(&index.to_be_bytes());
    out
}

fn first_bytes(operation: &[u8; 16]) -> u64 {
    let mut out = [0; 8];
    out.copy_from_slice(&operation[..8]);
    u64::from_be_bytes(out)
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
                    results.note(index, operation, value.len());
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
        let Some(index) = self.index_of.get(&first_bytes(&operation.0)) else {
            return Ok(None);
        };
        let value = view.get(&key(*index))?;
        let result = value
            .as_deref()
            .and_then(|value| value.strip_prefix(&operation.0[..]));
        Ok(result.map(<[u8]>::to_vec))
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
        self.note(index, &operation.0, value.len());
        while let Some(oldest) = self.oldest_first.front().copied()
            && oldest.index != index
            && (oldest.index + RESULTS_KEPT <= index || self.bytes > RESULT_BYTES_KEPT)
        {
            batch.delete(&key(oldest.index))?;
            self.forget_oldest();
        }
        Ok(())
    }

    fn note(&mut self, index: u64, operation: &[u8; 16], len: usize) {
        let row = Row {
            index,
            operation: first_bytes(operation),
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        self.index_of.insert(row.operation, index);
        self.oldest_first.push_back(row);
        self.bytes += u64::from(row.len);
    }

    fn forget_oldest(&mut self) {
        let Some(row) = self.oldest_first.pop_front() else {
            return;
        };
        self.bytes -= u64::from(row.len);
        if self.index_of.get(&row.operation) == Some(&row.index) {
            self.index_of.remove(&row.operation);
        }
    }
}

#[cfg(test)]
mod tests {
    use raft_machine::memory::MemoryStore;

    use super::*;

    fn operation(n: u64) -> OperationId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        OperationId(bytes)
    }

    #[test]
    fn results_are_found_after_a_reload_and_forgotten_in_order() {
        let mut store = MemoryStore::default();
        let mut results = Results::default();
        for index in 1..=RESULTS_KEPT + 10 {
            results
                .put(&mut store, index, operation(index), &index.to_le_bytes())
                .unwrap();
        }
        for results in [Results::load(&store).unwrap(), results] {
            assert_eq!(results.get(&store, operation(10)).unwrap(), None);
            assert_eq!(
                results.get(&store, operation(11)).unwrap(),
                Some(11_u64.to_le_bytes().to_vec())
            );
            assert_eq!(results.index_of.len() as u64, RESULTS_KEPT);
        }
        assert_eq!(store.len() as u64, RESULTS_KEPT);
    }

    #[test]
    fn the_bytes_of_results_are_bounded() {
        let mut store = MemoryStore::default();
        let mut results = Results::default();
        let large = vec![7; 1 << 20];
        for index in 1..=20 {
            results
                .put(&mut store, index, operation(index), &large)
                .unwrap();
        }
        assert_eq!(store.len(), 7);
        assert_eq!(results.get(&store, operation(13)).unwrap(), None);
        assert_eq!(results.get(&store, operation(14)).unwrap(), Some(large));
        let loaded = Results::load(&store).unwrap();
        assert_eq!(loaded.bytes, results.bytes);
        let huge = vec![7; RESULT_BYTES_KEPT as usize + 1];
        results.put(&mut store, 21, operation(21), &huge).unwrap();
        assert_eq!(store.len(), 1);
        assert_eq!(results.get(&store, operation(21)).unwrap(), Some(huge));
    }

    #[test]
    fn operations_that_begin_alike_are_not_taken_for_each_other() {
        let mut store = MemoryStore::default();
        let mut results = Results::default();
        let (one, mut other) = (operation(1), operation(1));
        other.0[15] = 1;
        results.put(&mut store, 1, one, b"one").unwrap();
        assert_eq!(results.get(&store, other).unwrap(), None);
        results.put(&mut store, 2, other, b"other").unwrap();
        for results in [Results::load(&store).unwrap(), results] {
            assert_eq!(results.get(&store, one).unwrap(), None);
            assert_eq!(results.get(&store, other).unwrap(), Some(b"other".to_vec()));
        }
    }
}
