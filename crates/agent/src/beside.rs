//! What a leader publishes in the same request as it renews its lock: a request less for each, at every change.

use ptarmigan_dcs::Beside;
use ptarmigan_types::{LeaseId, MemberData, Role, Status};

use crate::{execute, node::Node, publish, status};

/// What was written since the view was read.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Of `/status`.
    pub status: Option<Status>,
    /// Of the member key, and on which lease.
    pub member: Option<(MemberData, LeaseId)>,
}

/// What the rest of the cycle would write anyway, as far as that is known before the renewal: only a primary that goes on
/// leading, with nothing under way, writes both for certain.
pub fn unwritten(node: &Node) -> (Beside, Written) {
    let settled = {
        let known = node.known();
        known.job.is_none() && known.figures.as_ref().is_some_and(|figures| !figures.in_recovery)
    };
    let Some(lease) = node.dcs.own_lease() else { return Default::default() };
    if !settled || !node.leads() || node.postgres.role() != Role::Primary {
        return Default::default();
    }
    let status = status::wanted(node).filter(|status| !status::is_written(node, status));
    let member = Some(publish::member(node)).filter(|data| !execute::is_member_written(node, data, &lease));
    let beside = Beside {
        status: status.as_ref().map(Status::to_json),
        member: member.as_ref().map(MemberData::to_json),
    };
    (beside, Written { status, member: member.map(|member| (member, lease)) })
}

/// It went with the renewal.
pub fn carried(node: &Node, written: Written) {
    let mut known = node.known();
    let member = written.member.filter(|(_, lease)| node.dcs.own_lease().as_ref() == Some(lease));
    if written.status.is_some() {
        known.written.status = written.status;
    }
    if member.is_some() {
        known.written.member = member;
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_ha::{Action, Outcome};
    use ptarmigan_rest::snapshot::Figures;
    use ptarmigan_types::{Lsn, MemberState};

    use super::*;
    use crate::testing::Fixture;

    async fn run(fixture: &Fixture, action: Action) -> Outcome {
        execute::execute(&fixture.node, &action).await.unwrap()
    }

    fn at(node: &Node, position: u64) {
        node.known().figures = Some(Figures { location: Lsn(position), ..Figures::default() });
    }

    /// A primary that leads; what it has written is in its view.
    async fn leading() -> Fixture {
        let fixture = Fixture::new();
        fixture.node.postgres.set_role(Role::Primary);
        fixture.node.postgres.set_state(MemberState::Running);
        at(&fixture.node, 100);
        run(&fixture, Action::AcquireLock).await;
        run(&fixture, Action::WriteStatus).await;
        run(&fixture, Action::WriteMember).await;
        fixture.look().await;
        fixture
    }

    /// The revisions of both keys.
    async fn revisions(fixture: &Fixture) -> (Lsn, u64) {
        let cluster = fixture.cluster().await;
        (cluster.status.last_lsn, cluster.member(&fixture.node.name).unwrap().revision)
    }

    async fn renew(fixture: &Fixture) {
        let held = fixture.cluster().await.leader.unwrap();
        let renewed = run(fixture, Action::RenewLock(held)).await;
        assert!(matches!(renewed, Outcome::Held { .. }), "{renewed:?}");
    }

    #[tokio::test]
    async fn what_changed_goes_with_the_renewal_and_is_not_written_again() {
        let fixture = leading().await;
        let (_, before) = revisions(&fixture).await;
        renew(&fixture).await;
        assert_eq!(revisions(&fixture).await, (Lsn(100), before), "nothing changed");
        at(&fixture.node, 200);
        renew(&fixture).await;
        let (position, carried) = revisions(&fixture).await;
        assert!(position == Lsn(200) && carried > before, "{position} {carried}");
        run(&fixture, Action::WriteStatus).await;
        run(&fixture, Action::WriteMember).await;
        assert_eq!(revisions(&fixture).await, (Lsn(200), carried), "not written again");
        // What changes after the renewal is written as ever, and so is its way back.
        for state in [MemberState::Stopping, MemberState::Running] {
            let (_, before) = revisions(&fixture).await;
            fixture.node.postgres.set_state(state);
            run(&fixture, Action::WriteMember).await;
            assert!(revisions(&fixture).await.1 > before, "{state:?}");
        }
    }

    #[tokio::test]
    async fn nothing_goes_with_it_where_it_is_not_certain_to_be_written() {
        let changes: [fn(&Node); 4] = [
            |node| node.known().job = Some("restart".into()),
            |node| node.postgres.set_role(Role::Promoted),
            |node| node.known().figures = Some(Figures { in_recovery: true, ..Figures::default() }),
            |node| node.lease.forget(),
        ];
        for (index, change) in changes.iter().enumerate() {
            let fixture = leading().await;
            let before = revisions(&fixture).await;
            at(&fixture.node, 200);
            change(&fixture.node);
            assert_eq!(unwritten(&fixture.node).0, Beside::default(), "{index}");
            renew(&fixture).await;
            assert_eq!(revisions(&fixture).await, before, "{index}");
        }
    }
}
