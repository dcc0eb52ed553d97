//! The `restapi` and `ctl` sections (surface A.9, C.2).

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

use super::read::{Notes, Section};
use crate::{HostPort, Secret, Warning};

/// Which clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyClient {
    /// None.
    #[default]
    None,
    /// Those that call an unsafe endpoint.
    Optional,
    /// All.
    Required,
}

/// The REST server.
#[derive(Clone, Debug, PartialEq)]
pub struct RestSettings {
    /// Where to listen.
    pub listen: HostPort,
    /// What others are told to connect to; `listen` where not given.
    pub connect_address: HostPort,
    /// User and password of the unsafe endpoints; only where both are given.
    pub authentication: Option<(String, Secret)>,
    /// PEM certificate; its presence turns TLS on.
    pub certfile: Option<PathBuf>,
    /// PEM key; `certfile` where not given.
    pub keyfile: Option<PathBuf>,
    /// Password of the key.
    pub keyfile_password: Option<Secret>,
    /// CA of client certificates.
    pub cafile: Option<PathBuf>,
    /// OpenSSL cipher list.
    pub ciphers: Option<String>,
    /// Which clients must show a certificate.
    pub verify_client: VerifyClient,
    /// Hosts, addresses and networks that may call unsafe endpoints; empty for all.
    pub allowlist: Vec<String>,
    /// Whether members may, too.
    pub allowlist_include_members: bool,
    /// Headers added to every full answer.
    pub http_extra_headers: BTreeMap<String, String>,
    /// Headers added where TLS is on; they override `http_extra_headers`.
    pub https_extra_headers: BTreeMap<String, String>,
    /// Listen backlog.
    pub request_queue_size: u32,
    /// `original`, `minimal` or `productonly`, lower case.
    pub server_tokens: String,
}

impl RestSettings {
    /// `http` or `https`.
    pub const fn scheme(&self) -> &'static str {
        if self.certfile.is_some() { "https" } else { "http" }
    }

    /// The address published as `api_url`.
    pub fn api_url(&self) -> String {
        self.connect_address.uri(self.scheme(), "patroni")
    }
}

/// How to call other members' REST servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CtlSettings {
    /// User and password; those of `restapi` where not given.
    pub authentication: Option<(String, Secret)>,
    /// Whether certificates of servers go unchecked (`ptctl`).
    pub insecure: bool,
    /// CA of servers; `restapi.cafile` where not given.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub certfile: Option<PathBuf>,
    /// Its key.
    pub keyfile: Option<PathBuf>,
    /// Password of the key.
    pub keyfile_password: Option<Secret>,
}

impl RestSettings {
    pub(super) fn read(section: &Section<'_>) -> Self {
        let listen = section.required_address("listen", 8008);
        let connect_address = section.address("connect_address", 8008).unwrap_or_else(|| listen.clone());
        let verify = [
            ("none", VerifyClient::None),
            ("optional", VerifyClient::Optional),
            ("required", VerifyClient::Required),
            // Not a word of the contract, but what people write to turn it off.
            ("false", VerifyClient::None),
        ];
        let tokens = ["original", "minimal", "productonly"].map(|word| (word, word));
        Self {
            authentication: section.login(),
            certfile: section.path("certfile"),
            keyfile: section.path("keyfile"),
            keyfile_password: section.secret("keyfile_password"),
            cafile: section.path("cafile"),
            ciphers: section.filled_text("ciphers"),
            verify_client: section.word("verify_client", &verify, VerifyClient::None),
            allowlist: section.names("allowlist"),
            allowlist_include_members: section.flag("allowlist_include_members", false),
            http_extra_headers: section.text_map("http_extra_headers"),
            https_extra_headers: section.text_map("https_extra_headers"),
            request_queue_size: u32::try_from(section.int("request_queue_size", 5, 0)).unwrap_or(4096),
            server_tokens: section.word("server_tokens", &tokens, "original").to_owned(),
            listen,
            connect_address,
        }
    }
}

impl CtlSettings {
    /// Reads the `ctl` section of a configuration, which need not be complete otherwise.
    pub fn read(config: &Map<String, Value>) -> (Self, Vec<Warning>) {
        let notes = Notes::default();
        let root = Section::root(config, &notes);
        let restapi = root.section("restapi");
        let settings = Self::read_with(&root.section("ctl"), restapi.login(), restapi.path("cafile"));
        (settings, notes.warnings.into_inner())
    }

    pub(super) fn read_with(
        section: &Section<'_>,
        authentication: Option<(String, Secret)>,
        cafile: Option<PathBuf>,
    ) -> Self {
        Self {
            authentication: section.login().or(authentication),
            insecure: section.flag("insecure", false),
            cacert: section.path("cacert").or(cafile),
            certfile: section.path("certfile"),
            keyfile: section.path("keyfile"),
            keyfile_password: section.secret("keyfile_password"),
        }
    }
}
