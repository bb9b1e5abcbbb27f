//! Event bridges: the registrations that make Genesys Cloud post events to a URL.
//!
//! [`EventBridges`] offers one request to the API a method, and says how a registration differs from the desired one.
//! What to register and when, and when to try again after a failure, is left to the caller.

use std::collections::BTreeSet;
use std::fmt;

use presenceroute_core::genesys_api::{RegistrationSpec, RetryPolicy};
use presenceroute_core::url::is_same_url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, de};
use url::Url;

use crate::client::{Client, Payload, base_url, below, object};
use crate::error::{GenesysError, Operation, RequestInfo, Resource};
use crate::paging::{self, Listing};
use crate::transport::Response;

/// The only kind of registration that the relay can serve.
const WEBHOOK: &str = "WEBHOOK";

/// The most event types that one registration of a response may have; a manifest names fewer.
const MAX_EVENT_TYPES: usize = 4096;

pub(crate) const REGISTRATION: Resource = Resource {
    name: "registration",
    path_field: "spec.source.webhook.eventBridgesPath",
    permission: "manage event bridges",
    unsupported: "registrations can be created there but neither verified nor removed. If it should, check \
                  spec.source.webhook.eventBridgesPath",
    conflict: "nothing else in the organisation may use the name of spec.source.webhook.name",
};

/// The event bridges of the organisation that a [`Client`] belongs to.
///
/// Every method fails with a [`GenesysError`] that says what to do about it; none repeats a request.
#[derive(Clone, Debug)]
pub struct EventBridges {
    client: Client,
    collection: Url,
}

impl Client {
    /// The event bridges, at the path that [`crate::Access`] names.
    #[must_use]
    pub fn event_bridges(&self) -> EventBridges {
        EventBridges { client: self.clone(), collection: self.url(self.event_bridges_path()) }
    }
}

impl EventBridges {
    /// Whether this is the API with this base URL and this path of the registrations' collection.
    #[must_use]
    pub fn is_at(&self, api_url: &str, event_bridges_path: &str) -> bool {
        base_url(api_url, "spec.genesys.apiUrl")
            .is_ok_and(|api| below(&api, event_bridges_path) == self.collection)
    }

    /// Whether both are of one API.
    #[must_use]
    pub fn is_same_api(&self, other: &Self) -> bool {
        self.collection == other.collection
    }

    /// Has the OAuth client accepted, without any call to the event bridges.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(&self) -> Result<(), GenesysError> {
        self.client.authenticate().await
    }

    /// All registrations of exactly this name, in the server's order: none, the one, or more where something went
    /// wrong. Costs a request a page.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot list: then it knows creation alone, or the path is wrong,
    /// and which of the two it is shows when something is created.
    pub async fn find_by_name(&self, name: &str) -> Result<Listing<Registration>, GenesysError> {
        let request = self.request(Operation::List, &self.collection);
        let mut url = self.collection.clone();
        url.query_pairs_mut().append_pair("name", name);
        let mut listing = paging::list(&self.client, &request, url, |entity| {
            // A server may ignore the name.
            if entity.name.as_deref() != Some(name) {
                return Ok(None);
            }
            registration(entity.decode(), None, &request).map(Some)
        })
        .await?;
        // An object may move to the next page between two requests, and is then listed twice.
        let mut once = BTreeSet::new();
        listing.entities.retain(|registration| once.insert(registration.id.clone()));
        Ok(listing)
    }

    /// The registration with this id, `None` where there is none (404). A server that knows creation alone may answer
    /// the same, so that `None` is a reason to look by name before creating again.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot read one.
    pub async fn get(&self, id: &str) -> Result<Option<Registration>, GenesysError> {
        let Some(url) = self.one(id) else { return Ok(None) };
        let request = self.request(Operation::Read, &url);
        let response = self.client.call(&request, url, None).await?;
        if response.is_not_found() {
            return Ok(None);
        }
        self.received(&response, None, &request, None).map(Some)
    }

    /// Creates a registration, whether or not there is one of this name.
    ///
    /// # Errors
    /// After one that [may have created] it, the registration has to be looked up by its name.
    ///
    /// [may have created]: GenesysError::may_have_created
    pub async fn create(&self, desired: &DesiredRegistration) -> Result<Registration, GenesysError> {
        let request = self.request(Operation::Create, &self.collection);
        let response = self.send(&request, self.collection.clone(), desired).await?;
        self.received(&response, Some(desired), &request, None)
    }

    /// Replaces the registration with this id, its secret included; `None` where there is none (404), on which see
    /// [`EventBridges::get`].
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot replace one.
    pub async fn update(
        &self,
        id: &str,
        desired: &DesiredRegistration,
    ) -> Result<Option<Registration>, GenesysError> {
        let Some(url) = self.one(id) else { return Ok(None) };
        let request = self.request(Operation::Update, &url);
        let response = self.send(&request, url, desired).await?;
        if response.is_not_found() {
            return Ok(None);
        }
        self.received(&response, Some(desired), &request, Some(id)).map(Some)
    }

    /// Deletes the registration with this id. That there is none (404) is what was wanted.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot delete one.
    pub async fn delete(&self, id: &str) -> Result<(), GenesysError> {
        let Some(url) = self.one(id) else { return Ok(()) };
        let request = self.request(Operation::Delete, &url);
        self.client.call(&request, url, None).await.map(drop)
    }

    /// What is wrong where deletions succeed and the list does not get shorter.
    #[must_use]
    pub fn still_listed(&self, name: &str) -> GenesysError {
        let request = self.request(Operation::Delete, &self.collection);
        request.unexpected(format!(
            "the server says that the registration {name:?} is gone, and lists it all the same"
        ))
    }

    /// A URL that the server says a registration calls, fit to be shown; without it where the [`crate::HostPolicy`] does
    /// not show what this server says.
    #[must_use]
    pub fn quote_url(&self, url: &str) -> String {
        self.client.quote(url).unwrap_or_else(|| "another URL".to_owned())
    }

    fn request(&self, operation: Operation, url: &Url) -> RequestInfo {
        RequestInfo::new(operation, &REGISTRATION, url)
    }

    fn one(&self, id: &str) -> Option<Url> {
        object(&self.collection, id)
    }

    async fn send(
        &self,
        request: &RequestInfo,
        url: Url,
        desired: &DesiredRegistration,
    ) -> Result<Response, GenesysError> {
        let json = desired.to_json().map_err(|error| GenesysError::InvalidAccess {
            problem: format!("cannot write the registration as JSON: {error}"),
        })?;
        let payload = Payload { json: &json, secret: Some(desired.secret.expose_secret()) };
        self.client.call(request, url, Some(payload)).await
    }

    /// The registration in a response. What the response to a creation or a replacement leaves out is as it was sent;
    /// where the id is known, a response without it, or without a body, loses nothing.
    fn received(
        &self,
        response: &Response,
        sent: Option<&DesiredRegistration>,
        request: &RequestInfo,
        id: Option<&str>,
    ) -> Result<Registration, GenesysError> {
        let mut received = match id {
            Some(_) if response.is_empty() => Ok(Received::default()),
            _ => {
                let json = response.json::<&serde_json::value::RawValue>(request)?;
                serde_json::from_str(json.get())
            }
        };
        if let (Ok(received), Some(id)) = (&mut received, id) {
            received.id.get_or_insert_with(|| id.to_owned());
        }
        registration(received, sent, request)
    }
}

/// The error does not repeat what serde says of a wrong value, because that may hold the value.
fn registration(
    received: Result<Received, serde_json::Error>,
    sent: Option<&DesiredRegistration>,
    request: &RequestInfo,
) -> Result<Registration, GenesysError> {
    let received = received
        .map_err(|_| request.unexpected("a registration in the answer has a field of the wrong type"))?;
    received.into_registration(sent).ok_or_else(|| GenesysError::NoId { request: request.clone() })
}

/// A registration as desired at Genesys Cloud.
#[derive(Clone, Debug)]
pub struct DesiredRegistration {
    /// All of it that is no secret. Neither the order of the event types nor a repetition matters.
    pub spec: RegistrationSpec,
    /// The secret that events are signed with. No response contains it.
    pub secret: SecretString,
}

impl DesiredRegistration {
    /// The object that is posted or put, as JSON. It holds the secret.
    fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Sent {
            name: &self.spec.name,
            kind: WEBHOOK,
            enabled: self.spec.enabled,
            url: &self.spec.url,
            secret: self.secret.expose_secret(),
            event_types: as_set(&self.spec.event_types),
            retry_policy: &self.spec.retry_policy,
        })
    }

    /// The registration as created by a server that cannot be asked.
    #[must_use]
    pub fn as_created(&self, id: &str) -> Registration {
        Registration {
            id: id.to_owned(),
            name: self.spec.name.clone(),
            enabled: Some(self.spec.enabled),
            url: self.spec.url.clone(),
            event_types: as_set(&self.spec.event_types).into_iter().map(str::to_owned).collect(),
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

/// A registration as Genesys Cloud returns it. A field that the response leaves out does not count as drift.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// Given by Genesys Cloud at creation: 1 to 256 visible ASCII characters.
    pub id: String,
    /// Its name; empty where the response leaves it out.
    pub name: String,
    /// Whether events are delivered.
    pub enabled: Option<bool>,
    /// The URL that events are posted to; empty where the response leaves it out.
    pub url: String,
    /// The event types subscribed to, sorted; empty where the answer leaves them out.
    pub event_types: Vec<String>,
    /// Genesys Cloud's own retries of a delivery.
    pub retry_policy: Option<ObservedRetryPolicy>,
}

/// A retry policy as Genesys Cloud returns it, which can have values that no manifest can, such as 1.5.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservedRetryPolicy {
    /// Retries after the first attempt.
    pub max_retries: Option<f64>,
    /// By how much each wait is longer than the one before.
    pub backoff_multiplier: Option<f64>,
}

impl Registration {
    /// The drift, in a fixed order; empty where there is none. No response contains the secret, so that its drift cannot
    /// be seen here.
    #[must_use]
    pub fn differences(&self, desired: &DesiredRegistration) -> Vec<Difference> {
        let has_other_events =
            !self.event_types.is_empty() && as_set(&self.event_types) != as_set(&desired.spec.event_types);
        let differs = [
            (Difference::Name, !self.name.is_empty() && self.name != desired.spec.name),
            (Difference::Enabled, self.enabled.is_some_and(|enabled| enabled != desired.spec.enabled)),
            (Difference::Url, !self.calls(&desired.spec.url)),
            (Difference::EventTypes, has_other_events),
            (
                Difference::RetryPolicy,
                self.retry_policy.is_some_and(|policy| !policy.is(&desired.spec.retry_policy)),
            ),
        ];
        differs.into_iter().filter_map(|(what, differs)| differs.then_some(what)).collect()
    }

    /// Whether it calls this URL, or the response left the URL out.
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
    /// It has another name.
    Name,
    /// It is disabled instead of enabled, or the other way round.
    Enabled,
    /// It calls another URL.
    Url,
    /// It subscribes to other event types.
    EventTypes,
    /// It has another retry policy.
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

/// The most bytes of an id.
const MAX_ID_BYTES: usize = 256;

/// Whether a text can be an id. It is kept in the status, and is shown there whatever server it is from.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A registration as a response brings it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    id: Option<String>,
    name: Option<String>,
    enabled: Option<bool>,
    url: Option<String>,
    #[serde(default, deserialize_with = "bounded_event_types")]
    event_types: Option<BTreeSet<String>>,
    retry_policy: Option<ObservedRetryPolicy>,
}

/// A short text in JSON takes many times its length in memory, so that the length of a response is no bound for these.
pub(crate) fn bounded_event_types<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<BTreeSet<String>>, D::Error> {
    struct EventTypes;

    impl<'de> de::Visitor<'de> for EventTypes {
        type Value = Option<BTreeSet<String>>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {MAX_EVENT_TYPES} event types")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
            let mut event_types = BTreeSet::new();
            while let Some(event_type) = sequence.next_element()? {
                event_types.insert(event_type);
                if event_types.len() > MAX_EVENT_TYPES {
                    return Err(de::Error::invalid_length(event_types.len(), &self));
                }
            }
            Ok(Some(event_types))
        }
    }

    deserializer.deserialize_any(EventTypes)
}

impl Received {
    /// `None` where there is no id to go by. What the answer to a creation or a replacement leaves out is as it was
    /// sent.
    fn into_registration(self, sent: Option<&DesiredRegistration>) -> Option<Registration> {
        let or_sent =
            |received: Option<String>, sent: Option<&String>| received.or(sent.cloned()).unwrap_or_default();
        let event_types = match (self.event_types, sent) {
            (Some(event_types), _) => event_types,
            (None, Some(sent)) => sent.spec.event_types.iter().cloned().collect(),
            (None, None) => BTreeSet::new(),
        };
        Some(Registration {
            id: self.id.filter(|id| is_id(id))?,
            name: or_sent(self.name, sent.map(|sent| &sent.spec.name)),
            enabled: self.enabled.or(sent.map(|sent| sent.spec.enabled)),
            url: or_sent(self.url, sent.map(|sent| &sent.spec.url)),
            event_types: event_types.into_iter().collect(),
            retry_policy: self.retry_policy,
        })
    }
}

#[cfg(test)]
mod tests {
    use presenceroute_core::genesys_api::TokenRequest;
    use serde_json::{Value, json};

    use super::*;
    use crate::client::{Access, Genesys};

    fn desired() -> DesiredRegistration {
        DesiredRegistration {
            spec: RegistrationSpec {
                name: "presence/contact-centre".to_owned(),
                enabled: true,
                url: "https://presence.example.com/eventbridge/presence".to_owned(),
                event_types: ["b", "a", "b"].map(str::to_owned).into(),
                retry_policy: RetryPolicy::default(),
            },
            secret: SecretString::from("hush-hush"),
        }
    }

    fn event_bridges(api_url: &str) -> EventBridges {
        let access = Access {
            api_url: api_url.to_owned(),
            login_url: None,
            token_path: "/api/v2/oauth/token".to_owned(),
            event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
            token_request: TokenRequest::Json,
            client_id: "id".to_owned(),
            client_secret: SecretString::from("secret"),
            ca_pem: None,
        };
        Genesys::new().client(access).unwrap().event_bridges()
    }

    #[test]
    fn an_id_stays_within_its_path() {
        let event_bridges = event_bridges("http://api");
        let path = |id: &str| {
            event_bridges.one(id).map(|url| url.path().rsplit_once("eventbridges").unwrap().1.to_owned())
        };
        assert_eq!(path("1f/../../x?y#z"), Some("/1f%2F..%2F..%2Fx%3Fy%23z".to_owned()));
        for id in ["", ".", ".."] {
            assert_eq!(path(id), None);
        }
    }

    #[test]
    fn event_bridges_are_at_their_api_and_path() {
        let [one, other] = ["http://api/v", "http://other/v"].map(event_bridges);
        assert!(one.is_at("http://api/v/", "api/v2/analytics/events/eventbridges/"));
        assert!(!one.is_at("http://api/v", "/bridges"));
        assert!(one.is_same_api(&event_bridges("http://api/v/")) && !one.is_same_api(&other));
    }

    #[test]
    fn more_event_types_than_a_manifest_can_name_are_refused() {
        let with = |count: usize| {
            let event_types: Vec<_> = (0..count).map(|number| number.to_string()).collect();
            serde_json::from_value::<Received>(json!({"id": "1", "eventTypes": event_types}))
        };
        assert_eq!(with(MAX_EVENT_TYPES).unwrap().event_types.unwrap().len(), MAX_EVENT_TYPES);
        assert!(with(MAX_EVENT_TYPES + 1).is_err());
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
    fn a_registration_is_sent_as_the_contract_says() {
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
    fn order_and_repetition_of_event_types_do_not_matter() {
        assert_eq!(with("eventTypes", json!(["b", "a", "b"])).differences(&desired()), []);
    }

    #[test]
    fn another_spelling_of_the_same_url_does_not_differ() {
        let registration = with("url", json!("https://Presence.example.com:443/eventbridge/presence"));
        assert_eq!(registration.differences(&desired()), []);
    }

    #[test]
    fn a_field_left_out_does_not_differ() {
        assert_eq!(received(json!({"id": "1"})).differences(&desired()), []);
    }

    #[test]
    fn fields_left_out_of_a_creations_answer_are_as_sent() {
        let received: Received = serde_json::from_value(json!({"id": "1"})).unwrap();
        let registration = received.into_registration(Some(&desired())).unwrap();
        assert_eq!(
            (registration.url, registration.event_types),
            (desired().spec.url, vec!["a".into(), "b".into()])
        );
    }

    #[test]
    fn an_answer_without_an_id_is_no_registration() {
        let long = "x".repeat(MAX_ID_BYTES + 1);
        let ids = ["", "two words", "line\nbreak", "\u{1b}[31m", "\u{202e}", long.as_str()];
        let answers = ids.map(|id| json!({"id": id}));
        for answer in answers.into_iter().chain([json!({"name": "x"}), json!({"id": null})]) {
            let received: Received = serde_json::from_value(answer.clone()).unwrap();
            assert!(received.into_registration(None).is_none(), "{answer}");
        }
        for id in ["1", "7c0d9f8e-0000-4000-8000-000000000000", &long[1..]] {
            let received: Received = serde_json::from_value(json!({"id": id})).unwrap();
            assert!(received.into_registration(None).is_some(), "{id}");
        }
    }
}
