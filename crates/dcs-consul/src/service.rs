//! The cluster among Consul's services (contract A.6.1): the agent checks each member's REST API, and whoever asks Consul's DNS is
//! told of those that pass.

use std::time::Duration;

use ptarmigan_types::{MemberData, MemberState, Role, service_name};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::{
    http::{Deadline, Failure, Policy, Request},
    settings::ServiceSettings,
    store::Store,
};

/// So long the agent may keep a member waiting with it.
const TELL_MAX: Duration = Duration::from_secs(1);

/// A check that fails for so many session TTLs takes the service away.
const DEREGISTER_AFTER_TTLS: u32 = 10;

/// What Consul's agent was told last.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// `None`: nothing yet, or it is not known whether it heard.
    told: Option<Told>,
    /// It was told something, at least once.
    asked: bool,
    /// The member key that was written last, for whom the settings change.
    member: Option<(String, Duration)>,
}

#[derive(Debug, Clone, PartialEq)]
struct Told {
    /// `None`: that there is no service.
    service: Option<Value>,
    token: Option<String>,
}

impl Store {
    /// Tells the agent what it is to know of this member now, where that has changed, or where the member key had to be made
    /// anew.
    pub(crate) async fn register(
        &self,
        deadline: Deadline,
        member: &str,
        session_ttl: Duration,
        created: bool,
    ) {
        let mut registered = self.registered.lock().await;
        registered.member = Some((member.to_owned(), session_ttl));
        if created {
            registered.told = None;
        }
        self.tell(deadline, &mut registered).await;
    }

    /// The same of what was written last: the settings may have changed, and what failed is told again.
    pub(crate) async fn register_again(&self, deadline: Deadline) {
        let mut registered = self.registered.lock().await;
        self.tell(deadline, &mut registered).await;
    }

    async fn tell(&self, deadline: Deadline, registered: &mut Registered) {
        let settings = self.http.settings();
        let Some((member, session_ttl)) = &registered.member else { return };
        let data = MemberData::read(member);
        let id = format!("{}/{}", self.scope, self.name);
        let wanted = match &settings.service {
            Some(service) => match wanted(&self.scope, &id, service, &data, *session_ttl) {
                Wanted::Service(service) => Some(service),
                Wanted::Nothing => None,
                Wanted::AsBefore => return,
            },
            None if !registered.asked => return,
            None => None,
        };
        let told = Told { service: wanted, token: settings.token.clone() };
        if registered.told.as_ref() == Some(&told) {
            return;
        }
        // Until it has answered, nothing is known.
        (registered.told, registered.asked) = (None, true);
        match self.send(deadline, &id, &told).await {
            Ok(()) => registered.told = Some(told),
            Err(failure) => {
                tracing::warn!(?failure, "the service {id} could not be registered or taken away in Consul");
            }
        }
    }

    async fn send(&self, deadline: Deadline, id: &str, told: &Told) -> Result<(), Failure> {
        let request = match &told.service {
            Some(service) => {
                Request::new(Method::PUT, &["agent", "service", "register"]).body(service.clone())
            }
            None => Request::new(Method::PUT, &["agent", "service", "deregister", id]),
        };
        let answer = self.http.call(deadline.at_most(TELL_MAX), Policy::Once, &request).await?;
        // Of what is not there, there is nothing to be taken away.
        if told.service.is_none() && (answer.status == 404 || answer.body.contains("Unknown service")) {
            return Ok(());
        }
        answer.success().map(drop)
    }
}

/// What a member is to be registered as.
#[derive(Debug, PartialEq)]
enum Wanted {
    Service(Value),
    Nothing,
    /// It is neither up nor stopped.
    AsBefore,
}

fn wanted(
    scope: &str,
    id: &str,
    service: &ServiceSettings,
    member: &MemberData,
    session_ttl: Duration,
) -> Wanted {
    if member.state() == Some(MemberState::Stopped) {
        return Wanted::Nothing;
    }
    let role =
        member.role().filter(|role| matches!(role, Role::Primary | Role::Replica | Role::StandbyLeader));
    let (Some(role), true) = (role, member.is_running()) else { return Wanted::AsBefore };
    let address = member.conn_url().and_then(|text| Url::parse(text).ok());
    let api = member.api_url().and_then(|text| Url::parse(text).ok());
    let (Some(address), Some(api)) = (address, api) else { return Wanted::AsBefore };
    let host = |url: &Url| url.host_str().map(|host| host.trim_matches(['[', ']']).to_owned());
    let role = role.as_str();
    let mut tags = service.tags.clone();
    tags.push(role.replace('_', "-"));
    if role == "primary" {
        tags.push("master".into());
    }
    let mut check = json!({
        "HTTP": format!("{}/{role}", api.origin().ascii_serialization()),
        "Interval": service.check_interval,
        "DeregisterCriticalServiceAfter":
            format!("{:?}s", (session_ttl * DEREGISTER_AFTER_TTLS).as_secs_f64()),
    });
    if let Some(name) = &service.check_tls_server_name {
        check["TLSServerName"] = json!(name);
    }
    Wanted::Service(json!({
        "ID": id,
        "Name": service_name::of_scope(scope),
        "Address": host(&address),
        "Port": address.port(),
        "Tags": tags,
        "Check": check,
        "EnableTagOverride": true,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(member: &Value) -> Wanted {
        let service = ServiceSettings {
            tags: vec!["a".into()],
            check_interval: "5s".into(),
            check_tls_server_name: None,
        };
        wanted(
            "My_Cluster",
            "My_Cluster/n1",
            &service,
            &MemberData::read(&member.to_string()),
            Duration::from_secs(15),
        )
    }

    fn member(role: &str, state: &str) -> Value {
        json!({
            "role": role, "state": state, "conn_url": "postgres://10.0.0.1:5433/postgres",
            "api_url": "https://10.0.0.1:8008/patroni",
        })
    }

    #[test]
    fn a_6_1_a_member_that_is_up_is_a_service_with_its_role() {
        let Wanted::Service(service) = of(&member("primary", "running")) else { panic!("no service") };
        assert_eq!(
            service,
            json!({
                "ID": "My_Cluster/n1", "Name": "my-cluster", "Address": "10.0.0.1", "Port": 5433,
                "Tags": ["a", "primary", "master"], "EnableTagOverride": true,
                "Check": {
                    "HTTP": "https://10.0.0.1:8008/primary", "Interval": "5s",
                    "DeregisterCriticalServiceAfter": "150.0s",
                },
            })
        );
        let Wanted::Service(service) = of(&member("standby_leader", "running")) else { panic!("no service") };
        assert_eq!(service["Tags"], json!(["a", "standby-leader"]));
        assert_eq!(service["Check"]["HTTP"], "https://10.0.0.1:8008/standby_leader");
    }

    #[test]
    fn a_6_1_only_what_is_stopped_is_taken_away() {
        assert_eq!(of(&member("replica", "stopped")), Wanted::Nothing);
        for (role, state) in [("replica", "starting"), ("promoted", "running"), ("uninitialized", "running")]
        {
            assert_eq!(of(&member(role, state)), Wanted::AsBefore, "{role} {state}");
        }
    }
}
