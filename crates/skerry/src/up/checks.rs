//! What `skerry up` looks at before anything is written: the folder of the site, and of each node its folder and its ports.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Listen, node_folder};
use crate::node::folder::{self, Marker};
use crate::node::{Listeners, found};

/// The folder is a site's, or can become one.
pub fn site_folder(data: &Path) -> Result<()> {
    if data.join("node.json").exists() {
        bail!(
            "{} is the folder of one node: run it with `skerry server --data {0}`",
            data.display()
        );
    }
    folder::check_owner(data)?;
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", data.display())),
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name != "logs" && name != "lock" && !name.starts_with("node-") {
            bail!(
                "{} holds other files (`{name}`) and is no Skerry site: name an empty or new folder with --data",
                data.display()
            );
        }
    }
    Ok(())
}

/// Refuses a start in which a new node, or too many of the others, could not start.
pub async fn nodes(data: &Path, nodes: u16, listen: Listen) -> Result<()> {
    let is_known = |n: &u16| node_folder(data, *n).join("node.json").exists();
    let (known, new): (Vec<u16>, Vec<u16>) = (1..=nodes).partition(is_known);
    let markers = known_nodes(data, &known)?;
    // All ports are held until the last one was looked at.
    let mut held = Vec::new();
    // Of several, each process takes its own and tries again: one of an earlier start may be about to leave them.
    if let ([marker], 1) = (&markers[..], nodes) {
        let listeners = Listeners::bind(&marker.listen).await;
        held.push(listeners.with_context(|| cannot_start(1))?);
    }
    // The first node founds a site, where there is none: it never joins one.
    for n in new.into_iter().filter(|n| *n > 1 || known.is_empty()) {
        let folder = node_folder(data, n);
        let checked = match n {
            1 => new_node(&folder).and_then(|()| found::may_found(&folder)),
            _ => new_node(&folder),
        };
        checked.with_context(|| cannot_start(n))?;
        let listeners = Listeners::bind(&listen.addresses(n - 1)).await;
        held.push(listeners.with_context(|| cannot_start(n))?);
    }
    Ok(())
}

/// The markers of nodes that were started before. Some may be damaged, as long as the others are a majority.
fn known_nodes(data: &Path, known: &[u16]) -> Result<Vec<Marker>> {
    let (mut markers, mut refused) = (Vec::new(), Vec::new());
    for n in known {
        match known_node(&node_folder(data, *n)) {
            Ok(marker) => markers.push(marker),
            Err(error) => refused.push(error.context(cannot_start(*n))),
        }
    }
    let is_majority = markers.len() * 2 > known.len();
    match refused.into_iter().next() {
        Some(first) if !is_majority => Err(first),
        _ => Ok(markers),
    }
}

fn known_node(path: &Path) -> Result<Marker> {
    folder::check(path)?;
    folder::read_marker(path)?.context("its folder is being removed")
}

fn new_node(path: &Path) -> Result<()> {
    folder::check(path)?;
    folder::read_marker(path).map(drop)
}

fn cannot_start(n: u16) -> String {
    format!("node {n} can't start")
}

#[cfg(test)]
mod tests {
    use ids::{NodeId, SiteId};
    use tokio::net::TcpListener;

    use super::*;
    use crate::node::folder::{FORMAT, Folder};
    use crate::node::settings::random_listen;

    /// Makes the folder of a node that was started before.
    fn make(data: &Path, n: u16) {
        let folder = Folder::lock(&node_folder(data, n)).unwrap();
        let marker = Marker {
            format: FORMAT,
            site: SiteId([1; 16]),
            node: NodeId(n.into()),
            listen: random_listen(),
            advertise: None,
            started: true,
        };
        folder.set_marker(&marker).unwrap();
    }

    fn damage(data: &Path, n: u16) {
        std::fs::write(node_folder(data, n).join("node.json"), "{").unwrap();
    }

    async fn refusal(data: &Path, count: u16) -> String {
        let refused = nodes(data, count, Listen::Random).await.unwrap_err();
        format!("{refused:#}")
    }

    #[tokio::test]
    async fn a_site_may_lack_less_than_half_of_its_nodes() {
        let path = tempfile::tempdir().unwrap();
        for n in 1..=3 {
            make(path.path(), n);
        }
        damage(path.path(), 3);
        nodes(path.path(), 3, Listen::Random).await.unwrap();
        damage(path.path(), 2);
        let refused = refusal(path.path(), 3).await;
        assert!(refused.contains("node 2 can't start"), "{refused}");
        assert!(refused.contains("node-2/node.json is damaged"), "{refused}");
    }

    #[tokio::test]
    async fn no_new_node_may_fail() {
        let path = tempfile::tempdir().unwrap();
        make(path.path(), 1);
        nodes(path.path(), 3, Listen::Random).await.unwrap();
        let foreign = node_folder(path.path(), 3);
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("cat.jpg"), "meow").unwrap();
        let refused = refusal(path.path(), 3).await;
        assert!(refused.contains("node 3") && refused.contains("other files"));
        assert!(!node_folder(path.path(), 2).exists(), "nothing is made");
    }

    #[tokio::test]
    async fn a_lone_node_needs_its_ports() {
        let path = tempfile::tempdir().unwrap();
        make(path.path(), 1);
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let folder = Folder::lock(&node_folder(path.path(), 1)).unwrap();
        let mut marker = folder.marker().unwrap().unwrap();
        marker.listen.s3.clone_from(&address);
        folder.set_marker(&marker).unwrap();
        assert!(refusal(path.path(), 1).await.contains(&address));
        nodes(path.path(), 3, Listen::Random).await.unwrap();
    }
}
