//! Starts the real servers that tests, `ptctl demo` and the benchmarks need: etcd, Consul, PostgreSQL, HAProxy,
//! Ptarmigan and Patroni nodes, a client that writes.
//!
//! Everything lives in one [`Workspace`]: a temporary folder that is removed, and whose processes are killed,
//! when it is dropped, and also when the program that owns it dies of a SIGKILL. As root the servers run as the user
//! `postgres`, otherwise as whoever calls.

pub mod binaries;
pub mod cluster;
pub mod consul;
pub mod etcd;
pub mod haproxy;
pub mod http;
pub mod node;
pub mod patroni;
pub mod ports;
pub mod postgres;
pub mod prober;
pub mod process;
pub mod store;
pub mod wait;
pub mod workspace;
pub mod writer;

pub use binaries::Binaries;
pub use cluster::Cluster;
pub use consul::Consul;
pub use etcd::Etcd;
pub use haproxy::HaProxy;
pub use node::Node;
pub use ports::Port;
pub use prober::Prober;
pub use process::Process;
pub use store::Store;
pub use wait::wait_until;
pub use workspace::Workspace;
pub use writer::Writer;
