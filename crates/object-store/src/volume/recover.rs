//! Reading volumes back at start: which records are there, and which are whole.
//!
//! A scan walks from header to header, one small read a record. Below the highest `synced_below` of the volume every
//! record was synced; above it a crash may have torn any of them, so those are read whole and verified. Where no header
//! is found (the room of a write that a crash caught) the scan goes on at the next 4 KiB: later records may be
//! acknowledged ones.

use std::sync::Arc;

use ids::BlockId;
use platform::{Disk, File};

use crate::volume::checkpoint::Covered;
use crate::volume::file::Volume;
use crate::volume::index::Place;
use crate::volume::record::{
    ALIGN, HEADER_BYTES, MARK_AT, RecordHeader, TOUCH_AT, TOUCH_BYTES, VolumeHeader, dead_mark,
    decode_touch,
};
use crate::volume::{BlockError, io_error};

/// How much a scan reads at once where it looks for the next header.
const WINDOW_BYTES: usize = 1 << 20;

/// A volume as a scan found it.
pub struct Recovered {
    /// Ready for reads, and for writes behind what it holds.
    pub volume: Volume,
    /// Its live records, in their order in the file.
    pub live: Vec<(BlockId, Place)>,
    /// Records that a crash had torn.
    pub torn: usize,
    /// Where the scan began: the checkpoint names the records before.
    pub from: u64,
}

/// The numbers of the volumes in the folder, ascending.
pub fn volume_numbers(names: &[String]) -> Vec<u32> {
    let number = |name: &String| u32::from_str_radix(name.strip_prefix("vol-")?, 16).ok();
    let mut numbers: Vec<u32> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// What a scan need not look at again.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// From the newest checkpoint.
    pub covered: Option<Covered>,
    /// Its number.
    pub checkpoint: u64,
}

/// Scans a volume; `None` when its creation never came to an end, so that it can hold nothing.
pub fn recover(
    disk: &dyn Disk,
    number: u32,
    before: Before,
) -> Result<Option<Recovered>, BlockError> {
    let file = disk
        .open(&Volume::path(number))
        .map_err(io_error("open a volume"))?;
    let len = file.len().map_err(io_error("read a volume's length"))?;
    if len <= VolumeHeader::LEN as u64 {
        // Torn while it was made: a record is written only after the header is durable.
        let mut head = vec![0; len as usize];
        file.read_at(0, &mut head)
            .map_err(io_error("read a volume header"))?;
        let whole = <[u8; VolumeHeader::LEN]>::try_from(head)
            .is_ok_and(|head| VolumeHeader::decode(&head).is_ok());
        if !whole {
            return Ok(None);
        }
    }
    let mut head = [0; VolumeHeader::LEN];
    file.read_at(0, &mut head)
        .map_err(io_error("read a volume header"))?;
    let header = VolumeHeader::decode(&head)?;
    if header.number != number {
        return Err(BlockError::Damaged(format!(
            "volume {number:08x} calls itself {:08x}",
            header.number
        )));
    }
    let from = covered_below(&*file, &header, len, before)?;
    Scan {
        file,
        header,
        len,
        from,
        found: Vec::new(),
    }
    .run()
    .map(Some)
}

/// Where the scan begins: behind what a checkpoint covers, if it can be believed about this volume.
fn covered_below(
    file: &dyn File,
    header: &VolumeHeader,
    len: u64,
    before: Before,
) -> Result<u64, BlockError> {
    let Some(covered) = before.covered.filter(|covered| {
        covered.key == header.key && covered.below <= len.next_multiple_of(ALIGN)
    }) else {
        return Ok(ALIGN);
    };
    let mut touch = [0; TOUCH_BYTES];
    if len >= TOUCH_AT + TOUCH_BYTES as u64 {
        file.read_at(TOUCH_AT, &mut touch)
            .map_err(io_error("read a volume header"))?;
    }
    let believed = decode_touch(&touch, &header.key) < before.checkpoint;
    Ok(if believed {
        covered.below.max(ALIGN)
    } else {
        ALIGN
    })
}

struct Scan {
    file: Arc<dyn File>,
    header: VolumeHeader,
    len: u64,
    from: u64,
    found: Vec<(u64, RecordHeader, bool)>,
}

impl Scan {
    fn run(mut self) -> Result<Recovered, BlockError> {
        let mut offset = self.from;
        while let Some((at, header, dead)) = self.next_record(offset)? {
            offset = header.end(at);
            self.found.push((at, header, dead));
        }
        let trusted = self
            .found
            .iter()
            .map(|(_, header, _)| header.synced_below)
            .max()
            .unwrap_or(0)
            .max(self.from);
        let mut live = Vec::new();
        let mut torn = 0;
        let mut unsynced = false;
        for (at, header, dead) in &self.found {
            if *dead {
                continue;
            }
            if *at >= trusted {
                unsynced = true;
                if !self.is_whole(*at, header)? {
                    // Or a later scan, which trusts what lies before synced records, would take it for whole.
                    let mark = dead_mark(&self.header.key, *at);
                    self.file
                        .write_at(at + MARK_AT, &mark)
                        .map_err(io_error("mark a torn record"))?;
                    torn += 1;
                    continue;
                }
            }
            live.push((
                header.id,
                Place::new(self.header.number, *at, header.len, header.stored_s),
            ));
        }
        if unsynced {
            // What a killed process wrote may still be only in the page cache.
            self.file.sync().map_err(io_error("sync a volume"))?;
        }
        let tail = self.len.max(offset).next_multiple_of(ALIGN).max(ALIGN);
        Ok(Recovered {
            volume: Volume::resume(self.header, self.file, tail),
            live,
            torn,
            from: self.from,
        })
    }

    /// The first record at or behind `offset`.
    fn next_record(&self, offset: u64) -> Result<Option<(u64, RecordHeader, bool)>, BlockError> {
        let mut head = [0; HEADER_BYTES];
        if !self.fits(offset, 0) {
            return Ok(None);
        }
        self.read(offset, &mut head)?;
        match self.decode(&head, offset) {
            Some(found) => Ok(Some(found)),
            None => self.search(offset + ALIGN),
        }
    }

    fn search(&self, mut offset: u64) -> Result<Option<(u64, RecordHeader, bool)>, BlockError> {
        let mut window = Vec::new();
        while self.fits(offset, 0) {
            window.resize(WINDOW_BYTES.min((self.len - offset) as usize), 0);
            self.read(offset, &mut window)?;
            for at in (0..window.len()).step_by(ALIGN as usize) {
                let Some(head) = window.get(at..at + HEADER_BYTES) else {
                    break;
                };
                let head = head.try_into().expect("the slice has the header's length");
                if let Some(found) = self.decode(head, offset + at as u64) {
                    return Ok(Some(found));
                }
            }
            offset += WINDOW_BYTES as u64;
        }
        Ok(None)
    }

    fn decode(&self, head: &[u8; HEADER_BYTES], offset: u64) -> Option<(u64, RecordHeader, bool)> {
        // Also one whose payload the file is too short for: nothing may be written into the room that it claims, or a later
        // scan would step over it.
        let (header, dead) = RecordHeader::decode(head, &self.header.key, offset)?;
        Some((offset, header, dead))
    }

    fn fits(&self, offset: u64, len: u32) -> bool {
        offset + HEADER_BYTES as u64 + u64::from(len) <= self.len
    }

    fn is_whole(&self, offset: u64, header: &RecordHeader) -> Result<bool, BlockError> {
        if !self.fits(offset, header.len) {
            return Ok(false);
        }
        let mut payload = vec![0; header.len as usize];
        self.read(offset + HEADER_BYTES as u64, &mut payload)?;
        Ok(blake3::hash(&payload).as_bytes() == &header.hash)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), BlockError> {
        self.file
            .read_at(offset, out)
            .map_err(io_error("scan a volume"))
    }
}
