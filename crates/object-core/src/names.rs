//! What may be called how, and how long it may be: bucket names, keys, user metadata.

use crate::api::{ContentHeaders, KEY_BYTES_MAX, ObjectError, Result, USER_METADATA_BYTES_MAX};

/// Beginnings that S3 keeps for itself.
const RESERVED_PREFIXES: [&str; 3] = ["xn--", "sthree-", "amzn-s3-demo-"];
/// Endings that S3 keeps for itself.
const RESERVED_SUFFIXES: [&str; 5] = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];

/// Refuses what S3 does not take as the name of a general purpose bucket.
pub fn check_bucket_name(name: &str) -> Result<()> {
    match fault_of_bucket_name(name) {
        None => Ok(()),
        Some(why) => Err(ObjectError::BadBucketName {
            name: name.into(),
            why,
        }),
    }
}

/// Refuses keys that are empty or too long.
pub fn check_key(key: &str) -> Result<()> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(ObjectError::KeyTooLong(len)),
    }
}

/// Refuses more user metadata than is kept; names count without `x-amz-meta-`.
pub fn check_user_metadata(headers: &ContentHeaders) -> Result<()> {
    let bytes = headers
        .user
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(ObjectError::MetadataTooLarge(bytes));
    }
    Ok(())
}

fn fault_of_bucket_name(name: &str) -> Option<&'static str> {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if !(3..=63).contains(&name.len()) {
        return Some("it has 3 to 63 characters");
    }
    if !name
        .bytes()
        .all(|byte| is_alphanumeric(byte) || matches!(byte, b'.' | b'-'))
    {
        return Some("it is made of lower-case letters, digits, dots and hyphens");
    }
    if name.contains("..") {
        return Some("two dots can't stand together");
    }
    let label_fits = |label: &str| {
        let ends = [label.bytes().next(), label.bytes().next_back()];
        ends.iter().all(|end| end.is_some_and(is_alphanumeric))
    };
    if !name.split('.').all(label_fits) {
        return Some("it, and each piece between dots, begins and ends with a letter or digit");
    }
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some("it can't look like an IP address");
    }
    if RESERVED_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
    {
        return Some("it begins with a prefix that is reserved");
    }
    if RESERVED_SUFFIXES
        .iter()
        .any(|suffix| name.ends_with(suffix))
    {
        return Some("it ends with a suffix that is reserved");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_bucket_names_pass() {
        let longest = "a".repeat(63);
        for name in [
            "abc",
            "a-b",
            "a.b.c",
            "1bucket",
            "x--n",
            "1.2.3",
            "256.1.1.1",
            "my-xn--bucket",
            &longest,
        ] {
            assert_eq!(fault_of_bucket_name(name), None, "{name}");
        }
    }

    #[test]
    fn bad_bucket_names_are_refused_with_the_reason() {
        let too_long = "a".repeat(64);
        for (name, word) in [
            ("", "3 to 63"),
            ("ab", "3 to 63"),
            (too_long.as_str(), "3 to 63"),
            ("Abc", "lower-case"),
            ("a_b", "lower-case"),
            ("bü", "lower-case"),
            ("a..b", "two dots"),
            ("-abc", "begins and ends"),
            ("abc-", "begins and ends"),
            (".abc", "begins and ends"),
            ("abc.", "begins and ends"),
            ("foo.-bar", "begins and ends"),
            ("foo-.bar", "begins and ends"),
            ("192.168.5.4", "IP address"),
            ("xn--abc", "prefix"),
            ("sthree-abc", "prefix"),
            ("amzn-s3-demo-bucket", "prefix"),
            ("abc-s3alias", "suffix"),
            ("abc--ol-s3", "suffix"),
            ("abc.mrap", "suffix"),
            ("abc--x-s3", "suffix"),
        ] {
            let why = fault_of_bucket_name(name).unwrap_or_else(|| panic!("{name} passed"));
            assert!(why.contains(word), "{name}: {why}");
        }
    }

    #[test]
    fn keys_are_counted_in_bytes() {
        assert_eq!(check_key("é"), Ok(()));
        assert_eq!(check_key(&"é".repeat(512)), Ok(()));
        assert_eq!(
            check_key(&"é".repeat(513)),
            Err(ObjectError::KeyTooLong(1026))
        );
        assert_eq!(check_key(""), Err(ObjectError::KeyTooLong(0)));
    }

    #[test]
    fn user_metadata_has_a_bound_on_names_and_values_together() {
        let with = |value: usize| {
            let user = [("name".to_owned(), "v".repeat(value))].into();
            check_user_metadata(&ContentHeaders {
                user,
                ..ContentHeaders::default()
            })
        };
        assert_eq!(with(USER_METADATA_BYTES_MAX - 4), Ok(()));
        assert_eq!(
            with(USER_METADATA_BYTES_MAX - 3),
            Err(ObjectError::MetadataTooLarge(USER_METADATA_BYTES_MAX + 1))
        );
    }
}
