//! `GET /metrics`: what monitoring reads every few seconds, from the published snapshot.

use crate::{answer::Answer, metrics::metrics_text, reported::Reported, routes::Context};

/// 200 whatever the state, also while the process is going away: a metric is no verdict.
pub(super) fn get(context: &Context) -> Answer {
    let snapshot = context.snapshot.load();
    let reported = Reported::at(&snapshot, ptarmigan_clock::now());
    context.refresh_in_background(&reported);
    Answer::metrics(metrics_text(&reported))
}
