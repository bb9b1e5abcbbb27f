//! Kubernetes events about routes. An event is news for people: that it cannot be written is logged and stops no work.

use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::apply::FIELD_MANAGER;
use crate::text::truncated;

/// The longest note in bytes; the API server refuses more than 1 kB.
const LONGEST_NOTE: usize = 1000;
/// The longest action in bytes, by the API server's rule.
const LONGEST_ACTION: usize = 128;

/// Writes events.
pub struct EventRecorder(Recorder);

impl EventRecorder {
    /// `identity` is the operator's pod, which the events name as their reporter.
    pub fn new(client: kube::Client, identity: String) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(identity) };
        Self(Recorder::new(client, reporter))
    }

    /// What went as it should.
    pub async fn normal(&self, object: &impl Resource<DynamicType = ()>, reason: &str, note: &str) {
        self.publish(object, EventType::Normal, reason, note).await;
    }

    /// What a person should look at.
    pub async fn warning(&self, object: &impl Resource<DynamicType = ()>, reason: &str, note: &str) {
        self.publish(object, EventType::Warning, reason, note).await;
    }

    async fn publish(
        &self,
        object: &impl Resource<DynamicType = ()>,
        type_: EventType,
        reason: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(truncated(note, LONGEST_NOTE).to_owned()),
            // A repeated event is counted on the one that is there, which the recorder finds by its action and not by its
            // note: without it, the first of several revisions would be shown for all of them.
            action: truncated(note, LONGEST_ACTION).to_owned(),
            secondary: None,
        };
        if let Err(error) = self.0.publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason, "cannot write an event");
        }
    }
}
