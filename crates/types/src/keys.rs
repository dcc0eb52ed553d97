//! Key paths (contract A.1).

use crate::MemberName;

/// `/<namespace>/<scope>` with runs of `/` collapsed, no slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPath(String);

impl ClusterPath {
    /// The base path of a cluster.
    pub fn new(namespace: &str, scope: &str) -> Self {
        let mut path = String::new();
        for segment in namespace.split('/').chain(scope.split('/')).filter(|part| !part.is_empty()) {
            path.push('/');
            path.push_str(segment);
        }
        Self(path)
    }

    /// The base, for example `/service/batman`.
    pub fn base(&self) -> &str {
        &self.0
    }

    /// The prefix of every key, for example `/service/batman/`.
    pub fn prefix(&self) -> String {
        format!("{}/", self.0)
    }

    /// The full path of a key.
    pub fn key(&self, key: &Key) -> String {
        format!("{}/{}", self.0, key.relative())
    }
}

/// A key below the cluster's prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `initialize`
    Initialize,
    /// `leader`
    Leader,
    /// `members/<name>`
    Member(MemberName),
    /// `status`
    Status,
    /// `optime/leader`
    Optime,
    /// `sync`
    Sync,
    /// `config`
    Config,
    /// `failover`
    Failover,
    /// `history`
    History,
    /// `failsafe`
    Failsafe,
}

impl Key {
    /// The path relative to the cluster's prefix.
    pub fn relative(&self) -> String {
        match self {
            Self::Initialize => "initialize".into(),
            Self::Leader => "leader".into(),
            Self::Member(name) => format!("members/{name}"),
            Self::Status => "status".into(),
            Self::Optime => "optime/leader".into(),
            Self::Sync => "sync".into(),
            Self::Config => "config".into(),
            Self::Failover => "failover".into(),
            Self::History => "history".into(),
            Self::Failsafe => "failsafe".into(),
        }
    }

    /// Reads a relative path; `None` for keys that are not ours.
    pub fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "initialize" => Self::Initialize,
            "leader" => Self::Leader,
            "status" => Self::Status,
            "optime/leader" => Self::Optime,
            "sync" => Self::Sync,
            "config" => Self::Config,
            "failover" => Self::Failover,
            "history" => Self::History,
            "failsafe" => Self::Failsafe,
            _ => {
                let name = path.strip_prefix("members/")?;
                if name.is_empty() || name.contains('/') {
                    return None;
                }
                Self::Member(MemberName(name.to_owned()))
            }
        })
    }
}
