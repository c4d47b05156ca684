//! fjall: one keyspace, its authors' settings but for the cache and a journal that is synced only when told.

use std::path::Path;

use anyhow::Result;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use crate::records::Record;
use crate::store::{Store, View};

/// See the module.
pub struct FjallStore {
    database: Database,
    records: Keyspace,
}

impl FjallStore {
    /// Opens the database in `folder`, or makes one.
    pub fn open(folder: &Path, cache_bytes: u64) -> Result<FjallStore> {
        let database = Database::builder(folder.join("records.fjall"))
            .cache_size(cache_bytes)
            .manual_journal_persist(true)
            .open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(FjallStore { database, records })
    }
}

impl Store for FjallStore {
    fn apply(&self, records: &[Record]) -> Result<()> {
        let mut batch = self.database.batch();
        for record in records {
            batch.insert(
                &self.records,
                record.key.as_slice(),
                record.value.as_slice(),
            );
        }
        batch.commit()?;
        Ok(())
    }

    fn persist(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncData)?;
        Ok(())
    }

    fn view(&self) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(FjallView {
            snapshot: self.database.snapshot(),
            records: &self.records,
        }))
    }

    fn close(self: Box<Self>) -> Result<()> {
        let FjallStore { database, records } = *self;
        database.persist(PersistMode::SyncAll)?;
        drop(records);
        // Ends the background threads and waits for them.
        drop(database);
        Ok(())
    }
}

struct FjallView<'a> {
    snapshot: Snapshot,
    records: &'a Keyspace,
}

impl View for FjallView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.snapshot.get(self.records, key)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], rows_max: u64, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<u64> {
        let mut rows = 0;
        for row in self.snapshot.range(self.records, from.to_vec()..) {
            let (key, value) = row.into_inner()?;
            visit(&key, &value);
            rows += 1;
            if rows == rows_max {
                break;
            }
        }
        Ok(rows)
    }
}
