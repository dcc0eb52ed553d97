//! Reads the slots of a running server and carries out [`SlotAction`]s.

use std::collections::{BTreeMap, BTreeSet};

use ptarmigan_ha::slots::{Actual, Kind, SlotAction};
use ptarmigan_types::Lsn;
use tokio_postgres::Row;

use crate::{
    connection::{self, Session},
    version::ServerVersion,
};

/// The server's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The statement failed.
    #[error(transparent)]
    Sql(#[from] connection::Error),
    /// A column is not what it should be.
    #[error("unexpected answer about replication slots: {0}")]
    Answer(#[from] tokio_postgres::Error),
    /// A slot cannot be dropped while somebody uses it.
    #[error("replication slot is active")]
    Active,
    /// The drop before this creation did not work.
    #[error("the old replication slot is still there")]
    NotDropped,
}

/// Reads all slots but temporary ones (contract SL-1).
///
/// # Errors
/// The statement failed, or a position in its answer is none.
pub async fn read_slots(
    session: &Session,
    version: ServerVersion,
) -> Result<BTreeMap<String, Actual>, Error> {
    let wal_status = if version.at_least(13) { "wal_status = 'lost'" } else { "false" };
    let (failover, synced) = if version.at_least(17) { ("failover", "synced") } else { ("false", "false") };
    let query = format!(
        "SELECT slot_name::text, slot_type = 'logical', database::text, plugin::text, active, xmin::text, \
         catalog_xmin::text, restart_lsn::text, confirmed_flush_lsn::text, COALESCE({wal_status}, false), \
         {failover}, {synced} FROM pg_catalog.pg_replication_slots WHERE NOT temporary"
    );
    session.query(&query, &[]).await?.iter().map(read_slot).collect()
}

fn read_slot(row: &Row) -> Result<(String, Actual), Error> {
    let lsn = |index: usize| -> Result<Option<Lsn>, Error> {
        let text: Option<&str> = row.try_get(index)?;
        Ok(text.and_then(|text| text.parse().ok()))
    };
    let text = |index: usize| row.try_get::<_, Option<String>>(index);
    let kind = if row.try_get(1)? {
        Kind::Logical { database: text(2)?.unwrap_or_default(), plugin: text(3)?.unwrap_or_default() }
    } else {
        Kind::Physical
    };
    let actual = Actual {
        kind,
        active: row.try_get(4)?,
        xmin: text(5)?,
        catalog_xmin: text(6)?,
        restart_lsn: lsn(7)?,
        confirmed_flush_lsn: lsn(8)?,
        lost: row.try_get(9)?,
        failover: row.try_get(10)?,
        synced: row.try_get(11)?,
    };
    Ok((row.try_get(0)?, actual))
}

/// Carries out the actions one after the other; one that fails does not keep the others from being tried. The caller
/// reads the slots again after any failure.
pub async fn apply(session: &Session, actions: &[SlotAction]) -> Vec<(SlotAction, Result<(), Error>)> {
    let mut results = Vec::new();
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for action in actions {
        let result = match action {
            SlotAction::Drop { name, reason } => {
                let result = drop_slot(session, name).await;
                if result.is_err() {
                    kept.insert(name);
                } else {
                    tracing::info!("Dropped replication slot {name}: {reason:?}");
                }
                result
            }
            SlotAction::Create { name } if kept.contains(name.as_str()) => Err(Error::NotDropped),
            SlotAction::Create { name } => create_physical(session, name).await,
            SlotAction::Advance { name, to } => advance(session, name, *to).await,
        };
        if let Err(error) = &result {
            tracing::warn!("{action:?} failed, it is tried again later: {error}");
        }
        results.push((action.clone(), result));
    }
    results
}

async fn drop_slot(session: &Session, name: &str) -> Result<(), Error> {
    // One statement, so that a slot taken up meanwhile is reported and not waited for.
    let query = "WITH slots AS (SELECT slot_name, active FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = $1::text::name), \
                 dropped AS (SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM slots WHERE NOT active) \
                 SELECT EXISTS (SELECT FROM slots WHERE active), (SELECT count(*) FROM dropped)";
    let row = session.query_one(query, &[&name]).await?;
    if row.try_get(0)? { Err(Error::Active) } else { Ok(()) }
}

/// Creates a physical slot that reserves WAL at once (contract SL-7).
async fn create_physical(session: &Session, name: &str) -> Result<(), Error> {
    let query = "SELECT pg_catalog.pg_create_physical_replication_slot($1::text::name, true) \
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots \
                 WHERE slot_type = 'physical' AND slot_name = $1::text::name)";
    session.query(query, &[&name]).await?;
    Ok(())
}

async fn advance(session: &Session, name: &str, to: Lsn) -> Result<(), Error> {
    let query = "SELECT pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)";
    session.query(query, &[&name, &to.to_string()]).await?;
    Ok(())
}
