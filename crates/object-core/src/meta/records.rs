//! What the keys hold: records as they lie on disk, each with the format version in front.
//!
//! Heads are kept small, because a list page reads a thousand of them: an entity tag is binary, and bytes, pieces and
//! blocks lie under other keys. A record's fields may only change together with its [`Record::FORMAT`], and then
//! [`Record::read`] goes on reading the older one.

use ids::{Epoch, SegmentId, UploadId, UserId};
use raft_machine::StoreError;
use serde::{Deserialize, Serialize};

use super::{DeletionAttempt, KeyRef, MetaStats};
use crate::api::{
    Checksum, ChecksumKind, ChecksumScope, ContentHeaders, ETag, ObjectHead, VersionId, Written,
};

/// Version of the records, unless they say otherwise.
pub(crate) const RECORD_FORMAT: u8 = 1;

/// A record with the name that errors give it.
pub(crate) trait Record: Sized + Serialize + for<'a> Deserialize<'a> {
    const WHAT: &'static str;
    /// The format that it is written in.
    const FORMAT: u8 = RECORD_FORMAT;

    /// Reads this or an older format.
    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        raft_machine::decode(Self::WHAT, Self::FORMAT, bytes)
    }
}

macro_rules! records {
    ($($name:ty = $what:literal),* $(,)?) => {
        $(impl Record for $name { const WHAT: &'static str = $what; })*
    };
}

records! {
    VersionRecord = "an object's head",
    UploadRecord = "an upload",
    PartRecord = "a part",
    SegmentRecord = "a segment",
    Vec<super::BlockRecord> = "a page of blocks",
    u32 = "a count of debt",
    u64 = "the start of a pending segment",
    MetaStats = "the counts",
    Epoch = "the newest epoch",
    WholeBlocks = "an epoch's count of blocks",
}

/// One version of a key.
// Nearly all are objects: a box would only cost.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum VersionRecord {
    /// An object.
    Object(HeadRecord),
    /// Versioning: the key was deleted at this version. Not written yet.
    DeleteMarker {
        current: bool,
        modified_ms: u64,
        owner: UserId,
    },
}

/// All of an object but its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeadRecord {
    /// Whether the key shows this version. Always, until versioning comes.
    pub current: bool,
    pub size: u64,
    pub etag: ETagRecord,
    pub modified_ms: u64,
    pub owner: UserId,
    pub content: ContentRecord,
    pub checksum: Option<Checksum>,
    pub headers: ContentHeaders,
}

/// Where an object's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ContentRecord {
    /// In the metadata.
    Inline,
    /// In the blocks of one segment.
    Segment(SegmentId),
    /// In this many pieces, listed apart.
    Pieces(u16),
}

/// An entity tag in its shortest form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ETagRecord {
    /// 32 lower-case hexadecimal digits.
    Md5([u8; 16]),
    /// The same, a hyphen, and a number of parts.
    Parts([u8; 16], u16),
    /// Anything else.
    Text(String),
}

/// The pieces of an object that was uploaded in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PiecesRecord {
    /// The upload that was completed: its caller may ask again. Format 1 did not keep it.
    pub upload: Option<UploadId>,
    pub pieces: Vec<PieceRecord>,
}

impl Record for PiecesRecord {
    const WHAT: &'static str = "an object's pieces";
    const FORMAT: u8 = 2;

    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes.first() {
            Some(1) => Ok(PiecesRecord {
                upload: None,
                pieces: raft_machine::decode(Self::WHAT, 1, bytes)?,
            }),
            _ => raft_machine::decode(Self::WHAT, Self::FORMAT, bytes),
        }
    }
}

/// One piece: a part that was listed when the upload was completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PieceRecord {
    pub part: u16,
    pub size: u64,
    pub content: PartContent,
}

/// Where a part's bytes are. Of an object's pieces at most the last is inline, for a smaller part can only be the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PartContent {
    Inline,
    Segment(SegmentId),
}

/// A multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub owner: UserId,
    pub created_ms: u64,
    pub checksum: Option<(ChecksumKind, ChecksumScope)>,
    pub headers: ContentHeaders,
}

/// A part of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartRecord {
    pub size: u64,
    pub md5: [u8; 16],
    pub modified_ms: u64,
    pub checksum: Option<Checksum>,
    pub content: PartContent,
}

/// What a slot knows of its bucket's deletion, see [`super::fences`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FenceRecord {
    /// The newest attempt that was here.
    pub attempt: DeletionAttempt,
    /// Whether it fenced the slot; else it called the deletion off.
    pub closed: bool,
}

impl Record for FenceRecord {
    const WHAT: &'static str = "a fence";
    const FORMAT: u8 = 2;

    fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        match bytes {
            // Format 1 was a mark without attempts.
            [1] => Ok(FenceRecord {
                attempt: DeletionAttempt(0),
                closed: true,
            }),
            _ => raft_machine::decode(Self::WHAT, Self::FORMAT, bytes),
        }
    }
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRecord {
    pub state: SegmentState,
    pub blocks: SegmentBlocks,
}

/// The one state that a segment is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SegmentState {
    Pending { at: KeyRef, started_ms: u64 },
    Owned { by: Owner },
    Doomed,
}

/// Who keeps a segment alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Owner {
    Version { at: KeyRef, version: VersionId },
    Part { upload: UploadId, part: u16 },
}

/// Sums over a segment's blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentBlocks {
    pub count: u32,
    pub bytes: u64,
    /// Length of every block but the last; 0 before the first.
    pub block_len: u32,
    /// Whether a shorter block came: then it was the last.
    pub ended: bool,
    /// Blocks with debt.
    pub debt: u32,
}

/// How many blocks of an epoch have all copies that it gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WholeBlocks(pub u64);

impl HeadRecord {
    /// What the write of this version is answered with.
    pub(crate) fn written(&self, version: VersionId) -> Written {
        Written {
            version,
            etag: self.etag.clone().into(),
            size: self.size,
            modified_ms: self.modified_ms,
            checksum: self.checksum.clone(),
        }
    }

    /// The head as readers see it.
    pub(crate) fn into_head(self, version: VersionId) -> ObjectHead {
        let parts = match self.content {
            ContentRecord::Pieces(parts) => Some(parts),
            ContentRecord::Inline | ContentRecord::Segment(_) => None,
        };
        ObjectHead {
            version,
            size: self.size,
            etag: self.etag.into(),
            modified_ms: self.modified_ms,
            headers: self.headers,
            checksum: self.checksum,
            parts,
            owner: self.owner,
        }
    }
}

impl From<&ETag> for ETagRecord {
    fn from(etag: &ETag) -> Self {
        Self::short_form(&etag.0).unwrap_or_else(|| ETagRecord::Text(etag.0.clone()))
    }
}

impl ETagRecord {
    fn short_form(text: &str) -> Option<Self> {
        let (digits, parts) = match text.split_once('-') {
            Some((digits, parts)) => (digits, Some(parts)),
            None => (text, None),
        };
        let md5 = md5_of_hex(digits)?;
        let Some(parts) = parts else {
            return Some(ETagRecord::Md5(md5));
        };
        let number: u16 = parts.parse().ok()?;
        (number.to_string() == parts).then_some(ETagRecord::Parts(md5, number))
    }
}

impl From<ETagRecord> for ETag {
    fn from(record: ETagRecord) -> Self {
        match record {
            ETagRecord::Md5(md5) => ETag(hex::encode(md5)),
            ETagRecord::Parts(md5, parts) => ETag(format!("{}-{parts}", hex::encode(md5))),
            ETagRecord::Text(text) => ETag(text),
        }
    }
}

/// The MD5 that 32 lower-case hexadecimal digits say.
pub(crate) fn md5_of_hex(digits: &str) -> Option<[u8; 16]> {
    if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut md5 = [0; 16];
    hex::decode_to_slice(digits, &mut md5).ok()?;
    Some(md5)
}

/// Encodes a record.
pub(crate) fn encode<R: Record>(record: &R) -> Vec<u8> {
    raft_machine::encode(R::FORMAT, record)
}

/// Decodes a record.
pub(crate) fn decode<R: Record>(bytes: &[u8]) -> Result<R, StoreError> {
    R::read(bytes)
}

/// Bytes as they lie under a key: the format version and the bytes.
pub(crate) fn encode_inline(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + bytes.len());
    out.push(RECORD_FORMAT);
    out.extend_from_slice(bytes);
    out
}

/// The inverse of [`encode_inline`].
pub(crate) fn decode_inline(mut bytes: Vec<u8>) -> Result<Vec<u8>, StoreError> {
    match bytes.first() {
        Some(&RECORD_FORMAT) => Ok(bytes.split_off(1)),
        Some(&found) if found > RECORD_FORMAT => Err(StoreError::Newer {
            what: "inline bytes",
            found,
            known: RECORD_FORMAT,
        }),
        _ => Err(StoreError::Damaged(
            "inline bytes: no format version".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use ids::{BucketId, NodeId};
    use proptest::prelude::*;

    use super::*;
    use crate::meta::BlockRecord;

    fn head() -> HeadRecord {
        HeadRecord {
            current: true,
            size: 300,
            etag: ETagRecord::Md5([0xEE; 16]),
            modified_ms: 1,
            owner: UserId([5; 16]),
            content: ContentRecord::Pieces(2),
            checksum: Some(Checksum {
                kind: ChecksumKind::Crc32,
                scope: ChecksumScope::Composite,
                value: vec![1, 2],
            }),
            headers: ContentHeaders {
                user: [("a".into(), "b".into())].into(),
                ..ContentHeaders::default()
            },
        }
    }

    fn pinned<R: Record + PartialEq + Debug>(record: R, bytes: &str) {
        assert_eq!(hex::encode(encode(&record)), bytes, "{}", R::WHAT);
        assert_eq!(decode::<R>(&hex::decode(bytes).unwrap()).unwrap(), record);
    }

    fn id(byte: u8) -> String {
        hex::encode([byte; 16])
    }

    #[test]
    fn records_of_version_1_keep_their_bytes() {
        let object = VersionRecord::Object(head());
        pinned(
            object,
            &[
                "010001ac0200",
                &id(0xEE),
                "01",
                &id(5),
                "0202",
                "010001020102",
                "0000000000000000",
                "0101610162",
            ]
            .concat(),
        );
        let marker = VersionRecord::DeleteMarker {
            current: false,
            modified_ms: 2,
            owner: UserId([5; 16]),
        };
        pinned(marker, &["01010002", &id(5)].concat());
        let pieces = [
            PartContent::Segment(SegmentId([9; 16])),
            PartContent::Inline,
        ]
        .map(|content| PieceRecord {
            part: 1,
            size: 2,
            content,
        });
        let bytes = hex::decode(["0102", "010201", &id(9), "010200"].concat()).unwrap();
        let old = PiecesRecord {
            upload: None,
            pieces: pieces.into(),
        };
        assert_eq!(decode::<PiecesRecord>(&bytes).unwrap(), old);
        let upload = UploadRecord {
            owner: UserId([5; 16]),
            created_ms: 3,
            checksum: Some((ChecksumKind::Sha256, ChecksumScope::FullObject)),
            headers: ContentHeaders::default(),
        };
        pinned(
            upload,
            &["01", &id(5), "03010400", "000000000000000000"].concat(),
        );
        let part = PartRecord {
            size: 4,
            md5: [6; 16],
            modified_ms: 5,
            checksum: None,
            content: PartContent::Segment(SegmentId([9; 16])),
        };
        pinned(part, &["0104", &id(6), "050001", &id(9)].concat());
    }

    #[test]
    fn records_of_version_2_keep_their_bytes() {
        let piece = PieceRecord {
            part: 1,
            size: 2,
            content: PartContent::Inline,
        };
        let pieces = PiecesRecord {
            upload: Some(UploadId([8; 16])),
            pieces: vec![piece],
        };
        pinned(pieces, &["0201", &id(8), "01", "010200"].concat());
        let fence = |attempt, closed| FenceRecord {
            attempt: DeletionAttempt(attempt),
            closed,
        };
        pinned(fence(300, true), "02ac0201");
        pinned(fence(3, false), "020300");
        assert_eq!(decode::<FenceRecord>(&[1]).unwrap(), fence(0, true));
        assert!(matches!(
            decode::<FenceRecord>(&[3, 0, 0]),
            Err(StoreError::Newer { .. })
        ));
    }

    #[test]
    fn segments_of_version_1_keep_their_bytes() {
        let at = KeyRef {
            bucket: BucketId([0xB0; 16]),
            slot: 1,
            key: "k".into(),
        };
        let blocks = SegmentBlocks {
            count: 2,
            bytes: 7,
            block_len: 4,
            ended: true,
            debt: 1,
        };
        let states = [
            (
                SegmentState::Pending {
                    at: at.clone(),
                    started_ms: 3,
                },
                ["00", &id(0xB0), "01016b03"].concat(),
            ),
            (
                SegmentState::Owned {
                    by: Owner::Version {
                        at,
                        version: VersionId::Null,
                    },
                },
                ["0100", &id(0xB0), "01016b00"].concat(),
            ),
            (
                SegmentState::Owned {
                    by: Owner::Part {
                        upload: UploadId([8; 16]),
                        part: 3,
                    },
                },
                ["0101", &id(8), "03"].concat(),
            ),
            (SegmentState::Doomed, "02".to_owned()),
        ];
        for (state, bytes) in states {
            pinned(
                SegmentRecord { state, blocks },
                &["01", &bytes, "0207040101"].concat(),
            );
        }
        let block = BlockRecord {
            len: 4,
            hash: [7; 32],
            epoch: Epoch(9),
            missing: vec![NodeId(3)],
        };
        pinned(vec![block], &["010104", &id(7), &id(7), "090103"].concat());
        pinned(
            MetaStats {
                objects: 1,
                bytes: 2,
                uploads: 3,
                pending: 4,
                doomed: 5,
                debt: 6,
            },
            "01010203040506",
        );
        pinned(5_u32, "0105");
        pinned(300_u64, "01ac02");
    }

    #[test]
    fn epochs_of_version_1_keep_their_bytes() {
        pinned(Epoch(300), "01ac02");
        pinned(WholeBlocks(5), "0105");
    }

    #[test]
    fn inline_bytes_have_a_version_in_front() {
        assert_eq!(encode_inline(b"ab"), [RECORD_FORMAT, b'a', b'b']);
        assert_eq!(decode_inline(vec![RECORD_FORMAT, b'a']).unwrap(), b"a");
        assert!(matches!(
            decode_inline(vec![RECORD_FORMAT + 1]),
            Err(StoreError::Newer { .. })
        ));
        assert!(matches!(decode_inline(vec![]), Err(StoreError::Damaged(_))));
        assert!(matches!(
            decode::<u32>(&[RECORD_FORMAT + 1, 5]),
            Err(StoreError::Newer { .. })
        ));
    }

    #[test]
    fn usual_tags_are_short() {
        let md5 = "0123456789abcdef0123456789abcdef";
        let form = |text: &str| ETagRecord::from(&ETag(text.into()));
        assert!(matches!(form(md5), ETagRecord::Md5(_)));
        assert!(matches!(
            form(&format!("{md5}-12")),
            ETagRecord::Parts(_, 12)
        ));
        for odd in [
            md5.to_uppercase(),
            format!("{md5}-012"),
            format!("{md5}-"),
            format!("{md5}-70000"),
            "x".into(),
        ] {
            assert_eq!(form(&odd), ETagRecord::Text(odd));
        }
    }

    proptest! {
        #[test]
        fn every_tag_comes_back(text in "([0-9a-fA-F]{32}(-[0-9]{0,6})?)|.{0,40}") {
            let tag = ETag(text);
            prop_assert_eq!(ETag::from(ETagRecord::from(&tag)), tag);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode::<VersionRecord>(&bytes);
            let _ = decode::<SegmentRecord>(&bytes);
            let _ = decode::<PiecesRecord>(&bytes);
            let _ = decode::<FenceRecord>(&bytes);
            let _ = decode_inline(bytes);
        }
    }
}
