//! When a lease that nobody has lost is to be refreshed.

use std::time::Duration;

/// Whether a lease must be refreshed in this cycle, although nothing asks for it: less often than once per `loop_wait`, which
/// the contract allows (A.5, A.6), and always where the next cycle might come too late. Cycles come at any time, but the next one need not come
/// earlier than `loop_wait` from now; a third of the TTL stays for the one that takes long. `ttl` is what the store granted:
/// Consul grants half of what is configured, so that a lease of that age would be over before the next cycle.
pub fn is_due(age: Duration, loop_wait: Duration, ttl: Duration) -> bool {
    age + loop_wait > ttl * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_cycle_never_comes_too_late() {
        let seconds = Duration::from_secs;
        for (age, loop_wait, ttl, due) in [
            (9, 10, 30, false),
            (10, 10, 30, false),
            (11, 10, 30, true),
            (1, 1, 20, false),
            (13, 1, 20, true),
            // Half of 30, as Consul grants it: ten more seconds would use up all but nothing of it.
            (0, 10, 15, false),
            (1, 10, 15, true),
            // As far as ttl 20 and retry_timeout 3 let loop_wait go.
            (0, 14, 20, true),
            (3, 10, 20, false),
            (4, 10, 20, true),
        ] {
            assert_eq!(
                is_due(seconds(age), seconds(loop_wait), seconds(ttl)),
                due,
                "{age} {loop_wait} {ttl}"
            );
        }
    }
}
