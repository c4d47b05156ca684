//! Bodies on their way through the door, without copies.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::StatusCode;
use object_core::api::{Body, BodyChunk, BodyError, ObjectError};
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Error, S3ErrorCode, StdError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::checksums::BAD_TRAILER;
use crate::errors;

/// What the gate's body guard says when nothing arrives for too long.
pub(crate) const IDLE: &str = "the body made no progress for too long";

/// What is said of a body that has to be held whole when there is no room for it.
pub(crate) const BUSY: &str = "too many bodies are held at a time";

/// How long a body that has to be held whole waits for room.
const ROOM_WAIT: Duration = Duration::from_secs(5);

/// Room for the bodies that are held whole, of all requests of a door together: XML, and signed chunks.
#[derive(Clone)]
pub(crate) struct WholeBodies {
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl WholeBodies {
    pub(crate) fn new(bytes_max: usize) -> Self {
        WholeBodies {
            room: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        }
    }

    /// Takes room for bytes that arrived; it is given back when the permit is dropped.
    ///
    /// # Errors
    /// [`BUSY`] when there is none for a while. So whoever holds some may wait for more.
    pub(crate) async fn take(self, bytes: usize) -> Result<OwnedSemaphorePermit, &'static str> {
        let bytes = u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX);
        match timeout(ROOM_WAIT, self.room.acquire_many_owned(bytes)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(BUSY),
        }
    }
}

/// Why a body ended early, in the words of its reader; the store only hears that it did.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<OnceLock<String>>);

impl Fault {
    /// S3's answer to a failed write: the body's fault comes first when it is the cause.
    pub(crate) fn explain(&self, error: ObjectError) -> S3Error {
        match (&error, self.0.get()) {
            (ObjectError::BodyFailed(_) | ObjectError::IncompleteBody { .. }, Some(fault)) => {
                describe(fault)
            }
            (ObjectError::BodyFailed(fault), None) => describe(fault),
            _ => errors::to_s3(error),
        }
    }
}

/// s3s keeps its error types to itself: their texts tell them apart (pinned by tests of the door).
pub(crate) fn describe(fault: &str) -> S3Error {
    let ends = |what: &str| fault.ends_with(what);
    if ends("Sha256Mismatch") {
        let message =
            "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return errors::custom(
            "XAmzContentSHA256Mismatch",
            StatusCode::BAD_REQUEST,
            message,
        );
    }
    if fault.starts_with(BAD_TRAILER) {
        return errors::custom("MalformedTrailerError", StatusCode::BAD_REQUEST, fault);
    }
    if ends(BUSY) {
        return errors::try_again(S3ErrorCode::SlowDown, "Please reduce your request rate.");
    }
    let (code, message) = if ends("SignatureMismatch") {
        (
            S3ErrorCode::SignatureDoesNotMatch,
            "the signature of a chunk does not match",
        )
    } else if ends(IDLE) {
        (
            S3ErrorCode::RequestTimeout,
            "Your socket connection to the server was not read from or written to in time.",
        )
    } else if ends("FormatError") || fault.contains("TooLarge") || fault.contains("TooMany") {
        (
            S3ErrorCode::InvalidRequest,
            "the body is not well-formed aws-chunked",
        )
    } else {
        (
            S3ErrorCode::IncompleteBody,
            "the body ended before it was complete",
        )
    };
    S3Error::with_message(code, message)
}

/// A request's body as the store reads it.
pub(crate) fn inbound(blob: Option<StreamingBlob>, fault: &Fault) -> Body {
    match blob {
        Some(blob) => Box::pin(Inbound {
            blob,
            fault: fault.clone(),
        }),
        None => Box::pin(futures::stream::empty()),
    }
}

struct Inbound {
    blob: StreamingBlob,
    fault: Fault,
}

impl Stream for Inbound {
    type Item = BodyChunk;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BodyChunk>> {
        let polled = Pin::new(&mut self.blob).poll_next(cx);
        polled.map_err(|error| {
            let text = error.to_string();
            let _ = self.fault.0.set(text.clone());
            BodyError(text)
        })
    }
}

/// The store's body as an answer: exactly `left` bytes, or it breaks off.
pub(crate) fn outbound(body: Body, len: u64) -> StreamingBlob {
    StreamingBlob::new(Outbound { body, left: len })
}

struct Outbound {
    body: Body,
    left: u64,
}

impl Stream for Outbound {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match std::task::ready!(self.body.as_mut().poll_next(cx)) {
            Some(Ok(bytes)) => match self.left.checked_sub(bytes.len() as u64) {
                Some(left) => {
                    self.left = left;
                    Poll::Ready(Some(Ok(bytes)))
                }
                None => Poll::Ready(Some(Err("the store sent more than it announced".into()))),
            },
            Some(Err(error)) => Poll::Ready(Some(Err(Box::new(error)))),
            None if self.left > 0 => {
                let missing = std::mem::take(&mut self.left);
                Poll::Ready(Some(Err(format!(
                    "the store's body ended {missing} bytes early"
                )
                .into())))
            }
            None => Poll::Ready(None),
        }
    }
}

impl ByteStream for Outbound {
    fn remaining_length(&self) -> RemainingLength {
        match usize::try_from(self.left) {
            Ok(left) => RemainingLength::new_exact(left),
            Err(_) => RemainingLength::unknown(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn chunks(pieces: &[&'static str]) -> Body {
        let items: Vec<BodyChunk> = pieces
            .iter()
            .map(|p| Ok(Bytes::from_static(p.as_bytes())))
            .collect();
        Box::pin(futures::stream::iter(items))
    }

    #[tokio::test]
    async fn an_answer_has_its_length_or_breaks_off() {
        let ends = |body, len| async move {
            outbound(body, len)
                .collect::<Vec<_>>()
                .await
                .iter()
                .all(Result::is_ok)
        };
        assert!(ends(chunks(&["ab", "c"]), 3).await);
        assert!(!ends(chunks(&["ab"]), 3).await);
        assert!(!ends(chunks(&["abcd"]), 3).await);
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_are_held_share_their_room() {
        let bodies = WholeBodies::new(100);
        let most = bodies.clone().take(90).await.unwrap();
        assert!(matches!(bodies.clone().take(20).await, Err(BUSY)));
        drop(most);
        // More than there is can't be had: the bound of one body is the smaller one.
        let all = bodies.clone().take(1000).await.unwrap();
        assert!(bodies.clone().take(1).await.is_err());
        drop(all);
        assert!(bodies.take(1).await.is_ok());
    }

    #[test]
    fn faults_have_codes() {
        let code = |fault: &str| describe(fault).code().as_str().to_owned();
        assert_eq!(
            code("UploadStreamError: Sha256Mismatch"),
            "XAmzContentSHA256Mismatch"
        );
        assert_eq!(
            code("AwsChunkedStreamError: SignatureMismatch"),
            "SignatureDoesNotMatch"
        );
        assert_eq!(
            code(&format!("AwsChunkedStreamError: Underlying: {IDLE}")),
            "RequestTimeout"
        );
        assert_eq!(code(&format!("Underlying: {BUSY}")), "SlowDown");
        assert_eq!(code("AwsChunkedStreamError: FormatError"), "InvalidRequest");
        assert_eq!(code("MalformedTrailer: none came"), "MalformedTrailerError");
        assert_eq!(code("connection closed"), "IncompleteBody");
    }
}
