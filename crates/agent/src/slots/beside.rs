//! What takes its time with logical slots and runs beside the loop: creating them, advancing them, and asking the primary
//! whether they are safe (contract SL-9 to SL-11). One worker at a time; what it does not get done, the next cycle asks
//! for again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ptarmigan_ha::slots::{Actual, PrimaryXmins, Question, Readiness, SlotAction, slot_on_primary};
use ptarmigan_postgres::{Login, Purpose, Session, connection, slots::sql};
use ptarmigan_types::{Lsn, MemberName, Role};

use crate::{local, node::Node};

/// How long one statement may take: a slot waits for every transaction that runs when it is created.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);

/// How long a server may take to answer beyond its own limit.
const MARGIN: Duration = Duration::from_secs(5);

/// How long the primary may take to tell its xmins.
const PRIMARY_LIMIT: Duration = Duration::from_secs(5);

/// What is known of logical slots from cycle to cycle.
#[derive(Debug, Default)]
pub struct Logical {
    /// The worker runs.
    busy: bool,
    /// Slots that cannot be advanced any more.
    pub broken: BTreeSet<String>,
    /// Slots that may be unsafe after a failover.
    pub readiness: Readiness,
    /// The postmaster, by its start, of which all this is known.
    life: String,
}

impl Logical {
    /// After a start nothing is known of the slots that it found.
    pub fn started(&mut self, postmaster_start_time: &str, actual: &BTreeMap<String, Actual>) {
        if self.life != postmaster_start_time {
            postmaster_start_time.clone_into(&mut self.life);
            self.broken.clear();
            self.readiness.suspect_all(actual);
        }
        self.broken.retain(|slot| actual.contains_key(slot));
    }
}

/// One database's share of the work.
#[derive(Debug, Default)]
struct Share {
    create: Vec<(String, String)>,
    advance: Vec<(String, Lsn)>,
}

/// What there is to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    by_database: BTreeMap<String, Share>,
    ask: Option<(MemberName, BTreeMap<String, Actual>)>,
}

impl Work {
    /// The part of a plan that takes its time.
    pub(super) fn of(actions: &[SlotAction]) -> Self {
        let mut work = Self::default();
        for action in actions {
            match action {
                SlotAction::CreateLogical { name, database, plugin } => {
                    let share = work.by_database.entry(database.clone()).or_default();
                    share.create.push((name.clone(), plugin.clone()));
                }
                SlotAction::AdvanceLogical { name, database, to } => {
                    let share = work.by_database.entry(database.clone()).or_default();
                    share.advance.push((name.clone(), *to));
                }
                _ => {}
            }
        }
        work
    }

    /// The leader is to be asked about slots that may be unsafe.
    pub(super) fn ask(&mut self, leader: MemberName, actual: BTreeMap<String, Actual>) {
        self.ask = Some((leader, actual));
    }

    fn is_empty(&self) -> bool {
        self.by_database.is_empty() && self.ask.is_none()
    }
}

/// Begins the work, unless the worker still has some.
pub(super) fn begin(node: &Arc<Node>, work: Work) {
    if work.is_empty() || std::mem::replace(&mut node.known().logical.busy, true) {
        return;
    }
    let node = Arc::clone(node);
    #[expect(
        clippy::disallowed_methods,
        reason = "ends by itself: everything in it has a limit; the flag keeps a second one from starting"
    )]
    tokio::spawn(async move {
        let at_end = Idle(node);
        for (database, share) in work.by_database {
            in_database(&at_end.0, &database, share).await;
        }
        if let Some((leader, actual)) = work.ask {
            ask_primary(&at_end.0, &leader, &actual).await;
        }
    });
}

/// The worker is free again, however it ended.
struct Idle(Arc<Node>);

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.known().logical.busy = false;
    }
}

async fn in_database(node: &Node, database: &str, share: Share) {
    let session = match session(node, database).await {
        Ok(session) => session,
        Err(error) => return tracing::warn!("logical slots of database {database}: {error}"),
    };
    for (name, plugin) in share.create {
        // Whoever steps down meanwhile must not create what the next primary has.
        if !node.leads() {
            return;
        }
        match limited(sql::create_logical(&session, &name, &plugin)).await {
            Ok(()) => created(node, &name),
            Err(error) => tracing::error!("cannot create logical replication slot {name}: {error}"),
        }
    }
    for (name, to) in share.advance {
        // A promotion leaves the rest of the queue where it is.
        if node.postgres.role() != Role::Replica {
            return;
        }
        match limited(sql::advance(&session, &name, to)).await {
            Ok(()) => tracing::debug!("logical replication slot {name} is at {to}"),
            Err(error) => could_not_advance(node, &name, to, &error),
        }
    }
}

/// Where the consumer's position was known, and this node did not have its slot, it has to hear of what it may miss.
fn created(node: &Node, name: &str) {
    let mut known = node.known();
    known.published.made(name);
    let status = known.view.as_ref().map(|view| &view.cluster.status);
    match status.and_then(|status| status.slots.as_ref()?.get(name)) {
        Some(confirmed) => tracing::error!(
            "logical replication slot {name} was created anew although its consumer was at {confirmed}: what was \
             written in between is not delivered to it"
        ),
        None => tracing::info!("created logical replication slot {name}"),
    }
}

fn could_not_advance(node: &Node, name: &str, to: Lsn, error: &sql::Error) {
    if error.is_for_good() {
        tracing::warn!(
            "logical replication slot {name} has to be copied again, it cannot get to {to}: {error}"
        );
        node.known().logical.broken.insert(name.to_owned());
    } else {
        tracing::warn!("logical replication slot {name} is not advanced to {to} yet: {error}");
    }
}

async fn session(node: &Node, database: &str) -> Result<Session, connection::Error> {
    let info = node.postgres.local_conninfo(Login::Superuser).with("dbname", database);
    let session = Session::connect(&info, Purpose::Unlimited).await?;
    session.execute(&format!("SET statement_timeout = '{}s'", STATEMENT_LIMIT.as_secs())).await?;
    Ok(session)
}

async fn limited(work: impl Future<Output = Result<(), sql::Error>>) -> Result<(), sql::Error> {
    let limit = STATEMENT_LIMIT + MARGIN;
    let late = || Err(sql::Error::Sql(connection::Error::TimedOut(limit)));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| late())
}

/// Contract SL-11.
async fn ask_primary(node: &Node, leader: &MemberName, actual: &BTreeMap<String, Actual>) {
    match tokio::time::timeout(PRIMARY_LIMIT, xmins(node, leader)).await {
        Ok(Ok((question, Some(xmins)))) => {
            if xmins.physical.is_none() {
                tracing::debug!("{leader} does not know yet which rows this node's logical slots need");
            }
            let ready = node.known().logical.readiness.answered(&question, &xmins, actual);
            for slot in ready {
                tracing::info!("logical slot {slot} is safe to be used after a failover");
            }
        }
        Ok(Ok((_, None))) => {}
        Ok(Err(reason)) => tracing::debug!("whether logical slots are ready is not known: {reason}"),
        Err(_) => tracing::debug!("whether logical slots are ready is not known: no answer"),
    }
}

async fn xmins(node: &Node, leader: &MemberName) -> Result<(Question, Option<PrimaryXmins>), String> {
    let upstream = local::upstream(node, &leader.into())?;
    let tags = node.configuration.with(|settings| settings.tags.clone());
    let (physical, question) = {
        let known = node.known();
        let cluster = known.view.as_ref().map(|view| &view.cluster).ok_or("the DCS does not answer")?;
        (slot_on_primary(cluster, &node.name, &tags), known.logical.readiness.question())
    };
    let physical = physical.ok_or("this node does not stream from the primary")?;
    let info = upstream.conninfo(&node.postgres, Login::Rewind);
    let session = Session::connect(&info, Purpose::Heartbeat).await.map_err(|error| error.to_string())?;
    let xmins = sql::primary_xmins(&session, &physical, &question.slots).await;
    Ok((question, xmins.map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use ptarmigan_ha::slots::Kind;

    use super::*;

    fn actual() -> BTreeMap<String, Actual> {
        let slot = Actual {
            kind: Kind::Logical { database: "d".into(), plugin: "p".into() },
            active: false,
            xmin: None,
            catalog_xmin: None,
            restart_lsn: None,
            confirmed_flush_lsn: None,
            lost: false,
            failover: false,
            synced: false,
        };
        [("cdc".to_owned(), slot)].into()
    }

    #[test]
    fn sl_11_every_start_makes_slots_unready() {
        let mut logical = Logical::default();
        logical.started("noon", &actual());
        assert_eq!(logical.readiness.question().slots, ["cdc"]);
        logical.readiness = Readiness::default();
        logical.broken.insert("cdc".into());
        logical.started("noon", &actual());
        assert!(logical.readiness.is_empty() && logical.broken.contains("cdc"), "the same server");
        logical.started("one", &actual());
        assert!(!logical.readiness.is_empty() && logical.broken.is_empty());
        logical.broken.insert("gone".into());
        logical.started("one", &actual());
        assert!(logical.broken.is_empty());
    }

    #[tokio::test]
    async fn sl_10_what_takes_long_waits_for_nothing_and_is_done_once_at_a_time() {
        let name = |name: &str| name.to_owned();
        let actions = [
            SlotAction::Create { name: name("member") },
            SlotAction::CreateLogical { name: name("new"), database: name("one"), plugin: name("p") },
            SlotAction::AdvanceLogical { name: name("cdc"), database: name("two"), to: Lsn(5) },
            SlotAction::AdvanceLogical { name: name("more"), database: name("one"), to: Lsn(6) },
            SlotAction::Copy { name: name("missing") },
        ];
        let work = Work::of(&actions);
        assert_eq!(work.by_database.keys().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(work.by_database["one"].create, [(name("new"), name("p"))]);
        assert_eq!(work.by_database["one"].advance, [(name("more"), Lsn(6))]);
        let fixture = crate::testing::Fixture::new();
        let node = &fixture.node;
        begin(node, Work::default());
        assert!(!node.known().logical.busy, "there is nothing to do");
        begin(node, work);
        assert!(node.known().logical.busy);
        let mut second = Work::default();
        second.ask(MemberName::from("b"), actual());
        begin(node, second);
        // Nobody listens there: the worker ends, and says so.
        let idle = async {
            while node.known().logical.busy {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), idle).await.unwrap();
    }
}
