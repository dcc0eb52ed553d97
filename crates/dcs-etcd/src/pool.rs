//! Calls to etcd: which node, how long, how often (contract A.5, "timeouts", "retry", "which calls retry").

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{Client, Error as ClientError};
use ptarmigan_dcs::Timing;
use ptarmigan_types::Monotonic;
use tokio::sync::watch;

use crate::{
    connection::{self, KeptTls, Limits, is_tls},
    failure::{Failure, Next, judge},
    nodes::{Connection, Division, Nodes, Stamp},
    settings::{EtcdSettings, Srv},
    srv,
};

/// The first pause between two rounds; each next one is twice as long, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Up to so much is added to a pause, in milliseconds.
const JITTER_MAX_MILLIS: u64 = 800;

/// Who repeats a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Every node, again and again until the deadline.
    UntilDeadline,
    /// One node only; a failure selects the next one for the following call.
    OneNode,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// An earlier attempt of this call was sent and not answered: it may have been applied before this one.
    pub(crate) repeated: bool,
}

/// When an operation must be over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Monotonic);

impl Deadline {
    pub(crate) fn after(time: Duration) -> Self {
        Self(ptarmigan_clock::now() + time)
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.since(ptarmigan_clock::now())
    }
}

/// The nodes, and how to call them. Shared by the operations and the watch.
pub(crate) struct Pool {
    settings: Mutex<Arc<EtcdSettings>>,
    timing: Mutex<Timing>,
    nodes: Mutex<Nodes>,
    /// The last certificates that could be used: files that are broken since cut nobody off.
    tls: KeptTls,
    /// Counts how often answers began to come by another connection.
    switched: watch::Sender<u64>,
}

impl Pool {
    pub(crate) fn new(settings: EtcdSettings, timing: Timing) -> Self {
        let nodes = Mutex::new(Nodes::new(settings.endpoints.clone()));
        Self {
            settings: Mutex::new(Arc::new(settings)),
            timing: Mutex::new(timing),
            nodes,
            tls: KeptTls::default(),
            switched: watch::Sender::new(0),
        }
    }

    pub(crate) fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_timing(&self, timing: Timing) {
        let before =
            std::mem::replace(&mut *self.timing.lock().unwrap_or_else(PoisonError::into_inner), timing);
        if before != timing {
            self.nodes().close_all();
        }
    }

    pub(crate) fn settings(&self) -> Arc<EtcdSettings> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on the credentials and certificates of `new` are used; tokens and connections of the former ones are given up. Where
    /// the servers show certificates, those may have been replaced in their files.
    ///
    /// # Errors
    /// A certificate that is needed cannot be used: the former ones stay.
    pub(crate) fn reload(&self, new: &EtcdSettings) -> Result<(), String> {
        let before = self.settings();
        let settings = EtcdSettings {
            username: new.username.clone(),
            password: new.password.clone(),
            cacert: new.cacert.clone(),
            cert: new.cert.clone(),
            key: new.key.clone(),
            ..(*before).clone()
        };
        let with_tls = self.candidates().iter().any(|endpoint| is_tls(endpoint));
        if with_tls {
            settings.tls_files().config()?;
        }
        if with_tls || settings != *before {
            *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
            self.nodes().close_all();
        }
        Ok(())
    }

    /// Wakes when answers begin to come by another connection.
    pub(crate) fn switched(&self) -> watch::Receiver<u64> {
        self.switched.subscribe()
    }

    pub(crate) fn current(&self) -> Option<String> {
        self.nodes().current().map(str::to_owned)
    }

    /// Every known node, the current one first.
    pub(crate) fn candidates(&self) -> Vec<String> {
        self.nodes().candidates()
    }

    /// The connection that the last answer came by.
    pub(crate) fn answered_by(&self) -> Option<u64> {
        self.nodes().answered_by()
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn division(&self) -> Division {
        Division::new(self.timing().retry_timeout, self.nodes().count())
    }

    /// The time that one attempt on one node has.
    pub(crate) fn attempt(&self) -> Duration {
        self.division().attempt
    }

    /// Calls etcd until it answers or `deadline` is over. `request` sends one attempt; the header of its answer, where
    /// it has one, tells whether the node is to be believed.
    pub(crate) async fn call<T, F, R>(
        self: &Arc<Self>,
        deadline: Deadline,
        policy: Policy,
        request: F,
    ) -> Result<Answer<T>, Failure>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<(T, Option<Stamp>), ClientError>> + Send,
        T: Send,
    {
        let mut pause = PAUSE_MIN;
        let mut sent_before = false;
        loop {
            let (sent, text) = match self.round(deadline, policy, &request, sent_before).await {
                Ok(answer) => {
                    self.discover_if_due();
                    return Ok(answer);
                }
                Err(Next::Fail(failure)) => return Err(failure),
                Err(Next::Repeat { sent, text } | Next::Switch { sent, text }) => (sent, text),
                Err(Next::Authenticate(text)) => return Err(Failure::Api(text)),
            };
            sent_before |= sent;
            let jitter = Duration::from_millis(fastrand::u64(0..=JITTER_MAX_MILLIS));
            if policy == Policy::OneNode || pause + jitter >= deadline.remaining() {
                return Err(if sent_before { Failure::Unanswered(text) } else { Failure::Unsent(text) });
            }
            tokio::time::sleep(pause + jitter).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks each node in turn, or only the first one.
    async fn round<T, F, R>(
        self: &Arc<Self>,
        deadline: Deadline,
        policy: Policy,
        request: &F,
        mut sent_before: bool,
    ) -> Result<Answer<T>, Next>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<(T, Option<Stamp>), ClientError>> + Send,
        T: Send,
    {
        self.look_up_if_nobody_is_known(deadline).await?;
        let division = self.division();
        let candidates = self.nodes().candidates();
        let count = if policy == Policy::OneNode { 1 } else { candidates.len() };
        let mut last = String::from("no time left");
        for endpoint in candidates.into_iter().take(count) {
            for _ in 0..division.attempts {
                let limit = division.attempt.min(deadline.remaining());
                if limit.is_zero() {
                    return Err(Next::Switch { sent: sent_before, text: last });
                }
                match self.attempt_on(&endpoint, limit, request).await {
                    Ok(value) => return Ok(Answer { value, repeated: sent_before }),
                    Err(Next::Switch { sent, text }) => {
                        tracing::debug!(%endpoint, error = %text, "etcd did not answer");
                        self.nodes().close(&endpoint);
                        sent_before |= sent;
                        last = format!("{endpoint}: {text}");
                    }
                    Err(Next::Repeat { sent, text }) => {
                        return Err(Next::Repeat { sent: sent || sent_before, text });
                    }
                    Err(next) => return Err(next),
                }
            }
            self.nodes().failed(&endpoint);
        }
        if policy == Policy::UntilDeadline {
            self.look_up_beside();
        }
        Err(Next::Switch { sent: sent_before, text: last })
    }

    /// Asks DNS where the endpoints come from there and none is known yet.
    async fn look_up_if_nobody_is_known(&self, deadline: Deadline) -> Result<(), Next> {
        let settings = self.settings();
        let Some(srv) = settings.srv.as_ref().filter(|_| self.nodes().is_first_lookup()) else {
            return Ok(());
        };
        match look_up(&settings, srv, deadline.remaining() / 2).await {
            Ok(endpoints) => {
                self.looked_up(endpoints);
                Ok(())
            }
            Err(text) if self.nodes().count() > 0 => {
                tracing::warn!("{text}; the other addresses are used");
                Ok(())
            }
            Err(text) => Err(Next::Switch { sent: false, text }),
        }
    }

    fn looked_up(&self, endpoints: Vec<String>) {
        tracing::info!("etcd according to DNS: {}", endpoints.join(", "));
        self.nodes().looked_up(endpoints, ptarmigan_clock::now());
    }

    /// Nobody answers: DNS may name others by now. Beside everything else, so that no renewal waits for it.
    fn look_up_beside(self: &Arc<Self>) {
        let settings = self.settings();
        let Some(srv) = settings.srv.clone() else { return };
        if !self.nodes().take_lookup(ptarmigan_clock::now()) {
            return;
        }
        let pool = Arc::clone(self);
        #[expect(clippy::disallowed_methods, reason = "one bounded question, which ends by itself")]
        tokio::spawn(async move {
            let limit = pool.timing().retry_timeout;
            match look_up(&settings, &srv, limit).await {
                Ok(endpoints) => pool.looked_up(endpoints),
                Err(text) => tracing::warn!("{text}"),
            }
        });
    }

    /// One attempt on one node, authentication included, within `limit`.
    async fn attempt_on<T, F, R>(&self, endpoint: &str, limit: Duration, request: &F) -> Result<T, Next>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<(T, Option<Stamp>), ClientError>> + Send,
        T: Send,
    {
        let deadline = Deadline::after(limit);
        let opened = tokio::time::timeout(limit, self.connection(endpoint)).await;
        let Connection { number, client } =
            opened.map_err(|_| Next::Switch { sent: false, text: "no connection in time".into() })??;
        let (value, stamp) = match self.send(&client, deadline, request).await {
            Err(Next::Authenticate(text)) => {
                self.authenticate_again(&client, deadline, text).await?;
                self.send(&client, deadline, request).await.map_err(|next| match next {
                    Next::Authenticate(text) => Next::Fail(Failure::Api(text)),
                    next => next,
                })?
            }
            answer => answer?,
        };
        let mut nodes = self.nodes();
        if let Some(stamp) = stamp
            && !nodes.is_current(stamp)
        {
            return Err(Next::Switch { sent: true, text: "the node is behind: its raft term is old".into() });
        }
        if nodes.answered(endpoint, number) {
            self.switched.send_modify(|count| *count += 1);
        }
        Ok(value)
    }

    async fn send<T, F, R>(
        &self,
        client: &Client,
        deadline: Deadline,
        request: &F,
    ) -> Result<(T, Option<Stamp>), Next>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<(T, Option<Stamp>), ClientError>> + Send,
    {
        match tokio::time::timeout(deadline.remaining(), request(client.clone())).await {
            Ok(answer) => answer.map_err(|error| judge(&error)),
            Err(_) => Err(Next::Switch { sent: true, text: "no answer in time".into() }),
        }
    }

    async fn authenticate_again(
        &self,
        client: &Client,
        deadline: Deadline,
        text: String,
    ) -> Result<(), Next> {
        let settings = self.settings();
        if settings.username.is_none() {
            return Err(Next::Fail(Failure::Api(text)));
        }
        tracing::debug!(reason = %text, "authenticating again");
        let authenticated = connection::authenticate(&settings, client);
        tokio::time::timeout(deadline.remaining(), authenticated)
            .await
            .map_err(|_| Next::Switch { sent: false, text: "no token in time".into() })?
    }

    /// The open client of `endpoint`, or a new one. An endpoint known from the member list only must belong to the
    /// cluster that answered so far: an advertised `localhost` may be somebody else's.
    pub(crate) async fn connection(&self, endpoint: &str) -> Result<Connection, Next> {
        if let Some(connection) = self.nodes().connection(endpoint) {
            return Ok(connection);
        }
        let limits = Limits::new(self.attempt(), self.timing().ttl);
        let client = connection::open(&self.settings(), endpoint, limits, &self.tls).await?;
        if self.nodes().is_only_advertised(endpoint) {
            let status = client.clone().status().await.map_err(|error| match judge(&error) {
                Next::Switch { text, .. } => Next::Switch { sent: false, text },
                next => next,
            });
            if let Ok(status) = &status
                && let Some(stamp) = Stamp::of(status.header())
                && !self.nodes().is_same_cluster(stamp.cluster_id)
            {
                return Err(Next::Switch { sent: false, text: "belongs to another etcd cluster".into() });
            }
            if let Err(next @ Next::Switch { .. }) = status {
                return Err(next);
            }
        }
        Ok(self.nodes().keep_client(endpoint, client))
    }

    /// False for the header of a node that fell behind.
    pub(crate) fn believes(&self, stamp: Stamp) -> bool {
        self.nodes().is_current(stamp)
    }

    /// Fetches another token, as far as one is needed and to be had.
    pub(crate) async fn renew_token(&self, client: &Client) {
        let settings = self.settings();
        let authenticated = connection::authenticate(&settings, client);
        match tokio::time::timeout(self.attempt(), authenticated).await {
            Ok(Ok(())) => {}
            Ok(Err(next)) => tracing::debug!(?next, "no token"),
            Err(_) => tracing::debug!("no token in time"),
        }
    }

    /// Fetches the member list beside everything else, so that no renewal waits for it.
    fn discover_if_due(self: &Arc<Self>) {
        let ttl = self.timing().ttl;
        if self.settings().use_proxies || !self.nodes().take_discovery(ptarmigan_clock::now(), ttl) {
            return;
        }
        let pool = Arc::clone(self);
        #[expect(
            clippy::disallowed_methods,
            reason = "one bounded look at the member list, which ends by itself"
        )]
        tokio::spawn(async move {
            let look = async {
                let endpoint = pool.current()?;
                let Connection { mut client, .. } = pool.connection(&endpoint).await.ok()?;
                tokio::time::timeout(pool.attempt(), client.member_list()).await.ok()?.ok()
            };
            let Some(answer) = look.await else { return pool.nodes().discover_again() };
            // A member that has just been started has not told its addresses yet.
            if answer.members().iter().any(|member| !member.is_learner() && member.client_urls().is_empty()) {
                pool.nodes().discover_again();
            }
            let urls = answer
                .members()
                .iter()
                .filter(|member| !member.is_learner())
                .flat_map(|member| member.client_urls().iter().cloned())
                .collect();
            pool.nodes().discovered(urls);
        });
    }
}

/// What DNS says within `limit`; a reason names the key.
async fn look_up(settings: &EtcdSettings, srv: &Srv, limit: Duration) -> Result<Vec<String>, String> {
    let looked_up = tokio::time::timeout(limit, srv::lookup(settings, srv)).await;
    let looked_up = looked_up.unwrap_or_else(|_| Err("DNS does not answer in time".into()));
    looked_up.map_err(|text| format!("{}.srv: {text}", settings.section()))
}
