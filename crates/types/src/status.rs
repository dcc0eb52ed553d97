//! `/status` and the older `/optime/leader` (contract A.3.4, A.3.5).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Lsn, pyjson, scalar};

/// What the leader last said of its position and slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The leader's position; zero where unknown.
    pub last_lsn: Lsn,
    /// Slot name to position.
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Slots kept for members that left a short while ago.
    pub retain_slots: Option<Vec<String>>,
}

impl Status {
    /// Reads `/status`; garbage reads as unknown, part by part (contract A.3.4).
    pub fn read(text: &str) -> Self {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Self {
                last_lsn: map.get("optime").and_then(position).unwrap_or_default(),
                slots: map.get("slots").and_then(read_slots),
                retain_slots: map.get("retain_slots").and_then(read_names),
            },
            // Old releases wrote the bare position.
            _ => Self::read_optime(text),
        }
    }

    /// Reads `/optime/leader`: a decimal number, anything else is zero (contract A.3.5).
    pub fn read_optime(text: &str) -> Self {
        Self { last_lsn: position(&Value::from(text)).unwrap_or_default(), ..Self::default() }
    }

    /// The value of `/status`; slots are left out where there are none.
    pub fn to_json(&self) -> String {
        let mut map = Map::new();
        map.insert("optime".into(), self.last_lsn.0.into());
        if let Some(slots) = self.slots.as_ref().filter(|slots| !slots.is_empty()) {
            let slots = slots.iter().map(|(name, lsn)| (name.clone(), lsn.0.into())).collect();
            map.insert("slots".into(), Value::Object(slots));
        }
        if let Some(names) = self.retain_slots.as_ref().filter(|names| !names.is_empty()) {
            map.insert("retain_slots".into(), names.as_slice().into());
        }
        pyjson::compact(&Value::Object(map))
    }
}

fn position(value: &Value) -> Option<Lsn> {
    let number = value.as_u64().or_else(|| scalar::python_int(value).and_then(|n| u64::try_from(n).ok()))?;
    Some(Lsn(number))
}

/// Old releases wrote the parts as JSON inside of a string.
fn unwrap_text(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    }
}

fn read_slots(value: &Value) -> Option<BTreeMap<String, Lsn>> {
    let Value::Object(map) = unwrap_text(value)? else { return None };
    let slots: BTreeMap<_, _> =
        map.iter().filter_map(|(name, lsn)| Some((name.clone(), position(lsn)?))).collect();
    (!slots.is_empty()).then_some(slots)
}

fn read_names(value: &Value) -> Option<Vec<String>> {
    let Value::Array(items) = unwrap_text(value)? else { return None };
    let names: Vec<_> = items.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    (!names.is_empty()).then_some(names)
}
