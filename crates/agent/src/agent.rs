//! The HA loop: observe, decide, execute, publish, sleep until something happens.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use ptarmigan_dcs::Changes;
use ptarmigan_ha::{Action, Decision, Fired, Memory, decide, health};
use ptarmigan_types::{Cluster, Member, MemberName, MemberState, Monotonic};
use tokio::sync::watch;

use crate::{
    apply,
    execute::{Exit, execute},
    journal::Entry,
    node::Node,
    observe, planned, publish, server,
};

/// More rounds than any sequence of the rules needs; a cycle that wants more is cut and goes on in the next one.
const ROUNDS_MAX: usize = 8;

/// Two cycles are never closer than this, whatever happens.
const BREATH: Duration = Duration::from_millis(10);

/// How soon a cycle that was cut goes on.
const CUT_PAUSE: Duration = Duration::from_secs(1);

/// Between two tries to refresh the lease in a sleep.
const KEEP_PAUSE: Duration = Duration::from_secs(1);

/// How long the sleep may be held up by a look at who came and went.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// The loop of one node.
pub struct Agent {
    node: Arc<Node>,
    memory: Memory,
    changes: watch::Receiver<Changes>,
    seen: Changes,
    state: watch::Receiver<MemberState>,
    last_line: String,
    /// Commits wait, and nobody is there: said once.
    alone: bool,
    wake_at: Monotonic,
}

impl Agent {
    /// A loop that has not run yet.
    pub fn new(node: Arc<Node>) -> Self {
        let changes = node.dcs.changes();
        let state = node.postgres.watch_state();
        let seen = *changes.borrow();
        Self {
            node,
            memory: Memory::default(),
            seen,
            changes,
            state,
            last_line: String::new(),
            alone: false,
            wake_at: ptarmigan_clock::now(),
        }
    }

    /// One cycle (contract B.1): at most eight rounds over one observation.
    pub async fn cycle(&mut self) -> Result<(), Exit> {
        let node = Arc::clone(&self.node);
        let _in_cycle = node.cycle.lock().await;
        self.state.mark_unchanged();
        let view = observe::view(&node).await;
        if let Ok(cluster) = &view {
            apply::adopt_dynamic(&node, cluster.config.as_ref());
        }
        // The renewal waits for nothing, not even for what PostgreSQL says of itself (DESIGN, "The lease"): it is the
        // first action of every cycle of a leader, so it is carried out before the rest is observed.
        let lets_go = health::lets_lock_go(node.jobs.view(ptarmigan_clock::now()).as_ref());
        if let Ok(cluster) = view.as_ref()
            && lets_go
        {
            let_lock_go(&node, cluster);
        }
        let renewal =
            view.as_ref().ok().filter(|_| !lets_go).and_then(|cluster| renewal(cluster, &node.name));
        let renewed = match renewal {
            Some(action) => {
                let outcome = execute(&node, &action).await?;
                vec![(action, outcome)]
            }
            None => Vec::new(),
        };
        let mut observation = observe::observation(&node, view).await;
        observation.outcomes = renewed;
        let mut decided = false;
        for _ in 0..ROUNDS_MAX {
            planned::here("core");
            let decision = decide(&self.memory, &observation);
            node.journal.add(Entry { memory: &self.memory, observation: &observation, decision: &decision });
            for action in &decision.actions {
                tracing::debug!("action: {action:?}");
                let outcome = execute(&node, action).await?;
                observation.outcomes.push((action.clone(), outcome));
            }
            self.wake_at = decision.wake_at;
            if !decision.again {
                explain(&decision);
                self.warn_of_strict(&decision);
                self.warn_of_rto(&decision);
                self.say(&decision.line);
                self.memory = decision.memory;
                if !self.memory.bootstrapping {
                    server::bootstraps_no_more(&node);
                }
                decided = true;
                break;
            }
        }
        if !decided {
            tracing::warn!("the cycle took more than {ROUNDS_MAX} rounds, it goes on in the next one");
            node.jobs.unobserve(observation.finished);
            self.wake_at = self.wake_at.min(ptarmigan_clock::now() + CUT_PAUSE);
        }
        apply::pending(&node).await;
        node.known().next_run = self.wake_at;
        publish::publish(&node);
        Ok(())
    }

    /// Says what keeps the objective from being met, and when nothing does any more.
    fn warn_of_rto(&self, decision: &Decision) {
        let (before, limits) = (&self.memory.recovery.limits, &decision.memory.recovery.limits);
        for limit in limits.iter().filter(|limit| !before.contains(limit)) {
            tracing::warn!("rto cannot be kept: {limit}");
        }
        if limits.is_empty() && !before.is_empty() && decision.memory.recovery.kept {
            tracing::info!("nothing keeps rto from being kept any more");
        }
    }

    /// The line that operators watch: every heartbeat, unless `log.deduplicate_heartbeat_logs` keeps repetitions back.
    /// Before anything but a heartbeat it is said who holds the lock (contract D.7).
    fn say(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        let heartbeat = line.trim_start_matches("PAUSE: ").starts_with("no action.");
        let deduplicate = self.node.configuration.with(|settings| settings.log.deduplicate_heartbeat_logs);
        if heartbeat && deduplicate && line == self.last_line {
            return;
        }
        if !heartbeat {
            let holder = self.node.known().view.as_ref().and_then(|view| view.cluster.leader_name().cloned());
            let holder = holder.map_or_else(|| "None".to_owned(), |name| name.0);
            tracing::info!("Lock owner: {holder}; I am {}", self.node.name);
        }
        tracing::info!("{line}");
        line.clone_into(&mut self.last_line);
    }

    /// Strict synchronous mode with no standby to wait for: an operator must hear of it (contract SY-4, QS-2).
    fn warn_of_strict(&mut self, decision: &Decision) {
        let alone = |fired: &&Fired| fired.facts.starts_with("No active replication connections");
        let found = decision.report.iter().find(alone);
        if let Some(fired) = found.filter(|_| !self.alone) {
            tracing::warn!("{}", fired.facts);
        }
        self.alone = found.is_some();
    }

    /// Sleeps until the latest moment that the decision named, or until something happens (contract B.0.2). What has woken a sleep
    /// that is given up is forgotten.
    pub async fn sleep(&mut self) {
        let began = ptarmigan_clock::now();
        self.something_happens().await;
        let left = BREATH.saturating_sub(ptarmigan_clock::now().since(began));
        if !left.is_zero() {
            tokio::time::sleep(left).await;
        }
    }

    async fn something_happens(&mut self) {
        let node = Arc::clone(&self.node);
        let mut kept = pin!(keep_lease(&node));
        loop {
            let left = self.wake_at.since(ptarmigan_clock::now());
            tokio::select! {
                () = tokio::time::sleep(left) => return,
                () = self.node.woken() => return,
                never = &mut kept => match never {},
                changed = self.state.changed() => {
                    if changed.is_err() { std::future::pending::<()>().await; }
                    return;
                }
                changed = self.changes.changed() => {
                    if changed.is_err() { std::future::pending::<()>().await; }
                    if self.matters().await { return; }
                }
            }
        }
    }

    /// Whether what changed in the DCS is a reason to look again: the lock, the configuration, an operator's wish, and
    /// the leader's position for those who follow it. Other members' keys change all the time; a leader looks again only
    /// where one came or went, because a new standby waits for its slot.
    async fn matters(&mut self) -> bool {
        let now = *self.changes.borrow_and_update();
        let before = std::mem::replace(&mut self.seen, now);
        if now.leader != before.leader || now.config != before.config || now.failover != before.failover {
            return true;
        }
        if self.node.leads() {
            now.members != before.members && self.members_came_or_went().await
        } else {
            now.status != before.status
        }
    }

    async fn members_came_or_went(&self) -> bool {
        // A store that does not answer is the next cycle's business, and must not make it late.
        let Ok(Ok(view)) = tokio::time::timeout(LOOK_LIMIT, self.node.dcs.view()).await else { return true };
        let known = self.node.known();
        let Some(old) = &known.view else { return true };
        // Under synchronous replication also where one asks not to be waited for, or can be again.
        let synchronous = crate::synchronous::is_on(&self.node);
        let facts = |members: &[Member]| {
            let fact = |member: &Member| {
                let waits = synchronous.then(|| (member.data.is_running(), member.data.tags()));
                (member.name.clone(), waits)
            };
            members.iter().map(fact).collect::<Vec<_>>()
        };
        facts(&view.cluster.members) != facts(&old.cluster.members)
    }
}

/// Refreshes the lease whenever that is due in the middle of a sleep, and tries again where the store does not answer.
async fn keep_lease(node: &Node) -> Infallible {
    loop {
        let Some(due) = node.dcs.lease_due() else { std::future::pending().await };
        tokio::time::sleep(due.since(ptarmigan_clock::now())).await;
        let before = node.dcs.own_lease();
        match node.dcs.keep_lease(false).await {
            // Our keys hang on one that is no more.
            Ok(lease) if before.as_ref() != Some(&lease) => node.wake(),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!("the lease was not refreshed: {error}");
                tokio::time::sleep(KEEP_PAUSE).await;
            }
        }
    }
}

/// FD-4: the leader key runs out with the lease that it hangs on, once the member key hangs on another one.
fn let_lock_go(node: &Node, cluster: &Cluster) {
    if health::lock_hangs_on(cluster, &node.name, node.dcs.own_lease().as_ref()) {
        tracing::warn!("PostgreSQL was killed and does not end: the leader lock is left to run out");
        node.dcs.abandon_lease();
    }
}

fn renewal(cluster: &Cluster, me: &MemberName) -> Option<Action> {
    cluster.leader.as_ref().filter(|leader| leader.name == *me).cloned().map(Action::RenewLock)
}

/// Why a standby does not take over, in the words that operators and their scripts look for (contract HN-1 to HN-8).
fn explain(decision: &Decision) {
    let vetoes =
        decision.report.iter().filter(|fired| fired.rule.0.starts_with("HN-") && !fired.facts.is_empty());
    for fired in vetoes {
        tracing::info!("{}", fired.facts);
    }
    let broken = |fired: &&Fired| fired.facts.contains("the quorum state is inconsistent");
    for fired in decision.report.iter().filter(broken) {
        tracing::error!("{}", fired.facts);
    }
    for fired in
        decision.report.iter().filter(|fired| ["unmanaged_primary", "GD-1"].contains(&&*fired.rule.0))
    {
        tracing::warn!("{}", fired.facts);
    }
}

#[cfg(test)]
mod tests;
