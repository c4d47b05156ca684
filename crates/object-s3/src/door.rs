//! The door, put together.

use std::sync::Arc;

use futures::future::BoxFuture;
use object_core::api::Objects;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::service::S3ServiceBuilder;
use s3s::validation::NameValidation;
use tokio::net::TcpListener;

use crate::access::{Access, Keys, SharedAccess};
use crate::gate::Gate;
use crate::host::VirtualHosts;
use crate::options::{DoorOptions, KeyDirectory, TlsSource};
use crate::serve;
use crate::service::Service;
use crate::tidy::Tidy;

/// The S3 door. Cheap to clone; all clones share their bounds.
#[derive(Clone)]
pub struct S3Door {
    gate: Arc<Gate>,
    options: Arc<DoorOptions>,
}

impl S3Door {
    /// A door to `objects` for those who hold one of `keys`.
    pub fn new(
        objects: Arc<dyn Objects>,
        keys: Arc<dyn KeyDirectory>,
        options: DoorOptions,
    ) -> S3Door {
        let access = Arc::new(Access {
            keys: Keys(keys.clone()),
            objects: objects.clone(),
            region: options.region.clone(),
        });
        let service = Service {
            objects,
            region: options.region.clone(),
        };
        let build = |route: Option<Tidy>| {
            let mut builder = S3ServiceBuilder::new(service.clone());
            builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config(
                &options,
            )))));
            builder.set_host(VirtualHosts::new(&options.base_domains));
            builder.set_validation(AnyName);
            builder.set_auth(Keys(keys.clone()));
            builder.set_access(SharedAccess(access.clone()));
            if let Some(route) = route {
                builder.set_route(route);
            }
            builder.build()
        };
        let inner = build(None);
        let tidy = Tidy {
            access: access.clone(),
            inner,
            hosts: VirtualHosts::new(&options.base_domains),
            xml_bytes_max: options.xml_bytes_max,
        };
        let outer = build(Some(tidy));
        let options = Arc::new(options);
        S3Door {
            gate: Arc::new(Gate::new(outer, options.clone())),
            options,
        }
    }

    /// Serves connections of `listener` until `shutdown` is ready, then lets requests in progress end within
    /// [`DoorOptions::drain_timeout`] and returns when no connection is left.
    ///
    /// `tls` is asked for every connection, so certificates can be replaced; a configuration must not offer `h2`.
    pub fn serve(
        &self,
        listener: TcpListener,
        tls: TlsSource,
        shutdown: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, ()> {
        let (gate, options) = (self.gate.clone(), self.options.clone());
        serve::run(gate, options, listener, tls, shutdown)
    }
}

fn config(options: &DoorOptions) -> S3Config {
    let mut config = S3Config::default();
    config.xml_max_body_size = options.xml_bytes_max;
    config.presigned_url_max_skew_time_secs =
        u32::try_from(options.clock_skew.as_secs()).unwrap_or(u32::MAX);
    config
}

/// Names are judged by the store.
struct AnyName;

impl NameValidation for AnyName {
    fn validate_bucket_name(&self, name: &str) -> bool {
        !name.is_empty()
    }
}
