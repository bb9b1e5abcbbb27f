//! Where a route's registrations are: the place that the spec names, and those that it named before.
//!
//! Pure. The record is kept in the status, and is written before any call that could make it true, so that nothing is
//! left behind anywhere, whenever the operator dies.

use presenceroute_crds::PresenceRouteStatus;
use presenceroute_crds::spec::Genesys;
use presenceroute_crds::status::{
    RegistrationAccess, RegistrationLocation, RegistrationStatus, SourceStatus,
};

use presenceroute_manifest::dereference::OAuthClient;
use presenceroute_manifest::validate::{Model, SourceModel};

/// Everything that may be at Genesys Cloud for one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// At the place that the spec names, or named when it was last looked at.
    pub current: Option<RegistrationStatus>,
    /// At other places.
    pub former: Vec<RegistrationLocation>,
}

/// A place that is to be free of a route's registrations.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The place.
    pub place: RegistrationLocation,
    /// What the route's registration there calls, if that is known: another cluster may have one of the same name.
    pub urls: Vec<String>,
}

impl From<RegistrationLocation> for Place {
    fn from(place: RegistrationLocation) -> Self {
        Self { place, urls: Vec::new() }
    }
}

impl Record {
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

    /// The record once it is known that the registration of this name is somebody else's. Without its id it is removed
    /// only if it calls the route's URL.
    #[must_use]
    pub fn disowned(mut self) -> Self {
        if let Some(current) = &mut self.current {
            current.id = None;
        }
        self
    }

    /// The record of a route whose registration somebody else has, once the spec asks for another place: there is nothing
    /// of the route's to be removed.
    #[must_use]
    pub fn without_lost(mut self, wanted: &RegistrationStatus) -> Self {
        self.current = self.current.filter(|current| is_same(&current.location(), &wanted.location()));
        self
    }

    /// Whether there may be a registration of this name already, whoever asked for it.
    pub fn knows(&self, place: &RegistrationLocation) -> bool {
        let current = self.current.as_ref().map(RegistrationStatus::location);
        current
            .iter()
            .chain(&self.former)
            .any(|known| known.access.api.api_url == place.access.api.api_url && known.name == place.name)
    }

    /// Every place where there may be a registration of a route that asks for this URL.
    pub fn places(self, url: &str) -> impl Iterator<Item = Place> {
        let urls = |current: &RegistrationStatus| vec![current.spec.url.clone(), url.to_owned()];
        let current = self.current.map(|current| Place { urls: urls(&current), place: current.location() });
        current.into_iter().chain(self.former.into_iter().map(Place::from))
    }

    /// The record once the spec asks for `wanted`, whose id is not known.
    ///
    /// Where the name or the OAuth client is another and the API the same, the registration that is there is tried
    /// first: it can be changed in its place, unless the client belongs to another organisation.
    #[must_use]
    pub fn moved_to(mut self, wanted: &RegistrationStatus) -> Self {
        let known_id = match self.current.take() {
            Some(current) if is_same(&current.location(), &wanted.location()) => {
                // The Secret may have got another name. What is there is as it was last seen.
                self.current = Some(RegistrationStatus { access: wanted.access.clone(), ..current });
                return self;
            }
            Some(current) => {
                let id = current.id.clone().filter(|_| is_same_api(&current.location(), &wanted.location()));
                self.former.push(current.location());
                id
            }
            None => None,
        };
        // Somebody may have changed their mind, and be back.
        let returned = self.former.iter().position(|former| is_same(former, &wanted.location()));
        let former_id = returned.and_then(|position| self.former.remove(position).id);
        self.current = Some(RegistrationStatus { id: former_id.or(known_id), ..wanted.clone() });
        self
    }

    /// The record once the registration is known to be at its place: one that was changed in its place is nowhere
    /// else.
    #[must_use]
    pub fn confirmed(mut self, registration: RegistrationStatus) -> Self {
        let place = registration.location();
        self.former
            .retain(|former| !(is_same_api(former, &place) && former.id.is_some() && former.id == place.id));
        self.current = Some(registration);
        self
    }

    /// Whether `wanted` was seen at Genesys Cloud as it is, and nothing of the route is elsewhere.
    pub fn is_in_order(&self, wanted: &RegistrationStatus) -> bool {
        let was_seen = self.current.as_ref().is_some_and(|current| current.last_verified_time.is_some());
        was_seen && self.former.is_empty() && self.confirms(wanted)
    }

    /// Whether Genesys Cloud has confirmed `wanted` as it is, but for its secret.
    pub fn confirms(&self, wanted: &RegistrationStatus) -> bool {
        self.current.as_ref().is_some_and(|current| {
            current.id.is_some()
                && is_same(&current.location(), &wanted.location())
                && current.spec == wanted.spec
        })
    }
}

/// The registration that the model asks for, with no id yet.
pub fn wanted(model: &Model, genesys: &Genesys, client: &OAuthClient) -> RegistrationStatus {
    let SourceModel::Webhook(webhook) = &model.source;
    RegistrationStatus {
        id: None,
        spec: webhook.registration.clone(),
        access: RegistrationAccess {
            api: model.genesys.api_endpoint(&webhook.event_bridges_path),
            client_id: client.id.clone(),
            credentials_secret_ref: genesys.credentials_secret_ref.clone(),
            ca_secret_ref: genesys.api.ca_secret_ref.clone(),
        },
        last_verified_time: None,
    }
}

/// Whether a registration of this name, made by this client, is the same one. The client tells organisations of one
/// region apart.
fn is_same(one: &RegistrationLocation, other: &RegistrationLocation) -> bool {
    is_same_api(one, other) && one.name == other.name && one.access.client_id == other.access.client_id
}

/// Whether an id means the same in both, if the clients belong to one organisation.
fn is_same_api(one: &RegistrationLocation, other: &RegistrationLocation) -> bool {
    one.access.api.api_url == other.access.api.api_url
        && one.access.api.event_bridges_path == other.access.api.event_bridges_path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(api_url: &str, name: &str, client: &str) -> RegistrationStatus {
        let registration = serde_json::json!({
            "name": name, "url": "https://presence.example.com/e", "enabled": true, "eventTypes": ["a"],
            "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
            "access": {
                "clientId": client, "credentialsSecretRef": {"name": "oauth"}, "apiUrl": api_url,
                "tokenPath": "/token", "eventBridgesPath": "/bridges", "tokenRequest": "Json",
            },
        });
        serde_json::from_value(registration).unwrap()
    }

    fn with_id(mut registration: RegistrationStatus, id: &str) -> RegistrationStatus {
        registration.id = Some(id.to_owned());
        registration
    }

    fn registered(registration: RegistrationStatus, id: &str) -> Record {
        Record { current: Some(with_id(registration, id)), former: Vec::new() }
    }

    #[test]
    fn a_spec_that_asks_for_the_same_place_keeps_the_id_and_what_was_last_seen() {
        let record = registered(at("http://a", "x", "c"), "1");
        let mut suspended = at("http://a", "x", "c");
        suspended.spec.enabled = false;
        assert_eq!(record.clone().moved_to(&suspended), record);
        assert!(!record.confirms(&suspended) && record.confirms(&at("http://a", "x", "c")));
    }

    #[test]
    fn at_another_api_a_new_one_is_made_and_the_old_one_is_to_go() {
        let moved = registered(at("http://a", "x", "c"), "1").moved_to(&at("http://b", "x", "c"));
        assert_eq!(moved.id(), None);
        assert_eq!(moved.former, [with_id(at("http://a", "x", "c"), "1").location()]);
        let confirmed = moved.confirmed(with_id(at("http://b", "x", "c"), "1"));
        assert_eq!(confirmed.former.len(), 1, "the same id in another organisation is another registration");
    }

    #[test]
    fn another_name_or_client_is_first_tried_in_its_place() {
        for wanted in [at("http://a", "y", "c"), at("http://a", "x", "d")] {
            let moved = registered(at("http://a", "x", "c"), "1").moved_to(&wanted);
            assert_eq!((moved.id(), moved.former.len()), (Some("1"), 1));
            let changed_in_place = moved.clone().confirmed(with_id(wanted.clone(), "1"));
            assert_eq!(changed_in_place.former, []);
            let another_organisation = moved.confirmed(with_id(wanted, "2"));
            assert_eq!(another_organisation.former.len(), 1);
        }
    }

    #[test]
    fn one_whose_answer_was_lost_is_remembered_by_its_name() {
        let lost = Record { current: Some(at("http://a", "x", "c")), former: Vec::new() };
        let moved =
            lost.moved_to(&at("http://a", "y", "c")).confirmed(with_id(at("http://a", "y", "c"), "2"));
        assert_eq!(moved.former, [at("http://a", "x", "c").location()]);
    }

    #[test]
    fn who_comes_back_finds_the_old_one_again() {
        let away = registered(at("http://a", "x", "c"), "1").moved_to(&at("http://b", "x", "c"));
        let back = away.moved_to(&at("http://a", "x", "c"));
        assert_eq!(back.id(), Some("1"));
        assert_eq!(back.former, [at("http://b", "x", "c").location()]);
    }

    #[test]
    fn every_place_of_many_moves_is_remembered() {
        let record = registered(at("http://a", "x", "c"), "1")
            .moved_to(&at("http://b", "x", "c"))
            .moved_to(&at("http://c", "x", "c"));
        let urls: Vec<_> = record.places("https://a").map(|it| it.place.access.api.api_url).collect();
        assert_eq!(urls, ["http://c", "http://a", "http://b"]);
    }
}
