//! Genesys Cloud's webhook: events signed with a shared secret, one a request.

pub mod signature;

use std::num::NonZeroU16;

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use presenceroute_runtime::follow::Reloaded;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::secrets::Secrets;
use super::{PushSource, prefer};
use crate::outcome::{Problem, ProblemKind};
use presenceroute_core::event::{Event, EventError};
use signature::Signature;

/// The webhook, with the secrets that are active.
pub struct Webhook {
    signature_header: HeaderName,
    secrets: watch::Receiver<Reloaded<Secrets>>,
    authenticated: Counter,
}

impl Webhook {
    /// A webhook whose events carry their signature in this header; those that are verified are counted.
    pub fn new(
        signature_header: HeaderName,
        secrets: watch::Receiver<Reloaded<Secrets>>,
        authenticated: Counter,
    ) -> Self {
        Self { signature_header, secrets, authenticated }
    }
}

impl PushSource for Webhook {
    type Proof = Signature;

    const IS_PROVEN_BY_HEAD: bool = false;

    const SLOW_BODY: ProblemKind = ProblemKind::BodyTimeout;

    const RETRY_REFUSED_AFTER: Option<NonZeroU16> = None;

    fn check_head(&self, head: &Parts) -> Result<Signature, Problem> {
        let Some(signature) = head.headers.get(&self.signature_header) else {
            let detail = format!("send the body's HMAC-SHA256 in the header {}", self.signature_header);
            return Err(Problem::new(ProblemKind::SignatureMissing, detail));
        };
        Ok(Signature::read(signature.as_bytes()))
    }

    fn wants_receipt(&self, head: &Parts) -> bool {
        prefer::wants_receipt(&head.headers)
    }

    fn verify(&self, signature: &Signature, body: &[u8]) -> Result<(), Problem> {
        let Some(secrets) = self.secrets.borrow().current.clone() else {
            return Err(Problem::new(
                ProblemKind::NotConfigured,
                "no signing secret has been loaded; see /status",
            ));
        };
        if let Some(secret) = signature.signer(secrets.active(), body) {
            secret.count_use();
            self.authenticated.inc();
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::SignatureMismatch,
            "the signature is not the lowercase-hex HMAC-SHA256 of the body under any active secret; check that \
             both sides have the same secret and that nothing on the way changes the body",
        ))
    }

    fn decode<'b>(&self, body: &'b Bytes) -> Result<(Event<'b>, Bytes), EventError> {
        Ok((Event::parse(body)?, body.clone()))
    }
}
