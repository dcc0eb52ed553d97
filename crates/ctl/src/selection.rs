//! Which members a command is about (contract C.3).

use anyhow::{Result, bail};
use clap::ValueEnum as _;
use ptarmigan_types::{Cluster, Member, Role};

use crate::cli::RoleChoice;

impl RoleChoice {
    /// The word on the command line.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn includes(self, member: &Member, cluster: &Cluster) -> bool {
        let is_owner = cluster.is_leader(&member.name);
        let role = member.data.role();
        match self {
            Self::Leader => is_owner,
            Self::Primary => is_owner && role != Some(Role::StandbyLeader),
            Self::StandbyLeader => is_owner && role != Some(Role::Primary),
            Self::Replica | Self::Standby => !is_owner,
            Self::Any => true,
        }
    }
}

/// The members of that role, in the order of the DCS.
pub(crate) fn by_role(cluster: &Cluster, role: RoleChoice) -> Vec<Member> {
    cluster.members.iter().filter(|member| role.includes(member, cluster)).cloned().collect()
}

/// Those of `members` that are named, all of them where none is named. Unknown names are passed over as long as one
/// is known. `what` names the selection in the error.
///
/// # Errors
/// None is left.
pub(crate) fn by_name(members: Vec<Member>, names: &[String], what: &str) -> Result<Vec<Member>> {
    let found: Vec<Member> = match names {
        [] => members,
        names => members.into_iter().filter(|member| names.contains(&member.name.0)).collect(),
    };
    if found.is_empty() { bail!("No {what} among provided members") } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::{Leader, MemberData};

    use super::*;

    fn cluster(leader_role: &str) -> Cluster {
        let member = |name: &str, role: &str| Member {
            name: name.into(),
            revision: 1,
            lease: None,
            data: MemberData::read(&format!(r#"{{"role":"{role}"}}"#)),
        };
        Cluster {
            leader: Some(Leader { name: "b".into(), revision: 1, create_revision: 1, lease: None }),
            members: vec![member("a", "replica"), member("b", leader_role), member("c", "primary")].into(),
            ..Cluster::default()
        }
    }

    fn names(members: &[Member]) -> String {
        members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn c_3_roles_follow_the_lock() {
        for (leader_role, choice, expected) in [
            ("primary", RoleChoice::Leader, "b"),
            ("primary", RoleChoice::Primary, "b"),
            ("primary", RoleChoice::StandbyLeader, ""),
            ("standby_leader", RoleChoice::Primary, ""),
            ("standby_leader", RoleChoice::StandbyLeader, "b"),
            ("master", RoleChoice::StandbyLeader, ""),
            ("primary", RoleChoice::Replica, "a,c"),
            ("primary", RoleChoice::Standby, "a,c"),
            ("primary", RoleChoice::Any, "a,b,c"),
        ] {
            assert_eq!(names(&by_role(&cluster(leader_role), choice)), expected, "{leader_role} {choice:?}");
        }
    }

    #[test]
    fn c_3_unknown_names_are_dropped_while_one_is_known() {
        let all = by_role(&cluster("primary"), RoleChoice::Any);
        let chosen = by_name(all.clone(), &["c".into(), "x".into(), "a".into()], "'any'").unwrap();
        assert_eq!(names(&chosen), "a,c", "the order is that of the DCS");
        let error = by_name(all, &["x".into()], "replica").unwrap_err();
        assert_eq!(error.to_string(), "No replica among provided members");
    }
}
