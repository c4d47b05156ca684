//! One worker: chooses an operation, sends it, checks the answer, counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;

use super::{Mode, Options, Stats};
use crate::{Error, Result, S3Client, xml};

/// Bodies differ by where they begin in the buffer.
const SHIFTS: usize = 4096;
/// Objects that a worker of the mixed mode remembers for deletion.
const OWN_MAX: usize = 1024;

/// What all workers read.
pub(super) struct Shared {
    pub options: Options,
    pub bucket: String,
    prefix: String,
    buffer: Bytes,
    /// Per endpoint: the URLs of all prepared objects, and of their listing.
    gets: Vec<Vec<Uri>>,
    heads: Vec<Vec<Uri>>,
    lists: Vec<Uri>,
    next_delete: AtomicUsize,
    begin: Instant,
    deadline: Instant,
    ended: std::sync::Mutex<Option<Instant>>,
}

impl Shared {
    pub fn new(options: Options, bucket: String, prefix: String) -> Self {
        let mut random = Random(0x5eed);
        let buffer: Vec<u8> =
            (0..options.object_size + SHIFTS).map(|_| random.next() as u8).collect();
        let now = Instant::now();
        Self {
            options,
            bucket,
            prefix,
            buffer: buffer.into(),
            gets: Vec::new(),
            heads: Vec::new(),
            lists: Vec::new(),
            next_delete: AtomicUsize::new(0),
            begin: now,
            deadline: now,
            ended: std::sync::Mutex::new(None),
        }
    }

    pub fn prepared_key(&self, index: usize) -> String {
        format!("{}prepared/{index:08}", self.prefix)
    }

    /// The body of the object with this number, without a copy.
    pub fn body(&self, index: usize) -> Bytes {
        let shift = index % SHIFTS;
        self.buffer.slice(shift..shift + self.options.object_size)
    }

    /// Signs what the mode reads again and again, once.
    pub fn presigned(mut self) -> Result<Self> {
        let expiry = Duration::from_secs(7 * 86_400 - 60);
        let (get, stat) = match self.options.mode {
            Mode::Get => (true, false),
            Mode::Stat => (false, true),
            Mode::Mixed => (true, true),
            _ => (false, false),
        };
        for endpoint in &self.options.endpoints {
            let client = S3Client::new(endpoint.clone())?;
            let all = |method: Method, wanted: bool| -> Result<Vec<Uri>> {
                let count = if wanted { self.options.objects } else { 0 };
                (0..count)
                    .map(|i| {
                        client.presign(&method, &self.bucket, &self.prepared_key(i), &[], expiry)
                    })
                    .collect()
            };
            let (gets, heads) = (all(Method::GET, get)?, all(Method::HEAD, stat)?);
            let prefix = format!("{}prepared/", self.prefix);
            let query = [("list-type", "2"), ("prefix", prefix.as_str())];
            let list = client.presign(&Method::GET, &self.bucket, "", &query, expiry)?;
            self.gets.push(gets);
            self.heads.push(heads);
            self.lists.push(list);
        }
        Ok(self)
    }

    pub fn started(mut self) -> Self {
        self.begin = Instant::now() + self.options.warm_up;
        self.deadline = self.begin + self.options.duration;
        self
    }

    /// The measured time: until the deadline, or until the last object of `delete` was gone.
    pub fn measured_seconds(&self) -> f64 {
        let ended = *self.ended.lock().expect("no panic while it is held");
        let end = ended.unwrap_or(self.deadline).min(self.deadline);
        end.saturating_duration_since(self.begin).as_secs_f64().max(0.001)
    }
}

/// One closed loop with its own connections.
pub(super) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    clients: Vec<S3Client>,
    turn: usize,
    made: usize,
    gets: u64,
    own: VecDeque<String>,
    random: Random,
    stats: Stats,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, index: usize) -> Result<Self> {
        let clients = shared.options.endpoints.iter().cloned().map(S3Client::new);
        Ok(Self {
            clients: clients.collect::<Result<_>>()?,
            index,
            turn: index,
            made: 0,
            gets: 0,
            own: VecDeque::new(),
            random: Random(index as u64 + 1),
            stats: Stats::default(),
            shared,
        })
    }

    pub async fn run(mut self) -> Stats {
        while Instant::now() < self.shared.deadline {
            self.turn = (self.turn + 1) % self.clients.len();
            let Some(operation) = self.choose() else { break };
            let started = Instant::now();
            let deadline = self.shared.deadline;
            let name = operation.name();
            let Ok(result) = tokio::time::timeout_at(deadline, self.perform(operation)).await else {
                break;
            };
            self.count(name, started, result).await;
        }
        self.stats
    }

    async fn count(&mut self, name: &'static str, started: Instant, result: Result<u64>) {
        let now = Instant::now();
        let counts = started >= self.shared.begin;
        match result {
            Ok(bytes) if counts => {
                let micros = now.duration_since(started).as_micros() as u64;
                let second = now.duration_since(self.shared.begin).as_secs() as usize;
                self.stats.success(name, micros, bytes, second);
            }
            Ok(_) => {}
            Err(error) => {
                if counts {
                    self.stats.failure(name, error.code());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// The next operation; `None` when there is nothing left to do.
    fn choose(&mut self) -> Option<Operation> {
        let prepared = self.random.next() as usize % self.shared.options.objects;
        Some(match self.shared.options.mode {
            Mode::Put => Operation::Put,
            Mode::Get => Operation::Get(prepared),
            Mode::Stat => Operation::Stat(prepared),
            Mode::List => Operation::List,
            Mode::Multipart => Operation::Multipart,
            Mode::Delete => {
                let index = self.shared.next_delete.fetch_add(1, Ordering::Relaxed);
                if index >= self.shared.options.objects {
                    *self.shared.ended.lock().expect("no panic while it is held") =
                        Some(Instant::now());
                    return None;
                }
                Operation::Delete(self.shared.prepared_key(index))
            }
            Mode::Mixed => match self.random.next() % 100 {
                0..45 => Operation::Get(prepared),
                45..75 => Operation::Stat(prepared),
                75..90 => Operation::Put,
                _ => self.own.pop_front().map_or(Operation::Put, Operation::Delete),
            },
        })
    }

    async fn perform(&mut self, operation: Operation) -> Result<u64> {
        match operation {
            Operation::Get(index) => self.get(index).await,
            Operation::Stat(index) => self.stat(index).await,
            Operation::List => self.list().await,
            Operation::Put => self.put().await,
            Operation::Delete(key) => self.delete(&key).await,
            Operation::Multipart => self.multipart().await,
        }
    }

    async fn get(&mut self, index: usize) -> Result<u64> {
        let uri = self.shared.gets[self.turn][index].clone();
        let mut body = self.send(Method::GET, uri, Bytes::new()).await?.into_body();
        self.gets += 1;
        let every = self.shared.options.verify_every;
        let verify = every > 0 && self.gets.is_multiple_of(every);
        let expected = self.shared.body(index);
        let mut at = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(Error::Body)?.into_data() else { continue };
            let end = at + data.len();
            if end > expected.len() || (verify && data != expected[at..end]) {
                return Err(wrong("WrongBody"));
            }
            at = end;
        }
        if at == expected.len() { Ok(at as u64) } else { Err(wrong("WrongLength")) }
    }

    async fn stat(&mut self, index: usize) -> Result<u64> {
        let uri = self.shared.heads[self.turn][index].clone();
        let answer = self.send(Method::HEAD, uri, Bytes::new()).await?;
        let length = crate::objects::text(answer.headers(), "content-length");
        let expected = self.shared.options.object_size;
        if length.parse::<usize>().ok() == Some(expected) { Ok(0) } else { Err(wrong("WrongLength")) }
    }

    async fn list(&mut self) -> Result<u64> {
        let uri = self.shared.lists[self.turn].clone();
        let answer = self.send(Method::GET, uri, Bytes::new()).await?;
        let body = crate::client::collect(answer.into_body(), 16 << 20).await?;
        let page: xml::Listing = xml::parse(&body)?;
        let expected = self.shared.options.objects.min(1000);
        let whole = page.contents.len() == expected || page.next_continuation_token.is_some();
        if whole { Ok(body.len() as u64) } else { Err(wrong("WrongListing")) }
    }

    async fn put(&mut self) -> Result<u64> {
        let key = self.new_key();
        let body = self.shared.body(self.made);
        let uri = self.sign(&Method::PUT, &key, &[])?;
        self.drained(Method::PUT, uri, body).await?;
        if self.shared.options.mode == Mode::Mixed && self.own.len() < OWN_MAX {
            self.own.push_back(key);
        }
        Ok(self.shared.options.object_size as u64)
    }

    async fn delete(&mut self, key: &str) -> Result<u64> {
        let uri = self.sign(&Method::DELETE, key, &[])?;
        self.drained(Method::DELETE, uri, Bytes::new()).await?;
        Ok(0)
    }

    async fn multipart(&mut self) -> Result<u64> {
        let key = self.new_key();
        let body = self.shared.body(self.made);
        let uri = self.sign(&Method::POST, &key, &[("uploads", "")])?;
        let created = self.drained(Method::POST, uri, Bytes::new()).await?.1;
        let id = xml::parse::<xml::Created>(&created)?.upload_id;
        let mut parts = Vec::new();
        let part_size = self.shared.options.part_size;
        for (index, offset) in (0..body.len()).step_by(part_size).enumerate() {
            let number = index as u32 + 1;
            let text = number.to_string();
            let query = [("partNumber", text.as_str()), ("uploadId", id.as_str())];
            let uri = self.sign(&Method::PUT, &key, &query)?;
            let part = body.slice(offset..body.len().min(offset + part_size));
            let started = Instant::now();
            let length = part.len() as u64;
            let sent = self.drained(Method::PUT, uri, part).await;
            match sent {
                Ok((etag, _)) => {
                    self.count("upload_part", started, Ok(length)).await;
                    parts.push((number, etag));
                }
                Err(error) => return Err(error),
            }
        }
        let complete = xml::complete_body(parts.iter().map(|(n, etag)| (*n, etag.as_str())));
        let uri = self.sign(&Method::POST, &key, &[("uploadId", id.as_str())])?;
        let answer = self.drained(Method::POST, uri, complete.into()).await?.1;
        crate::multipart::completed(&answer)?;
        Ok(body.len() as u64)
    }

    fn new_key(&mut self) -> String {
        self.made += 1;
        format!("{}new/{:05}/{:08}", self.shared.prefix, self.index, self.made)
    }

    fn sign(&self, method: &Method, key: &str, query: &[(&str, &str)]) -> Result<Uri> {
        let expiry = Duration::from_secs(900);
        self.clients[self.turn].presign(method, &self.shared.bucket, key, query, expiry)
    }

    async fn send(
        &self,
        method: Method,
        uri: Uri,
        body: Bytes,
    ) -> Result<http::Response<hyper::body::Incoming>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        self.clients[self.turn].send(request).await
    }

    /// Sends, and returns the ETag and the (small) reply.
    async fn drained(&self, method: Method, uri: Uri, body: Bytes) -> Result<(String, Bytes)> {
        let answer = self.send(method, uri, body).await?;
        let etag = crate::objects::text(answer.headers(), "etag");
        Ok((etag, crate::client::collect(answer.into_body(), 1 << 20).await?))
    }
}

enum Operation {
    Put,
    Get(usize),
    Stat(usize),
    List,
    Delete(String),
    Multipart,
}

impl Operation {
    fn name(&self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get(_) => "get",
            Self::Stat(_) => "stat",
            Self::List => "list",
            Self::Delete(_) => "delete",
            Self::Multipart => "multipart",
        }
    }
}

fn wrong(code: &str) -> Error {
    let message = "the answer is not what was stored".to_owned();
    Error::S3 { status: 200, code: code.to_owned(), message }
}

/// A small generator (splitmix64) for choices that need no quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
