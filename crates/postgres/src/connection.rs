//! SQL connections of ours: to the local server, and to other members.
//!
//! Every one pins `search_path` to `pg_catalog`, so that no object of a user can stand in for one of the system's.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, Row, SimpleQueryMessage, error::SqlState, types::ToSql};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    dsn::ConnInfo,
    tls::{self, SslMode},
};

/// How long a connection attempt may take (contract B.26).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The limit of a statement on a monitoring connection (contract B.26).
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The HA loop's queries.
    Heartbeat,
    /// Queries for REST requests.
    RestApi,
    /// Anything that may take long, such as CHECKPOINT: no `statement_timeout`.
    Unlimited,
}

impl Purpose {
    const fn application_name(self) -> &'static str {
        match self {
            Self::RestApi => "Patroni restapi",
            Self::Heartbeat | Self::Unlimited => "Patroni heartbeat",
        }
    }

    /// The `options` of the startup packet.
    fn options(self) -> String {
        let limit = if self == Self::Unlimited { 0 } else { STATEMENT_TIMEOUT.as_millis() };
        format!("-c statement_timeout={limit} -c pg_stat_statements.track=none -c search_path=pg_catalog")
    }
}

/// Why there is no connection, or no answer on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing listens at the address.
    #[error("nothing listens there: {0}")]
    Refused(String),
    /// The server is up but takes no connections now: it starts, stops or recovers (SQLSTATE 57P03).
    #[error("server takes no connections: {0}")]
    Rejecting(String),
    /// The server refused this login, or has no slot left: it is up.
    #[error("connection refused by the server: {0}")]
    Denied(String),
    /// No answer within the limit.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The parameters of the connection cannot be used.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The connection broke, or the peer does not speak the protocol.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The server refused the statement.
    #[error("query failed: {message} (SQLSTATE {code})")]
    Query {
        /// The five characters of the SQLSTATE.
        code: String,
        /// The server's message.
        message: String,
    },
    /// The server's answer is not what was asked for.
    #[error("unexpected answer: {0}")]
    Answer(String),
}

impl Error {
    /// True where the server itself did not answer; false where it answered with a refusal or an error.
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::TimedOut(_) | Self::Lost(_))
    }

    fn of_query(error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // The server's own end (57P01 to 57P05) closes the connection.
            Some(db) if db.code().code().starts_with("57P0") => Self::Lost(db.message().to_owned()),
            Some(db) => Self::Query { code: db.code().code().to_owned(), message: db.message().to_owned() },
            None if error.is_closed() => Self::Lost(error.to_string()),
            None => Self::Lost(chain(error)),
        }
    }

    fn of_connect(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let message = db.message().to_owned();
            return if *db.code() == SqlState::CANNOT_CONNECT_NOW {
                Self::Rejecting(message)
            } else {
                Self::Denied(message)
            };
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<std::io::Error>()
                && matches!(io.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
            {
                return Self::Refused(io.to_string());
            }
            source = cause.source();
        }
        Self::Lost(chain(error))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// One open connection; closed when dropped.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    /// Connects with the parameters of `info`: host (several, comma-separated, are tried in order), port, dbname,
    /// user, password and the `ssl*` keys. Limited to [`CONNECT_TIMEOUT`].
    pub async fn connect(info: &ConnInfo, purpose: Purpose) -> Result<Self, Error> {
        let attempt = connect_any(info, purpose);
        tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or(Err(Error::TimedOut(CONNECT_TIMEOUT)))
    }

    /// True once the server or the network closed the connection.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Waits until the server or the network closes the connection.
    pub async fn closed(&mut self) {
        // The driver ends with the connection, and only then.
        let _ = (&mut self.driver).await;
    }

    /// Rows of a statement with parameters.
    pub async fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        // Without parameters nobody has to be asked for their types first: one round trip instead of three.
        let answer = if params.is_empty() {
            self.client.query_typed(sql, &[]).await
        } else {
            self.client.query(sql, params).await
        };
        answer.map_err(|error| Error::of_query(&error))
    }

    /// The only row of a statement.
    pub async fn query_one(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.client.query_one(sql, params).await.map_err(|error| Error::of_query(&error))
    }

    /// Rows of a statement without parameters, every value as text, in one round trip.
    pub async fn query_text(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let messages = self.client.simple_query(sql).await.map_err(|error| Error::of_query(&error))?;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Runs statements without looking at rows.
    pub async fn execute(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(|error| Error::of_query(&error))
    }
}

async fn connect_any(info: &ConnInfo, purpose: Purpose) -> Result<Session, Error> {
    let hosts: Vec<&str> = info.get("host").unwrap_or("localhost").split(',').collect();
    let ports: Vec<&str> = info.get("port").unwrap_or("5432").split(',').collect();
    let mut outcome = Err(Error::Refused("no host given".to_owned()));
    for (index, host) in hosts.into_iter().enumerate() {
        let port =
            ports.get(index).or_else(|| ports.last()).and_then(|port| port.parse().ok()).unwrap_or(5432);
        outcome = connect_host(info, purpose, host, port).await;
        match &outcome {
            Ok(session) if !wants_writable(info) || is_writable(session).await => return outcome,
            Ok(_) => outcome = Err(Error::Denied(format!("{host} is read-only"))),
            Err(_) => {}
        }
    }
    outcome
}

fn wants_writable(info: &ConnInfo) -> bool {
    matches!(info.get("target_session_attrs"), Some("read-write" | "primary"))
}

async fn is_writable(session: &Session) -> bool {
    let answer = session.query_text("SELECT pg_is_in_recovery()").await;
    answer.is_ok_and(|rows| rows.first().and_then(|row| row.first()?.as_deref()) == Some("f"))
}

async fn connect_host(info: &ConnInfo, purpose: Purpose, host: &str, port: u16) -> Result<Session, Error> {
    let config = parameters(info, purpose, host, port);
    let mode = SslMode::read(info.get("sslmode"))?;
    // libpq never encrypts a unix socket.
    if mode == SslMode::Disable || host.starts_with('/') {
        return plain(config).await;
    }
    match mode {
        SslMode::Allow => match plain(config.clone()).await {
            Err(Error::Denied(_)) => encrypted(config, info, mode).await,
            outcome => outcome,
        },
        SslMode::Prefer => match encrypted(config.clone(), info, mode).await {
            // As libpq: a failed handshake, or a refusal of the encrypted login, is tried again without.
            Err(Error::Lost(_) | Error::Denied(_) | Error::Tls(_)) => plain(config).await,
            outcome => outcome,
        },
        _ => encrypted(config, info, mode).await,
    }
}

fn parameters(info: &ConnInfo, purpose: Purpose, host: &str, port: u16) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host(host).port(port).connect_timeout(CONNECT_TIMEOUT);
    config.application_name(info.get("application_name").unwrap_or_else(|| purpose.application_name()));
    config.options(purpose.options());
    config.dbname(info.get("dbname").unwrap_or("postgres"));
    config.user(info.get("user").map_or_else(system_user, str::to_owned));
    if let Some(password) = info.get("password") {
        config.password(password);
    }
    config.tcp_user_timeout(CONNECT_TIMEOUT).keepalives_idle(CONNECT_TIMEOUT);
    config
}

async fn plain(mut config: tokio_postgres::Config) -> Result<Session, Error> {
    config.ssl_mode(tokio_postgres::config::SslMode::Disable);
    let (client, connection) = config.connect(NoTls).await.map_err(|error| Error::of_connect(&error))?;
    Ok(drive(client, connection))
}

async fn encrypted(
    mut config: tokio_postgres::Config,
    info: &ConnInfo,
    mode: SslMode,
) -> Result<Session, Error> {
    use tokio_postgres::config;
    let tls = MakeRustlsConnect::new(tls::client_config(info, mode)?);
    config.ssl_mode(if mode <= SslMode::Prefer { config::SslMode::Prefer } else { config::SslMode::Require });
    if info.get("sslnegotiation") == Some("direct") {
        config.ssl_negotiation(config::SslNegotiation::Direct);
    }
    match info.get("channel_binding") {
        Some("disable") => config.channel_binding(config::ChannelBinding::Disable),
        Some("require") => config.channel_binding(config::ChannelBinding::Require),
        _ => config.channel_binding(config::ChannelBinding::Prefer),
    };
    let (client, connection) = config.connect(tls).await.map_err(|error| Error::of_connect(&error))?;
    Ok(drive(client, connection))
}

fn drive<S, T>(client: Client, connection: tokio_postgres::Connection<S, T>) -> Session
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "the session keeps the handle and ends it")]
    let driver = tokio::spawn(async move {
        // The client sees the error with its next query.
        let _ = connection.await;
    });
    Session { client, driver }
}

/// The user that we run as, which is libpq's default.
fn system_user() -> String {
    let id = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|line| line.get(2) == Some(&id.as_str()));
    entry
        .and_then(|line| line.first().map(|name| (*name).to_owned()))
        .unwrap_or_else(|| "postgres".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_26_every_connection_pins_the_search_path() {
        for purpose in [Purpose::Heartbeat, Purpose::RestApi, Purpose::Unlimited] {
            assert!(purpose.options().contains("-c search_path=pg_catalog"), "{purpose:?}");
        }
        assert!(Purpose::Heartbeat.options().contains("statement_timeout=2000"));
        assert!(Purpose::Unlimited.options().contains("statement_timeout=0"));
    }

    #[tokio::test]
    async fn closed_port_is_refused_not_lost() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let info = ConnInfo::new().with("host", "127.0.0.1").with("port", port.to_string()).with("user", "x");
        let error = Session::connect(&info, Purpose::Heartbeat).await.err().unwrap();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        let info = ConnInfo::new().with("host", "/nonexistent").with("user", "x");
        let error = Session::connect(&info, Purpose::Heartbeat).await.err().unwrap();
        assert!(matches!(error, Error::Refused(_)), "{error}");
    }

    #[tokio::test]
    async fn silent_peer_times_out() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let info = ConnInfo::new().with("host", "127.0.0.1").with("port", port.to_string()).with("user", "x");
        let error = Session::connect(&info, Purpose::Heartbeat).await.err().unwrap();
        assert!(matches!(error, Error::TimedOut(_)), "{error}");
    }
}
