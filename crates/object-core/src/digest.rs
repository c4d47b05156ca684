//! Digests of a body as it streams by: MD5 for the entity tag, and the checksum that was asked for.

use crc_fast::{CrcAlgorithm, checksum_combine};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::api::{
    Checksum, ChecksumKind, ChecksumScope, ETag, ExpectedDigests, ObjectError, Result,
};

/// Takes a body in, piece by piece.
pub struct BodyDigest {
    md5: Md5,
    checksum: Option<Hasher>,
    size: u64,
}

/// What a body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Its MD5.
    pub md5: [u8; 16],
    /// The checksum that was asked for.
    pub checksum: Option<Checksum>,
    /// Its length in bytes.
    pub size: u64,
}

impl BodyDigest {
    /// For a body of which this is expected; values are compared by [`Digests::verify`].
    pub fn new(expected: &ExpectedDigests) -> Self {
        Self::with_checksum(expected.checksum)
    }

    /// MD5 and, if wanted, this checksum.
    pub fn with_checksum(kind: Option<ChecksumKind>) -> Self {
        BodyDigest {
            md5: Md5::new(),
            checksum: kind.map(Hasher::new),
            size: 0,
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some(checksum) = &mut self.checksum {
            checksum.update(bytes);
        }
        self.size += bytes.len() as u64;
    }

    /// The digests of all bytes.
    pub fn finish(self) -> Digests {
        let checksum = self.checksum.map(|hasher| {
            let kind = hasher.kind();
            Checksum {
                kind,
                scope: ChecksumScope::FullObject,
                value: hasher.finish(),
            }
        });
        Digests {
            md5: self.md5.finalize().into(),
            checksum,
            size: self.size,
        }
    }
}

impl Digests {
    /// The entity tag of an object with this body.
    pub fn etag(&self) -> ETag {
        etag_of_md5(&self.md5)
    }

    /// Compares with what the caller said; the trailing value is asked for here, so the body must have ended.
    pub fn verify(&self, expected: ExpectedDigests) -> Result<()> {
        if expected.md5.is_some_and(|md5| md5 != self.md5) {
            return Err(ObjectError::BadDigest("Content-MD5"));
        }
        let trailing = match expected.trailing {
            Some(trailing) => trailing().map_err(ObjectError::BodyFailed)?,
            None => None,
        };
        for value in expected.value.into_iter().chain(trailing) {
            match &self.checksum {
                Some(checksum) if checksum.value == value => {}
                Some(checksum) => return Err(ObjectError::BadDigest(name_of(checksum.kind))),
                None => {
                    return Err(ObjectError::InvalidRequest(
                        "a checksum was sent without its algorithm".into(),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The entity tag of bytes with this MD5.
pub fn etag_of_md5(md5: &[u8; 16]) -> ETag {
    ETag(hex::encode(md5))
}

/// MD5 of bytes.
pub fn md5_of(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

/// The checksum of bytes.
pub fn checksum_of(kind: ChecksumKind, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = Hasher::new(kind);
    hasher.update(bytes);
    hasher.finish()
}

/// The name of a checksum in messages.
pub fn name_of(kind: ChecksumKind) -> &'static str {
    match kind {
        ChecksumKind::Crc32 => "CRC32",
        ChecksumKind::Crc32c => "CRC32C",
        ChecksumKind::Crc64Nvme => "CRC64NVME",
        ChecksumKind::Sha1 => "SHA1",
        ChecksumKind::Sha256 => "SHA256",
    }
}

/// Bytes in a checksum.
pub fn len_of(kind: ChecksumKind) -> usize {
    match kind {
        ChecksumKind::Crc32 | ChecksumKind::Crc32c => 4,
        ChecksumKind::Crc64Nvme => 8,
        ChecksumKind::Sha1 => 20,
        ChecksumKind::Sha256 => 32,
    }
}

/// The CRC of two pieces of bytes from theirs and the length of the second; `None` for other kinds and wrong lengths.
pub(crate) fn combined_crc(
    kind: ChecksumKind,
    first: &[u8],
    second: &[u8],
    second_len: u64,
) -> Option<Vec<u8>> {
    let algorithm = crc_algorithm(kind)?;
    if first.len() != len_of(kind) || second.len() != len_of(kind) {
        return None;
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |number, &byte| number << 8 | u64::from(byte))
    };
    Some(crc_bytes(
        kind,
        checksum_combine(algorithm, number(first), number(second), second_len),
    ))
}

enum Hasher {
    Crc(ChecksumKind, crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(kind: ChecksumKind) -> Self {
        match (crc_algorithm(kind), kind) {
            (Some(algorithm), _) => Hasher::Crc(kind, crc_fast::Digest::new(algorithm)),
            (None, ChecksumKind::Sha1) => Hasher::Sha1(Sha1::new()),
            (None, _) => Hasher::Sha256(Sha256::new()),
        }
    }

    fn kind(&self) -> ChecksumKind {
        match self {
            Hasher::Crc(kind, _) => *kind,
            Hasher::Sha1(_) => ChecksumKind::Sha1,
            Hasher::Sha256(_) => ChecksumKind::Sha256,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Crc(_, digest) => digest.update(bytes),
            Hasher::Sha1(digest) => digest.update(bytes),
            Hasher::Sha256(digest) => digest.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Hasher::Crc(kind, digest) => crc_bytes(kind, digest.finalize()),
            Hasher::Sha1(digest) => digest.finalize().to_vec(),
            Hasher::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

fn crc_algorithm(kind: ChecksumKind) -> Option<CrcAlgorithm> {
    match kind {
        ChecksumKind::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumKind::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumKind::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumKind::Sha1 | ChecksumKind::Sha256 => None,
    }
}

fn crc_bytes(kind: ChecksumKind, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - len_of(kind)..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: &[u8] = b"123456789";
    const KINDS: [ChecksumKind; 5] = [
        ChecksumKind::Crc32,
        ChecksumKind::Crc32c,
        ChecksumKind::Crc64Nvme,
        ChecksumKind::Sha1,
        ChecksumKind::Sha256,
    ];

    /// The published check values of the algorithms, over the nine digits.
    #[test]
    fn digests_are_those_of_the_standards() {
        assert_eq!(
            hex::encode(md5_of(CHECK)),
            "25f9e794323b453885f5181f1b624d0b"
        );
        for (kind, value) in KINDS.into_iter().zip([
            "cbf43926",
            "e3069283",
            "ae8b14860a799888",
            "f7c3bc1d808e04732adf679965ccc34ca7ae3441",
            "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
        ]) {
            assert_eq!(hex::encode(checksum_of(kind, CHECK)), value, "{kind:?}");
            assert_eq!(checksum_of(kind, CHECK).len(), len_of(kind));
        }
    }

    #[test]
    fn pieces_give_the_digests_of_the_whole() {
        for kind in KINDS {
            let mut digest = BodyDigest::with_checksum(Some(kind));
            CHECK.chunks(2).for_each(|piece| digest.update(piece));
            let digests = digest.finish();
            assert_eq!(digests.md5, md5_of(CHECK));
            assert_eq!(digests.size, 9);
            assert_eq!(digests.checksum.unwrap().value, checksum_of(kind, CHECK));
        }
    }

    fn verify(expected: ExpectedDigests) -> Result<()> {
        let mut digest = BodyDigest::new(&expected);
        digest.update(CHECK);
        digest.finish().verify(expected)
    }

    fn trailing(
        value: std::result::Result<Option<Vec<u8>>, String>,
    ) -> Option<crate::api::TrailingChecksum> {
        Some(Box::new(move || value))
    }

    #[test]
    fn what_was_sent_must_fit() {
        let checksum = Some(ChecksumKind::Crc32);
        let good = checksum_of(ChecksumKind::Crc32, CHECK);
        let bad = vec![0; 4];
        let none = ExpectedDigests::default;
        assert_eq!(verify(none()), Ok(()));
        assert_eq!(
            verify(ExpectedDigests {
                md5: Some(md5_of(CHECK)),
                ..none()
            }),
            Ok(())
        );
        let wrong_md5 = ExpectedDigests {
            md5: Some([0; 16]),
            ..none()
        };
        assert_eq!(
            verify(wrong_md5),
            Err(ObjectError::BadDigest("Content-MD5"))
        );
        assert_eq!(
            verify(ExpectedDigests {
                checksum,
                value: Some(good.clone()),
                ..none()
            }),
            Ok(())
        );
        let wrong = ExpectedDigests {
            checksum,
            value: Some(bad.clone()),
            ..none()
        };
        assert_eq!(verify(wrong), Err(ObjectError::BadDigest("CRC32")));
        let trails = |value| ExpectedDigests {
            checksum,
            trailing: trailing(value),
            ..none()
        };
        assert_eq!(verify(trails(Ok(Some(good)))), Ok(()));
        assert_eq!(verify(trails(Ok(None))), Ok(()));
        assert_eq!(
            verify(trails(Ok(Some(bad)))),
            Err(ObjectError::BadDigest("CRC32"))
        );
        assert_eq!(
            verify(trails(Err("cut off".into()))),
            Err(ObjectError::BodyFailed("cut off".into()))
        );
        let nameless = ExpectedDigests {
            value: Some(vec![1]),
            ..none()
        };
        assert!(matches!(
            verify(nameless),
            Err(ObjectError::InvalidRequest(_))
        ));
    }
}
