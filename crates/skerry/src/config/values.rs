//! How values are written: sizes, durations, addresses. `None` means that a text is not one.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use url::Url;

use crate::logs::LogFormat;

/// `true` or `false`.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A path.
pub fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

/// A number within bounds.
pub fn number(text: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
    text.parse::<u64>()
        .ok()
        .filter(|number| bounds.contains(number))
}

/// `HOST:PORT`, with brackets around an IPv6 address.
pub fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plain = !bare.is_empty() && !bare.contains(|c: char| c.is_whitespace() || c == '/');
    (plain && port.parse::<u16>().is_ok()).then(|| text.to_owned())
}

/// A DNS name, in lower case.
pub fn domain(text: &str) -> Option<String> {
    let name = text.to_ascii_lowercase();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}

/// The address of a collector. What is secret belongs into a file, not into an address.
pub fn collector(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    let bare = url.query().is_none() && url.fragment().is_none();
    let http = matches!(url.scheme(), "http" | "https") && url.has_host();
    (http && plain && bare).then_some(url)
}

/// A share of a whole.
pub fn ratio(text: &str) -> Option<f64> {
    text.parse()
        .ok()
        .filter(|ratio| (0.0..=1.0).contains(ratio))
}

/// A name for people.
pub fn name(text: &str) -> Option<String> {
    let good = !text.is_empty() && text.len() <= 64 && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

/// How log lines look.
pub fn log_format(text: &str) -> Option<LogFormat> {
    [LogFormat::Text, LogFormat::Json]
        .into_iter()
        .find(|format| format.name() == text)
}

/// Filters of log lines.
pub fn log_level(text: &str) -> Option<String> {
    // tracing takes an unknown word for the name of a crate; people who write one mean a level.
    let known = |part: &str| {
        let level = || !part.is_empty() && part.parse::<LevelFilter>().is_ok();
        part.contains(['=', '[', '{', '}', ']']) || level()
    };
    let usable = text.split(',').map(str::trim).all(known) && EnvFilter::try_new(text).is_ok();
    usable.then(|| text.to_owned())
}

/// Bytes within bounds: `64KiB`, `4MiB`, `1GiB`, or bytes without a unit.
pub fn size(text: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
    let (number, unit) = with_unit(text)?;
    let factor = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number
        .checked_mul(factor)
        .filter(|bytes| bounds.contains(bytes))
}

/// A size that memory is measured in.
pub fn memory(text: &str, bounds: RangeInclusive<u64>) -> Option<usize> {
    usize::try_from(size(text, bounds)?).ok()
}

/// A time within bounds of seconds: `90s`, `5m`, `1h`, `2d`.
pub fn duration(text: &str, bounds_s: RangeInclusive<u64>) -> Option<Duration> {
    let (number, unit) = with_unit(text)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let seconds = number.checked_mul(factor)?;
    bounds_s
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

fn with_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units_and_bounds() {
        let any = || 0..=u64::MAX;
        assert_eq!(size("0", any()), Some(0));
        assert_eq!(size("32KiB", any()), Some(32 << 10));
        assert_eq!(size("4 MiB", any()), Some(4 << 20));
        assert_eq!(size("2GiB", any()), Some(2 << 30));
        for wrong in ["", "MiB", "4MB", "4mib", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(size(wrong, any()), None, "{wrong}");
        }
        assert_eq!(size("5", 6..=9), None);
        assert_eq!(duration("90s", any()), Some(Duration::from_secs(90)));
        assert_eq!(duration("5m", any()), Some(Duration::from_secs(300)));
        assert_eq!(duration("2d", any()), Some(Duration::from_secs(172_800)));
        for wrong in ["", "5", "5 min", "5ms", "m"] {
            assert_eq!(duration(wrong, any()), None, "{wrong}");
        }
        assert_eq!(duration("1s", 60..=61), None);
    }

    #[test]
    fn addresses_name_host_and_port() {
        for good in ["127.0.0.1:0", "[::]:7300", "node1.lan:65535"] {
            assert_eq!(address(good).as_deref(), Some(good));
        }
        for wrong in [
            "",
            "7300",
            ":7300",
            "::1:7300",
            "host:",
            "host:70000",
            "http://h:1",
            "[]:1",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn domains_are_dns_names() {
        assert_eq!(domain("S3.Example.com").as_deref(), Some("s3.example.com"));
        for wrong in ["", ".", "a..b", "a.", "-a", "a_b", "a:1", "*.a"] {
            assert_eq!(domain(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn collectors_have_addresses_without_secrets() {
        for good in [
            "http://127.0.0.1:4318",
            "https://[::1]/otlp",
            "http://c.lan",
        ] {
            assert!(collector(good).is_some(), "{good}");
        }
        for wrong in [
            "",
            "127.0.0.1:4318",
            "grpc://c.lan:4317",
            "http://me:secret@c.lan",
            "http://c.lan/?key=secret",
        ] {
            assert_eq!(collector(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ratios_are_shares() {
        assert_eq!(ratio("0"), Some(0.0));
        assert_eq!(ratio("0.25"), Some(0.25));
        assert_eq!(ratio("1"), Some(1.0));
        for wrong in ["", "-0.1", "1.1", "NaN", "10%", "inf"] {
            assert_eq!(ratio(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn log_levels_are_filters() {
        assert!(log_level("debug").is_some());
        assert!(log_level("info,hyper=warn").is_some());
        for wrong in [" ", "debgu", "info,", "hyper=loudest"] {
            assert_eq!(log_level(wrong), None, "{wrong}");
        }
    }
}
