//! The in-memory store: the conformance suite in real and in virtual time, and its faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ptarmigan_dcs::{
    Condition, Dcs, Error, Timing, Verdict, Written,
    conformance::{self, Harness},
    memory::{Fault, Store},
};
use ptarmigan_types::{ClusterPath, Key, MemberName, Monotonic};

const TIMING: Timing = Timing {
    ttl: Duration::from_secs(30),
    loop_wait: Duration::from_secs(10),
    retry_timeout: Duration::from_secs(10),
};

/// A store whose time passes only in `sleep`.
struct Virtual {
    store: Store,
    now: Arc<AtomicU64>,
}

impl Virtual {
    fn new() -> Self {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let clock = now.clone();
        let store = Store::with_clock(Arc::new(move || Monotonic(clock.load(Ordering::SeqCst))));
        Self { store, now }
    }
}

#[async_trait]
impl Harness for Virtual {
    async fn member(&self, path: &ClusterPath, name: &str, timing: Timing) -> Box<dyn Dcs> {
        Box::new(self.store.member(path.clone(), name.into(), timing))
    }

    fn now(&self) -> Monotonic {
        Monotonic(self.now.load(Ordering::SeqCst))
    }

    async fn sleep(&self, time: Duration) {
        self.now.fetch_add(u64::try_from(time.as_micros()).expect("a short time"), Ordering::SeqCst);
        self.store.expire();
    }

    fn ttl_min(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn expiry_slack(&self) -> Duration {
        Duration::from_millis(50)
    }
}

struct Real(Store);

#[async_trait]
impl Harness for Real {
    async fn member(&self, path: &ClusterPath, name: &str, timing: Timing) -> Box<dyn Dcs> {
        Box::new(self.0.member(path.clone(), name.into(), timing))
    }

    fn now(&self) -> Monotonic {
        ptarmigan_clock::now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
        self.0.expire();
    }

    fn ttl_min(&self) -> Duration {
        Duration::from_millis(300)
    }

    fn expiry_slack(&self) -> Duration {
        Duration::from_secs(1)
    }
}

#[tokio::test]
async fn conforms_in_virtual_time() {
    conformance::run(&Virtual::new()).await;
}

#[tokio::test]
async fn conforms_in_real_time() {
    conformance::run_at_once(&Real(Store::new())).await;
}

#[tokio::test]
async fn an_unreachable_store_answers_nothing_and_its_watch_stands_still() {
    let store = Store::new();
    let path = ClusterPath::new("service", "demo");
    let a = store.member(path.clone(), "a".into(), TIMING);
    let b = store.member(path, "b".into(), TIMING);
    let changes = a.changes();
    store.set_fault(&MemberName::from("a"), Fault::Unreachable);
    assert!(matches!(a.acquire().await, Err(Error::Unreachable(_))));
    assert!(matches!(a.view().await, Err(Error::Unreachable(_))));
    assert!(matches!(b.acquire().await, Ok(Verdict::Held(_))));
    assert!(!changes.has_changed().unwrap());
    store.set_fault(&MemberName::from("a"), Fault::None);
    assert!(matches!(a.acquire().await, Ok(Verdict::Refused(_))));
    let lease = a.keep_lease(false).await.unwrap();
    assert_eq!(a.own_lease(), Some(lease));
}

#[tokio::test]
async fn a_lost_answer_is_indeterminate_and_the_request_carried_out() {
    let store = Store::new();
    let a = store.member(ClusterPath::new("service", "demo"), "a".into(), TIMING);
    store.set_fault(&MemberName::from("a"), Fault::AnswerLost);
    assert!(matches!(a.acquire().await, Err(Error::Indeterminate(_))));
    let answer = a.write(&Key::Config, "{}", Condition::Absent).await;
    assert!(matches!(answer, Err(Error::Indeterminate(_))));
    store.set_fault(&MemberName::from("a"), Fault::None);
    let held = a.view().await.unwrap().cluster.leader.expect("the race was carried out");
    assert!(matches!(a.renew(&held).await, Ok(Verdict::Held(_))));
    assert_eq!(a.write(&Key::Config, "{}", Condition::Absent).await, Ok(Written::Conflict));
}
