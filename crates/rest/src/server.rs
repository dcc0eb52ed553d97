//! The server: accept loop, connections, reload and shutdown; on a thread and a runtime of its own, so that a flood
//! of requests delays nothing but other requests.

use std::{
    any::Any,
    convert::Infallible,
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as blocking,
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use ptarmigan_config::RestSettings;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, Semaphore, mpsc, oneshot},
    task::JoinSet,
};

pub use crate::listen::Error as ListenError;
use crate::{
    answer::{self, Answer},
    listen,
    request::Requests,
    routes::{self, Context},
    snapshot::Snapshot,
};

/// Connections beyond these are closed at once.
const CONNECTIONS_MAX: usize = 512;

/// How long a client may take for its request line and headers, and a kept connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, for example where no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Room for the longest sensible request head.
const HEADER_SIZE_BYTES_MAX: usize = 64 * 1024;

/// Why the server does not run, or not with the new settings.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A setting that this server cannot honour and must not ignore.
    #[error("{key}: {reason}")]
    Unsupported {
        /// The key in the configuration.
        key: &'static str,
        /// What is missing.
        reason: &'static str,
    },
    /// No thread or no runtime.
    #[error("cannot start the REST thread: {0}")]
    Thread(#[source] io::Error),
    /// The thread is gone.
    #[error("the REST thread has ended")]
    Ended,
}

/// A running server. Belongs to the runtime it was started in; accepting stops when it is dropped.
pub struct Server {
    context: Arc<Context>,
    connections: Arc<Semaphore>,
    accepting: JoinSet<()>,
    addresses: Vec<SocketAddr>,
}

impl Server {
    /// Binds and begins to answer.
    ///
    /// # Errors
    /// [`Error::Listen`] where an address cannot be bound, [`Error::Unsupported`] where TLS is asked for.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        settings: RestSettings,
        snapshot: Arc<ArcSwap<Snapshot>>,
        requests: Requests,
    ) -> Result<Self, Error> {
        check(&settings)?;
        let listeners = listen::bind(&settings.listen, settings.request_queue_size)?;
        let context = Context {
            snapshot,
            requests,
            settings: ArcSwap::from_pointee(settings),
            stopping: Arc::new(AtomicBool::new(false)),
            refreshing: Mutex::new(()),
            refreshed_at: AtomicU64::new(0),
        };
        let mut server = Self {
            context: Arc::new(context),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            accepting: JoinSet::new(),
            addresses: Vec::new(),
        };
        server.accept_from(listeners);
        Ok(server)
    }

    /// Where it listens; the port is the real one where the settings say 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes new settings over. Sockets are opened anew only where `listen` changed; connections live on.
    ///
    /// # Errors
    /// As [`Self::start`]; the old settings stay in force then.
    pub async fn reload(&mut self, settings: RestSettings) -> Result<(), Error> {
        check(&settings)?;
        let old = self.context.settings.load_full();
        if old.listen != settings.listen {
            self.rebind(&old, &settings).await?;
        }
        self.context.settings.store(Arc::new(settings));
        Ok(())
    }

    /// From now on no verdict is good and nothing is started (contract SD-9); everything is answered still.
    pub fn begin_shutdown(&self) {
        self.context.stopping.store(true, Ordering::Release);
    }

    /// New sockets first; where the old ones are in their way, these go, and come back if that does not help.
    async fn rebind(&mut self, old: &RestSettings, new: &RestSettings) -> Result<(), ListenError> {
        let opened = match listen::bind(&new.listen, new.request_queue_size) {
            Err(error) if error.is_in_use() => {
                self.accepting.shutdown().await;
                listen::bind(&new.listen, new.request_queue_size)
            }
            other => other,
        };
        match opened {
            Ok(listeners) => {
                self.accepting.shutdown().await;
                self.accept_from(listeners);
                Ok(())
            }
            Err(error) => {
                if self.accepting.is_empty() {
                    self.accept_from(listen::bind(&old.listen, old.request_queue_size)?);
                }
                Err(error)
            }
        }
    }

    fn accept_from(&mut self, listeners: Vec<TcpListener>) {
        self.addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        tracing::info!(addresses = ?self.addresses, "REST API is listening");
        for listener in listeners {
            self.accepting.spawn(accept(listener, Arc::clone(&self.context), Arc::clone(&self.connections)));
        }
    }
}

/// Refuses what would otherwise be served with less protection than was asked for, and reports what is dropped.
fn check(settings: &RestSettings) -> Result<(), Error> {
    if settings.certfile.is_some() {
        return Err(Error::Unsupported { key: "restapi.certfile", reason: "HTTPS is not supported yet" });
    }
    if !settings.allowlist.is_empty() || settings.allowlist_include_members {
        tracing::warn!("restapi.allowlist is not supported yet: every unsafe request is refused");
    }
    for (name, value) in &settings.http_extra_headers {
        if answer::extra_header(name, value).is_none() {
            tracing::warn!("restapi.http_extra_headers: {name} cannot be sent");
        }
    }
    Ok(())
}

async fn accept(listener: TcpListener, context: Arc<Context>, connections: Arc<Semaphore>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!("accept failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            tracing::debug!(%peer, "connection closed: there are {CONNECTIONS_MAX} already");
            continue;
        };
        let context = Arc::clone(&context);
        #[expect(clippy::disallowed_methods, reason = "ends with its connection, whose time is limited")]
        tokio::spawn(async move {
            serve(stream, peer, context).await;
            drop(permit);
        });
    }
}

/// Resets, timeouts and garbage are what health checkers and scanners do: debug only.
async fn serve(stream: TcpStream, peer: SocketAddr, context: Arc<Context>) {
    let service = service_fn(|request| {
        let context = Arc::clone(&context);
        async move { Ok::<_, Infallible>(answer(&context, peer, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_SIZE_BYTES_MAX)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, "connection ended: {error}");
    }
}

async fn answer(context: &Context, peer: SocketAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let began = ptarmigan_clock::now();
    // A client of HTTP/1.0 that asks to keep the connection is told that it is closed.
    let is_refused_keep_alive =
        request.version() == Version::HTTP_10 && request.headers().contains_key(CONNECTION);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = contain(routes::dispatch(context, request)).await;
    let mut response = answer.into_http(&context.settings.load());
    if is_refused_keep_alive {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let took_ms = ptarmigan_clock::now().since(began).as_millis();
    tracing::debug!(%peer, %method, path, status = response.status().as_u16(), took_ms, "request");
    response
}

/// A panic costs one request.
async fn contain(answering: impl Future<Output = Answer>) -> Answer {
    AssertUnwindSafe(answering).catch_unwind().await.unwrap_or_else(|panic| {
        tracing::error!("a REST handler panicked: {}", panic_text(&*panic));
        Answer::page(500, "the request failed inside the server")
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// New settings for the thread, and where to say whether they are in force.
type Reload = (RestSettings, oneshot::Sender<Result<(), Error>>);

/// The thread of a running server. Where it is dropped, the thread ends by itself.
pub struct Handle {
    reloads: mpsc::UnboundedSender<Reload>,
    addresses: Vec<SocketAddr>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Starts a server on a thread and a runtime of its own; returns once it listens.
///
/// # Errors
/// As [`Server::start`], and [`Error::Thread`].
pub fn spawn_thread(
    settings: RestSettings,
    snapshot: Arc<ArcSwap<Snapshot>>,
    requests: Requests,
) -> Result<Handle, Error> {
    let (reloads, wanted) = mpsc::unbounded_channel();
    let (started, starting) = blocking::channel();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
    let thread = std::thread::Builder::new()
        .name("rest".into())
        .spawn(move || {
            runtime.block_on(async move {
                let server = match Server::start(settings, snapshot, requests) {
                    Ok(server) => server,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let stopping = Arc::clone(&server.context.stopping);
                if started.send(Ok((server.addresses().to_vec(), stopping))).is_ok() {
                    run(server, wanted).await;
                }
            });
        })
        .map_err(Error::Thread)?;
    let (addresses, stopping) = starting.recv().map_err(|_| Error::Ended)??;
    Ok(Handle { reloads, addresses, stopping, thread })
}

/// Until the handle is gone.
async fn run(mut server: Server, mut wanted: mpsc::UnboundedReceiver<Reload>) {
    while let Some((settings, done)) = wanted.recv().await {
        let _ = done.send(server.reload(settings).await);
    }
}

impl Handle {
    /// Where the server listened when it was started.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// See [`Server::reload`].
    ///
    /// # Errors
    /// As [`Server::reload`], and [`Error::Ended`].
    pub async fn reload(&self, settings: RestSettings) -> Result<(), Error> {
        let (done, answer) = oneshot::channel();
        self.reloads.send((settings, done)).map_err(|_| Error::Ended)?;
        answer.await.map_err(|_| Error::Ended)?
    }

    /// See [`Server::begin_shutdown`]: called first in a shutdown; in force when it returns.
    pub fn begin_shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Closes the sockets and ends the thread: called last in a shutdown. Blocks for a moment.
    pub fn shutdown(self) {
        drop(self.reloads);
        if self.thread.join().is_err() {
            tracing::error!("the REST thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Content;

    #[tokio::test]
    async fn a_panic_becomes_a_500() {
        let answer = contain(async { panic!("on purpose") }).await;
        assert_eq!(answer.status, 500);
        assert!(matches!(answer.content, Content::Page(_)));
    }
}
