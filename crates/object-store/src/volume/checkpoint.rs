//! The index on disk, so that a start need not read the header of every block.
//!
//! A checkpoint says for each volume how far it covers it (`below`) and names the live records there; a start scans only
//! what lies behind. Volumes are the truth: a checkpoint that is damaged, missing or of an unknown version costs time only.
//!
//! Deletes: the first delete in a volume after checkpoint `n` writes `n` as its *touch* beside the volume header, in the
//! sync that makes the delete durable. A start believes checkpoint `n` about a volume only when its touch is below `n`.
//!
//! ```text
//! magic, version, number │ volumes: number, key, below │ records: id, volume, slot, len, stored_s │ BLAKE3 of all before
//! ```

use std::collections::BTreeMap;
use std::io;

use ids::BlockId;
use platform::{Disk, File};

use crate::volume::DIR;
use crate::volume::index::Place;
use crate::volume::record::ALIGN;

const MAGIC: &[u8; 8] = b"SKERRYIX";
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 32;
const VOLUME_BYTES: usize = 48;
const RECORD_BYTES: usize = 40;
const HASH_BYTES: usize = 32;
const BUFFER_BYTES: usize = 1 << 20;

/// What a checkpoint says of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Covered {
    /// The volume's key: a later volume of the same number has another.
    pub key: [u8; 32],
    /// Live records that start below are named.
    pub below: u64,
}

/// A checkpoint that was read.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// Its number; 0 when there is none.
    pub number: u64,
    /// Its volumes.
    pub volumes: BTreeMap<u32, Covered>,
    /// Its records, in order of id.
    pub records: Vec<(BlockId, Place)>,
}

/// The path of a checkpoint.
fn path(number: u64) -> String {
    format!("{DIR}/index-{number:016x}")
}

/// The numbers of the checkpoints in the folder, ascending.
fn numbers(names: &[String]) -> Vec<u64> {
    let number = |name: &String| u64::from_str_radix(name.strip_prefix("index-")?, 16).ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// The highest number that a checkpoint in the folder has, damaged or not.
pub fn last_number(names: &[String]) -> u64 {
    numbers(names).last().copied().unwrap_or(0)
}

/// Reads the newest checkpoint that is whole.
pub fn read_newest(disk: &dyn Disk, names: &[String]) -> Checkpoint {
    for number in numbers(names).into_iter().rev() {
        match read(disk, number) {
            Ok(checkpoint) => return checkpoint,
            Err(error) => {
                tracing::warn!(number, %error, "a block index can't be used; the volumes are read instead")
            }
        }
    }
    Checkpoint::default()
}

fn read(disk: &dyn Disk, number: u64) -> io::Result<Checkpoint> {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let file = disk.open(&path(number))?;
    let mut reader = Reader::open(&*file)?;
    let head: [u8; HEAD_BYTES] = reader.take()?;
    let (volumes, records) = (u32_at(&head, 12), u32_at(&head, 24));
    if &head[..8] != MAGIC || u64_at(&head, 16) != number {
        return Err(invalid("it is no block index of this number"));
    }
    if head[8] != FORMAT {
        return Err(invalid("it has another format"));
    }
    let expected = HEAD_BYTES as u64
        + u64::from(volumes) * VOLUME_BYTES as u64
        + u64::from(records) * RECORD_BYTES as u64
        + HASH_BYTES as u64;
    if reader.len != expected {
        return Err(invalid("its length does not fit"));
    }
    let mut checkpoint = Checkpoint {
        number,
        ..Checkpoint::default()
    };
    for _ in 0..volumes {
        let bytes: [u8; VOLUME_BYTES] = reader.take()?;
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[16..48]);
        checkpoint.volumes.insert(
            u32_at(&bytes, 0),
            Covered {
                key,
                below: u64_at(&bytes, 8),
            },
        );
    }
    for _ in 0..records {
        let bytes: [u8; RECORD_BYTES] = reader.take()?;
        let mut id = [0; BlockId::LEN];
        id.copy_from_slice(&bytes[..24]);
        let offset = u64::from(u32_at(&bytes, 28)) * ALIGN;
        let place = Place::new(
            u32_at(&bytes, 24),
            offset,
            u32_at(&bytes, 32),
            u32_at(&bytes, 36),
        );
        checkpoint.records.push((BlockId::from_bytes(&id), place));
    }
    let hash = reader.hasher.finalize();
    let found: [u8; HASH_BYTES] = reader.take()?;
    if &found != hash.as_bytes() {
        return Err(invalid("its bytes don't fit its hash"));
    }
    Ok(checkpoint)
}

/// Writes a checkpoint; `pages` gives records page by page until it gives none. Durable when it returns; older ones are
/// removed.
pub fn write(
    disk: &dyn Disk,
    number: u64,
    volumes: &BTreeMap<u32, Covered>,
    mut pages: impl FnMut() -> Vec<(BlockId, Place)>,
) -> io::Result<()> {
    let partial = format!("{DIR}/index.partial");
    let file = disk.create(&partial)?;
    let mut writer = Writer {
        file: &*file,
        buffer: Vec::new(),
        at: HEAD_BYTES as u64,
    };
    for (number, covered) in volumes {
        let mut bytes = [0; VOLUME_BYTES];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        bytes[8..16].copy_from_slice(&covered.below.to_le_bytes());
        bytes[16..].copy_from_slice(&covered.key);
        writer.put(&bytes)?;
    }
    let mut records = 0_u32;
    loop {
        let page = pages();
        if page.is_empty() {
            break;
        }
        for (id, place) in page {
            let mut bytes = [0; RECORD_BYTES];
            bytes[..24].copy_from_slice(&id.to_bytes());
            bytes[24..28].copy_from_slice(&place.volume.to_le_bytes());
            bytes[28..32].copy_from_slice(&((place.offset() / ALIGN) as u32).to_le_bytes());
            bytes[32..36].copy_from_slice(&place.len.to_le_bytes());
            bytes[36..].copy_from_slice(&place.stored_s.to_le_bytes());
            writer.put(&bytes)?;
            records += 1;
        }
    }
    writer.flush()?;
    let end = writer.at;
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8] = FORMAT;
    head[12..16].copy_from_slice(&(volumes.len() as u32).to_le_bytes());
    head[16..24].copy_from_slice(&number.to_le_bytes());
    head[24..28].copy_from_slice(&records.to_le_bytes());
    file.write_at(0, &head)?;
    // Hashed as it is read back: the records went out before their count was known.
    let mut reader = Reader::open(&*file)?;
    reader.skip(end)?;
    file.write_at(end, reader.hasher.finalize().as_bytes())?;
    file.sync()?;
    disk.rename(&partial, &path(number))?;
    disk.sync_dir(DIR)?;
    for old in numbers(&disk.list(DIR)?)
        .into_iter()
        .filter(|old| *old != number)
    {
        disk.remove(&path(old))?;
    }
    Ok(())
}

struct Writer<'a> {
    file: &'a dyn File,
    buffer: Vec<u8>,
    at: u64,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(self.at, &self.buffer)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

struct Reader<'a> {
    file: &'a dyn File,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
    used: usize,
    /// Over all that was taken.
    hasher: blake3::Hasher,
}

impl<'a> Reader<'a> {
    fn open(file: &'a dyn File) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Reader {
            file,
            len,
            at: 0,
            buffer: Vec::new(),
            used: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        if self.buffer.len() - self.used < N {
            self.buffer.drain(..self.used);
            self.used = 0;
            let more = (self.len - self.at).min(BUFFER_BYTES as u64) as usize;
            let have = self.buffer.len();
            self.buffer.resize(have + more, 0);
            self.file.read_at(self.at, &mut self.buffer[have..])?;
            self.at += more as u64;
        }
        let bytes = self
            .buffer
            .get(self.used..self.used + N)
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.hasher.update(bytes);
        self.used += N;
        Ok(bytes.try_into().expect("the slice has the wanted length"))
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let step = bytes.min(BUFFER_BYTES as u64) as usize;
            self.buffer.resize(step, 0);
            self.file.read_at(self.at, &mut self.buffer)?;
            self.hasher.update(&self.buffer);
            self.at += step as u64;
            bytes -= step as u64;
        }
        self.buffer.clear();
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
