//! The running server: start, stop, promotion and configuration, with a real PostgreSQL under the real guardian.

#![allow(clippy::unwrap_used, reason = "a test whose servers cannot be set up has failed")]

#[path = "server/node.rs"]
mod node;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use node::{LIMIT, Node, as_postgres};
use ptarmigan_postgres::{
    ControlState, Difference, Login, Purpose, Readiness, Recovery, Session, SlotChoice, Source, StopMode,
    StopRequest, Tool,
    command::Command,
    connection,
    postmaster::start::{Attached, Error as StartError},
};
use ptarmigan_testkit::{Workspace, process, wait_until};
use ptarmigan_types::{Lsn, MemberState, Role};
use serde_json::json;

#[test]
fn b_26_start_heartbeat_and_fast_stop() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("start").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let pg = &node.pg;
        assert_eq!((pg.state(), pg.readiness().await), (MemberState::Running, Readiness::Accepting));
        assert!(pg.hold().await.unwrap().unwrap().is_guarded());

        let status = pg.status().await.unwrap();
        assert!(!status.in_recovery && status.wal_position() > Lsn::ZERO);
        assert_eq!(status.primary_timeline(), Some(1));
        assert_eq!(status.system_identifier, pg.system_identifier().await.unwrap());
        assert_eq!(status.version().major(), pg.version().unwrap().major());
        assert_eq!(status.postmaster_start_time.len(), "2026-11-20 19:05:11.000123+00:00".len());

        // Controlled parameters win over ALTER SYSTEM because they stand on the command line.
        let pid = pg.running().unwrap().pid;
        let line = String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap();
        assert!(line.contains("--max_connections=100") && line.contains("--cluster_name=demo"), "{line}");
        assert!(!line.contains("secret"));
        let conf = pg.config_files().conf;
        assert!(fs::read_to_string(&conf).unwrap().contains("include 'postgresql.base.conf'\n"));
        assert_eq!(fs::metadata(&conf).unwrap().mode() & 0o777, 0o600);
        assert!(pg.data_dir().join("postgresql.base.conf.backup").exists());
        assert_eq!(node.value("SHOW search_path").await, "pg_catalog");

        let stopped =
            pg.stop(StopRequest { checkpoint: true, ..StopRequest::new(StopMode::Fast) }).await.unwrap();
        assert!(stopped.was_running && !stopped.forced, "{stopped:?}");
        assert_eq!((pg.state(), pg.is_alive()), (MemberState::Stopped, false));
        assert_eq!(pg.control_data().await.unwrap().state, ControlState::ShutDown);
        assert!(pg.status().await.unwrap_err().is_refused());
        assert_eq!(pg.readiness().await, Readiness::NoResponse);
        let again = pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        assert!(!again.was_running);
    });
}

#[test]
fn b_26_failed_starts_say_why() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("failed").unwrap();
        let node = Node::new(&workspace, &guardian, "a", &json!({}));
        let request = || Node::request(Role::Primary, Recovery::None);
        let error = node.pg.start(request()).await.unwrap_err();
        assert!(matches!(error, StartError::DataDirectory { .. }), "{error}");
        assert_eq!(node.pg.state(), MemberState::StartFailed);

        node.initdb().await;
        let listener = std::net::TcpListener::bind(node.port.address()).unwrap();
        let error = node.pg.start(request()).await.unwrap_err();
        assert!(matches!(error, StartError::PortTaken { .. }), "{error}");
        drop(listener);
        fs::write(node.pg.config_files().base, "this is = no '.conf\n").unwrap();
        let error = node.pg.start(request()).await.unwrap_err();
        assert!(matches!(error, StartError::Exited { .. }), "{error}");
        assert_eq!(node.pg.state(), MemberState::StartFailed);

        fs::write(node.pg.config_files().base, "").unwrap();
        node.start_primary().await;
        let error = node.pg.start(request()).await.unwrap_err();
        assert!(matches!(error, StartError::Running(_)), "{error}");
        assert_eq!(node.pg.state(), MemberState::Running);
    });
}

#[test]
fn b_26_stop_timeout_is_enforced() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("timeout").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        // A smart shutdown waits for this session.
        let _session = node.session().await;
        let timeout = Some(Duration::from_secs(1));
        let stopped =
            node.pg.stop(StopRequest { timeout, ..StopRequest::new(StopMode::Smart) }).await.unwrap();
        assert!(stopped.forced && !node.pg.is_alive());

        // A frozen postmaster reacts to no shutdown: it is killed.
        node.start_primary().await;
        let pid = node.pg.running().unwrap().pid;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let stopped =
            node.pg.stop(StopRequest { timeout, ..StopRequest::new(StopMode::Fast) }).await.unwrap();
        assert!(stopped.forced && !node.pg.is_alive());
        assert_eq!(node.pg.control_data().await.unwrap().state, ControlState::InProduction);
        node.start_primary().await;
    });
}

#[test]
fn b_16_hooks_come_before_the_end() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("hooks").unwrap();
        // The archiver delays the postmaster's end after the shutdown checkpoint.
        let parameters = json!({"parameters": {"archive_mode": "on", "archive_command": "sleep 1"}});
        let node = Node::primary(&workspace, &guardian, "a", &parameters).await;
        let session = node.session().await;
        let (safe, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(None)));
        let pid = node.pg.running().unwrap().pid;
        let request = StopRequest {
            on_safepoint: Some({
                let safe = Arc::clone(&safe);
                Box::new(move |()| Box::pin(async move { safe.store(true, Ordering::SeqCst) }))
            }),
            on_shutdown: Some({
                let seen = Arc::clone(&seen);
                Box::new(move |data| {
                    Box::pin(async move {
                        let alive = fs::exists(format!("/proc/{pid}")).unwrap();
                        *seen.lock().unwrap() = Some((data.state, alive));
                    })
                })
            }),
            ..StopRequest::new(StopMode::Fast)
        };
        let stopped = node.pg.stop(request).await.unwrap();
        assert!(!stopped.forced && safe.load(Ordering::SeqCst) && session.is_closed());
        assert_eq!(*seen.lock().unwrap(), Some((ControlState::ShutDown, true)));
    });
}

#[test]
fn b_26_server_of_somebody_else_is_adopted() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("adopted").unwrap();
        let mut node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        let command =
            node.pg.command(Tool::PgCtl).unwrap().args(["start", "-w", "-D"]).arg(node.pg.data_dir());
        let port = format!("-p {} -k {}", node.port, workspace.path().display());
        command.arg("-o").arg(port).deadline(LIMIT).succeed().await.unwrap();

        node.reopen();
        let Attached::Running(running) = node.pg.attach().await else { panic!("it runs") };
        assert_eq!((node.pg.role(), node.pg.state()), (Role::Primary, MemberState::Running));
        let held = node.pg.hold().await.unwrap().unwrap();
        assert!(held.pid() == running.pid && !held.is_guarded());

        // Of a killed postmaster, the sessions go on: they are part of it.
        let session = node.session().await;
        let backend = session.query_text("SELECT pg_backend_pid()").await.unwrap()[0][0].clone().unwrap();
        held.signal(ptarmigan_guardian::SignalName::Kill).await.unwrap();
        held.exited().await.unwrap();
        assert!(!node.pg.is_alive(), "nothing has the data directory open");
        // It may be on the last steps of its way out still.
        let backend = backend.parse().unwrap();
        wait_until("the end of the backend", LIMIT, || async {
            anyhow::ensure!(!ptarmigan_guardian::process::is_alive(backend));
            Ok(())
        })
        .await
        .unwrap();
    });
}

#[test]
fn b_26_restarted_daemon_finds_its_server() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("attach").unwrap();
        let mut node = Node::new(&workspace, &guardian, "a", &json!({}));
        assert_eq!(node.pg.attach().await, Attached::Down);
        assert_eq!(node.pg.role(), Role::Uninitialized);
        node.initdb().await;
        node.start_primary().await;
        let pid = node.pg.running().unwrap().pid;
        node.reopen();
        let Attached::Running(running) = node.pg.attach().await else { panic!("it runs") };
        assert_eq!(
            (running.pid, node.pg.role(), node.pg.state()),
            (pid, Role::Primary, MemberState::Running)
        );
        assert!(node.pg.hold().await.unwrap().unwrap().is_guarded());
        node.pg.stop(StopRequest::new(StopMode::Immediate)).await.unwrap();
        node.reopen();
        assert_eq!(node.pg.attach().await, Attached::Down);
        assert_eq!((node.pg.role(), node.pg.state()), (Role::Demoted, MemberState::Stopped));
    });
}

#[test]
fn a_server_greets_whoever_connects_and_a_frozen_one_nobody() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("greeting").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        node.pg.greeting().await.unwrap();
        let held = node.pg.hold().await.unwrap().unwrap();
        held.signal(ptarmigan_guardian::SignalName::Stop).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(300), node.pg.greeting()).await;
        assert!(silent.is_err(), "{silent:?}");
        held.signal(ptarmigan_guardian::SignalName::Cont).await.unwrap();
        node.pg.greeting().await.unwrap();
        node.pg.stop(StopRequest::new(StopMode::Immediate)).await.unwrap();
        assert!(node.pg.greeting().await.unwrap_err().contains("refused"));
    });
}

#[test]
fn stop_may_be_cancelled_and_repeated() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("cancel").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let _session = node.session().await;
        let smart = node.pg.stop(StopRequest::new(StopMode::Smart));
        assert!(tokio::time::timeout(Duration::from_millis(500), smart).await.is_err());
        assert_eq!(node.pg.state(), MemberState::Stopping);
        let stopped = node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        assert!(stopped.was_running && !stopped.forced);
    });
}

#[test]
fn b_19_standby_follows_and_is_promoted() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("standby").unwrap();
        // More connections than the standby is configured for.
        let more = json!({"parameters": {"wal_receiver_status_interval": "1s"}});
        let primary = Node::primary(&workspace, &guardian, "primary", &more).await;
        primary.value("SELECT pg_create_physical_replication_slot('standby_1')").await;
        let standby = Node::new(&workspace, &guardian, "standby-1", &json!({}));
        standby.clone_from(&primary).await;
        let source =
            Source { upstream: Some(primary.upstream()), slot: SlotChoice::Own, ..Source::default() };
        let wanted = standby.pg.wanted_recovery(&source).unwrap();
        standby.pg.set_role(Role::Replica);
        let mut request = Node::request(Role::Replica, Recovery::Standby(wanted.parameters.clone()));
        request.passfile_lines.clone_from(&wanted.passfile_lines);
        standby.pg.start(request).await.unwrap();
        let conf = fs::read_to_string(standby.pg.config_files().conf).unwrap();
        assert!(conf.contains("# recovery.conf\n") && !conf.contains("super secret"), "{conf}");

        let status = wait_until("the standby to stream", LIMIT, || async {
            let status = standby.pg.status().await?;
            anyhow::ensure!(status.replication_state() == Some("streaming"), "{status:?}");
            anyhow::ensure!(status.receiver_timeline().is_some(), "{status:?}");
            Ok(status)
        })
        .await
        .unwrap();
        assert_eq!(status.receiver_timeline(), Some(1));
        let senders = primary.pg.status().await.unwrap().replication;
        assert_eq!((senders[0].application_name.as_str(), senders.len()), ("standby-1", 1));

        let difference = |wanted| async move {
            let status = standby.pg.status().await.unwrap();
            (standby.pg.recovery_difference(&wanted, Some(&status)).await.unwrap(), standby)
        };
        let (same, standby) = difference(wanted.clone()).await;
        assert_eq!(same, Difference::None);
        let mut other = wanted.clone();
        other.parameters.insert("recovery_min_apply_delay".to_owned(), "1s".to_owned());
        assert_eq!(
            standby.pg.recovery_difference(&other, Some(&standby.pg.status().await.unwrap())).await.unwrap(),
            Difference::Reload
        );
        let written = standby
            .pg
            .write_recovery(Role::Replica, Recovery::Standby(other.parameters.clone()), &other.passfile_lines)
            .await
            .unwrap();
        assert!(written.conf);
        standby.pg.reload_config(true).await.unwrap();
        assert_eq!(standby.value("SHOW recovery_min_apply_delay").await, "1s");

        primary.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        standby.pg.promote(LIMIT).await.unwrap();
        assert_eq!(standby.pg.role(), Role::Promoted);
        standby.pg.wait_promoted(LIMIT).await.unwrap();
        assert_eq!(standby.pg.role(), Role::Primary);
        standby.pg.checkpoint(Some(LIMIT)).await.unwrap();
        let status = standby.pg.status().await.unwrap();
        assert_eq!((status.primary_timeline(), status.in_recovery), (Some(2), false));
        assert!(!standby.pg.data_dir().join("standby.signal").exists());
    });
}

#[test]
fn pr_5_standby_keeps_what_the_primary_had() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("floor").unwrap();
        let node = Node::new(&workspace, &guardian, "a", &json!({}));
        node.initdb().await;
        node.pg.set_settings(node.settings(&json!({}), &json!({"parameters": {"max_connections": 150}})));
        node.start_primary().await;
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        node.pg.set_settings(node.settings(&json!({}), &json!({"parameters": {"max_connections": 50}})));
        let wanted = node.pg.wanted_recovery(&Source::default()).unwrap();
        node.pg.start(Node::request(Role::Replica, Recovery::Standby(wanted.parameters))).await.unwrap();
        assert_eq!(node.value("SHOW max_connections").await, "150");
        let pending = node.pg.pending_restart();
        assert_eq!(
            (&*pending["max_connections"].old_value, &*pending["max_connections"].new_value),
            ("150", "50")
        );
        assert_eq!(pending.len(), 1);
        // The server itself sees it the same way.
        assert_eq!(node.pg.refresh_pending_restart().await.unwrap(), pending);
    });
}

#[test]
fn pr_1_changed_configuration_is_reloaded_and_restarts_are_pending() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("config").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let none = node.pg.reload_config(false).await.unwrap();
        assert!(!none.written.any() && !none.reloaded && node.pg.pending_restart().is_empty());

        let local = json!({"parameters": {"work_mem": "12MB", "shared_buffers": "64MB", "nonsense": "1", "a.b": "c"},
                           "pg_hba": ["host all all 127.0.0.1/32 scram-sha-256"]});
        let dynamic = json!({"parameters": {"max_connections": 77}});
        let applied = node.pg.apply_config(node.settings(&local, &dynamic), false).await.unwrap();
        assert!(applied.written.conf && applied.written.access && applied.reloaded);
        assert_eq!(node.value("SHOW work_mem").await, "12MB");
        assert_eq!(node.value("SHOW a.b").await, "c");
        let pending = node.pg.pending_restart();
        let change = |name: &str| (pending[name].old_value.clone(), pending[name].new_value.clone());
        assert_eq!(pending.keys().collect::<Vec<_>>(), ["max_connections", "shared_buffers"]);
        assert_eq!(change("shared_buffers"), ("128MB".to_owned(), "64MB".to_owned()));
        assert_eq!(change("max_connections"), ("100".to_owned(), "77".to_owned()));

        // Set back: nothing is pending any more.
        node.pg.apply_config(node.settings(&json!({}), &json!({})), false).await.unwrap();
        assert!(node.pg.pending_restart().is_empty());
        assert_eq!(node.value("SHOW work_mem").await, "4MB");

        assert!(node.pg.own_synchronous_standby_names(Some("\"x\"")));
        assert!(!node.pg.own_synchronous_standby_names(Some("\"x\"")));
        node.pg.reload_config(false).await.unwrap();
        assert_eq!(node.pg.status().await.unwrap().synchronous_standby_names, "\"x\"");
    });
}

#[test]
fn pr_2_unknown_names_do_not_count_and_computed_defaults_are_no_change() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("computed").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let computed = node.value("SHOW wal_buffers").await;
        assert_ne!(computed, "-1");
        let with =
            |value: &str| json!({"parameters": {"wal_buffers": value, "no_such_thing": 1, "my.own": "x"}});
        for (value, pending) in
            [("-1", None), (computed.as_str(), None), ("1MB", Some("1MB")), ("128", Some("1MB"))]
        {
            node.pg.apply_config(node.settings(&with(value), &json!({})), false).await.unwrap();
            let reasons = node.pg.pending_restart();
            let found = reasons.get("wal_buffers").map(|change| change.new_value.as_str());
            assert_eq!(
                (found, reasons.len()),
                (pending, usize::from(pending.is_some())),
                "{value}: {reasons:?}"
            );
        }
        assert_eq!(node.pg.pending_restart()["wal_buffers"].old_value, computed);
        assert_eq!(node.value("SHOW my.own").await, "x");
        // A custom name is compared as text, and taken away again.
        node.pg.apply_config(node.settings(&json!({}), &json!({})), false).await.unwrap();
        assert!(node.pg.pending_restart().is_empty());
    });
}

#[test]
fn pr_3_edits_of_others_are_pending_too_and_every_reload_replaces_the_reasons() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("edits").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let sql = node.pg.session(Purpose::Unlimited).await.unwrap();
        sql.execute("ALTER SYSTEM SET shared_buffers = '20MB'").await.unwrap();
        // Nothing of ours changed; the reload is what an operator asked for.
        let applied = node.pg.reload_config(true).await.unwrap();
        assert!(applied.reloaded && !applied.written.any());
        let change = node.pg.pending_restart()["shared_buffers"].clone();
        assert_eq!((&*change.old_value, &*change.new_value), ("128MB", "20MB"));
        // What the program cannot tell is unknown, and what only a reload needs is not pending.
        sql.execute("ALTER SYSTEM RESET shared_buffers").await.unwrap();
        sql.execute("ALTER SYSTEM SET work_mem = '5MB'").await.unwrap();
        node.pg.reload_config(true).await.unwrap();
        assert!(node.pg.pending_restart().is_empty());
        assert_eq!(node.pg.value_after_restart("no_such_thing").await, None);
        // A controlled parameter is on the command line: nobody else changes it.
        sql.execute("ALTER SYSTEM SET max_connections = 33").await.unwrap();
        node.pg.reload_config(true).await.unwrap();
        assert_eq!(node.pg.value_after_restart("max_connections").await.as_deref(), Some("33"));
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        node.start_primary().await;
        assert_eq!(node.value("SHOW max_connections").await, "100");
        // A server that is down has nothing pending.
        node.pg
            .apply_config(node.settings(&json!({}), &json!({"parameters": {"max_connections": 44}})), false)
            .await
            .unwrap();
        assert!(!node.pg.pending_restart().is_empty());
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        node.pg.reload_config(false).await.unwrap();
        assert!(node.pg.pending_restart().is_empty());
    });
}

#[test]
fn dead_postmaster_takes_its_sessions_along() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("crash").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let session = node.session().await;
        let held = node.pg.hold().await.unwrap().unwrap();
        held.signal(ptarmigan_guardian::SignalName::Kill).await.unwrap();
        held.exited().await.unwrap();
        assert!(!node.pg.is_alive());
        assert!(session.query_text("SELECT 1").await.is_err());
        let own = |found: &process::Found| found.name == "postgres";
        assert!(!process::processes_of(&node.pg.data_dir()).iter().any(own));
        node.start_primary().await;
    });
}

/// A certificate authority and a certificate for `localhost`, in the folder.
async fn make_certificates(folder: &std::path::Path) {
    fs::write(folder.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let authority = |name: &str| {
        format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"
        )
    };
    for line in [
        authority("ca"),
        authority("other"),
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr".to_owned(),
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.crt".to_owned(),
    ] {
        let command = Command::new("openssl").args(line.split(' ')).working_dir(folder);
        command.deadline(LIMIT).succeed().await.unwrap();
    }
    fs::set_permissions(folder.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn sslmode_means_what_it_means_in_libpq() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("tls").unwrap();
        let folder = workspace.folder("certs").unwrap();
        make_certificates(&folder).await;
        let file = |name: &str| folder.join(name).display().to_string();
        let parameters = json!({"parameters": {
            "ssl": "on", "ssl_cert_file": file("server.crt"), "ssl_key_file": file("server.key")}});
        let node = Node::primary(&workspace, &guardian, "a", &parameters).await;
        let base = node.pg.local_conninfo(Login::Superuser);
        let encrypted = |host: &str, mode: &str, root: &str, binding: &str| {
            let info = base.clone().with("host", host).with("sslmode", mode).with("channel_binding", binding);
            let info = if root.is_empty() { info } else { info.with("sslrootcert", file(root)) };
            async move {
                let session = Session::connect(&info, Purpose::Heartbeat).await?;
                let rows =
                    session.query_text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await?;
                Ok::<_, connection::Error>(rows[0][0].as_deref() == Some("t"))
            }
        };
        for (host, mode, root, binding, expected) in [
            ("127.0.0.1", "disable", "", "", Some(false)),
            ("127.0.0.1", "allow", "", "", Some(false)),
            ("127.0.0.1", "prefer", "", "", Some(true)),
            ("127.0.0.1", "require", "", "require", Some(true)),
            ("127.0.0.1", "verify-ca", "ca.crt", "", Some(true)),
            ("127.0.0.1", "require", "other.crt", "", None),
            ("127.0.0.1", "verify-ca", "other.crt", "", None),
            ("127.0.0.1", "verify-full", "ca.crt", "", None),
            ("localhost", "verify-full", "ca.crt", "require", Some(true)),
            ("localhost", "verify-full", "other.crt", "", None),
        ] {
            let outcome = encrypted(host, mode, root, binding).await;
            assert_eq!(outcome.as_ref().ok().copied(), expected, "{host} {mode} {root}: {outcome:?}");
        }
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
    });
}

/// One self-signed certificate as server's, client's and authority, as home-made set-ups have it.
#[test]
fn one_certificate_for_everything_works() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("tls-one").unwrap();
        let folder = workspace.folder("certs").unwrap();
        let line = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=postgres -addext subjectAltName=DNS:localhost \
                    -keyout one.key -out one.crt";
        let command = Command::new("openssl").args(line.split_whitespace()).working_dir(&folder);
        command.deadline(LIMIT).succeed().await.unwrap();
        fs::set_permissions(folder.join("one.key"), fs::Permissions::from_mode(0o600)).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        let parameters = json!({"parameters": {"ssl": "on", "ssl_cert_file": file("one.crt"),
            "ssl_key_file": file("one.key"), "ssl_ca_file": file("one.crt")}});
        let node = Node::primary(&workspace, &guardian, "a", &parameters).await;
        let base = node.pg.local_conninfo(Login::Superuser).with("sslrootcert", file("one.crt"));
        let base = base.with("sslcert", file("one.crt")).with("sslkey", file("one.key"));
        for (host, mode, good) in [
            ("localhost", "verify-full", true),
            ("127.0.0.1", "verify-full", false),
            ("127.0.0.1", "verify-ca", true),
            ("127.0.0.1", "require", true),
        ] {
            let info = base.clone().with("host", host).with("sslmode", mode);
            let outcome = async {
                let session = Session::connect(&info, Purpose::Heartbeat).await?;
                let sql =
                    "SELECT ssl, client_serial IS NOT NULL FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                session.query_text(sql).await
            }
            .await;
            let seen =
                outcome.as_ref().ok().map(|rows| rows[0].iter().all(|one| one.as_deref() == Some("t")));
            assert_eq!(seen, good.then_some(true), "{host} {mode}: {outcome:?}");
        }
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
    });
}

#[test]
fn killed_guardian_does_not_take_control_away() {
    as_postgres(|guardian| async move {
        let workspace = Workspace::new("lost").unwrap();
        let node = Node::primary(&workspace, &guardian, "a", &json!({})).await;
        let kill = || async {
            let guardian = node.pg.guardian().await.unwrap();
            let pid = rustix::process::Pid::from_raw(guardian.hello().guardian_pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            guardian.lost().await;
        };
        kill().await;
        node.pg.stop(StopRequest::new(StopMode::Fast)).await.unwrap();
        assert!(!node.pg.is_alive());

        // Also in the middle of a stop.
        node.start_primary().await;
        let _session = node.session().await;
        let timeout = Some(Duration::from_secs(2));
        let smart = node.pg.stop(StopRequest { timeout, ..StopRequest::new(StopMode::Smart) });
        let (stopped, ()) = tokio::join!(smart, async {
            wait_until("the stop to begin", LIMIT, || async {
                anyhow::ensure!(node.pg.state() == MemberState::Stopping);
                Ok(())
            })
            .await
            .unwrap();
            kill().await;
        });
        assert!(stopped.unwrap().was_running && !node.pg.is_alive());
        node.start_primary().await;
        assert!(node.pg.hold().await.unwrap().unwrap().is_guarded());
    });
}
