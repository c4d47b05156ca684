//! Objects: writing, deleting and reading versions of keys.
//!
//! What a write displaces is gone in the same step: inline bytes are removed, segments are doomed.

use raft_machine::{StoreError, View};

use super::change::{Change, Step, get, get_inline, invalid};
use super::fences::check_open;
use super::records::{
    ContentRecord, ETagRecord, HeadRecord, Owner, PartContent, PiecesRecord, VersionRecord,
};
use super::segments::{self, Ready};
use super::{
    Content, KeyRef, NewObject, Outcome, PieceContent, Readable, Refused, Stored, StoredSegment,
    keys,
};
use crate::api::{
    Conditions, ETag, OBJECT_BYTES_MAX, ObjectHead, PUT_BYTES_MAX, VersionId, Written,
};
use crate::conditions::{self, Current, Failed};

/// Bytes of an object or part that were checked and wait to be written.
pub(crate) enum Checked {
    Inline(Vec<u8>),
    Segment(Ready),
}

pub(crate) fn put(
    change: &mut Change<'_>,
    at: KeyRef,
    conditions: &Conditions,
    object: NewObject,
    content: Content,
) -> Step {
    check_open(change, &at)?;
    let old = current(change.view(), &at)?;
    judge(conditions, old.as_ref())?;
    let checked = check_content(change, &at, content, object.size)?;
    let content = match &checked {
        Checked::Inline(_) => ContentRecord::Inline,
        Checked::Segment(ready) => ContentRecord::Segment(ready.segment),
    };
    let head = HeadRecord {
        current: true,
        size: object.size,
        etag: ETagRecord::from(&object.etag),
        modified_ms: object.modified_ms,
        owner: object.owner,
        content,
        checksum: object.checksum,
        headers: object.headers,
    };
    let inline = match checked {
        Checked::Inline(bytes) => Some(bytes),
        Checked::Segment(ready) => {
            let by = Owner::Version {
                at: at.clone(),
                version: VersionId::Null,
            };
            segments::commit(change, ready, by)?;
            None
        }
    };
    Ok(Outcome::Written(install(
        change,
        &at,
        head,
        old,
        inline.as_deref(),
    )?))
}

pub(crate) fn delete(
    change: &mut Change<'_>,
    at: &KeyRef,
    version: Option<VersionId>,
    conditions: &Conditions,
) -> Step {
    check_open(change, at)?;
    let old = current(change.view(), at)?;
    judge(conditions, old.as_ref())?;
    if let (Some(old), None | Some(VersionId::Null)) = (old, version) {
        change.moved.objects -= 1;
        change.moved.bytes -= old.size as i64;
        clear(change, at, &old, false)?;
        change.delete(&keys::version(keys::HEADS, at, VersionId::Null))?;
    }
    Ok(Outcome::Done)
}

/// The object that a key shows.
pub(crate) fn current(view: &dyn View, at: &KeyRef) -> Result<Option<HeadRecord>, StoreError> {
    Ok(
        match get(view, &keys::version(keys::HEADS, at, VersionId::Null))? {
            Some(VersionRecord::Object(head)) if head.current => Some(head),
            Some(VersionRecord::Object(_) | VersionRecord::DeleteMarker { .. }) | None => None,
        },
    )
}

/// Judges the conditions of a write.
pub(crate) fn judge(conditions: &Conditions, old: Option<&HeadRecord>) -> Step<()> {
    if *conditions == Conditions::default() {
        return Ok(());
    }
    let etag = old.map(|old| ETag::from(old.etag.clone()));
    let current = old.zip(etag.as_ref()).map(|(old, etag)| Current {
        etag,
        modified_ms: old.modified_ms,
        size: old.size,
    });
    match conditions::check_write(conditions, current) {
        Ok(()) => Ok(()),
        Err(Failed::NoSuchKey) => Err(Refused::NoSuchKey.into()),
        Err(Failed::Precondition(which)) => Err(Refused::Precondition(which.into()).into()),
        Err(Failed::NotModified) => Err(Refused::Precondition("If-Modified-Since".into()).into()),
    }
}

/// Checks the bytes of a PUT or a part against their announced size; writes nothing.
pub(crate) fn check_content(
    change: &Change<'_>,
    at: &KeyRef,
    content: Content,
    size: u64,
) -> Step<Checked> {
    if size > PUT_BYTES_MAX {
        return Err(Refused::TooLarge { size }.into());
    }
    match content {
        Content::Inline(bytes) if bytes.len() as u64 == size => Ok(Checked::Inline(bytes)),
        Content::Inline(bytes) => {
            invalid(format!("{} inline bytes for a size of {size}", bytes.len()))
        }
        Content::Segment { segment, tail } => Ok(Checked::Segment(segments::check_commit(
            change, at, segment, tail, size,
        )?)),
    }
}

/// Writes a head over what was there. Its pieces and segments are in place already.
pub(crate) fn install(
    change: &mut Change<'_>,
    at: &KeyRef,
    head: HeadRecord,
    old: Option<HeadRecord>,
    inline: Option<&[u8]>,
) -> Step<Written> {
    debug_assert!(head.size <= OBJECT_BYTES_MAX);
    change.moved.bytes += head.size as i64;
    match &old {
        Some(old) => {
            change.moved.bytes -= old.size as i64;
            clear(change, at, old, inline.is_some())?;
        }
        None => change.moved.objects += 1,
    }
    if let Some(bytes) = inline {
        change.put_inline(&keys::version(keys::INLINE, at, VersionId::Null), bytes)?;
    }
    let written = head.written(VersionId::Null);
    change.put(
        &keys::version(keys::HEADS, at, VersionId::Null),
        &VersionRecord::Object(head),
    )?;
    Ok(written)
}

/// Lets go of a displaced object's bytes; inline ones may stay, to be overwritten. A list of pieces is removed, so a new
/// one is written after this.
fn clear(
    change: &mut Change<'_>,
    at: &KeyRef,
    old: &HeadRecord,
    overwritten: bool,
) -> Result<(), StoreError> {
    let mut inline = false;
    match old.content {
        ContentRecord::Inline => inline = true,
        ContentRecord::Segment(segment) => segments::doom(change, segment)?,
        ContentRecord::Pieces(_) => {
            for piece in pieces(change.view(), at)?.pieces {
                match piece.content {
                    PartContent::Inline => inline = true,
                    PartContent::Segment(segment) => segments::doom(change, segment)?,
                }
            }
            change.delete(&keys::version(keys::PIECES, at, VersionId::Null))?;
        }
    }
    if inline && !overwritten {
        change.delete(&keys::version(keys::INLINE, at, VersionId::Null))?;
    }
    Ok(())
}

/// What an object in parts is made of.
pub(crate) fn pieces(view: &dyn View, at: &KeyRef) -> Result<PiecesRecord, StoreError> {
    get(view, &keys::version(keys::PIECES, at, VersionId::Null))?
        .ok_or_else(|| StoreError::Damaged("an object's pieces are missing".into()))
}

/// Answers [`super::Query::Head`].
pub(crate) fn head(
    view: &dyn View,
    at: &KeyRef,
    version: Option<VersionId>,
    with_content: bool,
) -> Result<Option<(ObjectHead, Stored)>, StoreError> {
    if matches!(version, Some(VersionId::Numbered(_))) {
        return Ok(None);
    }
    let Some(head) = current(view, at)? else {
        return Ok(None);
    };
    let inline = || match with_content {
        true => get_inline(view, &keys::version(keys::INLINE, at, VersionId::Null)),
        false => Ok(Vec::new()),
    };
    let stored = match head.content {
        ContentRecord::Inline => Stored::Inline(inline()?),
        ContentRecord::Segment(segment) => Stored::Segments(vec![StoredSegment {
            part: 0,
            size: head.size,
            content: PieceContent::Blocks(segment),
        }]),
        ContentRecord::Pieces(_) => {
            let stored = pieces(view, at)?.pieces.into_iter().map(|piece| {
                let content = match piece.content {
                    PartContent::Inline => PieceContent::Inline(inline()?),
                    PartContent::Segment(segment) => PieceContent::Blocks(segment),
                };
                Ok(StoredSegment {
                    part: piece.part,
                    size: piece.size,
                    content,
                })
            });
            Stored::Segments(stored.collect::<Result<_, StoreError>>()?)
        }
    };
    Ok(Some((head.into_head(VersionId::Null), stored)))
}

/// Answers [`super::Query::Read`].
pub(crate) fn readable(
    view: &dyn View,
    at: &KeyRef,
    version: Option<VersionId>,
    blocks_max: u32,
) -> Result<Option<Readable>, StoreError> {
    let Some((head, stored)) = head(view, at, version, true)? else {
        return Ok(None);
    };
    let pieces: &[StoredSegment] = match &stored {
        Stored::Inline(_) => &[],
        Stored::Segments(pieces) => pieces,
    };
    let segments = pieces.iter().filter_map(|piece| match piece.content {
        PieceContent::Blocks(segment) => Some(segment),
        PieceContent::Inline(_) => None,
    });
    let blocks = segments::first_blocks(view, segments, blocks_max)?;
    Ok(Some(Readable {
        head,
        stored,
        blocks,
    }))
}
