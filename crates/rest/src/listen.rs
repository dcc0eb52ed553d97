//! Listening sockets (contract surface A.1): dual-stack where possible, IPv4 first otherwise.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use ptarmigan_config::HostPort;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Short backlogs turn a flood of health checks into 1 s retransmissions, so the setting only raises this.
const BACKLOG_MIN: u32 = 128;

/// After this much silence a client is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(3);

/// A client that acknowledges nothing for this long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// No socket for an address.
#[derive(Debug, thiserror::Error)]
#[error("restapi.listen: cannot listen on {address}: {reason}")]
pub struct Error {
    /// The address as it is configured.
    pub address: String,
    /// What the system said.
    #[source]
    pub reason: io::Error,
}

impl Error {
    /// Another socket has the address; it may be our own.
    pub(crate) fn is_in_use(&self) -> bool {
        self.reason.kind() == io::ErrorKind::AddrInUse
    }
}

/// Opens one socket for every host of `listen`.
pub(crate) fn bind(listen: &HostPort, backlog: u32) -> Result<Vec<tokio::net::TcpListener>, Error> {
    listen
        .hosts()
        .map(|host| {
            bind_host(host, listen.port, backlog)
                .map_err(|reason| Error { address: shown(host, listen.port), reason })
        })
        .collect()
}

fn shown(host: &str, port: u16) -> String {
    let host = if host.is_empty() { "*" } else { host };
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn bind_host(host: &str, port: u16, backlog: u32) -> io::Result<tokio::net::TcpListener> {
    let candidates = candidates(host, port)?;
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in candidates {
        match open(address, backlog) {
            Ok(listener) => return Ok(listener),
            // Only where IPv6 does not exist is there something else to try: a used port is used.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What to try, best first.
fn candidates(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if matches!(host, "" | "*") {
        return Ok(vec![
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        ]);
    }
    let mut addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

/// Accepted sockets inherit the options set here.
fn open(address: SocketAddr, backlog: u32) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let IpAddr::V6(ip) = address.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(Duration::from_secs(2)).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog.max(BACKLOG_MIN)).unwrap_or(i32::MAX))?;
    tokio::net::TcpListener::from_std(socket.into())
}
