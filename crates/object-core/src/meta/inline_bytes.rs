//! Serde for byte strings in one piece: the same encoding as a sequence of bytes, without a step per byte.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serializer};

pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    deserializer.deserialize_byte_buf(Bytes)
}

struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::meta::Stored;

    #[test]
    fn the_encoding_is_that_of_a_sequence() {
        let bytes = vec![7; 300];
        let mut expected = vec![0];
        expected.extend(postcard::to_extend(&bytes, Vec::new()).unwrap());
        let stored = Stored::Inline(bytes);
        let encoded = postcard::to_extend(&stored, Vec::new()).unwrap();
        assert_eq!(encoded, expected);
        assert_eq!(postcard::from_bytes::<Stored>(&encoded).unwrap(), stored);
    }
}
