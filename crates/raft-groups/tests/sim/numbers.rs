//! Promise: a pool gives each value once, and a proposal that is sent again takes no second one.
//!
//! Nothing guards these proposals but their operation id: if a repeat were applied anew, more values would be in use
//! than were asked for.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use registry::{Freshness, Layout, Registry, Want};

use crate::client::Client;
use crate::journal::{Journal, lock};
use crate::node::Node;

const POOL: &str = "numbers";

/// What all clients know of the pool.
pub struct Numbers {
    journal: Arc<Journal>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    values: BTreeSet<u128>,
    /// Proposals that nobody answered, so far.
    unknown: u128,
}

impl Numbers {
    /// Nothing was asked for yet.
    pub fn new(journal: &Arc<Journal>) -> Numbers {
        Numbers {
            journal: journal.clone(),
            asked: Mutex::default(),
        }
    }

    /// Makes the pool.
    pub async fn prepare(&self, registry: &Registry) -> Result<(), String> {
        let made = registry.create_pool(POOL, Layout::Sparse, 0..=u128::from(u64::MAX));
        made.await.map_err(|error| error.to_string())
    }

    /// Takes values until the work is over.
    pub async fn work(self: Arc<Self>, mut client: Client) {
        while let Some(node) = client.next_node(50..250).await {
            node.meanwhile(self.take(&node)).await;
        }
    }

    async fn take(&self, node: &Node) {
        let what = format!("a number by node {}", node.id);
        lock(&self.asked).unknown += 1;
        match node.registry.allocate(POOL, Want::Any { count: 1 }).await {
            Ok(values) => {
                self.journal
                    .acknowledged(format_args!("{what}: {values:?}"));
                self.took(&values);
            }
            Err(error) => self.journal.unanswered(what, &error),
        }
    }

    fn took(&self, values: &[u128]) {
        let mut asked = lock(&self.asked);
        asked.unknown -= 1;
        let [value] = values else {
            self.journal.wrong(format_args!(
                "one number was asked for, {values:?} were given"
            ));
            return;
        };
        if !asked.values.insert(*value) {
            self.journal
                .wrong(format_args!("number {value} was given twice"));
        }
    }

    /// Compares what clients know with the pool.
    pub async fn verify(&self, registry: &Registry) -> Result<(), String> {
        let pool = registry.pool(POOL, Freshness::Linearizable).await;
        let pool = pool.map_err(|error| error.to_string())?;
        let used = pool.map_or(0, |pool| pool.used);
        let asked = lock(&self.asked);
        let given = asked.values.len() as u128;
        if used < given || used > given + asked.unknown {
            self.journal.wrong(format_args!(
                "the pool has {used} numbers in use; {given} were given, {} proposals were not answered",
                asked.unknown
            ));
        }
        Ok(())
    }
}
