//! Server parameters: which of the operator's can be given to this very server (contract C.4).
//!
//! No table of ranges is kept: the server's own program knows its parameters, their units and limits, of whatever
//! version and build it is. It is asked with `postgres -C`, which reads no data directory and starts nothing.

use std::{collections::BTreeMap, path::Path, time::Duration};

use ptarmigan_config::{Warning, controlled};
use ptarmigan_types::{Role, scalar};
use serde_json::{Map, Value};

use crate::{
    Postgres, Tool, binaries,
    command::{self, Command},
    recovery,
};

const DEADLINE: Duration = Duration::from_secs(10);

/// Why the server's program could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is missing.
    #[error(transparent)]
    Missing(#[from] binaries::Error),
    /// It cannot be run.
    #[error(transparent)]
    Command(#[from] command::Error),
}

/// A value as `postgresql.conf` has it.
pub fn text(value: &Value) -> String {
    match value {
        Value::Bool(flag) => if *flag { "on" } else { "off" }.to_owned(),
        other => scalar::python_str(other),
    }
}

/// The operator's server parameters in a role (contract CF-25), without those that we control and those of recovery.
pub fn configured(
    parameters: &Map<String, Value>,
    of_role: Option<&Map<String, Value>>,
) -> BTreeMap<String, String> {
    let mut result = BTreeMap::new();
    for (name, value) in parameters.iter().chain(of_role.into_iter().flatten()) {
        if controlled::is_controlled(name) || recovery::is_recovery_guc(name) {
            continue;
        }
        // The same parameter in another case is the same one, and the later wins.
        result.retain(|other: &String, _| !other.eq_ignore_ascii_case(name));
        if !value.is_null() {
            result.insert(name.clone(), text(value));
        }
    }
    result
}

/// What a refusal of the server's program means for one parameter.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// It takes this value instead: the nearest limit.
    Clamp { name: String, value: String },
    /// It cannot be set.
    Drop { name: String, reason: String },
    /// The refusal is about something else.
    Other,
}

/// Reads the message of a refusal.
fn verdict(stderr: &str) -> Verdict {
    let Some(message) =
        stderr.lines().find_map(|line| line.split_once("FATAL:")).map(|(_, message)| message.trim())
    else {
        return Verdict::Other;
    };
    let Some((_, rest)) = message.split_once("parameter \"") else { return Verdict::Other };
    let Some((name, after)) = rest.split_once('"') else { return Verdict::Other };
    let name = name.to_owned();
    if message.contains("is outside the valid range for")
        && let Some(value) = nearest_limit(message, after)
    {
        return Verdict::Clamp { name, value };
    }
    Verdict::Drop { name, reason: message.to_owned() }
}

/// `1 kB is outside ... "work_mem" (64 .. 2147483647)`: all three in the base unit; newer versions repeat the unit.
fn nearest_limit(message: &str, after_name: &str) -> Option<String> {
    let number = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let given = number(message)?;
    let (low, high) = after_name.trim().strip_prefix('(')?.strip_suffix(')')?.split_once("..")?;
    let (low_value, high_value) = (number(low)?, number(high)?);
    let limit = if given < low_value { low } else { high };
    (given < low_value || given > high_value)
        .then(|| limit.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The parameters that this program accepts, out-of-range numbers clamped, everything else that it refuses dropped.
/// Names with a `.` belong to extensions and pass unseen, and so do values that may be secret or long: those of text
/// parameters.
pub async fn accepted(
    postgres: &Path,
    mut parameters: BTreeMap<String, String>,
) -> Result<(BTreeMap<String, String>, Vec<Warning>), Error> {
    let texts = text_parameters(postgres).await?;
    let mut warnings = Vec::new();
    // Each refusal names one parameter, so this ends; each run takes about 10 ms.
    for _ in 0..=2 * parameters.len() {
        let Some(refusal) = refusal(postgres, &parameters, &texts).await? else { break };
        let outcome = verdict(&refusal);
        let (name, reason) = match &outcome {
            Verdict::Other => {
                tracing::warn!("cannot check server parameters: {refusal}");
                break;
            }
            Verdict::Clamp { name, value } => (name, format!("out of range, {value} is used instead")),
            Verdict::Drop { name, reason } => (name, format!("not used: {reason}")),
        };
        let Some(key) = parameters.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned() else { break };
        warnings.push(Warning::new(format!("postgresql.parameters.{key}"), reason));
        match outcome {
            Verdict::Clamp { value, .. } => parameters.insert(key, value),
            _ => parameters.remove(&key),
        };
    }
    Ok((parameters, warnings))
}

/// The names of text parameters, in lower case.
async fn text_parameters(postgres: &Path) -> Result<Vec<String>, Error> {
    let output = Command::new(postgres).arg("--describe-config").deadline(DEADLINE).succeed().await?;
    let printed = output.stdout_text();
    let rows = printed.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let texts = rows.filter(|row| row.get(3) == Some(&"STRING"));
    Ok(texts.filter_map(|row| row.first().map(|name| name.to_ascii_lowercase())).collect())
}

/// Why the program refuses these parameters; `None` where it takes them.
async fn refusal(
    postgres: &Path,
    parameters: &BTreeMap<String, String>,
    texts: &[String],
) -> Result<Option<String>, Error> {
    let mut command = Command::new(postgres)
        .args(["-C", "port", "-D", "/", "--config_file=/dev/null"])
        .env("LC_ALL", "C")
        .env_remove("PGDATA")
        .deadline(DEADLINE);
    for (name, value) in parameters.iter().filter(|(name, _)| !name.contains('.')) {
        let is_text = texts.contains(&name.to_ascii_lowercase());
        if !is_text {
            command = command.arg(format!("--{name}={value}"));
        }
    }
    let output = command.output().await?;
    Ok((!output.status.success()).then(|| output.stderr_text()))
}

/// The role whose overlay counts (contract CF-25).
pub const fn overlay_role(role: Role) -> Option<Role> {
    match role {
        Role::Primary | Role::Promoted => Some(Role::Primary),
        Role::Replica | Role::Demoted => Some(Role::Replica),
        Role::StandbyLeader => Some(Role::StandbyLeader),
        Role::Uninitialized => None,
    }
}

/// What a role has of a setting.
pub fn of_role<T>(settings: &ptarmigan_config::PerRole<T>, role: Role) -> Option<&T> {
    match overlay_role(role)? {
        Role::Primary => settings.primary.as_ref(),
        Role::Replica => settings.replica.as_ref(),
        _ => settings.standby_leader.as_ref(),
    }
}

impl Postgres {
    /// The GUCs that we control, with those that follow from `listen` and the scope (contract C.4).
    pub fn controlled_parameters(&self) -> Result<BTreeMap<String, String>, crate::version::Error> {
        let settings = self.settings();
        let (mut parameters, warnings) = controlled::controlled_gucs(&settings.controlled, self.version()?.0);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        parameters.insert("listen_addresses".to_owned(), settings.listen.host.clone());
        parameters.insert("port".to_owned(), settings.listen.port.to_string());
        parameters.insert("cluster_name".to_owned(), self.scope().to_owned());
        Ok(parameters)
    }

    /// Every server parameter for `postgresql.conf` in a role: ours, and those of the operator that the server's program
    /// accepts. The answer is remembered until either changes.
    pub async fn server_parameters(&self, role: Role) -> Result<BTreeMap<String, String>, ParametersError> {
        let settings = self.settings();
        let mut all = configured(&settings.parameters, of_role(&settings.parameters_by_role, role));
        all.extend(self.controlled_parameters()?);
        let owned = self.owned_synchronous_standby_names();
        if owned.is_some() {
            all.retain(|name, _| !name.eq_ignore_ascii_case(STANDBY_NAMES));
        }
        let with_names = |mut output: BTreeMap<String, String>| {
            // Not asked about: it changes often, at moments when nobody should wait for a program, and is our own. Also
            // where it is empty: what the base configuration says must not come into force.
            output.extend(owned.map(|names| (STANDBY_NAMES.to_owned(), names)));
            output
        };
        if self.forces_hot_standby_feedback() {
            all.retain(|name, _| !name.eq_ignore_ascii_case("hot_standby_feedback"));
            all.insert("hot_standby_feedback".to_owned(), "on".to_owned());
        }
        if let Some(custom) = self.custom_bootstrap() {
            custom.adjust(&mut all);
        }
        let mut checked = self.0.checked_parameters.lock().await;
        if let Some((input, output)) = checked.as_ref().filter(|(input, _)| *input == all) {
            let _ = input;
            return Ok(with_names(output.clone()));
        }
        let (output, warnings) =
            accepted(&self.bin(Tool::Postgres).map_err(Error::from)?, all.clone()).await?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        *checked = Some((all, output.clone()));
        Ok(with_names(output))
    }
}

/// The parameter that belongs to the HA loop in synchronous mode (contract C.4).
pub(crate) const STANDBY_NAMES: &str = "synchronous_standby_names";

/// Why there are no server parameters.
#[derive(Debug, thiserror::Error)]
pub enum ParametersError {
    /// The data directory's version is unknown.
    #[error(transparent)]
    Version(#[from] crate::version::Error),
    /// The server's program could not be asked.
    #[error(transparent)]
    Guc(#[from] Error),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn c_4_refusals_are_understood() {
        let clamp =
            |name: &str, value: &str| Verdict::Clamp { name: name.to_owned(), value: value.to_owned() };
        for (message, expected) in [
            (
                r#"2026 GMT [1] FATAL:  1 kB is outside the valid range for parameter "work_mem" (64 .. 2147483647)"#,
                clamp("work_mem", "64"),
            ),
            (
                r#"FATAL:  1 kB is outside the valid range for parameter "work_mem" (64 kB .. 2147483647 kB)"#,
                clamp("work_mem", "64"),
            ),
            (
                r#"FATAL:  2 is outside the valid range for parameter "checkpoint_completion_target" (0 .. 1)"#,
                clamp("checkpoint_completion_target", "1"),
            ),
        ] {
            assert_eq!(verdict(message), expected, "{message}");
        }
        let dropped = verdict("x FATAL:  unrecognized configuration parameter \"nosuch\"\n");
        assert!(matches!(dropped, Verdict::Drop { name, .. } if name == "nosuch"));
        assert_eq!(verdict("FATAL:  out of memory"), Verdict::Other);
    }

    #[test]
    fn cf_25_role_overlay_and_what_is_never_ours() {
        let parameters =
            json!({"work_mem": "4MB", "Port": 1, "restore_command": "x", "jit": false, "gone": null});
        let overlay = json!({"WORK_MEM": "8MB"});
        let result = configured(parameters.as_object().unwrap(), overlay.as_object());
        let expected = [("WORK_MEM", "8MB"), ("jit", "off")];
        assert_eq!(result, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[tokio::test]
    async fn c_4_this_server_is_asked() {
        let Some(postgres) = installed() else { return };
        let given = [
            ("work_mem", "1kB"),
            ("synchronous_commit", "perhaps"),
            ("jit", "on"),
            ("nosuch", "1"),
            ("zero_damaged_pages", "off"),
            ("my.extension", "x"),
            ("log_line_prefix", "%m 'x' "),
            ("DateStyle", "ISO"),
            ("checkpoint_timeout", "2d"),
        ];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let (kept, warnings) = accepted(&postgres, given).await.unwrap();
        assert_eq!(kept["work_mem"], "64");
        assert_eq!(kept["checkpoint_timeout"], "86400");
        for name in ["jit", "zero_damaged_pages", "my.extension", "log_line_prefix", "DateStyle"] {
            assert!(kept.contains_key(name), "{name}");
        }
        assert!(!kept.contains_key("nosuch") && !kept.contains_key("synchronous_commit"));
        assert_eq!(warnings.len(), 4);
    }

    fn installed() -> Option<std::path::PathBuf> {
        let path = std::path::PathBuf::from("/usr/lib/postgresql/15/bin/postgres");
        path.is_file().then_some(path)
    }
}
