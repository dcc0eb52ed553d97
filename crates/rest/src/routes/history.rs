//! `GET /history`: the finished timelines.

use crate::{
    answer::Answer, document::history_document, reported::Reported, request::Reply, routes::Context,
};

pub(super) fn get(context: &Context) -> Answer {
    let snapshot = context.snapshot.load();
    match Reported::at(&snapshot, ptarmigan_clock::now()).view {
        Some(cluster) => Answer::json(200, history_document(cluster)),
        None => Reply::dcs_unreachable().into(),
    }
}
