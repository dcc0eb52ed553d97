//! Member tags (contract A.3.3.2).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The tags of a member, in the order of its configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub Map<String, Value>);
