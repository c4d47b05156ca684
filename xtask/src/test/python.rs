//! The clients that our tests borrow: Python packages in a virtual environment, Debian packages when root runs us.
//!
//! What will be installed is said before it is. Versions of Python packages are pinned in `tests/requirements.txt`; Debian's
//! are those of the release. Without root, nothing outside the cache folder is touched.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::shell::{cache_dir, on_path, run};
use crate::tools::lock;

/// Programs that tests call, and the Debian package that has each.
const PROGRAMS: &[(&str, &str)] = &[
    ("python3", "python3"),
    ("rclone", "rclone"),
    ("restic", "restic"),
    ("openssl", "openssl"),
];

/// Whether tests that need Python can run.
pub enum Ready {
    /// With this interpreter.
    Yes(PathBuf),
    /// They can't, for this reason.
    No(String),
}

/// Installs what is missing, as far as we may.
pub fn prepare(root: &Path, no_install: bool) -> Result<Ready> {
    let requirements = root.join("tests/requirements.txt");
    let wanted = fs::read_to_string(&requirements).context("read tests/requirements.txt")?;
    let venv = cache_dir()?.join(format!("venv-{:016x}", fingerprint(&wanted)));
    let _lock = lock("python.lock")?;
    let packages = missing_packages(&venv);
    if !packages.is_empty() {
        if is_root() && on_path("apt-get") && !no_install {
            println!("xtask: installs from Debian: {}", packages.join(" "));
            apt(&packages)?;
        } else {
            println!(
                "xtask: not root, or --no-install: goes on without Debian's {}",
                packages.join(" ")
            );
        }
    }
    let python = venv.join("bin/python");
    if is_complete(&venv) {
        return Ok(Ready::Yes(python));
    }
    if no_install {
        return Ok(Ready::No(
            "the Python packages are missing and --no-install was given".to_string(),
        ));
    }
    if !has_venv() {
        return Ok(Ready::No(
            "python3 with its venv module is missing and only root can install it".to_string(),
        ));
    }
    let names: Vec<_> = wanted.lines().filter(|line| line.contains("==")).collect();
    println!(
        "xtask: installs from PyPI into the cache folder: {}",
        names.join(" ")
    );
    make_venv(&venv, &requirements)?;
    Ok(Ready::Yes(python))
}

/// How many tests a folder of Python tests defines.
pub fn count_tests(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts
        .map(|text| {
            text.lines()
                .filter(|line| line.starts_with("def test_"))
                .count() as u64
        })
        .sum()
}

fn missing_packages(venv: &Path) -> Vec<&'static str> {
    let missing = PROGRAMS.iter().filter(|(program, _)| !on_path(program));
    let mut packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    if !is_complete(venv) && !has_venv() {
        packages.push("python3-venv");
    }
    packages
}

fn apt(packages: &[&str]) -> Result<()> {
    let get = || {
        let mut get = Command::new("apt-get");
        get.env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
        get
    };
    run(get().arg("update"))?;
    run(get()
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages))
}

fn make_venv(venv: &Path, requirements: &Path) -> Result<()> {
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(venv))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--requirement",
    ])
    .arg(requirements);
    run(&mut pip)?;
    fs::write(complete_mark(venv), "").context("mark the virtual environment as complete")
}

/// The last thing that is written, so that a broken-off installation is begun again.
fn complete_mark(venv: &Path) -> PathBuf {
    venv.join("complete")
}

fn is_complete(venv: &Path) -> bool {
    complete_mark(venv).is_file()
}

fn has_venv() -> bool {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    python.status().is_ok_and(|status| status.success())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

fn fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
