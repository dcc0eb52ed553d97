//! The kernel watchdog, played by a FIFO: it hears of every renewal of the lock, and of nothing else.

use std::{io::Read as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf, sync::Mutex, time::Duration};

use anyhow::ensure;
use ptarmigan_testkit::wait_until;
use serde_json::json;

use crate::site::{LIMIT, Site};

/// The other end of the device.
struct Device {
    path: PathBuf,
    reader: Mutex<std::fs::File>,
    heard: Mutex<String>,
}

impl Device {
    fn new(path: PathBuf) -> Self {
        make(&path);
        let reader = Mutex::new(open(&path));
        Self { path, reader, heard: Mutex::default() }
    }

    /// Everything that was written since the last [`Device::forget`].
    fn heard(&self) -> String {
        let mut bytes = Vec::new();
        // Nothing more to read is no error here.
        let _ = self.reader.lock().unwrap().read_to_end(&mut bytes);
        let mut heard = self.heard.lock().unwrap();
        heard.push_str(&String::from_utf8(bytes).unwrap());
        heard.clone()
    }

    fn forget(&self) {
        self.heard();
        self.heard.lock().unwrap().clear();
    }

    async fn wait_for(&self, what: &str, holds: impl Fn(&str) -> bool) {
        wait_until(what, LIMIT, || async {
            let heard = self.heard();
            ensure!(holds(&heard), "{heard:?}");
            Ok(())
        })
        .await
        .unwrap();
    }

    /// Opened, and written to twice since.
    async fn wait_for_life(&self) {
        self.wait_for("signs of life", |heard| {
            let last = heard.rsplit("Ctimeout=").next().unwrap_or_default();
            heard.contains("Ctimeout=15\n") && last.trim_start_matches("15\n").starts_with("11")
        })
        .await;
    }

    async fn wait_for_end(&self) {
        self.wait_for("the end", |heard| heard.ends_with('V')).await;
    }
}

fn make(path: &PathBuf) {
    let everybody = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, everybody, 0).unwrap();
    rustix::fs::chmod(path, everybody).unwrap();
}

fn open(path: &PathBuf) -> std::fs::File {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
}

#[tokio::test]
async fn the_watchdog_hears_of_every_renewal_and_is_off_where_nothing_leads() {
    let mut device = None;
    let mut site = Site::start("watchdog", 1, |config| {
        let data_dir = PathBuf::from(config["postgresql"]["data_dir"].as_str().unwrap());
        let found = device.insert(Device::new(data_dir.with_file_name("watchdog")));
        config["watchdog"] = json!({"mode": "required", "driver": "testing", "device": found.path});
    })
    .await;
    let device = device.unwrap();
    site.settled().await;
    device.wait_for_life().await;

    // A leader that steps down for lack of etcd stays silent, then takes it off before nobody writes any more.
    site.cluster.store.freeze(0).unwrap();
    device.wait_for_end().await;
    device.forget();
    site.wait_for_log(0, 0, "demoting self because DCS is not accessible").await;
    assert_eq!(device.heard(), "", "nothing leads");
    site.cluster.store.thaw(0).unwrap();
    device.wait_for_life().await;

    // In pause an operator decides what becomes of the host.
    site.ptctl(&["pause", "--wait"]).await;
    device.wait_for_end().await;
    device.forget();
    let lines = site.log_lines(0);
    site.wait_for_log(0, lines, "PAUSE: no action. I am (node1), the leader with the lock").await;
    assert_eq!(device.heard(), "");
    site.ptctl(&["resume", "--wait"]).await;
    device.wait_for_life().await;

    // A daemon that is killed leaves it counting.
    device.forget();
    site.node_mut(0).kill_daemon().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!device.heard().contains('V'), "{:?}", device.heard());
    device.forget();
    site.node_mut(0).start().unwrap();
    device.wait_for_life().await;

    // A stop takes it off.
    site.node_mut(0).stop(LIMIT).await.unwrap();
    device.wait_for_end().await;

    // Required and not there: nobody leads, and the others are told; it is taken up again once it is there.
    std::fs::remove_file(&device.path).unwrap();
    let lines = site.log_lines(0);
    site.node_mut(0).start().unwrap();
    wait_until("the missing watchdog to be told", LIMIT, || async {
        let status = site.node(0).patroni().await?;
        ensure!(status["watchdog_failed"] == true && status["role"] == "replica", "{status}");
        Ok(())
    })
    .await
    .unwrap();
    site.wait_for_log(0, lines, "i am not the healthiest node").await;
    assert!(site.key("leader").await.is_none());
    make(&device.path);
    *device.reader.lock().unwrap() = open(&device.path);
    site.settled().await;
    device.wait_for_life().await;
}
