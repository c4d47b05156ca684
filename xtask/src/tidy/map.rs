//! ARCHITECTURE.md names every crate, and every crate says in its first lines what it is for.

use super::House;

/// Checks the map and the crates' headers.
pub fn complaints(house: &House) -> Vec<String> {
    let map = house
        .files
        .iter()
        .find(|file| file.path == "ARCHITECTURE.md")
        .map_or("", |file| &file.text);
    let mut out = Vec::new();
    for package in house.metadata.ours() {
        if !map.contains(&format!("`{}`", package.name)) {
            out.push(format!("ARCHITECTURE.md does not name `{}`: say in one paragraph what it is and must not know", package.name));
        }
    }
    for file in house.files.iter().filter(|file| is_crate_root(&file.path)) {
        if !file.text.trim_start().starts_with("//!") {
            out.push(format!(
                "{}: begin with `//!` lines: what the crate is for and what it does not do",
                file.path
            ));
        }
    }
    out
}

fn is_crate_root(path: &str) -> bool {
    ["/src/lib.rs", "/src/main.rs"]
        .iter()
        .any(|end| path.ends_with(end))
}
