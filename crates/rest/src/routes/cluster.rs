//! `GET /cluster`: the topology, read from the DCS now.

use crate::{answer::Answer, request::Request, routes::Context};

pub(super) async fn get(context: &Context) -> Answer {
    context.ask_dcs(Request::Cluster).await
}
