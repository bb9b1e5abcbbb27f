//! Kubernetes events about routes. An event is news for people: that it cannot be written is logged and stops no work.

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use parking_lot::Mutex;

use crate::apply::FIELD_MANAGER;
use crate::text::truncated;

/// The longest note in bytes; the API server refuses more than 1 kB.
const LONGEST_NOTE: usize = 1000;
/// The longest action in bytes, by the API server's rule.
const LONGEST_ACTION: usize = 128;

/// How many events a recorder writes before a new one takes its place. It remembers each for six minutes, to count it when
/// it is repeated, and goes through all of them with every event.
const MAX_REMEMBERED: usize = 256;

/// Writes events.
pub struct EventRecorder {
    client: Client,
    reporter: Reporter,
    current: Mutex<Current>,
}

/// What remembers the newest events, and how many it has written.
struct Current {
    recorder: Recorder,
    written: usize,
}

impl EventRecorder {
    /// `identity` is the operator's pod, which the events name as their reporter.
    pub fn new(client: Client, identity: String) -> Self {
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(identity) };
        let recorder = Recorder::new(client.clone(), reporter.clone());
        Self { client, reporter, current: Mutex::new(Current { recorder, written: 0 }) }
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
        if let Err(error) = self.recorder().publish(&event, &object.object_ref(&())).await {
            tracing::warn!(%error, reason, "cannot write an event");
        }
    }

    fn recorder(&self) -> Recorder {
        let mut current = self.current.lock();
        if current.written == MAX_REMEMBERED {
            let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
            *current = Current { recorder, written: 0 };
        }
        current.written += 1;
        current.recorder.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::Arc;

    use http::{Method, Request, Response};
    use k8s_openapi::api::core::v1::Namespace;
    use kube::client::Body;
    use tower::service_fn;

    use super::*;

    #[tokio::test]
    async fn a_repeated_event_is_counted_while_it_is_remembered() {
        let requests = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
        let seen = Arc::clone(&requests);
        let api_server = service_fn(move |request: Request<Body>| {
            *seen.lock().entry(request.method().to_string()).or_default() += 1;
            let event =
                r#"{"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {}, "eventTime": null}"#;
            async move { Ok::<_, Infallible>(Response::new(Body::from(event.as_bytes().to_vec()))) }
        });
        let events = EventRecorder::new(Client::new(api_server, "default"), "operator".into());
        let mut object = Namespace::default();
        object.metadata.name = Some("presence".into());
        for _ in 0..=MAX_REMEMBERED {
            events.normal(&object, "Registered", "Registered: as the spec asks").await;
        }
        let expected = [(Method::PATCH, MAX_REMEMBERED - 1), (Method::POST, 2)];
        assert_eq!(*requests.lock(), expected.map(|(method, count)| (method.to_string(), count)).into());
    }
}
