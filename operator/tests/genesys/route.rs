//! A route between two attempts to register it: what the status and the Secret `NAME-signing` hold.

use std::time::Duration;

use presenceroute_crds::PresenceRoute;
use presenceroute_crds::spec::{AmazonEventBridge, Webhook};
use presenceroute_genesys::{Access, Registration};
use presenceroute_manifest::dereference::{OAuthClient, PushCredential, References};
use presenceroute_manifest::validate::{Model, validate};
use presenceroute_operator::registration::desired::Desired;
use presenceroute_operator::registration::execute::{CREATE_TIMEOUT, Executor, Outcome};
use presenceroute_operator::registration::failure::Failure;
use presenceroute_operator::registration::objects::ObservedObject;
use presenceroute_operator::registration::plan::{Applied, Change};
use presenceroute_operator::registration::record::{CleanupTarget, RegistrationRecord};
use presenceroute_operator::registration::schedule::Known;
use secrecy::SecretString;
use serde_json::json;

use crate::organisation::{CLIENT_SECRET, Organisation, SIGNING_SECRET};

/// A minute longer than any observation is trusted.
pub(crate) const UNTIL_THE_NEXT_ONE: Duration = Duration::from_secs(390);

pub(crate) struct Route {
    pub(crate) object: PresenceRoute,
    pub(crate) client: OAuthClient,
    pub(crate) signing_secret: String,
    pub(crate) record: RegistrationRecord,
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
    pub(crate) others: Vec<String>,
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
            record: RegistrationRecord::default(),
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

    fn owner(&self) -> String {
        format!("presence/{}", self.object.metadata.name.as_deref().unwrap())
    }

    pub(crate) fn move_to(&mut self, organisation: &Organisation) {
        self.object.spec.genesys.api_url = Some(organisation.access().api_url);
    }

    pub(crate) fn rotate(&mut self, signing_secret: &str) {
        self.signing_secret = signing_secret.to_owned();
        self.secret_registered = false;
    }

    /// A route whose events come by Amazon EventBridge and a queue. The organisation is called as a real one.
    pub(crate) fn with_integration(organisation: &Organisation, name: &str) -> Self {
        let mut route = Self::new(organisation, name);
        let queue_url = "https://sqs.eu-west-1.amazonaws.com/123456789012/presence";
        route.object.spec.source = serde_json::from_value(json!({"amazonEventBridge": {
            "topics": ["v2.users.{id}.presence"], "awsAccountId": "123456789012", "awsRegion": "eu-west-1",
            "sqs": {"queueUrl": queue_url},
        }}))
        .unwrap();
        route.object.spec.endpoint = None;
        route.object.spec.genesys.login_url = route.object.spec.genesys.api_url.clone();
        route.object.spec.routes[0].event_type = "v2.users.{id}.presence".into();
        route
    }

    pub(crate) fn event_bridge(&mut self) -> &mut AmazonEventBridge {
        self.object.spec.source.amazon_event_bridge.as_mut().unwrap()
    }

    fn model(&self) -> Model {
        let is_signed = self.object.spec.source.webhook.is_some();
        let references = References {
            oauth_client: Ok(self.client.clone()),
            genesys_ca: None,
            push_credential: is_signed.then(|| PushCredential {
                value: Ok(SecretString::from(self.signing_secret.as_str())),
                secret_version: None,
            }),
            mounted: Vec::new(),
            certificates: Vec::new(),
        };
        validate(&self.object, references).unwrap_or_else(|problems| panic!("{problems:?}"))
    }

    fn desired(&self) -> Desired {
        let secret = SecretString::from(self.signing_secret.as_str());
        let model = self.model();
        Desired::of(&model, &self.object.spec.genesys, &secret).unwrap_or_else(|problem| panic!("{problem}"))
    }

    /// One attempt, as a reconcile makes it.
    pub(crate) async fn register(&mut self, executor: &Executor) -> Result<Registered, Failure> {
        self.register_with(executor, false).await
    }

    /// One attempt after the relays have reported another secret.
    pub(crate) async fn register_with(
        &mut self,
        executor: &Executor,
        secret_drifted: bool,
    ) -> Result<Registered, Failure> {
        let (applied, trusted_for) = self.attempt(executor, secret_drifted).await?;
        let ObservedObject::Registration(registration) = applied.registration else {
            panic!("it is no registration: {:?}", applied.registration)
        };
        Ok(Registered {
            registration,
            change: applied.change,
            verifiable: applied.is_verifiable,
            trusted_for,
            others: applied.others,
        })
    }

    /// One attempt, and what it came to.
    pub(crate) async fn attempt(
        &mut self,
        executor: &Executor,
        secret_drifted: bool,
    ) -> Result<(Applied, Duration), Failure> {
        let desired = self.desired();
        if !self.record.knows(&desired.location) {
            executor.cache().begin(&self.uid(), &desired.location);
        }
        self.record = self.record.clone().intended(&desired.status(), self.contested);
        if self.record.is_unauthenticated() {
            executor.authenticate(&self.uid(), desired.clone()).await?;
            self.record = self.record.clone().authenticated(&desired.location);
        }
        match executor.ensure(&self.uid(), desired.clone(), &self.known(secret_drifted)).await {
            Outcome::Failed(failure) => Err(failure),
            Outcome::Contested(failure) => {
                self.record = self.record.clone().disowned();
                self.contested = true;
                Err(failure)
            }
            Outcome::Postponed(wait) => panic!("it was not in order, and was postponed for {wait:?}"),
            Outcome::Registered { applied, trusted_for } => {
                self.secret_registered |= applied.secret_sent;
                self.contested = false;
                self.record = self.record.clone().registered(&desired, &applied.registration);
                Ok((*applied, trusted_for))
            }
        }
    }

    fn known(&self, secret_drifted: bool) -> Known {
        Known {
            id: self.record.id().map(str::to_owned),
            destination: self.record.destination(),
            contested: self.contested,
            confirmed: self.record.confirms(&self.desired().status()),
            in_order: false,
            secret_registered: self.secret_registered || self.desired().secret().is_none(),
            secret_drifted,
        }
    }

    /// One attempt for a route that was in order when it was last observed.
    pub(crate) async fn register_in_order(&self, executor: &Executor) -> Outcome {
        let known = Known { in_order: true, ..self.known(false) };
        executor.ensure(&self.uid(), self.desired(), &known).await
    }

    /// Tries to remove the former registrations, and returns the last failure.
    pub(crate) async fn remove_former(&mut self, executor: &Executor) -> Result<(), Failure> {
        let mut result = Ok(());
        for location in std::mem::take(&mut self.record.former) {
            let target = CleanupTarget::former(location.clone(), &self.owner());
            if let Err(failure) = self.clean_up(executor, &target, self.record.id()).await {
                result = Err(failure);
                self.record.former.push(location);
            }
        }
        result
    }

    /// Removes the registration, as the deletion of the route does.
    pub(crate) async fn deregister(&self, executor: &Executor) -> Result<(), Failure> {
        let url = self.object.spec.endpoint.as_ref().map(|endpoint| endpoint.url.as_str());
        for target in self.record.clone().targets(url, &self.owner()) {
            self.clean_up(executor, &target, None).await?;
        }
        Ok(())
    }

    async fn clean_up(
        &self,
        executor: &Executor,
        target: &CleanupTarget,
        keep_id: Option<&str>,
    ) -> Result<(), Failure> {
        let OAuthClient { id, secret } = self.client.clone();
        let access = Access::new(target.location.access.api.clone(), id, secret, None);
        executor.clean_up(&self.uid(), target, Ok(access), keep_id).await
    }
}

/// An operator's registrations, right after its start.
pub(crate) fn executor(organisation: &Organisation) -> Executor {
    Executor::new(organisation.genesys.clone(), CREATE_TIMEOUT)
}

/// Lets so much time pass at once.
pub(crate) async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
