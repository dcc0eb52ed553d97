//! What needs no server: usage, exit codes, versions, configuration that cannot be used.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::time::Duration;

use support::{PROGRAM, Ptctl};

#[tokio::test]
async fn c_1_usage_errors_exit_2_with_usage_hint_and_error() {
    for (arguments, usage, error) in [
        ("nope", "Usage: ptctl [OPTIONS] COMMAND [ARGS]...", "Error: No such command 'nope'."),
        ("query", "Usage: ptctl [OPTIONS] COMMAND [ARGS]...", "Error: No such command 'query'."),
        ("flush demo a", "Usage: ptctl", "'a' is not one of 'restart', 'switchover'."),
        ("list --foo", "Usage: ptctl list ", "--foo"),
        ("list --form json", "Usage: ptctl list ", "--form"),
        ("list -f csv", "ptctl list ", "csv"),
        ("list --group x", "ptctl list ", "--group"),
        ("restart", "Usage: ptctl restart ", "CLUSTER_NAME"),
        ("restart demo -r master", "ptctl restart ", "master"),
        ("reinit --from_leader demo", "Usage: ptctl reinit ", "--from_leader"),
        ("failover --leader a", "Usage: ptctl failover ", "--leader"),
        ("list -c file", "Usage: ptctl list ", "-c"),
        ("list -h", "Usage: ptctl list ", "-h"),
    ] {
        let run = Ptctl::default().run(arguments).await;
        assert_eq!((run.code, run.out.as_str()), (2, ""), "{arguments}");
        assert!(run.err.starts_with("Usage: ptctl"), "{arguments}: {}", run.err);
        assert!(run.err.contains(usage), "{arguments}: {}", run.err);
        assert!(run.err.contains(" --help' for help.\n\nError: "), "{arguments}: {}", run.err);
        assert!(run.err.contains(error), "{arguments}: {}", run.err);
    }
}

#[tokio::test]
async fn c_1_the_bare_invocation_prints_help_and_exits_2() {
    let run = Ptctl::default().run("").await;
    assert_eq!(run.code, 2);
    assert!(run.err.contains("Usage: ptctl") && run.err.contains("edit-config"), "{}", run.err);
    let run = Ptctl::default().run("list --help").await;
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert!(run.out.contains("--extended"), "{}", run.out);
}

#[tokio::test]
async fn clients_take_the_third_word_of_the_version() {
    let out = Ptctl::default().run("version").await.ok();
    assert_eq!(out, format!("ptctl version {}\n", env!("CARGO_PKG_VERSION")));
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("patronictl");
    std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
    let out = Ptctl::default().program(&link, "version", "").await.ok();
    assert_eq!(out, format!("patronictl version {}\n", ptarmigan_types::version::EMULATED));
}

#[tokio::test]
async fn c_2_configuration_errors_exit_1() {
    let bare = Ptctl::default();
    let missing = "Error: Provided config file /nonexistent not existing or no read rights. \
                   Check the -c/--config-file parameter";
    bare.run("-c /nonexistent version").await.fails_with(missing);
    bare.clone().with("PATRONICTL_CONFIG_FILE", "/nonexistent").run("list demo").await.fails_with(missing);
    bare.run("-d ftp://h list demo").await.fails_with("Error: Unknown dcs scheme: ftp");
    let run = bare.run("list demo").await;
    assert!(run.err.starts_with("Error: Can not find suitable configuration of distributed"), "{}", run.err);
    assert_eq!(run.code, 1);
    let run = bare.run("show-config").await;
    assert_eq!(run.code, 1);
    assert!(run.err.contains("no scope"), "{}", run.err);
}

#[tokio::test]
async fn c_1_list_without_a_cluster_prints_nothing_and_exits_0() {
    let run = Ptctl::default().run("list -f json").await;
    assert_eq!((run.code, run.out.as_str()), (0, ""));
    assert!(run.err.contains("No cluster names were provided"), "{}", run.err);
    Ptctl::default().with("PATRONI_LOG_LEVEL", "ERROR").run("list").await.ok();
}

#[tokio::test]
async fn a_dead_etcd_ends_in_an_error() {
    let port = ptarmigan_testkit::Port::reserve().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.yml");
    std::fs::write(&file, format!("retry_timeout: 3\nscope: demo\netcd3:\n  host: {}\n", port.address()))
        .unwrap();
    let start = ptarmigan_clock::now();
    let run = Ptctl::default().run(&format!("-c {} list", file.display())).await;
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    assert!(run.err.contains("Error: ") && run.err.contains(&port.address()), "{}", run.err);
    assert!(ptarmigan_clock::now().since(start) < Duration::from_secs(12));
}
