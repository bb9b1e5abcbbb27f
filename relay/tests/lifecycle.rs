//! How a relay becomes ready, what it shows of itself, and how it ends.

mod support;

use std::time::{Duration, Instant};

use presenceroute_relay::{Relay, RoutingSource, RunningRelay, SecretSource};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_relay_is_ready_with_kafka_table_and_secret_or_says_why_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings("127.0.0.1:1", TABLE);
    settings.routing = RoutingSource::File(directory.path().join("routing.yaml"));
    settings.secrets = SecretSource::Directory(directory.path().join("secrets"));
    let relay = Relay::start(settings).await.unwrap();
    assert_eq!(get(&relay, "/livez").await.status, 200);
    eventually("Kafka's failure is known", || relay.status().kafka.error.is_some()).await;
    let answer = get(&relay, "/readyz").await;
    assert_eq!(answer.status, 503);
    for expected in [
        "no routing table: ",
        "routing.yaml",
        "no signing secret: ",
        "Kafka is not reachable: ",
        "127.0.0.1:1",
    ] {
        assert!(answer.body.contains(expected), "{expected} in {}", answer.body);
    }
    let refused = post(&relay, &event("1")).await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "not-configured"));
}

#[tokio::test]
async fn the_status_is_what_the_operator_reads() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let status = status(&relay).await;
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((status.routing.routes, status.routing.revision.len()), (1, 12));
    assert_eq!((status.secrets.active, status.in_flight, status.draining), (1, 0, false));
    assert!(status.kafka.reachable && status.missing_topics.is_empty());
    assert_eq!(get(&relay, "/readyz").await.status, 200);
    assert_eq!(get(&relay, "/other").await.status, 404);
}

#[tokio::test]
async fn metrics_count_what_happened_and_hold_no_secret_or_body() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    post(&relay, &event("needle-in-a-body")).await;
    exchange(relay.address(), &signed("wrong", b"{}")).await;
    let signatures = status(&relay).await.signatures;
    assert_eq!((signatures.accepted, signatures.refused), (1, 1));
    let metrics = get(&relay, "/metrics").await.body;
    for line in [
        r#"presenceroute_relay_requests_total{code="200",reason="processed"} 1"#,
        r#"presenceroute_relay_requests_total{code="403",reason="signature-mismatch"} 1"#,
        "presenceroute_relay_events_authenticated_total 1",
        r#"presenceroute_relay_events_published_total{topic="gen-presence-state"} 1"#,
        // Verified means decoded and routed, too; the forged one was not.
        r#"presenceroute_relay_publish_duration_seconds_count{stage="verify"} 1"#,
        r#"presenceroute_relay_publish_duration_seconds_count{stage="queue"} 1"#,
        r#"presenceroute_relay_publish_duration_seconds_count{stage="broker"} 1"#,
        "presenceroute_relay_in_flight_events 0",
        "presenceroute_relay_kafka_reachable 1",
        r#"presenceroute_relay_build_info{version=""#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(!metrics.contains("needle") && !metrics.contains(SECRET));
}

#[tokio::test]
async fn metrics_name_the_rejecting_topic_and_count_failed_conditions() {
    let kafka = kafka(&["gen-presence-state"]);
    let table = "{version: 1, routes: [{eventType: 'presence:*', topic: nowhere}, \
                 {eventType: 'presence:*', topic: gen-presence-state, when: attributes.mood == 'good'}]}";
    let relay = relay(settings(&kafka.bootstrap_servers(), table)).await;
    assert_eq!(post(&relay, &event("1")).await.status, 503);
    metrics_show(
        &relay,
        &[
            r#"presenceroute_relay_kafka_errors_total{topic="nowhere",kind="UnknownTopic"} 1"#,
            "presenceroute_relay_condition_failures_total 1",
            r#"presenceroute_relay_requests_total{code="503",reason="kafka-refused"} 1"#,
        ],
    )
    .await;
}

#[tokio::test]
async fn metrics_show_the_kafka_librarys_queue_and_brokers() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.kafka.properties.insert("statistics.interval.ms".into(), "200".into());
    let relay = relay(settings).await;
    let broker = format!("{}/1", kafka.bootstrap_servers());
    kafka.broker_round_trip_time(1, Duration::from_millis(400)).unwrap();
    let body = event("1");
    let (answer, ()) = tokio::join!(
        post(&relay, &body),
        metrics_show(&relay, &["kafka_queue_messages 1", r#"kafka_broker_pending_requests{broker=""#]),
    );
    assert_eq!(answer.status, 200);
    metrics_show(&relay, &[&format!(r#"kafka_broker_round_trip_p99_seconds{{broker="{broker}"}} 0.4"#)])
        .await;
    kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    metrics_show(
        &relay,
        &[
            "presenceroute_relay_kafka_queue_messages 0",
            "presenceroute_relay_kafka_queue_bytes 0",
            &format!(r#"presenceroute_relay_kafka_broker_state{{broker="{broker}",state="UP"}} 1"#),
        ],
    )
    .await;
    kafka.broker_down(1).unwrap();
    metrics_show(
        &relay,
        &[&format!(r#"presenceroute_relay_kafka_broker_disconnects_total{{broker="{broker}"}} 1"#)],
    )
    .await;
}

#[tokio::test]
async fn a_draining_relay_answers_what_it_has_and_what_still_comes() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.drain_ms = 500;
    let relay = relay(settings).await;
    let (address, admin) = (relay.address(), relay.admin_address());
    // The first event waits for the producer's connections, which are not to be slow.
    assert_eq!(post(&relay, &event("0")).await.status, 200);
    kafka.broker_round_trip_time(1, Duration::from_millis(900)).unwrap();
    let in_flight =
        tokio::spawn(async move { exchange(address, &signed(SECRET, event("1").as_bytes())).await });
    eventually("it is in flight", || relay.status().in_flight == 1).await;
    let idle = TcpStream::connect(address).await.unwrap();

    let ended = tokio::spawn(relay.shutdown());
    let ready = loop {
        let answer = exchange(admin, &request("GET", "/readyz", &[], b"")).await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!(ready.body, "draining\n");
    let late = exchange(address, &signed(SECRET, event("2").as_bytes())).await;
    assert_eq!((late.status, late.headers["connection"].as_str()), (200, "close"), "{}", late.body);
    assert_eq!(in_flight.await.unwrap().status, 200);
    ended.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
    drop(idle);
    kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    records(&kafka.bootstrap_servers(), "gen-presence-state", 3).await;
}

#[tokio::test]
async fn a_body_received_in_part_at_the_end_is_accepted() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let address = relay.address();
    let whole = signed(SECRET, event("1").as_bytes());
    let (first, rest) = whole.split_at(whole.len() - 10);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(first).await.unwrap();
    until_something_is_held(&relay).await;
    let ended = tokio::spawn(relay.shutdown());
    let is_closed = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, is_closed).await.expect("nothing new is taken");
    stream.write_all(rest).await.unwrap();
    let answer = read_answer(&mut stream).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    ended.await.unwrap();
    records(&kafka.bootstrap_servers(), "gen-presence-state", 1).await;
}

#[tokio::test]
async fn a_body_incomplete_after_the_end_is_503_with_retry_after() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.config.limits.body_timeout_ms = 120_000;
    let relay = relay(settings).await;
    let whole = signed(SECRET, event("1").as_bytes());
    let (first, rest) = whole.split_at(whole.len() - 10);
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    stream.write_all(first).await.unwrap();
    until_something_is_held(&relay).await;
    // It gives up waiting for it after a while, and Kafka gets nothing more.
    tokio::time::timeout(3 * PATIENCE, relay.shutdown()).await.expect("it ends");
    stream.write_all(rest).await.unwrap();
    let answer = read_answer(&mut stream).await.unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (503, "shutting-down"), "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "1");
    records(&kafka.bootstrap_servers(), "gen-presence-state", 0).await;
}

/// Waits until a request's head is there, and memory set aside for its body.
async fn until_something_is_held(relay: &RunningRelay) {
    let until = std::time::Instant::now() + PATIENCE;
    while get(relay, "/metrics").await.body.contains("presenceroute_relay_in_flight_bytes 0") {
        assert!(std::time::Instant::now() < until, "no head is there");
    }
}

#[tokio::test]
async fn an_http2_connection_gets_a_goaway_when_the_drain_begins() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    // Long enough that its end has nothing to do with it.
    settings.config.limits.drain_ms = 600_000;
    let relay = relay(settings).await;
    let mut http1 = TcpStream::connect(relay.address()).await.unwrap();
    http1.write_all(&signed(SECRET, event("1").as_bytes())).await.unwrap();
    assert_eq!(read_answer(&mut http1).await.unwrap().status, 200);
    let stream = TcpStream::connect(relay.address()).await.unwrap();
    let (mut http2, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let body = event("2");
    let request = http::Request::post(format!("http://relay{PATH}"))
        .header("X-Genesys-Event-Signature", sign(SECRET, body.as_bytes()))
        .body(())
        .unwrap();
    let (answer, mut sending) = http2.send_request(request, false).unwrap();
    sending.send_data(body.into(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);

    let ending = tokio::spawn(relay.shutdown());
    let told = tokio::time::timeout(PATIENCE, connection).await.expect("it is told").unwrap();
    assert!(told.is_ok() && http2.ready().await.is_err(), "{told:?}");
    http1.write_all(&signed(SECRET, event("3").as_bytes())).await.unwrap();
    let answer = read_answer(&mut http1).await.unwrap();
    assert_eq!((answer.status, answer.headers["connection"].as_str()), (200, "close"));
    ending.abort();
}

#[tokio::test]
async fn a_connection_serves_many_events_also_pipelined() {
    let kafka = kafka(&["gen-presence-state"]);
    let relay = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    for id in ["1", "2"] {
        stream.write_all(&signed(SECRET, event(id).as_bytes())).await.unwrap();
        assert_eq!(read_answer(&mut stream).await.unwrap().status, 200);
    }
    let both = [signed(SECRET, event("3").as_bytes()), signed("wrong", event("4").as_bytes())].concat();
    stream.write_all(&both).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().status, 200);
    assert_eq!(read_answer(&mut stream).await.unwrap().status, 403);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 3).await;
}

#[tokio::test]
async fn two_relays_in_one_process_share_nothing() {
    let kafka = kafka(&["gen-presence-state"]);
    let one = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    let two = relay(settings(&kafka.bootstrap_servers(), TABLE)).await;
    assert_eq!(post(&one, &event("1")).await.status, 200);
    assert_eq!(post(&two, &event("1")).await.status, 200);
    records(&kafka.bootstrap_servers(), "gen-presence-state", 2).await;
    for relay in [&one, &two] {
        assert!(get(relay, "/metrics").await.body.contains(r#"reason="processed"} 1"#));
    }
}

#[tokio::test]
async fn a_connection_is_closed_after_the_idle_timeout_only() {
    let kafka = kafka(&["gen-presence-state"]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    let idle_timeout = Duration::from_millis(500);
    settings.config.limits.idle_timeout_ms = 500;
    let relay = relay(settings).await;
    let mut stream = TcpStream::connect(relay.address()).await.unwrap();
    stream.write_all(&signed(SECRET, event("1").as_bytes())).await.unwrap();
    assert_eq!(read_answer(&mut stream).await.unwrap().status, 200);
    let answered = Instant::now();
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.expect("the connection ends");
    assert!(ended.is_err() || ended.is_ok_and(|read| read == 0));
    // The relay answered before it was read here.
    assert!(answered.elapsed() > idle_timeout / 2, "{:?}", answered.elapsed());
}
