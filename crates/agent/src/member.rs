//! The member key: what this node tells the others (contract A.3.3).

use ptarmigan_rest::snapshot::Figures;
use ptarmigan_types::{MemberData, MemberState, Role, Tags, version};
use serde_json::{Map, Value, json};

/// Where the fields come from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// `postgres://host:port/database`.
    pub conn_url: String,
    /// `http://host:port/patroni`.
    pub api_url: String,
    /// The address of a pooler, as a connection URL.
    pub proxy_url: Option<String>,
    /// The published state.
    pub state: MemberState,
    /// The published role.
    pub role: Role,
    /// This node leads and its checkpoint after promotion is not known to be done.
    pub checkpoint_outstanding: bool,
    /// Tags in effect, filtered.
    pub tags: &'a Tags,
    /// Parameter to its old and new value.
    pub pending_restart_reason: &'a Map<String, Value>,
    /// PostgreSQL's last answer, where it may be published: no long action but a promotion, and a server that runs.
    pub figures: Option<&'a Figures>,
    /// The stored restart request, with its postmaster start time.
    pub scheduled_restart: Option<&'a Map<String, Value>>,
    /// The cluster is in maintenance mode.
    pub pause: bool,
    /// Whether the guardian stands behind PostgreSQL: `armed` or `unarmed`; `None` where it is switched off. No field of
    /// the contract's.
    pub guardian: Option<&'a str>,
}

/// The value of the key, its fields in the contract's order.
pub fn document(inputs: &Inputs<'_>) -> MemberData {
    let mut data = Map::new();
    let mut put = |key: &str, value: Value| drop(data.insert(key.into(), value));
    put("conn_url", json!(inputs.conn_url));
    put("api_url", json!(inputs.api_url));
    put("state", json!(inputs.state));
    put("role", json!(inputs.role));
    put("version", json!(version::EMULATED));
    if let Some(url) = &inputs.proxy_url {
        put("proxy_url", json!(url));
    }
    if inputs.checkpoint_outstanding {
        put("checkpoint_after_promote", json!(false));
    }
    if !inputs.tags.0.is_empty() {
        put("tags", Value::Object(inputs.tags.0.clone()));
    }
    if !inputs.pending_restart_reason.is_empty() {
        put("pending_restart", json!(true));
        put("pending_restart_reason", Value::Object(inputs.pending_restart_reason.clone()));
    }
    if let Some(figures) = inputs.figures {
        positions(figures, &mut put);
    }
    if let Some(restart) = inputs.scheduled_restart {
        put("scheduled_restart", Value::Object(restart.clone()));
    }
    if inputs.pause {
        put("pause", json!(true));
    }
    if let Some(guardian) = inputs.guardian {
        put("guardian", json!(guardian));
    }
    MemberData(data)
}

fn positions(figures: &Figures, put: &mut impl FnMut(&str, Value)) {
    if figures.in_recovery {
        let (received, replayed) = (figures.received_location, figures.replayed_location);
        put("xlog_location", json!(received.max(replayed)));
        if !replayed.is_zero() {
            put("replay_lsn", json!(replayed));
        }
        if !received.is_zero() {
            put("receive_lsn", json!(received));
        }
        if let Some(state) = &figures.replication_state {
            put("replication_state", json!(state));
        }
    } else {
        put("xlog_location", json!(figures.location));
    }
    if let Some(timeline) = figures.timeline {
        put("timeline", json!(timeline));
    }
}

#[cfg(test)]
mod tests {
    use ptarmigan_types::Lsn;

    use super::*;

    fn inputs<'a>(tags: &'a Tags, none: &'a Map<String, Value>) -> Inputs<'a> {
        Inputs {
            conn_url: "postgres://127.0.0.1:5432/postgres".into(),
            api_url: "http://127.0.0.1:8008/patroni".into(),
            proxy_url: None,
            state: MemberState::Running,
            role: Role::Replica,
            checkpoint_outstanding: false,
            tags,
            pending_restart_reason: none,
            figures: None,
            scheduled_restart: None,
            pause: false,
            guardian: Some("armed"),
        }
    }

    #[test]
    fn a_standby_publishes_its_positions() {
        let (tags, none) = (Tags::default(), Map::new());
        let figures = Figures {
            in_recovery: true,
            received_location: Lsn(20),
            replayed_location: Lsn(10),
            timeline: Some(3),
            replication_state: Some("streaming".into()),
            ..Figures::default()
        };
        let data = document(&Inputs { figures: Some(&figures), ..inputs(&tags, &none) });
        assert_eq!(data.xlog_location(), Some(Lsn(20)));
        assert_eq!(data.replay_lsn(), Some(Lsn(10)));
        assert_eq!(data.timeline(), Some(3));
        assert_eq!(data.version(), Some(version::EMULATED));
    }

    #[test]
    fn the_guardian_is_told_of_where_there_is_one() {
        let (tags, none) = (Tags::default(), Map::new());
        for (guardian, armed) in [(Some("armed"), true), (Some("unarmed"), false), (None, false)] {
            let data = document(&Inputs { guardian, ..inputs(&tags, &none) });
            assert_eq!(data.guardian_armed(), armed);
            assert_eq!(data.0.get("guardian").and_then(Value::as_str), guardian);
        }
    }

    #[test]
    fn checkpoint_after_promote_is_false_or_absent() {
        let (tags, none) = (Tags::default(), Map::new());
        let outstanding = document(&Inputs { checkpoint_outstanding: true, ..inputs(&tags, &none) });
        assert_eq!(outstanding.checkpoint_after_promote(), Some(false));
        assert_eq!(document(&inputs(&tags, &none)).checkpoint_after_promote(), None);
    }
}
