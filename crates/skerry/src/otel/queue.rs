//! Finished spans on their way out: a bounded queue, and the task that empties it.
//!
//! Invariant: who finishes a span never waits. A span without a place, and a batch that is not taken, are gone and counted.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::logs;

/// The most spans that wait.
const WAITING_MAX: usize = 4096;
/// The most spans of one message to the collector.
const BATCH_MAX: usize = 512;
/// How long a span waits for others, to be sent with them.
const GATHER: Duration = Duration::from_secs(1);

static COUNTS: Counts = Counts {
    sent: AtomicU64::new(0),
    dropped: AtomicU64::new(0),
};

struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

/// What became of spans since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// A collector took them.
    pub sent: u64,
    /// There was no place for them, or no collector took them.
    pub dropped: u64,
}

/// What became of this process's spans.
pub fn sent() -> Sent {
    Sent {
        sent: COUNTS.sent.load(Ordering::Relaxed),
        dropped: COUNTS.dropped.load(Ordering::Relaxed),
    }
}

fn drop_spans(count: usize) {
    COUNTS.dropped.fetch_add(count as u64, Ordering::Relaxed);
}

/// The end of the queue where spans come in.
#[derive(Debug)]
pub struct Queue(mpsc::Sender<SpanData>);

/// A queue, and the end where [`send`] takes spans out.
pub fn queue() -> (Queue, mpsc::Receiver<SpanData>) {
    let (sender, spans) = mpsc::channel(WAITING_MAX);
    (Queue(sender), spans)
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.0.try_send(finished(span)).is_err() {
            drop_spans(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Says in OpenTelemetry's words what the span's fields say.
fn finished(mut span: SpanData) -> SpanData {
    span.span_kind = SpanKind::Server;
    if let Some(operation) = field(&span, "operation") {
        span.name = format!("{} {operation}", span.name).into();
    }
    let status = field(&span, "status").and_then(|status| status.parse::<u16>().ok());
    if status.is_some_and(|status| status >= 500) {
        span.status = Status::error("");
    }
    if let Some(node) = logs::node() {
        let node = i64::try_from(node.0).unwrap_or(i64::MAX);
        span.attributes.push(KeyValue::new("node", node));
    }
    span
}

fn field(span: &SpanData, name: &str) -> Option<String> {
    let mut attributes = span.attributes.iter();
    let found = attributes.find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.as_str().into_owned())
}

/// Sends batches until `stop`, then what is left. The exporter bounds how long each takes.
pub async fn send(
    exporter: impl SpanExporter,
    mut spans: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
) {
    let mut batch = Vec::new();
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled(), if !spans.is_closed() => spans.close(),
            count = spans.recv_many(&mut batch, BATCH_MAX) => {
                if count == 0 {
                    return;
                }
                gather(&mut batch, &mut spans, &stop).await;
                failing = !export(&exporter, mem::take(&mut batch), failing).await;
            }
        }
    }
}

/// Waits a little for spans to go with those in the batch.
async fn gather(
    batch: &mut Vec<SpanData>,
    spans: &mut mpsc::Receiver<SpanData>,
    stop: &CancellationToken,
) {
    let fill = async {
        while batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            if spans.recv_many(batch, room).await == 0 {
                return;
            }
        }
    };
    tokio::select! {
        () = fill => {}
        () = sleep(GATHER) => {}
        () = stop.cancelled() => {}
    }
}

/// Whether the collector took the batch. A change for the better or worse is logged, once.
async fn export(exporter: &impl SpanExporter, batch: Vec<SpanData>, failing: bool) -> bool {
    let count = batch.len();
    match exporter.export(batch).await {
        Ok(()) => {
            COUNTS.sent.fetch_add(count as u64, Ordering::Relaxed);
            if failing {
                tracing::info!("the collector takes traces again");
            }
            true
        }
        Err(error) => {
            drop_spans(count);
            if !failing {
                tracing::warn!(%error, "the collector does not take traces: they are dropped");
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{Span as _, Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::sync::Semaphore;

    use super::*;

    /// A collector that takes a batch for each permit, and fails when the semaphore is closed.
    #[derive(Debug, Clone)]
    struct Slow {
        permits: Arc<Semaphore>,
        took: Arc<Mutex<Vec<String>>>,
    }

    impl Slow {
        fn new() -> Self {
            Slow {
                permits: Arc::new(Semaphore::new(0)),
                took: Arc::default(),
            }
        }
    }

    impl SpanExporter for Slow {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            let permit = self.permits.acquire().await;
            permit
                .map_err(|_| OTelSdkError::InternalFailure("it is gone".into()))?
                .forget();
            let names = batch.iter().map(|span| span.name.to_string());
            self.took.lock().unwrap().extend(names);
            Ok(())
        }
    }

    fn finish_spans(provider: &SdkTracerProvider, count: usize) {
        let tracer = provider.tracer("test");
        for _ in 0..count {
            let mut span = tracer.start("s3");
            span.set_attribute(KeyValue::new("operation", "GetObject"));
            span.set_attribute(KeyValue::new("status", 503_i64));
            span.end();
        }
    }

    // One test, as the counts are the process's.
    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_slow_or_gone_makes_nobody_wait() {
        let (queue, spans) = queue();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .build();
        let (slow, stop) = (Slow::new(), CancellationToken::new());
        let before = sent();
        let more = |now: Sent| (now.sent - before.sent, now.dropped - before.dropped);

        // Nobody takes spans out: those beyond the bound are dropped, and the call returns.
        finish_spans(&provider, WAITING_MAX + 5);
        assert_eq!(more(sent()), (0, 5));

        slow.permits.add_permits(WAITING_MAX);
        let sending = tokio::spawn(send(slow.clone(), spans, stop.clone()));
        while more(sent()).0 < WAITING_MAX as u64 {
            sleep(GATHER).await;
        }
        assert_eq!(slow.took.lock().unwrap().len(), WAITING_MAX);

        // The collector is gone: what it does not take is dropped, and the rest goes on.
        slow.permits.close();
        finish_spans(&provider, 3);
        while more(sent()).1 < 8 {
            sleep(GATHER).await;
        }

        // At the end, what is left is tried.
        finish_spans(&provider, 2);
        stop.cancel();
        sending.await.unwrap();
        assert_eq!(more(sent()), (WAITING_MAX as u64, 10));
    }

    #[test]
    fn a_finished_span_says_what_its_fields_say() {
        let (queue, mut spans) = queue();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .build();
        finish_spans(&provider, 1);
        let span = spans.try_recv().unwrap();
        assert_eq!(span.name, "s3 GetObject");
        assert_eq!(span.span_kind, SpanKind::Server);
        assert_eq!(span.status, Status::error(""));
    }
}
