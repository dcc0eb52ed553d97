//! `GET /patroni`: the status document with figures that are newer than the question, for monitoring and for peers
//! in a leader race, who compare positions.

use std::time::Duration;

use ptarmigan_types::Monotonic;

use crate::{
    answer::Answer, document::status_document, reported::Reported, request::Request, routes::Context,
};

/// Peers give up after 2 s.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(1500);

/// 200 whatever the state. Without figures (PostgreSQL down, not answering, or the daemon on its way out) the
/// document has no `xlog`, which tells peers to leave this node out.
pub(super) async fn get(context: &Context) -> Answer {
    let asked_at = ptarmigan_clock::now();
    if context.is_stopping() {
        let snapshot = context.snapshot.load();
        return Answer::json(503, status_document(&Reported::at(&snapshot, asked_at).without_figures()));
    }
    // An answer that does not come in time leaves the last figures: on a standby they are a lower bound.
    let _ = tokio::time::timeout(REFRESH_TIMEOUT, refresh(context, asked_at)).await;
    let snapshot = context.snapshot.load();
    Answer::json(200, status_document(&Reported::at(&snapshot, ptarmigan_clock::now())))
}

/// Any number of requests that wait here are served by one question to the agent.
async fn refresh(context: &Context, asked_at: Monotonic) {
    if !may_answer(context) {
        return;
    }
    let _turn = context.refreshing.lock().await;
    if context.snapshot.load().figures.as_ref().is_some_and(|figures| figures.at >= asked_at) {
        return;
    }
    let _ = context.requests.ask(Request::RefreshFigures).await;
}

/// The state is one in which PostgreSQL is asked at all (contract surface A.4).
fn may_answer(context: &Context) -> bool {
    let snapshot = context.snapshot.load();
    snapshot.postmaster_alive && Reported::asks_postgres(snapshot.state)
}
