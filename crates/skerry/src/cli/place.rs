//! Places: `BUCKET/KEY` in S3 and paths on this machine, and which of them a copy goes between.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};

/// A bucket, and a key or the beginning of keys in it (may be empty).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub bucket: String,
    pub key: String,
}

impl Remote {
    /// The key as a folder: what keys below it begin with.
    pub fn folder(&self) -> String {
        match self.key.is_empty() || self.key.ends_with('/') {
            true => self.key.clone(),
            false => format!("{}/", self.key),
        }
    }
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("s3://").unwrap_or(text);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Err(format!("`{text}` names no bucket: write BUCKET/KEY"));
        }
        if bucket.contains(':') {
            return Err(format!(
                "`{text}` is an address: give it with --endpoint, and name a BUCKET/KEY"
            ));
        }
        Ok(Remote {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        })
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket, shown(&self.key))
    }
}

/// A key as it may be shown on a terminal: control characters are escaped.
pub fn shown(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for c in key.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// A place on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// Standard input or output.
    Stream,
    Path(PathBuf),
}

impl Local {
    fn of(text: &str) -> Local {
        match text {
            "-" => Local::Stream,
            path => Local::Path(path.into()),
        }
    }
}

/// What to copy where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    Up { from: Local, to: Remote },
    Down { from: Remote, to: Local },
}

/// How a place is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Remote,
    Local,
    Either,
}

fn written(text: &str) -> Written {
    let local = ["/", "./", "../"];
    match text {
        "-" | "." | ".." => Written::Local,
        _ if text.starts_with("s3://") => Written::Remote,
        _ if local.iter().any(|start| text.starts_with(start)) => Written::Local,
        _ => Written::Either,
    }
}

/// Finds out which side is S3. Where the writing leaves it open, a source that exists here is a local one.
pub fn direction(source: &str, target: &str, exists: impl Fn(&Path) -> bool) -> Result<Direction> {
    use Written::{Either, Local as Here, Remote as There};
    let up = match (written(source), written(target)) {
        (There, There) => bail!("can't copy within S3: one side must be on this machine"),
        (Here, Here) => bail!("both sides are on this machine: write one as s3://BUCKET/KEY"),
        (Here | Either, There) | (Here, Either) => true,
        (There, Here | Either) | (Either, Here) => false,
        (Either, Either) => match (exists(Path::new(source)), exists(Path::new(target))) {
            (true, true) => bail!(
                "`{source}` and `{target}` both exist on this machine: write one as s3://BUCKET/KEY"
            ),
            (here, _) => here,
        },
    };
    let remote = |text: &str| text.parse::<Remote>().map_err(anyhow::Error::msg);
    Ok(match up {
        true => Direction::Up {
            from: Local::of(source),
            to: remote(target)?,
        },
        false => Direction::Down {
            from: remote(source)?,
            to: Local::of(target),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(bucket: &str, key: &str) -> Remote {
        Remote {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn buckets_and_keys() {
        for (text, bucket, key) in [
            ("b", "b", ""),
            ("b/", "b", ""),
            ("b/k", "b", "k"),
            ("b//k/", "b", "/k/"),
            ("s3://b/a/../k", "b", "a/../k"),
            ("s3://b", "b", ""),
        ] {
            assert_eq!(text.parse::<Remote>(), Ok(remote(bucket, key)), "{text}");
        }
        for bad in ["", "/k", "s3://", "s3:///k", "http://host/b"] {
            assert!(bad.parse::<Remote>().is_err(), "{bad}");
        }
        assert_eq!(remote("b", "a").folder(), "a/");
        assert_eq!(remote("b", "a/").folder(), "a/");
        assert_eq!(remote("b", "").folder(), "");
        assert_eq!(remote("b", "a\u{1b}[1m").to_string(), "b/a\\u{1b}[1m");
    }

    #[test]
    fn the_writing_says_which_side_is_s3() {
        let nothing = |_: &Path| false;
        let up = |from: &str, to| Direction::Up {
            from: Local::of(from),
            to,
        };
        let down = |from, to: &str| Direction::Down {
            from,
            to: Local::of(to),
        };
        for (source, target, copy) in [
            ("./f", "b/k", up("./f", remote("b", "k"))),
            ("f", "s3://b/k", up("f", remote("b", "k"))),
            ("-", "b/k", up("-", remote("b", "k"))),
            ("/f", "b", up("/f", remote("b", ""))),
            ("b/k", "-", down(remote("b", "k"), "-")),
            ("s3://b/k", "f", down(remote("b", "k"), "f")),
            ("b/k", "../f", down(remote("b", "k"), "../f")),
            ("b/k", ".", down(remote("b", "k"), ".")),
            ("b/k", "f", down(remote("b", "k"), "f")),
        ] {
            assert_eq!(direction(source, target, nothing).unwrap(), copy);
        }
        for (source, target) in [("s3://a/b", "s3://c/d"), ("./a", "/b"), ("-", "-")] {
            assert!(direction(source, target, nothing).is_err());
        }
    }

    #[test]
    fn what_exists_here_is_local() {
        let only_f = |path: &Path| path == Path::new("f");
        let all = |_: &Path| true;
        assert!(matches!(
            direction("f", "b/k", only_f).unwrap(),
            Direction::Up { .. }
        ));
        assert!(matches!(
            direction("b/k", "f", only_f).unwrap(),
            Direction::Down { .. }
        ));
        let error = direction("f", "g", all).unwrap_err().to_string();
        assert!(error.contains("both exist"), "{error}");
    }
}
