//! Whole clusters in virtual time: members that run the very decision of the daemon, with a model PostgreSQL, a model DCS,
//! a model network and clients that remember what was acknowledged. One thread, one event queue, one seeded generator: the
//! same seed gives the same run, byte for byte.

pub mod agent;
pub mod bugs;
pub mod callbacks;
pub mod checkers;
pub mod counts;
pub mod database;
pub mod dcs;
pub mod execute;
pub mod failsafe;
pub mod faults;
pub mod guardian;
mod jobs;
pub mod logical;
pub mod maintenance;
pub mod member;
pub mod operator;
pub mod postgres;
pub mod random;
pub mod remote;
pub mod replay;
pub mod run;
pub mod scenario;
pub mod slots;
pub mod store;
pub mod synchronous;
pub mod timelines;
pub mod trace;
pub mod world;

pub use bugs::Bug;
pub use checkers::{Kind, Violation};
pub use counts::Counts;
pub use run::{Options, Report, simulate};
