//! `check --if-lost`: what would happen if a member were lost now. Our own.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::future::join_all;
use ptarmigan_ha::{
    facts::PeerAnswer,
    forecast::{Forecast, Settings, Standing, if_lost},
};
use ptarmigan_rest::PeerStatus;
use ptarmigan_types::{Cluster, Member, MemberName, scalar};
use reqwest::Method;
use serde_json::Value;

use crate::{
    cli::Check,
    session::{Context, NoGroup},
};

pub(super) async fn run(context: &Context, options: Check) -> Result<()> {
    let session = context.open(options.cluster.as_deref(), options.group, NoGroup::Configured)?;
    let cluster = session.view().await?;
    let lost = MemberName::from(options.if_lost.as_str());
    if cluster.member(&lost).is_none() {
        bail!("there is no member {lost} in cluster {}", session.name);
    }
    let asked = cluster.members.iter().filter(|member| member.name != lost);
    let answers = join_all(asked.map(|member| async {
        let answer = ask(context, member).await.map_err(|error| format!("{error:#}"));
        (member.name.clone(), answer)
    }))
    .await;
    let settings = settings(&cluster, context.config.timing.ttl);
    context.console.write(&render(&lost, &if_lost(&cluster, &settings, &answers, &lost)))
}

async fn ask(context: &Context, member: &Member) -> Result<PeerAnswer> {
    let answer = context.client()?.call(member, Method::GET, "patroni", None).await?;
    let document: Value = serde_json::from_str(&answer.body).context("no status document")?;
    let status = PeerStatus::read(&document).context("it tells no position")?;
    Ok(PeerAnswer {
        name: member.name.clone(),
        in_recovery: status.in_recovery,
        lsn: status.lsn,
        timeline: status.timeline,
        tags: status.tags,
        watchdog_failed: status.watchdog_failed,
        ailing: status.ailing,
        streaming: status.streaming,
        without_data: false,
    })
}

/// What `/config` says; the defaults where it says nothing.
fn settings(cluster: &Cluster, ttl: Duration) -> Settings {
    let config = cluster.config.as_ref().map(|config| &config.value);
    let get = |key: &str| config.and_then(|config| config.get(key));
    let number =
        |key: &str| get(key).and_then(scalar::python_int).and_then(|number| u64::try_from(number).ok());
    let is_on = |key: &str| get(key).is_some_and(scalar::is_truthy);
    Settings {
        ttl: number("ttl").map_or(ttl, Duration::from_secs),
        maximum_lag_bytes: number("maximum_lag_on_failover").unwrap_or(1 << 20),
        check_timeline: is_on("check_timeline"),
        strict: is_on("synchronous_mode_strict"),
        failsafe_mode: is_on("failsafe_mode"),
        pause: is_on("pause"),
    }
}

fn render(lost: &MemberName, forecast: &Forecast) -> String {
    let mut lines = vec![match (forecast.leads, &forecast.winner) {
        (true, Some(winner)) => format!(
            "If the leader {lost} is lost, {winner} takes over, within {} s.",
            forecast.until_takeover.as_secs()
        ),
        (true, None) => format!("If the leader {lost} is lost, nobody takes over."),
        (false, Some(leader)) => format!("If {lost} is lost, {leader} goes on leading."),
        (false, None) => format!("If {lost} is lost, there is still no leader."),
    }];
    if forecast.leads && forecast.winner.is_some() {
        lines.push(match forecast.lost_bytes {
            None => "  Lost: nothing that was acknowledged (synchronous replication).".into(),
            Some(0) => "  Lost: at most what is written from now on and has not arrived there.".into(),
            Some(bytes) => {
                format!(
                    "  Lost: {bytes} bytes of WAL, and what is written from now on and has not arrived there."
                )
            }
        });
    }
    lines.extend(forecast.warnings.iter().map(|warning| format!("  Note: {warning}.")));
    if forecast.leads {
        lines.extend(forecast.standings.iter().map(stands));
    }
    lines.join("\n") + "\n"
}

fn stands(standing: &Standing) -> String {
    let lsn = standing.lsn.map_or_else(|| "unknown".to_owned(), |lsn| lsn.to_string());
    let verdict = standing
        .objection
        .as_deref()
        .map_or_else(|| "can take over".to_owned(), |objection| format!("cannot take over: {objection}"));
    format!("  {} at {lsn}: {verdict}", standing.name)
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::Lsn;

    use super::*;

    #[test]
    fn a_forecast_is_told_in_sentences() {
        let standing = |name: &str, lsn: u64, objection: Option<&str>| Standing {
            name: name.into(),
            lsn: Some(Lsn(lsn)),
            votes: true,
            objection: objection.map(str::to_owned),
        };
        let forecast = Forecast {
            leads: true,
            winner: Some("b".into()),
            standings: vec![standing("b", 0x500_0060, None), standing("c", 0x300_0000, Some("nofailover"))],
            lost_bytes: Some(1000),
            until_takeover: Duration::from_secs(30),
            warnings: vec!["b is the only one that can take over".into()],
        };
        assert_eq!(
            render(&"a".into(), &forecast),
            "If the leader a is lost, b takes over, within 30 s.\n  \
             Lost: 1000 bytes of WAL, and what is written from now on and has not arrived there.\n  \
             Note: b is the only one that can take over.\n  b at 0/5000060: can take over\n  \
             c at 0/3000000: cannot take over: nofailover\n"
        );
        let replica = Forecast { winner: Some("a".into()), ..Forecast::default() };
        assert_eq!(render(&"c".into(), &replica), "If c is lost, a goes on leading.\n");
        let nobody = Forecast { leads: true, ..Forecast::default() };
        assert_eq!(render(&"a".into(), &nobody), "If the leader a is lost, nobody takes over.\n");
    }
}
