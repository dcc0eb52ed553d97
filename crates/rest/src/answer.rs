//! What is sent back, and how it looks on the wire (contract surface A.1).

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, SERVER, TRANSFER_ENCODING, WWW_AUTHENTICATE},
};
use http_body_util::Full;
use ptarmigan_config::RestSettings;
use ptarmigan_types::{Lsn, pyjson, version};
use serde_json::Value;

use crate::request::{Body, DCS_HEADER, Reply};

/// The phrase that the command line looks for after a 501 (contract surface A.10).
const UNSUPPORTED: &str = "Server does not support this operation";

/// The position of whoever promises not to lead (contract FS-4).
pub(crate) const LSN_HEADER: &str = "lsn";

/// One answer, before it becomes HTTP.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content: Content,
    /// Part of the request was left unread: the connection cannot go on.
    pub(crate) closes: bool,
    /// The header `lsn`.
    pub(crate) lsn: Option<Lsn>,
}

/// What stands below the status line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// Nothing at all, as to health checks.
    Bare,
    /// A plain message.
    Text(String),
    /// A JSON document.
    Json(Value),
    /// Metrics in the Prometheus text format.
    Metrics(String),
    /// The generic error page with a message.
    Page(String),
}

impl Answer {
    pub(crate) const fn bare(status: u16) -> Self {
        Self { status, content: Content::Bare, closes: false, lsn: None }
    }

    pub(crate) fn text(status: u16, text: impl Into<String>) -> Self {
        Self { status, content: Content::Text(text.into()), closes: false, lsn: None }
    }

    pub(crate) const fn json(status: u16, value: Value) -> Self {
        Self { status, content: Content::Json(value), closes: false, lsn: None }
    }

    pub(crate) const fn metrics(text: String) -> Self {
        Self { status: 200, content: Content::Metrics(text), closes: false, lsn: None }
    }

    pub(crate) fn page(status: u16, message: impl Into<String>) -> Self {
        Self { status, content: Content::Page(message.into()), closes: true, lsn: None }
    }

    pub(crate) fn unsupported() -> Self {
        Self::page(501, UNSUPPORTED)
    }

    /// The answer as HTTP, with the headers that are configured.
    pub(crate) fn into_http(self, settings: &RestSettings) -> Response<Full<Bytes>> {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (content_type, body, is_plain) = match &self.content {
            Content::Bare => return with_status(status, Bytes::new()),
            Content::Text(text) => ("text/html", text.clone(), true),
            Content::Json(value) => ("application/json", pyjson::spaced(value), true),
            Content::Metrics(text) => ("text/plain", text.clone(), true),
            Content::Page(message) => ("text/html;charset=utf-8", page(status, message), false),
        };
        let is_unreachable = self.is_dcs_unreachable();
        let mut response = with_status(status, body.into());
        let headers = response.headers_mut();
        headers.insert(SERVER, server_banner(&settings.server_tokens));
        if let Ok(date) = HeaderValue::try_from(http_date()) {
            headers.insert(DATE, date);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Patroni\""));
        }
        if let Some(lsn) = self.lsn {
            headers.insert(HeaderName::from_static(LSN_HEADER), HeaderValue::from(lsn.0));
        }
        if is_unreachable {
            headers.insert(HeaderName::from_static(DCS_HEADER), HeaderValue::from_static("unreachable"));
        }
        if is_plain {
            add_configured(headers, settings);
        }
        response
    }

    fn is_dcs_unreachable(&self) -> bool {
        let Content::Text(text) = &self.content else { return false };
        Reply::text(self.status, text.as_str()) == Reply::dcs_unreachable()
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let answer = match reply.body {
            Body::Text(text) => Self::text(reply.status, text),
            Body::Json(value) => Self::json(reply.status, value),
        };
        Self { lsn: reply.lsn, ..answer }
    }
}

fn with_status(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
}

fn server_banner(tokens: &str) -> HeaderValue {
    let banner = match tokens {
        "productonly" => "Patroni".to_owned(),
        "minimal" => format!("Patroni/{}", version::EMULATED),
        _ => format!("Ptarmigan/{}", env!("CARGO_PKG_VERSION")),
    };
    HeaderValue::try_from(banner).unwrap_or_else(|_| HeaderValue::from_static("Ptarmigan"))
}

/// `Fri, 20 Nov 2026 10:00:00 GMT`.
fn http_date() -> String {
    jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// What cannot be sent was reported when the settings were applied.
fn add_configured(headers: &mut HeaderMap, settings: &RestSettings) {
    let secure = settings.https_extra_headers.iter().filter(|_| settings.certfile.is_some());
    let configured = settings.http_extra_headers.iter().chain(secure);
    for (name, value) in configured.filter_map(|(name, value)| extra_header(name, value)) {
        headers.insert(name, value);
    }
}

/// A configured header; `None` where it is malformed, or would change where the answer ends.
pub(crate) fn extra_header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(name).ok()?;
    let frames = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name);
    Some((name, HeaderValue::try_from(value).ok()?)).filter(|_| !frames)
}

fn page(status: StatusCode, message: &str) -> String {
    let code = status.as_u16();
    let phrase = status.canonical_reason().unwrap_or("Error");
    let message = escape(message);
    format!(
        "<!DOCTYPE HTML>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Error response</title></head>\n\
         <body>\n<h1>Error response</h1>\n<p>Error code: {code}</p>\n<p>Message: {phrase}.</p>\n\
         <p>Error code explanation: {code} - {message}.</p>\n</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_carries_no_markup_from_outside() {
        let page = page(StatusCode::BAD_REQUEST, "a<b>&");
        assert!(page.contains("400 - a&lt;b&gt;&amp;."), "{page}");
    }

    #[test]
    fn dates_are_those_of_http() {
        let date = http_date();
        assert!(date.ends_with(" GMT") && date.len() == "Fri, 20 Nov 2026 10:00:00 GMT".len(), "{date}");
    }
}
