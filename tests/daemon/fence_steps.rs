//! A daemon stands still at every step of a switchover and of a bootstrap, and wakes when everything is over.

use std::time::Duration;

use anyhow::ensure;
use ptarmigan_testkit::{http::Request, wait_until};
use rustix::process::Signal;
use serde_json::json;

use crate::{
    short_lease::ready,
    site::{LIMIT, Site},
};

/// Between two tries of the prober.
const OFTEN: Duration = Duration::from_millis(10);

const LEASE: Duration = Duration::from_secs(3);

/// The old leader's steps, in their order.
const OLD: &[&str] = &[
    "demote: begun",
    "demote: no session left",
    "demote: the guardian knows",
    "release: begun",
    "release: done",
    "demote: stopped",
];

/// The candidate's.
const NEW: &[&str] = &[
    "race: answered",
    "promote: begun",
    "promote: counts as a primary",
    "promote: the guardian knows",
    "promote: ordered",
    "promote: done",
];

async fn stands_still(site: &Site, index: usize, place: &str) {
    wait_until(place, 2 * LIMIT, || async {
        ensure!(!site.node(index).is_planned(), "{}", site.node(index).log_tail(5));
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_old_leader_that_stands_still_at_any_step_of_a_switchover_leaves_no_second_primary() {
    at_each("steps-old", OLD, false).await;
}

#[tokio::test]
async fn a_candidate_that_stands_still_at_any_step_of_a_switchover_leaves_no_second_primary() {
    at_each("steps-new", NEW, true).await;
}

async fn at_each(name: &str, places: &[&str], is_candidate: bool) {
    let (mut site, mut leader) = ready(name, 1).await;
    let (prober, mut writer) = (site.prober_every(OFTEN), site.writer());
    for place in places {
        writer.wait_for_rows(20, LIMIT).await.unwrap();
        site.everything_streamed(leader).await;
        let candidate = (leader + 1) % 3;
        let still = if is_candidate { candidate } else { leader };
        site.node(still).plan(&format!("stop {place}")).unwrap();
        let body = json!({"leader": site.name(leader), "candidate": site.name(candidate)});
        let address = site.node(leader).rest_address();
        wait_until(place, 2 * LIMIT, || async {
            // Whoever stands still does not answer; one that is not ready for it yet is asked again.
            let request = Request::new("POST", &address, "/switchover").body(body.to_string());
            let answer = request.timeout(Duration::from_secs(3)).send().await;
            ensure!(!site.node(still).is_planned(), "{answer:?} {}", site.node(still).log_tail(5));
            Ok(())
        })
        .await
        .unwrap();
        // Longer than a lease: whatever it held is over.
        let since = ptarmigan_clock::now();
        wait_until("the others to go on without it", 3 * LIMIT, || async {
            ensure!(ptarmigan_clock::now().since(since) > 2 * LEASE, "not yet");
            let row = writer.last_acknowledged().unwrap();
            ensure!(row.target != still && row.at > since, "{row:?}");
            Ok(())
        })
        .await
        .unwrap();
        let lines = site.log_lines(still);
        site.node_mut(still).signal(Signal::CONT).unwrap();
        // Its own job ends, and it looks again.
        site.wait_for_log(still, lines, "no action. I am (").await;
        leader = site.settled().await;
        eprintln!("{place}: {} leads", site.name(leader));
    }
    writer.stop();
    prober.finish();
}

/// Nobody else has data, and the cluster's beginning is taken: the others wait for it.
#[tokio::test]
async fn a_bootstrap_goes_on_where_its_daemon_stood_still() {
    for place in ["bootstrap: data made", "bootstrap: started", "bootstrap: users made"] {
        let mut site = Site::asleep("steps-bootstrap", 2).await;
        site.cluster.store.restart(0).await.unwrap();
        let prober = site.prober_every(OFTEN);
        site.node(0).plan(&format!("stop {place}")).unwrap();
        site.node_mut(0).start().unwrap();
        stands_still(&site, 0, place).await;
        site.node_mut(1).start().unwrap();
        site.wait_for_log(1, 0, "waiting for leader to bootstrap").await;
        assert!(site.key("initialize").await.is_some_and(|key| key.value.is_empty()));
        assert_eq!(site.key("leader").await, None);
        assert!(!site.node(1).data_dir().join("PG_VERSION").exists());
        site.node_mut(0).signal(Signal::CONT).unwrap();
        assert_eq!(site.settled().await, 0, "{place}");
        site.assert_one_cluster().await;
        assert_eq!(site.said("initialized a new cluster"), 1, "{place}");
        prober.finish();
    }
}
