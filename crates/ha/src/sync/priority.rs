//! Priority mode: every synchronous standby has every commit (contract B.21).

use super::{
    Kind, NameSet,
    steps::{Places, look_again, size, steady},
};
use crate::round::{Round, Step};

/// Contract SY-1 to SY-9.
pub(crate) fn steps(r: &mut Round<'_>, places: &mut Places) -> Step<()> {
    let me = r.obs.me.clone();
    let nobody = NameSet::default();
    if places.sync.is_empty() {
        if !places.write_sync(r, "SY-1", &nobody, 0)? {
            return Ok(());
        }
    } else if !places.sync.leader_matches(me.as_str()) || places.sync.quorum > 0 {
        // Also what quorum mode left: by it no single voter has every commit.
        if !places.write_sync(r, "SY-2", &nobody, 0)? {
            return Ok(());
        }
    }
    let confirmed = places.confirmed(&me);
    let mut voters = places.voters();
    if places.active == voters && voters != confirmed {
        if !places.write_sync(r, "SY-3", &confirmed, 0)? {
            return Ok(());
        }
        voters = confirmed.clone();
    }
    if places.hold(r, "SY-4", &voters)? {
        return Ok(());
    }
    let active = places.active.clone();
    let as_listed = active == places.names.members && places.names.count == size(&active);
    if active == voters && as_listed {
        r.fired("SY-5", active.to_string());
        if places.names.kind == Kind::Quorum {
            return places.set_names(r, "SY-5", &active, None);
        }
        steady(r);
        return Ok(());
    }
    let common = voters.and(&confirmed);
    if common != voters && !places.write_sync(r, "SY-6", &common, 0)? {
        return Ok(());
    }
    if places.print(&active, None) != places.text {
        return places.set_names(r, "SY-7", &active, None);
    }
    if confirmed != active {
        r.fired("SY-8", format!("{} of {active} caught up", confirmed));
        look_again(r);
    }
    if !confirmed.is_empty() && confirmed != common {
        places.write_sync(r, "SY-9", &confirmed, 0)?;
    }
    Ok(())
}
