//! Is there an etcd that we can use (contract A.5, "API prefix", "auth")?

use ptarmigan_dcs::Error;

use crate::{
    failure::Failure,
    nodes::Stamp,
    pool::{Answer, Policy},
    store::Store,
};

/// The oldest server that works.
const SERVER_MIN: (u32, u32, u32) = (3, 0, 4);

const NEEDS_V3: &str = "the etcd: section asks for the v2 API, which is served through the v3 API of the same \
                        server, and this one has none: use etcd3: with etcd 3.4 or newer";

/// Asks one node for its version, with the credentials that are configured.
pub(crate) async fn probe(store: &Store) -> Result<(), Error> {
    let answer = store.pool.call(store.deadline(), Policy::UntilDeadline, |mut client| async move {
        let status = client.status().await?;
        let stamp = Stamp::of(status.header());
        Ok((status.version().to_owned(), stamp))
    });
    let v2 = store.pool.settings().v2;
    match answer.await {
        Ok(Answer { value: version, .. }) => judge(&version)?,
        Err(Failure::Api(text)) if text.contains("permission denied") => {}
        Err(Failure::Api(text)) if text.contains("Unimplemented") || text.contains("unknown service") => {
            return Err(Error::Fatal(if v2 { NEEDS_V3.into() } else { format!("no v3 API: {text}") }));
        }
        Err(Failure::Unsent(text) | Failure::Unanswered(text)) if v2 && text.contains("h2 protocol") => {
            return Err(Error::Fatal(format!("{NEEDS_V3} ({text})")));
        }
        // Nothing is changed by a probe: without an answer it was without effect.
        Err(Failure::Unanswered(text)) => return Err(Error::Unreachable(text)),
        Err(failure) => return Err(failure.into()),
    }
    if v2 {
        tracing::warn!(
            "the etcd: section asks for the v2 API: using the v3 API of the same server; keys that were written \
             through the v2 API are not seen, and members that use it do not see ours"
        );
    }
    Ok(())
}

/// Refuses servers that are too old; a version that cannot be read passes.
fn judge(version: &str) -> Result<(), Error> {
    let mut numbers = version.split(['.', '-', '+']).map(|part| part.parse().ok());
    let (Some(Some(major)), Some(Some(minor)), Some(Some(patch))) =
        (numbers.next(), numbers.next(), numbers.next())
    else {
        tracing::warn!(version, "an etcd version that cannot be read");
        return Ok(());
    };
    if (major, minor, patch) < SERVER_MIN {
        return Err(Error::Fatal(format!("etcd {version} is too old: 3.0.4 is needed at least")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_5_servers_before_3_0_4_are_refused() {
        for old in ["2.3.8", "3.0.3", "3.0.0-rc.1"] {
            assert!(matches!(judge(old), Err(Error::Fatal(_))), "{old}");
        }
        for new in ["3.0.4", "3.4.23", "3.5.0-rc.0", "3.6.1+git", "4.0.0", "", "unknown"] {
            assert_eq!(judge(new), Ok(()), "{new}");
        }
    }
}
