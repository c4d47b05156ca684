//! The name of a node in its certificate: `node-<id>.<site>.skerry`, a DNS name among the subject alternative names.
//!
//! There is one spelling per node: decimal without leading zeros, lower-case hexadecimal. What is spelled otherwise is
//! not a node's name.

use ids::{NodeId, SiteId};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const SUFFIX: &str = ".skerry";

/// A certificate or a text that does not name one node of one site.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is not of the form `node-<id>.<site>.skerry`.
    #[error("`{0}` is not the name of a node")]
    NotANode(String),
    /// The certificate can't be read.
    #[error("the certificate can't be read")]
    Unreadable,
    /// The certificate names no node, or several.
    #[error("the certificate names {0} nodes instead of one")]
    NotOne(usize),
}

/// The name that the certificate of `node` carries.
pub fn server_name(site: SiteId, node: NodeId) -> String {
    format!("node-{node}.{site}{SUFFIX}")
}

/// The inverse of [`server_name`].
///
/// # Errors
/// When the text is not exactly what [`server_name`] would have written.
pub fn parse(name: &str) -> Result<(SiteId, NodeId), NameError> {
    let parts = || {
        let (node, site) = name.strip_suffix(SUFFIX)?.split_once('.')?;
        let node: NodeId = node.strip_prefix("node-")?.parse().ok()?;
        let site: SiteId = site.parse().ok()?;
        (server_name(site, node) == name).then_some((site, node))
    };
    parts().ok_or_else(|| NameError::NotANode(name.to_owned()))
}

/// The node that a certificate names. This reads the certificate; it verifies nothing.
///
/// # Errors
/// When the certificate is damaged, or does not name exactly one node.
pub fn of_certificate(der: &[u8]) -> Result<(SiteId, NodeId), NameError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NameError::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| NameError::Unreadable)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let mut nodes = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(dns) if dns.ends_with(SUFFIX) => Some(*dns),
        _ => None,
    });
    match (nodes.next(), nodes.count()) {
        (Some(name), 0) => parse(name),
        (None, _) => Err(NameError::NotOne(0)),
        (Some(_), more) => Err(NameError::NotOne(more + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_its_node() {
        let site = SiteId([0xab; 16]);
        for id in [0, 1, 10, u64::MAX] {
            assert_eq!(
                parse(&server_name(site, NodeId(id))),
                Ok((site, NodeId(id)))
            );
        }
    }

    #[test]
    fn other_spellings_are_no_names() {
        let site = "ab".repeat(16);
        for name in [
            String::new(),
            ".skerry".into(),
            format!("node-1.{site}"),
            format!("node-01.{site}.skerry"),
            format!("node-+1.{site}.skerry"),
            format!("node-1.{}.skerry", site.to_uppercase()),
            format!("node-1.{site}.skerry."),
            format!("node-1.x.{site}.skerry"),
            format!("1.{site}.skerry"),
            format!("node-18446744073709551616.{site}.skerry"),
        ] {
            assert_eq!(parse(&name), Err(NameError::NotANode(name.clone())));
        }
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert_eq!(of_certificate(&[]), Err(NameError::Unreadable));
        assert_eq!(
            of_certificate(&[0x30, 0x82, 0xff]),
            Err(NameError::Unreadable)
        );
    }
}
