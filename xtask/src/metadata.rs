//! The workspace as cargo sees it: our crates, and what each can reach.
//!
//! Only what ships counts: normal and build dependencies on Linux. A crate may use anything in its own tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::shell;

/// What `cargo metadata` says, as far as we ask.
#[derive(Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
    pub target_directory: PathBuf,
}

#[derive(Deserialize)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    pub manifest_path: PathBuf,
    pub dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
pub struct Dependency {
    pub name: String,
    pub rename: Option<String>,
    pub kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<String>,
}

/// Which crate depends on which, by name; versions of one name count as one.
#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    edges: BTreeMap<String, BTreeSet<String>>,
    ours: BTreeSet<String>,
}

impl Metadata {
    /// Asks cargo about the workspace in `root`.
    pub fn load(root: &Path) -> Result<Metadata> {
        let text = shell::capture(shell::cargo(root).args([
            "metadata",
            "--format-version=1",
            "--filter-platform=x86_64-unknown-linux-gnu",
            "--quiet",
        ]))?;
        serde_json::from_str(&text).context("read the answer of cargo metadata")
    }

    /// Our own packages, in the order of their names.
    pub fn ours(&self) -> Vec<&Package> {
        let mut ours: Vec<_> = self
            .packages
            .iter()
            .filter(|p| self.workspace_members.contains(&p.id))
            .collect();
        ours.sort_by_key(|p| &p.name);
        ours
    }

    /// The name under which sources use a dependency: its own, or that of its library (`md-5` is used as `md5`).
    pub fn source_name(&self, dependency: &Dependency) -> String {
        let package = self
            .packages
            .iter()
            .find(|package| package.name == dependency.name);
        let is_library = |target: &&Target| {
            target
                .kind
                .iter()
                .any(|k| k.contains("lib") || k == "proc-macro")
        };
        let library = package.and_then(|package| package.targets.iter().find(is_library));
        let name = library.map_or(&dependency.name, |library| &library.name);
        dependency.rename.as_ref().unwrap_or(name).replace('-', "_")
    }

    /// The version of one of our packages.
    pub fn version_of(&self, name: &str) -> Result<&str> {
        let package = self.ours().into_iter().find(|package| package.name == name);
        Ok(&package
            .with_context(|| format!("there is no package `{name}`"))?
            .version)
    }

    /// The ids of the packages that a package needs, build dependencies included.
    pub fn needs(&self, id: &str) -> impl Iterator<Item = &str> {
        let node = self.resolve.nodes.iter().find(|node| node.id == id);
        let edges = node.into_iter().flat_map(|node| &node.deps);
        edges
            .filter(|edge| edge.ships())
            .map(|edge| edge.pkg.as_str())
    }

    /// Every package that one of ours needs, itself included, in the order of names and versions.
    pub fn linked_into(&self, name: &str) -> Vec<&Package> {
        let mut wanted: Vec<_> = self
            .ours()
            .into_iter()
            .filter(|package| package.name == name)
            .collect();
        let mut seen: BTreeSet<_> = wanted.iter().map(|package| package.id.as_str()).collect();
        let mut at = 0;
        while let Some(package) = wanted.get(at) {
            at += 1;
            let new: Vec<_> = self
                .needs(&package.id)
                .filter(|id| seen.insert(id))
                .collect();
            wanted.extend(
                new.iter()
                    .filter_map(|id| self.packages.iter().find(|package| package.id == *id)),
            );
        }
        wanted.sort_by_key(|package| (&package.name, &package.version));
        wanted
    }

    /// The graph of what ships.
    pub fn graph(&self) -> Graph {
        let names: BTreeMap<_, _> = self.packages.iter().map(|p| (&p.id, &p.name)).collect();
        let mut graph = Graph::default();
        for node in &self.resolve.nodes {
            let deps = node
                .deps
                .iter()
                .filter(|edge| edge.ships())
                .map(|edge| names[&edge.pkg].clone());
            graph
                .edges
                .entry(names[&node.id].clone())
                .or_default()
                .extend(deps);
        }
        graph.ours = self.ours().into_iter().map(|p| p.name.clone()).collect();
        graph
    }
}

impl Edge {
    fn ships(&self) -> bool {
        self.dep_kinds
            .iter()
            .any(|kind| kind.kind.as_deref() != Some("dev"))
    }
}

impl Graph {
    /// A graph from lines like `a: b c`; every crate with a line is one of ours.
    #[cfg(test)]
    pub fn from_lines(text: &str) -> Graph {
        let mut graph = Graph::default();
        for line in text.lines() {
            let (name, deps) = line
                .split_once(':')
                .expect("a line is `name: dependencies`");
            let deps = deps.split_whitespace().map(str::to_string).collect();
            graph.edges.insert(name.trim().to_string(), deps);
            graph.ours.insert(name.trim().to_string());
        }
        graph
    }

    /// Our crates.
    pub fn ours(&self) -> impl Iterator<Item = &str> {
        self.ours.iter().map(String::as_str)
    }

    /// What `name` depends on directly.
    pub fn direct(&self, name: &str) -> impl Iterator<Item = &str> {
        self.edges
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// A shortest chain of crates from `from` to `to`, both included.
    pub fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let mut front = vec![from];
        while !front.is_empty() {
            let mut next = Vec::new();
            for at in front {
                for dep in self.direct(at) {
                    if dep == from || came_from.contains_key(dep) {
                        continue;
                    }
                    came_from.insert(dep, at);
                    if dep == to {
                        return Some(walk_back(&came_from, from, to));
                    }
                    next.push(dep);
                }
            }
            front = next;
        }
        None
    }

    /// The graph of our own crates as text, one line each.
    pub fn internal(&self) -> String {
        let mut text = String::new();
        for name in &self.ours {
            let deps: Vec<_> = self
                .direct(name)
                .filter(|dep| self.ours.contains(*dep))
                .collect();
            text.push_str(format!("{name}: {}", deps.join(" ")).trim_end());
            text.push('\n');
        }
        text
    }
}

fn walk_back(came_from: &BTreeMap<&str, &str>, from: &str, to: &str) -> Vec<String> {
    let mut path = vec![to.to_string()];
    let mut at = to;
    while at != from {
        at = came_from[at];
        path.push(at.to_string());
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_chain_is_found() {
        let graph = Graph::from_lines("a: b c\nb: d\nc: d e\nd: f\ne:\nf: a");
        assert_eq!(
            graph.path("a", "f"),
            Some(vec!["a".into(), "b".into(), "d".into(), "f".into()])
        );
        assert_eq!(graph.path("e", "a"), None);
    }

    #[test]
    fn the_internal_graph_leaves_strangers_out() {
        let graph = Graph::from_lines("a: b tokio\nb: serde");
        assert_eq!(graph.internal(), "a: b\nb:\n");
    }
}
