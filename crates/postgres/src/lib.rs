//! One local PostgreSQL: its programs, files, processes and queries.
//!
//! [`Postgres`] is the handle that everything else is called on; it is cheap to clone and may be shared. Nothing here
//! decides anything: the HA loop does, and calls.
//!
//! - the running server: [`postmaster`], [`stop`], [`promote`], [`status`], [`connection`];
//! - its files: [`files`], [`recovery`], [`guc`], [`pending_restart`], [`controldata`], [`pgpass`];
//! - how a data directory comes to be or is repaired: the bootstrap, basebackup, rewind and crash recovery modules;
//! - running programs: [`binaries`], [`command`].

pub mod binaries;
pub mod command;
pub mod connection;
pub mod controldata;
pub mod data_directory;
pub mod dsn;
pub mod handle;
pub mod pgpass;
pub mod replication;
pub mod slots;
pub mod status;
pub mod tls;
pub mod version;

pub use binaries::Tool;
pub use connection::{Purpose, Session};
pub use controldata::{ControlData, ControlState};
pub use dsn::ConnInfo;
pub use handle::{Login, Options, Postgres};
pub use status::ServerStatus;
pub use version::ServerVersion;
