//! Which data folder a command means.

use std::ffi::OsStr;
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
    let root = rustix::process::geteuid().is_root();
    let (data, home) = (std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME"));
    default_folder(root, data.as_deref(), home.as_deref())
        .context("neither XDG_DATA_HOME nor HOME is an absolute path: name a folder with --data")
}

/// A variable that is empty or relative says nothing: the data would lie wherever somebody happens to be.
fn default_folder(root: bool, xdg: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    match (root, xdg.and_then(absolute), home.and_then(absolute)) {
        (true, ..) => Some("/var/lib/skerry".into()),
        (false, Some(xdg), _) => Some(xdg.join("skerry")),
        (false, None, Some(home)) => Some(home.join(".local/share/skerry")),
        (false, None, None) => None,
    }
}

fn absolute(path: &OsStr) -> Option<&Path> {
    Some(Path::new(path)).filter(|path| path.is_absolute())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_folder_depends_on_who_asks() {
        let (xdg, home) = (Some("/x"), Some("/h"));
        let cases = [
            (true, xdg, home, Some("/var/lib/skerry")),
            (false, xdg, home, Some("/x/skerry")),
            (false, Some(""), home, Some("/h/.local/share/skerry")),
            (false, Some("data"), home, Some("/h/.local/share/skerry")),
            (false, None, home, Some("/h/.local/share/skerry")),
            (false, None, Some("here"), None),
            (false, None, None, None),
        ];
        for (root, xdg, home, folder) in cases {
            let chosen = default_folder(root, xdg.map(OsStr::new), home.map(OsStr::new));
            assert_eq!(chosen, folder.map(PathBuf::from));
        }
    }
}
