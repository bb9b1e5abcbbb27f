//! Senders that send slowly, or not at all.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::process::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_slow_bodies_are_answered_408_at_their_deadline() {
    let relay = Abused::start("{bodyTimeoutMs: 2000}").await;
    let slow = join_all((0..connections(2_000)).map(|_| slow_body(&relay)));
    let times = beside_a_good_sender(&relay, slow).await;
    for took in times {
        assert!(took > Duration::from_millis(1_900) && took < Duration::from_secs(6), "{took:?}");
    }
    assert!(relay.most_memory() < POD_MEMORY);
}

/// Sends an event's bytes one by one, slower than it is waited for; how long the answer took.
async fn slow_body(relay: &Process) -> Duration {
    let bytes = signed(SECRET, event(&unique()).as_bytes());
    let head = bytes.len() - 30;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let begun = Instant::now();
    stream.write_all(&bytes[..head]).await.unwrap();
    let (mut reading, mut writing) = stream.split();
    let trickle = async {
        for byte in &bytes[head..] {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await
    };
    let answer = tokio::select! {
        () = trickle => unreachable!(),
        answer = read_answer(&mut reading) => answer.expect("an answer"),
    };
    assert_eq!((answer.status, answer.problem().as_str()), (408, "body-timeout"));
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_never_end_leave_room_for_others() {
    let relay = Abused::start("{bodyTimeoutMs: 4000}").await;
    let large = vec![b'x'; (1 << 20) - 1];
    let statuses = beside_a_good_sender(&relay, async {
        let one = || async {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            let head = format!(
                "POST {PATH} HTTP/1.1\r\nhost: relay\r\nx-genesys-event-signature: 00\r\n\
                 content-length: 1048576\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            // It is refused half-way where there is no room for it.
            let _ = stream.write_all(&large).await;
            read_answer(&mut stream).await.map(|answer| answer.status)
        };
        join_all((0..150).map(|_| one())).await
    })
    .await;
    let count = |status| statuses.iter().filter(|answer| **answer == Some(status)).count();
    println!("{} waited for, {} refused at once", count(408), count(503));
    assert!(count(408) > 0 && count(503) > 0, "{statuses:?}");
    assert!(relay.most_memory() < Megabytes(128), "{:?}", relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_become_whole_slow_no_one() {
    let relay = Abused::start("{}").await;
    let count = connections(2_000);
    let held = beside_a_good_sender(&relay, async {
        let mut held = Vec::new();
        for number in 0..count {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            let head = format!("POST {PATH} HTTP/1.1\r\nx-{}: ", "y".repeat(number % 7_900));
            stream.write_all(head.as_bytes()).await.unwrap();
            held.push(stream);
        }
        relay.until_metric("presenceroute_relay_connections", |open| open > count as u64).await;
        for stream in &mut held {
            stream.write_all(b"z").await.unwrap();
        }
        held
    })
    .await;
    assert!(relay.memory() < Megabytes(128), "{:?}", relay.memory());
    // As long as a head may be, its connection has no more for it than for one that is whole.
    const KIBIBYTES_EACH: u64 = 24;
    let more = relay.memory().0.saturating_sub(relay.before.0);
    assert!(more * 1024 < count as u64 * KIBIBYTES_EACH, "{more} MiB for {count} heads");
    drop(held);
    relay.until_metric("presenceroute_relay_connections", |open| open == 0).await;
}
