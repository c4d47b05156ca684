//! Promise of a group, whatever its machine: an acknowledged command stands at its place, once; later commands stand
//! behind it; a linearizable query sees it.
//!
//! A client that gets no answer sends the same operation again by way of another node until somebody answers, so most
//! repeats of the run happen here. Some ledgers are used rarely: their groups fall asleep in between.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use ids::{GroupId, OperationId};
use raft_machine::{Freshness, Groups};

use crate::client::Client;
use crate::journal::{Journal, lock};
use crate::machine::{ENTRIES, LENGTH, number};
use crate::node::{CALL_LIMIT, LEDGERS, Node, in_words};

/// What all clients know of the ledgers.
pub struct Ledgers {
    journal: Arc<Journal>,
    known: Mutex<BTreeMap<GroupId, Known>>,
}

#[derive(Default)]
struct Known {
    /// Somebody knows that the ledger is this long.
    length: u64,
    asked: BTreeSet<u64>,
    /// By tag.
    places: BTreeMap<u64, u64>,
}

impl Ledgers {
    /// Nothing was appended yet.
    pub fn new(journal: &Arc<Journal>) -> Ledgers {
        Ledgers {
            journal: journal.clone(),
            known: Mutex::default(),
        }
    }

    /// Appends and reads until the work is over.
    pub async fn work(self: Arc<Self>, group: GroupId, pace_ms: Range<u64>, mut client: Client) {
        while let Some(node) = client.next_node(pace_ms.clone()).await {
            if client.pick(0..4) == 0 {
                node.meanwhile(self.read(&node, group)).await;
            } else {
                self.append(group, node, &mut client).await;
            }
        }
    }

    /// Appends by way of `node`, else by way of others, until somebody answers or the work is over.
    pub async fn append(&self, group: GroupId, node: Arc<Node>, client: &mut Client) -> bool {
        let tag = client.tag();
        let length = self.begin(group, tag);
        let mut next = Some(node);
        while let Some(node) = next {
            if self.propose(&node, group, tag, length).await {
                return true;
            }
            next = client.next_node(20..200).await;
        }
        false
    }

    async fn propose(&self, node: &Node, group: GroupId, tag: u64, length: u64) -> bool {
        let what = format!("ledger {group} tag {tag} by node {}", node.id);
        let operation = OperationId(u128::from(tag).to_be_bytes());
        let command = Bytes::copy_from_slice(&tag.to_be_bytes());
        let proposal = node.groups.propose(group, operation, command, CALL_LIMIT);
        match node.meanwhile(proposal).await {
            Some(Ok(place)) => {
                self.appended(&what, group, tag, length, &place);
                true
            }
            Some(Err(error)) => {
                self.journal.note(format_args!("{what}: {error}"));
                false
            }
            None => {
                self.journal
                    .note(format_args!("{what}: the node went down"));
                false
            }
        }
    }

    /// Returns the length that is known when a command begins.
    fn begin(&self, group: GroupId, tag: u64) -> u64 {
        let mut known = lock(&self.known);
        let ledger = known.entry(group).or_default();
        ledger.asked.insert(tag);
        ledger.length
    }

    fn appended(&self, what: &str, group: GroupId, tag: u64, length: u64, place: &[u8]) {
        let Some(place) = number(place) else {
            self.journal
                .wrong(format_args!("{what}: the place is {place:?}"));
            return;
        };
        self.journal
            .acknowledged(format_args!("{what}: place {place}"));
        if place < length {
            self.journal.wrong(format_args!(
                "{what}: it got place {place}, but the ledger was {length} long before it began"
            ));
        }
        lock(&self.known)
            .entry(group)
            .or_default()
            .places
            .insert(tag, place);
        self.is_long(group, place + 1);
    }

    fn is_long(&self, group: GroupId, length: u64) {
        let mut known = lock(&self.known);
        let ledger = known.entry(group).or_default();
        ledger.length = ledger.length.max(length);
    }

    async fn read(&self, node: &Node, group: GroupId) {
        let what = format!("ledger {group} read by node {}", node.id);
        let due = lock(&self.known).entry(group).or_default().length;
        let answer = node
            .groups
            .query(group, LENGTH.into(), Freshness::Linearizable, CALL_LIMIT)
            .await;
        match answer.map(|bytes| number(&bytes)) {
            Ok(Some(length)) => {
                self.journal.note(format_args!("{what}: length {length}"));
                if length < due {
                    self.journal.wrong(format_args!(
                        "{what}: it is {length} long, but was {due} long before the read began"
                    ));
                }
                self.is_long(group, length);
            }
            Ok(None) => self.journal.wrong(format_args!("{what}: no number")),
            Err(error) => self.journal.note(format_args!("{what}: {error}")),
        }
    }

    /// Compares what clients know with what the ledgers hold.
    pub async fn verify(&self, node: &Node) -> Result<(), String> {
        for group in LEDGERS {
            let answer = node
                .groups
                .query(group, ENTRIES.into(), Freshness::Linearizable, CALL_LIMIT)
                .await
                .map_err(in_words)?;
            let entries: Vec<u64> = answer.chunks(8).filter_map(number).collect();
            self.compare(group, &entries);
        }
        Ok(())
    }

    fn compare(&self, group: GroupId, entries: &[u64]) {
        let mut known = lock(&self.known);
        let ledger = known.entry(group).or_default();
        let mut found = BTreeMap::new();
        for (place, tag) in (0_u64..).zip(entries) {
            if let Some(before) = found.insert(*tag, place) {
                self.journal.wrong(format_args!(
                    "ledger {group} holds tag {tag} at {before} and at {place}"
                ));
            }
            if !ledger.asked.contains(tag) {
                self.journal
                    .wrong(format_args!("ledger {group}: nobody asked for {tag}"));
            }
        }
        for (tag, place) in &ledger.places {
            if found.get(tag) != Some(place) {
                self.journal.wrong(format_args!(
                    "ledger {group}: tag {tag} was acknowledged at {place} and is at {:?}",
                    found.get(tag)
                ));
            }
        }
    }
}
