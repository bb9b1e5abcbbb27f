//! The program's log: its level follows a file while it runs, and it says one line an outcome.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;
use support::*;

/// A relay in a process of its own, and the lines of its log.
struct Process {
    child: Child,
    lines: Receiver<Value>,
}

impl Process {
    fn start(brokers: &str, level_file: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_presenceroute-relay"))
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"])
            .args(["--kafka-brokers", brokers, "--log-level-file", level_file])
            .env("GENESYS_WEBHOOK_SECRET", SECRET)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            log.lines().map_while(Result::ok).try_for_each(|line| {
                sender.send(serde_json::from_str(&line).expect("each line is one JSON object"))
            })
        });
        Self { child, lines }
    }

    /// The next line with this message, and those before it.
    fn next(&self, message: &str) -> (Value, Vec<Value>) {
        let mut before = Vec::new();
        loop {
            let line =
                self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {message}: {before:?}"));
            if line["message"] == message {
                return (line, before);
            }
            before.push(line);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It is gone already when the test failed for that reason.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_line_of_any_level_holds_a_body_or_a_secret() {
    let kafka = kafka(&["gen-presence-state"]);
    let level = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(level.path(), "info\n").unwrap();
    let relay = Process::start(&kafka.bootstrap_servers(), level.path().to_str().unwrap());
    let address: SocketAddr = relay.next("listening").0["address"].as_str().unwrap().parse().unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let send = async |id: &str, secret: &str| {
        let body = event(id);
        let signature = sign(secret, body.as_bytes());
        let headers = [("X-Genesys-Event-Signature", signature.as_str()), ("traceparent", trace)];
        exchange(address, &request("POST", PATH, &headers, body.as_bytes())).await.status
    };

    assert_eq!(send("quiet", SECRET).await, 200);
    assert_eq!(send("forged", "a guess").await, 403);
    let (refused, before) = relay.next("request rejected");
    assert_eq!((&refused["level"], &refused["outcome"]), (&"WARN".into(), &"signature-mismatch".into()));
    assert_eq!(refused["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    // Nothing that is not verified is repeated.
    assert!(!refused.to_string().contains("forged"), "{refused}");
    assert!(!before.iter().any(|line| line["message"] == "answered"), "{before:?}");

    std::fs::write(level.path(), "debug\n").unwrap();
    assert_eq!(relay.next("log level changed").0["log_level"], "debug");
    assert_eq!(send("loud", SECRET).await, 200);
    let (answered, before) = relay.next("answered");
    assert_eq!((&answered["event_id"], &answered["outcome"]), (&"loud".into(), &"processed".into()));
    for line in before.iter().chain([&answered, &refused]).map(Value::to_string) {
        assert!(!line.contains("AVAILABLE") && !line.contains(SECRET), "{line}");
    }
}
