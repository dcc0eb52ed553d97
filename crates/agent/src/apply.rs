//! A changed configuration reaches the DCS client, PostgreSQL and REST (contract CF-8, CF-10).

use std::time::Duration;

use ptarmigan_types::{DynamicConfig, MemberState, Role};

use crate::{node::Node, server};

/// PostgreSQL's part of a cycle takes no longer, and less at a short lease.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Adopts `/config` at the start of a cycle, so that the decision already sees it.
pub fn adopt_dynamic(node: &Node, config: Option<&DynamicConfig>) {
    if !node.configuration.adopt(config) {
        return;
    }
    tracing::info!("the dynamic configuration changed");
    node.dcs.set_timing(node.configuration.timing());
    crate::watchdog::configure(node);
    node.known().unapplied = Some(Unapplied::Changed);
}

/// What PostgreSQL has not been told yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unapplied {
    /// The configuration changed: rewrite and reload what differs.
    Changed,
    /// An operator asked for a reload: rewrite and reload in any case.
    Forced,
}

/// Tells PostgreSQL, once no long action is in flight, and keeps the copy of the dynamic configuration.
pub async fn pending(node: &Node) {
    if node.postgres.role() != Role::Uninitialized && node.known().job.is_none() {
        node.configuration.write_cache();
    }
    let Some(unapplied) = due(node) else { return };
    let role = overlay(node.postgres.role());
    node.known().unapplied = None;
    let settings = node.configuration.current().settings.postgresql.clone();
    let limit = patience(node);
    let apply = node.postgres.apply_config(std::sync::Arc::new(settings), unapplied == Unapplied::Forced);
    let applied = tokio::time::timeout(limit, apply).await;
    let mut known = node.known();
    match applied
        .map_err(|_| format!("no answer within {limit:?}"))
        .and_then(|applied| applied.map_err(|error| error.to_string()))
    {
        Ok(applied) => {
            known.applied_role = role;
            known.apply_error = None;
            drop(known);
            if applied.reloaded {
                server::tell(node, |callbacks, role| callbacks.reloaded(role));
            }
        }
        Err(text) => {
            // What is not written or not told to the server is tried again, and said once.
            known.unapplied = Some(known.unapplied.map_or(unapplied, |newer| newer.max(unapplied)));
            if known.apply_error.as_ref() != Some(&text) {
                tracing::error!("PostgreSQL's configuration is not applied: {text}");
            }
            known.apply_error = Some(text);
        }
    }
}

/// How long PostgreSQL may hold up a cycle: it may be frozen, and a lease is to be renewed.
pub(crate) fn patience(node: &Node) -> Duration {
    ANSWER_MAX.min(node.configuration.timing().ttl / 6)
}

/// What PostgreSQL is to be told now; nothing while a long action works on it, or while it is on its way up or down: then
/// it would miss the reload.
fn due(node: &Node) -> Option<Unapplied> {
    let settled = matches!(
        node.postgres.state(),
        MemberState::Running
            | MemberState::Stopped
            | MemberState::StartFailed
            | MemberState::StopFailed
            | MemberState::RestartFailed
            | MemberState::Crashed
    );
    if !settled || node.jobs.view(ptarmigan_clock::now()).is_some() || crate::synchronous::is_unclaimed(node)
    {
        return None;
    }
    let running = node.postgres.state() == MemberState::Running;
    let role = overlay(node.postgres.role());
    let known = node.known();
    let by_role = match known.applied_role {
        _ if !running || role.is_none() => None,
        // A server that was running before us (contract RC-9).
        None => Some(Unapplied::Forced),
        Some(applied) if Some(applied) != role => Some(Unapplied::Changed),
        Some(_) => None,
    };
    known.unapplied.max(by_role)
}

/// The role whose parameters count (contract CF-25).
pub(crate) const fn overlay(role: Role) -> Option<Role> {
    match role {
        Role::Primary | Role::Promoted => Some(Role::Primary),
        Role::Replica | Role::Demoted => Some(Role::Replica),
        Role::StandbyLeader => Some(Role::StandbyLeader),
        Role::Uninitialized => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cf_25_role_map() {
        for (role, counts) in [
            (Role::Promoted, Some(Role::Primary)),
            (Role::Primary, Some(Role::Primary)),
            (Role::Demoted, Some(Role::Replica)),
            (Role::Replica, Some(Role::Replica)),
            (Role::StandbyLeader, Some(Role::StandbyLeader)),
            (Role::Uninitialized, None),
        ] {
            assert_eq!(overlay(role), counts, "{role:?}");
        }
    }

    #[tokio::test]
    async fn ha_002_only_a_valid_configuration_is_adopted() {
        let fixture = crate::testing::Fixture::new();
        let node = &fixture.node;
        let adopt = async |value: &str| {
            fixture.put(ptarmigan_types::Key::Config, value).await;
            adopt_dynamic(node, fixture.cluster().await.config.as_ref());
            (node.configuration.timing().ttl.as_secs(), node.is_paused())
        };
        assert_eq!(adopt(r#"{"ttl":40,"pause":true}"#).await, (40, true));
        assert_eq!(adopt("garbage").await, (40, true), "the last one stays");
        assert_eq!(adopt("[]").await, (40, true));
        adopt_dynamic(node, None);
        assert!(node.is_paused());
        assert_eq!(adopt(r#"{"ttl":25}"#).await, (25, false));
    }

    fn settled(node: &Node, role: Role, state: MemberState) -> Option<Unapplied> {
        node.postgres.set_role(role);
        node.postgres.set_state(state);
        due(node)
    }

    #[tokio::test]
    async fn cf_25_overlays_follow_the_role() {
        let fixture = crate::testing::Fixture::new();
        let node = &fixture.node;
        node.known().applied_role = Some(Role::Replica);
        assert_eq!(settled(node, Role::Replica, MemberState::Running), None);
        assert_eq!(settled(node, Role::Promoted, MemberState::Running), Some(Unapplied::Changed));
        node.known().applied_role = Some(Role::Primary);
        assert_eq!(settled(node, Role::Primary, MemberState::Running), None, "the same overlay");
        // A stopped server reads its files when it is started.
        assert_eq!(settled(node, Role::Demoted, MemberState::Stopped), None);
    }

    #[tokio::test]
    async fn rc_9_server_that_ran_before_us_is_reloaded_once() {
        let fixture = crate::testing::Fixture::new();
        let node = &fixture.node;
        assert_eq!(settled(node, Role::Replica, MemberState::Starting), None, "it would miss the reload");
        assert_eq!(settled(node, Role::Replica, MemberState::Running), Some(Unapplied::Forced));
        node.known().applied_role = Some(Role::Replica);
        assert_eq!(settled(node, Role::Replica, MemberState::Running), None);
    }

    #[tokio::test]
    async fn cf_8_change_waits_for_the_action_in_flight() {
        let fixture = crate::testing::Fixture::new();
        let node = &fixture.node;
        node.known().unapplied = Some(Unapplied::Changed);
        let now = ptarmigan_clock::now();
        let kind = ptarmigan_ha::observation::JobKind::Restart;
        node.jobs.start(kind, now, |_| std::future::pending()).unwrap();
        assert_eq!(settled(node, Role::Primary, MemberState::Running), None);
        node.jobs.cancel().await;
        assert_eq!(settled(node, Role::Uninitialized, MemberState::Stopped), Some(Unapplied::Changed));
        pending(node).await;
        assert_eq!(node.known().unapplied, None);
    }
}
