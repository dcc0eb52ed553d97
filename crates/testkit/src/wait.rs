//! Waiting for a condition with a deadline.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result, anyhow};

/// How long to sleep between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` every 20 ms until it answers `Ok`, at most for `deadline`.
///
/// The probe's error says what it saw instead: `ensure!(role == "primary", "role is {role}")`.
///
/// # Errors
/// After the deadline: names `what` was waited for and the last seen state.
pub async fn wait_until<T, F, Fut>(what: &str, deadline: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let start = ptarmigan_clock::now();
    let mut last = anyhow!("nothing was seen: the first look did not come back");
    loop {
        let remaining = deadline.saturating_sub(ptarmigan_clock::now().since(start));
        match tokio::time::timeout(remaining, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(state)) => last = state,
            Err(_) => {}
        }
        // a look that answers at once is never cut off by the timeout
        if ptarmigan_clock::now().since(start) >= deadline {
            return Err(last).with_context(|| format!("waited {deadline:?} for {what}; last seen"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn returns_the_value_of_the_first_success() {
        let mut looks = 0;
        let value = wait_until("the third look", Duration::from_secs(5), || {
            looks += 1;
            let seen = looks;
            async move {
                ensure!(seen == 3, "look {seen}");
                Ok(seen * 10)
            }
        })
        .await
        .unwrap();
        assert_eq!(value, 30);
    }

    #[tokio::test]
    async fn the_message_names_the_condition_and_the_last_seen_state() {
        let error = wait_until::<(), _, _>("a primary", Duration::from_millis(60), || async {
            Err(anyhow!("role is replica"))
        })
        .await
        .unwrap_err();
        let message = format!("{error:#}");
        assert!(message.contains("a primary") && message.contains("role is replica"), "{message}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_does_not_outlast_the_deadline() {
        let start = ptarmigan_clock::now();
        let result = wait_until::<(), _, _>("never", Duration::from_millis(100), std::future::pending).await;
        assert!(result.is_err());
        assert!(ptarmigan_clock::now().since(start) < Duration::from_secs(2));
    }
}
