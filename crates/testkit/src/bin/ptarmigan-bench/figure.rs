//! The figures: their units, and what is the middle and the worst of several.

/// Something that is read off a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    /// The longest time between two acknowledged rows of the client, in seconds.
    Gap,
    /// Rows that the old primary acknowledged and the new one does not have.
    RowsLost,
    /// How long two primaries both acknowledged writes, in milliseconds.
    TwoPrimaries,
    /// Statements of the client that failed.
    FailedStatements,
    /// PSS of the manager's processes of a node, in MB (10^6 bytes).
    Memory,
    /// CPU time of the manager's processes of a node, in milliseconds per minute.
    Cpu,
    /// Calls that etcd has finished, per minute.
    EtcdCalls,
    /// Messages that etcd has received, per minute.
    EtcdMessages,
    /// Answered health checks per second.
    HealthRate,
    /// What 99 of 100 health checks take at most while PostgreSQL stands still, in milliseconds; infinite where none
    /// was answered.
    HealthLatency,
}

/// What one round has given.
pub(crate) type Sample = Vec<(Figure, f64)>;

impl Figure {
    /// In the words of the report.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Gap => "writes stand still",
            Self::RowsLost => "acknowledged rows lost",
            Self::TwoPrimaries => "two primaries both acknowledge writes",
            Self::FailedStatements => "failed statements",
            Self::Memory => "PSS of a node's daemon and guardian, the largest node",
            Self::Cpu => "CPU time of a node's daemon and guardian, mean of the nodes",
            Self::EtcdCalls => "calls that etcd finished (`grpc_server_handled_total`)",
            Self::EtcdMessages => "requests that etcd received (`grpc_server_msg_received_total`)",
            Self::HealthRate => "answers per second",
            Self::HealthLatency => "99th percentile while PostgreSQL is stopped (SIGSTOP)",
        }
    }

    /// A value with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        if value.is_infinite() {
            return format!("no answer within {} s", crate::health::SECONDS);
        }
        match self {
            Self::Gap => format!("{value:.2} s"),
            Self::RowsLost | Self::FailedStatements | Self::EtcdCalls | Self::EtcdMessages => {
                format!("{value:.0}")
            }
            Self::TwoPrimaries | Self::Cpu => format!("{value:.0} ms"),
            Self::Memory => format!("{value:.1} MB"),
            Self::HealthRate => format!("{value:.0}/s"),
            Self::HealthLatency => format!("{value:.1} ms"),
        }
    }

    /// The median and the worst of several values; `None` of none.
    pub(crate) fn summary(self, values: &[f64]) -> Option<(f64, f64)> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        if self == Self::HealthRate {
            // the worst is the last
            sorted.reverse();
        }
        let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
        Some((f64::midpoint(*low, *high), *sorted.last()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle_and_the_worst_is_the_largest() {
        assert_eq!(Figure::Gap.summary(&[3.0, 1.0, 2.0]), Some((2.0, 3.0)));
        assert_eq!(Figure::Gap.summary(&[4.0, 1.0, 2.0, 3.0]), Some((2.5, 4.0)));
        assert_eq!(Figure::Gap.summary(&[]), None);
    }

    #[test]
    fn the_worst_rate_is_the_smallest() {
        assert_eq!(Figure::HealthRate.summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0)));
    }

    #[test]
    fn no_answer_is_no_number() {
        let (median, worst) = Figure::HealthLatency.summary(&[f64::INFINITY, 2.0, f64::INFINITY]).unwrap();
        assert_eq!(Figure::HealthLatency.show(median), "no answer within 5 s");
        assert!(worst.is_infinite());
        assert_eq!(Figure::HealthLatency.show(2.34), "2.3 ms");
    }
}
