//! `POST /failsafe`: a leader that lost the DCS asks for a promise (contract FS-6 to FS-8, surface A.7).

use ptarmigan_ha::failsafe::Refusal;
use ptarmigan_rest::Reply;
use ptarmigan_types::FailsafeRequest;

use crate::{
    failsafe::{self, Error},
    node::Node,
};

/// The whole answer of who promises: Patroni compares it.
const ACCEPTED: &str = "Accepted";

pub(super) async fn post(node: &Node, request: &FailsafeRequest) -> Reply {
    match failsafe::promise(node, request).await {
        Ok(lsn) => Reply { lsn, ..Reply::text(200, ACCEPTED) },
        Err(error) => {
            let status = if matches!(error, Error::Refused(Refusal::Off)) { 502 } else { 500 };
            tracing::warn!("failsafe: no promise to {}: {error}", request.name);
            Reply::text(status, error.to_string())
        }
    }
}
