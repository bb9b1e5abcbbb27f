//! A registration as it shall be, as it is, and how the two differ.

use std::collections::BTreeSet;
use std::fmt;

use presenceroute_core::genesys_api::RetryPolicy;
use presenceroute_core::url::is_same_url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

/// The only kind of registration that the relay can serve.
const WEBHOOK: &str = "WEBHOOK";

/// A registration as it shall be at Genesys Cloud.
#[derive(Clone, Debug)]
pub struct DesiredRegistration {
    /// What it is found by; nothing else in the organisation may be called so.
    pub name: String,
    /// Whether events are delivered.
    pub enabled: bool,
    /// What Genesys Cloud posts events to.
    pub url: String,
    /// What events are signed with. It is sent and never comes back.
    pub secret: SecretString,
    /// The exact event types to subscribe to; never empty. Neither their order nor a repetition matters.
    pub event_types: Vec<String>,
    /// Genesys Cloud's own retries of a delivery.
    pub retry_policy: RetryPolicy,
}

impl DesiredRegistration {
    /// The object that is posted or put, as JSON. It holds the secret.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Sent {
            name: &self.name,
            kind: WEBHOOK,
            enabled: self.enabled,
            url: &self.url,
            secret: self.secret.expose_secret(),
            event_types: as_set(&self.event_types),
            retry_policy: &self.retry_policy,
        })
    }

    /// What a server made of it that got it and cannot be asked.
    #[must_use]
    pub fn as_created(&self, id: &str) -> Registration {
        Registration {
            id: id.to_owned(),
            name: self.name.clone(),
            enabled: Some(self.enabled),
            url: self.url.clone(),
            event_types: as_set(&self.event_types).into_iter().map(str::to_owned).collect(),
            retry_policy: None,
        }
    }
}

/// No `Debug`, because of the secret.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    enabled: bool,
    url: &'a str,
    secret: &'a str,
    event_types: BTreeSet<&'a str>,
    retry_policy: &'a RetryPolicy,
}

/// A registration as Genesys Cloud shows it. What an answer leaves out is not held against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// Given by Genesys Cloud at creation; never empty.
    pub id: String,
    /// What it is found by; empty where the answer leaves it out.
    pub name: String,
    /// Whether events are delivered.
    pub enabled: Option<bool>,
    /// What events are posted to; empty where the answer leaves it out.
    pub url: String,
    /// The event types subscribed to, sorted; empty where the answer leaves them out.
    pub event_types: Vec<String>,
    /// Genesys Cloud's own retries of a delivery.
    pub retry_policy: Option<ObservedRetryPolicy>,
}

/// A retry policy as Genesys Cloud shows it: somebody may have set what a manifest cannot say, such as 1.5.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedRetryPolicy {
    /// Retries after the first attempt.
    pub max_retries: Option<f64>,
    /// By how much each wait is longer than the one before.
    pub backoff_multiplier: Option<f64>,
}

impl Registration {
    /// What is not as desired, in a fixed order; empty where nothing has drifted. The secret is never shown, so that
    /// its drift cannot be seen here.
    #[must_use]
    pub fn differences(&self, desired: &DesiredRegistration) -> Vec<Difference> {
        let has_other_events =
            !self.event_types.is_empty() && as_set(&self.event_types) != as_set(&desired.event_types);
        let differs = [
            (Difference::Name, !self.name.is_empty() && self.name != desired.name),
            (Difference::Enabled, self.enabled.is_some_and(|enabled| enabled != desired.enabled)),
            (Difference::Url, !self.calls(&desired.url)),
            (Difference::EventTypes, has_other_events),
            (
                Difference::RetryPolicy,
                self.retry_policy.is_some_and(|policy| !policy.is(&desired.retry_policy)),
            ),
        ];
        differs.into_iter().filter_map(|(what, differs)| differs.then_some(what)).collect()
    }

    /// Whether it calls this URL, or does not say what it calls.
    #[must_use]
    pub fn calls(&self, url: &str) -> bool {
        self.url.is_empty() || is_same_url(&self.url, url)
    }
}

fn as_set(event_types: &[String]) -> BTreeSet<&str> {
    event_types.iter().map(String::as_str).collect()
}

impl ObservedRetryPolicy {
    fn is(&self, desired: &RetryPolicy) -> bool {
        self.max_retries.is_none_or(|retries| retries == f64::from(desired.max_retries))
            && self.backoff_multiplier.is_none_or(|times| times == f64::from(desired.backoff_multiplier))
    }
}

/// One thing in which a registration is not as desired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// It is called otherwise.
    Name,
    /// It is disabled where it shall be enabled, or the other way round.
    Enabled,
    /// It calls another URL.
    Url,
    /// It subscribes to other event types.
    EventTypes,
    /// It is retried otherwise.
    RetryPolicy,
}

impl fmt::Display for Difference {
    /// The field's name at Genesys Cloud.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Name => "name",
            Self::Enabled => "enabled",
            Self::Url => "url",
            Self::EventTypes => "eventTypes",
            Self::RetryPolicy => "retryPolicy",
        })
    }
}

/// A registration as an answer brings it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Received {
    id: Option<String>,
    name: Option<String>,
    enabled: Option<bool>,
    url: Option<String>,
    event_types: Option<BTreeSet<String>>,
    retry_policy: Option<ObservedRetryPolicy>,
}

impl Received {
    /// `None` where there is no id to go by. What the answer to a creation or a replacement leaves out is as it was
    /// sent.
    pub(super) fn into_registration(self, sent: Option<&DesiredRegistration>) -> Option<Registration> {
        let or_sent =
            |received: Option<String>, sent: Option<&String>| received.or(sent.cloned()).unwrap_or_default();
        let event_types = match (self.event_types, sent) {
            (Some(event_types), _) => event_types,
            (None, Some(sent)) => sent.event_types.iter().cloned().collect(),
            (None, None) => BTreeSet::new(),
        };
        Some(Registration {
            id: self.id.filter(|id| !id.is_empty())?,
            name: or_sent(self.name, sent.map(|sent| &sent.name)),
            enabled: self.enabled.or(sent.map(|sent| sent.enabled)),
            url: or_sent(self.url, sent.map(|sent| &sent.url)),
            event_types: event_types.into_iter().collect(),
            retry_policy: self.retry_policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn desired() -> DesiredRegistration {
        DesiredRegistration {
            name: "presence/contact-centre".to_owned(),
            enabled: true,
            url: "https://presence.example.com/eventbridge/presence".to_owned(),
            secret: SecretString::from("hush-hush"),
            event_types: ["b", "a", "b"].map(str::to_owned).into(),
            retry_policy: RetryPolicy::default(),
        }
    }

    fn received(answer: Value) -> Registration {
        serde_json::from_value::<Received>(answer).unwrap().into_registration(None).unwrap()
    }

    fn as_desired() -> Value {
        json!({
            "id": "1", "name": "presence/contact-centre", "type": "WEBHOOK", "enabled": true,
            "url": "https://presence.example.com/eventbridge/presence", "eventTypes": ["a", "b"],
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2.0}, "version": 4,
        })
    }

    fn with(field: &str, value: Value) -> Registration {
        let mut answer = as_desired();
        answer[field] = value;
        received(answer)
    }

    #[test]
    fn what_is_sent_is_what_the_contract_says() {
        let sent: Value = serde_json::from_slice(&desired().to_json().unwrap()).unwrap();
        let contract = json!({
            "name": "presence/contact-centre", "type": "WEBHOOK", "enabled": true,
            "url": "https://presence.example.com/eventbridge/presence", "secret": "hush-hush",
            "eventTypes": ["a", "b"], "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
        });
        assert_eq!(sent, contract);
    }

    #[test]
    fn a_registration_as_desired_does_not_differ() {
        assert_eq!(received(as_desired()).differences(&desired()), []);
    }

    #[test]
    fn each_drift_is_named() {
        let cases = [
            ("name", json!("x"), Difference::Name),
            ("enabled", json!(false), Difference::Enabled),
            ("url", json!("https://presence.example.com/other"), Difference::Url),
            ("eventTypes", json!(["a"]), Difference::EventTypes),
            ("retryPolicy", json!({"maxRetries": 0, "backoffMultiplier": 2}), Difference::RetryPolicy),
            ("retryPolicy", json!({"maxRetries": 3, "backoffMultiplier": 1.5}), Difference::RetryPolicy),
        ];
        for (field, value, difference) in cases {
            assert_eq!(with(field, value).differences(&desired()), [difference]);
            assert_eq!(difference.to_string(), field);
        }
    }

    #[test]
    fn the_order_of_event_types_and_their_repetition_do_not_matter() {
        assert_eq!(with("eventTypes", json!(["b", "a", "b"])).differences(&desired()), []);
    }

    #[test]
    fn another_spelling_of_the_same_url_does_not_differ() {
        let registration = with("url", json!("https://Presence.example.com:443/eventbridge/presence"));
        assert_eq!(registration.differences(&desired()), []);
    }

    #[test]
    fn what_an_answer_leaves_out_does_not_differ() {
        assert_eq!(received(json!({"id": "1"})).differences(&desired()), []);
    }

    #[test]
    fn what_the_answer_to_a_creation_leaves_out_is_as_it_was_sent() {
        let received: Received = serde_json::from_value(json!({"id": "1"})).unwrap();
        let registration = received.into_registration(Some(&desired())).unwrap();
        assert_eq!(
            (registration.url, registration.event_types),
            (desired().url, vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn an_answer_without_an_id_is_no_registration() {
        for answer in [json!({"name": "x"}), json!({"id": null}), json!({"id": ""})] {
            assert!(serde_json::from_value::<Received>(answer).unwrap().into_registration(None).is_none());
        }
    }
}
