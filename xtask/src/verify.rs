//! `cargo xtask verify`: everything that can be judged without running the product. Never writes to the tree.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::shell::{self, cargo};
use crate::{deny, tidy};

/// What to leave out.
#[derive(Args)]
pub struct Options {
    /// Skip the check of dependencies when cargo-deny is missing, instead of building it (minutes, once)
    #[arg(long)]
    no_install: bool,
}

/// Runs all checks, the quick ones first; stops at the first that fails.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    shell::run(cargo(root).args(["fmt", "--all", "--check"]))?;
    tidy::run(root)?;
    shell::run(cargo(root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    shell::run(
        cargo(root)
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--locked",
                "--document-private-items",
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    deny::run(root, options.no_install)?;
    println!("verify: all good");
    Ok(())
}
