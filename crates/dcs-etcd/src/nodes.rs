//! Which etcd node to ask, and how long: a sticky current one, then the members that etcd advertises, then what was
//! configured (contract A.5, "member discovery", "timeouts", "stale node guard").

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{Client, ResponseHeader};
use ptarmigan_types::Monotonic;

/// Age of the member list at which it is fetched anew, before the first one is there and in multiples of the TTL after.
const DISCOVERY_TTLS: u32 = 10;

/// So soon DNS is asked again, where those that it named do not answer.
const LOOKUP_AGAIN: Duration = Duration::from_secs(5);

/// What the header of an answer says about who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which etcd cluster.
    pub(crate) cluster_id: u64,
    /// Grows with each election.
    pub(crate) raft_term: u64,
    /// The store's revision.
    pub(crate) revision: u64,
}

impl Stamp {
    /// Reads a header; etcd sends one with every answer.
    pub(crate) fn of(header: Option<&ResponseHeader>) -> Option<Self> {
        header.map(|header| Self {
            cluster_id: header.cluster_id(),
            raft_term: header.raft_term(),
            revision: u64::try_from(header.revision()).unwrap_or(0),
        })
    }
}

/// A client, and which one: each new connection has another number.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) number: u64,
    pub(crate) client: Client,
}

/// The nodes of one etcd cluster as far as they are known.
#[derive(Default)]
pub(crate) struct Nodes {
    configured: Vec<String>,
    advertised: Vec<String>,
    current: Option<String>,
    clients: BTreeMap<String, Connection>,
    /// The connection that the last answer came by.
    answered_by: Option<u64>,
    opened: u64,
    discovered_at: Option<Monotonic>,
    discovery_due: bool,
    /// When DNS was asked last, and told something.
    looked_up_at: Option<Monotonic>,
    newest: Option<Stamp>,
}

/// The least that a node has of the contract's shortest budget, 3 s.
const NODE_MIN: Duration = Duration::from_secs(1);

/// How the time of one operation is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Division {
    /// Attempts on a node before the next one is asked.
    pub(crate) attempts: u32,
    /// Time of one attempt.
    pub(crate) attempt: Duration,
}

impl Division {
    /// One node: 3 attempts, two: 2 each, more: 1 each; a node has at least one second, or a third of a shorter budget.
    pub(crate) fn new(total: Duration, nodes: usize) -> Self {
        let nodes = u32::try_from(nodes.max(1)).unwrap_or(u32::MAX);
        let attempts = 4 - nodes.min(3);
        let least = NODE_MIN.min(total / 3);
        let node = (total / nodes).max(least).min(total);
        Self { attempts, attempt: node / attempts }
    }
}

impl Nodes {
    pub(crate) fn new(configured: Vec<String>) -> Self {
        Self { configured, discovery_due: true, ..Self::default() }
    }

    /// DNS has told nothing yet.
    pub(crate) const fn is_first_lookup(&self) -> bool {
        self.looked_up_at.is_none()
    }

    /// Takes turns: true where somebody has to ask DNS again.
    pub(crate) fn take_lookup(&mut self, now: Monotonic) -> bool {
        let due = self.looked_up_at.is_none_or(|at| now.since(at) >= LOOKUP_AGAIN);
        if due {
            self.looked_up_at = Some(now);
        }
        due
    }

    /// What DNS says.
    pub(crate) fn looked_up(&mut self, endpoints: Vec<String>, now: Monotonic) {
        self.looked_up_at = Some(now);
        self.configured = endpoints;
    }

    /// How many nodes share the time.
    pub(crate) fn count(&self) -> usize {
        if self.advertised.is_empty() { self.configured.len() } else { self.advertised.len() }
    }

    /// Whom to ask, in this order, each once.
    pub(crate) fn candidates(&self) -> Vec<String> {
        let mut candidates: Vec<String> = Vec::new();
        let known = self.current.iter().chain(&self.advertised).chain(&self.configured);
        for endpoint in known {
            if !candidates.contains(endpoint) {
                candidates.push(endpoint.clone());
            }
        }
        candidates
    }

    /// The endpoint was not configured: it is known from the member list only.
    pub(crate) fn is_only_advertised(&self, endpoint: &str) -> bool {
        !self.configured.iter().any(|configured| configured == endpoint)
    }

    pub(crate) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// The connection that the last answer came by.
    pub(crate) fn answered_by(&self) -> Option<u64> {
        self.answered_by
    }

    pub(crate) fn connection(&self, endpoint: &str) -> Option<Connection> {
        self.clients.get(endpoint).cloned()
    }

    pub(crate) fn keep_client(&mut self, endpoint: &str, client: Client) -> Connection {
        self.opened += 1;
        let connection = Connection { number: self.opened, client };
        self.clients.insert(endpoint.to_owned(), connection.clone());
        connection
    }

    /// Closes a connection on which something was not answered: it may be dead without knowing.
    pub(crate) fn close(&mut self, endpoint: &str) {
        self.clients.remove(endpoint);
    }

    /// Closes every connection, so that the next ones are made with other limits.
    pub(crate) fn close_all(&mut self) {
        self.clients.clear();
    }

    /// `endpoint` answered: it is asked first from now on. True where it is another connection than the last time.
    pub(crate) fn answered(&mut self, endpoint: &str, number: u64) -> bool {
        if self.current.as_deref() != Some(endpoint) {
            self.current = Some(endpoint.to_owned());
        }
        self.answered_by.replace(number) != Some(number)
    }

    /// `endpoint` failed: the next in line is asked first from now on, and the member list is fetched soon.
    pub(crate) fn failed(&mut self, endpoint: &str) {
        self.close(endpoint);
        self.discovery_due = true;
        let first = self.candidates().into_iter().next();
        if first.as_deref() != Some(endpoint) {
            return;
        }
        let next = self.candidates().into_iter().nth(1);
        self.current = next;
        // Otherwise the failed one would come second again, before nodes that were not asked yet.
        for list in [&mut self.advertised, &mut self.configured] {
            if let Some(at) = list.iter().position(|known| known == endpoint) {
                let endpoint = list.remove(at);
                list.push(endpoint);
            }
        }
    }

    /// False for the answer of a node that fell behind: its term is older than one that was seen of this cluster.
    pub(crate) fn is_current(&mut self, stamp: Stamp) -> bool {
        if let Some(newest) = self.newest {
            if newest.cluster_id != stamp.cluster_id {
                tracing::warn!(
                    from = %format_args!("{:x}", newest.cluster_id),
                    to = %format_args!("{:x}", stamp.cluster_id),
                    "another etcd cluster answers"
                );
            } else if stamp.raft_term < newest.raft_term {
                return false;
            }
        }
        self.newest = Some(stamp);
        true
    }

    /// False where `cluster_id` is another cluster than the one that answered so far.
    pub(crate) fn is_same_cluster(&self, cluster_id: u64) -> bool {
        self.newest.is_none_or(|newest| newest.cluster_id == cluster_id)
    }

    /// Takes turns: true where somebody has to fetch the member list now.
    pub(crate) fn take_discovery(&mut self, now: Monotonic, ttl: Duration) -> bool {
        let old = self.discovered_at.is_none_or(|at| now.since(at) > ttl * DISCOVERY_TTLS);
        // Not again within a second, however often nodes fail.
        let recent = self.discovered_at.is_some_and(|at| now.since(at) < Duration::from_secs(1));
        let due = (old || self.discovery_due) && !recent;
        if due {
            self.discovered_at = Some(now);
            self.discovery_due = false;
        }
        due
    }

    /// The member list was not to be had, or is not complete.
    pub(crate) const fn discover_again(&mut self) {
        self.discovery_due = true;
    }

    /// Takes over a member list; the order is shuffled so that not everybody goes to the same node next.
    pub(crate) fn discovered(&mut self, mut urls: Vec<String>) {
        urls.retain(|url| is_reachable_address(url));
        for url in &mut urls {
            url.truncate(url.trim_end_matches('/').len());
        }
        urls.sort();
        urls.dedup();
        if urls.is_empty() {
            return;
        }
        let mut before = self.advertised.clone();
        before.sort();
        if before == urls {
            return;
        }
        fastrand::shuffle(&mut urls);
        tracing::debug!(members = ?urls, "etcd's member list");
        self.advertised = urls;
        let known = self.candidates();
        self.clients.retain(|endpoint, _| known.contains(endpoint));
    }
}

/// False for the "any address" that a careless configuration advertises.
pub(crate) fn is_reachable_address(url: &str) -> bool {
    let has_protocol = url.starts_with("http://") || url.starts_with("https://");
    has_protocol && !url.contains("//0.0.0.0:") && !url.contains("//[::]:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(configured: &[&str]) -> Nodes {
        Nodes::new(configured.iter().map(|&endpoint| endpoint.into()).collect())
    }

    #[test]
    fn a_5_the_time_is_divided_by_the_number_of_nodes() {
        let total = Duration::from_secs(12);
        let division = |nodes| Division::new(total, nodes);
        assert_eq!(division(1), Division { attempts: 3, attempt: Duration::from_secs(4) });
        assert_eq!(division(2), Division { attempts: 2, attempt: Duration::from_secs(3) });
        assert_eq!(division(3), Division { attempts: 1, attempt: Duration::from_secs(4) });
        assert_eq!(division(24), Division { attempts: 1, attempt: Duration::from_secs(1) });
        // Below the contract's shortest budget, three nodes can be asked all the same.
        let short = Division::new(Duration::from_millis(900), 5);
        assert_eq!(short, Division { attempts: 1, attempt: Duration::from_millis(300) });
    }

    #[test]
    fn the_current_node_stays_first_until_it_fails() {
        let mut nodes = nodes(&["a", "b", "c"]);
        assert_eq!(nodes.candidates(), ["a", "b", "c"]);
        assert!(nodes.answered("b", 1));
        assert!(!nodes.answered("b", 1));
        assert!(nodes.answered("b", 2), "another connection");
        assert_eq!(nodes.candidates(), ["b", "a", "c"]);
        nodes.failed("b");
        assert_eq!(nodes.candidates(), ["a", "c", "b"]);
        nodes.failed("a");
        assert_eq!(nodes.candidates(), ["c", "b", "a"]);
        nodes.failed("b");
        assert_eq!(nodes.candidates()[0], "c", "only a failure of the first one moves it");
    }

    #[test]
    fn configured_endpoints_stay_behind_the_advertised_ones() {
        let mut nodes = nodes(&["http://proxy:1"]);
        nodes.answered("http://proxy:1", 1);
        nodes.discovered(vec!["http://m:1/".into(), "http://0.0.0.0:1".into(), "unix://x".into()]);
        assert_eq!(nodes.candidates(), ["http://proxy:1", "http://m:1"]);
        assert_eq!(nodes.count(), 1);
        nodes.failed("http://proxy:1");
        assert_eq!(nodes.candidates(), ["http://m:1", "http://proxy:1"]);
        assert!(nodes.is_only_advertised("http://m:1"));
        nodes.discovered(vec!["http://0.0.0.0:1".into()]);
        assert_eq!(nodes.count(), 1, "a useless list changes nothing");
    }

    #[test]
    fn a_5_stale_node_guard() {
        let mut nodes = nodes(&["a"]);
        let stamp = |cluster_id, raft_term| Stamp { cluster_id, raft_term, revision: 1 };
        assert!(nodes.is_current(stamp(1, 5)));
        assert!(!nodes.is_current(stamp(1, 4)));
        assert!(nodes.is_current(stamp(1, 5)));
        assert!(nodes.is_current(stamp(1, 6)));
        assert!(!nodes.is_same_cluster(2));
        assert!(nodes.is_current(stamp(2, 1)), "another cluster counts its own terms");
    }

    #[test]
    fn a_5_the_member_list_is_fetched_when_old_or_after_a_failure() {
        let mut nodes = nodes(&["a", "b"]);
        let ttl = Duration::from_secs(30);
        let at = |seconds: u64| Monotonic(seconds * 1_000_000);
        assert!(nodes.take_discovery(at(10), ttl));
        assert!(!nodes.take_discovery(at(300), ttl));
        assert!(nodes.take_discovery(at(311), ttl));
        nodes.failed("a");
        assert!(!nodes.take_discovery(at(311), ttl), "not at once again");
        assert!(nodes.take_discovery(at(313), ttl));
    }
}
