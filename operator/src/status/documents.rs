//! Routes with the statuses that the operator writes, as files: what the health checks of GitOps tools are tested with
//! in tests/gitops. To write them anew: `UPDATE=1 cargo test -p presenceroute-operator --lib documents`

use std::path::Path;
use std::time::Duration;
use std::{env, fs};

use k8s_openapi::jiff::Timestamp;
use kube::CustomResourceExt;
use presenceroute_crds::status::{EndpointStatus, RegistrationStatus, SigningPhase, SigningStatus};
use presenceroute_crds::{PresenceRoute, PresenceRouteStatus};
use presenceroute_manifest::dereference::SecretProblem;
use serde_json::{Value, json};

use super::conditions::{Delays, DeploymentFacts, Observed, RefusalReason, RouteFacts, RoutingFacts, build};
use crate::exposure::Exposure;
use crate::finalizer::FINALIZER;
use crate::registration::RegistrationState;
use crate::registration::record::RegistrationRecord;

const FOLDER: &str = "../tests/gitops/testdata";

#[test]
fn the_committed_documents_are_what_the_operator_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    let mut different = Vec::new();
    for (name, document) in documents() {
        let file = folder.join(format!("{name}.json"));
        let written = serde_json::to_string_pretty(&document).unwrap() + "\n";
        if env::var_os("UPDATE").is_some() {
            fs::write(&file, &written).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != written {
            different.push(name);
        }
    }
    assert!(
        different.is_empty(),
        "{FOLDER}: {different:?} are not what the operator writes; write them anew: \
         UPDATE=1 cargo test -p presenceroute-operator --lib documents"
    );
}

fn documents() -> Vec<(&'static str, Value)> {
    let ready = status(ready());
    let missing = SecretProblem::Missing("genesys-webhook".into());
    let mut deleting = document(1, &ready);
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:00Z");
    deleting["metadata"]["finalizers"] = json!([FINALIZER]);
    let mut new = document(1, &PresenceRouteStatus::default());
    new["status"] = default_status();
    vec![
        ("new", new),
        (
            "starting",
            document(
                1,
                &status(RouteFacts {
                    deployment: Some(DeploymentFacts { ready: 0, ..deployment() }),
                    routing: RoutingFacts { live: 0, ready: 0, ..routing() },
                    registration: RegistrationState::Waiting {
                        what: "waiting for a relay pod to become ready",
                        check_in: None,
                    },
                    ..self::ready()
                }),
            ),
        ),
        ("ready", document(1, &ready)),
        ("edited", document(2, &ready)),
        (
            "secret-missing",
            document(1, &status(RouteFacts { relay_secret_problems: vec![missing], ..self::ready() })),
        ),
        (
            "topic-missing",
            document(
                1,
                &status(RouteFacts {
                    routing: RoutingFacts { missing_topics: vec!["gen-presence-state".into()], ..routing() },
                    ..self::ready()
                }),
            ),
        ),
        ("suspended", document(1, &status(RouteFacts { suspended: true, ..self::ready() }))),
        (
            "scaled-to-zero",
            document(
                1,
                &status(RouteFacts {
                    deployment: Some(DeploymentFacts { wanted: 0, replicas: 0, ready: 0, ..deployment() }),
                    routing: RoutingFacts { live: 0, ready: 0, ..routing() },
                    ..self::ready()
                }),
            ),
        ),
        (
            "rollout-stalled",
            document(
                1,
                &status(RouteFacts {
                    deployment: Some(DeploymentFacts { outdated: 1, stalled: true, ..deployment() }),
                    delays: Delays { none_ready: None, rollout: Some(Duration::from_secs(600)) },
                    ..self::ready()
                }),
            ),
        ),
        (
            "invalid",
            document(
                2,
                &build(
                    Some(&ready),
                    Some(2),
                    Observed::Refused {
                        reason: RefusalReason::Invalid,
                        problems: vec!["spec.routes[0].when: ERROR: unexpected end of the expression".into()],
                        deployment: Some(deployment()),
                    },
                    now(),
                ),
            ),
        ),
        (
            "corrected",
            document(
                3,
                &build(
                    Some(&build(
                        Some(&ready),
                        Some(2),
                        Observed::Refused {
                            reason: RefusalReason::Invalid,
                            problems: vec!["spec.routes: wrong".into()],
                            deployment: None,
                        },
                        now(),
                    )),
                    Some(3),
                    Observed::Valid(Box::new(self::ready())),
                    now(),
                ),
            ),
        ),
        ("deleting", deleting),
    ]
}

/// What the API server gives a new object.
fn default_status() -> Value {
    let crd = serde_json::to_value(PresenceRoute::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"].clone()
}

fn document(generation: i64, status: &PresenceRouteStatus) -> Value {
    json!({
        "apiVersion": "presenceroute.io/v1alpha1",
        "kind": "PresenceRoute",
        "metadata": {"name": "contact-centre", "namespace": "presence", "generation": generation},
        "status": status,
    })
}

fn now() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn status(facts: RouteFacts) -> PresenceRouteStatus {
    build(None, Some(1), Observed::Valid(Box::new(facts)), now())
}

fn deployment() -> DeploymentFacts {
    DeploymentFacts { wanted: 2, replicas: 2, ready: 2, outdated: 0, refused: None, stalled: false }
}

fn routing() -> RoutingFacts {
    RoutingFacts {
        revision: "7ef1d031f265".into(),
        routes: 3,
        live: 2,
        ready: 2,
        lagging: Vec::new(),
        missing_topics: Vec::new(),
        forbidden_topics: Vec::new(),
        unreachable: None,
    }
}

fn ready() -> RouteFacts {
    let registration: RegistrationStatus = serde_json::from_value(json!({
        "id": "1", "name": "presence/contact-centre", "access": {
            "clientFingerprint": "c", "credentialsSecretRef": {"name": "genesys-oauth"},
            "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/t", "eventBridgesPath": "/b", "tokenRequest": "Json",
        },
        "url": "https://presence.example.com/eventbridge/presence", "enabled": true, "eventTypes": ["presence:state:changed"],
        "retryPolicy": {"maxRetries": 3, "backoffMultiplier": 2},
    }))
    .unwrap();
    RouteFacts {
        call_secret_problems: Vec::new(),
        relay_secret_problems: Vec::new(),
        weak_secret: None,
        apply_error: None,
        deployment: Some(deployment()),
        obstacle: None,
        delays: Delays::default(),
        selector: "presenceroute.io/route=contact-centre".into(),
        routing: routing(),
        signing: Some(SigningStatus {
            revision: "s".into(),
            phase: SigningPhase::Stable,
            secret_version: None,
            retire_time: None,
        }),
        api_key: None,
        exposure: Some(Exposure {
            is_exposed: true,
            reason: "ServiceOnly",
            message:
                "Service/contact-centre-relay is all that the route makes; what leads to it is not watched"
                    .into(),
            exposed_by: "Service/contact-centre-relay".into(),
            addresses: Vec::new(),
            check_in: None,
        }),
        endpoint: Some(EndpointStatus::default()),
        relay_version: Some("0.1.0".into()),
        registration: RegistrationState::Registered {
            record: Box::new(RegistrationRecord { current: Some(registration.into()), former: Vec::new() }),
            left: None,
            others: Vec::new(),
            is_verifiable: true,
            integration: None,
            trusted_for: Duration::from_secs(300),
        },
        name_pending: None,
        suspended: false,
    }
}
