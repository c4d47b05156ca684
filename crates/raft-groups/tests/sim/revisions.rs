//! Promise: the registry's revisions grow with real time, and each belongs to one write.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Mutex;

use ids::Revision;

use crate::journal::{Journal, lock};

/// The revisions of acknowledged writes.
#[derive(Default)]
pub struct Revisions(Mutex<BTreeSet<Revision>>);

impl Revisions {
    /// What a write that begins now must exceed.
    pub fn floor(&self) -> Revision {
        lock(&self.0).last().copied().unwrap_or_default()
    }

    /// A write that began at `floor` was acknowledged.
    pub fn acknowledge(
        &self,
        what: impl Display,
        floor: Revision,
        revision: Revision,
        journal: &Journal,
    ) {
        if revision <= floor {
            journal.wrong(format_args!(
                "{what} got revision {revision}, but {floor} was acknowledged before it began"
            ));
        }
        if !lock(&self.0).insert(revision) {
            journal.wrong(format_args!(
                "{what} got revision {revision}, which another write has"
            ));
        }
    }
}
