//! Where a route's registrations are: the place that the spec names, and those that it named before.
//!
//! Pure. The record is kept in the status, and is written before any call that could make it true, so that nothing is
//! left behind anywhere, whenever the operator dies.

use presenceroute_crds::PresenceRouteStatus;
use presenceroute_crds::presence_route::Genesys;
use presenceroute_crds::status::{RegistrationAccess, RegistrationPlace, RegistrationStatus};

use presenceroute_manifest::dereference::OAuthClient;
use presenceroute_manifest::validate::Model;

/// Everything that may be at Genesys Cloud for one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// At the place that the spec names, or named when it was last looked at.
    pub current: Option<RegistrationStatus>,
    /// At other places.
    pub former: Vec<RegistrationPlace>,
}

/// A place that is to be free of a route's registrations.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// The place.
    pub place: RegistrationPlace,
    /// What the route's registration there calls, if that is known: another cluster may have one of the same name.
    pub urls: Vec<String>,
}

impl From<RegistrationPlace> for Place {
    fn from(place: RegistrationPlace) -> Self {
        Self { place, urls: Vec::new() }
    }
}

impl Record {
    /// What the status holds.
    pub fn read(status: Option<PresenceRouteStatus>) -> Self {
        let PresenceRouteStatus { registration, former_registrations, .. } = status.unwrap_or_default();
        Self { current: registration, former: former_registrations }
    }

    /// The id of the registration that the spec asks for, once it is known.
    pub fn id(&self) -> Option<&str> {
        self.current.as_ref()?.place.id.as_deref()
    }

    /// The record once it is known that the registration of this name is somebody else's. Without its id it is removed
    /// only if it calls the route's URL.
    #[must_use]
    pub fn disowned(mut self) -> Self {
        if let Some(current) = &mut self.current {
            current.place.id = None;
        }
        self
    }

    /// The record of a route whose registration somebody else has, once the spec asks for another place: there is nothing
    /// of the route's to be removed.
    #[must_use]
    pub fn without_lost(mut self, wanted: &RegistrationStatus) -> Self {
        self.current = self.current.filter(|current| is_same(&current.place, &wanted.place));
        self
    }

    /// Whether there may be a registration of this name already, whoever asked for it.
    pub fn knows(&self, place: &RegistrationPlace) -> bool {
        let current = self.current.iter().map(|current| &current.place);
        current.chain(&self.former).any(|known| known.api_url == place.api_url && known.name == place.name)
    }

    /// Every place where there may be a registration of a route that asks for this URL.
    pub fn places(self, url: &str) -> impl Iterator<Item = Place> {
        let urls = |current: &RegistrationStatus| vec![current.url.clone(), url.to_owned()];
        let current = self.current.map(|current| Place { urls: urls(&current), place: current.place });
        current.into_iter().chain(self.former.into_iter().map(Place::from))
    }

    /// The record once the spec asks for `wanted`, whose id is not known.
    ///
    /// Where the name or the OAuth client is another and the API the same, the registration that is there is tried
    /// first: it can be changed in its place, unless the client belongs to another organisation.
    #[must_use]
    pub fn moved_to(mut self, wanted: &RegistrationStatus) -> Self {
        let known_id = match self.current.take() {
            Some(current) if is_same(&current.place, &wanted.place) => {
                // The Secret may have got another name. What is there is as it was last seen.
                let place = RegistrationPlace { id: current.place.id.clone(), ..wanted.place.clone() };
                self.current = Some(RegistrationStatus { place, ..current });
                return self;
            }
            Some(current) => {
                let id = current.place.id.clone().filter(|_| is_same_api(&current.place, &wanted.place));
                self.former.push(current.place);
                id
            }
            None => None,
        };
        // Somebody may have changed their mind, and be back.
        let returned = self.former.iter().position(|former| is_same(former, &wanted.place));
        let former_id = returned.and_then(|position| self.former.remove(position).id);
        let place = RegistrationPlace { id: former_id.or(known_id), ..wanted.place.clone() };
        self.current = Some(RegistrationStatus { place, ..wanted.clone() });
        self
    }

    /// The record once the registration is known to be at its place: one that was changed in its place is nowhere
    /// else.
    #[must_use]
    pub fn confirmed(mut self, registration: RegistrationStatus) -> Self {
        let place = &registration.place;
        self.former
            .retain(|former| !(is_same_api(former, place) && former.id.is_some() && former.id == place.id));
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
            current.place.id.is_some()
                && is_same(&current.place, &wanted.place)
                && current.url == wanted.url
                && current.enabled == wanted.enabled
                && current.event_types == wanted.event_types
                && current.retry_policy == wanted.retry_policy
        })
    }
}

/// The registration that the model asks for, with no id yet.
pub fn wanted(model: &Model, genesys: &Genesys, client: &OAuthClient) -> RegistrationStatus {
    let registration = &model.registration;
    RegistrationStatus {
        place: RegistrationPlace {
            id: None,
            name: registration.name.clone(),
            api_url: registration.api.url.as_str().trim_end_matches('/').to_owned(),
            access: RegistrationAccess {
                client_id: client.id.clone(),
                credentials_secret_ref: genesys.credentials_secret_ref.clone(),
                token_path: registration.api.token_path.clone(),
                event_bridges_path: registration.api.event_bridges_path.clone(),
                token_request: registration.api.token_request,
                ca_secret_ref: genesys.api.ca_secret_ref.clone(),
            },
        },
        url: model.endpoint.to_string(),
        enabled: registration.enabled,
        event_types: registration.event_types.iter().cloned().collect(),
        retry_policy: registration.retry_policy.clone(),
        last_verified_time: None,
    }
}

/// Whether a registration of this name, made by this client, is the same one. The client tells organisations of one
/// region apart.
fn is_same(one: &RegistrationPlace, other: &RegistrationPlace) -> bool {
    is_same_api(one, other) && one.name == other.name && one.access.client_id == other.access.client_id
}

/// Whether an id means the same in both, if the clients belong to one organisation.
fn is_same_api(one: &RegistrationPlace, other: &RegistrationPlace) -> bool {
    one.api_url == other.api_url && one.access.event_bridges_path == other.access.event_bridges_path
}

#[cfg(test)]
mod tests {
    use presenceroute_core::genesys_api::RetryPolicy;

    use super::*;

    fn at(api_url: &str, name: &str, client: &str) -> RegistrationStatus {
        let place = serde_json::json!({
            "name": name, "apiUrl": api_url,
            "access": {
                "clientId": client, "credentialsSecretRef": {"name": "oauth"}, "tokenPath": "/token",
                "eventBridgesPath": "/bridges", "tokenRequest": "Json",
            },
        });
        RegistrationStatus {
            place: serde_json::from_value(place).unwrap(),
            url: "https://presence.example.com/e".into(),
            enabled: true,
            event_types: vec!["a".into()],
            retry_policy: RetryPolicy::default(),
            last_verified_time: None,
        }
    }

    fn with_id(mut registration: RegistrationStatus, id: &str) -> RegistrationStatus {
        registration.place.id = Some(id.to_owned());
        registration
    }

    fn registered(registration: RegistrationStatus, id: &str) -> Record {
        Record { current: Some(with_id(registration, id)), former: Vec::new() }
    }

    #[test]
    fn a_spec_that_asks_for_the_same_place_keeps_the_id_and_what_was_last_seen() {
        let record = registered(at("http://a", "x", "c"), "1");
        let suspended = RegistrationStatus { enabled: false, ..at("http://a", "x", "c") };
        assert_eq!(record.clone().moved_to(&suspended), record);
        assert!(!record.confirms(&suspended) && record.confirms(&at("http://a", "x", "c")));
    }

    #[test]
    fn at_another_api_a_new_one_is_made_and_the_old_one_is_to_go() {
        let moved = registered(at("http://a", "x", "c"), "1").moved_to(&at("http://b", "x", "c"));
        assert_eq!(moved.id(), None);
        assert_eq!(moved.former, [with_id(at("http://a", "x", "c"), "1").place]);
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
        assert_eq!(moved.former, [at("http://a", "x", "c").place]);
    }

    #[test]
    fn who_comes_back_finds_the_old_one_again() {
        let away = registered(at("http://a", "x", "c"), "1").moved_to(&at("http://b", "x", "c"));
        let back = away.moved_to(&at("http://a", "x", "c"));
        assert_eq!(back.id(), Some("1"));
        assert_eq!(back.former, [at("http://b", "x", "c").place]);
    }

    #[test]
    fn every_place_of_many_moves_is_remembered() {
        let record = registered(at("http://a", "x", "c"), "1")
            .moved_to(&at("http://b", "x", "c"))
            .moved_to(&at("http://c", "x", "c"));
        let urls: Vec<_> = record.places("https://a").map(|it| it.place.api_url).collect();
        assert_eq!(urls, ["http://c", "http://a", "http://b"]);
    }
}
