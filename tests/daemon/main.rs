//! The whole daemon over real processes: etcd, PostgreSQL, the guardian, `ptctl`. One file for each situation.
//!
//! `ptarmigan-guardian` is another package's program: build the workspace first (`make test` does).
//! `PTARMIGAN_KEEP=1` leaves the folders with logs and data in place.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests: a step that fails ends them, measurements are told"
)]

mod adoption;
mod ailing;
mod bootstrap;
mod callbacks;
mod cascade;
mod configuration;
mod consul;
mod container;
mod crash;
mod custom_bootstrap;
mod ending;
mod failover;
mod failsafe;
mod fence;
mod fence_by_hand;
mod fence_steps;
mod fence_ways;
mod interrupted_rewind;
mod leader_key;
mod logical_slots;
mod parameters;
mod pause;
mod prober;
mod refusals;
mod reinitialize;
mod relay;
mod scheduled_restart;
mod secrets;
mod short_lease;
mod site;
mod standby_cluster;
mod store;
mod switchover;
mod synchronous;
mod takeover;
mod upgrade;
mod watchdog;
