//! What is known of the organization that an OAuth client belongs to, for all of its routes: its id, which never changes,
//! and the notification topics that it can send to Amazon EventBridge.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use serde::de::{self, IgnoredAny};
use serde::{Deserialize, Deserializer};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{GenesysError, Operation, RequestInfo, Resource};
use crate::event_bridges::is_id;

/// How long the list of topics is trusted, and for how long a failure to read it is not repeated. Topics are added with
/// releases of Genesys Cloud.
const TOPICS_TRUSTED_FOR: Duration = Duration::from_secs(3600);

/// The most topics that are kept of a list. Genesys Cloud has some hundreds.
const MAX_TOPICS: usize = 4096;

/// The transports of a topic that Amazon EventBridge is among.
const SENT_BY: [&str; 2] = ["EventBridge", "All"];

const ORGANIZATION: Resource = Resource {
    name: "organization of the OAuth client",
    path_field: "that it points to a Genesys Cloud API",
    permission: "read the organization (GET /api/v2/organizations/me)",
    unsupported: "check that spec.genesys points to a Genesys Cloud API",
    conflict: "try again later",
};

const TOPICS: Resource = Resource {
    name: "list of notification topics",
    path_field: "that it points to a Genesys Cloud API",
    permission: "read the list of notification topics (GET /api/v2/notifications/availabletopics)",
    unsupported: "check that spec.genesys points to a Genesys Cloud API",
    conflict: "try again later",
};

/// What the routes of one OAuth client share.
#[derive(Default)]
pub(crate) struct Organization {
    id: OnceCell<String>,
    topics: Mutex<Option<(Instant, Result<Topics, GenesysError>)>>,
}

/// The topics of a list, by the hash of their names: whether Amazon EventBridge is among their transports. A list is kept
/// for each OAuth client, so that it must be small.
#[derive(Clone, Debug, Default)]
struct Topics {
    sent: HashMap<u64, bool>,
    hasher: RandomState,
    is_cut: bool,
}

/// A notification topic that Genesys Cloud does not send to Amazon EventBridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnavailableTopic {
    /// The list of topics does not have it.
    Unknown(String),
    /// It is sent by other ways only.
    OtherTransports(String),
}

impl fmt::Display for UnavailableTopic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(topic) => {
                write!(formatter, "{topic} is not among the notification topics that Genesys Cloud lists")
            }
            Self::OtherTransports(topic) => {
                write!(formatter, "{topic} is not sent to Amazon EventBridge, only by other transports")
            }
        }
    }
}

impl Client {
    /// The id of the organization. Asked once in the life of the process.
    ///
    /// # Errors
    /// Why it is not known.
    pub(crate) async fn organization_id(&self) -> Result<String, GenesysError> {
        let read = async {
            let url = self.url("/api/v2/organizations/me");
            let request = RequestInfo::new(Operation::Read, &ORGANIZATION, &url);
            let response = self.call(&request, url, None).await?;
            if response.is_not_found() {
                return Err(request.unexpected("the server has no such endpoint (status 404)"));
            }
            #[derive(Deserialize)]
            struct Received {
                id: Option<String>,
            }
            let Received { id } = response.json(&request)?;
            id.filter(|id| is_id(id) && !id.contains('/'))
                .ok_or_else(|| request.unexpected("the answer names no id for the organization"))
        };
        self.organization().id.get_or_try_init(|| read).await.cloned()
    }

    /// Those of the topics that Genesys Cloud does not send to Amazon EventBridge, by its own list, which is read at most
    /// once in an hour.
    ///
    /// # Errors
    /// Why the list is not known.
    pub(crate) async fn unavailable_topics(
        &self,
        topics: &[String],
    ) -> Result<Vec<UnavailableTopic>, GenesysError> {
        let mut state = self.organization().topics.lock().await;
        let known = match &*state {
            Some((read, known)) if read.elapsed() < TOPICS_TRUSTED_FOR => known,
            _ => &state.insert((Instant::now(), self.read_topics().await)).1,
        };
        let known = known.as_ref().map_err(Clone::clone)?;
        Ok(topics.iter().filter_map(|topic| known.problem(topic)).collect())
    }

    async fn read_topics(&self) -> Result<Topics, GenesysError> {
        let mut url = self.url("/api/v2/notifications/availabletopics");
        url.query_pairs_mut().append_pair("expand", "transports");
        let request = RequestInfo::new(Operation::Read, &TOPICS, &url);
        let response = self.call(&request, url, None).await?;
        if response.is_not_found() {
            return Err(request.unexpected("the server has no such endpoint (status 404)"));
        }
        #[derive(Deserialize)]
        struct Received {
            entities: Topics,
        }
        response.json::<Received>(&request).map(|received| received.entities)
    }
}

impl Topics {
    fn problem(&self, topic: &str) -> Option<UnavailableTopic> {
        match self.sent.get(&self.hasher.hash_one(topic)) {
            Some(true) => None,
            Some(false) => Some(UnavailableTopic::OtherTransports(topic.to_owned())),
            None => (!self.is_cut).then(|| UnavailableTopic::Unknown(topic.to_owned())),
        }
    }
}

impl<'de> Deserialize<'de> for Topics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Topics;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of topics")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Topic {
                    id: Option<String>,
                    transports: Option<Vec<String>>,
                }
                let mut topics = Topics::default();
                while topics.sent.len() < MAX_TOPICS
                    && let Some(Topic { id, transports }) = sequence.next_element()?
                {
                    let Some(id) = id else { continue };
                    // A server that does not show the transports says nothing against the topic.
                    let is_sent = transports.is_none_or(|transports| {
                        transports.iter().any(|transport| SENT_BY.contains(&transport.as_str()))
                    });
                    let hash = topics.hasher.hash_one(&id);
                    topics.sent.insert(hash, is_sent);
                }
                while let Some(IgnoredAny) = sequence.next_element()? {
                    topics.is_cut = true;
                }
                Ok(topics)
            }
        }

        deserializer.deserialize_seq(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_without_event_bridge_is_named() {
        let topics: Topics = serde_json::from_str(
            r#"[{"id": "v2.users.{id}.presence", "transports": ["All"]},
                {"id": "v2.users.{id}.activity", "transports": ["Websocket", "EventBridge"], "visibility": "Public"},
                {"id": "v2.users.{id}.calls", "transports": ["Websocket"]},
                {"id": "v2.users.{id}.geolocation"}, {"transports": []}]"#,
        )
        .unwrap();
        for sent in ["v2.users.{id}.presence", "v2.users.{id}.activity", "v2.users.{id}.geolocation"] {
            assert_eq!(topics.problem(sent), None, "{sent}");
        }
        let calls = "v2.users.{id}.calls";
        assert_eq!(topics.problem(calls), Some(UnavailableTopic::OtherTransports(calls.to_owned())));
        assert_eq!(topics.problem("v2.x"), Some(UnavailableTopic::Unknown("v2.x".to_owned())));
    }

    #[test]
    fn of_a_list_that_is_too_long_no_topic_is_called_unknown() {
        let list: Vec<_> = (0..=MAX_TOPICS).map(|number| format!(r#"{{"id": "v2.{number}"}}"#)).collect();
        let topics: Topics = serde_json::from_str(&format!("[{}]", list.join(","))).unwrap();
        assert_eq!((topics.sent.len(), topics.problem("v2.x")), (MAX_TOPICS, None));
    }
}
