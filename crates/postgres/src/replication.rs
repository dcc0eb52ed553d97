//! A client of PostgreSQL's replication mode, for the two commands that tell timelines: `IDENTIFY_SYSTEM` and
//! `TIMELINE_HISTORY` (contract RW-5, RW-7, RW-8). Simple queries only; everything has a deadline.

use std::{collections::BTreeMap, io, time::Duration};

use bytes::BytesMut;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{ErrorFields, Message},
        frontend,
    },
};
use ptarmigan_types::{Lsn, Timeline};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::{
    fallible_iterator::FallibleIterator,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    connection::CONNECT_TIMEOUT,
    dsn::ConnInfo,
    tls::{self, SslMode},
};

/// The limit of one command.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// No answer of these commands is longer: a history file has a line per timeline.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or broke.
    #[error("replication connection: {0}")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer on the replication connection within {0:?}")]
    TimedOut(Duration),
    /// The server refused the login or the command.
    #[error("{message} (SQLSTATE {code})")]
    Server {
        /// The five characters of the SQLSTATE.
        code: String,
        /// The server's message.
        message: String,
    },
    /// The files or words for TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The server has no TLS and the parameters insist on it.
    #[error("server does not support TLS, but sslmode requires it")]
    NoTls,
    /// The server asks for a password and there is none.
    #[error("server asks for a password, but none is configured for user {0:?}")]
    NoPassword(String),
    /// A login method that is not implemented here, or a setting that excludes those that are.
    #[error("not supported on replication connections: {0}")]
    Unsupported(&'static str),
    /// The answer is not what the protocol says.
    #[error("unexpected answer on the replication connection: {0}")]
    Protocol(String),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The answer of `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's system identifier, as digits.
    pub system_identifier: String,
    /// The current timeline; of a standby: the one that it receives and replays.
    pub timeline: Timeline,
    /// The flush position; of a standby: the last replayed or received one.
    pub position: Lsn,
}

/// A connection in (physical) replication mode; closed when dropped.
pub struct Connection {
    stream: Box<dyn Stream>,
    input: BytesMut,
}

impl Connection {
    /// Logs in with the parameters of `info` (host, port, user, password, `ssl*`, application_name); several hosts are
    /// tried in order. Limited to [`CONNECT_TIMEOUT`] each.
    ///
    /// # Errors
    /// Every host failed; the last one's error.
    pub async fn connect(info: &ConnInfo) -> Result<Self, Error> {
        if info.get("channel_binding") == Some("require") {
            return Err(Error::Unsupported("channel_binding=require"));
        }
        let hosts: Vec<&str> = info.get("host").unwrap_or("localhost").split(',').collect();
        let ports: Vec<&str> = info.get("port").unwrap_or("5432").split(',').collect();
        let mut outcome = Err(Error::Protocol("no host given".to_owned()));
        for (index, host) in hosts.into_iter().enumerate() {
            let port = ports.get(index).or_else(|| ports.last()).and_then(|port| port.parse().ok());
            let attempt = connect_host(info, host, port.unwrap_or(5432));
            outcome = within(CONNECT_TIMEOUT, attempt).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Who the server is and where it stands.
    ///
    /// # Errors
    /// The server refused, or did not answer in time.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, Error> {
        let row = self.command("IDENTIFY_SYSTEM").await?;
        let text = |index: usize| row.get(index).and_then(Option::as_deref).unwrap_or_default();
        let unreadable = |what: &str| Error::Protocol(format!("IDENTIFY_SYSTEM gave no {what}"));
        Ok(SystemIdentity {
            system_identifier: text(0).to_owned(),
            timeline: text(1).parse().map_err(|_| unreadable("timeline"))?,
            position: text(2).parse().map_err(|_| unreadable("position"))?,
        })
    }

    /// The text of `<timeline>.history`.
    ///
    /// # Errors
    /// The server has no such file (SQLSTATE 58P01), refused, or did not answer in time.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<String, Error> {
        let mut row = self.command(&format!("TIMELINE_HISTORY {timeline}")).await?;
        row.drain(..).nth(1).flatten().ok_or_else(|| Error::Protocol("no history file in the answer".into()))
    }

    async fn command(&mut self, text: &str) -> Result<Vec<Option<String>>, Error> {
        within(COMMAND_TIMEOUT, self.first_row(text)).await
    }

    /// Sends one simple query and returns its first row; reads up to the end of the answer.
    async fn first_row(&mut self, text: &str) -> Result<Vec<Option<String>>, Error> {
        let mut output = BytesMut::new();
        frontend::query(text, &mut output)?;
        self.stream.write_all(&output).await?;
        let (mut row, mut refusal) = (None, None);
        loop {
            match self.message().await? {
                Message::DataRow(body) if row.is_none() => {
                    let ranges: Vec<_> = body.ranges().collect()?;
                    let value = |range: std::ops::Range<usize>| {
                        String::from_utf8_lossy(body.buffer().get(range).unwrap_or_default()).into_owned()
                    };
                    row = Some(ranges.into_iter().map(|range| range.map(value)).collect());
                }
                Message::ErrorResponse(body) => refusal = Some(server_error(body.fields())?),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        match (refusal, row) {
            (Some(error), _) => Err(error),
            (None, Some(row)) => Ok(row),
            (None, None) => Err(Error::Protocol(format!("{text} gave no row"))),
        }
    }

    async fn message(&mut self) -> Result<Message, Error> {
        loop {
            if let Some(message) = Message::parse(&mut self.input)? {
                return Ok(message);
            }
            if self.input.len() > ANSWER_BYTES_MAX {
                return Err(Error::Protocol("answer is too long".into()));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn log_in(&mut self, info: &ConnInfo) -> Result<(), Error> {
        let user = info.get("user").unwrap_or("postgres");
        let parameters = BTreeMap::from([
            ("user", user),
            ("replication", "true"),
            ("client_encoding", "UTF8"),
            ("application_name", info.get("application_name").unwrap_or("Patroni heartbeat")),
        ]);
        let mut output = BytesMut::new();
        frontend::startup_message(parameters, &mut output)?;
        self.stream.write_all(&output).await?;
        loop {
            let password = || info.get("password").ok_or_else(|| Error::NoPassword(user.to_owned()));
            match self.message().await? {
                Message::AuthenticationOk => {}
                Message::AuthenticationCleartextPassword => self.send_password(password()?).await?,
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password()?.as_bytes(), body.salt());
                    self.send_password(&hash).await?;
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<String> =
                        body.mechanisms().map(|name| Ok(name.to_owned())).collect()?;
                    if !mechanisms.iter().any(|name| name == SCRAM_SHA_256) {
                        return Err(Error::Unsupported("a SASL mechanism other than SCRAM-SHA-256"));
                    }
                    self.scram(password()?).await?;
                }
                Message::ErrorResponse(body) => return Err(server_error(body.fields())?),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ParameterStatus(_) | Message::BackendKeyData(_) | Message::NoticeResponse(_) => {}
                _ => return Err(Error::Unsupported("the login method that the server asks for")),
            }
        }
    }

    async fn send_password(&mut self, text: &str) -> Result<(), Error> {
        let mut output = BytesMut::new();
        frontend::password_message(text.as_bytes(), &mut output)?;
        Ok(self.stream.write_all(&output).await?)
    }

    async fn scram(&mut self, password: &str) -> Result<(), Error> {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut output = BytesMut::new();
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut output)?;
        self.stream.write_all(&output).await?;
        let body = match self.message().await? {
            Message::AuthenticationSaslContinue(body) => body,
            Message::ErrorResponse(body) => return Err(server_error(body.fields())?),
            _ => return Err(Error::Protocol("SCRAM was not continued".into())),
        };
        scram.update(body.data())?;
        output.clear();
        frontend::sasl_response(scram.message(), &mut output)?;
        self.stream.write_all(&output).await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => Ok(scram.finish(body.data())?),
            Message::ErrorResponse(body) => Err(server_error(body.fields())?),
            _ => Err(Error::Protocol("SCRAM was not finished".into())),
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::TimedOut(limit)))
}

fn server_error(mut fields: ErrorFields<'_>) -> Result<Error, Error> {
    let (mut code, mut message) = (String::new(), String::new());
    while let Some(field) = fields.next()? {
        match field.type_() {
            b'C' => code = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            b'M' => message = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            _ => {}
        }
    }
    Ok(Error::Server { code, message })
}

async fn connect_host(info: &ConnInfo, host: &str, port: u16) -> Result<Connection, Error> {
    let mode = SslMode::read(info.get("sslmode"))?;
    // libpq never encrypts a unix socket.
    if host.starts_with('/') {
        return plain(info, host, port).await;
    }
    // What a server without an encrypted (or a plain) entry in pg_hba.conf answers is an error of the server.
    match mode {
        SslMode::Disable => plain(info, host, port).await,
        SslMode::Allow => match plain(info, host, port).await {
            Err(Error::Server { .. }) => encrypted(info, host, port, mode).await,
            outcome => outcome,
        },
        SslMode::Prefer => match encrypted(info, host, port, mode).await {
            Err(Error::Server { .. } | Error::NoTls | Error::Tls(_) | Error::Io(_)) => {
                plain(info, host, port).await
            }
            outcome => outcome,
        },
        _ => encrypted(info, host, port, mode).await,
    }
}

async fn plain(info: &ConnInfo, host: &str, port: u16) -> Result<Connection, Error> {
    let stream: Box<dyn Stream> = if host.starts_with('/') {
        Box::new(UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await?)
    } else {
        Box::new(TcpStream::connect((host, port)).await?)
    };
    logged_in(stream, info).await
}

async fn encrypted(info: &ConnInfo, host: &str, port: u16, mode: SslMode) -> Result<Connection, Error> {
    let config = tls::client_config(info, mode)?;
    let mut tcp = TcpStream::connect((host, port)).await?;
    let mut output = BytesMut::new();
    frontend::ssl_request(&mut output);
    tcp.write_all(&output).await?;
    // Exactly one byte: anything more before the handshake would come from somebody in between.
    if tcp.read_u8().await? != b'S' {
        return Err(Error::NoTls);
    }
    let broken = |error: &dyn std::fmt::Display| Error::Io(io::Error::other(format!("TLS: {error}")));
    let mut connector = MakeRustlsConnect::new(config);
    let handshake = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut connector, host)
        .map_err(|error| broken(&error))?;
    let stream = handshake.connect(tcp).await.map_err(|error| broken(&error))?;
    logged_in(Box::new(stream), info).await
}

async fn logged_in(stream: Box<dyn Stream>, info: &ConnInfo) -> Result<Connection, Error> {
    let mut connection = Connection { stream, input: BytesMut::with_capacity(1024) };
    connection.log_in(info).await?;
    Ok(connection)
}
