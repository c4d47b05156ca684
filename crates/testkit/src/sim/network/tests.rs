use tokio::io::{AsyncReadExt, AsyncWriteExt};
use transport::Refusal;

use super::*;
use crate::sim::block_on;

const SERVICE: Service = Service(9);
const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
const DEADLINE: Duration = Duration::from_secs(1);

/// Counts its calls and answers with the number; streams come back as they went.
#[derive(Default)]
struct Counter(Mutex<u64>);

#[async_trait]
impl Handler for Counter {
    async fn call(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        let mut count = self.0.lock().unwrap();
        *count += 1;
        Ok(count.to_string().into())
    }

    async fn stream(&self, _: NodeId, _: Bytes, stream: BulkStream) {
        let (mut read, mut write) = tokio::io::split(stream);
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    }
}

struct Pair {
    network: SimNetwork,
    one: Arc<dyn Transport>,
    counter: Arc<Counter>,
}

fn pair(seed: u64) -> Pair {
    let network = SimNetwork::new(seed, Trace::with_lines(10_000));
    let counter = Arc::new(Counter::default());
    network.transport_of(TWO).serve(SERVICE, counter.clone());
    let one = network.transport_of(ONE);
    Pair {
        network,
        one,
        counter,
    }
}

impl Pair {
    async fn call(&self) -> Result<Bytes, TransportError> {
        self.one
            .call(TWO, SERVICE, Bytes::from_static(b"x"), DEADLINE)
            .await
    }

    fn handled(&self) -> u64 {
        *self.counter.0.lock().unwrap()
    }
}

#[test]
fn a_cut_leaves_the_caller_waiting_and_heals() {
    block_on(async {
        let pair = pair(1);
        for (from, to, handled) in [(ONE, TWO, 0), (TWO, ONE, 1)] {
            pair.network.cut_one_way(from, to);
            let began = Instant::now();
            let error = pair.call().await.unwrap_err();
            assert!(
                matches!(error, TransportError::DeadlineExceeded(TWO)),
                "{error}"
            );
            assert_eq!(began.elapsed(), DEADLINE);
            assert_eq!(pair.handled(), handled);
            pair.network.heal();
        }
        assert_eq!(pair.call().await.unwrap(), "2");
        pair.network.partition(&[ONE], &[TWO, NodeId(3)]);
        assert!(pair.network.link(NodeId(3), ONE).cut && !pair.network.link(TWO, NodeId(3)).cut);
    });
}

#[test]
fn delays_losses_and_repeats_follow_the_link() {
    block_on(async {
        let pair = pair(2);
        pair.network.slow_down(
            ONE,
            TWO,
            Duration::from_millis(300)..Duration::from_millis(301),
        );
        let began = Instant::now();
        pair.call().await.unwrap();
        assert!((301..310).contains(&began.elapsed().as_millis()));

        pair.network.set_link(
            ONE,
            TWO,
            Link {
                twice: 1.0,
                ..Link::default()
            },
        );
        pair.call().await.unwrap();
        tokio::time::sleep(DEADLINE).await;
        assert_eq!(pair.handled(), 3);

        pair.network.set_link(
            ONE,
            TWO,
            Link {
                lost: 0.5,
                ..Link::default()
            },
        );
        let mut answered = 0;
        for _ in 0..100 {
            answered += u32::from(pair.call().await.is_ok());
        }
        assert!((20..80).contains(&answered), "{answered} of 100");
    });
}

#[test]
fn a_node_that_is_down_answers_nothing_and_comes_back_without_handlers() {
    block_on(async {
        let pair = pair(3);
        let old = pair.network.transport_of(TWO);
        pair.network.take_down(TWO);
        assert!(matches!(
            pair.call().await,
            Err(TransportError::Unreachable { .. })
        ));
        assert!(
            old.call(ONE, SERVICE, Bytes::new(), DEADLINE)
                .await
                .is_err()
        );
        old.serve(SERVICE, pair.counter.clone());
        let new = pair.network.bring_up(TWO);
        assert!(matches!(
            pair.call().await,
            Err(TransportError::Refused { .. })
        ));
        old.serve(SERVICE, pair.counter.clone());
        assert!(matches!(
            pair.call().await,
            Err(TransportError::Refused { .. })
        ));
        new.serve(SERVICE, pair.counter.clone());
        assert_eq!(pair.call().await.unwrap(), "1");
        assert!(
            old.call(ONE, SERVICE, Bytes::new(), DEADLINE)
                .await
                .is_err()
        );
    });
}

/// Never answers.
struct Silent;

#[async_trait]
impl Handler for Silent {
    async fn call(&self, _: NodeId, _: Bytes) -> Result<Bytes, Refusal> {
        std::future::pending().await
    }
}

#[test]
fn a_node_that_goes_down_breaks_the_calls_that_it_handles() {
    block_on(async {
        let pair = pair(4);
        pair.network
            .transport_of(TWO)
            .serve(SERVICE, Arc::new(Silent));
        let (network, began) = (pair.network.clone(), Instant::now());
        let down = async {
            tokio::time::sleep(DEADLINE / 2).await;
            network.take_down(TWO);
        };
        let (outcome, ()) = futures::join!(pair.call(), down);
        assert!(
            matches!(outcome, Err(TransportError::Unreachable { .. })),
            "{outcome:?}"
        );
        assert_eq!(began.elapsed(), DEADLINE / 2);
    });
}

#[test]
fn streams_break_when_a_link_is_cut_or_a_node_goes() {
    block_on(async {
        for down in [false, true] {
            let pair = pair(5);
            let mut stream = pair.one.stream(TWO, SERVICE, Bytes::new()).await.unwrap();
            stream.write_all(b"ping").await.unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"ping");
            match down {
                true => pair.network.take_down(TWO),
                false => pair.network.cut_one_way(TWO, ONE),
            }
            assert!(stream.read_u8().await.is_err());
            assert!(pair.one.stream(TWO, SERVICE, Bytes::new()).await.is_err());
        }
    });
}

#[test]
fn a_stream_takes_the_time_of_its_bytes() {
    block_on(async {
        let pair = pair(6);
        let slow = Link {
            stream_bytes_per_second: 1 << 20,
            ..Link::default()
        };
        pair.network.set_link(ONE, TWO, slow);
        let stream = pair.one.stream(TWO, SERVICE, Bytes::new()).await.unwrap();
        let began = Instant::now();
        let (mut read, mut write) = tokio::io::split(stream);
        let sent = async {
            write.write_all(&vec![1; 4 << 20]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut back = Vec::new();
        let (_, received) = futures::join!(sent, read.read_to_end(&mut back));
        assert_eq!(received.unwrap(), 4 << 20);
        assert!(
            (4.0..6.0).contains(&began.elapsed().as_secs_f64()),
            "{:?}",
            began.elapsed()
        );
    });
}

#[test]
fn one_seed_gives_one_history() {
    let history = |seed| {
        block_on(async move {
            let pair = pair(seed);
            let rough = Link {
                lost: 0.2,
                twice: 0.2,
                ..Link::default()
            };
            pair.network.set_usual_link(rough);
            let calls: Vec<_> = (0..50).map(|_| pair.call()).collect();
            futures::future::join_all(calls).await;
            let trace = &pair.network.0.trace;
            (trace.hash(), trace.lines())
        })
    };
    assert_eq!(history(1), history(1));
    assert_ne!(history(1).0, history(2).0);
}

#[test]
fn what_a_held_node_is_sent_comes_when_it_goes_on() {
    block_on(async {
        let pair = pair(1);
        let (began, held) = (Instant::now(), DEADLINE / 2);
        pair.network.hold(TWO, began + held);
        assert_eq!(pair.call().await.unwrap(), "1");
        assert!(began.elapsed() >= held);
        pair.network.hold(ONE, Instant::now() + 2 * DEADLINE);
        let error = pair.call().await.unwrap_err();
        assert!(
            matches!(error, TransportError::DeadlineExceeded(TWO)),
            "{error}"
        );
        assert_eq!((pair.handled(), pair.network.calls(SERVICE)), (1, 2));
    });
}
