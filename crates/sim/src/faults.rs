//! What goes wrong, drawn from the seed, and how it ends.

use std::time::Duration;

use crate::{
    dcs::WATCH_BROKEN,
    member::{Member, Timing},
    store::Condition,
    world::{Event, Moment, Network, World},
};

/// A fault, or its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next one is drawn.
    Next,
    /// One out of turn.
    Extra,
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
    /// Servers stop as fast as before.
    StopFine,
    /// PostgreSQL answers the monitoring query as fast as before.
    QueryFine,
    /// A switched-off daemon comes back.
    DaemonUp(usize),
    /// A machine that stood still goes on.
    Thaws,
    /// There is space on the disk again.
    DiskFree(usize),
    /// The server answers again.
    ServerAnswers(usize),
    /// An operator moves the leader away from a node that is not well.
    SickNode(usize),
    /// The way to the store fails as soon as it has carried one more confirmation of the lock.
    DoomedLink(usize),
    /// The way to the store that was slow carries nothing any more.
    StoreLost(usize),
    /// Everything is repaired.
    Heal,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    StoreDown,
    StoreCut,
    StoreSlow,
    SlowThenCut,
    AnswersLost,
    RaceCut,
    ReleaseCut,
    Stale,
    Compaction,
    LinkCut,
    Isolated,
    MachineDown,
    MachinePaused,
    ServerCrash,
    ServerHangs,
    DaemonKilled,
    DaemonFrozen,
    StreamSlow,
    StartSlow,
    StopSlow,
    QuerySlow,
    DiskFull,
    ClockJump,
}

impl Kind {
    /// All of them; what happens most is there more than once.
    const ALL: [Self; 27] = [
        Self::StoreDown,
        Self::StoreCut,
        Self::StoreCut,
        Self::StoreSlow,
        Self::SlowThenCut,
        Self::AnswersLost,
        Self::RaceCut,
        Self::ReleaseCut,
        Self::Stale,
        Self::Compaction,
        Self::LinkCut,
        Self::Isolated,
        Self::MachineDown,
        Self::MachineDown,
        Self::MachinePaused,
        Self::ServerCrash,
        Self::ServerCrash,
        Self::ServerHangs,
        Self::DaemonKilled,
        Self::DaemonFrozen,
        Self::DaemonFrozen,
        Self::StreamSlow,
        Self::StartSlow,
        Self::StopSlow,
        Self::QuerySlow,
        Self::DiskFull,
        Self::ClockJump,
    ];
}

/// What a frozen leader has left of its lease when it wakes: the time of a cycle and of a stop.
const LEASE_SPARE: Duration = Duration::from_secs(4);

impl World {
    /// A fault begins or ends.
    pub fn fault(&mut self, fault: Fault) {
        if !matches!(
            fault,
            Fault::Next | Fault::Extra | Fault::SickNode(_) | Fault::DoomedLink(_) | Fault::StoreLost(_)
        ) {
            self.trace.note(self.now, "world", &format!("{fault:?}"));
            self.checks.faults_active = self.checks.faults_active.saturating_sub(1);
        }
        match fault {
            Fault::Next => self.next_fault(),
            Fault::Extra if self.quiet_since.is_none() && self.now >= self.calm_until && self.all_there() => {
                self.begin_fault();
            }
            Fault::Extra => {}
            Fault::StoreUp => self.store_up(),
            Fault::StoreReached(member) => {
                self.network.store_cut.remove(&member);
                self.reconnect();
            }
            Fault::StoreFine => {
                self.network.store_millis = Network::healed().store_millis;
                self.network.lost_percent = 0;
                self.network.stale_millis = 0;
                self.network.slow_links.clear();
                self.network.doomed.clear();
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
            Fault::StopFine => self.network.stop_millis = Network::healed().stop_millis,
            Fault::QueryFine => self.network.query_millis = Network::healed().query_millis,
            Fault::DaemonUp(member) => self.start_daemon(member),
            Fault::Thaws => {}
            Fault::SickNode(member) => self.leave_sick_node(member),
            Fault::DoomedLink(member) => drop(self.network.doomed.insert(member, Moment::Confirmed)),
            Fault::StoreLost(member) => {
                self.network.store_cut.insert(member);
                self.end(5, 60, Fault::StoreReached(member));
                self.reconnect();
            }
            Fault::DiskFree(member) => self.members[member].trouble.disk_full = false,
            Fault::ServerAnswers(member) => self.members[member].trouble.hung = false,
            Fault::Heal => self.heal(),
        }
    }

    /// Everything is repaired, and nobody asks for anything any more.
    fn heal(&mut self) {
        let down = self.network.store_down;
        self.network = Network::healed();
        self.network.store_down = down;
        self.store_up();
        for member in 0..self.members.len() {
            let trouble = &mut self.members[member].trouble;
            (trouble.disk_full, trouble.hung) = (false, false);
            self.machine_up(member);
        }
        self.members.iter_mut().for_each(|member| member.restart = None);
        // Nobody but a leader writes a deleted configuration again, and in pause nobody may become one.
        if !self.store.keys.contains_key("config") && self.checks.initialize.identifier().is_some() {
            let text = self.scenario.dynamic.clone();
            self.write("config", Some(&text), Condition::Always);
            self.tell();
        }
        if self.is_paused() {
            self.pause(false);
        }
        // Whoever deleted the key puts it back: a standby that starts without it waits for that (HA-089).
        if !self.store.keys.contains_key("initialize")
            && let Some(identifier) = self.checks.initialize.identifier().map(str::to_owned)
        {
            self.write("initialize", Some(&identifier), Condition::Always);
            self.tell();
        }
        self.checks.faults_active = 0;
        self.quiet_since = Some(self.now);
    }

    fn machine_up(&mut self, member: usize) {
        self.members[member].machine = true;
        let wait = self.random.millis(500, 5000);
        self.after(wait, Event::Daemon(member));
    }

    fn store_up(&mut self) {
        if std::mem::take(&mut self.network.store_down) && self.random.percent(50) {
            self.store.new_leader(self.now);
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
                continue;
            }
            let Some(since) = this.cut_since.take() else { continue };
            if now.since(since) > WATCH_BROKEN {
                // The watch broke: what it missed is read, not waited for.
                this.copy.lose();
            }
            if !this.watch_pending {
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
        if self.now < self.calm_until || !self.scenario.unguarded && !self.all_there() {
            return;
        }
        self.begin_fault();
        if self.all_there() && self.random.percent(30) {
            self.begin_fault();
        }
    }

    /// The daemons of all machines run.
    fn all_there(&self) -> bool {
        let guardians = self.scenario.guardians || self.scenario.unguarded;
        let guarded = |member: &Member| guardians && member.timing == Timing::Own;
        self.members.iter().all(|member| member.is_alive() || !member.machine || guarded(member))
    }

    /// The present leader in two of three cases, or anybody.
    fn victim(&mut self) -> usize {
        let anybody = self.random.index(self.members.len());
        let leader = self.store.keys.get("leader").and_then(|raw| self.index(&raw.value));
        if self.random.percent(66) { leader.unwrap_or(anybody) } else { anybody }
    }

    fn begin_fault(&mut self) {
        let number = self.checks.counts.faults;
        self.checks.counts.faults += 1;
        if number < 64 && self.scenario.skip_faults >> number & 1 == 1 {
            return;
        }
        let kind = Kind::ALL[self.random.index(Kind::ALL.len())];
        let member = self.victim();
        let other = (member + 1 + self.random.index(self.members.len() - 1)) % self.members.len();
        self.trace.note(self.now, "world", &format!("fault {kind:?} at m{member}, m{other}"));
        self.checks.durability.disturbed();
        match kind {
            Kind::StoreDown => {
                self.network.store_down = true;
                self.end(1, 90, Fault::StoreUp);
            }
            Kind::StoreCut => {
                self.network.store_cut.insert(member);
                self.end(1, 90, Fault::StoreReached(member));
            }
            Kind::StoreSlow => self.slow_store(member),
            Kind::SlowThenCut => {
                let millis = self.random.between(1000, 5000);
                self.network.slow_links.insert(member, millis);
                self.network.doomed.insert(member, Moment::Confirmed);
                self.end(60, 90, Fault::StoreFine);
            }
            Kind::AnswersLost => {
                self.network.lost_percent = self.random.between(10, 80);
                self.end(10, 90, Fault::StoreFine);
                if self.random.percent(50) {
                    // What answers belong to is rarely asked but in a race.
                    self.machine_down(member);
                }
            }
            Kind::RaceCut => {
                for racer in (0..self.members.len()).filter(|racer| *racer != member) {
                    if self.random.percent(60) {
                        self.network.doomed.insert(racer, Moment::Races);
                    }
                }
                self.end(30, 60, Fault::StoreFine);
                self.machine_down(member);
            }
            Kind::ReleaseCut => {
                self.network.doomed.insert(member, Moment::Releases);
                self.end(20, 40, Fault::StoreFine);
                self.leave_sick_node(member);
            }
            Kind::LinkCut => {
                self.network.cut.insert((member, other));
                if self.random.percent(50) {
                    self.network.cut.insert((other, member));
                }
                self.end(5, 120, Fault::Linked(member, other));
            }
            Kind::Isolated => self.isolate(member),
            Kind::MachineDown => self.machine_down(member),
            Kind::ServerCrash => self.crash_server(member),
            Kind::DaemonKilled => self.restart_daemon(member),
            Kind::DaemonFrozen => self.freeze(member, false),
            Kind::MachinePaused => self.freeze(member, true),
            on_server => self.begin_server_fault(on_server, member),
        }
        self.reconnect();
    }

    fn begin_server_fault(&mut self, kind: Kind, member: usize) {
        match kind {
            Kind::Stale => {
                self.network.stale_millis = self.random.between(500, 20_000);
                self.end(10, 120, Fault::StoreFine);
            }
            Kind::Compaction => self.store.compact(self.store.history.newest()),
            Kind::StreamSlow => {
                self.network.stream_millis = self.random.between(1000, 60_000);
                self.end(20, 120, Fault::StreamFine);
            }
            Kind::StopSlow => {
                self.network.stop_millis = self.random.between(2000, 90_000);
                self.end(20, 200, Fault::StopFine);
            }
            Kind::QuerySlow => {
                self.network.query_millis = self.random.between(500, 5000);
                self.end(20, 120, Fault::QueryFine);
            }
            Kind::DiskFull => {
                self.members[member].trouble.disk_full = true;
                self.crash_server(member);
                self.end(5, 90, Fault::DiskFree(member));
            }
            Kind::ServerHangs => {
                self.members[member].trouble.hung = true;
                self.end(1, 60, Fault::ServerAnswers(member));
            }
            Kind::ClockJump => {
                let jump = i64::try_from(self.random.between(0, 7_200_000_000)).unwrap_or(0);
                self.wall_micros += jump - 3_600_000_000;
            }
            _ => {
                self.network.start_millis = 40_000;
                self.end(20, 200, Fault::StartFine);
            }
        }
    }

    /// The store is slow for all, or for one: a way that is overloaded often ends by carrying nothing any more.
    fn slow_store(&mut self, member: usize) {
        let millis = self.random.between(100, 9000);
        if self.random.percent(50) {
            self.network.store_millis = millis;
            return self.end(10, 90, Fault::StoreFine);
        }
        self.network.slow_links.insert(member, millis);
        self.end(60, 90, Fault::StoreFine);
        let wait = self.random.millis(1000, 40_000);
        match self.random.between(0, 3) {
            0 => self.after(wait, Event::Fault(Fault::SickNode(member))),
            1 => self.after(wait, Event::Fault(Fault::DoomedLink(member))),
            _ => {}
        }
    }

    /// Cuts a member's way to the store a few milliseconds from now, where it was to fail at this moment.
    pub fn doom(&mut self, member: usize, moment: Moment) {
        if self.network.doomed.get(&member) == Some(&moment) {
            self.network.doomed.remove(&member);
            if moment == Moment::Confirmed && self.random.percent(50) {
                // As long as a lease that was confirmed this moment allows: how long that is decides.
                let spare = self.lease_spare(member);
                return self.freeze_for(member, spare, false);
            }
            let wait = self.random.millis(0, 8);
            self.after(wait, Event::Fault(Fault::StoreLost(member)));
        }
    }

    /// New primaries have troubles of their own: a fault in the seconds after a promotion.
    pub fn trouble_new_primary(&mut self) {
        if self.quiet_since.is_none() && self.scenario.faults > 0 && self.random.percent(20) {
            let wait = self.random.millis(0, 4000);
            self.after(wait, Event::Fault(Fault::Extra));
        }
    }

    /// The daemon, or with its PostgreSQL the whole machine, stands still. A leader's wakes while its lease still has time
    /// to spare: what goes beyond that is the guardian's business, not the core's.
    fn freeze(&mut self, member: usize, paused: bool) {
        let spare = self.lease_spare(member);
        let leads = self.members[member].leads(self.now) || self.members[member].postgres.is_writable();
        let wanted = self.random.millis(500, 60_000);
        // A machine that thaws goes on where it stood, and so does its guardian.
        let ends_in_time = self.is_guarded(member) && !paused;
        let time = if leads && !ends_in_time { wanted.min(spare) } else { wanted };
        self.freeze_for(member, time, paused);
    }

    /// Its server ends without its daemon. Without a guardian that is tried all the same where the run asks for it.
    fn is_guarded(&self, member: usize) -> bool {
        let guardian = self.scenario.guardians && self.members[member].timing == Timing::Own;
        guardian || self.scenario.unguarded
    }

    /// How long a leader can stand still and wake in time.
    fn lease_spare(&self, member: usize) -> Duration {
        self.members[member].lease.until().unwrap_or_default().since(self.now + LEASE_SPARE)
    }

    /// Its daemon, or (`paused`) its whole machine, stands still for that long.
    pub fn freeze_for(&mut self, member: usize, time: Duration, paused: bool) {
        if !time.is_zero() {
            let until = self.now + time;
            let trouble = &mut self.members[member].trouble;
            (trouble.frozen_until, trouble.paused) = (until, paused);
            self.checks.faults_active += 1;
            self.after(time, Event::Fault(Fault::Thaws));
        }
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
        let guarded = self.is_guarded(member);
        if (self.checks.faults_active == 0 || guarded) && self.members[member].is_alive() {
            self.kill_daemon(member);
            if guarded && self.random.percent(70) {
                self.end(1, 90, Fault::DaemonUp(member));
            } else {
                self.checks.faults_active += 1;
                self.after(Duration::from_millis(500), Event::Fault(Fault::DaemonUp(member)));
            }
        }
    }
}
