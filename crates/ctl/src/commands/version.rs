//! `version`: of this program and, where a cluster is named, of its members (contract C.5).

use anyhow::{Result, anyhow};
use ptarmigan_types::{Member, version};
use reqwest::Method;
use serde_json::Value;

use crate::{
    cli::Version,
    rest::Client,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Version) -> Result<()> {
    context.console.line(own(context.program))?;
    let Some(cluster) = options.cluster.as_deref() else { return Ok(()) };
    let session = context.open(Some(cluster), options.group, NoGroup::Refused)?;
    let cluster = session.view().await?;
    context.console.line("")?;
    let is_wanted = |member: &&Member| options.members.is_empty() || options.members.contains(&member.name.0);
    for member in cluster.members.iter().filter(is_wanted).filter(|member| member.data.api_url().is_some()) {
        let name = &member.name;
        let line = match ask(context.client()?, member).await {
            Ok(versions) => format!("{name}: {versions}"),
            Err(error) => format!("{name}: failed to get version: {error:#}"),
        };
        context.console.line(line)?;
    }
    Ok(())
}

/// Scripts take the third word. Where we stand in for patronictl, it is the version that we are compatible with.
fn own(program: &str) -> String {
    let number = if program == "patronictl" { version::EMULATED } else { env!("CARGO_PKG_VERSION") };
    format!("{program} version {number}")
}

async fn ask(client: &Client, member: &Member) -> Result<String> {
    let answer = client.call(member, Method::GET, "patroni", None).await?;
    let document: Value = serde_json::from_str(&answer.body)?;
    versions(&document).ok_or_else(|| anyhow!("the answer (status {}) names no version", answer.status))
}

fn versions(document: &Value) -> Option<String> {
    let manager = document.get("patroni")?.get("version")?.as_str()?;
    let server = document.get("server_version").and_then(Value::as_u64);
    let server = server.and_then(|number| u32::try_from(number).ok()).map(version::server_version);
    let server = server.map_or_else(String::new, |server| format!(" PostgreSQL {server}"));
    Some(format!("Patroni {manager}{server}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c_5_versions_of_a_member() {
        let document = json!({"patroni": {"version": "4.1.4"}, "server_version": 90_624});
        assert_eq!(versions(&document).as_deref(), Some("Patroni 4.1.4 PostgreSQL 9.6.24"));
        let down = json!({"patroni": {"version": "4.1.4"}});
        assert_eq!(versions(&down).as_deref(), Some("Patroni 4.1.4"));
        assert_eq!(versions(&json!([])), None);
    }

    #[test]
    fn clients_find_the_version_in_the_third_word() {
        assert_eq!(own("ptctl").split(' ').nth(2), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(own("patronictl"), format!("patronictl version {}", version::EMULATED));
    }
}
