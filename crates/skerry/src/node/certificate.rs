//! Renews the node's certificate when two thirds of its life are over, and whenever the clock says that it isn't valid.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use identity::NodeCertificate;
use platform::Platform;
use tokio::task::JoinHandle;
use transport::tls::TlsTransport;

use super::folder::Folder;
use super::found;
use super::topology::Topology;

const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks every minute, until aborted: clocks jump, so nothing is planned ahead.
pub fn renew_when_due(
    folder: Arc<Folder>,
    platform: Arc<dyn Platform>,
    transport: Arc<TlsTransport>,
    topology: Arc<Topology>,
    mut certificate: NodeCertificate,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            if certificate.renew_due(platform.wall_ms().0) {
                let servers: BTreeMap<_, _> = topology
                    .servers()
                    .into_iter()
                    .map(|(node, spec)| (node, spec.address))
                    .collect();
                match found::renew(&folder, &certificate, &servers).await {
                    Ok(renewed) => match transport.renew(&found::tls_of(&renewed)) {
                        Ok(()) => {
                            tracing::info!("the node's certificate was renewed");
                            certificate = renewed;
                        }
                        Err(error) => {
                            tracing::error!(%error, "the renewed certificate can't be used")
                        }
                    },
                    Err(error) => {
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "the certificate was not renewed yet"
                        );
                    }
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}
