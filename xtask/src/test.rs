//! `cargo xtask test`: every test that we have, on a machine that has only Rust.
//!
//! Four parts: Rust's own tests; the program as a person uses it; other people's S3 clients; crashes of real processes. The
//! last line says how many passed, failed and were skipped; a part that cannot run is counted test by test, never hidden.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::metadata::Metadata;
use crate::shell::{self, cargo, tee};
use crate::tally::Tally;

mod python;

/// What to run.
#[derive(Args)]
pub struct Options {
    /// Adds what takes long: more crash cycles, huge objects; with a release build
    #[arg(long)]
    long: bool,
    /// Runs only this part
    #[arg(long)]
    only: Option<Part>,
    /// Installs nothing; what misses a client is skipped and counted
    #[arg(long)]
    no_install: bool,
    /// Passed on to the test runner of the one part that `--only` names
    #[arg(last = true)]
    rest: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unit, property, simulation and doc tests
    Rust,
    /// Starting, stopping, joining, and what must be refused
    Program,
    /// boto3, awscli, s3cmd, rclone, restic
    Clients,
    /// kill -9 under load
    Crash,
}

/// Runs the parts, prints the tally, fails if anything failed.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    if !options.rest.is_empty() && options.only.is_none() {
        bail!("arguments after `--` need `--only PART`, which says whose they are");
    }
    let mut tally = Tally::default();
    if options.wants(Part::Rust) {
        tally += rust(root, options)?;
    }
    if options.only != Some(Part::Rust) {
        tally += processes(root, options)?;
    }
    println!("{tally}");
    if tally.failed > 0 {
        bail!("{} tests failed", tally.failed);
    }
    Ok(())
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

fn rust(root: &Path, options: &Options) -> Result<Tally> {
    let mut command = cargo(root);
    command
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(&options.rest);
    if options.long {
        command.env("SKERRY_TEST_LONG", "1");
    }
    let mut tally = Tally::default();
    let status = tee(&mut command, |line| tally.see_cargo(line))?;
    if !status.success() && tally.failed == 0 {
        println!("cargo test failed outside of a test: {status}");
        tally.failed = 1;
    }
    Ok(tally)
}

/// Tests that start `skerry` itself; pytest drives them.
struct Suite {
    part: Part,
    folder: &'static str,
    /// Tests at a time.
    workers: u8,
}

/// Tests of starts and stops mostly wait; the others share a site that keeps the machine busy.
const SUITES: [Suite; 3] = [
    Suite {
        part: Part::Program,
        folder: "tests/program",
        workers: 2,
    },
    Suite {
        part: Part::Clients,
        folder: "tests/clients",
        workers: 1,
    },
    Suite {
        part: Part::Crash,
        folder: "tests/crash",
        workers: 1,
    },
];

fn processes(root: &Path, options: &Options) -> Result<Tally> {
    let wanted = SUITES.iter().filter(|suite| options.wants(suite.part));
    let python = match python::prepare(root, options.no_install)? {
        python::Ready::Yes(python) => python,
        python::Ready::No(reason) => {
            let folders: Vec<_> = wanted.map(|suite| suite.folder).collect();
            return Ok(skip(root, &folders, &reason));
        }
    };
    let binary = build(root, options.long)?;
    let mut tally = Tally::default();
    for suite in wanted {
        tally += pytest(root, &python, &binary, suite, options)?;
    }
    Ok(tally)
}

fn build(root: &Path, long: bool) -> Result<PathBuf> {
    let mut command = cargo(root);
    // The whole workspace, as `cargo test` builds it: another choice of packages has other features, and builds all anew.
    command.args(["build", "--workspace", "--locked"]);
    if long {
        command.arg("--release");
    }
    shell::run(&mut command)?;
    let profile = if long { "release" } else { "debug" };
    let binary = Metadata::load(root)?
        .target_directory
        .join(profile)
        .join("skerry");
    binary
        .canonicalize()
        .with_context(|| format!("find the program at {}", binary.display()))
}

fn pytest(
    root: &Path,
    python: &Path,
    binary: &Path,
    suite: &Suite,
    options: &Options,
) -> Result<Tally> {
    let mut command = std::process::Command::new(python);
    command
        .current_dir(root)
        .args(["-m", "pytest", "-p", "no:cacheprovider", "-rsxf"])
        .arg(suite.folder);
    if suite.workers > 1 {
        let workers = suite.workers.to_string();
        command.args(["--dist", "worksteal", "--numprocesses", &workers]);
    }
    command.args(&options.rest);
    command
        .env("SKERRY_BIN", binary)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONUNBUFFERED", "1");
    if options.long {
        command.env("SKERRY_TEST_LONG", "1");
    }
    let mut tally = Tally::default();
    let status = tee(&mut command, |line| tally.see_pytest(line))?;
    if !status.success() && tally.failed == 0 {
        println!("pytest failed outside of a test: {status}");
        tally.failed = 1;
    }
    Ok(tally)
}

fn skip(root: &Path, folders: &[&str], reason: &str) -> Tally {
    let skipped = folders
        .iter()
        .map(|folder| python::count_tests(&root.join(folder)))
        .sum();
    println!(
        "skipped {skipped} tests of {}: {reason}",
        folders.join(" and ")
    );
    Tally {
        skipped,
        ..Tally::default()
    }
}
