//! The house rules that a machine can check; each complaint says what to do and why.
//!
//! Every rule is also a test of this crate, so that `cargo test` alone finds a breach.

use std::path::Path;

use anyhow::{Result, bail};

use crate::metadata::Metadata;

mod boundaries;
mod files;
mod golden;
mod links;
mod manifests;
mod map;
mod text;

use files::SourceFile;

/// What all rules look at.
struct House<'a> {
    root: &'a Path,
    files: Vec<SourceFile>,
    metadata: Metadata,
}

/// One rule: its name and the complaints that it has about the house.
struct Rule {
    name: &'static str,
    check: fn(&House) -> Vec<String>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "crate boundaries",
        check: |house| boundaries::complaints(&house.metadata.graph()),
    },
    Rule {
        name: "golden of the crate graph",
        check: golden::complaints,
    },
    Rule {
        name: "manifests",
        check: manifests::complaints,
    },
    Rule {
        name: "the map",
        check: map::complaints,
    },
    Rule {
        name: "text",
        check: |house| house.files.iter().flat_map(text::complaints).collect(),
    },
    Rule {
        name: "links",
        check: |house| links::complaints(house.root, &house.files),
    },
];

/// Checks every rule and prints every complaint.
pub fn run(root: &Path) -> Result<()> {
    let house = House::load(root)?;
    let mut count = 0;
    for rule in RULES {
        for complaint in (rule.check)(&house) {
            count += 1;
            eprintln!("tidy ({}): {complaint}", rule.name);
        }
    }
    if count > 0 {
        bail!(
            "{count} house rules are broken (see above); `cargo xtask fix` repairs what a machine can"
        );
    }
    println!(
        "tidy: {} files, {} rules, all good",
        house.files.len(),
        RULES.len()
    );
    Ok(())
}

/// Writes the goldens anew.
pub fn renew_goldens(root: &Path) -> Result<()> {
    golden::renew(root, &Metadata::load(root)?)
}

impl House<'_> {
    fn load(root: &Path) -> Result<House<'_>> {
        Ok(House {
            root,
            files: files::load(root)?,
            metadata: Metadata::load(root)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(name: &str) {
        let root = crate::shell::workspace_root();
        let house = House::load(&root).expect("the workspace can be read");
        let rule = RULES
            .iter()
            .find(|rule| rule.name == name)
            .expect("a rule of that name");
        let complaints = (rule.check)(&house);
        assert!(
            complaints.is_empty(),
            "{} complaints:\n{}",
            complaints.len(),
            complaints.join("\n")
        );
    }

    #[test]
    fn crate_boundaries() {
        keeps("crate boundaries");
    }

    #[test]
    fn golden_of_the_crate_graph() {
        keeps("golden of the crate graph");
    }

    #[test]
    fn manifests() {
        keeps("manifests");
    }

    #[test]
    fn the_map() {
        keeps("the map");
    }

    #[test]
    fn text() {
        keeps("text");
    }

    #[test]
    fn links() {
        keeps("links");
    }
}
