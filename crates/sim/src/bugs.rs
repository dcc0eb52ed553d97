//! Bugs planted for the test of the checkers: each is one wrong line, put around the core rather than into it.

pub mod synchronous;

use ptarmigan_ha::{
    Action, Decision, DemoteMode, Job, Memory, Observation, Outcome, Upstream,
    action::{Divergence, RecoveryDifference, When},
    decide,
    observation::WatchdogView,
};

use crate::run::Options;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal by $checker:literal),+ $(,)?) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($(#[doc = $doc])+ $name),+ }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }

            /// The checker that has to catch it.
            pub const fn checker(self) -> &'static str {
                match self { $(Self::$name => $checker),+ }
            }
        }
    };
}

bugs! {
    /// A live primary among the peers does not keep anybody from racing.
    LivePrimaryIgnored = "live-primary-ignored" by "single_writable_primary",
    /// `maximum_lag_on_failover` is not looked at.
    LagCheckDropped = "lag-check-dropped" by "durability",
    /// A standby behind the timeline that `/history` shows takes over in spite of `check_timeline`.
    TimelineCheckDropped = "timeline-check-dropped" by "timelines",
    /// A renewal without an answer counts as one.
    IndeterminateHeld = "indeterminate-held" by "single_writable_primary",
    /// A race for the lock without an answer counts as won.
    IndeterminateAcquired = "indeterminate-acquired" by "single_writable_primary",
    /// The leader key is deleted whoever holds it.
    ReleaseWithoutCompare = "release-without-compare" by "lock",
    /// Validity is counted from the answer of a renewal.
    ValidityFromAnswer = "validity-from-answer" by "single_writable_primary",
    /// The renewal of the lease is not compared with the leader key.
    RenewalWithoutCompare = "renewal-without-compare" by "single_writable_primary",
    /// A demotion for lack of an answering DCS is not begun.
    OfflineDemotionDropped = "offline-demotion-dropped" by "single_writable_primary",
    /// A demotion for a lost lock is not begun.
    LostLockDemotionDropped = "lost-lock-demotion-dropped" by "single_writable_primary",
    /// The tag `nofailover` is not read.
    NofailoverIgnored = "nofailover-ignored" by "tags",
    /// Positions of peers are not compared.
    PeerPositionsIgnored = "peer-positions-ignored" by "durability",
    /// WAL that left the leader's history is taken for the same.
    DivergenceIgnored = "divergence-ignored" by "liveness",
    /// What an interrupted `pg_rewind` left is taken for a data directory.
    UnfinishedRewindIgnored = "unfinished-rewind-ignored" by "timelines",
    /// A copy that is not consistent yet is taken for any other data directory.
    InconsistentCopyIgnored = "inconsistent-copy-ignored" by "liveness",
    /// The guardian is told of no deadline.
    GuardianNotTold = "guardian-not-told" by "single_writable_primary",
    /// The guardian is told of a deadline beyond the lease.
    DeadlineAfterLease = "deadline-after-lease" by "single_writable_primary",
    /// Who races does not ask whether the former leader's server still writes.
    FormerLeaderNotAsked = "former-leader-not-asked" by "single_writable_primary",
    /// `/initialize` is written unconditionally.
    InitializeUnconditional = "initialize-unconditional" by "initialize_once",
    /// A leader gives the lock up in every tenth cycle.
    Restless = "restless" by "flapping",
    /// A leader in failsafe mode goes on although one member does not answer.
    FailsafeMemberMissing = "failsafe-member-missing" by "failsafe",
    /// Who has promised a leader in failsafe mode not to lead races all the same.
    PromiseForgotten = "promise-forgotten" by "failsafe",
    /// The lease of a leader in failsafe mode is counted from the answers.
    FailsafeFromAnswer = "failsafe-from-answer" by "failsafe",
    /// A primary does not hear that this is a standby cluster.
    StandbyClusterWrites = "standby-cluster-writes" by "standby_cluster",
    /// The leader of a standby cluster goes on following whom it followed.
    RemoteNotFollowed = "remote-not-followed" by "liveness",
    /// A standby with another upstream than the leader does not turn to it.
    CascadeNotFollowed = "cascade-not-followed" by "liveness",
    /// Slots are not created.
    SlotsNotCreated = "slots-not-created" by "slots",
    /// In pause a standby races as ever.
    RacesInPause = "races-in-pause" by "pause",
    /// In pause a primary whose DCS is silent steps down.
    DemotesInPause = "demotes-in-pause" by "pause",
    /// In pause a server that somebody stopped is started.
    StartsInPause = "starts-in-pause" by "pause",
    /// A required watchdog is not waited for.
    WatchdogIgnored = "watchdog-ignored" by "watchdog",
    /// `member_slots_ttl` is not looked at.
    SlotsDroppedAtOnce = "slots-dropped-at-once" by "slots",
    /// Callbacks hear of no change of role.
    RoleChangeNotTold = "role-change-not-told" by "callbacks",
    /// `ignore_slots` is not looked at.
    IgnoreSlotsUnread = "ignore-slots-unread" by "slots",
    /// A leader publishes where a slot of its own making begins as its consumer's position.
    SlotSpeaksForConsumer = "slot-speaks-for-consumer" by "slots",
    /// A slot that nobody uses follows the leader, whatever its member says.
    SlotBeyondMember = "slot-beyond-member" by "slots",
    /// A standby advances a logical slot to its own position.
    SlotBeyondFeedback = "slot-beyond-feedback" by "logical_slots",
    /// Logical slots are not copied to standbys.
    SlotsNotCopied = "slots-not-copied" by "logical_slots",
    /// `/sync` names a standby before commits wait for it.
    SyncKeyGrownFirst = "sync-key-grown-first" by "sync_key",
    /// Commits wait for fewer standbys before `/sync` names fewer.
    SyncKeyShrunkLast = "sync-key-shrunk-last" by "sync_key",
    /// Whoever streams is confirmed, wherever it is.
    SyncPositionsIgnored = "sync-positions-ignored" by "sync_key",
    /// The names of synchronous standbys are taken for in force as soon as they were set.
    SyncNamesNotSettled = "sync-names-not-settled" by "sync_key",
    /// `/sync` says that fewer votes are needed.
    SyncQuorumTooSmall = "sync-quorum-too-small" by "sync_key",
    /// A race heeds neither `/sync` nor how far others are.
    SyncVotersIgnored = "sync-voters-ignored" by "sync_key",
    /// Nobody's vote is needed, and how far others are is not heeded.
    SyncVotesNotCounted = "sync-votes-not-counted" by "sync_durability",
    /// A promotion does not wait for the names of synchronous standbys.
    SyncStepBeforePromotionDropped = "sync-step-before-promotion-dropped" by "sync_key",
    /// `/sync` stays as it was where synchronous mode is off.
    SyncKeyLeftBehind = "sync-key-left-behind" by "sync_rest",
    /// `synchronous_mode_strict` is not looked at.
    StrictIgnored = "strict-ignored" by "strict",
}

impl Bug {
    /// The runs that it is looked for in.
    pub fn options(self) -> Options {
        let synchronous = self.checker().starts_with("sync") || self == Self::StrictIgnored;
        let core_alone =
            !matches!(self, Self::GuardianNotTold | Self::DeadlineAfterLease | Self::FormerLeaderNotAsked);
        Options { bug: Some(self), synchronous, core_alone, ..Options::default() }
    }
}

/// The very decision of the daemon, or with a bug around it.
pub fn decide_with(bug: Option<Bug>, memory: &Memory, observation: &Observation) -> Decision {
    let Some(bug) = bug else { return decide(memory, observation) };
    let mut observation = observation.clone();
    distort(bug, &mut observation);
    let mut memory = memory.clone();
    synchronous::distort(bug, &mut memory, &mut observation);
    let mut decision = decide(&memory, &observation);
    match bug {
        Bug::OfflineDemotionDropped => drop_demotion(&mut decision, DemoteMode::Offline),
        Bug::LostLockDemotionDropped => drop_demotion(&mut decision, DemoteMode::ImmediateNoLock),
        _ => {}
    }
    decision
}

fn drop_demotion(decision: &mut Decision, mode: DemoteMode) {
    decision.actions.retain(|action| *action != Action::StartJob(Job::Demote(mode)));
}

fn distort(bug: Bug, observation: &mut Observation) {
    let unlocked = observation.view.as_ref().is_ok_and(|view| view.is_unlocked());
    match bug {
        Bug::RacesInPause if unlocked => observation.settings.pause = false,
        Bug::DemotesInPause if observation.view.is_err() => observation.settings.pause = false,
        Bug::StartsInPause if !observation.postgres.running => observation.settings.pause = false,
        Bug::WatchdogIgnored => observation.watchdog = WatchdogView::default(),
        Bug::LagCheckDropped => observation.settings.maximum_lag_on_failover_bytes = u64::MAX,
        Bug::TimelineCheckDropped => observation.settings.check_timeline = false,
        Bug::StandbyClusterWrites if observation.postgres.may_write() => {
            observation.settings.standby_cluster = None;
        }
        Bug::UnfinishedRewindIgnored => observation.postgres.unfinished_rewind = None,
        Bug::InconsistentCopyIgnored => observation.postgres.inconsistent_copy = false,
        Bug::NofailoverIgnored => observation.settings.tags = ptarmigan_types::Tags::default(),
        _ => {}
    }
    let cascades = observation.settings.tags.replicatefrom();
    for (action, outcome) in &mut observation.outcomes {
        match (bug, outcome) {
            (Bug::RemoteNotFollowed | Bug::CascadeNotFollowed, Outcome::Recovery(difference))
                if is_not_followed(bug, action, cascades.as_ref()) =>
            {
                *difference = RecoveryDifference::None;
            }
            (Bug::LivePrimaryIgnored, Outcome::Peers(answers)) => {
                answers.iter_mut().for_each(|answer| answer.in_recovery = true);
            }
            (Bug::PeerPositionsIgnored, Outcome::Peers(answers)) => {
                answers.iter_mut().for_each(|answer| answer.lsn = ptarmigan_types::Lsn(1));
            }
            (Bug::DivergenceIgnored, Outcome::Divergence(divergence)) => {
                *divergence = Divergence::SameHistory;
            }
            _ => {}
        }
    }
}

fn is_not_followed(bug: Bug, action: &Action, cascades: Option<&ptarmigan_types::MemberName>) -> bool {
    let Action::CompareRecovery { upstream: Some(upstream) } = action else { return false };
    match bug {
        Bug::RemoteNotFollowed => *upstream == Upstream::Remote,
        _ => upstream.member().is_some_and(|upstream| cascades == Some(upstream)),
    }
}

/// The condition of a write of `/initialize`.
pub fn initialize_condition(bug: Option<Bug>, when: When) -> When {
    if bug == Some(Bug::InitializeUnconditional) { When::Always } else { when }
}
