//! A running simulator and a client that has a token for it.

use genesys_simulator::{Config, Running, Simulator};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) const EVENT_BRIDGES: &str = "/api/v2/analytics/events/eventbridges";
pub(crate) const INTEGRATIONS: &str = "/api/v2/integrations";
pub(crate) const SECRET: &str = "correct horse battery staple";

pub(crate) struct Organisation {
    pub(crate) simulator: Simulator,
    pub(crate) http: Client,
    token: String,
    running: Running,
}

impl Organisation {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// The default with `change` applied, and with retries after 1 ms.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            retry_base_delay: Duration::from_millis(1),
            ..Config::default()
        };
        change(&mut config);
        let simulator = Simulator::new(config).unwrap();
        let running = simulator.start().await.unwrap();
        let http = Client::builder().no_proxy().build().unwrap();
        let mut organisation = Self { simulator, http, token: String::new(), running };
        organisation.token = organisation.token("client").await;
        organisation
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.address())
    }

    /// A new token for that client.
    pub(crate) async fn token(&self, client: &str) -> String {
        let credentials =
            json!({"grant_type": "client_credentials", "client_id": client, "client_secret": "secret"});
        let answer = self.http.post(self.url("/api/v2/oauth/token")).json(&credentials).send().await.unwrap();
        json_of(answer).await["access_token"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> Response {
        self.request(method, path).json(body).send().await.unwrap()
    }

    /// Creates a registration and returns its id.
    pub(crate) async fn register(&self, draft: &Value) -> String {
        let answer = json_of(self.send(Method::POST, EVENT_BRIDGES, draft).await).await;
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Creates an integration with that suffix, configures and enables it, and returns its id.
    pub(crate) async fn integrate(&self, suffix: &str) -> String {
        let draft = json!({"integrationType": {"id": "amazon-eventbridge-source"}, "name": suffix});
        let created = json_of(self.send(Method::POST, INTEGRATIONS, &draft).await).await;
        let id = created["id"].as_str().unwrap();
        let config = json!({"name": suffix, "version": 1, "properties": properties(suffix)});
        let configured =
            self.send(Method::PUT, &format!("{INTEGRATIONS}/{id}/config/current"), &config).await;
        assert_eq!(configured.status(), 200);
        let enable = json!({"intendedState": "ENABLED"});
        let enabled = self.send(Method::PATCH, &format!("{INTEGRATIONS}/{id}"), &enable).await;
        assert_eq!(enabled.status(), 200);
        id.to_owned()
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }
}

/// The properties of an integration that sends presence, routing status and activity.
pub(crate) fn properties(suffix: &str) -> Value {
    json!({
        "eventSourceSuffix": suffix,
        "awsAccountId": "123456789012",
        "awsAccountRegion": "eu-west-1",
        "eventFilter": ["v2.users.{id}.presence", "v2.users.{id}.routingStatus", "v2.users.{id}.activity"],
    })
}

/// A complete registration of two event types at `url`.
pub(crate) fn draft(name: &str, url: &str) -> Value {
    json!({
        "name": name,
        "type": "WEBHOOK",
        "enabled": true,
        "url": url,
        "secret": SECRET,
        "eventTypes": ["presence:state:changed", "presence:status:changed"],
        "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
    })
}

/// `draft` with one field set to something else.
pub(crate) fn draft_with(name: &str, url: &str, field: &str, value: Value) -> Value {
    let mut draft = draft(name, url);
    draft[field] = value;
    draft
}

pub(crate) async fn json_of(response: Response) -> Value {
    response.json().await.unwrap()
}
