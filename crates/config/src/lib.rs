//! Configuration: YAML files, `PATRONI_*` variables and the dynamic configuration of the DCS become typed
//! settings (contract C).
//!
//! Pure except for [`mod@load`], which reads the files, and [`validate`], whose side-effect checks are asked for
//! explicitly.

pub mod address;
pub mod controlled;
pub mod dynamic;
pub mod effective;
pub mod env;
pub mod generate;
pub mod load;
pub mod options;
pub mod secret;
pub mod settings;
pub mod validate;
pub mod warning;
pub mod yaml;

pub use address::HostPort;
pub use dynamic::{DynamicSettings, StandbyCluster, SynchronousMode, UnmanagedPrimary};
pub use effective::Effective;
pub use env::Environment;
pub use load::{LocalConfig, load};
pub use secret::Secret;
pub use settings::{
    BootstrapMethod, BootstrapSettings, Callbacks, Credentials, CtlSettings, DcsChoice, DcsKind,
    GuardianMode, LogFormat, LogSettings, LogType, PerRole, PostgresSettings, ReplicaMethod, RestSettings,
    Settings, VerifyClient, WatchdogMode, WatchdogSettings,
};
pub use warning::Warning;
