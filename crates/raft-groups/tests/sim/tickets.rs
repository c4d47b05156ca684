//! Promise: of those who create a resource under one name, one succeeds, and what it made stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use registry::{Freshness, Kind, ListOptions, Metadata, Registry, Resource};
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::journal::{Journal, lock};
use crate::node::Node;
use crate::revisions::Revisions;

/// Names that are fought for at a time; they move on as the run goes.
const CONTESTED: u64 = 3;
/// Attempts until the contested names move on by one.
const ATTEMPTS_PER_NAME: u64 = 4;

/// The kind of a ticket.
#[derive(Debug, Clone, PartialEq)]
struct Ticket;

/// What a ticket holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TicketSpec {
    /// Who made it.
    tag: u64,
}

impl Kind for Ticket {
    const API_VERSION: &'static str = "sim/v1";
    const KIND: &'static str = "Ticket";
    const FORMAT: u8 = 1;
    type Spec = TicketSpec;
    type Status = ();
}

/// What a client knows of its attempt.
#[derive(Debug, Clone)]
enum Fate {
    /// Nobody answered, so far.
    Unknown,
    Taken,
    Made(Box<Metadata>),
}

#[derive(Debug, Clone)]
struct Attempt {
    name: String,
    fate: Fate,
}

/// What all clients know of all attempts.
pub struct Tickets {
    journal: Arc<Journal>,
    revisions: Arc<Revisions>,
    /// By tag.
    attempts: Mutex<BTreeMap<u64, Attempt>>,
}

impl Tickets {
    /// Nothing was tried yet.
    pub fn new(journal: &Arc<Journal>, revisions: &Arc<Revisions>) -> Tickets {
        Tickets {
            journal: journal.clone(),
            revisions: revisions.clone(),
            attempts: Mutex::default(),
        }
    }

    /// Creates tickets until the work is over.
    pub async fn work(self: Arc<Self>, mut client: Client) {
        while let Some(node) = client.next_node(50..300).await {
            let begun = lock(&self.attempts).len() as u64 / ATTEMPTS_PER_NAME;
            let name = format!("ticket-{:05}", begun + client.pick(0..CONTESTED));
            let tag = client.tag();
            node.meanwhile(self.create(&node, name, tag)).await;
        }
    }

    async fn create(&self, node: &Node, name: String, tag: u64) {
        let what = format!("{name} tag {tag} by node {}", node.id);
        let floor = self.revisions.floor();
        self.set(tag, &name, Fate::Unknown);
        let spec = TicketSpec { tag };
        match node.registry.create::<Ticket>(&name, spec).await {
            Ok(made) => {
                let revision = made.metadata.revision;
                self.journal
                    .acknowledged(format_args!("{what}: revision {revision}"));
                self.revisions
                    .acknowledge(&what, floor, revision, &self.journal);
                self.set(tag, &name, Fate::Made(Box::new(made.metadata)));
            }
            Err(error) if error.already_exists() => {
                self.journal.note(format_args!("{what}: taken"));
                self.set(tag, &name, Fate::Taken);
                self.look(node, &name, &what).await;
            }
            Err(error) => self.journal.unanswered(what, &error),
        }
    }

    /// A name that is taken belongs to somebody whom everybody sees.
    async fn look(&self, node: &Node, name: &str, what: &str) {
        let read = node
            .registry
            .get::<Ticket>(name, Freshness::Linearizable)
            .await;
        match read {
            Ok(Some(_)) => {}
            Ok(None) => self
                .journal
                .wrong(format_args!("{what}: refused as taken, but nobody has it")),
            Err(error) => self
                .journal
                .unanswered(format_args!("{what}: read"), &error),
        }
    }

    fn set(&self, tag: u64, name: &str, fate: Fate) {
        let name = name.to_owned();
        lock(&self.attempts).insert(tag, Attempt { name, fate });
    }

    /// Compares what clients know with all tickets that there are.
    pub async fn verify(&self, registry: &Registry) -> Result<(), String> {
        let all = registry
            .list_all::<Ticket>(&ListOptions::default())
            .await
            .map_err(|error| error.to_string())?;
        let by_name: BTreeMap<&str, &Resource<Ticket>> = all
            .items
            .iter()
            .map(|ticket| (ticket.metadata.name.as_str(), ticket))
            .collect();
        let attempts = lock(&self.attempts);
        for (tag, attempt) in attempts.iter() {
            let found = by_name.get(attempt.name.as_str());
            let mine = found.filter(|ticket| ticket.spec.tag == *tag);
            let fits = match &attempt.fate {
                Fate::Unknown => true,
                Fate::Taken => found.is_some() && mine.is_none(),
                Fate::Made(made) => mine.is_some_and(|ticket| ticket.metadata == **made),
            };
            if !fits {
                self.journal.wrong(format_args!(
                    "tag {tag} knows {attempt:?}, and there is {found:?}"
                ));
            }
        }
        let asked_for = |ticket: &&Resource<Ticket>| {
            attempts
                .get(&ticket.spec.tag)
                .is_some_and(|attempt| attempt.name == ticket.metadata.name)
        };
        for ticket in all.items.iter().filter(|ticket| !asked_for(ticket)) {
            self.journal
                .wrong(format_args!("nobody asked for {ticket:?}"));
        }
        Ok(())
    }
}
