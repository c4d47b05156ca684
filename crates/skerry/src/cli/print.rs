//! How answers and errors are printed.

use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::Output;
use crate::node::status::OUTPUT_VERSION;

/// The command failed.
pub const FAILED: u8 = 1;
/// The site is not ready.
pub const NOT_READY: u8 = 3;

/// Whoever reads standard output has seen enough, as `head` does: no failure.
#[derive(Debug)]
pub struct OutputClosed;

impl std::fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Prints an error with its causes.
pub fn fail(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "skerry: {error:#}");
}

/// Prints a line of data.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    unless_closed(writeln!(std::io::stdout(), "{text}"))
}

/// Prints data that is a file as it is.
pub fn file(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    unless_closed(out.write_all(bytes).and_then(|()| out.flush()))
}

fn unless_closed(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(OutputClosed.into()),
        other => Ok(other?),
    }
}

/// Prints a line that is not data.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether secrets may be shown by [`note`]: a person reads what it prints, and no file keeps it.
pub fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Prints JSON, or what `text` makes.
pub fn either(output: Output, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match output {
        Output::Json => json(value),
        Output::Text => line(text()),
    }
}

/// Prints an object as JSON, with the version of what is printed.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(&versioned(value)?)?)
}

fn versioned(value: &impl Serialize) -> Result<Value> {
    let mut value = serde_json::to_value(value)?;
    let fields = value.as_object_mut();
    let fields = fields.context("only objects are printed as JSON")?;
    // What nodes and measurements say of themselves names its version already.
    fields
        .entry("output_version")
        .or_insert_with(|| OUTPUT_VERSION.into());
    Ok(value)
}

/// A table without frames.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    table.trim_fmt()
}

/// Bytes for people.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

#[cfg(test)]
mod tests {
    use ids::{BlockId, GroupId, SegmentId};
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_get_a_version_unless_they_have_one() {
        let shown = |value: &Value| versioned(value).unwrap();
        assert_eq!(
            shown(&json!({ "a": 1 })),
            json!({ "a": 1, "output_version": OUTPUT_VERSION })
        );
        assert_eq!(
            shown(&json!({ "output_version": 7 })),
            json!({ "output_version": 7 })
        );
        assert!(versioned(&[1]).is_err());
    }

    #[test]
    fn ids_are_text_in_json_and_bytes_in_records() {
        let block = BlockId {
            group: GroupId(3),
            segment: SegmentId([0xab; 16]),
            number: 7,
        };
        let json = serde_json::to_value(block).unwrap();
        assert_eq!(json["segment"], "ab".repeat(16));
        assert_eq!(serde_json::from_value::<BlockId>(json).unwrap(), block);
        let record = raft_machine::encode(1, &block);
        let expected = [&[1, 3][..], &[0xab; 16], &[7]].concat();
        assert_eq!(record, expected);
        let decoded: BlockId = raft_machine::decode("a block's id", 1, &record).unwrap();
        assert_eq!(decoded, block);
    }
}
