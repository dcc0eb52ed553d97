//! `GET /why`: the decisions of this node, oldest first.

use crate::{answer::Answer, request::Request, routes::Context};

pub(super) async fn get(context: &Context) -> Answer {
    context.ask_dcs(Request::Why).await
}
