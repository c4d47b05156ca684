//! Counting what ran: the last line of `cargo xtask test` must not hide what was skipped or failed.

use std::fmt;

/// How many tests ended how.
#[derive(Default, Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub skipped: u64,
}

impl Tally {
    /// Reads one line of `cargo test` (`test result: ok. 3 passed; 0 failed; 1 ignored; …`).
    pub fn see_cargo(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number_before(rest, "passed");
            self.failed += number_before(rest, "failed");
            self.skipped += number_before(rest, "ignored");
        }
    }

    /// Reads one line of pytest; only its last one (`=== 3 passed, 1 skipped in 2.01s ===`, or bare with `-q`) counts.
    ///
    /// An expected failure counts as skipped: it ran, but it shows nothing yet.
    pub fn see_pytest(&mut self, line: &str) {
        let line = line.trim_matches(['=', ' ']);
        let Some((counts, _time)) = line
            .rsplit_once(" in ")
            .filter(|(_, time)| time.contains('s'))
        else {
            return;
        };
        if !counts.starts_with(|c: char| c.is_ascii_digit()) {
            return;
        }
        self.passed += number_before(counts, "passed");
        self.failed += number_before(counts, "failed") + number_before(counts, "error");
        self.skipped += number_before(counts, "skipped") + number_before(counts, "xfailed");
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        Ok(())
    }
}

/// The number right before a word that begins with `word`; 0 if there is none.
fn number_before(text: &str, word: &str) -> u64 {
    let words: Vec<_> = text
        .split([' ', ';', ','])
        .filter(|w| !w.is_empty())
        .collect();
    let mut total = 0;
    for pair in words.windows(2) {
        if pair[1].starts_with(word) {
            total += pair[0].parse().unwrap_or(0);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_lines_add_up() {
        let mut tally = Tally::default();
        tally.see_cargo("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        tally.see_cargo(
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        tally.see_cargo("test something ... ok");
        assert_eq!(
            tally,
            Tally {
                passed: 14,
                failed: 3,
                skipped: 1
            }
        );
    }

    #[test]
    fn only_the_last_line_of_pytest_counts() {
        let mut tally = Tally::default();
        tally.see_pytest("tests/clients/test_keys.py ....  [ 40%]");
        tally.see_pytest("SKIPPED [1] test_restic.py:9: restic is not installed");
        tally.see_pytest(
            "== 1 failed, 30 passed, 2 skipped, 3 xfailed, 1 error in 61.20s (0:01:01) ==",
        );
        assert_eq!(
            tally,
            Tally {
                passed: 30,
                failed: 2,
                skipped: 5
            }
        );
    }

    #[test]
    fn failures_are_always_said() {
        assert_eq!(
            Tally {
                passed: 2,
                ..Tally::default()
            }
            .to_string(),
            "2 passed, 0 failed"
        );
    }
}
