//! An open watchdog device.

use std::{
    fmt,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, Mode, OFlags};

use crate::{Driver, ioctl};

/// `WDIOF_SETTIMEOUT`: the timeout can be set.
const SETS_TIMEOUT: u32 = 0x80;
/// `WDIOF_MAGICCLOSE`: a `V` before the end disables it.
const MAGIC_CLOSE: u32 = 0x100;

/// Why the watchdog cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver's name stands for nothing.
    #[error("watchdog.driver names no watchdog that exists here, and watchdog.mode is `required`")]
    NoDriver,
    /// The device cannot be opened.
    #[error("cannot open {path}: {error}")]
    Open {
        /// The device.
        path: PathBuf,
        /// Why not.
        error: rustix::io::Errno,
    },
    /// The device does not do what it should.
    #[error("{what} of {path}: {error}")]
    Device {
        /// What it should do.
        what: &'static str,
        /// The device.
        path: PathBuf,
        /// Why it does not.
        error: rustix::io::Errno,
    },
    /// The device cannot count that far.
    #[error("a timeout of {0} s is not between 1 and 65534")]
    Timeout(i64),
    /// The watchdog would fire in peace.
    #[error(
        "its timeout of {timeout} s is shorter than loop_wait, {loop_wait} s: ttl less watchdog.safety_margin must not be"
    )]
    NoSlack {
        /// The wanted timeout, in seconds.
        timeout: i64,
        /// `loop_wait`, in seconds.
        loop_wait: u64,
    },
    /// The device's own timeout is too short.
    #[error("loop_wait of {loop_wait} seconds is too long for watchdog {actual} second timeout")]
    TooShort {
        /// The timeout, in seconds.
        actual: i64,
        /// `loop_wait`, in seconds.
        loop_wait: u64,
    },
    /// The device's own timeout is too long.
    #[error("watchdog timeout {actual} seconds does not ensure safe termination within {timeout} seconds")]
    TooLong {
        /// The timeout, in seconds.
        actual: i64,
        /// The wanted one, in seconds.
        timeout: i64,
    },
}

/// Whether the device is there and may be written to.
pub(crate) fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, Access::WRITE_OK).is_ok()
}

/// An open device: the host is reset unless it is written to.
#[derive(Debug)]
pub(crate) struct Device {
    descriptor: OwnedFd,
    path: PathBuf,
    testing: bool,
    options: u32,
    identity: String,
    timeout_s: i64,
}

impl Device {
    pub(crate) fn open(driver: Driver, path: &Path) -> Result<Self, Error> {
        let testing = driver == Driver::Testing;
        // A FIFO that nobody reads, or whose reader does not keep up, must not hold the daemon up.
        let flags =
            OFlags::WRONLY | OFlags::CLOEXEC | if testing { OFlags::NONBLOCK } else { OFlags::empty() };
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|error| Error::Open { path: path.to_owned(), error })?;
        let mut device = Self {
            descriptor,
            path: path.to_owned(),
            testing,
            options: SETS_TIMEOUT | MAGIC_CLOSE,
            identity: "Watchdog test harness".into(),
            timeout_s: 60,
        };
        if !testing {
            match ioctl::support(&device.descriptor) {
                Ok(support) => (device.options, device.identity) = (support.options, support.name()),
                Err(error) => {
                    let error = device.failed("information", error);
                    // It may count down already.
                    device.options = MAGIC_CLOSE;
                    drop(device.close());
                    return Err(error);
                }
            }
        }
        Ok(device)
    }

    fn failed(&self, what: &'static str, error: rustix::io::Errno) -> Error {
        Error::Device { what, path: self.path.clone(), error }
    }

    /// A written `V` disables it.
    pub(crate) const fn can_be_closed(&self) -> bool {
        self.options & MAGIC_CLOSE != 0
    }

    /// Sets the timeout where the device allows that; the one in effect, in seconds.
    pub(crate) fn set_timeout(&mut self, timeout_s: i64) -> Result<i64, Error> {
        let valid = i32::try_from(timeout_s).ok().filter(|timeout| (1..0xFFFF).contains(timeout));
        let timeout = valid.ok_or(Error::Timeout(timeout_s))?;
        if self.testing {
            self.write(format!("Ctimeout={timeout}\n").as_bytes())
                .map_err(|error| self.failed("timeout", error))?;
            self.timeout_s = timeout_s;
            return Ok(timeout_s);
        }
        if self.options & SETS_TIMEOUT != 0 {
            ioctl::set_timeout(&self.descriptor, timeout).map_err(|error| self.failed("timeout", error))?;
        }
        let actual = ioctl::timeout(&self.descriptor).map_err(|error| self.failed("timeout", error))?;
        self.timeout_s = actual.into();
        Ok(self.timeout_s)
    }

    pub(crate) fn keepalive(&self) -> Result<(), Error> {
        self.write(b"1").map_err(|error| self.failed("sign of life", error))
    }

    /// Disables it, where that is possible; else one more sign of life gives an administrator time.
    pub(crate) fn close(self) -> Result<(), Error> {
        let last: &[u8] = if self.can_be_closed() { b"V" } else { b"1" };
        self.write(last).map_err(|error| self.failed("end", error))
    }

    fn write(&self, mut bytes: &[u8]) -> rustix::io::Result<()> {
        while !bytes.is_empty() {
            match rustix::io::write(&self.descriptor, bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.identity, self.path.display())
    }
}
