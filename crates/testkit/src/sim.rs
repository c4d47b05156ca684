//! Machines and networks in memory: the production code runs on them, and one seed decides all that happens.
//!
//! Everything runs on one thread with paused time ([`block_on`]): when all tasks wait, time jumps to the next timer.
//! The same seed gives the same run, which [`Trace`] shows. What breaks that: threads, real sockets and files, the
//! order of a `HashMap`, a `select!` that is not `biased`.

mod content;
mod disk;
mod inode;
mod names;
mod network;
mod platform;
mod trace;

pub use disk::{Fault, FaultOn, SimDisk, SimFile};
pub use network::{Link, SimNetwork};
pub use platform::{SimPlatform, SimPlatformConfig};
pub use trace::Trace;

/// Runs a simulation to its end on this thread, its clock paused.
///
/// # Panics
/// When no runtime can be built, or `simulation` panics.
pub fn block_on<T>(simulation: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without i/o can be built");
    runtime.block_on(simulation)
}
