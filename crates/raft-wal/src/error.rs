//! What can go wrong, in words that say what to do.

use std::io;
use std::sync::Arc;

use ids::GroupId;

/// Why the log refused or failed. Cheap to clone: one failed sync answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WalError {
    /// An earlier failure ended this log's life; nothing was written since.
    #[error(
        "the write-ahead log stopped for good ({cause}): restart the node once its disk is well"
    )]
    Fenced {
        /// The failure, in words.
        cause: Arc<str>,
    },
    /// The files hold bytes that were once synced and are no longer what was written.
    #[error(
        "the write-ahead log is damaged in {segment} at byte {offset}: {what}. Nothing was changed on disk. \
         Check the disk, then bring this node back empty so that its peers fill it, or restore the file"
    )]
    Damaged {
        /// The file's path below the data folder.
        segment: Arc<str>,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: Arc<str>,
    },
    /// The files come from a newer program.
    #[error(
        "{segment} has format version {found}, this program knows up to {known}: upgrade this node"
    )]
    Newer {
        /// The file's path below the data folder.
        segment: Arc<str>,
        /// The version that was found.
        found: u32,
        /// The newest version that is understood.
        known: u32,
    },
    /// The operating system refused.
    #[error("the write-ahead log could not {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// One record, or one call, exceeds its bound.
    #[error("{len} bytes exceed the {max} bytes that {what} may have")]
    TooLarge {
        /// What is bounded.
        what: &'static str,
        /// Bytes that were given.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// The call doesn't fit the group's log; nothing was written.
    #[error("group {group}'s log goes on at {expected}, the call names index {given}")]
    OutOfOrder {
        /// The group.
        group: GroupId,
        /// The index that would fit.
        expected: u64,
        /// The index of the call.
        given: u64,
    },
    /// [`Wal::close`](crate::Wal::close) was called before.
    #[error("the write-ahead log is closed")]
    Closed,
}

impl WalError {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> WalError {
        move |error| WalError::Io {
            doing,
            source: Arc::new(error),
        }
    }

    /// The lasting form of a failure: what every later caller hears.
    pub(crate) fn fenced(&self) -> WalError {
        match self {
            WalError::Fenced { .. } | WalError::Closed => self.clone(),
            WalError::Io { doing, source } => WalError::Fenced {
                cause: format!("could not {doing}: {source}").into(),
            },
            other => WalError::Fenced {
                cause: other.to_string().into(),
            },
        }
    }
}
