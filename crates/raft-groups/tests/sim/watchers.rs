//! Promise: a watch gives every change of its kind, in order, each once; also one that goes on after its node's crash.
//!
//! One watcher lives on each node and remembers where it was. In the end each must have seen what the registry's log of
//! changes holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ids::{NodeId, REGISTRY_GROUP, Revision};
use raft_machine::{Freshness, Groups, encode};
use registry::machine::decode_answer;
use registry::query::{Answer, ChangeAt, ChangesQuery, QUERY_FORMAT, Query};
use registry::{Event, Kind, Resource, WatchEvent};
use tokio::time::{Instant, sleep};

use crate::counters::Counter;
use crate::journal::{Journal, lock};
use crate::node::{CALL_LIMIT, NODES, Node, in_words};
use crate::site::Site;

/// How long watchers may take to hear of the last change.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// What one revision made of a counter.
#[derive(Debug, Clone, PartialEq)]
pub struct CounterChange {
    /// The transaction.
    pub revision: Revision,
    /// The counter.
    pub name: String,
    /// What it holds from now on.
    pub tags: Vec<u64>,
}

impl CounterChange {
    fn new(revision: Revision, counter: Resource<Counter>) -> CounterChange {
        CounterChange {
            revision,
            name: counter.metadata.name,
            tags: counter.spec.tags,
        }
    }
}

/// What the watchers have seen.
pub struct Watchers {
    journal: Arc<Journal>,
    seen: Mutex<BTreeMap<NodeId, Vec<CounterChange>>>,
}

impl Watchers {
    /// Nothing was seen yet.
    pub fn new(journal: &Arc<Journal>) -> Watchers {
        Watchers {
            journal: journal.clone(),
            seen: Mutex::default(),
        }
    }

    /// Watches from node `id`, through all its runs.
    pub async fn follow(self: Arc<Self>, site: Arc<Site>, id: NodeId) {
        loop {
            match site.node(id) {
                Some(node) => {
                    node.meanwhile(self.watch(&node)).await;
                }
                None => sleep(PAUSE).await,
            }
        }
    }

    async fn watch(&self, node: &Node) {
        let position = lock(&self.seen)
            .get(&node.id)
            .and_then(|seen| Some(seen.last()?.revision))
            .unwrap_or_default();
        let mut watch = node.registry.watch::<Counter>(position);
        loop {
            match watch.next().await {
                Ok(event) => self.take(node.id, event),
                Err(error) => {
                    let what = format!("the watch of node {}", node.id);
                    self.journal.unanswered(what, &error);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(&self, id: NodeId, event: WatchEvent<Counter>) {
        let revision = event.revision;
        let (Event::Added(counter) | Event::Modified(counter)) = event.event else {
            let what = "something else than a new or changed counter";
            self.journal
                .wrong(format_args!("node {id} saw {what} at revision {revision}"));
            return;
        };
        let mut all = lock(&self.seen);
        let seen = all.entry(id).or_default();
        if let Some(last) = seen.last()
            && last.revision >= revision
        {
            self.journal.wrong(format_args!(
                "node {id} saw revision {revision} after {}",
                last.revision
            ));
        }
        self.journal
            .note(format_args!("node {id} saw revision {revision}"));
        seen.push(CounterChange::new(revision, counter));
    }

    /// Waits until all watchers have caught up, and compares what they saw with the log.
    pub async fn verify(&self, log: &[CounterChange]) {
        let end = Instant::now() + CATCH_UP_MAX;
        for id in NODES {
            while self.seen_by(id).len() < log.len() && Instant::now() < end {
                sleep(PAUSE).await;
            }
            let seen = self.seen_by(id);
            let same = seen.iter().zip(log).take_while(|(one, other)| one == other);
            let same = same.count();
            if same < seen.len().max(log.len()) {
                self.journal.wrong(format_args!(
                    "the watcher of node {id} saw {} changes, there are {}; number {same} was {:?} to it, and is {:?}",
                    seen.len(),
                    log.len(),
                    seen.get(same),
                    log.get(same)
                ));
            }
        }
    }

    fn seen_by(&self, id: NodeId) -> Vec<CounterChange> {
        lock(&self.seen).get(&id).cloned().unwrap_or_default()
    }
}

/// All changes of counters, from the registry's log.
pub async fn change_log(node: &Node) -> Result<Vec<CounterChange>, String> {
    let mut log = Vec::new();
    let mut since = Revision(0);
    loop {
        let query = Query::Changes(ChangesQuery {
            since,
            kinds: vec![Counter::KIND.into()],
            max: 1_000,
        });
        let query = encode(QUERY_FORMAT, &query).into();
        let answer = node
            .groups
            .query(REGISTRY_GROUP, query, Freshness::Linearizable, CALL_LIMIT)
            .await
            .map_err(in_words)?;
        let answer = decode_answer(&answer).map_err(in_words)?;
        let Answer::Changes {
            changes,
            upto,
            current,
        } = answer
        else {
            return Err(format!("the log of changes was answered by {answer:?}"));
        };
        for change in &changes {
            log.push(read(change)?);
        }
        if upto >= current {
            return Ok(log);
        }
        since = upto;
    }
}

fn read(at: &ChangeAt) -> Result<CounterChange, String> {
    let Some(after) = &at.change.after else {
        return Err(format!("nobody deletes counters, but {at:?}"));
    };
    let counter = Resource::decode(after).map_err(in_words)?;
    Ok(CounterChange::new(at.revision, counter))
}
