//! Sources: how events come to the relay.
//!
//! A source that is pushed to implements [`PushSource`] and is served by `http::handler`. A source that pulls has no
//! trait: it runs as a task of its own, and needs nothing but
//! [`Pipeline::deliver`](crate::pipeline::Pipeline::deliver).

pub mod api_destination;
mod prefer;
pub mod presence_definitions;
pub mod secrets;
#[cfg(feature = "amazon-sqs")]
pub mod sqs;
pub mod webhook;

use std::num::NonZeroU16;

use bytes::Bytes;
use http::request::Parts;

use crate::outcome::{Problem, ProblemKind};
use presenceroute_core::event::{Event, EventError};

/// A source whose events are posted to the relay: how a request proves its origin and becomes an event. Path, method and
/// size are checked before; what becomes of the event is the pipeline's part.
pub trait PushSource: Send + Sync + 'static {
    /// A request's claim of its origin, from its head, to be verified with the body.
    type Proof: Send;

    /// Whether the head alone proves the origin. The request's connection is then kept before those that have proved nothing,
    /// also while the body is received.
    const IS_PROVEN_BY_HEAD: bool;

    /// The problem of a body that is slower than its deadline, which is one that the sender sends again for.
    const SLOW_BODY: ProblemKind;

    /// After how many seconds a sender is to send an event again that Kafka rejects until a person acts. Without it, that is
    /// the sender's to decide.
    const RETRY_REFUSED_AFTER: Option<NonZeroU16>;

    /// Takes the proof from the head. Rejects a request that cannot be valid, before its body is read.
    fn check_head(&self, head: &Parts) -> Result<Self::Proof, Problem>;

    /// Whether the sender asks where Kafka has its event.
    fn wants_receipt(&self, head: &Parts) -> bool;

    /// Verifies the origin of the whole body.
    fn verify(&self, proof: &Self::Proof, body: &[u8]) -> Result<(), Problem>;

    /// Reads the event, and what becomes the value of its record.
    fn decode<'b>(&self, body: &'b Bytes) -> Result<(Event<'b>, Bytes), EventError>;
}
