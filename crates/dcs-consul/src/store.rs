//! Keys: reads, and writes as transactions, whose answer tells the key's new index (contract A.4).

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ptarmigan_dcs::{Changes, Condition, Error, View, Written};
use ptarmigan_types::{Cluster, ClusterPath, Key, LeaseId, MemberName, RawValue, Revision};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    former::Former,
    http::{Answer, Deadline, Failure, Http, Policy, Request},
    service::Registered,
    session::OwnSession,
    settings::Consistency,
};

/// After the session was refreshed, a race or renewal needs at least so much time (contract A.5, A.6).
const TIME_LEFT_MIN: Duration = Duration::from_secs(1);

/// One member's view of one cluster in Consul.
pub(crate) struct Store {
    pub(crate) http: Http,
    path: ClusterPath,
    pub(crate) scope: String,
    pub(crate) name: MemberName,
    /// Our session; never held across an await.
    pub(crate) session: Mutex<Option<OwnSession>>,
    /// Who led last.
    pub(crate) former: Mutex<Option<Former>>,
    /// One refresh at a time.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    pub(crate) registered: tokio::sync::Mutex<Registered>,
    pub(crate) changes: watch::Sender<Changes>,
}

/// What a transaction came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Every operation was carried out: the keys that they leave, in their order.
    Applied(Vec<RawValue>),
    /// Nothing was, because the operation of that number does not hold.
    Refused {
        /// What Consul says of it.
        what: String,
        /// See [`Answer::repeated`].
        repeated: bool,
    },
}

/// Which writes are repeated until the deadline (contract A.5, A.6, "which calls retry").
fn policy(key: &Key) -> Policy {
    match key {
        Key::Initialize | Key::Leader | Key::Sync => Policy::UntilDeadline,
        _ => Policy::Once,
    }
}

/// What a condition that does not hold means after an unanswered attempt: that attempt may have broken it.
fn unclear() -> Error {
    Error::Indeterminate("an unanswered attempt may have been carried out before the key changed".into())
}

/// One operation of a transaction on a key.
pub(crate) fn operation(verb: &str, key: &str) -> Value {
    json!({"KV": {"Verb": verb, "Key": key}})
}

/// The same that writes a value.
pub(crate) fn writes(mut operation: Value, value: &str) -> Value {
    operation["KV"]["Value"] = json!(STANDARD.encode(value));
    operation
}

/// The same on the condition that the key has that index; 0: there is none.
pub(crate) fn at(mut operation: Value, index: Revision) -> Value {
    operation["KV"]["Index"] = json!(index);
    operation
}

/// The same for a session.
pub(crate) fn held_by(mut operation: Value, session: &str) -> Value {
    operation["KV"]["Session"] = json!(session);
    operation
}

impl Store {
    pub(crate) fn new(http: Http, path: ClusterPath, scope: String, name: MemberName) -> Self {
        Self {
            http,
            path,
            scope,
            name,
            session: Mutex::default(),
            former: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            registered: tokio::sync::Mutex::default(),
            changes: watch::Sender::new(Changes::default()),
        }
    }

    /// Fails where a race or renewal would have less than a second left.
    pub(crate) fn enough_time(&self, deadline: Deadline) -> Result<(), Error> {
        if deadline.remaining() < TIME_LEFT_MIN.min(self.http.timing().retry_timeout / 4) {
            return Err(Error::Unreachable("too little time left after the session was refreshed".into()));
        }
        Ok(())
    }

    /// A key as Consul has it: without the slash in front (contract A.1).
    pub(crate) fn key(&self, key: &Key) -> String {
        self.path.key(key).trim_start_matches('/').to_owned()
    }

    pub(crate) fn prefix(&self) -> String {
        self.path.prefix().trim_start_matches('/').to_owned()
    }

    /// A read of every key of the cluster.
    pub(crate) fn read_all(&self, consistency: Consistency) -> Request {
        let prefix = self.prefix();
        let mut path = vec!["kv"];
        path.extend(prefix.split('/'));
        let request = Request::new(Method::GET, &path).query("recurse", "1");
        match consistency.parameter() {
            Some(parameter) => request.query(parameter, ""),
            None => request,
        }
    }

    /// The keys of an answer to [`Store::read_all`], by their paths below the prefix.
    pub(crate) fn keys(&self, answer: &Answer) -> Result<BTreeMap<String, RawValue>, Failure> {
        if answer.is_no_key() {
            return Ok(BTreeMap::new());
        }
        let prefix = self.prefix();
        let entries = answer.clone().success()?.json()?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        Ok(entries
            .iter()
            .filter_map(|entry| {
                let path = entry["Key"].as_str()?.strip_prefix(&prefix)?;
                Some((path.to_owned(), raw_value(entry)))
            })
            .collect())
    }

    pub(crate) async fn view(&self, consistency: Consistency) -> Result<View, Error> {
        let at = ptarmigan_clock::now();
        let request = self.read_all(consistency);
        let deadline = self.http.deadline();
        let answer = self.http.call(deadline, Policy::UntilDeadline, &request).await;
        let answer = answer.map_err(unread)?;
        if !answer.has_leader {
            return Err(Error::Unreachable("the server that answered knows of no leader".into()));
        }
        let keys = self.keys(&answer).map_err(unread)?;
        self.note_leader(deadline, keys.get(&Key::Leader.relative()), at).await;
        let cluster = Cluster::read(keys.iter().map(|(path, raw)| (path.as_str(), raw)));
        Ok(View { cluster, at })
    }

    /// One key, as a majority has it.
    pub(crate) async fn read(&self, deadline: Deadline, key: &Key) -> Result<Option<RawValue>, Failure> {
        let path = self.key(key);
        let mut segments = vec!["kv"];
        segments.extend(path.split('/'));
        let request = Request::new(Method::GET, &segments).query("consistent", "");
        let answer = self.http.call(deadline, Policy::UntilDeadline, &request).await?;
        if answer.is_no_key() {
            return Ok(None);
        }
        let entries = answer.success()?.json()?;
        Ok(entries.get(0).map(raw_value))
    }

    /// Carries operations out, all or none.
    pub(crate) async fn transact(
        &self,
        deadline: Deadline,
        policy: Policy,
        operations: Vec<Value>,
    ) -> Result<Outcome, Failure> {
        let request = Request::new(Method::PUT, &["txn"]).body(Value::Array(operations));
        let answer = self.http.call(deadline, policy, &request).await?;
        let repeated = answer.repeated;
        Self::outcome(answer).map_err(|failure| match failure {
            // What an attempt before this one has done, is not known from it.
            Failure::Api(text) | Failure::Denied(text) if repeated => Failure::Unanswered(text),
            failure => failure,
        })
    }

    fn outcome(answer: Answer) -> Result<Outcome, Failure> {
        let repeated = answer.repeated;
        if answer.status != 409 {
            let answer = answer.success()?.json()?;
            let results = answer["Results"].as_array().cloned().unwrap_or_default();
            return Ok(Outcome::Applied(results.iter().map(|result| raw_value(&result["KV"])).collect()));
        }
        let errors = answer.json()?;
        let what: Vec<&str> = errors["Errors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|error| error["What"].as_str())
            .collect();
        let what = what.join(", ");
        if what.contains("Permission denied") || what.contains("ACL not found") {
            return Err(Failure::Denied(what));
        }
        if what.contains("invalid session") {
            return Err(Failure::InvalidSession(what));
        }
        Ok(Outcome::Refused { what, repeated })
    }

    /// Writes our member key on our session. One of a former session, of which something may be left, makes place for it.
    pub(crate) async fn put_member(&self, json: &str) -> Result<(), Error> {
        let deadline = self.http.deadline();
        let session = self.refresh_session(deadline, false).await?;
        let key = self.key(&Key::Member(self.name.clone()));
        let lock = held_by(writes(operation("lock", &key), json), &session.id);
        let mut put = self.transact(deadline, Policy::Once, vec![lock.clone()]).await;
        let mut created = false;
        if let Ok(Outcome::Refused { .. }) = put {
            created = true;
            put = self.transact(deadline, Policy::Once, vec![operation("delete", &key), lock]).await;
        }
        match put {
            Ok(Outcome::Applied(_)) => {}
            Ok(Outcome::Refused { what, .. }) => return Err(Error::Refused(what)),
            Err(failure) => {
                if matches!(failure, Failure::InvalidSession(_)) {
                    self.drop_session(Some(&session.id));
                }
                return Err(failure.into());
            }
        }
        self.register(deadline, json, session.ttl, created).await;
        Ok(())
    }

    pub(crate) async fn write(&self, key: &Key, value: &str, condition: Condition) -> Result<Written, Error> {
        let path = self.key(key);
        let write = match condition {
            Condition::Always => operation("set", &path),
            Condition::Absent => at(operation("cas", &path), 0),
            Condition::Revision(revision) => at(operation("cas", &path), revision),
        };
        match self.transact(self.http.deadline(), policy(key), vec![writes(write, value)]).await? {
            Outcome::Applied(keys) => {
                let revision = keys.first().map(|raw| raw.revision);
                let unread = || Error::Indeterminate("the answer has no key".into());
                revision.map(Written::Applied).ok_or_else(unread)
            }
            Outcome::Refused { repeated: true, .. } => Err(unclear()),
            Outcome::Refused { .. } => Ok(Written::Conflict),
        }
    }

    pub(crate) async fn delete(&self, key: &Key, condition: Condition) -> Result<Written, Error> {
        let path = self.key(key);
        let delete = operation("delete", &path);
        let operations = match condition {
            Condition::Always => vec![delete],
            Condition::Absent => vec![operation("check-not-exists", &path)],
            // `delete-cas` takes a key that is not there for deleted.
            Condition::Revision(revision) => vec![at(operation("check-index", &path), revision), delete],
        };
        match self.transact(self.http.deadline(), policy(key), operations).await? {
            Outcome::Applied(_) => Ok(Written::Applied(0)),
            Outcome::Refused { repeated: true, .. } => Err(unclear()),
            Outcome::Refused { .. } => Ok(Written::Conflict),
        }
    }

    pub(crate) async fn delete_cluster(&self) -> Result<(), Error> {
        let delete = operation("delete-tree", &self.prefix());
        match self.transact(self.http.deadline(), Policy::UntilDeadline, vec![delete]).await? {
            Outcome::Applied(_) => Ok(()),
            Outcome::Refused { what, .. } => Err(Error::Refused(what)),
        }
    }
}

/// A read changes nothing: without an answer it was without effect.
pub(crate) fn unread(failure: Failure) -> Error {
    match failure {
        Failure::Unanswered(text) => Error::Unreachable(text),
        failure => failure.into(),
    }
}

/// A key as Consul shows it.
fn raw_value(entry: &Value) -> RawValue {
    let bytes = entry["Value"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    RawValue {
        value: String::from_utf8_lossy(&bytes).into_owned(),
        revision: entry["ModifyIndex"].as_u64().unwrap_or(0),
        create_revision: entry["CreateIndex"].as_u64().unwrap_or(0),
        lease: entry["Session"].as_str().filter(|id| !id.is_empty()).map(|id| LeaseId(id.to_owned())),
    }
}
