//! What is drawn of synchronous replication for a run, and what operators change of it while the cluster works.

use ptarmigan_types::Tags;
use serde_json::{Map, Value, json};

use crate::{random::Random, scenario::Scenario, store::Condition, world::World};

/// In how many of a hundred runs synchronous replication occurs at all.
const USED_PERCENT: u64 = 25;

/// Synchronous replication in a run.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// It occurs, at first or later.
    pub used: bool,
    /// Operators change it.
    pub changes: bool,
}

impl Drawn {
    /// Draws it, and puts what the cluster begins with into its dynamic configuration; `always`: in every run.
    pub fn draw(random: &mut Random, config: &mut Map<String, Value>, always: bool) -> Self {
        if !random.percent(USED_PERCENT) && !always {
            return Self { used: false, changes: false };
        }
        config.insert("synchronous_mode".into(), draw_mode(random));
        if random.percent(50) {
            config.insert("synchronous_mode_strict".into(), json!(true));
        }
        if random.percent(50) {
            config.insert("synchronous_node_count".into(), json!(random.between(1, 4)));
        }
        if random.percent(30) {
            config.insert("maximum_lag_on_syncnode".into(), json!(random.between(10_000, 3_000_000)));
        }
        Self { used: true, changes: random.percent(60) }
    }
}

fn draw_mode(random: &mut Random) -> Value {
    [json!(true), json!(true), json!("quorum"), json!("quorum"), json!(false)][random.index(5)].clone()
}

/// Tags of a member as far as they concern synchronous replication; drawn anew, or none.
pub fn draw_tags(random: &mut Random, tags: &mut Tags) {
    tags.0.remove("nosync");
    tags.0.remove("sync_priority");
    match random.between(0, 100) {
        0..15 => drop(tags.0.insert("nosync".into(), json!(true))),
        15..35 => drop(tags.0.insert("sync_priority".into(), json!(random.between(2, 4)))),
        _ => {}
    }
}

impl World {
    /// An operator changes something that concerns synchronous replication.
    pub fn change_synchronous(&mut self, member: usize) {
        match self.random.between(0, 10) {
            0..4 => {
                let mode = draw_mode(&mut self.random);
                self.patch_config("synchronous_mode", mode);
            }
            4 | 5 => {
                let strict = self.random.percent(50);
                self.patch_config("synchronous_mode_strict", json!(strict));
            }
            6 | 7 => {
                let count = self.random.between(1, 4);
                self.patch_config("synchronous_node_count", json!(count));
            }
            8 => {
                let lag = if self.random.percent(50) { self.random.between(10_000, 3_000_000) } else { 0 };
                self.patch_config("maximum_lag_on_syncnode", json!(lag));
            }
            _ => {
                let mut tags = self.members[member].settings.tags.clone();
                draw_tags(&mut self.random, &mut tags);
                self.members[member].settings.tags = tags;
            }
        }
    }

    /// Changes one key of `/config`, as a `PATCH` does.
    fn patch_config(&mut self, key: &str, value: Value) {
        self.trace.note(self.now, "operator", &format!("{key}: {value}"));
        let mut config = self.dynamic_config();
        config.insert(key.into(), value);
        self.write("config", Some(&Value::Object(config).to_string()), Condition::Always);
        self.tell();
    }

    /// `/config` as it is, or as the cluster began where it is gone.
    pub fn dynamic_config(&self) -> Map<String, Value> {
        let text = self.store.keys.get("config").map_or(&*self.scenario.dynamic, |raw| raw.value.as_str());
        serde_json::from_str(text).unwrap_or_default()
    }
}

impl Scenario {
    /// Whether operators have something to change of synchronous replication.
    pub const fn changes_synchronous(&self) -> bool {
        self.synchronous.used && self.synchronous.changes
    }
}

/// `synchronous_mode` asks for synchronous replication of any kind.
pub fn is_on(config: &Map<String, Value>) -> bool {
    config.get("synchronous_mode") == Some(&Value::Bool(true)) || is_quorum(config)
}

/// It asks for quorum commit.
pub fn is_quorum(config: &Map<String, Value>) -> bool {
    config.get("synchronous_mode").and_then(Value::as_str) == Some("quorum")
}
