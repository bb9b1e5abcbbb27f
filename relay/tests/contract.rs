//! The relay's HTTP contract, row by row, over real HTTP.

mod support;

use std::time::{Duration, Instant};

use presenceroute_core::relay_config::Limits;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use support::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn another_path_is_404() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    for path in ["/", "/eventbridge", "/eventbridge/presence/", "/eventbridge/presence/x", "/readyz"] {
        let answer = exchange(relay.address(), &request("GET", path, &[], b"")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "unknown-path"), "{path}");
    }
}

#[tokio::test]
async fn former_paths_are_served_beside_the_newest() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.former_paths = vec!["/before".into(), "/long/before".into()];
    let relay = relay(settings).await;
    for (id, path) in [PATH, "/before", "/long/before"].into_iter().enumerate() {
        let body = event(&id.to_string());
        let signature = sign(SECRET, body.as_bytes());
        let sent = request("POST", path, &[("X-Genesys-Event-Signature", &signature)], body.as_bytes());
        assert_eq!(exchange(relay.address(), &sent).await.status, 200, "{path}");
    }
    let answer = exchange(relay.address(), &request("POST", "/long", &[], b"")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "unknown-path"));
    assert!(answer.detail().ends_with(&format!("post events to {PATH}")), "{}", answer.detail());
    records(&kafka.bootstrap_servers(), "gen-presence-state", 3).await;
}

#[tokio::test]
async fn another_method_is_405_and_post_is_named() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = exchange(relay.address(), &request(method, PATH, &[], b"")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (405, "method-not-allowed"), "{method}");
        assert_eq!(answer.headers["allow"], "POST");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_without_being_read() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: relay\r\ncontent-length: 1048577\r\n\r\n");
    let answer = exchange(relay.address(), head.as_bytes()).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"));
    assert!(answer.detail().contains("raise spec.relay.limits.maxBodyBytes"), "{}", answer.detail());
}

#[tokio::test]
async fn a_raised_body_limit_takes_larger_events() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.max_body_bytes = 4 << 20;
    let relay = relay(settings).await;
    let large = event("1").replace("AVAILABLE", &"x".repeat(3 << 20));
    assert_eq!(post(&relay, &large).await.status, 200);
    let found = records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await;
    assert_eq!(found[0].value.len(), large.len());
}

#[tokio::test]
async fn a_body_of_unknown_length_is_413_at_the_limit() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.max_body_bytes = 1000;
    let relay = relay(settings).await;
    let chunk = "x".repeat(600);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: relay\r\nx-genesys-event-signature: 00\r\ntransfer-encoding: chunked\r\n\r\n\
         258\r\n{chunk}\r\n258\r\n{chunk}\r\n"
    );
    let answer = exchange(relay.address(), head.as_bytes()).await;
    assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"));
}

#[tokio::test]
async fn no_signature_is_400() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let answer = exchange(relay.address(), &request("POST", PATH, &[], event("1").as_bytes())).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "signature-missing"));
    assert!(answer.detail().contains("x-genesys-event-signature"), "{}", answer.detail());
}

#[tokio::test]
async fn an_encoded_body_is_415_and_its_encoding_named() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let ask = async |encoding: &str, body: &str, sent: usize| {
        let signature = sign(SECRET, body.as_bytes());
        let headers = [("X-Genesys-Event-Signature", signature.as_str()), ("Content-Encoding", encoding)];
        let bytes = request("POST", PATH, &headers, body.as_bytes());
        exchange(relay.address(), &bytes[..bytes.len() - body.len() + sent]).await
    };
    for (encoding, named) in [("gzip", "gzip"), ("identity, BR", "BR"), ("zstd;q=1", "zstd;q=1")] {
        // The answer does not wait for the body.
        let answer = ask(encoding, &event("1"), 1).await;
        assert_eq!((answer.status, answer.problem().as_str()), (415, "encoding-unsupported"), "{encoding}");
        assert!(answer.detail().contains(&format!("\"{named}\"")), "{}", answer.detail());
        assert_eq!(answer.headers["accept-encoding"], "identity");
    }
    for (id, encoding) in ["identity", "Identity", "identity, identity", ""].iter().enumerate() {
        let body = event(&id.to_string());
        assert_eq!(ask(encoding, &body, body.len()).await.status, 200, "{encoding}");
    }
}

#[tokio::test]
async fn a_body_slower_than_its_deadline_is_408() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.body_timeout_ms = 50;
    let relay = relay(settings).await;
    let body = event("1");
    let whole = signed(SECRET, body.as_bytes());
    let answer = exchange(relay.address(), &whole[..whole.len() - 1]).await;
    assert_eq!((answer.status, answer.problem().as_str()), (408, "body-timeout"));
}

#[tokio::test]
async fn a_signature_of_another_secret_or_body_is_403() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let body = event("1");
    let good = sign(SECRET, body.as_bytes());
    let (other_secret, other_body) = (sign("guess", body.as_bytes()), sign(SECRET, event("2").as_bytes()));
    for signature in [&other_secret, &other_body, &good.to_uppercase(), &format!("sha256={good}"), ""] {
        let bytes = request("POST", PATH, &[("X-Genesys-Event-Signature", signature)], body.as_bytes());
        let answer = exchange(relay.address(), &bytes).await;
        assert_eq!((answer.status, answer.problem().as_str()), (403, "signature-mismatch"), "{signature}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_event_is_400() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    for body in [
        "",
        "not json",
        "[]",
        r#"{"eventType":"presence:state:changed"}"#,
        r#"{"id":"","eventType":"presence:state:changed"}"#,
        r#"{"id":1,"eventType":"presence:state:changed"}"#,
        r#"{"id":"1"}"#,
        r#"{"id":"1","eventType":"presence:state:changed","timestamp":"now"}"#,
        r#"{"id":"1","eventType":"presence:state:changed","attributes":[]}"#,
    ] {
        let answer = post(&relay, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "event-invalid"), "{body}");
    }
}

/// A table that keeps what is invalid in the topic `bad`.
const KEEPING: &str = "version: 1\nrevision: r1\nroutes: [{eventType: 'presence:state:changed', topic: gen-presence-state}]\n\
                       unmatched: {action: Reject, invalid: {topic: bad}}\n";

#[tokio::test]
async fn an_invalid_event_is_published_to_its_topic_as_it_came() {
    let kafka = kafka(&["gen-presence-state", "bad"]);
    let brokers = kafka.bootstrap_servers();
    let relay = relay(settings(&brokers, KEEPING)).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let bodies = [
        ("", "does not begin with {"),
        ("not json", "does not begin with {"),
        (r#"{"id":"1","eventType":"presence:state:changed""#, "EOF"),
        (r#"{"eventType":"presence:state:changed"}"#, "the event has no id"),
        (r#"{"id":"1"}"#, "the event has no eventType"),
        (r#"{"id":1,"eventType":"presence:state:changed"}"#, "`id` must be a string"),
        (r#"{"id":"1","eventType":"presence:state:changed","timestamp":"now"}"#, "`timestamp` must be"),
        (r#"{"id":"1","eventType":"a\u0000"}"#, "control characters"),
    ];
    for (body, _) in bodies {
        let signature = sign(SECRET, body.as_bytes());
        let headers = [("X-Genesys-Event-Signature", signature.as_str()), ("traceparent", trace)];
        // A redelivery is a duplicate, as that of any event.
        for _ in 0..2 {
            let answer = exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"processed"}"#), "{body}");
        }
    }
    let kept = records(&brokers, "bad", bodies.len()).await;
    for ((body, detail), record) in bodies.iter().zip(&kept) {
        assert_eq!(record.value, *body);
        assert!(record.headers["presenceroute_detail"].contains(detail), "{record:?}");
        let others = record.headers.iter().filter(|(name, _)| *name != "presenceroute_detail");
        assert_eq!(
            others.map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(),
            [
                ("presenceroute_reason", "event-invalid"),
                ("presenceroute_routing_revision", "r1"),
                ("traceparent", trace),
            ]
        );
    }
    assert_eq!(kept.iter().map(|record| record.key.len()).collect::<Vec<_>>(), vec![64; bodies.len()]);
    records(&brokers, "gen-presence-state", 0).await;
    let counted = format!(
        r#"presenceroute_relay_requests_total{{code="200",reason="invalid-dead-lettered"}} {}"#,
        2 * bodies.len()
    );
    metrics_show(&relay, &[&counted]).await;
}

#[tokio::test]
async fn an_encoded_body_that_is_signed_is_kept_with_its_encoding() {
    let kafka = kafka(&["gen-presence-state", "bad"]);
    let brokers = kafka.bootstrap_servers();
    let relay = relay(settings(&brokers, KEEPING)).await;
    let ask = async |secret: &str, encodings: &[&str], body: &str| {
        let signature = sign(secret, body.as_bytes());
        let encodings = encodings.iter().map(|encoding| ("Content-Encoding", *encoding));
        let headers = [("X-Genesys-Event-Signature", signature.as_str())].into_iter().chain(encodings);
        let headers: Vec<_> = headers.collect();
        exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await
    };
    // Text stands for compressed bytes: the relay decodes neither.
    assert_eq!(ask(SECRET, &["gzip"], "bytes").await.status, 200);
    assert_eq!(ask(SECRET, &["identity", "br"], &event("1")).await.status, 200);
    let kept = records(&brokers, "bad", 2).await;
    for (record, value, encoding) in [(&kept[0], "bytes", "gzip"), (&kept[1], &event("1"), "identity, br")] {
        assert_eq!((record.value.as_str(), record.headers["content-encoding"].as_str()), (value, encoding));
        assert_eq!(record.headers["presenceroute_reason"], "encoding-unsupported");
        assert!(!record.headers.keys().any(|name| name.starts_with("ce_") || name == "content-type"));
    }
    // The encoding is what is wrong with a signature of the body before it was encoded.
    let answer = ask("guess", &["gzip"], "bytes").await;
    assert_eq!((answer.status, answer.problem().as_str()), (415, "encoding-unsupported"));
    assert_eq!(ask("guess", &[], "bytes").await.problem(), "signature-mismatch");
    records(&brokers, "bad", 2).await;
}

#[tokio::test]
async fn an_invalid_event_that_kafka_does_not_take_is_503() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), KEEPING);
    settings.config.limits.publish_timeout_ms = 500;
    let relay = relay(settings).await;
    let answer = post(&relay, "not json").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
    assert!(answer.detail().contains(r#"topic "bad" does not exist"#), "{}", answer.detail());
    eventually("the topic is missing", || relay.status().missing_topics == ["bad"]).await;
    kafka.create_topic("bad", 1, 1).unwrap();
    eventually("the topic is found", || relay.status().missing_topics.is_empty()).await;
    kafka.broker_down(1).unwrap();
    let answer = post(&relay, "not json").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-unavailable"));
    assert_eq!(answer.headers["retry-after"], "1");
    kafka.broker_up(1).unwrap();
    eventually("Kafka has acknowledged it", || relay.status().in_flight == 0).await;
    assert_eq!(post(&relay, "not json").await.status, 200);
    records(&kafka.bootstrap_servers(), "bad", 1).await;
}

#[tokio::test]
async fn an_event_older_than_the_limit_is_400_or_kept() {
    let kafka = kafka(&["gen-presence-state", "bad"]);
    let brokers = kafka.bootstrap_servers();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let at = |id: &str, timestamp: String| event(id).replace("1700000000123", &timestamp);
    let limited = async |table: &str| {
        let mut settings = settings(&brokers, table);
        settings.config.limits.max_event_age_ms = Some(3_600_000);
        relay(settings).await
    };
    let rejecting = limited(TABLE).await;
    let answer = post(&rejecting, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (400, "event-too-old"));
    assert!(answer.detail().contains("may be 3600 s old"), "{}", answer.detail());
    let older = at("2", (now - 3_700_000).to_string());
    assert_eq!(post(&rejecting, &older).await.problem(), "event-too-old");
    for (id, timestamp) in
        [("3", (now - 3_500_000).to_string()), ("4", (now + 9_000_000).to_string()), ("5", "null".to_owned())]
    {
        assert_eq!(post(&rejecting, &at(id, timestamp)).await.status, 200, "{id}");
    }
    let keeping = limited(KEEPING).await;
    assert_eq!(post(&keeping, &older).await.status, 200);
    let kept = records(&brokers, "bad", 1).await.remove(0);
    assert_eq!((kept.key.as_str(), &kept.value), ("2", &older));
    // It is an event, and its headers say which.
    assert_eq!(
        (kept.headers["ce_id"].as_str(), kept.headers["ce_type"].as_str()),
        ("2", "presence:state:changed")
    );
    assert_eq!(kept.headers["presenceroute_reason"], "event-too-old");
    // Without the limit, no event is too old.
    let unlimited = relay(settings(&brokers, TABLE)).await;
    assert_eq!(post(&unlimited, &event("1")).await.status, 200);
    records(&brokers, "gen-presence-state", 4).await;
}

#[tokio::test]
async fn an_id_that_is_too_long_is_replaced_and_loses_no_event() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let bodies = ["x".repeat(257), "x".repeat(100_000), r"a\nb".to_owned()].map(|id| event(&id));
    for body in &bodies {
        for _ in 0..2 {
            assert_eq!(post(&relay, body).await.status, 200);
        }
    }
    let found = records(&kafka.bootstrap_servers(), "gen-presence-state", bodies.len()).await;
    for (body, record) in bodies.iter().zip(&found) {
        assert_eq!(&record.value, body);
        assert_eq!((record.key.len(), &record.headers["ce_id"]), (71, &record.key));
        assert!(record.key.starts_with("sha256:"), "{}", record.key);
    }
}

#[tokio::test]
async fn an_unrouted_event_is_404() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let answer = post(&relay, &event_of("presence:other", "1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "unrouted"));
    assert_eq!(answer.detail(), r#"no route names the event type "presence:other"; add one"#);
}

#[tokio::test]
async fn an_event_whose_conditions_are_all_false_is_200_and_filtered() {
    let kafka = kafka(&["gen-presence-state"]);
    let table = |unmatched: &str| {
        format!(
            "version: 1\nroutes: [{{eventType: 'presence:*', topic: gen-presence-state, when: id == 'other'}}]\n\
             unmatched: {unmatched}\n"
        )
    };
    let filtering = relay(settings(&kafka.bootstrap_servers(), &table("{action: Reject}"))).await;
    let answer = post(&filtering, &event("1")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"filtered"}"#));
    let signature = sign(SECRET, event("1").as_bytes());
    let headers = [("X-Genesys-Event-Signature", signature.as_str()), ("Prefer", "return=representation")];
    let asked = request("POST", PATH, &headers, event("1").as_bytes());
    let answer = exchange(filtering.address(), &asked).await;
    assert_eq!(answer.body, r#"{"status":"filtered","records":[]}"#);
    let counted = r#"presenceroute_relay_requests_total{code="200",reason="filtered"} 2"#;
    metrics_show(&filtering, &[counted]).await;
    assert_eq!(post(&filtering, &event_of("other", "1")).await.status, 404);
    let including = table("{action: Reject, includeFiltered: true}");
    let including = relay(settings(&kafka.bootstrap_servers(), &including)).await;
    let answer = post(&including, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (404, "unrouted"));
    assert!(answer.detail().contains("are false; change one"), "{}", answer.detail());
    records(&kafka.bootstrap_servers(), "gen-presence-state", 0).await;
}

#[tokio::test]
async fn an_unrouted_event_is_rejected_dropped_or_dead_lettered() {
    let kafka = kafka(&["gen-presence-state", "rest"]);
    let brokers = kafka.bootstrap_servers();
    let table = |unmatched: &str| {
        format!("version: 1\nroutes: [{{eventType: a, topic: gen-presence-state}}]\nunmatched: {unmatched}\n")
    };
    let refusing = relay(settings(&brokers, &table("{action: Reject, status: 400}"))).await;
    assert_eq!(post(&refusing, &event("1")).await.status, 400);
    let dropping = relay(settings(&brokers, &table("{action: Drop}"))).await;
    assert_eq!(post(&dropping, &event("1")).await.status, 200);
    let keeping = relay(settings(&brokers, &table("{action: DeadLetter, topic: rest}"))).await;
    assert_eq!(post(&keeping, &event("1")).await.status, 200);
    let kept = records(&brokers, "rest", 1).await;
    assert_eq!(kept[0].headers["presenceroute_reason"], "unrouted");
    records(&brokers, "gen-presence-state", 0).await;
}

#[tokio::test]
async fn only_a_sender_that_asks_gets_the_positions_of_its_event() {
    let kafka = kafka(&["gen-presence-state", "second"]);
    let table = "version: 1\nroutes:\n\
                 - {eventType: \"presence:*\", topic: gen-presence-state}\n\
                 - {eventType: \"presence:state:changed\", topic: second}\n\
                 unmatched: {action: Drop}\n";
    let relay = relay(settings(&kafka.bootstrap_servers(), table)).await;
    let ask = async |body: String| {
        let signature = sign(SECRET, body.as_bytes());
        let headers =
            [("X-Genesys-Event-Signature", signature.as_str()), ("Prefer", "return=representation")];
        let answer = exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await;
        assert_eq!((answer.status, answer.headers["content-type"].as_str()), (200, "application/json"));
        assert_eq!(answer.headers["preference-applied"], "return=representation");
        answer.body
    };
    let plain = post(&relay, &event("1")).await;
    assert_eq!(plain.body, r#"{"status":"processed"}"#);
    assert!(!plain.headers.contains_key("preference-applied"));
    assert_eq!(
        ask(event("2")).await,
        r#"{"status":"processed","records":[{"topic":"gen-presence-state","partition":0,"offset":1},{"topic":"second","partition":0,"offset":1}]}"#
    );
    // That it was acknowledged is remembered, not where.
    assert_eq!(
        ask(event("1")).await,
        r#"{"status":"processed","records":[{"topic":"gen-presence-state"},{"topic":"second"}]}"#
    );
    assert_eq!(ask(event_of("other", "3")).await, r#"{"status":"processed","records":[]}"#);
}

#[tokio::test]
async fn an_unknown_topic_is_503_at_once_and_named() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), "{presence:state:changed: absent}")).await;
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = post(&relay, &event("1")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
        assert!(answer.detail().contains(r#"topic "absent" does not exist"#), "{}", answer.detail());
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    }
    assert_eq!(status(&relay).await.missing_topics, ["absent"]);
    kafka.create_topic("absent", 1, 1).unwrap();
    eventually("the topic is found", || relay.status().missing_topics.is_empty()).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
}

#[tokio::test]
async fn a_topic_that_may_not_be_written_to_is_503_at_once_and_named() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    kafka.request_errors(
        RDKafkaApiKey::Produce,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED],
    );
    let answer = post(&relay, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
    assert!(answer.detail().contains("gen-presence-state") && answer.detail().contains("authorization"));
    assert!(!answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_record_too_large_for_the_topic_is_503_at_once_and_named() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    kafka.request_errors(RDKafkaApiKey::Produce, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let answer = post(&relay, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
    assert!(answer.detail().contains("record of this size"), "{}", answer.detail());
}

#[tokio::test]
async fn a_transient_error_is_retried_within_the_deadline() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let not_enough = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS;
    kafka.request_errors(RDKafkaApiKey::Produce, &[not_enough, not_enough]);
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await;
}

#[tokio::test]
async fn a_silent_broker_is_503_at_the_deadline_with_retry_after() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.publish_timeout_ms = 300;
    let relay = relay(settings).await;
    kafka.broker_down(1).unwrap();
    let begun = Instant::now();
    let answer = post(&relay, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-unavailable"));
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.headers["connection"], "close", "another relay may reach Kafka");
    assert!(answer.detail().contains("gen-presence-state"), "{}", answer.detail());
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn too_many_events_in_flight_are_503_at_once_with_retry_after() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits = Limits { max_in_flight: 2, ..settings.config.limits };
    let relay = relay(settings).await;
    // The first event waits for the producer's connections, which are not to be slow.
    assert_eq!(post(&relay, &event("0")).await.status, 200);
    kafka.broker_round_trip_time(1, Duration::from_millis(700)).unwrap();
    let (one, two) = (event("1"), event("2"));
    let held = async { tokio::join!(post(&relay, &one), post(&relay, &two)) };
    let refused = async {
        eventually("two events are in flight", || relay.status().in_flight == 2).await;
        let begun = Instant::now();
        let answer = post(&relay, &event("3")).await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    };
    let ((first, second), ()) = tokio::join!(held, refused);
    assert_eq!((first.status, second.status), (200, 200));
}

#[tokio::test]
async fn an_acknowledged_event_is_200_and_its_record_is_the_body() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let body = event("e-1");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        [("X-Genesys-Event-Signature", sign(SECRET, body.as_bytes())), ("traceparent", trace.to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = exchange(relay.address(), &request("POST", PATH, &headers, body.as_bytes())).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"processed"}"#));
    assert_eq!(answer.headers["content-type"], "application/json");
    let record = records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await.remove(0);
    assert_eq!((record.key.as_str(), &record.value), ("e-1", &body));
    for (name, value) in [
        ("ce_specversion", "1.0"),
        ("ce_id", "e-1"),
        ("ce_type", "presence:state:changed"),
        ("ce_source", "org-1"),
        ("ce_time", "2023-11-14T22:13:20.123Z"),
        ("content-type", "application/json"),
        ("traceparent", trace),
    ] {
        assert_eq!(record.headers[name], value);
    }
}

#[tokio::test]
async fn a_structured_record_is_a_cloudevent_in_json() {
    let kafka = kafka(&["binary", "structured"]);
    let table = "version: 1\nroutes:\n- {eventType: \"presence:*\", topic: structured, contentMode: Structured}\n\
                 - {eventType: \"presence:*\", topic: binary}\n";
    let relay = relay(settings(&kafka.bootstrap_servers(), table)).await;
    let body = format!("\u{feff}{}", event("e-1"));
    let answer = post(&relay, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let structured = records(&kafka.bootstrap_servers(), "structured", 1).await.remove(0);
    assert_eq!(structured.headers["content-type"], "application/cloudevents+json; charset=UTF-8");
    assert!(!structured.headers.keys().any(|name| name.starts_with("ce_")), "{:?}", structured.headers);
    let value: serde_json::Value = serde_json::from_str(&structured.value).unwrap();
    let data: serde_json::Value = serde_json::from_str(&event("e-1")).unwrap();
    let expected = serde_json::json!({
        "specversion": "1.0", "id": "e-1", "source": "org-1", "type": "presence:state:changed",
        "time": "2023-11-14T22:13:20.123Z", "datacontenttype": "application/json", "data": data,
    });
    assert_eq!((structured.key.as_str(), value), ("e-1", expected));
    // The other topic of the same event has it as it was sent.
    let binary = records(&kafka.bootstrap_servers(), "binary", 1).await.remove(0);
    assert_eq!((binary.value, binary.headers["ce_id"].as_str()), (body, "e-1"));
}

#[tokio::test]
async fn an_event_is_published_as_signed_however_it_is_written() {
    let kafka = kafka(&["gen-presence-state"]);
    let table = "version: 1\nroutes:\n- {eventType: \"presence:*\", topic: gen-presence-state, \
                 key: attributes.userId, when: attributes.presence == 'AVAILABLE'}\n";
    let relay = relay(settings(&kafka.bootstrap_servers(), table)).await;
    let written = event("1").replace("u-1", r"u\ud83d").replace("1700000000123", "1.7e12");
    let body = format!("\u{feff}{written}");
    assert_eq!(post(&relay, &body).await.status, 200);
    let record = records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await.remove(0);
    assert_eq!((record.key.as_str(), &record.value), ("u\u{fffd}", &body));
    assert_eq!(record.headers["ce_time"], "2023-11-14T22:13:20.000Z");
}

#[tokio::test]
async fn no_200_comes_before_the_acknowledgement() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    kafka.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    let begun = Instant::now();
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn every_topic_of_an_event_has_it_when_it_is_answered() {
    let kafka = kafka(&["all", "available"]);
    let table = r#"
version: 1
routes:
- {eventType: "presence:*", topic: all}
- {eventType: "presence:*", topic: available, key: attributes.userId, when: "attributes.presence == 'AVAILABLE'"}
"#;
    let relay = relay(settings(&kafka.bootstrap_servers(), table)).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    assert_eq!(post(&relay, &event("2").replace("AVAILABLE", "BUSY")).await.status, 200);
    assert_eq!(records(&kafka.bootstrap_servers(), "all", 2).await[0].key, "1");
    assert_eq!(records(&kafka.bootstrap_servers(), "available", 1).await[0].key, "u-1");
}

#[tokio::test]
async fn an_event_rejected_by_one_of_two_topics_is_retried_only_there() {
    let kafka = kafka(&["here"]);
    let table = "version: 1\nroutes: [{eventType: '*', topic: here}, {eventType: '*', topic: absent}]\n";
    let relay = relay(settings(&kafka.bootstrap_servers(), table)).await;
    let answer = post(&relay, &event("1")).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "kafka-refused"));
    assert!(answer.detail().contains(r#""absent""#) && !answer.detail().contains(r#""here""#));
    kafka.create_topic("absent", 1, 1).unwrap();
    eventually("the topic is found", || relay.status().missing_topics.is_empty()).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    records(&kafka.bootstrap_servers(), "here", 1).await;
    records(&kafka.bootstrap_servers(), "absent", 1).await;
}

#[tokio::test]
async fn a_repetition_of_an_event_in_flight_has_the_same_outcome() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    kafka.broker_round_trip_time(1, Duration::from_millis(200)).unwrap();
    let body = event("1");
    let (first, second) = tokio::join!(post(&relay, &body), post(&relay, &body));
    assert_eq!((first.status, second.status), (200, 200));
    records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await;
}

#[tokio::test]
async fn a_repetition_of_an_acknowledged_event_is_200_and_no_record() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    for _ in 0..3 {
        assert_eq!(post(&relay, &event("1")).await.status, 200);
    }
    records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await;
    let metrics = get(&relay, "/metrics").await.body;
    assert!(metrics.contains(r#"repeated_events_total{outcome="remembered"} 2"#), "{metrics}");
}

#[tokio::test]
async fn an_event_acknowledged_after_its_503_is_not_published_again() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.publish_timeout_ms = 1_000;
    let relay = relay(settings).await;
    assert_eq!(post(&relay, &event("0")).await.status, 200);
    kafka.broker_round_trip_time(1, Duration::from_millis(900)).unwrap();
    // Its sender gives up at once; Kafka does not.
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    stream.write_all(&signed(SECRET, event("1").as_bytes())).await.unwrap();
    eventually("it is in flight", || relay.status().in_flight == 1).await;
    drop(stream);
    eventually("it is acknowledged", || relay.status().in_flight == 0).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 2).await;
}

#[tokio::test]
async fn a_repetition_joins_an_event_in_flight_after_its_503() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.publish_timeout_ms = 300;
    let relay = relay(settings).await;
    kafka.broker_down(1).unwrap();
    for _ in 0..2 {
        assert_eq!(post(&relay, &event("1")).await.problem(), "kafka-unavailable");
        assert_eq!(relay.status().in_flight, 1);
    }
    kafka.broker_up(1).unwrap();
    eventually("Kafka has acknowledged it", || relay.status().in_flight == 0).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await;
}

#[tokio::test]
async fn two_events_with_one_id_are_both_published() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    assert_eq!(post(&relay, &event("1")).await.status, 200);
    assert_eq!(post(&relay, &event("1").replace("AVAILABLE", "BUSY")).await.status, 200);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 2).await;
}
