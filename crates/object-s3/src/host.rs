//! Which bucket a host names, if any.
//!
//! Only hosts below a configured domain name buckets; every other host (addresses, the machine's own names) means path
//! style. s3s' own parsers take an unknown host for a bucket, which would break clients that use another name.

use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};

/// The configured domains, longest first, in lower case.
pub(crate) struct VirtualHosts {
    domains: Vec<String>,
}

impl VirtualHosts {
    pub(crate) fn new(domains: &[String]) -> Self {
        let mut domains: Vec<String> = domains
            .iter()
            .map(|d| d.trim_matches('.').to_ascii_lowercase())
            .filter(|d| !d.is_empty())
            .collect();
        domains.sort_by_key(|d| (std::cmp::Reverse(d.len()), d.clone()));
        domains.dedup();
        VirtualHosts { domains }
    }

    /// The bucket in a host header.
    pub(crate) fn bucket<'a>(&self, host: &'a str) -> Option<&'a str> {
        let name = without_port(host);
        for domain in &self.domains {
            let Some(at) = name.len().checked_sub(domain.len()) else {
                continue;
            };
            if !name.is_char_boundary(at) || !name[at..].eq_ignore_ascii_case(domain) {
                continue;
            }
            if at == 0 {
                return None;
            }
            if let Some(bucket) = name[..at].strip_suffix('.') {
                return (!bucket.is_empty()).then_some(bucket);
            }
        }
        None
    }
}

impl S3Host for VirtualHosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let parsed = VirtualHost::new(host);
        Ok(match self.bucket(host) {
            Some(bucket) => parsed.with_bucket(bucket.to_ascii_lowercase()),
            None => parsed,
        })
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_below_a_domain_name_a_bucket() {
        let hosts = VirtualHosts::new(&[
            "localhost".into(),
            "s3.localhost".into(),
            "S3.example.com".into(),
        ]);
        let cases = [
            ("localhost:9000", None),
            ("s3.localhost:9000", None),
            ("b.localhost", Some("b")),
            ("b.s3.localhost:80", Some("b")),
            ("a.b.s3.example.com", Some("a.b")),
            ("B.S3.EXAMPLE.COM", Some("B")),
            ("xlocalhost", None),
            (".localhost", None),
            ("machine.lan:9000", None),
            ("é.localhost", Some("é")),
            ("", None),
        ];
        for (host, bucket) in cases {
            assert_eq!(hosts.bucket(host), bucket, "{host}");
        }
    }
}
