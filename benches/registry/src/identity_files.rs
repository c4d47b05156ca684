//! The site's certificates, made as a site makes them, handed to the nodes' processes in files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use identity::{NodeGrant, NodeKey, SiteCa};
use ids::{NodeId, SiteId};
use platform::Platform;
use serde::{Deserialize, Serialize};
use transport::tls::TlsIdentity;

const FILE: &str = "identity.json";

/// Who a member is, and by whose word.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The site.
    pub site: SiteId,
    /// The member.
    pub node: NodeId,
    chain_der: Vec<Vec<u8>>,
    key_pkcs8_der: Vec<u8>,
    ca_der: Vec<u8>,
}

impl Identity {
    /// New identities in a new site, one for each of `nodes`.
    pub fn make(nodes: &[NodeId], platform: &(dyn Platform + 'static)) -> Result<Vec<Identity>> {
        let mut rng = platform.rng();
        let now_ms = platform.wall_ms().0;
        let site = SiteId::random(&mut rng);
        let authority = SiteCa::create(site, now_ms, &mut rng)?;
        let mut identities = Vec::new();
        for &node in nodes {
            let key = NodeKey::generate()?;
            let grant = NodeGrant::new(node);
            let issued = authority.issue_node(&grant, &key.csr()?, now_ms, &mut rng)?;
            identities.push(Identity {
                site,
                node,
                chain_der: issued.chain_der,
                key_pkcs8_der: key.pkcs8_der().to_vec(),
                ca_der: authority.certificate_der().to_vec(),
            });
        }
        Ok(identities)
    }

    /// Writes it into a folder, which is made, for this user's eyes only.
    pub fn save(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(folder.join(FILE))?;
        Ok(file.write_all(&serde_json::to_vec(self)?)?)
    }

    /// Reads what [`Identity::save`] wrote.
    pub fn load(folder: &Path) -> Result<Identity> {
        let bytes = fs::read(folder.join(FILE)).context("a node without an identity")?;
        Ok(serde_json::from_slice(&bytes)?)
    }

    /// As the transport wants it.
    pub fn tls(&self) -> TlsIdentity {
        TlsIdentity {
            chain_der: self.chain_der.clone(),
            key_pkcs8_der: self.key_pkcs8_der.clone(),
            ca_der: self.ca_der.clone(),
        }
    }
}
