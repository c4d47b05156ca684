//! Requests at the doors: what is counted of them, and what the logs say of those to the HTTP door and the admin socket (the
//! S3 door logs its own).
//!
//! Labels are bounded: operations are S3's names and the routes of this program, statuses are classes.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use object_s3::{DoorObserver, request_id};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tracing::Instrument;
use tracing::field::Empty;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bounds of the classes of latency, in seconds.
const BOUNDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// What is counted of the requests to all doors.
#[derive(Debug)]
pub struct Requests {
    answers: Family<Answer, Counter>,
    seconds: Family<Operation, Histogram>,
    connections: Family<Door, Gauge>,
    /// Connections of S3 clients.
    pub s3_open: Gauge,
    /// Connections to the HTTP door.
    pub http_open: Gauge,
}

/// Labels of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Door {
    door: &'static str,
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    door: &'static str,
    operation: Cow<'static, str>,
}

/// Labels of a request and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    #[prometheus(flatten)]
    operation: Operation,
    status: &'static str,
}

impl Default for Requests {
    fn default() -> Self {
        let connections = Family::<Door, Gauge>::default();
        let open = |door| connections.get_or_create_owned(&Door { door });
        Requests {
            answers: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            s3_open: open("s3"),
            http_open: open("http"),
            connections,
        }
    }
}

impl Requests {
    /// Puts the numbers on the page, which ends each help text with a full stop.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests by door, operation and class of status",
            self.answers.clone(),
        );
        registry.register(
            "request_seconds",
            "How long requests took, until their answers were sent",
            self.seconds.clone(),
        );
        registry.register(
            "connections",
            "Open connections of clients, by door",
            self.connections.clone(),
        );
    }

    fn note(
        &self,
        door: &'static str,
        operation: Cow<'static, str>,
        status: u16,
        elapsed: Duration,
    ) {
        let operation = Operation { door, operation };
        self.seconds
            .get_or_create(&operation)
            .observe(elapsed.as_secs_f64());
        let status = class(status);
        self.answers
            .get_or_create(&Answer { operation, status })
            .inc();
    }
}

/// A status' class; a request that was broken off has none.
fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "none",
    }
}

impl DoorObserver for Requests {
    fn request(&self, operation: &'static str, status: u16, micros: u64) {
        let elapsed = Duration::from_micros(micros);
        self.note("s3", operation.into(), status, elapsed);
    }

    fn connection_opened(&self) {
        self.s3_open.inc();
    }

    fn connection_closed(&self) {
        self.s3_open.dec();
    }
}

/// A door whose requests are logged and counted by [`observe`].
pub struct Observer {
    /// Where they are counted.
    pub requests: Arc<Requests>,
    /// The door's name.
    pub door: &'static str,
    /// Where request ids start: a random number, so that ids differ between runs.
    pub next_id: AtomicU64,
}

impl Observer {
    fn id(&self) -> String {
        request_id(self.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

/// Why a request was refused, in words for the log; left among an answer's extensions.
#[derive(Debug, Clone)]
pub struct Why(pub String);

/// Gives a request its id and its span, and counts it.
pub async fn observe(
    State(observer): State<Arc<Observer>>,
    request: Request,
    next: Next,
) -> Response {
    let (id, operation) = (observer.id(), operation(&request));
    // The highest level, so that a line of any level names its request, however little is logged.
    let span = tracing::error_span!(
        "admin",
        request_id = id,
        door = observer.door,
        access_key = Empty,
        operation,
        bucket = Empty,
        status = Empty,
    );
    let began = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status().as_u16();
    span.record("status", status);
    let why = response.extensions().get::<Why>();
    let why = why.map_or("", |why| why.0.as_str());
    span.in_scope(|| match status {
        500.. if !why.is_empty() => tracing::warn!(why, "a request failed"),
        400.. => tracing::debug!(why, "a request was refused"),
        _ => {}
    });
    observer
        .requests
        .note(observer.door, operation.into(), status, began.elapsed());
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Method and route: names in the path are not part of it.
fn operation(request: &Request) -> String {
    let method = match *request.method() {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let route = request.extensions().get::<MatchedPath>();
    match route {
        Some(route) => format!("{method} {}", route.as_str()),
        None => "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Router, middleware};
    use prometheus_client::encoding::text::encode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::node::http;

    fn page(requests: &Requests) -> Vec<String> {
        let mut registry = Registry::with_prefix("skerry");
        requests.register(&mut registry);
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        page.lines().map(str::to_owned).collect()
    }

    fn has(page: &[String], line: &str) {
        assert!(page.iter().any(|found| found == line), "{line}: {page:#?}");
    }

    #[test]
    fn requests_are_counted_by_operation_class_and_latency() {
        let requests = Requests::default();
        requests.request("GetObject", 200, 400);
        requests.request("GetObject", 206, 1_000);
        requests.request("GetObject", 404, 30_000_000);
        requests.request("PutObject", 0, 7);
        requests.connection_opened();
        requests.connection_opened();
        requests.connection_closed();
        let page = page(&requests);
        let get = "door=\"s3\",operation=\"GetObject\"";
        has(
            &page,
            &format!("skerry_requests_total{{{get},status=\"2xx\"}} 2"),
        );
        has(
            &page,
            &format!("skerry_requests_total{{{get},status=\"4xx\"}} 1"),
        );
        let bucket = |le: &str| format!("skerry_request_seconds_bucket{{le=\"{le}\",{get}}}");
        has(&page, &format!("{} 1", bucket("0.0005")));
        has(&page, &format!("{} 2", bucket("0.001")));
        has(&page, &format!("{} 2", bucket("10.0")));
        has(&page, &format!("{} 3", bucket("+Inf")));
        has(&page, &format!("skerry_request_seconds_count{{{get}}} 3"));
        has(
            &page,
            &format!("skerry_request_seconds_sum{{{get}}} 30.0014"),
        );
        let put = "door=\"s3\",operation=\"PutObject\",status=\"none\"";
        has(&page, &format!("skerry_requests_total{{{put}}} 1"));
        has(&page, "skerry_connections{door=\"s3\"} 1");
    }

    async fn ask(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_request_to_a_route_gets_an_id_and_is_counted_by_the_route() {
        let requests = Arc::new(Requests::default());
        let observer = Arc::new(Observer {
            requests: requests.clone(),
            door: "http",
            next_id: AtomicU64::new(7),
        });
        let busy = async || (StatusCode::SERVICE_UNAVAILABLE, "busy").into_response();
        let inner = Router::new().route("/v1/users/{name}", get(busy));
        let router = Router::new()
            .nest("/admin", inner)
            .layer(middleware::from_fn_with_state(observer, observe));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let open = requests.http_open.clone();
        let serving = http::serve(listener, router, Arc::new(|| None), stop.clone(), open);
        let first = ask(address, "/admin/v1/users/alice").await;
        let second = ask(address, "/admin/v1/users/bob").await;
        let id = |answer: &str| {
            let line = answer
                .lines()
                .find(|line| line.starts_with("x-request-id: "));
            line.unwrap().to_owned()
        };
        assert_ne!(id(&first), id(&second));
        ask(address, "/elsewhere").await;
        stop.cancel();
        serving.await.unwrap();
        let page = page(&requests);
        let route = "door=\"http\",operation=\"GET /admin/v1/users/{name}\"";
        has(
            &page,
            &format!("skerry_requests_total{{{route},status=\"5xx\"}} 2"),
        );
        let none = "door=\"http\",operation=\"none\",status=\"4xx\"";
        has(&page, &format!("skerry_requests_total{{{none}}} 1"));
        has(&page, "skerry_connections{door=\"http\"} 0");
        assert!(!page.iter().any(|line| line.contains("alice")));
    }
}
