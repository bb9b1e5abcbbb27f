//! What a sender chose, in answers and in the log.

use crate::process::*;
use crate::support::*;

/// What must never come back as it is, nor be in the log: it would write a line, a mark-up or a colour of its own.
const NASTY: &str = "needle\r\nset-cookie: a=b\u{1b}[31m<script>\u{7f}\"\\";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_sender_controls_is_echoed_as_it_is() {
    let relay = Abused::start("{}").await;
    let json = |text: &str| serde_json::to_string(text).unwrap();
    let nasty = json(NASTY);
    let spaced = json("needle <script> é \u{202e} \" \\");
    let raw_path = "/needle\u{80}<script>\"'\\{}|^`";
    let bodies = [
        nasty.to_string(),
        format!("[{nasty}]"),
        format!("{{{nasty}:1}}"),
        format!("{{{nasty}}}"),
        format!("{{\"id\":{nasty},\"eventType\":\"t\"}}"),
        format!("{{\"id\":\"1\",\"eventType\":{nasty}}}"),
        format!("{{\"id\":\"1\",\"eventType\":\"t\",\"timestamp\":{nasty}}}"),
        format!("{{\"id\":\"1\",\"eventType\":\"t\",\"source\":[{nasty}]}}"),
        format!("{{\"id\":\"1\",\"eventType\":\"t\",\"attributes\":{nasty}}}"),
        format!("{{\"id\":\"1\",\"eventType\":{spaced}}}"),
        "needle".to_owned(),
        "\"needle\"".to_owned(),
    ];
    let mut requests: Vec<Vec<u8>> = bodies.iter().map(|body| signed(SECRET, body.as_bytes())).collect();
    requests.extend(bodies.iter().map(|body| signed("guess", body.as_bytes())));
    requests.push(request("POST", raw_path, &[], b""));
    requests.push(request("POST", &format!("/{}", "needle".repeat(1_000)), &[], b""));
    requests.push(request("POST", &format!("{PATH}?needle=<script>"), &[("x", "needle")], b""));
    requests.push(request("NEEDLE", PATH, &[], b""));
    requests.push(request("POST", PATH, &[("x-genesys-event-signature", "needle")], b"needle"));
    for bytes in &requests {
        let answer = exchange(relay.address, bytes).await;
        let sent = String::from_utf8_lossy(bytes).into_owned();
        assert!((400..500).contains(&answer.status), "{} to {sent:?}", answer.status);
        assert!(!answer.headers.contains_key("set-cookie"), "{answer:?}");
        let has_raw = answer.body.chars().any(|character| character.is_control());
        assert!(!has_raw && answer.body.len() < 1_000, "{answer:?}");
        if answer.body.is_empty() {
            continue;
        }
        // Decoded once, as a reader of JSON does, it is still escaped.
        let detail = answer.detail();
        assert!(
            detail.chars().all(|character| !character.is_control() && character != '\u{202e}'),
            "{detail:?}"
        );
        // Only the path and the event type are shown at all, because they say what is wrong.
        let shows = answer.problem() == "unknown-path" || answer.problem() == "unrouted";
        assert!(shows || !detail.contains("needle"), "{detail:?} to {sent:?}");
    }
    // At the level `debug`, the log has the details of the answers, and nothing else of what was sent.
    let log = relay.log();
    let rejections = log.lines().filter(|line| line.contains("\"request rejected\"")).count();
    assert!(rejections >= bodies.len(), "{log}");
    for line in log.lines().filter(|line| line.contains("needle")) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(["unknown-path", "unrouted"].contains(&line["outcome"].as_str().unwrap()), "{line}");
    }
    assert!(!log.contains(SECRET) && !log.contains(&sign(SECRET, bodies[0].as_bytes())));
    let metrics = exchange(relay.admin, &request("GET", "/metrics", &[], b"")).await.body;
    let status = exchange(relay.admin, &request("GET", "/status", &[], b"")).await.body;
    assert!(!metrics.contains("needle") && !status.contains("needle"));
}
