//! One event to one endpoint: sent, retried with backoff, given up. Every attempt has the same bytes and the
//! same signature. An endpoint's `Retry-After` is ignored: the contract has only the registration's retry
//! policy. Redirects are not followed.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use reqwest::{Certificate, Client, ClientBuilder, Response, Url};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::ledger::{Attempt, EventRecord, Outcome, Run, milliseconds};
use crate::config::Config;
use crate::moment::Moment;
use crate::{Simulator, StartError};

/// The longest backoff, whatever the multiplier.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How much of an answer is read, and how much of one that is no success is kept.
const READ_BYTES: usize = 64 * 1024;
const KEPT_CHARACTERS: usize = 256;

/// A delivery, the same for all its attempts.
pub(super) struct Outgoing {
    pub(super) id: Option<String>,
    pub(super) event_type: Option<String>,
    pub(super) registration: Uuid,
    pub(super) endpoint: Url,
    pub(super) body: Bytes,
    pub(super) signature: Option<String>,
    pub(super) max_retries: u32,
    pub(super) first_delay: Duration,
    pub(super) multiplier: f64,
}

/// The client for all endpoints. It trusts the platform's authorities and those of the configured file.
///
/// # Errors
/// [`StartError::CaFile`] where that file cannot be read or is not PEM; [`StartError::Client`] where TLS
/// cannot be set up.
pub(crate) fn client(config: &Config) -> Result<Client, StartError> {
    build(config, || Client::builder().timeout(config.delivery_timeout))
}

/// A client of these settings with the configured authorities, which follows no redirect.
///
/// # Errors
/// As of [`client`].
pub(crate) fn build(config: &Config, settings: impl Fn() -> ClientBuilder) -> Result<Client, StartError> {
    // Another part of the same process may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authorities = match &config.ca_file {
        None => Vec::new(),
        Some(path) => {
            let unusable = |cause: String| StartError::CaFile { path: path.clone(), cause };
            let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
            Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|authorities| !authorities.is_empty())
                .ok_or_else(|| unusable("there is no PEM certificate in it".to_owned()))?
        }
    };
    let builder = || settings().redirect(reqwest::redirect::Policy::none());
    builder().tls_certs_merge(authorities.clone()).build().or_else(|error| {
        // A minimal image has no authorities of its own; http endpoints must work there too.
        tracing::warn!(%error, "no certificate authorities on this system; https endpoints need a CA file");
        builder().tls_certs_only(authorities).build().map_err(StartError::Client)
    })
}

/// Delivers, and records the outcome. `slot` is the first attempt's permit to be on the wire, `room` the
/// delivery's permit to be outstanding.
pub(super) async fn deliver(
    simulator: Simulator,
    run: Arc<Run>,
    outgoing: Outgoing,
    wire: Arc<Semaphore>,
    slot: OwnedSemaphorePermit,
    room: OwnedSemaphorePermit,
) {
    let mut attempts = Vec::new();
    let mut slot = Some(slot);
    let mut wait = outgoing.first_delay;
    let outcome = loop {
        let (attempt, latency) = send(&simulator, &outgoing).await;
        drop(slot.take());
        run.count_attempt(attempt.status, latency);
        let verdict = Verdict::of(attempt.status);
        attempts.push(attempt);
        match verdict {
            Verdict::Delivered => break Outcome::Delivered,
            Verdict::Refused => break Outcome::Dropped,
            Verdict::TryAgain if attempts.len() > outgoing.max_retries as usize => break Outcome::Exhausted,
            Verdict::TryAgain => {}
        }
        let again = async {
            sleep(wait.min(LONGEST_WAIT)).await;
            Arc::clone(&wire).acquire_owned().await.ok()
        };
        slot = tokio::select! {
            slot = again => slot,
            () = run.stop.cancelled() => break Outcome::Abandoned,
        };
        wait = wait.mul_f64(outgoing.multiplier).min(LONGEST_WAIT);
    };
    tracing::debug!(
        delivery = %run.id,
        event = outgoing.id,
        event_type = outgoing.event_type,
        attempts = attempts.len(),
        ?outcome,
        "event",
    );
    let record = EventRecord {
        delivery_id: run.id,
        id: outgoing.id,
        event_type: outgoing.event_type,
        registration_id: Some(outgoing.registration),
        envelope: None,
        body_sha256: hex::encode(Sha256::digest(&outgoing.body)),
        body: outgoing.body,
        attempts,
        outcome,
    };
    simulator.inner.ledger.lock().record(&run, record);
    drop(room);
}

/// What a status, or no answer, means for a delivery.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Delivered,
    Refused,
    TryAgain,
}

impl Verdict {
    fn of(status: Option<u16>) -> Self {
        match status {
            Some(200..=299) => Self::Delivered,
            None | Some(408 | 429 | 500..) => Self::TryAgain,
            Some(_) => Self::Refused,
        }
    }
}

async fn send(simulator: &Simulator, outgoing: &Outgoing) -> (Attempt, Duration) {
    let at = Moment::now();
    let start = Instant::now();
    let answer = post(simulator, outgoing).await;
    let latency = start.elapsed();
    let (status, error, answer) = match answer {
        Ok((status, answer)) => (Some(status.as_u16()), None, answer),
        Err(error) => (None, Some(explain(error)), None),
    };
    (Attempt { at, status, error, answer, latency_ms: milliseconds(latency) }, latency)
}

async fn post(
    simulator: &Simulator,
    outgoing: &Outgoing,
) -> Result<(StatusCode, Option<String>), reqwest::Error> {
    let mut request = simulator
        .inner
        .client
        .post(outgoing.endpoint.clone())
        .header(CONTENT_TYPE, "application/json")
        .body(outgoing.body.clone());
    if let Some(signature) = &outgoing.signature {
        let header: &HeaderName = &simulator.inner.signature_header;
        request = request.header(header, signature);
    }
    let response = request.send().await?;
    let status = response.status();
    let text = read(response).await?;
    Ok((status, (!status.is_success() && !text.is_empty()).then_some(text)))
}

/// Reads the answer to its end, so that the connection can be used again, unless it is too long.
pub(crate) async fn read(mut response: Response) -> Result<String, reqwest::Error> {
    let mut read = 0;
    let mut kept = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        read += chunk.len();
        let room = (KEPT_CHARACTERS * 4).saturating_sub(kept.len());
        kept.extend(chunk.iter().take(room));
        if read > READ_BYTES {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&kept).chars().take(KEPT_CHARACTERS).collect())
}

/// The whole chain of causes: the error itself only says that sending failed.
pub(crate) fn explain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut causes = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(inner) = cause {
        causes.push(inner.to_string());
        cause = inner.source();
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_defines_what_is_retried() {
        for status in [200, 201, 204] {
            assert_eq!(Verdict::of(Some(status)), Verdict::Delivered, "{status}");
        }
        for status in [Some(408), Some(429), Some(500), Some(503), Some(599), None] {
            assert_eq!(Verdict::of(status), Verdict::TryAgain, "{status:?}");
        }
        for status in [301, 400, 401, 403, 404, 405, 413] {
            assert_eq!(Verdict::of(Some(status)), Verdict::Refused, "{status}");
        }
    }
}
