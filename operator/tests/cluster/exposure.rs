//! A route is registered once its endpoint is exposed, by the status of the Ingress or HTTPRoute itself.

use std::time::Duration;

use kube::Config;
use serde_json::{Value, json};

use crate::gateway;
use crate::operator::{Operator, Options};
use crate::stage::Stage;

/// Longer than any test.
const PATIENT: Duration = Duration::from_secs(3600);

/// No cluster has a controller of this class.
const CLASS: &str = "presenceroute-test";

async fn patient_operator(stage: &Stage) -> Operator {
    Operator::start_with(
        Config::infer().await.unwrap(),
        Some(&stage.namespace),
        Options { exposure_timeout: PATIENT, ..Options::default() },
    )
}

fn behind_ingress(stage: &Stage, name: &str) -> Value {
    let mut route = stage.route(name);
    route["spec"]["endpoint"]["ingress"] = json!({"className": CLASS});
    route
}

fn addresses(addresses: &[&str]) -> Value {
    let ingress: Vec<_> = addresses.iter().map(|address| json!({"ip": address})).collect();
    json!({"loadBalancer": {"ingress": ingress}})
}

#[tokio::test]
async fn an_ingress_without_an_address_is_not_registered() {
    let stage = Stage::new().await;
    let operator = patient_operator(&stage).await;
    stage.apply(behind_ingress(&stage, "outside")).await;
    stage.condition("outside", "RoutingLive", "True", "Live").await;
    let message = stage.condition("outside", "EndpointExposed", "False", "AddressPending").await;
    assert!(
        message.contains(&format!("Ingress/outside-relay (class {CLASS:?}) has no address")),
        "{message}"
    );
    let message = stage.condition("outside", "Registered", "False", "Waiting").await;
    assert!(message.contains("EndpointExposed names what is missing"), "{message}");
    operator.is_quiet().await;
    assert!(stage.simulator.registrations().is_empty());

    stage.report("Ingress", "outside-relay", addresses(&["192.0.2.1"])).await;
    let message = stage.condition("outside", "EndpointExposed", "True", "Exposed").await;
    assert_eq!(message, "Ingress/outside-relay has the address 192.0.2.1");
    stage.is_ready("outside").await;
    let status = stage.routes().get("outside").await.unwrap().status.unwrap();
    let exposure = status.exposure.unwrap();
    assert_eq!(
        (exposure.exposed_by.as_str(), exposure.addresses),
        ("Ingress/outside-relay", vec!["192.0.2.1".into()])
    );

    // An address that is lost takes the route out of Ready, and nothing at Genesys Cloud; a restart changes neither.
    stage.report("Ingress", "outside-relay", addresses(&[])).await;
    let message = stage.condition("outside", "Ready", "False", "AddressPending").await;
    operator.stop().await;
    let operator = patient_operator(&stage).await;
    operator.has_reconciled(1).await;
    assert_eq!(stage.condition("outside", "Ready", "False", "AddressPending").await, message);
    stage.condition("outside", "Registered", "True", "Registered").await;
    assert_eq!(stage.simulator.registrations().len(), 1);
    stage.report("Ingress", "outside-relay", addresses(&["192.0.2.2"])).await;
    stage.is_ready("outside").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn a_class_without_addresses_is_registered_at_the_timeout() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(behind_ingress(&stage, "silent")).await;
    stage.is_ready("silent").await;
    let message = stage.condition("silent", "EndpointExposed", "True", "AddressNotReported").await;
    assert!(message.contains("reports no address"), "{message}");
    // The next route of this class waits as long; a registered one does not wait again.
    operator.stop().await;
    let operator = patient_operator(&stage).await;
    stage.apply(behind_ingress(&stage, "silent-too")).await;
    stage.condition("silent-too", "EndpointExposed", "False", "AddressPending").await;
    let edit = json!({"spec": {"routes": [{"eventType": "presence:state:changed", "topic": "other"}]}});
    stage.patch("PresenceRoute", "silent", edit).await;
    stage.is_ready("silent").await;
    stage.end(operator).await;
}

/// Alone, because the Gateway API comes and goes with other tests.
#[tokio::test]
async fn a_gateway_that_refuses_the_route_is_quoted() {
    let stage = Stage::alone().await;
    gateway::install(&stage).await;
    let operator = stage.operator().await;
    let mut route = stage.route("behind");
    route["spec"]["endpoint"]["gateway"] = json!({"parentRefs": [{"name": "public", "namespace": "edge"}]});
    stage.apply(route).await;
    let message = stage.condition("behind", "EndpointExposed", "False", "GatewayPending").await;
    assert!(message.contains("Gateway edge/public has not accepted HTTPRoute/behind-relay"), "{message}");

    let refusal = [("Accepted", "False", "NotAllowedByListeners", "no listener allows this namespace")];
    gateway::report(&stage, "behind-relay", &refusal).await;
    let message = stage.condition("behind", "EndpointExposed", "False", "NotAccepted").await;
    assert!(message.ends_with("NotAllowedByListeners: no listener allows this namespace"), "{message}");
    assert_eq!(stage.condition("behind", "Ready", "False", "NotAccepted").await, message);
    let unresolved = [
        ("Accepted", "True", "Accepted", ""),
        ("ResolvedRefs", "False", "BackendNotFound", "Service behind-relay has no such port"),
    ];
    gateway::report(&stage, "behind-relay", &unresolved).await;
    let message = stage.condition("behind", "EndpointExposed", "False", "RefsNotResolved").await;
    assert!(message.ends_with("BackendNotFound: Service behind-relay has no such port"), "{message}");
    operator.is_quiet().await;
    assert!(stage.simulator.registrations().is_empty());

    gateway::accept(&stage, "behind-relay").await;
    stage.is_ready("behind").await;
    assert_eq!(stage.simulator.registrations().len(), 1);
    stage.end(operator).await;
}
