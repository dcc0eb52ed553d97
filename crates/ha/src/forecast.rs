//! What would happen if a member were lost now: the rules of the race, asked before anything has happened (DESIGN, `ptctl check
//! --if-lost`).

use std::time::Duration;

use ptarmigan_types::{Cluster, Lsn, MemberName, SyncState};

use crate::facts::PeerAnswer;

/// The settings that matter, as `/config` has them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TTL of the leader lease.
    pub ttl: Duration,
    /// `maximum_lag_on_failover`, in bytes.
    pub maximum_lag_bytes: u64,
    /// `check_timeline`.
    pub check_timeline: bool,
    /// `synchronous_mode_strict`.
    pub strict: bool,
    /// `failsafe_mode`.
    pub failsafe_mode: bool,
    /// Maintenance mode.
    pub pause: bool,
}

/// One of those who stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Who.
    pub name: MemberName,
    /// Its position, where it tells one.
    pub lsn: Option<Lsn>,
    /// It can agree to another one, under quorum commit.
    pub votes: bool,
    /// Why it cannot take over; `None` where it can.
    pub objection: Option<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// The lost one leads.
    pub leads: bool,
    /// Who would lead then.
    pub winner: Option<MemberName>,
    /// How those who stay stand, the best first.
    pub standings: Vec<Standing>,
    /// How much of what the leader has published is not with the winner, in bytes; `None` where synchronous replication
    /// keeps what was acknowledged.
    pub lost_bytes: Option<u64>,
    /// The longest time until somebody may take over.
    pub until_takeover: Duration,
    /// What keeps everybody from leading, and what would not work any more.
    pub warnings: Vec<String>,
}

/// Foretells. `answers`: what the members that stay say of themselves, or why they do not.
pub fn if_lost(
    cluster: &Cluster,
    settings: &Settings,
    answers: &[(MemberName, Result<PeerAnswer, String>)],
    lost: &MemberName,
) -> Forecast {
    let mut forecast = Forecast { leads: cluster.is_leader(lost), ..Forecast::default() };
    let sync = Some(&cluster.sync).filter(|sync| sync.leader.is_some());
    let stays = answers.iter().filter(|(name, _)| name != lost);
    forecast.standings =
        stays.map(|(name, answer)| standing(cluster, settings, sync, name, answer)).collect();
    let priority =
        |name: &MemberName| cluster.member(name).map_or(0, |member| member.data.tags().failover_priority());
    forecast.standings.sort_by(|one, other| {
        let key =
            |standing: &Standing| (standing.objection.is_none(), standing.lsn, priority(&standing.name));
        key(other).cmp(&key(one)).then_with(|| one.name.cmp(&other.name))
    });
    if forecast.leads {
        leader_lost(&mut forecast, cluster, settings, sync);
    } else {
        forecast.winner = cluster.leader_name().cloned();
        replica_lost(&mut forecast, cluster, settings, sync, lost);
    }
    forecast
}

fn standing(
    cluster: &Cluster,
    settings: &Settings,
    sync: Option<&SyncState>,
    name: &MemberName,
    answer: &Result<PeerAnswer, String>,
) -> Standing {
    let answer = match answer {
        Ok(answer) => answer,
        Err(reason) => {
            let objection = Some(format!("does not answer: {reason}"));
            return Standing { name: name.clone(), lsn: None, votes: false, objection };
        }
    };
    let behind = cluster.status.last_lsn.bytes_ahead_of(answer.lsn);
    let timeline = cluster.timeline();
    // Whoever leads is not asked for its position.
    let objection = if cluster.is_leader(name) {
        Some("leads".to_owned())
    } else if answer.without_data {
        Some("has no data yet".to_owned())
    } else if let Some(limitation) = answer.limitation() {
        Some(limitation.to_owned())
    } else if sync.is_some_and(|sync| sync.quorum == 0 && !sync.matches_or_leads(name.as_str())) {
        Some("is no synchronous standby (/sync)".to_owned())
    } else if behind > settings.maximum_lag_bytes {
        Some(format!("{behind} bytes behind, limit {}", settings.maximum_lag_bytes))
    } else if settings.check_timeline && answer.timeline.is_none_or(|mine| mine < timeline) {
        Some(format!("on timeline {}, the cluster is on {timeline}", answer.timeline.unwrap_or_default()))
    } else {
        None
    };
    let lsn = Some(answer.lsn).filter(|lsn| !lsn.is_zero());
    let votes = lsn.is_some() && answer.limitation().is_none() && !answer.without_data;
    Standing { name: name.clone(), lsn, votes, objection }
}

fn leader_lost(forecast: &mut Forecast, cluster: &Cluster, settings: &Settings, sync: Option<&SyncState>) {
    forecast.until_takeover = settings.ttl;
    let best = forecast.standings.iter().find(|standing| standing.objection.is_none()).cloned();
    if settings.pause {
        forecast.warnings.push("the cluster is paused: nobody takes over until it is resumed".into());
        return;
    }
    let Some(best) = best else {
        forecast.warnings.push("nobody can take over".into());
        return;
    };
    if let Some(sync) = sync.filter(|sync| sync.quorum > 0) {
        let listed = |standing: &&Standing| {
            standing.votes && sync.matches(standing.name.as_str()) && standing.name != best.name
        };
        let votes = forecast.standings.iter().filter(listed).count();
        let outsider = usize::from(!sync.matches(best.name.as_str()));
        let needed = usize::try_from(sync.quorum).unwrap_or(usize::MAX) + outsider;
        if votes < needed {
            let line = format!("{votes} of {needed} votes can be had: nobody takes over");
            forecast.warnings.push(line);
            return;
        }
    }
    forecast.winner = Some(best.name.clone());
    let has = best.lsn.unwrap_or(Lsn::ZERO);
    forecast.lost_bytes = sync.is_none().then(|| cluster.status.last_lsn.bytes_ahead_of(has));
    let others = forecast.standings.iter().filter(|standing| standing.objection.is_none()).count();
    if others == 1 {
        forecast.warnings.push(format!("{} is the only one that can take over", best.name));
    }
}

fn replica_lost(
    forecast: &mut Forecast,
    cluster: &Cluster,
    settings: &Settings,
    sync: Option<&SyncState>,
    lost: &MemberName,
) {
    let left = forecast.standings.iter().any(|standing| standing.objection.is_none());
    if cluster.leader_name().is_none() {
        forecast.warnings.push("nobody leads now".into());
    } else if !left {
        forecast.warnings.push("nobody could take over from the leader then".into());
    }
    if let Some(sync) = sync.filter(|sync| sync.matches(lost.as_str())) {
        let others = sync.standbys.iter().filter(|name| *name != lost).count();
        let line = match (others, settings.strict) {
            (0, true) => {
                "it is the only synchronous standby, and the mode is strict: commits wait until it, or another \
                          one that streams, is confirmed"
            }
            (0, false) => {
                "it is the only synchronous standby: commits stop for a moment, and then wait for nobody"
            }
            _ => "it is a synchronous standby: commits may stop for a moment",
        };
        forecast.warnings.push(line.into());
    }
    let bound = cluster.failsafe.as_ref().is_some_and(|members| members.contains_key(lost.as_str()));
    if settings.failsafe_mode && bound {
        forecast
            .warnings
            .push("/failsafe names it: without the DCS the leader could not go on until it is back, or its member key has run out".into());
    }
}
