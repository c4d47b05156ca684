//! Sizes and times as people type them.

use std::time::Duration;

/// Reads `4096`, `4KiB`, `16M`, `5GB`: `K`, `M`, `G`, `T` and `KiB`… count by 1024, `KB`… by 1000.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err("write a size like 4KiB, 16MiB or 1000".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a size like 4KiB, 16MiB or 1000".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "this is too much".to_owned())
}

/// Reads `500ms`, `10s`, `5m`, `1h`; a bare number counts seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a time like 500ms, 10s, 5m or 1h".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a time like 500ms, 10s, 5m or 1h".to_owned())?;
    let millis = number.checked_mul(millis);
    millis
        .map(Duration::from_millis)
        .ok_or_else(|| "this is too much".to_owned())
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("5B", 5),
            ("4KiB", 4 << 10),
            ("4k", 4 << 10),
            ("16 MiB", 16 << 20),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
            ("3kB", 3_000),
            ("5GB", 5_000_000_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "-1", "1.5MiB", "4X", "99999999999T", "1 2"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("500ms", 500),
            ("10", 10_000),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "s", "1.5s", "3 days", "-1s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
