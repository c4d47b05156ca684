//! The block store of one node: blocks in append-only volume files.
//!
//! Consistency: a block is immutable. [`BlockStore::put`] returns when the block is durable, and answers a repeat with
//! the same hash by success; other bytes under the same id are refused. [`BlockStore::get`] gives verified bytes or an
//! error, never other bytes.
//!
//! Crash: what was acknowledged is there after a restart; what was not may be there whole, or not at all. A delete that
//! was acknowledged stays done.
//!
//! Cancellation: a `put` that began to write goes on to its end without its caller, in a task of its own: a record that is
//! on disk is in the index, or the next start finds it. A dropped `delete` may still happen; the store stays sound.
//!
//! Start: the index is kept in memory; a checkpoint of it on disk spares a start the reading of most headers.
//!
//! Space: a dead block's payload is punched out of its file at once; its 4 KiB header page goes with the file, when
//! nothing live is left in it.
//!
//! It knows nothing of placement groups and references: who may delete what is the callers' business.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures::future::BoxFuture;
use ids::BlockId;
use platform::{Disk, Platform};
use tokio::sync::Semaphore;

mod checkpoint;
mod delete;
mod file;
mod index;
mod record;
mod recover;

use checkpoint::Covered;
use file::{Reservation, Ticket, Volume};
use index::{Index, Place};
use record::{HEADER_BYTES, RecordHeader, VolumeHeader};

/// The folder of the volumes.
pub const DIR: &str = "blocks";
/// The largest block.
pub const BLOCK_BYTES_MAX: usize = 64 << 20;
/// Bytes of blocks that are being written at one time; what is more waits, so that callers who leave pile up nothing.
const WRITING_BYTES_MAX: usize = 128 << 20;
const WRITING_UNIT: usize = 1024;
/// The most index entries that one page of [`BlockStore::older_than`] looks at.
const PAGE_LOOKS_MAX: usize = 100_000;
/// Index entries that a checkpoint copies while it holds the index.
const CHECKPOINT_PAGE: usize = 4096;

/// Why the block store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BlockError {
    #[error("there is no block {0} on this node")]
    NotFound(BlockId),
    #[error("the copy of block {0} on this node is damaged: its bytes don't fit its hash")]
    Corrupt(BlockId),
    #[error("block {0} is stored with other bytes already")]
    Conflict(BlockId),
    #[error("block {0} is being written by another request: ask again")]
    Busy(BlockId),
    #[error("the bytes that came for block {0} don't fit its hash")]
    BadHash(BlockId),
    #[error("a block has 1 to {BLOCK_BYTES_MAX} bytes, this one {0}")]
    BadLength(usize),
    #[error(
        "the disk is full: {free} bytes are free, {reserve} are kept for metadata; free some space"
    )]
    Full { free: u64, reserve: u64 },
    #[error("volume {volume:08x} takes no more writes, a sync of it failed: {why}; check the disk")]
    Fenced { volume: u32, why: String },
    #[error("can't {what}: {why}")]
    Io { what: &'static str, why: String },
    #[error("damaged {0}")]
    Damaged(String),
    #[error("a volume has format {found}, this program knows up to {known}: upgrade this node")]
    Newer { found: u8, known: u8 },
}

/// Bounds of a store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// A volume that has reached this length takes no more blocks.
    pub volume_bytes: u64,
    /// Free space that blocks must leave, so that logs and metadata can still be written.
    pub reserve_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            volume_bytes: 1 << 30,
            reserve_bytes: 64 << 20,
        }
    }
}

/// What a store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StoreStats {
    /// Blocks that can be read.
    pub blocks: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// Lengths of the volume files together (punched holes take no space but count).
    pub volume_bytes: u64,
    /// Volume files.
    pub volumes: u64,
    /// Volumes that could not be read at start, by name, with the reason.
    pub damaged_volumes: Vec<String>,
    /// Volumes that a failed sync fenced, with the reason.
    pub fenced_volumes: Vec<String>,
    /// Records of unacknowledged writes that a crash had torn, dropped at start.
    pub torn_at_start: u64,
    /// Reads that found damaged bytes since the start.
    pub corrupt_reads: u64,
}

/// A block with its hash, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// BLAKE3 of the bytes.
    pub hash: [u8; 32],
    /// The bytes.
    pub data: Bytes,
}

/// See the module.
#[derive(Debug)]
pub struct BlockStore {
    platform: Arc<dyn Platform>,
    options: StoreOptions,
    index: Arc<RwLock<Index>>,
    volumes: RwLock<BTreeMap<u32, Arc<Volume>>>,
    active: Mutex<Option<Arc<Volume>>>,
    /// The number of the next volume; whoever holds it makes one, the others wait.
    rolling: tokio::sync::Mutex<u32>,
    busy: Mutex<BTreeSet<BlockId>>,
    writing: Arc<Semaphore>,
    /// Shared by deletes between their marks and the index; taken alone when a checkpoint begins.
    deletes: tokio::sync::RwLock<()>,
    /// The number of the newest checkpoint that was begun.
    checkpoint: AtomicU64,
    checkpointing: tokio::sync::Mutex<()>,
    /// Puts and deletes since then.
    changes: AtomicU64,
    damaged: Vec<String>,
    torn: u64,
    corrupt_reads: AtomicU64,
}

impl BlockStore {
    /// Opens the store of a node, reading its volumes back.
    ///
    /// # Errors
    /// When the folder can't be read, or holds a volume of a newer version. A damaged volume is left alone and named in
    /// [`StoreStats`]: its blocks are missing here, other nodes have copies.
    pub fn open(
        platform: Arc<dyn Platform>,
        options: StoreOptions,
    ) -> BoxFuture<'static, Result<Self, BlockError>> {
        Box::pin(async move {
            let disk = platform.disk();
            let found = platform.blocking(move || Found::read(&*disk)).await?;
            let last = found
                .volumes
                .last_key_value()
                .map_or(0, |(number, _)| *number);
            let active = found.volumes.get(&last).cloned();
            for volume in found.volumes.values() {
                if active
                    .as_ref()
                    .is_none_or(|active| !Arc::ptr_eq(active, volume))
                {
                    volume.seal();
                }
            }
            let store = BlockStore {
                platform,
                options,
                index: Arc::new(RwLock::new(found.index)),
                volumes: RwLock::new(found.volumes),
                active: Mutex::new(active),
                rolling: tokio::sync::Mutex::new(found.next),
                busy: Mutex::default(),
                writing: Arc::new(Semaphore::new(WRITING_BYTES_MAX / WRITING_UNIT)),
                deletes: tokio::sync::RwLock::default(),
                checkpoint: AtomicU64::new(found.checkpoint),
                checkpointing: tokio::sync::Mutex::default(),
                changes: AtomicU64::new(found.scanned),
                damaged: found.damaged,
                torn: found.torn,
                corrupt_reads: AtomicU64::new(0),
            };
            store.remove_spent().await?;
            Ok(store)
        })
    }

    /// Stores a block whose bytes came from elsewhere: verifies them, then as [`BlockStore::put_hashed`].
    pub async fn put(
        self: &Arc<Self>,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> Result<(), BlockError> {
        let bytes = data.clone();
        let fits = self
            .platform
            .blocking(move || blake3::hash(&bytes).as_bytes() == &hash)
            .await;
        if !fits {
            return Err(BlockError::BadHash(id));
        }
        self.put_hashed(id, hash, data).await
    }

    /// Stores a block whose hash this process computed; returns when it is durable.
    pub async fn put_hashed(
        self: &Arc<Self>,
        id: BlockId,
        hash: [u8; 32],
        data: Bytes,
    ) -> Result<(), BlockError> {
        let len = match u32::try_from(data.len()) {
            Ok(len) if len > 0 && data.len() <= BLOCK_BYTES_MAX => len,
            _ => return Err(BlockError::BadLength(data.len())),
        };
        let busy = Busy::enter(self, id)?;
        let units = data.len().div_ceil(WRITING_UNIT) as u32;
        // Never closed.
        let room = self.writing.clone().acquire_many_owned(units).await.ok();
        let writing = tokio::spawn(async move {
            let result = busy.store.put_alone(id, hash, len, data).await;
            drop((busy, room));
            result
        });
        writing.await.unwrap_or_else(|error| {
            Err(BlockError::Io {
                what: "store a block",
                why: error.to_string(),
            })
        })
    }

    /// Stores a block that nobody else is writing.
    async fn put_alone(
        &self,
        id: BlockId,
        hash: [u8; 32],
        len: u32,
        data: Bytes,
    ) -> Result<(), BlockError> {
        if self.place(&id).is_some() {
            match self.get(id).await {
                Ok(there) if there.hash == hash => return Ok(()),
                Ok(_) => return Err(BlockError::Conflict(id)),
                Err(BlockError::Corrupt(_)) => drop(self.delete(&[id]).await?),
                Err(BlockError::NotFound(_)) => {}
                Err(other) => return Err(other),
            }
        }
        self.append(id, hash, len, data).await
    }

    async fn append(
        &self,
        id: BlockId,
        hash: [u8; 32],
        len: u32,
        data: Bytes,
    ) -> Result<(), BlockError> {
        let (volume, room) = self.reserve(len).await?;
        let stored_s = u32::try_from(self.platform.wall_ms().0 / 1000).unwrap_or(u32::MAX);
        let header = RecordHeader {
            id,
            len,
            hash,
            stored_s,
            synced_below: room.synced_below,
        };
        let place = Place::new(volume.header.number, room.offset, len, stored_s);
        let (disk, reserve, writer) = (
            self.platform.disk(),
            self.options.reserve_bytes,
            volume.clone(),
        );
        let ticket = self
            .platform
            .blocking(move || write_record(&*disk, reserve, &writer, &room, &header, &data))
            .await?;
        volume.sync_up_to(&self.platform, ticket).await?;
        self.index_mut().insert(id, place);
        volume.add_live(place.offset(), len);
        self.changes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn reserve(&self, len: u32) -> Result<(Arc<Volume>, Reservation), BlockError> {
        loop {
            if let Some(reserved) = self.reserve_in_active(len) {
                return Ok(reserved);
            }
            let mut next = self.rolling.lock().await;
            if let Some(reserved) = self.reserve_in_active(len) {
                return Ok(reserved);
            }
            let mut key = [0; 32];
            self.platform.fill_random(&mut key);
            let (disk, header) = (self.platform.disk(), VolumeHeader { number: *next, key });
            *next += 1;
            let reserve = self.options.reserve_bytes;
            let volume = self
                .platform
                .blocking(move || create_volume(&*disk, reserve, header))
                .await?;
            let volume = Arc::new(volume);
            self.volumes_mut().insert(header.number, volume.clone());
            let old = self.active().replace(volume);
            if let Some(old) = old {
                old.seal();
            }
        }
    }

    fn reserve_in_active(&self, len: u32) -> Option<(Arc<Volume>, Reservation)> {
        let active = self.active().clone()?;
        let room = active.reserve(len, self.options.volume_bytes)?;
        Some((active, room))
    }

    /// Reads a block and verifies it.
    pub async fn get(&self, id: BlockId) -> Result<StoredBlock, BlockError> {
        self.read(id, Payload::Verified).await
    }

    /// Reads a block for someone who will verify the bytes against the hash.
    pub async fn get_unverified(&self, id: BlockId) -> Result<StoredBlock, BlockError> {
        self.read(id, Payload::AsItIs).await
    }

    async fn read(&self, id: BlockId, payload: Payload) -> Result<StoredBlock, BlockError> {
        let place = self.place(&id).ok_or(BlockError::NotFound(id))?;
        let volume = self.volume(place.volume).ok_or(BlockError::NotFound(id))?;
        let read = self
            .platform
            .blocking(move || read_record(&volume, id, place, payload))
            .await;
        match read {
            // Deleted while it was read: the payload may have been punched out already.
            Err(_) if self.place(&id) != Some(place) => Err(BlockError::NotFound(id)),
            Err(BlockError::Corrupt(_)) => {
                self.corrupt_reads.fetch_add(1, Ordering::Relaxed);
                tracing::error!(block = %id, volume = place.volume, offset = place.offset(), "a block is damaged");
                Err(BlockError::Corrupt(id))
            }
            other => other,
        }
    }

    /// Writes the index to disk, if it changed; called now and then, and before a clean stop.
    pub fn checkpoint(&self) -> BoxFuture<'_, Result<(), BlockError>> {
        Box::pin(async move {
            let _one = self.checkpointing.lock().await;
            let changes = self.changes.load(Ordering::Relaxed);
            if changes == 0 {
                return Ok(());
            }
            // A delete from here on touches its volume with this number; those before are in the index.
            let number = {
                let _no_delete = self.deletes.write().await;
                self.checkpoint.fetch_add(1, Ordering::Relaxed) + 1
            };
            let covered = |volume: &Arc<Volume>| Covered {
                key: volume.header.key,
                below: volume.listed_below(),
            };
            let volumes: BTreeMap<u32, Covered> = {
                let volumes = self.volumes.read().unwrap_or_else(PoisonError::into_inner);
                volumes
                    .iter()
                    .map(|(number, volume)| (*number, covered(volume)))
                    .collect()
            };
            let (disk, index) = (self.platform.disk(), self.index.clone());
            let write = move || {
                let mut after = None;
                checkpoint::write(&*disk, number, &volumes, || {
                    let page = index
                        .read()
                        .unwrap_or_else(PoisonError::into_inner)
                        .page(after, CHECKPOINT_PAGE);
                    after = page.last().map(|(id, _)| *id);
                    page
                })
            };
            self.platform
                .blocking(write)
                .await
                .map_err(io_error("write the block index"))?;
            self.changes.fetch_sub(changes, Ordering::Relaxed);
            Ok(())
        })
    }

    /// Which of these blocks are here.
    pub fn has(&self, ids: &[BlockId]) -> Vec<bool> {
        let index = self.index();
        ids.iter().map(|id| index.get(id).is_some()).collect()
    }

    /// The length of a block that is here.
    pub fn len_of(&self, id: &BlockId) -> Option<u32> {
        self.place(id).map(|place| place.len)
    }

    /// A page of blocks that were stored before `before_s` (seconds since 1970), in order of id: at most `max`, and the
    /// id to go on after while there may be more.
    pub fn older_than(
        &self,
        before_s: u32,
        after: Option<BlockId>,
        max: usize,
    ) -> (Vec<BlockId>, Option<BlockId>) {
        self.index()
            .older_than(before_s, after, max, PAGE_LOOKS_MAX)
    }

    /// What the store holds.
    pub fn stats(&self) -> StoreStats {
        let mut stats = StoreStats {
            blocks: self.index().len() as u64,
            damaged_volumes: self.damaged.clone(),
            torn_at_start: self.torn,
            corrupt_reads: self.corrupt_reads.load(Ordering::Relaxed),
            ..StoreStats::default()
        };
        for (number, volume) in self
            .volumes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            let (len, live) = volume.usage();
            stats.volumes += 1;
            stats.volume_bytes += len;
            stats.live_bytes += live;
            if let Some(why) = volume.fence_reason() {
                stats.fenced_volumes.push(format!("{number:08x}: {why}"));
            }
        }
        stats
    }

    fn place(&self, id: &BlockId) -> Option<Place> {
        self.index().get(id)
    }

    fn volume(&self, number: u32) -> Option<Arc<Volume>> {
        self.volumes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&number)
            .cloned()
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn volumes_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Arc<Volume>>> {
        self.volumes.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn active(&self) -> MutexGuard<'_, Option<Arc<Volume>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a block is being written, until it is dropped.
struct Busy {
    store: Arc<BlockStore>,
    id: BlockId,
}

impl Busy {
    fn enter(store: &Arc<BlockStore>, id: BlockId) -> Result<Self, BlockError> {
        if store
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id)
        {
            let store = store.clone();
            Ok(Busy { store, id })
        } else {
            Err(BlockError::Busy(id))
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.store
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// What the folder holds at start.
#[derive(Default)]
struct Found {
    index: Index,
    volumes: BTreeMap<u32, Arc<Volume>>,
    damaged: Vec<String>,
    torn: u64,
    next: u32,
    checkpoint: u64,
    /// Records that the newest checkpoint does not name.
    scanned: u64,
}

impl Found {
    fn read(disk: &dyn Disk) -> Result<Self, BlockError> {
        let names = disk.list(DIR).map_err(io_error("list the volumes"))?;
        let newest = checkpoint::read_newest(disk, &names);
        let mut found = Found {
            next: 1,
            checkpoint: checkpoint::last_number(&names),
            ..Found::default()
        };
        let mut scanned_from = BTreeMap::new();
        let mut live = Vec::new();
        for number in recover::volume_numbers(&names) {
            found.next = number + 1;
            let covered = newest.volumes.get(&number).copied();
            match recover::recover(
                disk,
                number,
                recover::Before {
                    covered,
                    checkpoint: newest.number,
                },
            ) {
                Ok(Some(recovered)) => {
                    scanned_from.insert(number, recovered.from);
                    found.torn += recovered.torn as u64;
                    found.volumes.insert(number, Arc::new(recovered.volume));
                    live.extend(recovered.live);
                }
                Ok(None) => disk
                    .remove(&Volume::path(number))
                    .map_err(io_error("remove a torn volume"))?,
                Err(newer @ BlockError::Newer { .. }) => return Err(newer),
                Err(error) => {
                    tracing::error!(volume = number, %error, "a volume can't be read; its blocks are missing here");
                    found.damaged.push(format!("{number:08x}: {error}"));
                }
            }
        }
        let believed = |place: &Place| {
            scanned_from
                .get(&place.volume)
                .is_some_and(|from| place.offset() < *from)
        };
        newest
            .records
            .into_iter()
            .filter(|(_, place)| believed(place))
            .for_each(|(id, place)| found.list(id, place));
        found.scanned = live.len() as u64;
        live.into_iter()
            .for_each(|(id, place)| found.list(id, place));
        Ok(found)
    }

    fn list(&mut self, id: BlockId, place: Place) {
        let Some(volume) = self.volumes.get(&place.volume) else {
            return;
        };
        volume.add_live(place.offset(), place.len);
        let Some(older) = self.index.insert(id, place) else {
            return;
        };
        // Written twice, because the first write was not acknowledged.
        if let Some(volume) = self.volumes.get(&older.volume) {
            volume.drop_live(older.len);
            let _ = volume.mark_dead(older.offset());
        }
    }
}

fn create_volume(
    disk: &dyn Disk,
    reserve: u64,
    header: VolumeHeader,
) -> Result<Volume, BlockError> {
    check_space(disk, reserve, 0)?;
    Volume::create(disk, header).map_err(io_error("make a volume"))
}

fn write_record(
    disk: &dyn Disk,
    reserve: u64,
    volume: &Volume,
    room: &Reservation,
    header: &RecordHeader,
    payload: &Bytes,
) -> Result<Ticket, BlockError> {
    if let Err(full) = check_space(disk, reserve, u64::from(header.len)) {
        volume.release(room);
        return Err(full);
    }
    volume
        .write(room, header, payload)
        .map_err(io_error("write a block"))
}

fn check_space(disk: &dyn Disk, reserve: u64, len: u64) -> Result<(), BlockError> {
    let free = disk.space().map_err(io_error("ask for free space"))?.free;
    if free < reserve + len {
        Err(BlockError::Full { free, reserve })
    } else {
        Ok(())
    }
}

/// Whether a read checks the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Verified,
    AsItIs,
}

fn read_record(
    volume: &Volume,
    id: BlockId,
    place: Place,
    payload: Payload,
) -> Result<StoredBlock, BlockError> {
    let mut bytes = vec![0; HEADER_BYTES + place.len as usize];
    volume
        .file
        .read_at(place.offset(), &mut bytes)
        .map_err(io_error("read a block"))?;
    let head = bytes[..HEADER_BYTES]
        .try_into()
        .expect("the slice has the header's length");
    let header = match RecordHeader::decode(head, &volume.header.key, place.offset()) {
        Some((header, _)) if header.id == id && header.len == place.len => header,
        _ => return Err(BlockError::Corrupt(id)),
    };
    if payload == Payload::Verified
        && blake3::hash(&bytes[HEADER_BYTES..]).as_bytes() != &header.hash
    {
        return Err(BlockError::Corrupt(id));
    }
    Ok(StoredBlock {
        hash: header.hash,
        data: Bytes::from(bytes).slice(HEADER_BYTES..),
    })
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> BlockError {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull => BlockError::Full {
            free: 0,
            reserve: 0,
        },
        _ => BlockError::Io {
            what,
            why: error.to_string(),
        },
    }
}
