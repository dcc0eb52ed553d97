//! One client's connection: lines in, lines out, never blocking and never without bound.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use serde::Serialize;

use crate::RawPid;
use crate::protocol::{ClientRole, LINE_BYTES_MAX};

/// A client that does not read what it is sent is dropped beyond this.
const OUTPUT_BYTES_MAX: usize = 4 * LINE_BYTES_MAX;

pub(super) struct Connection {
    pub(super) stream: UnixStream,
    /// The process at the other end.
    pub(super) peer_pid: Option<RawPid>,
    /// `None` until it has said hello.
    pub(super) role: Option<ClientRole>,
    input: Vec<u8>,
    output: Vec<u8>,
    /// To be closed once `output` is sent.
    closing: bool,
    closed: bool,
}

impl Connection {
    /// Takes a connection of our own user or root; the run folder keeps others away already.
    pub(super) fn accept(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self {
            stream,
            peer_pid: Some(peer.pid.as_raw_pid()),
            role: None,
            input: Vec::new(),
            output: Vec::new(),
            closing: false,
            closed: false,
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed || (self.closing && self.output.is_empty())
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Closes once what is pending is sent; takes no more requests.
    pub(super) fn close_after_reply(&mut self) {
        self.closing = true;
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what is there, up to a bound, and returns the complete lines; `Err` for a line that is too long.
    pub(super) fn read_lines(&mut self) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => self.input.extend_from_slice(&buffer[..count]),
            Err(error) if is_transient(&error) => {}
            Err(_) => self.closed = true,
        }
        if self.closing {
            self.input.clear();
        }
        let mut lines = Vec::new();
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let rest = self.input.split_off(end + 1);
            lines.push(std::mem::replace(&mut self.input, rest));
        }
        if self.input.len() > LINE_BYTES_MAX { Err(TooLong) } else { Ok(lines) }
    }

    /// Queues a line and sends what can be sent now.
    pub(super) fn send(&mut self, line: &impl Serialize) {
        // Serialising our own types into memory cannot fail; if it ever does, the client is better off without us.
        if serde_json::to_writer(&mut self.output, line).is_err() || self.output.len() > OUTPUT_BYTES_MAX {
            self.closed = true;
            return;
        }
        self.output.push(b'\n');
        self.flush();
    }

    pub(super) fn flush(&mut self) {
        while !self.output.is_empty() && !self.closed {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.closed = true,
            }
        }
    }
}

/// A line exceeds [`LINE_BYTES_MAX`].
pub(super) struct TooLong;

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
