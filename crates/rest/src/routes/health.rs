//! The health family: `GET`, `HEAD` and `OPTIONS` of every path without a handler of its own.

use crate::{
    answer::Answer, document::status_document, query::Query, reported::Reported, routes::Context, verdict,
};

/// The status document under the verdict's status.
pub(super) fn get(context: &Context, path: &str, query: &Query) -> Answer {
    let snapshot = context.snapshot.load();
    let reported = Reported::at(&snapshot, ptarmigan_clock::now());
    context.refresh_in_background(&reported);
    Answer::json(status(context, &reported, path, query), status_document(&reported))
}

/// The bare verdict.
pub(super) fn head(context: &Context, path: &str, query: &Query) -> Answer {
    let snapshot = context.snapshot.load();
    let reported = Reported::at(&snapshot, ptarmigan_clock::now());
    context.refresh_in_background(&reported);
    Answer::bare(status(context, &reported, path, query))
}

fn status(context: &Context, reported: &Reported<'_>, path: &str, query: &Query) -> u16 {
    if context.is_stopping() { 503 } else { verdict::health(reported, path, query) }
}
