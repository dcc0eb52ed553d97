//! Whether the server takes a new connection, without a login: whatever its answer to the first question of every client, there is
//! somebody.

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{Login, Postgres};

/// `SSLRequest`: may we speak TLS? It is answered before anything is asked of the client, also by a server that is full.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

impl Postgres {
    /// Connects to the running server and waits for its first word. Without a limit of its own.
    ///
    /// # Errors
    /// Why there is no connection to be had.
    pub async fn greeting(&self) -> Result<(), String> {
        let info = self.local_conninfo(Login::Superuser);
        let (host, port) = (info.get("host").unwrap_or_default(), info.get("port").unwrap_or("5432"));
        let failed = |error: std::io::Error| format!("{host}:{port}: {error}");
        if host.starts_with('/') {
            let path = format!("{host}/.s.PGSQL.{port}");
            greet(UnixStream::connect(path).await.map_err(failed)?).await.map_err(failed)
        } else {
            greet(TcpStream::connect(format!("{host}:{port}")).await.map_err(failed)?).await.map_err(failed)
        }
    }
}

async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.read_u8().await.map(drop)
}
