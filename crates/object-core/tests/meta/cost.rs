//! How many keys the frequent commands touch: thousands of them are applied every second.

use object_core::meta::machine::MetaMachine;
use object_core::meta::{Command, META_FORMAT};
use raft_machine::memory::MemoryStore;
use raft_machine::{Batch, Machine, StoreError, View, Visit, encode};

use crate::scenario::{at, delete, put_inline};

/// A store that counts what is done to it.
#[derive(Default)]
struct Counted {
    store: MemoryStore,
    gets: std::cell::Cell<usize>,
    writes: usize,
    scans: std::cell::Cell<usize>,
}

impl View for Counted {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.gets.set(self.gets.get() + 1);
        self.store.get(key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        self.scans.set(self.scans.get() + 1);
        self.store.scan(from, to, visit)
    }
}

impl Batch for Counted {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.writes += 1;
        self.store.put(key, value)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.writes += 1;
        self.store.delete(key)
    }
}

impl Counted {
    /// Gets and writes of one command; nothing is scanned.
    fn apply(&mut self, command: &Command) -> (usize, usize) {
        self.gets.set(0);
        self.writes = 0;
        MetaMachine::new()
            .apply(self, 1, &encode(META_FORMAT, command))
            .unwrap();
        assert_eq!(self.scans.get(), 0);
        (self.gets.get(), self.writes)
    }
}

#[test]
fn small_objects_cost_few_key_operations() {
    let mut store = Counted::default();
    let at = at(0, "k");
    assert_eq!(
        store.apply(&put_inline(&at, b"new")),
        (3, 3),
        "fence, head, counts; head, bytes, counts"
    );
    assert_eq!(store.apply(&put_inline(&at, b"longer")), (3, 3));
    assert_eq!(
        store.apply(&put_inline(&at, b"equal.")),
        (2, 2),
        "the counts don't move"
    );
    assert_eq!(store.apply(&delete(&at)), (3, 3));
    assert_eq!(store.apply(&delete(&at)), (2, 0));
}
