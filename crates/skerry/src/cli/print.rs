//! How answers and errors are printed.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Output;

/// The command failed.
pub const FAILED: u8 = 1;
/// The site is not ready.
pub const NOT_READY: u8 = 3;

/// Prints an error with its causes.
pub fn fail(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "skerry: {error:#}");
}

/// Prints a line of data.
pub fn line(text: impl std::fmt::Display) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Prints a line that is not data.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether secrets may be shown.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Prints JSON, or what `text` makes.
pub fn either(output: Output, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    match output {
        Output::Json => line(serde_json::to_string_pretty(value)?),
        Output::Text => line(text()),
    }
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
