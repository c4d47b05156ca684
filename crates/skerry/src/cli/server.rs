//! Runs one node until it is told to stop.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use identity::JoinToken;
use platform::system::SystemPlatform;
use tokio::time::timeout;

use super::{JoinArguments, ServerArguments, folder, print};
use crate::config::Config;
use crate::logs::{self, LogFormat};
use crate::node::doors::Doors;
use crate::node::folder::{Folder, Listen};
use crate::node::settings::{Settings, default_listen};
use crate::node::{Node, found, reach};
use crate::otel::Traces;
use crate::up::{DRAINED, SERVING, Stop};

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub async fn run(arguments: ServerArguments) -> Result<ExitCode> {
    let mut stop = match arguments.with_parent {
        true => Stop::by_signals_and_parent()?,
        false => Stop::by_signals()?,
    };
    let config = arguments.load()?;
    let traces = config.otel.start()?;
    logs::start(
        &config.log_level,
        config.log_format,
        config.log_file.as_deref(),
        traces.as_ref().map(Traces::layer),
    )?;
    let ended = serve(&arguments, config, &mut stop).await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    ended
}

async fn serve(arguments: &ServerArguments, config: Config, stop: &mut Stop) -> Result<ExitCode> {
    // What programs read are lines of the log, and no others.
    let for_programs = config.log_format == LogFormat::Json && config.log_file.is_none();
    let note = |text: String| match for_programs {
        true => tracing::info!("{text}"),
        false => print::note(text),
    };
    let (data, settings) = checked(config)?;
    let node = tokio::select! {
        biased;
        why = stop.asked() => {
            note(format!("stopping: {why}"));
            return Ok(ExitCode::SUCCESS);
        }
        node = Node::start(&data, &settings) => node?,
    };
    note(format!(
        "node {} serves S3 at {} (data in {})",
        node.id,
        node.doors.endpoints(&node.listen).s3,
        data.display()
    ));
    arguments.tell_parent(SERVING);
    let why = until_stopped(&node, stop).await?;
    note(format!("stopping: {why}"));
    if arguments.with_parent {
        node.drain().await;
        arguments.tell_parent(DRAINED);
        // Other nodes may need this one to end their requests: the parent knows when they have.
        let _ = timeout(super::STOP_LIMIT, stop.let_go()).await;
    }
    node.stop().await;
    Ok(ExitCode::SUCCESS)
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
            true => self.config.load_under_up(),
            false => self.config.load(),
        }
    }

    /// A parent that is gone needs no news.
    fn tell_parent(&self, line: &str) {
        if self.with_parent {
            let _ = print::line(line);
        }
    }
}

/// The folder and the settings, checked before anything is written.
fn checked(config: Config) -> Result<(PathBuf, Settings)> {
    let data = folder::choose(config.data)?;
    if !data.join("node.json").exists() && !folder::nodes(&data).is_empty() {
        bail!(
            "{} is the folder of a whole site: run it with `skerry up --data {0}`",
            data.display()
        );
    }
    let mut settings = config.node;
    fill_defaults(&data, &mut settings);
    Doors::new(&settings, &settings.listen)?;
    Ok((data, settings))
}

/// Waits until the node is to stop, and says why. A node that can't go on is stopped here; the error says what failed.
pub async fn until_stopped(node: &Node, stop: &mut Stop) -> Result<String> {
    let mut failed = std::pin::pin!(node.until_failed());
    loop {
        tokio::select! {
            biased;
            why = stop.asked() => return Ok(why),
            why = &mut failed => return Err(stopped_by(node, why).await),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Some(error) = node.wal_ended() {
            return Err(stopped_by(node, format!("the log failed: {error}")).await);
        }
    }
}

/// Stops a node that can't go on.
async fn stopped_by(node: &Node, why: String) -> anyhow::Error {
    node.stop().await;
    anyhow!("node {} can't go on: {why}", node.id)
}

pub async fn join(arguments: JoinArguments) -> Result<ExitCode> {
    let text = match (&arguments.token, &arguments.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => read_token(file)?,
        (None, None) => bail!("a token is needed: --token or --token-file"),
    };
    let token = JoinToken::parse(&text)?;
    let (data, settings) = checked(arguments.server.load()?)?;
    let announced = settings
        .advertise
        .as_deref()
        .unwrap_or(&settings.listen.node);
    let asked: Vec<&str> = match arguments.address.as_deref() {
        Some(address) => vec![address],
        None => token.addresses.iter().map(String::as_str).collect(),
    };
    reach::check(announced, asked)?;
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
