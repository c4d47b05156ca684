//! A disk in memory that forgets what was not synced.
//!
//! Each file has two contents: what a reader sees now, and what is surely on the disk; the changes between the two wait
//! in order. A sync moves them over; a crash ([`SimDisk::crash`]) keeps or loses each at random, piece by piece, so
//! that writes come out torn and out of order. Names (creations, renames, removals) wait per folder in the same way.
//!
//! Invariants:
//! - synced bytes under synced names survive every crash, but not [`SimDisk::flip_bit`];
//! - after a crash the handles of before fail: a machine that is gone can't write any more;
//! - a sync that fails loses what it was to make durable, while readers still see it, as Linux does.
//!
//! Folders need no sync of their own: one is there when it was used or a name in it is durable. A rename is durable by a
//! sync of the new name's folder. Nothing here takes time: see [`super::SimPlatform`].

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use platform::{Disk, File, Space};
use rand::rngs::StdRng;

use super::content::Change;
use super::inode::Inode;
use super::names::{Names, parent};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;

/// A disk's size until [`SimDisk::set_capacity`].
const CAPACITY_BYTES: u64 = 1 << 40;

/// Which operations a [`Fault`] hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultOn {
    /// Reads of bytes.
    Read,
    /// Writes, changes of length and holes.
    Write,
    /// Syncs of files and folders.
    Sync,
    /// Creations, renames and removals.
    Name,
}

/// An error that the disk will report instead of doing what it is asked.
#[derive(Debug, Clone)]
pub struct Fault {
    on: FaultOn,
    below: String,
    errno: i32,
    skip: u64,
    times: u64,
}

impl Fault {
    /// An input/output error at every such operation.
    pub fn io(on: FaultOn) -> Fault {
        Fault {
            on,
            below: String::new(),
            errno: EIO,
            skip: 0,
            times: u64::MAX,
        }
    }

    /// Only for paths that begin so.
    #[must_use]
    pub fn below(mut self, path: &str) -> Fault {
        self.below = path.to_owned();
        self
    }

    /// Only after `count` such operations went well.
    #[must_use]
    pub fn after(mut self, count: u64) -> Fault {
        self.skip = count;
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, count: u64) -> Fault {
        self.times = count;
        self
    }
}

/// A simulated disk as one run of a machine sees it; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    run: u64,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

#[derive(Default)]
struct State {
    run: u64,
    names: Names,
    faults: Vec<Fault>,
    read_only: bool,
    capacity: u64,
    used: Arc<AtomicU64>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> SimDisk {
        let state = State {
            capacity: CAPACITY_BYTES,
            ..State::default()
        };
        SimDisk {
            state: Arc::new(Mutex::new(state)),
            run: 0,
        }
    }

    /// The machine loses power: of what was not synced, each piece is kept or lost by chance. Returns the disk for the
    /// machine's next run; this one and its files only fail from now on.
    pub fn crash(&self, rng: &mut StdRng) -> SimDisk {
        let mut state = self.lock();
        state.names.lose_changes(rng);
        for (_, inode) in state.names.files() {
            inode.lose_changes(rng);
        }
        state.run += 1;
        SimDisk {
            state: self.state.clone(),
            run: state.run,
        }
    }

    /// The process dies, the machine lives: nothing is lost. Returns the disk for the next run; this one and its files
    /// only fail from now on.
    pub fn restart(&self) -> SimDisk {
        let mut state = self.lock();
        state.run += 1;
        SimDisk {
            state: self.state.clone(),
            run: state.run,
        }
    }

    /// Adds a fault; the first that fits an operation counts.
    pub fn inject(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }

    /// Refuses every change, as a file system does after an error.
    pub fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// Gives the disk another size in bytes; a write that doesn't fit fails half done.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Turns one bit of what lies on the disk and of what readers see.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        self.lock().inode(path)?.flip_bit(offset, bit);
        Ok(())
    }

    /// Every file that has a name, with its length, sorted: for tests that look for one to damage.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.lock();
        state
            .names
            .files()
            .map(|(path, inode)| (path.clone(), inode.len()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if this run is not over and no fault hits.
    fn begin(&self, on: FaultOn, path: &str) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.check_run(self.run)?;
        state.check_fault(on, path)?;
        Ok(state)
    }

    fn handle(&self, inode: Arc<Inode>, path: &str) -> Arc<dyn File> {
        Arc::new(SimFile {
            disk: self.clone(),
            inode,
            path: path.to_owned(),
        })
    }
}

impl State {
    fn check_run(&self, run: u64) -> io::Result<()> {
        if run == self.run {
            return Ok(());
        }
        Err(io::Error::other(
            "this run of the simulated machine is over",
        ))
    }

    fn check_fault(&mut self, on: FaultOn, path: &str) -> io::Result<()> {
        if self.read_only && matches!(on, FaultOn::Write | FaultOn::Name) {
            return Err(io::Error::from_raw_os_error(EROFS));
        }
        let fits = |fault: &&mut Fault| {
            fault.on == on && fault.times > 0 && path.starts_with(&fault.below)
        };
        let Some(fault) = self.faults.iter_mut().find(fits) else {
            return Ok(());
        };
        if fault.skip > 0 {
            fault.skip -= 1;
            return Ok(());
        }
        fault.times -= 1;
        Err(io::Error::from_raw_os_error(fault.errno))
    }

    fn inode(&self, path: &str) -> io::Result<&Arc<Inode>> {
        self.names
            .get(path)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn free(&self) -> u64 {
        self.capacity
            .saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let state = self.begin(FaultOn::Read, path)?;
        Ok(self.handle(state.inode(path)?.clone(), path))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.begin(FaultOn::Name, path)?;
        if let Ok(inode) = state.inode(path) {
            inode.change(Change::SetLen(0));
            return Ok(self.handle(inode.clone(), path));
        }
        if state.names.is_folder(path) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let inode = Inode::new(&state.used);
        state.names.create(path, inode.clone());
        Ok(self.handle(inode, path))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.begin(FaultOn::Read, dir)?;
        Ok(state.names.list(dir.trim_end_matches('/')))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let state = self.begin(FaultOn::Read, path)?;
        Ok(state.names.is_folder(path) || state.names.get(path).is_some())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin(FaultOn::Name, from)?;
        let inode = state.inode(from)?.clone();
        if !state.names.is_folder(parent(to)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.names.rename(from, to, inode);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.begin(FaultOn::Name, path)?.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let dir = dir.trim_end_matches('/');
        let mut state = self.begin(FaultOn::Sync, dir)?;
        if !state.names.is_folder(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.names.sync(dir);
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.begin(FaultOn::Read, "")?;
        Ok(Space {
            free: state.free(),
            total: state.capacity,
        })
    }
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    inode: Arc<Inode>,
    path: String,
}

impl SimFile {
    fn begin(&self, on: FaultOn) -> io::Result<MutexGuard<'_, State>> {
        self.disk.begin(on, &self.path)
    }

    fn may_write(&self, state: &mut State, offset: u64, len: usize) -> io::Result<()> {
        state.check_fault(FaultOn::Write, &self.path)?;
        let more = self.inode.would_take(offset, len);
        if more > 0 && more > state.free() {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let _state = self.begin(FaultOn::Read)?;
        match self.inode.read(offset, out) {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.check_run(self.disk.run)?;
        let allowed = self.may_write(&mut state, offset, data.len());
        if state.read_only {
            return allowed;
        }
        let done = if allowed.is_ok() {
            data
        } else {
            &data[..data.len() / 2]
        };
        self.inode.change(Change::Write {
            offset,
            data: done.to_vec(),
        });
        allowed
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.check_run(self.disk.run)?;
        let allowed = state.check_fault(FaultOn::Sync, &self.path);
        match allowed {
            Ok(()) => self.inode.sync(),
            Err(_) => self.inode.fail_sync(),
        }
        allowed
    }

    fn len(&self) -> io::Result<u64> {
        let _state = self.begin(FaultOn::Read)?;
        Ok(self.inode.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let _state = self.begin(FaultOn::Write)?;
        self.inode.change(Change::SetLen(len));
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let _state = self.begin(FaultOn::Write)?;
        self.inode.change(Change::Punch { offset, len });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
