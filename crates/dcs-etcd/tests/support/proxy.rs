//! A TCP relay that can keep back what the server answers, or everything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The relay in front of one server. Ends with the test's runtime.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    deaf: Arc<AtomicBool>,
    /// Closes every open connection.
    cut: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let server = server.rsplit_once('/').unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let deaf = Arc::new(AtomicBool::new(false));
        let cut = watch::Sender::new(0);
        let (flag, closed) = (Arc::clone(&deaf), cut.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                tokio::spawn(relay(client, server, Arc::clone(&flag), closed.subscribe()));
            }
        });
        Self { endpoint, deaf, cut }
    }

    /// From now on requests get through and answers do not.
    pub(crate) fn lose_answers(&self) {
        self.deaf.store(true, Ordering::SeqCst);
    }

    /// From now on everything gets through again; connections that lost something are closed.
    pub(crate) fn heal(&self) {
        self.deaf.store(false, Ordering::SeqCst);
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    deaf: Arc<AtomicBool>,
    mut cut: watch::Receiver<u64>,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if !deaf.load(Ordering::SeqCst) && to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = answers => {}
        _ = cut.changed() => {}
    }
}
