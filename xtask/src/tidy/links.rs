//! Links in Markdown lead somewhere: to a file of the tree, and to a heading in it if they name one.

use std::path::{Component, Path, PathBuf};

use super::files::SourceFile;

/// Links of all Markdown files that lead nowhere.
pub fn complaints(root: &Path, files: &[SourceFile]) -> Vec<String> {
    let mut out = Vec::new();
    for file in files.iter().filter(|file| file.is(&["md"])) {
        for target in targets(&file.text) {
            if let Some(fault) = fault(root, files, file, target) {
                out.push(format!("{}: the link to `{target}` {fault}", file.path));
            }
        }
    }
    out
}

fn fault(root: &Path, files: &[SourceFile], from: &SourceFile, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let to = match path {
        "" => from.path.clone(),
        path => normal(
            &Path::new(&from.path)
                .parent()
                .unwrap_or(Path::new(""))
                .join(path),
        ),
    };
    let file = files.iter().find(|file| file.path == to);
    if file.is_none() && !root.join(&to).exists() {
        return Some("leads nowhere".to_string());
    }
    let known = |file: &SourceFile| headings(&file.text).any(|known| known == heading);
    (!heading.is_empty() && !file.is_some_and(known)).then(|| format!("names no heading of {to}"))
}

/// What stands in `](…)` and `src="…"`, outside code blocks.
fn targets(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| {
        let links = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ']).next());
        let images = line
            .split("src=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        links.chain(images)
    })
}

fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
}

fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}

fn normal(path: &Path) -> String {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(part) => parts.push(part),
            _ => {}
        }
    }
    parts.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complains(text: &str, expect: &[&str]) {
        let files = [
            SourceFile::new("docs/a.md", text),
            SourceFile::new("b.md", "# One idea, said\n"),
        ];
        let complaints = complaints(Path::new("no-such-folder"), &files);
        assert_eq!(complaints.len(), expect.len(), "{complaints:#?}");
        for (complaint, expect) in complaints.iter().zip(expect) {
            assert!(
                complaint.contains(expect),
                "{complaint:?} should hold {expect:?}"
            );
        }
    }

    #[test]
    fn links_that_lead_somewhere_are_quiet() {
        complains(
            "# Here\n[b](../b.md) [h](../b.md#one-idea-said) [me](#here) [out](https://example.com)\n",
            &[],
        );
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        complains(
            "[x](c.md) [y](../b.md#two)\n",
            &["`c.md` leads nowhere", "names no heading of b.md"],
        );
    }

    #[test]
    fn code_is_not_prose() {
        complains("```\n[x](c.md)\n```\n", &[]);
    }
}
