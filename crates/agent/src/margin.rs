//! How long the DCS takes to renew the lock, and how much is left of the lease by then.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// So many renewals are remembered.
const RENEWALS: usize = 100;

/// The share of them whose answer took at most what counts as usual.
const USUAL_PERCENT: usize = 95;

/// The last renewals of the lock.
#[derive(Debug, Default)]
pub struct Margin(Mutex<Renewals>);

#[derive(Debug, Default)]
struct Renewals {
    latencies: VecDeque<Duration>,
    headrooms: VecDeque<Duration>,
    warned: bool,
}

impl Margin {
    fn renewals(&self) -> MutexGuard<'_, Renewals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store answered a renewal after `latency`, when `headroom` was left until the leader would have had to end; `None` where
    /// it did not lead before. Warns where little is left.
    pub fn note(&self, latency: Duration, headroom: Option<Duration>, ttl: Duration) {
        let mut renewals = self.renewals();
        keep(&mut renewals.latencies, latency);
        let Some(headroom) = headroom else {
            // What was left before says nothing of this leadership.
            renewals.headrooms.clear();
            return;
        };
        keep(&mut renewals.headrooms, headroom);
        let is_little = headroom < ttl / 6;
        if is_little && !renewals.warned {
            tracing::warn!(
                "the leader lease was renewed with {headroom:?} left (ttl {} s): the DCS or this host is slow",
                ttl.as_secs()
            );
        }
        // Once, until there was enough for as long as is remembered.
        let smallest = renewals.headrooms.iter().min().copied().unwrap_or_default();
        renewals.warned = is_little || (renewals.warned && smallest < ttl / 6);
    }

    /// The store did not answer a renewal within that time.
    pub fn note_silence(&self, waited: Duration) {
        keep(&mut self.renewals().latencies, waited);
    }

    /// What the store usually takes; `None` before the first renewal.
    pub fn latency(&self) -> Option<Duration> {
        let mut latencies: Vec<Duration> = self.renewals().latencies.iter().copied().collect();
        latencies.sort_unstable();
        latencies.get((latencies.len() * USUAL_PERCENT / 100).min(latencies.len().saturating_sub(1))).copied()
    }

    /// The least that was left at a renewal; `None` before the second one.
    pub fn headroom(&self) -> Option<Duration> {
        self.renewals().headrooms.iter().min().copied()
    }
}

fn keep(queue: &mut VecDeque<Duration>, value: Duration) {
    if queue.len() == RENEWALS {
        queue.pop_front();
    }
    queue.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    #[test]
    fn the_usual_latency_leaves_rare_ones_out_and_the_headroom_none() {
        let margin = Margin::default();
        assert_eq!((margin.latency(), margin.headroom()), (None, None));
        margin.note(ms(7), None, TTL);
        assert_eq!((margin.latency(), margin.headroom()), (Some(ms(7)), None));
        for round in 0..RENEWALS {
            let rare = round % 25 == 0;
            margin.note(ms(if rare { 900 } else { 10 }), Some(ms(if rare { 4000 } else { 9000 })), TTL);
        }
        assert_eq!((margin.latency(), margin.headroom()), (Some(ms(10)), Some(ms(4000))));
        for _ in 0..RENEWALS {
            margin.note(ms(20), Some(ms(8000)), TTL);
        }
        assert_eq!(
            (margin.latency(), margin.headroom()),
            (Some(ms(20)), Some(ms(8000))),
            "the old are forgotten"
        );
        margin.note(ms(20), None, TTL);
        assert_eq!((margin.latency(), margin.headroom()), (Some(ms(20)), None), "another leadership");
    }

    #[test]
    fn little_headroom_is_said_once() {
        let margin = Margin::default();
        margin.note(ms(1), Some(ms(100)), TTL);
        assert!(margin.renewals().warned);
        margin.note(ms(1), Some(ms(9000)), TTL);
        assert!(margin.renewals().warned, "it was a moment ago");
        for _ in 0..RENEWALS {
            margin.note(ms(1), Some(ms(9000)), TTL);
        }
        assert!(!margin.renewals().warned);
    }
}
