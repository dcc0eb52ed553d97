//! Nobody holds the lock: the race (contract B.10).

mod support;

use ptarmigan_ha::{
    Action, DemoteMode, Job, RewindState,
    action::{Divergence, ReloadAfter, When},
    candidates::can_take_over_with,
    memory::Yield,
};
use ptarmigan_types::{Lsn, MemberState, Role, ScheduledAt};
use serde_json::json;
use support::*;

const PROMOTE: Job = Job::Promote { timeline: Some(1) };
const NOT_HEALTHIEST: &str = "following a different leader because i am not the healthiest node";

#[test]
fn ha_130_while_wal_arrives_somebody_may_be_alive() {
    struct Case {
        backoff: u64,
        since: Option<u64>,
        previous: Option<Lsn>,
        streaming: bool,
        waits: Option<u64>,
    }
    let moved = Some(Lsn(HERE.0 - 1));
    let case =
        |backoff, since, previous, streaming, waits| Case { backoff, since, previous, streaming, waits };
    for Case { backoff, since, previous, streaming, waits } in [
        case(30, None, moved, true, Some(30)),
        case(30, None, Some(HERE), true, Some(30)),
        case(30, Some(989), moved, true, Some(19)),
        case(30, Some(989), Some(HERE), true, None),
        case(30, Some(989), moved, false, None),
        case(30, Some(990), Some(HERE), false, None),
        case(30, Some(991), Some(HERE), false, Some(21)),
        case(30, Some(970), moved, true, None),
        case(5, Some(996), Some(HERE), false, Some(1)),
        case(30, None, None, true, None),
        case(0, None, moved, true, None),
    ] {
        let played = Scene::unlocked()
            .with(|scene| {
                scene.obs.settings.primary_race_backoff = secs(backoff);
                scene.memory.race_backoff_since = since.map(at);
                scene.memory.last_lsn = previous;
                scene.server().streaming = streaming;
                // Receivers are not waited for any more.
                scene.memory.unlocked_since = Some(ptarmigan_types::Monotonic(NOW.0 - 1_000_000));
            })
            .play();
        match waits {
            Some(left) => {
                let line = format!(
                    "wal position moved since last heart beat loop, {left} seconds until leader race"
                );
                played.fired("HA-130").line(&line).starts_nothing().wakes_in(secs(left.min(10)));
                assert_eq!(played.memory().race_backoff_since, Some(since.map_or(NOW, at)));
            }
            None => {
                played.silent("HA-130").starts(&PROMOTE);
            }
        }
    }
}

#[test]
fn ha_130_a_named_candidate_and_a_primary_do_not_wait() {
    let waits = |scene: &mut Scene| {
        scene.obs.settings.primary_race_backoff = secs(30);
        scene.memory.last_lsn = Some(Lsn(1));
    };
    let named = Scene::unlocked().with(waits).with(|scene| {
        scene.view().failover = Some(failover(None, Some("a")));
    });
    named.play().silent("HA-130").starts(&PROMOTE);
    Scene::primary().unled().with(waits).play().silent("HA-130").fired("HA-131");
    let switchover = Scene::unlocked().with(waits).with(|scene| {
        scene.view().failover = Some(failover(Some("b"), None));
    });
    switchover.play().fired("HA-130");
}

#[test]
fn ha_131_the_healthiest_takes_the_lock_and_promotes() {
    let played = Scene::unlocked().play();
    played.fired("HA-216").fired("HA-131").fired("HA-256").starts(&PROMOTE).wakes_in(secs(0));
    played.before(&Action::AcquireLock, &Action::ReloadView(ReloadAfter::Lock));
    played.before(&Action::ReloadView(ReloadAfter::Lock), &Action::StartJob(PROMOTE));
    played.line("promoted self to leader by acquiring session lock");
    played.does_not(&Action::ClearFailover(When::Always));
    let wish = Scene::unlocked().with(|scene| scene.view().failover = Some(failover(Some("b"), None))).play();
    wish.before(&Action::AcquireLock, &Action::ClearFailover(When::Always)).starts(&PROMOTE);
    let primary = Scene::primary().unled().play();
    primary.fired("HA-131").fired("HA-253").starts_nothing().line("acquired session lock as a leader");
}

#[test]
fn ha_131_no_promotion_unless_the_store_still_shows_the_lock() {
    let gone = |scene: Scene, holder: Option<&str>| {
        scene
            .with(|scene| {
                let mut view = scene.view().clone();
                view.leader = holder.map(leader);
                scene.reloaded = Some(Ok(view));
            })
            .play()
    };
    for holder in [None, Some("b")] {
        let played = gone(Scene::unlocked(), holder);
        played.fired("HA-132").starts_nothing().silent("HA-131");
        let last = played.actions.iter().rposition(|action| *action == Action::ForgetLease);
        let won = played.actions.iter().position(|action| *action == Action::AcquireLock);
        assert!(last > won, "what was won a moment ago is forgotten: {:?}", played.actions);
        gone(Scene::primary().unled(), holder).starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    }
    let silent = Scene::unlocked().with(|scene| scene.reloaded = Some(Err("timed out".into()))).play();
    silent.fired("HA-403").starts_nothing();
    let unknown = Scene::unlocked().with(|scene| scene.acquire = no_answer()).play();
    unknown.fired("HA-403").starts_nothing();
    let primary = Scene::primary().unled().with(|scene| scene.acquire = no_answer()).play();
    primary.fired("HA-402").starts(&Job::Demote(DemoteMode::Offline));
}

#[test]
fn ha_132_whoever_lost_the_race_follows() {
    let lost = |scene: Scene| {
        scene
            .with(|scene| {
                scene.acquire = refused();
                let mut view = scene.view().clone();
                view.leader = Some(leader("c"));
                scene.reloaded = Some(Ok(view));
            })
            .play()
    };
    let played = lost(Scene::unlocked());
    played.fired("HA-132").starts_nothing();
    played.line("following new leader after trying and failing to obtain lock");
    played.does(&Action::CompareRecovery { upstream: Some(member("c")) });
    let primary = lost(Scene::primary().unled());
    primary.fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    primary.line("demoted self after trying and failing to obtain lock");
}

#[test]
fn ha_133_whoever_shall_not_win_gives_the_others_a_moment() {
    let waiting = Scene::unlocked().with(|scene| {
        scene.view().failover = Some(failover(Some("b"), Some("c")));
        scene.view().failover_revision = Some(9);
    });
    let mut next = waiting.clone();
    let played = waiting.play();
    played.fired("HA-133").starts_nothing().wakes_in(secs(2));
    played.line("waiting for the candidate to take the leader lock");
    assert_eq!(played.memory().yielding, Some(Yield { wish: 9, until: NOW + secs(2) }));
    assert_eq!(played.memory().rewind, RewindState::Check);
    next.memory = played.decision.memory;
    next.obs.now = at(1001);
    assert_eq!(next.play().decision.wake_at, at(1002), "the same moment, however often the loop wakes");
    next.obs.now = at(1002);
    next.play().silent("HA-133").fired("HA-135").line(NOT_HEALTHIEST);
    next.view().failover_revision = Some(10);
    next.play().fired("HA-133");
}

#[test]
fn ha_134_who_must_not_lead_follows() {
    let nofailover = |scene: &mut Scene| {
        scene.obs.settings.tags = tags(&json!({"nofailover": true}));
        scene.memory.yielding = Some(Yield { wish: 0, until: at(1) });
    };
    let played = Scene::unlocked().with(nofailover).play();
    played.fired("HA-208").fired("HA-134").does_not(&Action::AcquireLock);
    played.line("following a different leader because I am not allowed to promote");
    let failed = |scene: &mut Scene| scene.view().history = Some(history(&[1]));
    let primary = Scene::primary().unled().with(nofailover).with(failed).play();
    primary.starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    primary.line("demoting self because I am not allowed to be a primary");
}

#[test]
fn ha_135_who_is_not_the_healthiest_follows() {
    let played = Scene::unlocked().with(|scene| scene.peers[1].lsn = Lsn(HERE.0 + 1)).play();
    played.fired("HA-135").line(NOT_HEALTHIEST).starts_nothing().does_not(&Action::AcquireLock);
}

#[test]
fn ha_200_after_a_failed_pre_promote_the_others_go_first() {
    for (ago, races) in [(0, false), (29, false), (30, true)] {
        let played = Scene::unlocked().with(|scene| scene.memory.released_at = Some(at(1000 - ago))).play();
        assert_eq!(played.did(&Action::AcquireLock), races, "{ago}");
    }
    let primary = Scene::primary().unled().with(|scene| scene.memory.released_at = Some(NOW)).play();
    primary.fired("HA-200").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
}

#[test]
fn ha_205_a_running_primary_takes_the_lock_back_unless_a_later_timeline_exists() {
    for (mine, finished, takes) in [
        (Some(1), None, true),
        (Some(1), Some(&[][..]), true),
        (Some(1), Some(&[1][..]), false),
        (Some(2), Some(&[1][..]), true),
        (Some(3), Some(&[1][..]), true),
        (None, Some(&[1][..]), false),
        (None, None, false),
    ] {
        let played = Scene::primary()
            .unled()
            .with(|scene| {
                scene.server().timeline = mine;
                scene.view().history = finished.map(history);
            })
            .play();
        played.fired("HA-205");
        if takes {
            played.fired("HA-131").starts_nothing();
        } else {
            played.fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
            played.line("demoting self because i am not the healthiest node");
        }
    }
}

#[test]
fn ha_205_a_server_that_was_told_to_promote_and_loses_the_race_is_stopped() {
    let played = Scene::unlocked()
        .with(|scene| {
            scene.pg().role = Role::Promoted;
            scene.peers[0].in_recovery = false;
        })
        .play();
    played.fired("HA-282").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
}

#[test]
fn ha_213_members_that_vanished_with_the_leader_are_asked_too() {
    let ahead = Lsn(HERE.0 + 1);
    let scene = Scene::unlocked().with(|scene| {
        scene.memory.old_members = scene.view().members.clone();
        scene.members().retain(|member| member.name != name("c"));
        scene.peers[1].lsn = ahead;
    });
    let played = scene.play();
    played.fired("HN-7").does_not(&Action::AcquireLock);
    let renamed = scene.with(|scene| {
        // The later entry wins: the view says that it must not count.
        scene.members().push(member_of("c", &json!({"tags": {"nofailover": true}})));
    });
    renamed.play().does(&Action::AcquireLock);
}

#[test]
fn ha_220_to_ha_228_an_operators_wish_without_a_leader() {
    let ahead = |scene: &mut Scene| scene.peers[1].lsn = Lsn(HERE.0 + 1);
    struct Case {
        wish: (Option<&'static str>, Option<&'static str>),
        change: Change,
        rule: &'static str,
        races: bool,
    }
    let cases = [
        Case { wish: (None, Some("a")), change: ahead, rule: "HA-220", races: true },
        Case { wish: (Some("b"), Some("c")), change: |_| {}, rule: "HA-224", races: false },
        Case {
            wish: (None, Some("c")),
            change: |scene| scene.peers.retain(|peer| peer.name != name("c")),
            rule: "HA-225",
            races: true,
        },
        Case {
            wish: (None, Some("c")),
            change: |scene| scene.peers[1].tags = tags(&json!({"nofailover": true})),
            rule: "HA-225",
            races: true,
        },
        Case {
            wish: (None, Some("c")),
            change: |scene| scene.peers[1].watchdog_failed = true,
            rule: "HA-225",
            races: true,
        },
        Case {
            wish: (None, Some("c")),
            change: |scene| {
                scene.member("c").0.insert("tags".into(), json!({"nofailover": true}));
            },
            rule: "HA-225",
            races: true,
        },
        Case { wish: (None, Some("z")), change: |_| {}, rule: "HA-225", races: true },
        Case { wish: (Some("b"), None), change: |_| {}, rule: "HA-228", races: true },
        Case { wish: (Some("b"), None), change: ahead, rule: "HN-7", races: false },
        Case {
            wish: (Some("b"), None),
            // The former leader does not count, and neither does the lag.
            change: |scene| {
                scene.peers[0].lsn = Lsn(u64::MAX);
                scene.view().status.last_lsn = Lsn(u64::MAX);
            },
            rule: "HA-228",
            races: true,
        },
    ];
    for (index, Case { wish, change, rule, races }) in cases.into_iter().enumerate() {
        let played = Scene::unlocked()
            .with(|scene| scene.view().failover = Some(failover(wish.0, wish.1)))
            .with(change)
            .play();
        played.fired("HA-210").fired(rule);
        assert_eq!(played.did(&Action::AcquireLock), races, "case {index}: {:?}", played.decision.report);
    }
}

/// Found by the simulation: the primary went on in failsafe mode without this node, whose daemon was a new one.
#[test]
fn hn_6_a_wish_asks_also_whom_this_node_never_saw_lead() {
    let wished = Scene::unlocked().with(|scene| {
        scene.memory.old_leader = None;
        scene.view().failover = Some(failover(None, Some("a")));
    });
    wished.play().fired("HA-220").does(&Action::AcquireLock);
    let primary = wished.with(|scene| scene.peers[1].in_recovery = false).play();
    primary.fired("HA-220").fired("HN-6").does_not(&Action::AcquireLock);
}

#[test]
fn hn_6_a_wish_takes_the_lock_from_no_primary_that_lives() {
    let alive = |scene: &mut Scene| scene.peers[0].in_recovery = false;
    let limited = |scene: &mut Scene| {
        scene.peers[0].in_recovery = false;
        scene.peers[0].tags = tags(&json!({"nofailover": true}));
        scene.member("b").0.insert("tags".into(), json!({"nofailover": true}));
    };
    let wishes = [
        None,
        Some((Some("b"), None)),
        Some((Some("b"), Some("a"))),
        Some((None, Some("a"))),
        Some((Some("b"), Some("z"))),
    ];
    for wish in wishes {
        for change in [alive as Change, limited as Change] {
            let scene = Scene::unlocked().with(|scene| {
                scene.memory.old_members = scene.view().members.clone();
                scene.memory.old_leader = Some(name("b"));
                scene.view().failover = wish.map(|(leader, candidate)| failover(leader, candidate));
            });
            let played = scene.with(change).play();
            played.fired("HN-6").does_not(&Action::AcquireLock);
        }
    }
}

#[test]
fn ha_131_a_lock_that_comes_late_is_kept_only_where_nobody_is_ahead_by_now() {
    let late = |later: Option<Vec<ptarmigan_ha::facts::PeerAnswer>>| {
        let scene = Scene::unlocked().with(|scene| scene.acquire = held_late());
        Scene { peers_later: later, ..scene }.play()
    };
    late(None).fired("HA-131").starts(&Job::Promote { timeline: Some(1) });
    late(Some(Vec::new())).starts(&Job::Promote { timeline: Some(1) });
    let mut primary = peer("c");
    primary.in_recovery = false;
    let mut ahead = peer("b");
    ahead.lsn = Lsn(HERE.0 + 1);
    for (changed, rule) in [(primary, "HN-6"), (ahead, "HN-7")] {
        let played = late(Some(vec![changed]));
        played.fired("HA-131").fired(rule).does(&Action::ReleaseLock(leader("a")));
        assert!(!played.has(|action| matches!(action, Action::StartJob(_))));
    }
    // Whoever led meanwhile and is down by now left its timeline in the DCS. Found by the simulation.
    let led = Scene::unlocked().with(|scene| {
        scene.acquire = held_late();
        scene.obs.settings.check_timeline = true;
        let mut view = scene.view().clone();
        view.history = Some(history(&[1]));
        view.leader = Some(leader("a"));
        scene.reloaded = Some(Ok(view));
    });
    led.play().fired("HN-2").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
    let stale = led.clone().with(|scene| scene.acquire = held());
    stale.play().fired("HN-2").does(&Action::ReleaseLock(leader("a"))).starts_nothing();
    let writes = led.writable().play();
    writes.fired("HA-205").starts(&Job::Demote(DemoteMode::ImmediateNoLock));
    writes.does_not(&Action::ReleaseLock(leader("a")));
    let soon = Scene::unlocked().play();
    assert!(
        !soon.has(|action| matches!(action, Action::AskPeersAgain(_))),
        "a fast store costs no second question"
    );
}

#[test]
fn ha_227_the_former_leader_takes_over_only_where_nobody_else_can() {
    for (candidate, peers, races) in [
        (Some("c"), vec![peer("b"), peer("c")], false),
        (Some("c"), vec![peer("b")], false),
        (Some("c"), vec![], true),
        (None, vec![peer("b")], false),
        (None, vec![], true),
        (Some("z"), vec![], true),
    ] {
        let played = Scene::unlocked()
            .with(|scene| {
                scene.view().failover = Some(failover(Some("a"), candidate));
                scene.peers = peers;
            })
            .play();
        assert_eq!(played.did(&Action::AcquireLock), races, "{candidate:?}: {:?}", played.decision.report);
    }
    let limited = Scene::unlocked()
        .with(|scene| {
            scene.view().failover = Some(failover(Some("a"), None));
            scene.view().failover.as_mut().unwrap().scheduled_at = Some(ScheduledAt::At(wall()));
            scene.peers = vec![peer("b")];
            scene.peers[0].lsn = Lsn(1);
        })
        .play();
    limited.fired("HA-227").does(&Action::AcquireLock);
}

#[test]
fn hn_1_hn_2_what_i_need_to_race() {
    let limit = 0x10_0000;
    let cases: [(Change, &str, bool); 8] = [
        (|scene| scene.view().status.last_lsn = Lsn(HERE.0 + 0x10_0000), "HN-1", true),
        (|scene| scene.view().status.last_lsn = Lsn(HERE.0 + 0x10_0001), "HN-1", false),
        (|scene| scene.server().lsn = Lsn(0), "HN-1", false),
        (|scene| scene.pg().server = None, "HN-1", false),
        (|scene| scene.view().history = Some(history(&[1])), "HN-2", true),
        (
            |scene| {
                scene.view().history = Some(history(&[1]));
                scene.obs.settings.check_timeline = true;
            },
            "HN-2",
            false,
        ),
        (
            |scene| {
                scene.server().timeline = None;
                scene.obs.settings.check_timeline = true;
            },
            "HN-2",
            false,
        ),
        (
            |scene| {
                scene.view().history = Some(history(&[1]));
                scene.server().timeline = Some(2);
                scene.obs.settings.check_timeline = true;
            },
            "HN-2",
            true,
        ),
    ];
    for (index, (change, rule, races)) in cases.into_iter().enumerate() {
        let scene = Scene::unlocked().with(change);
        assert_eq!(scene.obs.settings.maximum_lag_on_failover_bytes, limit);
        let played = scene.play();
        assert_eq!(played.did(&Action::AcquireLock), races, "case {index}: {:?}", played.decision.report);
        if !races {
            played.fired(rule);
        }
    }
}

#[test]
fn hn_3_all_peers_are_asked_at_once() {
    let played = Scene::unlocked()
        .with(|scene| {
            scene.members().push(member_of("d", &json!({"api_url": null})));
            scene.members().push(member_of("e", &json!({"tags": {"nofailover": true}})));
        })
        .play();
    let asked: Vec<_> = played
        .actions
        .iter()
        .filter_map(|action| if let Action::AskPeers(asked) = action { Some(asked) } else { None })
        .collect();
    assert_eq!(asked.len(), 1);
    let names: Vec<&str> = asked[0].iter().map(|address| address.name.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    let alone = Scene::unlocked().with(|scene| scene.members().retain(|member| member.name == name("a")));
    let alone = alone.play();
    alone.starts(&PROMOTE);
    assert!(!alone.has(|action| matches!(action, Action::AskPeers(_))));
}

#[test]
fn hn_5_to_hn_8_what_peers_may_veto() {
    let priority = |value: i64| tags(&json!({"failover_priority": value}));
    struct Case {
        peer: fn(&mut ptarmigan_ha::facts::PeerAnswer),
        mine: i64,
        former: Option<&'static str>,
        races: bool,
    }
    let cases = [
        Case { peer: |peer| peer.lsn = Lsn(HERE.0 + 1), mine: 1, former: None, races: false },
        Case {
            peer: |peer| {
                peer.lsn = Lsn(HERE.0 + 1);
                peer.watchdog_failed = true;
            },
            mine: 1,
            former: None,
            races: true,
        },
        Case {
            peer: |peer| {
                peer.lsn = Lsn(HERE.0 + 1);
                peer.tags = tags(&json!({"nofailover": true}));
            },
            mine: 1,
            former: None,
            races: true,
        },
        Case { peer: |peer| peer.in_recovery = false, mine: 1, former: None, races: false },
        Case { peer: |peer| peer.lsn = Lsn(HERE.0 - 1), mine: 1, former: None, races: true },
        Case {
            peer: |peer| peer.tags = tags(&json!({"failover_priority": 2})),
            mine: 1,
            former: None,
            races: false,
        },
        Case {
            peer: |peer| peer.tags = tags(&json!({"failover_priority": 2})),
            mine: 2,
            former: None,
            races: true,
        },
        Case {
            peer: |peer| peer.tags = tags(&json!({"failover_priority": 2})),
            mine: 1,
            former: Some("c"),
            races: true,
        },
        Case {
            peer: |peer| {
                peer.tags = tags(&json!({"failover_priority": 2}));
                peer.lsn = Lsn(HERE.0 - 1);
            },
            mine: 1,
            former: None,
            races: true,
        },
    ];
    for (index, Case { peer, mine, former, races }) in cases.into_iter().enumerate() {
        let played = Scene::unlocked()
            .with(|scene| {
                peer(&mut scene.peers[1]);
                scene.obs.settings.tags = priority(mine);
                scene.memory.old_members = scene.view().members.clone();
                scene.memory.old_leader = former.map(name);
            })
            .play();
        assert_eq!(played.did(&Action::AcquireLock), races, "case {index}: {:?}", played.decision.report);
    }
}

#[test]
fn hn_7_hn_8_say_it_in_the_words_that_scripts_look_for() {
    let ahead = Scene::unlocked().with(|scene| scene.peers[1].lsn = Lsn(HERE.0 + 0x10)).play();
    assert_eq!(ahead.facts("HN-7"), "Wal position of c is ahead of my wal position: 0/5000010 > 0/5000000");
    let preferred =
        Scene::unlocked().with(|scene| scene.peers[1].tags = tags(&json!({"failover_priority": 2}))).play();
    assert_eq!(
        preferred.facts("HN-8"),
        "c has equally tolerable WAL position and priority 2, while this node has priority 1"
    );
}

#[test]
fn b_10_4_who_can_take_over() {
    let answer = |lsn: u64, timeline: Option<u32>| {
        let mut answer = peer("b");
        (answer.lsn, answer.timeline) = (Lsn(lsn), timeline);
        answer
    };
    let last = Lsn(1000);
    for (answer, cluster_lsn, minimum, can) in [
        (answer(900, Some(1)), None, None, true),
        (answer(899, Some(1)), None, None, false),
        (answer(2000, Some(1)), None, None, true),
        (answer(999, Some(1)), Some(Lsn(1000)), None, false),
        (answer(1000, Some(1)), Some(Lsn(1000)), None, true),
        (answer(1000, Some(1)), None, Some(2), false),
        (answer(1000, Some(2)), None, Some(2), true),
        (answer(1000, None), None, Some(1), false),
        (answer(1000, None), None, None, true),
    ] {
        assert_eq!(can_take_over_with(&answer, cluster_lsn, last, 100, minimum), can, "{answer:?}");
    }
    let mut limited = answer(1000, Some(1));
    limited.watchdog_failed = true;
    assert!(!can_take_over_with(&limited, None, last, 100, None));
    assert_eq!(limited.limitation(), Some("watchdog failed"));
    limited.tags = tags(&json!({"nofailover": true}));
    assert_eq!(limited.limitation(), Some("nofailover"));
}

#[test]
fn the_longest_cycle_fits_into_the_rounds_of_the_agent() {
    let played = Scene::unlocked()
        .with(|scene| {
            scene.view().failover = Some(failover(Some("b"), Some("c")));
            scene.peers[1].watchdog_failed = true;
            scene.acquire = refused();
            let mut view = scene.view().clone();
            view.leader = Some(leader("b"));
            scene.reloaded = Some(Ok(view));
            scene.memory.rewind = RewindState::Check;
            scene.divergence = Divergence::Unknown;
        })
        .play();
    played.fired("HA-225").fired("HA-132").does(&Action::CheckDivergence { upstream: member("b") });
}

#[test]
fn hn_2_peer_on_an_older_timeline_keeps_nobody_from_taking_over() {
    for (check_timeline, timeline, races) in
        [(true, Some(1), true), (true, Some(2), false), (true, None, false), (false, Some(1), false)]
    {
        let played = Scene::unlocked()
            .with(|scene| {
                scene.view().history = Some(history(&[1]));
                scene.server().timeline = Some(2);
                scene.obs.settings.check_timeline = check_timeline;
                scene.peers[1].timeline = timeline;
                scene.peers[1].lsn = Lsn(HERE.0 + 1);
            })
            .play();
        let report = &played.decision.report;
        assert_eq!(played.did(&Action::AcquireLock), races, "{check_timeline} {timeline:?}: {report:?}");
    }
}

fn wishing(leader: Option<&str>, candidate: Option<&str>) -> Scene {
    Scene::unlocked().with(|scene| scene.view().failover = Some(failover(leader, candidate)))
}

#[test]
fn ha_224_a_candidate_that_can_lead_is_left_the_lock() {
    let played = wishing(None, Some("c")).play();
    played.fired("HA-210").fired("HA-224").silent("HA-225").does_not(&Action::AcquireLock);
    played.line("waiting for the candidate to take the leader lock").starts_nothing();
}

#[test]
fn ha_225_a_candidate_that_cannot_lead_keeps_nobody_from_it() {
    let cases: [Change; 3] = [
        |scene| scene.peers.retain(|peer| peer.name != name("c")),
        |scene| scene.peers[1].watchdog_failed = true,
        |scene| scene.members().retain(|member| member.name != name("c")),
    ];
    for (index, change) in cases.into_iter().enumerate() {
        let played = wishing(None, Some("c")).with(change).play();
        assert!(played.did(&Action::AcquireLock), "case {index}: {:?}", played.decision.report);
        played.fired("HA-225").fired("HA-228").silent("HA-224");
    }
}

#[test]
fn ha_228_without_a_candidate_the_best_of_the_others_takes_over() {
    let played = wishing(Some("b"), None).with(|scene| {
        // Neither the lag nor the one that shall be left counts.
        scene.view().status.last_lsn = Lsn(u64::MAX);
        scene.peers[0].lsn = Lsn(u64::MAX);
    });
    played.play().fired("HA-228").silent("HN-1").does(&Action::AcquireLock);
    let behind = wishing(Some("b"), None).with(|scene| scene.peers[1].lsn = Lsn(HERE.0 + 1)).play();
    behind.fired("HA-228").fired("HN-7").does_not(&Action::AcquireLock);
}

#[test]
fn ha_203_a_starting_server_does_not_race() {
    for state in [MemberState::Starting, MemberState::StartingAfterCustomBootstrap] {
        let played = Scene::unlocked().with(|scene| scene.pg().state = state).play();
        played.fired("HA-203").does_not(&Action::AcquireLock).starts_nothing();
    }
    Scene::unlocked().play().silent("HA-203").does(&Action::AcquireLock);
}

#[test]
fn ha_208_who_must_not_lead_does_not_race() {
    for tag in [json!({"nofailover": true}), json!({"failover_priority": 0}), json!({"nofailover": "false"})]
    {
        let played = Scene::unlocked().with(|scene| scene.obs.settings.tags = tags(&tag)).play();
        played.fired("HA-208").does_not(&Action::AcquireLock);
    }
}

#[test]
fn ha_210_a_wish_decides_in_place_of_the_comparison() {
    let played = wishing(None, Some("a")).with(|scene| scene.peers[1].lsn = Lsn(HERE.0 + 1)).play();
    played.fired("HA-210").silent("HA-216").does(&Action::AcquireLock);
}

#[test]
fn ha_216_the_healthiest_of_all_races() {
    Scene::unlocked().play().fired("HA-216").does(&Action::AcquireLock);
    let behind = Scene::unlocked().with(|scene| scene.peers[1].lsn = Lsn(HERE.0 + 1)).play();
    behind.fired("HA-216").does_not(&Action::AcquireLock);
    let far_behind = Scene::unlocked().with(|scene| scene.view().status.last_lsn = Lsn(u64::MAX)).play();
    far_behind.fired("HN-1").fired("HA-216").does_not(&Action::AcquireLock);
}

#[test]
fn hn_8_of_equals_the_higher_priority_goes_first() {
    // My priority, the peer's, who led before, whether this node races.
    for (mine, theirs, former, races) in [
        (1, 1, None, true),
        (2, 1, None, true),
        (1, 2, None, false),
        (1, 2, Some("c"), true),
        (1, 2, Some("b"), false),
    ] {
        let played = Scene::unlocked()
            .with(|scene| {
                scene.obs.settings.tags = tags(&json!({"failover_priority": mine}));
                scene.peers[1].tags = tags(&json!({"failover_priority": theirs}));
                scene.memory.old_leader = former.map(name);
                scene.memory.old_members = scene.view().members.clone();
            })
            .play();
        assert_eq!(played.did(&Action::AcquireLock), races, "{mine} {theirs} {former:?}");
    }
}

#[test]
fn hn_10_without_quorum_no_votes_are_counted() {
    let alone = Scene::unlocked().with(|scene| scene.peers.clear()).play();
    alone.fired("HA-216").does(&Action::AcquireLock);
}

#[test]
fn t_4_the_countdown_of_a_race_cuts_the_sleep() {
    let played = Scene::unlocked()
        .with(|scene| {
            scene.obs.settings.primary_race_backoff = secs(7);
            scene.memory.last_lsn = Some(Lsn(1));
            scene.memory.race_backoff_since = Some(at(997));
        })
        .play();
    played.fired("HA-130").wakes_in(secs(4));
}
