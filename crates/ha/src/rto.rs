//! The recovery time objective (`rto` in the dynamic configuration): the leader derives `ttl`, `loop_wait` and `retry_timeout` from it,
//! shorter ones than the contract allows (CF-26) where that is safe, and writes them to `/config` (DESIGN, "The lease").
//!
//! Safe it is where the guardian stands behind every member: then a short lease costs a restart at worst where the store is slow,
//! never a second primary.

use std::time::Duration;

use ptarmigan_types::{Cluster, DynamicConfig, MemberName, Monotonic, pyjson};
use serde::{Deserialize, Serialize};

use crate::{action::Action, round::Round};

/// From the end of a lease until the next leader accepts writes: the store notices it, the others compare their positions, and
/// one of them is promoted.
pub const TAKEOVER: Duration = Duration::from_secs(1);

/// The shortest `ttl` without a guardian behind every member, in seconds (contract CF-26).
const TTL_UNGUARDED_S: u64 = 20;

/// The shortest `ttl` without `failsafe_mode`, in seconds: an election inside etcd alone takes 1 to 2 s.
const TTL_WITHOUT_FAILSAFE_S: u64 = 10;

/// How long everything must have been as it should be before `ttl` is shortened.
const STEADY: Duration = Duration::from_secs(20);

/// The longest `loop_wait` that is derived, in seconds (the contract's default).
const LOOP_WAIT_MAX_S: u64 = 10;

/// An operation of the store is given so many times what it usually takes.
const LATENCIES: u32 = 4;

/// What is wished for, and what the store can do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The longest time without a primary that is wished for; `None`: the timeouts are the operator's.
    pub rto: Option<Duration>,
    /// The shortest TTL that the store keeps.
    pub ttl_min: Duration,
}

/// The three timeouts, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// TTL of the leader lease.
    pub ttl: u64,
    /// The longest sleep between two cycles.
    pub loop_wait: u64,
    /// Budget of a DCS operation.
    pub retry_timeout: u64,
}

/// What keeps `ttl` longer than it is wished for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Limit {
    /// The store grants no shorter lease, in seconds.
    Store(u64),
    /// These members have no armed guardian, or are none of ours.
    Unguarded(Vec<MemberName>),
    /// `failsafe_mode` is off.
    NoFailsafe,
    /// The store takes so long for an answer.
    Latency(Duration),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Store(least) => write!(f, "the DCS grants no lease shorter than {least} s"),
            Self::Unguarded(members) => {
                let names: Vec<&str> = members.iter().map(MemberName::as_str).collect();
                let them = names.join(", ");
                write!(
                    f,
                    "no armed guardian stands behind {them}, which asks for a ttl of {TTL_UNGUARDED_S} s"
                )
            }
            Self::NoFailsafe => {
                write!(f, "failsafe_mode is off, which asks for a ttl of {TTL_WITHOUT_FAILSAFE_S} s")
            }
            Self::Latency(latency) => write!(f, "the DCS takes {latency:?} for an answer"),
        }
    }
}

/// What is known of the cluster.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// The members without an armed guardian.
    pub unguarded: &'a [MemberName],
    /// `failsafe_mode`.
    pub failsafe: bool,
    /// What the store usually takes for an answer; `None` where that is not known yet.
    pub latency: Option<Duration>,
}

/// The timeouts for that objective, and what keeps them longer.
pub fn derive(rto: Duration, ttl_min: Duration, standing: &Standing<'_>) -> (Timeouts, Vec<Limit>) {
    let wanted = rto.saturating_sub(TAKEOVER).as_secs();
    let retry_timeout_min = standing.latency.map_or(1, |latency| ceil_s(latency * LATENCIES).max(1));
    // A second for everything is what the shortest lease asks for in any case.
    let by_latency = if retry_timeout_min > 1 { 1 + 2 * retry_timeout_min } else { 0 };
    let store = ceil_s(ttl_min).max(1 + 2);
    let unguarded = standing.unguarded;
    let floors = [
        (store, Limit::Store(store)),
        (if unguarded.is_empty() { 0 } else { TTL_UNGUARDED_S }, Limit::Unguarded(unguarded.to_vec())),
        (if standing.failsafe { 0 } else { TTL_WITHOUT_FAILSAFE_S }, Limit::NoFailsafe),
        (by_latency, Limit::Latency(standing.latency.unwrap_or_default())),
    ];
    let ttl = floors.iter().fold(wanted, |ttl, (least, _)| ttl.max(*least));
    let limits = floors.into_iter().filter(|(least, _)| *least > wanted).map(|(_, limit)| limit).collect();
    let loop_wait = (ttl / 3).clamp(1, LOOP_WAIT_MAX_S).min(ttl - 2 * retry_timeout_min);
    (Timeouts { ttl, loop_wait, retry_timeout: (ttl - loop_wait) / 2 }, limits)
}

fn ceil_s(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What is remembered of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What keeps `ttl` longer than it is wished for.
    pub limits: Vec<Limit>,
    /// This node sees to it.
    pub kept: bool,
    /// Since when a shorter `ttl` would do.
    pub shorter_since: Option<Monotonic>,
}

/// The leader keeps `/config` in step with the objective: longer timeouts at once, shorter ones once all has been well for a
/// while. In pause they are the operator's.
pub(crate) fn keep(r: &mut Round<'_>) {
    let view = r.view;
    let config = view.config.as_ref().filter(|config| config.is_valid());
    let (Some(rto), Some(config), false) = (r.obs.settings.recovery.rto, config, r.is_paused()) else {
        r.memory.recovery = Memory::default();
        return;
    };
    let unguarded = unguarded(r, view);
    let standing = Standing {
        unguarded: &unguarded,
        failsafe: r.obs.settings.failsafe_mode,
        latency: r.obs.dcs_latency,
    };
    let (timeouts, limits) = derive(rto, r.obs.settings.recovery.ttl_min, &standing);
    for limit in &limits {
        r.fired("RTO-2", limit.to_string());
    }
    r.memory.recovery.limits = limits;
    r.memory.recovery.kept = true;
    let now = r.obs.now;
    let Some(before) = differing(config, timeouts) else {
        r.memory.recovery.shorter_since = None;
        return;
    };
    if timeouts.ttl <= before {
        let since = *r.memory.recovery.shorter_since.get_or_insert(now);
        if now.since(since) < STEADY {
            return;
        }
    }
    r.memory.recovery.shorter_since = None;
    let Timeouts { ttl, loop_wait, retry_timeout } = timeouts;
    r.fired("RTO-1", format!("ttl {ttl}, loop_wait {loop_wait}, retry_timeout {retry_timeout}"));
    let value = pyjson::compact_map(&with(config, timeouts));
    r.request(Action::ChangeConfig { value, revision: config.revision });
}

/// The members that no armed guardian stands behind. Patroni's say nothing of one.
fn unguarded(r: &Round<'_>, view: &Cluster) -> Vec<MemberName> {
    let is_armed = |member: &ptarmigan_types::Member| {
        if member.name == r.obs.me { r.obs.guardian.armed } else { member.data.guardian_armed() }
    };
    view.members.iter().filter(|member| !is_armed(member)).map(|member| member.name.clone()).collect()
}

/// `ttl` as it is, where one of the three is not what it should be.
fn differing(config: &DynamicConfig, wanted: Timeouts) -> Option<u64> {
    let number = |key: &str| config.value.get(key).and_then(serde_json::Value::as_u64);
    let is = |key: &str, wanted: u64| number(key) == Some(wanted);
    let same = is("ttl", wanted.ttl)
        && is("loop_wait", wanted.loop_wait)
        && is("retry_timeout", wanted.retry_timeout);
    (!same).then(|| number("ttl").unwrap_or(30))
}

fn with(config: &DynamicConfig, timeouts: Timeouts) -> serde_json::Map<String, serde_json::Value> {
    let mut value = config.value.clone();
    let Timeouts { ttl, loop_wait, retry_timeout } = timeouts;
    for (key, seconds) in [("ttl", ttl), ("loop_wait", loop_wait), ("retry_timeout", retry_timeout)] {
        value.insert(key.to_owned(), seconds.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> MemberName {
        MemberName::from(name)
    }

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn timeouts_follow_the_objective_and_keep_the_contracts_rule() {
        let well = Standing { unguarded: &[], failsafe: true, latency: Some(Duration::from_millis(5)) };
        for (rto, ttl, loop_wait, retry_timeout) in [
            (4, 3, 1, 1),
            (5, 4, 1, 1),
            (6, 5, 1, 2),
            (11, 10, 3, 3),
            (21, 20, 6, 7),
            (31, 30, 10, 10),
            (61, 60, 10, 25),
        ] {
            let (timeouts, limits) = derive(s(rto), s(3), &well);
            assert_eq!((timeouts, limits), (Timeouts { ttl, loop_wait, retry_timeout }, vec![]), "{rto}");
            assert!(loop_wait + 2 * retry_timeout <= ttl, "the contract's rule");
        }
    }

    #[test]
    fn what_cannot_be_safe_is_not_done_and_says_why() {
        let well = Standing { unguarded: &[], failsafe: true, latency: None };
        let (ttl, limits) = derive(s(2), s(3), &well);
        assert_eq!((ttl.ttl, limits), (3, vec![Limit::Store(3)]));
        let (ttl, limits) = derive(s(5), s(20), &well);
        assert_eq!((ttl.ttl, limits), (20, vec![Limit::Store(20)]));
        let (ttl, limits) = derive(s(5), s(3), &Standing { failsafe: false, ..well.clone() });
        assert_eq!((ttl.ttl, limits), (10, vec![Limit::NoFailsafe]));
        let members = [name("b")];
        let (ttl, limits) =
            derive(s(5), s(3), &Standing { unguarded: &members, failsafe: false, ..well.clone() });
        assert_eq!((ttl.ttl, limits), (20, vec![Limit::Unguarded(members.to_vec()), Limit::NoFailsafe]));
        let slow = Duration::from_millis(400);
        let (timeouts, limits) = derive(s(4), s(3), &Standing { latency: Some(slow), ..well });
        assert_eq!(timeouts, Timeouts { ttl: 5, loop_wait: 1, retry_timeout: 2 });
        assert_eq!(limits, vec![Limit::Latency(slow)]);
    }

    #[test]
    fn limits_are_said_in_words() {
        let limits = [
            Limit::Store(20),
            Limit::Unguarded(vec![name("a"), name("b")]),
            Limit::NoFailsafe,
            Limit::Latency(Duration::from_millis(400)),
        ];
        let words: Vec<String> = limits.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "the DCS grants no lease shorter than 20 s",
                "no armed guardian stands behind a, b, which asks for a ttl of 20 s",
                "failsafe_mode is off, which asks for a ttl of 10 s",
                "the DCS takes 400ms for an answer"
            ]
        );
    }
}
