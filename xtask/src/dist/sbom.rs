//! The bill of materials in CycloneDX 1.5: every crate that is linked into the program, and which needs which.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::metadata::{Metadata, Package};

const PROGRAM: &str = "skerry";

/// The document as text. It has no serial number and no date: the same lock file gives the same document.
pub fn render(metadata: &Metadata) -> Result<String> {
    let linked = metadata.linked_into(PROGRAM);
    let program = linked
        .iter()
        .find(|package| package.name == PROGRAM)
        .context("the program is a package")?;
    let libraries: Vec<_> = linked
        .iter()
        .filter(|package| package.name != PROGRAM)
        .collect();
    let components: Vec<_> = libraries
        .iter()
        .map(|package| component(package, "library"))
        .collect();
    let refs: BTreeMap<_, _> = linked
        .iter()
        .map(|package| (package.id.as_str(), purl(package)))
        .collect();
    let dependencies: Vec<_> = linked
        .iter()
        .map(|package| dependency(metadata, package, &refs))
        .collect();
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(program, "application") },
        "components": components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn component(package: &Package, kind: &str) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "purl": purl(package),
    });
    if let Some(license) = &package.license {
        // Old crates write `MIT/Apache-2.0`, which is no SPDX expression.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    component
}

fn dependency(metadata: &Metadata, package: &Package, refs: &BTreeMap<&str, String>) -> Value {
    let needs: Vec<_> = metadata
        .needs(&package.id)
        .filter_map(|id| refs.get(id))
        .collect();
    json!({ "ref": purl(package), "dependsOn": needs })
}

fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}
