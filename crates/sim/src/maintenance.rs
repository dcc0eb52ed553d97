//! Maintenance mode: operators who pause a cluster, stop and start its servers by hand, move the leader, and resume.

use serde_json::Value;

use crate::{
    member::Member,
    postgres::Process,
    store::Condition,
    world::{Event, World},
};

impl World {
    /// The cluster is paused, as `/config` has it.
    pub fn is_paused(&self) -> bool {
        self.dynamic_config().get("pause").is_some_and(|pause| *pause == Value::Bool(true))
    }

    /// `pause` or `resume`.
    pub fn pause(&mut self, paused: bool) {
        let mut config = self.dynamic_config();
        if paused {
            config.insert("pause".into(), true.into());
        } else {
            config.remove("pause");
        }
        let text = Value::Object(config).to_string();
        self.trace.note(self.now, "operator", if paused { "pause" } else { "resume" });
        self.write("config", Some(&text), Condition::Always);
        self.tell();
    }

    /// An operator begins maintenance, or goes on with it.
    pub fn maintain(&mut self, member: usize) {
        if !self.is_paused() {
            return self.pause(true);
        }
        match self.random.between(0, 10) {
            0..3 => self.pause(false),
            3..6 => self.stop_by_hand(member),
            6..9 => self.start_by_hand(),
            _ => self.failover_in_pause(member),
        }
    }

    /// `pg_ctl stop`.
    fn stop_by_hand(&mut self, member: usize) {
        let this = &self.members[member];
        if this.job.is_some() || this.postgres.process != Process::Up || !this.machine {
            return;
        }
        self.note(member, "postgres is stopped by hand");
        self.checks.durability.disturbed();
        self.stop_cleanly(member);
        self.wake(member);
    }

    /// `pg_ctl start` of whatever is down. Nobody starts a second primary, or what the daemon says is half rewound.
    fn start_by_hand(&mut self) {
        for member in 0..self.members.len() {
            let this = &self.members[member];
            let usable = this.postgres.present && this.postgres.torn.is_none();
            let ready = this.job.is_none() && this.machine && usable;
            let writes =
                |other: &Member| !other.postgres.standby_signal && other.postgres.process != Process::Down;
            let alone = this.postgres.standby_signal || !self.members.iter().any(writes);
            if !ready || !alone || this.postgres.process != Process::Down {
                continue;
            }
            let (primary, upstream) = (!this.postgres.standby_signal, this.postgres.upstream);
            self.note(member, "postgres is started by hand");
            let needed = self.random.millis(100, self.network.start_millis.max(101));
            let postgres = &mut self.members[member].postgres;
            postgres.start(primary, upstream);
            let generation = postgres.generation;
            self.after(needed, Event::Ready { member, generation });
        }
    }

    /// A manual failover, where everybody hears of it.
    fn failover_in_pause(&mut self, member: usize) {
        if self.everybody_hears() {
            self.fail_over(member);
        }
    }
}
