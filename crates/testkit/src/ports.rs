//! Free TCP ports that stay ours until they are dropped, also while nobody listens.
//!
//! Ports come from below the kernel's ephemeral range: a port out of that range may be taken as the source of
//! somebody's outgoing connection while its server is down, and the restarted server could not bind it.
//! A lock file per port in the temporary folder keeps tests that run beside each other apart.

use std::{
    fmt,
    fs::{self, File},
    net::TcpListener,
    ops::Range,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Below this, well-known servers live.
const LOWEST: u16 = 10_240;
/// How many candidates are looked at before giving up.
const ATTEMPTS: usize = 2_000;

/// A reserved port of 127.0.0.1. Dropping it gives it back.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a port on which nobody listens.
    ///
    /// # Errors
    /// No lock file can be made, or no port is free.
    pub fn reserve() -> Result<Self> {
        let locks = locks_dir()?;
        let range = candidates();
        for _ in 0..ATTEMPTS {
            let number = fastrand::u16(range.clone());
            if let Some(port) = Self::claim(&locks, number)? {
                return Ok(port);
            }
        }
        bail!("no free port in {range:?} after {ATTEMPTS} attempts")
    }

    /// The number.
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:<number>`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    fn claim(locks: &Path, number: u16) -> Result<Option<Self>> {
        let path = locks.join(number.to_string());
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("lock file {}", path.display()))?;
        if lock.try_lock().is_err() || TcpListener::bind(("0.0.0.0", number)).is_err() {
            return Ok(None);
        }
        Ok(Some(Self { number, _lock: lock }))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.number)
    }
}

/// One folder for each user: nobody can lock another user's ports away.
fn locks_dir() -> Result<PathBuf> {
    let uid = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("ptarmigan-ports-{uid}"));
    fs::create_dir_all(&dir).with_context(|| format!("folder {}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("folder {} belongs to somebody else", dir.display()))?;
    Ok(dir)
}

fn candidates() -> Range<u16> {
    let first_ephemeral = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<u16>().ok())
        .unwrap_or(32_768);
    // a machine whose ephemeral range starts low leaves no choice but to share it
    if first_ephemeral > LOWEST + 2_000 { LOWEST..first_ephemeral } else { LOWEST..u16::MAX }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reserved_ports_differ_and_can_be_bound() {
        let ports: Vec<Port> = (0..100).map(|_| Port::reserve().unwrap()).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 100);
        for port in &ports {
            TcpListener::bind(port.address()).unwrap();
        }
    }

    #[test]
    fn a_reserved_port_is_refused_to_others_until_it_is_dropped() {
        let port = Port::reserve().unwrap();
        let number = port.number();
        let locks = locks_dir().unwrap();
        assert!(Port::claim(&locks, number).unwrap().is_none());
        drop(port);
        assert!(Port::claim(&locks, number).unwrap().is_some());
    }

    #[test]
    fn a_port_on_which_somebody_listens_is_not_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        assert!(Port::claim(&locks_dir().unwrap(), number).unwrap().is_none());
    }
}
