//! The project's own tasks, run as `cargo xtask NAME`.
//!
//! `verify` reads and judges, `fix` writes, `test` runs everything that can fail, `bench` measures beside a peer, `dist`
//! packs what we ship. The same commands run at home and in `.ci/run`, so that a green run at home means a green run there.
//!
//! This crate knows no crate of ours: it looks at the workspace from outside, through cargo and the files.

// A task talks to the person who started it; everything else in the workspace uses `tracing`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod deny;
mod dist;
mod fix;
mod metadata;
mod shell;

mod tally;
mod test;
mod tidy;
mod tools;
mod verify;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "The project's own tasks"
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lints, docs, dependencies and house rules; never writes to the tree
    Verify(verify::Options),
    /// Formats, applies clippy's suggestions and renews the goldens
    Fix,
    /// Runs all tests: Rust, other people's S3 clients, crashes
    Test(test::Options),
    /// Only the house rules of `verify`
    Tidy,
    /// Runs a benchmark of `benches/`, beside its peer
    Bench(bench::Options),
    /// Packs the program with unit file, completions, manual and bill of materials
    Dist(dist::Options),
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("xtask: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let root = shell::workspace_root();
    match args.task {
        Task::Verify(options) => verify::run(&root, &options),
        Task::Fix => fix::run(&root),
        Task::Test(options) => test::run(&root, &options),
        Task::Tidy => tidy::run(&root),
        Task::Bench(options) => bench::run(&root, &options),
        Task::Dist(options) => dist::run(&root, &options),
    }
}
