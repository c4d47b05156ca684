//! The registry as a replicated state machine: bytes in, bytes out. The modules `apply` and `query` say what they do.
//!
//! A command that can't be read is refused as any other senseless command, with one exception: one
//! of a newer format stops the node, because other replicas may well apply it.

use bytes::Bytes;
use raft_machine::{Batch, Machine, StoreError, View, decode, encode};

use crate::changes::History;
use crate::command::{COMMAND_FORMAT, Command, Refusal, Refused, Response};
use crate::query::{Answer, QUERY_FORMAT, Query};
use crate::signal::ChangeSignal;
use crate::{apply, query};

/// Settings of the state machine; the same on all replicas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// How much of the past is kept.
    pub history: History,
}

/// The registry's state machine.
#[derive(Debug)]
pub struct RegistryMachine {
    signal: ChangeSignal,
    options: RegistryOptions,
}

impl RegistryMachine {
    /// A machine that wakes the followers of `signal` when entries were applied.
    pub fn new(signal: ChangeSignal, options: RegistryOptions) -> Self {
        RegistryMachine { signal, options }
    }
}

impl Machine for RegistryMachine {
    fn apply(
        &self,
        batch: &mut dyn Batch,
        _index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let response = match decode::<Command>("registry command", COMMAND_FORMAT, command) {
            Ok(command) => apply::apply(batch, &self.options.history, &command)?,
            Err(StoreError::Damaged(why)) => Err(Refusal {
                op: None,
                refused: Refused::Invalid(why),
            }),
            Err(error) => return Err(error),
        };
        Ok(encode(COMMAND_FORMAT, &response))
    }

    fn query(&self, view: &dyn View, query: &[u8]) -> Result<Vec<u8>, StoreError> {
        let answer = match decode::<Query>("registry query", QUERY_FORMAT, query) {
            Ok(query) => query::answer(view, &query)?,
            Err(error) => Answer::Invalid(error.to_string()),
        };
        Ok(encode(QUERY_FORMAT, &answer))
    }

    fn applied(&self, index: u64) {
        self.signal.set(index);
    }
}

/// Reads what [`RegistryMachine`] answered to a command.
pub fn decode_response(bytes: &Bytes) -> Result<Response, StoreError> {
    decode("registry response", COMMAND_FORMAT, bytes)
}

/// Reads what [`RegistryMachine`] answered to a query.
pub fn decode_answer(bytes: &Bytes) -> Result<Answer, StoreError> {
    decode("registry answer", QUERY_FORMAT, bytes)
}
