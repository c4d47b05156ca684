//! How a node comes to be: the first one founds a site, others join with a token; and the join door that lets them in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use identity::token::TokenSecret;
use identity::{
    AccessKeySpec, JoinRole, JoinToken, NodeCertificate, NodeGrant, NodeKey, SiteCa, SiteKey,
};
use ids::{NodeId, SiteId, UserId};
use platform::Platform;
use raft_machine::{decode, encode};
use registry::{DeleteOptions, Freshness, Registry, Want};
use serde::{Deserialize, Serialize};
use transport::Refusal;
use transport::tls::{JoinHandler, TlsIdentity, join_call};

use super::folder::{Folder, Listen, Marker};
use super::kinds::{AUTHORITY_SEAL, Authority, NODES_POOL, SITE, Token};
use super::topology::{Known, Topology};

const FORMAT: u8 = 1;
const JOIN_LIMIT: Duration = Duration::from_secs(10);

const SITE_KEY: &str = "site-key";
const NODE_KEY: &str = "node-key.der";
const NODE_CHAIN: &str = "node-chain.json";
/// What a founder still has to put into the registry; removed when that is done.
pub const FOUNDING: &str = "founding.json";
/// The first administrator's key.
pub const ROOT: &str = "root.json";
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
    /// The authority's certificate (DER).
    pub ca_certificate: Vec<u8>,
    /// Its key (PKCS #8).
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
    serde_json::from_slice(&folder.secret(FOUNDING)?).context("the founding file is damaged")
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
        let site_key = SiteKey::parse(std::str::from_utf8(&folder.secret(SITE_KEY)?)?)?;
        let key = NodeKey::from_pkcs8_der(&folder.secret(NODE_KEY)?)?;
        let chain: Vec<Vec<u8>> = serde_json::from_slice(&folder.secret(NODE_CHAIN)?)?;
        let ca = chain.get(1).context("the certificate chain is damaged")?;
        let certificate =
            NodeCertificate::new(chain.clone(), &key, &identity::x509::fingerprint(ca))?;
        let known = folder.json(TOPOLOGY)?.unwrap_or_default();
        Ok(Some(NodeSelf {
            marker,
            site_key: Arc::new(site_key),
            certificate,
            known,
        }))
    }

    /// The certificate as the transport wants it.
    pub fn tls(&self) -> TlsIdentity {
        tls(&self.certificate)
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
    folder.write_json(TOPOLOGY, &topology.known())
}

fn keep_certificate(folder: &Folder, certificate: &NodeCertificate) -> Result<()> {
    folder.set_secret(NODE_KEY, &certificate.key_pkcs8_der)?;
    folder.set_secret(NODE_CHAIN, &serde_json::to_vec(&certificate.chain_der)?)
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
    folder.set_secret(SITE_KEY, site_key.to_text().as_bytes())?;
    keep_certificate(folder, &certificate)?;
    let user = UserId::random(&mut rng);
    let (key, secret) =
        AccessKeySpec::create(user, now, "made with the site".into(), &site_key, &mut rng);
    let root = RootKey {
        access_key: key.access_key.clone(),
        secret_key: secret.reveal().to_owned(),
    };
    folder.set_secret(ROOT, &serde_json::to_vec_pretty(&root)?)?;
    let founding = Founding {
        ca_certificate: ca.certificate_der().to_vec(),
        ca_key: ca.key_pkcs8_der().to_vec(),
        name,
        groups,
        root: user,
        key,
    };
    folder.set_secret(FOUNDING, &serde_json::to_vec(&founding)?)?;
    folder.set_marker(&Marker {
        format: super::folder::FORMAT,
        site,
        node,
        listen,
    })
}

#[derive(Serialize, Deserialize)]
enum Request {
    Join {
        token: identity::token::TokenId,
        secret: [u8; 16],
        csr: Vec<u8>,
    },
    Renew {
        old: Vec<u8>,
        csr: Vec<u8>,
        signature: Vec<u8>,
    },
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Joined {
        node: NodeId,
        site: SiteId,
        chain: Vec<Vec<u8>>,
        site_key: String,
        known: String,
    },
    Renewed {
        chain: Vec<Vec<u8>>,
    },
}

/// Makes the folder of a machine that joins.
pub async fn join(
    folder: &Folder,
    platform: &(dyn Platform + 'static),
    listen: Listen,
    token: &JoinToken,
    address: Option<&str>,
) -> Result<()> {
    if token.role != JoinRole::Server {
        bail!(
            "this token is for an agent; agents come with the network pillar: make one with `skerry token create`"
        );
    }
    if token.is_expired(platform.wall_ms().0) {
        bail!("the join token has expired: make a new one with `skerry token create`");
    }
    let key = NodeKey::generate()?;
    let request = Request::Join {
        token: token.id,
        secret: *token.secret.as_bytes(),
        csr: key.csr()?,
    };
    let request: Bytes = encode(FORMAT, &request).into();
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
    } = decode("a join answer", FORMAT, answer)?
    else {
        bail!("the server answered another question");
    };
    let certificate = NodeCertificate::new(chain, key, &token.ca_fingerprint)?;
    folder.set_secret(SITE_KEY, site_key.as_bytes())?;
    keep_certificate(folder, &certificate)?;
    let known: Known = serde_json::from_str(&known)?;
    folder.write_json(TOPOLOGY, &known)?;
    folder.set_marker(&Marker {
        format: super::folder::FORMAT,
        site,
        node,
        listen,
    })
}

/// Lets machines in and renews certificates; on every server.
pub struct JoinDoor {
    /// The site.
    pub site: SiteId,
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// Where tokens and the authority are.
    pub registry: Arc<Registry>,
    /// Opens the authority's key.
    pub site_key: Arc<SiteKey>,
    /// What newcomers are told.
    pub topology: Arc<Topology>,
}

impl JoinDoor {
    async fn authority(&self) -> Result<SiteCa> {
        let found = self
            .registry
            .get::<Authority>(SITE, Freshness::Linearizable)
            .await?;
        let spec = found
            .context("the site has no authority yet: try again in a moment")?
            .spec;
        let key = self.site_key.open(AUTHORITY_SEAL, &spec.sealed_key)?;
        Ok(SiteCa::from_der(&spec.certificate, &key)?)
    }

    async fn answer(&self, request: Request) -> Result<Answer> {
        match request {
            Request::Join { token, secret, csr } => self.join(token, secret, &csr).await,
            Request::Renew {
                old,
                csr,
                signature,
            } => self.renew(&old, &csr, &signature).await,
        }
    }

    async fn join(
        &self,
        token: identity::token::TokenId,
        secret: [u8; 16],
        csr: &[u8],
    ) -> Result<Answer> {
        let found = self
            .registry
            .get::<Token>(&token.to_string(), Freshness::Linearizable)
            .await?;
        let found = found
            .context("this join token is not known: it was used, or removed; make a new one")?;
        found
            .spec
            .verify(&TokenSecret::from_bytes(secret), self.platform.wall_ms().0)?;
        let authority = self.authority().await?;
        // Whoever deletes the token has it: the second of two machines with one token is refused here.
        let expected = registry::draft::exactly(&found);
        let taken = self
            .registry
            .delete::<Token>(&token.to_string(), DeleteOptions { expected })
            .await;
        taken.context("this join token was just used by another machine: make a new one")?;
        let node = self
            .registry
            .allocate(NODES_POOL, Want::Any { count: 1 })
            .await?;
        let node = NodeId(u64::try_from(node[0])?);
        let now = self.platform.wall_ms().0;
        let issued =
            authority.issue_node(&NodeGrant::new(node), csr, now, &mut self.platform.rng())?;
        tracing::info!(%node, "a machine joined");
        Ok(Answer::Joined {
            node,
            site: self.site,
            chain: issued.chain_der,
            site_key: self.site_key.to_text(),
            known: serde_json::to_string(&self.topology.known())?,
        })
    }

    async fn renew(&self, old: &[u8], csr: &[u8], signature: &[u8]) -> Result<Answer> {
        let authority = self.authority().await?;
        let node =
            identity::node::verify_renewal(authority.certificate_der(), old, csr, signature)?;
        if !self.topology.servers().contains_key(&node) {
            bail!("node {node} is no member of this site");
        }
        let now = self.platform.wall_ms().0;
        let issued =
            authority.issue_node(&NodeGrant::new(node), csr, now, &mut self.platform.rng())?;
        Ok(Answer::Renewed {
            chain: issued.chain_der,
        })
    }
}

#[async_trait]
impl JoinHandler for JoinDoor {
    async fn join(&self, peer: SocketAddr, request: Bytes) -> Result<Bytes, Refusal> {
        let request = decode("a join request", FORMAT, &request)
            .map_err(|error| Refusal(error.to_string()))?;
        match self.answer(request).await {
            Ok(answer) => Ok(encode(FORMAT, &answer).into()),
            Err(error) => {
                tracing::warn!(%peer, error = format!("{error:#}"), "a machine was not let in");
                Err(Refusal(format!("{error:#}")))
            }
        }
    }
}

/// Asks for a new certificate, from any server of the site, and keeps it.
pub async fn renew(
    folder: &Folder,
    old: &NodeCertificate,
    servers: &BTreeMap<NodeId, String>,
) -> Result<NodeCertificate> {
    let key = NodeKey::generate()?;
    let csr = key.csr()?;
    let signature = old.sign_renewal(&csr)?;
    let request: Bytes = encode(
        FORMAT,
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
                let Answer::Renewed { chain } = decode("a renewal", FORMAT, &answer)? else {
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
