//! A supervised publisher against the Kafka that is embedded in the library.

use std::time::{Duration, Instant};

use bytes::Bytes;
use presenceroute_core::relay_config::{KafkaOauthConfig, KafkaSaslConfig, SaslMechanism};
use presenceroute_core::routing::RoutingTable;
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::credentials::tests::Files;
use super::failure::Failure;
use super::*;
use crate::observe::trace_context::Trace;
use crate::outcome::{Problem, ProblemKind};
use presenceroute_core::event::Event;
use presenceroute_core::routing::{Decision, Router};

/// A publisher that is supervised, and the router of `{t: topic}`.
async fn publisher(brokers: String) -> (Arc<Publisher>, Router) {
    let kafka = KafkaConfig { bootstrap_servers: vec![brokers], ..KafkaConfig::default() };
    let made = start(kafka, Limits::default(), Arc::new(Metrics::new())).await;
    let (publisher, supervisor) = made.unwrap();
    let table = RoutingTable::parse("{t: topic}").unwrap();
    let routing = presenceroute_runtime::follow::fixed(Router::new(table.clone()));
    tokio::spawn(supervisor.run(routing, CancellationToken::new()));
    (publisher, Router::new(table))
}

async fn publish(publisher: &Publisher, router: &Router, id: &str) -> Result<(), Problem> {
    publish_at(Instant::now(), publisher, router, id).await
}

async fn publish_at(
    routed_at: Instant,
    publisher: &Publisher,
    router: &Router,
    id: &str,
) -> Result<(), Problem> {
    let body = Bytes::from(format!(r#"{{"id":"{id}","eventType":"t"}}"#));
    let event = Event::parse(&body).unwrap();
    let Decision::Publish(targets) = router.route(&event).decision else { panic!("not routed") };
    let record = Record { event: Some(&event), body: &body, trace: Trace::default(), dead_letter: None };
    publisher.publish(&record, &targets, routed_at, None).await
}

#[tokio::test]
async fn a_failed_producer_is_replaced_while_events_wait() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    publish(&publisher, &router, "before").await.unwrap();
    kafka.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    let fail = async {
        while publisher.in_flight() == 0 {
            tokio::task::yield_now().await;
        }
        publisher.producer.borrow().fail_for_good();
    };
    let (during, ()) = tokio::join!(publish(&publisher, &router, "during"), fail);
    during.unwrap();
    publish(&publisher, &router, "after").await.unwrap();
    assert_eq!(publisher.producer.borrow().generation, 1);
    assert_eq!(publisher.in_flight(), 0);
}

/// How many records the Kafka library was given.
fn produced(publisher: &Publisher) -> usize {
    let metrics = publisher.metrics.encode().unwrap();
    let count = metrics.lines().find_map(|line| {
        line.strip_prefix(r#"presenceroute_relay_publish_duration_seconds_count{stage="queue"} "#)
    });
    count.unwrap().parse().unwrap()
}

#[tokio::test]
async fn waiting_records_are_sent_when_the_first_sender_has_gone() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    // To the gate, all of them come at the same moment: the first opens it, and the others wait for a second.
    let moment = Instant::now() + Duration::from_secs(1);
    let mut senders = ["at once", "first", "second"]
        .map(|id| Box::pin(publish_at(moment, &publisher, &router, id)))
        .into_iter()
        .collect::<Vec<_>>();
    for sender in &mut senders {
        assert!(futures::poll!(sender).is_pending());
    }
    assert_eq!(produced(&publisher), 1);
    drop(senders.remove(1));
    assert_eq!(produced(&publisher), 3);
    for sender in senders {
        sender.await.unwrap();
    }
    publish(&publisher, &router, "first").await.unwrap();
}

/// Publishes an event while the broker rejects the first batch with this code. Returns how long it took, too.
async fn published_after(rejection: RDKafkaRespErr) -> (Arc<Publisher>, Duration) {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    publish(&publisher, &router, "before").await.unwrap();
    kafka.request_errors(RDKafkaApiKey::Produce, &[rejection]);
    let sent = Instant::now();
    publish(&publisher, &router, "refused").await.unwrap();
    (publisher, sent.elapsed())
}

#[tokio::test]
async fn an_event_of_an_old_epoch_is_sent_again_by_the_same_producer() {
    let (publisher, took) = published_after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH).await;
    assert!(took < publisher.publish_timeout() / 2, "{took:?}");
    assert_eq!(publisher.producer.borrow().generation, 0);
}

#[tokio::test]
async fn an_event_out_of_sequence_is_sent_again_by_another_producer() {
    let (publisher, _) =
        published_after(RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER).await;
    let metrics = publisher.metrics.encode().unwrap();
    assert!(metrics.contains(r#"producer_rebuilds_total{cause="fatal"} 1"#), "{metrics}");
}

const TOO_LARGE: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;

/// Publishes so many events that wait for the first connection, and so are one batch, while the broker rejects one batch
/// with each of `rejections`. Returns the results of the events.
async fn publish_batch(
    count: usize,
    rejections: &[RDKafkaRespErr],
) -> (Arc<Publisher>, Vec<Result<(), Problem>>) {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    kafka.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
    kafka.request_errors(RDKafkaApiKey::Produce, rejections);
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    let ids: Vec<String> = (0..count).map(|id| id.to_string()).collect();
    let burst = ids.iter().map(|id| publish(&publisher, &router, id));
    let outcomes = futures::future::join_all(burst).await;
    assert_eq!(publisher.in_flight(), 0);
    (publisher, outcomes)
}

fn published(publisher: &Publisher) -> Option<usize> {
    let metrics = publisher.metrics.encode().unwrap();
    let counter = r#"presenceroute_relay_events_published_total{topic="topic"} "#;
    metrics.lines().find_map(|line| line.strip_prefix(counter)).map(|count| count.parse().unwrap())
}

#[tokio::test]
async fn events_rejected_in_a_batch_are_each_sent_again_alone() {
    let (publisher, outcomes) = publish_batch(20, &[TOO_LARGE]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((published(&publisher), produced(&publisher)), (Some(20), 40));
    assert_eq!(publisher.producer.borrow().generation, 0);
}

#[tokio::test]
async fn of_a_rejected_batch_only_what_is_rejected_alone_is_rejected() {
    let (publisher, outcomes) = publish_batch(20, &[TOO_LARGE; 2]).await;
    let rejected: Vec<&Problem> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(matches!(rejected[..], [problem] if problem.kind == ProblemKind::KafkaRefused), "{rejected:?}");
    assert_eq!(published(&publisher), Some(19));
}

#[tokio::test]
async fn an_event_rejected_alone_is_not_sent_again() {
    let (publisher, outcomes) = publish_batch(1, &[TOO_LARGE]).await;
    assert!(
        matches!(&outcomes[..], [Err(problem)] if problem.kind == ProblemKind::KafkaRefused),
        "{outcomes:?}"
    );
    assert_eq!(produced(&publisher), 1);
}

#[tokio::test]
async fn a_repetition_of_an_event_rejected_in_a_batch_is_one_record() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    kafka.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
    kafka.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE]);
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    let burst = ["1", "2", "1", "2", "1"].map(|id| publish(&publisher, &router, id));
    let outcomes = futures::future::join_all(burst).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((published(&publisher), produced(&publisher)), (Some(2), 4));
}

#[tokio::test]
async fn a_failed_single_record_producer_is_replaced() {
    let kafka = MockCluster::new(1).unwrap();
    let (publisher, _) = publisher(kafka.bootstrap_servers()).await;
    let current = publisher.current();
    let single = current.single_record_producer().await.unwrap();
    single.fail_for_good();
    let lost = async {
        while single.can_send() {
            tokio::time::sleep(Duration::from_millis(1)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(10), lost).await.unwrap();
    let next = current.single_record_producer().await.unwrap();
    assert!(next.can_send() && !Arc::ptr_eq(&next, &single));
    assert!(current.can_send(), "the producer itself is well");
}

#[tokio::test]
async fn records_sent_alone_arrive_across_a_switch_of_producers() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    kafka.broker_round_trip_time(1, Duration::from_millis(50)).unwrap();
    kafka.request_errors(RDKafkaApiKey::Produce, &[TOO_LARGE]);
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    let old = publisher.current();
    let ids: Vec<String> = (0..20).map(|id| id.to_string()).collect();
    let burst = futures::future::join_all(ids.iter().map(|id| publish(&publisher, &router, id)));
    let replace = async {
        while produced(&publisher) < 40 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let credentials = Arc::new(Credentials::read(&publisher.kafka).unwrap());
        let next = publisher.successor(credentials).await.unwrap();
        publisher.switch_to(next, "credentials");
    };
    let (outcomes, ()) = tokio::join!(burst, replace);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    let ended = async {
        while !matches!(old.single_record_producer().await, Err(Failure::Returned)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
}

#[tokio::test]
async fn waiting_events_are_rejected_at_once_without_authorization() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    kafka.broker_round_trip_time(1, Duration::from_millis(100)).unwrap();
    let rejections = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 10];
    kafka.request_errors(RDKafkaApiKey::InitProducerId, &rejections);
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    let sent = Instant::now();
    let problem = publish(&publisher, &router, "1").await.unwrap_err();
    assert_eq!(problem.kind, ProblemKind::KafkaRefused, "{problem:?}");
    assert!(sent.elapsed() < publisher.publish_timeout() / 2, "{:?}", sent.elapsed());
}

/// OAUTHBEARER to these brokers, with tokens of `http://TOKEN_ENDPOINT/token`.
fn by_oauth(files: &Files, brokers: &str, token_endpoint: &str, extensions: &[(&str, &str)]) -> KafkaConfig {
    let oauth = KafkaOauthConfig {
        token_endpoint_url: format!("http://{token_endpoint}/token"),
        scope: None,
        extensions: extensions.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ca_file: None,
    };
    let sasl = KafkaSaslConfig { oauth: Some(oauth), ..files.sasl(SaslMechanism::OauthBearer, "hush") };
    KafkaConfig { bootstrap_servers: vec![brokers.into()], sasl: Some(sasl), ..KafkaConfig::default() }
}

/// Answers every request with the token `t`.
async fn give_token(endpoint: TcpListener) {
    let (mut stream, _) = endpoint.accept().await.unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"grant_type=client_credentials") {
        stream.read_buf(&mut request).await.unwrap();
    }
    let grant = r#"{"access_token":"t","expires_in":60}"#;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{grant}", grant.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
}

/// What a client authenticates with, at a broker that speaks no more of Kafka's protocol than that takes.
async fn authentication(broker: TcpListener) -> String {
    // Of SaslHandshake, ApiVersions and SaslAuthenticate: the lowest and the highest version.
    const API_VERSIONS: &[u8] = b"\0\0\x04\0\x11\0\0\0\x01\0\0\x12\0\0\0\x03\0\0\x24\0\0\0\x01\0\0\0\0\0\0";
    const HANDSHAKE: &[u8] = b"\0\0\0\0\0\x01\0\x0bOAUTHBEARER";
    let (mut stream, _) = broker.accept().await.unwrap();
    loop {
        let mut request = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
        stream.read_exact(&mut request).await.unwrap();
        let response = match i16::from_be_bytes([request[0], request[1]]) {
            18 => API_VERSIONS,
            17 => HANDSHAKE,
            36 => return String::from_utf8_lossy(&request).into_owned(),
            other => panic!("unexpected request {other}"),
        };
        let response = [&request[4..8], response].concat();
        stream.write_i32(i32::try_from(response.len()).unwrap()).await.unwrap();
        stream.write_all(&response).await.unwrap();
    }
}

#[tokio::test]
async fn sasl_extensions_go_with_the_token() {
    let listen = || TcpListener::bind("127.0.0.1:0");
    let (broker, endpoint) = (listen().await.unwrap(), listen().await.unwrap());
    let at = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let extensions = [("logicalCluster", "lkc-1"), ("identityPoolId", "pool 2")];
    let files = Files::new();
    let kafka = by_oauth(&files, &at(&broker), &at(&endpoint), &extensions);
    tokio::spawn(give_token(endpoint));
    let _publisher = start(kafka, Limits::default(), Arc::new(Metrics::new())).await.unwrap();
    let sent = tokio::time::timeout(Duration::from_secs(10), authentication(broker)).await.unwrap();
    let expected = "auth=Bearer t\u{1}identityPoolId=pool 2\u{1}logicalCluster=lkc-1\u{1}\u{1}";
    assert!(sent.ends_with(expected), "{sent:?}");
}

#[tokio::test]
async fn a_token_that_cannot_be_fetched_is_named_in_the_report() {
    let files = Files::new();
    let kafka = by_oauth(&files, "127.0.0.1:1", "127.0.0.1:1", &[]);
    let (publisher, _) = start(kafka, Limits::default(), Arc::new(Metrics::new())).await.unwrap();
    let reported = async {
        loop {
            let known = publisher.producer.borrow().reports.newest_error();
            match known.filter(|error| error.contains("token endpoint http://127.0.0.1:1/token")) {
                Some(error) => break error,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), reported).await.unwrap();
    assert!(!error.contains("hush"), "{error}");
}

#[tokio::test]
async fn a_failure_of_the_cluster_is_counted_once() {
    let kafka = MockCluster::new(1).unwrap();
    let (publisher, _) = publisher(kafka.bootstrap_servers()).await;
    publisher.producer.borrow().fail_for_good();
    let mut replaced = publisher.producer.subscribe();
    replaced.wait_for(|producer| producer.generation == 1).await.unwrap();
    let metrics = publisher.metrics.encode().unwrap();
    assert!(
        metrics.contains(r#"kafka_errors_total{topic="",kind="OutOfOrderSequenceNumber"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn each_event_of_a_burst_is_acknowledged() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    let ids: Vec<String> = (0..500).map(|id| id.to_string()).collect();
    let burst = ids.iter().map(|id| publish(&publisher, &router, id));
    assert!(futures::future::join_all(burst).await.into_iter().all(|outcome| outcome.is_ok()));
    assert_eq!(publisher.in_flight(), 0);
}

#[tokio::test]
async fn an_event_whose_sender_leaves_while_it_waits_is_sent() {
    let kafka = MockCluster::new(1).unwrap();
    kafka.create_topic("topic", 1, 1).unwrap();
    let (publisher, router) = publisher(kafka.bootstrap_servers()).await;
    publish(&publisher, &router, "before").await.unwrap();
    let first = publish(&publisher, &router, "first");
    let mut second = Box::pin(publish(&publisher, &router, "second"));
    // Within a moment of each other, so that the second waits.
    let first = async { futures::join!(first, async { assert!(futures::poll!(&mut second).is_pending()) }) };
    first.await.0.unwrap();
    drop(second);
    while publisher.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let published = publisher.metrics.encode().unwrap();
    assert!(
        published.contains(r#"presenceroute_relay_events_published_total{topic="topic"} 3"#),
        "{published}"
    );
}
