//! Patching of configuration (contract CF-6): the merge of configuration files, of REST's `PATCH /config` and of
//! `edit-config`.

use serde_json::{Map, Value};

use crate::scalar;

/// Applies `patch` to `current` and tells whether anything changed: `null` removes a key, an object is merged into an
/// object, everything else replaces, unless it has the same text as what is there. A new sub-object is taken as it is,
/// nulls included.
pub fn merge(current: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, wish) in patch {
        changed |= match (current.get_mut(key), wish) {
            // Removing keeps the order of the rest. A `null` that goes was as good as absent: no change.
            (Some(_), Value::Null) => current.shift_remove(key).is_some_and(|gone| !gone.is_null()),
            (None, Value::Null) => false,
            (Some(Value::Object(there)), Value::Object(wish)) => merge(there, wish),
            (Some(there), wish) => {
                let differs = !scalar::same_text(there, wish);
                if differs {
                    *there = wish.clone();
                }
                differs
            }
            (None, wish) => {
                current.insert(key.clone(), wish.clone());
                true
            }
        };
    }
    changed
}
