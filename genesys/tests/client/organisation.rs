//! A simulated organisation, and a client of it.

use genesys_simulator::{Config, OauthClient, Running, Simulator};
use presenceroute_core::genesys_api::{RegistrationSpec, RetryPolicy, TokenRequest};
use presenceroute_genesys::{Access, DesiredRegistration, EventBridges, Genesys, Limits};
use secrecy::SecretString;
use serde_json::{Value, json};

pub(crate) const NAME: &str = "presence/contact-centre";
pub(crate) const CLIENT_SECRET: &str = "client-secret-of-the-test";
pub(crate) const SIGNING_SECRET: &str = "signing-secret-of-the-test";
pub(crate) const TOKENS: &str = "POST /api/v2/oauth/token";
pub(crate) const CREATIONS: &str = "POST /api/v2/analytics/events/eventbridges";
pub(crate) const LISTINGS: &str = "GET /api/v2/analytics/events/eventbridges";

/// One simulated organisation and a client of it.
pub(crate) struct Organisation {
    pub(crate) simulator: Simulator,
    pub(crate) running: Running,
    pub(crate) genesys: Genesys,
}

impl Organisation {
    pub(crate) async fn new() -> Self {
        Self::with(Config::default(), Limits::default()).await
    }

    /// Knows one OAuth client.
    pub(crate) async fn with(config: Config, limits: Limits) -> Self {
        let client = OauthClient { id: "client".to_owned(), secret: SecretString::from(CLIENT_SECRET) };
        Self::open(Config { client: Some(client), ..config }, limits).await
    }

    /// Takes any OAuth client, unless the configuration names one.
    pub(crate) async fn open(config: Config, limits: Limits) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let simulator = Simulator::new(Config { listen, ..config }).unwrap();
        let running = simulator.start().await.unwrap();
        Self { simulator, running, genesys: Genesys::with_limits(limits) }
    }

    pub(crate) fn access(&self) -> Access {
        Access {
            api_url: format!("http://{}", self.running.address()),
            login_url: None,
            token_path: "/api/v2/oauth/token".to_owned(),
            event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
            token_request: TokenRequest::Json,
            client_id: "client".to_owned(),
            client_secret: SecretString::from(CLIENT_SECRET),
            ca_pem: None,
        }
    }

    pub(crate) fn event_bridges(&self) -> EventBridges {
        self.genesys.client(self.access()).unwrap().event_bridges()
    }

    pub(crate) fn calls(&self, route: &str) -> u64 {
        self.simulator.request_counts().by_route.get(route).copied().unwrap_or(0)
    }

    /// From now on, calls to the registrations, but not to the token endpoint, suffer this.
    pub(crate) fn suffers(&self, fault: Value) {
        self.set_faults(json!([{"match": {"path": "/api/v2/analytics"}, "do": fault}]));
    }

    pub(crate) fn set_faults(&self, rules: Value) {
        self.simulator.set_faults(serde_json::from_value(rules).unwrap());
    }
}

pub(crate) fn named(name: &str) -> DesiredRegistration {
    DesiredRegistration {
        spec: RegistrationSpec {
            name: name.to_owned(),
            enabled: true,
            url: "https://presence.example.com/eventbridge/presence".to_owned(),
            event_types: vec!["presence:state:changed".to_owned(), "presence:status:changed".to_owned()],
            retry_policy: RetryPolicy::default(),
        },
        secret: SecretString::from(SIGNING_SECRET),
    }
}

pub(crate) fn desired() -> DesiredRegistration {
    named(NAME)
}
