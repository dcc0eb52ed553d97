//! The client for peers, against our own server and against sockets that misbehave.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::Arc,
    thread,
    time::Duration,
};

use ptarmigan_clock::now;
use ptarmigan_config::Secret;
use ptarmigan_rest::{Client, peer::Error};
use ptarmigan_types::{Lsn, Role};
use support::{POSITION, primary, replica, settings, start, start_replica, willing};

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Accepts one connection, sends `answer` after the request, and hands the request over.
fn answering(answer: &str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let answer = answer.to_owned();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (url, server)
}

#[test]
fn hn_4_a_peer_of_ours_is_understood() {
    let (standby, leader) = (start_replica(), start(settings(), primary(now()), willing));
    let url = |node: &support::Node| format!("http://{}/patroni", node.address());
    let peers = vec![("a".into(), url(&standby)), ("b".into(), url(&leader)), ("c".into(), "garbage".into())];
    let answers = block_on(Client::new(None).unwrap().ask_all(peers));
    let names: Vec<&str> = answers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    let standby = answers[0].1.as_ref().unwrap();
    assert!(standby.in_recovery && standby.role == Some(Role::Replica));
    assert_eq!((standby.lsn, standby.timeline, standby.failover_priority), (Lsn(POSITION), Some(3), 1));
    let leader = answers[1].1.as_ref().unwrap();
    assert!(!leader.in_recovery && leader.lsn.is_zero());
    assert!(matches!(answers[2].1, Err(Error::Address(_))));
}

#[test]
fn hn_3_a_peer_whose_postgresql_is_down_is_unreachable() {
    let mut snapshot = replica(now());
    snapshot.figures = None;
    let node = start(settings(), snapshot, willing);
    let asked = block_on(Client::new(None).unwrap().ask(&format!("http://{}/patroni", node.address())));
    assert!(matches!(asked, Err(Error::Answer(_))), "{asked:?}");
}

#[test]
fn fs_4_accepted_and_nothing_else_is_a_promise() {
    let client = Client::new(None).unwrap();
    let ask = |answer: &str| {
        let (url, server) = answering(answer);
        let body = serde_json::json!({"name": "a"});
        let answer = block_on(client.ask_promise(&url, &body, Duration::from_secs(5)));
        (answer, server.join().unwrap())
    };
    let (promised, request) = ask("HTTP/1.0 200 OK\r\nlsn: 4711\r\n\r\nAccepted");
    assert_eq!(promised.unwrap(), Some(Lsn(4711)));
    assert!(request.starts_with("POST /failsafe HTTP/1.1\r\n"), "{request}");
    assert_eq!(ask("HTTP/1.0 200 OK\r\n\r\nAccepted").0.unwrap(), None);
    assert_eq!(ask("HTTP/1.0 200 OK\r\nlsn: x\r\n\r\nAccepted").0.unwrap(), None);
    for (answer, reason) in [
        ("HTTP/1.0 200 OK\r\n\r\nAccepted.", "200 Accepted."),
        ("HTTP/1.0 200 OK\r\n\r\naccepted", "200 accepted"),
        ("HTTP/1.0 201 Created\r\n\r\nAccepted", "201 Accepted"),
        ("HTTP/1.0 500 Error\r\n\r\nRunning as a leader", "500 Running as a leader"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "200 "),
    ] {
        let (answer, _) = ask(answer);
        assert!(matches!(&answer, Err(Error::Refused(text)) if text.trim() == reason.trim()), "{answer:?}");
    }
    assert!(matches!(ask("").0, Err(Error::Connection(_))));
    let address = block_on(client.ask_promise("garbage", &serde_json::json!({}), Duration::from_secs(5)));
    assert!(matches!(address, Err(Error::Address(_))), "{address:?}");
}

#[test]
fn fs_3_a_member_that_is_silent_is_not_waited_for_longer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/patroni", listener.local_addr().unwrap());
    let limit = Duration::from_millis(100);
    let asked = block_on(Client::new(None).unwrap().ask_promise(&url, &serde_json::json!({}), limit));
    assert!(matches!(asked, Err(Error::Timeout(_))), "{asked:?}");
}

#[test]
fn hn_3_the_status_does_not_matter_and_credentials_are_sent() {
    let (url, server) =
        answering("HTTP/1.0 503 Service Unavailable\r\n\r\n{\"role\": \"replica\", \"wal\": {}}");
    let login = ("admin".to_owned(), Secret::new("sesame"));
    let client = Client::new(Some(&login)).unwrap();
    assert!(block_on(client.ask(&url)).unwrap().in_recovery);
    let request = server.join().unwrap().to_lowercase();
    assert!(request.contains("authorization: basic ywrtaw46c2vzyw1l"), "{request}");
    assert!(!format!("{client:?}").contains("YWRtaW4"), "no password in logs");
}

#[test]
fn hn_3_answers_that_are_no_document() {
    let answers = [
        "HTTP/1.0 200 OK\r\n\r\n<html>",
        "HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n",
        "not http",
        "",
    ];
    for answer in answers {
        let (url, server) = answering(answer);
        let asked = block_on(Client::new(None).unwrap().ask(&url));
        assert!(matches!(asked, Err(Error::Answer(_) | Error::Connection(_))), "{answer}: {asked:?}");
        server.join().unwrap();
    }
}

/// Over TLS this is how a server looks that closes without a `close_notify`, as Python's does.
#[test]
fn hn_3_a_whole_document_counts_however_the_connection_ends() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let (url, server) = answering(&format!("{head}{{\"xlog\": {{\"replayed_location\": 7}}}}"));
    assert_eq!(block_on(Client::new(None).unwrap().ask(&url)).unwrap().lsn, Lsn(7));
    server.join().unwrap();
    let (url, server) = answering(&format!("{head}{{\"xlog\": {{\"replayed_location\": 7}}"));
    let asked = block_on(Client::new(None).unwrap().ask(&url));
    assert!(matches!(asked, Err(Error::Answer(_))), "{asked:?}");
    server.join().unwrap();
}

#[test]
fn hn_3_silence_takes_two_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/patroni", silent.local_addr().unwrap());
    let began = now();
    let peers = (0..10).map(|_| ("x".into(), url.clone())).collect();
    let answers = block_on(Client::new(None).unwrap().ask_all(peers));
    assert!(answers.iter().all(|(_, answer)| matches!(answer, Err(Error::Timeout(_)))), "{answers:?}");
    let took = now().since(began);
    assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[test]
fn d_3_any_http_answer_is_somebody() {
    let client = Client::new(None).unwrap();
    let node = start_replica();
    let url = format!("http://{}/patroni?x=1", node.address());
    assert!(block_on(client.is_somebody_there(&url)));
    let (url, server) = answering("HTTP/1.0 404 Not Found\r\n\r\n");
    assert!(block_on(client.is_somebody_there(&url)));
    assert!(server.join().unwrap().starts_with("GET /liveness HTTP/1.1\r\n"));
    node.snapshot.store(Arc::new(replica(now())));
    node.handle.shutdown();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [format!("http://{closed}/patroni"), "garbage".into(), String::new(), "http://[::g]/".into()] {
        assert!(!block_on(client.is_somebody_there(&url)), "{url}");
    }
}
