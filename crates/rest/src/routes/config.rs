//! `GET`, `PATCH` and `PUT /config`: the dynamic configuration.

use hyper::{Request, body::Incoming};

use crate::{
    answer::Answer,
    body,
    document::config_document,
    reported::Reported,
    request::{self, Reply},
    routes::Context,
};

/// 502 where the key is missing or is not an object.
pub(super) fn get(context: &Context) -> Answer {
    let snapshot = context.snapshot.load();
    let Some(cluster) = Reported::at(&snapshot, ptarmigan_clock::now()).view else {
        return Reply::dcs_unreachable().into();
    };
    match config_document(cluster) {
        Some(config) => Answer::json(200, config),
        None => Answer::page(502, "there is no valid configuration in the DCS"),
    }
}

/// The object is merged into the one that is stored.
pub(super) async fn patch(context: &Context, request: Request<Incoming>) -> Result<Answer, Answer> {
    let patch = body::required(request).await?;
    Ok(context.ask_dcs(request::Request::PatchConfig(patch)).await)
}

/// The object replaces the one that is stored.
pub(super) async fn put(context: &Context, request: Request<Incoming>) -> Result<Answer, Answer> {
    let config = body::required(request).await?;
    Ok(context.ask_dcs(request::Request::PutConfig(config)).await)
}
