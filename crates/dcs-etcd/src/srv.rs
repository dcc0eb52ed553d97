//! Looking etcd up in DNS (contract C, `etcd3.srv`): the servers of the first of several services that has any.

use std::{collections::BTreeSet, time::Duration};

use hickory_resolver::{TokioResolver, proto::rr::RData};
use ptarmigan_tls::files::on_one_line;
use reqwest::{Client, redirect::Policy};
use serde_json::Value;

use crate::{
    nodes::is_reachable_address,
    settings::{EtcdSettings, Srv},
};

/// The services in their order. Those of `-server` are the members' addresses for each other, of which one is asked for the
/// members' addresses for clients.
const SERVICES: [&str; 6] = ["-client-ssl", "-client", "-ssl", "", "-server-ssl", "-server"];

/// How long one member is asked for the others.
const ANSWER: Duration = Duration::from_secs(3);

/// The endpoints of etcd as DNS has them now, by the machine's own resolver configuration.
pub(crate) async fn lookup(settings: &EtcdSettings, srv: &Srv) -> Result<Vec<String>, String> {
    let resolver = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
    let resolver = resolver.map_err(|error| format!("the resolver of this machine: {error}"))?;
    endpoints(&resolver, settings, srv).await
}

async fn endpoints(
    resolver: &TokioResolver,
    settings: &EtcdSettings,
    srv: &Srv,
) -> Result<Vec<String>, String> {
    let mut reasons = BTreeSet::new();
    for service in SERVICES {
        let protocol = if service.ends_with("-ssl") { "https" } else { "http" };
        let suffix = srv.suffix.as_ref().map(|suffix| format!("-{suffix}")).unwrap_or_default();
        let name = format!("_etcd{service}{suffix}._tcp.{}.", srv.domain.trim_end_matches('.'));
        let records = match resolver.srv_lookup(name.as_str()).await {
            Ok(records) => records,
            Err(error) => {
                if !error.is_no_records_found() {
                    reasons.insert(error.to_string());
                }
                continue;
            }
        };
        let mut servers: Vec<(u16, String)> = records
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => {
                    let host = srv.target.to_ascii();
                    Some((srv.priority, format!("{protocol}://{}:{}", host.trim_end_matches('.'), srv.port)))
                }
                _ => None,
            })
            .collect();
        servers.sort();
        let servers: Vec<String> = servers.into_iter().map(|(_, server)| server).collect();
        let found = if service.starts_with("-server") {
            clients_of_members(settings, &servers, &mut reasons).await
        } else {
            servers
        };
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let reasons: Vec<String> = reasons.into_iter().collect();
    let why = if reasons.is_empty() { "there are none".to_owned() } else { reasons.join("; ") };
    Err(format!("records _etcd-client._tcp and the like of {}: {why}", srv.domain))
}

/// The addresses for clients, as the first member that answers knows them.
async fn clients_of_members(
    settings: &EtcdSettings,
    members: &[String],
    reasons: &mut BTreeSet<String>,
) -> Vec<String> {
    let owned = settings.clone();
    let made = tokio::task::spawn_blocking(move || client(&owned)).await;
    let client = match made.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(client) => client,
        Err(reason) => {
            reasons.insert(reason);
            return Vec::new();
        }
    };
    for member in members {
        let answer = client.get(format!("{member}/members")).send();
        let answer = async { answer.await?.error_for_status()?.json::<Value>().await };
        match answer.await {
            Ok(answer) => {
                let members = answer.as_array().into_iter().flatten();
                let urls = members.filter_map(|member| member["clientURLs"].as_array()).flatten();
                let urls = urls.filter_map(Value::as_str).filter(|url| is_reachable_address(url));
                let urls: Vec<String> = urls.map(str::to_owned).collect();
                if !urls.is_empty() {
                    return urls;
                }
                reasons.insert(format!("{member}: it names no address for clients"));
            }
            Err(error) => {
                reasons.insert(format!("{member}: {}", on_one_line(&error.without_url())));
            }
        }
    }
    Vec::new()
}

fn client(settings: &EtcdSettings) -> Result<Client, String> {
    let client = Client::builder().tls_backend_preconfigured(settings.tls_files().config()?).no_proxy();
    client.redirect(Policy::none()).timeout(ANSWER).build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        process::{Child, Command, Stdio},
    };

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
    };
    use ptarmigan_testkit::Port;

    use super::*;

    /// A name server that knows these records and nothing else.
    struct Dns {
        process: Child,
        port: Port,
    }

    impl Dns {
        #[expect(clippy::disallowed_methods, reason = "a test starts the server that it asks")]
        fn start(records: &[String]) -> Self {
            let port = Port::reserve().unwrap();
            let port_argument = format!("--port={}", port.number());
            let mut command = Command::new("dnsmasq");
            command.args([
                "--no-daemon",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
                "--pid-file=",
            ]);
            command.args([
                "--listen-address=127.0.0.1",
                "--bind-interfaces",
                "--local=/test/",
                &port_argument,
            ]);
            command.args(records.iter().map(|record| format!("--srv-host={record}")));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            Self { process: command.spawn().expect("dnsmasq is installed"), port }
        }

        fn resolver(&self) -> TokioResolver {
            let mut connection = ConnectionConfig::udp();
            connection.port = self.port.number();
            let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
            let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
            let provider = TokioRuntimeProvider::default();
            TokioResolver::builder_with_config(config, provider).build().unwrap()
        }

        /// The endpoints, once the server answers.
        async fn endpoints(&self, suffix: Option<&str>) -> Result<Vec<String>, String> {
            let srv = Srv { domain: "cluster.test".into(), suffix: suffix.map(str::to_owned) };
            let begin = ptarmigan_clock::now();
            loop {
                let found = endpoints(&self.resolver(), &EtcdSettings::default(), &srv).await;
                let patience = ptarmigan_clock::now().since(begin) < Duration::from_secs(20);
                if found.as_ref().is_ok_and(|found| !found.is_empty()) || !patience {
                    return found;
                }
                if found.as_ref().is_err_and(|reason| reason.ends_with("there are none")) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    impl Drop for Dns {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    #[tokio::test]
    async fn the_first_service_that_has_servers_tells_them_by_priority() {
        let dns = Dns::start(&[
            "_etcd-client._tcp.cluster.test,b.test,2379,20".to_owned(),
            "_etcd-client._tcp.cluster.test,a.test,2380,10".to_owned(),
            "_etcd._tcp.cluster.test,old.test,4001".to_owned(),
            "_etcd-client-ssl-blue._tcp.cluster.test,c.test,2379".to_owned(),
        ]);
        assert_eq!(dns.endpoints(None).await.unwrap(), ["http://a.test:2380", "http://b.test:2379"]);
        assert_eq!(dns.endpoints(Some("blue")).await.unwrap(), ["https://c.test:2379"]);
        let nothing = dns.endpoints(Some("green")).await.unwrap_err();
        assert!(nothing.contains("cluster.test: there are none"), "{nothing}");
    }

    #[tokio::test]
    async fn a_member_that_is_found_by_its_peers_address_tells_where_clients_go() {
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = (Port::reserve().unwrap(), Port::reserve().unwrap());
        let [client_url, peer_url] = [&client, &peer].map(|port| format!("http://{}", port.address()));
        #[expect(clippy::disallowed_methods, reason = "a test starts the server that it asks")]
        let mut etcd = Command::new("etcd")
            .args(["--data-dir", &folder.path().display().to_string(), "--name", "a"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("a={peer_url}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed");
        let begin = ptarmigan_clock::now();
        let found = loop {
            let mut reasons = BTreeSet::new();
            let members = ["http://127.0.0.1:1".to_owned(), peer_url.clone()];
            let found = clients_of_members(&EtcdSettings::default(), &members, &mut reasons).await;
            if !found.is_empty() || ptarmigan_clock::now().since(begin) > Duration::from_secs(20) {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let _ = etcd.kill();
        let _ = etcd.wait();
        assert_eq!(found, [client_url]);
    }
}
