//! Renews the node's certificate when two thirds of its life are over, and whenever the clock says that it isn't valid.
//!
//! A server has the site's key, and the authority in its own replica of the registry: it issues its next certificate
//! itself, so that neither a lone node nor a site that was off for months needs anybody. Only when that fails are the
//! others asked. The authority, sealed as it is, is also kept in the folder, for the start
//! ([`found::NodeSelf::renew_if_due`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use identity::{NodeCertificate, SiteKey};
use platform::Platform;
use registry::{Freshness, Registry};
use tokio::task::JoinHandle;
use transport::tls::{Admission, TlsTransport};

use super::folder::Folder;
use super::found;
use super::kinds::{Authority, AuthoritySpec, SITE};
use super::topology::Topology;

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The pause after a first failure; doubles up to [`LOOK_EVERY`]. Servers that have just started refuse for a moment:
/// they don't know yet who is a member.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// What a renewal stands on.
pub struct Renewal {
    /// Where certificate and authority are kept.
    pub folder: Arc<Folder>,
    /// The machine.
    pub platform: Arc<dyn Platform>,
    /// Where the authority is.
    pub registry: Arc<Registry>,
    /// Opens the authority's key.
    pub site_key: Arc<SiteKey>,
    /// Whom to ask otherwise.
    pub topology: Arc<Topology>,
}

impl Renewal {
    /// The authority as this node's replica has it, else as the folder does.
    async fn authority(&self) -> Result<AuthoritySpec> {
        match self.registry.get::<Authority>(SITE, Freshness::Local).await {
            Ok(Some(found)) => {
                found::keep_authority(&self.folder, &found.spec)?;
                Ok(found.spec)
            }
            Ok(None) => found::kept_authority(&self.folder)?
                .context("this node does not know the site's authority yet"),
            Err(error) => found::kept_authority(&self.folder)?.ok_or_else(|| error.into()),
        }
    }

    /// A new certificate, kept in the folder.
    async fn renewed(&self, old: &NodeCertificate) -> Result<NodeCertificate> {
        if !self.topology.admits(self.topology.me()) {
            bail!("this node was expelled from the site");
        }
        let authority = self.authority().await;
        let reissued = authority.and_then(|authority| {
            found::reissue(
                &self.folder,
                &*self.platform,
                &self.site_key,
                &authority,
                old,
            )
        });
        match reissued {
            Ok(renewed) => Ok(renewed),
            Err(own) => {
                let servers: BTreeMap<_, _> = self
                    .topology
                    .servers()
                    .into_iter()
                    .filter(|(node, _)| *node != self.topology.me())
                    .map(|(node, spec)| (node, spec.address))
                    .collect();
                found::renew(&self.folder, old, &servers)
                    .await
                    .with_context(|| format!("this node can't renew it itself ({own:#})"))
            }
        }
    }
}

/// Looks every minute (sooner after a failure), until aborted: clocks jump, so nothing is planned ahead. Says when a new
/// certificate expires.
pub fn renew_when_due(
    renewal: Renewal,
    transport: Arc<TlsTransport>,
    mut certificate: NodeCertificate,
    expires_ms: Arc<AtomicU64>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut failures = 0;
        loop {
            if let Err(error) = renewal.authority().await {
                tracing::debug!(
                    error = format!("{error:#}"),
                    "the authority is not kept here yet"
                );
            }
            if certificate.renew_due(renewal.platform.wall_ms().0) {
                match renewal.renewed(&certificate).await {
                    Ok(renewed) => match transport.renew(&found::tls_of(&renewed)) {
                        Ok(()) => {
                            tracing::info!("the node's certificate was renewed");
                            failures = 0;
                            certificate = renewed;
                            expires_ms.store(certificate.validity.not_after_ms, Ordering::Relaxed);
                        }
                        Err(error) => {
                            tracing::error!(%error, "the renewed certificate can't be used")
                        }
                    },
                    Err(error) => {
                        failures += 1;
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the certificate was not renewed yet"
                        );
                    }
                }
            }
            tokio::time::sleep(pause(failures)).await;
        }
    })
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => LOOK_EVERY,
        _ => (RETRY_FIRST * 2_u32.pow((failures - 1).min(6))).min(LOOK_EVERY),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use identity::x509::Standing;
    use ids::NodeId;

    use super::*;
    use crate::node::found::{NodeSelf, found};
    use crate::node::settings::random_listen;
    use crate::node::test_site::{DAY_MS, SetClock, registry};
    use crate::node::topology::Known;

    /// A founder's parts; the folder has no copy of the authority, only the registry has.
    async fn lone_node(path: &std::path::Path) -> (Renewal, Arc<SetClock>, NodeCertificate) {
        let clock = SetClock::new(path);
        let folder = Arc::new(Folder::lock(&path.join("node")).unwrap());
        found(&folder, &*clock, random_listen(), "site".into(), 1).unwrap();
        let own = NodeSelf::load(&folder).unwrap().unwrap();
        let registry = registry(clock.clone());
        let spec = found::kept_authority(&folder).unwrap().unwrap();
        registry.create::<Authority>(SITE, spec).await.unwrap();
        folder.remove_secret(found::AUTHORITY).unwrap();
        let renewal = Renewal {
            folder,
            platform: clock.clone(),
            registry,
            site_key: own.site_key.clone(),
            topology: Arc::new(Topology::new(own.marker.node, Known::default())),
        };
        (renewal, clock, own.certificate)
    }

    #[tokio::test]
    async fn a_node_that_has_nobody_to_ask_renews_from_its_own_replica() {
        let path = tempfile::tempdir().unwrap();
        let (renewal, clock, old) = lone_node(path.path()).await;
        let now = clock.right_ms() + 60 * DAY_MS;
        clock.set(now);
        assert_eq!(old.standing(now), Standing::Expired);
        let renewed = renewal.renewed(&old).await.unwrap();
        assert_eq!(renewed.standing(now), Standing::Valid);
        assert_eq!(renewed.node(), old.node());
        let kept = NodeSelf::load(&renewal.folder).unwrap().unwrap();
        assert!(kept.certificate == renewed);
        assert!(found::kept_authority(&renewal.folder).unwrap().is_some());

        // The clock was wrong, and is set right.
        clock.set(clock.right_ms());
        assert_eq!(renewed.standing(clock.right_ms()), Standing::NotYetValid);
        let again = renewal.renewed(&renewed).await.unwrap();
        assert_eq!(again.standing(clock.right_ms()), Standing::Valid);
    }

    #[test]
    fn a_first_failure_is_tried_again_soon_and_lasting_ones_every_minute() {
        let pauses = [0, 1, 2, 6, 7, u32::MAX].map(|failures| pause(failures).as_secs());
        assert_eq!(pauses, [60, 1, 2, 32, 60, 60]);
    }

    #[tokio::test]
    async fn a_node_that_was_expelled_does_not_renew() {
        let path = tempfile::tempdir().unwrap();
        let (renewal, _, old) = lone_node(path.path()).await;
        renewal.topology.expel(BTreeSet::from([NodeId(1)]));
        let refused = renewal.renewed(&old).await.unwrap_err();
        assert!(refused.to_string().contains("expelled"), "{refused}");
    }
}
