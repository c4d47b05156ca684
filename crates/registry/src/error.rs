//! Why the client did not do what it was asked.

use ids::Revision;
use raft_machine::{GroupError, StoreError};

use crate::command::{Refusal, Refused};

/// What a call of [`crate::Registry`] can fail with.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// The registry looked at the transaction and changed nothing.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The registry's group could not be asked.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A record or an answer can't be read.
    #[error(transparent)]
    Record(#[from] StoreError),
    /// The past that was asked for is not kept any more.
    #[error("that revision is too old: the change log starts at {oldest}, list again")]
    TooOld {
        /// The oldest revision that a watch can start from.
        oldest: Revision,
    },
    /// The node that answered has not got that far.
    #[error("revision {wanted} has not reached this node, which is at {current}: ask again")]
    NotYet {
        /// What was asked for.
        wanted: Revision,
        /// What is there.
        current: Revision,
    },
    /// The question makes no sense to the node that answered.
    #[error("the registry did not understand the question: {0}")]
    Question(String),
    /// The answer does not fit the question.
    #[error("the registry's answer does not fit the question")]
    Mismatch,
    /// A read-modify-write met other writers in every attempt.
    #[error("the resource was changed by others in each of {attempts} attempts: try later")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
}

impl RegistryError {
    /// The refusal, when it was one.
    pub fn refused(&self) -> Option<&Refused> {
        match self {
            RegistryError::Refused(refusal) => Some(&refusal.refused),
            _ => None,
        }
    }

    /// Whether the resource was changed since it was read.
    pub fn is_conflict(&self) -> bool {
        matches!(self.refused(), Some(Refused::Conflict { .. }))
    }

    /// Whether there is no such resource.
    pub fn is_not_found(&self) -> bool {
        matches!(self.refused(), Some(Refused::NotFound(_)))
    }

    /// Whether the name is taken.
    pub fn already_exists(&self) -> bool {
        matches!(self.refused(), Some(Refused::AlreadyExists(_)))
    }

    /// Whether the group could not be reached, so that asking again may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, RegistryError::Group(GroupError::Unavailable { .. }))
    }
}
