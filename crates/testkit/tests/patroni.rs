//! A cluster of real Patroni nodes. Needs PyPI at the first run, therefore not part of the ordinary tests:
//! `cargo nextest run -p ptarmigan-testkit --run-ignored only`.

use std::time::Duration;

use ptarmigan_testkit::{Cluster, Workspace, Writer, cluster::Options, node::Runner, patroni};

const DEADLINE: Duration = Duration::from_secs(90);

#[tokio::test]
#[ignore = "installs Patroni from PyPI"]
async fn a_patroni_cluster_switches_over_and_survives_the_loss_of_a_machine() {
    let venv = patroni::ensure_venv(&patroni::default_venv().unwrap()).await.unwrap();
    let workspace = Workspace::new("patroni").unwrap();
    let options = Options {
        scope: "demo".to_owned(),
        etcd_members: 1,
        nodes: vec![Runner::Patroni(venv.clone()), Runner::Patroni(venv)],
        haproxy_check: Some("OPTIONS /".to_owned()),
    };
    let mut cluster = Cluster::start(&workspace, options, |_| ()).await.unwrap();
    let leader = cluster.wait_for_replicas(DEADLINE).await.unwrap();
    let mut writer = Writer::start(cluster.writer_options()).unwrap();
    writer.wait_for_rows(20, DEADLINE).await.unwrap();

    let answer = cluster.switchover(leader, Some(1 - leader)).await.unwrap();
    assert!(answer.contains("Successfully switched over"), "{answer}");
    assert_eq!(cluster.wait_for_replicas(DEADLINE).await.unwrap(), 1 - leader);
    writer.wait_for_rows(20, DEADLINE).await.unwrap();
    assert!(cluster.nodes[leader].is_replica().await);
    assert_eq!(cluster.nodes[leader].patroni().await.unwrap()["role"], "replica");

    cluster.nodes[1 - leader].kill_machine().await.unwrap();
    assert!(!cluster.nodes[1 - leader].is_running());
    assert_eq!(cluster.nodes[1 - leader].processes(), []);
    assert_eq!(cluster.wait_for_leader(DEADLINE).await.unwrap(), leader);
    writer.wait_for_rows(20, DEADLINE).await.unwrap();
    writer.stop();
    let client = cluster.nodes[leader].connect().await.unwrap();
    client.query("SELECT count(*) FROM ptarmigan_writes", &[]).await.unwrap();

    cluster.nodes[1 - leader].start().unwrap();
    assert_eq!(cluster.wait_for_replicas(DEADLINE).await.unwrap(), leader);
}
