//! A TCP relay that can keep back what the server answers, or everything.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Default)]
struct State {
    deaf: AtomicBool,
    trigger: Mutex<Option<String>>,
}

/// The relay in front of one server. Ends with the test's runtime.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    state: Arc<State>,
    /// Closes every open connection.
    cut: watch::Sender<u64>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let server = server.rsplit_once('/').unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<State>::default();
        let cut = watch::Sender::new(0);
        let (shared, closed) = (Arc::clone(&state), cut.clone());
        #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                #[expect(clippy::disallowed_methods, reason = "ends with its two connections")]
                tokio::spawn(relay(client, server, Arc::clone(&shared), closed.subscribe()));
            }
        });
        Self { endpoint, state, cut }
    }

    /// From now on requests get through and answers do not.
    pub(crate) fn lose_answers(&self) {
        self.state.deaf.store(true, Ordering::SeqCst);
    }

    /// As [`Proxy::lose_answers`], from the first request on that contains `text`.
    pub(crate) fn lose_answers_to(&self, text: &str) {
        *self.state.trigger.lock().unwrap() = Some(text.to_owned());
    }

    pub(crate) fn loses_answers(&self) -> bool {
        self.state.deaf.load(Ordering::SeqCst)
    }

    /// From now on everything gets through again; connections that lost something are closed.
    pub(crate) fn heal(&self) {
        self.state.deaf.store(false, Ordering::SeqCst);
        self.cut.send_modify(|count| *count += 1);
    }
}

async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    state: Arc<State>,
    mut cut: watch::Receiver<u64>,
) {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            if !state.deaf.load(Ordering::SeqCst) && to_client.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    let requests = async {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..count]);
            if state.trigger.lock().unwrap().take_if(|trigger| text.contains(trigger.as_str())).is_some() {
                state.deaf.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
        _ = cut.changed() => {}
    }
}
