//! The TLS transport between real sockets on this machine.

mod by_hand;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use by_hand::{fingerprint, handshake};
use bytes::Bytes;
use futures::future::{join, join_all};
use ids::{NodeId, SiteId};
use testkit::tls_site::TlsSite;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use transport::tls::frame::{Frame, Kind};
use transport::tls::{Admission, JoinError, JoinHandler, join_call};
use transport::{BulkStream, CALL_BYTES_MAX, Handler, Refusal, Service, Transport, TransportError};

const LONG: Duration = Duration::from_secs(60);
const SERVICE: Service = Service(77);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Answers with the caller's id and the body; streams come back as they went.
struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn call(&self, from: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        Ok([&from.0.to_be_bytes(), &body[..]].concat().into())
    }

    async fn stream(&self, _: NodeId, header: Bytes, stream: BulkStream) {
        let (mut read, mut write) = tokio::io::split(stream);
        write.write_all(&header).await.unwrap();
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    }
}

fn echoed(from: NodeId, body: &[u8]) -> Bytes {
    [&from.0.to_be_bytes(), body].concat().into()
}

fn new_site() -> TlsSite {
    TlsSite::new(SiteId([1; 16]))
}

/// Calls until it works: for what must come true after a restart.
async fn call_until_answered(from: &dyn Transport, to: NodeId) -> Bytes {
    let within = tokio::time::timeout(LONG, async {
        loop {
            if let Ok(answer) = from.call(to, SERVICE, Bytes::new(), LONG).await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    within.await.expect("the peer is up")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_share_a_connection() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    two.serve(SERVICE, Arc::new(Echo));
    let calls = (0..10_000u32).map(|n| {
        let one = one.clone();
        async move {
            let body = Bytes::from(vec![n as u8; (n % 300) as usize]);
            let answer = one.call(TWO, SERVICE, body.clone(), LONG).await.unwrap();
            assert_eq!(answer, echoed(ONE, &body));
        }
    });
    join_all(calls).await;
    let largest = Bytes::from(vec![7; CALL_BYTES_MAX - 8]);
    assert_eq!(
        one.call(TWO, SERVICE, largest.clone(), LONG).await.unwrap(),
        echoed(ONE, &largest)
    );
    let own = two
        .call(TWO, SERVICE, Bytes::from_static(b"me"), LONG)
        .await
        .unwrap();
    assert_eq!(own, echoed(TWO, b"me"));
    one.shutdown().await;
    two.shutdown().await;
}

/// Refuses all but a body `wait`, for which it waits until it is dropped; `panic` panics.
#[derive(Default)]
struct Stubborn {
    began: Notify,
    dropped: Arc<Notify>,
}

struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Handler for Stubborn {
    async fn call(&self, _: NodeId, body: Bytes) -> Result<Bytes, Refusal> {
        match &body[..] {
            b"wait" => {
                let _told = NotifyOnDrop(self.dropped.clone());
                self.began.notify_one();
                std::future::pending().await
            }
            b"panic" => panic!("on purpose"),
            b"huge" => Ok(vec![0; CALL_BYTES_MAX + 1].into()),
            _ => Err(Refusal("not today".into())),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_deadlines_and_panics_come_back_as_what_they_are() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    let stubborn = Arc::new(Stubborn::default());
    two.serve(SERVICE, stubborn.clone());
    let call = |body: &'static [u8], deadline| one.call(TWO, SERVICE, body.into(), deadline);

    let refused = call(b"please", LONG).await.unwrap_err();
    assert!(matches!(&refused, TransportError::Refused { node: TWO, why } if why == "not today"));
    let unknown = one
        .call(TWO, Service(78), Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(unknown, TransportError::Refused { .. }),
        "{unknown}"
    );
    let panicked = call(b"panic", LONG).await.unwrap_err();
    assert!(
        matches!(panicked, TransportError::Unreachable { .. }),
        "{panicked}"
    );
    let huge = call(b"huge", LONG).await.unwrap_err();
    assert!(matches!(huge, TransportError::Unreachable { .. }), "{huge}");

    let late = call(b"wait", Duration::from_millis(20)).await.unwrap_err();
    assert!(
        matches!(late, TransportError::DeadlineExceeded(TWO)),
        "{late}"
    );
    stubborn.dropped.notified().await;

    let too_large = Bytes::from(vec![0; CALL_BYTES_MAX + 1]);
    let too_large = one.call(TWO, SERVICE, too_large, LONG).await.unwrap_err();
    assert!(
        matches!(too_large, TransportError::TooLarge(_)),
        "{too_large}"
    );
    let nobody = one
        .call(NodeId(9), SERVICE, Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(nobody, TransportError::Unreachable { .. }),
        "{nobody}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_stops_its_handler() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    let stubborn = Arc::new(Stubborn::default());
    two.serve(SERVICE, stubborn.clone());
    let caller = one.clone();
    let call = tokio::spawn(async move {
        let _ = caller
            .call(TWO, SERVICE, Bytes::from_static(b"wait"), LONG)
            .await;
    });
    stubborn.began.notified().await;
    call.abort();
    stubborn.dropped.notified().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_goes_fails_its_calls_and_is_found_again() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    let stubborn = Arc::new(Stubborn::default());
    two.serve(SERVICE, stubborn.clone());
    let waiting = one.call(TWO, SERVICE, Bytes::from_static(b"wait"), LONG);
    let shut = async {
        stubborn.began.notified().await;
        two.shutdown().await;
    };
    let (failed, ()) = join(waiting, shut).await;
    assert!(
        matches!(failed, Err(TransportError::Unreachable { .. })),
        "{failed:?}"
    );
    drop(two);

    let again = site.start(TWO).await;
    again.serve(SERVICE, Arc::new(Echo));
    assert_eq!(call_until_answered(&*one, TWO).await, echoed(ONE, b""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_serves_new_connections() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    two.serve(SERVICE, Arc::new(Echo));
    call_until_answered(&*one, TWO).await;
    one.renew(&site.identity(ONE)).unwrap();
    two.renew(&site.identity(TWO)).unwrap();
    assert!(
        one.renew(&site.identity(TWO)).is_err(),
        "a certificate for another node"
    );
    let mut stream = one.stream(TWO, SERVICE, Bytes::new()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_streams_go_both_ways_on_one_connection_after_the_other() {
    const BYTES: usize = 64 << 20;
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    two.serve(SERVICE, Arc::new(Echo));
    let mut dialled = None;
    for bytes in [BYTES, 1, 0] {
        let stream = one
            .stream(TWO, SERVICE, Bytes::from_static(b"head"))
            .await
            .unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let send = async {
            let block = vec![0xa5; 1 << 20];
            let mut left = bytes;
            while left > 0 {
                let now = left.min(block.len());
                write.write_all(&block[..now]).await.unwrap();
                left -= now;
            }
            write.shutdown().await.unwrap();
        };
        let receive = async {
            let mut head = [0; 4];
            read.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"head");
            let (mut block, mut got) = (vec![0; 1 << 20], 0);
            let expected = vec![0xa5; block.len()];
            loop {
                let now = read.read(&mut block).await.unwrap();
                if now == 0 {
                    return got;
                }
                assert!(block[..now] == expected[..now]);
                got += now;
            }
        };
        let ((), got) = join(send, receive).await;
        assert_eq!(got, bytes);
        let lookups = site.lookups();
        assert_eq!(
            *dialled.get_or_insert(lookups),
            lookups,
            "the first connection is used again"
        );
    }
}

/// Reports when a writer would have to wait: its reader takes nothing.
struct Deaf(mpsc::UnboundedSender<BulkStream>);

#[async_trait]
impl Handler for Deaf {
    async fn call(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        Ok(Bytes::new())
    }

    async fn stream(&self, _: NodeId, _: Bytes, stream: BulkStream) {
        let _ = self.0.send(stream);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deaf_reader_holds_its_writer_but_not_the_calls() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    let (sender, mut streams) = mpsc::unbounded_channel();
    two.serve(SERVICE, Arc::new(Deaf(sender)));
    let mut stream = one.stream(TWO, SERVICE, Bytes::new()).await.unwrap();
    let mut held = streams.recv().await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let writer = tokio::spawn(async move {
        let block = vec![1; 64 << 10];
        for _ in 0..1024 {
            stream.write_all(&block).await.unwrap();
            counter.fetch_add(block.len(), Ordering::Relaxed);
        }
        stream.shutdown().await.unwrap();
        stream
    });
    // Calls pass while the stream stands; what was sent stays within what sockets hold.
    for _ in 0..200 {
        one.call(TWO, SERVICE, Bytes::new(), LONG).await.unwrap();
    }
    assert!(!writer.is_finished());
    assert!(
        sent.load(Ordering::Relaxed) < 48 << 20,
        "64 MiB do not fit into buffers"
    );
    let drained = tokio::spawn(async move {
        tokio::io::copy(&mut held, &mut tokio::io::sink())
            .await
            .unwrap()
    });
    writer.await.unwrap();
    assert_eq!(drained.await.unwrap(), 64 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_dropped_breaks_at_the_other_side() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    let (sender, mut streams) = mpsc::unbounded_channel();
    two.serve(SERVICE, Arc::new(Deaf(sender)));
    for from in [one, two] {
        let mut mine = from.stream(TWO, SERVICE, Bytes::new()).await.unwrap();
        let mut theirs = streams.recv().await.unwrap();
        mine.write_all(b"half").await.unwrap();
        mine.flush().await.unwrap();
        drop(mine);
        let mut read = Vec::new();
        assert!(theirs.read_to_end(&mut read).await.is_err());
        assert_eq!(read, b"half");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_gets_so_many_streams_and_no_more() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    let block = Arc::new(Holding::default());
    two.serve(SERVICE, block.clone());
    let open = || one.stream(TWO, SERVICE, Bytes::new());
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(open().await.unwrap());
    }
    let refused = open().await.err().expect("64 are open");
    assert!(
        matches!(refused, TransportError::Refused { .. }),
        "{refused}"
    );
    let unknown = one
        .stream(TWO, Service(78), Bytes::new())
        .await
        .err()
        .expect("no handler");
    assert!(
        matches!(unknown, TransportError::Refused { .. }),
        "{unknown}"
    );
    drop(streams);
    let mut gone = 0;
    while gone < 64 {
        block.gone.acquire().await.unwrap().forget();
        gone += 1;
    }
    // The last handlers have returned; their places come back right after.
    let within = tokio::time::timeout(LONG, async {
        while open().await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    within.await.expect("there is room again");
}

/// Reads each stream to its end and counts those that ended.
struct Holding {
    gone: tokio::sync::Semaphore,
}

impl Default for Holding {
    fn default() -> Self {
        Holding {
            gone: tokio::sync::Semaphore::new(0),
        }
    }
}

#[async_trait]
impl Handler for Holding {
    async fn call(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        Ok(Bytes::new())
    }

    async fn stream(&self, _: NodeId, _: Bytes, mut stream: BulkStream) {
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        self.gone.add_permits(1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_others_are_refused() {
    let site = new_site();
    let two = site.start(TWO).await;
    two.serve(SERVICE, Arc::new(Echo));
    let same_site_other_authority = new_site();
    let other_site_same_authority = site.under_same_authority(SiteId([9; 16]));
    for stranger in [&same_site_other_authority, &other_site_same_authority] {
        stranger.point(TWO, two.local_addr());
        let three = stranger.start(NodeId(3)).await;
        let error = three
            .call(TWO, SERVICE, Bytes::new(), LONG)
            .await
            .unwrap_err();
        assert!(
            matches!(error, TransportError::Unreachable { .. }),
            "{error}"
        );
        let stream = three.stream(TWO, SERVICE, Bytes::new()).await;
        assert!(matches!(
            stream.err(),
            Some(TransportError::Unreachable { .. })
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_in_the_place_of_the_one_that_was_wanted_is_refused() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    two.serve(SERVICE, Arc::new(Echo));
    site.point(NodeId(3), two.local_addr());
    let error = one
        .call(NodeId(3), SERVICE, Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(
        matches!(error, TransportError::Unreachable { .. }),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_only_the_join_is_spoken() {
    let site = new_site();
    let two = site.start(TWO).await;
    two.serve(SERVICE, Arc::new(Echo));
    for protocol in ["skerry/1", "skerry-bulk/1"] {
        let mut tls = handshake(&site, None, two.local_addr(), TWO, protocol)
            .await
            .unwrap();
        let mut byte = [0];
        assert!(
            !matches!(tls.read(&mut byte).await, Ok(1..)),
            "{protocol} was spoken"
        );
    }
    for protocol in ["skerry/2", ""] {
        let tls = handshake(&site, Some(ONE), two.local_addr(), TWO, protocol).await;
        if let Ok(mut tls) = tls {
            assert!(
                !matches!(tls.read(&mut [0]).await, Ok(1..)),
                "`{protocol}` was spoken"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_frame_ends_its_connection_and_harms_nobody() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    two.serve(SERVICE, Arc::new(Echo));
    call_until_answered(&*one, TWO).await;
    let call = Frame {
        kind: Kind::Call,
        id: 1,
        service: SERVICE.0,
        deadline_ms: 60_000,
        body: Bytes::from_static(b"x"),
    };
    let mut good = Vec::new();
    call.encode(&mut good);
    let oversized = [
        &((CALL_BYTES_MAX + 16) as u32).to_be_bytes()[..],
        &good[4..],
    ]
    .concat();
    let mut answer = Vec::new();
    Frame::about(Kind::Answer, 1, Bytes::new()).encode(&mut answer);
    for bad in [oversized, vec![0xff; 64], answer] {
        let mut tls = handshake(&site, Some(ONE), two.local_addr(), TWO, "skerry/1")
            .await
            .unwrap();
        tls.write_all(&bad).await.unwrap();
        let _ = tls.flush().await;
        assert!(
            !matches!(tls.read(&mut [0]).await, Ok(1..)),
            "the connection is closed"
        );
    }
    let mut garbage = TcpStream::connect(two.local_addr()).await.unwrap();
    garbage.write_all(&[0x16; 600]).await.unwrap();
    let _ = garbage.read_to_end(&mut Vec::new()).await;
    assert_eq!(call_until_answered(&*one, TWO).await, echoed(ONE, b""));
}

/// Admits all but one node.
struct AllBut(NodeId);

impl Admission for AllBut {
    fn admits(&self, node: NodeId) -> bool {
        node != self.0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_node_is_refused_on_old_and_new_connections() {
    let site = new_site();
    let (one, two) = (site.start(ONE).await, site.start(TWO).await);
    two.serve(SERVICE, Arc::new(Echo));
    call_until_answered(&*one, TWO).await;
    two.admit_by(Arc::new(AllBut(ONE)));
    let old = one
        .call(TWO, SERVICE, Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(matches!(old, TransportError::Refused { .. }), "{old}");
    one.shutdown().await;
    let one = site.start(ONE).await;
    let new = one
        .call(TWO, SERVICE, Bytes::new(), LONG)
        .await
        .unwrap_err();
    assert!(matches!(new, TransportError::Refused { .. }), "{new}");
    let stream = one
        .stream(TWO, SERVICE, Bytes::new())
        .await
        .err()
        .expect("revoked");
    assert!(matches!(stream, TransportError::Refused { .. }), "{stream}");
}

struct Door;

#[async_trait]
impl JoinHandler for Door {
    async fn join(&self, peer: std::net::SocketAddr, request: Bytes) -> Result<Bytes, Refusal> {
        assert!(peer.ip().is_loopback());
        match &request[..] {
            b"token" => Ok(Bytes::from_static(b"welcome")),
            _ => Err(Refusal("unknown token".into())),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_a_certificate_joins_the_site_that_it_pinned() {
    let site = new_site();
    let two = site.start(TWO).await;
    let address = two.local_addr().to_string();
    let pin = fingerprint(site.ca_der());
    let join = |pin, request: &'static [u8]| join_call(&address, pin, request.into(), LONG);

    let early = join(pin, b"token").await.unwrap_err();
    assert!(matches!(early, JoinError::Refused(_)), "{early}");
    two.serve_joins(Arc::new(Door));
    assert_eq!(join(pin, b"token").await.unwrap(), "welcome");
    let unknown = join(pin, b"guess").await.unwrap_err();
    assert!(
        matches!(&unknown, JoinError::Refused(why) if why == "unknown token"),
        "{unknown}"
    );

    let other_pin = join(fingerprint(new_site().ca_der()), b"token")
        .await
        .unwrap_err();
    assert!(
        matches!(other_pin, JoinError::Unreachable { .. }),
        "{other_pin}"
    );
    let tls = handshake(&site, None, two.local_addr(), TWO, "skerry-join/1")
        .await
        .unwrap();
    let leaf = tls.get_ref().1.peer_certificates().unwrap()[0].clone();
    let leaf_pin = join(fingerprint(&leaf), b"token").await.unwrap_err();
    assert!(
        matches!(leaf_pin, JoinError::Unreachable { .. }),
        "{leaf_pin}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_only_shows_the_pinned_authority_is_not_trusted() {
    let site = new_site();
    let impostor = new_site();
    let mut identity = impostor.identity(TWO);
    identity.chain_der.push(site.ca_der().to_vec());
    let two = impostor.start_as(TWO, identity).await.unwrap();
    two.serve_joins(Arc::new(Door));
    let address = two.local_addr().to_string();
    let asked = join_call(
        &address,
        fingerprint(site.ca_der()),
        Bytes::from_static(b"token"),
        LONG,
    )
    .await;
    assert!(
        matches!(asked, Err(JoinError::Unreachable { .. })),
        "{asked:?}"
    );
}
