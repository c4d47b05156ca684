//! The node's one database: every group's keys, on the injected disk.
//!
//! redb keeps a B-tree of checksummed pages. A commit of applied entries is not durable by itself: the write-ahead log
//! is the truth. Now and then [`Database::checkpoint`] makes everything durable, and only then may the log let go of what
//! the checkpoint covers. After a crash the database is what it was at its last checkpoint, and the log is replayed.
//!
//! Keys are `group (4, big-endian) · generation (4, big-endian) · key`. Installing a snapshot fills the next generation
//! and then switches over in one small commit; the old one is removed in steps.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ids::GroupId;
use platform::{Disk, File};
use raft_machine::{Batch, StoreError, View, Visit};
use redb::{
    Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    Table, TableDefinition, WriteTransaction,
};

const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
const GROUPS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("groups");
const PATH: &str = "state/groups.redb";
const NEW_PATH: &str = "state/groups.redb.new";
const STALE_KEYS_PER_COMMIT: usize = 4096;

pub(crate) fn failed(error: impl fmt::Display) -> StoreError {
    StoreError::Io(error.to_string())
}

/// A [`platform::File`] as redb wants it.
#[derive(Debug)]
struct Backend(Arc<dyn File>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// What the database knows of a group besides its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupRecord {
    /// Which generation of keys is in force.
    pub generation: u32,
    /// See [`crate::codec::encode_state`].
    pub state: Bytes,
}

impl GroupRecord {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.generation.to_le_bytes().to_vec();
        out.extend_from_slice(&self.state);
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let Some((generation, state)) = bytes.split_first_chunk::<4>() else {
            return Err(StoreError::Damaged("a group's record is too short".into()));
        };
        Ok(GroupRecord {
            generation: u32::from_le_bytes(*generation),
            state: Bytes::copy_from_slice(state),
        })
    }
}

/// Makes an empty database under another name first: one that a crash left half made could never be opened.
fn create(disk: &dyn Disk) -> io::Result<Arc<dyn File>> {
    if disk.exists(NEW_PATH)? {
        disk.remove(NEW_PATH)?;
    }
    let file = disk.create(NEW_PATH)?;
    redb::Builder::new()
        .create_with_backend(Backend(file))
        .map_err(io::Error::other)?;
    disk.rename(NEW_PATH, PATH)?;
    disk.sync_dir("state")?;
    disk.sync_dir("")?;
    disk.open(PATH)
}

/// The database. Reads may run side by side; writes come from one task, see [`crate::applier`].
pub(crate) struct Database {
    redb: redb::Database,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Database")
    }
}

impl Database {
    /// Opens (or creates) the database; blocks.
    pub fn open(disk: &dyn Disk, cache_bytes: usize) -> Result<Self, StoreError> {
        let file = if disk.exists(PATH).map_err(failed)? {
            disk.open(PATH).map_err(failed)?
        } else {
            create(disk).map_err(failed)?
        };
        let redb = redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(Backend(file))
            .map_err(failed)?;
        let database = Database { redb };
        let write = database.redb.begin_write().map_err(failed)?;
        write.open_table(KEYS).map_err(failed)?;
        write.open_table(GROUPS).map_err(failed)?;
        commit(write, Durability::Immediate)?;
        Ok(database)
    }

    /// A view of everything as of the last commit.
    pub fn read(&self) -> Result<Reading, StoreError> {
        Reading::begin(&self.redb)
    }

    /// Runs `work` in one commit that the next checkpoint makes durable.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let write = self.redb.begin_write().map_err(failed)?;
        self.run(write, Durability::None, work)
    }

    /// Runs `work` in a commit that is durable when this returns, with all commits before it.
    pub fn write_durably<T>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let write = self.redb.begin_write().map_err(failed)?;
        self.run(write, Durability::Immediate, work)
    }

    /// Makes all commits so far durable.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.write_durably(|_| Ok(()))
    }

    fn run<T>(
        &self,
        write: WriteTransaction,
        durability: Durability,
        work: impl FnOnce(&mut Writing<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let result = {
            let mut writing = Writing {
                keys: write.open_table(KEYS).map_err(failed)?,
                groups: write.open_table(GROUPS).map_err(failed)?,
            };
            work(&mut writing)?
        };
        commit(write, durability)?;
        Ok(result)
    }
}

fn commit(mut write: WriteTransaction, durability: Durability) -> Result<(), StoreError> {
    if let Durability::Immediate = durability {
        // Opening after a crash must not walk the whole database.
        write.set_quick_repair(true);
    }
    write.set_durability(durability).map_err(failed)?;
    write.commit().map_err(failed)
}

/// A consistent view of the database.
pub(crate) struct Reading {
    keys: ReadOnlyTable<&'static [u8], &'static [u8]>,
    groups: ReadOnlyTable<u32, &'static [u8]>,
}

impl Reading {
    fn begin(redb: &redb::Database) -> Result<Self, StoreError> {
        let read: ReadTransaction = redb.begin_read().map_err(failed)?;
        Ok(Reading {
            keys: read.open_table(KEYS).map_err(failed)?,
            groups: read.open_table(GROUPS).map_err(failed)?,
        })
    }

    /// A group's record, if the group was ever here.
    pub fn group(&self, group: GroupId) -> Result<Option<GroupRecord>, StoreError> {
        let record = self.groups.get(group.0).map_err(failed)?;
        record
            .map(|bytes| GroupRecord::decode(bytes.value()))
            .transpose()
    }

    /// The groups that have a record.
    pub fn group_ids(&self) -> Result<Vec<GroupId>, StoreError> {
        let mut ids = Vec::new();
        for row in self.groups.iter().map_err(failed)? {
            ids.push(GroupId(row.map_err(failed)?.0.value()));
        }
        Ok(ids)
    }

    /// The keys of a group, as its machine sees them.
    pub fn view(&self, group: GroupId, generation: u32) -> GroupView<'_> {
        GroupView {
            keys: &self.keys,
            prefix: prefix(group, generation),
        }
    }
}

fn prefix(group: GroupId, generation: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&group.0.to_be_bytes());
    out[4..].copy_from_slice(&generation.to_be_bytes());
    out
}

fn full_key(prefix: [u8; 8], key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + key.len());
    out.extend_from_slice(&prefix);
    out.extend_from_slice(key);
    out
}

/// The end of a prefix's keys: the next prefix (the last of all is never used).
fn end_of(prefix: [u8; 8]) -> [u8; 8] {
    (u64::from_be_bytes(prefix) + 1).to_be_bytes()
}

fn get<T: ReadableTable<&'static [u8], &'static [u8]>>(
    keys: &T,
    prefix: [u8; 8],
    key: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let found = keys.get(full_key(prefix, key).as_slice()).map_err(failed)?;
    Ok(found.map(|value| value.value().to_vec()))
}

fn scan<T: ReadableTable<&'static [u8], &'static [u8]>>(
    keys: &T,
    prefix: [u8; 8],
    from: &[u8],
    to: Option<&[u8]>,
    visit: Visit<'_>,
) -> Result<(), StoreError> {
    let from = full_key(prefix, from);
    let to = to.map_or_else(|| end_of(prefix).to_vec(), |to| full_key(prefix, to));
    if from >= to {
        return Ok(());
    }
    for row in keys.range(from.as_slice()..to.as_slice()).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if let ControlFlow::Break(()) = visit(&key.value()[8..], value.value()) {
            break;
        }
    }
    Ok(())
}

/// One group's keys in a [`Reading`].
pub(crate) struct GroupView<'a> {
    keys: &'a ReadOnlyTable<&'static [u8], &'static [u8]>,
    prefix: [u8; 8],
}

impl View for GroupView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.keys, self.prefix, key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        scan(self.keys, self.prefix, from, to, visit)
    }
}

/// A commit in the making.
pub(crate) struct Writing<'a> {
    keys: Table<'a, &'static [u8], &'static [u8]>,
    groups: Table<'a, u32, &'static [u8]>,
}

impl<'a> Writing<'a> {
    /// A group's keys, for its machine.
    pub fn batch(&mut self, group: GroupId, generation: u32) -> GroupBatch<'_, 'a> {
        GroupBatch {
            keys: &mut self.keys,
            prefix: prefix(group, generation),
        }
    }

    /// Sets a group's record.
    pub fn set_group(&mut self, group: GroupId, record: &GroupRecord) -> Result<(), StoreError> {
        self.groups
            .insert(group.0, record.encode().as_slice())
            .map_err(failed)?;
        Ok(())
    }

    /// Removes some keys of every generation of the group but `keep`; true when none are left.
    pub fn remove_stale(&mut self, group: GroupId, keep: u32) -> Result<bool, StoreError> {
        let mut stale = Vec::new();
        let mut from = prefix(group, 0);
        let end = (u64::from(group.0) + 1) << 32;
        while u64::from_be_bytes(from) < end && stale.len() < STALE_KEYS_PER_COMMIT {
            let mut rows = self
                .keys
                .range(from.as_slice()..end.to_be_bytes().as_slice())
                .map_err(failed)?;
            let Some(row) = rows.next() else { break };
            let key = row.map_err(failed)?.0.value().to_vec();
            let Some(found) = key.first_chunk::<8>().copied() else {
                return Err(StoreError::Damaged("a key is too short".into()));
            };
            if found == prefix(group, keep) {
                from = end_of(found);
                continue;
            }
            stale.push(key);
            for row in rows.take(STALE_KEYS_PER_COMMIT - stale.len()) {
                let key = row.map_err(failed)?.0.value().to_vec();
                if key[..8] != found[..] {
                    break;
                }
                stale.push(key);
            }
            from = end_of(found);
        }
        for key in &stale {
            self.keys.remove(key.as_slice()).map_err(failed)?;
        }
        Ok(stale.len() < STALE_KEYS_PER_COMMIT)
    }
}

/// One group's keys in a [`Writing`].
pub(crate) struct GroupBatch<'w, 'a> {
    keys: &'w mut Table<'a, &'static [u8], &'static [u8]>,
    prefix: [u8; 8],
}

impl View for GroupBatch<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        get(self.keys, self.prefix, key)
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), StoreError> {
        scan(self.keys, self.prefix, from, to, visit)
    }
}

impl Batch for GroupBatch<'_, '_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.keys
            .insert(full_key(self.prefix, key).as_slice(), value)
            .map_err(failed)?;
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.keys
            .remove(full_key(self.prefix, key).as_slice())
            .map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use testkit::sim::SimDisk;
    use testkit::suites::store;

    use super::*;

    const GROUP: GroupId = GroupId(7);
    const GENERATION: u32 = 3;
    /// What lies right before and after the group's keys.
    const NEIGHBOURS: [(GroupId, u32); 4] = [
        (GroupId(6), u32::MAX),
        (GROUP, GENERATION - 1),
        (GROUP, GENERATION + 1),
        (GroupId(8), 0),
    ];

    struct InDatabase(Database);

    impl InDatabase {
        fn new() -> InDatabase {
            let database = Database::open(&SimDisk::new(), 1 << 20).unwrap();
            let filled = database.write(|writing| {
                NEIGHBOURS.into_iter().try_for_each(|(group, generation)| {
                    writing.batch(group, generation).put(b"\xFF", b"theirs")
                })
            });
            filled.unwrap();
            InDatabase(database)
        }
    }

    impl Drop for InDatabase {
        fn drop(&mut self) {
            let reading = self.0.read().unwrap();
            for (group, generation) in NEIGHBOURS {
                let theirs = reading.view(group, generation).get(b"\xFF").unwrap();
                assert_eq!(theirs.as_deref(), Some(&b"theirs"[..]));
            }
        }
    }

    impl store::Store for InDatabase {
        fn write(&mut self, work: &mut dyn FnMut(&mut dyn Batch)) {
            let written = self.0.write(|writing| {
                work(&mut writing.batch(GROUP, GENERATION));
                Ok(())
            });
            written.unwrap();
        }

        fn read(&self, look: &mut dyn FnMut(&dyn View)) {
            look(&self.0.read().unwrap().view(GROUP, GENERATION));
        }
    }

    #[test]
    fn a_groups_keys_are_a_store() {
        store::run(InDatabase::new);
    }
}
