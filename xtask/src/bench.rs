//! `cargo xtask bench NAME`: starts the driver of one benchmark.
//!
//! A benchmark is a program in `benches/NAME/run` that starts Skerry and its peer itself and prints ratios.

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

/// Runs `benches/NAME/run`.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let program = root.join("benches").join(&options.name).join("run");
    if !program.is_file() {
        bail!(
            "there is no benchmark `{}`; there are: {}",
            options.name,
            names(root).join(", ")
        );
    }
    shell::run(Command::new(program).args(&options.args).current_dir(root))
}

fn names(root: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(root.join("benches")) else {
        return Vec::new();
    };
    let with_run = entries
        .flatten()
        .filter(|entry| entry.path().join("run").is_file());
    let mut names: Vec<_> = with_run
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
