//! SIGUSR2: daemon and guardian execute their programs anew, and nobody notices.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::{
    fence::{configure, kill_guardian},
    site::{LIMIT, Site},
};

async fn upgrade(site: &mut Site, index: usize) {
    let processes = |site: &mut Site| {
        let node = site.node_mut(index);
        (node.daemon_pid().unwrap(), node.guardian_pid().unwrap(), node.postmaster_pid().unwrap())
    };
    let (before, lines) = (processes(site), site.log_lines(index));
    kill_process(before.0, Signal::USR2).unwrap();
    site.wait_for_log(index, lines, "taking care of the running PostgreSQL").await;
    site.wait_for_cycles(index, 2).await;
    assert_eq!(processes(site), before, "the same processes");
    let log = site.log_since(index, lines);
    for line in
        ["got SIGUSR2", "goes on as release", "the guardian was upgraded in place", "INFO: executing "]
    {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[tokio::test]
async fn an_upgrade_in_place_is_noticed_by_nobody_and_fences_as_before() {
    let (mut site, leader) = Site::ready("upgrade", 2, configure).await;
    let (prober, mut writer) = (site.prober(), site.writer());
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let lock = site.key("leader").await.unwrap();
    writer.mark();
    for index in [leader, 1 - leader, leader] {
        upgrade(&mut site, index).await;
    }
    writer.wait_for_rows(20, LIMIT).await.unwrap();
    let gap = writer.longest_gap();
    eprintln!("upgraded in place: the longest gap of the writer is {gap:?}");
    assert_eq!(writer.failed(), []);
    assert!(gap < Duration::from_millis(500), "{gap:?}");
    let now = site.key("leader").await.unwrap();
    assert_eq!((now.value, now.create_revision), (lock.value, lock.create_revision));
    assert_eq!(site.settled().await, leader);
    for index in 0..2 {
        let status = site.node(index).patroni().await.unwrap();
        assert_eq!(status["guardian"], json!({"armed": true}), "{status}");
    }

    // The guardian is still PostgreSQL's parent: it takes PostgreSQL with it.
    kill_guardian(&site, leader).await;
    assert_eq!(site.settled().await, leader);
    writer.stop();
    prober.finish();
}
