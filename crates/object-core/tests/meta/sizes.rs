//! The largest commands fit into a log entry.

use ids::{Epoch, NodeId};
use object_core::api::{CompletedPart, Conditions, ETag, KEY_BYTES_MAX, PART_NUMBER_MAX};
use object_core::meta::{BLOCKS_PER_PAGE, BlockRecord, Command, Content, META_FORMAT};
use raft_machine::{COMMAND_BYTES_MAX, encode};

use crate::scenario::{at, put, segment, upload};

fn assert_fits(command: &Command) {
    let len = encode(META_FORMAT, command).len();
    assert!(len < COMMAND_BYTES_MAX, "{len} bytes");
}

/// The record of a block of which not one of three servers has its copy; its numbers are the longest.
fn largest_block() -> BlockRecord {
    BlockRecord {
        len: u32::MAX,
        hash: [0xFF; 32],
        epoch: Epoch(u64::MAX),
        missing: vec![NodeId(u64::MAX); 3],
    }
}

#[test]
fn completing_an_upload_of_all_parts_with_checksums_fits() {
    let part = |part| CompletedPart {
        part,
        etag: ETag("f".repeat(32)),
        checksum: Some(vec![0xFF; 32]),
    };
    assert_fits(&Command::CompleteUpload {
        at: at(u16::MAX, &"k".repeat(KEY_BYTES_MAX)),
        upload: upload(1),
        parts: (1..=PART_NUMBER_MAX).map(part).collect(),
        conditions: Conditions::default(),
        checksum: Some(vec![0xFF; 32]),
        size: Some(u64::MAX),
        modified_ms: u64::MAX,
    });
}

#[test]
fn a_full_page_of_blocks_with_debt_fits() {
    let blocks = vec![largest_block(); BLOCKS_PER_PAGE];
    assert_fits(&Command::AppendBlocks {
        segment: segment(1),
        page: u32::MAX,
        blocks: blocks.clone(),
    });
    let content = Content::Segment {
        segment: segment(1),
        tail: blocks,
    };
    assert_fits(&put(
        &at(u16::MAX, &"k".repeat(KEY_BYTES_MAX)),
        u64::MAX / 2,
        content,
    ));
}

#[test]
fn an_update_of_a_page_of_blocks_fits() {
    let update = (u32::MAX, largest_block(), largest_block());
    assert_fits(&Command::UpdateBlocks {
        segment: segment(1),
        blocks: vec![update; BLOCKS_PER_PAGE],
    });
}
