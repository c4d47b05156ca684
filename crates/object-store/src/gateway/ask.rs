//! Proposals and queries to placement groups, asked again until the deadline.
//!
//! A proposal draws its operation id once: however often it is sent, the group carries it out once and answers a repeat
//! with the first outcome.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ids::{GroupId, OperationId};
use object_core::api::{ObjectError, Result};
use object_core::meta::{Answer, Command, META_FORMAT, Outcome, Query};
use platform::Platform;
use raft_machine::{Freshness, GroupError, Groups, decode, encode};
use tokio::time::Instant;

use crate::gateway::fenced;
use crate::metrics::ObjectMetrics;

const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Access to the metadata of all groups.
#[derive(Clone)]
pub struct MetaGroups {
    groups: Arc<dyn Groups>,
    platform: Arc<dyn Platform>,
    metrics: Arc<ObjectMetrics>,
    deadline: Duration,
}

impl MetaGroups {
    /// Asks `groups`, each time for at most `deadline`.
    pub fn new(
        groups: Arc<dyn Groups>,
        platform: Arc<dyn Platform>,
        metrics: Arc<ObjectMetrics>,
        deadline: Duration,
    ) -> Self {
        MetaGroups {
            groups,
            platform,
            metrics,
            deadline,
        }
    }

    /// Has a group carry out a command. Refusals are outcomes.
    pub async fn propose(&self, group: GroupId, command: &Command) -> Result<Outcome> {
        let operation = OperationId::random(&mut self.platform.rng());
        let bytes = Bytes::from(encode(META_FORMAT, command));
        let answer = self
            .until_deadline(|left| self.groups.propose(group, operation, bytes.clone(), left))
            .await?;
        decode("an outcome", META_FORMAT, &answer)
            .map_err(|error| ObjectError::Internal(error.to_string()))
    }

    /// Asks a group a question; the answer knows every write that was acknowledged before. Who asks about a bucket may
    /// meet a fence: an error that [`fenced`] deals with.
    pub async fn query(&self, group: GroupId, query: &Query) -> Result<Answer> {
        match self.ask(group, query, Freshness::Linearizable).await? {
            Answer::Fenced => Err(fenced::fence()),
            answer => Ok(answer),
        }
    }

    /// Looks at what this node's replica of a group knows, without waking a quiet group: for background work that can
    /// bear an old answer.
    pub async fn look(&self, group: GroupId, query: &Query) -> Result<Answer> {
        self.ask(group, query, Freshness::Local).await
    }

    async fn ask(&self, group: GroupId, query: &Query, freshness: Freshness) -> Result<Answer> {
        let bytes = Bytes::from(encode(META_FORMAT, query));
        let attempt = |left| self.groups.query(group, bytes.clone(), freshness, left);
        let answer = self.until_deadline(attempt).await?;
        decode("an answer", META_FORMAT, &answer)
            .map_err(|error| ObjectError::Internal(error.to_string()))
    }

    async fn until_deadline<F>(&self, mut attempt: impl FnMut(Duration) -> F) -> Result<Bytes>
    where
        F: Future<Output = std::result::Result<Bytes, GroupError>>,
    {
        let end = Instant::now() + self.deadline;
        let mut pause = PAUSE_FIRST;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match attempt(left).await {
                Ok(answer) => return Ok(answer),
                Err(error @ GroupError::Unavailable { .. }) => {
                    if Instant::now() + pause >= end {
                        return Err(ObjectError::Unavailable(error.to_string()));
                    }
                }
                Err(error) => return Err(ObjectError::Internal(error.to_string())),
            }
            self.metrics.group_retries_total.add(1);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// An answer of another kind than the question: a fault of this program.
pub fn misfit<T>() -> Result<T> {
    Err(ObjectError::Internal(
        "a group's answer does not fit the question".into(),
    ))
}
