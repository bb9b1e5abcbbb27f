//! Where a route's registrations may be: the location that the spec names, and those that it named before.
//!
//! Pure. The record is kept in the status and is written before any call that could make it true, so that no
//! registration is left behind, whenever the operator dies.

use presenceroute_crds::PresenceRouteStatus;
use presenceroute_crds::spec::Genesys;
use presenceroute_crds::status::{RegistrationLocation, RegistrationStatus, SourceStatus};
use presenceroute_genesys::Registration;
use presenceroute_manifest::validate::{Model, SourceModel};

use super::desired::Desired;

/// Everything that may be at Genesys Cloud for one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegistrationRecord {
    /// At the location that the spec names, or named at the last reconcile.
    pub current: Option<RegistrationStatus>,
    /// At other locations.
    pub former: Vec<RegistrationLocation>,
}

/// A location that is to be free of a route's registrations.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanupTarget {
    /// The location.
    pub location: RegistrationLocation,
    /// The URLs that the route's registration there calls, where they are known: another cluster may have a registration
    /// of the same name. Empty: all of this name are the route's.
    pub urls: Vec<String>,
}

impl From<RegistrationLocation> for CleanupTarget {
    fn from(location: RegistrationLocation) -> Self {
        Self { location, urls: Vec::new() }
    }
}

/// What identifies a registration before it has an id: the API's base URL and the registration's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistrationKey {
    /// The API's base URL.
    pub api_url: String,
    /// The registration's name.
    pub name: String,
}

impl From<&RegistrationLocation> for RegistrationKey {
    fn from(location: &RegistrationLocation) -> Self {
        Self { api_url: location.access.api.api_url.clone(), name: location.name.clone() }
    }
}

impl RegistrationRecord {
    /// What the status holds.
    pub fn read(status: Option<PresenceRouteStatus>) -> Self {
        let source = status.and_then(|status| status.source).unwrap_or_default();
        Self { current: source.registration, former: source.former_registrations }
    }

    /// What the status is to hold.
    pub fn into_status(self) -> SourceStatus {
        SourceStatus {
            registration: self.current,
            former_registrations: self.former,
            ..SourceStatus::default()
        }
    }

    /// The id of the registration that the spec asks for, once it is known.
    pub fn id(&self) -> Option<&str> {
        self.current.as_ref()?.id.as_deref()
    }

    /// The URL that the registration was last known to call, or is about to.
    pub fn url(&self) -> Option<&str> {
        Some(&self.current.as_ref()?.spec.url)
    }

    /// The record before anything is called for `desired`: from then on a registration may be there. `contested` says
    /// that another owner has the recorded one.
    #[must_use]
    pub fn intended(self, desired: &RegistrationStatus, contested: bool) -> Self {
        let kept = if contested { self.without_lost(desired) } else { self };
        kept.moved_to(desired)
    }

    /// The record once the desired registration is known to be there.
    #[must_use]
    pub fn registered(self, desired: &Desired, registration: &Registration) -> Self {
        let last_verified_time = self.current.as_ref().and_then(|it| it.last_verified_time.clone());
        let id = Some(registration.id.clone());
        self.confirmed(RegistrationStatus { id, last_verified_time, ..desired.status() })
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
    fn without_lost(mut self, desired: &RegistrationStatus) -> Self {
        self.current = self.current.filter(|current| is_same(&current.location(), &desired.location()));
        self
    }

    /// Whether the record names a registration of this name at this API already.
    pub fn knows(&self, location: &RegistrationLocation) -> bool {
        let key = RegistrationKey::from(location);
        let current = self.current.as_ref().map(RegistrationStatus::location);
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

    /// Every location where there may be a registration of a route whose spec names this URL.
    pub fn targets(self, url: Option<&str>) -> impl Iterator<Item = CleanupTarget> {
        let current = self.current.filter(|current| !current.unauthenticated).map(|current| CleanupTarget {
            urls: url.map(str::to_owned).into_iter().chain([current.spec.url.clone()]).collect(),
            location: current.location(),
        });
        current.into_iter().chain(self.former.into_iter().map(CleanupTarget::from))
    }

    /// The record once the spec asks for `desired`, whose id is not known.
    ///
    /// Where the name or the OAuth client is another and the API the same, the registration that is there is tried
    /// first: it can be updated in place, unless the client belongs to another organisation.
    fn moved_to(mut self, desired: &RegistrationStatus) -> Self {
        let known_id = match self.current.take() {
            Some(current) if is_same(&current.location(), &desired.location()) => {
                // The Secret may have another name. What is there is as it was last observed.
                self.current = Some(RegistrationStatus { access: desired.access.clone(), ..current });
                return self;
            }
            Some(current) if current.unauthenticated => None,
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
        self.current = Some(RegistrationStatus { id, unauthenticated, ..desired.clone() });
        self
    }

    /// The record once the registration is known to be at its location: one that was updated in place is nowhere else.
    fn confirmed(mut self, registration: RegistrationStatus) -> Self {
        let location = registration.location();
        self.former.retain(|former| {
            !(is_same_api(former, &location) && former.id.is_some() && former.id == location.id)
        });
        self.current = Some(registration);
        self
    }

    /// Whether `desired` was observed at Genesys Cloud as it is, and nothing of the route is elsewhere.
    pub fn is_in_order(&self, desired: &RegistrationStatus) -> bool {
        let was_seen = self.current.as_ref().is_some_and(|current| current.last_verified_time.is_some());
        was_seen && self.former.is_empty() && self.confirms(desired)
    }

    /// Whether Genesys Cloud has confirmed what this model asks for, but for the secrets: the OAuth client may be missing,
    /// and another one of the same Secret is taken for one of the same organisation.
    pub fn holds(&self, model: &Model, genesys: &Genesys) -> bool {
        let SourceModel::Webhook(webhook) = &model.source;
        let api = model.genesys.api_endpoint(&webhook.event_bridges_path);
        self.current.as_ref().is_some_and(|current| {
            current.id.is_some()
                && current.spec == webhook.registration
                && current.access.api == api
                && current.access.credentials_secret_ref == genesys.credentials_secret_ref
        })
    }

    /// Whether Genesys Cloud has confirmed `desired` as it is, but for its secret.
    pub fn confirms(&self, desired: &RegistrationStatus) -> bool {
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
    let (one, other) = (&one.access.api, &other.access.api);
    one.api_url == other.api_url && one.event_bridges_path == other.event_bridges_path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(api_url: &str, name: &str, client: &str) -> RegistrationStatus {
        let registration = serde_json::json!({
            "name": name, "url": "https://presence.example.com/e", "enabled": true, "eventTypes": ["a"],
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
            "access": {
                "clientFingerprint": client, "credentialsSecretRef": {"name": "oauth"}, "apiUrl": api_url,
                "tokenPath": "/token", "eventBridgesPath": "/bridges", "tokenRequest": "Json",
            },
        });
        serde_json::from_value(registration).unwrap()
    }

    fn with_id(mut registration: RegistrationStatus, id: &str) -> RegistrationStatus {
        registration.id = Some(id.to_owned());
        registration
    }

    fn recorded(registration: RegistrationStatus, id: &str) -> RegistrationRecord {
        RegistrationRecord { current: Some(with_id(registration, id)), former: Vec::new() }
    }

    #[test]
    fn the_same_location_keeps_the_id_and_what_was_observed() {
        let record = recorded(at("http://a", "x", "c"), "1");
        let mut suspended = at("http://a", "x", "c");
        suspended.spec.enabled = false;
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
        assert_eq!(made.clone().targets(None).count(), 0);
        let again = made.clone().moved_to(&at("http://a", "x", "wrong"));
        assert!(again.is_unauthenticated(), "a restart changes nothing");
        let corrected = made.clone().moved_to(&at("http://a", "x", "right"));
        assert!(corrected.is_unauthenticated() && corrected.former.is_empty());
        let late = corrected.authenticated(&at("http://a", "x", "wrong").location());
        assert!(late.is_unauthenticated(), "the result of another client proves nothing");

        let accepted = made.authenticated(&at("http://a", "x", "wrong").location());
        assert_eq!(accepted.clone().targets(None).count(), 1);
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
        let urls: Vec<_> = record.targets(None).map(|it| it.location.access.api.api_url).collect();
        assert_eq!(urls, ["http://c", "http://a", "http://b"]);
    }
}
