//! A minimal HTTP/1.1 client over plain TCP: one connection for each request, no TLS.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// What a request may take, from the connect to the last byte of the answer, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A request. `address` is `host:port`.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    address: &'a str,
    method: &'a str,
    path: &'a str,
    body: Option<String>,
    headers: Vec<(&'a str, String)>,
    timeout: Duration,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Response {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none; the message shows it.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }
}

impl<'a> Request<'a> {
    /// A request without a body.
    pub fn new(method: &'a str, address: &'a str, path: &'a str) -> Self {
        Self { address, method, path, body: None, headers: Vec::new(), timeout: TIMEOUT }
    }

    /// Sends `body`, declared as JSON.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// HTTP Basic authentication.
    #[must_use]
    pub fn basic_auth(self, username: &str, password: &str) -> Self {
        self.header("Authorization", format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
    }

    /// One more header.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The longest time from the connect to the last byte (10 s otherwise).
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it and reads the answer.
    ///
    /// # Errors
    /// No connection, no answer in time, or an answer that is not HTTP.
    pub async fn send(self) -> Result<Response> {
        let what = format!("{} http://{}{}", self.method, self.address, self.path);
        tokio::time::timeout(self.timeout, self.exchange())
            .await
            .map_err(|_| anyhow!("no answer within {:?}", self.timeout))
            .and_then(|answer| answer)
            .context(what)
    }

    async fn exchange(&self) -> Result<Response> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(self.head_and_body().as_bytes()).await?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 8192];
        loop {
            let count = stream.read(&mut buffer).await?;
            bytes.extend_from_slice(&buffer[..count]);
            if let Some(response) = parse(&bytes, count == 0, self.method == "HEAD")? {
                return Ok(response);
            }
        }
    }

    fn head_and_body(&self) -> String {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.path, self.address);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("Connection: close\r\n");
        let body = self.body.as_deref().unwrap_or_default();
        if self.body.is_some() {
            text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        format!("{text}\r\n{body}")
    }
}

/// `GET`
///
/// # Errors
/// Those of [`Request::send`].
pub async fn get(address: &str, path: &str) -> Result<Response> {
    Request::new("GET", address, path).send().await
}

/// `POST` with a JSON body.
///
/// # Errors
/// Those of [`Request::send`].
pub async fn post(address: &str, path: &str, body: &Value) -> Result<Response> {
    Request::new("POST", address, path).body(body.to_string()).send().await
}

/// `PATCH` with a JSON body.
///
/// # Errors
/// Those of [`Request::send`].
pub async fn patch(address: &str, path: &str, body: &Value) -> Result<Response> {
    Request::new("PATCH", address, path).body(body.to_string()).send().await
}

/// Reads an answer; `None` while more bytes are needed.
fn parse(bytes: &[u8], ended: bool, head_only: bool) -> Result<Option<Response>> {
    let Some(split) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if ended { Err(anyhow!("the answer ended within its headers")) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&bytes[..split]).context("headers are not UTF-8")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not a status line: {status_line:?}"))?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
        .collect();
    let mut response = Response { status, headers, body: String::new() };
    let rest = &bytes[split + 4..];
    let chunked = response.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    let length: Option<usize> = response.header("content-length").and_then(|value| value.parse().ok());
    let body = match length {
        _ if head_only => Some(Vec::new()),
        _ if chunked => dechunk(rest)?,
        Some(length) => rest.get(..length).map(<[u8]>::to_vec),
        None => ended.then(|| rest.to_vec()),
    };
    match body {
        Some(body) => response.body = String::from_utf8_lossy(&body).into_owned(),
        None if ended => return Err(anyhow!("the answer ended within its body")),
        None => return Ok(None),
    }
    Ok(Some(response))
}

/// Joins the chunks; `None` while the last one is missing.
fn dechunk(mut rest: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&rest[..line_end]);
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {line:?}"))?;
        if size == 0 {
            return Ok(Some(body));
        }
        let start = line_end + 2;
        let Some(chunk) = rest.get(start..start + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = rest.get(start + size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one connection with `answer` and returns what was asked.
    async fn exchange(answer: &'static str, method: &str) -> (Result<Response>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        #[expect(clippy::disallowed_methods, reason = "awaited below")]
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&buffer[..count]).into_owned()
        });
        let request = Request::new(method, &address, "/x").body("{}").basic_auth("a", "b");
        (request.send().await, server.await.unwrap())
    }

    #[tokio::test]
    async fn reads_status_headers_and_body_and_sends_authorization() {
        let (response, asked) =
            exchange("HTTP/1.0 503 Nope\r\nX-A: one\r\nContent-Length: 4\r\n\r\nbody", "POST").await;
        let response = response.unwrap();
        assert_eq!(
            (response.status, response.header("x-a"), response.body.as_str()),
            (503, Some("one"), "body")
        );
        assert!(asked.starts_with("POST /x HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Authorization: Basic YTpi\r\n"), "{asked}");
        assert!(asked.ends_with("Content-Length: 2\r\n\r\n{}"), "{asked}");
    }

    #[tokio::test]
    async fn joins_chunks() {
        let answer =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert_eq!(exchange(answer, "GET").await.0.unwrap().body, "abcde");
    }

    #[tokio::test]
    async fn an_answer_without_length_ends_with_the_connection() {
        assert_eq!(exchange("HTTP/1.0 200 OK\r\n\r\nall of it", "GET").await.0.unwrap().body, "all of it");
    }

    #[tokio::test]
    async fn a_truncated_answer_is_an_error() {
        let (response, _) = exchange("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody", "GET").await;
        assert!(format!("{:#}", response.unwrap_err()).contains("within its body"));
    }

    #[tokio::test]
    async fn head_has_no_body_whatever_its_length_says() {
        let (response, _) = exchange("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD").await;
        assert_eq!(response.unwrap().status, 200);
    }
}
