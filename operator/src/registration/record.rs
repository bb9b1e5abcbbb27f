//! Where a route's registrations and integrations may be: the location that the spec names, and those that it named before.
//!
//! Pure. The record is kept in the status and is written before any call that could make it true, so that no
//! registration is left behind, whenever the operator dies.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use presenceroute_crds::PresenceRouteStatus;
use presenceroute_crds::spec::Genesys;
use presenceroute_crds::status::{
    IntegrationStatus, RegistrationAccess, RegistrationLocation, RegistrationStatus, SourceStatus, SourceType,
};
use presenceroute_manifest::validate::Model;

use super::desired::{Desired, api_of, spec_of};
use super::objects::{ObjectSpec, ObservedObject};

/// Everything that may be at Genesys Cloud for one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegistrationRecord {
    /// At the location that the spec names, or named at the last reconcile.
    pub current: Option<Recorded>,
    /// At other locations.
    pub former: Vec<RegistrationLocation>,
}

/// A registration or an integration, as the status records it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The id that Genesys Cloud gave it, once an answer has named it.
    pub id: Option<String>,
    /// What the spec asks for.
    pub spec: ObjectSpec,
    /// The API that holds it.
    pub access: RegistrationAccess,
    /// Whether Genesys Cloud has never accepted the OAuth client.
    pub unauthenticated: bool,
    /// The full name of an integration's event source.
    pub event_source_name: Option<String>,
    /// The state that Genesys Cloud reports of an integration.
    pub reported_state: Option<String>,
    /// The time since which Genesys Cloud confirms all of this.
    pub last_verified_time: Option<Time>,
}

impl Recorded {
    /// The source that it is for.
    pub fn type_(&self) -> SourceType {
        match self.spec {
            ObjectSpec::Registration(_) => SourceType::Webhook,
            ObjectSpec::Integration(..) => SourceType::AmazonEventBridge,
        }
    }

    /// Its place, without its content.
    pub fn location(&self) -> RegistrationLocation {
        RegistrationLocation {
            id: self.id.clone(),
            type_: self.type_(),
            name: self.spec.name().to_owned(),
            access: self.access.clone(),
        }
    }
}

impl From<RegistrationStatus> for Recorded {
    fn from(status: RegistrationStatus) -> Self {
        let RegistrationStatus { id, spec, access, unauthenticated, last_verified_time } = status;
        Self {
            id,
            spec: ObjectSpec::Registration(spec),
            access,
            unauthenticated,
            event_source_name: None,
            reported_state: None,
            last_verified_time,
        }
    }
}

impl From<IntegrationStatus> for Recorded {
    fn from(status: IntegrationStatus) -> Self {
        let IntegrationStatus {
            id,
            spec,
            mode,
            event_source_name,
            reported_state,
            access,
            unauthenticated,
            last_verified_time,
        } = status;
        Self {
            id,
            spec: ObjectSpec::Integration(spec, mode),
            access,
            unauthenticated,
            event_source_name,
            reported_state,
            last_verified_time,
        }
    }
}

/// A location that is to be free of a route's registrations or integrations.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanupTarget {
    /// The location.
    pub location: RegistrationLocation,
    /// Where the route's object there sends events, where that is known: another cluster may have an object of the same
    /// name. Empty: all of this name are the route's.
    pub destinations: Vec<String>,
    /// What an integration of the route is kept for, as its notes say.
    pub owner: String,
}

impl CleanupTarget {
    /// Of a location that the spec does not name any more.
    pub fn former(location: RegistrationLocation, owner: &str) -> Self {
        Self { location, destinations: Vec::new(), owner: owner.to_owned() }
    }
}

/// What identifies an object before it has an id: what it is, the API's base URL, and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistrationKey {
    /// The source that it is for.
    pub type_: SourceType,
    /// The API's base URL.
    pub api_url: String,
    /// The registration's name.
    pub name: String,
}

impl From<&RegistrationLocation> for RegistrationKey {
    fn from(location: &RegistrationLocation) -> Self {
        Self {
            type_: location.type_,
            api_url: location.access.api.api_url.clone(),
            name: location.name.clone(),
        }
    }
}

impl RegistrationRecord {
    /// What the status holds.
    pub fn read(status: Option<PresenceRouteStatus>) -> Self {
        let source = status.and_then(|status| status.source).unwrap_or_default();
        let integration = source.integration.map(Recorded::from);
        Self {
            current: source.registration.map(Recorded::from).or(integration),
            former: source.former_registrations,
        }
    }

    /// What the status is to hold.
    pub fn into_status(self) -> SourceStatus {
        let mut status = SourceStatus { former_registrations: self.former, ..SourceStatus::default() };
        let Some(current) = self.current else { return status };
        status.type_ = current.type_();
        let Recorded {
            id,
            spec,
            access,
            unauthenticated,
            event_source_name,
            reported_state,
            last_verified_time,
        } = current;
        match spec {
            ObjectSpec::Registration(spec) => {
                let registration =
                    RegistrationStatus { id, spec, access, unauthenticated, last_verified_time };
                status.registration = Some(registration);
            }
            ObjectSpec::Integration(spec, mode) => {
                status.integration = Some(IntegrationStatus {
                    id,
                    spec,
                    mode,
                    event_source_name,
                    reported_state,
                    access,
                    unauthenticated,
                    last_verified_time,
                });
            }
        }
        status
    }

    /// The id of the registration that the spec asks for, once it is known.
    pub fn id(&self) -> Option<&str> {
        self.current.as_ref()?.id.as_deref()
    }

    /// The URL that the registration was last known to call, or is about to.
    pub fn url(&self) -> Option<&str> {
        self.current.as_ref()?.spec.url()
    }

    /// Where the object was last known to send events, or is about to.
    pub fn destination(&self) -> Option<String> {
        Some(self.current.as_ref()?.spec.destination())
    }

    /// Whether there is anything that the route has to remove.
    pub fn is_free(&self) -> bool {
        let is_ours = |current: &Recorded| !current.spec.is_external();
        self.former.is_empty() && !self.current.as_ref().is_some_and(is_ours)
    }

    /// The record before anything is called for `desired`: from then on a registration may be there. `contested` says
    /// that another owner has the recorded one.
    #[must_use]
    pub fn intended(self, desired: &Recorded, contested: bool) -> Self {
        let kept = if contested { self.without_lost(desired) } else { self };
        kept.moved_to(desired)
    }

    /// The record once the desired registration is known to be there.
    #[must_use]
    pub fn registered(self, desired: &Desired, found: &ObservedObject) -> Self {
        let last_verified_time = self.current.as_ref().and_then(|it| it.last_verified_time.clone());
        let id = Some(found.id().to_owned());
        let event_source_name = match found {
            ObservedObject::Registration(_) => None,
            ObservedObject::Integration(found) => found.event_source_name.clone(),
        };
        let reported_state = found.reported_state().map(|state| state.code.clone());
        self.confirmed(Recorded {
            id,
            last_verified_time,
            event_source_name,
            reported_state,
            ..desired.status()
        })
    }

    /// The record once another owner is known to have the registration of this name. Without its id it is removed only
    /// if it calls the route's URL.
    #[must_use]
    pub fn disowned(mut self) -> Self {
        if let Some(current) = &mut self.current {
            current.id = None;
        }
        self
    }

    /// The record of a route whose registration another owner has, once the spec asks for another location: there is
    /// nothing of the route's to be removed.
    fn without_lost(mut self, desired: &Recorded) -> Self {
        self.current = self.current.filter(|current| is_same(&current.location(), &desired.location()));
        self
    }

    /// Whether the record names a registration of this name at this API already.
    pub fn knows(&self, location: &RegistrationLocation) -> bool {
        let key = RegistrationKey::from(location);
        let current = self.current.as_ref().map(Recorded::location);
        current.iter().chain(&self.former).any(|known| RegistrationKey::from(known) == key)
    }

    /// Whether nothing can have been registered at the location that the spec names: its OAuth client was never accepted.
    pub fn is_unauthenticated(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.unauthenticated)
    }

    /// The record once the OAuth client of this location is accepted. From then on a registration may be there.
    #[must_use]
    pub fn authenticated(mut self, at: &RegistrationLocation) -> Self {
        if let Some(current) = self.current.as_mut().filter(|current| is_same(&current.location(), at)) {
            current.unauthenticated = false;
        }
        self
    }

    /// Whether a former registration may have this location's name at its API.
    pub fn was_at(&self, location: &RegistrationLocation) -> bool {
        let key = RegistrationKey::from(location);
        self.former.iter().any(|former| RegistrationKey::from(former) == key)
    }

    /// Every location where there may be an object of a route, NAMESPACE/NAME, whose spec names this URL.
    pub fn targets(self, url: Option<&str>, owner: &str) -> impl Iterator<Item = CleanupTarget> {
        let may_be_there = |current: &Recorded| !current.unauthenticated && !current.spec.is_external();
        let current = self.current.filter(may_be_there).map(|current| {
            let url = url.filter(|_| current.spec.url().is_some()).map(str::to_owned);
            CleanupTarget {
                destinations: url.into_iter().chain([current.spec.destination()]).collect(),
                ..CleanupTarget::former(current.location(), owner)
            }
        });
        current
            .into_iter()
            .chain(self.former.into_iter().map(move |former| CleanupTarget::former(former, owner)))
    }

    /// The record once the spec asks for `desired`, whose id is not known.
    ///
    /// Where the name or the OAuth client is another and the API the same, the registration that is there is tried
    /// first: it can be updated in place, unless the client belongs to another organisation.
    fn moved_to(mut self, desired: &Recorded) -> Self {
        let known_id = match self.current.take() {
            Some(current) if is_same(&current.location(), &desired.location()) => {
                // The Secret may have another name. What is there is as it was last observed.
                let access = desired.access.clone();
                let was_external = current.spec.is_external();
                self.current = match (was_external, desired.spec.is_external()) {
                    // That others' integration was read does not make it this route's.
                    (true, false) => {
                        Some(Recorded { unauthenticated: current.unauthenticated, ..desired.clone() })
                    }
                    // From now on it is not this route's to remove.
                    (false, true) => Some(Recorded { spec: desired.spec.clone(), access, ..current }),
                    _ => Some(Recorded { access, ..current }),
                };
                return self;
            }
            // What others keep stays where it is, and is not changed into something of this route's.
            Some(current) if current.unauthenticated || current.spec.is_external() => None,
            // One that was changed into it would be lost to those who read it now.
            Some(current) if desired.spec.is_external() => {
                self.former.push(current.location());
                None
            }
            Some(current) => {
                let location = current.location();
                let id = current.id.filter(|_| is_same_api(&location, &desired.location()));
                self.former.push(location);
                id
            }
            None => None,
        };
        // The spec may be back at a former location.
        let returned = self.former.iter().position(|former| is_same(former, &desired.location()));
        let returned = returned.map(|position| self.former.remove(position));
        let unauthenticated = returned.is_none() && known_id.is_none();
        let id = returned.and_then(|former| former.id).or(known_id);
        self.current = Some(Recorded { id, unauthenticated, ..desired.clone() });
        self
    }

    /// The record once the registration is known to be at its location: one that was updated in place is nowhere else.
    fn confirmed(mut self, registration: Recorded) -> Self {
        let location = registration.location();
        self.former.retain(|former| {
            !(is_same_api(former, &location) && former.id.is_some() && former.id == location.id)
        });
        self.current = Some(registration);
        self
    }

    /// Whether `desired` was observed at Genesys Cloud as it is, and nothing of the route is elsewhere.
    pub fn is_in_order(&self, desired: &Recorded) -> bool {
        let was_seen = self.current.as_ref().is_some_and(|current| current.last_verified_time.is_some());
        was_seen && self.former.is_empty() && self.confirms(desired)
    }

    /// Whether Genesys Cloud has confirmed what this model asks for, but for the secrets: the OAuth client may be missing,
    /// and another one of the same Secret is taken for one of the same organisation.
    pub fn holds(&self, model: &Model, genesys: &Genesys) -> bool {
        let (_, api) = api_of(model);
        self.current.as_ref().is_some_and(|current| {
            current.id.is_some()
                && current.spec == spec_of(model)
                && current.access.api == api
                && current.access.credentials_secret_ref == genesys.credentials_secret_ref
        })
    }

    /// Whether Genesys Cloud has confirmed `desired` as it is, but for its secret.
    pub fn confirms(&self, desired: &Recorded) -> bool {
        self.current.as_ref().is_some_and(|current| {
            current.id.is_some()
                && is_same(&current.location(), &desired.location())
                && current.spec == desired.spec
        })
    }
}

/// Whether a registration of this name, made by this client, is the same one. The client tells organisations of one
/// region apart.
fn is_same(one: &RegistrationLocation, other: &RegistrationLocation) -> bool {
    is_same_api(one, other)
        && one.name == other.name
        && one.access.client_fingerprint == other.access.client_fingerprint
}

/// Whether an id means the same in both, if the clients belong to one organisation.
fn is_same_api(one: &RegistrationLocation, other: &RegistrationLocation) -> bool {
    let is_same_type = one.type_ == other.type_;
    let (one, other) = (&one.access.api, &other.access.api);
    is_same_type && one.api_url == other.api_url && one.event_bridges_path == other.event_bridges_path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(api_url: &str, name: &str, client: &str) -> Recorded {
        let registration = serde_json::json!({
            "name": name, "url": "https://presence.example.com/e", "enabled": true, "eventTypes": ["a"],
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
            "access": {
                "clientFingerprint": client, "credentialsSecretRef": {"name": "oauth"}, "apiUrl": api_url,
                "tokenPath": "/token", "eventBridgesPath": "/bridges", "tokenRequest": "Json",
            },
        });
        serde_json::from_value::<RegistrationStatus>(registration).unwrap().into()
    }

    fn with_id(mut registration: Recorded, id: &str) -> Recorded {
        registration.id = Some(id.to_owned());
        registration
    }

    fn recorded(registration: Recorded, id: &str) -> RegistrationRecord {
        RegistrationRecord { current: Some(with_id(registration, id)), former: Vec::new() }
    }

    #[test]
    fn the_same_location_keeps_the_id_and_what_was_observed() {
        let record = recorded(at("http://a", "x", "c"), "1");
        let mut suspended = at("http://a", "x", "c");
        let ObjectSpec::Registration(spec) = &mut suspended.spec else { panic!() };
        spec.enabled = false;
        assert_eq!(record.clone().moved_to(&suspended), record);
        assert!(!record.confirms(&suspended) && record.confirms(&at("http://a", "x", "c")));
    }

    #[test]
    fn another_api_gets_a_new_one_and_the_old_one_becomes_former() {
        let moved = recorded(at("http://a", "x", "c"), "1").moved_to(&at("http://b", "x", "c"));
        assert_eq!(moved.id(), None);
        assert_eq!(moved.former, [with_id(at("http://a", "x", "c"), "1").location()]);
        let confirmed = moved.confirmed(with_id(at("http://b", "x", "c"), "1"));
        assert_eq!(confirmed.former.len(), 1, "the same id in another organisation is another registration");
    }

    #[test]
    fn another_name_or_client_is_first_updated_in_place() {
        for wanted in [at("http://a", "y", "c"), at("http://a", "x", "d")] {
            let moved = recorded(at("http://a", "x", "c"), "1").moved_to(&wanted);
            assert_eq!((moved.id(), moved.former.len()), (Some("1"), 1));
            let changed_in_place = moved.clone().confirmed(with_id(wanted.clone(), "1"));
            assert_eq!(changed_in_place.former, []);
            let another_organisation = moved.confirmed(with_id(wanted, "2"));
            assert_eq!(another_organisation.former.len(), 1);
        }
    }

    #[test]
    fn an_unconfirmed_create_is_recorded_by_its_name() {
        let lost = RegistrationRecord { current: Some(at("http://a", "x", "c")), former: Vec::new() };
        let moved =
            lost.moved_to(&at("http://a", "y", "c")).confirmed(with_id(at("http://a", "y", "c"), "2"));
        assert_eq!(moved.former, [at("http://a", "x", "c").location()]);
    }

    #[test]
    fn a_client_that_was_never_accepted_leaves_nothing_behind() {
        let made = RegistrationRecord::default().moved_to(&at("http://a", "x", "wrong"));
        assert!(made.is_unauthenticated());
        assert_eq!(made.clone().targets(None, "presence/one").count(), 0);
        let again = made.clone().moved_to(&at("http://a", "x", "wrong"));
        assert!(again.is_unauthenticated(), "a restart changes nothing");
        let corrected = made.clone().moved_to(&at("http://a", "x", "right"));
        assert!(corrected.is_unauthenticated() && corrected.former.is_empty());
        let late = corrected.authenticated(&at("http://a", "x", "wrong").location());
        assert!(late.is_unauthenticated(), "the result of another client proves nothing");

        let accepted = made.authenticated(&at("http://a", "x", "wrong").location());
        assert_eq!(accepted.clone().targets(None, "presence/one").count(), 1);
        let moved = accepted.moved_to(&at("http://a", "y", "wrong"));
        assert!(moved.is_unauthenticated() && moved.former.len() == 1);
        let back = moved.moved_to(&at("http://a", "x", "wrong"));
        assert!(!back.is_unauthenticated(), "a create request may still take effect there");
        assert!(
            !recorded(at("http://a", "x", "c"), "1").moved_to(&at("http://a", "y", "c")).is_unauthenticated()
        );
    }

    #[test]
    fn returning_to_a_former_location_restores_its_id() {
        let away = recorded(at("http://a", "x", "c"), "1").moved_to(&at("http://b", "x", "c"));
        let away = away.authenticated(&at("http://b", "x", "c").location());
        let back = away.moved_to(&at("http://a", "x", "c"));
        assert_eq!(back.id(), Some("1"));
        assert_eq!(back.former, [at("http://b", "x", "c").location()]);
    }

    #[test]
    fn every_location_of_many_moves_is_recorded() {
        let record = recorded(at("http://a", "x", "c"), "1")
            .moved_to(&at("http://b", "x", "c"))
            .authenticated(&at("http://b", "x", "c").location())
            .moved_to(&at("http://c", "x", "c"))
            .authenticated(&at("http://c", "x", "c").location());
        let urls: Vec<_> =
            record.targets(None, "presence/one").map(|it| it.location.access.api.api_url).collect();
        assert_eq!(urls, ["http://c", "http://a", "http://b"]);
    }

    fn integration(name: &str, mode: &str) -> Recorded {
        let integration = serde_json::json!({
            "name": name, "eventSourceSuffix": name, "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
            "topics": ["v2.users.{id}.presence"], "enabled": true, "mode": mode,
            "access": {
                "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"}, "apiUrl": "http://a",
                "tokenPath": "/token", "eventBridgesPath": "/bridges", "tokenRequest": "Form",
            },
        });
        serde_json::from_value::<IntegrationStatus>(integration).unwrap().into()
    }

    #[test]
    fn a_record_is_what_the_status_holds() {
        let seen = Recorded {
            reported_state: Some("ACTIVE".into()),
            event_source_name: Some("aws.partner/genesys.com/cloud/o/x".into()),
            ..with_id(integration("x", "Managed"), "1")
        };
        for current in [with_id(at("http://a", "x", "c"), "1"), seen] {
            let former = vec![integration("y", "Managed").location(), at("http://b", "y", "c").location()];
            let record = RegistrationRecord { current: Some(current), former };
            let source = record.clone().into_status();
            assert_eq!(source.type_, record.current.as_ref().unwrap().type_());
            let status = PresenceRouteStatus { source: Some(source), ..PresenceRouteStatus::default() };
            let json = serde_json::to_value(&status).unwrap();
            assert_eq!(RegistrationRecord::read(serde_json::from_value(json).unwrap()), record);
        }
    }

    #[test]
    fn another_source_leaves_the_former_object_to_be_removed() {
        let registration = with_id(at("http://a", "x", "c"), "1");
        let moved = recorded(registration.clone(), "1").moved_to(&integration("x", "Managed"));
        assert_eq!(moved.id(), None, "an id of a registration is none of an integration");
        assert_eq!(moved.former, [registration.location()]);
        let confirmed = moved.confirmed(with_id(integration("x", "Managed"), "1"));
        assert_eq!(confirmed.former, [registration.location()]);
        let back = confirmed.moved_to(&at("http://a", "x", "c"));
        assert_eq!(back.id(), Some("1"));
        assert_eq!(back.former, [with_id(integration("x", "Managed"), "1").location()]);
    }

    #[test]
    fn what_others_keep_is_never_removed_or_taken() {
        let external = recorded(integration("x", "External"), "1");
        assert!(external.is_free() && external.clone().targets(None, "presence/one").count() == 0);
        let moved = external.clone().moved_to(&integration("y", "External"));
        assert_eq!((moved.id(), moved.former.len()), (None, 0));
        let managed = external.moved_to(&integration("x", "Managed"));
        assert_eq!((managed.id(), managed.former.len()), (None, 0), "whose it is, its notes say");
        assert!(!managed.is_free());

        let ours = recorded(integration("x", "Managed"), "1");
        let given_away = ours.clone().moved_to(&integration("x", "External"));
        assert!(given_away.is_free() && given_away.id() == Some("1"));
        let elsewhere = ours.moved_to(&integration("y", "External"));
        assert_eq!((elsewhere.id(), elsewhere.former.len()), (None, 1), "ours is still to be removed");
        assert!(!elsewhere.is_free());
    }
}
