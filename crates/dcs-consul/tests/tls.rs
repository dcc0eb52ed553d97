//! TLS with client certificates on a real Consul.

#![allow(clippy::unwrap_used, reason = "test code, helpers included")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use ptarmigan_dcs::{Condition, Dcs, Error, Verdict};
use ptarmigan_dcs_consul::{Consul, ConsulSettings};
use ptarmigan_types::Key;
use serde_json::json;
use support::{Server, TIMING, connect, deadline, path, pause, ready, settings};

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

/// What it answers once there is an answer.
async fn written(consul: &Consul) -> Result<(), Error> {
    consul.write(&Key::Status, "{}", Condition::Always).await.map(drop)
}

#[tokio::test]
async fn tls_with_client_certificates_that_are_replaced_on_the_running_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (trusted, stranger) = (authority(dir.path(), "trusted"), authority(dir.path(), "stranger"));
    let file = |name: &str| dir.path().join(name);
    let server = Server::start_tls(&json!({
        "verify_incoming_https": true,
        "ca_file": trusted, "cert_file": file("trusted-server.crt"), "key_file": file("trusted-server.key"),
    }));
    let good = settings(&json!({
        "url": format!("https://127.0.0.1:{}", server.port), "cacert": trusted,
        "cert": file("trusted-client.crt"), "key": file("trusted-client.key"),
    }));
    let consul = connect(good.clone(), "a");
    ready(&consul).await;
    assert!(matches!(consul.acquire().await.unwrap(), Verdict::Held(_)));
    let no_name = format!("https://localhost:{}", server.port);
    ready(&connect(ConsulSettings { base: no_name.parse().unwrap(), ..good.clone() }, "a")).await;

    let wrong_authority = ConsulSettings { cacert: Some(stranger), ..good.clone() };
    let no_certificate = ConsulSettings { cert: None, key: None, ..good.clone() };
    let system_authorities = ConsulSettings { cacert: None, ..good.clone() };
    for settings in [wrong_authority.clone(), no_certificate, system_authorities] {
        let answer = written(&connect(settings, "b")).await;
        assert!(matches!(answer, Err(Error::Unreachable(_) | Error::Indeterminate(_))), "{answer:?}");
    }
    written(&connect(ConsulSettings { verify: false, ..wrong_authority }, "b")).await.unwrap();
    let no_file = ConsulSettings { cacert: Some(file("missing.crt")), ..good.clone() };
    let refused = Consul::connect(no_file, path(), "demo", "b".into(), TIMING, false);
    assert!(matches!(refused, Err(Error::Fatal(text)) if text.contains("consul.cacert")));

    // The files of a stranger, and then those that the server trusts.
    for kind in ["crt", "key"] {
        std::fs::copy(file(&format!("stranger-client.{kind}")), file(&format!("own.{kind}"))).unwrap();
    }
    let own = ConsulSettings { cert: Some(file("own.crt")), key: Some(file("own.key")), ..good };
    let consul = connect(own, "c");
    assert!(written(&consul).await.is_err());
    for kind in ["key", "crt"] {
        std::fs::copy(file(&format!("trusted-client.{kind}")), file(&format!("own.{kind}"))).unwrap();
    }
    let until = deadline();
    while let Err(error) = written(&consul).await {
        assert!(ptarmigan_clock::now() < until, "{error}");
        pause().await;
    }
}
