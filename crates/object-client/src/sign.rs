//! Addresses and presigned requests: by rusty-s3, and by hand for the keys that its [`Url`] can't hold.
//!
//! Invariant: for a key that both can sign, both make the same URL (a test compares them).

use std::time::Duration;

use http::{Method, Uri};
use jiff::Timestamp;
use ring::{digest, hmac};
use url::{Position, Url};

use crate::{Endpoint, Error, Result};

/// What is signed.
pub(crate) struct Target<'a> {
    pub method: &'a Method,
    /// Empty for the endpoint itself.
    pub bucket: &'a str,
    /// Empty for the bucket itself.
    pub key: &'a str,
    pub query: &'a [(&'a str, &'a str)],
}

/// Makes the URL with which anybody can send this request until it expires.
pub(crate) fn presign(
    endpoint: &Endpoint,
    base: &Url,
    target: &Target<'_>,
    now: Timestamp,
    expiry: Duration,
) -> Result<Uri> {
    let mut query = target.query.to_vec();
    query.sort_unstable();
    let signing = Signing {
        endpoint,
        method: target.method,
        query,
        now,
        expiry_s: expiry.as_secs(),
    };
    let signed = match place(endpoint, base, target.bucket)? {
        None => signing.by_library(base.clone()),
        Some(bucket) if has_dot_segment(target.key) => {
            signing.by_hand(bucket.base_url(), target.key)
        }
        Some(bucket) => signing.by_library(bucket.object_url(target.key)),
    };
    Uri::try_from(signed).map_err(|_| Error::Key {
        key: target.key.to_owned(),
        reason: "its URL is too long",
    })
}

fn place(endpoint: &Endpoint, base: &Url, bucket: &str) -> Result<Option<rusty_s3::Bucket>> {
    let refuse = |reason: String| Error::Endpoint {
        url: endpoint.url.clone(),
        reason: format!("the bucket {bucket:?} has no address there: {reason}"),
    };
    if bucket.is_empty() {
        return Ok(None);
    }
    if bucket == "." || bucket == ".." {
        return Err(refuse("this is no name".to_owned()));
    }
    let style = match endpoint.path_style {
        true => rusty_s3::UrlStyle::Path,
        false => rusty_s3::UrlStyle::VirtualHost,
    };
    let (name, region) = (bucket.to_owned(), endpoint.region.clone());
    rusty_s3::Bucket::new(base.clone(), style, name, region)
        .map(Some)
        .map_err(|error| refuse(error.to_string()))
}

/// Whether URL rules would change this key.
fn has_dot_segment(key: &str) -> bool {
    key.split('/')
        .any(|segment| segment == "." || segment == "..")
}

struct Signing<'a> {
    endpoint: &'a Endpoint,
    method: &'a Method,
    query: Vec<(&'a str, &'a str)>,
    now: Timestamp,
    expiry_s: u64,
}

impl Signing<'_> {
    fn by_library(&self, url: Url) -> String {
        let signed = rusty_s3::signing::sign(
            &self.now,
            library_method(self.method),
            url,
            &self.endpoint.access_key,
            &self.endpoint.secret_key,
            self.endpoint.session_token.as_deref(),
            &self.endpoint.region,
            self.expiry_s,
            self.query.iter().copied(),
            std::iter::empty(),
        );
        signed.into()
    }

    /// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html>
    fn by_hand(&self, bucket: &Url, key: &str) -> String {
        let day = self.now.strftime("%Y%m%d").to_string();
        let time = self.now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let scope = format!("{day}/{}/s3/aws4_request", self.endpoint.region);
        let path = bucket.path().to_owned() + &encoded(key, b"-._~/");
        let query = self.whole_query(&scope, &time);
        let canonical = format!(
            "{}\n{path}\n{query}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
            self.method,
            &bucket[Position::BeforeHost..Position::AfterPort],
        );
        let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let signature = self.signature(&day, &format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{hash}"));
        let origin = &bucket[..Position::BeforePath];
        format!("{origin}{path}?{query}&X-Amz-Signature={signature}")
    }

    fn whole_query(&self, scope: &str, time: &str) -> String {
        let credential = format!("{}/{scope}", self.endpoint.access_key);
        let expiry = self.expiry_s.to_string();
        let mut query = self.query.clone();
        query.extend([
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", credential.as_str()),
            ("X-Amz-Date", time),
            ("X-Amz-Expires", expiry.as_str()),
            ("X-Amz-SignedHeaders", "host"),
        ]);
        let token = self.endpoint.session_token.as_deref();
        query.extend(
            token
                .filter(|token| !token.is_empty())
                .map(|token| ("X-Amz-Security-Token", token)),
        );
        query.sort_unstable();
        let pairs = query
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name, b"-._~"), encoded(value, b"-._~")));
        pairs.collect::<Vec<_>>().join("&")
    }

    fn signature(&self, day: &str, text: &str) -> String {
        let first = format!("AWS4{}", self.endpoint.secret_key);
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in [day, self.endpoint.region.as_str(), "s3", "aws4_request"] {
            let next = hmac::sign(&key, part.as_bytes());
            key = hmac::Key::new(hmac::HMAC_SHA256, next.as_ref());
        }
        hex::encode(hmac::sign(&key, text.as_bytes()))
    }
}

/// Percent-encodes everything but letters, digits and the given bytes.
fn encoded(text: &str, plain: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn library_method(method: &Method) -> rusty_s3::Method {
    match method.as_str() {
        "HEAD" => rusty_s3::Method::Head,
        "PUT" => rusty_s3::Method::Put,
        "POST" => rusty_s3::Method::Post,
        "DELETE" => rusty_s3::Method::Delete,
        _ => rusty_s3::Method::Get,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static GET: Method = Method::GET;

    fn endpoint(url: &str, path_style: bool) -> Endpoint {
        Endpoint {
            url: url.to_owned(),
            region: "us-east-1".to_owned(),
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            path_style,
            ca_file: None,
        }
    }

    fn signed(endpoint: &Endpoint, bucket: &str, key: &str) -> Uri {
        let base = Url::parse(&endpoint.url).unwrap();
        let target = Target {
            method: &GET,
            bucket,
            key,
            query: &[],
        };
        let now = Timestamp::from_second(1_369_353_600).unwrap();
        presign(endpoint, &base, &target, now, Duration::from_secs(86_400)).unwrap()
    }

    fn signing<'a>(endpoint: &'a Endpoint, query: &[(&'a str, &'a str)]) -> Signing<'a> {
        Signing {
            endpoint,
            method: &GET,
            query: query.to_vec(),
            now: Timestamp::from_second(1_369_353_600).unwrap(),
            expiry_s: 86_400,
        }
    }

    #[test]
    fn the_example_of_the_specification() {
        let endpoint = endpoint("https://s3.amazonaws.com", false);
        let bucket = Url::parse("https://examplebucket.s3.amazonaws.com/").unwrap();
        let expected = "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert_eq!(
            signing(&endpoint, &[]).by_hand(&bucket, "test.txt"),
            expected
        );
        assert_eq!(
            signed(&endpoint, "examplebucket", "test.txt").to_string(),
            expected
        );
    }

    #[test]
    fn both_ways_agree() {
        let mut endpoint = endpoint("http://127.0.0.1:9000/below", true);
        let base = Url::parse(&endpoint.url).unwrap();
        let query = [("uploadId", "a b/ü~"), ("partNumber", "7"), ("acl", "")];
        for token in [None, Some(String::new()), Some("t+/=".to_owned())] {
            endpoint.session_token = token;
            for key in ["a", "/a//b/", "ü +%25&=?#\\'()*!", "a.b/.c/..d", "\u{1}\n"] {
                let mut signing = signing(&endpoint, &query);
                signing.query.sort_unstable();
                let bucket = place(&endpoint, &base, "shop").unwrap().unwrap();
                let by_hand = signing.by_hand(bucket.base_url(), key);
                assert_eq!(by_hand, signing.by_library(bucket.object_url(key)));
            }
        }
    }

    #[test]
    fn keys_stay_as_they_are() {
        let endpoint = endpoint("http://localhost:9000", true);
        let path = |key: &str| signed(&endpoint, "b", key).path().to_owned();
        assert_eq!(path("a b/c+%"), "/b/a%20b/c%2B%25");
        assert_eq!(path("//x"), "/b///x");
        assert_eq!(path("a/../c"), "/b/a/../c");
        assert_eq!(path("./a//.."), "/b/./a//..");
        assert_eq!(path("%2e%2e/x"), "/b/%252e%252e/x");
        assert_eq!(path(""), "/b/");
    }

    #[test]
    fn buckets_in_hosts_and_bad_buckets() {
        let host = endpoint("http://localhost:9000", false);
        let uri = signed(&host, "b", "k/../l").to_string();
        assert!(uri.starts_with("http://b.localhost:9000/k/../l?"), "{uri}");
        let base = Url::parse(&host.url).unwrap();
        assert!(place(&host, &base, "..").is_err());
        assert!(place(&host, &base, "").unwrap().is_none());
    }
}
