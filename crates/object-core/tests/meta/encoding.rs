//! Commands, queries and answers on the wire: version 1 is pinned, others are refused.

use ids::{BucketId, Epoch, SegmentId, UserId};
use object_core::api::{Conditions, ContentHeaders, ETag, VersionId, Written};
use object_core::meta::machine::MetaMachine;
use object_core::meta::{
    Answer, Command, Content, KeyRef, META_FORMAT, NewObject, Outcome, PageAt, Query, Refused,
};
use raft_machine::memory::MemoryStore;
use raft_machine::{Machine, StoreError, decode, encode};

fn at() -> KeyRef {
    KeyRef {
        bucket: BucketId([0xB0; 16]),
        slot: 300,
        key: "k".into(),
    }
}

fn command() -> Command {
    Command::PutObject {
        at: at(),
        conditions: Conditions::default(),
        object: NewObject {
            size: 2,
            etag: ETag("e".into()),
            modified_ms: 1000,
            headers: ContentHeaders {
                content_type: Some("t".into()),
                ..ContentHeaders::default()
            },
            checksum: None,
            owner: UserId([5; 16]),
        },
        content: Content::Inline(vec![8, 9]),
    }
}

#[test]
fn a_command_of_version_1_keeps_its_bytes() {
    let bytes = encode(META_FORMAT, &command());
    let expected = concat!(
        "01",
        "02", // version, PutObject
        "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0",
        "ac02",
        "016b",       // bucket, slot, key
        "0000000000", // conditions
        "02",
        "0165",
        "e807", // size, etag, modified
        "010174",
        "00000000000000",
        "00", // headers
        "00",
        "05050505050505050505050505050505", // checksum, owner
        "00",
        "020809", // inline bytes
    );
    assert_eq!(hex::encode(&bytes), expected);
    assert_eq!(
        decode::<Command>("command", META_FORMAT, &bytes).unwrap(),
        command()
    );
}

#[test]
fn queries_and_outcomes_of_version_1_keep_their_bytes() {
    let query = Query::Blocks {
        segment: SegmentId([3; 16]),
        from: 1,
        max: 2,
    };
    assert_eq!(
        hex::encode(encode(META_FORMAT, &query)),
        "010103030303030303030303030303030303".to_owned() + "0102"
    );
    let debt = Query::Debt {
        thin: vec![],
        after: Some(PageAt {
            segment: SegmentId([3; 16]),
            page: 1,
        }),
        max: 2,
    };
    assert_eq!(
        hex::encode(encode(META_FORMAT, &debt)),
        "01080001".to_owned() + "03030303030303030303030303030303" + "0102"
    );
    let read = Query::Read {
        at: at(),
        version: None,
        blocks_max: 64,
    };
    assert_eq!(
        hex::encode(encode(META_FORMAT, &read)),
        "010ab0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0ac02016b".to_owned() + "0040"
    );
    assert_eq!(
        hex::encode(encode(META_FORMAT, &Answer::Read(None))),
        "010a00"
    );
    let written = Outcome::Written(Written {
        version: VersionId::Null,
        etag: ETag("e".into()),
        size: 2,
        modified_ms: 1,
        checksum: None,
    });
    assert_eq!(
        hex::encode(encode(META_FORMAT, &written)),
        "01010001650201".to_owned() + "00"
    );
    assert_eq!(
        hex::encode(encode(META_FORMAT, &Outcome::Refused(Refused::Fenced))),
        "010300"
    );
}

#[test]
fn what_is_said_of_epochs_and_fences_in_version_1_keeps_its_bytes() {
    let begin = Command::BeginSegmentIn {
        at: at(),
        segment: SegmentId([3; 16]),
        started_ms: 1,
        epoch: Epoch(300),
    };
    assert_eq!(
        hex::encode(encode(META_FORMAT, &begin)),
        concat!(
            "01",
            "0d", // version, BeginSegmentIn
            "b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0",
            "ac02",
            "016b", // bucket, slot, key
            "03030303030303030303030303030303",
            "01",
            "ac02", // segment, start, epoch
        )
    );
    let hear = Command::HearOfEpoch(Epoch(300));
    assert_eq!(hex::encode(encode(META_FORMAT, &hear)), "010eac02");
    let newest = Epoch(300);
    let old = Outcome::Refused(Refused::OldEpoch { newest });
    assert_eq!(hex::encode(encode(META_FORMAT, &old)), "01030eac02");
    let query = encode(META_FORMAT, &Query::Epochs);
    assert_eq!(hex::encode(query), "010b");
    let epochs = Answer::Epochs {
        newest: Some(newest),
        whole: vec![(Epoch(2), 7)],
    };
    assert_eq!(
        hex::encode(encode(META_FORMAT, &epochs)),
        "010b01ac02010207"
    );
    let fenced = encode(META_FORMAT, &Answer::Fenced);
    assert_eq!(hex::encode(fenced), "010c");
}

#[test]
fn what_is_newer_stops_the_machine_and_what_is_damaged_is_refused() {
    let apply = |bytes: &[u8]| MetaMachine::new().apply(&mut MemoryStore::default(), 1, bytes);
    let good = encode(META_FORMAT, &command());
    let mut newer = good.clone();
    newer[0] = META_FORMAT + 1;
    assert!(matches!(apply(&newer), Err(StoreError::Newer { .. })));
    for damaged in [
        &good[..good.len() - 1],
        &[good.as_slice(), &[0]].concat(),
        &[],
        &[META_FORMAT, 0x7F],
    ] {
        let answer = apply(damaged).unwrap();
        let outcome: Outcome = decode("an outcome", META_FORMAT, &answer).unwrap();
        assert!(matches!(
            outcome,
            Outcome::Refused(Refused::InvalidRequest(_))
        ));
        assert!(MetaMachine::new().admit(damaged).is_err());
    }
    assert!(MetaMachine::new().admit(&newer).is_err());
    assert!(MetaMachine::new().admit(&good).is_ok());
}
