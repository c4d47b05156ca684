//! What a group knows of epochs: the newest, and how many blocks it has of each.

use ids::{Epoch, NodeId};
use object_core::meta::{BLOCKS_PER_PAGE, BlockRecord, Command, Content, KeyRef, Outcome, Refused};

use crate::scenario::{Group, at, block, delete, put, put_inline, segment};

fn begin(at: &KeyRef, id: u8, epoch: u64) -> Command {
    Command::BeginSegmentIn {
        at: at.clone(),
        segment: segment(id),
        started_ms: 1,
        epoch: Epoch(epoch),
    }
}

fn hear(epoch: u64) -> Command {
    Command::HearOfEpoch(Epoch(epoch))
}

/// Blocks of 4 bytes, placed by these epochs.
fn placed(epochs: &[u64]) -> Vec<BlockRecord> {
    let placed = |epoch: &u64| BlockRecord {
        epoch: Epoch(*epoch),
        ..block(4, 0)
    };
    epochs.iter().map(placed).collect()
}

/// Writes the segment that was begun for a key.
fn commit(group: &mut Group, at: &KeyRef, id: u8, tail: Vec<BlockRecord>) {
    let size = tail.len() as u64 * 4;
    let content = Content::Segment {
        segment: segment(id),
        tail,
    };
    let written = group.apply(&put(at, size, content));
    assert!(matches!(written, Outcome::Written(_)), "{written:?}");
}

fn counts(group: &Group) -> Vec<(u64, u64)> {
    let (_, whole) = group.epochs();
    whole.into_iter().map(|(epoch, n)| (epoch.0, n)).collect()
}

fn too_old(newest: u64) -> Outcome {
    Outcome::Refused(Refused::OldEpoch {
        newest: Epoch(newest),
    })
}

#[test]
fn who_places_by_an_old_epoch_is_refused_and_told_the_newest() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    assert_eq!(group.epochs(), (None, vec![]));
    assert_eq!(group.apply(&begin(&at, 1, 7)), Outcome::Done);
    assert_eq!(group.apply(&begin(&at, 2, 7)), Outcome::Done);
    assert_eq!(group.apply(&begin(&at, 3, 9)), Outcome::Done);
    let before = group.store.clone();
    assert_eq!(group.apply(&begin(&at, 4, 8)), too_old(9));
    assert_eq!(group.apply(&hear(8)), too_old(9));
    assert_eq!(group.apply(&hear(9)), Outcome::Done);
    assert!(group.store == before, "nothing was new");
    // The same segment may begin once its gateway has heard.
    assert_eq!(group.apply(&begin(&at, 4, 9)), Outcome::Done);
    assert_eq!(group.apply(&hear(10)), Outcome::Done);
    assert_eq!(group.apply(&begin(&at, 5, 9)), too_old(10));
    assert_eq!(group.epochs(), (Some(Epoch(10)), vec![]));
}

#[test]
fn what_began_before_a_new_epoch_goes_on_and_small_objects_need_none() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    group.apply(&begin(&at, 1, 7));
    group.apply(&hear(8));
    commit(&mut group, &at, 1, placed(&[7, 7, 8]));
    assert_eq!(counts(&group), [(7, 2), (8, 1)]);
    let small = group.apply(&put_inline(&at, b"x"));
    assert!(matches!(small, Outcome::Written(_)));
    assert_eq!(counts(&group), []);
}

#[test]
fn a_block_is_counted_from_its_commit_until_its_segment_is_doomed() {
    let mut group = Group::default();
    let (one, two) = (at(0, "1"), at(0, "2"));
    group.apply(&begin(&one, 1, 7));
    group.apply(&begin(&two, 2, 7));
    let append = Command::AppendBlocks {
        segment: segment(1),
        page: 0,
        blocks: vec![block(4, 0); BLOCKS_PER_PAGE],
    };
    assert_eq!(group.apply(&append), Outcome::Done);
    let page = BLOCKS_PER_PAGE as u64;
    assert_eq!(counts(&group), [(7, page)]);
    commit(&mut group, &two, 2, placed(&[6, 7]));
    assert_eq!(counts(&group), [(6, 1), (7, page + 1)]);
    group.apply(&delete(&two));
    assert_eq!(counts(&group), [(7, page)]);
    let gone = vec![segment(1), segment(2)];
    group.apply(&Command::GiveUpSegments(gone.clone()));
    assert_eq!(counts(&group), []);
    group.apply(&Command::ForgetSegments(gone));
    assert_eq!(counts(&group), []);
}

#[test]
fn a_block_with_debt_is_counted_when_it_is_paid_and_by_the_epoch_that_it_moved_to() {
    let (mut group, at) = (Group::default(), at(0, "k"));
    group.apply(&begin(&at, 1, 7));
    let old = vec![block(4, 1), block(4, 0)];
    commit(&mut group, &at, 1, old.clone());
    assert_eq!((counts(&group), group.stats().debt), (vec![(7, 1)], 1));
    let mut update = |blocks| {
        let segment = segment(1);
        let outcome = group.apply(&Command::UpdateBlocks { segment, blocks });
        assert_eq!(outcome, Outcome::Done);
        (counts(&group), group.stats().debt)
    };
    let moved = placed(&[8]).remove(0);
    let owed = BlockRecord {
        missing: vec![NodeId(3)],
        ..moved.clone()
    };
    let paid = (0, old[0].clone(), block(4, 0));
    assert_eq!(update(vec![paid]), (vec![(7, 2)], 0));
    let moves = |number| (number, block(4, 0), moved.clone());
    assert_eq!(
        update(vec![moves(0), (1, block(4, 0), owed.clone())]),
        (vec![(8, 1)], 1)
    );
    // It is not the record any more that this one knows.
    assert_eq!(update(vec![moves(1)]), (vec![(8, 1)], 1));
    assert_eq!(update(vec![(1, owed, moved.clone())]), (vec![(8, 2)], 0));
}

#[test]
fn what_was_written_before_blocks_were_counted_is_counted_once() {
    let mut group = Group::default();
    let keys = ["1", "2", "3"].map(|key| at(0, key));
    for (id, at) in (1..).zip(&keys) {
        let Content::Segment { tail, .. } = group.pending(at, id, 4) else {
            unreachable!()
        };
        let tail = [tail, vec![block(4, 1)], placed(&[6])].concat();
        commit(&mut group, at, id, tail);
    }
    group.apply(&delete(&keys[2]));
    assert_eq!(group.epochs(), (None, vec![]));
    assert_eq!(group.apply(&hear(7)), Outcome::Done);
    assert_eq!(counts(&group), [(6, 2), (7, 2)]);
    group.apply(&delete(&keys[1]));
    assert_eq!(counts(&group), [(6, 1), (7, 1)]);
    assert_eq!(group.apply(&hear(8)), Outcome::Done);
    assert_eq!(counts(&group), [(6, 1), (7, 1)]);
}
