//! `GET /liveness`: the HA loop is alive.

use crate::{answer::Answer, reported::Reported, routes::Context, verdict};

pub(super) fn get(context: &Context) -> Answer {
    let snapshot = context.snapshot.load();
    let reported = Reported::at(&snapshot, ptarmigan_clock::now());
    Answer::bare(if context.is_stopping() { 503 } else { verdict::liveness(&reported) })
}
