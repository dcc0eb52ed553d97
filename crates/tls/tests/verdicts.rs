//! Who is trusted, with certificates made for these tests (they protect nothing): `self` and `twin` are authorities
//! signed by themselves, `leaf` is signed by itself and no authority, `issued` and `revoked` are signed by `authority`,
//! whose list names `revoked`, `v1` has no extensions. All but `v1` name `localhost`, all end in 2126.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{path::Path, time::Duration};

use ptarmigan_tls::{Checks, Trust, Verifier, pem};
use rustls::{
    CertificateError,
    client::danger::ServerCertVerifier as _,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// The first seconds of 2030 and of 2200.
const GOOD: u64 = 1_893_456_000;
const EXPIRED: u64 = 7_258_118_400;

type Kind = fn(Trust) -> Checks;
const NAME: Kind = Checks::ChainAndName;
const CHAIN: Kind = Checks::Chain;
const NOTHING: Kind = |_| Checks::Nothing;

fn read<T: PemObject>(name: &str) -> Vec<T> {
    pem::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)).unwrap()
}

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    read(&format!("{name}.crt"))
}

fn verdict(checks: Checks, shown: &str, host: &str, unix_seconds: u64) -> Result<(), rustls::Error> {
    let now = UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds));
    let name = ServerName::try_from(host).unwrap();
    Verifier::new(checks).verify_server_cert(&certificates(shown)[0], &[], &name, &[], now).map(drop)
}

#[test]
fn only_what_is_trusted_is_accepted() {
    for (shown, root, checks, host, now, good) in [
        ("issued", "authority", NAME, "localhost", GOOD, true),
        ("issued", "authority", NAME, "elsewhere", GOOD, false),
        ("issued", "authority", CHAIN, "elsewhere", GOOD, true),
        ("issued", "authority", CHAIN, "localhost", EXPIRED, false),
        ("issued", "self", CHAIN, "localhost", GOOD, false),
        ("issued", "self", NOTHING, "elsewhere", EXPIRED, true),
        // One certificate for everything.
        ("self", "self", NAME, "localhost", GOOD, true),
        ("self", "self", CHAIN, "localhost", GOOD, true),
        ("self", "self", NAME, "elsewhere", GOOD, false),
        ("self", "self", CHAIN, "elsewhere", GOOD, true),
        ("self", "self", NAME, "localhost", EXPIRED, false),
        ("self", "self", CHAIN, "localhost", EXPIRED, false),
        ("self", "twin", NAME, "localhost", GOOD, false),
        ("self", "twin", CHAIN, "localhost", GOOD, false),
        ("leaf", "leaf", NAME, "localhost", GOOD, true),
        ("leaf", "leaf", NAME, "elsewhere", GOOD, false),
        ("leaf", "leaf", NAME, "localhost", EXPIRED, false),
    ] {
        let every = Trust::every(certificates(root), Vec::new()).unwrap();
        let usable = Trust::usable(certificates(root)).unwrap();
        for trust in [every, usable] {
            let checks = checks(trust);
            let case = format!("{shown} by {root} for {host} at {now}, {checks:?}");
            let outcome = verdict(checks, shown, host, now);
            assert_eq!(outcome.is_ok(), good, "{outcome:?}: {case}");
        }
    }
}

#[test]
fn revoked_certificates_are_refused_and_authorities_without_a_list_are_not() {
    let verdict = |root, shown| {
        let trust = Trust::every(certificates(root), read("authority.crl")).unwrap();
        verdict(Checks::Chain(trust), shown, "localhost", GOOD)
    };
    assert_eq!(verdict("authority", "issued"), Ok(()));
    let error = verdict("authority", "revoked").unwrap_err();
    assert_eq!(error, CertificateError::Revoked.into());
    assert_eq!(verdict("leaf", "leaf"), Ok(()));
}

#[test]
fn without_a_usable_root_no_server_is_good() {
    assert!(Trust::every(Vec::new(), Vec::new()).is_err());
    let broken = || CertificateDer::from(vec![1, 2, 3]);
    assert!(Trust::every(vec![broken()], Vec::new()).is_err());
    let mut roots = vec![broken()];
    let nothing = Trust::usable(roots.clone()).unwrap();
    let error = verdict(Checks::Chain(nothing), "self", "localhost", GOOD).unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    roots.extend(certificates("self"));
    let bundle = Trust::usable(roots).unwrap();
    assert_eq!(verdict(Checks::ChainAndName(bundle), "self", "localhost", GOOD), Ok(()));
}

#[test]
fn version_1_certificates_are_refused_with_a_remedy() {
    let trust = Trust::every(certificates("self"), Vec::new()).unwrap();
    let error = verdict(Checks::Chain(trust), "v1", "localhost", GOOD).unwrap_err().to_string();
    assert!(error.contains("X.509 version 1") && error.contains("subjectAltName"), "{error}");
}
