//! `GET /readiness`: clients may be sent here.

use crate::{answer::Answer, query::Query, reported::Reported, routes::Context, verdict};

pub(super) fn get(context: &Context, query: &Query) -> Answer {
    let snapshot = context.snapshot.load();
    let reported = Reported::at(&snapshot, ptarmigan_clock::now());
    context.refresh_in_background(&reported);
    Answer::bare(if context.is_stopping() { 503 } else { verdict::readiness(&reported, query) })
}
