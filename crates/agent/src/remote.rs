//! The remote end of a standby cluster, and what its settings mean for whoever follows (contract B.17.5, B.19.1).

use ptarmigan_config::StandbyCluster;
use ptarmigan_ha::Upstream;
use ptarmigan_postgres::{
    dsn::ConnInfo,
    recovery::{SlotChoice, Source},
    upstream::Upstream as Server,
};
use ptarmigan_types::MemberName;

use crate::{local, node::Node};

/// Where only a port is given.
const HOST: &str = "localhost";

/// The section, where this is a standby cluster.
pub fn section(node: &Node) -> Option<StandbyCluster> {
    node.configuration.current().settings.global.standby_cluster.clone()
}

/// The remote end as PostgreSQL's programs need it.
///
/// # Errors
/// This is no standby cluster, or it lives from an archive alone.
pub fn server(node: &Node) -> Result<Server, String> {
    let section = section(node).ok_or("there is no standby_cluster in the dynamic configuration")?;
    address(&section).ok_or_else(|| "standby_cluster names neither host nor port".into())
}

fn address(section: &StandbyCluster) -> Option<Server> {
    if section.host.is_none() && section.port.is_none() {
        return None;
    }
    let mut address = ConnInfo::new();
    address.set("host", section.host.as_deref().unwrap_or(HOST));
    address.set("port", section.port.map_or_else(|| "5432".to_owned(), |port| port.to_string()));
    Some(Server { name: MemberName::from("remote member"), address })
}

/// What a standby that follows `upstream` recovers from.
///
/// # Errors
/// The member to follow tells no address.
pub fn source(node: &Node, upstream: Option<&Upstream>) -> Result<Source, String> {
    let section = section(node);
    match (upstream, section) {
        (None, _) => Ok(Source::default()),
        (Some(Upstream::Remote), Some(section)) => Ok(of_remote(&section)),
        (Some(followed), section) => {
            let upstream = Some(local::upstream(node, followed)?);
            let commands = section.unwrap_or_default();
            // NF-6: WAL that the leader has no more is where the leader itself has it from.
            Ok(Source {
                upstream,
                restore_command: commands.restore_command,
                archive_cleanup_command: commands.archive_cleanup_command,
                ..Source::default()
            })
        }
    }
}

fn of_remote(section: &StandbyCluster) -> Source {
    Source {
        upstream: address(section),
        slot: section.primary_slot_name.clone().map_or(SlotChoice::None, SlotChoice::Named),
        is_remote: true,
        restore_command: section.restore_command.clone(),
        archive_cleanup_command: section.archive_cleanup_command.clone(),
        recovery_min_apply_delay: section.recovery_min_apply_delay.clone(),
    }
}

/// The replica methods: in a standby cluster its own, of everybody in it (contract B.17.3).
pub fn replica_methods(node: &Node) -> Vec<String> {
    match section(node) {
        Some(section) => section.create_replica_methods.unwrap_or_default(),
        None => node.postgres.settings().create_replica_methods.clone(),
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::{DynamicConfig, Role};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::Fixture;

    fn adopt(fixture: &Fixture, section: &Value) {
        let value = json!({"standby_cluster": section}).as_object().cloned().unwrap();
        assert!(fixture.node.configuration.adopt(Some(&DynamicConfig { value, revision: 1 })));
    }

    #[tokio::test]
    async fn b_19_1_what_the_remote_member_brings_along() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        assert!(server(node).is_err());
        adopt(
            &fixture,
            &json!({
                "host": "10.0.0.1,10.0.0.2", "port": 5433, "primary_slot_name": "standby-1",
                "restore_command": "restore %f %p", "archive_cleanup_command": "clean %r",
                "recovery_min_apply_delay": "5min",
            }),
        );
        let source = source(node, Some(&Upstream::Remote)).unwrap();
        assert!(source.is_remote);
        let address = source.upstream.unwrap().address;
        assert_eq!(address, ConnInfo::parse("host=10.0.0.1,10.0.0.2 port=5433").unwrap());
        assert_eq!(source.slot, SlotChoice::Named("standby-1".into()));
        assert_eq!(source.restore_command.as_deref(), Some("restore %f %p"));
        assert_eq!(source.archive_cleanup_command.as_deref(), Some("clean %r"));
        assert_eq!(source.recovery_min_apply_delay.as_deref(), Some("5min"));
    }

    #[tokio::test]
    async fn b_19_1_without_a_slot_and_without_an_address() {
        let fixture = Fixture::new();
        adopt(&fixture, &json!({"port": 5433}));
        let only_port = source(&fixture.node, Some(&Upstream::Remote)).unwrap();
        assert_eq!(only_port.slot, SlotChoice::None);
        assert_eq!(only_port.upstream.unwrap().address.get("host"), Some("localhost"));
        let fixture = Fixture::new();
        adopt(&fixture, &json!({"restore_command": "restore %f %p"}));
        let archive = source(&fixture.node, Some(&Upstream::Remote)).unwrap();
        assert_eq!((archive.upstream, archive.restore_command.as_deref()), (None, Some("restore %f %p")));
        assert!(server(&fixture.node).is_err());
    }

    #[tokio::test]
    async fn nf_6_a_standby_of_a_member_gets_the_archive_and_no_delay() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        fixture.join("b", None, true).await;
        fixture.look().await;
        let member = Upstream::Member("b".into());
        assert_eq!(source(node, Some(&member)).unwrap().restore_command, None);
        adopt(
            &fixture,
            &json!({"host": "x", "restore_command": "restore %f %p", "archive_cleanup_command": "clean %r",
                    "recovery_min_apply_delay": "5min", "primary_slot_name": "s"}),
        );
        let followed = source(node, Some(&member)).unwrap();
        assert_eq!(followed.restore_command.as_deref(), Some("restore %f %p"));
        assert_eq!(followed.archive_cleanup_command.as_deref(), Some("clean %r"));
        assert_eq!((followed.recovery_min_apply_delay, followed.slot), (None, SlotChoice::Own));
        assert!(!followed.is_remote);
        assert_eq!(source(node, None).unwrap(), Source::default());
        assert!(source(node, Some(&Upstream::Member("z".into()))).is_err());
    }

    #[tokio::test]
    async fn b_17_5_a_standby_cluster_has_replica_methods_of_its_own() {
        let fixture = Fixture::new();
        let node = &fixture.node;
        fixture.configure(&json!({"postgresql": {"create_replica_methods": ["pgbackrest"]}}));
        assert!(node.configuration.reload());
        let settings = node.configuration.current().settings.postgresql.clone();
        node.postgres.set_settings(std::sync::Arc::new(settings));
        assert_eq!(replica_methods(node), ["pgbackrest"]);
        adopt(&fixture, &json!({"host": "x"}));
        assert!(replica_methods(node).is_empty(), "basebackup");
        let fixture = Fixture::new();
        adopt(&fixture, &json!({"host": "x", "create_replica_methods": ["barman", "basebackup"]}));
        assert_eq!(replica_methods(&fixture.node), ["barman", "basebackup"]);
        fixture.node.postgres.set_role(Role::StandbyLeader);
    }
}
