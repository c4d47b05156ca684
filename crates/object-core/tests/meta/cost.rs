//! How many keys the frequent commands touch: thousands of them are applied every second.

use object_core::meta::machine::MetaMachine;
use object_core::meta::{Command, Content, META_FORMAT, Query};
use raft_machine::memory::MemoryStore;
use raft_machine::{Batch, Machine, StoreError, View, Visit, encode};

use crate::scenario::{at, block, delete, put, put_inline, segment};

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

    /// Gets of one question; nothing is scanned.
    fn ask(&self, query: &Query) -> usize {
        self.gets.set(0);
        MetaMachine::new()
            .query(self, &encode(META_FORMAT, query))
            .unwrap();
        assert_eq!(self.scans.get(), 0);
        self.gets.get()
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

#[test]
fn a_reader_pays_for_the_blocks_it_asked_for_and_a_head_for_none() {
    let mut store = Counted::default();
    let at = at(0, "k");
    store.apply(&Command::BeginSegment {
        at: at.clone(),
        segment: segment(1),
        started_ms: 1,
    });
    let content = Content::Segment {
        segment: segment(1),
        tail: vec![block(4, 0); 3],
    };
    store.apply(&put(&at, 12, content));
    let head = Query::Head {
        at: at.clone(),
        version: None,
        with_content: false,
    };
    let read = |blocks_max| Query::Read {
        at: at.clone(),
        version: None,
        blocks_max,
    };
    assert_eq!(store.ask(&head), 1);
    assert_eq!(store.ask(&read(0)), 1);
    assert_eq!(
        store.ask(&read(2)),
        2,
        "head, segment: its list is too long"
    );
    assert_eq!(store.ask(&read(3)), 3, "head, segment, page");
}
