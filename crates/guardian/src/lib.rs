//! The guardian: a small process that is PostgreSQL's parent, so that PostgreSQL outlives the daemon and
//! counts as dead only when its last process is gone.
//!
//! - [`server`] is `ptarmigan-guardian` itself: one thread, a poll loop, no async runtime.
//! - [`client`] (feature `client`, on by default) finds or starts it for the daemon and speaks to it.
//! - [`protocol`] is what the two say to each other, [`run_dir`] where they meet.
//! - [`process`] and [`foreign`] are facts about processes that nobody of ours started.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
pub mod foreign;
pub mod process;
pub mod protocol;
pub mod run_dir;
pub mod server;
#[cfg(feature = "client")]
mod spawn;

#[cfg(feature = "client")]
pub use client::{Guardian, Options, PostmasterEvent};
#[cfg(feature = "client")]
pub use foreign::{ForeignProcess, watch_foreign};
pub use protocol::{
    AdoptRequest, ClientRole, Deadline, Exit, Fence, Hello, How, Postmaster, SignalName, StartRequest, State,
    Status,
};

/// A process id as the kernel and `postmaster.pid` write it. Only positive ones name a process.
pub type RawPid = i32;
