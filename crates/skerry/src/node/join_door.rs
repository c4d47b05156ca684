//! The join door: lets machines in that have a token, and renews the certificates of members.
//!
//! A token lets one machine in. What uses it up also notes which machine that was, so that a machine whose answer was lost
//! asks again and is told the same.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use identity::token::TokenSecret;
use identity::{NodeGrant, SiteCa, SiteKey};
use ids::{NodeId, SiteId};
use platform::Platform;
use raft_machine::{decode, encode};
use registry::{Freshness, New, Registry, Want};
use serde::{Deserialize, Serialize};
use transport::Refusal;
use transport::tls::{Admission, JoinHandler};

use super::found::open_authority;
use super::kinds::{Authority, Joining, JoiningSpec, NODES_POOL, SITE, Token};
use super::topology::Topology;

/// Version of requests and answers.
pub const FORMAT: u8 = 1;
/// The longest list of servers that a newcomer is told: with a certificate it fits into an answer of the transport.
const KNOWN_BYTES_MAX: usize = 3 << 20;

/// What a machine asks at the join door.
#[derive(Serialize, Deserialize)]
pub enum Request {
    /// To be let in.
    Join {
        /// The token's name.
        token: identity::token::TokenId,
        /// The token's secret.
        secret: [u8; 16],
        /// The signing request.
        csr: Vec<u8>,
    },
    /// For a new certificate.
    Renew {
        /// The old one.
        old: Vec<u8>,
        /// The signing request.
        csr: Vec<u8>,
        /// Of the request, by the key of the old certificate.
        signature: Vec<u8>,
    },
}

/// What it is told.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// It is in.
    Joined {
        /// Its number.
        node: NodeId,
        /// The site.
        site: SiteId,
        /// Its certificate, then the authority's.
        chain: Vec<Vec<u8>>,
        /// The site's key, as text.
        site_key: String,
        /// Servers and the newest map, in JSON.
        known: String,
    },
    /// Here is its new certificate.
    Renewed {
        /// The certificate, then the authority's.
        chain: Vec<Vec<u8>>,
    },
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
    /// The authority never changes: what this node's own replica says is right, and needs no majority.
    async fn authority(&self) -> Result<SiteCa> {
        let mut found = self
            .registry
            .get::<Authority>(SITE, Freshness::Local)
            .await?;
        if found.is_none() {
            found = self
                .registry
                .get::<Authority>(SITE, Freshness::Linearizable)
                .await?;
        }
        let found = found.context("the site has no authority yet: try again in a moment")?;
        open_authority(&found.spec, &self.site_key)
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
        let key = identity::ca::request_key(csr)?;
        let authority = self.authority().await?;
        // Before the token is used up: an answer that can't be sent would help nobody.
        let known = self.known()?;
        let secret = TokenSecret::from_bytes(secret);
        let node = self.admit(&token.to_string(), &secret, key).await?;
        if !self.topology.admits(node) {
            bail!("node {node} was expelled from this site");
        }
        let now = self.platform.wall_ms().0;
        let issued =
            authority.issue_node(&NodeGrant::new(node), csr, now, &mut self.platform.rng())?;
        tracing::info!(%node, "a machine joined");
        Ok(Answer::Joined {
            node,
            site: self.site,
            chain: issued.chain_der,
            site_key: self.site_key.to_text(),
            known,
        })
    }

    fn known(&self) -> Result<String> {
        let known = serde_json::to_string(&self.topology.for_newcomers())?;
        if known.len() > KNOWN_BYTES_MAX {
            bail!(
                "the list of this site's servers is too long for a newcomer: {} bytes of at most {KNOWN_BYTES_MAX}",
                known.len()
            );
        }
        Ok(known)
    }

    /// The number of the machine with this key. One transaction uses the token up, gives a number and notes whose it is: a
    /// machine that missed the answer gets it again, another one does not.
    async fn admit(&self, token: &str, secret: &TokenSecret, key: [u8; 32]) -> Result<NodeId> {
        let found = self
            .registry
            .get::<Token>(token, Freshness::Linearizable)
            .await?;
        if let Some(found) = found {
            found.spec.verify(secret, self.platform.wall_ms().0)?;
            let spec = JoiningSpec {
                token: found.spec.clone(),
                key,
            };
            let joining =
                New::<Joining>::named(token, spec).allocate(NODES_POOL, Want::Any { count: 1 });
            let taken = self
                .registry
                .transaction()
                .delete::<Token>(token, registry::draft::exactly(&found))
                .create(&joining)
                .commit()
                .await;
            match taken {
                Ok(_) => {}
                // Somebody was quicker: maybe this very machine, through another server.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.admitted(token, secret, key).await
    }

    async fn admitted(&self, token: &str, secret: &TokenSecret, key: [u8; 32]) -> Result<NodeId> {
        let found = self
            .registry
            .get::<Joining>(token, Freshness::Linearizable)
            .await?;
        let found = found.context("this join token is not known: make a new one")?;
        found.spec.token.verify(secret, self.platform.wall_ms().0)?;
        if found.spec.key != key {
            bail!("this join token was used by another machine: make a new one");
        }
        let node = found.metadata.allocated(NODES_POOL).next();
        let node = node.context("the machine was let in without a number")?;
        Ok(NodeId(u64::try_from(node)?))
    }

    async fn renew(&self, old: &[u8], csr: &[u8], signature: &[u8]) -> Result<Answer> {
        let authority = self.authority().await?;
        let node =
            identity::node::verify_renewal(authority.certificate_der(), old, csr, signature)?;
        if !self.topology.admits(node) {
            bail!("node {node} was expelled from this site");
        }
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use identity::token::NewToken;
    use identity::{JoinRole, JoinToken, NodeCertificate, NodeKey};
    use membership::kinds::ServerSpec;
    use registry::Layout;

    use super::*;
    use crate::node::found::kept_authority;
    use crate::node::test_site::{DAY_MS, Founded, founded, registry};
    use crate::node::topology::Known;

    /// A site's join door on a registry in memory.
    async fn door(founded: &Founded) -> JoinDoor {
        let registry = registry(founded.clock.clone());
        let kept = kept_authority(&founded.folder).unwrap().unwrap();
        registry.create::<Authority>(SITE, kept).await.unwrap();
        let pool = registry.create_pool(NODES_POOL, Layout::Sparse, 2..=9);
        pool.await.unwrap();
        JoinDoor {
            site: founded.own.marker.site,
            platform: founded.clock.clone(),
            registry,
            site_key: founded.own.site_key.clone(),
            topology: Arc::new(Topology::new(NodeId(1), Known::default())),
        }
    }

    async fn token(door: &JoinDoor) -> JoinToken {
        let new = NewToken {
            site: door.site,
            ca_fingerprint: [0; 32],
            role: JoinRole::Server,
            expires_ms: door.platform.wall_ms().0 + 1000,
            addresses: vec!["127.0.0.1:1".into()],
        };
        let (token, record) = JoinToken::create(new, &mut door.platform.rng()).unwrap();
        let name = record.id.to_string();
        door.registry.create::<Token>(&name, record).await.unwrap();
        token
    }

    async fn ask(door: &JoinDoor, token: &JoinToken, key: &NodeKey) -> Result<NodeId, String> {
        let request = Request::Join {
            token: token.id,
            secret: *token.secret.as_bytes(),
            csr: key.csr().unwrap(),
        };
        match door.answer(request).await {
            Ok(Answer::Joined { node, chain, .. }) => {
                let pin = identity::x509::fingerprint(&chain[1]);
                let certificate = NodeCertificate::new(chain, key, &pin).unwrap();
                assert_eq!(certificate.node(), Ok((door.site, node)));
                Ok(node)
            }
            Ok(_) => Err("an answer to another question".into()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[tokio::test]
    async fn a_token_lets_one_machine_in_as_often_as_it_asks() {
        let founded = founded(0);
        let door = door(&founded).await;
        let (first, second) = (token(&door).await, token(&door).await);
        let (one, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        assert_eq!(ask(&door, &first, &one).await, Ok(NodeId(2)));
        // The answer was lost: the same key gets the same number.
        assert_eq!(ask(&door, &first, &one).await, Ok(NodeId(2)));
        let refused = ask(&door, &first, &other).await.unwrap_err();
        assert!(refused.contains("another machine"), "{refused}");
        assert_eq!(ask(&door, &second, &other).await, Ok(NodeId(3)));
        let mut guess = first.clone();
        guess.secret = TokenSecret::from_bytes([0; 16]);
        let refused = ask(&door, &guess, &one).await.unwrap_err();
        assert!(refused.contains("secret is wrong"), "{refused}");
        let pool = door
            .registry
            .pool(NODES_POOL, Freshness::Linearizable)
            .await
            .unwrap();
        assert_eq!(pool.unwrap().used, 2, "no number was given in vain");
    }

    #[tokio::test]
    async fn of_two_machines_with_one_token_at_one_time_one_gets_in() {
        let founded = founded(0);
        let door = door(&founded).await;
        let token = token(&door).await;
        let (one, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let (a, b) = tokio::join!(ask(&door, &token, &one), ask(&door, &token, &other));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    }

    #[tokio::test]
    async fn neither_late_nor_senseless_requests_use_a_token_up() {
        let founded = founded(0);
        let door = door(&founded).await;
        let token = token(&door).await;
        let senseless = Request::Join {
            token: token.id,
            secret: *token.secret.as_bytes(),
            csr: b"no request".to_vec(),
        };
        assert!(door.answer(senseless).await.is_err());
        let key = NodeKey::generate().unwrap();
        assert_eq!(ask(&door, &token, &key).await, Ok(NodeId(2)));
        founded.clock.set(founded.clock.right_ms() + DAY_MS);
        let late = ask(&door, &token, &key).await.unwrap_err();
        assert!(late.contains("expired"), "{late}");
    }

    fn server(address: String) -> ServerSpec {
        ServerSpec {
            address,
            s3_address: String::new(),
            http_address: String::new(),
            weight: 100,
            joined_ms: 0,
            capacity_bytes: 0,
        }
    }

    #[tokio::test]
    async fn an_answer_that_would_be_too_long_uses_no_token_up() {
        let founded = founded(0);
        let door = door(&founded).await;
        let (token, key) = (token(&door).await, NodeKey::generate().unwrap());
        let servers = |len| BTreeMap::from([(NodeId(1), server("x".repeat(len)))]);
        door.topology.update(servers(KNOWN_BYTES_MAX), Vec::new());
        let refused = ask(&door, &token, &key).await.unwrap_err();
        assert!(refused.contains("too long"), "{refused}");
        let left = door
            .registry
            .get::<Token>(&token.id.to_string(), Freshness::Linearizable)
            .await;
        assert!(left.unwrap().is_some());
        door.topology.update(servers(9), Vec::new());
        assert_eq!(ask(&door, &token, &key).await, Ok(NodeId(2)));
    }

    #[tokio::test]
    async fn an_expelled_node_gets_no_certificate() {
        let founded = founded(0);
        let door = door(&founded).await;
        let old = founded.other(NodeId(2));
        door.topology.note(NodeId(2), server(String::new()));
        let csr = NodeKey::generate().unwrap().csr().unwrap();
        let request = || Request::Renew {
            old: old.chain_der[0].clone(),
            csr: csr.clone(),
            signature: old.sign_renewal(&csr).unwrap(),
        };
        assert!(door.answer(request()).await.is_ok());
        door.topology.expel(BTreeSet::from([NodeId(2)]));
        let refused = door.answer(request()).await.err().unwrap();
        assert!(refused.to_string().contains("expelled"), "{refused}");
    }
}
