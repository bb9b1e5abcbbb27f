//! What differs between the sources of events, for what builds a relay's objects and reports on it. How a source receives
//! events is the relay's part.

/// The properties of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The source is called from outside, and so needs a URL, a Service and possibly an Ingress or a Gateway.
    pub exposes_endpoint: bool,
    /// The source delivers an event again until it is acknowledged.
    pub acknowledges: bool,
    /// At most one relay pod may receive from the source at a time.
    pub exclusive: bool,
}

/// Genesys Cloud posts signed events to the relay.
pub const WEBHOOK: Kind = Kind { exposes_endpoint: true, acknowledges: true, exclusive: false };
/// Amazon EventBridge posts its envelopes to the relay, with an API key.
pub const AMAZON_EVENT_BRIDGE_API_DESTINATION: Kind =
    Kind { exposes_endpoint: true, acknowledges: true, exclusive: false };

/// The relay receives Amazon EventBridge's envelopes from an Amazon SQS queue.
pub const AMAZON_EVENT_BRIDGE_SQS: Kind =
    Kind { exposes_endpoint: false, acknowledges: true, exclusive: false };
