//! The agent: one node's HA loop. It observes, asks the core (`ptarmigan-ha`) what to do, and does it; it is the only
//! crate that acts.
//!
//! - [`agent`] is the loop; [`observe`] gathers, [`execute`] carries out, [`publish`] tells REST and the others;
//! - [`jobs`] are the long actions, at most one at a time; [`requests`] is what operators ask for over REST;
//! - [`server`] starts and stops PostgreSQL, and runs the operator's callbacks as it goes;
//! - [`remote`] is the other end of a standby cluster;
//! - [`start`] and [`shutdown`] are the two ends, [`run`] ties them together with signals and systemd.

pub mod agent;
pub mod apply;
pub mod beside;
pub mod configuration;
pub mod execute;
pub mod failsafe;
pub mod fence;
pub mod figures;
pub mod health;
pub mod history;
pub mod jobs;
pub mod journal;
pub mod kept_file;
pub mod lease;
pub mod local;
pub mod logging;
pub mod margin;
pub mod member;
pub mod node;
pub mod observe;
pub mod overrun;
pub mod peers;
mod planned;
pub mod postmaster;
pub mod publish;
pub mod release;
pub mod remote;
pub mod requests;
pub mod run;
pub mod server;
pub mod shutdown;
pub mod slots;
pub mod start;
pub mod status;
pub mod synchronous;
#[cfg(test)]
mod testing;
pub mod unfinished_rewind;
pub mod upgrade;
pub mod watchdog;

pub use run::run;
