//! Runs one node until it is told to stop.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use identity::JoinToken;
use platform::system::SystemPlatform;
use tokio::signal::unix::{SignalKind, signal};

use super::{JoinArguments, ServerArguments, folder, print};
use crate::config::Config;
use crate::logs;
use crate::node::doors::Doors;
use crate::node::folder::{Folder, Listen};
use crate::node::settings::{Settings, default_listen};
use crate::node::{Node, found};

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn run(arguments: ServerArguments) -> Result<ExitCode> {
    let config = arguments.load()?;
    logs::start_at(
        &config.log_level,
        config.log_format,
        config.log_file.as_deref(),
    )?;
    let (data, settings) = checked(config)?;
    let node = Node::start(&data, &settings).await?;
    print::note(format!(
        "node {} serves S3 at {} (data in {})",
        node.id,
        node.doors.endpoints(&node.listen).s3,
        data.display()
    ));
    let why = until_stopped(&node, arguments.with_parent).await?;
    print::note(format!("stopping: {why}"));
    node.stop().await;
    match node.wal_ended() {
        Some(error) if why.contains("log") => bail!("{error}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A new folder gets the default addresses; an old one keeps its own.
fn fill_defaults(data: &Path, settings: &mut Settings) {
    if !data.join("node.json").exists() {
        settings.listen = settings.listen_or(&default_listen(0));
    }
}

impl ServerArguments {
    fn load(&self) -> Result<Config> {
        match self.with_parent {
            true => self.config.load_alone(),
            false => self.config.load(),
        }
    }
}

/// The folder and the settings, checked before anything is written.
fn checked(config: Config) -> Result<(PathBuf, Settings)> {
    let data = folder::choose(config.data)?;
    let mut settings = config.node;
    fill_defaults(&data, &mut settings);
    Doors::new(&settings, &settings.listen)?;
    Ok((data, settings))
}

pub async fn until_stopped(node: &Node, with_parent: bool) -> Result<String> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let parent = rustix::process::getppid();
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => return Ok("asked to (SIGTERM)".into()),
            _ = interrupt.recv() => return Ok("asked to (Ctrl-C)".into()),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Some(error) = node.wal_ended() {
            return Ok(format!("the log failed: {error}"));
        }
        if with_parent && rustix::process::getppid() != parent {
            return Ok("the process that started this one is gone".into());
        }
    }
}

pub async fn join(arguments: JoinArguments) -> Result<ExitCode> {
    let text = match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => read_token(file)?,
        (None, None) => bail!("a token is needed: --token or --token-file"),
    };
    let token = JoinToken::parse(&text)?;
    let (data, settings) = checked(arguments.server.load()?)?;
    join_folder(&data, settings.listen, &token, arguments.address.as_deref()).await?;
    print::note(format!(
        "this machine is part of the site now (data in {})",
        data.display()
    ));
    if arguments.no_start {
        return Ok(ExitCode::SUCCESS);
    }
    run(arguments.server).await
}

/// Makes the data folder of a machine that joins.
pub async fn join_folder(
    data: &Path,
    listen: Listen,
    token: &JoinToken,
    address: Option<&str>,
) -> Result<()> {
    let folder = Folder::lock(data)?;
    if folder.marker()?.is_some() {
        bail!(
            "{} belongs to a node already: name an empty or new folder with --data",
            data.display()
        );
    }
    found::join(&folder, &SystemPlatform::new(data)?, listen, token, address).await
}

fn read_token(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(16 << 10).read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file)
            .with_context(|| format!("can't read {}", file.display()))?;
    }
    Ok(text.trim().to_owned())
}
