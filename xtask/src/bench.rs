//! `cargo xtask bench NAME`: starts the driver of one benchmark.
//!
//! A benchmark is a folder of `benches/`: a script `run`, or a small program with a manifest and a lock file of its own, so
//! that peers stay out of the house's. It starts Skerry and its peer itself and prints ratios.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::shell;

/// Which benchmark, and what to pass on.
#[derive(Args)]
pub struct Options {
    /// A folder of `benches/`
    name: String,
    /// Passed on to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs `benches/NAME`.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let folder = root.join("benches").join(&options.name);
    let mut command = match kind(&folder) {
        Some(Kind::Script) => Command::new(folder.join("run")),
        Some(Kind::Program) => {
            let mut cargo = shell::cargo(root);
            cargo.args(["run", "--release", "--locked", "--manifest-path"]);
            cargo.arg(folder.join("Cargo.toml")).arg("--");
            cargo
        }
        None => {
            let known = names(root).join(", ");
            bail!(
                "there is no benchmark `{}`; there are: {known}",
                options.name
            );
        }
    };
    shell::run(command.args(&options.args).current_dir(root))
}

enum Kind {
    Script,
    Program,
}

fn kind(folder: &Path) -> Option<Kind> {
    if folder.join("run").is_file() {
        return Some(Kind::Script);
    }
    folder.join("Cargo.toml").is_file().then_some(Kind::Program)
}

fn names(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("benches")) else {
        return Vec::new();
    };
    let runnable = entries
        .flatten()
        .filter(|entry| kind(&entry.path()).is_some());
    let mut names: Vec<_> = runnable
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
