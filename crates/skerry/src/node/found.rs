//! How a node comes to be: the first one founds a site, others join with a token; and how its certificate is renewed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use identity::{
    AccessKeySpec, JoinRole, JoinToken, NodeCertificate, NodeGrant, NodeKey, SiteCa, SiteKey,
};
use ids::{NodeId, SiteId, UserId};
use platform::Platform;
use raft_machine::{decode, encode};
use serde::{Deserialize, Serialize};
use transport::tls::{TlsIdentity, join_call};

use super::folder::{Folder, Listen, Marker, SECRETS};
use super::join_door::{self, Answer, Request};
use super::kinds::{AUTHORITY_SEAL, AuthoritySpec};
use super::topology::{self, Known, Topology};
use super::{Listeners, versioned};

#[cfg(test)]
mod tests;

/// Of the copy of the authority.
const FORMAT: u8 = 1;
const JOIN_LIMIT: Duration = Duration::from_secs(10);

const SITE_KEY: &str = "site-key";
const NODE_KEY: &str = "node-key.der";
const NODE_CHAIN: &str = "node-chain.json";
/// 1 was the bare list.
const CHAIN_FORMAT: u32 = 2;
/// The site's authority as the registry has it, its key sealed: for renewals before the registry can be read.
pub const AUTHORITY: &str = "site-authority";
/// What a founder still has to put into the registry; removed when that is done.
pub const FOUNDING: &str = "founding.json";
/// 2 seals the authority's key.
const FOUNDING_FORMAT: u32 = 2;
/// The first administrator's key.
pub const ROOT: &str = "root.json";
/// Of [`ROOT`].
pub const ROOT_FORMAT: u32 = 1;
const TOPOLOGY: &str = "topology.json";

/// An access key with its secret, as a file holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootKey {
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

/// See [`FOUNDING`].
#[derive(Serialize, Deserialize)]
pub struct Founding {
    /// Which one it was written in.
    #[serde(default = "versioned::first")]
    pub format: u32,
    /// The authority's certificate (DER).
    pub ca_certificate: Vec<u8>,
    /// Its key (PKCS #8), sealed as [`AuthoritySpec`] has it; plain in format 1.
    pub ca_key: Vec<u8>,
    /// The site's name for people.
    pub name: String,
    /// Placement groups.
    pub groups: u32,
    /// The first administrator.
    pub root: UserId,
    /// The administrator's key.
    pub key: AccessKeySpec,
}

/// What the founder of a site wrote down for the case that it dies before the site is complete.
pub fn founding(folder: &Folder) -> Result<Founding> {
    parsed(folder, FOUNDING, |bytes| {
        versioned::parse(FOUNDING_FORMAT, bytes)
    })
}

/// What [`NODE_CHAIN`] says.
#[derive(Serialize, Deserialize)]
struct Chain {
    /// The node's certificate, then the authority's.
    chain: Vec<Vec<u8>>,
}

fn parse_chain(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    if let Ok(bare) = serde_json::from_slice(bytes) {
        return Ok(bare);
    }
    Ok(versioned::parse::<Chain>(CHAIN_FORMAT, bytes)?.chain)
}

/// Reads a secret file; an error names it.
fn parsed<T>(folder: &Folder, name: &str, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let bytes = folder.secret(name)?;
    parse(&bytes).map_err(|error| versioned::refused(&folder.secret_path(name), error))
}

/// What a node is, from its folder.
pub struct NodeSelf {
    /// The marker.
    pub marker: Marker,
    /// The site's key.
    pub site_key: Arc<SiteKey>,
    /// Certificate and key.
    pub certificate: NodeCertificate,
    /// Servers and maps as last heard of.
    pub known: Known,
}

impl NodeSelf {
    /// Reads a folder that was founded or joined; `None` for a new one.
    pub fn load(folder: &Folder) -> Result<Option<Self>> {
        let Some(marker) = folder.marker()? else {
            return Ok(None);
        };
        let site_key = parsed(folder, SITE_KEY, |bytes| {
            Ok(SiteKey::parse(std::str::from_utf8(bytes)?)?)
        })?;
        let key = parsed(folder, NODE_KEY, |bytes| {
            Ok(NodeKey::from_pkcs8_der(bytes)?)
        })?;
        let certificate = parsed(folder, NODE_CHAIN, |bytes| {
            let chain = parse_chain(bytes)?;
            let ca = chain.get(1).context("it lacks the authority")?;
            let pin = identity::x509::fingerprint(ca);
            Ok(NodeCertificate::new(chain, &key, &pin)?)
        })?;
        let known = folder.record(TOPOLOGY, topology::FORMAT)?;
        Ok(Some(NodeSelf {
            marker,
            site_key: Arc::new(site_key),
            certificate,
            known: known.unwrap_or_default(),
        }))
    }

    /// The addresses of the other servers, as last heard of.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        let servers = self.known.servers.iter();
        servers
            .filter(|(node, _)| **node != self.marker.node)
            .map(|(_, spec)| spec.address.as_str())
    }

    /// The certificate as the transport wants it.
    pub fn tls(&self) -> TlsIdentity {
        tls(&self.certificate)
    }

    /// Renews the certificate from what lies in the folder, when it is due: after a long time off nobody would talk to
    /// this node otherwise. What can't be done now is tried again when the registry can be read.
    pub fn renew_if_due(&mut self, folder: &Folder, platform: &(dyn Platform + 'static)) {
        let expelled = self.known.expelled.contains(&self.marker.node);
        if expelled || !self.certificate.renew_due(platform.wall_ms().0) {
            return;
        }
        let renewed = kept_authority(folder).and_then(|authority| {
            let authority =
                authority.context("the folder holds no copy of the site's authority")?;
            reissue(
                folder,
                platform,
                &self.site_key,
                &authority,
                &self.certificate,
            )
        });
        match renewed {
            Ok(renewed) => {
                tracing::info!("the node's certificate was renewed");
                self.certificate = renewed;
            }
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the certificate was not renewed yet"
            ),
        }
    }
}

fn tls(certificate: &NodeCertificate) -> TlsIdentity {
    TlsIdentity {
        chain_der: certificate.chain_der.clone(),
        key_pkcs8_der: certificate.key_pkcs8_der.clone(),
        ca_der: certificate.ca_der().to_vec(),
    }
}

/// Writes servers and maps to the folder.
pub fn keep_topology(folder: &Folder, topology: &Topology) -> Result<()> {
    folder.write_record(TOPOLOGY, topology::FORMAT, &topology.known())
}

/// A kill may come between the two files: a certificate that replaces another one must be for the same key.
fn keep_certificate(folder: &Folder, certificate: &NodeCertificate) -> Result<()> {
    let chain = Chain {
        chain: certificate.chain_der.clone(),
    };
    let chain = versioned::named(CHAIN_FORMAT, &chain)?;
    folder.set_secret(NODE_KEY, &certificate.key_pkcs8_der)?;
    folder.set_secret(NODE_CHAIN, &serde_json::to_vec(&chain)?)
}

/// Keeps a copy of the authority.
pub fn keep_authority(folder: &Folder, authority: &AuthoritySpec) -> Result<()> {
    folder.set_secret(AUTHORITY, &encode(FORMAT, authority))
}

/// The copy of the authority, if there is one.
pub fn kept_authority(folder: &Folder) -> Result<Option<AuthoritySpec>> {
    if !folder.secret_path(AUTHORITY).exists() {
        return Ok(None);
    }
    let kept = parsed(folder, AUTHORITY, |bytes| {
        Ok(decode("the site's authority", FORMAT, bytes)?)
    });
    kept.map(Some)
}

/// The authority, ready to sign.
pub fn open_authority(authority: &AuthoritySpec, site_key: &SiteKey) -> Result<SiteCa> {
    let key = site_key.open(AUTHORITY_SEAL, &authority.sealed_key)?;
    Ok(SiteCa::from_der(&authority.certificate, &key)?)
}

/// Issues this node's next certificate, for the key of the old one, and keeps it.
pub fn reissue(
    folder: &Folder,
    platform: &(dyn Platform + 'static),
    site_key: &SiteKey,
    authority: &AuthoritySpec,
    old: &NodeCertificate,
) -> Result<NodeCertificate> {
    let authority = open_authority(authority, site_key)?;
    let renewed = old.reissue(&authority, platform.wall_ms().0, &mut platform.rng())?;
    keep_certificate(folder, &renewed)?;
    Ok(renewed)
}

/// Refuses to found a site in the folder of a machine that asked to join one: it would serve another site than the one that
/// was meant.
pub fn may_found(folder: &Path) -> Result<()> {
    let secrets = folder.join(SECRETS);
    // A founder that was killed left what it was about to found, too.
    if secrets.join(NODE_KEY).exists() && !secrets.join(FOUNDING).exists() {
        bail!(
            "a `skerry join` with {} did not come to its end: run it again, or remove the folder to found a new site with it",
            folder.display()
        );
    }
    Ok(())
}

/// Makes the folder of the first node of a new site.
pub fn found(
    folder: &Folder,
    platform: &(dyn Platform + 'static),
    listen: Listen,
    name: String,
    groups: u32,
) -> Result<()> {
    let mut rng = platform.rng();
    let site = SiteId::random(&mut rng);
    let node = NodeId(1);
    let now = platform.wall_ms().0;
    let ca = SiteCa::create(site, now, &mut rng)?;
    let node_key = NodeKey::generate()?;
    let issued = ca.issue_node(&NodeGrant::new(node), &node_key.csr()?, now, &mut rng)?;
    let certificate = NodeCertificate::from_issued(issued, &node_key, &ca.fingerprint())?;
    let site_key = SiteKey::generate(&mut rng);
    let authority = AuthoritySpec {
        certificate: ca.certificate_der().to_vec(),
        sealed_key: site_key.seal(AUTHORITY_SEAL, ca.key_pkcs8_der(), &mut rng),
    };
    let user = UserId::random(&mut rng);
    let (key, secret) =
        AccessKeySpec::create(user, now, "made with the site".into(), &site_key, &mut rng);
    let root = RootKey {
        access_key: key.access_key.clone(),
        secret_key: secret.reveal().to_owned(),
    };
    let root = versioned::named(ROOT_FORMAT, &root)?;
    let founding = Founding {
        format: FOUNDING_FORMAT,
        ca_certificate: authority.certificate.clone(),
        ca_key: authority.sealed_key.clone(),
        name,
        groups,
        root: user,
        key,
    };
    // The first file: by it, what a kill leaves is known for a founder's.
    folder.set_secret(FOUNDING, &serde_json::to_vec(&founding)?)?;
    folder.set_secret(SITE_KEY, site_key.to_text().as_bytes())?;
    keep_certificate(folder, &certificate)?;
    keep_authority(folder, &authority)?;
    folder.set_secret(ROOT, &serde_json::to_vec_pretty(&root)?)?;
    folder.set_marker(&Marker {
        format: super::folder::FORMAT,
        site,
        node,
        listen,
        advertise: None,
        started: false,
    })
}

/// Makes the folder of a machine that joins.
pub async fn join(
    folder: &Folder,
    platform: &(dyn Platform + 'static),
    listen: Listen,
    token: &JoinToken,
    address: Option<&str>,
) -> Result<()> {
    // Held until the machine is in: a token is not used up for a machine that can't start.
    let _listening = match may_join(folder, platform, &listen, token).await {
        Ok(listening) => listening,
        Err(error) => {
            folder.take_back();
            return Err(error);
        }
    };
    folder.make_private()?;
    let key = own_key(folder)?;
    let request = Request::Join {
        token: token.id,
        secret: *token.secret.as_bytes(),
        csr: key.csr()?,
    };
    let request: Bytes = encode(join_door::FORMAT, &request).into();
    let addresses = address.map_or_else(
        || token.addresses.clone(),
        |address| vec![address.to_owned()],
    );
    let mut failures = Vec::new();
    for address in addresses {
        match join_call(&address, token.ca_fingerprint, request.clone(), JOIN_LIMIT).await {
            Ok(answer) => return joined(folder, &answer, &key, token, listen),
            Err(error) => failures.push(error.to_string()),
        }
    }
    bail!(
        "no server of the site let this machine in: {}",
        failures.join("; ")
    )
}

/// Refuses what can be told to fail before anybody is asked.
async fn may_join(
    folder: &Folder,
    platform: &(dyn Platform + 'static),
    listen: &Listen,
    token: &JoinToken,
) -> Result<Listeners> {
    if token.role != JoinRole::Server {
        bail!(
            "this token is for an agent; agents come with the network pillar: make one with `skerry token create`"
        );
    }
    if token.is_expired(platform.wall_ms().0) {
        bail!("the join token has expired: make a new one with `skerry token create`");
    }
    if folder.secret_path(FOUNDING).exists() {
        bail!(
            "the founding of a site in {} did not come to its end: go on with it by `skerry server`, or remove the folder to join another site with it",
            folder.path().display()
        );
    }
    Listeners::bind(listen).await
}

/// The key that this machine asks with. It is kept before the first attempt: whoever asks again with one token must show
/// the same key.
fn own_key(folder: &Folder) -> Result<NodeKey> {
    if folder.secret_path(NODE_KEY).exists() {
        return parsed(folder, NODE_KEY, |bytes| {
            Ok(NodeKey::from_pkcs8_der(bytes)?)
        });
    }
    let key = NodeKey::generate()?;
    folder.set_secret(NODE_KEY, key.pkcs8_der())?;
    Ok(key)
}

fn joined(
    folder: &Folder,
    answer: &[u8],
    key: &NodeKey,
    token: &JoinToken,
    listen: Listen,
) -> Result<()> {
    let Answer::Joined {
        node,
        site,
        chain,
        site_key,
        known,
    } = decode("a join answer", join_door::FORMAT, answer)?
    else {
        bail!("the server answered another question");
    };
    let certificate = NodeCertificate::new(chain, key, &token.ca_fingerprint)?;
    folder.set_secret(SITE_KEY, site_key.as_bytes())?;
    keep_certificate(folder, &certificate)?;
    let known: Known = serde_json::from_str(&known)?;
    folder.write_record(TOPOLOGY, topology::FORMAT, &known)?;
    folder.set_marker(&Marker {
        format: super::folder::FORMAT,
        site,
        node,
        listen,
        advertise: None,
        started: false,
    })
}

/// Asks for a new certificate, for the key of the old one, from any server of the site, and keeps it.
pub async fn renew(
    folder: &Folder,
    old: &NodeCertificate,
    servers: &BTreeMap<NodeId, String>,
) -> Result<NodeCertificate> {
    let key = NodeKey::from_pkcs8_der(&old.key_pkcs8_der)?;
    let csr = key.csr()?;
    let signature = old.sign_renewal(&csr)?;
    let request: Bytes = encode(
        join_door::FORMAT,
        &Request::Renew {
            old: old.chain_der[0].clone(),
            csr,
            signature,
        },
    )
    .into();
    let fingerprint = identity::x509::fingerprint(old.ca_der());
    let mut failures = Vec::new();
    for address in servers.values() {
        match join_call(address, fingerprint, request.clone(), JOIN_LIMIT).await {
            Ok(answer) => {
                let Answer::Renewed { chain } = decode("a renewal", join_door::FORMAT, &answer)?
                else {
                    bail!("the server answered another question");
                };
                let certificate = NodeCertificate::new(chain, &key, &fingerprint)?;
                keep_certificate(folder, &certificate)?;
                return Ok(certificate);
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    bail!(
        "no server renewed this node's certificate: {}",
        failures.join("; ")
    )
}

/// The certificate for the transport.
pub fn tls_of(certificate: &NodeCertificate) -> TlsIdentity {
    tls(certificate)
}
