//! A manual failover or switchover, seen by the leader (contract B.12).

use crate::{
    action::{Action, DemoteMode, Job, When},
    candidates, failsafe,
    observation::JobKind,
    round::{Round, Step},
    schedule::{self, Due},
};

/// Contract HA-230 to HA-236: the status line if the leader acts on it.
pub(crate) fn seen_by_leader(r: &mut Round<'_>) -> Step<Option<String>> {
    let Some(failover) = r.view.failover.clone() else {
        r.fired("HA-230", "");
        return Ok(None);
    };
    if r.is_paused() && !r.obs.postgres.is_primary() {
        r.fired("HA-230", "paused, and no primary");
        return Ok(None);
    }
    if r.is_paused() && failover.scheduled_at.is_some() {
        r.fired("HA-231", "paused: nothing that was scheduled is carried out");
        return Ok(None);
    }
    let clear = Action::ClearFailover(When::Revision(failover.revision));
    if let Some(at) = &failover.scheduled_at {
        match schedule::due(at, r.obs.wall, r.obs.settings.loop_wait) {
            Due::Wait(left) => {
                r.fired("HA-231", format!("{} s left", left.as_secs()));
                r.wake_within(left);
                return Ok(None);
            }
            Due::Now => {}
            stale_or_unusable => {
                let rule = if stale_or_unusable == Due::Stale { "SA-2" } else { "SA-4" };
                r.fired(rule, "the wish is dropped");
                r.request(clear);
                return Ok(None);
            }
        }
    }
    if let Some(leader) = failover.leader.as_ref().filter(|leader| **leader != r.obs.me) {
        r.fired("HA-232", format!("{leader} is not the leader"));
        r.request(clear);
        return Ok(None);
    }
    if failover.candidate.as_ref() == Some(&r.obs.me) {
        r.fired("HA-233", "I am already the leader");
        r.request(clear);
        return Ok(None);
    }
    if failover.candidate.is_none() && r.is_paused() {
        r.fired("HA-234", "paused: a candidate must be named");
        r.request(clear);
        return Ok(None);
    }
    if let Some(left) = failsafe::nobody_may_lead_for(r) {
        r.fired("FS-8", format!("the others promised not to lead, {} s left", left.as_secs()));
        r.wake_within(left);
        return Ok(None);
    }
    if candidates::failover_possible(r, failover.candidate.as_ref())? {
        r.hold_back(JobKind::Demote(DemoteMode::Graceful))?;
        r.fired("HA-235", failover.candidate.map_or_else(String::new, |name| name.0));
        r.request(Action::StartJob(Job::Demote(DemoteMode::Graceful)));
        return Ok(Some("manual failover: demoting myself".into()));
    }
    r.fired("HA-236", "no good candidate");
    r.request(clear);
    Ok(None)
}

/// An operator wants this node to lead, now.
pub(crate) fn is_candidate(r: &Round<'_>) -> bool {
    r.view.failover.as_ref().is_some_and(|wish| wish.candidate.as_ref() == Some(&r.obs.me))
}
