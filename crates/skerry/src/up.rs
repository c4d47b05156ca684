//! `skerry up`: a whole site on this machine, kept running.
//!
//! One node runs in this process. Several run as processes of their own: the first founds the site, the others join it with
//! tokens, the same way that other machines would. A process that dies is started again, and said so.
//!
//! Such a process is held by pipes. Its standard input ends when this process is gone, however it went: then it goes too. On
//! its standard output it says how far it is, see [`SERVING`] and [`DRAINED`]. A stop has two phases: first all processes end
//! their clients' requests, for which they need each other, and only then they go.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use identity::JoinToken;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::cli::{self, At, Output, print};
use crate::config::Config;
use crate::logs::{self, LogFormat};
use crate::node::Node;
use crate::node::admin::TokenShown;
use crate::node::folder::Folder;
use crate::node::found::ROOT;
use crate::node::settings;
use crate::node::status::SiteStatus;

mod checks;

/// Which ports a new node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// The documented ones.
    Default,
    /// Any free ones.
    Random,
}

/// A node's process says this line when it has started.
pub const SERVING: &str = "serving";
/// A node's process says this line when its clients' requests have ended: it goes when its standard input ends.
pub const DRAINED: &str = "drained";

const READY_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A process that dies again and again is started at most this often.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// The pause doubles with each start that fails, up to this.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// After so many failed starts in a row a node is no longer waited for.
const FAILURES_MAX: u32 = 3;
/// How long processes may take to drain: a little longer than a node allows itself.
const DRAIN_LIMIT: Duration = Duration::from_secs(40);
/// How long the last lines of a process that ended may take to arrive.
const LAST_LINES_LIMIT: Duration = Duration::from_secs(1);

/// What asks a process to stop. It listens from the moment that it is made.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    parent: Option<pipe::Receiver>,
}

impl Stop {
    /// By SIGTERM and Ctrl-C.
    pub fn by_signals() -> Result<Self> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            parent: None,
        })
    }

    /// Also by the end of standard input, a pipe that the parent holds.
    pub fn by_signals_and_parent() -> Result<Self> {
        let input = std::io::stdin().as_fd().try_clone_to_owned()?;
        let parent = pipe::Receiver::from_owned_fd(input)
            .context("standard input is no pipe from the process that started this one")?;
        Ok(Stop {
            parent: Some(parent),
            ..Self::by_signals()?
        })
    }

    /// Waits until the process is asked to stop, and says how. Cancel-safe.
    pub async fn asked(&mut self) -> String {
        let Stop {
            terminate,
            interrupt,
            parent,
        } = self;
        tokio::select! {
            biased;
            _ = terminate.recv() => "asked to (SIGTERM)".into(),
            _ = interrupt.recv() => "asked to (Ctrl-C)".into(),
            () = ended(parent) => "the process that started this one is gone".into(),
        }
    }

    /// Waits until the parent lets this process go or is gone itself; without a parent, for ever.
    pub async fn let_go(&mut self) {
        ended(&mut self.parent).await;
    }
}

/// Waits for the end of a pipe. Cancel-safe.
async fn ended(pipe: &mut Option<pipe::Receiver>) {
    let Some(pipe) = pipe else {
        return std::future::pending().await;
    };
    let mut byte = [0];
    while let Ok(1..) = pipe.read(&mut byte).await {}
}

impl Listen {
    fn addresses(self, n: u16) -> crate::node::folder::Listen {
        match self {
            Listen::Default => settings::default_listen(n),
            Listen::Random => settings::random_listen(),
        }
    }
}

/// Runs a site until Ctrl-C or SIGTERM. Several nodes find what is configured where this process did.
pub async fn run(data: &Path, nodes: u16, listen: Listen, config: Config) -> Result<ExitCode> {
    let mut stop = Stop::by_signals()?;
    checks::site_folder(data)?;
    let folder = Folder::take(data)?;
    let known = u16::try_from(cli::folder::nodes(data).len()).unwrap_or(u16::MAX);
    if known > nodes {
        print::note(format!(
            "the site in {} has {known} nodes: all of them are started",
            data.display()
        ));
    }
    let ended = run_in(&folder, nodes.max(known), listen, config, &mut stop).await;
    // What became a node stays: others may know it, and it may hold what somebody wrote.
    if ended.is_err() && cli::folder::nodes(data).is_empty() {
        folder.take_back();
    }
    ended
}

/// Nothing is written below the folder before all nodes were looked at.
async fn run_in(
    folder: &Folder,
    nodes: u16,
    listen: Listen,
    config: Config,
    stop: &mut Stop,
) -> Result<ExitCode> {
    let data = folder.path();
    checks::nodes(data, nodes, listen).await?;
    if folder.make_private()? {
        print::note(format!(
            "{} was open to other users: its mode is 0700 now",
            data.display()
        ));
    }
    match nodes {
        1 => run_here(data, listen, config, stop).await,
        nodes => run_processes(data, nodes, listen, config.log_format, stop).await,
    }
}

fn node_folder(data: &Path, n: u16) -> PathBuf {
    data.join(format!("node-{n}"))
}

async fn run_here(
    data: &Path,
    listen: Listen,
    config: Config,
    stop: &mut Stop,
) -> Result<ExitCode> {
    let log = log_file(data, 1);
    logs::start(&config.log_level, config.log_format, Some(&log), None)?;
    let folder = node_folder(data, 1);
    let mut settings = config.node;
    if !folder.join("node.json").exists() {
        settings.listen = listen.addresses(0);
    }
    let node = tokio::select! {
        biased;
        why = stop.asked() => {
            print::note(format!("stopping: {why}"));
            return Ok(ExitCode::SUCCESS);
        }
        node = Node::start(&folder, &settings) => node?,
    };
    let mut stopped = std::pin::pin!(cli::until_stopped(&node, stop));
    let before_ready = tokio::select! {
        biased;
        why = &mut stopped => Some(why),
        () = until_ready(&node) => None,
    };
    let why = match before_ready {
        Some(why) => why?,
        None => {
            welcome(data, &node.site_status().await);
            stopped.await?
        }
    };
    print::note(format!("stopping: {why}"));
    node.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// Waits for as long as it takes: a node may need nodes on other machines, which start later.
async fn until_ready(node: &Node) {
    let mut said = Instant::now();
    loop {
        let reasons = node.reasons(&node.groups.status());
        if reasons.is_empty() {
            return;
        }
        if said.elapsed() >= READY_LIMIT {
            print::note(format!("not ready yet: {}", reasons.join("; ")));
            said = Instant::now();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn log_file(data: &Path, n: u16) -> PathBuf {
    data.join("logs").join(format!("node-{n}.log"))
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Starting,
    Serving,
    Drained,
}

/// One node's process.
struct Process {
    child: Child,
    started: Instant,
    /// Its standard input: at its end the process goes.
    hold: Option<ChildStdin>,
    stage: watch::Receiver<Stage>,
    _stages: AbortOnDropHandle<()>,
    last_error: AbortOnDropHandle<Option<String>>,
}

impl Process {
    fn terminate(&self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Waits until it has drained or ended.
    async fn drained(&mut self) {
        let _ = self.stage.wait_for(|stage| *stage == Stage::Drained).await;
    }

    /// The error that a process which has ended said last.
    async fn last_error(&mut self) -> Option<String> {
        let said = timeout(LAST_LINES_LIMIT, &mut self.last_error).await;
        said.ok()?.ok()?
    }
}

/// Reads how far a process is.
async fn follow_stages(stdout: ChildStdout, stage: watch::Sender<Stage>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.as_str() {
            SERVING => stage.send_replace(Stage::Serving),
            DRAINED => stage.send_replace(Stage::Drained),
            _ => continue,
        };
    }
}

/// Passes on what a process says, but keeps its error: whether that is this program's error too is decided later.
async fn follow_errors(stderr: ChildStderr) -> Option<String> {
    let mut last = None;
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match line.strip_prefix("skerry: ") {
            Some(error) => last = Some(error.to_owned()),
            None => print::note(&line),
        }
    }
    last
}

/// A node that is to run.
struct Member {
    n: u16,
    /// Whether this program made it just now.
    is_new: bool,
    process: Option<Process>,
    /// Starts that failed, since the last one that did not.
    failures: u32,
    /// Why the last process ended.
    why: String,
    start_at: Instant,
}

impl Member {
    fn is_failing(&self) -> bool {
        self.failures >= FAILURES_MAX
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref()?.child.id()
    }

    /// Notes whether its process has ended.
    async fn look(&mut self) {
        let Some(process) = &mut self.process else {
            return;
        };
        let stage = *process.stage.borrow();
        match stage {
            Stage::Starting => {}
            Stage::Serving => self.failures = 0,
            // Somebody stops this one process: it need not wait for others.
            Stage::Drained => process.hold = None,
        }
        let status = match process.child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let why = match process.last_error().await {
            Some(error) => format!("{status}: {error}"),
            None => status,
        };
        let served = *process.stage.borrow() != Stage::Starting;
        let pause = match process.started.elapsed() < RESTART_PAUSE {
            true => RESTART_PAUSE,
            false => Duration::ZERO,
        };
        self.process = None;
        match served {
            true => {
                self.failures = 0;
                self.start_at = Instant::now() + pause;
            }
            false => self.count_failure(),
        }
        print::note(format!("node {} ended ({why}): starting it again", self.n));
        self.why = why;
    }

    /// Each failed start is followed by a longer pause.
    fn count_failure(&mut self) {
        let pause = RESTART_PAUSE * 2u32.pow(self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        self.start_at = Instant::now() + pause.min(RESTART_PAUSE_MAX);
    }
}

struct Processes<'a> {
    data: &'a Path,
    listen: Listen,
    log_format: LogFormat,
    members: Vec<Member>,
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
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("can't start node {n}"))?;
        let hold = child.stdin.take();
        let stdout = child.stdout.take().context("a process has a stdout")?;
        let stderr = child.stderr.take().context("a process has a stderr")?;
        let (say, stage) = watch::channel(Stage::Starting);
        Ok(Process {
            child,
            started: Instant::now(),
            hold,
            stage,
            _stages: AbortOnDropHandle::new(tokio::spawn(follow_stages(stdout, say))),
            last_error: AbortOnDropHandle::new(tokio::spawn(follow_errors(stderr))),
        })
    }

    fn start(&mut self, n: u16, is_new: bool) -> Result<()> {
        let process = self.spawn(n)?;
        self.members.push(Member {
            n,
            is_new,
            process: Some(process),
            failures: 0,
            why: String::new(),
            start_at: Instant::now(),
        });
        Ok(())
    }

    /// Starts again what died.
    async fn look_after(&mut self) {
        for at in 0..self.members.len() {
            let member = &mut self.members[at];
            member.look().await;
            if member.process.is_some() || Instant::now() < member.start_at {
                continue;
            }
            let n = member.n;
            match self.spawn(n) {
                Ok(process) => self.members[at].process = Some(process),
                Err(error) => {
                    print::note(format!("{error:#}"));
                    let member = &mut self.members[at];
                    member.why = format!("{error:#}");
                    member.count_failure();
                }
            }
        }
    }

    fn failing(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_failing())
    }

    /// Why it makes no sense to wait for the site any longer: a node that was made just now does not start, or those that do
    /// start are no majority.
    fn hopeless(&self) -> Option<String> {
        let first = self.failing().next()?;
        let starting = self.members.len() - self.failing().count();
        let hopeless =
            self.failing().any(|member| member.is_new) || starting * 2 <= self.members.len();
        let why = format!("node {} does not start: {}", first.n, first.why);
        // The log of a site that did not come to be is taken back with all else.
        let log = log_file(self.data, first.n);
        let has_log = !cli::folder::nodes(self.data).is_empty();
        hopeless.then(|| match has_log {
            true => format!("{why}; see {}", log.display()),
            false => why,
        })
    }

    /// Whether a status speaks of these processes (those of another start may still answer), and finds them ready.
    fn judge(&self, status: &SiteStatus) -> Result<()> {
        let mut reasons = Vec::new();
        for member in self.members.iter().filter(|member| !member.is_failing()) {
            let node = status
                .nodes
                .iter()
                .find(|node| Some(node.pid) == member.pid());
            match node {
                Some(node) if node.ready => {}
                Some(node) => {
                    reasons.push(format!("node {}: {}", node.node, node.reasons.join(", ")));
                }
                None => reasons.push(format!("the process of node {} does not answer", member.n)),
            }
        }
        match reasons.is_empty() {
            true => Ok(()),
            false => bail!("{}", reasons.join("; ")),
        }
    }

    async fn stop(mut self) {
        let mut running: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|member| Some((member.n, member.process.as_mut()?)))
            .collect();
        for (_, process) in &running {
            process.terminate();
        }
        // Until all have drained, each may need the others for a request that still runs.
        let end = Instant::now() + DRAIN_LIMIT;
        for (n, process) in &mut running {
            if timeout_at(end, process.drained()).await.is_err() {
                print::note(format!("node {n} did not drain in time"));
            }
        }
        for (_, process) in &mut running {
            process.hold = None;
        }
        let end = Instant::now() + cli::STOP_LIMIT;
        for (n, process) in &mut running {
            if timeout_at(end, process.child.wait()).await.is_err() {
                print::note(format!("node {n} did not stop in time and was ended"));
                let _ = process.child.kill().await;
            }
            if let Some(error) = process.last_error().await {
                print::note(format!("node {n}: {error}"));
            }
        }
    }
}

async fn run_processes(
    data: &Path,
    nodes: u16,
    listen: Listen,
    log_format: LogFormat,
    stop: &mut Stop,
) -> Result<ExitCode> {
    let mut processes = Processes {
        data,
        listen,
        log_format,
        members: Vec::new(),
    };
    let at = At::json_of(data);
    let started = tokio::select! {
        biased;
        _ = stop.asked() => Ok(None),
        started = start_all(&mut processes, nodes, &at) => started.map(Some),
    };
    match started {
        Ok(Some(status)) => {
            for member in processes.failing() {
                print::note(format!(
                    "node {} does not start: {}; it is tried again now and then",
                    member.n, member.why
                ));
            }
            welcome(data, &status);
            keep_running(&mut processes, stop).await;
        }
        Ok(None) => {}
        Err(error) => {
            processes.stop().await;
            return Err(error);
        }
    }
    print::note("stopping");
    processes.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn keep_running(processes: &mut Processes<'_>, stop: &mut Stop) {
    loop {
        tokio::select! {
            biased;
            _ = stop.asked() => return,
            () = tokio::time::sleep(LOOK_EVERY * 4) => processes.look_after().await,
        }
    }
}

/// Starts known nodes, then joins the missing ones; returns when the site is ready.
async fn start_all(processes: &mut Processes<'_>, nodes: u16, at: &At) -> Result<SiteStatus> {
    let data = processes.data;
    let known: Vec<u16> = (1..=nodes)
        .filter(|n| node_folder(data, *n).join("node.json").exists())
        .collect();
    for n in known.iter().copied() {
        processes.start(n, false)?;
    }
    if known.is_empty() {
        processes.start(1, true)?;
    }
    for n in (2..=nodes).filter(|n| !known.contains(n)) {
        join(processes, n, at)
            .await
            .with_context(|| format!("node {n} can't join"))?;
        processes.start(n, true)?;
    }
    let ask = async || cli::client::get::<SiteStatus>(at, "/v1/status").await;
    until(processes, ask, |processes, status: &SiteStatus| {
        processes.judge(status)
    })
    .await
    .context("the site did not get ready")
}

/// Makes the folder of a node that joins. A node that takes part in that may just die, so it is tried a few times.
async fn join(processes: &mut Processes<'_>, n: u16, at: &At) -> Result<()> {
    let folder = node_folder(processes.data, n);
    let mut failures = 0;
    loop {
        let ask = async || {
            let body = json!({ "ttl_s": 600, "role": "server" });
            cli::client::post::<TokenShown>(at, "/v1/tokens", &body).await
        };
        let token = until(processes, ask, |_, _| Ok(())).await;
        let token = JoinToken::parse(&token.context("no join token")?.token)?;
        let listen = processes.listen.addresses(n - 1);
        match cli::join_folder(&folder, listen, &token, None).await {
            Ok(()) => return Ok(()),
            Err(error) if failures == FAILURES_MAX => return Err(error),
            Err(_) => tokio::time::sleep(RESTART_PAUSE).await,
        }
        failures += 1;
    }
}

/// Tries until the answer is good, and meanwhile starts again what dies.
async fn until<T>(
    processes: &mut Processes<'_>,
    attempt: impl AsyncFn() -> Result<T>,
    judge: impl Fn(&Processes<'_>, &T) -> Result<()>,
) -> Result<T> {
    let end = Instant::now() + READY_LIMIT;
    loop {
        processes.look_after().await;
        if let Some(why) = processes.hopeless() {
            bail!("{why}");
        }
        let answer = attempt().await;
        match answer.and_then(|answer| judge(&*processes, &answer).map(|()| answer)) {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Says where the site is and what to try, spelled as this program was started.
fn welcome(data: &Path, status: &SiteStatus) {
    let program = std::env::args_os()
        .next()
        .unwrap_or_else(|| "skerry".into());
    let program = quoted(&program.to_string_lossy());
    let at = format!("--data {}", quoted(&data.to_string_lossy()));
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
    let file = [PathBuf::from("/etc/hostname"), log_file(data, 1)];
    let file = file.iter().find(|file| file.exists()).unwrap_or(&file[1]);
    let file = quoted(&file.to_string_lossy());
    print::note(format!("  {program} bucket mb first {at}"));
    print::note(format!("  {program} object cp {file} s3://first/ {at}"));
    print::note(format!("  {program} object ls first {at}"));
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%+,-./:=@_".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

impl At {
    fn json_of(data: &Path) -> Self {
        At::new(data.to_owned(), Output::Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell() {
        assert_eq!(quoted("/var/lib/skerry"), "/var/lib/skerry");
        assert_eq!(quoted("my data"), "'my data'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
        assert_eq!(quoted(""), "''");
    }
}
