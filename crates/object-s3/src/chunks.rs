//! Bounds on aws-chunked bodies, before s3s decodes them.
//!
//! s3s holds a whole chunk in memory before it passes it on, and clients may send a body of gigabytes as one chunk.
//! Unsigned chunks are cut into those that arrived anyway; signed ones can't be cut and are refused over a bound.

use std::collections::VecDeque;

use bytes::Bytes;

/// The most bytes of a chunk's first line.
const LINE_BYTES_MAX: usize = 1024;

/// What ends the text of a refusal; the table of faults goes by it.
const MALFORMED: &str = "aws-chunked FormatError";

/// A push parser over the framing: bytes in, bytes for s3s out.
pub(crate) struct Chunks {
    signed: bool,
    chunk_bytes_max: u64,
    state: State,
    line: Vec<u8>,
    /// Bytes of the current chunk that were passed on.
    passed: usize,
}

enum State {
    /// In a chunk's first line.
    Line,
    /// In a chunk's data: bytes left.
    Data(u64),
    /// In the line break after it: bytes left.
    Break(u8),
    /// Behind the last chunk: trailers.
    Trailers,
}

impl Chunks {
    pub(crate) fn new(signed: bool, chunk_bytes_max: usize) -> Self {
        Chunks {
            signed,
            chunk_bytes_max: chunk_bytes_max as u64,
            state: State::Line,
            line: Vec::new(),
            passed: 0,
        }
    }

    pub(crate) fn is_signed(&self) -> bool {
        self.signed
    }

    /// Bytes that s3s holds, once it took all that was passed on: those of a signed chunk that did not end.
    pub(crate) fn held(&self) -> usize {
        if self.signed { self.passed } else { 0 }
    }

    /// Takes bytes as they arrived; what s3s shall see goes to `out`.
    pub(crate) fn push(
        &mut self,
        mut bytes: Bytes,
        out: &mut VecDeque<Bytes>,
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            match self.state {
                State::Line => self.line(&mut bytes, out)?,
                State::Data(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.data(bytes.split_to(take), out);
                    self.passed += take;
                    let left = left - take as u64;
                    self.state = if left == 0 {
                        State::Break(2)
                    } else {
                        State::Data(left)
                    };
                }
                State::Break(left) => {
                    let byte = bytes.split_to(1);
                    if byte[0] != if left == 2 { b'\r' } else { b'\n' } {
                        return Err(MALFORMED.into());
                    }
                    if self.signed {
                        out.push_back(byte);
                    }
                    self.state = if left == 1 {
                        self.passed = 0;
                        State::Line
                    } else {
                        State::Break(left - 1)
                    };
                }
                State::Trailers => out.push_back(std::mem::take(&mut bytes)),
            }
        }
        Ok(())
    }

    fn line(&mut self, bytes: &mut Bytes, out: &mut VecDeque<Bytes>) -> Result<(), String> {
        let end = bytes.iter().position(|b| *b == b'\n').map(|at| at + 1);
        let piece = bytes.split_to(end.unwrap_or(bytes.len()));
        if self.line.len() + piece.len() > LINE_BYTES_MAX {
            return Err(format!("line TooLarge: {MALFORMED}"));
        }
        self.line.extend_from_slice(&piece);
        if end.is_none() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        let size = chunk_size(&line).ok_or(MALFORMED)?;
        if self.signed && size > self.chunk_bytes_max {
            return Err(format!("a signed chunk of {size} bytes: ChunkTooLarge"));
        }
        if self.signed || size == 0 {
            out.push_back(line.into());
        }
        self.state = if size == 0 {
            State::Trailers
        } else {
            State::Data(size)
        };
        Ok(())
    }

    fn data(&self, data: Bytes, out: &mut VecDeque<Bytes>) {
        if self.signed {
            out.push_back(data);
            return;
        }
        out.push_back(format!("{:x}\r\n", data.len()).into());
        out.push_back(data);
        out.push_back(Bytes::from_static(b"\r\n"));
    }
}

/// The size at the start of a chunk's line, in hexadecimal digits up to `;` or the line's end.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.split(|b| *b == b';').next()?;
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(chunks: &mut Chunks, body: &[u8], step: usize) -> Result<Vec<u8>, String> {
        let mut out = VecDeque::new();
        for piece in body.chunks(step) {
            chunks.push(Bytes::copy_from_slice(piece), &mut out)?;
        }
        Ok(out.into_iter().flatten().collect())
    }

    /// Undoes the framing, as simply as can be.
    fn decode(mut body: &[u8]) -> (Vec<u8>, Vec<u8>, usize) {
        let (mut data, mut largest) = (Vec::new(), 0);
        loop {
            let end = body.iter().position(|b| *b == b'\n').unwrap() + 1;
            let size = chunk_size(&body[..end]).unwrap() as usize;
            body = &body[end..];
            if size == 0 {
                return (data, body.to_vec(), largest);
            }
            largest = largest.max(size);
            data.extend_from_slice(&body[..size]);
            assert_eq!(&body[size..size + 2], b"\r\n");
            body = &body[size + 2..];
        }
    }

    fn framed(pieces: &[Vec<u8>]) -> Vec<u8> {
        let mut body = Vec::new();
        for piece in pieces.iter().filter(|p| !p.is_empty()) {
            body.extend_from_slice(
                format!("{:x};chunk-signature={}\r\n", piece.len(), "0".repeat(64)).as_bytes(),
            );
            body.extend_from_slice(piece);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
        body
    }

    proptest! {
        #[test]
        fn signed_bodies_pass_unchanged(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6),
            step in 1_usize..70,
        ) {
            let body = framed(&pieces);
            prop_assert_eq!(run(&mut Chunks::new(true, 50), &body, step), Ok(body));
        }

        #[test]
        fn unsigned_bodies_keep_data_and_trailers_in_chunks_as_they_arrived(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6),
            step in 1_usize..70,
        ) {
            let body = framed(&pieces);
            let (data, trailers, _) = decode(&body);
            let (got, got_trailers, largest) = decode(&run(&mut Chunks::new(false, 0), &body, step).unwrap());
            prop_assert_eq!(got, data);
            prop_assert_eq!(got_trailers, trailers);
            prop_assert!(largest <= step);
        }

        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..200), step in 1_usize..40, signed: bool) {
            let _ = run(&mut Chunks::new(signed, 10), &body, step);
        }
    }

    #[test]
    fn a_signed_chunk_over_the_bound_is_refused_before_it_is_read() {
        let mut out = VecDeque::new();
        let refused =
            Chunks::new(true, 16).push(Bytes::from_static(b"11;chunk-signature=0\r\n"), &mut out);
        assert!(refused.unwrap_err().contains("TooLarge"));
    }

    #[test]
    fn only_signed_chunks_that_did_not_end_are_held() {
        for (signed, held) in [(true, 3), (false, 0)] {
            let mut chunks = Chunks::new(signed, 16);
            run(&mut chunks, b"5\r\nhello\r\n", 4).unwrap();
            assert_eq!(chunks.held(), 0);
            run(&mut chunks, b"5\r\nhel", 4).unwrap();
            assert_eq!(chunks.held(), held);
        }
    }

    #[test]
    fn framing_that_is_none_is_refused() {
        for body in [
            "xyz\r\n",
            "\r\n",
            "5\r\nhelloXX",
            "-1\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert!(
                run(&mut Chunks::new(false, 0), body.as_bytes(), 3).is_err(),
                "{body:?}"
            );
        }
        assert!(run(&mut Chunks::new(false, 0), &[b'1'; 2000], 100).is_err());
    }
}
