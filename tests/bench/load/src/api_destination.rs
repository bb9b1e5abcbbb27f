//! The load of an API destination of Amazon EventBridge: each event on a connection of its own, with TLS or without, and an
//! API key.
//!
//! A thread of many connects, sends, and reads the answer; an event's latency begins when it was due, and so has the TCP
//! and TLS handshakes in it, and the time for which no thread was free.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::connection::{Parsed, parse};
use crate::load::Outcome;
use crate::process;

/// How long an answer may take; Amazon EventBridge waits 5 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read; a relay's are far smaller.
const LARGEST_ANSWER: usize = 16 << 10;

/// What to do.
pub(crate) struct Plan<'a> {
    /// The relay.
    pub(crate) address: SocketAddr,
    /// Its process.
    pub(crate) server: u32,
    /// What TLS is spoken with; without it, plain HTTP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// How many deliveries may be under way at once.
    pub(crate) senders: usize,
    /// When each event is due.
    pub(crate) schedule: Vec<Duration>,
    /// How long to load before anything is measured.
    pub(crate) warm_up: Duration,
    /// How long to measure.
    pub(crate) measured: Duration,
    /// The header with the API key.
    pub(crate) header: &'a str,
    /// The API key.
    pub(crate) key: &'a str,
    /// The path that envelopes are posted to.
    pub(crate) path: &'a str,
    /// What makes the ids of this run differ from those of any other.
    pub(crate) run: &'a str,
}

/// TLS to a relay with this certificate, which is for the name `relay`. Every handshake is a whole one.
pub(crate) fn tls(certificate: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(certificate).map_err(Error::other)? {
        roots.add(certificate.map_err(Error::other)?).map_err(Error::other)?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Carries out a plan.
pub(crate) fn run(plan: &Plan<'_>) -> Result<Outcome> {
    let begin = Instant::now();
    let warm = begin + plan.warm_up;
    let end = warm + plan.measured;
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let senders = (0..plan.senders).map(|_| scope.spawn(|| send(plan, begin, warm, &next)));
        let senders: Vec<_> = senders.collect();
        sleep_until(warm);
        let before = (process::processor_time(plan.server)?, process::processor_time(std::process::id())?);
        sleep_until(end);
        let after = (process::processor_time(plan.server)?, process::processor_time(std::process::id())?);
        let memory = process::memory(plan.server)?;
        let mut outcome = Outcome {
            answers: BTreeMap::new(),
            latencies: Histogram::new_with_bounds(1, 60_000_000, 3).map_err(Error::other)?,
            seconds: plan.measured.as_secs_f64(),
            processed: 0,
            server_time: after.0.saturating_sub(before.0),
            own_time: after.1.saturating_sub(before.1),
            memory,
        };
        for sender in senders {
            let sent = sender.join().map_err(|_| Error::other("a sender panicked"))??;
            for (status, count) in sent.answers {
                *outcome.answers.entry(status).or_default() += count;
            }
            outcome.processed += sent.latencies.len();
            outcome.latencies.add(sent.latencies).map_err(Error::other)?;
        }
        Ok(outcome)
    })
}

/// What one thread has sent.
struct Sent {
    answers: BTreeMap<u16, u64>,
    /// Of the measured part, in microseconds.
    latencies: Histogram<u64>,
}

fn send(plan: &Plan<'_>, begin: Instant, warm: Instant, next: &AtomicUsize) -> Result<Sent> {
    // Timers of this thread may otherwise be 50 µs late, which would count as the server's latency.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let latencies = Histogram::new_with_bounds(1, 60_000_000, 3).map_err(Error::other)?;
    let mut sent = Sent { answers: BTreeMap::new(), latencies };
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(due) = plan.schedule.get(number) else { return Ok(sent) };
        let request = request(plan, number);
        let due = begin + *due;
        sleep_until(due);
        let status = deliver(plan, &request).unwrap_or_default();
        *sent.answers.entry(status).or_default() += 1;
        if status == 200 && due >= warm {
            let micros = due.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
            sent.latencies.saturating_record(micros);
        }
    }
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}

/// Sends one request on a connection of its own. Returns the status of its answer.
fn deliver(plan: &Plan<'_>, request: &[u8]) -> Result<u16> {
    let stream = TcpStream::connect_timeout(&plan.address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match &plan.tls {
        None => exchange(stream, request),
        Some(config) => {
            let name = ServerName::try_from("relay").map_err(Error::other)?;
            let connection = ClientConnection::new(Arc::clone(config), name).map_err(Error::other)?;
            exchange(StreamOwned::new(connection, stream), request)
        }
    }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<u16> {
    stream.write_all(request)?;
    stream.flush()?;
    let (mut answer, mut read) = (vec![0; LARGEST_ANSWER], 0);
    while read < answer.len() {
        match stream.read(&mut answer[read..])? {
            0 => break,
            more => read += more,
        }
        match parse(&answer[..read]) {
            Parsed::Partly => {}
            Parsed::Answer(status) => return Ok(status),
            Parsed::Nonsense => break,
        }
    }
    Err(ErrorKind::InvalidData.into())
}

/// A request as Amazon EventBridge sends it. No two of a run have the same body.
fn request(plan: &Plan<'_>, number: usize) -> Vec<u8> {
    let user = format!("{:08x}-1111-4222-8333-444455556666", number % 5_000);
    let body = format!(
        r#"{{"version":"0","id":"{run}-{number:09}","detail-type":"v2.users.{{id}}.presence","source":"aws.partner/genesys.com/cloud/9c5a7a5e-6e1b-4a0e-9d0a-5b7d0c7f2a11/presence","account":"123456789012","time":"2026-03-19T22:04:48Z","region":"eu-west-1","resources":[],"detail":{{"topicName":"v2.users.{user}.presence","version":"2","eventBody":{{"source":"PURECLOUD","presenceDefinition":{{"id":"6a3af858-942f-489d-9700-5f9bcdcdae9b","systemPresence":"AVAILABLE"}},"primary":true,"message":"","modifiedDate":"2026-03-19T22:04:47.904Z"}},"metadata":{{"CorrelationId":"{run}-{number:09}"}},"timestamp":"2026-03-19T22:04:48.128Z"}}}}"#,
        run = plan.run,
    );
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: Amazon/EventBridge/ApiDestinations\r\nContent-Type: application/json; \
         charset=utf-8\r\nRange: bytes=0-1048575\r\nAccept-Encoding: gzip,deflate\r\nConnection: close\r\n{}: {}\r\n\
         Content-Length: {}\r\n\r\n",
        plan.path,
        plan.address,
        plan.header,
        plan.key,
        body.len(),
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_another_envelope_with_the_key() {
        let plan = Plan {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            server: 1,
            tls: None,
            senders: 1,
            schedule: Vec::new(),
            warm_up: Duration::ZERO,
            measured: Duration::ZERO,
            header: "X-Api-Key",
            key: "k",
            path: "/p",
            run: "r",
        };
        let request = String::from_utf8(request(&plan, 7)).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("\r\nX-Api-Key: k\r\n")
                && head.ends_with(&format!("Content-Length: {}", body.len()))
        );
        let envelope: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(envelope["id"], "r-000000007");
        assert_eq!(envelope["detail"]["topicName"], "v2.users.00000007-1111-4222-8333-444455556666.presence");
    }
}
