//! Ptarmigan and the real Patroni, installed from PyPI: what one writes the other reads, in one cluster.
//!
//! `PTARMIGAN_OFFLINE=1` leaves these tests out, with a line that says so; without it a missing network is a failure.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![expect(clippy::print_stdout, reason = "what was observed belongs into the output of the test")]

mod codec;
mod generate;
mod lab;
mod mixed;
mod prober;
mod rest;
mod swap;
mod tour;
mod warnings;
