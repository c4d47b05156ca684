//! Starting other programs: the command is shown, its failure names it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// The folder that holds the workspace's manifest.
pub fn workspace_root() -> PathBuf {
    // As cargo says it now: with a target folder that several clones share, this program may have been built for another.
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().unwrap_or(&here).to_path_buf()
}

/// The folder for what is slow to make and may be deleted at any time: tools, virtual environments.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("SKERRY_CACHE_DIR") {
        return Ok(PathBuf::from(dir));
    }
    if let Some(dir) = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        return Ok(Path::new(&dir).join("skerry"));
    }
    let home = std::env::var_os("HOME")
        .context("neither HOME nor SKERRY_CACHE_DIR is set: name a cache folder")?;
    Ok(Path::new(&home).join(".cache/skerry"))
}

/// The cargo that started us, in the workspace's root. What it told us about our own package stays here: build scripts
/// that watch such variables would run again, and everything that stands on them be built twice.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_about_a_package) {
            command.env_remove(name);
        }
    }
    command
}

fn is_about_a_package(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
        || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&variable)
}

/// Whether `name` can be found on PATH.
pub fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Shows the command, runs it with our outputs and no input, fails unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let words = announce(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start `{words}`"))?;
    check(&words, status)
}

/// Runs the command without showing it and returns what it wrote to its standard output.
pub fn capture(command: &mut Command) -> Result<String> {
    let words = words_of(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start `{words}`"))?;
    check(&words, output.status)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{words}` wrote text that is not UTF-8"))
}

/// Shows the command, runs it, passes each line of its standard output on and hands it to `see` as well.
pub fn tee(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let words = announce(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{words}`"))?;
    let stdout = child
        .stdout
        .take()
        .context("the child has no standard output")?;
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        see(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    child.wait().with_context(|| format!("wait for `{words}`"))
}

fn announce(command: &Command) -> String {
    let words = words_of(command);
    println!("==> {words}");
    words
}

fn words_of(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    let words: Vec<_> = std::iter::once(program)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    words.join(" ")
}

fn check(words: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{words}` failed: {status}");
    }
    Ok(())
}
