//! The graph of our own crates, kept as a file: a new edge shows up in review.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::House;
use crate::metadata::Metadata;

const PATH: &str = "xtask/golden/crate-graph.txt";

/// Compares the golden with what cargo says.
pub fn complaints(house: &House) -> Vec<String> {
    let kept = fs::read_to_string(house.root.join(PATH)).unwrap_or_default();
    difference(&kept, &house.metadata.graph().internal())
}

/// Writes the golden.
pub fn renew(root: &Path, metadata: &Metadata) -> Result<()> {
    let path = root.join(PATH);
    fs::write(&path, metadata.graph().internal())
        .with_context(|| format!("write {}", path.display()))
}

fn difference(kept: &str, now: &str) -> Vec<String> {
    let gone = kept
        .lines()
        .filter(|line| !now.lines().any(|other| other == *line));
    let new = now
        .lines()
        .filter(|line| !kept.lines().any(|other| other == *line));
    let gone = gone.map(|line| format!("- {line}"));
    let lines: Vec<_> = gone.chain(new.map(|line| format!("+ {line}"))).collect();
    if lines.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "the crates' dependencies are not those of {PATH}; a new edge deserves a thought. \
         If it is meant, run `cargo xtask fix` and commit the file:\n  {}",
        lines.join("\n  ")
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_line_is_shown_both_ways() {
        let complaints = difference("a: b\nb:\n", "a: b c\nb:\n");
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].ends_with("- a: b\n  + a: b c"),
            "{complaints:?}"
        );
        assert!(difference("a:\n", "a:\n").is_empty());
    }
}
