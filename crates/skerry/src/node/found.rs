//! How a node comes to be: the first one founds a site, others join with a token; and how its certificate is renewed.

use std::collections::BTreeMap;
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

use super::Listeners;
use super::folder::{Folder, Listen, Marker};
use super::join_door::{self, Answer, Request};
use super::kinds::{AUTHORITY_SEAL, AuthoritySpec};
use super::topology::{Known, Topology};

/// Of the copy of the authority.
const FORMAT: u8 = 1;
const JOIN_LIMIT: Duration = Duration::from_secs(10);

const SITE_KEY: &str = "site-key";
const NODE_KEY: &str = "node-key.der";
const NODE_CHAIN: &str = "node-chain.json";
/// The site's authority as the registry has it, its key sealed: for renewals before the registry can be read.
pub const AUTHORITY: &str = "site-authority";
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
    parsed(folder, FOUNDING, |bytes| Ok(serde_json::from_slice(bytes)?))
}

/// Reads a secret file; an error names it.
fn parsed<T>(folder: &Folder, name: &str, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let bytes = folder.secret(name)?;
    parse(&bytes).with_context(|| {
        format!(
            "{} is damaged; put it back as it was",
            folder.secret_path(name).display()
        )
    })
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
            let chain: Vec<Vec<u8>> = serde_json::from_slice(bytes)?;
            let ca = chain.get(1).context("it lacks the authority")?;
            let pin = identity::x509::fingerprint(ca);
            Ok(NodeCertificate::new(chain, &key, &pin)?)
        })?;
        let known = folder.json(TOPOLOGY)?.unwrap_or_default();
        Ok(Some(NodeSelf {
            marker,
            site_key: Arc::new(site_key),
            certificate,
            known,
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
    folder.write_json(TOPOLOGY, &topology.known())
}

fn keep_certificate(folder: &Folder, certificate: &NodeCertificate) -> Result<()> {
    folder.set_secret(NODE_KEY, &certificate.key_pkcs8_der)?;
    folder.set_secret(NODE_CHAIN, &serde_json::to_vec(&certificate.chain_der)?)
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

/// Issues this node's next certificate and keeps it. The key stays, so that a crash between two files does no harm.
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
    let authority = AuthoritySpec {
        certificate: ca.certificate_der().to_vec(),
        sealed_key: site_key.seal(AUTHORITY_SEAL, ca.key_pkcs8_der(), &mut rng),
    };
    keep_authority(folder, &authority)?;
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
    let _listening = match may_join(platform, &listen, token).await {
        Ok(listening) => listening,
        Err(error) => {
            folder.take_back();
            return Err(error);
        }
    };
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
    folder.write_json(TOPOLOGY, &known)?;
    folder.set_marker(&Marker {
        format: super::folder::FORMAT,
        site,
        node,
        listen,
        advertise: None,
        started: false,
    })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use async_trait::async_trait;
    use identity::x509::Standing;
    use membership::kinds::ServerSpec;
    use tokio::net::TcpListener;
    use transport::tls::{TlsConfig, TlsTransport};
    use transport::{Handler, Refusal, Service, Transport};

    use super::*;
    use crate::node::test_site::{DAY_MS, Founded, founded};

    const LONG: Duration = Duration::from_secs(60);
    const SERVICE: Service = Service(77);

    struct Echo;

    #[async_trait]
    impl Handler for Echo {
        async fn call(&self, _: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
            Ok(body)
        }
    }

    /// This node with the certificate that it has, and node 2 with a good one; they know each other.
    async fn pair(founded: &Founded) -> [Arc<TlsTransport>; 2] {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let nodes = [NodeId(1), NodeId(2)];
        let mut servers = BTreeMap::new();
        for (node, listener) in nodes.iter().zip(&listeners) {
            let address = listener.local_addr().unwrap().to_string();
            let spec = ServerSpec {
                address: address.clone(),
                s3_address: address.clone(),
                http_address: address,
                weight: 100,
                joined_ms: 0,
                capacity_bytes: 0,
            };
            servers.insert(*node, spec);
        }
        let identities = [founded.own.tls(), tls(&founded.other(NodeId(2)))];
        let mut started = Vec::new();
        for ((node, listener), identity) in nodes.into_iter().zip(listeners).zip(identities) {
            let known = Known {
                servers: servers.clone(),
                ..Known::default()
            };
            let topology = Arc::new(Topology::new(node, known));
            let config = TlsConfig {
                site: founded.own.marker.site,
                node,
                listener,
                identity,
            };
            let transport = TlsTransport::start(config, topology).unwrap();
            transport.serve(SERVICE, Arc::new(Echo));
            started.push(transport);
        }
        started.try_into().ok().unwrap()
    }

    async fn answers(from: &TlsTransport, to: NodeId) {
        let answered = async {
            while from.call(to, SERVICE, Bytes::new(), LONG).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let within = tokio::time::timeout(LONG, answered).await;
        within.expect("the peer accepts the certificate");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peers_accept_a_node_again_that_was_off_for_two_months() {
        let mut founded = founded(60);
        let now = founded.clock.right_ms();
        let old = founded.own.certificate.clone();
        assert_eq!(old.standing(now), Standing::Expired);
        let [one, two] = pair(&founded).await;
        let refused = one.call(NodeId(2), SERVICE, Bytes::new(), LONG).await;
        assert!(refused.is_err(), "an expired certificate");

        founded.clock.set(now);
        founded.renew();
        let renewed = &founded.own.certificate;
        assert_eq!(renewed.standing(now), Standing::Valid);
        assert_eq!(renewed.node(), old.node());
        let kept = NodeSelf::load(&founded.folder).unwrap().unwrap();
        assert!(kept.certificate == *renewed);
        one.renew(&founded.own.tls()).unwrap();
        answers(&one, NodeId(2)).await;
        answers(&two, NodeId(1)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peers_accept_a_node_again_whose_clock_jumped_ahead_and_back() {
        let mut founded = founded(10);
        let now = founded.clock.right_ms();
        founded.clock.set(now + 60 * DAY_MS);
        founded.renew();
        let ahead = founded.own.certificate.clone();
        assert_eq!(ahead.standing(now), Standing::NotYetValid);
        let [one, two] = pair(&founded).await;
        let refused = one.call(NodeId(2), SERVICE, Bytes::new(), LONG).await;
        assert!(refused.is_err(), "a certificate of the future");

        founded.clock.set(now);
        founded.renew();
        one.renew(&founded.own.tls()).unwrap();
        answers(&one, NodeId(2)).await;
        answers(&two, NodeId(1)).await;
    }

    #[test]
    fn a_certificate_that_is_good_or_of_an_expelled_node_stays() {
        let mut founded = founded(1);
        let old = founded.own.certificate.clone();
        founded.clock.set(founded.clock.right_ms());
        founded.renew();
        assert!(founded.own.certificate == old);
        founded.own.known.expelled = BTreeSet::from([NodeId(1)]);
        founded.clock.set(founded.clock.right_ms() + 60 * DAY_MS);
        founded.renew();
        assert!(founded.own.certificate == old);
    }

    #[test]
    fn an_error_names_the_file_that_is_damaged() {
        let founded = founded(0);
        for name in [SITE_KEY, NODE_KEY, NODE_CHAIN, AUTHORITY, FOUNDING] {
            let good = founded.folder.secret(name).unwrap();
            founded.folder.set_secret(name, &[0xff; 5]).unwrap();
            let error = match name {
                AUTHORITY => kept_authority(&founded.folder).err(),
                FOUNDING => founding(&founded.folder).err(),
                _ => NodeSelf::load(&founded.folder).err(),
            };
            let error = format!("{:#}", error.expect("it is damaged"));
            assert!(error.contains(name), "{error}");
            founded.folder.set_secret(name, &good).unwrap();
        }
        assert!(NodeSelf::load(&founded.folder).unwrap().is_some());
    }

    #[test]
    fn a_machine_asks_again_with_the_key_of_its_first_attempt() {
        let path = tempfile::tempdir().unwrap();
        let folder = Folder::lock(&path.path().join("node")).unwrap();
        let first = own_key(&folder).unwrap();
        assert!(own_key(&folder).unwrap().pkcs8_der() == first.pkcs8_der());
    }
}
