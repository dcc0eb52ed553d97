//! The kernel watchdog (contract D.6): a device that resets the host unless it is written to in time. A leader opens it, and
//! every renewal of the lock writes to it; so a host whose daemon stands still is gone before its lock is.
//!
//! No call here waits for anything.

mod device;
mod ioctl;

use std::path::PathBuf;

use device::Device;

pub use device::Error;

/// How much the watchdog is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Not used.
    #[default]
    Off,
    /// Used where it works.
    Automatic,
    /// Nobody leads without it.
    Required,
}

/// What stands behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// The kernel's device.
    #[default]
    Kernel,
    /// A FIFO or file that is written to as the device would be, with `Ctimeout=N` and a newline for its timeout.
    Testing,
    /// A name that stands for nothing: there is no watchdog.
    Unknown,
}

/// Its settings, and what of the cluster's they are measured against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How much it is wanted.
    pub mode: Mode,
    /// What stands behind it.
    pub driver: Driver,
    /// The device.
    pub device: PathBuf,
    /// Seconds between the reset and the end of the lock; -1: the reset comes after half of the TTL.
    pub safety_margin_s: i64,
    /// The TTL of the lock, in seconds.
    pub ttl_s: u64,
    /// The longest sleep of the loop, in seconds.
    pub loop_wait_s: u64,
}

impl Config {
    /// After how many seconds without a sign of life the host is to be reset.
    pub fn timeout_s(&self) -> i64 {
        let ttl = i64::try_from(self.ttl_s).unwrap_or(i64::MAX);
        if self.safety_margin_s == -1 { ttl / 2 } else { ttl.saturating_sub(self.safety_margin_s) }
    }

    /// How much later than planned a renewal may come, in seconds; negative: the watchdog would fire in peace.
    pub fn slack_s(&self) -> i64 {
        self.timeout_s().saturating_sub(i64::try_from(self.loop_wait_s).unwrap_or(i64::MAX))
    }

    fn same_device(&self, other: &Self) -> bool {
        (self.driver, &self.device) == (other.driver, &other.device)
    }
}

/// The watchdog of one daemon. Dropped while it counts down it goes on counting: that is what it is for.
#[derive(Debug, Default)]
pub struct Watchdog {
    config: Config,
    open: Option<Device>,
    /// It could not be used, and is not tried again before its settings change (`automatic` only).
    given_up: bool,
}

impl Watchdog {
    /// A watchdog that is not open.
    ///
    /// # Errors
    /// It is required, and there is nothing that it could be: the daemon must not start (contract D.2).
    pub fn new(config: Config) -> Result<Self, Error> {
        if config.mode == Mode::Required && config.driver == Driver::Unknown {
            return Err(Error::NoDriver);
        }
        Ok(Self { config, open: None, given_up: false })
    }

    /// It counts down.
    pub const fn is_running(&self) -> bool {
        self.open.is_some()
    }

    /// It is to be activated before this node leads.
    pub fn is_wanted(&self) -> bool {
        self.config.mode != Mode::Off && !self.given_up
    }

    /// False where it is required and cannot be used: this node must not lead, and says so to others.
    pub fn is_healthy(&self) -> bool {
        self.config.mode != Mode::Required
            || self.config.slack_s() >= 0
                && (self.is_running()
                    || self.config.driver != Driver::Unknown && device::is_writable(&self.config.device))
    }

    /// Takes new settings over. Off takes effect at once; whatever else concerns a device that counts down waits for the next
    /// sign of life, so that its timeout fits the lock.
    pub fn configure(&mut self, config: Config) {
        if config == self.config {
            return;
        }
        self.given_up = false;
        if config.mode == Mode::Off {
            self.disable();
        }
        if self.open.is_none() {
            self.config = config;
            return;
        }
        let before = std::mem::replace(&mut self.config, config);
        if !before.same_device(&self.config) {
            self.disable();
        }
        if before.same_device(&self.config)
            && before.timeout_s() == self.config.timeout_s()
            && before.mode == self.config.mode
        {
            return;
        }
        if let Err(error) = self.activate() {
            tracing::error!("{error}");
        }
    }

    /// Opens it and sets its timeout; nothing where it is open with the right one.
    ///
    /// # Errors
    /// It is required and cannot be used safely: this node must not lead.
    pub fn activate(&mut self) -> Result<(), Error> {
        if !self.is_wanted() {
            return Ok(());
        }
        match self.try_activate() {
            Ok(()) => Ok(()),
            Err(error) if self.config.mode == Mode::Required => {
                tracing::error!("the configuration requires a watchdog: {error}");
                Err(error)
            }
            Err(error) => {
                tracing::info!("no watchdog is used: {error}");
                self.given_up = true;
                Ok(())
            }
        }
    }

    fn try_activate(&mut self) -> Result<(), Error> {
        let (timeout, slack) = (self.config.timeout_s(), self.config.slack_s());
        if slack < 0 {
            self.disable();
            return Err(Error::NoSlack { timeout, loop_wait: self.config.loop_wait_s });
        }
        let mut device = match self.open.take() {
            Some(device) => device,
            None => Device::open(self.config.driver, &self.config.device)?,
        };
        let actual = device.set_timeout(timeout);
        if !device.can_be_closed() {
            tracing::warn!("{device} cannot be disabled: the host is reset once this node has lost the lock");
        }
        // From here on it counts down, whatever else is wrong with it.
        let actual = match actual {
            Ok(actual) => actual,
            Err(error) => {
                close(device);
                return Err(error);
            }
        };
        if actual < i64::try_from(self.config.loop_wait_s).unwrap_or(i64::MAX) && device.can_be_closed() {
            close(device);
            return Err(Error::TooShort { actual, loop_wait: self.config.loop_wait_s });
        }
        if actual > timeout {
            let error = Error::TooLong { actual, timeout };
            if self.config.mode == Mode::Required {
                close(device);
                return Err(error);
            }
            tracing::warn!("{error}");
        }
        tracing::info!("{device} activated with {actual} second timeout, timing slack {slack} seconds");
        self.open = Some(device);
        self.keepalive();
        Ok(())
    }

    /// A sign of life, right after the lock was renewed.
    pub fn keepalive(&mut self) {
        if let Some(device) = &self.open
            && let Err(error) = device.keepalive()
        {
            tracing::error!("watchdog: {error}");
        }
    }

    /// Lets the host live without it.
    pub fn disable(&mut self) {
        if let Some(device) = self.open.take() {
            close(device);
        }
    }
}

fn close(device: Device) {
    if !device.can_be_closed() {
        tracing::warn!("{device} cannot be disabled: the host will be reset when it times out");
    }
    if let Err(error) = device.close() {
        tracing::error!("watchdog: {error}");
    }
}
