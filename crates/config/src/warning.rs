//! What was odd in a configuration but did not stop us.

use std::fmt;

/// A remark about one key: the value was ignored, adjusted or replaced by its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Dotted path of the key, for example `bootstrap.dcs.ttl`; empty for the document as a whole.
    pub key: String,
    /// What is wrong and what was done about it. Never contains a secret.
    pub reason: String,
}

impl Warning {
    /// A remark about `key`.
    pub fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { key: key.into(), reason: reason.into() }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.key, self.reason)
        }
    }
}
