//! The model DCS under the conformance suite of every store, through the client that the simulated daemons use; and what the
//! suite cannot see: repetitions, lost answers, stale reads, watches that lag or are behind a compaction.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use ptarmigan_dcs::{
    Changes, Condition, Dcs, Error, Grant, Timing, Verdict, View, Written,
    conformance::{self, Harness},
};
use ptarmigan_ha::Outcome;
use ptarmigan_sim::{
    Options,
    checkers::Checks,
    dcs::client::Ended,
    member::{Call, Member, OwnLease, Phase, Waiter},
    store,
    world::{Network, World},
};
use ptarmigan_types::{ClusterPath, Key, Leader, LeaseId, MemberName, Monotonic};
use serde_json::{Map, Value};
use tokio::sync::watch;

/// How far the clock goes while an answer is waited for.
const TICK: Duration = Duration::from_millis(1);
const TIMING: Timing = Timing {
    ttl: Duration::from_secs(30),
    loop_wait: Duration::from_secs(10),
    retry_timeout: Duration::from_secs(10),
};

/// One world, and who watches in it.
struct Model {
    world: World,
    changes: Vec<watch::Sender<Changes>>,
    number: u64,
}

impl Model {
    fn new(seed: u64, consul: bool, network: Network) -> Self {
        let mut world = World::new(seed, Options::default());
        world.scenario.consul = consul;
        world.store = store::Store::new(consul);
        world.network = network;
        world.members.truncate(1);
        Self { world, changes: vec![watch::Sender::default()], number: 0 }
    }

    /// A member in which no daemon runs: its loop neither sleeps nor wakes.
    fn member(&mut self, name: &str, timing: Timing) -> usize {
        let mut settings = self.world.members[0].settings.clone();
        settings.ttl = timing.ttl;
        settings.loop_wait = timing.loop_wait;
        settings.retry_timeout = timing.retry_timeout;
        let mut member = Member::new(MemberName(name.into()), settings, false);
        member.phase = Phase::View;
        member.copy.noted = Some(Vec::new());
        self.world.members.push(member);
        self.changes.push(watch::Sender::default());
        self.world.members.len() - 1
    }

    fn run_until(&mut self, moment: Monotonic) {
        // The suite does to the lock what no daemon does: what the checkers say of that is not asked.
        while self.world.now < moment {
            self.world.checks = Checks::default();
            self.world.run_until(moment);
        }
        for (member, sender) in self.world.members.iter_mut().zip(&self.changes) {
            for noted in member.copy.noted.iter_mut().flat_map(std::mem::take) {
                let [before, after] =
                    [&noted.before, &noted.after].map(|raw| raw.as_ref().map(|raw| &*raw.value));
                sender.send_if_modified(|changes| changes.note(&noted.key, before, after));
            }
        }
    }

    fn begin(&mut self, member: usize, call: Call) -> u64 {
        self.number += 1;
        let limit = self.world.members[member].settings.retry_timeout;
        self.world.call(member, Waiter::Caller(self.number), call, limit);
        self.number
    }

    fn ended(&mut self, member: usize, number: u64) -> Option<Ended> {
        self.world.members[member].ended.remove(&number)
    }

    fn finish(&mut self, member: usize, number: u64) -> Ended {
        loop {
            if let Some(ended) = self.ended(member, number) {
                return ended;
            }
            self.run_until(self.world.now + TICK);
        }
    }

    fn ask(&mut self, member: usize, call: Call) -> Ended {
        let number = self.begin(member, call);
        self.finish(member, number)
    }

    fn sleep(&mut self, time: Duration) {
        self.run_until(self.world.now + time);
    }
}

/// Worlds that share a clock.
#[derive(Default)]
struct Worlds {
    models: BTreeMap<String, Arc<Mutex<Model>>>,
    now: u64,
}

/// The harness: one world per cluster, all with the same store and network.
struct Simulated {
    seed: u64,
    consul: bool,
    stale_millis: u64,
    worlds: Arc<Mutex<Worlds>>,
}

impl Simulated {
    fn new(seed: u64, consul: bool, stale_millis: u64) -> Self {
        let now = World::new(seed, Options::default()).now.0;
        Self { seed, consul, stale_millis, worlds: Arc::new(Mutex::new(Worlds { now, ..Worlds::default() })) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no case panicked in the model")
}

#[async_trait]
impl Harness for Simulated {
    async fn member(&self, path: &ClusterPath, name: &str, timing: Timing) -> Box<dyn Dcs> {
        let mut worlds = lock(&self.worlds);
        let made = || {
            let network = Network { stale_millis: self.stale_millis, ..Network::healed() };
            Arc::new(Mutex::new(Model::new(self.seed, self.consul, network)))
        };
        let model = worlds.models.entry(path.base().to_owned()).or_insert_with(made).clone();
        let now = Monotonic(worlds.now);
        let member = {
            let mut model = lock(&model);
            model.run_until(now);
            model.member(name, timing)
        };
        Box::new(Handle { model, member, worlds: self.worlds.clone() })
    }

    fn now(&self) -> Monotonic {
        Monotonic(lock(&self.worlds).now)
    }

    async fn sleep(&self, time: Duration) {
        let mut worlds = lock(&self.worlds);
        worlds.now += u64::try_from(time.as_micros()).expect("a short time");
        for model in worlds.models.values() {
            lock(model).run_until(Monotonic(worlds.now));
        }
    }

    fn ttl_min(&self) -> Duration {
        // The model has no least TTL; a session of Consul's lives up to four seconds with this one.
        Duration::from_secs(if self.consul { 4 } else { 3 })
    }

    fn granted(&self, ttl: Duration) -> Duration {
        if self.consul { ttl / 2 } else { ttl }
    }

    fn expiry_slack(&self) -> Duration {
        Duration::from_secs(if self.consul { 3 } else { 1 })
    }
}

/// One member's handle.
struct Handle {
    model: Arc<Mutex<Model>>,
    member: usize,
    worlds: Arc<Mutex<Worlds>>,
}

impl Handle {
    /// Begins an operation, lets others begin theirs, then lets time pass until it ended.
    async fn ask(&self, call: Call) -> Result<Ended, Error> {
        let number = {
            let now = lock(&self.worlds).now;
            let mut model = lock(&self.model);
            model.run_until(Monotonic(now));
            model.begin(self.member, call)
        };
        tokio::task::yield_now().await;
        let mut model = lock(&self.model);
        let ended = model.finish(self.member, number);
        let mut worlds = lock(&self.worlds);
        worlds.now = worlds.now.max(model.world.now.0);
        match ended.outcome {
            Outcome::NoAnswer { maybe: true, reason } => Err(Error::Indeterminate(reason)),
            Outcome::NoAnswer { maybe: false, reason } => Err(Error::Unreachable(reason)),
            _ => Ok(ended),
        }
    }

    async fn view_by(&self, call: Call) -> Result<View, Error> {
        let at = Monotonic(lock(&self.worlds).now);
        match self.ask(call).await?.outcome {
            Outcome::View(cluster) => Ok(View { cluster: (*cluster).clone(), at }),
            other => panic!("a read ended with {other:?}"),
        }
    }
}

fn verdict(ended: Ended) -> Verdict {
    match ended.outcome {
        Outcome::Held { until, .. } => {
            let lease = ended.lease.expect("what is held hangs on a lease");
            assert_eq!(until, lease.sent + lease.ttl);
            let (sent_at, ttl) = (lease.sent, lease.ttl);
            Verdict::Held(Grant { lease: lease.id, sent_at, ttl, create_revision: ended.revision })
        }
        Outcome::Refused(why) => Verdict::Refused(why),
        other => panic!("an operation on the lock ended with {other:?}"),
    }
}

fn written(ended: Ended) -> Written {
    match ended.outcome {
        Outcome::Done | Outcome::Written(_) => Written::Applied(ended.revision),
        Outcome::Refused(_) => Written::Conflict,
        other => panic!("a write ended with {other:?}"),
    }
}

fn write_call(key: &Key, value: Option<&str>, condition: Condition) -> Call {
    let key = match key {
        Key::Leader => "leader",
        Key::Initialize => "initialize",
        Key::Status => "status",
        Key::Optime => "optime/leader",
        Key::Sync => "sync",
        Key::Config => "config",
        Key::Failover => "failover",
        other => panic!("nobody writes {other:?} without a lease"),
    };
    let condition = match condition {
        Condition::Always => store::Condition::Always,
        Condition::Absent => store::Condition::Absent,
        Condition::Revision(revision) => store::Condition::Revision(revision),
    };
    Call::Write { key, value: value.map(str::to_owned), condition }
}

#[async_trait]
impl Dcs for Handle {
    async fn view(&self) -> Result<View, Error> {
        let at = Monotonic(lock(&self.worlds).now);
        let copied = {
            let mut model = lock(&self.model);
            model.run_until(at);
            model.world.copied_view(self.member)
        };
        match copied {
            Some(cluster) => Ok(View { cluster: (*cluster).clone(), at }),
            None => self.view_by(Call::Read).await,
        }
    }

    async fn view_fresh(&self) -> Result<View, Error> {
        self.view_by(Call::ReadFresh).await
    }

    async fn keep_lease(&self, force: bool) -> Result<LeaseId, Error> {
        let ended = self.ask(Call::KeepLease { force }).await?;
        Ok(ended.lease.expect("a lease was kept").id)
    }

    async fn acquire(&self) -> Result<Verdict, Error> {
        Ok(verdict(self.ask(Call::Acquire).await?))
    }

    async fn renew(&self, held: &Leader) -> Result<Verdict, Error> {
        Ok(verdict(self.ask(Call::Renew(held.clone())).await?))
    }

    async fn release(&self, held: &Leader) -> Result<bool, Error> {
        let ended = self.ask(Call::Release(held.clone())).await?;
        Ok(matches!(written(ended), Written::Applied(_)))
    }

    async fn put_member(&self, json: &str) -> Result<(), Error> {
        match self.ask(Call::PutMember { json: json.into(), unchanged: false }).await?.outcome {
            Outcome::Done => Ok(()),
            other => Err(Error::Refused(format!("{other:?}"))),
        }
    }

    async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written, Error> {
        Ok(written(self.ask(write_call(key, Some(value), condition)).await?))
    }

    async fn delete(&self, key: &Key, condition: Condition) -> Result<Written, Error> {
        Ok(written(self.ask(write_call(key, None, condition)).await?))
    }

    async fn delete_cluster(&self) -> Result<(), Error> {
        self.ask(Call::DeleteAll).await.map(drop)
    }

    fn own_lease(&self) -> Option<LeaseId> {
        lock(&self.model).world.members[self.member].own_lease.as_ref().map(|lease| lease.id.clone())
    }

    fn lease_due(&self) -> Option<Monotonic> {
        lock(&self.model).world.members[self.member].own_lease.as_ref().map(OwnLease::due)
    }

    fn changes(&self) -> watch::Receiver<Changes> {
        lock(&self.model).changes[self.member].subscribe()
    }

    fn set_timing(&self, timing: Timing) {
        let mut model = lock(&self.model);
        let this = &mut model.world.members[self.member];
        if this.settings.ttl != timing.ttl {
            this.own_lease = None;
        }
        this.settings.ttl = timing.ttl;
        this.settings.loop_wait = timing.loop_wait;
        this.settings.retry_timeout = timing.retry_timeout;
    }

    fn reload(&self, _section: &Map<String, Value>) -> Result<(), String> {
        Ok(())
    }

    fn abandon_lease(&self) {
        lock(&self.model).world.members[self.member].own_lease = None;
    }

    fn ttl_min(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn describe(&self) -> String {
        "the model".into()
    }
}

#[tokio::test]
async fn conforms_with_the_timing_of_etcd() {
    for seed in 1..=20 {
        conformance::run(&Simulated::new(seed, false, 0)).await;
    }
}

#[tokio::test]
async fn conforms_with_the_timing_of_consul() {
    for seed in 1..=20 {
        conformance::run(&Simulated::new(seed, true, 0)).await;
    }
}

#[tokio::test]
async fn conforms_while_watches_and_reads_are_behind() {
    for seed in 1..=20 {
        conformance::run(&Simulated::new(seed, false, 3000)).await;
        conformance::run(&Simulated::new(seed, true, 3000)).await;
    }
}

fn pair(seed: u64, consul: bool) -> (Model, usize, usize) {
    let mut model = Model::new(seed, consul, Network::healed());
    let a = model.member("a", TIMING);
    let b = model.member("b", TIMING);
    for member in [a, b] {
        assert!(matches!(model.ask(member, Call::Read).outcome, Outcome::View(_)));
    }
    (model, a, b)
}

fn write(key: &'static str, value: &str) -> Call {
    Call::Write { key, value: Some(value.into()), condition: store::Condition::Always }
}

fn no_answer(ended: &Ended, expected: bool) -> bool {
    matches!(ended.outcome, Outcome::NoAnswer { maybe, .. } if maybe == expected)
}

fn lock_of(model: &mut Model, member: usize) -> Leader {
    assert!(matches!(model.ask(member, Call::Acquire).outcome, Outcome::Held { .. }));
    let view = model.world.copied_view(member).expect("a copy");
    view.leader.clone().expect("an own write is seen at once")
}

#[test]
fn a_5_what_surely_did_not_get_out_is_repeated_until_the_limit_and_without_effect() {
    for consul in [false, true] {
        let (mut model, a, b) = pair(1, consul);
        let held = lock_of(&mut model, a);
        model.world.network.store_cut.insert(a);
        for call in [Call::Read, Call::Acquire, Call::Renew(held.clone()), Call::KeepLease { force: true }] {
            let before = model.world.now;
            assert!(no_answer(&model.ask(a, call), false));
            let waited = model.world.now.since(before);
            assert!(waited > Duration::from_secs(7) && waited <= Duration::from_millis(10_001), "{waited:?}");
        }
        for call in [write("status", "{}"), Call::Release(held.clone())] {
            let before = model.world.now;
            assert!(no_answer(&model.ask(a, call), false));
            assert!(model.world.now.since(before) < Duration::from_secs(1), "tried on one node only");
        }
        let Outcome::View(view) = model.ask(b, Call::ReadFresh).outcome else { panic!("no view") };
        assert!(view.leader.as_ref().is_none_or(|leader| *leader == held) && view.status.last_lsn.0 == 0);
    }
}

#[test]
fn a_5_a_call_that_began_while_the_store_was_away_succeeds_once_it_is_back() {
    let (mut model, a, _) = pair(2, false);
    let held = lock_of(&mut model, a);
    model.world.network.store_down = true;
    let number = model.begin(a, Call::Renew(held));
    model.sleep(Duration::from_secs(4));
    model.world.network.store_down = false;
    assert!(matches!(model.finish(a, number).outcome, Outcome::Held { .. }));
}

#[test]
fn a_5_a_write_without_an_answer_is_not_repeated_and_may_have_been_carried_out() {
    let (mut model, a, b) = pair(3, false);
    model.world.network.lost_percent = 100;
    let written = model.ask(a, write("status", r#"{"optime":7}"#));
    assert!(no_answer(&written, true));
    model.world.network.lost_percent = 0;
    let Outcome::View(view) = model.ask(b, Call::ReadFresh).outcome else { panic!("no view") };
    assert_eq!(view.status.last_lsn.0, 7);
    let history = model.world.store.history.between(0, u64::MAX);
    assert_eq!(history.iter().filter(|change| &*change.key == "status").count(), 1);
}

#[test]
fn a_5_a_race_whose_answer_got_lost_is_repeated_and_finds_its_own_key() {
    let (mut model, a, _) = pair(4, false);
    model.world.network.lost_percent = 100;
    let number = model.begin(a, Call::Acquire);
    model.sleep(Duration::from_secs(1));
    assert!(model.world.store.keys.contains_key("leader"));
    model.world.network.lost_percent = 0;
    let ended = model.finish(a, number);
    assert!(matches!(ended.outcome, Outcome::Held { .. }), "{:?}", ended.outcome);
    assert_eq!(ended.revision, model.world.store.keys["leader"].create_revision);
}

#[test]
fn a_5_a_race_or_renewal_never_answered_may_have_been_carried_out() {
    let (mut model, a, b) = pair(5, false);
    let held = lock_of(&mut model, a);
    model.world.network.lost_percent = 100;
    assert!(no_answer(&model.ask(a, Call::Renew(held)), true));
    assert!(no_answer(&model.ask(b, Call::Acquire), true));
}

#[test]
fn a_link_cut_while_a_request_is_on_its_way_leaves_it_open_whether_it_got_there() {
    let (mut model, a, _) = pair(6, false);
    let number = model.begin(a, write("status", "{}"));
    model.world.network.store_cut.insert(a);
    assert!(no_answer(&model.finish(a, number), true));
}

#[test]
fn operations_of_one_daemon_ask_for_one_lease() {
    let (mut model, a, _) = pair(7, false);
    let first = model.begin(a, Call::Acquire);
    let second = model.begin(a, Call::PutMember { json: "{}".into(), unchanged: false });
    let third = model.begin(a, Call::KeepLease { force: true });
    for number in [first, second, third] {
        let ended = model.finish(a, number);
        assert!(matches!(ended.outcome, Outcome::Held { .. } | Outcome::Done), "{:?}", ended.outcome);
    }
    assert_eq!(model.world.store.leases.len(), 1);
    assert_eq!(model.world.store.keys["leader"].lease, model.world.store.keys["members/a"].lease);
}

/// How old, at most, what `b` sees is.
fn oldest_seen(model: &mut Model, a: usize, b: usize, call: Option<&Call>) -> Duration {
    let mut oldest = Duration::ZERO;
    let mut written = vec![model.world.now];
    for number in 1..200_u64 {
        model.ask(a, write("optime/leader", &number.to_string()));
        written.push(model.world.now);
        model.sleep(Duration::from_millis(50));
        let asked = model.world.now;
        let view = match call {
            Some(call) => match model.ask(b, call.clone()).outcome {
                Outcome::View(view) => view,
                other => panic!("no view: {other:?}"),
            },
            None => model.world.copied_view(b).expect("a copy"),
        };
        let seen = usize::try_from(view.status.last_lsn.0).expect("a small number");
        if let Some(next) = written.get(seen + 1) {
            oldest = oldest.max(asked.since(*next));
        }
    }
    oldest
}

#[test]
fn a_lagging_watch_shows_an_older_state_and_a_fresh_read_never_does() {
    let (mut model, a, b) = pair(8, false);
    let healed = oldest_seen(&mut model, a, b, None);
    assert_eq!(healed, Duration::ZERO, "50 ms are enough for a watch");
    model.world.network.stale_millis = 2000;
    let lagging = oldest_seen(&mut model, a, b, None);
    assert!(lagging > Duration::from_millis(500) && lagging <= Duration::from_millis(2010), "{lagging:?}");
    for fresh in [Call::ReadFresh, Call::Read] {
        assert_eq!(oldest_seen(&mut model, a, b, Some(&fresh)), Duration::ZERO);
    }
}

#[test]
fn a_6_a_read_by_default_consistency_may_be_old_and_a_consistent_one_never_is() {
    let (mut model, a, b) = pair(9, true);
    model.world.network.stale_millis = 2000;
    // The watch is cut off, so that only the reads tell of the store.
    model.world.members[b].watch_pending = true;
    let read = oldest_seen(&mut model, a, b, Some(&Call::Read));
    assert!(read > Duration::from_millis(300) && read <= Duration::from_millis(2000), "{read:?}");
    assert_eq!(oldest_seen(&mut model, a, b, Some(&Call::ReadFresh)), Duration::ZERO);
}

#[test]
fn a_5_a_watch_behind_a_compaction_reads_everything_anew() {
    let (mut model, a, b) = pair(10, false);
    model.world.network.store_cut.insert(b);
    for number in 0..10_u64 {
        model.ask(a, write("optime/leader", &number.to_string()));
    }
    model.sleep(Duration::from_secs(1));
    let newest = model.world.store.history.newest();
    model.world.store.compact(newest);
    model.world.network.store_cut.remove(&b);
    let before = model.world.members[b].copy.position();
    model.world.tell();
    model.sleep(Duration::from_millis(6));
    let position = model.world.members[b].copy.position();
    assert!(position == before || position == newest, "{before} {position} {newest}");
    model.sleep(Duration::from_millis(30));
    assert!(model.world.members[b].copy.is_usable());
    let view = model.world.copied_view(b).expect("a copy that was read anew");
    assert_eq!(view.status.last_lsn.0, 9);
}

#[test]
fn a_5_a_copy_that_was_cut_off_for_long_is_not_believed_until_it_was_read_anew() {
    let (mut model, a, b) = pair(11, false);
    model.world.network.store_cut.insert(b);
    model.world.members[b].cut_since = Some(model.world.now);
    model.sleep(Duration::from_secs(1));
    assert!(model.world.copied_view(b).is_some());
    model.sleep(Duration::from_secs(3));
    assert!(model.world.copied_view(b).is_none());
    model.ask(a, write("optime/leader", "5"));
    model.world.network.store_cut.clear();
    model.world.members[b].cut_since = None;
    assert!(model.world.copied_view(b).is_none(), "reached is not read");
    model.world.tell();
    model.sleep(Duration::from_millis(30));
    assert_eq!(model.world.copied_view(b).expect("a copy").status.last_lsn.0, 5);
}
