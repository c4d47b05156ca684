//! `skerry up`: a whole site on this machine, kept running.
//!
//! One node runs in this process. Several run as processes of their own: the first founds the site, the others join it with
//! tokens, the same way that other machines would. A process that dies is started again, and said so.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use identity::JoinToken;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::cli::{self, At, Output, print};
use crate::logs::{self, LogFormat};
use crate::node::Node;
use crate::node::admin::TokenShown;
use crate::node::found::ROOT;
use crate::node::settings::{self, Settings};
use crate::node::status::SiteStatus;

/// Which ports a new node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// The documented ones.
    Default,
    /// Any free ones.
    Random,
}

const READY_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A process that dies again and again is started at most this often.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

impl Listen {
    fn addresses(self, n: u16) -> crate::node::folder::Listen {
        match self {
            Listen::Default => settings::default_listen(n),
            Listen::Random => settings::random_listen(),
        }
    }
}

/// Runs a site until Ctrl-C or SIGTERM.
pub async fn run(
    data: &Path,
    nodes: u16,
    listen: Listen,
    log_format: LogFormat,
) -> Result<ExitCode> {
    check_folder(data)?;
    let known = u16::try_from(cli::folder::nodes(data).len()).unwrap_or(u16::MAX);
    if known > nodes {
        print::note(format!(
            "the site in {} has {known} nodes: all of them are started",
            data.display()
        ));
    }
    match nodes.max(known) {
        1 => run_here(data, listen, log_format).await,
        nodes => run_processes(data, nodes, listen, log_format).await,
    }
}

/// The folder is a site's, or can become one.
fn check_folder(data: &Path) -> Result<()> {
    if data.join("node.json").exists() {
        bail!(
            "{} is the folder of one node: run it with `skerry server --data {0}`",
            data.display()
        );
    }
    let entries = match std::fs::read_dir(data) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", data.display())),
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name != "logs" && !name.starts_with("node-") {
            bail!(
                "{} holds other files (`{name}`) and is no Skerry site: name an empty or new folder with --data",
                data.display()
            );
        }
    }
    Ok(())
}

fn node_folder(data: &Path, n: u16) -> PathBuf {
    data.join(format!("node-{n}"))
}

fn settings_for(folder: &Path, listen: Listen, n: u16) -> Settings {
    let listen = match folder.join("node.json").exists() {
        true => settings::last_listen(),
        false => listen.addresses(n - 1),
    };
    Settings {
        listen,
        ..Settings::default()
    }
}

async fn run_here(data: &Path, listen: Listen, log_format: LogFormat) -> Result<ExitCode> {
    std::fs::create_dir_all(data)
        .with_context(|| format!("can't make the data folder {}", data.display()))?;
    logs::start(log_format, Some(&log_file(data, 1)))?;
    let folder = node_folder(data, 1);
    let node = Node::start(&folder, &settings_for(&folder, listen, 1)).await?;
    welcome(data, &node.site_status().await);
    let why = cli::until_stopped(&node, false).await?;
    print::note(format!("stopping: {why}"));
    node.stop().await;
    match node.wal_ended() {
        Some(error) if why.contains("log") => bail!("{error}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn log_file(data: &Path, n: u16) -> PathBuf {
    data.join("logs").join(format!("node-{n}.log"))
}

/// One node's process.
struct Process {
    n: u16,
    child: Child,
    started: Instant,
}

struct Processes<'a> {
    data: &'a Path,
    listen: Listen,
    log_format: LogFormat,
    running: Vec<Process>,
}

impl Processes<'_> {
    fn spawn(&self, n: u16) -> Result<Process> {
        let folder = node_folder(self.data, n);
        let mut command =
            Command::new(std::env::current_exe().context("can't find this program's file")?);
        command
            .arg("server")
            .arg("--with-parent")
            .arg("--data")
            .arg(&folder);
        command
            .arg("--log-file")
            .arg(log_file(self.data, n))
            .args(["--log-format", self.log_format.name()]);
        if !folder.join("node.json").exists() {
            let listen = self.listen.addresses(n - 1);
            command.args([
                "--s3-listen",
                &listen.s3,
                "--node-listen",
                &listen.node,
                "--http-listen",
                &listen.http,
            ]);
        }
        for name in [
            "SKERRY_DATA",
            "SKERRY_S3_LISTEN",
            "SKERRY_NODE_LISTEN",
            "SKERRY_HTTP_LISTEN",
            "SKERRY_ADVERTISE",
        ] {
            command.env_remove(name);
        }
        // Ctrl-C reaches the whole foreground group: the processes are stopped by this one, in order.
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("can't start node {n}"))?;
        Ok(Process {
            n,
            child,
            started: Instant::now(),
        })
    }

    fn start(&mut self, n: u16) -> Result<()> {
        let process = self.spawn(n)?;
        self.running.push(process);
        Ok(())
    }

    /// Starts again what died.
    fn look_after(&mut self) -> Result<()> {
        for at in 0..self.running.len() {
            let process = &mut self.running[at];
            if let Some(status) = process.child.try_wait()? {
                if process.started.elapsed() < RESTART_PAUSE {
                    continue;
                }
                print::note(format!(
                    "node {} ended ({status}): starting it again",
                    process.n
                ));
                let n = process.n;
                self.running[at] = self.spawn(n)?;
            }
        }
        Ok(())
    }

    async fn stop(mut self) {
        for process in &self.running {
            if let Some(pid) = process.child.id().and_then(|pid| i32::try_from(pid).ok())
                && let Some(pid) = rustix::process::Pid::from_raw(pid)
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        for process in &mut self.running {
            if tokio::time::timeout(cli::STOP_LIMIT, process.child.wait())
                .await
                .is_err()
            {
                print::note(format!(
                    "node {} did not stop in time and was ended",
                    process.n
                ));
                let _ = process.child.kill().await;
            }
        }
    }
}

async fn run_processes(
    data: &Path,
    nodes: u16,
    listen: Listen,
    log_format: LogFormat,
) -> Result<ExitCode> {
    std::fs::create_dir_all(data.join("logs"))
        .with_context(|| format!("can't make {}", data.display()))?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut processes = Processes {
        data,
        listen,
        log_format,
        running: Vec::new(),
    };
    let at = At::json_of(data);
    let started = tokio::select! {
        biased;
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
        started = start_all(&mut processes, nodes, &at) => started.map(Some),
    };
    match started {
        Ok(Some(status)) => welcome(data, &status),
        Ok(None) => {
            processes.stop().await;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            processes.stop().await;
            return Err(error);
        }
    }
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = tokio::time::sleep(LOOK_EVERY * 4) => processes.look_after()?,
        }
    }
    print::note("stopping");
    processes.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Starts known nodes, then joins the missing ones; returns when the site is ready.
async fn start_all(processes: &mut Processes<'_>, nodes: u16, at: &At) -> Result<SiteStatus> {
    let data = processes.data;
    let known: Vec<u16> = (1..=nodes)
        .filter(|n| node_folder(data, *n).join("node.json").exists())
        .collect();
    for n in known.iter().copied().chain(known.is_empty().then_some(1)) {
        processes.start(n)?;
    }
    for n in (2..=nodes).filter(|n| !known.contains(n)) {
        let body = json!({ "ttl_s": 600, "role": "server" });
        let token: TokenShown = until(processes, async || {
            cli::client::post(at, "/v1/tokens", &body).await
        })
        .await
        .context("no join token")?;
        let listen = processes.listen.addresses(n - 1);
        let token = JoinToken::parse(&token.token)?;
        cli::join_folder(&node_folder(data, n), listen, &token, None).await?;
        processes.start(n)?;
    }
    until(processes, async || {
        let status: SiteStatus = cli::client::get(at, "/v1/status").await?;
        let missing = usize::from(nodes).saturating_sub(status.nodes.len());
        if missing > 0 {
            bail!("{missing} nodes are not known to the site yet");
        }
        if !status.ready {
            let reasons: Vec<_> = status
                .nodes
                .iter()
                .flat_map(|node| {
                    node.reasons
                        .iter()
                        .map(move |reason| format!("node {}: {reason}", node.node))
                })
                .collect();
            bail!("{}", reasons.join("; "));
        }
        Ok(status)
    })
    .await
    .context("the site did not get ready")
}

/// Tries until it works, while the processes live.
async fn until<T>(
    processes: &mut Processes<'_>,
    attempt: impl AsyncFn() -> Result<T>,
) -> Result<T> {
    let end = Instant::now() + READY_LIMIT;
    loop {
        for process in &mut processes.running {
            if let Some(status) = process.child.try_wait()? {
                bail!(
                    "node {} ended ({status}); see {}",
                    process.n,
                    log_file(processes.data, process.n).display()
                );
            }
        }
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Says where the site is and what to try, spelled as this program was started.
fn welcome(data: &Path, status: &SiteStatus) {
    let program = std::env::args().next().unwrap_or_else(|| "skerry".into());
    let at = format!("--data {}", data.display());
    print::note(format!(
        "site {} is up: {} node(s)",
        status.site,
        status.nodes.len()
    ));
    for node in &status.nodes {
        print::note(format!(
            "  node {}  S3 {}  health and metrics {}",
            node.node, node.endpoints.s3, node.endpoints.http
        ));
    }
    print::note(format!("  data   {}", data.display()));
    for notice in &status.notices {
        print::note(format!("  note   {notice}"));
    }
    let root = node_folder(data, 1).join("secrets").join(ROOT);
    match cli::variables(data) {
        Ok(variables) if print::on_terminal() => {
            for (name, value) in variables.into_iter().skip(1).take(2) {
                print::note(format!("  {name}={value}"));
            }
        }
        _ => print::note(format!("  keys   {}", root.display())),
    }
    print::note("try:");
    print::note(format!("  {program} status {at}"));
    print::note(format!("  {program} env {at}"));
    print::note(format!("  {program} raft ls {at}"));
}

impl At {
    fn json_of(data: &Path) -> Self {
        At::new(data.to_owned(), Output::Json)
    }
}
