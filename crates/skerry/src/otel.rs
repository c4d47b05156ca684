//! Traces to an OpenTelemetry collector (OTLP over HTTP), when `otel.endpoint` names one. Without it nothing is sent
//! anywhere, and nothing here runs.
//!
//! The spans of requests, which also give log lines their ids, become traces. A finished one goes into a bounded queue
//! ([`queue`]); one task takes batches from there and sends them ([`collector`]). A request never waits for a collector:
//! what finds no place, and what a collector did not take, is dropped and counted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanExporter};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use url::Url;

use crate::logs::LogLayer;

mod collector;
mod queue;

use collector::Collector;
pub use queue::sent;

/// What a collector expects below its address.
const TRACES: &str = "/v1/traces";
/// How long the last spans may take at the end of the process.
const FINISH_LIMIT: Duration = Duration::from_secs(5);
/// The largest file with headers.
const HEADERS_BYTES_MAX: u64 = 64 << 10;

/// What is configured.
#[derive(Debug, Clone, PartialEq)]
pub struct OtelConfig {
    /// The collector; `None`: nothing is sent.
    pub endpoint: Option<Url>,
    /// Where headers for it are.
    pub headers_file: Option<PathBuf>,
    /// The share of requests whose traces are sent.
    pub sample_ratio: f64,
}

impl Default for OtelConfig {
    fn default() -> Self {
        OtelConfig {
            endpoint: None,
            headers_file: None,
            sample_ratio: 1.0,
        }
    }
}

/// Traces on their way to a collector.
pub struct Traces {
    tracer: SdkTracer,
    stop: CancellationToken,
    sending: AbortOnDropHandle<()>,
}

impl OtelConfig {
    /// Begins to send, if a collector is named. Whether it answers is not asked.
    pub fn start(&self) -> Result<Option<Traces>> {
        let Some(endpoint) = &self.endpoint else {
            return Ok(None);
        };
        let headers = match &self.headers_file {
            Some(file) => read_headers(file)?,
            None => HeaderMap::new(),
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(endpoint, headers)?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(traces_at(endpoint))
            .build()
            .context("traces can't be sent")?;
        Ok(Some(Traces::to(exporter, self.sample_ratio)))
    }
}

impl Traces {
    /// Sends by an exporter.
    fn to(mut exporter: impl SpanExporter + 'static, sample_ratio: f64) -> Self {
        let resource = Resource::builder_empty()
            .with_service_name("skerry")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        exporter.set_resource(&resource);
        let (queue, spans) = queue::queue();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Sampler::TraceIdRatioBased(sample_ratio))
            .with_resource(resource)
            .build();
        let stop = CancellationToken::new();
        let sending = tokio::spawn(queue::send(exporter, spans, stop.clone()));
        Traces {
            tracer: provider.tracer("skerry"),
            stop,
            sending: AbortOnDropHandle::new(sending),
        }
    }

    /// Takes part in logging: it turns the spans of requests, and warnings inside of them, into traces.
    pub fn layer(&self) -> LogLayer {
        let requests = Targets::new()
            .with_target("object_s3", LevelFilter::WARN)
            .with_target("object_store", LevelFilter::WARN)
            .with_target("skerry", LevelFilter::WARN);
        tracing_opentelemetry::layer()
            .with_tracer(self.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(requests)
            .boxed()
    }

    /// Sends what is left, within a short time.
    pub async fn finish(self) {
        self.stop.cancel();
        let _ = timeout(FINISH_LIMIT, self.sending).await;
    }
}

fn traces_at(endpoint: &Url) -> String {
    let base = endpoint.as_str().trim_end_matches('/');
    match base.ends_with(TRACES) {
        true => base.to_owned(),
        false => format!("{base}{TRACES}"),
    }
}

/// Errors name lines by their numbers only: values are secret.
fn read_headers(file: &Path) -> Result<HeaderMap> {
    let shown = file.display();
    let len = std::fs::metadata(file).with_context(|| format!("can't read {shown}"))?;
    if len.len() > HEADERS_BYTES_MAX {
        bail!("{shown} is too large for a file with headers");
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("can't read {shown}"))?;
    let mut headers = HeaderMap::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = header(line) else {
            bail!("{shown}: line {} is no header: write `name: value`", at + 1);
        };
        headers.append(name, value);
    }
    Ok(headers)
}

fn header(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::try_from(name.trim()).ok()?, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_go_below_the_collectors_address() {
        let at = |text: &str| traces_at(&text.parse().unwrap());
        assert_eq!(at("http://c.lan:4318"), "http://c.lan:4318/v1/traces");
        assert_eq!(at("https://c.lan/otlp/"), "https://c.lan/otlp/v1/traces");
        assert_eq!(at("http://c.lan/v1/traces"), "http://c.lan/v1/traces");
    }

    #[test]
    fn headers_are_read_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("headers");
        std::fs::write(&file, "# for the collector\n\nX-Key: s3cret : x\n").unwrap();
        let headers = read_headers(&file).unwrap();
        assert_eq!(headers["x-key"], "s3cret : x");
        assert!(!format!("{headers:?}").contains("s3cret"));
        for bad in ["s3cret", "a b: s3cret", "a: s3cret\u{7}"] {
            std::fs::write(&file, format!("ok: 1\n{bad}\n")).unwrap();
            let error = format!("{:#}", read_headers(&file).unwrap_err());
            assert!(
                error.contains("line 2") && !error.contains("s3cret"),
                "{error}"
            );
        }
        assert!(read_headers(&folder.path().join("none")).is_err());
    }

    #[tokio::test]
    async fn nothing_starts_without_a_collector() {
        assert!(OtelConfig::default().start().unwrap().is_none());
    }
}
