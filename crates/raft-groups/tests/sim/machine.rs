//! The state machines of the simulated site: the registry's, and ledgers; all can be asked for a digest of their state.
//!
//! A ledger appends every command, whatever it holds, and answers with its place: a command that is applied twice, lost
//! or out of order can't hide.

use std::hash::{DefaultHasher, Hasher};
use std::ops::ControlFlow;
use std::sync::Arc;

use ids::{GroupId, REGISTRY_GROUP};
use raft_groups::Machines;
use raft_machine::{Batch, Machine, StoreError, View};
use registry::{ChangeSignal, RegistryMachine, RegistryOptions};
use testkit::suites::groups as suite;

/// Asks for a hash of all keys and values, the driver's included. No machine here knows a query that begins so.
pub const DIGEST: &[u8] = b"\xFFdigest";
/// Asks a ledger how many entries it has: 8 bytes, big-endian.
pub const LENGTH: &[u8] = b"length";
/// Asks a ledger for its entries: 8 bytes each.
pub const ENTRIES: &[u8] = b"entries";

const LENGTH_KEY: &[u8] = b"n";
const ENTRY_PREFIX: u8 = b'e';

/// Makes the machines of one run of a node.
pub struct SiteMachines(pub ChangeSignal);

impl Machines for SiteMachines {
    fn machine(&self, group: GroupId) -> Arc<dyn Machine> {
        let signal = self.0.clone();
        match group {
            REGISTRY_GROUP => {
                let registry = RegistryMachine::new(signal, RegistryOptions::default());
                Arc::new(Digested(Arc::new(registry)))
            }
            suite::GROUP => Arc::new(Digested(suite::machine())),
            _ => Arc::new(Digested(Arc::new(Ledger))),
        }
    }
}

/// A machine that also answers [`DIGEST`].
struct Digested(Arc<dyn Machine>);

impl Machine for Digested {
    fn admit(&self, command: &[u8]) -> Result<(), String> {
        self.0.admit(command)
    }

    fn apply(
        &self,
        batch: &mut dyn Batch,
        index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        self.0.apply(batch, index, command)
    }

    fn query(&self, view: &dyn View, query: &[u8]) -> Result<Vec<u8>, StoreError> {
        match query == DIGEST {
            true => digest(view),
            false => self.0.query(view, query),
        }
    }

    fn applied(&self, index: u64) {
        self.0.applied(index);
    }
}

fn digest(view: &dyn View) -> Result<Vec<u8>, StoreError> {
    let mut hash = DefaultHasher::new();
    view.scan(&[], None, &mut |key, value| {
        hash.write_usize(key.len());
        hash.write(key);
        hash.write_usize(value.len());
        hash.write(value);
        ControlFlow::Continue(())
    })?;
    Ok(hash.finish().to_be_bytes().to_vec())
}

struct Ledger;

impl Machine for Ledger {
    fn apply(
        &self,
        batch: &mut dyn Batch,
        _index: u64,
        command: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        let place = length(&*batch)?;
        batch.put(&entry_key(place), command)?;
        batch.put(LENGTH_KEY, &(place + 1).to_be_bytes())?;
        Ok(place.to_be_bytes().to_vec())
    }

    fn query(&self, view: &dyn View, query: &[u8]) -> Result<Vec<u8>, StoreError> {
        match query {
            LENGTH => Ok(length(view)?.to_be_bytes().to_vec()),
            ENTRIES => entries(view),
            _ => Err(StoreError::Damaged(
                "a ledger does not know this query".into(),
            )),
        }
    }
}

fn entry_key(place: u64) -> Vec<u8> {
    let mut key = vec![ENTRY_PREFIX];
    key.extend_from_slice(&place.to_be_bytes());
    key
}

fn length(view: &dyn View) -> Result<u64, StoreError> {
    match view.get(LENGTH_KEY)? {
        None => Ok(0),
        Some(bytes) => number(&bytes)
            .ok_or_else(|| StoreError::Damaged("a ledger's length is no number".into())),
    }
}

fn entries(view: &dyn View) -> Result<Vec<u8>, StoreError> {
    let mut all = Vec::new();
    view.scan(
        &[ENTRY_PREFIX],
        Some(&[ENTRY_PREFIX + 1]),
        &mut |_, entry| {
            all.extend_from_slice(entry);
            ControlFlow::Continue(())
        },
    )?;
    Ok(all)
}

/// Reads 8 bytes as a number.
pub fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
