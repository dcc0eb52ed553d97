//! What is drawn for a run before it begins: how many members, their settings, the store's timing.

use std::time::Duration;

use ptarmigan_ha::observation::Settings;
use ptarmigan_types::{MemberName, Tags};
use serde_json::{Map, Value, json};

use crate::{
    member::{Member, Timing},
    random::Random,
    remote,
    run::Options,
    slots::Drawn,
    synchronous,
};

/// `maximum_lag_on_failover` of every cluster at first, in bytes.
pub const LAG_BYTES: u64 = 1_048_576;

/// `ttl`, `loop_wait` and `retry_timeout` as they are where nobody sets them, in seconds.
const DEFAULTS: (u64, u64, u64) = (30, 10, 10);

/// The shape of a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// How many members.
    pub members: usize,
    /// The store has Consul's timing.
    pub consul: bool,
    /// `ttl`, in seconds.
    pub ttl_s: u64,
    /// `loop_wait`, in seconds.
    pub loop_wait_s: u64,
    /// `retry_timeout`, in seconds.
    pub retry_timeout_s: u64,
    /// `primary_start_timeout`, in seconds.
    pub primary_start_timeout_s: u64,
    /// The longest `pre_promote` script, in milliseconds.
    pub pre_promote_millis: u64,
    /// The longest pause between two transactions, in milliseconds.
    pub write_millis: u64,
    /// Daemons are killed at any time, with their PostgreSQL left running: nothing in the core covers that.
    pub unguarded: bool,
    /// The members of our timing have guardians; else their daemons are back in time.
    pub guardians: bool,
    /// [`Options::skip_faults`].
    pub skip_faults: u64,
    /// [`Options::skip_requests`].
    pub skip_requests: u64,
    /// Operators leave the timing alone.
    pub default_timing: bool,
    /// How many times something goes wrong.
    pub faults: u64,
    /// Operators pause the cluster now and then.
    pub pauses: bool,
    /// `unmanaged_primary: wait`.
    unmanaged_primary_waits: bool,
    /// Members that lead with a watchdog only; it works at some times and not at others.
    watchdog: Vec<bool>,
    /// The dynamic configuration with which the cluster is bootstrapped.
    pub dynamic: String,
    tags: Vec<Tags>,
    use_rewind: Vec<bool>,
    remove_after_failure: bool,
    /// `check_timeline`.
    pub check_timeline: bool,
    /// Slots and WAL.
    pub slots: Drawn,
    /// Another cluster, of which this one may be a standby cluster.
    pub standby: remote::Drawn,
    /// Synchronous replication.
    pub synchronous: synchronous::drawn::Drawn,
    /// Members with the contract's own timing, as in a cluster shared with Patroni.
    contract_timing: Vec<bool>,
    /// Operators know failsafe mode.
    pub failsafe: bool,
    /// The longest time between the starts of two daemons at first, in milliseconds.
    pub stagger_millis: u64,
}

impl Scenario {
    /// Draws one.
    pub fn draw(random: &mut Random, options: Options) -> Self {
        let drawn = if random.percent(50) { 3 } else { random.index(5) + 3 };
        let members = options.members.unwrap_or(drawn);
        let timing = draw_timing(random);
        let (ttl_s, loop_wait_s, retry_timeout_s) = if options.default_timing { DEFAULTS } else { timing };
        let mut tags: Vec<Tags> = (0..members).map(|_| draw_tags(random)).collect();
        // A cluster of which nobody may lead has nothing to show.
        tags[0] = Tags::default();
        let use_rewind = (0..members).map(|_| random.percent(80)).collect();
        let slots = Drawn::draw(random);
        let mut dynamic = Map::new();
        dynamic.insert("ttl".into(), json!(ttl_s));
        dynamic.insert("loop_wait".into(), json!(loop_wait_s));
        dynamic.insert("retry_timeout".into(), json!(retry_timeout_s));
        dynamic.insert("maximum_lag_on_failover".into(), json!(LAG_BYTES));
        dynamic.insert("member_slots_ttl".into(), json!(slots.member_slots_ttl_s));
        slots.logical.configure(&mut dynamic, true);
        let synchronous = synchronous::drawn::Drawn::draw(random, &mut dynamic, options.synchronous);
        if synchronous.used {
            tags.iter_mut().for_each(|tags| synchronous::drawn::draw_tags(random, tags));
        }
        let contract_timing = draw_mix(random, members);
        // A Patroni's acceptance is no promise.
        let failsafe = random.percent(25) && !contract_timing.contains(&true);
        if failsafe {
            dynamic.insert("failsafe_mode".into(), json!(random.percent(80)));
        }
        let standby = remote::Drawn::draw(
            random,
            &mut dynamic,
            !synchronous.used && !slots.logical.cdc && !options.unguarded,
        );
        // Whoever replicates from a standby is no candidate for synchronous replication.
        if !synchronous.used {
            draw_cascade(random, &mut tags, standby.used);
        }
        Self {
            members,
            consul: random.percent(40),
            ttl_s,
            loop_wait_s,
            retry_timeout_s,
            primary_start_timeout_s: [300, 300, 8, 0][random.index(4)],
            pre_promote_millis: if random.percent(10) { 20_000 } else { 0 },
            write_millis: 800,
            unguarded: options.unguarded,
            guardians: random.percent(70) && !options.unguarded && !options.core_alone,
            skip_faults: options.skip_faults,
            skip_requests: options.skip_requests,
            default_timing: options.default_timing,
            faults: random.between(3, 9).min(options.faults_max.unwrap_or(u64::MAX)),
            dynamic: Value::Object(dynamic).to_string(),
            // In pause a cluster is not demoted: nothing would be left to say about how soon it is.
            pauses: random.percent(20) && !standby.used,
            unmanaged_primary_waits: random.percent(20),
            watchdog: draw_watchdogs(random, members),
            tags,
            use_rewind,
            remove_after_failure: random.percent(50),
            check_timeline: random.percent(20),
            slots,
            standby,
            synchronous,
            contract_timing,
            failsafe,
            stagger_millis: [3000, 3000, 3, 60][random.index(4)],
        }
        .with_short_lease()
    }

    /// The members, nothing running.
    pub fn members(&self) -> Vec<Member> {
        (0..self.members)
            .map(|index| {
                let name = MemberName(format!("m{index}"));
                let mut member = Member::new(name, self.settings(index), self.use_rewind[index]);
                member.watchdog.required = self.watchdog[index];
                if self.contract_timing[index] {
                    member.timing = Timing::Contract;
                }
                member
            })
            .collect()
    }

    /// Where guardians stand behind all members, `rto` may have asked for a lease as short as an etcd grants: in place of the
    /// fastest timings of the contract.
    fn with_short_lease(self) -> Self {
        let safe = self.guardians && !self.consul && !self.contract_timing.contains(&true);
        let (ttl_s, loop_wait_s, retry_timeout_s) = match (self.ttl_s, self.loop_wait_s, self.retry_timeout_s)
        {
            (20, 1, 3) => (3, 1, 1),
            (21, 1, 10) => (5, 1, 2),
            _ => return self,
        };
        if !safe {
            return self;
        }
        let mut dynamic = self.config();
        for (key, value) in [("ttl", ttl_s), ("loop_wait", loop_wait_s), ("retry_timeout", retry_timeout_s)] {
            dynamic.insert(key.into(), json!(value));
        }
        Self { ttl_s, loop_wait_s, retry_timeout_s, dynamic: Value::Object(dynamic).to_string(), ..self }
    }

    /// The dynamic configuration with which the cluster is bootstrapped.
    fn config(&self) -> Map<String, Value> {
        serde_json::from_str(&self.dynamic).unwrap_or_default()
    }

    fn settings(&self, index: usize) -> Settings {
        Settings {
            ttl: Duration::from_secs(self.ttl_s),
            loop_wait: Duration::from_secs(self.loop_wait_s),
            retry_timeout: Duration::from_secs(self.retry_timeout_s),
            primary_start_timeout: Duration::from_secs(self.primary_start_timeout_s),
            maximum_lag_on_failover_bytes: LAG_BYTES,
            check_timeline: self.check_timeline,
            primary_race_backoff: Duration::ZERO,
            failsafe_mode: false,
            api_url: format!("http://m{index}:8008/patroni"),
            can_bootstrap: true,
            can_clone_without_leader: false,
            remove_data_directory_on_rewind_failure: self.remove_after_failure,
            remove_data_directory_on_diverged_timelines: !self.use_rewind[index],
            has_logical_slots: false,
            pause: false,
            unmanaged_primary_waits: self.unmanaged_primary_waits,
            tags: self.tags[index].clone(),
            standby_cluster: remote::settings(&self.config()),
            synchronous: synchronous::daemon::settings(&self.config()),
            recovery: ptarmigan_ha::rto::Settings::default(),
            health: ptarmigan_ha::health::Settings::default(),
            failover_interval_min: Duration::ZERO,
        }
    }
}

/// `ttl`, `loop_wait` and `retry_timeout`, in seconds: the defaults in every second case, and what operators choose else,
/// down to the fastest that the contract allows and up to where the three use the TTL up.
pub fn draw_timing(random: &mut Random) -> (u64, u64, u64) {
    let others = [
        (20, 5, 5),
        (40, 10, 10),
        (25, 5, 10),
        (21, 1, 10),
        (22, 2, 10),
        (21, 1, 10),
        (20, 1, 3),
        (60, 10, 20),
    ];
    if random.percent(50) { DEFAULTS } else { others[random.index(others.len())] }
}

/// Every fifth cluster has standbys of standbys, circles among them too; in every tenth there is a member that lives from the
/// archive.
fn draw_cascade(random: &mut Random, tags: &mut [Tags], standby_cluster: bool) {
    let members = tags.len();
    if random.percent(20) {
        for (index, tags) in tags.iter_mut().enumerate().skip(1) {
            let upstream = random.index(members);
            if random.percent(50) && upstream != index {
                tags.0.insert("replicatefrom".into(), json!(format!("m{upstream}")));
            }
        }
    }
    let archive = random.percent(10);
    let index = 1 + random.index(members - 1);
    if archive && !standby_cluster {
        tags[index].0.insert("nostream".into(), json!(true));
    }
}

/// Two of three clusters are ours alone.
fn draw_mix(random: &mut Random, members: usize) -> Vec<bool> {
    let mixed = random.percent(33);
    (0..members).map(|_| mixed && random.percent(50)).collect()
}

fn draw_watchdogs(random: &mut Random, members: usize) -> Vec<bool> {
    let some = random.percent(15);
    (0..members).map(|_| some && random.percent(60)).collect()
}

fn draw_tags(random: &mut Random) -> Tags {
    let mut tags = Map::new();
    match random.between(0, 100) {
        0..8 => drop(tags.insert("nofailover".into(), json!(true))),
        8..16 => drop(tags.insert("failover_priority".into(), json!(2))),
        16..24 => drop(tags.insert("clonefrom".into(), json!(true))),
        _ => {}
    }
    Tags(tags)
}
