//! An API destination of Amazon EventBridge: envelopes that are posted with an API key, one a request, most often each on a
//! connection of its own.
//!
//! Amazon EventBridge waits 5 s for an answer, and sends an event again after 401, 407, 409, 429, a 5xx or none at all, for
//! up to 24 h. Any other answer is final: it drops the event, or moves it to the dead-letter queue of the rule's target.
//! Source: <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-api-destinations.html>.

use std::num::NonZeroU16;

use bytes::Bytes;
use http::HeaderName;
use http::request::Parts;
use presenceroute_core::event::{Event, EventError};
use presenceroute_core::relay_config::Limits;
use presenceroute_runtime::follow::Reloaded;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::presence_definitions::{self, PresenceDefinitions};
use super::secrets::Secrets;
use super::{PushSource, prefer};
use crate::outcome::{Problem, ProblemKind};

/// How long a body may take, in milliseconds. An envelope is written in one piece, and has at most 256 KiB.
const BODY_TIMEOUT_MS: u64 = 1_000;

/// How long Kafka may take to acknowledge an event, in milliseconds. With the body it makes 4 s, so that 1 s is left of the
/// sender's 5 s for the network and the TLS handshake.
const PUBLISH_TIMEOUT_MS: u64 = 3_000;

/// The API destination, with the keys that are active.
pub struct ApiDestination {
    header: HeaderName,
    keys: watch::Receiver<Reloaded<Secrets>>,
    definitions: watch::Receiver<Reloaded<PresenceDefinitions>>,
    authenticated: Counter,
}

impl ApiDestination {
    /// An API destination whose requests carry a key in this header; those with an active one are counted. Presences are
    /// named by the definitions.
    pub fn new(
        header: HeaderName,
        keys: watch::Receiver<Reloaded<Secrets>>,
        definitions: watch::Receiver<Reloaded<PresenceDefinitions>>,
        authenticated: Counter,
    ) -> Self {
        Self { header, keys, definitions, authenticated }
    }
}

/// These limits, with the times within which a request is answered before its sender gives up.
#[must_use]
pub fn within_deadline(limits: Limits) -> Limits {
    Limits {
        body_timeout_ms: limits.body_timeout_ms.min(BODY_TIMEOUT_MS),
        publish_timeout_ms: limits.publish_timeout_ms.min(PUBLISH_TIMEOUT_MS),
        ..limits
    }
}

impl PushSource for ApiDestination {
    /// The key is all of it, and checked with the head: nothing is received of a request without one.
    type Proof = ();

    const IS_PROVEN_BY_HEAD: bool = true;

    const SLOW_BODY: ProblemKind = ProblemKind::BodyTimeoutRetry;

    const RETRY_REFUSED_AFTER: Option<NonZeroU16> = NonZeroU16::new(30);

    fn check_head(&self, head: &Parts) -> Result<(), Problem> {
        let Some(key) = head.headers.get(&self.header) else {
            let detail = format!("send the API key in the header {}", self.header);
            return Err(Problem::new(ProblemKind::ApiKeyMissing, detail));
        };
        let Some(keys) = self.keys.borrow().current.clone() else {
            return Err(Problem::new(ProblemKind::NotConfigured, "no API key has been loaded; see /status"));
        };
        let Some(active) = keys.find(key.as_bytes()) else {
            let detail = format!(
                "the header {} has none of the active API keys; give the connection of the API destination the key of the \
                 Secret",
                self.header
            );
            return Err(Problem::new(ProblemKind::ApiKeyMismatch, detail));
        };
        active.count_use();
        self.authenticated.inc();
        Ok(())
    }

    fn wants_receipt(&self, head: &Parts) -> bool {
        prefer::wants_receipt(&head.headers)
    }

    fn verify(&self, (): &(), _body: &[u8]) -> Result<(), Problem> {
        Ok(())
    }

    fn decode<'b>(&self, body: &'b Bytes) -> Result<(Event<'b>, Bytes), EventError> {
        presence_definitions::decode(body, &self.definitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_and_kafka_together_take_at_most_four_seconds() {
        let default = within_deadline(Limits::default());
        assert_eq!(default.body_timeout_ms + default.publish_timeout_ms, 4_000);
        let shorter = Limits { body_timeout_ms: 10, publish_timeout_ms: 20, ..Limits::default() };
        assert_eq!(within_deadline(shorter.clone()), shorter);
    }
}
