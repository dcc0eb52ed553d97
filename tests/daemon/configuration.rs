//! The dynamic configuration reaches every node; requests that make no sense are answered and change nothing.

use anyhow::ensure;
use ptarmigan_testkit::{http::Request, wait_until};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::site::{LIMIT, Site};

async fn wait_for_pending(site: &Site, index: usize, reason: Option<Value>) {
    wait_until(&format!("what is pending on {}", site.name(index)), LIMIT, || async {
        let status = site.node(index).patroni().await?;
        let pending = (status.get("pending_restart"), status.get("pending_restart_reason"));
        let wanted = (reason.as_ref().map(|_| &Value::Bool(true)), reason.as_ref());
        ensure!(pending == wanted, "{status}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn cf_8_the_dynamic_configuration_reaches_every_node() {
    let (mut site, leader) = Site::ready("config", 2, |_| {}).await;
    let replica = 1 - leader;
    let patch =
        json!({"loop_wait": 3, "postgresql": {"parameters": {"work_mem": "7MB", "max_connections": 61}}});
    let answer = site.ask(replica, "PATCH", "/config", &patch).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json().unwrap()["loop_wait"], 3);
    let stored: Value = serde_json::from_str(&site.key("config").await.unwrap().value).unwrap();
    assert_eq!(stored["postgresql"]["parameters"]["work_mem"], "7MB");
    assert_eq!(stored["ttl"], 20, "the rest stays: {stored}");
    for index in 0..2 {
        site.wait_for_sql(index, "SHOW work_mem", "7MB").await;
        assert_eq!(site.sql(index, "SHOW max_connections").await.unwrap(), "50");
        let reason = json!({"max_connections": {"old_value": "50", "new_value": "61"}});
        wait_for_pending(&site, index, Some(reason)).await;
    }
    wait_until("both members to publish it", LIMIT, || async {
        let members = site.cluster.members().await?;
        ensure!(members.iter().all(|member| member["pending_restart"] == true), "{members:?}");
        Ok(())
    })
    .await
    .unwrap();

    // a rolling restart: standbys first, because the setting goes up
    let writer = site.writer();
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let timeline = site.timeline(leader).await.unwrap();
    let answer = site.ask(replica, "POST", "/restart", &json!({"restart_pending": true})).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "restarted successfully"));
    let said = site.ptctl(&["restart", "demo", &site.name(leader), "--force"]).await;
    assert!(said.contains(&format!("Success: restart on member {}", site.name(leader))), "{said}");
    for index in 0..2 {
        site.wait_for_sql(index, "SHOW max_connections", "61").await;
        wait_for_pending(&site, index, None).await;
    }
    assert_eq!(site.settled().await, leader);
    assert_eq!(site.timeline(leader).await.unwrap(), timeline);
    writer.wait_for_rows(5, LIMIT).await.unwrap();
    let answer = site.ask(replica, "POST", "/restart", &json!({"restart_pending": true})).await;
    assert_eq!(answer.status, 503, "nothing is pending any more: {}", answer.body);

    // null deletes; PUT replaces everything
    let patch = json!({"loop_wait": null, "postgresql": {"parameters": {"work_mem": null}}});
    assert_eq!(site.ask(leader, "PATCH", "/config", &patch).await.status, 200);
    for index in 0..2 {
        site.wait_for_sql(index, "SHOW work_mem", "4MB").await;
    }
    let whole = json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "postgresql": {"use_pg_rewind": true,
        "parameters": {"max_connections": 61, "shared_buffers": "16MB", "work_mem": "5MB"}}});
    let answer = site.ask(replica, "PUT", "/config", &whole).await;
    assert_eq!((answer.status, answer.json().unwrap()), (200, whole.clone()));
    let stored: Value = serde_json::from_str(&site.key("config").await.unwrap().value).unwrap();
    assert_eq!(stored, whole);
    for index in 0..2 {
        site.wait_for_sql(index, "SHOW work_mem", "5MB").await;
    }
    refuses_bad_requests(&mut site, leader).await;
}

/// Neither the configuration nor the cluster changes.
async fn refuses_bad_requests(site: &mut Site, leader: usize) {
    let before = site.key("config").await.unwrap();
    let lock = site.key("leader").await.unwrap();
    let address = site.node(leader).rest_address();
    for (method, path, body, status) in [
        ("PATCH", "/config", "not json", 400),
        ("PATCH", "/config", "[1]", 400),
        ("PATCH", "/config", "{}", 400),
        ("PUT", "/config", "null", 400),
        ("POST", "/switchover", "{\"leader\": 5}", 400),
        ("POST", "/switchover", "\"node1\"", 400),
        ("POST", "/switchover", "{\"leader\": \"node1\", \"scheduled_at\": \"soon\"}", 422),
        ("POST", "/failover", "{}", 400),
        ("POST", "/restart", "{\"role\": 7}", 400),
        ("POST", "/restart", "{\"schedule\": \"2001-01-01T00:00:00+00:00\"}", 422),
        ("POST", "/reinitialize", "{", 400),
        ("POST", "/nothing-here", "{}", 501),
    ] {
        let answer = Request::new(method, &address, path).body(body).send().await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path} {:.40}: {error:#}", body));
        assert_eq!(answer.status, status, "{method} {path} {body:.40}: {}", answer.body);
    }
    assert_eq!(site.key("config").await.unwrap().mod_revision, before.mod_revision);

    assert_eq!(announce_body(&address, 2 * 1024 * 1024).await, "HTTP/1.1 413 Payload Too Large");

    // values that cannot be used are stored, as with Patroni, but each node says so and goes on with the former ones
    let lines = [0, 1].map(|index| site.log_lines(index));
    let answer = site.ask(leader, "PATCH", "/config", &json!({"ttl": "soon"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for (index, lines) in lines.into_iter().enumerate() {
        site.wait_for_log(index, lines, "/config is not used, the former one stays").await;
        site.wait_for_log(index, lines, "ttl: 'soon' is not an integer").await;
    }
    // a parameter that PostgreSQL would not start with
    let patch = json!({"ttl": 20, "postgresql": {"parameters": {"work_mem": "much", "no_such_thing": 1}}});
    let answer = site.ask(leader, "PATCH", "/config", &patch).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for index in 0..2 {
        site.wait_for_cycles(index, 2).await;
        let answer = site.ask(index, "POST", "/restart", &json!({})).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.body, site.node(index).log_tail(20));
    }
    assert_eq!(site.settled().await, leader);
    assert_eq!(site.key("leader").await.unwrap().create_revision, lock.create_revision);
}

/// The status line for a body that is refused for its announced size, before any of it was sent.
async fn announce_body(address: &str, bytes: usize) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("PATCH /config HTTP/1.1\r\nHost: {address}\r\nContent-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    tokio::time::timeout(LIMIT, reader.read_line(&mut line)).await.unwrap().unwrap();
    line.trim_end().to_owned()
}
