//! How a data directory comes to be, and how it is repaired, with a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test whose servers cannot be set up has failed")]

#[path = "data/server.rs"]
mod server;

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _};

use ptarmigan_ha::slots::{self, Kind, Situation, SlotAction, Wanted};
use ptarmigan_postgres::{
    ControlState, Login, Upstream, archive, bootstrap, clone, crash_recovery, data_directory, history,
    replication::{self, Connection},
    rewind::{self, Outcome, Rewound, Verdict},
    slots::sql,
    upstream::PasswordFiles,
};
use ptarmigan_testkit::{Workspace, process, wait_until};
use ptarmigan_types::{Lsn, MemberState};
use serde_json::json;
use server::{LIMIT, Server, as_postgres};

#[test]
fn b_17_4_new_cluster_has_its_users_and_no_password_in_the_log() {
    as_postgres(async {
        let workspace = Workspace::new("bootstrap").unwrap();
        let script = workspace.path().join("post.sh");
        let seen = workspace.path().join("seen");
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$@\" \"$PGOPTIONS\" > {0}; cat \"$PGPASSFILE\" >> {0}\n",
            seen.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let section = json!({
            "post_bootstrap": format!("{} 'first word'", script.display()),
            "pg_hba": ["host all joe 127.0.0.1/32 reject"],
        });
        let mut server = Server::new(&workspace, "a", &json!({}), &section);
        let bootstrap = server.settings.bootstrap.clone().unwrap();
        bootstrap::initdb(&server.pg, &bootstrap).await.unwrap();
        assert_eq!(server.pg.state(), MemberState::InitializingNewCluster);
        let hba = fs::read_to_string(server.pg.data_dir().join("pg_hba.conf")).unwrap();
        assert!(hba.ends_with("host all joe 127.0.0.1/32 reject\n"), "{hba}");
        server.start(&[]).await;
        bootstrap::post_bootstrap(&server.pg, &bootstrap).await.unwrap();
        // A second run changes the users instead of failing.
        bootstrap::post_bootstrap(&server.pg, &bootstrap).await.unwrap();

        let roles = "SELECT string_agg(concat_ws(':', rolname, rolsuper, rolreplication, rolcanlogin), ' ' \
                     ORDER BY rolname) FROM pg_roles WHERE rolcanlogin";
        assert_eq!(server.value(roles).await, "postgres:t:t:t replicator:f:t:t rewind-user:f:f:t");
        let grants = "SELECT has_function_privilege('rewind-user', 'pg_read_binary_file(text)', 'execute')";
        assert_eq!(server.value(grants).await, "t");
        let log = server.log();
        assert!(log.contains("SHOW password_encryption") || log.contains("SET log_statement"), "{log}");
        for secret in ["super secret", "repl:secret", "rewind'secret", "SCRAM-SHA-256$", "CREATE ROLE"] {
            assert!(!log.contains(secret), "{secret} in the log: {log}");
        }
        let seen = fs::read_to_string(seen).unwrap();
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[0], "first word");
        assert!(lines[1].contains("user=postgres") && !lines[1].contains("secret"), "{seen}");
        assert_eq!(lines[2], "-c synchronous_commit=local -c statement_timeout=0");
        assert!(lines[3].ends_with("postgres:super secret"), "{seen}");
        let left: Vec<_> =
            fs::read_dir(&server.home).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("pgpass.")), "{left:?}");
        server.stop().await;
    });
}

#[test]
fn ha_60_failed_initdb_is_put_aside() {
    as_postgres(async {
        let workspace = Workspace::new("initdb").unwrap();
        let options = json!({"initdb": ["no-clean", "no-sync", {"lc-messages": "xx_XX.nonsense"}]});
        let server = Server::new(&workspace, "a", &json!({}), &options);
        let bootstrap = server.settings.bootstrap.clone().unwrap();
        let error = bootstrap::initdb(&server.pg, &bootstrap).await.unwrap_err();
        assert!(matches!(error, bootstrap::Error::Command(_)), "{error}");
        assert_eq!(server.pg.state(), MemberState::InitdbFailed);
        fs::create_dir_all(server.pg.data_dir().join("global")).unwrap();
        let aside = data_directory::rename_failed(&server.pg.data_dir()).await.unwrap().unwrap();
        assert_eq!(aside, server.home.join("data.failed"));
        assert!(aside.is_dir() && !server.pg.data_dir().exists());
    });
}

#[test]
fn replication_mode_tells_timelines_over_scram() {
    as_postgres(async {
        let workspace = Workspace::new("replication").unwrap();
        let server = Server::bootstrapped(&workspace, "a").await;
        let info = server.conninfo(Login::Replication);
        let mut connection = Connection::connect(&info).await.unwrap();
        let identity = connection.identify_system().await.unwrap();
        assert_eq!(identity.system_identifier, server.pg.system_identifier().await.unwrap());
        assert_eq!(identity.timeline, 1);
        assert!(!identity.position.is_zero());
        let error = connection.timeline_history(9).await.unwrap_err();
        assert!(matches!(&error, replication::Error::Server { code, .. } if code == "58P01"), "{error}");
        // The connection is still good.
        assert_eq!(connection.identify_system().await.unwrap().timeline, 1);

        let socket = info.clone().with("host", server.home.to_str().unwrap());
        assert!(Connection::connect(&socket).await.is_ok());
        let error = Connection::connect(&info.clone().with("password", "wrong")).await.err().unwrap();
        assert!(matches!(&error, replication::Error::Server { code, .. } if code == "28P01"), "{error}");
        let mut none = info.clone();
        none.remove("password");
        let error = Connection::connect(&none).await.err().unwrap();
        assert!(matches!(error, replication::Error::NoPassword(_)), "{error}");
        let error = Connection::connect(&info.with("sslmode", "require")).await.err().unwrap();
        assert!(matches!(error, replication::Error::NoTls), "{error}");
        server.execute("SET password_encryption = md5; CREATE ROLE old LOGIN REPLICATION PASSWORD 'x'").await;
        let hba = server.pg.data_dir().join("pg_hba.conf");
        let lines = "host replication old 127.0.0.1/32 md5\nhost replication clear 127.0.0.1/32 password\n";
        fs::write(&hba, format!("{lines}{}", fs::read_to_string(&hba).unwrap())).unwrap();
        server.execute("CREATE ROLE clear LOGIN REPLICATION PASSWORD 'y'; SELECT pg_reload_conf()").await;
        for (user, password) in [("old", "x"), ("clear", "y")] {
            let info = server.conninfo(Login::Replication).with("user", user).with("password", password);
            wait_until(user, LIMIT, || async { Ok(Connection::connect(&info).await.map(drop)?) })
                .await
                .unwrap();
        }
    });
}

#[test]
fn replication_mode_gives_up_on_a_silent_server() {
    as_postgres(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let info = ptarmigan_postgres::ConnInfo::new().with("host", "127.0.0.1").with("port", port);
        let error = Connection::connect(&info).await.err().unwrap();
        assert!(matches!(error, replication::Error::TimedOut(_)), "{error}");
    });
}

#[test]
fn replication_mode_speaks_tls() {
    as_postgres(async {
        let workspace = Workspace::new("tls").unwrap();
        let mut server = Server::bootstrapped(&workspace, "a").await;
        let (key, cert) = (server.home.join("server.key"), server.home.join("server.crt"));
        let mut openssl = process::command(&workspace, &server.home, "openssl");
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=db"]);
        openssl.args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]);
        openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert);
        process::run(openssl, LIMIT).await.unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let hba = server.pg.data_dir().join("pg_hba.conf");
        fs::write(&hba, "hostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n")
            .unwrap();
        server.stop().await;
        let files = [format!("ssl_key_file={}", key.display()), format!("ssl_cert_file={}", cert.display())];
        server.start(&["ssl=on", &files[0], &files[1]]).await;

        let info = server.conninfo(Login::Replication);
        for mode in ["allow", "prefer", "require"] {
            let mut connection = Connection::connect(&info.clone().with("sslmode", mode)).await.unwrap();
            assert_eq!(connection.identify_system().await.unwrap().timeline, 1, "{mode}");
        }
        let error = Connection::connect(&info.clone().with("sslmode", "disable")).await.err().unwrap();
        assert!(matches!(&error, replication::Error::Server { code, .. } if code == "28000"), "{error}");
        // The certificate names localhost and not the address.
        let checked = info.with("sslmode", "verify-full").with("sslrootcert", cert.to_str().unwrap());
        assert!(matches!(Connection::connect(&checked).await, Err(replication::Error::Io(_))));
        let named = checked.clone().with("host", "localhost");
        assert!(Connection::connect(&named).await.is_ok());
        let required = checked.with("channel_binding", "require");
        assert!(matches!(Connection::connect(&required).await, Err(replication::Error::Unsupported(_))));
    });
}

#[test]
fn passwords_go_into_private_files_that_do_not_stay() {
    as_postgres(async {
        let workspace = Workspace::new("passwords").unwrap();
        let server = Server::new(&workspace, "a", &json!({}), &json!({}));
        let info = server.conninfo(Login::Replication).with("sslpassword", "key secret");
        let files = PasswordFiles::write(&server.pg, "test", &info).unwrap();
        for (name, secret) in
            [("pgpass.test", "repl\\:secret"), ("pgpass.test.service", "sslpassword=key secret")]
        {
            let path = server.home.join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
            assert!(fs::read_to_string(&path).unwrap().contains(secret), "{name}");
        }
        drop(files);
        assert!(
            !server.home.join("pgpass.test").exists() && !server.home.join("pgpass.test.service").exists()
        );
    });
}

#[test]
fn rw_13_missing_wal_comes_from_the_archive() {
    as_postgres(async {
        let workspace = Workspace::new("restore").unwrap();
        let mut old = Server::bootstrapped(&workspace, "old").await;
        let archive = old.home.join("archive");
        fs::create_dir(&archive).unwrap();
        let conf = old.pg.data_dir().join("postgresql.conf");
        let folder = archive.display();
        let lines = format!("\narchive_mode = on\narchive_command = 'cp %p {folder}/%f'\n");
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + &lines).unwrap();
        old.stop().await;
        old.start(&[]).await;
        old.execute("CREATE TABLE public.t (v text)").await;
        let new = Server::standby_of(&old, "new").await;
        old.wait_for_replay(&new).await;
        new.promote().await;
        // The last common checkpoint moves into a segment that is archived and then gone.
        for _ in 0..3 {
            old.execute("INSERT INTO public.t VALUES ('lost')").await;
            old.execute("SELECT pg_switch_wal()").await;
        }
        let last = old.value("SELECT pg_walfile_name(pg_current_wal_lsn())").await;
        old.stop().await;
        for entry in fs::read_dir(old.pg.data_dir().join("pg_wal")).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.len() == 24 && name < last && archive.join(&name).exists() {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        assert_eq!(rewind::check(&old.pg, &new.upstream()).await, Verdict::Need);
        // RW-16: the upstream is fine, so another try would fail as well.
        let Rewound { outcome, changed } = rewind::execute(&old.pg, &new.upstream()).await.unwrap();
        assert!(
            matches!(&outcome, Outcome::Failed(reason) if reason.contains("could not open file")),
            "{outcome:?}"
        );
        assert!(!changed, "it found that before it copied anything");
        let restore = format!("\nrestore_command = 'cp {folder}/%f %p'\n");
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + &restore).unwrap();
        assert_eq!(rewind::execute(&old.pg, &new.upstream()).await.unwrap().outcome, Outcome::Success);
    });
}

#[test]
fn rw_1_rewind_needs_checksums_or_hints() {
    as_postgres(async {
        let workspace = Workspace::new("possible").unwrap();
        for (options, possible) in [(json!(["no-sync"]), false), (json!(["no-sync", "data-checksums"]), true)]
        {
            let server = Server::new(&workspace, "a", &json!({}), &json!({"initdb": options}));
            bootstrap::initdb(&server.pg, &server.settings.bootstrap.clone().unwrap()).await.unwrap();
            assert_eq!(rewind::is_possible(&server.pg).await, possible, "{options}");
            data_directory::remove(&server.pg.data_dir()).await.unwrap();
        }
        let server = Server::new(&workspace, "a", &json!({"use_pg_rewind": false}), &json!({}));
        bootstrap::initdb(&server.pg, &server.settings.bootstrap.clone().unwrap()).await.unwrap();
        assert!(!rewind::is_possible(&server.pg).await);
    });
}

/// Releases before 13 do not fetch WAL themselves; scripts stand in for the programs of such a release.
#[test]
fn rw_14_old_releases_get_missing_wal_one_by_one() {
    as_postgres(async {
        let workspace = Workspace::new("old-release").unwrap();
        let bin = workspace.folder("bin").unwrap();
        let runs = workspace.path().join("runs");
        let script = |name: &str, text: String| {
            fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        };
        let server = Server::new(&workspace, "a", &json!({"bin_dir": bin}), &json!({}));
        let data = server.pg.data_dir();
        fs::create_dir_all(data.join("pg_wal/archive_status")).unwrap();
        fs::write(data.join("PG_VERSION"), "12\n").unwrap();
        script("postgres", format!("echo 'cp {}/%f %p'", workspace.path().display()));
        let wal = data.join("pg_wal").display().to_string();
        let rewind = format!(
            "echo \"$@\" >> {}\nfor f in 000000010000000000000002 000000010000000000000001; do\n\
             [ -e {wal}/$f ] || {{ echo \"could not open file \\\"{wal}/$f\\\": No such file\" >&2; exit 1; }}\ndone",
            runs.display()
        );
        script("pg_rewind", rewind);
        let upstream = Upstream::of_conn_url("b".into(), "postgres://127.0.0.1:1/db").unwrap();
        fs::write(workspace.path().join("000000010000000000000002"), "x").unwrap();
        let outcome = rewind::execute(&server.pg, &upstream).await.unwrap().outcome;
        assert!(
            matches!(&outcome, Outcome::Failed(why) if why.contains("could not be restored")),
            "{outcome:?}"
        );
        fs::write(workspace.path().join("000000010000000000000001"), "x").unwrap();
        assert_eq!(rewind::execute(&server.pg, &upstream).await.unwrap().outcome, Outcome::Success);
        let runs = fs::read_to_string(runs).unwrap();
        assert_eq!(runs.lines().count(), 4, "{runs}");
        let expected = format!(
            "--progress -D {} --source-server dbname=db user=rewind-user host=127.0.0.1 port=1",
            data.display()
        );
        assert!(runs.lines().all(|line| line.starts_with(&expected)), "RW-13: {runs}");
        assert!(!runs.contains("secret"), "{runs}");
    });
}

#[test]
fn rw_8_diverged_primary_is_rewound() {
    as_postgres(async {
        let workspace = Workspace::new("rewind").unwrap();
        let mut old = Server::bootstrapped(&workspace, "old").await;
        old.execute("CREATE TABLE public.t (v text); INSERT INTO public.t VALUES ('common')").await;
        let new = Server::standby_of(&old, "new").await;
        old.wait_for_replay(&new).await;
        // RW-7: a running standby on the same timeline.
        assert_eq!(rewind::check(&new.pg, &old.upstream()).await, Verdict::NotNeed);
        assert!(
            matches!(rewind::check(&old.pg, &new.upstream()).await, Verdict::Unknown(_)),
            "still a primary"
        );
        new.promote().await;
        old.execute("INSERT INTO public.t VALUES ('lost')").await;
        new.execute("INSERT INTO public.t VALUES ('kept')").await;
        old.stop().await;

        let mut connection = Connection::connect(&new.conninfo(Login::Replication)).await.unwrap();
        assert_eq!(connection.identify_system().await.unwrap().timeline, 2);
        let text = connection.timeline_history(2).await.unwrap();
        assert!(text.starts_with("1\t0/"), "{text}");
        let local = history::read_local(&new.pg.data_dir(), 2).unwrap().unwrap();
        assert_eq!(local.entries, ptarmigan_types::history::parse_history_file(&text).unwrap());

        assert!(rewind::is_possible(&old.pg).await);
        assert!(rewind::ensure_upstream_checkpoint(&old.pg, &new.upstream()).await.unwrap());
        assert_eq!(rewind::check(&old.pg, &new.upstream()).await, Verdict::Need);
        assert_eq!(rewind::execute(&old.pg, &new.upstream()).await.unwrap().outcome, Outcome::Success);
        assert!(!old.home.join("pgpass.rewind").exists());
        old.follow(&new);
        old.start(&[]).await;
        old.wait_for("SELECT string_agg(v, ' ' ORDER BY v) FROM public.t", "common kept").await;
        assert!(matches!(rewind::execute(&old.pg, &new.upstream()).await, Err(rewind::Error::InUse(_))));
        assert!(matches!(
            data_directory::remove(&old.pg.data_dir()).await,
            Err(data_directory::Error::InUse { .. })
        ));
    });
}

#[test]
fn rw_8_cleanly_followed_primary_needs_no_rewind() {
    as_postgres(async {
        let workspace = Workspace::new("follow").unwrap();
        let mut old = Server::bootstrapped(&workspace, "old").await;
        let mut new = Server::standby_of(&old, "new").await;
        old.execute("CREATE TABLE public.t (v text)").await;
        old.stop().await;
        let end = old.pg.control_data().await.unwrap().checkpoint_lsn;
        new.wait_for(&format!("SELECT pg_last_wal_replay_lsn() > '{end}'"), "t").await;
        assert!(
            matches!(rewind::check(&old.pg, &new.upstream()).await, Verdict::Unknown(_)),
            "RW-6: in recovery"
        );
        new.promote().await;
        assert_eq!(rewind::check(&old.pg, &new.upstream()).await, Verdict::NotNeed);
        old.follow(&new);
        old.start(&[]).await;
        new.execute("INSERT INTO public.t VALUES ('x')").await;
        old.wait_for("SELECT v FROM public.t", "x").await;
        assert_eq!(rewind::check(&old.pg, &new.upstream()).await, Verdict::NotNeed);
        // RW-16: an upstream that is gone leaves the data directory as it is.
        old.stop().await;
        new.stop().await;
        assert!(matches!(rewind::check(&old.pg, &new.upstream()).await, Verdict::Unknown(_)));
        let Rewound { outcome, changed } = rewind::execute(&old.pg, &new.upstream()).await.unwrap();
        assert!(matches!(outcome, Outcome::Retry(_)) && !changed, "{outcome:?} {changed}");
    });
}

/// A cluster whose two standbys have the same WAL; the old primary is gone.
async fn two_standbys(workspace: &Workspace) -> (Server, Server) {
    let mut old = Server::bootstrapped(workspace, "old").await;
    old.execute("CREATE TABLE public.t (v text); INSERT INTO public.t VALUES ('common')").await;
    let one = Server::standby_of(&old, "one").await;
    let two = Server::standby_of(&old, "two").await;
    for standby in [&one, &two] {
        standby.wait_for("SELECT status FROM pg_stat_wal_receiver", "streaming").await;
    }
    old.stop().await;
    let checkpoint = old.pg.control_data().await.unwrap().checkpoint_lsn;
    for standby in [&one, &two] {
        standby.wait_for(&format!("SELECT pg_last_wal_replay_lsn() > '{checkpoint}'"), "t").await;
    }
    (one, two)
}

#[test]
fn rw_7_same_timeline_twice_at_the_same_position() {
    as_postgres(async {
        let workspace = Workspace::new("twice-here").unwrap();
        let (mut one, mut two) = two_standbys(&workspace).await;
        one.promote().await;
        two.promote().await;
        let begun = |server: &Server| {
            let history = history::read_local(&server.pg.data_dir(), 2).unwrap().unwrap();
            history.entries.last().unwrap().lsn
        };
        assert_eq!(begun(&one), begun(&two));
        one.stop().await;
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::SameTimelineTwice);
        // A standby of the same timeline is told apart from that, running and stopped.
        let mut follower = Server::standby_of(&two, "follower").await;
        two.execute("INSERT INTO public.t VALUES ('kept')").await;
        two.wait_for_replay(&follower).await;
        assert_eq!(rewind::check(&follower.pg, &two.upstream()).await, Verdict::NotNeed);
        follower.stop().await;
        assert_eq!(rewind::check(&follower.pg, &two.upstream()).await, Verdict::NotNeed);
        // What cannot be read tells nothing.
        let path = one.pg.data_dir().join("pg_wal/00000002.history");
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::NotNeed);
        fs::write(&path, text).unwrap();
        let right = "pg_read_binary_file(text, bigint, bigint, boolean) FROM \"rewind-user\"";
        two.execute(&format!("REVOKE EXECUTE ON FUNCTION {right}")).await;
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::NotNeed);
        two.execute(&format!("GRANT EXECUTE ON FUNCTION {}", right.replace("FROM", "TO"))).await;
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::SameTimelineTwice);
        // Also where the upstream has gone on to another timeline: pg_rewind would take the records of timeline 2 for common.
        two.stop().await;
        fs::write(two.pg.data_dir().join("standby.signal"), "").unwrap();
        two.start(&["primary_conninfo="]).await;
        two.promote().await;
        assert_eq!(two.pg.control_data().await.unwrap().checkpoint_timeline, 3);
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::SameTimelineTwice);
        // And the other way round: whoever is ahead would go back to the wrong timeline 2.
        two.stop().await;
        one.start(&[]).await;
        assert_eq!(rewind::check(&two.pg, &one.upstream()).await, Verdict::SameTimelineTwice);
    });
}

#[test]
fn rw_7_same_timeline_twice_at_two_positions() {
    as_postgres(async {
        let workspace = Workspace::new("twice-there").unwrap();
        let old = Server::bootstrapped(&workspace, "old").await;
        old.execute("CREATE TABLE public.t (v text); INSERT INTO public.t VALUES ('common')").await;
        let mut one = Server::standby_of(&old, "one").await;
        let mut two = Server::standby_of(&old, "two").await;
        old.wait_for_replay(&one).await;
        one.promote().await;
        one.execute("INSERT INTO public.t VALUES ('lost')").await;
        old.execute("INSERT INTO public.t VALUES ('kept')").await;
        old.wait_for_replay(&two).await;
        two.promote().await;
        one.stop().await;
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::SameTimelineTwice);
        // With a newer timeline on the other side pg_rewind sees what is different.
        two.stop().await;
        fs::write(two.pg.data_dir().join("standby.signal"), "").unwrap();
        two.start(&["primary_conninfo="]).await;
        two.promote().await;
        assert_eq!(rewind::check(&one.pg, &two.upstream()).await, Verdict::Need);
        assert_eq!(rewind::execute(&one.pg, &two.upstream()).await.unwrap().outcome, Outcome::Success);
        one.follow(&two);
        one.start(&[]).await;
        one.wait_for("SELECT string_agg(v, ' ' ORDER BY v) FROM public.t", "common kept").await;
    });
}

#[test]
fn rw_7_number_that_was_skipped() {
    as_postgres(async {
        let workspace = Workspace::new("skipped").unwrap();
        let (mut gone, new) = two_standbys(&workspace).await;
        // The new primary's standby, which has never heard of the timeline that is skipped.
        let follower = Server::standby_of(&new, "follower").await;
        gone.promote().await;
        gone.execute("INSERT INTO public.t VALUES ('lost')").await;
        gone.stop().await;
        assert_eq!(history::skip_timelines(&new.pg.data_dir(), 1, 2).unwrap(), [2]);
        let path = new.pg.data_dir().join("pg_wal/00000002.history");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        new.promote().await;
        new.execute("INSERT INTO public.t VALUES ('kept')").await;
        assert_eq!(new.pg.control_data().await.unwrap().checkpoint_timeline, 3);
        let entries = history::read_local(&new.pg.data_dir(), 3).unwrap().unwrap().entries;
        assert_eq!(entries.iter().map(|entry| entry.timeline).collect::<Vec<_>>(), [1]);
        let rows = "SELECT string_agg(v, ' ' ORDER BY v) FROM public.t";
        follower.wait_for(rows, "common kept").await;
        follower.wait_for("SELECT received_tli FROM pg_stat_wal_receiver", "3").await;

        assert_eq!(rewind::check(&gone.pg, &new.upstream()).await, Verdict::Need);
        assert_eq!(rewind::execute(&gone.pg, &new.upstream()).await.unwrap().outcome, Outcome::Success);
        gone.follow(&new);
        gone.start(&[]).await;
        gone.wait_for(rows, "common kept").await;
        new.execute("INSERT INTO public.t VALUES ('more')").await;
        gone.wait_for(rows, "common kept more").await;
        assert_eq!(rewind::check(&gone.pg, &new.upstream()).await, Verdict::NotNeed);
    });
}

/// A standby that streams looks for newer timelines once more after the order to promote it: it must not find the skipped
/// one worth following.
#[test]
fn rw_7_streaming_standby_descends_from_where_it_was() {
    as_postgres(async {
        let workspace = Workspace::new("skipping").unwrap();
        let primary = Server::bootstrapped(&workspace, "primary").await;
        let mut standby = Server::standby_of(&primary, "standby").await;
        primary.wait_for_replay(&standby).await;
        history::skip_timelines(&standby.pg.data_dir(), 1, 3).unwrap();
        // A promotion that did not come about.
        standby.stop().await;
        history::forget_skipped(&standby.pg.data_dir()).unwrap();
        standby.start(&[]).await;
        standby.wait_for("SELECT status FROM pg_stat_wal_receiver", "streaming").await;
        history::skip_timelines(&standby.pg.data_dir(), 1, 3).unwrap();
        standby.promote().await;
        let entries = history::read_local(&standby.pg.data_dir(), 4).unwrap().unwrap().entries;
        assert_eq!(entries.iter().map(|entry| entry.timeline).collect::<Vec<_>>(), [1], "{}", standby.log());
    });
}

#[test]
fn rw_11_segments_that_wait_are_archived_before_the_data_directory_changes() {
    as_postgres(async {
        let workspace = Workspace::new("ready").unwrap();
        let mut server = Server::bootstrapped(&workspace, "a").await;
        let archive = server.home.join("archive");
        fs::create_dir(&archive).unwrap();
        let conf = server.pg.data_dir().join("postgresql.conf");
        let original = fs::read_to_string(&conf).unwrap();
        let with = |command: &str| format!("{original}\narchive_mode = on\narchive_command = '{command}'\n");
        fs::write(&conf, with("false")).unwrap();
        server.stop().await;
        server.start(&[]).await;
        for value in ["x", "y"] {
            server.execute(&format!("CREATE TABLE public.t_{value} ()")).await;
            server.execute("SELECT pg_switch_wal()").await;
        }
        server.stop().await;
        let marked = |kind: &str| {
            let marks = fs::read_dir(server.pg.data_dir().join("pg_wal/archive_status")).unwrap().flatten();
            marks.filter(|mark| mark.file_name().to_string_lossy().ends_with(kind)).count()
        };
        let waiting = marked(".ready");
        assert!(waiting >= 2, "{waiting}");
        // What cannot be archived goes on waiting, and nothing behind it is archived.
        assert!(archive::archive_ready(&server.pg).await.is_err());
        assert_eq!(marked(".ready"), waiting);
        fs::write(&conf, with(&format!("cp %p {}/%f", archive.display()))).unwrap();
        assert_eq!(archive::archive_ready(&server.pg).await.unwrap(), waiting);
        assert_eq!((marked(".ready"), fs::read_dir(&archive).unwrap().count()), (0, waiting));
        assert_eq!(archive::archive_ready(&server.pg).await.unwrap(), 0);
    });
}

#[test]
fn rw_20_crashed_primary_is_recovered_without_connections() {
    as_postgres(async {
        let workspace = Workspace::new("crash").unwrap();
        let mut server = Server::bootstrapped(&workspace, "a").await;
        let archive = server.home.join("archive");
        fs::create_dir(&archive).unwrap();
        let conf = server.pg.data_dir().join("postgresql.conf");
        let line = format!("\narchive_mode = on\narchive_command = 'cp %p {}/%f'\n", archive.display());
        fs::write(&conf, fs::read_to_string(&conf).unwrap() + &line).unwrap();
        server.stop().await;
        server.start(&["archive_command=false"]).await;
        server.execute("CREATE TABLE public.t (v text); INSERT INTO public.t VALUES ('x')").await;
        server.execute("SELECT pg_switch_wal()").await;
        server.execute("INSERT INTO public.t VALUES ('y')").await;
        assert!(matches!(crash_recovery::run(&server.pg).await, Err(crash_recovery::Error::InUse(_))));
        server.crash().await;
        assert_eq!(server.pg.control_data().await.unwrap().state, ControlState::InProduction);
        fs::write(server.pg.data_dir().join("standby.signal"), "").unwrap();

        crash_recovery::run(&server.pg).await.unwrap();
        assert_eq!(server.pg.control_data().await.unwrap().state, ControlState::ShutDown);
        assert!(
            fs::read_dir(&archive).unwrap().count() >= 1,
            "RW-11: the segment that was ready is archived"
        );
        server.start(&[]).await;
        assert_eq!(server.value("SELECT count(*) FROM public.t").await, "2");
    });
}

#[test]
fn b_17_3_copy_lands_in_its_wal_folder_and_failures_leave_nothing() {
    as_postgres(async {
        let workspace = Workspace::new("clone").unwrap();
        let primary = Server::bootstrapped(&workspace, "primary").await;
        let wal = workspace.folder("wal").unwrap();
        fs::write(wal.join("left-over"), "x").unwrap();
        let options =
            json!({"basebackup": [{"checkpoint": "fast"}, {"waldir": wal}, {"compress": "gzip"}, "verbose"]});
        let replica = Server::new(&workspace, "replica", &options, &json!({}));
        fs::create_dir(replica.pg.data_dir()).unwrap();
        fs::write(replica.pg.data_dir().join("left-over"), "x").unwrap();
        clone::clone(&replica.pg, Some(&primary.upstream()), &["basebackup".into()]).await.unwrap();
        assert_eq!(replica.pg.state(), MemberState::Stopped);
        assert_eq!(
            replica.pg.system_identifier().await.unwrap(),
            primary.pg.system_identifier().await.unwrap()
        );
        assert!(wal.join("archive_status").is_dir() && !wal.join("left-over").exists());
        assert!(!replica.pg.data_dir().join("left-over").exists());
        assert!(!replica.home.join("pgpass.basebackup").exists());

        let mut gone = primary.upstream();
        gone.address.set("port", "1");
        let error = clone::clone(&replica.pg, Some(&gone), &[]).await.unwrap_err();
        assert!(matches!(error, clone::Error::AllFailed(_)), "{error}");
        assert_eq!(data_directory::content(&replica.pg.data_dir()), data_directory::Content::Empty);
        assert_eq!(fs::read_dir(&wal).map_or(0, Iterator::count), 0);
    });
}

#[test]
fn b_17_3_custom_methods_get_their_arguments() {
    as_postgres(async {
        let workspace = Workspace::new("custom").unwrap();
        let script = workspace.path().join("method.sh");
        let text = format!(
            "#!/bin/sh\nmkdir -p {}; printf '%s\\n' \"$@\" > $1; cat $PGPASSFILE >> $1; exit $2\n",
            workspace.path().join("replica/data").display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let seen = workspace.path().join("seen");
        let command = |code: u8| format!("{} {} {code}", script.display(), seen.display());
        let options = json!({
            "create_replica_methods": ["broken", "keeps", "plain"],
            "broken": {"command": command(1)},
            "keeps": {"command": command(0), "keep_data": true, "no_leader": true, "n": 1},
            "plain": {"command": command(0), "no_params": true, "keep_data": true, "flag": true},
        });
        let replica = Server::new(&workspace, "replica", &options, &json!({}));
        fs::create_dir(replica.pg.data_dir()).unwrap();
        fs::write(replica.pg.data_dir().join("PG_VERSION"), "15\n").unwrap();
        let source = Upstream::of_conn_url("p".into(), "postgres://10.0.0.1:5433/db").unwrap();
        let methods = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();

        let done =
            clone::clone(&replica.pg, None, &methods(&["broken", "basebackup", "keeps"])).await.unwrap();
        assert_eq!(done, "keeps");
        assert!(replica.pg.data_dir().join("PG_VERSION").exists());
        assert!(replica.pg.data_dir().join("pg_ident.conf").exists());
        let arguments = fs::read_to_string(&seen).unwrap();
        for line in [
            "--keep_data=True",
            "--no_leader=True",
            "--n=1",
            "--scope=demo",
            "--role=replica",
            "--connstring=",
        ] {
            assert!(arguments.lines().any(|seen| seen == line), "{line} in {arguments}");
        }
        clone::clone(&replica.pg, Some(&source), &methods(&["plain"])).await.unwrap();
        let arguments = fs::read_to_string(&seen).unwrap();
        let lines: Vec<&str> = arguments.lines().skip(2).collect();
        assert_eq!(lines, ["--flag=True", "10.0.0.1:5433:*:replicator:repl\\:secret\\\\"]);
        let none = clone::clone(&replica.pg, None, &methods(&["plain"])).await.unwrap_err();
        assert!(matches!(none, clone::Error::NoMethod), "{none}");
        let done = clone::clone(&replica.pg, Some(&source), &methods(&["broken", "keeps"])).await.unwrap();
        assert_eq!(done, "keeps");
        assert!(!replica.pg.data_dir().join("PG_VERSION").exists(), "the first method wiped the folder");
        let arguments = fs::read_to_string(&seen).unwrap();
        let connstring = arguments.lines().find(|line| line.starts_with("--connstring=")).unwrap();
        assert!(
            connstring.contains("host=10.0.0.1") && connstring.contains("user=replicator"),
            "{connstring}"
        );
        assert!(!connstring.contains("secret"), "{connstring}");
    });
}

#[test]
fn sl_7_sl_8_slots_are_created_advanced_and_dropped() {
    as_postgres(async {
        let workspace = Workspace::new("slots").unwrap();
        let server = Server::bootstrapped(&workspace, "a").await;
        let session = server.session().await;
        let version = server.pg.version().unwrap();
        let situation = Situation {
            paused: false,
            has_leader: true,
            leader_is_me: true,
            is_primary: true,
            replay_lsn: None,
            lineage: slots::Lineage::Unknown,
            broken: &std::collections::BTreeSet::new(),
            kept: &std::collections::BTreeSet::new(),
            ignore_slots: &[],
        };
        let wish = |lsn: Option<Lsn>| Wanted { kind: Kind::Physical, lsn, expected_active: Some(false) };
        let mut wanted = BTreeMap::from([("one".to_owned(), wish(None)), ("two".to_owned(), wish(None))]);
        let plan = slots::plan(&wanted, &sql::read_slots(&session, version).await.unwrap(), &situation);
        let results = sql::apply(&session, &plan).await;
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
        let actual = sql::read_slots(&session, version).await.unwrap();
        assert_eq!(actual.keys().collect::<Vec<_>>(), ["one", "two"]);
        assert!(actual["one"].restart_lsn.is_some(), "SL-7: WAL is reserved at once");
        assert!(slots::plan(&wanted, &actual, &situation).is_empty());

        server.execute("SELECT pg_switch_wal()").await;
        let ahead: Lsn = server.value("SELECT pg_current_wal_lsn()").await.parse().unwrap();
        wanted.insert("one".into(), wish(Some(ahead)));
        wanted.remove("two");
        let plan = slots::plan(&wanted, &actual, &situation);
        assert_eq!(plan.len(), 2, "{plan:?}");
        let results = sql::apply(&session, &plan).await;
        assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
        let actual = sql::read_slots(&session, version).await.unwrap();
        assert_eq!(actual.keys().collect::<Vec<_>>(), ["one"]);
        assert_eq!(actual["one"].restart_lsn, Some(ahead));

        // A slot in use is not dropped, and what follows is still done.
        let standby = Server::standby_of(&server, "b").await;
        standby.execute("ALTER SYSTEM SET primary_slot_name = 'one'; ").await;
        standby.execute("SELECT pg_reload_conf()").await;
        server.wait_for("SELECT active FROM pg_replication_slots", "t").await;
        let plan = [
            SlotAction::Drop { name: "one".into(), reason: slots::DropReason::NotWanted },
            SlotAction::Create { name: "one".into() },
            SlotAction::Drop { name: "gone".into(), reason: slots::DropReason::NotWanted },
            SlotAction::Create { name: "three".into() },
        ];
        let results: Vec<_> =
            sql::apply(&session, &plan).await.into_iter().map(|(_, result)| result).collect();
        assert!(matches!(results[0], Err(sql::Error::Active)), "{results:?}");
        assert!(matches!(results[1], Err(sql::Error::NotDropped)), "{results:?}");
        assert!(results[2].is_ok() && results[3].is_ok(), "{results:?}");
        assert!(sql::read_slots(&session, version).await.unwrap()["one"].active);
    });
}
