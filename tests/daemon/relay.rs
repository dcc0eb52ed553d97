//! A way to the store that can be cut for one node alone, or lead to another server.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{io::copy_bidirectional, net::TcpStream};

const LOOK: Duration = Duration::from_millis(20);

/// Carries connections to one address, on a thread of its own.
pub(crate) struct Relay {
    address: SocketAddr,
    target: Arc<Mutex<String>>,
    open: Arc<AtomicBool>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (open, ends) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let target = Arc::new(Mutex::new(target));
        let to = Arc::clone(&target);
        let (is_open, is_over) = (Arc::clone(&open), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(carry(listener, &to, &is_open, &is_over));
        });
        Self { address, target, open, ends, thread: Some(thread) }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Breaks every connection, and takes no new one.
    pub(crate) fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    pub(crate) fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// From now on there is another server behind the address, which knows nothing of the connections to the former one.
    pub(crate) fn move_to(&self, target: String) {
        *self.target.lock().unwrap() = target;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn carry(listener: TcpListener, target: &Mutex<String>, open: &AtomicBool, ends: &AtomicBool) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut connections = tokio::task::JoinSet::new();
    let mut before = target.lock().unwrap().clone();
    while !ends.load(Ordering::SeqCst) {
        let target = target.lock().unwrap().clone();
        if !open.load(Ordering::SeqCst) || target != before {
            connections.abort_all();
        }
        before.clone_from(&target);
        let Ok(Ok((mut client, _))) = tokio::time::timeout(LOOK, listener.accept()).await else { continue };
        if !open.load(Ordering::SeqCst) {
            continue;
        }
        connections.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(target).await {
                // either side may go away
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
