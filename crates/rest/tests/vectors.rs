//! Every row of the contract's vectors: verdicts, query parameters and status documents.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::{sync::Arc, time::Duration};

use ptarmigan_rest::{Reported, document::status_document, query::Query, verdict};
use ptarmigan_types::{Monotonic, pyjson};
use support::{query_rows, replica, situation, start_replica};

const NOW: Monotonic = Monotonic(3_600_000_000);

fn verdict_of(reported: &Reported<'_>, path_and_query: &str) -> u16 {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let query = Query::parse(query);
    match path.trim_start_matches('/').split('/').next() {
        Some("readiness") => verdict::readiness(reported, &query),
        Some("liveness") => verdict::liveness(reported),
        _ => verdict::health(reported, path, &query),
    }
}

#[test]
fn health_matrix() {
    let mut lines = include_str!("../testdata/health_matrix.tsv").lines();
    let paths: Vec<&str> = lines.next().unwrap().split('\t').skip(2).collect();
    let mut checked = 0;
    for line in lines {
        let cells: Vec<&str> = line.split('\t').collect();
        let snapshot = situation(cells[0], NOW);
        let reported = Reported::at(&snapshot, NOW);
        for (path, code) in paths.iter().zip(&cells[2..]) {
            assert_eq!(verdict_of(&reported, path).to_string(), *code, "{} {path}", cells[0]);
            checked += 1;
        }
    }
    assert_eq!(checked, 36 * 21);
}

/// `/patroni/foo` is the one row that is no verdict; [`query_vectors_over_tcp`] covers it.
#[test]
fn query_vectors() {
    let rows = query_rows();
    assert_eq!(rows.len(), 77);
    for row in rows.iter().filter(|row| row.path != "/patroni/foo") {
        let snapshot = row.snapshot(NOW);
        let reported = Reported::at(&snapshot, NOW);
        assert_eq!(verdict_of(&reported, &row.path), row.code, "{} {} {}", row.scenario, row.path, row.setup);
    }
}

#[test]
fn query_vectors_over_tcp() {
    let node = start_replica();
    for row in query_rows() {
        node.snapshot.store(Arc::new(row.snapshot(ptarmigan_clock::now())));
        let answer = node.get(&row.path);
        assert_eq!(answer.status, row.code, "{} {} {}", row.scenario, row.path, row.setup);
    }
}

#[test]
fn status_bodies() {
    let mut checked = 0;
    for line in include_str!("../testdata/status_bodies.tsv").lines() {
        let (scenario, body) = line.split_once('\t').unwrap();
        let snapshot = situation(scenario, NOW);
        assert_eq!(pyjson::spaced(&status_document(&Reported::at(&snapshot, NOW))), body, "{scenario}");
        checked += 1;
    }
    assert_eq!(checked, 36);
}

/// `HEAD` and `OPTIONS` know the health family only.
#[test]
fn a_1_dedicated_paths_have_no_verdict_of_their_own() {
    let snapshot = situation("primary_locked", NOW);
    let reported = Reported::at(&snapshot, NOW);
    for path in ["liveness", "readiness", "cluster", "metrics", "patroni", "config", "history", "failsafe"] {
        assert_eq!(verdict::health(&reported, &format!("/{path}"), &Query::default()), 503, "{path}");
    }
}

#[test]
fn old_figures_count_as_unknown() {
    let snapshot = replica(NOW);
    let limit = NOW + snapshot.global.loop_wait + Duration::from_secs(5);
    let late = limit + Duration::from_micros(1);
    let health = |now| verdict::health(&Reported::at(&snapshot, now), "/replica", &Query::default());
    assert_eq!((health(limit), health(late)), (200, 503));
    let document = status_document(&Reported::at(&snapshot, late));
    assert_eq!(document["state"], "unknown");
    assert!(document.get("xlog").is_none());
}

#[test]
fn figures_of_a_dead_postmaster_do_not_count() {
    let mut snapshot = replica(NOW);
    snapshot.postmaster_alive = false;
    assert_eq!(verdict::health(&Reported::at(&snapshot, NOW), "/replica", &Query::default()), 503);
}

#[test]
fn a_2_lease_and_view_end_at_their_moment() {
    let mut snapshot = situation("primary_locked", NOW);
    let until = snapshot.leader_until.unwrap();
    snapshot.view.as_mut().unwrap().at = NOW;
    let health = |now, path| verdict::health(&Reported::at(&snapshot, now), path, &Query::default());
    let just_before = Monotonic(until.0 - 1);
    assert_eq!((health(just_before, "/primary"), health(until, "/primary")), (200, 503));
    let reported_at = |now| status_document(&Reported::at(&snapshot, now)).get("cluster_unlocked").is_some();
    let expiry = NOW + snapshot.global.ttl;
    assert!(!reported_at(Monotonic(expiry.0 - 1)));
    assert!(reported_at(expiry));
}

#[test]
fn a_9_liveness_gives_a_running_primary_one_ttl() {
    let ttl = Duration::from_secs(30);
    let mut snapshot = situation("primary_locked", NOW);
    let live = |snapshot: &_, now| verdict::liveness(&Reported::at(snapshot, now));
    let one = snapshot.next_run + ttl;
    assert_eq!((live(&snapshot, Monotonic(one.0 - 1)), live(&snapshot, one)), (200, 503));
    snapshot.postmaster_alive = false;
    assert_eq!((live(&snapshot, one), live(&snapshot, one + ttl)), (200, 503));
    snapshot.global.pause = true;
    assert_eq!(live(&snapshot, one + ttl), 200);
}
