//! Rules about single files: length, names, white space, words that must not stay.

use super::files::SourceFile;

/// The longest that a source file may be; past it, ask which two stories it tells.
const LINES_MAX: usize = 800;

/// Files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util.rs",
    "utils.rs",
    "helper.rs",
    "helpers.rs",
    "common.rs",
    "misc.rs",
];

/// Words that must not stay in Rust sources, in two pieces so that this file does not hold them.
const LEFTOVERS: &[(&str, &str, &str)] = &[
    (
        "#[igno",
        "re",
        "a test that does not run is not a test: make it quick, or move it to the long profile",
    ),
    (
        "tod",
        "o!(",
        "finish it or return an error that says what is missing",
    ),
    (
        "unimple",
        "mented!(",
        "finish it or return an error that says what is missing",
    ),
    ("db", "g!(", "use tracing"),
];

/// Everything that one file does wrong.
pub fn complaints(file: &SourceFile) -> Vec<String> {
    let mut out = Vec::new();
    if file.is(&[
        "rs", "py", "md", "toml", "txt", "sh", "json", "yml", "svg", "service",
    ]) || !file.name().contains('.')
    {
        if file.name() != "LICENSE" && file.name() != "Cargo.lock" {
            white_space(file, &mut out);
        }
        machine_paths(file, &mut out);
    }
    if file.is(&["rs", "py"]) {
        length(file, &mut out);
    }
    if file.is(&["rs"]) {
        names(file, &mut out);
        leftovers(file, &mut out);
    }
    out
}

fn white_space(file: &SourceFile, out: &mut Vec<String>) {
    for (number, line) in numbered(file) {
        if line.contains('\t') {
            out.push(format!("{}:{number}: a tab; use spaces", file.path));
        }
        if line.ends_with(' ') || line.ends_with('\r') {
            out.push(format!(
                "{}:{number}: white space at the end of the line",
                file.path
            ));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        out.push(format!("{}: the last line does not end", file.path));
    }
}

fn machine_paths(file: &SourceFile, out: &mut Vec<String>) {
    let homes = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Use", "rs/"),
    ];
    for (number, line) in numbered(file) {
        if let Some(home) = homes.iter().find(|home| line.contains(*home)) {
            out.push(format!(
                "{}:{number}: `{home}` is somebody's folder; use $HOME or a relative path",
                file.path
            ));
        }
    }
}

fn length(file: &SourceFile, out: &mut Vec<String>) {
    let lines = file.text.lines().count();
    let excused = LONG.iter().any(|(path, _)| *path == file.path);
    if lines > LINES_MAX && !excused {
        out.push(format!(
            "{}: {lines} lines, more than {LINES_MAX}: split it by responsibility, or list it in xtask/src/tidy/text.rs with a reason",
            file.path
        ));
    }
    if lines <= LINES_MAX && excused {
        out.push(format!(
            "{}: is short again; remove it from the list in xtask/src/tidy/text.rs",
            file.path
        ));
    }
}

fn names(file: &SourceFile, out: &mut Vec<String>) {
    if EMPTY_NAMES.contains(&file.name()) {
        out.push(format!(
            "{}: the name says nothing; name the file for the one idea that it holds",
            file.path
        ));
    }
}

fn leftovers(file: &SourceFile, out: &mut Vec<String>) {
    for (number, line) in numbered(file) {
        for (head, tail, instead) in LEFTOVERS {
            let word = format!("{head}{tail}");
            if line.contains(&word) {
                out.push(format!("{}:{number}: `{word}`: {instead}", file.path));
            }
        }
    }
}

fn numbered(file: &SourceFile) -> impl Iterator<Item = (usize, &str)> {
    // Not `lines()`: it would hide a carriage return.
    file.text
        .split('\n')
        .enumerate()
        .map(|(at, line)| (at + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complains(path: &str, text: &str, expect: &[&str]) {
        let complaints = complaints(&SourceFile::new(path, text));
        assert_eq!(complaints.len(), expect.len(), "{complaints:#?}");
        for (complaint, expect) in complaints.iter().zip(expect) {
            assert!(
                complaint.contains(expect),
                "{complaint:?} should hold {expect:?}"
            );
        }
    }

    #[test]
    fn good_text_is_quiet() {
        complains("crates/x/src/lib.rs", "//! Good.\n", &[]);
    }

    #[test]
    fn white_space_is_found_with_its_line() {
        complains(
            "a.rs",
            "x\n\ty\nz \n",
            &["a.rs:2: a tab", "a.rs:3: white space"],
        );
        complains("README.md", "no end", &["does not end"]);
        complains("a.rs", "x\r\n", &["a.rs:1: white space"]);
    }

    #[test]
    fn leftovers_are_found() {
        complains("a.rs", concat!("    tod", "o!()\n"), &["a.rs:1: `tod"]);
        complains("a.rs", concat!("#[igno", "re]\n"), &["not a test"]);
        complains("notes.md", concat!("tod", "o!()\n"), &[]);
    }

    #[test]
    fn names_and_lengths_are_judged() {
        complains("crates/x/src/util.rs", "//! X.\n", &["says nothing"]);
        complains("a.rs", &"x\n".repeat(LINES_MAX + 1), &["801 lines"]);
        complains("a.rs", &"x\n".repeat(LINES_MAX), &[]);
    }

    #[test]
    fn somebodys_folder_is_found() {
        complains(
            "a.md",
            concat!("see /ho", "me/somebody/x\n"),
            &["somebody's folder"],
        );
    }
}
