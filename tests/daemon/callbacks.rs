//! The operator's callbacks, over everything that can happen to two servers (contract B.25).

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};
use ptarmigan_testkit::wait_until;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::site::{LIMIT, Site, home_of, script};

const EVENTS: [&str; 5] = ["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"];

/// Every callback of a node tells its arguments. Where the file `hang` lies beside it, one that is not `on_reload` starts a
/// child, tells its number, and waits; where `wait` does, until that is gone.
fn with_callbacks(config: &mut Value) {
    let home = home_of(config);
    let command = script(
        &home.join("callback.sh"),
        "cd \"$(dirname \"$0\")\"\n\
         echo \"$@\" >> callbacks\n\
         if [ -e hang ] && [ \"$2\" != on_reload ]; then sleep 600 & echo $! > child; wait; fi\n\
         while [ -e wait ]; do sleep 0.05; done\n\
         echo \"end of $2\" >> callbacks",
    );
    for event in EVENTS {
        config["postgresql"]["callbacks"][event] = json!(format!("{command} 'an argument'"));
    }
}

/// What one node's callbacks told.
struct Told(PathBuf);

impl Told {
    fn of(site: &Site, index: usize) -> Self {
        Self(site.node(index).home().to_owned())
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("callbacks")).unwrap_or_default();
        text.lines().map(|line| line.trim_start_matches("an argument ").to_owned()).collect()
    }

    /// The calls, without their ends and without those for a reload, whose number depends on how often files changed.
    fn calls(&self) -> Vec<String> {
        let lines = self.lines();
        lines.into_iter().filter(|line| !line.starts_with("end of") && !line.contains("on_reload")).collect()
    }

    /// Waits until exactly these were told since `before`, in this order.
    async fn wait_for(&self, before: usize, expected: &[&str]) {
        wait_until(&format!("the callbacks {expected:?}"), LIMIT, || async {
            let calls = self.calls().split_off(before);
            ensure!(calls == expected, "{calls:?}");
            Ok(())
        })
        .await
        .unwrap();
    }

    async fn wait_for_line(&self, line: &str) {
        wait_until(&format!("{line:?} in the callbacks"), LIMIT, || async {
            ensure!(self.lines().iter().any(|told| told == line), "{:?}", self.lines());
            Ok(())
        })
        .await
        .unwrap();
    }

    fn set(&self, flag: &str) {
        fs::write(self.0.join(flag), "").unwrap();
    }

    fn clear(&self, flag: &str) {
        fs::remove_file(self.0.join(flag)).unwrap();
    }
}

/// A process that was killed and that nobody has waited for yet is none any more.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

async fn restart(site: &Site, index: usize) {
    let answer = site.ask(index, "POST", "/restart", &json!({})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
}

async fn switch_over(site: &mut Site, leader: usize) {
    // A standby that has lost its stream with a restart would part from its leader, and be started twice.
    site.everything_streamed(leader).await;
    site.cluster.switchover(leader, None).await.unwrap();
    assert_ne!(site.settled().await, leader);
}

/// A callback that hangs is killed with its child by the next one, while `on_reload` runs beside it.
async fn last_one_wins(site: &mut Site, leader: usize, told: &Told) {
    told.set("hang");
    restart(site, leader).await;
    // The file is there before its content is.
    let child = wait_until("the child of a callback that hangs", LIMIT, || async {
        let child = fs::read_to_string(told.0.join("child"))?;
        Pid::from_raw(child.trim().parse()?).context("pid 0")
    })
    .await
    .unwrap();
    let reloads = told.lines().iter().filter(|line| line.contains("end of on_reload")).count();
    site.node_mut(leader).signal(Signal::HUP).unwrap();
    wait_until("on_reload beside a callback that hangs", LIMIT, || async {
        let now = told.lines().iter().filter(|line| line.contains("end of on_reload")).count();
        ensure!(now > reloads);
        Ok(())
    })
    .await
    .unwrap();
    assert!(is_alive(child), "it was killed for a reload");
    told.clear("hang");
    // The standby lost its stream with the restart: without it the two would part.
    site.settled().await;
    let before = told.calls().len();
    switch_over(site, leader).await;
    told.wait_for(before, &["on_stop primary demo", "on_role_change replica demo"]).await;
    wait_until("the end of what the killed callback started", LIMIT, || async {
        ensure!(!is_alive(child));
        Ok(())
    })
    .await
    .unwrap();
    let ended = told.lines().iter().filter(|line| *line == "end of on_restart").count();
    assert_eq!(ended, 1, "the one that hung did not go on: {:?}", told.lines());
}

#[tokio::test]
async fn b_25_callbacks_hear_of_everything_in_its_order() {
    let (mut site, first) = Site::ready("callbacks", 2, with_callbacks).await;
    let second = 1 - first;
    let (one, two) = (Told::of(&site, first), Told::of(&site, second));
    one.wait_for(0, &["on_start primary demo"]).await;
    two.wait_for(0, &["on_start replica demo"]).await;
    assert!(one.lines()[0] == "on_start primary demo", "nothing before: {:?}", one.lines());

    // a restart of each
    restart(&site, first).await;
    restart(&site, second).await;
    one.wait_for(1, &["on_restart primary demo"]).await;
    two.wait_for(1, &["on_restart replica demo"]).await;
    site.settled().await;

    // a reload
    site.node_mut(second).signal(Signal::HUP).unwrap();
    two.wait_for_line("on_reload replica demo").await;
    two.wait_for_line("end of on_reload").await;

    switch_over(&mut site, first).await;
    one.wait_for(2, &["on_stop primary demo", "on_role_change replica demo"]).await;
    two.wait_for(2, &["on_role_change primary demo"]).await;

    last_one_wins(&mut site, second, &two).await;
    one.wait_for(4, &["on_role_change primary demo"]).await;

    // a crash is no stop, and what comes up in the same role is a start
    kill_process(site.node(first).postmaster_pid().unwrap(), Signal::KILL).unwrap();
    one.wait_for(5, &["on_start primary demo"]).await;
    site.settled().await;

    // a daemon that finds a running server
    let before = two.calls().len();
    site.node_mut(second).kill_daemon().unwrap();
    site.node_mut(second).start().unwrap();
    two.wait_for(before, &["on_start replica demo"]).await;

    // the end of the daemon is not that of its callback
    two.set("wait");
    site.node_mut(second).stop(LIMIT).await.unwrap();
    two.wait_for(before + 1, &["on_stop replica demo"]).await;
    assert_eq!(two.lines().last().unwrap(), "on_stop replica demo");
    two.clear("wait");
    wait_until("the end of the last callback", LIMIT, || async {
        ensure!(two.lines().last().is_some_and(|line| line == "end of on_stop"), "{:?}", two.lines());
        Ok(())
    })
    .await
    .unwrap();
}
