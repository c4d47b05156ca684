//! `cargo xtask dist`: the archive that we ship, with its checksum and a list of everything that is linked into it.
//!
//! ```text
//! TARGET_DIR/dist/skerry-VERSION-TRIPLE.tar.gz   bin/ lib/systemd/system/ share/… LICENSE README.md CHANGELOG.md sbom.cdx.json
//! TARGET_DIR/dist/SHA256SUMS
//! ```
//! The same commit gives the same archive around the program: names are sorted and times are the commit's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::metadata::Metadata;
use crate::shell::{self, cargo};

mod sbom;

/// What to build.
#[derive(Args)]
pub struct Options {
    /// The target; the musl ones give a static program (needs their C compiler) [default: this machine]
    #[arg(long)]
    target: Option<String>,
}

/// Shells and where each looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/skerry"),
    ("zsh", "share/zsh/site-functions/_skerry"),
    ("fish", "share/fish/vendor_completions.d/skerry.fish"),
];

/// Files that are shipped as they are.
const PLAIN: &[(&str, &str)] = &[
    ("LICENSE", "LICENSE"),
    ("README.md", "README.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    (
        "packaging/skerry.service",
        "lib/systemd/system/skerry.service",
    ),
];

/// Builds and packs.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let metadata = Metadata::load(root)?;
    let triple = options.target.clone().map_or_else(|| host(root), Ok)?;
    let binary = build(root, &metadata, options.target.as_deref())?;
    let name = format!("skerry-{}-{triple}", metadata.version_of("skerry")?);
    let dist = metadata.target_directory.join("dist");
    let stage = dist.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("clear {}", stage.display()))?;
    }
    fill(root, &stage, &binary, &metadata)?;
    pack(root, &dist, &name)?;
    fs::remove_dir_all(&stage).context("remove the staging folder")?;
    println!("dist: {}", dist.join(format!("{name}.tar.gz")).display());
    Ok(())
}

fn build(root: &Path, metadata: &Metadata, target: Option<&str>) -> Result<PathBuf> {
    let mut command = cargo(root);
    command.args([
        "build",
        "--profile",
        "dist",
        "--locked",
        "--package",
        "skerry",
    ]);
    if let Some(target) = target {
        command.args(["--target", target]);
    }
    shell::run(&mut command)?;
    let folder = metadata.target_directory.join(target.unwrap_or_default());
    Ok(folder.join("dist/skerry"))
}

fn fill(root: &Path, stage: &Path, binary: &Path, metadata: &Metadata) -> Result<()> {
    let built = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    put(stage, "bin/skerry", &built)?;
    shell::run(
        Command::new("chmod")
            .arg("755")
            .arg(stage.join("bin/skerry")),
    )?;
    for (from, to) in PLAIN {
        let bytes = fs::read(root.join(from)).with_context(|| format!("read {from}"))?;
        put(stage, to, &bytes)?;
    }
    for (shell, to) in COMPLETIONS {
        let script = shell::capture(Command::new(binary).args(["completions", shell]))?;
        put(stage, to, script.as_bytes())?;
    }
    let manual = stage.join("share/man/man1");
    shell::run(Command::new(binary).args(["man", "--out"]).arg(manual))?;
    put(stage, "sbom.cdx.json", sbom::render(metadata)?.as_bytes())
}

fn put(stage: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = stage.join(name);
    let folder = path.parent().context("a shipped file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
}

fn pack(root: &Path, dist: &Path, name: &str) -> Result<()> {
    let archive = format!("{name}.tar.gz");
    let mut tar = Command::new("tar");
    tar.current_dir(dist)
        .env("GZIP", "-n")
        .args(["--create", "--gzip", "--sort=name"]);
    tar.args([
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        &format!("--mtime=@{}", commit_time(root)?),
    ]);
    shell::run(tar.args(["--file", &archive, name]))?;
    let sums = shell::capture(Command::new("sha256sum").current_dir(dist).arg(&archive))?;
    fs::write(dist.join("SHA256SUMS"), sums).context("write SHA256SUMS")
}

fn commit_time(root: &Path) -> Result<String> {
    let time =
        shell::capture(
            Command::new("git")
                .current_dir(root)
                .args(["log", "-1", "--format=%ct"]),
        )?;
    Ok(time.trim().to_string())
}

fn host(root: &Path) -> Result<String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let version = shell::capture(rustc.current_dir(root).arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("rustc -vV names no host")?.to_string())
}
