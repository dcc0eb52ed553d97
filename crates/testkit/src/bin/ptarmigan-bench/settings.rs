//! The dynamic settings of a cluster, for each product.

use std::time::Duration;

use serde_json::{Value, json};

/// Whose daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    /// Ours.
    Ptarmigan,
    /// The one that it is compared with.
    Patroni,
}

/// Settings that both products have in some form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settings {
    /// What both have where nobody sets anything.
    Defaults,
    /// The shortest times that each of them allows.
    Fastest,
    /// The shortest lease with which a daemon may be gone for 2 s.
    ShortRestart,
}

impl Settings {
    /// In the words of the report.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Defaults => "defaults: ttl 30, loop_wait 10, retry_timeout 10",
            Self::Fastest => {
                "fastest: rto 4s (ttl 3, loop_wait 1, retry_timeout 1); Patroni ttl 20, loop_wait 1, \
                 retry_timeout 3; failsafe_mode"
            }
            Self::ShortRestart => {
                "ttl 6: rto 7s (ttl 6, loop_wait 2, retry_timeout 2); Patroni ttl 20, loop_wait 1, \
                 retry_timeout 3; failsafe_mode"
            }
        }
    }

    /// What `bootstrap.dcs` is told.
    pub(crate) fn dynamic(self, product: Product) -> Value {
        let mut dynamic = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10});
        match (self, product) {
            (Self::Defaults, _) => return dynamic,
            (Self::Fastest, Product::Ptarmigan) => dynamic["rto"] = json!("4s"),
            (Self::ShortRestart, Product::Ptarmigan) => dynamic["rto"] = json!("7s"),
            (Self::Fastest | Self::ShortRestart, Product::Patroni) => {
                dynamic = json!({"ttl": 20, "loop_wait": 1, "retry_timeout": 3});
            }
        }
        dynamic["failsafe_mode"] = json!(true);
        dynamic
    }

    /// `ttl`, `loop_wait` and `retry_timeout` as they must be in `/config` before anything is measured.
    pub(crate) const fn timeouts(self, product: Product) -> (u64, u64, u64) {
        match (self, product) {
            (Self::Defaults, _) => (30, 10, 10),
            (Self::Fastest, Product::Ptarmigan) => (3, 1, 1),
            (Self::ShortRestart, Product::Ptarmigan) => (6, 2, 2),
            (Self::Fastest | Self::ShortRestart, Product::Patroni) => (20, 1, 3),
        }
    }

    /// The time from one cycle of the product to the next: something happens at a random moment of it.
    pub(crate) const fn rhythm(self, product: Product) -> Duration {
        Duration::from_secs(self.timeouts(product).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_patroni_is_told_is_what_it_keeps() {
        for settings in [Settings::Defaults, Settings::Fastest, Settings::ShortRestart] {
            let (ttl, loop_wait, retry_timeout) = settings.timeouts(Product::Patroni);
            let dynamic = settings.dynamic(Product::Patroni);
            assert_eq!(dynamic["ttl"], ttl);
            assert_eq!(dynamic["loop_wait"], loop_wait);
            assert_eq!(dynamic["retry_timeout"], retry_timeout);
            assert!(ttl >= 20 && loop_wait + 2 * retry_timeout <= ttl, "Patroni would change them");
        }
    }

    #[test]
    fn the_fastest_settings_have_failsafe_mode_for_both() {
        for product in [Product::Ptarmigan, Product::Patroni] {
            assert_eq!(Settings::Fastest.dynamic(product)["failsafe_mode"], true);
            assert!(Settings::Defaults.dynamic(product).get("failsafe_mode").is_none());
        }
        assert_eq!(Settings::Fastest.dynamic(Product::Ptarmigan)["rto"], "4s");
        assert!(Settings::Fastest.dynamic(Product::Patroni).get("rto").is_none());
    }
}
