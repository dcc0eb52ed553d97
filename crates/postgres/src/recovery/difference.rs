//! Whether a running standby follows what it should, and what it takes to make it so (contract B.19.4). It must be
//! exact: a standby that was taken over and follows already must not be restarted.

use std::{collections::BTreeMap, path::Path};

use super::{GUCS, Wanted, millis};
use ptarmigan_types::MemberState;

use super::Recovery;
use crate::{
    ConnInfo, Postgres, Purpose, connection, files, pgpass, status::ServerStatus, version::ServerVersion,
};

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// Nothing.
    None,
    /// Write the files and reload.
    Reload,
    /// Write the files and restart.
    Restart,
}

/// One recovery parameter of a running server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Its value.
    pub value: String,
    /// True where only a restart changes it (`context` is `postmaster`).
    pub needs_restart: bool,
    /// The file that it was set in.
    pub source_file: Option<String>,
}

/// The recovery parameters of a running server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// Whether `standby.signal` is there.
    pub has_standby_signal: bool,
    /// By name.
    pub settings: BTreeMap<String, Setting>,
    /// What the living WAL receiver is connected with: connection string and slot (contract RC-4).
    pub receiver: Option<(String, Option<String>)>,
}

/// Not compared (contract RC-6).
const IGNORED: &[&str] = &[
    "pause_at_recovery_target",
    "recovery_target_inclusive",
    "recovery_target_action",
    "standby_mode",
    "trigger_file",
];

/// Left alone where an included file sets them and the configuration does not ask for them (contract RC-7).
const LEFT_ALONE: &[&str] = &[
    "archive_cleanup_command",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "restore_command",
];

/// libpq's defaults, which a connection string may leave out (contract RC-5).
const ASSUMED: &[(&str, &str)] = &[
    ("sslmode", "prefer"),
    ("gssencmode", "prefer"),
    ("channel_binding", "prefer"),
    ("sslnegotiation", "postgres"),
];

/// The comparison's surroundings.
pub struct Context<'a> {
    /// The server's version.
    pub version: ServerVersion,
    /// The files whose settings are ours: the managed configuration and `postgresql.auto.conf`.
    pub own_files: &'a [String],
    /// Whether a password file holds exactly these lines.
    pub passfile_matches: &'a dyn Fn(&Path, &[String]) -> bool,
}

/// Compares (contract RC-1, RC-3 to RC-8). Pure, but for the passfile that the context looks into.
pub fn compare(current: &Current, wanted: &Wanted, context: &Context<'_>) -> Difference {
    if !current.has_standby_signal {
        return Difference::Restart;
    }
    let differing =
        current.settings.iter().filter(|(name, setting)| differs(name, setting, current, wanted, context));
    differing
        .map(|(_, setting)| if setting.needs_restart { Difference::Restart } else { Difference::Reload })
        .max()
        .unwrap_or(Difference::None)
}

fn differs(name: &str, setting: &Setting, current: &Current, wanted: &Wanted, context: &Context<'_>) -> bool {
    if IGNORED.contains(&name) {
        return false;
    }
    let asked = wanted.parameters.get(name);
    if asked.is_none() && LEFT_ALONE.contains(&name) && is_foreign(setting, context) {
        return false;
    }
    match name {
        "primary_conninfo" => conninfo_differs(setting, current, wanted, context),
        "primary_slot_name" => {
            let receiver = current.receiver.as_ref().and_then(|(_, slot)| slot.as_ref());
            wanted.conninfo.is_some()
                && receiver.unwrap_or(&setting.value) != asked.map_or("", String::as_str)
        }
        "recovery_min_apply_delay" => {
            millis(&setting.value).unwrap_or(0) != asked.and_then(|text| millis(text)).unwrap_or(0)
        }
        "recovery_target_timeline" => setting.value != asked.map_or("latest", String::as_str),
        _ => setting.value != asked.map_or("", String::as_str),
    }
}

/// What changes from one set of recovery parameters to another.
fn compare_written(
    written: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    version: ServerVersion,
) -> Difference {
    let names = written.keys().chain(wanted.keys()).filter(|name| !IGNORED.contains(&name.as_str()));
    let differing = names.filter(|name| written.get(*name) != wanted.get(*name));
    let difference = differing.map(|name| match name.as_str() {
        "primary_conninfo" | "primary_slot_name" if version.at_least(13) => Difference::Reload,
        "restore_command" if version.at_least(14) => Difference::Reload,
        "archive_cleanup_command" | "recovery_end_command" | "recovery_min_apply_delay" => Difference::Reload,
        _ => Difference::Restart,
    });
    difference.max().unwrap_or(Difference::None)
}

/// Set in a file that is not ours.
fn is_foreign(setting: &Setting, context: &Context<'_>) -> bool {
    setting.source_file.as_ref().is_some_and(|file| !context.own_files.contains(file))
}

fn conninfo_differs(setting: &Setting, current: &Current, wanted: &Wanted, context: &Context<'_>) -> bool {
    let Some(wanted_info) = &wanted.conninfo else { return !setting.value.is_empty() };
    let Some(held) = held_conninfo(setting, current) else { return true };
    if !wanted.passfile_lines.is_empty() && !password_matches(&held, wanted_info, wanted, context) {
        return true;
    }
    let text = wanted_info.text(context.version);
    // Only what is written for this version can be compared.
    let Ok(written) = ConnInfo::parse(&text) else { return true };
    let ignored = |key: &str| {
        matches!(key, "passfile" | "password") || (key == "dbname" && !context.version.at_least(17))
    };
    let assumed = |key: &str| ASSUMED.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    written
        .iter()
        .filter(|(key, _)| !ignored(key))
        .any(|(key, value)| held.get(key).or_else(|| assumed(key)) != Some(value))
}

/// What the server is connected with; password and database, which the receiver does not tell, as it was told.
fn held_conninfo(setting: &Setting, current: &Current) -> Option<ConnInfo> {
    let configured = ConnInfo::parse(&setting.value);
    let Some((receiver, _)) = &current.receiver else { return configured.ok() };
    let mut held = ConnInfo::parse(receiver).ok()?;
    let configured = configured.unwrap_or_default();
    for key in ["password", "dbname"] {
        held.set(key, configured.get(key).unwrap_or_default());
    }
    Some(held)
}

fn password_matches(held: &ConnInfo, wanted_info: &ConnInfo, wanted: &Wanted, context: &Context<'_>) -> bool {
    match held.get("passfile") {
        Some(path) => (context.passfile_matches)(Path::new(path), &wanted.passfile_lines),
        None => held.get("password").is_some() && held.get("password") == wanted_info.get("password"),
    }
}

impl Postgres {
    /// Compares the running standby with what it should follow (contract B.19.4). `status` is this cycle's heartbeat;
    /// without one (the server is starting) what was written for it is compared, else what was read last, and nothing read
    /// means no difference (RC-2): but a standby that somebody else, or an earlier daemon, has started and that does not
    /// accept connections yet is told once whom to follow.
    pub async fn recovery_difference(
        &self,
        wanted: &Wanted,
        status: Option<&ServerStatus>,
    ) -> Result<Difference, connection::Error> {
        if let Some(status) = status {
            let settings = self.recovery_settings().await?;
            let receiver = status.wal_receiver.as_ref().and_then(|receiver| {
                let conninfo = receiver.conninfo.clone().filter(|info| !info.is_empty())?;
                Some((conninfo, Some(receiver.slot_name.clone().unwrap_or_default())))
            });
            self.remember_recovery_settings(Current { has_standby_signal: true, settings, receiver });
        }
        let version = self.version().unwrap_or(crate::version::OLDEST);
        if status.is_none()
            && let Some(difference) = self.difference_as_written(wanted, version)
        {
            return Ok(difference);
        }
        let Some(mut current) = self.remembered_recovery_settings() else { return Ok(Difference::None) };
        current.has_standby_signal = files::signal::get(&self.data_dir()) == files::signal::Signal::Standby;
        let own_files = [self.config_files().conf, self.data_dir().join("postgresql.auto.conf")];
        let own_files = own_files.map(|path| path.display().to_string());
        let context = Context { version, own_files: &own_files, passfile_matches: &pgpass::matches };
        Ok(compare(&current, wanted, &context))
    }

    fn difference_as_written(&self, wanted: &Wanted, version: ServerVersion) -> Option<Difference> {
        match self.remembered_recovery() {
            Some(Recovery::Standby(written)) => Some(compare_written(&written, &wanted.parameters, version)),
            None => {
                let starting = self.state() == MemberState::Starting && version.at_least(13);
                let standby = files::signal::get(&self.data_dir()) == files::signal::Signal::Standby;
                (starting && standby).then_some(Difference::Reload)
            }
            _ => None,
        }
    }

    async fn recovery_settings(&self) -> Result<BTreeMap<String, Setting>, connection::Error> {
        let names: Vec<String> = GUCS.iter().map(|name| format!("'{name}'")).collect();
        let sql = format!(
            "SELECT name, setting || coalesce(unit, ''), context, sourcefile FROM pg_settings WHERE name IN ({})",
            names.join(", ")
        );
        let rows = self.session(Purpose::Heartbeat).await?.query_text(&sql).await?;
        let read = |row: Vec<Option<String>>| {
            let mut row = row.into_iter();
            let (name, value, context, source_file) = (row.next()??, row.next()??, row.next()??, row.next()?);
            Some((name, Setting { value, needs_restart: context == "postmaster", source_file }))
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "/data/postgresql.conf";

    fn setting(value: &str) -> Setting {
        Setting { value: value.to_owned(), needs_restart: false, source_file: Some(OWN.to_owned()) }
    }

    const TEXT: &str = "user=rep passfile=/p host=h port=5432 sslmode=prefer application_name=n gssencmode=prefer \
                        channel_binding=prefer";

    fn wanted() -> Wanted {
        let info = ConnInfo::parse(TEXT).unwrap().with("password", "pw").with("dbname", "postgres");
        let mut parameters = BTreeMap::new();
        for (name, value) in
            [("primary_conninfo", TEXT), ("primary_slot_name", "n"), ("recovery_target_timeline", "latest")]
        {
            parameters.insert(name.to_owned(), value.to_owned());
        }
        Wanted { parameters, conninfo: Some(info), passfile_lines: vec!["line".to_owned()] }
    }

    fn current() -> Current {
        let settings = [
            ("primary_conninfo", setting(TEXT)),
            ("primary_slot_name", setting("n")),
            ("recovery_target_timeline", setting("latest")),
            ("recovery_min_apply_delay", setting("0ms")),
            ("restore_command", setting("")),
            ("recovery_target_action", setting("pause")),
        ];
        let settings = settings.into_iter().map(|(name, setting)| (name.to_owned(), setting)).collect();
        Current { has_standby_signal: true, settings, receiver: None }
    }

    fn compared(current: &Current, wanted: &Wanted, major: u32) -> Difference {
        let matches = |path: &Path, lines: &[String]| path == Path::new("/p") && lines == ["line"];
        let own_files = [OWN.to_owned()];
        let version = ServerVersion::major_of(major);
        compare(current, wanted, &Context { version, own_files: &own_files, passfile_matches: &matches })
    }

    fn with(name: &str, value: Setting) -> Current {
        let mut current = current();
        current.settings.insert(name.to_owned(), value);
        current
    }

    #[test]
    fn rc_2_a_server_that_does_not_tell_follows_whom_it_was_told_to() {
        let parameters = |host: &str, restore: Option<&str>| {
            let mut parameters = wanted().parameters;
            parameters.insert("primary_conninfo".into(), format!("host={host}"));
            parameters.extend(restore.map(|command| ("restore_command".to_owned(), command.to_owned())));
            parameters
        };
        let v12 = ServerVersion::major_of(12);
        let v15 = ServerVersion::major_of(15);
        for (written, wanted, version, expected) in [
            (parameters("b", None), parameters("b", None), v15, Difference::None),
            (parameters("b", None), parameters("c", None), v15, Difference::Reload),
            (parameters("b", None), parameters("c", None), v12, Difference::Restart),
            (parameters("b", None), parameters("b", Some("cp")), v15, Difference::Reload),
            (parameters("b", Some("cp")), parameters("b", None), v12, Difference::Restart),
            (BTreeMap::new(), wanted().parameters, v15, Difference::Restart),
        ] {
            assert_eq!(compare_written(&written, &wanted, version), expected, "{written:?} {wanted:?}");
        }
    }

    #[test]
    fn rc_1_no_signal_file_needs_a_restart() {
        assert_eq!(compared(&current(), &wanted(), 15), Difference::None);
        let current = Current { has_standby_signal: false, ..current() };
        assert_eq!(compared(&current, &wanted(), 15), Difference::Restart);
    }

    #[tokio::test]
    async fn rc_2_a_server_that_does_not_answer_is_compared_by_what_it_said_last() {
        let folder = tempfile::tempdir().unwrap();
        let options = crate::Options {
            name: "n".into(),
            scope: "demo".to_owned(),
            settings: std::sync::Arc::new(crate::testing::settings(
                serde_json::json!({"data_dir": folder.path().display().to_string()}),
            )),
        };
        let pg = Postgres::new(options);
        std::fs::write(folder.path().join("PG_VERSION"), "15\n").unwrap();
        let mut wanted = wanted();
        wanted.passfile_lines.clear();
        let held = TEXT.replace("passfile=/p ", "");
        wanted.conninfo = Some(ConnInfo::parse(&held).unwrap());
        // Nothing was heard of it yet: nothing is known to be wrong.
        assert_eq!(pg.recovery_difference(&wanted, None).await.unwrap(), Difference::None);
        let mut said = current();
        said.settings.insert("primary_conninfo".to_owned(), setting(&held));
        pg.remember_recovery_settings(said.clone());
        files::signal::set(folder.path(), files::signal::Signal::Standby).unwrap();
        assert_eq!(pg.recovery_difference(&wanted, None).await.unwrap(), Difference::None);
        said.settings.insert("primary_conninfo".to_owned(), setting(&held.replace("host=h", "host=old")));
        pg.remember_recovery_settings(said);
        assert_eq!(pg.recovery_difference(&wanted, None).await.unwrap(), Difference::Reload);
        files::signal::set(folder.path(), files::signal::Signal::None).unwrap();
        assert_eq!(pg.recovery_difference(&wanted, None).await.unwrap(), Difference::Restart);
    }

    #[test]
    fn rc_3_context_decides_between_reload_and_restart() {
        let other = with("primary_slot_name", setting("other"));
        assert_eq!(compared(&other, &wanted(), 15), Difference::Reload);
        let other = with("primary_slot_name", Setting { needs_restart: true, ..setting("other") });
        assert_eq!(compared(&other, &wanted(), 12), Difference::Restart);
    }

    #[test]
    fn rc_4_living_receiver_counts_more_than_the_parameter() {
        let mut current = with("primary_conninfo", setting("user=other"));
        current.receiver =
            Some((format!("{TEXT} fallback_application_name=walreceiver"), Some("n".to_owned())));
        assert_eq!(compared(&current, &wanted(), 15), Difference::None);
        current.receiver = Some((TEXT.replace("host=h", "host=old"), Some("n".to_owned())));
        assert_eq!(compared(&current, &wanted(), 15), Difference::Reload);
        current.receiver = Some((TEXT.to_owned(), Some(String::new())));
        assert_eq!(compared(&current, &wanted(), 15), Difference::Reload);
    }

    #[test]
    fn rc_5_defaults_are_assumed_and_every_wanted_key_must_match() {
        let short = "user=rep passfile=/p host=h port=5432 application_name=n";
        assert_eq!(compared(&with("primary_conninfo", setting(short)), &wanted(), 15), Difference::None);
        let strict = format!("{short} sslmode=require");
        assert_eq!(compared(&with("primary_conninfo", setting(&strict)), &wanted(), 15), Difference::Reload);
        let broken = with("primary_conninfo", setting("host='x"));
        assert_eq!(compared(&broken, &wanted(), 15), Difference::Reload);
    }

    #[test]
    fn rc_5_dbname_counts_from_17_on() {
        let text = format!("{TEXT} dbname=replication");
        assert_eq!(compared(&with("primary_conninfo", setting(&text)), &wanted(), 16), Difference::None);
        assert_eq!(compared(&with("primary_conninfo", setting(&text)), &wanted(), 17), Difference::Reload);
    }

    #[test]
    fn rc_5_password_file_must_hold_the_wanted_lines() {
        let other = TEXT.replace("/p", "/other");
        assert_eq!(compared(&with("primary_conninfo", setting(&other)), &wanted(), 15), Difference::Reload);
        let plain = TEXT.replace("passfile=/p", "password=pw");
        assert_eq!(compared(&with("primary_conninfo", setting(&plain)), &wanted(), 15), Difference::None);
        let none = TEXT.replace("passfile=/p", "");
        assert_eq!(compared(&with("primary_conninfo", setting(&none)), &wanted(), 15), Difference::Reload);
    }

    #[test]
    fn rc_6_delay_is_compared_as_a_number_and_some_not_at_all() {
        let mut wanted = wanted();
        wanted.parameters.insert("recovery_min_apply_delay".to_owned(), "5min".to_owned());
        assert_eq!(
            compared(&with("recovery_min_apply_delay", setting("300000ms")), &wanted, 15),
            Difference::None
        );
        assert_eq!(compared(&current(), &wanted, 15), Difference::Reload);
        assert_eq!(
            compared(&with("recovery_target_action", setting("promote")), &self::wanted(), 15),
            Difference::None
        );
    }

    #[test]
    fn rc_7_included_files_are_left_alone_unless_wanted() {
        let foreign = Setting { source_file: Some("/etc/extra.conf".to_owned()), ..setting("cp") };
        assert_eq!(compared(&with("restore_command", foreign.clone()), &wanted(), 15), Difference::None);
        assert_eq!(compared(&with("restore_command", setting("cp")), &wanted(), 15), Difference::Reload);
        let mut wanted = wanted();
        wanted.parameters.insert("restore_command".to_owned(), "mine".to_owned());
        assert_eq!(compared(&with("restore_command", foreign), &wanted, 15), Difference::Reload);
    }

    #[test]
    fn rc_8_slot_counts_only_beside_a_wanted_conninfo() {
        let mut wanted = wanted();
        wanted.conninfo = None;
        wanted.parameters.remove("primary_conninfo");
        let mut current = with("primary_conninfo", setting(""));
        current.settings.insert("primary_slot_name".to_owned(), setting("other"));
        assert_eq!(compared(&current, &wanted, 15), Difference::None);
    }
}
