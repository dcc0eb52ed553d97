//! A `pg_rewind` that is cut off: nothing runs on what it has left.

use std::{fs, path::Path};

use anyhow::ensure;
use ptarmigan_testkit::{postgres, wait_until};
use serde_json::json;

use crate::site::{LIMIT, Site, home_of, script};

/// The real program, killed once it copies, as long as `cut` is there.
fn cut_off(folder: &Path) -> String {
    let program = postgres::bin_dir().unwrap().join("pg_rewind");
    let (program, cut, said) = (program.display(), folder.join("cut"), folder.join("said"));
    let (cut, said) = (cut.display(), said.display());
    let body = format!(
        "[ -e {cut} ] || exec {program} \"$@\"\n\
         case \"$*\" in *--source-server*) ;; *) exec {program} \"$@\" ;; esac\n\
         {program} \"$@\" 2> {said} & rewind=$!\n\
         until grep -q 'need to copy' {said}; do kill -0 $rewind; sleep 0.001; done\n\
         kill -KILL $rewind\n\
         wait $rewind || true\n\
         cat {said} >&2\n\
         exit 1"
    );
    script(&folder.join("pg_rewind"), &body)
}

#[tokio::test]
async fn rw_10_nothing_runs_on_what_an_interrupted_rewind_left() {
    let (mut site, old) = Site::ready("interrupted-rewind", 2, |config| {
        let home = home_of(config);
        config["postgresql"]["bin_name"] = json!({"pg_rewind": cut_off(&home)});
        let dcs = config["bootstrap"]["dcs"].as_object_mut().unwrap();
        dcs.extend([
            ("ttl".into(), json!(20)),
            ("loop_wait".into(), json!(1)),
            ("retry_timeout".into(), json!(3)),
        ]);
    })
    .await;
    let new = 1 - old;
    // So much that the copying takes a while.
    let rows = "CREATE TABLE much AS SELECT repeat(md5(n::text), 30) AS v FROM generate_series(1, 60000) n";
    site.sql(old, rows).await.unwrap();
    site.wait_for_sql(new, "SELECT count(*) FROM much", "60000").await;
    site.node_mut(old).kill_machine().await.unwrap();
    site.wait_for_sql(new, "SELECT pg_is_in_recovery()", "f").await;
    site.sql(new, "UPDATE much SET v = 'new'").await.unwrap();
    let cut = site.node(old).home().join("cut");
    fs::write(&cut, "").unwrap();
    site.node_mut(old).start().unwrap();
    let refuses = "was interrupted, needs `ptctl reinit`";
    site.wait_for_log(old, 0, refuses).await;
    let answer = site.ask(old, "POST", "/restart", &json!({})).await;
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.body.contains("pg_rewind from") && answer.body.contains(".rewind"), "{}", answer.body);

    // The next daemon knows of it, and the same source can still repair it.
    site.node_mut(old).kill_daemon().unwrap();
    let lines = site.log_lines(old);
    site.node_mut(old).start().unwrap();
    site.wait_for_log(old, lines, refuses).await;
    let postmaster_was_there = site.log(old).lines().any(|line| line.contains("starting as a secondary"));
    assert!(!postmaster_was_there, "{}", site.log(old));
    assert!(site.node(old).connect().await.is_err());
    site.node_mut(old).kill_daemon().unwrap();
    fs::remove_file(&cut).unwrap();
    let lines = site.log_lines(old);
    site.node_mut(old).start().unwrap();
    // Where pg_rewind was cut off while it replaced WAL that it needs itself, only a new copy helps, as the daemon says.
    let this = &site;
    let repaired = wait_until("a repair, or word that there is none", LIMIT, || async {
        if this.log_since(old, lines).contains(refuses) {
            return Ok(false);
        }
        ensure!(this.node(old).is_replica().await, "no replica");
        Ok(true)
    });
    if !repaired.await.unwrap() {
        let name = site.name(old);
        let said = site.ptctl(&["reinit", "demo", &name, "--force"]).await;
        assert!(said.contains("Success"), "{said}");
    }
    assert_eq!(site.settled().await, new);
    site.wait_for_sql(old, "SELECT count(*) FROM much WHERE v = 'new'", "60000").await;
    assert!(!site.node(old).home().join("data.rewind").exists());
}
