//! What [`Groups`] must do, on any node from which a group is asked: operations that are repeated, bounds, refusals,
//! deadlines. What a crash or a cut leaves is not part of it.
//!
//! The implementation runs [`machine`] as [`GROUP`], and knows no [`ABSENT`]. It may be asked again and again: the suite
//! compares with what was there before. Its clock is tokio's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use ids::{GroupId, OperationId};
use raft_machine::{
    Batch, COMMAND_BYTES_MAX, Freshness, GroupError, Groups, Machine, StoreError, View,
};
use tokio::time::timeout;

/// The group that is asked.
pub const GROUP: GroupId = GroupId(900);
/// A group that is nowhere.
pub const ABSENT: GroupId = GroupId(901);
/// A command that the machine does not admit.
const SCRATCH: &[u8] = b"scratch";
/// Long enough for anything that works.
const LONG: Duration = Duration::from_secs(60);
/// A deadline that passes.
const SHORT: Duration = Duration::from_millis(500);

/// The machine of [`GROUP`]: counts commands and answers with the count so far, as text.
pub fn machine() -> Arc<dyn Machine> {
    Arc::new(Count)
}

struct Count;

impl Machine for Count {
    fn admit(&self, command: &[u8]) -> Result<(), String> {
        match command == SCRATCH {
            true => Err("a scratch".into()),
            false => Ok(()),
        }
    }

    fn apply(
        &self,
        batch: &mut dyn Batch,
        _index: u64,
        _command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let count = (count(&*batch)? + 1).to_string();
        batch.put(b"count", count.as_bytes())?;
        Ok(count.into_bytes())
    }

    fn query(&self, view: &dyn View, _query: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(count(view)?.to_string().into_bytes())
    }
}

fn count(view: &dyn View) -> Result<u64, StoreError> {
    let bytes = view.get(b"count")?.unwrap_or_else(|| b"0".to_vec());
    number(&bytes).ok_or_else(|| StoreError::Damaged("the count is no number".into()))
}

fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Runs the whole suite. A group that is asked by it again needs another `round`.
///
/// # Panics
/// When the groups do something else than their trait says.
pub async fn run(groups: &dyn Groups, round: u8) {
    let mut asked = Asked {
        groups,
        round,
        operations: 0,
    };
    asked.a_command_is_applied_and_seen().await;
    asked.a_repeat_gets_the_first_response().await;
    asked.repeats_side_by_side_are_one().await;
    asked.commands_are_bounded().await;
    asked.what_is_not_admitted_is_not_applied().await;
    asked.a_group_that_is_nowhere_is_said().await;
}

struct Asked<'a> {
    groups: &'a dyn Groups,
    round: u8,
    operations: u8,
}

impl Asked<'_> {
    fn operation(&mut self) -> OperationId {
        self.operations += 1;
        let mut bytes = [7; 16];
        bytes[..2].copy_from_slice(&[self.round, self.operations]);
        OperationId(bytes)
    }

    async fn propose(
        &self,
        operation: OperationId,
        command: impl Into<Bytes>,
    ) -> Result<u64, GroupError> {
        let proposal = self.groups.propose(GROUP, operation, command.into(), LONG);
        let response = proposal.await?;
        Ok(number(&response).expect("the machine answers with a number"))
    }

    async fn count(&self) -> u64 {
        let query = self
            .groups
            .query(GROUP, Bytes::new(), Freshness::Linearizable, LONG);
        number(&query.await.unwrap()).expect("the machine answers with a number")
    }

    async fn a_command_is_applied_and_seen(&mut self) {
        let before = self.count().await;
        for more in 1..=3 {
            let operation = self.operation();
            let response = self.propose(operation, &b"same"[..]).await;
            assert_eq!(response, Ok(before + more));
            assert_eq!(self.count().await, before + more);
        }
        let local = self
            .groups
            .query(GROUP, Bytes::new(), Freshness::Local, LONG);
        assert!(number(&local.await.unwrap()).is_some_and(|count| count <= before + 3));
    }

    async fn a_repeat_gets_the_first_response(&mut self) {
        let (first, other) = (self.operation(), self.operation());
        let response = self.propose(first, &b"first"[..]).await.unwrap();
        assert_eq!(self.propose(other, &b"other"[..]).await, Ok(response + 1));
        for again in [&b"first"[..], b"whatever it says now"] {
            assert_eq!(self.propose(first, again).await, Ok(response));
        }
        assert_eq!(self.count().await, response + 1);
    }

    async fn repeats_side_by_side_are_one(&mut self) {
        let (before, operation) = (self.count().await, self.operation());
        let repeats = (0..5).map(|_| self.propose(operation, &b"at once"[..]));
        for response in join_all(repeats).await {
            assert_eq!(response, Ok(before + 1));
        }
        assert_eq!(self.count().await, before + 1);
    }

    async fn commands_are_bounded(&mut self) {
        let before = self.count().await;
        let operation = self.operation();
        let largest = vec![7; COMMAND_BYTES_MAX];
        assert_eq!(self.propose(operation, largest).await, Ok(before + 1));
        let operation = self.operation();
        let refused = self
            .propose(operation, vec![7; COMMAND_BYTES_MAX + 1])
            .await;
        let expected = GroupError::TooLarge {
            len: COMMAND_BYTES_MAX + 1,
            max: COMMAND_BYTES_MAX,
        };
        assert_eq!(refused, Err(expected));
        assert_eq!(self.count().await, before + 1);
        let empty = self.propose(operation, Bytes::new()).await;
        assert_eq!(empty, Ok(before + 2), "a refused operation is not spent");
    }

    async fn what_is_not_admitted_is_not_applied(&mut self) {
        let before = self.count().await;
        let operation = self.operation();
        let refused = self.propose(operation, SCRATCH).await;
        assert_eq!(refused, Err(GroupError::NotAdmitted("a scratch".into())));
        assert_eq!(self.count().await, before);
    }

    /// Before the deadline or soon after it, but not for ever.
    async fn a_group_that_is_nowhere_is_said(&mut self) {
        let operation = self.operation();
        let nothing = Bytes::new;
        let proposal = self.groups.propose(ABSENT, operation, nothing(), SHORT);
        let linearizable = self
            .groups
            .query(ABSENT, nothing(), Freshness::Linearizable, SHORT);
        let local = self
            .groups
            .query(ABSENT, nothing(), Freshness::Local, SHORT);
        for asked in [proposal, linearizable, local] {
            let answer = timeout(LONG, asked).await;
            let answer = answer.expect("a deadline holds");
            assert!(
                matches!(&answer, Err(GroupError::Unavailable { group, .. }) if *group == ABSENT),
                "{answer:?}"
            );
        }
    }
}
