//! Configuration: YAML files, `PATRONI_*` variables and the dynamic configuration of the DCS become typed
//! settings (contract C).
//!
//! Pure except for `load`, which reads the files, and `validate`, whose side-effect checks are asked for
//! explicitly.

pub mod address;
pub mod dynamic;
pub mod options;
pub mod secret;
pub mod settings;
pub mod warning;

pub use address::HostPort;
pub use dynamic::{DynamicSettings, StandbyCluster, SynchronousMode};
pub use secret::Secret;
pub use settings::{
    BootstrapMethod, BootstrapSettings, Callbacks, Credentials, CtlSettings, DcsChoice, DcsKind,
    GuardianMode, LogFormat, LogSettings, LogType, PerRole, PostgresSettings, ReplicaMethod, RestSettings,
    Settings, VerifyClient, WatchdogMode, WatchdogSettings,
};
pub use warning::Warning;
