//! All the clients of a run: what they do, the proof that the site serves again, and the verdict.

use std::sync::Arc;
use std::time::Duration;

use ids::REGISTRY_GROUP;
use raft_machine::Freshness;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::counters::Counters;
use crate::journal::Journal;
use crate::ledgers::Ledgers;
use crate::node::{LEDGERS, NODES, Node};
use crate::numbers::Numbers;
use crate::revisions::Revisions;
use crate::site::Site;
use crate::tickets::Tickets;
use crate::watchers::{Watchers, change_log};

const COUNTER_CLIENTS: usize = 3;
const TICKET_CLIENTS: usize = 2;
const NUMBER_CLIENTS: usize = 2;
/// How long a node may take to serve writes to all groups after the last fault.
const ALIVE_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// How long clients may take to end their last calls.
const END_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub struct Workload {
    site: Arc<Site>,
    journal: Arc<Journal>,
    seed: u64,
    clients: u64,
    counters: Arc<Counters>,
    tickets: Arc<Tickets>,
    numbers: Arc<Numbers>,
    ledgers: Arc<Ledgers>,
    watchers: Arc<Watchers>,
    working: JoinSet<()>,
    watching: JoinSet<()>,
}

impl Workload {
    /// Makes what the clients work on.
    pub async fn prepare(
        site: &Arc<Site>,
        journal: &Arc<Journal>,
        seed: u64,
    ) -> Result<Workload, String> {
        let revisions = Arc::new(Revisions::default());
        let workload = Workload {
            site: site.clone(),
            journal: journal.clone(),
            seed,
            clients: 0,
            counters: Arc::new(Counters::new(journal, &revisions)),
            tickets: Arc::new(Tickets::new(journal, &revisions)),
            numbers: Arc::new(Numbers::new(journal)),
            ledgers: Arc::new(Ledgers::new(journal)),
            watchers: Arc::new(Watchers::new(journal)),
            working: JoinSet::new(),
            watching: JoinSet::new(),
        };
        let node = workload.any_node()?;
        workload.counters.prepare(&node.registry).await?;
        workload.numbers.prepare(&node.registry).await?;
        Ok(workload)
    }

    fn any_node(&self) -> Result<Arc<Node>, String> {
        let first = self.site.nodes().into_iter().next();
        first.ok_or_else(|| "no node is up".to_owned())
    }

    fn client(&mut self) -> Client {
        self.clients += 1;
        Client::new(&self.site, &self.journal, self.seed, self.clients)
    }

    /// Lets the clients begin.
    pub fn begin(&mut self) {
        for _ in 0..COUNTER_CLIENTS {
            let client = self.client();
            self.working.spawn(self.counters.clone().work(client));
        }
        for _ in 0..TICKET_CLIENTS {
            let client = self.client();
            self.working.spawn(self.tickets.clone().work(client));
        }
        for _ in 0..NUMBER_CLIENTS {
            let client = self.client();
            self.working.spawn(self.numbers.clone().work(client));
        }
        for group in LEDGERS {
            // The latter two pause for longer than a group stays awake.
            let pace_ms = if group.0 <= 2 { 20..200 } else { 2_500..5_000 };
            let client = self.client();
            self.working
                .spawn(self.ledgers.clone().work(group, pace_ms, client));
        }
        for id in NODES {
            let site = self.site.clone();
            self.watching.spawn(self.watchers.clone().follow(site, id));
        }
    }

    /// Proves that writes to every group succeed by way of every node.
    pub async fn prove_alive(&mut self) -> Result<(), String> {
        let mut client = self.client();
        for node in self.site.nodes() {
            let proof = async {
                while !self.counters.increment_any(&node, &mut client).await {
                    // A refusal may come at once: without a pause the clock would stand still.
                    sleep(PAUSE).await;
                }
                for group in LEDGERS {
                    self.ledgers.append(group, node.clone(), &mut client).await;
                }
                node.registry.revision(Freshness::Linearizable).await
            };
            match timeout(ALIVE_MAX, proof).await {
                Ok(Ok(revision)) => self
                    .journal
                    .note(format_args!("node {} serves {revision}", node.id)),
                Ok(Err(error)) => {
                    return Err(format!(
                        "node {} can't ask group {REGISTRY_GROUP} after the faults: {error}",
                        node.id
                    ));
                }
                Err(_) => {
                    return Err(format!(
                        "node {} serves no writes {ALIVE_MAX:?} after the faults",
                        node.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Ends the clients, but not the watchers.
    pub async fn end(&mut self) -> Result<(), String> {
        self.journal.close();
        let ending = async {
            while let Some(ended) = self.working.join_next().await {
                ended.map_err(|error| format!("a client failed: {error}"))?;
            }
            Ok::<(), String>(())
        };
        match timeout(END_MAX, ending).await {
            Ok(ended) => ended,
            Err(_) => Err(format!("a client's call did not end in {END_MAX:?}")),
        }
    }

    /// Compares what the clients were told with what there is; tells the journal.
    pub async fn verify(&mut self) -> Result<(), String> {
        let node = self.any_node()?;
        let log = change_log(&node).await?;
        self.counters.verify(&log);
        self.watchers.verify(&log).await;
        self.tickets.verify(&node.registry).await?;
        self.numbers.verify(&node.registry).await?;
        self.ledgers.verify(&node).await?;
        self.watching.shutdown().await;
        Ok(())
    }
}
