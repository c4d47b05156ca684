//! cargo-deny: licences, duplicates, bans and sources of everything that we link.
//!
//! Advisories are not asked for here: their database is fetched from outside a registry.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{shell, tools};

/// The version that we build; newer ones judge differently.
const VERSION: &str = "0.20.2";

/// Checks `deny.toml`. A missing cargo-deny is built into the cache folder, or skipped aloud.
pub fn run(root: &Path, no_install: bool) -> Result<()> {
    let program = tools::cargo_tool("cargo-deny", VERSION)?;
    if !program.is_file() {
        if no_install {
            println!(
                "verify: skipped 1 check: cargo-deny {VERSION} is not installed and --no-install was given"
            );
            return Ok(());
        }
        tools::install_cargo_tool(root, "cargo-deny", VERSION)?;
    }
    let mut deny = Command::new(program);
    deny.current_dir(root);
    shell::run(deny.args([
        "--workspace",
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "licenses",
        "bans",
        "sources",
    ]))
}
