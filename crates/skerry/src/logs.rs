//! Logs of this process: to stderr, or under `up` to a file of bounded size, which only its owner may read. Every line says
//! which node it is of, once that is known.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use clap::ValueEnum;
use ids::NodeId;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

mod file;
mod line;

use file::RotatedFile;
use line::OfNode;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As a flag's value.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// What is logged when nobody says.
pub const LEVEL_DEFAULT: &str = "info,openraft=error,hyper=warn";

/// s3s prints whole requests and answers when one fails; what is worth a line is logged by our door, in words. Only who
/// names s3s in the level gets to see them.
const NOT_UNLESS_NAMED: &str = "s3s=off";

/// Takes part in logging: writes lines, or sends traces.
pub type LogLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// One process is one node; a process that only asks others has none.
static NODE: OnceLock<NodeId> = OnceLock::new();

/// From now on lines say that they are of this node.
pub fn name_node(node: NodeId) {
    // Tests start many nodes in one process: the first gives its name.
    let _ = NODE.set(node);
}

/// The node that lines are of.
pub fn node() -> Option<NodeId> {
    NODE.get().copied()
}

/// Starts logging of this level; traces go their own way.
pub fn start(
    level: &str,
    format: LogFormat,
    file: Option<&Path>,
    traces: Option<LogLayer>,
) -> Result<()> {
    let lines = match file {
        None => lines(format, io::stderr),
        Some(path) => lines(format, open(path)?),
    };
    let mut layers = vec![lines.with_filter(filter(level)).boxed()];
    layers.extend(traces);
    tracing_subscriber::registry().with(layers).init();
    Ok(())
}

fn filter(level: &str) -> EnvFilter {
    let with = |level: &str| EnvFilter::try_new(format!("{NOT_UNLESS_NAMED},{level}"));
    with(level)
        .or_else(|_| with(LEVEL_DEFAULT))
        .unwrap_or_else(|_| EnvFilter::new(LEVEL_DEFAULT))
}

fn lines<W>(format: LogFormat, writer: W) -> LogLayer
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer::<Registry>()
        .with_target(false)
        .with_ansi(false)
        .with_writer(writer);
    match format {
        LogFormat::Text => lines.map_event_format(OfNode).boxed(),
        LogFormat::Json => lines.json().map_event_format(OfNode).boxed(),
    }
}

fn open(path: &Path) -> Result<RotatedFile> {
    RotatedFile::open(path).with_context(|| format!("can't write logs to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3s_is_quiet_until_it_is_named() {
        let says = |level: &str, directive: &str| {
            let text = filter(level).to_string();
            text.split(',').any(|one| one == directive)
        };
        assert!(says(LEVEL_DEFAULT, "s3s=off"));
        assert!(says("debug", "s3s=off") && says("debug", "debug"));
        assert!(says("info,s3s=debug", "s3s=debug"));
        assert!(!says("info,s3s=debug", "s3s=off"));
        assert!(says("hyper=loudest", "s3s=off"), "the default instead");
    }
}
