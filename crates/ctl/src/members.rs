//! The member table (contract C.4) of `list`, `topology` and every command that shows the cluster first.

use std::{collections::BTreeMap, time::Duration};

use ptarmigan_config::{DynamicSettings, SynchronousMode, yaml::to_yaml};
use ptarmigan_rest::{GlobalSettings, cluster_document};
use ptarmigan_types::Cluster;
use serde_json::{Map, Value};

use crate::{
    cli::Format,
    output::{Column, Rows, flow_mapping},
    table::Align,
};

/// Reasons longer than this many characters are hidden in tables.
const REASON_CHARS_MAX: usize = 50;

/// How the members are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// `list` and its like, in one of the formats.
    List(Format),
    /// `topology`.
    Topology,
}

impl Style {
    const fn format(self) -> Format {
        match self {
            Self::List(format) => format,
            Self::Topology => Format::Pretty,
        }
    }

    fn is_table(self) -> bool {
        self.format() == Format::Pretty
    }
}

/// One cluster, or the groups of a Citus cluster.
#[derive(Clone, Debug)]
pub(crate) struct ClusterRows<'a> {
    /// The cluster's name.
    pub(crate) name: &'a str,
    /// Group and view; the group is `None` outside of Citus.
    pub(crate) groups: Vec<(Option<i64>, &'a Cluster)>,
    /// Only this group was asked for.
    pub(crate) only_group: bool,
    /// Show columns 12 to 15 in any case.
    pub(crate) extended: bool,
}

const EXTENDED: [&str; 4] = ["Pending restart", "Pending restart reason", "Scheduled restart", "Tags"];

impl ClusterRows<'_> {
    /// The text to print: the table and, below it, what else is going on.
    pub(crate) fn render(&self, style: Style) -> String {
        let mut text = self.rows(style).render(style.format());
        if style.is_table() {
            for (group, cluster) in &self.groups {
                text.push_str(&service_info(*group, cluster));
            }
        }
        text
    }

    fn rows(&self, style: Style) -> Rows {
        let members: Vec<(Option<i64>, Map<String, Value>)> = self
            .groups
            .iter()
            .flat_map(|(group, cluster)| {
                documents(cluster, self.name, style).into_iter().map(|document| (*group, document))
            })
            .collect();
        let with_port = needs_port(members.iter().map(|(_, member)| member));
        let all: Vec<BTreeMap<&'static str, Value>> = members
            .iter()
            .map(|(group, member)| {
                let mut cells = cells(member, with_port, style);
                cells.insert("Cluster", self.name.into());
                cells.insert("Group", (*group).into());
                cells
            })
            .collect();
        let columns = self.columns(style, &all);
        let rows = all
            .into_iter()
            .map(|mut cells| {
                columns.iter().map(|column| cells.remove(column.name).unwrap_or_default()).collect()
            })
            .collect();
        Rows { columns, rows, title: Some(self.title()) }
    }

    fn columns(&self, style: Style, rows: &[BTreeMap<&'static str, Value>]) -> Vec<Column> {
        let lag = |name| Column { header: "Lag", name, align: Align::Right };
        let mut columns = Vec::new();
        if !style.is_table() {
            columns.push(Column::left("Cluster"));
        }
        if self.is_citus() && !(style.is_table() && self.only_group) {
            columns.push(Column::right("Group"));
        }
        columns.extend(["Member", "Host", "Role", "State"].map(Column::left));
        columns.extend([Column::right("TL"), Column::right("Receive LSN"), lag("Receive Lag")]);
        columns.extend([Column::right("Replay LSN"), lag("Replay Lag")]);
        let is_shown = |name: &&str| self.extended || rows.iter().any(|row| row.contains_key(*name));
        columns.extend(EXTENDED.into_iter().filter(is_shown).map(Column::left));
        // Patroni's members have none, and patronictl no such column.
        if self.extended && rows.iter().any(|row| row.contains_key("Guardian")) {
            columns.push(Column::left("Guardian"));
        }
        columns
    }

    fn is_citus(&self) -> bool {
        self.groups.iter().any(|(group, _)| group.is_some())
    }

    fn title(&self) -> String {
        let identifier = match self.groups.first().and_then(|(_, cluster)| cluster.initialize.as_ref()) {
            None => "uninitialized",
            Some(initialize) if initialize.value.is_empty() => "initializing",
            Some(initialize) => &initialize.value,
        };
        let name = self.name;
        match self.groups.first() {
            Some((Some(group), _)) if self.only_group => {
                format!(" Citus cluster: {name} (group: {group}, {identifier}) ")
            }
            _ if self.is_citus() => format!(" Citus cluster: {name} "),
            _ => format!(" Cluster: {name} ({identifier}) "),
        }
    }
}

/// What the member table needs of the cluster's settings.
fn global(cluster: &Cluster) -> GlobalSettings {
    let empty = Map::new();
    let config = cluster.config.as_ref().map_or(&empty, |config| &config.value);
    let settings = DynamicSettings::read(config);
    GlobalSettings {
        ttl: Duration::ZERO,
        loop_wait: Duration::ZERO,
        retry_timeout: Duration::ZERO,
        pause: settings.pause,
        standby_cluster: settings.standby_cluster.is_some(),
        synchronous: settings.synchronous_mode != SynchronousMode::Off,
        quorum: settings.synchronous_mode == SynchronousMode::Quorum,
        maximum_lag_on_failover_bytes: 0,
        failsafe_mode: settings.failsafe_mode,
        primary_start_timeout: Duration::ZERO,
    }
}

fn cluster_fields(cluster: &Cluster, name: &str) -> Map<String, Value> {
    match cluster_document(cluster, &global(cluster), name) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// The members as `GET /cluster` shows them, in the order of the table.
fn documents(cluster: &Cluster, name: &str, style: Style) -> Vec<Map<String, Value>> {
    let mut fields = cluster_fields(cluster, name);
    let members = match fields.remove("members") {
        Some(Value::Array(members)) => members,
        _ => Vec::new(),
    };
    let mut members: Vec<Map<String, Value>> =
        members.into_iter().filter_map(|member| member.as_object().cloned()).collect();
    // Not among the fields of `/cluster`: those are Patroni's.
    for member in &mut members {
        let found = cluster.members.iter().find(|found| found.name.as_str() == text(member, "name"));
        if let Some(guardian) = found.and_then(|found| found.data.0.get("guardian")) {
            member.insert("guardian".into(), guardian.clone());
        }
    }
    if style == Style::Topology { tree(members) } else { members }
}

fn text<'a>(member: &'a Map<String, Value>, field: &str) -> &'a str {
    member.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn is_leader(member: &Map<String, Value>) -> bool {
    text(member, "role").ends_with("leader")
}

/// Depth first from the leader, names indented by level. Members that replicate from each other in a circle belong
/// to no root and are left out.
fn tree(members: Vec<Map<String, Value>>) -> Vec<Map<String, Value>> {
    let leader =
        members.iter().find(|member| is_leader(member)).map(|member| text(member, "name").to_owned());
    let names: Vec<String> = members
        .iter()
        .filter(|member| !is_leader(member))
        .map(|member| text(member, "name").to_owned())
        .collect();
    let mut children: BTreeMap<Option<String>, Vec<Map<String, Value>>> = BTreeMap::new();
    let mut roots = Vec::new();
    for member in members {
        if is_leader(&member) {
            roots.push(member);
            continue;
        }
        let name = text(&member, "name");
        let source = member.get("tags").and_then(|tags| tags.get("replicatefrom")).and_then(Value::as_str);
        let source = source.filter(|source| *source != name && names.iter().any(|known| known == source));
        let parent = source.map(str::to_owned).or_else(|| leader.clone());
        children.entry(parent).or_default().push(member);
    }
    let mut sorted = Vec::new();
    let level = if roots.is_empty() { 1 } else { 0 };
    // Without a leader those that would follow it are the roots.
    let roots = if roots.is_empty() { children.remove(&None).unwrap_or_default() } else { roots };
    descend(roots, level, &mut children, &mut sorted);
    sorted
}

fn descend(
    members: Vec<Map<String, Value>>,
    level: usize,
    children: &mut BTreeMap<Option<String>, Vec<Map<String, Value>>>,
    sorted: &mut Vec<Map<String, Value>>,
) {
    for mut member in members {
        let name = text(&member, "name").to_owned();
        if level > 0 {
            let indented = format!("{}+ {name}", "  ".repeat(level - 1));
            member.insert("name".into(), indented.into());
        }
        sorted.push(member);
        let below = children.remove(&Some(name)).unwrap_or_default();
        descend(below, level + 1, children, sorted);
    }
}

/// The port is shown of all members where it is needed to tell any of them apart.
fn needs_port<'a>(members: impl Iterator<Item = &'a Map<String, Value>>) -> bool {
    let mut hosts: Vec<&str> = Vec::new();
    for member in members.filter(|member| member.contains_key("host")) {
        let host = text(member, "host");
        if member.get("port").and_then(Value::as_u64) != Some(5432) || hosts.contains(&host) {
            return true;
        }
        hosts.push(host);
    }
    false
}

/// The cells of one member; those that are empty are missing.
fn cells(member: &Map<String, Value>, with_port: bool, style: Style) -> BTreeMap<&'static str, Value> {
    let mut cells = BTreeMap::new();
    let mut put = |name: &'static str, value: Value| {
        if !value.is_null() && value.as_str() != Some("") {
            cells.insert(name, value);
        }
    };
    let host = text(member, "host");
    let port = member.get("port").and_then(Value::as_u64);
    put("Member", text(member, "name").into());
    put(
        "Host",
        match port {
            Some(port) if with_port && !host.is_empty() => format!("{host}:{port}").into(),
            _ => host.into(),
        },
    );
    put("Role", title_case(text(member, "role")).into());
    put("State", text(member, "state").into());
    put("TL", member.get("timeline").cloned().unwrap_or_default());
    for (column, value) in positions(member) {
        put(column, value);
    }
    if member.get("pending_restart").is_some_and(ptarmigan_types::scalar::is_truthy) {
        put("Pending restart", "*".into());
    }
    put("Pending restart reason", pending_reason(member, style.is_table()).into());
    put("Scheduled restart", scheduled_restart(member).into());
    put("Guardian", text(member, "guardian").into());
    if let Some(tags) = member.get("tags").and_then(Value::as_object) {
        put(
            "Tags",
            match style {
                Style::List(Format::Pretty) => {
                    to_yaml(&Value::Object(tags.clone())).trim_end_matches('\n').into()
                }
                Style::List(Format::Tsv) | Style::Topology => flow_mapping(tags).into(),
                Style::List(_) => Value::Object(tags.clone()),
            },
        );
    }
    cells
}

/// Received and replayed position with their lags in MB.
fn positions(member: &Map<String, Value>) -> [(&'static str, Value); 4] {
    let get = |field: &str| member.get(field).cloned().unwrap_or_default();
    let (mut receive, mut replay) =
        ((get("receive_lsn"), get("receive_lag")), (get("replay_lsn"), get("replay_lag")));
    // Members of old releases publish only one position.
    let unknown = |position: &(Value, Value)| position.0.as_str() == Some("unknown");
    let old = (get("lsn"), get("lag"));
    if unknown(&receive) && unknown(&replay) && !unknown(&old) {
        if text(member, "state") == "streaming" { receive = old } else { replay = old }
    }
    [
        ("Receive LSN", receive.0),
        ("Receive Lag", megabytes(&receive.1)),
        ("Replay LSN", replay.0),
        ("Replay Lag", megabytes(&replay.1)),
    ]
}

/// Whole MB, rounded half to even; `null` where the lag is unknown.
fn megabytes(lag_bytes: &Value) -> Value {
    let Some(bytes) = lag_bytes.as_u64() else { return Value::Null };
    let (whole, rest) = (bytes >> 20, bytes & 0xF_FFFF);
    let up = rest > 0x8_0000 || (rest == 0x8_0000 && whole % 2 == 1);
    (whole + u64::from(up)).into()
}

/// `sync_standby` is `Sync Standby`.
fn title_case(role: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    };
    role.split('_').map(capital).collect::<Vec<_>>().join(" ")
}

fn pending_reason(member: &Map<String, Value>, is_table: bool) -> String {
    let Some(reasons) = member.get("pending_restart_reason").and_then(Value::as_object) else {
        return String::new();
    };
    let line = |(name, change): (&String, &Value)| {
        let value = |key: &str| change.get(key).map_or_else(String::new, ptarmigan_types::scalar::python_str);
        let full = format!("{name}: {}->{}", value("old_value"), value("new_value"));
        if is_table && full.chars().count() > REASON_CHARS_MAX {
            return format!("{name}: [hidden - too long]");
        }
        full
    };
    reasons.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn scheduled_restart(member: &Map<String, Value>) -> String {
    let Some(restart) = member.get("scheduled_restart").and_then(Value::as_object) else {
        return String::new();
    };
    let mut shown = text(restart, "schedule").to_owned();
    let version = text(restart, "postgres_version");
    if !version.is_empty() {
        shown.push_str(&format!(" if version < {version}"));
    }
    shown
}

/// Maintenance mode and a scheduled switchover; nothing where there is neither.
fn service_info(group: Option<i64>, cluster: &Cluster) -> String {
    let fields = cluster_fields(cluster, "");
    let mut lines = Vec::new();
    if fields.contains_key("pause") {
        lines.push(" Maintenance mode: on".to_owned());
    }
    if let Some(switchover) = fields.get("scheduled_switchover").and_then(Value::as_object) {
        lines.push(format!(" Switchover scheduled at: {}", text(switchover, "at")));
        for side in ["from", "to"] {
            if switchover.contains_key(side) {
                lines.push(format!("{side:>24}: {}", text(switchover, side)));
            }
        }
    }
    if let (Some(group), false) = (group, lines.is_empty()) {
        lines.insert(0, format!("Citus group: {group}"));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
#[path = "members/tests.rs"]
mod tests;
