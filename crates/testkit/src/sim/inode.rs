//! One simulated file: what readers see, what is surely on the disk, and the changes between the two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;
use rand::rngs::StdRng;

use super::content::{Change, Content, pieces};

/// A file without its name; it lives as long as a name or a handle leads to it.
#[derive(Debug)]
pub(super) struct Inode {
    contents: Mutex<Contents>,
    /// What all files of the disk take.
    used: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Contents {
    now: Content,
    durable: Content,
    /// Leads from `durable` to `now`, unless a sync failed.
    waiting: Vec<Change>,
}

impl Inode {
    pub(super) fn new(used: &Arc<AtomicU64>) -> Arc<Inode> {
        Arc::new(Inode {
            contents: Mutex::default(),
            used: used.clone(),
        })
    }

    pub(super) fn len(&self) -> u64 {
        self.contents().now.len()
    }

    /// Fills `out`; `false` when the file ends before.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        self.contents().now.read(offset, out)
    }

    /// Bytes that a write would take on the disk.
    pub(super) fn would_take(&self, offset: u64, len: usize) -> u64 {
        self.contents().now.would_allocate(offset, len)
    }

    pub(super) fn change(&self, change: Change) {
        self.changing(|contents| {
            contents.now.apply(&change);
            contents.waiting.push(change);
        });
    }

    pub(super) fn sync(&self) {
        let mut contents = self.contents();
        for change in std::mem::take(&mut contents.waiting) {
            contents.durable.apply(&change);
        }
    }

    /// A sync that fails: what waited will never be durable, and the next sync won't say so.
    pub(super) fn fail_sync(&self) {
        self.contents().waiting.clear();
    }

    /// Turns a bit of what is durable and of what readers see.
    pub(super) fn flip_bit(&self, offset: u64, bit: u8) {
        self.changing(|contents| {
            contents.now.flip_bit(offset, bit);
            contents.durable.flip_bit(offset, bit);
        });
    }

    /// Keeps each piece of each waiting change, or not. Pieces are sectors or pages, as chance will have it.
    pub(super) fn lose_changes(&self, rng: &mut StdRng) {
        self.changing(|contents| {
            let keep = [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)];
            for change in std::mem::take(&mut contents.waiting) {
                contents.keep_pieces(change, keep, rng);
            }
            contents.now = contents.durable.clone();
        });
    }

    fn changing(&self, change: impl FnOnce(&mut Contents)) {
        let mut contents = self.contents();
        let before = contents.now.allocated();
        change(&mut contents);
        let after = contents.now.allocated();
        self.used
            .fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let taken = self.contents().now.allocated();
        self.used.fetch_sub(taken, Ordering::Relaxed);
    }
}

impl Contents {
    fn keep_pieces(&mut self, change: Change, keep: f64, rng: &mut StdRng) {
        let Change::Write { offset, data } = change else {
            if rng.random_bool(keep) {
                self.durable.apply(&change);
            }
            return;
        };
        let size = if rng.random_bool(0.5) { 512 } else { 4096 };
        for (at, len) in pieces(offset, data.len() as u64, size) {
            if rng.random_bool(keep) {
                let data = data[(at - offset) as usize..][..len as usize].to_vec();
                self.durable.apply(&Change::Write { offset: at, data });
            }
        }
    }
}
