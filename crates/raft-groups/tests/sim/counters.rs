//! Promise: an acknowledged change of a resource is there, once; a refused one is not; a linearizable read shows all
//! that was acknowledged before it began.
//!
//! A counter is a resource that lists the tags of its increments. Clients read it, add a tag and write it back by its
//! revision: of two that read the same, one is refused.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ids::Revision;
use registry::{Freshness, Kind, Registry};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::journal::{Journal, lock};
use crate::node::Node;
use crate::revisions::Revisions;
use crate::watchers::CounterChange;

const COUNTERS: u64 = 4;

/// The kind of a counter.
#[derive(Debug, Clone, PartialEq)]
pub struct Counter;

/// What a counter holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CounterSpec {
    /// Every increment, in order.
    pub tags: Vec<u64>,
}

impl Kind for Counter {
    const API_VERSION: &'static str = "sim/v1";
    const KIND: &'static str = "Counter";
    const FORMAT: u8 = 1;
    type Spec = CounterSpec;
    type Status = ();
}

/// What a client knows of its increment.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// Nobody answered, so far.
    Unknown,
    Refused,
    Acknowledged(Revision),
}

/// What all clients know of all increments.
pub struct Counters {
    journal: Arc<Journal>,
    revisions: Arc<Revisions>,
    /// By counter and tag.
    fates: Mutex<BTreeMap<(String, u64), Fate>>,
}

impl Counters {
    /// Nothing was incremented yet.
    pub fn new(journal: &Arc<Journal>, revisions: &Arc<Revisions>) -> Counters {
        Counters {
            journal: journal.clone(),
            revisions: revisions.clone(),
            fates: Mutex::default(),
        }
    }

    /// Makes the counters.
    pub async fn prepare(&self, registry: &Registry) -> Result<(), String> {
        for number in 0..COUNTERS {
            let name = name(number);
            let created = registry.create::<Counter>(&name, CounterSpec::default());
            created.await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Increments counters until the work is over.
    pub async fn work(self: Arc<Self>, mut client: Client) {
        while let Some(node) = client.next_node(20..120).await {
            let (counter, tag) = (name(client.pick(0..COUNTERS)), client.tag());
            node.meanwhile(self.increment(&node, &counter, tag)).await;
        }
    }

    /// Increments some counter by way of `node`; whether that is acknowledged.
    pub async fn increment_any(&self, node: &Node, client: &mut Client) -> bool {
        let (counter, tag) = (name(client.pick(0..COUNTERS)), client.tag());
        self.increment(node, &counter, tag).await
    }

    async fn increment(&self, node: &Node, name: &str, tag: u64) -> bool {
        let what = format!("counter {name} tag {tag} by node {}", node.id);
        let due = self.acknowledged(name);
        let read = node
            .registry
            .get::<Counter>(name, Freshness::Linearizable)
            .await;
        let mut counter = match read {
            Ok(Some(counter)) => counter,
            Ok(None) => {
                self.journal.wrong(format_args!("{what}: it is not there"));
                return false;
            }
            Err(error) => {
                self.journal
                    .unanswered(format_args!("{what}: read"), &error);
                return false;
            }
        };
        if let Some(lost) = due.iter().find(|tag| !counter.spec.tags.contains(tag)) {
            self.journal.wrong(format_args!(
                "{what}: a linearizable read lacks tag {lost}, which was acknowledged before"
            ));
        }
        let floor = self.revisions.floor();
        self.set(name, tag, Fate::Unknown);
        counter.spec.tags.push(tag);
        match node.registry.update(&counter).await {
            Ok(written) => {
                let revision = written.metadata.revision;
                self.journal
                    .acknowledged(format_args!("{what}: revision {revision}"));
                self.revisions
                    .acknowledge(&what, floor, revision, &self.journal);
                self.set(name, tag, Fate::Acknowledged(revision));
                return true;
            }
            Err(error) if error.is_conflict() => {
                self.journal.note(format_args!("{what}: refused"));
                self.set(name, tag, Fate::Refused);
            }
            Err(error) => self
                .journal
                .unanswered(format_args!("{what}: write"), &error),
        }
        false
    }

    fn set(&self, name: &str, tag: u64, fate: Fate) {
        lock(&self.fates).insert((name.to_owned(), tag), fate);
    }

    /// The tags that must be in a counter by now.
    fn acknowledged(&self, name: &str) -> Vec<u64> {
        let fates = lock(&self.fates);
        let promised = fates
            .iter()
            .filter(|((counter, _), fate)| counter == name && matches!(fate, Fate::Acknowledged(_)))
            .map(|((_, tag), _)| *tag);
        promised.collect()
    }

    /// Compares what clients know with the log of all changes.
    pub fn verify(&self, changes: &[CounterChange]) {
        let mut counters: BTreeMap<&str, &[u64]> = BTreeMap::new();
        let mut written: BTreeMap<(String, u64), Revision> = BTreeMap::new();
        for change in changes {
            let CounterChange {
                revision,
                name,
                tags,
            } = change;
            match (counters.insert(name, tags), &tags[..]) {
                (None, []) => {}
                (Some(before), [first @ .., tag]) if before == first => {
                    if written.insert((name.clone(), *tag), *revision).is_some() {
                        self.journal
                            .wrong(format_args!("tag {tag} was added to {name} twice"));
                    }
                }
                (before, _) => self.journal.wrong(format_args!(
                    "revision {revision} turned {name} from {before:?} into {tags:?}"
                )),
            }
        }
        self.compare(written);
    }

    fn compare(&self, mut written: BTreeMap<(String, u64), Revision>) {
        for ((name, tag), fate) in lock(&self.fates).iter() {
            let found = written.remove(&(name.clone(), *tag));
            let fits = match fate {
                Fate::Unknown => true,
                Fate::Refused => found.is_none(),
                Fate::Acknowledged(revision) => found == Some(*revision),
            };
            if !fits {
                self.journal.wrong(format_args!(
                    "tag {tag} of {name} is {fate:?} to its client, and written by {found:?}"
                ));
            }
        }
        if !written.is_empty() {
            self.journal
                .wrong(format_args!("nobody asked for {written:?}"));
        }
    }
}

fn name(number: u64) -> String {
    format!("counter-{number}")
}
