//! redb, used as `crates/raft-groups/src/database.rs` uses it. As there, opening ends with a durable commit.

use std::path::Path;

use anyhow::Result;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use crate::records::Record;
use crate::store::{Store, View};

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// See the module.
pub struct RedbStore(Database);

impl RedbStore {
    /// Opens the database in `folder`, or makes one.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<RedbStore> {
        let database = redb::Builder::new()
            .set_cache_size(usize::try_from(cache_bytes)?)
            .create(folder.join("records.redb"))?;
        let store = RedbStore(database);
        store.persist()?;
        Ok(store)
    }

    fn commit(&self, durability: Durability, records: &[Record]) -> Result<()> {
        let mut write = self.0.begin_write()?;
        {
            let mut table = write.open_table(RECORDS)?;
            for record in records {
                table.insert(record.key.as_slice(), record.value.as_slice())?;
            }
        }
        if let Durability::Immediate = durability {
            // Opening after a crash must not walk the whole database.
            write.set_quick_repair(true);
        }
        write.set_durability(durability)?;
        write.commit()?;
        Ok(())
    }
}

impl Store for RedbStore {
    fn apply(&self, records: &[Record]) -> Result<()> {
        self.commit(Durability::None, records)
    }

    fn persist(&self) -> Result<()> {
        self.commit(Durability::Immediate, &[])
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        let read = self.0.begin_read()?;
        Ok(Box::new(RedbView(read.open_table(RECORDS)?)))
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.0.close()?;
        Ok(())
    }
}

struct RedbView(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl View for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.0.get(key)?;
        Ok(found.map(|value| value.value().to_vec()))
    }

    fn scan(&self, from: &[u8], rows_max: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let mut rows = 0;
        for row in self.0.range(from..)? {
            let (key, value) = row?;
            visit(key.value(), value.value());
            rows += 1;
            if rows == rows_max {
                break;
            }
        }
        Ok(rows)
    }
}
