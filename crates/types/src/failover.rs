//! `/failover` (contract A.3.8).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{MemberName, Revision, pyjson, scalar, schedule};

/// An operator's wish: a switchover (leader named) or a manual failover (candidate only).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failover {
    /// Must still be the leader; set: this is a switchover.
    pub leader: Option<MemberName>,
    /// Who shall take over; the wire's field is `member`.
    pub candidate: Option<MemberName>,
    /// When; `None` means now. Text that is not a time is kept as [`ScheduledAt::Unusable`].
    pub scheduled_at: Option<ScheduledAt>,
    /// The same as text, in the zone in which the operator gave it: for people.
    pub scheduled_at_text: Option<String>,
    /// For conditional writes.
    pub revision: Revision,
}

/// The schedule as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduledAt {
    /// A moment.
    At(jiff::Timestamp),
    /// Text that no reader understands, or without a zone.
    Unusable(String),
}

impl ScheduledAt {
    /// Reads the field `scheduled_at`.
    pub fn read(text: &str) -> Self {
        schedule::parse_schedule(text).map_or_else(|_| Self::Unusable(text.to_owned()), Self::At)
    }
}

/// ISO 8601 with the offset that was given; text that is no time stays as it is.
fn shown(at: &Value) -> String {
    let text = scalar::python_str(at);
    schedule::parse_moment(&text, None).map_or(text, |moment| moment.to_iso())
}

impl Failover {
    /// Reads `/failover`: the JSON object, or `leader:candidate` as plain text. `None` where neither a leader nor a
    /// candidate is named, also with a schedule.
    pub fn read(text: &str, revision: Revision) -> Option<Self> {
        let name = |name: &str| (!name.is_empty()).then(|| MemberName::from(name));
        let failover = match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Self {
                scheduled_at_text: map.get("scheduled_at").filter(|at| scalar::is_truthy(at)).map(shown),
                leader: map.get("leader").and_then(Value::as_str).and_then(name),
                candidate: map.get("member").and_then(Value::as_str).and_then(name),
                scheduled_at: map
                    .get("scheduled_at")
                    .filter(|at| scalar::is_truthy(at))
                    .map(|at| ScheduledAt::read(&scalar::python_str(at))),
                revision,
            },
            Ok(_) => return None,
            Err(_) => {
                let mut names = text.split(':').map(str::trim);
                let leader = names.next().and_then(name);
                Self {
                    leader,
                    candidate: names.next().and_then(name),
                    scheduled_at: None,
                    scheduled_at_text: None,
                    revision,
                }
            }
        };
        (failover.leader.is_some() || failover.candidate.is_some()).then_some(failover)
    }

    /// The value of `/failover`; what is `None` or empty is left out, so nothing at all is the `{}` that clears the
    /// key. `scheduled_at` is ISO 8601 with an offset: see [`schedule::Moment::to_iso`].
    pub fn to_json(leader: Option<&str>, candidate: Option<&str>, scheduled_at: Option<&str>) -> String {
        let fields = [("leader", leader), ("member", candidate), ("scheduled_at", scheduled_at)];
        let map: Map<_, _> = fields
            .into_iter()
            .filter_map(|(key, text)| {
                text.filter(|text| !text.is_empty()).map(|text| (key.into(), text.into()))
            })
            .collect();
        pyjson::compact(&Value::Object(map))
    }

    /// A leader is named: a switchover. Otherwise this is a manual failover.
    pub const fn is_switchover(&self) -> bool {
        self.leader.is_some()
    }
}
