//! The runtime that openraft runs on: tokio, with two things that a simulation can rely on.
//!
//! - Random numbers (election timeouts, the phase of clocks) come from a generator that [`seed_elections`] seeds for the
//!   calling thread; without a seed they are the system's.
//! - A watch wakes its receivers in the order in which they began to wait. Tokio's draws that order by chance, from a
//!   generator that nobody can seed; which of two followers is sent an entry first would differ from run to run.

use std::cell::RefCell;
use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use openraft_rt::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft_rt::{AsyncRuntime, OptionalSend, OptionalSync};
use openraft_rt_tokio::TokioRuntime;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::Notify;
use tokio::task::coop::cooperative;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Makes this thread's election timeouts follow from `seed` (for simulations on one thread); `None` goes back to the
/// system's randomness.
pub fn seed_elections(seed: Option<u64>) {
    SEEDED.with(|rng| *rng.borrow_mut() = seed.map(StdRng::seed_from_u64));
}

/// This thread's generator: the seeded one, else the system's.
pub struct ThreadRng;

impl rand::TryRng for ThreadRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(SEEDED.with(|rng| {
            rng.borrow_mut()
                .as_mut()
                .map_or_else(|| rand::rng().next_u32(), Rng::next_u32)
        }))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(SEEDED.with(|rng| {
            rng.borrow_mut()
                .as_mut()
                .map_or_else(|| rand::rng().next_u64(), Rng::next_u64)
        }))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        SEEDED.with(|rng| match rng.borrow_mut().as_mut() {
            Some(rng) => rng.fill_bytes(out),
            None => rand::rng().fill_bytes(out),
        });
        Ok(())
    }
}

/// Tokio, with [`ThreadRng`] and [`OrderedWatch`].
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = ThreadRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        ThreadRng
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

/// A watch whose receivers wake in the order in which they began to wait.
#[derive(Debug)]
pub struct OrderedWatch;

struct Shared<T> {
    state: RwLock<State<T>>,
    changed: Notify,
    senders: AtomicUsize,
    receivers: AtomicUsize,
}

struct State<T> {
    value: T,
    version: u64,
}

/// The newest value; holds a lock on it, so keep it for a moment only.
pub struct Newest<'a, T>(RwLockReadGuard<'a, State<T>>);

impl<T> Deref for Newest<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Shared<T> {
    fn read(&self) -> RwLockReadGuard<'_, State<T>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn modify(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if !change(&mut state.value) {
                return false;
            }
            state.version += 1;
        }
        self.changed.notify_waiters();
        true
    }

    /// A receiver to whom the present value is known.
    fn receiver(self: &Arc<Self>) -> OrderedReceiver<T> {
        self.receivers.fetch_add(1, Ordering::AcqRel);
        OrderedReceiver {
            shared: self.clone(),
            seen: self.read().version,
        }
    }
}

impl Watch for OrderedWatch {
    type Sender<T: OptionalSend + OptionalSync> = OrderedSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = OrderedReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Newest<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        let state = State {
            value: init,
            version: 0,
        };
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            changed: Notify::new(),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
        });
        let receiver = shared.receiver();
        (OrderedSender { shared }, receiver)
    }
}

/// The sending half of an [`OrderedWatch`].
pub struct OrderedSender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for OrderedSender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::AcqRel);
        OrderedSender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for OrderedSender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.changed.notify_waiters();
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<OrderedWatch, T> for OrderedSender<T> {
    fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        if self.shared.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        // Swapped, so that the old value is dropped without the lock.
        self.shared.modify(|current| {
            std::mem::swap(current, &mut value);
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.shared.modify(modify)
    }

    fn borrow_watched(&self) -> Newest<'_, T> {
        Newest(self.shared.read())
    }

    fn subscribe(&self) -> OrderedReceiver<T> {
        self.shared.receiver()
    }
}

/// The receiving half of an [`OrderedWatch`].
pub struct OrderedReceiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Clone for OrderedReceiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::AcqRel);
        OrderedReceiver {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Drop for OrderedReceiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<T> OrderedReceiver<T> {
    async fn newer(&mut self) -> Result<(), RecvError> {
        loop {
            // Both before the look at the version: a change that comes after it is told, the last one is not missed.
            let told = self.shared.changed.notified();
            let closed = self.shared.senders.load(Ordering::Acquire) == 0;
            let version = self.shared.read().version;
            if version != self.seen {
                self.seen = version;
                return Ok(());
            }
            if closed {
                return Err(RecvError(()));
            }
            told.await;
        }
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<OrderedWatch, T> for OrderedReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        cooperative(self.newer()).await
    }

    fn borrow_watched(&self) -> Newest<'_, T> {
        Newest(self.shared.read())
    }

    fn borrow_and_update(&mut self) -> Newest<'_, T> {
        let state = self.shared.read();
        self.seen = state.version;
        Newest(state)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    #[tokio::test]
    async fn waiters_wake_in_the_order_in_which_they_came() {
        let (sender, receiver) = OrderedWatch::channel(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = JoinSet::new();
        for number in 0..20 {
            let (mut receiver, order) = (receiver.clone(), order.clone());
            waiting.spawn(async move {
                receiver.changed().await.unwrap();
                order.lock().unwrap().push(number);
            });
        }
        yield_now().await;
        sender.send(1).unwrap();
        while waiting.join_next().await.is_some() {}
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_last_value_is_seen_and_then_the_end() {
        let (sender, mut receiver) = OrderedWatch::channel(0);
        let mut late = sender.subscribe();
        assert!(!sender.send_if_modified(|_| false));
        sender.clone().send(7).unwrap();
        drop(sender);
        assert_eq!(receiver.changed().await, Ok(()));
        assert_eq!(*receiver.borrow_watched(), 7);
        assert_eq!(receiver.changed().await, Err(RecvError(())));
        assert_eq!(*late.borrow_and_update(), 7);
        assert_eq!(late.changed().await, Err(RecvError(())));
    }

    #[test]
    fn nobody_listens_to_a_watch_without_receivers() {
        let (sender, receiver) = OrderedWatch::channel(0);
        drop(receiver);
        assert_eq!(sender.send(1), Err(SendError(1)));
        assert_eq!(*sender.borrow_watched(), 0);
    }
}
