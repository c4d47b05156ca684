//! What can be configured about a node, and where each value comes from: flag, variable, file or default, in this order.
//!
//! [`KEYS`] is the only list: flags, variables, the keys of the file, `skerry config show` and suggestions follow from it,
//! and docs/configuration.md is tested against it. Every value that is given is checked, also one that another hides.
//!
//! Nothing here reads a file or the environment: callers pass their contents in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use toml::{Table, Value};

use crate::logs::{self, LogFormat};
use crate::node::settings::{self, Settings};
use crate::node::tls::TlsFiles;
use crate::otel::OtelConfig;

mod keys;
#[cfg(test)]
mod tests;
mod values;

pub use keys::{KEYS, Key, Kind};

/// A key is suggested for an unknown one when it is at least this close (1 is equal).
const CLOSE_MIN: f64 = 0.6;

/// What a process is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data folder; `None` means the default one.
    pub data: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// Where logs go; `None` is stderr.
    pub log_file: Option<PathBuf>,
    /// Where traces go.
    pub otel: OtelConfig,
    /// The node.
    pub node: Settings,
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            data: None,
            log_format: LogFormat::Text,
            log_level: logs::LEVEL_DEFAULT.into(),
            log_file: None,
            otel: OtelConfig::default(),
            node: Settings {
                listen: settings::last_listen(),
                ..Settings::default()
            },
            tls_certificate: None,
            tls_key: None,
        }
    }
}

/// What may say something about the configuration.
pub struct Sources<'a> {
    /// Values of flags, by the names of their keys.
    pub flags: &'a BTreeMap<&'static str, String>,
    /// The value of an environment variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Path and text of the file.
    pub file: Option<(PathBuf, String)>,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file of this path.
    File(PathBuf),
    /// The variable of this name.
    Variable(&'static str),
    /// The flag of this name, without its dashes.
    Flag(&'static str),
}

impl Origin {
    /// The kind of origin, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::File(_) => "file",
            Origin::Variable(_) => "env",
            Origin::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Variable(name) => write!(f, "env {name}"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// The value that a key has.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The key.
    pub key: &'static Key,
    /// Its value, as it was written; `None` when it has none.
    pub text: Option<String>,
    /// Where that comes from.
    pub origin: Origin,
}

/// The configuration of a process that is about to start.
pub fn load(sources: &Sources) -> Result<Config> {
    read(sources)?.0.finish()
}

/// Puts the configuration together without checking what keys say together (a service may be given more than the shell in
/// which one looks at its file); also says what each key's value is.
pub fn read(sources: &Sources) -> Result<(Config, Vec<Setting>)> {
    let in_file = match &sources.file {
        Some((path, text)) => parse_file(path, text)?,
        None => BTreeMap::new(),
    };
    let mut config = Config::default();
    let mut settings = Vec::new();
    for key in KEYS {
        let mut setting = Setting {
            key,
            text: key.default.map(str::to_owned),
            origin: Origin::Default,
        };
        for (text, origin) in given(key, sources, &in_file) {
            if (key.set)(&mut config, &text).is_none() {
                bail!("{}: expected {}", said(key, &text, &origin), key.expects);
            }
            (setting.text, setting.origin) = (Some(text), origin);
        }
        settings.push(setting);
    }
    Ok((config, settings))
}

/// The values that a key is given, the strongest last.
fn given(
    key: &Key,
    sources: &Sources,
    in_file: &BTreeMap<&'static str, String>,
) -> Vec<(String, Origin)> {
    let mut given = Vec::new();
    if let (Some(text), Some((path, _))) = (in_file.get(key.name), &sources.file) {
        given.push((text.clone(), Origin::File(path.clone())));
    }
    // systemd and shells can't unset a variable everywhere: an empty one says nothing.
    if let Some(text) = (sources.variable)(key.env).filter(|text| !text.is_empty()) {
        given.push((text, Origin::Variable(key.env)));
    }
    if let Some(text) = sources.flags.get(key.name) {
        given.push((text.clone(), Origin::Flag(key.flag)));
    }
    given
}

fn said(key: &Key, text: &str, origin: &Origin) -> String {
    match origin {
        Origin::Default => format!("{} = {text:?}", key.name),
        Origin::File(path) => format!("{}: {} = {text:?}", path.display(), key.name),
        Origin::Variable(name) => format!("{name}={text:?}"),
        Origin::Flag(name) => format!("--{name} {text:?}"),
    }
}

impl Config {
    /// Checks what keys say together.
    fn finish(mut self) -> Result<Self> {
        self.node.tls = match (self.tls_certificate.take(), self.tls_key.take()) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => bail!("tls.certificate is set but tls.key is not: set both"),
            (None, Some(_)) => bail!("tls.key is set but tls.certificate is not: set both"),
        };
        if self.node.gateway.inline_bytes > self.node.gateway.block_bytes {
            bail!("objects.inline_max is larger than objects.block_size: make it smaller");
        }
        Ok(self)
    }
}

/// The values of a file's keys, as text.
fn parse_file(path: &Path, text: &str) -> Result<BTreeMap<&'static str, String>> {
    let table: Table = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..start]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let why = error.message().replace('\n', ", ");
        anyhow!("{}: line {line} is no TOML: {why}", path.display())
    })?;
    let mut leaves = Vec::new();
    flatten("", table, &mut leaves);
    let mut values = BTreeMap::new();
    for (name, value) in leaves {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            bail!("{}: {}", path.display(), unknown(&name));
        };
        let text = match value {
            Value::String(text) => text,
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(switch) => switch.to_string(),
            other => bail!(
                "{}: {name} is a TOML {}: expected {}",
                path.display(),
                other.type_str(),
                key.expects
            ),
        };
        values.insert(key.name, beside(path, key.kind, text));
    }
    Ok(values)
}

/// Tables that are sections are taken apart; anything else is for the caller to judge.
fn flatten(prefix: &str, table: Table, leaves: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let name = format!("{prefix}{name}");
        match value {
            Value::Table(inner) if sections().any(|section| section == name) => {
                flatten(&format!("{name}."), inner, leaves);
            }
            value => leaves.push((name, value)),
        }
    }
}

/// A path in a file is relative to the file's folder, not to where the program happens to be started.
fn beside(file: &Path, kind: Kind, text: String) -> String {
    match (kind, file.parent()) {
        (Kind::Path, Some(folder)) if !text.is_empty() => {
            folder.join(text).to_string_lossy().into_owned()
        }
        _ => text,
    }
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .filter_map(|key| key.name.split_once('.').map(|(section, _)| section))
}

fn unknown(name: &str) -> String {
    if sections().any(|section| section == name) {
        return format!("`{name}` is a section: write its keys below [{name}]");
    }
    let leaf = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    // In the wrong section counts a little less than misspelt in the right one.
    let closeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(name, known);
        whole.max(0.9 * strsim::normalized_damerau_levenshtein(&leaf(name), &leaf(known)))
    };
    let closest = KEYS
        .iter()
        .map(|key| key.name)
        .chain(sections())
        .map(|known| (closeness(known), known))
        .filter(|(close, _)| *close >= CLOSE_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((_, known)) => format!("unknown key `{name}`; did you mean `{known}`?"),
        None => format!("unknown key `{name}`; `skerry config show` lists all keys"),
    }
}
