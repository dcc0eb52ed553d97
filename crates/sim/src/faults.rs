//! What goes wrong, drawn from the seed, and how it ends.

use std::time::Duration;

use crate::world::{Event, Network, World};

/// A fault, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next one is drawn.
    Next,
    /// The store answers again.
    StoreUp,
    /// This member reaches the store again.
    StoreReached(usize),
    /// The store is as fast as before, and answers arrive.
    StoreFine,
    /// These members reach each other again.
    Linked(usize, usize),
    /// All of this member's links work again.
    Joined(usize),
    /// The machine starts.
    MachineUp(usize),
    /// WAL travels as fast as before.
    StreamFine,
    /// Servers start as fast as before.
    StartFine,
    /// A switched-off daemon comes back.
    DaemonUp(usize),
    /// Everything is repaired.
    Heal,
}

impl World {
    /// A fault begins or ends.
    pub fn fault(&mut self, fault: Fault) {
        if fault != Fault::Next {
            self.trace.note(self.now, "world", &format!("{fault:?}"));
            self.checks.faults_active = self.checks.faults_active.saturating_sub(1);
        }
        match fault {
            Fault::Next => self.next_fault(),
            Fault::StoreUp => self.store_up(),
            Fault::StoreReached(member) => {
                self.network.store_cut.remove(&member);
                self.reconnect();
            }
            Fault::StoreFine => {
                self.network.store_millis = Network::healed().store_millis;
                self.network.lost_percent = 0;
            }
            Fault::Linked(one, other) => {
                self.network.cut.remove(&(one, other));
                self.network.cut.remove(&(other, one));
            }
            Fault::Joined(member) => {
                self.network.cut.retain(|(from, to)| *from != member && *to != member);
                self.network.store_cut.remove(&member);
                self.reconnect();
            }
            Fault::MachineUp(member) => self.machine_up(member),
            Fault::StreamFine => self.network.stream_millis = Network::healed().stream_millis,
            Fault::StartFine => self.network.start_millis = Network::healed().start_millis,
            Fault::DaemonUp(member) => self.start_daemon(member),
            Fault::Heal => {
                let down = self.network.store_down;
                self.network = Network::healed();
                self.network.store_down = down;
                self.store_up();
                for member in 0..self.members.len() {
                    self.machine_up(member);
                }
                self.checks.faults_active = 0;
                self.quiet_since = Some(self.now);
            }
        }
    }

    fn machine_up(&mut self, member: usize) {
        self.members[member].machine = true;
        let wait = self.random.millis(500, 5000);
        self.after(wait, Event::Daemon(member));
    }

    fn store_up(&mut self) {
        if std::mem::take(&mut self.network.store_down) && self.random.percent(50) {
            // A new leader of etcd gives every lease its whole TTL again.
            for lease in self.store.leases.values_mut() {
                lease.ends = lease.ends.max(self.now + lease.ttl);
            }
        }
        self.reconnect();
    }

    /// Watches of those who reach the store again catch up; those who do not are on their own from now on.
    fn reconnect(&mut self) {
        for member in 0..self.members.len() {
            let reached = self.reaches_store(member);
            let now = self.now;
            let this = &mut self.members[member];
            if !reached {
                this.cut_since.get_or_insert(now);
            } else if this.cut_since.take().is_some() && !this.watch_pending {
                this.watch_pending = true;
                let wait = self.random.millis(10, 1000);
                self.after(wait, Event::Watch(member));
            }
        }
    }

    fn end(&mut self, low: u64, high: u64, fault: Fault) {
        let wait = self.random.millis(low * 1000, high * 1000);
        self.checks.faults_active += 1;
        self.after(wait, Event::Fault(fault));
    }

    fn next_fault(&mut self) {
        if self.quiet_since.is_some() {
            return;
        }
        let wait = self.random.millis(20_000, 120_000);
        self.after(wait, Event::Fault(Fault::Next));
        if self.now < self.calm_until {
            return;
        }
        self.begin_fault();
        let all_there = self.members.iter().all(|member| member.is_alive() || !member.machine);
        if all_there && self.random.percent(30) {
            self.begin_fault();
        }
    }

    /// The present leader in two of three cases, or anybody.
    fn victim(&mut self) -> usize {
        let anybody = self.random.index(self.members.len());
        let leader = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        if self.random.percent(66) { leader.unwrap_or(anybody) } else { anybody }
    }

    fn begin_fault(&mut self) {
        let kind = self.random.between(0, 14);
        let member = self.victim();
        let other = (member + 1 + self.random.index(self.members.len() - 1)) % self.members.len();
        self.trace.note(self.now, "world", &format!("fault {kind} at m{member}, m{other}"));
        self.checks.faults += 1;
        self.checks.durability.disturbed();
        match kind {
            0 => {
                self.network.store_down = true;
                self.end(1, 90, Fault::StoreUp);
            }
            1 | 2 => {
                self.network.store_cut.insert(member);
                self.end(1, 90, Fault::StoreReached(member));
            }
            3 => {
                self.network.store_millis = self.random.between(100, 6000);
                self.end(10, 90, Fault::StoreFine);
            }
            4 => {
                self.network.lost_percent = self.random.between(10, 80);
                self.end(10, 90, Fault::StoreFine);
            }
            5 => {
                self.network.cut.insert((member, other));
                if self.random.percent(50) {
                    self.network.cut.insert((other, member));
                }
                self.end(5, 120, Fault::Linked(member, other));
            }
            6 => self.isolate(member),
            7 | 8 => self.machine_down(member),
            9 | 10 => self.crash_server(member),
            11 => self.restart_daemon(member),
            12 => {
                self.network.stream_millis = self.random.between(1000, 60_000);
                self.end(20, 120, Fault::StreamFine);
            }
            _ => {
                self.network.start_millis = 40_000;
                self.wall_micros +=
                    i64::try_from(self.random.between(0, 7_200_000_000)).unwrap_or(0) - 3_600_000_000;
                self.end(20, 200, Fault::StartFine);
            }
        }
        self.reconnect();
    }

    fn isolate(&mut self, member: usize) {
        self.network.store_cut.insert(member);
        for other in (0..self.members.len()).filter(|other| *other != member) {
            self.network.cut.insert((member, other));
            self.network.cut.insert((other, member));
        }
        self.end(5, 120, Fault::Joined(member));
    }

    fn machine_down(&mut self, member: usize) {
        if self.members[member].machine {
            self.members[member].postgres.gone(false);
            self.kill_daemon(member);
            self.members[member].machine = false;
            self.end(2, 120, Fault::MachineUp(member));
        }
    }

    /// A daemon that is away while the store is away too, with its PostgreSQL running, is the guardian's business: the
    /// core alone cannot help there, so this fault comes alone unless the run asks for it.
    fn restart_daemon(&mut self, member: usize) {
        if (self.checks.faults_active == 0 || self.scenario.unguarded) && self.members[member].is_alive() {
            self.kill_daemon(member);
            if self.scenario.unguarded {
                self.end(1, 90, Fault::DaemonUp(member));
            } else {
                self.checks.faults_active += 1;
                self.after(Duration::from_millis(500), Event::Fault(Fault::DaemonUp(member)));
            }
        }
    }
}
