//! JSON files that name their format, so that one of a newer program is refused in words and not taken for a damaged one.
//!
//! A file that names no format is of the first: it was written before there were others.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::folder::read;

const FIELD: &str = "format";

/// The format of a file that names none.
pub fn first() -> u32 {
    1
}

/// A file was written by a newer program.
#[derive(Debug, PartialEq, Eq)]
pub struct Newer {
    found: u64,
    known: u32,
}

impl fmt::Display for Newer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it has format {}, this program knows {}: use a newer skerry",
            self.found, self.known
        )
    }
}

impl std::error::Error for Newer {}

/// A record as JSON that names its format.
pub fn named(format: u32, record: &impl Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(record)?;
    let fields = value.as_object_mut();
    let fields = fields.context("only objects can name a format")?;
    fields.insert(FIELD.to_owned(), format.into());
    Ok(value)
}

/// Reads a record of a format up to `known`.
pub fn parse<T: DeserializeOwned>(known: u32, bytes: &[u8]) -> Result<T> {
    let value: Value = serde_json::from_slice(bytes)?;
    let found = match value.get(FIELD) {
        Some(format) => format.as_u64().context("its format is no number")?,
        None => first().into(),
    };
    if found > u64::from(known) {
        return Err(Newer { found, known }.into());
    }
    Ok(serde_json::from_value(value)?)
}

/// Reads a file of a format up to `known`; `None` when there is none.
pub fn load<T: DeserializeOwned>(path: &Path, known: u32) -> Result<Option<T>> {
    let Some(bytes) = read(path)? else {
        return Ok(None);
    };
    let parsed = parse(known, &bytes).map_err(|error| refused(path, error));
    parsed.map(Some)
}

/// Names the file that could not be read, and tells one of a newer program from a damaged one.
pub fn refused(path: &Path, error: Error) -> Error {
    let what = match error.is::<Newer>() {
        true => "can't be read",
        false => "is damaged; put it back as it was",
    };
    error.context(format!("{} {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ids::NodeId;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Record {
        nodes: BTreeMap<NodeId, String>,
    }

    fn record() -> Record {
        Record {
            nodes: BTreeMap::from([(NodeId(7), "seven".into())]),
        }
    }

    #[test]
    fn a_record_names_its_format_and_may_be_older() {
        let value = named(2, &record()).unwrap();
        assert_eq!(value["format"], 2);
        let text = serde_json::to_vec(&value).unwrap();
        assert_eq!(parse::<Record>(2, &text).unwrap(), record());
        assert_eq!(parse::<Record>(3, &text).unwrap(), record());
        let before = br#"{"nodes":{"7":"seven"}}"#;
        assert_eq!(parse::<Record>(1, before).unwrap(), record());
        assert!(named(1, &7).is_err());
    }

    #[test]
    fn a_newer_file_is_not_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        assert_eq!(load::<Record>(&path, 1).unwrap(), None);
        let says = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = load::<Record>(&path, 1).unwrap_err();
            format!("{error:#}")
        };
        let newer = says(r#"{"format":2}"#);
        assert!(newer.contains("record.json") && newer.contains("format 2"));
        assert!(!newer.contains("damaged"), "{newer}");
        for text in ["{", r#"{"format":"x"}"#, r#"{"format":1}"#] {
            let damaged = says(text);
            assert!(damaged.contains("damaged"), "{damaged}");
        }
    }
}
