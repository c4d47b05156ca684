//! Random commands: the machine does what the model does, and refusals leave no trace.

use ids::{Epoch, NodeId, SegmentId, UploadId};
use object_core::api::{CompletedPart, Conditions, ContentHeaders, ETagMatch, PartInfo, VersionId};
use object_core::meta::{
    Answer, BLOCKS_PER_PAGE, BlockRecord, Command, Content, DeletionAttempt, KeyRef, Outcome,
    PieceContent, Query, Readable, Stored,
};
use proptest::prelude::*;

use crate::model::{Model, State, without_text};
use crate::scenario::{BUCKET, Group, USER, at, block, delete, etag, object, segment, upload};

const SLOTS: [u16; 2] = [0, 3];
const KEYS: [&str; 3] = ["a", "a\0b", "é/x"];
const SEGMENTS: u8 = 6;
const UPLOADS: u8 = 3;
/// Big enough for a part that is not the last.
const BLOCK_LEN: u32 = 5 << 20;

/// A step of a run; what it says of sizes and entity tags is filled in from the model, so that most commands make sense.
#[derive(Debug, Clone)]
enum Step {
    Begin {
        at: KeyRef,
        segment: u8,
        epoch: Option<u64>,
    },
    Append {
        segment: u8,
        page: u32,
        last: u32,
        full: bool,
    },
    Put {
        at: KeyRef,
        body: Body,
        conditions: Conditions,
    },
    Delete {
        at: KeyRef,
        conditions: Conditions,
        version: Option<VersionId>,
    },
    Create {
        at: KeyRef,
        upload: u8,
    },
    Part {
        at: KeyRef,
        upload: u8,
        part: u16,
        body: Body,
    },
    Complete {
        at: Option<KeyRef>,
        upload: u8,
        parts: Vec<u16>,
        wrong: bool,
        conditions: Conditions,
    },
    Abort {
        at: KeyRef,
        upload: u8,
    },
    GiveUp(Vec<u8>),
    Forget(Vec<u8>),
    Repair {
        segment: u8,
        numbers: Vec<u32>,
        stale: bool,
        pays: bool,
    },
    Fence(Vec<u16>, u64),
    Unfence(Vec<u16>, u64),
    Hear(u64),
}

#[derive(Debug, Clone)]
struct Body {
    segment: Option<u8>,
    /// Length and debt of each block; of inline bytes, only one length.
    lens: Vec<(u32, u64)>,
    wrong_size: bool,
}

fn key() -> impl Strategy<Value = KeyRef> {
    (
        proptest::sample::select(&SLOTS[..]),
        proptest::sample::select(&KEYS[..]),
    )
        .prop_map(|(slot, key)| at(slot, key))
}

fn body() -> impl Strategy<Value = Body> {
    let len = prop_oneof![4 => Just(BLOCK_LEN), 1 => 0..4_u32];
    let lens = proptest::collection::vec((len, 0..2_u64), 0..3);
    let inline = (0..4_u32).prop_map(|len| (None, vec![(len, 0)]));
    let content = prop_oneof![1 => inline, 2 => ((0..SEGMENTS).prop_map(Some), lens)];
    (content, proptest::bool::weighted(0.1)).prop_map(|((segment, lens), wrong_size)| Body {
        segment,
        lens,
        wrong_size,
    })
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let tags = || {
        prop_oneof![
            Just(ETagMatch::Any),
            (0..4_u64).prop_map(|n| ETagMatch::OneOf(vec![etag(n)]))
        ]
    };
    let none = Conditions::default;
    prop_oneof![
        6 => Just(none()),
        1 => tags().prop_map(move |tags| Conditions { if_match: Some(tags), ..none() }),
        1 => tags().prop_map(move |tags| Conditions { if_none_match: Some(tags), ..none() }),
        1 => (0..4_u64).prop_map(move |size| Conditions { if_size: Some(size), ..none() }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let segments = || proptest::collection::vec(0..SEGMENTS, 0..3);
    let slots = || proptest::collection::vec(proptest::sample::select(&SLOTS[..]), 0..3);
    let parts = proptest::collection::btree_set(1..5_u16, 0..4)
        .prop_map(|parts| parts.into_iter().collect::<Vec<_>>());
    let some_parts = prop_oneof![6 => parts, 1 => proptest::collection::vec(1..5_u16, 0..3)];
    let version = prop_oneof![
        8 => Just(None),
        1 => Just(Some(VersionId::Null)),
        1 => Just(Some(VersionId::Numbered(1)))
    ];
    let rarely = || proptest::bool::weighted(0.15);
    prop_oneof![
        12 => (key(), 0..SEGMENTS, proptest::option::weighted(0.2, 6..9_u64))
            .prop_map(|(at, segment, epoch)| Step::Begin { at, segment, epoch }),
        1 => (0..SEGMENTS, 0..2_u32, 1..3_u32, proptest::bool::weighted(0.9))
            .prop_map(|(segment, page, last, full)| Step::Append { segment, page, last, full }),
        14 => (key(), body(), conditions()).prop_map(|(at, body, conditions)| Step::Put { at, body, conditions }),
        6 => (key(), conditions(), version)
            .prop_map(|(at, conditions, version)| Step::Delete { at, conditions, version }),
        5 => (key(), 0..UPLOADS).prop_map(|(at, upload)| Step::Create { at, upload }),
        16 => (key(), 0..UPLOADS, prop_oneof![20 => 1..5_u16, 1 => Just(0), 1 => Just(10_001)], body())
            .prop_map(|(at, upload, part, body)| Step::Part { at, upload, part, body }),
        5 => (proptest::option::weighted(0.1, key()), 0..UPLOADS, some_parts, rarely(), conditions()).prop_map(
            |(at, upload, parts, wrong, conditions)| Step::Complete { at, upload, parts, wrong, conditions }
        ),
        1 => (key(), 0..UPLOADS).prop_map(|(at, upload)| Step::Abort { at, upload }),
        2 => segments().prop_map(Step::GiveUp),
        4 => segments().prop_map(Step::Forget),
        3 => (0..SEGMENTS, proptest::collection::vec(0..3_u32, 1..3), rarely(), any::<bool>())
            .prop_map(|(segment, numbers, stale, pays)| Step::Repair { segment, numbers, stale, pays }),
        1 => (slots(), 1..4_u64).prop_map(|(slots, attempt)| Step::Fence(slots, attempt)),
        2 => (slots(), 1..4_u64).prop_map(|(slots, attempt)| Step::Unfence(slots, attempt)),
        1 => (6..9_u64).prop_map(Step::Hear),
    ]
}

impl Step {
    /// The command, in the light of what there is.
    fn command(self, model: &Model, now: u64) -> Command {
        match self {
            Step::Begin {
                at,
                segment: id,
                epoch: None,
            } => Command::BeginSegment {
                at,
                segment: segment(id),
                started_ms: now,
            },
            Step::Begin {
                at,
                segment: id,
                epoch: Some(epoch),
            } => Command::BeginSegmentIn {
                at,
                segment: segment(id),
                started_ms: now,
                epoch: Epoch(epoch),
            },
            Step::Hear(epoch) => Command::HearOfEpoch(Epoch(epoch)),
            Step::Append {
                segment: id,
                page,
                last,
                full,
            } => {
                let mut blocks = vec![block(2, 0); if full { BLOCKS_PER_PAGE } else { 5 }];
                *blocks.last_mut().unwrap() = block(last, 1);
                Command::AppendBlocks {
                    segment: segment(id),
                    page,
                    blocks,
                }
            }
            Step::Put {
                at,
                body,
                conditions,
            } => {
                let (at, content, size) = body.content(model, at, true);
                let mut object = object(size);
                object.modified_ms = now;
                Command::PutObject {
                    at,
                    conditions,
                    object,
                    content,
                }
            }
            Step::Delete {
                at,
                conditions,
                version,
            } => Command::DeleteObject {
                at,
                version,
                conditions,
            },
            Step::Create { at, upload: id } => Command::CreateUpload {
                // An upload's id is drawn once: it never comes with another key.
                at: model
                    .uploads
                    .get(&upload(id))
                    .map_or(at, |upload| upload.at.clone()),
                upload: upload(id),
                headers: ContentHeaders {
                    storage_class: Some("STANDARD".into()),
                    ..ContentHeaders::default()
                },
                checksum: None,
                owner: USER,
                created_ms: now,
            },
            Step::Part {
                at,
                upload: id,
                part,
                body,
            } => {
                let at = model
                    .uploads
                    .get(&upload(id))
                    .map_or(at, |upload| upload.at.clone());
                let (at, content, size) = body.content(model, at, false);
                let part = PartInfo {
                    part,
                    size,
                    etag: etag(size),
                    modified_ms: now,
                    checksum: None,
                };
                Command::PutPart {
                    at,
                    upload: upload(id),
                    part,
                    content,
                }
            }
            Step::Complete {
                at: elsewhere,
                upload: id,
                parts,
                wrong,
                conditions,
            } => {
                let known = model.uploads.get(&upload(id));
                let mut completed = model.completed.iter();
                let before = completed.find(|(_, (completed, _))| *completed == upload(id));
                if let (None, Some(((slot, key), (_, listed)))) = (known, before) {
                    let mut parts = listed.clone();
                    if wrong {
                        parts.pop();
                    }
                    return Command::CompleteUpload {
                        at: elsewhere.unwrap_or(at(*slot, key)),
                        upload: upload(id),
                        parts,
                        conditions,
                        checksum: None,
                        size: None,
                        modified_ms: now,
                    };
                }
                let is_there =
                    |part: &u16| known.is_none_or(|upload| upload.parts.contains_key(part));
                let parts: Vec<u16> = parts
                    .into_iter()
                    .filter(|part| wrong || is_there(part))
                    .collect();
                let here = known.map_or(at(0, "a"), |upload| upload.at.clone());
                let named = |&part: &u16| {
                    let found = known.and_then(|upload| upload.parts.get(&part));
                    let etag = found
                        .filter(|_| !wrong)
                        .map_or(etag(77), |(info, _)| info.etag.clone());
                    CompletedPart {
                        part,
                        etag,
                        checksum: None,
                    }
                };
                Command::CompleteUpload {
                    at: elsewhere.unwrap_or(here),
                    upload: upload(id),
                    parts: parts.iter().map(named).collect(),
                    conditions,
                    checksum: None,
                    size: wrong.then_some(3),
                    modified_ms: now,
                }
            }
            Step::Abort { at, upload: id } => Command::AbortUpload {
                at: model
                    .uploads
                    .get(&upload(id))
                    .map_or(at, |upload| upload.at.clone()),
                upload: upload(id),
            },
            Step::GiveUp(ids) => Command::GiveUpSegments(ids.into_iter().map(segment).collect()),
            Step::Forget(ids) => Command::ForgetSegments(ids.into_iter().map(segment).collect()),
            Step::Repair {
                segment: id,
                mut numbers,
                stale,
                pays,
            } => {
                numbers.sort();
                numbers.dedup();
                let blocks = model
                    .segments
                    .get(&segment(id))
                    .map_or(&[][..], |found| found.blocks.as_slice());
                let update = |number: u32| {
                    let mut old = blocks.get(number as usize).cloned().unwrap_or(block(1, 0));
                    let missing = if pays { vec![] } else { vec![NodeId(9)] };
                    let new = BlockRecord {
                        epoch: Epoch(8),
                        missing,
                        ..old.clone()
                    };
                    if stale {
                        old.epoch = Epoch(1);
                    }
                    (number, old, new)
                };
                Command::UpdateBlocks {
                    segment: segment(id),
                    blocks: numbers.into_iter().map(update).collect(),
                }
            }
            Step::Fence(slots, attempt) => Command::FenceSlots {
                bucket: BUCKET,
                slots,
                attempt: DeletionAttempt(attempt),
            },
            Step::Unfence(slots, attempt) => Command::UnfenceSlots {
                bucket: BUCKET,
                slots,
                attempt: DeletionAttempt(attempt),
            },
        }
    }
}

impl Body {
    /// Content and size; a PUT follows its segment, a part takes one that was begun for its key, if there is one.
    fn content(self, model: &Model, here: KeyRef, follow: bool) -> (KeyRef, Content, u64) {
        let Some(mut id) = self.segment.map(segment) else {
            let bytes = vec![b'x'; self.lens[0].0 as usize];
            let size = bytes.len() as u64 + u64::from(self.wrong_size);
            return (here, Content::Inline(bytes), size);
        };
        if !follow {
            let mut segments = model.segments.iter();
            let begun_here =
                |found: &State| matches!(found, State::Pending(begun, _) if *begun == here);
            id = segments
                .find(|(_, found)| begun_here(&found.state))
                .map_or(id, |(id, _)| *id);
        }
        let tail: Vec<BlockRecord> = self
            .lens
            .iter()
            .map(|&(len, missing)| block(len, missing))
            .collect();
        let known = model.segments.get(&id);
        let blocks = known
            .map_or(&[][..], |found| found.blocks.as_slice())
            .iter()
            .chain(&tail);
        let size =
            blocks.map(|block| u64::from(block.len)).sum::<u64>() + u64::from(self.wrong_size);
        let begun = known.and_then(|found| match &found.state {
            State::Pending(begun, _) if follow => Some(begun.clone()),
            _ => None,
        });
        (
            begun.unwrap_or(here),
            Content::Segment { segment: id, tail },
            size,
        )
    }
}

fn run(steps: Vec<Step>) -> (Group, Model) {
    let (mut group, mut model) = (Group::default(), Model::default());
    for (now, step) in steps.into_iter().enumerate() {
        let command = step.command(&model, now as u64);
        let before = group.store.clone();
        let (found, wanted) = (group.apply(&command), model.apply(&command));
        assert_eq!(without_text(found.clone()), wanted, "{command:?}");
        if matches!(found, Outcome::Refused(_)) {
            assert!(group.store == before, "a refusal left a trace: {command:?}");
        }
    }
    (group, model)
}

fn compare(group: &Group, model: &Model) {
    assert_eq!(group.stats(), model.stats());
    assert_eq!(group.epochs(), (model.heard, model.whole()));
    for slot in SLOTS {
        for key in KEYS {
            compare_object(group, model, &at(slot, key));
        }
    }
    for id in 0..UPLOADS {
        compare_upload(group, model, upload(id));
    }
    compare_segments(group, model);
}

fn compare_object(group: &Group, model: &Model, at: &KeyRef) {
    let wanted = model.objects.get(&(at.slot, at.key.clone())).cloned();
    let or_fence = |answer| unless_closed(model, at.slot, answer);
    let head = |version, with_content| Query::Head {
        at: at.clone(),
        version,
        with_content,
    };
    let whole = or_fence(Answer::Head(wanted.clone()));
    assert_eq!(group.ask(&head(None, true)), whole);
    assert_eq!(group.ask(&head(Some(VersionId::Null), true)), whole);
    assert_eq!(
        group.ask(&head(Some(VersionId::Numbered(1)), true)),
        or_fence(Answer::Head(None))
    );
    for blocks_max in [0, 1, 2, u32::MAX] {
        let query = Query::Read {
            at: at.clone(),
            version: None,
            blocks_max,
        };
        let readable = wanted.clone().map(|(head, stored)| Readable {
            blocks: first_blocks(model, &stored, blocks_max),
            head,
            stored,
        });
        assert_eq!(group.ask(&query), or_fence(Answer::Read(readable)));
    }
    if let Some(Stored::Segments(pieces)) = group.stored(at) {
        let doomed = group.doomed();
        for piece in pieces {
            assert!(
                !matches!(piece.content, PieceContent::Blocks(id) if doomed.contains(&id)),
                "{at:?}"
            );
        }
    }
    let bare = wanted.map(|(head, stored)| match stored {
        Stored::Inline(_) => (head, Stored::Inline(Vec::new())),
        Stored::Segments(mut pieces) => {
            for piece in &mut pieces {
                if let PieceContent::Inline(bytes) = &mut piece.content {
                    bytes.clear();
                }
            }
            (head, Stored::Segments(pieces))
        }
    });
    assert_eq!(group.ask(&head(None, false)), or_fence(Answer::Head(bare)));
}

/// What a group answers about a key in a slot: where that is fenced, it holds nothing and the group says why.
fn unless_closed(model: &Model, slot: u16, answer: Answer) -> Answer {
    match answer {
        Answer::Head(None) | Answer::Read(None) | Answer::Parts(None) if model.is_closed(slot) => {
            Answer::Fenced
        }
        answer => answer,
    }
}

/// The block lists of a version's first segments, as long as they fit in a page and the bound.
fn first_blocks(model: &Model, stored: &Stored, max: u32) -> Vec<(SegmentId, Vec<BlockRecord>)> {
    let Stored::Segments(pieces) = stored else {
        return Vec::new();
    };
    let mut left = BLOCKS_PER_PAGE.min(max as usize);
    let mut found = Vec::new();
    for piece in pieces {
        let PieceContent::Blocks(id) = piece.content else {
            continue;
        };
        let blocks = model.segments[&id].blocks.to_vec();
        if blocks.is_empty() || blocks.len() > left {
            break;
        }
        left -= blocks.len();
        found.push((id, blocks));
    }
    found
}

fn compare_upload(group: &Group, model: &Model, id: UploadId) {
    let Some(upload) = model.uploads.get(&id) else {
        let elsewhere = Query::ListParts {
            at: at(0, "a"),
            upload: id,
            after: 0,
            max: 10,
        };
        let nothing = unless_closed(model, 0, Answer::Parts(None));
        assert_eq!(group.ask(&elsewhere), nothing);
        return;
    };
    for (after, max) in [(0, 10), (0, 2), (2, 1), (9, 5)] {
        let query = Query::ListParts {
            at: upload.at.clone(),
            upload: id,
            after,
            max,
        };
        let mut parts: Vec<PartInfo> = upload
            .parts
            .range(after + 1..)
            .map(|(_, (part, _))| part.clone())
            .collect();
        let more = parts.len() > max as usize;
        parts.truncate(max as usize);
        assert_eq!(
            group.ask(&query),
            Answer::Parts(Some((upload.info.clone(), parts, more)))
        );
    }
}

fn compare_segments(group: &Group, model: &Model) {
    let all: Vec<SegmentId> = (0..SEGMENTS).map(segment).collect();
    let known = all
        .iter()
        .map(|id| model.segments.contains_key(id))
        .collect();
    assert_eq!(group.ask(&Query::Known(all.clone())), Answer::Known(known));
    let pending = model
        .segments
        .iter()
        .filter_map(|(id, found)| match found.state {
            State::Pending(_, started_ms) => Some((*id, started_ms)),
            _ => None,
        });
    assert_eq!(
        group.ask(&Query::Pending { max: 100 }),
        Answer::Pending(pending.collect())
    );
    let doomed = model
        .segments
        .iter()
        .filter(|(_, found)| found.state == State::Doomed)
        .map(|(id, _)| *id);
    assert_eq!(group.doomed(), doomed.collect::<Vec<_>>());
    let debt = Query::Debt {
        thin: vec![],
        after: None,
        max: 4096,
    };
    assert_eq!(
        group.ask(&debt),
        Answer::Debt {
            blocks: model.debt(),
            next: None
        }
    );
    for id in all {
        let blocks = model
            .segments
            .get(&id)
            .map_or(Vec::new(), |found| found.blocks.to_vec());
        for (from, max) in [(0, 2), (1, 5), (4095, 3)] {
            let wanted = blocks
                .iter()
                .skip(from as usize)
                .take(max as usize)
                .cloned()
                .collect();
            assert_eq!(
                group.ask(&Query::Blocks {
                    segment: id,
                    from,
                    max
                }),
                Answer::Blocks(wanted)
            );
        }
    }
}

/// Removes everything by commands; what is left was leaked, but for the counts, the newest epoch and what the slots know of
/// deletions.
fn clean(group: &mut Group, model: &mut Model) {
    let all: Vec<SegmentId> = (0..SEGMENTS).map(segment).collect();
    let mut commands = vec![Command::UnfenceSlots {
        bucket: BUCKET,
        slots: SLOTS.to_vec(),
        attempt: DeletionAttempt(9),
    }];
    let uploads = model.uploads.iter();
    commands.extend(uploads.map(|(id, upload)| Command::AbortUpload {
        at: upload.at.clone(),
        upload: *id,
    }));
    commands.extend(
        SLOTS
            .iter()
            .flat_map(|&slot| KEYS.map(|key| delete(&at(slot, key)))),
    );
    commands.extend([
        Command::GiveUpSegments(all.clone()),
        Command::ForgetSegments(all),
    ]);
    for command in &commands {
        assert_eq!(group.apply(command), Outcome::Done, "{command:?}");
        assert_eq!(model.apply(command), Outcome::Done, "{command:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_machine_does_what_the_model_does(steps in proptest::collection::vec(step(), 0..80)) {
        let (mut group, mut model) = run(steps);
        compare(&group, &model);
        clean(&mut group, &mut model);
        prop_assert_eq!(group.stats(), Default::default());
        prop_assert_eq!(group.epochs(), (model.heard, vec![]));
        let kept = SLOTS.len() + 2;
        prop_assert!(group.store.len() <= kept, "{} keys, not {kept}", group.store.len());
    }

    #[test]
    fn the_same_commands_give_the_same_bytes(steps in proptest::collection::vec(step(), 0..40)) {
        prop_assert!(run(steps.clone()).0.store == run(steps).0.store);
    }
}
