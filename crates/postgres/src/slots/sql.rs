//! Reads the slots of a running server and carries out [`SlotAction`]s.

use std::collections::{BTreeMap, BTreeSet};

use ptarmigan_ha::slots::{Actual, Kind, PrimaryXmins, SlotAction};
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

impl Error {
    /// What the slot needs is gone, and no other try will find it (contract SL-10): WAL that was removed (58P01), or a
    /// slot that was invalidated (55000).
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Sql(connection::Error::Query { code, .. }) if code == "58P01" || code == "55000")
    }
}

/// Reads all slots but temporary ones (contract SL-1).
///
/// # Errors
/// The statement failed, or a position in its answer is none.
pub async fn read_slots(
    session: &Session,
    version: ServerVersion,
) -> Result<BTreeMap<String, Actual>, Error> {
    session.query(&query(version), &[]).await?.iter().map(read_slot).collect()
}

/// Older versions know neither slots whose WAL was removed (13) nor those that PostgreSQL itself copies (17).
fn query(version: ServerVersion) -> String {
    let wal_status = if version.at_least(13) { "wal_status = 'lost'" } else { "false" };
    let (failover, synced) = if version.at_least(17) { ("failover", "synced") } else { ("false", "false") };
    format!(
        "SELECT slot_name::text, slot_type = 'logical', database::text, plugin::text, active, xmin::text, \
         catalog_xmin::text, restart_lsn::text, confirmed_flush_lsn::text, COALESCE({wal_status}, false), \
         {failover}, {synced} FROM pg_catalog.pg_replication_slots WHERE NOT temporary"
    )
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
            // These take their time, and a session of their own.
            SlotAction::CreateLogical { .. }
            | SlotAction::AdvanceLogical { .. }
            | SlotAction::Copy { .. } => {
                continue;
            }
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

/// Creates a logical slot in the session's database (contract SL-9). It waits for every transaction that runs.
///
/// # Errors
/// The statement failed: the plugin is missing, `wal_level` is too low, there is no slot left, ...
pub async fn create_logical(session: &Session, name: &str, plugin: &str) -> Result<(), Error> {
    let query = "SELECT pg_catalog.pg_create_logical_replication_slot($1::text::name, $2::text::name) \
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name)";
    session.query(query, &[&name, &plugin]).await?;
    Ok(())
}

/// The xmins of a primary that SL-11 compares; `None` where the server is in recovery.
///
/// # Errors
/// The statement failed.
pub async fn primary_xmins(
    session: &Session,
    physical: &str,
    logical: &[String],
) -> Result<Option<PrimaryXmins>, Error> {
    let query = "SELECT slot_name::text, catalog_xmin::text, slot_type = 'logical' \
                 FROM pg_catalog.pg_replication_slots WHERE NOT temporary \
                 AND (slot_name::text = ANY($1) OR slot_name = $2::text::name AND slot_type = 'physical')";
    let writable = "SELECT NOT pg_catalog.pg_is_in_recovery()";
    if !session.query_one(writable, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let mut xmins = PrimaryXmins::default();
    for row in session.query(query, &[&logical, &physical]).await? {
        let (name, xmin): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let Some(xmin) = xmin.and_then(|text| text.parse().ok()) else { continue };
        if row.try_get(2)? {
            xmins.logical.insert(name, xmin);
        } else {
            xmins.physical = Some(xmin);
        }
    }
    Ok(Some(xmins))
}

/// A logical slot of the leader, as it lies on its disk.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    /// The slot.
    pub name: String,
    /// Database and plugin.
    pub kind: Kind,
    /// From where on it needs WAL.
    pub restart_lsn: Lsn,
    /// What its consumer confirmed.
    pub confirmed_flush_lsn: Lsn,
    /// The state file.
    pub file: Vec<u8>,
}

/// Reads logical slots of the leader (contract B.23.5), but none that PostgreSQL itself copies.
///
/// # Errors
/// The statement failed: the login may not read files, or the server is no primary.
pub async fn read_states(
    session: &Session,
    version: ServerVersion,
    names: &[String],
) -> Result<Vec<State>, Error> {
    let rows = session.query(&states_query(version), &[&names]).await?;
    rows.iter().map(read_state).collect()
}

fn states_query(version: ServerVersion) -> String {
    let ours = if version.at_least(17) { "AND NOT failover" } else { "" };
    format!(
        "SELECT slot_name::text, database::text, plugin::text, restart_lsn::text, confirmed_flush_lsn::text, \
         pg_catalog.pg_read_binary_file('pg_replslot/' || slot_name || '/state') \
         FROM pg_catalog.pg_replication_slots \
         WHERE slot_type = 'logical' AND NOT temporary AND restart_lsn IS NOT NULL {ours} \
         AND slot_name::text = ANY($1) AND NOT pg_catalog.pg_is_in_recovery()"
    )
}

fn read_state(row: &Row) -> Result<State, Error> {
    let text = |index: usize| row.try_get::<_, Option<String>>(index).map(Option::unwrap_or_default);
    let lsn = |index: usize| text(index).map(|text| text.parse().unwrap_or_default());
    Ok(State {
        name: text(0)?,
        kind: Kind::Logical { database: text(1)?, plugin: text(2)? },
        restart_lsn: lsn(3)?,
        confirmed_flush_lsn: lsn(4)?,
        file: row.try_get(5)?,
    })
}

/// Moves a slot forward: a physical one's `restart_lsn`, a logical one's `confirmed_flush_lsn`, of the session's database.
///
/// # Errors
/// The statement failed; [`Error::is_for_good`] tells whether another try may help.
pub async fn advance(session: &Session, name: &str, to: Lsn) -> Result<(), Error> {
    let query = "SELECT pg_catalog.pg_replication_slot_advance($1::text::name, $2::text::pg_lsn)";
    session.query(query, &[&name, &to.to_string()]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sl_1_what_is_asked_fits_the_version() {
        for (major, lost, failover) in [
            (12, false, false),
            (13, true, false),
            (14, true, false),
            (15, true, false),
            (16, true, false),
            (17, true, true),
            (18, true, true),
        ] {
            let version = ServerVersion::major_of(major);
            let (slots, states) = (query(version), states_query(version));
            assert!(slots.contains("NOT temporary"), "{major}");
            assert_eq!(slots.contains("wal_status"), lost, "{major}");
            assert_eq!(slots.contains("failover, synced"), failover, "{major}");
            assert_eq!(states.contains("NOT failover"), failover, "{major}");
        }
    }

    #[test]
    fn sl_10_what_makes_a_copy_necessary() {
        let error = |code: &str| {
            Error::Sql(connection::Error::Query { code: code.into(), message: "planned by a test".into() })
        };
        for (code, for_good) in [("58P01", true), ("55000", true), ("55006", false), ("57014", false)] {
            assert_eq!(error(code).is_for_good(), for_good, "{code}");
        }
        assert!(!Error::Active.is_for_good());
        assert!(!Error::Sql(connection::Error::Lost("58P01".into())).is_for_good());
    }
}
