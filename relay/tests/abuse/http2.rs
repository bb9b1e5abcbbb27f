//! What only HTTP/2 lets a sender do.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::*;
use crate::support::*;

/// One connection of HTTP/2 without TLS, by prior knowledge.
pub(crate) async fn connect(relay: &Process) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(relay.address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Posts an event on a connection that may be shared; its status.
pub(crate) async fn post(sender: &SendRequest<Bytes>, body: String) -> Result<u16, h2::Error> {
    let request = http::Request::post(format!("http://relay{PATH}"))
        .header("x-genesys-event-signature", sign(SECRET, body.as_bytes()))
        .body(())
        .unwrap();
    let (answer, mut sending) = sender.clone().ready().await?.send_request(request, false)?;
    sending.send_data(Bytes::from(body), true)?;
    let (head, mut body) = answer.await?.into_parts();
    // What is dropped unread would be reset, which is an abuse of its own.
    while let Some(piece) = body.data().await {
        piece?;
    }
    Ok(head.status.as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_streams_share_one_connection() {
    let relay = Abused::start("{}").await;
    let sender = connect(&relay).await;
    let statuses =
        beside_a_good_sender(&relay, join_all((0..2_000).map(|_| post(&sender, event(&unique()))))).await;
    assert!(statuses.iter().all(|status| matches!(status, Ok(200))), "{statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_never_end_are_408_and_cost_little() {
    let relay = Abused::start("{bodyTimeoutMs: 3000}").await;
    let statuses = beside_a_good_sender(&relay, async {
        let mut waiting = Vec::new();
        for _ in 0..40 {
            let mut sender = connect(&relay).await.ready().await.unwrap();
            for _ in 0..200 {
                let request = http::Request::post(format!("http://relay{PATH}"))
                    .header("x-genesys-event-signature", "00")
                    .body(())
                    .unwrap();
                let (answer, mut sending) = sender.send_request(request, false).unwrap();
                sending.send_data(Bytes::from_static(b"{"), false).unwrap();
                waiting.push(async move {
                    let _kept = sending;
                    answer.await.map(|answer| answer.status().as_u16())
                });
            }
        }
        join_all(waiting).await
    })
    .await;
    assert!(statuses.iter().all(|status| matches!(status, Ok(408))), "{statuses:?}");
    assert!(relay.most_memory() < Megabytes(160), "{:?}", relay.most_memory());
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame as RFC 9113 lays it out.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a post in HPACK: two indexed fields and two literal ones.
fn head() -> Vec<u8> {
    head_to(PATH)
}

fn head_to(path: &str) -> Vec<u8> {
    let literal = |index: u8, value: &str| [&[index, value.len() as u8], value.as_bytes()].concat();
    // :method POST, :scheme http, :path, :authority
    [vec![0x83, 0x86], literal(0x04, path), literal(0x01, "relay")].concat()
}

/// Reads frames until one is as it should be, or the connection ends; whether there was one.
async fn read_until(stream: &mut TcpStream, mut is_it: impl FnMut(u8) -> bool) -> bool {
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        if is_it(head[3]) {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        if stream.read_exact(&mut vec![0; length]).await.is_err() {
            break;
        }
    }
    false
}

/// What became of a connection that is written to without regard for what comes back.
struct Ended {
    /// Whether the relay ended it.
    by_relay: bool,
    /// Frames that were written until then.
    frames: usize,
    /// Whether it said so in a GOAWAY.
    said: bool,
}

/// Writes pieces of frames until the relay closes the connection, or there are no more.
async fn flood(relay: &Process, pieces: usize, piece: impl Fn(usize) -> Vec<u8>) -> Ended {
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let read = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = reading.read_to_end(&mut all).await;
        all
    });
    let mut frames = 0;
    while frames < pieces && !read.is_finished() {
        let written = tokio::time::timeout(PATIENCE, writing.write_all(&piece(frames))).await;
        if written.expect("the relay reads on or closes").is_err() {
            break;
        }
        frames += 1;
    }
    let by_relay = frames < pieces;
    drop(writing);
    let all = tokio::time::timeout(PATIENCE, read).await.expect("an end").unwrap();
    let said = frames_of(&all).any(|(kind, _)| kind == kind::GOAWAY);
    Ended { by_relay, frames, said }
}

/// The frames of what came back: kind and flags.
fn frames_of(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u8)> {
    std::iter::from_fn(move || {
        let head = bytes.get(..9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let found = (head[3], head[4]);
        bytes = bytes.get(9 + length..)?;
        Some(found)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_do_not_gather() {
    let relay = Abused::start("{}").await;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let ended = beside_a_good_sender(
        &relay,
        join_all((0..4).map(|_| {
            flood(&relay, 20_000, |number| {
                let stream = 2 * u32::try_from(number).unwrap() + 1;
                let reset = frame(kind::RST_STREAM, 0, stream, &CANCEL);
                [frame(kind::HEADERS, END_HEADERS, stream, &head()), reset].concat()
            })
        })),
    )
    .await;
    for ended in ended {
        println!("{} streams opened and reset; said by the relay: {}", ended.frames, ended.said);
        assert!(ended.by_relay, "{} streams were opened and reset", ended.frames);
    }
    assert!(relay.most_memory().0 < relay.before.0 + 32, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_never_end_close_the_connection() {
    let relay = Abused::start("{}").await;
    // A literal field that is not indexed: "x: yyy…".
    let field = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    for block in [field.clone(), field.repeat(150), Vec::new()] {
        let ended = beside_a_good_sender(
            &relay,
            flood(&relay, 100_000, |number| match number {
                0 => frame(kind::HEADERS, 0, 1, &head()),
                _ => frame(kind::CONTINUATION, 0, 1, &block),
            }),
        )
        .await;
        println!("{} frames of {} bytes", ended.frames, block.len());
        assert!(ended.by_relay, "{} frames of {} bytes were taken", ended.frames, block.len());
    }
    assert!(relay.most_memory().0 < relay.before.0 + 32, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_header_bytes_are_refused() {
    let relay = Abused::start("{}").await;
    beside_a_good_sender(&relay, async {
        for _ in 0..50 {
            let mut sender = connect(&relay).await.ready().await.unwrap();
            let mut request = http::Request::post(format!("http://relay{PATH}"));
            for number in 0..100 {
                request = request.header(format!("x-{number}"), "y".repeat(1_000));
            }
            let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
            let status = answer.await.map(|answer| answer.status().as_u16());
            assert!(matches!(status, Ok(431) | Err(_)), "{status:?}");
        }
    })
    .await;
    assert!(relay.most_memory().0 < relay.before.0 + 32, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_ask_for_an_answer_or_carry_nothing_do_not_gather() {
    let relay = Abused::start("{}").await;
    for many in [
        frame(kind::PING, 0, 0, &[0; 8]).repeat(1_000),
        frame(kind::SETTINGS, 0, 0, &[]).repeat(1_000),
        frame(kind::DATA, 0, 1, &[]).repeat(1_000),
    ] {
        let ended = beside_a_good_sender(
            &relay,
            flood(&relay, 50, |number| match number {
                0 => frame(kind::HEADERS, END_HEADERS, 1, &head()),
                _ => many.clone(),
            }),
        )
        .await;
        println!("{} thousand frames; ended by the relay: {}", ended.frames, ended.by_relay);
    }
    assert!(relay.most_memory().0 < relay.before.0 + 32, "{:?}, {:?}", relay.before, relay.most_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_do_not_gather() {
    let relay = Abused::start("{}").await;
    let streams = beside_a_good_sender(&relay, async {
        let mut stream = TcpStream::connect(relay.address).await.unwrap();
        stream.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let mut streams = 0;
        while streams < 200_000 {
            let one = frame(kind::HEADERS, END_HEADERS | END_STREAM, 2 * streams + 1, &head());
            match tokio::time::timeout(Duration::from_secs(1), stream.write_all(&one)).await {
                Ok(Ok(())) => streams += 1,
                _ => break,
            }
        }
        streams
    })
    .await;
    println!("{streams} requests were taken without one answer read");
    assert!(relay.most_memory().0 < relay.before.0 + 48, "{:?}, {:?}", relay.before, relay.most_memory());
}

/// The same where the relay may send heads, but no body: it has no window.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_let_through_do_not_gather() {
    const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
    const STREAMS: u32 = 250;
    // Of 1,212 descriptors, 700 are for connections, which have 11 MiB then.
    let relay = Abused::start_within("{}", Some(1_212)).await;
    let mut kept = Vec::new();
    let answered = beside_a_good_sender(&relay, async {
        let mut answered = 0;
        for _ in 0..40 {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            let mut bytes = [PREFACE, &frame(kind::SETTINGS, 0, 0, &NO_WINDOW)].concat();
            for number in 0..STREAMS {
                bytes.extend(frame(kind::HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head()));
            }
            // It may be closed before all of it is sent.
            let _ = stream.write_all(&bytes).await;
            let mut heads = 0;
            let all = read_until(&mut stream, |kind| {
                heads += u32::from(kind == kind::HEADERS);
                heads == STREAMS
            });
            answered += u32::from(tokio::time::timeout(PATIENCE, all).await.expect("all heads, or an end"));
            kept.push(stream);
        }
        answered
    })
    .await;
    println!("{answered} of 40 connections had all heads");
    assert!((1..40).contains(&answered), "{answered} of 40 connections had all heads");
    assert!(relay.most_memory().0 < relay.before.0 + 24, "{:?}, {:?}", relay.before, relay.most_memory());
}

/// More than fit into `maxInFlightBytes`, on a few connections.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_end_give_way_to_events() {
    let relay = Abused::start("{}").await;
    // A literal field of each: the signature, and content-length (28 in the static table) of 16384.
    let signature = [&[0x00, 25][..], b"x-genesys-event-signature", &[2], b"00"].concat();
    let length = [&[0x0f, 0x0d, 5][..], b"16384"].concat();
    let [without, with] = [vec![], length].map(|length| [head(), signature.clone(), length].concat());
    let mut kept = Vec::new();
    beside_a_good_sender(&relay, async {
        for connection in 0..14 {
            let mut stream = TcpStream::connect(relay.address).await.unwrap();
            let mut bytes = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
            for number in 0..250 {
                let stream = 2 * number + 1;
                if connection < 13 {
                    bytes.extend(frame(kind::HEADERS, END_HEADERS, stream, &with));
                    bytes.extend(frame(kind::DATA, 0, stream, b"x"));
                } else {
                    // Each takes less, and so what room is left.
                    bytes.extend(frame(kind::HEADERS, END_HEADERS, stream, &without));
                }
            }
            stream.write_all(&bytes).await.unwrap();
            kept.push(stream);
        }
        let full = (64 << 20) - (22 << 10);
        relay.until_metric("presenceroute_relay_in_flight_bytes", |bytes| bytes > full).await;
        for _ in 0..50 {
            let answer = exchange(relay.address, &signed(SECRET, event(&unique()).as_bytes())).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    })
    .await;
    // Those that made room were told.
    assert!(read_until(&mut kept[0], |kind| kind == kind::HEADERS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_of_http_2_is_not_in_the_log() {
    let relay = Abused::start("{}").await;
    let mut stream = TcpStream::connect(relay.address).await.unwrap();
    let malformed = frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &head_to("/needle with space"));
    stream.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[]), &malformed].concat()).await.unwrap();
    assert!(read_until(&mut stream, |kind| kind == kind::RST_STREAM).await);
    assert!(!relay.log().contains("needle"), "{}", relay.log());
}
