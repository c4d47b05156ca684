//! What a contender must do: the store that `raft-groups` needs, and no more.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::fjall_store::FjallStore;
use crate::records::Record;
use crate::redb_store::RedbStore;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Contender {
    /// A B-tree of checksummed pages.
    Redb,
    /// A log-structured merge tree with a journal.
    Fjall,
}

impl Contender {
    /// As in tables, flags and folders.
    pub fn name(self) -> &'static str {
        match self {
            Contender::Redb => "redb",
            Contender::Fjall => "fjall",
        }
    }

    /// Opens the store in `folder`, or makes one.
    pub fn open(self, folder: &Path, cache_bytes: u64) -> Result<Box<dyn Store>> {
        std::fs::create_dir_all(folder)?;
        Ok(match self {
            Contender::Redb => Box::new(RedbStore::open(folder, cache_bytes)?),
            Contender::Fjall => Box::new(FjallStore::open(folder, cache_bytes)?),
        })
    }
}

/// A store with one writer.
pub trait Store {
    /// Puts the records in one commit, which the next [`Store::persist`] makes durable.
    fn apply(&self, records: &[Record]) -> Result<()>;

    /// Makes all commits so far durable.
    fn persist(&self) -> Result<()>;

    /// Everything as of the last commit.
    fn view(&self) -> Result<Box<dyn View + '_>>;

    /// Ends in good order.
    fn close(self: Box<Self>) -> Result<()>;
}

/// An unchanging view.
pub trait View {
    /// A copy of a key's value.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Visits up to `rows_max` keys from `from` on, ascending; says how many there were.
    fn scan(&self, from: &[u8], rows_max: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64>;
}
