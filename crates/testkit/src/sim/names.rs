//! The names of a simulated disk: those that readers see, those that are durable, and the changes between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;

use super::inode::Inode;

type Tree = BTreeMap<String, Arc<Inode>>;

#[derive(Debug, Default)]
pub(super) struct Names {
    now: Tree,
    durable: Tree,
    /// What no sync has covered yet, in order.
    waiting: Vec<NameChange>,
    folders: BTreeSet<String>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create {
        path: String,
        inode: Arc<Inode>,
    },
    Rename {
        from: String,
        to: String,
        inode: Arc<Inode>,
    },
    Remove {
        path: String,
    },
}

impl Names {
    pub(super) fn get(&self, path: &str) -> Option<&Arc<Inode>> {
        self.now.get(path)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&String, &Arc<Inode>)> {
        self.now.iter()
    }

    pub(super) fn is_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }

    /// Names of files and folders in a folder, sorted.
    pub(super) fn list(&self, folder: &str) -> Vec<String> {
        let paths = self
            .now
            .keys()
            .chain(&self.folders)
            .filter(|path| parent(path) == folder);
        let names: BTreeSet<&str> = paths.map(|path| last(path)).collect();
        names.into_iter().map(str::to_owned).collect()
    }

    pub(super) fn create(&mut self, path: &str, inode: Arc<Inode>) {
        self.use_folders_of(path);
        self.change(NameChange::Create {
            path: path.to_owned(),
            inode,
        });
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, inode: Arc<Inode>) {
        self.change(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
            inode,
        });
    }

    pub(super) fn remove(&mut self, path: &str) {
        if self.now.contains_key(path) {
            self.change(NameChange::Remove {
                path: path.to_owned(),
            });
        }
    }

    pub(super) fn sync(&mut self, folder: &str) {
        let waiting = std::mem::take(&mut self.waiting);
        for change in waiting {
            if change.folder() == folder {
                change.apply(&mut self.durable);
            } else {
                self.waiting.push(change);
            }
        }
    }

    /// Keeps each change that waits, or not.
    pub(super) fn lose_changes(&mut self, rng: &mut StdRng) {
        for change in std::mem::take(&mut self.waiting) {
            if rng.random_bool(0.5) {
                change.apply(&mut self.durable);
            }
        }
        self.now = self.durable.clone();
        self.folders.retain(|_| rng.random_bool(0.5));
        for path in self.now.keys().cloned().collect::<Vec<_>>() {
            self.use_folders_of(&path);
        }
        for folder in self.folders.clone() {
            self.use_folders_of(&folder);
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.now);
        self.waiting.push(change);
    }

    fn use_folders_of(&mut self, path: &str) {
        let mut folder = parent(path);
        while !folder.is_empty() && self.folders.insert(folder.to_owned()) {
            folder = parent(folder);
        }
    }
}

impl NameChange {
    /// The folder whose sync makes the change durable.
    fn folder(&self) -> &str {
        match self {
            NameChange::Create { path, .. } | NameChange::Remove { path } => parent(path),
            NameChange::Rename { to, .. } => parent(to),
        }
    }

    fn apply(&self, names: &mut Tree) {
        match self {
            NameChange::Create { path, inode } => {
                names.insert(path.clone(), inode.clone());
            }
            NameChange::Rename { from, to, inode } => {
                if names
                    .get(from)
                    .is_some_and(|there| Arc::ptr_eq(there, inode))
                {
                    names.remove(from);
                }
                names.insert(to.clone(), inode.clone());
            }
            NameChange::Remove { path } => {
                names.remove(path);
            }
        }
    }
}

/// The folder that a path is in; empty at the top.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
