//! The flags of configuration, made from its table; where its file is; and `skerry config show`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde::Serialize;
use serde_json::json;

use super::{Output, folder, print};
use crate::config::{self, Config, KEYS, Key, Kind, Origin, Setting, Sources};
use crate::node::folder::{Marker, read_json};

/// The id of the flag that names the file.
const FILE: &str = "config";

/// Flags that configure a node: `--config FILE`, and one for each key.
#[derive(Debug, Clone, Default)]
pub struct ConfigFlags {
    file: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE)
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("The configuration file (default: /etc/skerry/skerry.toml for root, else skerry/skerry.toml in the user's configuration folder, if it is there) [env: SKERRY_CONFIG]");
        command.arg(file).args(KEYS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Variables are read by [`config::read`], not by clap, so that it can be said where a value comes from.
fn flag(key: &'static Key) -> Arg {
    let mut help = format!("{} [env: {}]", key.doc, key.env);
    let arg = Arg::new(key.name).long(key.flag);
    let arg = match (key.kind, key.default) {
        (Kind::Switch, _) => arg.action(ArgAction::SetTrue),
        (_, None) => arg.value_name(key.shape),
        (_, Some(default)) => {
            help += &format!(" [default: {default}]");
            arg.value_name(key.shape)
        }
    };
    arg.help(help)
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = BTreeMap::new();
        for key in KEYS {
            let value = match key.kind {
                Kind::Switch => matches.get_flag(key.name).then(|| "true".to_owned()),
                Kind::Text | Kind::Path => matches.get_one::<String>(key.name).cloned(),
            };
            values.extend(value.map(|value| (key.name, value)));
        }
        Ok(ConfigFlags {
            file: matches.get_one::<PathBuf>(FILE).cloned(),
            values,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl ConfigFlags {
    /// What flags, variables and the file say.
    pub fn load(&self) -> Result<Config> {
        config::load(&self.sources()?)
    }

    /// What flags say, and those variables that `skerry up` goes by: for itself and the processes that it starts.
    pub fn load_under_up(&self) -> Result<Config> {
        let sources = Sources {
            flags: &self.values,
            variable: &|name: &str| variable(name).filter(|_| counts_under_up(name)),
            file: None,
        };
        config::load(&sources)
    }

    /// The data folder that is configured, if one is.
    pub fn data(&self) -> Result<Option<PathBuf>> {
        Ok(config::read(&self.sources()?)?.0.data)
    }

    fn sources(&self) -> Result<Sources<'_>> {
        let named = self.file.clone();
        let file = match named.or_else(|| folder::variable("SKERRY_CONFIG")) {
            Some(named) => {
                let text = read(&named)?;
                Some((named, text))
            }
            None => read_default()?,
        };
        Ok(Sources {
            flags: &self.values,
            variable: &variable,
            file,
        })
    }
}

fn counts_under_up(variable: &str) -> bool {
    variable == "SKERRY_LOG" || variable.starts_with("SKERRY_OBJECTS_")
}

fn variable(name: &str) -> Option<String> {
    Some(std::env::var_os(name)?.to_string_lossy().into_owned())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))
}

/// The file that is read when none is named: it need not be there.
fn read_default() -> Result<Option<(PathBuf, String)>> {
    let (folder, home) = (
        std::env::var_os("XDG_CONFIG_HOME"),
        std::env::var_os("HOME"),
    );
    let root = rustix::process::geteuid().is_root();
    let Some(file) = default_file(root, folder.as_deref(), home.as_deref()) else {
        return Ok(None);
    };
    match std::fs::read_to_string(&file) {
        Ok(text) => Ok(Some((file, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("can't read {}", file.display())),
    }
}

fn default_file(root: bool, xdg: Option<&OsStr>, home: Option<&OsStr>) -> Option<PathBuf> {
    let folder = match (root, xdg, home) {
        (true, ..) => PathBuf::from("/etc"),
        (false, Some(xdg), _) if !xdg.is_empty() => xdg.into(),
        (false, _, Some(home)) => Path::new(home).join(".config"),
        (false, _, None) => return None,
    };
    Some(folder.join("skerry/skerry.toml"))
}

/// Prints every key, its value, and where that comes from.
pub fn show(flags: &ConfigFlags, output: Output) -> Result<ExitCode> {
    let sources = flags.sources()?;
    let (config, settings) = config::read(&sources)?;
    let data = folder::choose(config.data).ok();
    let kept = data.as_deref().and_then(kept);
    let shown: Vec<_> = settings
        .iter()
        .map(|setting| Shown::of(setting, data.as_deref(), kept.as_ref()))
        .collect();
    let file = sources.file.as_ref();
    let file = file.map(|(path, _)| path.display().to_string());
    print::either(output, &json!({ "file": file, "keys": shown }), || {
        table(&shown)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A key's value, as a server that starts now would take it.
#[derive(Debug, Serialize)]
struct Shown {
    key: &'static str,
    value: Option<String>,
    origin: &'static str,
    from: String,
}

impl Shown {
    fn of(setting: &Setting, data: Option<&Path>, kept: Option<&Marker>) -> Self {
        let mut shown = Shown {
            key: setting.key.name,
            value: setting.text.clone(),
            origin: setting.origin.kind(),
            from: setting.origin.to_string(),
        };
        if setting.origin != Origin::Default {
            return shown;
        }
        let Some(data) = data else { return shown };
        if shown.key == "data" {
            shown.value = Some(data.display().to_string());
        }
        if let Some(address) = kept.and_then(|kept| address(kept, shown.key)) {
            shown.value = Some(address.to_owned());
            shown.origin = "folder";
            shown.from = format!("folder {}", data.display());
        }
        shown
    }
}

fn address<'a>(kept: &'a Marker, key: &str) -> Option<&'a str> {
    match key {
        "listen.s3" => Some(&kept.listen.s3),
        "listen.node" => Some(&kept.listen.node),
        "listen.http" => Some(&kept.listen.http),
        "listen.advertise" => kept.advertise.as_deref(),
        _ => None,
    }
}

/// The marker of a used data folder, which keeps addresses for the next start.
fn kept(data: &Path) -> Option<Marker> {
    match read_json(&data.join("node.json")) {
        Ok(marker) => marker,
        Err(error) => {
            print::note(format!("can't tell which addresses it keeps: {error:#}"));
            None
        }
    }
}

fn table(shown: &[Shown]) -> String {
    let rows = shown.iter().map(|shown| {
        vec![
            shown.key.to_owned(),
            shown.value.clone().unwrap_or_else(|| "-".into()),
            shown.from.clone(),
        ]
    });
    print::table(&["key", "value", "from"], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;

    fn parse(arguments: &[&str]) -> ConfigFlags {
        let command = ConfigFlags::augment_args(Command::new("test"));
        let matches = command.try_get_matches_from([&["test"][..], arguments].concat());
        ConfigFlags::from_arg_matches(&matches.unwrap()).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_key_has_a_flag() {
        for key in KEYS {
            let flag = format!("--{}", key.flag);
            let (flags, value) = match key.kind {
                Kind::Switch => (parse(&[flag.as_str()]), "true"),
                Kind::Text | Kind::Path => (parse(&[flag.as_str(), "x"]), "x"),
            };
            assert_eq!(flags.values, BTreeMap::from([(key.name, value.to_owned())]));
        }
        assert!(parse(&[]).values.is_empty());
    }

    #[test]
    fn a_site_on_one_machine_knows_no_file_and_few_variables() {
        let flags = parse(&["--config", "/nowhere/skerry.toml", "--s3-listen", "a:1"]);
        assert!(flags.load().unwrap_err().to_string().contains("/nowhere"));
        assert_eq!(flags.load_under_up().unwrap().node.listen.s3, "a:1");
        for key in KEYS {
            let counts = key.name == "log.level" || key.name.starts_with("objects.");
            assert_eq!(counts_under_up(key.env), counts, "{}", key.name);
        }
    }

    #[test]
    fn the_default_file_depends_on_who_asks() {
        let (xdg, home) = (Some(OsStr::new("/x")), Some(OsStr::new("/h")));
        let cases = [
            (true, xdg, home, Some("/etc/skerry/skerry.toml")),
            (false, xdg, home, Some("/x/skerry/skerry.toml")),
            (
                false,
                Some(OsStr::new("")),
                home,
                Some("/h/.config/skerry/skerry.toml"),
            ),
            (false, None, home, Some("/h/.config/skerry/skerry.toml")),
            (false, None, None, None),
        ];
        for (root, xdg, home, file) in cases {
            assert_eq!(default_file(root, xdg, home), file.map(PathBuf::from));
        }
    }
}
