//! Who is trusted, with certificates made for these tests (they protect nothing).

use std::path::{Path, PathBuf};

use ptarmigan_tls::Verifier;
use rustls::{
    client::danger::ServerCertVerifier as _,
    pki_types::{IpAddr, ServerName, UnixTime},
};

use super::*;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tls").join(name)
}

fn settings(cacert: Option<&str>) -> CtlSettings {
    CtlSettings { cacert: cacert.map(file), ..CtlSettings::default() }
}

/// The settings that ask for each kind of verification.
#[derive(Clone, Copy)]
enum Asked {
    Nothing,
    Chain,
    ChainAndName,
}

/// Shows `server` to a client that trusts `cacert`, by an address.
fn show(cacert: &str, server: &str, address: [u8; 4], asked: Asked) -> Result<(), String> {
    let mut settings = settings(Some(cacert));
    settings.insecure = !matches!(asked, Asked::ChainAndName);
    settings.certfile = matches!(asked, Asked::Chain).then(|| file("one.crt"));
    let verifier = Verifier::new(checks(&settings).unwrap());
    let shown = files::certificates(&file(server)).unwrap().remove(0);
    let name = ServerName::IpAddress(IpAddr::from(std::net::IpAddr::from(address)));
    let verified = verifier.verify_server_cert(&shown, &[], &name, &[], UnixTime::now());
    verified.map(drop).map_err(|error| error.to_string())
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [10, 0, 0, 1];

#[test]
fn c_2_chain_and_name_are_verified() {
    let all = Asked::ChainAndName;
    assert_eq!(show("ca.crt", "server.crt", HERE, all), Ok(()));
    assert!(show("ca.crt", "server.crt", ELSEWHERE, all).unwrap_err().contains("not valid for name"));
    assert!(show("one.crt", "server.crt", HERE, all).unwrap_err().contains("UnknownIssuer"));
}

#[test]
fn c_2_insecure_with_a_client_certificate_still_verifies_the_chain() {
    assert_eq!(show("ca.crt", "server.crt", ELSEWHERE, Asked::Chain), Ok(()));
    assert!(show("one.crt", "server.crt", HERE, Asked::Chain).is_err());
    assert_eq!(show("one.crt", "server.crt", ELSEWHERE, Asked::Nothing), Ok(()));
}

#[test]
fn e_one_certificate_for_everything_is_accepted_where_it_is_trusted() {
    assert_eq!(show("one.crt", "one.crt", HERE, Asked::ChainAndName), Ok(()));
    assert!(show("one.crt", "one.crt", ELSEWHERE, Asked::ChainAndName).is_err());
    assert_eq!(show("one.crt", "one.crt", ELSEWHERE, Asked::Chain), Ok(()));
    assert!(show("ca.crt", "one.crt", HERE, Asked::ChainAndName).is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    for (cacert, certfile, keyfile, expected) in [
        (Some("none.crt"), None, None, "none.crt"),
        (Some("server.key"), None, None, "there is no certificate"),
        (None, Some("server.crt"), Some("encrypted.key"), "is encrypted"),
        (None, Some("server.crt"), None, "there is no usable key in"),
        (None, Some("server.crt"), Some("one.key"), "cannot be used"),
    ] {
        let mut settings = settings(cacert);
        (settings.certfile, settings.keyfile) = (certfile.map(file), keyfile.map(file));
        let error = format!("{:#}", client_config(&settings).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    assert!(
        client_config(&settings(None)).is_ok(),
        "a machine without authorities can still speak plain HTTP"
    );
}
