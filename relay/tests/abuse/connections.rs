//! Many connections, and more than there may be.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_little_and_slow_no_one() {
    let relay = Abused::start("{}").await;
    let count = connections(10_000);
    let idle = beside_a_good_sender(&relay, async {
        let mut idle = Vec::new();
        for number in 0..count {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            // Half of them have been of use before, which leaves buffers behind.
            if number % 2 == 0 {
                stream.write_all(&signed("guess", event("1").as_bytes())).await.unwrap();
                assert_eq!(read_answer(&mut stream).await.unwrap().status, 403);
            }
            idle.push(stream);
        }
        relay.until_metric("presenceroute_relay_connections", |open| open > count as u64).await;
        idle
    })
    .await;
    assert!(relay.most_memory() < POD_MEMORY, "{:?}", relay.most_memory());
    // They are still of use.
    for stream in idle.into_iter().step_by(100).collect::<Vec<_>>().iter_mut() {
        stream.write_all(&signed("guess", event("1").as_bytes())).await.unwrap();
        assert_eq!(read_answer(stream).await.unwrap().status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_connection_limit_the_longest_idle_one_is_closed() {
    // Of 300 descriptors, half are for senders.
    let relay = Abused::start_within("{}", Some(300)).await;
    assert!(relay.log().contains(r#""max_connections":150"#), "{}", relay.log());
    beside_a_good_sender(&relay, async {
        let mut idle = Vec::new();
        for _ in 0..600 {
            idle.push(TcpStream::connect(relay.address).await.unwrap());
        }
        let mut byte = [0];
        let closed =
            tokio::time::timeout(PATIENCE, idle[0].read(&mut byte)).await.expect("the oldest is closed");
        assert!(closed.is_err() || closed.is_ok_and(|read| read == 0));
        relay.until_metric("presenceroute_relay_connections", |open| open > 140 && open <= 150).await;
        // A newcomer is taken, too, and the newest of the idle ones are still there.
        assert_eq!(exchange(relay.address, &signed(SECRET, event(&unique()).as_bytes())).await.status, 200);
        let newest = idle.last_mut().unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(100), newest.read(&mut byte)).await.is_err());
        assert_eq!(exchange(relay.admin, &request("GET", "/readyz", &[], b"")).await.status, 200);
    })
    .await;
    assert!(relay.log().contains("connection limit reached; closing idle connections"), "{}", relay.log());
}

/// How long an honest sender may wait for its answer, whatever strangers do.
const HONEST_WAIT: Duration = Duration::from_secs(2);

/// Begins a request whose body never comes, and again when its connection is closed.
async fn stranger_over_http1(address: SocketAddr) {
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: relay\r\nx-genesys-event-signature: 00\r\ncontent-length: 500\r\n\r\n"
    );
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(head.as_bytes()).await.is_ok()
        {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn stranger_over_http2(address: SocketAddr) {
    loop {
        if let Ok(stream) = TcpStream::connect(address).await
            && let Ok((mut sender, connection)) = h2::client::handshake(stream).await
        {
            let head = http::Request::post(format!("http://relay{PATH}"))
                .header("x-genesys-event-signature", "00")
                .body(())
                .unwrap();
            let begun = sender.send_request(head, false);
            let _ = connection.await;
            drop(begun);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Honest senders, each on a new connection, beside as many strangers as there are permits, of which a connection takes
/// several with HTTP/2.
async fn beside_strangers<S>(stranger: impl Fn(SocketAddr) -> S, permits_each: u64)
where
    S: Future<Output = ()> + Send + 'static,
{
    let relay = Abused::start_within("{}", Some(300)).await;
    let mut strangers = JoinSet::new();
    for _ in 0..150 {
        strangers.spawn(stranger(relay.address));
    }
    relay.until_metric("presenceroute_relay_connections", |open| open >= 140 / permits_each).await;
    let until = Instant::now() + Duration::from_secs(4);
    let mut answered = 0;
    while Instant::now() < until {
        let request = signed(SECRET, event(&unique()).as_bytes());
        let honest = exchange(relay.address, &request);
        let answer = tokio::time::timeout(HONEST_WAIT, honest).await.expect("an answer over HTTP/1.1");
        assert_eq!(answer.status, 200);
        let honest = async {
            let sender = crate::http2::connect(&relay).await;
            crate::http2::post(&sender, event(&unique())).await
        };
        let status = tokio::time::timeout(HONEST_WAIT, honest).await.expect("an answer over HTTP/2");
        assert_eq!(status.unwrap(), 200);
        answered += 1;
    }
    println!("{answered} pairs of honest events");
    strangers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_keep_out_no_new_sender_over_http1() {
    beside_strangers(stranger_over_http1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_keep_out_no_new_sender_over_http2() {
    beside_strangers(stranger_over_http2, 4).await;
}
