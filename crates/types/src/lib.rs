//! The domain's words: log positions, timelines, member names, tags, the cluster as the DCS shows it,
//! and the wire form of each. No I/O, no clock, no randomness: this crate builds for `wasm32-unknown-unknown`.

pub mod cluster;
pub mod conn_url;
pub mod control;
pub mod failover;
pub mod failsafe;
pub mod history;
pub mod keys;
pub mod lease;
pub mod lsn;
pub mod member;
pub mod merge;
pub mod pyjson;
pub mod scalar;
pub mod schedule;
pub mod service_name;
pub mod slot;
pub mod status;
pub mod sync;
pub mod tags;
pub mod time;
pub mod version;

pub use cluster::{Cluster, DynamicConfig, Initialize, Leader, LeaseId, Member, RawValue, Revision};
pub use control::ControlState;
pub use failover::{Failover, ScheduledAt};
pub use failsafe::FailsafeRequest;
pub use history::{History, HistoryEntry};
pub use keys::{ClusterPath, Key};
pub use lsn::Lsn;
pub use member::{MemberData, MemberName, MemberState, Role};
pub use merge::merge;
pub use schedule::{ScheduleError, parse_schedule};
pub use status::Status;
pub use sync::SyncState;
pub use tags::Tags;
pub use time::Monotonic;

/// A PostgreSQL timeline number. Timeline 0 does not exist.
pub type Timeline = u32;
