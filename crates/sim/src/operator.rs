//! What operators do at random moments.

use std::time::Duration;

use ptarmigan_ha::{
    Upstream,
    action::Job,
    observation::{RestartFilter, ScheduledRestart},
};
use ptarmigan_types::{Failover, MemberName};
use serde_json::{Map, Value, json};

use crate::{
    member::{Member, Phase, Timing},
    scenario::draw_timing,
    store::Condition,
    world::{Event, Network, World},
};

impl World {
    /// An operator does something, unless the run is to come to rest.
    pub fn operate(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        let wait = self.random.millis(40_000, 200_000);
        self.after(wait, Event::Operator);
        let number = self.checks.counts.requests;
        self.checks.counts.requests += 1;
        if number < 64 && self.scenario.skip_requests >> number & 1 == 1 {
            return;
        }
        let member = self.random.index(self.members.len());
        if self.scenario.changes_synchronous() && !self.network.store_down && self.random.percent(40) {
            return self.change_synchronous(member);
        }
        if self.scenario.pauses && !self.network.store_down && self.random.percent(50) {
            return self.maintain(member);
        }
        let kind = self.random.between(0, 15);
        self.trace.note(self.now, "operator", &format!("request {kind}"));
        if kind == 6 {
            return self.restart_request(member);
        }
        if self.network.store_down {
            return;
        }
        match kind {
            0..=3 => self.switchover(member, kind),
            4 | 5 => self.fail_over(member),
            7 if !self.scenario.default_timing => self.configure(),
            7 => {}
            8 => self.reinitialize_request(member),
            9 => self.schedule_restart(member),
            10 => self.revoke_lease(),
            // In maintenance mode nobody would put it back.
            13 if self.is_paused() => {}
            // Without it nobody knows whether this is a standby cluster.
            13 if self.scenario.standby.used => {}
            13 => self.delete_key("config"),
            14 => self.delete_key("initialize"),
            12 if self.scenario.guardians => self.delete_key_of_frozen(),
            _ => self.delete_leader_key(),
        }
    }

    /// The lock is taken from a primary that lives: whoever races must hear it, so this never comes together with a link
    /// that is cut or a daemon that cannot answer. The old leader itself may have lost the store.
    fn delete_leader_key(&mut self) {
        let holder = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        let heard = |leader: &usize| self.everybody_hears() && self.members[*leader].postgres.is_writable();
        let Some(leader) = holder.filter(heard) else { return };
        let lease = self.members[leader].lease.until().unwrap_or_default();
        self.calm_until = (self.now + Duration::from_secs(10)).max(lease + Duration::from_secs(5));
        self.checks.durability.disturbed();
        self.store.remove("leader");
        self.tell();
    }

    /// The lock is taken from a primary whose daemon stands still: its guardian ends it when the lease would have ended, and whoever
    /// receives its WAL waits for that.
    fn delete_key_of_frozen(&mut self) {
        let holder = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        let Some(leader) = holder.filter(|leader| self.members[*leader].postgres.is_writable()) else {
            return;
        };
        let others = self.members.iter().enumerate().filter(|(index, _)| *index != leader);
        let follow = others.clone().all(|(index, other)| {
            other.postgres.streams_from.is_some_and(|(from, _)| from == leader)
                && self.linked(index, leader)
                && !matches!(other.phase, Phase::Dead | Phase::FirstLook)
        });
        let ours = self.members.iter().all(|member| member.timing == Timing::Own);
        if !follow || !ours || self.members[leader].trouble.is_frozen(self.now) {
            return;
        }
        let lease = self.members[leader].lease.until().unwrap_or_default();
        self.calm_until = (self.now + Duration::from_secs(10)).max(lease + Duration::from_secs(5));
        self.checks.durability.disturbed();
        let time = self.random.millis(500, 40_000);
        self.freeze_for(leader, time, false);
        self.store.remove("leader");
        self.tell();
    }

    /// `lease revoke`, or a Consul agent that starts anew: the leader's keys are gone, and it hears of that, because nothing
    /// stands between it and the store. Whether the others hear it does not matter.
    fn revoke_lease(&mut self) {
        let Some(raw) = self.store.keys.get("leader").cloned() else { return };
        let (Some(leader), Some(lease)) = (self.index(&raw.value), &raw.lease) else { return };
        let this = &self.members[leader];
        let hears = this.timing == Timing::Own
            && !this.trouble.is_frozen(self.now)
            && !matches!(this.phase, Phase::Dead | Phase::FirstLook)
            && self.reaches_store(leader);
        let healed = Network::healed();
        let fast = self.network.store_millis <= healed.store_millis
            && self.network.query_millis <= healed.query_millis
            && self.network.stale_millis == 0
            && self.network.lost_percent == 0
            && self.network.slow_links.is_empty();
        if hears && fast {
            self.calm_until = self.now + Duration::from_secs(10);
            self.checks.durability.disturbed();
            self.store.end_lease(self.now, &lease.0);
            self.lease_ends(&lease.0);
        }
    }

    /// A key that the leader has to write again.
    fn delete_key(&mut self, key: &str) {
        self.write(key, None, Condition::Always);
        self.tell();
    }

    /// All daemons run and hear each other, and none is about to fall silent; the store may be slow, or out of reach for some.
    pub fn everybody_hears(&self) -> bool {
        let hears = |member: &Member| {
            let silent = member.trouble.is_frozen(self.now) || member.trouble.hung;
            !silent && !matches!(member.phase, Phase::Dead | Phase::FirstLook)
        };
        let stays = self.network.cut.is_empty() && self.network.doomed.is_empty();
        stays && self.members.iter().all(hears)
    }

    /// `reinitialize` on a standby.
    fn reinitialize_request(&mut self, member: usize) {
        let leader = self.store.keys.get("leader").map(|raw| MemberName(raw.value.clone()));
        let this = &self.members[member];
        let standby = this.is_alive() && this.postgres.in_recovery && !this.leads(self.now);
        if standby && leader.as_ref().is_some_and(|leader| *leader != this.name) {
            drop(self.begin_job(member, Job::Reinitialize { source: leader.map(Upstream::Member) }));
        }
    }

    /// `restart` at a time to come.
    fn schedule_restart(&mut self, member: usize) {
        let wait = Duration::from_micros(self.random.between(5_000_000, 60_000_000));
        let at = self.wall() + wait;
        let this = &mut self.members[member];
        if this.is_alive() {
            this.restart = Some(ScheduledRestart {
                at,
                postmaster_start_time: None,
                filter: RestartFilter::default(),
                timeout: None,
            });
        }
    }

    /// A failover to that member, whoever it is.
    pub fn fail_over(&mut self, member: usize) {
        let name = self.members[member].name.0.clone();
        self.checks.sync_durability.manual(self.now, &name);
        self.wish(&Failover::to_json(None, Some(&name), None));
    }

    /// Puts a wish into `/failover`.
    pub fn wish(&mut self, text: &str) {
        self.checks.durability.manual(self.now);
        self.write("failover", Some(text), Condition::Always);
        self.tell();
    }

    fn switchover(&mut self, member: usize, kind: u64) {
        let Some(leader) = self.store.keys.get("leader").map(|raw| raw.value.clone()) else { return };
        let candidate = self.members[member].name.0.clone();
        let candidate = (kind.is_multiple_of(2) && candidate != leader).then_some(candidate);
        let wait = Duration::from_micros(self.random.between(5_000_000, 60_000_000));
        let at = (kind == 3).then(|| (self.wall() + wait).to_string());
        self.wish(&Failover::to_json(Some(&leader), candidate.as_deref(), at.as_deref()));
    }

    /// A switchover away from this member, wherever it goes.
    pub fn leave_sick_node(&mut self, member: usize) {
        let leads = self.store.keys.get("leader").is_some_and(|raw| raw.value == self.members[member].name.0);
        if leads && !self.network.store_down {
            let name = self.members[member].name.0.clone();
            self.wish(&Failover::to_json(Some(&name), None, None));
        }
    }

    fn restart_request(&mut self, member: usize) {
        let this = &self.members[member];
        let running = this.is_alive() && !matches!(this.phase, Phase::FirstLook);
        if running && this.postgres.present {
            drop(self.begin_job(member, Job::Restart { timeout: None }));
        }
    }

    fn configure(&mut self) {
        let (ttl, loop_wait, retry_timeout) = draw_timing(&mut self.random);
        let lag = self.random.between(100_000, 3_000_000);
        self.checks.durability.allow(lag);
        let mut config = self.dynamic_config();
        config.insert("ttl".into(), json!(ttl));
        config.insert("loop_wait".into(), json!(loop_wait));
        config.insert("retry_timeout".into(), json!(retry_timeout));
        config.insert("maximum_lag_on_failover".into(), json!(lag));
        if self.scenario.failsafe {
            config.insert("failsafe_mode".into(), json!(self.random.percent(70)));
        }
        self.configure_slots(&mut config);
        self.write("config", Some(&Value::Object(config).to_string()), Condition::Always);
        self.tell();
    }

    /// The logical slot comes and goes, and absent members are given more time, or less.
    fn configure_slots(&mut self, config: &mut Map<String, Value>) {
        let drawn = self.scenario.slots.logical;
        if drawn.cdc {
            config.remove("slots");
            let wanted = self.random.percent(75);
            drawn.configure(config, wanted);
        }
        if self.random.percent(20) {
            let ttl_s = [0, 10, 120, 1800][self.random.index(4)];
            self.checks.slots.changed_ttl(ttl_s);
            config.insert("member_slots_ttl".into(), json!(ttl_s));
        }
    }
}
