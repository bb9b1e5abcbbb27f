//! A route as the controller looks after it: what the status and the Secret `NAME-signing` remember between two looks.

use std::time::Duration;

use presenceroute_crds::PresenceRoute;
use presenceroute_crds::spec::Webhook;
use presenceroute_crds::status::{RegistrationLocation, RegistrationStatus};
use presenceroute_genesys::{Access, Registration};
use presenceroute_manifest::dereference::{OAuthClient, References};
use presenceroute_manifest::validate::{Model, validate};
use presenceroute_operator::register::place::wanted;
use presenceroute_operator::register::{Change, Failure, Known, Outcome, Place, Record, Registrar, Spare};
use secrecy::SecretString;

use crate::organisation::{CLIENT_SECRET, Organisation, SIGNING_SECRET};

/// A minute longer than any look is trusted.
pub(crate) const UNTIL_THE_NEXT_LOOK: Duration = Duration::from_secs(390);

pub(crate) struct Route {
    pub(crate) object: PresenceRoute,
    pub(crate) client: OAuthClient,
    pub(crate) signing_secret: String,
    pub(crate) record: Record,
    pub(crate) secret_registered: bool,
    pub(crate) contested: bool,
}

/// A registration that is as it should be, and what was done for it.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) registration: Registration,
    pub(crate) change: Option<Change>,
    pub(crate) verifiable: bool,
    pub(crate) trusted_for: Duration,
}

impl Route {
    pub(crate) fn new(organisation: &Organisation, name: &str) -> Self {
        let yaml = format!(
            r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {{name: {name}, namespace: presence, uid: uid-of-{name}}}
spec:
  genesys: {{apiUrl: "{}", credentialsSecretRef: {{name: oauth}}}}
  source: {{webhook: {{signingSecretRef: {{name: webhook}}}}}}
  endpoint: {{url: "https://presence.example.com/{name}"}}
  routes: [{{eventType: "presence:state:changed", topic: states}}]
  kafka: {{bootstrapServers: ["kafka:9092"]}}
"#,
            organisation.access().api_url
        );
        Self {
            object: serde_saphyr::from_str(&yaml).unwrap(),
            client: OAuthClient { id: "client".to_owned(), secret: SecretString::from(CLIENT_SECRET) },
            signing_secret: SIGNING_SECRET.to_owned(),
            record: Record::default(),
            secret_registered: false,
            contested: false,
        }
    }

    pub(crate) fn webhook(&mut self) -> &mut Webhook {
        self.object.spec.source.webhook.as_mut().unwrap()
    }

    pub(crate) fn uid(&self) -> String {
        self.object.metadata.uid.clone().unwrap()
    }

    pub(crate) fn move_to(&mut self, organisation: &Organisation) {
        self.object.spec.genesys.api_url = Some(organisation.access().api_url);
    }

    pub(crate) fn rotate(&mut self, signing_secret: &str) {
        self.signing_secret = signing_secret.to_owned();
        self.secret_registered = false;
    }

    fn model(&self) -> Model {
        let references = References {
            oauth_client: Ok(self.client.clone()),
            genesys_ca: None,
            signing_secret: Some(Ok(SecretString::from(self.signing_secret.as_str()))),
            mounted: Vec::new(),
            certificates: Vec::new(),
        };
        validate(&self.object, references).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn wanted(&self) -> RegistrationStatus {
        wanted(&self.model(), &self.object.spec.genesys, &self.client)
    }

    /// One look, as a reconcile has it.
    pub(crate) async fn look(&mut self, registrar: &Registrar) -> Result<Registered, Failure> {
        self.look_with(registrar, false).await
    }

    /// One look after the relays have told of a wrong secret.
    pub(crate) async fn look_with(
        &mut self,
        registrar: &Registrar,
        secret_drifted: bool,
    ) -> Result<Registered, Failure> {
        let wanted = self.wanted();
        if !self.record.knows(&wanted.location()) {
            registrar.begin(&self.uid(), &wanted.location());
        }
        if self.contested {
            self.record = self.record.clone().without_lost(&wanted);
        }
        self.record = self.record.clone().moved_to(&wanted);
        let secret = SecretString::from(self.signing_secret.as_str());
        match registrar.ensure(&self.model(), &secret, self.known(secret_drifted)).await {
            Outcome::Failed(failure) => Err(failure),
            Outcome::Contested(failure) => {
                self.record = self.record.clone().disowned();
                self.contested = true;
                Err(failure)
            }
            Outcome::Postponed(wait) => panic!("it was not in order, and was postponed for {wait:?}"),
            Outcome::Registered { registration, verifiable, change, secret_sent, trusted_for } => {
                self.secret_registered |= secret_sent;
                self.contested = false;
                let id = Some(registration.id.clone());
                self.record = self.record.clone().confirmed(RegistrationStatus { id, ..wanted });
                Ok(Registered { registration, change, verifiable, trusted_for })
            }
        }
    }

    fn known(&self, secret_drifted: bool) -> Known<'_> {
        Known {
            id: self.record.id(),
            url: self.record.current.as_ref().map(|current| current.spec.url.as_str()),
            contested: self.contested,
            confirmed: self.record.confirms(&self.wanted()),
            in_order: false,
            secret_registered: self.secret_registered,
            secret_drifted,
        }
    }

    /// One look at a route that was in order when it was last seen.
    pub(crate) async fn look_in_order(&self, registrar: &Registrar) -> Outcome {
        let secret = SecretString::from(self.signing_secret.as_str());
        let known = Known { in_order: true, ..self.known(false) };
        registrar.ensure(&self.model(), &secret, known).await
    }

    /// Tries to remove what is at former places, and gives the last failure.
    pub(crate) async fn clear_former(&mut self, registrar: &Registrar) -> Result<(), Failure> {
        let mut result = Ok(());
        for place in std::mem::take(&mut self.record.former) {
            let spare = Spare { id: self.record.id(), but_for_urls: &[] };
            if let Err(failure) = self.clear(registrar, &place, spare).await {
                result = Err(failure);
                self.record.former.push(place);
            }
        }
        result
    }

    /// Removes the registration, as the deletion of the route does.
    pub(crate) async fn deregister(&self, registrar: &Registrar) -> Result<(), Failure> {
        let url = self.object.spec.endpoint_url().unwrap();
        for Place { place, urls } in self.record.clone().places(url) {
            self.clear(registrar, &place, Spare { id: None, but_for_urls: &urls }).await?;
        }
        Ok(())
    }

    async fn clear(
        &self,
        registrar: &Registrar,
        place: &RegistrationLocation,
        spare: Spare<'_>,
    ) -> Result<(), Failure> {
        let api = place.access.api.clone();
        let access = Access {
            api_url: api.api_url,
            token_path: api.token_path,
            event_bridges_path: api.event_bridges_path,
            token_request: api.token_request,
            client_id: self.client.id.clone(),
            client_secret: self.client.secret.clone(),
            ca_pem: None,
        };
        registrar.clear(&self.uid(), place, Ok(access), spare).await
    }
}

/// Lets so much time pass at once.
pub(crate) async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
