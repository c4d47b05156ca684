use std::collections::BTreeSet;
use std::net::SocketAddr;

use async_trait::async_trait;
use identity::token::NewToken;
use identity::x509::Standing;
use membership::kinds::ServerSpec;
use serde_json::json;
use tokio::net::TcpListener;
use transport::tls::{JoinHandler, TlsConfig, TlsTransport};
use transport::{Handler, Refusal, Service, Transport};

use super::*;
use crate::node::settings::random_listen;
use crate::node::test_site::{DAY_MS, Founded, SetClock, founded};

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

/// A server that renews the certificate of node 1.
struct Renewer {
    authority: AuthoritySpec,
    site_key: Arc<SiteKey>,
    clock: Arc<SetClock>,
}

#[async_trait]
impl JoinHandler for Renewer {
    async fn join(&self, _: SocketAddr, request: Bytes) -> Result<Bytes, Refusal> {
        let asked = decode("a join request", join_door::FORMAT, &request);
        let Ok(Request::Renew { csr, .. }) = asked else {
            return Err(Refusal("another question".into()));
        };
        let authority = open_authority(&self.authority, &self.site_key).unwrap();
        let platform: &(dyn Platform + 'static) = &*self.clock;
        let (grant, now) = (NodeGrant::new(NodeId(1)), self.clock.right_ms());
        let issued = authority.issue_node(&grant, &csr, now, &mut platform.rng());
        let chain = issued.unwrap().chain_der;
        Ok(encode(join_door::FORMAT, &Answer::Renewed { chain }).into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_between_the_files_of_a_renewal_works() {
    let founded = founded(0);
    let [_, two] = pair(&founded).await;
    two.serve_joins(Arc::new(Renewer {
        authority: kept_authority(&founded.folder).unwrap().unwrap(),
        site_key: founded.own.site_key.clone(),
        clock: founded.clock.clone(),
    }));
    let old = founded.own.certificate.clone();
    let old_chain = founded.folder.secret(NODE_CHAIN).unwrap();
    let servers = BTreeMap::from([(NodeId(2), two.local_addr().to_string())]);
    let renewed = renew(&founded.folder, &old, &servers).await.unwrap();
    assert!(renewed != old);
    let kept = || {
        NodeSelf::load(&founded.folder)
            .unwrap()
            .unwrap()
            .certificate
    };
    assert!(kept() == renewed);
    // The key is written first.
    founded.folder.set_secret(NODE_CHAIN, &old_chain).unwrap();
    assert!(kept() == old);
}

#[test]
fn a_file_of_a_newer_program_is_refused_in_words() {
    let founded = founded(0);
    let folder = &founded.folder;
    let newer = json!({ "format": 99 });
    let text = newer.to_string();
    let says = |name: &str, error: Option<anyhow::Error>| {
        let error = format!("{:#}", error.expect("it is newer"));
        assert!(error.contains(name) && error.contains("format 99"));
        assert!(!error.contains("damaged"), "{error}");
    };
    folder.set_secret(FOUNDING, text.as_bytes()).unwrap();
    says(FOUNDING, founding(folder).err());
    let good = folder.secret(NODE_CHAIN).unwrap();
    folder.set_secret(NODE_CHAIN, text.as_bytes()).unwrap();
    says(NODE_CHAIN, NodeSelf::load(folder).err());
    folder.set_secret(NODE_CHAIN, &good).unwrap();
    folder.write_json(TOPOLOGY, &newer).unwrap();
    says(TOPOLOGY, NodeSelf::load(folder).err());
}

#[test]
fn the_chain_of_an_earlier_program_is_read() {
    let founded = founded(0);
    let bare = serde_json::to_vec(&founded.own.certificate.chain_der).unwrap();
    founded.folder.set_secret(NODE_CHAIN, &bare).unwrap();
    let own = NodeSelf::load(&founded.folder).unwrap().unwrap();
    assert!(own.certificate == founded.own.certificate);
}

#[test]
fn the_authoritys_key_is_nowhere_in_plain() {
    let founded = founded(0);
    let begun = founding(&founded.folder).unwrap();
    assert!(SiteCa::from_der(&begun.ca_certificate, &begun.ca_key).is_err());
    let spec = AuthoritySpec {
        certificate: begun.ca_certificate,
        sealed_key: begun.ca_key,
    };
    open_authority(&spec, &founded.own.site_key).unwrap();
}

#[tokio::test]
async fn a_founder_that_was_killed_founds_and_a_machine_that_asked_to_join_does_not() {
    let path = tempfile::tempdir().unwrap();
    let clock = SetClock::new(path.path());
    let killed = Folder::lock(&path.path().join("killed")).unwrap();
    may_found(killed.path()).unwrap();
    found(&killed, &*clock, random_listen(), "site".into(), 1).unwrap();
    std::fs::remove_file(killed.path().join("node.json")).unwrap();
    drop(killed);
    let killed = Folder::lock(&path.path().join("killed")).unwrap();
    may_found(killed.path()).unwrap();
    let token = token(&*clock);
    let joined = join(&killed, &*clock, random_listen(), &token, None).await;
    let refused = joined.unwrap_err().to_string();
    assert!(refused.contains("skerry server"), "{refused}");

    let asked = Folder::lock(&path.path().join("asked")).unwrap();
    let joined = join(&asked, &*clock, random_listen(), &token, None).await;
    assert!(joined.is_err(), "nobody is there");
    let refused = may_found(asked.path()).unwrap_err().to_string();
    assert!(refused.contains("skerry join"), "{refused}");
}

/// A join token of a site that nobody runs.
fn token(platform: &(dyn Platform + 'static)) -> JoinToken {
    let new = NewToken {
        site: SiteId([1; 16]),
        ca_fingerprint: [0; 32],
        role: JoinRole::Server,
        expires_ms: platform.wall_ms().0 + DAY_MS,
        addresses: vec!["127.0.0.1:1".into()],
    };
    JoinToken::create(new, &mut platform.rng()).unwrap().0
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
