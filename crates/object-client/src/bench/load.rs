//! One worker: chooses an operation, sends it, checks the answer, counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, Uri};
use tokio::sync::watch;
use tokio::time::Instant;

use super::timeline::{Recorder, Timeline};
use super::{Mode, Options, Stats};
use crate::client::REPLY_BYTES_MAX;
use crate::connection::Body;
use crate::{Error, Result, S3Client, xml};

/// Bodies differ by where they begin in the buffer.
const SHIFTS: usize = 1 << 20;
/// Objects that a worker of the mixed mode remembers for deletion.
const OWN_MAX: usize = 1024;
/// How long a worker rests after a failure, so that a dead endpoint isn't flooded.
const REST: Duration = Duration::from_millis(10);

/// What all workers read.
pub(super) struct Shared {
    pub options: Options,
    pub bucket: String,
    pub timeline: Timeline,
    /// One per endpoint.
    clients: Vec<S3Client>,
    prefix: String,
    buffer: Bytes,
    /// Per endpoint: the URLs of all prepared objects, and of their listing.
    gets: Vec<Vec<Uri>>,
    heads: Vec<Vec<Uri>>,
    lists: Vec<Uri>,
    next_delete: AtomicUsize,
    begin: Instant,
    deadline: Instant,
    ended: Mutex<Option<Instant>>,
}

impl Shared {
    pub fn new(options: Options, clients: Vec<S3Client>, bucket: String, prefix: String) -> Self {
        let mut random = Random(0x5eed);
        let length = options.object_size + SHIFTS;
        let buffer: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        let now = Instant::now();
        Self {
            timeline: Timeline::new(options.duration),
            options,
            bucket,
            clients,
            prefix,
            buffer: buffer.into(),
            gets: Vec::new(),
            heads: Vec::new(),
            lists: Vec::new(),
            next_delete: AtomicUsize::new(0),
            begin: now,
            deadline: now,
            ended: Mutex::new(None),
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
        let (get, stat) = match self.options.mode {
            Mode::Get => (true, false),
            Mode::Stat => (false, true),
            Mode::Mixed => (true, true),
            _ => (false, false),
        };
        let (mut gets, mut heads, mut lists) = (Vec::new(), Vec::new(), Vec::new());
        for client in &self.clients {
            gets.push(self.presigned_objects(client, &Method::GET, get)?);
            heads.push(self.presigned_objects(client, &Method::HEAD, stat)?);
            lists.push(self.presigned_list(client)?);
        }
        (self.gets, self.heads, self.lists) = (gets, heads, lists);
        Ok(self)
    }

    fn presigned_objects(
        &self,
        client: &S3Client,
        method: &Method,
        wanted: bool,
    ) -> Result<Vec<Uri>> {
        let count = if wanted { self.options.objects } else { 0 };
        let sign = |index| {
            let key = self.prepared_key(index);
            client.presign(method, &self.bucket, &key, &[], self.validity())
        };
        (0..count).map(sign).collect()
    }

    fn presigned_list(&self, client: &S3Client) -> Result<Uri> {
        let prefix = format!("{}prepared/", self.prefix);
        let query = [("list-type", "2"), ("prefix", prefix.as_str())];
        client.presign(&Method::GET, &self.bucket, "", &query, self.validity())
    }

    /// How long the presigned URLs must be good.
    fn validity(&self) -> Duration {
        self.options.warm_up + self.options.duration + Duration::from_secs(3_600)
    }

    pub fn started(mut self) -> Self {
        self.begin = Instant::now() + self.options.warm_up;
        self.deadline = self.begin + self.options.duration;
        self
    }

    /// The measured time ends now.
    pub fn end(&self) {
        *self.ended.lock().expect("no panic while it is held") = Some(Instant::now());
    }

    /// The measured time: until the deadline, or until it was ended earlier.
    pub fn measured_seconds(&self) -> f64 {
        let ended = *self.ended.lock().expect("no panic while it is held");
        let end = ended.unwrap_or(self.deadline).min(self.deadline);
        let measured = end.saturating_duration_since(self.begin);
        measured.as_secs_f64().max(0.001)
    }
}

/// One closed loop with its own connections.
pub(super) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    clients: Vec<S3Client>,
    turn: usize,
    made: usize,
    own: VecDeque<String>,
    random: Random,
    stats: Stats,
    recorder: Recorder,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, index: usize) -> Self {
        Self {
            clients: shared.clients.iter().map(S3Client::separate).collect(),
            index,
            turn: index,
            made: 0,
            own: VecDeque::new(),
            random: Random(index as u64 + 1),
            stats: Stats::default(),
            recorder: Recorder::default(),
            shared,
        }
    }

    /// Works until the deadline, or until there is nothing to do, or until `stopped` says so.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) -> Stats {
        let deadline = self.shared.deadline;
        while Instant::now() < deadline {
            self.turn = (self.turn + 1) % self.clients.len();
            let Some(operation) = self.choose() else {
                break;
            };
            let (name, started) = (operation.name(), Instant::now());
            let result = tokio::select! {
                result = self.perform(operation) => result,
                () = tokio::time::sleep_until(deadline) => break,
                _ = stopped.changed() => break,
            };
            self.count_whole(name, started, &result);
            if result.is_err() {
                tokio::time::sleep(REST).await;
            }
        }
        self.recorder.hand_over(&self.shared.timeline);
        self.stats
    }

    /// Counts an operation, and shows it in the timeline.
    fn count_whole(&mut self, name: &'static str, started: Instant, result: &Result<u64>) {
        let Some(micros) = self.count(name, started, result) else {
            return;
        };
        let at = Instant::now().saturating_duration_since(self.shared.begin);
        let done = result.as_ref().ok().map(|bytes| (micros, *bytes));
        self.recorder.record(&self.shared.timeline, at, done);
    }

    /// Counts an operation or a step of one; its latency, unless it began before the measured time.
    fn count(&mut self, name: &'static str, started: Instant, result: &Result<u64>) -> Option<u64> {
        if started < self.shared.begin {
            return None;
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match result {
            Ok(bytes) => self.stats.success(name, micros, *bytes),
            Err(error) => self.stats.failure(name, error.code()),
        }
        Some(micros)
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
            Mode::Delete => Operation::Delete(self.next_to_delete()?),
            Mode::Mixed => match self.random.next() % 100 {
                0..45 => Operation::Get(prepared),
                45..75 => Operation::Stat(prepared),
                75..90 => Operation::Put,
                _ => {
                    let own = self.own.pop_front();
                    own.map_or(Operation::Put, Operation::Delete)
                }
            },
        })
    }

    fn next_to_delete(&self) -> Option<String> {
        let index = self.shared.next_delete.fetch_add(1, Ordering::Relaxed);
        if index < self.shared.options.objects {
            return Some(self.shared.prepared_key(index));
        }
        // The last worker that comes here sets the end.
        self.shared.end();
        None
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

    /// Bytes that no other worker sends: some stores keep equal ones only once.
    fn next_body(&self) -> Bytes {
        self.shared.body((self.index + 1) * 32_771 + self.made)
    }

    async fn get(&mut self, index: usize) -> Result<u64> {
        let uri = self.shared.gets[self.turn][index].clone();
        let mut body = self.send(Method::GET, uri, Bytes::new()).await?.into_body();
        let expected = self.shared.body(index);
        let mut at = 0;
        while let Some(data) = body.data().await? {
            let end = at + data.len();
            if end > expected.len() {
                return Err(wrong("WrongLength"));
            }
            if self.shared.options.verify && data != expected[at..end] {
                return Err(wrong("WrongBody"));
            }
            at = end;
        }
        match at == expected.len() {
            true => Ok(at as u64),
            false => Err(wrong("WrongLength")),
        }
    }

    async fn stat(&mut self, index: usize) -> Result<u64> {
        let uri = self.shared.heads[self.turn][index].clone();
        let answer = self.send(Method::HEAD, uri, Bytes::new()).await?;
        let length = crate::objects::text(answer.headers(), "content-length");
        match length.parse::<usize>() == Ok(self.shared.options.object_size) {
            true => Ok(0),
            false => Err(wrong("WrongLength")),
        }
    }

    async fn list(&mut self) -> Result<u64> {
        let uri = self.shared.lists[self.turn].clone();
        let answer = self.send(Method::GET, uri, Bytes::new()).await?;
        let body = answer.into_body().collect(REPLY_BYTES_MAX).await?;
        let page: xml::Listing = xml::parse(&body)?;
        let expected = self.shared.options.objects.min(1000);
        match page.contents.len() == expected || page.next_continuation_token.is_some() {
            true => Ok(body.len() as u64),
            false => Err(wrong("WrongListing")),
        }
    }

    async fn put(&mut self) -> Result<u64> {
        let key = self.new_key();
        let body = self.next_body();
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
        let body = self.next_body();
        let uri = self.sign(&Method::POST, &key, &[("uploads", "")])?;
        let (_, created) = self.drained(Method::POST, uri, Bytes::new()).await?;
        let id = xml::parse::<xml::Created>(&created)?.upload_id;
        let mut parts = Vec::new();
        let part_size = self.shared.options.part_size;
        for (index, offset) in (0..body.len()).step_by(part_size).enumerate() {
            let number = index as u32 + 1;
            let part = body.slice(offset..body.len().min(offset + part_size));
            parts.push((number, self.part(&key, &id, number, part).await?));
        }
        let complete = xml::complete_body(parts.iter().map(|(n, etag)| (*n, etag.as_str())));
        let uri = self.sign(&Method::POST, &key, &[("uploadId", id.as_str())])?;
        let (_, answer) = self.drained(Method::POST, uri, complete.into()).await?;
        crate::multipart::completed(&answer)?;
        Ok(body.len() as u64)
    }

    async fn part(&mut self, key: &str, id: &str, number: u32, part: Bytes) -> Result<String> {
        let text = number.to_string();
        let query = [("partNumber", text.as_str()), ("uploadId", id)];
        let uri = self.sign(&Method::PUT, key, &query)?;
        let (started, length) = (Instant::now(), part.len() as u64);
        let (etag, _) = self.drained(Method::PUT, uri, part).await?;
        self.count("upload_part", started, &Ok(length));
        Ok(etag)
    }

    fn new_key(&mut self) -> String {
        self.made += 1;
        let (prefix, worker, number) = (&self.shared.prefix, self.index, self.made);
        format!("{prefix}new/{worker:05}/{number:08}")
    }

    fn sign(&self, method: &Method, key: &str, query: &[(&str, &str)]) -> Result<Uri> {
        let client = &self.clients[self.turn];
        let validity = self.shared.validity();
        client.presign(method, &self.shared.bucket, key, query, validity)
    }

    async fn send(&self, method: Method, uri: Uri, body: Bytes) -> Result<Response<Body>> {
        let client = &self.clients[self.turn];
        client.send(method, uri, HeaderMap::new(), body).await
    }

    /// Sends, and returns the ETag and the (small) reply.
    async fn drained(&self, method: Method, uri: Uri, body: Bytes) -> Result<(String, Bytes)> {
        let (head, body) = self.send(method, uri, body).await?.into_parts();
        let etag = crate::objects::text(&head.headers, "etag");
        Ok((etag, body.collect(1 << 20).await?))
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
    Error::S3 {
        status: 200,
        code: code.to_owned(),
        message: "the answer is not what was stored".to_owned(),
    }
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
