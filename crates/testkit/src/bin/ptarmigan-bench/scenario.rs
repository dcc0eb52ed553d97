//! The lines of the table: what is done to a cluster, under which settings, and what is read off.

use clap::ValueEnum;

use crate::{
    figure::Figure::{
        self, Cpu, EtcdCalls, EtcdMessages, FailedStatements, Gap, HealthLatency, HealthRate, Memory,
        RowsLost, TwoPrimaries,
    },
    settings::{
        Product,
        Settings::{self, Defaults, Fastest, ShortRestart},
    },
};

/// A line of the table, by the name that `--only` takes. It may show several figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Line {
    /// A planned switchover.
    Switchover,
    /// A planned switchover, fastest settings.
    SwitchoverFastest,
    /// SIGKILL to the primary's postmaster.
    Postmaster,
    /// SIGKILL to the primary's postmaster, fastest settings.
    PostmasterFastest,
    /// SIGKILL to everything of the primary's node at once.
    Node,
    /// SIGKILL to everything of the primary's node at once, fastest settings.
    NodeFastest,
    /// SIGKILL to the primary's daemon, for good.
    DaemonKilled,
    /// SIGKILL to the primary's daemon, for good, fastest settings.
    DaemonKilledFastest,
    /// SIGSTOP to the primary's daemon, for good.
    DaemonFrozen,
    /// SIGSTOP to the primary's daemon, for good, fastest settings.
    DaemonFrozenFastest,
    /// SIGKILL to the primary's daemon, which is started again a second later.
    DaemonRestarted,
    /// The same with a lease of 6 s, or the product's shortest.
    DaemonRestartedFastest,
    /// SIGUSR2 to the primary's daemon.
    DaemonUpgraded,
    /// Memory and CPU while nothing happens.
    Idle,
    /// Requests to etcd while nothing happens; measured together with `idle`.
    Etcd,
    /// Health checks from 64 connections, also while PostgreSQL stands still. Needs wrk.
    Health,
}

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A planned switchover.
    Switchover,
    /// SIGKILL to the primary's postmaster.
    Postmaster,
    /// SIGKILL to everything of the primary's node at once.
    Node,
    /// SIGKILL to the primary's daemon, for good.
    DaemonKilled,
    /// SIGSTOP to the primary's daemon, for good.
    DaemonFrozen,
    /// SIGKILL to the primary's daemon, which is started again.
    DaemonRestarted,
    /// SIGUSR2 to the primary's daemon.
    DaemonUpgraded,
    /// Nothing.
    Idle,
    /// Health checks as fast as they are answered.
    Health,
}

/// A measurement with a cluster of its own. Lines may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// What is done.
    pub(crate) event: Event,
    /// Under which settings.
    pub(crate) settings: Settings,
}

/// A figure, and what Ptarmigan wants to reach.
type Wanted = (Figure, &'static str);

const SWITCHOVER: &[Wanted] = &[(Gap, "0.25 s")];
const POSTMASTER: &[Wanted] = &[(Gap, "0.6 s")];
const NODE: &[Wanted] = &[(Gap, "-")];
const NODE_FASTEST: &[Wanted] = &[(Gap, "4.0 s")];
const LOST: &[Wanted] = &[(RowsLost, "0"), (TwoPrimaries, "0 ms"), (Gap, "-")];
const KEPT: &[Wanted] = &[(FailedStatements, "0"), (Gap, "no statement waits for it")];
const IDLE: &[Wanted] = &[(Memory, "12 MB"), (Cpu, "10 ms")];
const FEWER: &str = "fewer than Patroni";
const ETCD: &[Wanted] = &[(EtcdCalls, FEWER), (EtcdMessages, FEWER)];
const HEALTH: &[Wanted] = &[(HealthRate, "20 times Patroni's"), (HealthLatency, "10 ms")];

impl Line {
    /// What must be measured for it.
    pub(crate) const fn work(self) -> Work {
        self.parts().0
    }

    /// What it shows of that, each with Ptarmigan's goal.
    pub(crate) const fn figures(self) -> &'static [Wanted] {
        self.parts().1
    }

    const fn parts(self) -> (Work, &'static [Wanted]) {
        let (event, settings, figures) = match self {
            Self::Switchover => (Event::Switchover, Defaults, SWITCHOVER),
            Self::SwitchoverFastest => (Event::Switchover, Fastest, SWITCHOVER),
            Self::Postmaster => (Event::Postmaster, Defaults, POSTMASTER),
            Self::PostmasterFastest => (Event::Postmaster, Fastest, POSTMASTER),
            Self::Node => (Event::Node, Defaults, NODE),
            Self::NodeFastest => (Event::Node, Fastest, NODE_FASTEST),
            Self::DaemonKilled => (Event::DaemonKilled, Defaults, LOST),
            Self::DaemonKilledFastest => (Event::DaemonKilled, Fastest, LOST),
            Self::DaemonFrozen => (Event::DaemonFrozen, Defaults, LOST),
            Self::DaemonFrozenFastest => (Event::DaemonFrozen, Fastest, LOST),
            Self::DaemonRestarted => (Event::DaemonRestarted, Defaults, KEPT),
            Self::DaemonRestartedFastest => (Event::DaemonRestarted, ShortRestart, KEPT),
            Self::DaemonUpgraded => (Event::DaemonUpgraded, Defaults, KEPT),
            Self::Idle => (Event::Idle, Defaults, IDLE),
            Self::Etcd => (Event::Idle, Defaults, ETCD),
            Self::Health => (Event::Health, Defaults, HEALTH),
        };
        (Work { event, settings }, figures)
    }
}

impl Event {
    /// What happens, in the words of the report.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Switchover => "planned switchover",
            Self::Postmaster => "postmaster killed, recovered in place",
            Self::Node => "node killed (daemon and PostgreSQL)",
            Self::DaemonKilled => "daemon killed for good",
            Self::DaemonFrozen => "daemon frozen for good",
            Self::DaemonRestarted => "daemon killed and started again 1 s later",
            Self::DaemonUpgraded => "daemon upgraded in place (SIGUSR2)",
            Self::Idle => "nothing happens for a minute",
            Self::Health => "`GET /primary` from 64 connections",
        }
    }

    /// Whether a client writes meanwhile.
    pub(crate) const fn has_writer(self) -> bool {
        !matches!(self, Self::Idle | Self::Health)
    }

    /// Whether the product has such a thing.
    pub(crate) const fn known_to(self, product: Product) -> bool {
        !matches!((self, product), (Self::DaemonUpgraded, Product::Patroni))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_look_at_the_same_thing_are_measured_once() {
        assert_eq!(Line::Idle.work(), Line::Etcd.work());
        for line in Line::value_variants() {
            for other in Line::value_variants().iter().filter(|other| *other != line) {
                let shared = matches!((line, other), (Line::Idle, Line::Etcd) | (Line::Etcd, Line::Idle));
                assert_eq!(line.work() == other.work(), shared, "{line:?} and {other:?}");
            }
        }
    }
}
