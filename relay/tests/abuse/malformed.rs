//! Requests that are cut off, garbled, or meant to be understood in two ways; and many at a time.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::*;
use crate::support::*;

/// Everything that comes back until the relay closes the connection.
async fn answers(relay: &Process, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let mut statuses = Vec::new();
    while let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, read_answer(&mut stream)).await {
        statuses.push(answer.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_be_read_in_two_ways_smuggles_nothing() {
    let relay = Abused::start("{}").await;
    // What would be answered 405 if it were taken for a request of its own.
    let smuggled = format!("GET {PATH} HTTP/1.1\r\nhost: relay\r\n\r\n");
    let with = |headers: &str, body: &str| {
        format!(
            "POST {PATH} HTTP/1.1\r\nhost: relay\r\nx-genesys-event-signature: 00\r\n{headers}\r\n\r\n{body}{smuggled}"
        )
    };
    // Refused at once, and the connection with it.
    for request in [
        with("content-length: 5\r\ncontent-length: 6", "12345"),
        with("content-length: 5, 6", "12345"),
        with("content-length: +5", "12345"),
        with("content-length: -5", "12345"),
        with("content-length: 0x5", "12345"),
        with("content-length: 5 5", "12345"),
        with("content-length: 99999999999999999999", "12345"),
        with("content-length : 5", "12345"),
        with("content-length\r\n : 5", "12345"),
        with(" content-length: 5", "12345"),
        with("x: y\r\n content-length: 5", "12345"),
        with("transfer-encoding: identity", "0\r\n\r\n"),
        with("transfer-encoding: chunked, identity", "0\r\n\r\n"),
        with("transfer-encoding: xchunked", "0\r\n\r\n"),
        with("transfer-encoding: chunked\r\ntransfer-encoding: identity", "0\r\n\r\n"),
        with("transfer-encoding : chunked", "0\r\n\r\n"),
        with("transfer-encoding:\x0bchunked", "0\r\n\r\n"),
        with("x: y\0z", ""),
        with("x: y\rtransfer-encoding: chunked", "0\r\n\r\n"),
        with("transfer-encoding: chunked", "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"),
    ] {
        assert_eq!(answers(&relay, request.as_bytes()).await, [400], "{request:?}");
    }
    // Two lengths, of which HTTP says which one counts. The request is answered by itself, and nothing behind it is
    // taken for another one.
    for headers in
        ["content-length: 5\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
    {
        assert_eq!(answers(&relay, with(headers, "0\r\n\r\n").as_bytes()).await, [403], "{headers:?}");
    }
    // Chunks that are none end the request without an answer to what is behind them.
    for chunks in
        ["5\r\n12345", "5\n12345\n0\n\n", "-5\r\n", "fffffffffffffffff\r\n", "0x5\r\n12345\r\n0\r\n\r\n"]
    {
        let statuses = answers(&relay, with("transfer-encoding: chunked", chunks).as_bytes()).await;
        assert!(
            statuses.len() <= 1 && statuses.iter().all(|status| [400, 413].contains(status)),
            "{chunks:?}: {statuses:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_cut_off_anywhere_does_no_harm() {
    let relay = Abused::start("{}").await;
    let whole = signed(SECRET, event(&unique()).as_bytes());
    beside_a_good_sender(&relay, async {
        for end in 0..whole.len() {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            stream.write_all(&whole[..end]).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = tokio::time::timeout(PATIENCE, read_answer(&mut stream)).await.expect("an end");
            assert!(answer.is_none_or(|answer| answer.status == 400), "{end} bytes");
        }
    })
    .await;
    relay.until_metric("presenceroute_relay_connections", |open| open == 0).await;
    assert_eq!(relay.metric("presenceroute_relay_in_flight_bytes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_does_no_harm() {
    let relay = Abused::start("{}").await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    beside_a_good_sender(&relay, async {
        for round in 0..1_000 {
            let length = (random() % 4_000) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            match round % 4 {
                // Text that looks like a request until it does not.
                0 => bytes.splice(0..0, format!("POST {PATH} HTTP/1.1\r\n").into_bytes()).for_each(drop),
                // A good beginning of HTTP/2, and of TLS.
                1 => bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").for_each(drop),
                2 => bytes.splice(0..0, *b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").for_each(drop),
                _ => {}
            }
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut all = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await;
            assert!(read.is_ok(), "the connection stays open after {:?}", &bytes[..length.min(60)]);
            assert!(!all.starts_with(b"HTTP/1.1 2") && !all.starts_with(b"HTTP/1.1 5"), "{:?}", &all[..40]);
        }
    })
    .await;
    assert!(relay.most_memory().0 < relay.before.0 + 16, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_their_order() {
    let relay = Abused::start("{}").await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let requests: Vec<(Vec<u8>, u16)> = (0..300)
        .map(|number| match number % 5 {
            0 => (signed(SECRET, event(&unique()).as_bytes()), 200),
            1 => (signed("guess", event(&unique()).as_bytes()), 403),
            2 => (request("GET", PATH, &[], b""), 405),
            3 => (signed(SECRET, b"{}"), 400),
            _ => (request("POST", "/other", &[], b"unread"), 404),
        })
        .collect();
    let all: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
    let (mut reading, mut writing) = stream.split();
    let read = async {
        for (number, (_, expected)) in requests.iter().enumerate() {
            let answer =
                tokio::time::timeout(PATIENCE, read_answer(&mut reading)).await.expect("in time").unwrap();
            assert_eq!(answer.status, *expected, "answer {number}");
        }
    };
    tokio::join!(async { writing.write_all(&all).await.unwrap() }, read);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_the_next_request_does_not_hold_up_an_answer() {
    let relay = Abused::start("{}").await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let [first, second] = [0, 1].map(|_| signed(SECRET, event(&unique()).as_bytes()));
    stream.write_all(&[&first[..], &second[..100]].concat()).await.unwrap();
    for rest in [&second[100..], &[]] {
        let answer = tokio::time::timeout(Duration::from_secs(3), read_answer(&mut stream)).await;
        assert_eq!(answer.expect("an answer in time").unwrap().status, 200);
        stream.write_all(rest).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_closes_its_side_still_gets_its_answer() {
    let relay = Abused::start("{}").await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(&signed(SECRET, event(&unique()).as_bytes())).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_answer(&mut stream).await.expect("an answer").status, 200);
}
