//! Which data folder a command means.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::config::ConfigFlags;

/// The folder that was named, else the default one: `/var/lib/skerry` for root, else `$XDG_DATA_HOME/skerry` or
/// `~/.local/share/skerry`.
pub fn choose(named: Option<PathBuf>) -> Result<PathBuf> {
    if let Some(named) = named {
        return std::path::absolute(&named)
            .with_context(|| format!("{} is no path", named.display()));
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/skerry".into());
    }
    if let Some(data) = std::env::var_os("XDG_DATA_HOME") {
        return Ok(Path::new(&data).join("skerry"));
    }
    let home = std::env::var_os("HOME")
        .context("neither XDG_DATA_HOME nor HOME is set: name a folder with --data")?;
    Ok(Path::new(&home).join(".local/share/skerry"))
}

/// The path in an environment variable; an empty one says nothing.
pub fn variable(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(name)?;
    (!path.is_empty()).then(|| path.into())
}

/// The folder of a command that asks a node: the one that was named, else the one that the configuration names, else the
/// default one.
pub fn find(named: Option<PathBuf>) -> Result<PathBuf> {
    match named.or_else(|| variable("SKERRY_DATA")) {
        Some(named) => choose(Some(named)),
        None => choose(ConfigFlags::default().data()?),
    }
}

/// The node folders below a site's folder, in the order of their numbers; the folder itself when it is a node's.
pub fn nodes(data: &Path) -> Vec<PathBuf> {
    if data.join("node.json").exists() {
        return vec![data.to_owned()];
    }
    (1..=9)
        .map(|n| data.join(format!("node-{n}")))
        .filter(|path| path.join("node.json").exists())
        .collect()
}
