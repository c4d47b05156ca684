//! What a group should do, said plainly: whole values in maps, and a copy to go back to when a command is refused.

use std::collections::BTreeMap;
use std::rc::Rc;

use ids::{Epoch, SegmentId, UploadId};
use object_core::api::{
    CompletedPart, Conditions, ContentHeaders, ETag, ETagMatch, ObjectHead, PART_BYTES_MIN,
    PartInfo, UploadInfo, VersionId, Written,
};
use object_core::digest::md5_of;
use object_core::meta::{
    BLOCKS_PER_PAGE, BlockRecord, Command, Content, DeletionAttempt, KeyRef, MetaStats, Outcome,
    PieceContent, Refused, Stored, StoredSegment,
};

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Pending(KeyRef, u64),
    Owned,
    Doomed,
}

#[derive(Debug, Clone)]
pub struct Segment {
    pub state: State,
    /// Shared, because pages are big and models are copied at every step.
    pub blocks: Rc<Vec<BlockRecord>>,
}

#[derive(Debug, Clone)]
pub struct Upload {
    pub at: KeyRef,
    pub info: UploadInfo,
    headers: ContentHeaders,
    pub parts: BTreeMap<u16, (PartInfo, PieceContent)>,
}

#[derive(Debug, Clone, Default)]
pub struct Model {
    /// By slot and key.
    pub objects: BTreeMap<(u16, String), (ObjectHead, Stored)>,
    pub uploads: BTreeMap<UploadId, Upload>,
    pub segments: BTreeMap<SegmentId, Segment>,
    /// Newest attempt to delete the bucket that a slot has seen, and whether it fenced the slot.
    pub fences: BTreeMap<u16, (DeletionAttempt, bool)>,
    /// By slot and key of objects in parts: what they were completed from.
    pub completed: BTreeMap<(u16, String), (UploadId, Vec<CompletedPart>)>,
    /// The newest epoch that the group has heard of.
    pub heard: Option<Epoch>,
}

fn place(at: &KeyRef) -> (u16, String) {
    (at.slot, at.key.clone())
}

/// Texts of refusals are not the model's business.
pub fn without_text(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Refused(Refused::InvalidRequest(_)) => invalid_outcome(),
        other => other,
    }
}

fn invalid_outcome() -> Outcome {
    Outcome::Refused(Refused::InvalidRequest(String::new()))
}

fn invalid<T>() -> Result<T, Refused> {
    Err(Refused::InvalidRequest(String::new()))
}

impl Model {
    pub fn apply(&mut self, command: &Command) -> Outcome {
        let before = self.clone();
        self.carry_out(command).unwrap_or_else(|refused| {
            *self = before;
            Outcome::Refused(refused)
        })
    }

    pub fn stats(&self) -> MetaStats {
        let count = |wanted: fn(&State) -> bool| {
            self.segments.values().filter(|s| wanted(&s.state)).count() as u64
        };
        MetaStats {
            objects: self.objects.len() as u64,
            bytes: self.objects.values().map(|(head, _)| head.size).sum(),
            uploads: self.uploads.len() as u64,
            pending: count(|state| matches!(state, State::Pending(..))),
            doomed: count(|state| *state == State::Doomed),
            debt: self.debt().len() as u64,
        }
    }

    pub fn debt(&self) -> Vec<(SegmentId, u32, BlockRecord)> {
        let blocks = self.alive().map(|(id, n, block)| (id, n, block.clone()));
        blocks
            .filter(|(_, _, block)| !block.missing.is_empty())
            .collect()
    }

    /// Blocks without debt by epoch, counted one by one; none as long as the group has heard of no epoch.
    pub fn whole(&self) -> Vec<(Epoch, u64)> {
        let mut whole = BTreeMap::<Epoch, u64>::new();
        let blocks = self.alive().filter(|(_, _, b)| b.missing.is_empty());
        for (_, _, block) in blocks.filter(|_| self.heard.is_some()) {
            *whole.entry(block.epoch).or_default() += 1;
        }
        whole.into_iter().collect()
    }

    /// Whether a fence is why a slot shows nothing.
    pub fn is_closed(&self, slot: u16) -> bool {
        matches!(self.fences.get(&slot), Some((_, true)))
    }

    /// The numbered blocks of segments that are not doomed.
    fn alive(&self) -> impl Iterator<Item = (SegmentId, u32, &BlockRecord)> {
        let segments = self.segments.iter();
        let alive = segments.filter(|(_, segment)| segment.state != State::Doomed);
        alive.flat_map(|(id, segment)| {
            let numbered = (0..).zip(segment.blocks.iter());
            numbered.map(move |(n, block)| (*id, n, block))
        })
    }

    fn carry_out(&mut self, command: &Command) -> Result<Outcome, Refused> {
        match command {
            Command::BeginSegment {
                at,
                segment,
                started_ms,
            } => self.begin(at, *segment, *started_ms),
            Command::BeginSegmentIn {
                at,
                segment,
                started_ms,
                epoch,
            } => {
                self.begin(at, *segment, *started_ms)?;
                self.hear_of(*epoch)
            }
            Command::HearOfEpoch(epoch) => self.hear_of(*epoch),
            Command::AppendBlocks {
                segment,
                page,
                blocks,
            } => self.append(segment, *page, blocks),
            Command::PutObject {
                at,
                conditions,
                object,
                content,
            } => {
                self.check_open(at)?;
                self.judge(at, conditions)?;
                let stored = match self.take(at, content, object.size)? {
                    PieceContent::Inline(bytes) => Stored::Inline(bytes),
                    content => Stored::Segments(vec![StoredSegment {
                        part: 0,
                        size: object.size,
                        content,
                    }]),
                };
                let head = ObjectHead {
                    version: VersionId::Null,
                    size: object.size,
                    etag: object.etag.clone(),
                    modified_ms: object.modified_ms,
                    headers: object.headers.clone(),
                    checksum: object.checksum.clone(),
                    parts: None,
                    owner: object.owner,
                };
                Ok(self.show(at, head, stored))
            }
            Command::DeleteObject {
                at,
                version,
                conditions,
            } => {
                self.check_open(at)?;
                self.judge(at, conditions)?;
                if !matches!(version, Some(VersionId::Numbered(_)))
                    && let Some((_, stored)) = self.objects.remove(&place(at))
                {
                    self.completed.remove(&place(at));
                    self.doom(&stored);
                }
                Ok(Outcome::Done)
            }
            Command::CreateUpload {
                at,
                upload,
                headers,
                checksum,
                owner,
                created_ms,
            } => {
                self.check_open(at)?;
                let info = UploadInfo {
                    key: at.key.clone(),
                    upload: *upload,
                    created_ms: *created_ms,
                    owner: *owner,
                    checksum: *checksum,
                    storage_class: headers.storage_class.clone(),
                };
                let new = Upload {
                    at: at.clone(),
                    info,
                    headers: headers.clone(),
                    parts: BTreeMap::new(),
                };
                match self.uploads.insert(*upload, new) {
                    Some(_) => invalid(),
                    None => Ok(Outcome::Done),
                }
            }
            Command::PutPart {
                at,
                upload,
                part,
                content,
            } => {
                self.check_open(at)?;
                self.upload(at, *upload)?;
                if !(1..=10_000).contains(&part.part) {
                    return invalid();
                }
                let content = self.take(at, content, part.size)?;
                let parts = &mut self.uploads.get_mut(upload).unwrap().parts;
                if let Some((_, replaced)) = parts.insert(part.part, (part.clone(), content)) {
                    self.doom_piece(&replaced);
                }
                Ok(Outcome::Part(part.clone()))
            }
            Command::CompleteUpload {
                at,
                upload,
                parts,
                conditions,
                size,
                modified_ms,
                ..
            } => {
                self.check_open(at)?;
                if let Some(written) = self.repeated(at, *upload, parts, *size) {
                    return Ok(written);
                }
                let Upload {
                    headers,
                    parts: mut uploaded,
                    info,
                    ..
                } = self.upload(at, *upload)?.clone();
                if parts.is_empty() {
                    return invalid();
                }
                if !parts.is_sorted_by(|a, b| a.part < b.part) {
                    return Err(Refused::InvalidPartOrder);
                }
                let mut pieces = Vec::new();
                let mut md5s = Vec::new();
                for named in parts {
                    let (part, content) =
                        uploaded.remove(&named.part).ok_or(Refused::InvalidPart)?;
                    if part.etag != named.etag {
                        return Err(Refused::InvalidPart);
                    }
                    md5s.extend(hex::decode(&part.etag.0).unwrap());
                    pieces.push(StoredSegment {
                        part: part.part,
                        size: part.size,
                        content,
                    });
                }
                for piece in &pieces[..pieces.len() - 1] {
                    if piece.size < PART_BYTES_MIN {
                        return Err(Refused::PartTooSmall {
                            part: piece.part,
                            size: piece.size,
                        });
                    }
                }
                let sum = pieces.iter().map(|piece| piece.size).sum();
                if size.is_some_and(|size| size != sum) {
                    return invalid();
                }
                self.judge(at, conditions)?;
                self.uploads.remove(upload);
                uploaded
                    .values()
                    .for_each(|(_, left_out)| self.doom_piece(left_out));
                let head = ObjectHead {
                    version: VersionId::Null,
                    size: sum,
                    etag: ETag(format!("{}-{}", hex::encode(md5_of(&md5s)), pieces.len())),
                    modified_ms: *modified_ms,
                    headers,
                    checksum: None,
                    parts: Some(pieces.len() as u16),
                    owner: info.owner,
                };
                let written = self.show(at, head, Stored::Segments(pieces));
                let listed = (*upload, parts.clone());
                self.completed.insert(place(at), listed);
                Ok(written)
            }
            Command::AbortUpload { at, upload } => {
                self.check_open(at)?;
                self.upload(at, *upload)?;
                let upload = self.uploads.remove(upload).unwrap();
                upload
                    .parts
                    .values()
                    .for_each(|(_, content)| self.doom_piece(content));
                Ok(Outcome::Done)
            }
            Command::GiveUpSegments(segments) => {
                for id in segments {
                    match self.segments.get_mut(id) {
                        Some(segment) if matches!(segment.state, State::Pending(..)) => {
                            segment.state = State::Doomed
                        }
                        _ => {}
                    }
                }
                Ok(Outcome::Done)
            }
            Command::ForgetSegments(segments) => {
                for id in segments {
                    if self
                        .segments
                        .get(id)
                        .is_some_and(|segment| segment.state == State::Doomed)
                    {
                        self.segments.remove(id);
                    }
                }
                Ok(Outcome::Done)
            }
            Command::UpdateBlocks { segment, blocks } => {
                let segment = self.segments.get_mut(segment).ok_or(Refused::SegmentGone)?;
                if segment.state == State::Doomed {
                    return Err(Refused::SegmentGone);
                }
                for (number, old, new) in blocks {
                    match Rc::make_mut(&mut segment.blocks).get_mut(*number as usize) {
                        Some(block) if block == old => *block = new.clone(),
                        _ => {}
                    }
                }
                Ok(Outcome::Done)
            }
            Command::FenceSlots { slots, attempt, .. } => {
                let mut seen = slots.iter().filter_map(|slot| self.fences.get(slot));
                let called_off = (*attempt, false);
                if seen.any(|seen| seen.0 > *attempt || *seen == called_off) {
                    return Err(Refused::Overtaken);
                }
                let objects = self.objects.keys().map(|(slot, _)| *slot);
                let uploads = self.uploads.values().map(|upload| upload.at.slot);
                if objects.chain(uploads).any(|slot| slots.contains(&slot)) {
                    return Err(Refused::SlotNotEmpty);
                }
                self.fences
                    .extend(slots.iter().map(|slot| (*slot, (*attempt, true))));
                Ok(Outcome::Done)
            }
            Command::UnfenceSlots { slots, attempt, .. } => {
                let mut seen = slots.iter().filter_map(|slot| self.fences.get(slot));
                if seen.any(|(newest, _)| newest > attempt) {
                    return Err(Refused::Overtaken);
                }
                self.fences
                    .extend(slots.iter().map(|slot| (*slot, (*attempt, false))));
                Ok(Outcome::Done)
            }
        }
    }

    fn begin(
        &mut self,
        at: &KeyRef,
        segment: SegmentId,
        started_ms: u64,
    ) -> Result<Outcome, Refused> {
        self.check_open(at)?;
        let new = Segment {
            state: State::Pending(at.clone(), started_ms),
            blocks: Rc::default(),
        };
        match self.segments.insert(segment, new) {
            Some(_) => invalid(),
            None => Ok(Outcome::Done),
        }
    }

    fn hear_of(&mut self, epoch: Epoch) -> Result<Outcome, Refused> {
        match self.heard {
            Some(newest) if newest > epoch => Err(Refused::OldEpoch { newest }),
            _ => {
                self.heard = Some(epoch);
                Ok(Outcome::Done)
            }
        }
    }

    fn check_open(&self, at: &KeyRef) -> Result<(), Refused> {
        match self.is_closed(at.slot) {
            true => Err(Refused::Fenced),
            false => Ok(()),
        }
    }

    /// The answer to a completion that was carried out before and comes again.
    fn repeated(
        &self,
        at: &KeyRef,
        upload: UploadId,
        parts: &[CompletedPart],
        size: Option<u64>,
    ) -> Option<Outcome> {
        if self.upload(at, upload).is_ok() {
            return None;
        }
        let (completed, listed) = self.completed.get(&place(at))?;
        let (head, _) = self.objects.get(&place(at))?;
        let same = *completed == upload && listed == parts;
        (same && size.is_none_or(|size| size == head.size)).then(|| Outcome::Written(written(head)))
    }

    fn upload(&self, at: &KeyRef, upload: UploadId) -> Result<&Upload, Refused> {
        self.uploads
            .get(&upload)
            .filter(|upload| upload.at == *at)
            .ok_or(Refused::NoSuchUpload)
    }

    fn judge(&self, at: &KeyRef, conditions: &Conditions) -> Result<(), Refused> {
        let failed = |which: &str| Err(Refused::Precondition(which.into()));
        let Some((head, _)) = self.objects.get(&place(at)) else {
            return if conditions.if_match.is_some() {
                Err(Refused::NoSuchKey)
            } else {
                Ok(())
            };
        };
        let hits = |named: &ETagMatch| match named {
            ETagMatch::Any => true,
            ETagMatch::OneOf(tags) => tags.contains(&head.etag),
        };
        if conditions
            .if_match
            .as_ref()
            .is_some_and(|named| !hits(named))
        {
            return failed("If-Match");
        }
        if conditions.if_none_match.as_ref().is_some_and(hits) {
            return failed("If-None-Match");
        }
        if conditions.if_size.is_some_and(|size| size != head.size) {
            return failed("x-amz-if-match-size");
        }
        Ok(())
    }

    fn append(
        &mut self,
        segment: &SegmentId,
        page: u32,
        blocks: &[BlockRecord],
    ) -> Result<Outcome, Refused> {
        let segment = self.segments.get_mut(segment).ok_or(Refused::SegmentGone)?;
        if !matches!(segment.state, State::Pending(..)) {
            return Err(Refused::SegmentGone);
        }
        if segment.blocks.len() != page as usize * BLOCKS_PER_PAGE {
            return Err(Refused::PageOutOfOrder);
        }
        Rc::make_mut(&mut segment.blocks).extend_from_slice(blocks);
        if blocks.len() == BLOCKS_PER_PAGE && even(&segment.blocks) {
            Ok(Outcome::Done)
        } else {
            invalid()
        }
    }

    fn take(&mut self, at: &KeyRef, content: &Content, size: u64) -> Result<PieceContent, Refused> {
        let (id, tail) = match content {
            Content::Inline(bytes) if bytes.len() as u64 == size => {
                return Ok(PieceContent::Inline(bytes.clone()));
            }
            Content::Inline(_) => return invalid(),
            Content::Segment { segment, tail } => (segment, tail),
        };
        let segment = self.segments.get_mut(id).ok_or(Refused::SegmentGone)?;
        match &segment.state {
            State::Pending(begun, _) if begun == at => {}
            State::Pending(..) => return invalid(),
            _ => return Err(Refused::SegmentGone),
        }
        Rc::make_mut(&mut segment.blocks).extend_from_slice(tail);
        segment.state = State::Owned;
        let bytes: u64 = segment
            .blocks
            .iter()
            .map(|block| u64::from(block.len))
            .sum();
        if even(&segment.blocks) && bytes == size {
            Ok(PieceContent::Blocks(*id))
        } else {
            invalid()
        }
    }

    fn show(&mut self, at: &KeyRef, head: ObjectHead, stored: Stored) -> Outcome {
        let written = written(&head);
        self.completed.remove(&place(at));
        if let Some((_, displaced)) = self.objects.insert(place(at), (head, stored)) {
            self.doom(&displaced);
        }
        Outcome::Written(written)
    }

    fn doom(&mut self, stored: &Stored) {
        if let Stored::Segments(pieces) = stored {
            pieces
                .iter()
                .for_each(|piece| self.doom_piece(&piece.content));
        }
    }

    fn doom_piece(&mut self, content: &PieceContent) {
        if let PieceContent::Blocks(id) = content {
            let segment = self.segments.get_mut(id).unwrap();
            assert_eq!(
                segment.state,
                State::Owned,
                "only owned segments are displaced"
            );
            segment.state = State::Doomed;
        }
    }
}

fn written(head: &ObjectHead) -> Written {
    Written {
        version: head.version,
        etag: head.etag.clone(),
        size: head.size,
        modified_ms: head.modified_ms,
        checksum: head.checksum.clone(),
    }
}

/// All blocks have one length; only the last may be shorter, none is empty.
fn even(blocks: &[BlockRecord]) -> bool {
    let Some((last, others)) = blocks.split_last() else {
        return true;
    };
    let len = blocks[0].len;
    others.iter().all(|block| block.len == len) && last.len <= len && last.len > 0
}
