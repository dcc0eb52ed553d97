//! What both daemons make of one running server, and of none (contract D.1).

use std::{path::Path, process::Command};

use ptarmigan_testkit::{Binaries, Workspace, postgres, postgres::Server, process};
use serde_json::{Map, Value, json};

use crate::lab::{SOON, venv};

#[tokio::test]
async fn d_1_generated_configurations_are_the_same_but_for_what_is_listed() {
    let Some(venv) = venv().await else { return };
    let workspace = Workspace::new("generate").unwrap();
    let ours = Binaries::beside(&workspace, env!("CARGO_BIN_EXE_ptarmigan")).unwrap().ptarmigan();
    let theirs = venv.join("bin/patroni");
    let mut server = Server::start(&workspace, "plain").await.unwrap();
    let client = server.connect().await.unwrap();
    for (name, value) in [
        ("work_mem", "7MB"),
        ("cluster_name", "demo"),
        ("archive_mode", "on"),
        ("archive_command", "cp \"%p\" ''/x/%f''"),
        ("log_line_prefix", "%m ''it'' # "),
        ("wal_keep_size", "64MB"),
        ("max_connections", "61"),
        ("track_activity_query_size", "2kB"),
        ("effective_io_concurrency", "3"),
        ("restore_command", "false"),
    ] {
        client.batch_execute(&format!("ALTER SYSTEM SET {name} = '{value}'")).await.unwrap();
    }
    let hba = server.data_dir().join("pg_hba.conf");
    let lines =
        std::fs::read_to_string(&hba).unwrap() + "# more\n\nhost all all 10.0.0.0/8   md5  # theirs\n";
    workspace.write(&hba, &lines).unwrap();
    workspace.write(&server.data_dir().join("pg_ident.conf"), "# c\nm1   root  postgres\n").unwrap();
    server.stop().await.unwrap();
    server.restart().await.unwrap();

    let dsn = format!("host=127.0.0.1 port={} user=postgres password={}", server.port(), server.password());
    let arguments = ["--generate-config", "--dsn", &dsn];
    let theirs_of_server = generate(&workspace, &theirs, &arguments).await;
    assert_same(generate(&workspace, &ours, &arguments).await, theirs_of_server);
    let arguments = ["--generate-sample-config"];
    let theirs_sample = generate(&workspace, &theirs, &arguments).await;
    assert_same(generate(&workspace, &ours, &arguments).await, theirs_sample);
}

async fn generate(workspace: &Workspace, program: &Path, arguments: &[&str]) -> Map<String, Value> {
    let mut command: Command = process::command(workspace, Path::new(workspace.path()), program);
    // the sample asks for the version of the program
    command.env("PATRONI_POSTGRESQL_BIN_DIR", postgres::bin_dir().unwrap());
    command.env("PATRONI_ETCD3_HOSTS", "10.0.0.1:2379").args(arguments);
    let output = process::run(command, SOON).await.unwrap();
    ptarmigan_config::yaml::parse_mapping(&String::from_utf8(output.stdout).unwrap()).unwrap().0
}

/// Everything is compared but what `docs/compatibility.md` lists.
fn assert_same(ours: Map<String, Value>, theirs: Map<String, Value>) {
    let (mut ours, mut theirs) = (Value::Object(ours), Value::Object(theirs));
    for config in [&mut ours, &mut theirs] {
        // a machine's own name often stands for a loopback address
        for section in ["restapi", "postgresql"] {
            for key in ["connect_address", "listen"] {
                let address = config[section][key].as_str().unwrap_or_default();
                let port = address.rsplit_once(':').map(|(_, port)| port.to_owned());
                config[section][key] = json!(port);
            }
        }
    }
    // the validator of both refuses it beside sync_priority
    remove(&mut theirs, "/tags", &["nosync"]);
    // libpq's defaults
    remove(
        &mut theirs,
        "/postgresql/authentication/superuser",
        &["channel_binding", "gssencmode", "sslmode"],
    );
    // these follow from other keys
    remove(&mut theirs, "/postgresql/parameters", &["config_file", "hba_file", "ident_file"]);
    remove(&mut theirs, "/bootstrap/dcs/postgresql/parameters", &["cluster_name"]);
    assert_eq!(ours, theirs);
}

fn remove(config: &mut Value, pointer: &str, keys: &[&str]) {
    let Some(Value::Object(section)) = config.pointer_mut(pointer) else { return };
    section.retain(|key, _| !keys.contains(&key.as_str()));
}
