//! The kernel watchdog, as this daemon's configuration wants it (contract D.6).

use ptarmigan_config::{Settings, WatchdogMode};
use ptarmigan_ha::{Action, Outcome, observation::WatchdogView};
use ptarmigan_watchdog::{Config, Driver, Mode};

use crate::node::Node;

/// Its settings, and those that it is measured against.
pub(crate) fn config(settings: &Settings) -> Config {
    let watchdog = &settings.watchdog;
    Config {
        mode: match watchdog.mode {
            WatchdogMode::Off => Mode::Off,
            WatchdogMode::Automatic => Mode::Automatic,
            WatchdogMode::Required => Mode::Required,
        },
        driver: match watchdog.driver.as_str() {
            "default" => Driver::Kernel,
            "testing" => Driver::Testing,
            _ => Driver::Unknown,
        },
        device: watchdog.device.clone(),
        safety_margin_s: watchdog.safety_margin_s,
        ttl_s: settings.ttl_s,
        loop_wait_s: settings.loop_wait_s,
    }
}

/// The configuration changed.
pub(crate) fn configure(node: &Node) {
    let config = node.configuration.with(config);
    node.watchdog().configure(config);
}

/// Opens it before this node leads, or closes it.
pub(crate) fn execute(node: &Node, action: &Action) -> Outcome {
    if *action == Action::DisableWatchdog {
        node.watchdog().disable();
        return Outcome::Done;
    }
    let activated = node.watchdog().activate();
    activated.map_or_else(|error| Outcome::Failed(error.to_string()), |()| Outcome::Done)
}

/// As the core sees it.
pub(crate) fn view(node: &Node) -> WatchdogView {
    let watchdog = node.watchdog();
    WatchdogView {
        running: watchdog.is_running(),
        wanted: watchdog.is_wanted(),
        healthy: watchdog.is_healthy(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::json;

    use super::*;
    use crate::{execute::execute, shutdown, testing::Fixture};

    /// A node whose watchdog is a FIFO, and the end of it that is read.
    fn fixture(mode: &str) -> (Fixture, std::fs::File) {
        use std::os::unix::fs::OpenOptionsExt as _;
        let fixture = Fixture::new();
        let path = fixture.node.postgres.data_dir().with_file_name("watchdog");
        let owner = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, owner, 0).unwrap();
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let reader = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path).unwrap();
        fixture.configure(&json!({"watchdog": {"mode": mode, "driver": "testing", "device": path}}));
        assert!(fixture.node.configuration.reload());
        configure(&fixture.node);
        (fixture, reader)
    }

    fn written(reader: &mut std::fs::File) -> String {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    async fn run(fixture: &Fixture, action: Action) -> Outcome {
        execute(&fixture.node, &action).await.unwrap()
    }

    #[tokio::test]
    async fn ul_3_a_renewal_is_a_sign_of_life_and_nothing_else_is() {
        let (fixture, mut reader) = fixture("required");
        run(&fixture, Action::AcquireLock).await;
        assert_eq!(written(&mut reader), "", "it is not activated");
        assert_eq!(run(&fixture, Action::ActivateWatchdog).await, Outcome::Done);
        let begun = written(&mut reader);
        assert!(begun.starts_with("Ctimeout=") && begun.ends_with("\n1"), "{begun}");
        let held = fixture.cluster().await.leader.unwrap();
        assert!(matches!(run(&fixture, Action::RenewLock(held.clone())).await, Outcome::Held { .. }));
        assert_eq!(written(&mut reader), "1");
        run(&fixture, Action::WriteMember).await;
        fixture.store.set_fault(&fixture.node.name, ptarmigan_dcs::memory::Fault::Unreachable);
        assert!(matches!(run(&fixture, Action::RenewLock(held)).await, Outcome::NoAnswer { .. }));
        assert_eq!(written(&mut reader), "", "no answer, no sign of life");
        assert!(view(&fixture.node).running);
        run(&fixture, Action::DisableWatchdog).await;
        assert_eq!(written(&mut reader), "V");
    }

    #[tokio::test]
    async fn hn_5_peers_hear_of_a_required_watchdog_that_is_not_there() {
        let (fixture, reader) = fixture("required");
        crate::publish::publish(&fixture.node);
        assert!(!fixture.node.snapshot.load().watchdog_failed);
        drop(reader);
        std::fs::remove_file(fixture.node.postgres.data_dir().with_file_name("watchdog")).unwrap();
        crate::publish::publish(&fixture.node);
        assert!(fixture.node.snapshot.load().watchdog_failed);
        assert!(!view(&fixture.node).healthy);
        assert!(matches!(run(&fixture, Action::ActivateWatchdog).await, Outcome::Failed(_)));
    }

    #[tokio::test]
    async fn sd_2_the_end_of_a_paused_daemon_leaves_the_lock_and_takes_the_watchdog_off() {
        let (fixture, mut reader) = fixture("automatic");
        run(&fixture, Action::AcquireLock).await;
        run(&fixture, Action::ActivateWatchdog).await;
        fixture.put(ptarmigan_types::Key::Config, r#"{"pause":true}"#).await;
        let config = fixture.cluster().await.config;
        crate::apply::adopt_dynamic(&fixture.node, config.as_ref());
        assert!(fixture.node.is_paused());
        assert!(shutdown::shutdown(&fixture.node).await);
        assert!(written(&mut reader).ends_with('V'));
        assert!(fixture.cluster().await.is_leader(&fixture.node.name), "the lock stays");
    }
}
