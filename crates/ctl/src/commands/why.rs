//! `why`: what members decided lately, and why. Our own.

use anyhow::{Context as _, Result, bail};
use ptarmigan_rest::why::Decided;
use ptarmigan_types::Member;
use reqwest::Method;

use crate::{
    cli::Why,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Why) -> Result<()> {
    let session = context.open(options.cluster.as_deref(), options.group, NoGroup::Configured)?;
    let cluster = session.view().await?;
    let members: Vec<&Member> = match &options.member {
        Some(name) => cluster.members.iter().filter(|member| member.name.as_str() == name).collect(),
        None => cluster.members.iter().collect(),
    };
    if members.is_empty() {
        match &options.member {
            Some(name) => bail!("there is no member {name} in cluster {}", session.name),
            None => bail!("cluster {} has no members", session.name),
        }
    }
    // Of all members the present decision; of one that was asked for, how it came to that.
    let last = options.last.unwrap_or_else(|| if options.member.is_some() { 10 } else { 1 });
    let mut missing = 0;
    for member in &members {
        match ask(context, member).await {
            Ok(decided) => {
                let from = decided.len().saturating_sub(last);
                for decision in decided.iter().skip(from) {
                    context.console.write(&render(member.name.as_str(), decision))?;
                }
            }
            Err(error) => {
                missing += 1;
                context.console.line(format!("{}: {error:#}\n", member.name))?;
            }
        }
    }
    if missing == members.len() {
        bail!("no member told why");
    }
    Ok(())
}

async fn ask(context: &Context, member: &Member) -> Result<Vec<Decided>> {
    let answer =
        context.client()?.call(member, Method::GET, "why", None).await.context("it does not tell why")?;
    match answer.status {
        200 => serde_json::from_str(&answer.body).context("its answer is not understood"),
        503 if answer.body.contains("too many") => bail!("{}", answer.body),
        // A health check of an unknown path, to a Patroni.
        status => bail!("it does not tell why (status {status}): a Patroni cannot"),
    }
}

/// The status line, and below it a line for each rule.
fn render(member: &str, decision: &Decided) -> String {
    let at = decision.at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let repeated = match decision.times {
        1 => String::new(),
        times => format!(" ({times} cycles, since {})", decision.since.strftime("%Y-%m-%d %H:%M:%S")),
    };
    let mut text = format!("{member}, {at}{repeated}\n  {}\n", decision.line);
    for reason in &decision.reasons {
        let facts = if reason.facts.is_empty() { String::new() } else { format!(": {}", reason.facts) };
        text.push_str(&format!("    {}{facts} [{}]\n", reason.says, reason.rule));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use ptarmigan_rest::why::Reason;

    use super::*;

    #[test]
    fn a_decision_is_told_with_its_rules_and_facts() {
        let reason = |rule: &str, says: &str, facts: &str| Reason {
            rule: rule.into(),
            says: says.into(),
            facts: facts.into(),
        };
        let decided = Decided {
            at: "2026-11-26T18:00:40Z".parse().unwrap(),
            since: "2026-11-26T18:00:01Z".parse().unwrap(),
            times: 1,
            line: "following a different leader because i am not the healthiest node".into(),
            reasons: vec![
                reason("HA-015", "nobody holds the leader lock", ""),
                reason("HN-1", "behind what the last leader had published", "33.0 MB, limit 1.0 MB"),
            ],
        };
        assert_eq!(
            render("node2", &decided),
            "node2, 2026-11-26 18:00:40 UTC\n  following a different leader because i am not the healthiest node\n    \
             nobody holds the leader lock [HA-015]\n    \
             behind what the last leader had published: 33.0 MB, limit 1.0 MB [HN-1]\n\n"
        );
        let again = Decided { times: 4, ..decided };
        assert!(
            render("node2", &again)
                .starts_with("node2, 2026-11-26 18:00:40 UTC (4 cycles, since 2026-11-26 18:00:01)\n")
        );
    }
}
