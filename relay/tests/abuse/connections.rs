//! Many connections, and more than there may be.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
