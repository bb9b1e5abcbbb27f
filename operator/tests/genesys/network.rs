//! The way to Genesys Cloud that a route names: its certificate authority.

use presenceroute_crds::PresenceRoute;
use presenceroute_genesys::Genesys;
use presenceroute_manifest::dereference::dereference;
use presenceroute_manifest::document::Manifest;
use presenceroute_manifest::validate::validate;
use presenceroute_operator::registration::desired::Desired;
use presenceroute_operator::registration::execute::{CREATE_TIMEOUT, Executor, Outcome};
use presenceroute_operator::registration::schedule::Known;
use serde_json::json;

use crate::authority::{Authority, https};
use crate::organisation::{CLIENT_SECRET, Organisation};

#[tokio::test]
async fn the_authority_in_the_secret_of_a_route_is_trusted() {
    let organisation = Organisation::new().await;
    let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger"));
    let api_url = https(&organisation, &authority).await;
    for (trusted, reason) in [(&stranger, Some("Unreachable")), (&authority, None)] {
        let route = json!({
            "apiVersion": "presenceroute.io/v1alpha1", "kind": "PresenceRoute",
            "metadata": {"name": "one", "namespace": "presence", "uid": "1"},
            "spec": {
                "genesys": {
                    "apiUrl": api_url, "credentialsSecretRef": {"name": "oauth"},
                    "api": {"caSecretRef": {"name": "genesys-ca", "key": "bundle.pem"}},
                },
                "source": {"webhook": {"signingSecretRef": {"name": "webhook"}}},
                "endpoint": {"url": "https://presence.example.com/e"},
                "routes": [{"eventType": "presence:state:changed", "topic": "states"}],
                "kafka": {"bootstrapServers": ["kafka:9092"]},
            },
        });
        let secrets = [
            ("oauth", json!({"clientId": "client", "clientSecret": CLIENT_SECRET})),
            ("webhook", json!({"secret": "sign-me"})),
            ("genesys-ca", json!({"bundle.pem": trusted.pem})),
        ];
        let secrets = secrets
            .map(|(name, data)| json!({"kind": "Secret", "metadata": {"name": name}, "stringData": data}));
        let items: Vec<_> = secrets.into_iter().chain([route.clone()]).collect();
        let manifest = Manifest::parse(&json!({"kind": "List", "items": items}).to_string()).unwrap();
        let route: PresenceRoute = serde_json::from_value(route).unwrap();
        let references = dereference(&route.spec, &manifest).await.unwrap();
        let model = validate(&route, references).unwrap_or_else(|problems| panic!("{problems:?}"));
        let secret = model.push_credential.as_ref().unwrap().value.clone().unwrap();
        let desired = Desired::of(&model, &route.spec.genesys, &secret).unwrap();
        let executor = Executor::new(Genesys::new(), CREATE_TIMEOUT);
        let outcome = executor.ensure(&model.uid, desired, &Known::default()).await;
        let failed = match &outcome {
            Outcome::Failed(failure) => Some(failure.reason),
            _ => None,
        };
        assert_eq!(failed, reason);
    }
    assert_eq!(organisation.simulator.registrations().len(), 1);
}
