//! `ptctl demo`, as an operator starts it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ptarmigan_testkit::{Process, Workspace, process, wait_until};
use rustix::process::Signal;

const DEADLINE: Duration = Duration::from_secs(240);

/// Starts the demo; its output goes to a file of `workspace`, which is no terminal.
fn start(workspace: &Workspace) -> Result<Process> {
    let mut demo = process::bare_command(env!("CARGO_BIN_EXE_ptctl"));
    demo.arg("demo");
    Process::spawn(workspace, "ptctl", demo)
}

/// The folder that the demo said it works in.
fn folder(text: &str) -> Option<PathBuf> {
    let (_, rest) = text.split_once("[2/6] Start a cluster in ")?;
    Some(PathBuf::from(rest.split_once('\n')?.0))
}

fn assert_nothing_is_left(folder: &Path) {
    assert!(folder.to_string_lossy().contains("/ptarmigan-demo-"), "{folder:?}");
    assert!(!folder.exists(), "{folder:?}");
    assert_eq!(process::processes_of(folder), []);
}

#[tokio::test]
async fn the_demo_loses_no_row_and_cleans_up() {
    let workspace = Workspace::new("demo-test").unwrap();
    let mut demo = start(&workspace).unwrap();
    let status = demo.wait(DEADLINE).await;
    let text = fs::read_to_string(demo.log()).unwrap();
    assert!(status.unwrap().success(), "{text}");
    for line in [
        "[1/6] What is needed\n",
        "[3/6] Switchover: node",
        "[4/6] Failover: the machine of node",
        "[5/6] The machine of node",
        "[6/6] Are all acknowledged rows there?\n",
        "every one of them is on node1, node2 and node3.\n",
        "Everything is stopped and removed",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "control characters without a terminal:\n{text}");
    let gaps: Vec<f64> = text
        .lines()
        .filter_map(|line| line.split_once("Writes stood still for ")?.1.strip_suffix(" s.")?.parse().ok())
        .collect();
    let [switchover, failover] = gaps[..] else { panic!("no two gaps in\n{text}") };
    assert!(switchover < failover, "{gaps:?}");
    assert_nothing_is_left(&folder(&text).unwrap());
}

#[tokio::test]
async fn an_interrupted_demo_leaves_nothing_behind() {
    let workspace = Workspace::new("demo-test").unwrap();
    let mut demo = start(&workspace).unwrap();
    let log = demo.log().to_owned();
    let folder = wait_until("a database that is there", DEADLINE, || async {
        let text = fs::read_to_string(&log)?;
        let folder = folder(&text).context("no folder")?;
        let exists = fs::exists(folder.join("node1/data"))?;
        exists.then_some(folder).context(text)
    })
    .await
    .unwrap();
    demo.signal(Signal::INT).unwrap();
    let status = demo.wait(Duration::from_secs(30)).await.unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(
        text.ends_with("ptctl demo: interrupted; everything that was started is stopped and removed\n"),
        "{text}"
    );
    assert_nothing_is_left(&folder);
}
