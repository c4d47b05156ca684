//! Tools from registries, pinned, in the cache folder: never in the tree, never in the system unless root asks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::shell::{cache_dir, cargo, run};

/// Where the binary of a pinned cargo tool is, or will be.
pub fn cargo_tool(name: &str, version: &str) -> Result<PathBuf> {
    Ok(cargo_tool_root(name, version)?.join("bin").join(name))
}

/// Builds a cargo tool into the cache folder. Two callers at once: the second waits and finds it built.
pub fn install_cargo_tool(root: &Path, name: &str, version: &str) -> Result<()> {
    let into = cargo_tool_root(name, version)?;
    let _lock = lock(&format!("{name}-{version}.lock"))?;
    if into.join("bin").join(name).is_file() {
        return Ok(());
    }
    println!("xtask: builds {name} {version} into the cache folder (minutes, once)");
    let mut install = cargo(root);
    // Its own target folder: ours would keep what is never used again.
    install
        .args([
            "install",
            "--quiet",
            "--locked",
            name,
            "--version",
            version,
            "--root",
        ])
        .arg(&into);
    install.env("CARGO_TARGET_DIR", into.join("target"));
    run(&mut install)?;
    fs::remove_dir_all(into.join("target")).context("remove the build folder of a tool")
}

/// Holds a lock between processes of this user on `name` in the cache folder, until dropped.
pub fn lock(name: &str) -> Result<File> {
    let dir = cache_dir()?;
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let path = dir.join(name);
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn cargo_tool_root(name: &str, version: &str) -> Result<PathBuf> {
    Ok(cache_dir()?.join("tools").join(format!("{name}-{version}")))
}
