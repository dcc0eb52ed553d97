//! What would happen if a member were lost (`ptctl check --if-lost`).

mod support;

use std::time::Duration;

use ptarmigan_ha::{
    facts::PeerAnswer,
    forecast::{Forecast, Settings, if_lost},
};
use ptarmigan_types::{Cluster, Lsn, MemberName};
use support::*;

const MEGABYTE: u64 = 1 << 20;

fn cluster() -> Cluster {
    let mut scene = Scene::standby();
    let view = scene.view();
    view.leader = Some(leader("a"));
    view.status.last_lsn = Lsn(100 * MEGABYTE);
    view.clone()
}

fn settings() -> Settings {
    Settings {
        ttl: Duration::from_secs(30),
        maximum_lag_bytes: MEGABYTE,
        check_timeline: false,
        strict: false,
        failsafe_mode: false,
        pause: false,
    }
}

type Answers = Vec<(MemberName, Result<PeerAnswer, String>)>;

/// `b` has everything, `c` is that many bytes behind.
fn answers(behind: u64) -> Answers {
    let at =
        |who: &str, lsn: u64| (name(who), Ok(PeerAnswer { lsn: Lsn(lsn), timeline: Some(1), ..peer(who) }));
    vec![at("c", 100 * MEGABYTE - behind), at("b", 100 * MEGABYTE)]
}

fn lost(who: &str, cluster: &Cluster, settings: &Settings, answers: &Answers) -> Forecast {
    if_lost(cluster, settings, answers, &name(who))
}

fn objection(forecast: &Forecast, who: &str) -> Option<String> {
    let standing = forecast.standings.iter().find(|standing| standing.name == name(who));
    standing.unwrap_or_else(|| panic!("{who} in {forecast:?}")).objection.clone()
}

#[test]
fn the_one_with_the_most_wal_takes_over_from_a_lost_leader() {
    let forecast = lost("a", &cluster(), &settings(), &answers(1000));
    assert_eq!((forecast.leads, forecast.winner.clone()), (true, Some(name("b"))));
    assert_eq!((forecast.lost_bytes, forecast.until_takeover), (Some(0), Duration::from_secs(30)));
    assert_eq!(forecast.warnings, Vec::<String>::new());
    assert_eq!(forecast.standings[0].name, name("b"));
    let far = lost("a", &cluster(), &settings(), &answers(33 * MEGABYTE));
    assert_eq!(objection(&far, "c").unwrap(), "34603008 bytes behind, limit 1048576");
    assert_eq!(far.warnings, ["b is the only one that can take over"]);
}

#[test]
fn what_keeps_everybody_from_leading_is_told() {
    let paused = Settings { pause: true, ..settings() };
    let forecast = lost("a", &cluster(), &paused, &answers(0));
    assert_eq!((forecast.winner, forecast.warnings.len()), (None, 1));
    let mut silent = answers(33 * MEGABYTE);
    silent[1].1 = Err("no answer within 2 s".into());
    let forecast = lost("a", &cluster(), &settings(), &silent);
    assert_eq!(objection(&forecast, "b").unwrap(), "does not answer: no answer within 2 s");
    assert_eq!((forecast.winner, &*forecast.warnings), (None, &["nobody can take over".to_owned()][..]));
    let mut tagged = answers(0);
    for (_, answer) in &mut tagged {
        let answer = answer.as_mut().unwrap();
        answer.tags = tags(&serde_json::json!({"nofailover": true}));
    }
    let forecast = lost("a", &cluster(), &settings(), &tagged);
    assert_eq!(objection(&forecast, "c").unwrap(), "nofailover");
    let timelines = Settings { check_timeline: true, ..settings() };
    let mut later = cluster();
    later.history = Some(history(&[1, 2]));
    let forecast = lost("a", &later, &timelines, &answers(0));
    assert_eq!(objection(&forecast, "b").unwrap(), "on timeline 1, the cluster is on 3");
}

#[test]
fn synchronous_replication_says_who_may_and_loses_nothing() {
    let mut priority = cluster();
    priority.sync = sync("a", &["c"], 0);
    let forecast = lost("a", &priority, &settings(), &answers(1000));
    assert_eq!((forecast.winner.clone(), forecast.lost_bytes), (Some(name("c")), None));
    assert_eq!(objection(&forecast, "b").unwrap(), "is no synchronous standby (/sync)");
    let mut quorum = cluster();
    quorum.sync = sync("a", &["b", "c"], 1);
    assert_eq!(lost("a", &quorum, &settings(), &answers(0)).winner, Some(name("b")));
    let mut limited = answers(0);
    limited[0].1.as_mut().unwrap().tags = tags(&serde_json::json!({"nofailover": true}));
    assert_eq!(lost("a", &quorum, &settings(), &limited).winner, None, "its vote does not count");
    let far = lost("a", &priority, &settings(), &answers(33 * MEGABYTE));
    assert_eq!(far.winner, None, "HN-1 counts here too");
    let mut silent = answers(0);
    silent[0].1 = Err("down".into());
    let forecast = lost("a", &quorum, &settings(), &silent);
    assert_eq!(
        (forecast.winner, &*forecast.warnings[0]),
        (None, "0 of 1 votes can be had: nobody takes over")
    );
}

#[test]
fn a_lost_replica_leaves_the_leader_and_what_it_was_needed_for() {
    let mut view = cluster();
    view.sync = sync("a", &["b"], 0);
    view.failsafe = Some(failsafe_of(&["a", "b", "c"]));
    let settings = Settings { strict: true, failsafe_mode: true, ..settings() };
    let forecast = lost("b", &view, &settings, &answers(0));
    assert_eq!((forecast.leads, forecast.winner.clone()), (false, Some(name("a"))));
    assert_eq!(forecast.warnings.len(), 3, "{forecast:?}");
    assert!(forecast.warnings[1].contains("the mode is strict"), "{forecast:?}");
    assert_eq!(lost("c", &cluster(), &self::settings(), &answers(0)).warnings, Vec::<String>::new());
}
