//! One local PostgreSQL: its programs, files, processes and queries.
//!
//! [`Postgres`] is the handle that everything else is called on; it is cheap to clone and may be shared. Nothing here
//! decides anything: the HA loop does, and calls.
//!
//! - the running server: [`postmaster`], [`stop`], [`promote`], [`status`], [`connection`];
//! - its files: [`files`], [`recovery`], [`guc`], [`pending_restart`], [`controldata`], [`pgpass`];
//! - how a data directory comes to be or is repaired: the bootstrap, basebackup, rewind and crash recovery modules;
//! - running programs: [`binaries`], [`command`].

pub mod archive;
mod basebackup;
pub mod binaries;
pub mod bootstrap;
pub mod clone;
pub mod command;
pub mod connection;
pub mod controldata;
pub mod crash_recovery;
pub mod data_directory;
pub mod dsn;
pub mod files;
pub mod greeting;
pub mod guc;
pub mod handle;
pub mod history;
pub mod libpq;
pub mod pending_restart;
pub mod pgpass;
pub mod postmaster;
pub mod promote;
pub mod recovery;
pub mod replication;
pub mod rewind;
pub mod slots;
pub mod status;
pub mod stop;
pub mod survey;
pub mod tls;
pub mod upstream;
pub mod version;
pub mod waldump;

#[cfg(test)]
mod testing;

pub use binaries::Tool;
pub use connection::{Purpose, Session};
pub use controldata::{ControlData, ControlState};
pub use dsn::ConnInfo;
pub use handle::{GuardianPlace, Login, Options, Postgres};
pub use pending_restart::{Change, PendingRestart};
pub use postmaster::{
    Running,
    readiness::Readiness,
    start::{StartRequest, Started},
};
pub use recovery::{Recovery, SlotChoice, Source, difference::Difference};
pub use status::ServerStatus;
pub use stop::{StopMode, StopRequest, Stopped};
pub use upstream::Upstream;
pub use version::ServerVersion;
