//! How calls and answers are written on a connection: a fixed head, then the body.
//!
//! ```text
//! length u32 | version u8 | kind u8 | id u64 | service u8 | deadline_ms u32 | body
//! ```
//!
//! Numbers are big-endian; `length` counts what follows it. Pure: bytes in, frames out. A frame that breaks a rule is
//! an error, after which nothing else of that connection can be trusted.

use bytes::{Buf, Bytes, BytesMut};

use crate::CALL_BYTES_MAX;

/// The version that this code writes and reads.
pub const VERSION: u8 = 1;

/// Bytes of a frame that are not its body.
pub const HEAD_BYTES: usize = 19;

const LENGTH_BYTES: usize = 4;

/// Bodies below this are copied out of the read buffer, so that a kept body doesn't keep the buffer.
const COPY_BELOW: usize = 16 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request; the other kinds carry its id.
    Call = 1,
    /// The handler's answer.
    Answer = 2,
    /// The call was not carried out; the body says why. With id 0: no call of this connection will be.
    Refusal = 3,
    /// The caller no longer waits.
    Cancel = 4,
    /// The call may have been carried out, but there is no answer; the body says why.
    Failure = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [
            Kind::Call,
            Kind::Answer,
            Kind::Refusal,
            Kind::Cancel,
            Kind::Failure,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// One message on a control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Which call it belongs to; unique among the calls in flight on a connection. Calls count from 1.
    pub id: u64,
    /// The service that is called; 0 in other kinds.
    pub service: u8,
    /// How long the caller will wait; 0 in other kinds.
    pub deadline_ms: u32,
    /// Payload, or words.
    pub body: Bytes,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer speaks another version.
    #[error("frame version {0} is unknown, this node speaks {VERSION}")]
    Version(u8),
    /// No such kind in this version.
    #[error("frame kind {0} is unknown")]
    Kind(u8),
    /// The length is impossible.
    #[error("a frame can't be {0} bytes long")]
    Length(usize),
}

impl Frame {
    /// A frame about call `id` that carries no deadline.
    pub fn about(kind: Kind, id: u64, body: Bytes) -> Frame {
        Frame {
            kind,
            id,
            service: 0,
            deadline_ms: 0,
            body,
        }
    }

    /// Bytes that [`Frame::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        HEAD_BYTES + self.body.len()
    }

    /// Appends the frame to `out`. The body must be within [`CALL_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(
            self.body.len() <= CALL_BYTES_MAX,
            "the caller checked the body's length"
        );
        out.reserve(self.encoded_len());
        out.extend_from_slice(&((self.encoded_len() - LENGTH_BYTES) as u32).to_be_bytes());
        out.extend_from_slice(&[VERSION, self.kind as u8]);
        out.extend_from_slice(&self.id.to_be_bytes());
        out.push(self.service);
        out.extend_from_slice(&self.deadline_ms.to_be_bytes());
        out.extend_from_slice(&self.body);
    }

    /// Takes the first frame off `buffer`; `None` when it is not all there yet.
    ///
    /// # Errors
    /// When the bytes can't become a frame, whatever follows. Told as soon as the head shows it.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if buffer.len() < HEAD_BYTES {
            return Ok(None);
        }
        let mut head = &buffer[..HEAD_BYTES];
        let length = LENGTH_BYTES + head.get_u32() as usize;
        let version = head.get_u8();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if !(HEAD_BYTES..=HEAD_BYTES + CALL_BYTES_MAX).contains(&length) {
            return Err(FrameError::Length(length));
        }
        let kind = head.get_u8();
        let kind = Kind::from_byte(kind).ok_or(FrameError::Kind(kind))?;
        let (id, service, deadline_ms) = (head.get_u64(), head.get_u8(), head.get_u32());
        if buffer.len() < length {
            buffer.reserve(length - buffer.len());
            return Ok(None);
        }
        let body = take_body(buffer, length);
        Ok(Some(Frame {
            kind,
            id,
            service,
            deadline_ms,
            body,
        }))
    }
}

fn take_body(buffer: &mut BytesMut, length: usize) -> Bytes {
    if length - HEAD_BYTES < COPY_BELOW {
        let body = Bytes::copy_from_slice(&buffer[HEAD_BYTES..length]);
        buffer.advance(length);
        return body;
    }
    let mut frame = buffer.split_to(length);
    frame.advance(HEAD_BYTES);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![
            Just(Kind::Call),
            Just(Kind::Answer),
            Just(Kind::Refusal),
            Just(Kind::Cancel),
            Just(Kind::Failure)
        ];
        let body = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..64),
            proptest::collection::vec(any::<u8>(), COPY_BELOW..COPY_BELOW + 9),
        ];
        (kind, any::<u64>(), any::<u8>(), any::<u32>(), body).prop_map(
            |(kind, id, service, deadline_ms, body)| Frame {
                kind,
                id,
                service,
                deadline_ms,
                body: body.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(frames in proptest::collection::vec(any_frame(), 1..5), cut in 1usize..40_000) {
            let mut wire = Vec::new();
            for frame in &frames {
                frame.encode(&mut wire);
            }
            prop_assert_eq!(wire.len(), frames.iter().map(Frame::encoded_len).sum::<usize>());
            let (mut buffer, mut back) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    back.push(frame);
                }
            }
            prop_assert!(buffer.is_empty());
            prop_assert_eq!(back, frames);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
        }

        #[test]
        fn a_damaged_head_never_panics(frame in any_frame(), at in 0usize..HEAD_BYTES, byte: u8) {
            let mut wire = Vec::new();
            frame.encode(&mut wire);
            wire[at] = byte;
            let mut buffer = BytesMut::from(&wire[..]);
            while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
        }
    }

    #[test]
    fn a_head_that_breaks_a_rule_is_told_before_the_body_comes() {
        let mut wire = Vec::new();
        Frame::about(Kind::Answer, 7, Bytes::new()).encode(&mut wire);
        let decode = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = wire.clone();
            change(&mut bytes);
            Frame::decode(&mut BytesMut::from(&bytes[..]))
        };
        assert_eq!(decode(&|w| w[4] = 2), Err(FrameError::Version(2)));
        assert_eq!(decode(&|w| w[5] = 9), Err(FrameError::Kind(9)));
        assert_eq!(decode(&|w| w[3] = 14), Err(FrameError::Length(18)));
        let longest = (HEAD_BYTES - 4 + CALL_BYTES_MAX) as u32;
        assert_eq!(
            decode(&|w| w[..4].copy_from_slice(&longest.to_be_bytes())),
            Ok(None)
        );
        let longer = longest + 1;
        let error = decode(&|w| w[..4].copy_from_slice(&longer.to_be_bytes()));
        assert_eq!(error, Err(FrameError::Length(longer as usize + 4)));
    }
}
