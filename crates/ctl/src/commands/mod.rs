//! The commands, one file each.
//!
//! Here: `list`, `topology`, `switchover`, `failover`, `restart`, `reinit`, `reload`, `flush`, `pause`, `resume`,
//! `show-config`, `edit-config`, `history`, `version`, `demote-cluster`, `promote-cluster`, `remove`, and our own `why` and `check`. Their
//! places are kept for the rest of patronictl's: `dsn`, `query`; and for our own `demo`. Until they are there their names are
//! usage errors.

mod check;
mod cluster_role;
mod edit_config;
mod failover;
mod flush;
mod history;
#[cfg(test)]
pub(crate) mod layouts;
mod list;
mod pause;
mod reinit;
mod reload;
mod remove;
mod restart;
mod show_config;
mod switchover;
mod takeover;
mod topology;
mod version;
mod why;

use anyhow::{Result, bail};
use ptarmigan_types::{Cluster, Member};

use crate::{
    cli::{Command, RoleChoice},
    rest::Answer,
    selection,
    session::{Context, Session},
};

/// Runs a command.
///
/// # Errors
/// Whatever ends it with exit code 1.
pub(crate) async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::List(options) => list::run(context, options).await,
        Command::Topology(options) => topology::run(context, options).await,
        Command::Switchover(options) => switchover::run(context, options).await,
        Command::Failover(options) => failover::run(context, options).await,
        Command::Restart(options) => restart::run(context, options).await,
        Command::Reinit(options) => reinit::run(context, options).await,
        Command::Reload(options) => reload::run(context, options).await,
        Command::ShowConfig(options) => show_config::run(context, options).await,
        Command::EditConfig(options) => edit_config::run(context, options).await,
        Command::History(options) => history::run(context, options).await,
        Command::Version(options) => version::run(context, options).await,
        Command::DemoteCluster(options) => cluster_role::demote(context, options).await,
        Command::PromoteCluster(options) => cluster_role::promote(context, options).await,
        Command::Check(options) => check::run(context, options).await,
        Command::Why(options) => why::run(context, options).await,
        Command::Flush(options) => flush::run(context, options).await,
        Command::Pause(options) => pause::run(context, options, true).await,
        Command::Resume(options) => pause::run(context, options, false).await,
        Command::Remove(options) => remove::run(context, options).await,
        // It needs no configuration: see the caller.
        Command::Demo(_) => Ok(()),
    }
}

/// Shows the cluster and selects members by role and name (contract C.3).
///
/// # Errors
/// No member has the role, or none of those is named.
fn select(
    context: &Context,
    session: &Session,
    cluster: &Cluster,
    names: &[String],
    role: RoleChoice,
) -> Result<Vec<Member>> {
    let members = selection::by_role(cluster, role);
    if members.is_empty() {
        bail!("{} cluster doesn't have any members", session.name);
    }
    context.show(session, cluster)?;
    selection::by_name(members, names, &format!("'{}'", role.word()))
}

/// Asks before an action on members; `at` is its schedule.
///
/// # Errors
/// The answer is no.
async fn confirm_members(
    context: &Context,
    action: &str,
    members: &[Member],
    at: Option<&str>,
) -> Result<()> {
    let names = member_names(members);
    let (question, refusal) = match at {
        Some(at) => (format!("schedule {action} of members {names} at {at}"), format!("scheduled {action}")),
        None => (format!("{action} members {names}"), action.to_owned()),
    };
    let question = format!("Are you sure you want to {question}?");
    confirm(context, &question, &format!("Aborted {refusal}")).await
}

/// Members that can be asked, the leader before the others.
fn leader_first(cluster: &Cluster) -> Vec<&Member> {
    let mut members: Vec<&Member> =
        cluster.members.iter().filter(|member| member.data.api_url().is_some()).collect();
    members.sort_by_key(|member| !cluster.is_leader(&member.name));
    members
}

async fn confirm(context: &Context, question: &str, refusal: &str) -> Result<()> {
    if context.console.confirm(question).await? { Ok(()) } else { bail!("{refusal}") }
}

fn member_names(members: &[Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Prints what became of an action on one member; true where it succeeded.
fn report(context: &Context, action: &str, member: &Member, answer: &Answer) -> Result<bool> {
    if answer.status >= 400 {
        report_failure(context, action, member, answer)?;
        return Ok(false);
    }
    context.console.line(format!("Success: {action} for member {}", member.name))?;
    Ok(true)
}

fn report_failure(context: &Context, action: &str, member: &Member, answer: &Answer) -> Result<()> {
    let Answer { status, body, .. } = answer;
    context
        .console
        .line(format!("Failed: {action} for member {}, status code={status}, ({body})", member.name))
}
