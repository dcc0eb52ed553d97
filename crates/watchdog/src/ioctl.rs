//! The three requests that a Linux watchdog device understands (`linux/watchdog.h`). The only `unsafe` of this crate: an ioctl
//! is a promise about the memory that the kernel reads and writes.
#![allow(
    unsafe_code,
    reason = "rustix leaves this promise to its callers, and no safe interface to watchdogs is maintained"
)]

use std::os::fd::OwnedFd;

use rustix::{
    io::Result,
    ioctl::{Getter, Opcode, Updater, ioctl, opcode},
};

const GROUP: u8 = b'W';
const GET_SUPPORT: Opcode = opcode::read::<Support>(GROUP, 0);
const SET_TIMEOUT: Opcode = opcode::read_write::<i32>(GROUP, 6);
const GET_TIMEOUT: Opcode = opcode::read::<i32>(GROUP, 7);

/// `struct watchdog_info`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Support {
    /// What the device can do.
    pub(crate) options: u32,
    firmware: u32,
    identity: [u8; 32],
}

impl Support {
    /// Its name.
    pub(crate) fn name(&self) -> String {
        let end = self.identity.iter().position(|byte| *byte == 0).unwrap_or(self.identity.len());
        String::from_utf8_lossy(&self.identity[..end]).into_owned()
    }
}

/// What the device is and can do.
pub(crate) fn support(device: &OwnedFd) -> Result<Support> {
    // SAFETY: WDIOC_GETSUPPORT writes one `struct watchdog_info`, which `Support` has the layout of; any bytes are valid.
    unsafe { ioctl(device, Getter::<GET_SUPPORT, Support>::new()) }
}

/// Sets the timeout, in seconds; the device may round it.
pub(crate) fn set_timeout(device: &OwnedFd, mut timeout_s: i32) -> Result<()> {
    // SAFETY: WDIOC_SETTIMEOUT reads and writes one int, which lives until the call returns.
    unsafe { ioctl(device, Updater::<SET_TIMEOUT, i32>::new(&mut timeout_s)) }
}

/// The timeout in effect, in seconds.
pub(crate) fn timeout(device: &OwnedFd) -> Result<i32> {
    // SAFETY: WDIOC_GETTIMEOUT writes one int.
    unsafe { ioctl(device, Getter::<GET_TIMEOUT, i32>::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_kernels_numbers() {
        assert_eq!((GET_SUPPORT, SET_TIMEOUT, GET_TIMEOUT), (0x8028_5700, 0xC004_5706, 0x8004_5707));
    }

    #[test]
    fn what_is_no_watchdog_says_so() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        assert_eq!(support(&file).unwrap_err(), rustix::io::Errno::NOTTY);
        assert_eq!(timeout(&file).unwrap_err(), rustix::io::Errno::NOTTY);
        assert_eq!(set_timeout(&file, 5).unwrap_err(), rustix::io::Errno::NOTTY);
        let support = Support { options: 0, firmware: 0, identity: *b"Software Watchdog\0xxxxxxxxxxxxxx" };
        assert_eq!(support.name(), "Software Watchdog");
    }
}
