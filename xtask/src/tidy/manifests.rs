//! Rules about Cargo.toml: what is shared comes from the workspace, and nothing is listed that is not used.

use super::House;
use super::files::SourceFile;

/// Dependencies that no source line names, each with its reason.
const USED_UNSEEN: &[(&str, &str)] = &[];

/// Keys that every crate takes from the workspace.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

/// Checks every member's manifest.
pub fn complaints(house: &House) -> Vec<String> {
    let mut out = Vec::new();
    for package in house.metadata.ours() {
        let Ok(path) = package.manifest_path.strip_prefix(house.root) else {
            continue;
        };
        let path = path.to_string_lossy();
        let Some(manifest) = house.files.iter().find(|file| file.path == path) else {
            continue;
        };
        inherited(manifest, &mut out);
        let folder = path.trim_end_matches("Cargo.toml");
        let sources: Vec<_> = house
            .files
            .iter()
            .filter(|file| file.path.starts_with(folder) && file.is(&["rs"]))
            .collect();
        for dep in &package.dependencies {
            let name = house.metadata.source_name(dep);
            let unseen = USED_UNSEEN.iter().any(|(unseen, _)| *unseen == dep.name);
            if !unseen && !sources.iter().any(|source| has_word(&source.text, &name)) {
                let kind = dep.kind.as_deref().unwrap_or("normal");
                let dep = &dep.name;
                out.push(format!(
                    "{path}: no source of this crate names `{dep}` ({kind} dependency); remove the line"
                ));
            }
        }
    }
    out
}

fn inherited(manifest: &SourceFile, out: &mut Vec<String>) {
    let path = &manifest.path;
    let lines: Vec<_> = manifest.text.lines().map(str::trim).collect();
    for key in INHERITED {
        if !lines.contains(&format!("{key}.workspace = true").as_str()) {
            out.push(format!(
                "{path}: write `{key}.workspace = true`; all crates share it"
            ));
        }
    }
    if !lines
        .windows(2)
        .any(|pair| pair == ["[lints]", "workspace = true"])
    {
        out.push(format!(
            "{path}: write `[lints]` and `workspace = true`; lints are the same everywhere"
        ));
    }
    let mut in_dependencies = false;
    for line in lines {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies
            && line.contains('=')
            && !line.starts_with('#')
            && !line.contains("workspace = true")
        {
            out.push(format!(
                "{path}: `{line}`: versions live in the root's [workspace.dependencies]"
            ));
        }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(in_word) && !text[at + word.len()..].starts_with(in_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_only_as_a_whole_word() {
        assert!(has_word("use http::Uri;", "http"));
        assert!(!has_word("use http_body::Body; let xhttp = 1;", "http"));
    }

    #[test]
    fn a_version_in_a_member_is_found() {
        let good = "version.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
                    license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n\
                    [dependencies]\nids.workspace = true\n";
        let mut out = Vec::new();
        inherited(&SourceFile::new("crates/x/Cargo.toml", good), &mut out);
        assert_eq!(out, Vec::<String>::new());
        inherited(
            &SourceFile::new("crates/x/Cargo.toml", format!("{good}serde = \"1\"\n")),
            &mut out,
        );
        assert_eq!(out.len(), 1, "{out:?}");
    }
}
