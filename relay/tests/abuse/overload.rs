//! More than Kafka takes.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::process::*;
use crate::support::*;

/// How many events may be in flight here.
const MOST: usize = 500;

/// How soon a sender is told that there is no room.
const AT_ONCE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_hangs_senders_are_503_at_once_and_memory_is_flat() {
    let limits = format!("{{maxInFlight: {MOST}, publishTimeoutMs: 60000}}");
    let relay = Abused::start(&limits).await;
    relay.kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    // The bound is reached by events that wait.
    let mut waiting = Vec::new();
    for _ in 0..MOST {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(&signed(SECRET, event(&unique()).as_bytes())).await.unwrap();
        waiting.push(stream);
    }
    relay.until_metric("presenceroute_relay_in_flight_events", |events| events == MOST as u64).await;

    let rounds = async |seconds| {
        let until = Instant::now() + Duration::from_secs(seconds);
        join_all((0..4).map(|_| refused_until(&relay, until))).await.concat()
    };
    let mut latencies = rounds(1).await;
    let before = relay.memory();
    latencies.extend(rounds(4).await);
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    let [median, p90, p99, most] = [0.5, 0.9, 0.99, 1.0].map(at);
    println!("{} refusals: median {median:?}, p90 {p90:?}, p99 {p99:?}, at most {most:?}", latencies.len());
    println!("memory {before:?} after a second, {:?} at the end", relay.memory());
    // The senders, which are not optimised, take the processors from an optimised relay at times, too
    // (`tests/run --only bench` has one).
    let share = if is_optimised() { 0.9 } else { 0.5 };
    assert!(at(share) < AT_ONCE, "the slowest of {share} took {:?}", at(share));
    assert!(relay.memory().0 <= before.0 + 4, "{before:?} became {:?}", relay.memory());
    assert_eq!(relay.metric("presenceroute_relay_in_flight_events").await, MOST as u64);

    // When Kafka is back, those that waited get their answer.
    relay.kafka.broker_down(1).unwrap();
    relay.kafka.broker_round_trip_time(1, Duration::ZERO).unwrap();
    relay.kafka.broker_up(1).unwrap();
    for stream in &mut waiting {
        let answer =
            tokio::time::timeout(2 * PATIENCE, read_answer(stream)).await.expect("an answer in time");
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!(relay.metric("presenceroute_relay_in_flight_events").await, 0);
}

/// Posts one event after another, each of which is refused; how long each answer took.
async fn refused_until(relay: &Process, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let bytes = signed(SECRET, event(&unique()).as_bytes());
        let begun = Instant::now();
        stream.write_all(&bytes).await.unwrap();
        let answer = read_answer(&mut stream).await.expect("an answer");
        latencies.push(begun.elapsed());
        assert_eq!((answer.status, answer.problem().as_str()), (503, "overloaded"));
        assert_eq!(answer.headers["retry-after"], "1");
    }
    latencies
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_hangs_large_events_are_bounded_by_their_bytes() {
    let relay = Abused::start("{publishTimeoutMs: 3000, deliveryTimeoutMs: 3000}").await;
    relay.kafka.broker_round_trip_time(1, Duration::from_secs(60)).unwrap();
    let large = |id: String| {
        let filling = "x".repeat(1_000_000);
        format!(
            r#"{{"id":"{id}","eventType":"presence:state:changed","attributes":{{"notes":"{filling}"}}}}"#
        )
    };
    let post = || async {
        let bytes = signed(SECRET, large(unique()).as_bytes());
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
        read_answer(&mut stream).await.map(|answer| answer.problem())
    };
    for _ in 0..2 {
        let problems = join_all((0..150).map(|_| post())).await;
        let count = |problem: &str| problems.iter().filter(|found| found.as_deref() == Some(problem)).count();
        println!("{} waited, {} refused", count("kafka-unavailable"), count("overloaded"));
        assert!(count("kafka-unavailable") > 10 && count("overloaded") > 10, "{problems:?}");
        println!("memory {:?}, at most {:?}", relay.memory(), relay.most_memory());
        relay.until_metric("presenceroute_relay_in_flight_events", |events| events == 0).await;
    }
    assert!(relay.most_memory() < POD_MEMORY, "{:?}", relay.most_memory());
}
