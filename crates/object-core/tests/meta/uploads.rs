//! Multipart uploads and life of segments, case by case.

use object_core::api::{
    Checksum, ChecksumKind, ChecksumScope, CompletedPart, Conditions, ContentHeaders, ETagMatch,
    PART_BYTES_MIN, PartInfo,
};
use object_core::digest::checksum_of;
use object_core::meta::{
    Answer, BLOCKS_PER_PAGE, BlockRecord, Command, Content, DeletionAttempt, KeyRef, Outcome,
    PieceContent, Query, Refused, Stored, StoredSegment,
};

use crate::scenario::{
    BUCKET, Group, USER, at, block, delete, etag, put, put_inline, segment, upload,
};

fn create(at: &KeyRef, checksum: Option<(ChecksumKind, ChecksumScope)>) -> Command {
    let headers = ContentHeaders::default();
    Command::CreateUpload {
        at: at.clone(),
        upload: upload(1),
        headers,
        checksum,
        owner: USER,
        created_ms: 1,
    }
}

fn part(number: u16, size: u64) -> PartInfo {
    PartInfo {
        part: number,
        size,
        etag: etag(u64::from(number)),
        modified_ms: 5,
        checksum: None,
    }
}

fn put_part(at: &KeyRef, part: PartInfo, content: Content) -> Command {
    Command::PutPart {
        at: at.clone(),
        upload: upload(1),
        part,
        content,
    }
}

fn complete(at: &KeyRef, parts: &[u16], checksum: Option<Vec<u8>>) -> Command {
    let named = |&part: &u16| CompletedPart {
        part,
        etag: etag(u64::from(part)),
        checksum: None,
    };
    Command::CompleteUpload {
        at: at.clone(),
        upload: upload(1),
        parts: parts.iter().map(named).collect(),
        conditions: Conditions::default(),
        checksum,
        size: None,
        modified_ms: 9,
    }
}

fn refused(outcome: Outcome) -> Refused {
    match outcome {
        Outcome::Refused(refused) => refused,
        other => panic!("{other:?}"),
    }
}

/// An upload with big parts 1 and 2 in segments and a small part 3 inline.
fn three_parts(group: &mut Group, at: &KeyRef) {
    assert_eq!(group.apply(&create(at, None)), Outcome::Done);
    for number in [1, 2] {
        let content = group.pending(at, number, PART_BYTES_MIN as u32);
        let command = put_part(at, part(number.into(), PART_BYTES_MIN), content);
        assert!(matches!(group.apply(&command), Outcome::Part(_)));
    }
    let small = put_part(at, part(3, 2), Content::Inline(b"xy".to_vec()));
    assert!(matches!(group.apply(&small), Outcome::Part(_)));
}

#[test]
fn completing_moves_listed_parts_and_dooms_the_others_and_the_old_object() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    let old = group.pending(&at, 9, 3);
    assert!(matches!(
        group.apply(&put(&at, 3, old)),
        Outcome::Written(_)
    ));
    three_parts(&mut group, &at);
    let Outcome::Written(written) = group.apply(&complete(&at, &[1, 3], None)) else {
        panic!("not written")
    };
    assert!(written.etag.0.ends_with("-2"), "{:?}", written.etag);
    assert_eq!(written.size, PART_BYTES_MIN + 2);
    assert_eq!(group.doomed(), [segment(2), segment(9)]);
    let pieces = vec![
        StoredSegment {
            part: 1,
            size: PART_BYTES_MIN,
            content: PieceContent::Blocks(segment(1)),
        },
        StoredSegment {
            part: 3,
            size: 2,
            content: PieceContent::Inline(b"xy".to_vec()),
        },
    ];
    assert_eq!(group.stored(&at), Some(Stored::Segments(pieces)));
    assert!(matches!(
        group.apply(&put_inline(&at, b"new")),
        Outcome::Written(_)
    ));
    assert_eq!(group.doomed(), [segment(1), segment(2), segment(9)]);
    assert_eq!(group.stored(&at), Some(Stored::Inline(b"new".to_vec())));
}

#[test]
fn a_completion_that_comes_again_gets_the_same_answer_while_its_object_stands() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    three_parts(&mut group, &at);
    let first = group.apply(&complete(&at, &[1, 3], None));
    assert!(matches!(first, Outcome::Written(_)), "{first:?}");
    let after = group.store.clone();
    // As the client sent it the first time: only where nothing is, and the clock has gone on.
    let mut again = complete(&at, &[1, 3], None);
    if let Command::CompleteUpload {
        conditions,
        modified_ms,
        ..
    } = &mut again
    {
        conditions.if_none_match = Some(ETagMatch::Any);
        *modified_ms = 99;
    }
    assert_eq!(group.apply(&again), first);
    assert!(group.store == after, "a repeat changes nothing");

    let mut differently = vec![
        complete(&at, &[1], None),
        complete(&at, &[1, 2], None),
        complete(&at, &[1, 2, 3], None),
        complete(&at, &[], None),
        complete(&at, &[1, 3], Some(vec![1])),
        complete(&crate::scenario::at(0, "other"), &[1, 3], None),
    ];
    let (mut other_size, mut other_upload) = (again.clone(), again.clone());
    if let Command::CompleteUpload { size, .. } = &mut other_size {
        *size = Some(1);
    }
    if let Command::CompleteUpload { upload: id, .. } = &mut other_upload {
        *id = upload(2);
    }
    differently.extend([other_size, other_upload]);
    for command in &differently {
        let outcome = refused(group.apply(command));
        assert_eq!(outcome, Refused::NoSuchUpload, "{command:?}");
    }

    group.apply(&put_inline(&at, b"new"));
    assert_eq!(refused(group.apply(&again)), Refused::NoSuchUpload);
    group.apply(&delete(&at));
    assert_eq!(refused(group.apply(&again)), Refused::NoSuchUpload);
}

#[test]
fn the_tag_of_an_object_in_parts_is_that_of_s3() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    three_parts(&mut group, &at);
    let Outcome::Written(written) = group.apply(&complete(&at, &[3], None)) else {
        panic!("not written")
    };
    let binary = hex::decode(etag(3).0).unwrap();
    assert_eq!(
        written.etag.0,
        format!("{}-1", hex::encode(object_core::digest::md5_of(&binary)))
    );
}

#[test]
fn lists_of_parts_that_do_not_fit_are_refused() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    three_parts(&mut group, &at);
    let mut try_parts = |parts: &[u16]| refused(group.apply(&complete(&at, parts, None)));
    assert_eq!(try_parts(&[2, 1]), Refused::InvalidPartOrder);
    assert_eq!(try_parts(&[1, 1]), Refused::InvalidPartOrder);
    assert_eq!(try_parts(&[1, 4]), Refused::InvalidPart);
    assert!(matches!(try_parts(&[]), Refused::InvalidRequest(_)));
    let small = put_part(&at, part(2, 1), Content::Inline(b"s".to_vec()));
    group.apply(&small);
    let too_small = Refused::PartTooSmall { part: 2, size: 1 };
    assert_eq!(
        refused(group.apply(&complete(&at, &[1, 2, 3], None))),
        too_small
    );
}

#[test]
fn checksums_of_parts_become_that_of_the_object() {
    let bodies = [vec![b'a'; PART_BYTES_MIN as usize], b"tail".to_vec()];
    let kind = ChecksumKind::Crc32c;
    for scope in [ChecksumScope::FullObject, ChecksumScope::Composite] {
        let (mut group, at) = (Group::default(), at(0, "k"));
        group.apply(&create(&at, Some((kind, scope))));
        let bare = put_part(&at, part(2, 4), Content::Inline(b"tail".to_vec()));
        assert!(matches!(
            refused(group.apply(&bare)),
            Refused::InvalidRequest(_)
        ));
        let values: Vec<Vec<u8>> = bodies.iter().map(|body| checksum_of(kind, body)).collect();
        let sum = |n: usize| Checksum {
            kind,
            scope: ChecksumScope::FullObject,
            value: values[n].clone(),
        };
        let first = group.pending(&at, 1, PART_BYTES_MIN as u32);
        for (n, content) in [(0, first), (1, Content::Inline(b"tail".to_vec()))] {
            let part = PartInfo {
                checksum: Some(sum(n)),
                ..part(n as u16 + 1, bodies[n].len() as u64)
            };
            assert!(matches!(
                group.apply(&put_part(&at, part, content)),
                Outcome::Part(_)
            ));
        }
        let value = match scope {
            ChecksumScope::FullObject => checksum_of(kind, &bodies.concat()),
            ChecksumScope::Composite => checksum_of(kind, &values.concat()),
        };
        assert_eq!(
            refused(group.apply(&complete(&at, &[1, 2], Some(vec![0; 4])))),
            Refused::BadDigest
        );
        match group.apply(&complete(&at, &[1, 2], Some(value.clone()))) {
            Outcome::Written(written) => {
                assert_eq!(written.checksum, Some(Checksum { kind, scope, value }))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn checksums_that_objects_in_parts_cannot_have_are_refused() {
    for checksum in [
        (ChecksumKind::Sha256, ChecksumScope::FullObject),
        (ChecksumKind::Sha1, ChecksumScope::FullObject),
        (ChecksumKind::Crc64Nvme, ChecksumScope::Composite),
    ] {
        let outcome = Group::default().apply(&create(&at(0, "k"), Some(checksum)));
        assert!(
            matches!(outcome, Outcome::Refused(Refused::InvalidRequest(_))),
            "{checksum:?}"
        );
    }
}

#[test]
fn a_commit_of_a_segment_that_was_given_up_is_refused_for_good() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    let content = group.pending(&at, 1, 3);
    group.apply(&Command::GiveUpSegments(vec![segment(1)]));
    assert_eq!(
        refused(group.apply(&put(&at, 3, content.clone()))),
        Refused::SegmentGone
    );
    group.apply(&Command::ForgetSegments(vec![segment(1)]));
    assert_eq!(
        refused(group.apply(&put(&at, 3, content))),
        Refused::SegmentGone
    );
    assert_eq!(group.stored(&at), None);
}

#[test]
fn pages_come_whole_and_in_order_and_are_found_by_number() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    let Content::Segment { segment, tail } = group.pending(&at, 1, 4) else {
        unreachable!()
    };
    let page = |page, blocks| Command::AppendBlocks {
        segment,
        page,
        blocks,
    };
    let mut full = vec![block(4, 0); BLOCKS_PER_PAGE];
    full[17] = block(4, 2);
    assert_eq!(
        refused(group.apply(&page(1, full.clone()))),
        Refused::PageOutOfOrder
    );
    assert!(matches!(
        refused(group.apply(&page(0, full[1..].to_vec()))),
        Refused::InvalidRequest(_)
    ));
    assert_eq!(group.apply(&page(0, full.clone())), Outcome::Done);
    assert_eq!(
        refused(group.apply(&page(0, full.clone()))),
        Refused::PageOutOfOrder
    );
    assert_eq!(group.apply(&page(1, full.clone())), Outcome::Done);
    let size = (2 * BLOCKS_PER_PAGE as u64 + 1) * 4;
    let early = put(
        &at,
        size + 1,
        Content::Segment {
            segment,
            tail: tail.clone(),
        },
    );
    assert!(matches!(
        refused(group.apply(&early)),
        Refused::InvalidRequest(_)
    ));
    assert!(matches!(
        group.apply(&put(&at, size, Content::Segment { segment, tail })),
        Outcome::Written(_)
    ));
    assert_eq!(group.stats().debt, 2);

    let blocks = |from, max| match group.ask(&Query::Blocks { segment, from, max }) {
        Answer::Blocks(blocks) => blocks,
        other => panic!("{other:?}"),
    };
    assert_eq!(blocks(BLOCKS_PER_PAGE as u32 + 17, 1), [block(4, 2)]);
    assert_eq!(blocks(2 * BLOCKS_PER_PAGE as u32 - 1, 9).len(), 2);
    assert_eq!(blocks(5, u32::MAX).len(), BLOCKS_PER_PAGE);
    assert_eq!(blocks(2 * BLOCKS_PER_PAGE as u32 + 1, 9), []);
}

#[test]
fn debt_is_walked_page_by_page_and_thin_epochs_are_found() {
    let mut group = Group::default();
    for id in 1..=20 {
        let at = at(0, &format!("key {id}"));
        group.pending(&at, id, 4);
        let tail = vec![block(4, u64::from(id % 2)), block(4, 0)];
        assert!(matches!(
            group.apply(&put(
                &at,
                8,
                Content::Segment {
                    segment: segment(id),
                    tail
                }
            )),
            Outcome::Written(_)
        ));
    }
    let walk = |thin, max| walk_debt(&group, thin, max);
    let odd: Vec<(u8, u32)> = (1..=20)
        .filter(|id| id % 2 == 1)
        .map(|id| (id, 0))
        .collect();
    assert_eq!(walk(vec![], 3), odd);
    assert_eq!(walk(vec![ids::Epoch(99)], 3), odd);
    let all: Vec<(u8, u32)> = (1..=20).flat_map(|id| [(id, 0), (id, 1)]).collect();
    assert_eq!(walk(vec![ids::Epoch(7)], 3), all);
}

/// Segment and number of all blocks that want repair.
fn walk_debt(group: &Group, thin: Vec<ids::Epoch>, max: u32) -> Vec<(u8, u32)> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = Query::Debt {
            thin: thin.clone(),
            after,
            max,
        };
        match group.ask(&query) {
            Answer::Debt { blocks, next } => {
                found.extend(
                    blocks
                        .into_iter()
                        .map(|(segment, number, _)| (segment.0[0], number)),
                );
                match next {
                    Some(next) => after = Some(next),
                    None => return found,
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_last_pages_of_a_long_segment_are_found_too() {
    const PAGES: u32 = 17;
    let mut group = Group::default();
    let newer = BlockRecord {
        epoch: ids::Epoch(8),
        ..block(4, 0)
    };
    for (id, pages) in [(1, PAGES), (2, 0)] {
        let at = at(0, &format!("key {id}"));
        let content = group.pending(&at, id, 4);
        for page in 0..pages {
            let append = Command::AppendBlocks {
                segment: segment(id),
                page,
                blocks: vec![newer.clone(); BLOCKS_PER_PAGE],
            };
            assert_eq!(group.apply(&append), Outcome::Done);
        }
        let size = (u64::from(pages) * BLOCKS_PER_PAGE as u64 + 1) * 4;
        assert!(matches!(
            group.apply(&put(&at, size, content)),
            Outcome::Written(_)
        ));
    }
    let last = PAGES * BLOCKS_PER_PAGE as u32;
    assert_eq!(
        walk_debt(&group, vec![ids::Epoch(7)], 3),
        [(1, last), (2, 0)]
    );
    assert_eq!(walk_debt(&group, vec![], 3), []);
}

#[test]
fn a_fence_needs_an_empty_slot_and_refuses_all_writes() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    let fence = Command::FenceSlots {
        bucket: BUCKET,
        slots: vec![0, 1],
        attempt: DeletionAttempt(1),
    };
    group.apply(&put_inline(&at, b"x"));
    assert_eq!(refused(group.apply(&fence)), Refused::SlotNotEmpty);
    group.apply(&delete(&at));
    group.apply(&create(&at, None));
    assert_eq!(refused(group.apply(&fence)), Refused::SlotNotEmpty);
    group.apply(&Command::AbortUpload {
        at: at.clone(),
        upload: upload(1),
    });
    let content = group.pending(&at, 1, 3);
    assert_eq!(group.apply(&fence), Outcome::Done);
    for command in [
        put_inline(&at, b"x"),
        put(&at, 3, content),
        delete(&at),
        create(&at, None),
        put_part(&at, part(1, 0), Content::Inline(vec![])),
        complete(&at, &[1], None),
        Command::AbortUpload {
            at: at.clone(),
            upload: upload(1),
        },
        Command::BeginSegment {
            at: at.clone(),
            segment: segment(2),
            started_ms: 0,
        },
    ] {
        assert_eq!(
            refused(group.apply(&command)),
            Refused::Fenced,
            "{command:?}"
        );
    }
    let elsewhere = crate::scenario::at(2, "k");
    assert!(matches!(
        group.apply(&put_inline(&elsewhere, b"x")),
        Outcome::Written(_)
    ));
    reads_say_that_slots_are_fenced(&group, &at);
    assert_eq!(
        group.apply(&Command::UnfenceSlots {
            bucket: BUCKET,
            slots: vec![0, 1],
            attempt: DeletionAttempt(1),
        }),
        Outcome::Done
    );
    assert!(matches!(
        group.apply(&put_inline(&at, b"x")),
        Outcome::Written(_)
    ));
}

/// Asks a group whose slots 0 and 1 are fenced, and whose slot 2 has an object.
fn reads_say_that_slots_are_fenced(group: &Group, at: &KeyRef) {
    let list = |slots: &[u16]| Query::List {
        bucket: BUCKET,
        slots: slots.to_vec(),
        prefix: String::new(),
        delimiter: None,
        after: None,
        max: 9,
    };
    let uploads = |slots: &[u16]| Query::ListUploads {
        bucket: BUCKET,
        slots: slots.to_vec(),
        prefix: String::new(),
        after: None,
        max: 9,
    };
    for query in [
        Query::Head {
            at: at.clone(),
            version: None,
            with_content: false,
        },
        Query::Read {
            at: at.clone(),
            version: None,
            blocks_max: 1,
        },
        Query::ListParts {
            at: at.clone(),
            upload: upload(1),
            after: 0,
            max: 9,
        },
        list(&[0, 1]),
        uploads(&[0, 1]),
    ] {
        assert_eq!(group.ask(&query), Answer::Fenced, "{query:?}");
    }
    // A slot that is open may hold more, so nothing is said of the others.
    let page = group.ask(&list(&[0, 2]));
    assert!(matches!(&page, Answer::List { objects, .. } if objects.len() == 1));
    let page = group.ask(&uploads(&[0, 2]));
    assert!(matches!(&page, Answer::Uploads { uploads, .. } if uploads.is_empty()));
    let page = group.ask(&list(&[]));
    assert!(matches!(&page, Answer::List { objects, .. } if objects.is_empty()));
}
