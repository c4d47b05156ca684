//! The registry as a replicated state machine: bytes in, bytes out. The modules `apply` and `query` say what they do.
//!
//! A command that can't be read is not admitted to the log. One that got there is refused as any other senseless command,
//! with one exception: one of a newer format stops the group here, because other replicas may well apply it.

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
    fn admit(&self, command: &[u8]) -> Result<(), String> {
        match decode::<Command>("registry command", COMMAND_FORMAT, command) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

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

#[cfg(test)]
mod tests {
    use raft_machine::memory::MemoryStore;

    use super::*;

    fn collect() -> Vec<u8> {
        encode(COMMAND_FORMAT, &Command::Collect { now_ms: 1, max: 1 })
    }

    fn machine() -> RegistryMachine {
        RegistryMachine::new(ChangeSignal::new(), RegistryOptions::default())
    }

    #[test]
    fn what_is_no_command_is_neither_admitted_nor_a_failure() {
        assert_eq!(machine().admit(&collect()), Ok(()));
        let trailing = [&collect()[..], b"x"].concat();
        let unreadable: [&[u8]; 3] = [b"", &[COMMAND_FORMAT, 0xFF], &trailing];
        for garbage in unreadable {
            assert!(machine().admit(garbage).is_err(), "{garbage:?}");
            let mut store = MemoryStore::default();
            let response = machine().apply(&mut store, 1, garbage).unwrap();
            assert!(decode_response(&response.into()).unwrap().is_err());
            assert!(store.is_empty());
        }
    }

    #[test]
    fn a_newer_command_is_not_admitted() {
        let mut newer = collect();
        newer[0] = COMMAND_FORMAT + 1;
        assert!(machine().admit(&newer).is_err());
    }
}
