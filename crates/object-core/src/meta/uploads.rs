//! Multipart uploads: parts come in any order, again and again; completing makes an object of those that are listed.
//!
//! Parts lie under their upload's id alone: gateways draw ids at random, two uploads never share one. Completing, aborting
//! and displacing cost a few key operations per part, at most 10,000 times.
//!
//! A caller that lost the answer to a completion asks again, perhaps much later and through another gateway, when no operation
//! id tells that it is a repeat. So an object in parts remembers its upload, and answers for it as long as its key shows it.

use std::collections::BTreeMap;

use ids::{BucketId, UploadId};
use raft_machine::{StoreError, View};

use super::change::{Change, Step, get, get_inline, invalid, scan_all};
use super::fences::check_open;
use super::multipart::{checksum_of_parts, is_possible, md5_of_parts};
use super::objects::{Checked, check_content, current, install, judge, pieces};
use super::records::{
    self, ContentRecord, ETagRecord, HeadRecord, Owner, PartContent, PartRecord, PieceRecord,
    PiecesRecord, UploadRecord, md5_of_hex,
};
use super::{Answer, Content, KeyRef, Outcome, Refused, keys, segments};
use crate::api::{
    Checksum, CompletedPart, Conditions, ETag, OBJECT_BYTES_MAX, PAGE_KEYS_MAX, PART_BYTES_MIN,
    PART_NUMBER_MAX, PartInfo, UploadInfo, VersionId,
};

/// What a completing caller says of the object.
pub(crate) struct Claimed {
    pub parts: Vec<CompletedPart>,
    pub checksum: Option<Vec<u8>>,
    pub size: Option<u64>,
}

/// Parts by number.
type Parts = BTreeMap<u16, PartRecord>;

pub(crate) fn create(
    change: &mut Change<'_>,
    at: &KeyRef,
    upload: UploadId,
    record: UploadRecord,
) -> Step {
    check_open(change, at)?;
    if record
        .checksum
        .is_some_and(|(kind, scope)| !is_possible(kind, scope))
    {
        return invalid("this checksum can't be had for an object in parts with this scope");
    }
    let key = keys::upload(at, upload);
    if change.view().get(&key)?.is_some() {
        return invalid("the upload was created before");
    }
    change.put(&key, &record)?;
    change.moved.uploads += 1;
    Ok(Outcome::Done)
}

pub(crate) fn put_part(
    change: &mut Change<'_>,
    at: &KeyRef,
    upload: UploadId,
    part: PartInfo,
    content: Content,
) -> Step {
    check_open(change, at)?;
    let record = load(change.view(), at, upload)?.ok_or(Refused::NoSuchUpload)?;
    let (number, md5) = check_part(&record, &part)?;
    let checked = check_content(change, at, content, part.size)?;
    let replaced: Option<PartRecord> = change.get(&keys::part(keys::PARTS, upload, number))?;

    if let Some(replaced) = replaced {
        clear_part(change, upload, number, &replaced)?;
    }
    let content = match checked {
        Checked::Inline(bytes) => {
            change.put_inline(&keys::part(keys::PART_INLINE, upload, number), &bytes)?;
            PartContent::Inline
        }
        Checked::Segment(ready) => {
            let segment = ready.segment;
            segments::commit(
                change,
                ready,
                Owner::Part {
                    upload,
                    part: number,
                },
            )?;
            PartContent::Segment(segment)
        }
    };
    let PartInfo {
        size,
        modified_ms,
        checksum,
        ..
    } = part.clone();
    let written = PartRecord {
        size,
        md5,
        modified_ms,
        checksum,
        content,
    };
    change.put(&keys::part(keys::PARTS, upload, number), &written)?;
    Ok(Outcome::Part(part))
}

pub(crate) fn complete(
    change: &mut Change<'_>,
    at: &KeyRef,
    upload: UploadId,
    claimed: &Claimed,
    conditions: &Conditions,
    modified_ms: u64,
) -> Step {
    check_open(change, at)?;
    let Some(record) = load(change.view(), at, upload)? else {
        return repeated(change.view(), at, upload, claimed);
    };
    let mut left_out = load_parts(change.view(), upload)?;
    let chosen = choose(&mut left_out, &claimed.parts)?;
    let size = check_sizes(&chosen, claimed.size)?;
    let checksum = check_checksum(&record, &chosen, claimed.checksum.as_deref())?;
    let old = current(change.view(), at)?;
    judge(conditions, old.as_ref())?;

    let head = HeadRecord {
        current: true,
        size,
        etag: ETagRecord::Parts(
            md5_of_parts(chosen.iter().map(|(_, part)| &part.md5)),
            chosen.len() as u16,
        ),
        modified_ms,
        owner: record.owner,
        content: ContentRecord::Pieces(chosen.len() as u16),
        checksum,
        headers: record.headers,
    };
    let inline = hand_over(change, at, upload, &chosen)?;
    let written = install(change, at, head, old, inline.as_deref())?;
    let made_of = chosen.iter().map(|(number, part)| PieceRecord {
        part: *number,
        size: part.size,
        content: part.content,
    });
    change.put(
        &keys::version(keys::PIECES, at, VersionId::Null),
        &PiecesRecord {
            upload: Some(upload),
            pieces: made_of.collect(),
        },
    )?;
    for (number, part) in &left_out {
        clear_part(change, upload, *number, part)?;
        change.delete(&keys::part(keys::PARTS, upload, *number))?;
    }
    forget(change, at, upload)?;
    Ok(Outcome::Written(written))
}

/// Answers a completion that was carried out before. Conditions are not judged again: they held when it took effect.
fn repeated(view: &dyn View, at: &KeyRef, upload: UploadId, claimed: &Claimed) -> Step {
    if let Some(head) = current(view, at)?
        && matches!(head.content, ContentRecord::Pieces(_))
    {
        let made_of = pieces(view, at)?;
        if made_of.upload == Some(upload) && is_claimed(&head, &made_of.pieces, claimed) {
            return Ok(Outcome::Written(head.written(VersionId::Null)));
        }
    }
    Err(Refused::NoSuchUpload.into())
}

/// Whether an object is what a completing caller says.
fn is_claimed(head: &HeadRecord, pieces: &[PieceRecord], claimed: &Claimed) -> bool {
    let listed = claimed.parts.iter();
    let md5s: Option<Vec<[u8; 16]>> = listed.map(|part| md5_of_hex(&part.etag.0)).collect();
    let Some(md5s) = md5s else { return false };
    let same_parts = claimed.parts.len() == pieces.len()
        && claimed
            .parts
            .iter()
            .zip(pieces)
            .all(|(listed, piece)| listed.part == piece.part);
    let value = head.checksum.as_ref().map(|checksum| &checksum.value);
    same_parts
        && head.etag == ETagRecord::Parts(md5_of_parts(md5s.iter()), pieces.len() as u16)
        && (claimed.checksum.is_none() || claimed.checksum.as_ref() == value)
        && claimed.size.is_none_or(|size| size == head.size)
}

pub(crate) fn abort(change: &mut Change<'_>, at: &KeyRef, upload: UploadId) -> Step {
    check_open(change, at)?;
    load(change.view(), at, upload)?.ok_or(Refused::NoSuchUpload)?;
    for (number, part) in &load_parts(change.view(), upload)? {
        clear_part(change, upload, *number, part)?;
        change.delete(&keys::part(keys::PARTS, upload, *number))?;
    }
    forget(change, at, upload)?;
    Ok(Outcome::Done)
}

/// Answers [`super::Query::ListUploads`].
pub(crate) fn list(
    view: &dyn View,
    bucket: BucketId,
    slots: &[u16],
    prefix: &str,
    after: Option<&(String, Option<UploadId>)>,
    max: u32,
) -> Result<Answer, StoreError> {
    let max = (max as usize).min(PAGE_KEYS_MAX);
    let mut uploads: BTreeMap<(String, UploadId), UploadInfo> = BTreeMap::new();
    for &slot in slots {
        let start = keys::starting_with(keys::UPLOADS, bucket, slot, prefix);
        let to = keys::after_all(start.clone());
        let passed = after.map(|(key, upload)| {
            let mut passed = keys::of_key(keys::UPLOADS, bucket, slot, key);
            passed.extend(upload.iter().flat_map(|upload| upload.0));
            keys::after_all(passed)
        });
        let from = start.max(passed.unwrap_or_default());
        let mut seen = 0;
        scan_all(view, &from, &to, |key, value| {
            let (key, id) = keys::split_key(key)?;
            let id = id
                .try_into()
                .map_err(|_| StoreError::Damaged("an upload's key".into()))?;
            let info = info(key.clone(), UploadId(id), records::decode(value)?);
            uploads.insert((key, UploadId(id)), info);
            seen += 1;
            Ok(seen <= max)
        })?;
    }
    let more = max > 0 && uploads.len() > max;
    Ok(Answer::Uploads {
        uploads: uploads.into_values().take(max).collect(),
        more,
    })
}

/// Answers [`super::Query::ListParts`].
pub(crate) fn parts(
    view: &dyn View,
    at: &KeyRef,
    upload: UploadId,
    after: u16,
    max: u32,
) -> Result<Option<(UploadInfo, Vec<PartInfo>, bool)>, StoreError> {
    let Some(record) = load(view, at, upload)? else {
        return Ok(None);
    };
    let max = (max as usize).min(PAGE_KEYS_MAX);
    let mut parts = Vec::new();
    let from = keys::part(keys::PARTS, upload, after.saturating_add(1));
    let to = keys::after_all(keys::part(keys::PARTS, upload, u16::MAX));
    scan_all(view, &from, &to, |key, value| {
        let PartRecord {
            size,
            md5,
            modified_ms,
            checksum,
            ..
        } = records::decode(value)?;
        let etag = ETag(hex::encode(md5));
        parts.push(PartInfo {
            part: keys::part_of(key)?,
            size,
            etag,
            modified_ms,
            checksum,
        });
        Ok(parts.len() <= max)
    })?;
    let more = max > 0 && parts.len() > max;
    parts.truncate(max);
    Ok(Some((info(at.key.clone(), upload, record), parts, more)))
}

fn info(key: String, upload: UploadId, record: UploadRecord) -> UploadInfo {
    UploadInfo {
        key,
        upload,
        created_ms: record.created_ms,
        owner: record.owner,
        checksum: record.checksum,
        storage_class: record.headers.storage_class,
    }
}

fn load(
    view: &dyn View,
    at: &KeyRef,
    upload: UploadId,
) -> Result<Option<UploadRecord>, StoreError> {
    get(view, &keys::upload(at, upload))
}

fn load_parts(view: &dyn View, upload: UploadId) -> Result<Parts, StoreError> {
    let mut parts = Parts::new();
    let from = keys::part(keys::PARTS, upload, 0);
    let to = keys::after_all(keys::part(keys::PARTS, upload, u16::MAX));
    scan_all(view, &from, &to, |key, value| {
        parts.insert(keys::part_of(key)?, records::decode(value)?);
        Ok(true)
    })?;
    Ok(parts)
}

fn check_part(upload: &UploadRecord, part: &PartInfo) -> Step<(u16, [u8; 16])> {
    if part.part == 0 || part.part > PART_NUMBER_MAX {
        return invalid(format!("part numbers go from 1 to {PART_NUMBER_MAX}"));
    }
    let found = part.checksum.as_ref().map(|checksum| checksum.kind);
    match upload.checksum {
        Some((kind, _)) if found != Some(kind) => {
            return invalid("the part lacks the checksum of its upload");
        }
        _ => {}
    }
    match md5_of_hex(&part.etag.0) {
        Some(md5) => Ok((part.part, md5)),
        None => invalid("a part's ETag is its MD5"),
    }
}

/// Takes the listed parts out of those that were uploaded.
fn choose(uploaded: &mut Parts, listed: &[CompletedPart]) -> Step<Vec<(u16, PartRecord)>> {
    if listed.is_empty() {
        return invalid("an object has at least one part");
    }
    if !listed.is_sorted_by(|a, b| a.part < b.part) {
        return Err(Refused::InvalidPartOrder.into());
    }
    let mut chosen = Vec::with_capacity(listed.len().min(usize::from(PART_NUMBER_MAX)));
    for named in listed {
        let part = uploaded.remove(&named.part).ok_or(Refused::InvalidPart)?;
        let value = part.checksum.as_ref().map(|checksum| &checksum.value);
        let same_checksum = named.checksum.is_none() || named.checksum.as_ref() == value;
        if md5_of_hex(&named.etag.0) != Some(part.md5) || !same_checksum {
            return Err(Refused::InvalidPart.into());
        }
        chosen.push((named.part, part));
    }
    Ok(chosen)
}

fn check_sizes(chosen: &[(u16, PartRecord)], claimed: Option<u64>) -> Step<u64> {
    for (number, part) in &chosen[..chosen.len() - 1] {
        if part.size < PART_BYTES_MIN {
            return Err(Refused::PartTooSmall {
                part: *number,
                size: part.size,
            }
            .into());
        }
    }
    let size = chosen.iter().map(|(_, part)| part.size).sum();
    if size > OBJECT_BYTES_MAX {
        return Err(Refused::TooLarge { size }.into());
    }
    match claimed {
        Some(claimed) if claimed != size => {
            invalid(format!("the parts have {size} bytes, not {claimed}"))
        }
        _ => Ok(size),
    }
}

fn check_checksum(
    upload: &UploadRecord,
    chosen: &[(u16, PartRecord)],
    claimed: Option<&[u8]>,
) -> Step<Option<Checksum>> {
    let Some((kind, scope)) = upload.checksum else {
        return match claimed {
            Some(_) => invalid("the upload was created without a checksum"),
            None => Ok(None),
        };
    };
    let values: Vec<(&[u8], u64)> = chosen
        .iter()
        .filter_map(|(_, part)| Some((part.checksum.as_ref()?.value.as_slice(), part.size)))
        .collect();
    let Some(checksum) = checksum_of_parts(kind, scope, &values) else {
        return invalid("a part's checksum has the wrong length");
    };
    match claimed {
        Some(claimed) if claimed != checksum.value => Err(Refused::BadDigest.into()),
        _ => Ok(Some(checksum)),
    }
}

/// Makes the parts pieces of the object; gives the bytes of the last, if they are inline.
fn hand_over(
    change: &mut Change<'_>,
    at: &KeyRef,
    upload: UploadId,
    chosen: &[(u16, PartRecord)],
) -> Result<Option<Vec<u8>>, StoreError> {
    let mut inline = None;
    for (number, part) in chosen {
        match part.content {
            PartContent::Segment(segment) => {
                let by = Owner::Version {
                    at: at.clone(),
                    version: VersionId::Null,
                };
                segments::hand_over(change, segment, by)?;
            }
            PartContent::Inline => {
                let key = keys::part(keys::PART_INLINE, upload, *number);
                inline = Some(get_inline(change.view(), &key)?);
                change.delete(&key)?;
            }
        }
        change.delete(&keys::part(keys::PARTS, upload, *number))?;
    }
    Ok(inline)
}

/// Lets go of a part's bytes.
fn clear_part(
    change: &mut Change<'_>,
    upload: UploadId,
    number: u16,
    part: &PartRecord,
) -> Result<(), StoreError> {
    match part.content {
        PartContent::Inline => change.delete(&keys::part(keys::PART_INLINE, upload, number)),
        PartContent::Segment(segment) => segments::doom(change, segment),
    }
}

fn forget(change: &mut Change<'_>, at: &KeyRef, upload: UploadId) -> Result<(), StoreError> {
    change.delete(&keys::upload(at, upload))?;
    change.moved.uploads -= 1;
    Ok(())
}
