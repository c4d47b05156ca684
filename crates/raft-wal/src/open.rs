//! Finding the segments on a disk and bringing them to a state that can be written on.
//!
//! Nothing on disk changes before every segment was found right: damage leaves the evidence alone.

use std::collections::BTreeMap;

use platform::{Disk, File};

use crate::core::Segment;
use crate::index::Index;
use crate::recovery::{Recovery, SEGMENT_LEN_MAX, SegmentBytes, damaged};
use crate::segment::{self, HEADER_LEN, Header, Name, Spare};
use crate::writer::Active;
use crate::{WalError, WalOptions};

/// A log that is ready to be written on.
pub(crate) struct Opened {
    pub index: Index,
    pub segments: BTreeMap<u64, Segment>,
    pub active: Active,
    pub spares: Vec<Spare>,
    pub records: u64,
}

/// Opens the log in `dir`, or makes an empty one; `salt` is for a first segment.
pub(crate) fn open(
    disk: &dyn Disk,
    dir: &str,
    options: &WalOptions,
    salt: u64,
) -> Result<Opened, WalError> {
    let names = disk.list(dir).map_err(WalError::io("list its folder"))?;
    let number = |name: &String| match Name::of(name) {
        Name::Segment(number) => Some(number),
        _ => None,
    };
    let numbers: Vec<u64> = names.iter().filter_map(number).collect();
    let mut opened = match numbers.is_empty() {
        true => create(disk, dir, salt)?,
        false => recover(disk, dir, &numbers)?,
    };
    opened.spares = tidy(disk, dir, &names, options)?;
    Ok(opened)
}

/// Removes what a crash left unfinished and finds the spare files.
fn tidy(
    disk: &dyn Disk,
    dir: &str,
    names: &[String],
    options: &WalOptions,
) -> Result<Vec<Spare>, WalError> {
    let mut spares = Vec::new();
    for name in names {
        let path = format!("{dir}/{name}");
        match Name::of(name) {
            Name::Spare if spares.len() < options.spare_segments_max => {
                let file = disk
                    .open(&path)
                    .map_err(WalError::io("open a spare file"))?;
                spares.push(Spare { path, file });
            }
            Name::Spare | Name::Unfinished => disk
                .remove(&path)
                .map_err(WalError::io("remove a spare file"))?,
            Name::Segment(_) | Name::Other => {}
        }
    }
    Ok(spares)
}

fn create(disk: &dyn Disk, dir: &str, salt: u64) -> Result<Opened, WalError> {
    let number = 1;
    let head = segment::encode_head(number, salt, 0, &BTreeMap::new());
    let len = head.len() as u64;
    let file = segment::create(disk, dir, number, &head, None)?;
    let path = segment::path(dir, number).into();
    let segments = BTreeMap::from([(
        number,
        Segment {
            file: file.clone(),
            path,
            salt,
            len,
        },
    )]);
    let active = Active {
        number,
        file,
        salt,
        head_len: len,
        end: len,
    };
    Ok(Opened {
        index: Index::default(),
        segments,
        active,
        spares: Vec::new(),
        records: 0,
    })
}

fn recover(disk: &dyn Disk, dir: &str, numbers: &[u64]) -> Result<Opened, WalError> {
    let mut recovery = Recovery::default();
    let mut segments = BTreeMap::new();
    let mut last = None;
    for (at, number) in numbers.iter().enumerate() {
        let path = segment::path(dir, *number);
        let file = disk.open(&path).map_err(WalError::io("open a segment"))?;
        let sealed_len = match numbers.get(at + 1) {
            Some(next) if *next == number + 1 => Some(read_header(disk, dir, *next)?.previous_len),
            Some(next) => {
                let what = format!("the segment before it, number {}, is missing", next - 1);
                return Err(damaged(&segment::path(dir, *next), 0, what));
            }
            None => None,
        };
        let bytes = read(&*file, &path, u64::MAX)?;
        let scanned = recovery.segment(SegmentBytes {
            number: *number,
            path: &path,
            bytes: &bytes,
            sealed_len,
        })?;
        let segment = Segment {
            file,
            path: path.into(),
            salt: scanned.header.salt,
            len: scanned.end,
        };
        last = Some((*number, segment.clone(), scanned.header, bytes.len() as u64));
        segments.insert(*number, segment);
    }
    let recovered = recovery.finish(&segment::path(dir, numbers[0]))?;
    let Some((
        number,
        Segment {
            file,
            path,
            salt,
            len: end,
        },
        header,
        file_len,
    )) = last
    else {
        return Err(damaged(dir, 0, "there is no segment".into()));
    };
    cut(disk, dir, &*file, &path, end, file_len)?;
    let active = Active {
        number,
        file,
        salt,
        head_len: header.head_len,
        end,
    };
    Ok(Opened {
        index: recovered.index,
        segments,
        active,
        spares: Vec::new(),
        records: recovered.records,
    })
}

/// Drops what stands behind the last record: records of a torn batch must not show up behind new ones. Makes durable
/// what is kept: it may be here only because the system stayed up.
fn cut(
    disk: &dyn Disk,
    dir: &str,
    file: &dyn File,
    path: &str,
    end: u64,
    len: u64,
) -> Result<(), WalError> {
    if len > end {
        tracing::info!(
            path,
            end,
            bytes = len - end,
            "cutting what follows the last whole record"
        );
        file.set_len(end).map_err(WalError::io("cut a torn tail"))?;
    }
    file.sync().map_err(WalError::io("sync its segment"))?;
    disk.sync_dir(dir)
        .map_err(WalError::io("sync the log's folder"))
}

fn read_header(disk: &dyn Disk, dir: &str, number: u64) -> Result<Header, WalError> {
    let path = segment::path(dir, number);
    let file = disk.open(&path).map_err(WalError::io("open a segment"))?;
    let bytes = read(&*file, &path, HEADER_LEN as u64)?;
    SegmentBytes {
        number,
        path: &path,
        bytes: &bytes,
        sealed_len: None,
    }
    .header()
}

fn read(file: &dyn File, path: &str, bytes_max: u64) -> Result<Vec<u8>, WalError> {
    let len = file.len().map_err(WalError::io("measure a segment"))?;
    if len > SEGMENT_LEN_MAX {
        return Err(damaged(
            path,
            SEGMENT_LEN_MAX,
            "no segment is that long".into(),
        ));
    }
    let mut bytes = vec![0; len.min(bytes_max) as usize];
    file.read_at(0, &mut bytes)
        .map_err(WalError::io("read a segment"))?;
    Ok(bytes)
}
