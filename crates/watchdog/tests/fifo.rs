//! The watchdog over a FIFO: what the device would be written.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    io::Read as _,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::PathBuf,
};

use ptarmigan_watchdog::{Config, Driver, Error, Mode, Watchdog};

struct Fifo {
    reader: std::fs::File,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Fifo {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watchdog");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let reader = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        Self { reader, path, _folder: folder }
    }

    fn written(&mut self) -> String {
        let mut text = Vec::new();
        // Nothing more to read is no error here.
        let _ = self.reader.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    fn config(&self, mode: Mode) -> Config {
        Config {
            mode,
            driver: Driver::Testing,
            device: self.path.clone(),
            safety_margin_s: 5,
            ttl_s: 30,
            loop_wait_s: 10,
        }
    }

    fn watchdog(&self, mode: Mode) -> Watchdog {
        Watchdog::new(self.config(mode)).unwrap()
    }
}

#[test]
fn d_6_timeout_and_slack() {
    for (margin, ttl, loop_wait, timeout, slack) in [
        (5, 30, 10, 25, 15),
        (-1, 30, 10, 15, 5),
        (-1, 31, 10, 15, 5),
        (0, 30, 10, 30, 20),
        (25, 30, 10, 5, -5),
    ] {
        let config =
            Config { safety_margin_s: margin, ttl_s: ttl, loop_wait_s: loop_wait, ..Config::default() };
        assert_eq!((config.timeout_s(), config.slack_s()), (timeout, slack));
    }
}

#[test]
fn d_6_written_are_timeout_signs_of_life_and_the_end() {
    let mut fifo = Fifo::new();
    for mode in [Mode::Automatic, Mode::Required] {
        let mut watchdog = fifo.watchdog(mode);
        assert!(watchdog.is_wanted() && watchdog.is_healthy() && !watchdog.is_running());
        watchdog.keepalive();
        assert_eq!(fifo.written(), "", "nobody leads");
        watchdog.activate().unwrap();
        assert!(watchdog.is_running());
        assert_eq!(fifo.written(), "Ctimeout=25\n1");
        watchdog.keepalive();
        watchdog.keepalive();
        assert_eq!(fifo.written(), "11");
        watchdog.disable();
        watchdog.disable();
        watchdog.keepalive();
        assert_eq!((fifo.written().as_str(), watchdog.is_running()), ("V", false));
    }
    // A daemon that dies writes no end: the host is to be reset.
    let mut watchdog = fifo.watchdog(Mode::Automatic);
    watchdog.activate().unwrap();
    drop(watchdog);
    assert_eq!(fifo.written(), "Ctimeout=25\n1");
}

#[test]
fn d_6_off_opens_nothing() {
    let mut fifo = Fifo::new();
    let mut watchdog = fifo.watchdog(Mode::Off);
    assert!(!watchdog.is_wanted() && watchdog.is_healthy());
    watchdog.activate().unwrap();
    assert!(!watchdog.is_running());
    assert_eq!(fifo.written(), "");
}

#[test]
fn d_6_without_a_device_automatic_goes_on_and_required_does_not() {
    let fifo = Fifo::new();
    let missing = |mode| Config { device: "/nonexistent/watchdog".into(), ..fifo.config(mode) };
    let mut automatic = Watchdog::new(missing(Mode::Automatic)).unwrap();
    automatic.activate().unwrap();
    assert!(!automatic.is_running() && !automatic.is_wanted() && automatic.is_healthy());
    let mut required = Watchdog::new(missing(Mode::Required)).unwrap();
    assert!(!required.is_healthy() && required.is_wanted());
    assert!(matches!(required.activate(), Err(Error::Open { .. })));
    // Once the module is loaded it works, without a restart.
    required.configure(fifo.config(Mode::Required));
    assert!(required.is_healthy());
    required.activate().unwrap();
    // What is no watchdog is none.
    let file = fifo.path.with_file_name("file");
    std::fs::write(&file, "").unwrap();
    let config = Config { driver: Driver::Kernel, device: file, ..fifo.config(Mode::Required) };
    let mut no_device = Watchdog::new(config).unwrap();
    assert!(matches!(no_device.activate(), Err(Error::Device { what: "information", .. })));
    assert!(!no_device.is_running());
}

#[test]
fn d_2_a_required_watchdog_of_no_kind_ends_the_start() {
    let fifo = Fifo::new();
    let unknown = |mode| Config { driver: Driver::Unknown, ..fifo.config(mode) };
    assert!(matches!(Watchdog::new(unknown(Mode::Required)), Err(Error::NoDriver)));
    assert!(Watchdog::new(unknown(Mode::Automatic)).is_ok());
}

#[test]
fn d_6_a_watchdog_that_would_fire_in_peace_is_not_used() {
    let mut fifo = Fifo::new();
    let narrow = |mode| Config { safety_margin_s: 25, ..fifo.config(mode) };
    let mut automatic = Watchdog::new(narrow(Mode::Automatic)).unwrap();
    automatic.activate().unwrap();
    assert!(!automatic.is_running() && automatic.is_healthy());
    let mut required = Watchdog::new(narrow(Mode::Required)).unwrap();
    assert!(!required.is_healthy());
    assert!(matches!(required.activate(), Err(Error::NoSlack { timeout: 5, loop_wait: 10 })));
    assert_eq!(fifo.written(), "");
}

#[test]
fn d_6_new_settings_reach_a_watchdog_that_counts_down() {
    let mut fifo = Fifo::new();
    let mut other = Fifo::new();
    let mut watchdog = fifo.watchdog(Mode::Automatic);
    watchdog.activate().unwrap();
    watchdog.configure(fifo.config(Mode::Automatic));
    assert_eq!(fifo.written(), "Ctimeout=25\n1", "nothing changed");
    watchdog.configure(Config { ttl_s: 40, ..fifo.config(Mode::Automatic) });
    assert_eq!(fifo.written(), "Ctimeout=35\n1");
    watchdog.configure(other.config(Mode::Automatic));
    assert_eq!((fifo.written().as_str(), other.written().as_str()), ("V", "Ctimeout=25\n1"));
    watchdog.configure(other.config(Mode::Off));
    assert_eq!((other.written().as_str(), watchdog.is_running()), ("V", false));
}

#[test]
fn a_fifo_that_nobody_reads_holds_nobody_up() {
    let fifo = Fifo::new();
    let mut watchdog = fifo.watchdog(Mode::Required);
    watchdog.activate().unwrap();
    for _ in 0..100_000 {
        watchdog.keepalive();
    }
    drop::<OwnedFd>(fifo.reader.into());
    watchdog.keepalive();
    assert!(watchdog.activate().is_err(), "nobody reads it any more");
}
