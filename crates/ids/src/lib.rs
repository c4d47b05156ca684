//! Names of things: the typed identifiers that the whole house shares.
//!
//! Every identifier is a newtype, so that a group can't be taken for a node. Random ones are 128 bits wide and are
//! drawn from a generator that the caller passes in: production passes the system's, a simulation a seeded one.
//!
//! This crate knows no clock, no disk and no network.

#[cfg(not(target_os = "linux"))]
compile_error!("Skerry runs on Linux only for now");

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Text that is not an identifier of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let err = || ParseIdError { kind: stringify!($name), expected: "a decimal number", text: text.into() };
                text.parse().map($name).map_err(|_| err())
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match serializer.is_human_readable() {
                    true => serializer.collect_str(self),
                    false => serializer.serialize_newtype_struct(stringify!($name), &self.0),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes = match deserializer.is_human_readable() {
                    true => deserializer.deserialize_any(Readable)?,
                    false => <[u8; 16]>::deserialize(deserializer)?,
                };
                Ok($name(bytes))
            }
        }

        impl $name {
            /// Draws a new identifier; 128 random bits, so two draws are taken to be different.
            pub fn random(rng: &mut dyn Rng) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                $name(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; 16];
                let err = || ParseIdError { kind: stringify!($name), expected: "32 hexadecimal digits", text: text.into() };
                hex::decode_to_slice(text, &mut bytes).map_err(|_| err())?;
                Ok($name(bytes))
            }
        }
    };
}

/// Reads a random identifier where people read too: as its digits, or as the list of bytes that older files hold.
struct Readable;

impl<'de> Visitor<'de> for Readable {
    type Value = [u8; 16];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("32 hexadecimal digits")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<[u8; 16], E> {
        let mut bytes = [0; 16];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<[u8; 16], A::Error> {
        <[u8; 16]>::deserialize(SeqAccessDeserializer::new(list))
    }
}

number_id! {
    /// One machine of a site; handed out by the registry, never used again. The first server of a site is 1.
    NodeId(u64)
}
number_id! {
    /// A Raft group. 0 is the registry's; placement groups count from 1.
    GroupId(u32)
}
number_id! {
    /// The version of a site's placement map: the index of the registry's log entry that published it.
    Epoch(u64)
}
number_id! {
    /// The increasing number of one registry partition; every watch and cache speaks it.
    Revision(u64)
}
random_id! {
    /// A site, made once when its first node starts.
    SiteId
}
random_id! {
    /// One proposal, however often it is sent: a group answers a repeat with the first result.
    OperationId
}
random_id! {
    /// A bucket; a bucket created again under an old name gets a new one.
    BucketId
}
random_id! {
    /// One uploaded stream of bytes (the body of a PUT, or of one part): its blocks are numbered from 0.
    SegmentId
}
random_id! {
    /// A multipart upload.
    UploadId
}
random_id! {
    /// A user of the site, as access rights and ownership name it.
    UserId
}
random_id! {
    /// One run of a node's process; a new one tells peers that what the old run promised by lease is void.
    Incarnation
}

/// The registry's group.
pub const REGISTRY_GROUP: GroupId = GroupId(0);

/// One block: the segment that it belongs to, its number there, and the group that keeps its reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The placement group whose state names the block's owner.
    pub group: GroupId,
    /// The uploaded stream that the block is a piece of.
    pub segment: SegmentId,
    /// The block's number within the segment, from 0.
    pub number: u32,
}

impl BlockId {
    /// Length of [`BlockId::to_bytes`].
    pub const LEN: usize = 24;

    /// Fixed-width form; sorts as the id does: group, segment, number, each big-endian.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&self.group.0.to_be_bytes());
        out[4..20].copy_from_slice(&self.segment.0);
        out[20..].copy_from_slice(&self.number.to_be_bytes());
        out
    }

    /// The inverse of [`BlockId::to_bytes`].
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut segment = [0; 16];
        segment.copy_from_slice(&bytes[4..20]);
        BlockId {
            group: GroupId(u32_at(0)),
            segment: SegmentId(segment),
            number: u32_at(20),
        }
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.group, self.segment, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_ids_survive_their_bytes_and_sort_alike() {
        let id = |g, s, n| BlockId {
            group: GroupId(g),
            segment: SegmentId([s; 16]),
            number: n,
        };
        let mut ids = vec![id(2, 1, 0), id(1, 9, 300), id(1, 9, 2), id(1, 0, 0)];
        for one in &ids {
            assert_eq!(BlockId::from_bytes(&one.to_bytes()), *one);
        }
        let mut by_bytes = ids.clone();
        by_bytes.sort_by_key(BlockId::to_bytes);
        ids.sort();
        assert_eq!(by_bytes, ids);
    }

    #[test]
    fn ids_are_read_from_digits_and_from_bytes() {
        use serde::de::IntoDeserializer;
        use serde::de::value::{Error, SeqDeserializer, StrDeserializer};

        let read = |text: &str| {
            let text: StrDeserializer<'_, Error> = text.into_deserializer();
            SiteId::deserialize(text)
        };
        let site = SiteId([0xab; 16]);
        assert_eq!(read(&site.to_string()).unwrap(), site);
        assert!(read("ab").unwrap_err().to_string().contains("32 hex"));
        let bytes: SeqDeserializer<_, Error> = SeqDeserializer::new(site.0.into_iter());
        assert_eq!(SiteId::deserialize(bytes).unwrap(), site);
    }

    #[test]
    fn text_that_is_no_id_says_what_was_expected() {
        let error = "xyz".parse::<SiteId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "`xyz` is not a SiteId: expected 32 hexadecimal digits"
        );
    }
}
