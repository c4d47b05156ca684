//! TiKV's raft-engine with its default configuration, each write with `sync`.

use std::io::Result as IoResult;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use protobuf::well_known_types::BytesValue;
use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission};
use raft_engine::{Config, Engine, LogBatch, MessageExt};

use crate::{Appends, Contender, entry};

pub struct RaftEngine;

/// Entries are bytes that begin with their index.
struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry
            .value
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

impl Contender for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn append(
        &self,
        dir: &Path,
        writers: u32,
        len: usize,
        until: Instant,
    ) -> anyhow::Result<Appends> {
        let disk = Arc::new(CountingDisk::default());
        let engine = Engine::open_with_file_system(config(dir), disk.clone())?;
        let syncs_before = disk.syncs.load(Ordering::Relaxed);
        let appends = std::thread::scope(|scope| {
            let write = |group| {
                let engine = &engine;
                scope.spawn(move || -> raft_engine::Result<u64> {
                    let mut index = 0;
                    while Instant::now() < until {
                        append(engine, group, &[index], len)?;
                        index += 1;
                    }
                    Ok(index)
                })
            };
            let threads: Vec<_> = (0..u64::from(writers)).map(write).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a writer panicked"))
                .sum::<Result<u64, _>>()
        })?;
        Ok(Appends {
            appends,
            syncs: disk.syncs.load(Ordering::Relaxed) - syncs_before,
        })
    }

    fn fill(&self, dir: &Path, groups: u32, records: u64, len: usize) -> anyhow::Result<()> {
        const PER_CALL: u64 = 100;
        let engine = Engine::open(config(dir))?;
        for first in (0..records / u64::from(groups)).step_by(PER_CALL as usize) {
            let until = (first + PER_CALL).min(records / u64::from(groups));
            let indices: Vec<u64> = (first..until).collect();
            for group in 0..u64::from(groups) {
                append(&engine, group, &indices, len)?;
            }
        }
        Ok(())
    }

    fn open(&self, dir: &Path) -> anyhow::Result<u64> {
        let engine = Engine::open(config(dir))?;
        let count = |group| Some(engine.last_index(group)? - engine.first_index(group)? + 1);
        Ok(engine.raft_groups().into_iter().filter_map(count).sum())
    }
}

fn config(dir: &Path) -> Config {
    Config {
        dir: dir.to_string_lossy().into_owned(),
        ..Config::default()
    }
}

fn append(
    engine: &Engine<impl FileSystem>,
    group: u64,
    indices: &[u64],
    len: usize,
) -> raft_engine::Result<()> {
    let message = |index: &u64| {
        let mut message = BytesValue::new();
        message.value = entry(*index, len);
        message
    };
    let entries: Vec<_> = indices.iter().map(message).collect();
    let mut batch = LogBatch::default();
    batch.add_entries::<Entries>(group, &entries)?;
    engine.write(&mut batch, true)?;
    Ok(())
}

/// The default file system, with a count of its syncs.
#[derive(Default)]
struct CountingDisk {
    syncs: Arc<AtomicU64>,
}

struct CountingHandle {
    inner: Arc<<DefaultFileSystem as FileSystem>::Handle>,
    syncs: Arc<AtomicU64>,
}

impl Handle for CountingHandle {
    fn truncate(&self, offset: usize) -> IoResult<()> {
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> IoResult<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> IoResult<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }
}

impl CountingDisk {
    fn counting(&self, handle: <DefaultFileSystem as FileSystem>::Handle) -> CountingHandle {
        CountingHandle {
            inner: Arc::new(handle),
            syncs: self.syncs.clone(),
        }
    }
}

impl FileSystem for CountingDisk {
    type Handle = CountingHandle;
    type Reader = <DefaultFileSystem as FileSystem>::Reader;
    type Writer = <DefaultFileSystem as FileSystem>::Writer;

    fn create<P: AsRef<Path>>(&self, path: P) -> IoResult<CountingHandle> {
        DefaultFileSystem
            .create(path)
            .map(|handle| self.counting(handle))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> IoResult<CountingHandle> {
        DefaultFileSystem
            .open(path, permission)
            .map(|handle| self.counting(handle))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> IoResult<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> IoResult<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<CountingHandle>) -> IoResult<Self::Reader> {
        DefaultFileSystem.new_reader(handle.inner.clone())
    }

    fn new_writer(&self, handle: Arc<CountingHandle>) -> IoResult<Self::Writer> {
        DefaultFileSystem.new_writer(handle.inner.clone())
    }
}
