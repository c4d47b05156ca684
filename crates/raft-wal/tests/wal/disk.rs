//! A disk in memory that can lose what was not synced, flip bits and fail on demand.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use platform::{BlockingWork, Disk, File, Platform, Space, WallMs};

/// A write may reach the disk in pieces of this size, in any order.
const SECTOR: usize = 512;

/// A small generator: the tests' own randomness, from proptest's seed.
#[derive(Debug)]
pub struct Rng(AtomicU64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(AtomicU64::new(seed))
    }

    pub fn next(&self) -> u64 {
        let mut x = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    fn coin(&self) -> bool {
        self.next().is_multiple_of(2)
    }
}

#[derive(Debug, Clone)]
enum Unsynced {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

type Names = BTreeMap<String, Arc<Mutex<Content>>>;

#[derive(Debug, Default)]
struct Tree {
    now: Names,
    /// What the folder may look like after a crash: the first is synced, each later one is one step further.
    steps: Vec<Names>,
}

/// See the module.
#[derive(Debug)]
pub struct MemoryDisk {
    tree: Mutex<Tree>,
    /// Operations that change something until the power goes; negative: never.
    power: Arc<AtomicI64>,
}

impl MemoryDisk {
    pub fn new() -> Self {
        let tree = Tree {
            now: Names::new(),
            steps: vec![Names::new()],
        };
        MemoryDisk {
            tree: Mutex::new(tree),
            power: Arc::new(AtomicI64::new(-1)),
        }
    }

    /// From the `after`th changing operation on, each fails.
    pub fn cut_power(&self, after: i64) {
        self.power.store(after, Ordering::Relaxed);
    }

    /// What a machine finds that starts again: synced bytes, and of the rest whatever `rng` lets through.
    pub fn crash(&self, rng: &Rng) -> MemoryDisk {
        let tree = self.tree.lock().unwrap();
        let step = &tree.steps[rng.next() as usize % tree.steps.len()];
        let names = step
            .iter()
            .map(|(name, content)| (name.clone(), survive(&content.lock().unwrap(), rng)));
        MemoryDisk::holding(names.collect())
    }

    /// The files as they are.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let tree = self.tree.lock().unwrap();
        tree.now
            .iter()
            .map(|(name, content)| (name.clone(), content.lock().unwrap().now.clone()))
            .collect()
    }

    /// A disk with these files, all synced.
    pub fn holding(files: BTreeMap<String, Vec<u8>>) -> MemoryDisk {
        let disk = MemoryDisk::new();
        let content = |bytes: Vec<u8>| Content {
            now: bytes.clone(),
            durable: bytes,
            unsynced: Vec::new(),
        };
        let names: Names = files
            .into_iter()
            .map(|(name, bytes)| (name, Arc::new(Mutex::new(content(bytes)))))
            .collect();
        *disk.tree.lock().unwrap() = Tree {
            now: names.clone(),
            steps: vec![names],
        };
        disk
    }

    fn spend(&self) -> io::Result<()> {
        spend(&self.power)
    }

    fn rename_tree(&self, change: impl FnOnce(&mut Names) -> io::Result<()>) -> io::Result<()> {
        self.spend()?;
        let mut tree = self.tree.lock().unwrap();
        change(&mut tree.now)?;
        let now = tree.now.clone();
        tree.steps.push(now);
        Ok(())
    }
}

fn spend(power: &AtomicI64) -> io::Result<()> {
    match power.load(Ordering::Relaxed) {
        0 => Err(io::Error::other("the power is out")),
        left => {
            power.store(left - i64::from(left > 0), Ordering::Relaxed);
            Ok(())
        }
    }
}

fn survive(content: &Content, rng: &Rng) -> Vec<u8> {
    let mut bytes = content.durable.clone();
    for change in &content.unsynced {
        match change {
            Unsynced::SetLen(len) if rng.coin() => bytes.resize(*len as usize, 0),
            Unsynced::SetLen(_) => {}
            Unsynced::Write(offset, data) => {
                for (at, sector) in data.chunks(SECTOR).enumerate().filter(|_| rng.coin()) {
                    put(&mut bytes, *offset as usize + at * SECTOR, sector);
                }
            }
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    bytes.resize(bytes.len().max(offset + data.len()), 0);
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

#[derive(Debug)]
struct MemoryFile {
    content: Arc<Mutex<Content>>,
    power: Arc<AtomicI64>,
}

impl File for MemoryFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.content.lock().unwrap();
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(content.now.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.content.lock().unwrap();
        // A write that fails may have begun.
        content
            .unsynced
            .push(Unsynced::Write(offset, data.to_vec()));
        spend(&self.power)?;
        put(&mut content.now, offset as usize, data);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        spend(&self.power)?;
        let mut content = self.content.lock().unwrap();
        content.durable = content.now.clone();
        content.unsynced.clear();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        spend(&self.power)?;
        let mut content = self.content.lock().unwrap();
        content.now.resize(len as usize, 0);
        content.unsynced.push(Unsynced::SetLen(len));
        Ok(())
    }

    fn punch_hole(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let tree = self.tree.lock().unwrap();
        let content = tree.now.get(path).ok_or(io::ErrorKind::NotFound)?.clone();
        Ok(Arc::new(MemoryFile {
            content,
            power: self.power.clone(),
        }))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.rename_tree(|names| {
            names.insert(path.to_string(), Arc::default());
            Ok(())
        })?;
        self.open(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let tree = self.tree.lock().unwrap();
        let inside = |path: &String| Some(path.strip_prefix(dir)?.strip_prefix('/')?.to_string());
        Ok(tree.now.keys().filter_map(inside).collect())
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        Ok(self.tree.lock().unwrap().now.contains_key(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename_tree(|names| {
            let content = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            names.insert(to.to_string(), content);
            Ok(())
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.rename_tree(|names| {
            names.remove(path);
            Ok(())
        })
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        self.spend()?;
        let mut tree = self.tree.lock().unwrap();
        tree.steps = vec![tree.now.clone()];
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { free: 0, total: 0 })
    }
}

/// A platform on a [`MemoryDisk`]; blocking work runs in place, so a current-thread runtime is deterministic.
#[derive(Debug)]
pub struct TestPlatform {
    disk: Arc<MemoryDisk>,
    rng: Rng,
}

impl TestPlatform {
    pub fn shared(disk: Arc<MemoryDisk>, seed: u64) -> Arc<dyn Platform> {
        Arc::new(TestPlatform {
            disk,
            rng: Rng::new(seed),
        })
    }
}

#[async_trait]
impl Platform for TestPlatform {
    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }

    fn wall_ms(&self) -> WallMs {
        WallMs(0)
    }

    fn fill_random(&self, out: &mut [u8]) {
        for byte in out {
            *byte = self.rng.next() as u8;
        }
    }

    async fn run_blocking(&self, work: BlockingWork) {
        work();
        // Lets the next batch gather, as a real sync does.
        tokio::task::yield_now().await;
    }
}
