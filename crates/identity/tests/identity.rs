//! Certificates as TLS sees them, sealed secrets and tokens against tampering, goldens of what is stored and shown.

use std::sync::Arc;

use identity::ca::{CLOCK_SKEW_MS, CaError, NODE_VALIDITY_MS, NodeGrant, SiteCa, request_key};
use identity::node::{NodeCertificate, NodeCertificateError, NodeKey, verify_renewal};
use identity::seal::{SealError, SiteKey};
use identity::token::{
    JoinRole, JoinToken, JoinTokenSpec, NewToken, TokenError, TokenRefusal, TokenSecret,
};
use identity::users::{AccessKeySpec, generate_access_key, generate_secret};
use identity::x509::{self, Standing, X509Error};
use ids::{NodeId, SiteId, UserId};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

const SITE: SiteId = SiteId([0xab; 16]);
const NOW: u64 = 1_800_000_000_000;
const DAY: u64 = 24 * 3_600_000;

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn authority() -> SiteCa {
    SiteCa::create(SITE, NOW, &mut rng(1)).unwrap()
}

fn certificate(ca: &SiteCa, key: &NodeKey, now_ms: u64) -> NodeCertificate {
    let issued = ca
        .issue_node(
            &NodeGrant::new(NodeId(3)),
            &key.csr().unwrap(),
            now_ms,
            &mut rng(2),
        )
        .unwrap();
    NodeCertificate::from_issued(issued, key, &ca.fingerprint()).unwrap()
}

/// What a TLS client of ours says about a server's certificate.
fn tls_accepts(ca_der: &[u8], leaf: &[u8], name: &str, now_ms: u64) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca_der.to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now_ms));
    let name = ServerName::try_from(name).unwrap();
    verifier
        .verify_server_cert(&CertificateDer::from(leaf.to_vec()), &[], &name, &[], now)
        .is_ok()
}

#[test]
fn a_node_certificate_is_accepted_by_tls_within_its_dates_and_under_its_name() {
    let ca = authority();
    let key = NodeKey::generate().unwrap();
    let certificate = certificate(&ca, &key, NOW);
    let leaf = &certificate.chain_der[0];
    let name = format!("node-3.{SITE}.skerry");
    let accepts = |name: &str, now| tls_accepts(ca.certificate_der(), leaf, name, now);
    assert!(accepts(&name, NOW));
    assert!(
        accepts(&name, NOW - CLOCK_SKEW_MS),
        "a peer whose clock is an hour behind"
    );
    assert!(!accepts(&name, NOW - CLOCK_SKEW_MS - 2000));
    assert!(accepts(&name, NOW + NODE_VALIDITY_MS));
    assert!(!accepts(&name, NOW + NODE_VALIDITY_MS + 2000));
    assert!(!accepts(&format!("node-4.{SITE}.skerry"), NOW));
    assert_eq!(certificate.node(), Ok((SITE, NodeId(3))));
    let stranger = SiteCa::create(SITE, NOW, &mut rng(1)).unwrap();
    assert!(!tls_accepts(stranger.certificate_der(), leaf, &name, NOW));
}

#[test]
fn renewal_is_due_after_two_thirds_of_the_life() {
    let ca = authority();
    let certificate = certificate(&ca, &NodeKey::generate().unwrap(), NOW);
    assert_eq!(certificate.validity.not_before_ms, NOW - CLOCK_SKEW_MS);
    assert_eq!(certificate.validity.not_after_ms, NOW + 30 * DAY);
    let due = NOW - CLOCK_SKEW_MS + (30 * DAY + CLOCK_SKEW_MS) / 3 * 2;
    assert!(
        !certificate.renew_due(NOW)
            && !certificate.renew_due(due - 1)
            && certificate.renew_due(due)
    );
    assert_eq!(certificate.standing(due), Standing::RenewDue);
    assert_eq!(certificate.standing(NOW + 30 * DAY), Standing::RenewDue);
    assert_eq!(certificate.standing(NOW + 30 * DAY + 1), Standing::Expired);
    // The clock jumped back by a year.
    assert_eq!(certificate.standing(NOW - 365 * DAY), Standing::NotYetValid);
    assert!(certificate.renew_due(NOW - 365 * DAY));
}

#[test]
fn a_request_with_foreign_names_gets_only_what_the_authority_grants() {
    let ca = authority();
    let key = KeyPair::generate().unwrap();
    let mut params =
        CertificateParams::new(vec![format!("node-1.{SITE}.skerry"), "evil.example".into()])
            .unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    let mut grant = NodeGrant::new(NodeId(3));
    grant.names = vec!["Shop.Example.".into()];
    grant.ips = vec!["192.0.2.7".parse().unwrap()];
    let issued = ca.issue_node(&grant, csr.der(), NOW, &mut rng(2)).unwrap();
    let leaf = &issued.chain_der[0];
    assert_eq!(
        x509::dns_names(leaf).unwrap(),
        [format!("node-3.{SITE}.skerry"), "shop.example".into()]
    );
    assert_eq!(
        x509::verified_node_of(ca.certificate_der(), leaf),
        Ok((SITE, NodeId(3)))
    );
    assert!(tls_accepts(ca.certificate_der(), leaf, "shop.example", NOW));
    assert!(tls_accepts(ca.certificate_der(), leaf, "192.0.2.7", NOW));
    assert!(!tls_accepts(
        ca.certificate_der(),
        leaf,
        "evil.example",
        NOW
    ));
}

#[test]
fn only_a_root_is_its_own_issuer() {
    let ca = authority();
    let certificate = certificate(&ca, &NodeKey::generate().unwrap(), NOW);
    assert!(x509::is_self_issued(ca.certificate_der()));
    assert!(!x509::is_self_issued(&certificate.chain_der[0]));
    assert!(!x509::is_self_issued(b"no certificate"));
}

#[test]
fn no_certificate_names_two_nodes() {
    let ca = authority();
    let csr = NodeKey::generate().unwrap().csr().unwrap();
    for name in [
        format!("node-1.{SITE}.skerry"),
        format!("NODE-1.{SITE}.Skerry."),
        String::new(),
        "ä".into(),
    ] {
        let grant = NodeGrant {
            names: vec![name.clone()],
            ..NodeGrant::new(NodeId(3))
        };
        let refused = ca.issue_node(&grant, &csr, NOW, &mut rng(2)).unwrap_err();
        assert!(matches!(refused, CaError::Name(refused) if refused == name));
    }
}

#[test]
fn requests_that_prove_nothing_are_refused() {
    let ca = authority();
    let issue = |csr: &[u8]| {
        ca.issue_node(&NodeGrant::new(NodeId(3)), csr, NOW, &mut rng(2))
            .map(|_| ())
    };
    let mut forged = NodeKey::generate().unwrap().csr().unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(issue(&forged), Err(CaError::Request(_))));
    assert!(matches!(issue(b"hello"), Err(CaError::Request(_))));
    assert!(matches!(
        issue(&vec![0x30; 1 << 20]),
        Err(CaError::Request(_))
    ));
    let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = CertificateParams::default()
        .serialize_request(&other)
        .unwrap();
    assert!(
        issue(other.der())
            .unwrap_err()
            .to_string()
            .contains("P-256")
    );
}

#[test]
fn an_authority_is_the_same_after_it_was_stored() {
    let ca = authority();
    let stored = SiteCa::from_der(ca.certificate_der(), ca.key_pkcs8_der()).unwrap();
    assert_eq!(
        (stored.site(), stored.fingerprint()),
        (SITE, ca.fingerprint())
    );
    let certificate = certificate(&stored, &NodeKey::generate().unwrap(), NOW);
    assert!(tls_accepts(
        ca.certificate_der(),
        &certificate.chain_der[0],
        &x509::node_name(SITE, NodeId(3)),
        NOW
    ));
    let other = authority();
    let mixed = SiteCa::from_der(ca.certificate_der(), other.key_pkcs8_der()).unwrap_err();
    assert!(mixed.to_string().contains("belongs to another certificate"));
}

#[test]
fn a_node_takes_only_its_own_certificate_from_the_promised_authority() {
    let ca = authority();
    let key = NodeKey::generate().unwrap();
    let good = certificate(&ca, &key, NOW);
    let chain = good.chain_der.clone();
    let other_key = NodeKey::generate().unwrap();
    let of = |chain, key, pin: &[u8; 32]| NodeCertificate::new(chain, key, pin).unwrap_err();
    assert!(matches!(
        of(chain.clone(), &other_key, &ca.fingerprint()),
        NodeCertificateError::OtherKey
    ));
    assert!(matches!(
        of(chain.clone(), &key, &[0; 32]),
        NodeCertificateError::OtherAuthority
    ));
    assert!(matches!(
        of(chain[..1].to_vec(), &key, &ca.fingerprint()),
        NodeCertificateError::Chain(1)
    ));
    let imposter = authority();
    let swapped = vec![chain[0].clone(), imposter.certificate_der().to_vec()];
    let refused = of(swapped, &key, &imposter.fingerprint());
    assert!(matches!(
        refused,
        NodeCertificateError::Certificate(X509Error::NotIssuedByCa)
    ));
}

#[test]
fn an_expired_node_proves_itself_with_its_old_key() {
    let ca = authority();
    let old = certificate(&ca, &NodeKey::generate().unwrap(), NOW - 100 * DAY);
    assert_eq!(old.standing(NOW), Standing::Expired);
    let csr = NodeKey::generate().unwrap().csr().unwrap();
    let signature = old.sign_renewal(&csr).unwrap();
    let verify = |csr: &[u8], signature: &[u8], ca: &SiteCa| {
        verify_renewal(ca.certificate_der(), &old.chain_der[0], csr, signature)
    };
    assert_eq!(verify(&csr, &signature, &ca).unwrap(), NodeId(3));
    let other_csr = NodeKey::generate().unwrap().csr().unwrap();
    assert!(matches!(
        verify(&other_csr, &signature, &ca),
        Err(NodeCertificateError::Renewal)
    ));
    assert!(matches!(
        verify(&csr, &[], &ca),
        Err(NodeCertificateError::Renewal)
    ));
    assert!(verify(&csr, &signature, &authority()).is_err());
}

#[test]
fn a_server_issues_its_next_certificate_itself_across_expiry_and_clock_jumps() {
    let ca = authority();
    let old = certificate(&ca, &NodeKey::generate().unwrap(), NOW);
    let name = x509::node_name(SITE, NodeId(3));
    let mut last = old.clone();
    // Two months off; then the clock was wrong by a year, ahead and back again.
    for now in [60, 61, 365, 62].map(|days| NOW + days * DAY) {
        let next = last.reissue(&ca, now, &mut rng(9)).unwrap();
        assert!(last.renew_due(now) == (now != NOW + 61 * DAY));
        assert_eq!(next.standing(now), Standing::Valid);
        assert_eq!(next.node(), Ok((SITE, NodeId(3))));
        assert!(next.key_pkcs8_der == old.key_pkcs8_der);
        let leaf = &next.chain_der[0];
        assert!(tls_accepts(ca.certificate_der(), leaf, &name, now));
        assert_eq!(next.validity.not_after_ms, now + NODE_VALIDITY_MS);
        last = next;
    }
    let refused = old.reissue(&authority(), NOW, &mut rng(9)).unwrap_err();
    assert!(matches!(refused, NodeCertificateError::OtherAuthority));
    let mad = old.reissue(&ca, u64::MAX, &mut rng(9)).unwrap_err();
    assert!(matches!(mad, NodeCertificateError::Authority(_)));
}

#[test]
fn requests_of_one_key_are_told_from_those_of_another() {
    let (one, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
    let key_of = |key: &NodeKey| request_key(&key.csr().unwrap()).unwrap();
    assert_eq!(key_of(&one), key_of(&one));
    assert_ne!(key_of(&one), key_of(&other));
    let mut forged = one.csr().unwrap();
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(request_key(&forged), Err(CaError::Request(_))));
}

#[test]
fn certificates_and_keys_survive_their_text() {
    let ca = authority();
    let certificate = certificate(&ca, &NodeKey::generate().unwrap(), NOW);
    let text = x509::certificates_to_pem(&certificate.chain_der);
    assert_eq!(
        x509::certificates_from_pem(&text).unwrap(),
        certificate.chain_der
    );
    assert!(text.lines().all(|line| line.len() <= 64));
    let key = x509::key_to_pem(&certificate.key_pkcs8_der);
    assert_eq!(x509::key_from_pem(&key).unwrap(), certificate.key_pkcs8_der);
    assert_eq!(
        x509::key_from_pem(&text),
        Err(X509Error::NoPem("PRIVATE KEY"))
    );
    assert_eq!(
        x509::certificates_from_pem(&key),
        Err(X509Error::NoPem("CERTIFICATE"))
    );
}

#[test]
fn serial_numbers_differ_and_a_mad_clock_is_refused() {
    let ca = authority();
    let csr = NodeKey::generate().unwrap().csr().unwrap();
    let issue = |now, seed| ca.issue_node(&NodeGrant::new(NodeId(3)), &csr, now, &mut rng(seed));
    assert_ne!(
        issue(NOW, 1).unwrap().chain_der[0][..30],
        issue(NOW, 2).unwrap().chain_der[0][..30]
    );
    assert!(matches!(issue(u64::MAX, 1), Err(CaError::Clock(u64::MAX))));
    assert!(issue(0, 1).is_ok());
}

#[test]
fn what_was_sealed_yesterday_opens_today() {
    let key = SiteKey::from_bytes([7; 32]);
    let sealed = concat!(
        "0123df3dc4000102030405060708090a0b",
        "6be48a02787d3dfdb14fb612fa8c68ab06e0e6704a9f"
    );
    assert_eq!(
        hex::encode(key.seal("access-key/SKA", b"secret", &mut Counting(0))),
        sealed
    );
    assert_eq!(
        key.open("access-key/SKA", &hex::decode(sealed).unwrap())
            .unwrap(),
        b"secret"
    );
}

#[test]
fn the_wrong_key_context_or_version_is_told_apart() {
    let key = SiteKey::from_bytes([7; 32]);
    let other = SiteKey::from_bytes([8; 32]);
    let mut sealed = key.seal("a", b"secret", &mut rng(1));
    assert!(
        matches!(other.open("a", &sealed), Err(SealError::OtherKey { own, .. }) if own == other.id())
    );
    assert_eq!(key.open("b", &sealed), Err(SealError::Refused("b".into())));
    sealed[0] = 9;
    assert_eq!(key.open("a", &sealed), Err(SealError::Newer(9)));
    assert_eq!(key.open("a", &[]), Err(SealError::Refused("a".into())));
    assert_eq!(
        SiteKey::parse(&key.to_text()).unwrap().as_bytes(),
        key.as_bytes()
    );
    assert_eq!(SiteKey::parse("07").unwrap_err(), SealError::KeyText);
    assert!(!format!("{key:?}").contains("0707"));
}

/// Bytes 0, 1, 2, …: for goldens that don't depend on a generator.
struct Counting(u8);

impl rand::TryRng for Counting {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for byte in out {
            *byte = self.0;
            self.0 = self.0.wrapping_add(1);
        }
        Ok(())
    }
}

fn token(seed: u64, addresses: Vec<String>) -> (JoinToken, JoinTokenSpec) {
    let new = NewToken {
        site: SITE,
        ca_fingerprint: [5; 32],
        role: JoinRole::Server,
        expires_ms: NOW,
        addresses,
    };
    JoinToken::create(new, &mut rng(seed)).unwrap()
}

#[test]
fn a_token_of_this_format_stays_readable() {
    let new = NewToken {
        site: SITE,
        ca_fingerprint: [5; 32],
        role: JoinRole::Agent,
        expires_ms: NOW,
        addresses: vec!["192.0.2.1:7400".into()],
    };
    let (token, spec) = JoinToken::create(new, &mut Counting(0)).unwrap();
    let text = concat!(
        "skj1.Aaurq6urq6urq6urq6urq6sFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQEAAQIDBAUG",
        "BwgJCgsMDQ4PEBESExQVFheAoPHCsTQBDjE5Mi4wLjIuMTo3NDAwY2yfdA"
    );
    assert_eq!(token.to_text(), text);
    let read = JoinToken::parse(&format!("  {text}\n")).unwrap();
    assert_eq!(
        (read.site, read.role, read.id),
        (SITE, JoinRole::Agent, spec.id)
    );
    assert_eq!(
        (read.ca_fingerprint, read.addresses),
        ([5; 32], vec!["192.0.2.1:7400".to_owned()])
    );
    assert_eq!(spec.id.to_string(), "0001020304050607");
    assert_eq!(spec.id.to_string().parse(), Ok(spec.id));
    assert_eq!(
        hex::encode(spec.secret_hash),
        "6371037bfc27217d4300d075f2f5bc0a113e70a317e31f8560bffa6e60e29763"
    );
    assert_eq!(spec.verify(&read.secret, NOW - 1), Ok(()));
}

#[test]
fn a_token_is_good_before_its_time_and_with_its_secret_only() {
    let (token, spec) = token(1, vec!["a:1".into()]);
    assert_eq!(spec.verify(&token.secret, NOW - 1), Ok(()));
    assert_eq!(spec.verify(&token.secret, NOW), Err(TokenRefusal::Expired));
    assert!(!token.is_expired(NOW - 1) && token.is_expired(NOW));
    let guess = TokenSecret::from_bytes([0; 16]);
    assert_eq!(spec.verify(&guess, NOW), Err(TokenRefusal::WrongSecret));
    assert!(format!("{token:?}").contains("TokenSecret(…)"));
}

#[test]
fn what_is_not_a_token_is_said_in_words() {
    let words = |text: &str| JoinToken::parse(text).unwrap_err();
    let text = token(1, vec!["a:1".into()]).0.to_text();
    assert_eq!(words(""), TokenError::NotAToken);
    assert_eq!(words("SKABCDEF"), TokenError::NotAToken);
    assert_eq!(words(&text.replace("skj1.", "skj2.")), TokenError::Newer);
    assert_eq!(words("skj1."), TokenError::Typo);
    assert_eq!(words(&text[..text.len() - 1]), TokenError::Typo);
    assert_eq!(words(&text.to_uppercase()), TokenError::NotAToken);
    assert_eq!(
        words(&format!("skj1.{}", "A".repeat(9000))),
        TokenError::NotAToken
    );
    let many = NewToken {
        site: SITE,
        ca_fingerprint: [5; 32],
        role: JoinRole::Server,
        expires_ms: NOW,
        addresses: vec![String::new(); 17],
    };
    assert_eq!(
        JoinToken::create(many, &mut rng(1)).unwrap_err(),
        TokenError::Addresses(17)
    );
}

#[test]
fn access_keys_are_drawn_sealed_and_opened() {
    assert_eq!(
        generate_access_key(&mut Counting(0)),
        "SKABCDEFGHIJKLMNOPQR"
    );
    assert_eq!(
        generate_secret(&mut Counting(30)).reveal(),
        "efghijklmnopqrstuvwxyz0123456789._ABCDEF"
    );
    let site_key = SiteKey::from_bytes([7; 32]);
    let make = |seed| {
        AccessKeySpec::create(
            UserId([1; 16]),
            NOW,
            "laptop".into(),
            &site_key,
            &mut rng(seed),
        )
    };
    let (spec, secret) = make(1);
    assert_eq!((spec.access_key.len(), secret.reveal().len()), (20, 40));
    assert_eq!(spec.open_secret(&site_key).unwrap(), secret);
    assert!(!format!("{spec:?} {secret:?}").contains(secret.reveal()));
    let (mut other, _) = make(2);
    other.sealed_secret = spec.sealed_secret.clone();
    assert!(
        matches!(other.open_secret(&site_key), Err(SealError::Refused(_))),
        "a secret moved to another key"
    );
}

proptest! {
    #[test]
    fn sealed_secrets_open_and_no_changed_byte_goes_unseen(
        key: [u8; 32], context in "[a-z/]{0,20}", plain: Vec<u8>, seed: u64, at: prop::sample::Index, bit in 0..8_u32,
    ) {
        let key = SiteKey::from_bytes(key);
        let mut sealed = key.seal(&context, &plain, &mut rng(seed));
        prop_assert_eq!(key.open(&context, &sealed).unwrap(), plain);
        let at = at.index(sealed.len());
        prop_assert!(key.open(&context, &sealed[..at]).is_err());
        sealed[at] ^= 1 << bit;
        prop_assert!(key.open(&context, &sealed).is_err());
    }

    #[test]
    fn tokens_survive_their_text_and_typos_are_found(
        seed: u64,
        addresses in prop::collection::vec("[a-z0-9.]{1,30}:[0-9]{1,5}", 1..=16),
        at: prop::sample::Index,
        typo in "[A-Za-z0-9_-]",
    ) {
        let (token, spec) = token(seed, addresses.clone());
        let text = token.to_text();
        let read = JoinToken::parse(&text).unwrap();
        prop_assert_eq!(read.to_text(), text.clone());
        prop_assert_eq!(read.addresses, addresses);
        prop_assert_eq!(spec.verify(&read.secret, 0), Ok(()));
        let at = 5 + at.index(text.len() - 5);
        let wrong = format!("{}{typo}{}", &text[..at], &text[at + 1..]);
        if wrong != text {
            prop_assert_eq!(JoinToken::parse(&wrong).unwrap_err(), TokenError::Typo);
        }
    }

    #[test]
    fn garbage_is_refused_without_harm(bytes: Vec<u8>, text in "\\PC*") {
        let _ = JoinToken::parse(&text);
        let _ = JoinToken::parse(&format!("skj1.{text}"));
        prop_assert!(x509::validity(&bytes).is_err());
        prop_assert!(SiteKey::from_bytes([1; 32]).open("x", &bytes).is_err());
    }
}
