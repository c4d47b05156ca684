//! The way to the registry's group: encodes, asks again when nobody answered, decodes.
//!
//! A proposal keeps its operation id over all attempts, so it takes effect once. Dropping the
//! future of a proposal does not take it back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use ids::{GroupId, OperationId, Revision};
use raft_machine::{COMMAND_BYTES_MAX, Freshness, GroupError, Groups, encode};
use tokio::time::{Instant, sleep};

use crate::command::{Command, Committed, Refusal};
use crate::error::RegistryError;
use crate::limits;
use crate::machine::{decode_answer, decode_response};
use crate::query::{Answer, QUERY_FORMAT, Query};
use crate::resource::Uid;

/// How long a call waits for an answer unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(10);

const ATTEMPTS_MAX: u32 = 16;
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where identifiers and dates come from.
pub trait IdSource: Send + Sync {
    /// A new resource's incarnation.
    fn uid(&self) -> Uid;

    /// A new proposal's id.
    fn operation(&self) -> OperationId;

    /// Milliseconds since 1970 by this node's clock.
    fn wall_ms(&self) -> u64;
}

/// See the module.
#[derive(Clone)]
pub struct Link {
    groups: Arc<dyn Groups>,
    group: GroupId,
    source: Arc<dyn IdSource>,
    deadline: Duration,
}

impl Link {
    /// A link to a group.
    pub fn new(groups: Arc<dyn Groups>, group: GroupId, source: Arc<dyn IdSource>) -> Self {
        Link {
            groups,
            group,
            source,
            deadline: DEADLINE,
        }
    }

    /// The same link with another deadline for calls.
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Link { deadline, ..self }
    }

    /// Where identifiers and dates come from.
    pub fn source(&self) -> &dyn IdSource {
        &*self.source
    }

    /// Proposes a command.
    pub fn propose<'a>(
        &'a self,
        command: &'a Command,
    ) -> BoxFuture<'a, Result<Committed, RegistryError>> {
        Box::pin(async move {
            let bytes = command.encode();
            limits::bound("the command", bytes.len(), COMMAND_BYTES_MAX)
                .map_err(|refused| Refusal { op: None, refused })?;
            let operation = self.source.operation();
            let response = self
                .persist(|left| {
                    self.groups
                        .propose(self.group, operation, bytes.clone(), left)
                })
                .await?;
            Ok(decode_response(&response)??)
        })
    }

    /// Asks a question.
    pub fn ask<'a>(
        &'a self,
        query: &'a Query,
        fresh: Freshness,
    ) -> BoxFuture<'a, Result<Answer, RegistryError>> {
        Box::pin(async move {
            let bytes = Bytes::from(encode(QUERY_FORMAT, query));
            let answer = self
                .persist(|left| self.groups.query(self.group, bytes.clone(), fresh, left))
                .await?;
            match decode_answer(&answer)? {
                Answer::Invalid(why) => Err(RegistryError::Question(why)),
                Answer::TooOld { oldest } => Err(RegistryError::TooOld { oldest }),
                answer => Ok(answer),
            }
        })
    }

    /// The newest revision.
    pub async fn revision(&self, fresh: Freshness) -> Result<Revision, RegistryError> {
        match self.ask(&Query::CurrentRevision, fresh).await? {
            Answer::Revision { current, .. } => Ok(current),
            _ => Err(RegistryError::Mismatch),
        }
    }

    async fn persist<F>(&self, mut attempt: impl FnMut(Duration) -> F) -> Result<Bytes, GroupError>
    where
        F: Future<Output = Result<Bytes, GroupError>>,
    {
        let end = Instant::now() + self.deadline;
        let mut pause = PAUSE_MIN;
        for _ in 1..ATTEMPTS_MAX {
            match attempt(end.saturating_duration_since(Instant::now())).await {
                Err(GroupError::Unavailable { .. }) if Instant::now() + pause < end => {}
                result => return result,
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        attempt(end.saturating_duration_since(Instant::now())).await
    }
}
