//! Bodies and heads that are larger than may be.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::*;
use crate::support::*;

const FIFTY_MEGABYTES: usize = 50_000_000;

/// What the two sockets' buffers take without anyone's reading.
const IN_SOCKETS: usize = 12 << 20;

/// Sends a head, and then a body for as long as it is taken; the answer, and how much was taken.
async fn pour(relay: &Process, head: &str, piece: &[u8]) -> (Option<Answer>, usize) {
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(head.as_bytes()).await.unwrap();
    let piece = piece.to_vec();
    let pouring = tokio::spawn(async move {
        let mut taken = 0;
        while taken < FIFTY_MEGABYTES && writing.write_all(&piece).await.is_ok() {
            taken += piece.len();
        }
        taken
    });
    let answer = tokio::time::timeout(PATIENCE, read_answer(&mut reading)).await.expect("an answer in time");
    drop(reading);
    (answer, tokio::time::timeout(PATIENCE, pouring).await.expect("an end").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_are_413_without_being_read() {
    let relay = Abused::start("{}").await;
    beside_a_good_sender(&relay, async {
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: relay\r\nx-genesys-event-signature: 00\r\ncontent-length: {FIFTY_MEGABYTES}\r\n\r\n"
        );
        for _ in 0..20 {
            let (answer, taken) = pour(&relay, &head, &vec![b'x'; 64 << 10]).await;
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"));
            assert!(taken < IN_SOCKETS, "{taken} bytes were taken");
        }
    })
    .await;
    assert!(relay.most_memory().0 < relay.before.0 + 16, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_in_chunks_are_413_at_the_limit() {
    let relay = Abused::start("{}").await;
    beside_a_good_sender(&relay, async {
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: relay\r\nx-genesys-event-signature: 00\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        for _ in 0..5 {
            let (answer, taken) = pour(&relay, &head, chunk.as_bytes()).await;
            let answer = answer.expect("an answer");
            assert_eq!((answer.status, answer.problem().as_str()), (413, "body-too-large"));
            assert!(taken < IN_SOCKETS, "{taken} bytes were taken");
        }
        // One byte a chunk costs no more memory.
        let small = [head.as_bytes(), &b"1\r\nx\r\n".repeat(20_000), b"0\r\n\r\n"].concat();
        assert_eq!(exchange(relay.address, &small).await.status, 403);
    })
    .await;
    assert!(relay.most_memory().0 < relay.before.0 + 24, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_asks_first_is_told_before_it_sends() {
    let relay = Abused::start("{}").await;
    let head = |length: usize, signature: &str| {
        format!(
            "POST {PATH} HTTP/1.1\r\nhost: relay\r\n{signature}expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let signature = "x-genesys-event-signature: 00\r\n";
    for (head, status) in [(head(FIFTY_MEGABYTES, signature), 413), (head(100, ""), 400)] {
        assert_eq!(exchange(relay.address, head.as_bytes()).await.status, status);
    }
    assert_eq!(exchange(relay.address, head(100, signature).as_bytes()).await.status, 100);
}

/// It hears why, though the relay knows from the head, and is told that the connection ends with that.
#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_reads_only_after_sending_all_gets_its_answer() {
    let relay = Abused::start("{}").await;
    let body = vec![b'x'; 1_000_000];
    for (path, headers, status) in
        [(PATH, &[][..], 400), ("/elsewhere", &[("x-genesys-event-signature", "00")][..], 404)]
    {
        for length in [20_000, body.len()] {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            let bytes = request("POST", path, headers, &body[..length]);
            let (first, rest) = bytes.split_at(16_000);
            stream.write_all(first).await.unwrap();
            // The relay has answered, and more comes all the same.
            stream.readable().await.unwrap();
            for piece in rest.chunks(10_000) {
                stream.write_all(piece).await.unwrap();
            }
            let answer = read_answer(&mut stream).await.expect("an answer");
            assert_eq!((answer.status, answer.headers["connection"].as_str()), (status, "close"));
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection goes on");
        }
    }
    // Without a body, nothing is left over and the connection goes on.
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    for _ in 0..2 {
        stream.write_all(&request("GET", "/elsewhere", &[], b"")).await.unwrap();
        let answer = read_answer(&mut stream).await.expect("an answer");
        assert_eq!((answer.status, answer.headers.get("connection")), (404, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_header_bytes_are_refused() {
    let relay = Abused::start("{}").await;
    let long = "y".repeat(100_000);
    let many: String = (0..5_000).map(|number| format!("x-{number}: {number:08}\r\n")).collect();
    let few: String = (0..200).map(|number| format!("x-{number}: z\r\n")).collect();
    beside_a_good_sender(&relay, async {
        for _ in 0..50 {
            for (head, expected) in [
                (format!("POST {PATH} HTTP/1.1\r\nhost: relay\r\nx: {long}\r\n\r\n"), 431),
                (format!("POST {PATH} HTTP/1.1\r\nhost: relay\r\n{long}: x\r\n\r\n"), 431),
                (format!("POST {PATH} HTTP/1.1\r\nhost: relay\r\n{many}\r\n"), 431),
                (format!("POST {PATH} HTTP/1.1\r\nhost: relay\r\n{few}\r\n"), 431),
                (format!("POST /{long} HTTP/1.1\r\nhost: relay\r\n\r\n"), 431),
                (format!("{long} {PATH} HTTP/1.1\r\nhost: relay\r\n\r\n"), 431),
            ] {
                let mut stream = TcpStream::connect(relay.address).await.unwrap();
                // The relay may have refused it before all of it is sent.
                let _ = stream.write_all(head.as_bytes()).await;
                let answer = read_answer(&mut stream).await.expect("an answer");
                assert_eq!(answer.status, expected, "{}", &head[..60]);
                assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "the connection goes on");
            }
        }
    })
    .await;
    assert!(relay.most_memory().0 < relay.before.0 + 16, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_do_not_gather() {
    let relay = Abused::start("{}").await;
    beside_a_good_sender(&relay, async {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        // A request and the beginning of the next, so that the relay always has something to read.
        let one = format!("GET {PATH} HTTP/1.1\r\nhost: relay\r\n\r\n");
        let pipeline = one.repeat(2_000);
        let mut sent = 0;
        loop {
            let piece = &pipeline.as_bytes()[sent % one.len()..];
            match tokio::time::timeout(Duration::from_secs(1), stream.write(&piece[..piece.len() - 7])).await
            {
                Ok(written) => sent += written.unwrap(),
                Err(_) => break,
            }
            assert!(sent < FIFTY_MEGABYTES, "{sent} bytes of requests were taken without one answer read");
        }
        println!("{sent} bytes of requests were taken before the relay stopped reading");
    })
    .await;
    assert!(relay.most_memory().0 < relay.before.0 + 16, "{:?}, {:?}", relay.before, relay.most_memory());
}
