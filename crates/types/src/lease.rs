//! When a lease that nobody has lost is to be refreshed.

use std::time::Duration;

/// What stays at least of a lease, but for the very short ones.
const RESERVE_MIN: Duration = Duration::from_millis(1500);

/// How old a lease may get before it must be refreshed, although nothing asks for it: less often than once per `loop_wait`, which
/// the contract allows (A.5, A.6). A quarter of the TTL stays for a refresh that takes long. `ttl` is what the store granted:
/// Consul grants half of what is configured.
pub fn refresh_after(ttl: Duration) -> Duration {
    ttl - (ttl / 4).max(RESERVE_MIN).min(ttl / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_stays_and_of_short_leases_more() {
        for (ttl_s, after_ms) in [(30, 22_500), (20, 15_000), (15, 11_250), (6, 4_500), (3, 1_500), (1, 500)]
        {
            assert_eq!(refresh_after(Duration::from_secs(ttl_s)), Duration::from_millis(after_ms), "{ttl_s}");
        }
    }
}
