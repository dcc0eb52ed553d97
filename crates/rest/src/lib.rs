//! The REST API (contract surface A): the server, and the client that asks peers.
//!
//! Health answers come from the published [`Snapshot`] and never wait for the agent or for PostgreSQL. Everything
//! that changes something, or needs a fresh view, goes to the agent through [`Requests`].

pub mod document;
pub mod metrics;
pub mod peer;
pub mod query;
pub mod reported;
pub mod request;
pub mod server;
pub mod snapshot;
pub mod verdict;
pub mod why;

mod answer;
mod auth;
mod body;
mod exposition;
mod listen;
mod routes;

pub use document::cluster_document;
pub use peer::{Client, PeerStatus};
pub use reported::Reported;
pub use request::{Body, Envelope, FailoverRequest, Reply, Request, Requests, RestartRequest};
pub use server::{Handle, Server, spawn_thread};
pub use snapshot::{CachedView, Figures, GlobalSettings, Snapshot};
