//! Users, tokens and TLS.

#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use ptarmigan_dcs::{Condition, Dcs, Error, Verdict, Written};
use ptarmigan_dcs_etcd::{Etcd, EtcdSettings};
use ptarmigan_types::Key;
use serde_json::json;
use support::{Server, connect, deadline, eventually, pause, ready, settings};

const PASSWORD: &str = "correct: horse/battery";

/// A server with authentication on: `root` may do everything, `ptarmigan` what is below `/service/demo/`.
async fn guarded(more: &[&str]) -> Server {
    let server = Server::start_with("http", more);
    ready(&connect(&settings(&[&server.endpoint]), "x")).await;
    server.ctl(&["user", "add", "root:root"]);
    server.ctl(&["user", "add", &format!("ptarmigan:{PASSWORD}"), "--interactive=false"]);
    server.ctl(&["role", "add", "demo"]);
    server.ctl(&["role", "grant-permission", "demo", "--prefix=true", "readwrite", "/service/demo/"]);
    server.ctl(&["user", "grant-role", "ptarmigan", "demo"]);
    server.ctl(&["auth", "enable"]);
    server
}

fn with_user(server: &Server, username: &str, password: &str) -> EtcdSettings {
    EtcdSettings {
        username: Some(username.into()),
        password: Some(password.into()),
        ..settings(&[&server.endpoint])
    }
}

async fn acquire(etcd: &Etcd) -> ptarmigan_types::Leader {
    let verdict = etcd.acquire().await.unwrap();
    assert!(matches!(verdict, Verdict::Held(_)), "{verdict:?}");
    etcd.view_fresh().await.unwrap().cluster.leader.unwrap()
}

async fn renewed(etcd: &Etcd, leader: &ptarmigan_types::Leader) {
    let verdict = etcd.renew(leader).await.unwrap();
    assert!(matches!(verdict, Verdict::Held(_)), "{verdict:?}");
}

#[tokio::test]
async fn a_5_a_wrong_password_is_fatal() {
    let server = guarded(&[]).await;
    let etcd = connect(&with_user(&server, "ptarmigan", "wrong"), "a");
    let before = ptarmigan_clock::now();
    let error = etcd.probe().await.unwrap_err();
    assert!(matches!(&error, Error::Fatal(text) if !text.contains("wrong")), "{error:?}");
    assert!(ptarmigan_clock::now().since(before) < Duration::from_secs(3), "nothing to wait for");
    assert!(matches!(etcd.acquire().await, Ok(Verdict::Refused(_))));
}

#[tokio::test]
async fn reloaded_credentials_are_used() {
    let server = guarded(&[]).await;
    let etcd = connect(&with_user(&server, "ptarmigan", PASSWORD), "a");
    let leader = acquire(&etcd).await;
    let section = |password: &str| {
        let section = json!({"host": "127.0.0.1:1", "username": "ptarmigan", "password": password});
        section.as_object().unwrap().clone()
    };
    etcd.reload(&section("wrong")).unwrap();
    assert!(matches!(etcd.probe().await, Err(Error::Fatal(_))));
    etcd.reload(&section(PASSWORD)).unwrap();
    etcd.probe().await.unwrap();
    renewed(&etcd, &leader).await;
}

#[tokio::test]
async fn a_missing_user_is_refused() {
    let server = guarded(&[]).await;
    let etcd = connect(&settings(&[&server.endpoint]), "a");
    let answer = etcd.view_fresh().await;
    assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
}

#[tokio::test]
async fn a_user_without_permission_is_refused() {
    let server = guarded(&[]).await;
    let settings = with_user(&server, "ptarmigan", PASSWORD);
    let path = ptarmigan_types::ClusterPath::new("service", "demo2");
    let etcd = Etcd::connect(&settings, path, "a".into(), support::TIMING, false).unwrap();
    etcd.probe().await.unwrap();
    assert!(matches!(etcd.acquire().await, Ok(Verdict::Refused(_))));
    let answer = etcd.write(&Key::Status, "{}", Condition::Always).await;
    assert!(matches!(answer, Err(Error::Refused(_))), "{answer:?}");
}

#[tokio::test]
async fn a_5_an_expired_token_is_replaced() {
    let server = guarded(&["--auth-token-ttl", "1"]).await;
    let settings = with_user(&server, "ptarmigan", PASSWORD);
    let (a, b) = (connect(&settings, "a"), connect(&settings, "b"));
    a.probe().await.unwrap();
    let leader = acquire(&a).await;
    b.view().await.unwrap();
    for round in 1..=3_u64 {
        // Tokens live on while they are used.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        renewed(&a, &leader).await;
        a.write(&Key::Optime, &round.to_string(), Condition::Always).await.unwrap();
        eventually("b follows", async || b.view().await.unwrap().cluster.status.last_lsn.0 == round).await;
        b.put_member("{}").await.unwrap();
    }
}

#[tokio::test]
async fn a_5_a_changed_auth_store_asks_for_another_token() {
    let server = guarded(&[]).await;
    let etcd = connect(&with_user(&server, "ptarmigan", PASSWORD), "a");
    let leader = acquire(&etcd).await;
    for round in 0..3 {
        server.ctl(&["--user", "root:root", "role", "add", &format!("r{round}")]);
        renewed(&etcd, &leader).await;
        server.ctl(&["--user", "root:root", "user", "grant-role", "ptarmigan", &format!("r{round}")]);
        let written = etcd.write(&Key::Config, "{}", Condition::Always).await;
        assert!(matches!(written, Ok(Written::Applied(_))), "{written:?}");
    }
}

#[tokio::test]
async fn a_watch_returns_after_a_restart_with_authentication() {
    let mut server = guarded(&[]).await;
    let settings = with_user(&server, "ptarmigan", PASSWORD);
    let (a, b) = (connect(&settings, "a"), connect(&settings, "b"));
    let leader = acquire(&a).await;
    b.view().await.unwrap();
    server.kill();
    server.run();
    // The tokens were in the server's memory.
    let deadline = deadline();
    while !matches!(a.renew(&leader).await, Ok(Verdict::Held(_))) {
        assert!(ptarmigan_clock::now() < deadline);
        pause().await;
    }
    a.write(&Key::Optime, "77", Condition::Always).await.unwrap();
    eventually("b follows", async || b.view().await.is_ok_and(|view| view.cluster.status.last_lsn.0 == 77))
        .await;
}

#[tokio::test]
async fn a_5_a_user_is_not_needed_where_authentication_is_off() {
    let server = Server::start();
    ready(&connect(&settings(&[&server.endpoint]), "x")).await;
    let etcd = connect(&with_user(&server, "ptarmigan", PASSWORD), "a");
    etcd.probe().await.unwrap();
    let leader = acquire(&etcd).await;
    renewed(&etcd, &leader).await;
}

#[tokio::test]
async fn the_v2_section_works_through_the_v3_api() {
    let server = Server::start();
    let settings = EtcdSettings { v2: true, ..settings(&[&server.endpoint]) };
    let etcd = connect(&settings, "a");
    ready(&etcd).await;
    etcd.probe().await.unwrap();
    acquire(&etcd).await;
}

#[tokio::test]
async fn a_server_without_the_v3_api_is_fatal_for_the_v2_section() {
    // Speaks HTTP/1.1 only, as etcd 2 does.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "ends with the runtime of its test")]
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let settings = EtcdSettings { v2: true, ..settings(&[&endpoint]) };
    let error = connect(&settings, "a").probe().await.unwrap_err();
    assert!(matches!(&error, Error::Fatal(text) if text.contains("etcd3:")), "{error:?}");
}

/// Runs openssl in `dir`.
#[expect(clippy::disallowed_methods, reason = "a test makes its certificates")]
fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(dir)
        .output()
        .expect("openssl is installed");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority `name.crt`, and certificates of a server and a client that it signed.
fn authority(dir: &Path, name: &str) -> PathBuf {
    let new_key = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("{new_key} -x509 -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt"));
    for (who, usage) in [("server", "serverAuth,clientAuth"), ("client", "clientAuth")] {
        openssl(dir, &format!("{new_key} -subj /CN={who} -keyout {name}-{who}.key -out {name}-{who}.csr"));
        let extensions = format!("subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage={usage}\n");
        std::fs::write(dir.join("extensions"), extensions).unwrap();
        let sign = format!("x509 -req -days 2 -CA {name}.crt -CAkey {name}.key -CAcreateserial");
        openssl(dir, &format!("{sign} -in {name}-{who}.csr -out {name}-{who}.crt -extfile extensions"));
    }
    dir.join(format!("{name}.crt"))
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let (trusted, stranger) = (authority(dir.path(), "trusted"), authority(dir.path(), "stranger"));
    let file = |name: &str| dir.path().join(name);
    let [cert, key, ca] = ["trusted-server.crt", "trusted-server.key", "trusted.crt"]
        .map(|name| file(name).display().to_string());
    let server = Server::start_with(
        "https",
        &["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"],
    );
    let good = EtcdSettings {
        cacert: Some(trusted),
        cert: Some(file("trusted-client.crt")),
        key: Some(file("trusted-client.key")),
        ..settings(&[&server.endpoint])
    };
    let etcd = connect(&good, "a");
    ready(&etcd).await;
    etcd.probe().await.unwrap();
    let leader = acquire(&etcd).await;
    renewed(&etcd, &leader).await;
    etcd.put_member("{}").await.unwrap();
    assert!(etcd.view().await.unwrap().cluster.is_leader(&"a".into()));

    let both =
        [file("trusted-client.crt"), file("trusted-client.key")].map(|path| std::fs::read(path).unwrap());
    std::fs::write(file("both.pem"), both.concat()).unwrap();
    let one_file = EtcdSettings { cert: Some(file("both.pem")), key: None, ..good.clone() };
    connect(&one_file, "a").probe().await.unwrap();

    let wrong_authority = EtcdSettings { cacert: Some(stranger), ..good.clone() };
    let no_certificate = EtcdSettings { cert: None, key: None, ..good.clone() };
    let no_file = EtcdSettings { cacert: Some(file("missing.crt")), ..good.clone() };
    let system_authorities = EtcdSettings { cacert: None, ..good };
    for settings in [wrong_authority, no_certificate, no_file, system_authorities] {
        let etcd = connect(&settings, "b");
        let answer = etcd.write(&Key::Status, "{}", Condition::Always).await;
        assert!(matches!(answer, Err(Error::Unreachable(_) | Error::Indeterminate(_))), "{answer:?}");
    }
}

/// Everything under the same names is another authority's now.
#[tokio::test]
async fn certificates_that_are_replaced_are_used_after_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let _ = (authority(dir.path(), "first"), authority(dir.path(), "second"));
    let file = |name: &str| dir.path().join(name).display().to_string();
    let put = |authority: &str| {
        for name in [".crt", "-server.crt", "-server.key", "-client.crt", "-client.key"] {
            std::fs::copy(file(&format!("{authority}{name}")), file(&format!("used{name}"))).unwrap();
        }
    };
    put("first");
    let [cert, key, ca] = ["used-server.crt", "used-server.key", "used.crt"].map(file);
    let mut server = Server::start_with(
        "https",
        &["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"],
    );
    let section = json!({
        "hosts": [&server.endpoint], "cacert": ca, "cert": file("used-client.crt"), "key": file("used-client.key"),
    });
    let section = section.as_object().unwrap();
    let etcd = connect(&EtcdSettings::from_config(section, false).unwrap(), "a");
    ready(&etcd).await;
    let leader = acquire(&etcd).await;
    // The server's own, at once; ours, which the new server would refuse, at the reload.
    put("second");
    etcd.reload(section).unwrap();
    server.kill();
    server.run();
    eventually("the server with its new certificate", async || {
        matches!(etcd.renew(&leader).await, Ok(Verdict::Held(_)))
    })
    .await;
    assert!(etcd.view().await.unwrap().cluster.is_leader(&"a".into()));
    // A certificate that is broken is named, and the former one goes on, also over a new connection.
    std::fs::write(file("used-client.crt"), "nonsense").unwrap();
    let broken = etcd.reload(section).unwrap_err();
    assert!(broken.starts_with("etcd3.cert: ") && broken.contains("used-client.crt"), "{broken}");
    renewed(&etcd, &leader).await;
    server.kill();
    server.run();
    eventually("a new connection", async || matches!(etcd.renew(&leader).await, Ok(Verdict::Held(_)))).await;
    // Without one that worked before, it is said what is wrong.
    let fresh = connect(&EtcdSettings::from_config(section, false).unwrap(), "b");
    let refused = fresh.probe().await.unwrap_err();
    assert!(refused.to_string().contains("used-client.crt"), "{refused}");
    put("second");
    etcd.reload(section).unwrap();
    renewed(&etcd, &leader).await;
}
