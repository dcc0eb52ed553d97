//! The REST API (contract surface A): the server, and the client that asks peers.

pub mod request;
pub mod snapshot;
