//! Changes on the way: what Genesys Cloud calls is served at every moment of an edit, and pods stay as many as they were.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use presenceroute_core::relay_config::RelayConfig;
use presenceroute_crds::status::{EndpointPhase, EndpointStatus};
use presenceroute_manifest::build::CONFIG_HASH_ANNOTATION;
use serde_json::{Value, json};

use crate::stage::{Stage, secret, until};

const STALLED: &str = "kafka:9092 cannot be reached";

async fn endpoint(stage: &Stage, route: &str) -> EndpointStatus {
    stage.routes().get(route).await.unwrap().status.unwrap().endpoint.unwrap()
}

async fn is_in_phase(stage: &Stage, route: &str, phase: EndpointPhase) {
    until(&format!("the change is {phase:?}"), Duration::from_secs(30), async || {
        let endpoint = endpoint(stage, route).await;
        if endpoint.phase == phase { Ok(()) } else { Err(endpoint) }
    })
    .await;
}

async fn config(stage: &Stage, route: &str) -> RelayConfig {
    let map = stage.get("ConfigMap", &format!("{route}-relay")).await.unwrap();
    serde_saphyr::from_str(map.data["data"]["relay.yaml"].as_str().unwrap()).unwrap()
}

fn registered_url(stage: &Stage) -> String {
    let registrations = stage.simulator.registrations();
    assert_eq!(registrations.len(), 1);
    registrations[0].url.to_string()
}

async fn is_told(stage: &Stage, url: &str) {
    until("Genesys Cloud is told", Duration::from_secs(40), async || {
        let registered = registered_url(stage);
        if registered == url { Ok(()) } else { Err(registered) }
    })
    .await;
}

/// Fails unless every pod was started with the configuration that the Deployment's template names.
async fn all_pods_have_the_newest(stage: &Stage, route: &str) {
    let deployment: Api<Deployment> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let deployment = deployment.get(&format!("{route}-relay")).await.unwrap();
    let template = deployment.spec.unwrap().template.metadata.unwrap();
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
    for pod in pods.list(&Default::default()).await.unwrap() {
        let hash = &template.annotations.as_ref().unwrap()[CONFIG_HASH_ANNOTATION];
        assert_eq!(&pod.annotations()[CONFIG_HASH_ANNOTATION], hash, "{}", pod.name_any());
    }
}

/// The Service's ports and the pods' ports, each as NAME NUMBER.
async fn ports(stage: &Stage, route: &str) -> (Vec<String>, Vec<String>) {
    let name = format!("{route}-relay");
    let services: Api<Service> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let service = services.get(&name).await.unwrap().spec.unwrap();
    let mut of_service: Vec<_> = service
        .ports
        .unwrap()
        .into_iter()
        .map(|port| format!("{} {}", port.name.unwrap(), port.port))
        .collect();
    let deployments: Api<Deployment> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let pod = deployments.get(&name).await.unwrap().spec.unwrap().template.spec.unwrap();
    let mut of_pods: Vec<_> = pod.containers[0]
        .ports
        .iter()
        .flatten()
        .map(|port| format!("{} {}", port.name.as_ref().unwrap(), port.container_port))
        .filter(|port| !port.starts_with("admin"))
        .collect();
    of_service.sort();
    of_pods.sort();
    (of_service, of_pods)
}

#[tokio::test]
async fn a_new_path_is_served_by_every_pod_before_genesys_is_told() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("moving")).await;
    stage.is_ready("moving").await;
    let (old, id) = (registered_url(&stage), stage.simulator.registrations()[0].id);
    let new = old.replace("/eventbridge/presence", "/moved");

    stage.relays.cannot_reach_kafka(Some(STALLED));
    stage.patch("PresenceRoute", "moving", json!({"spec": {"endpoint": {"url": new}}})).await;
    let message = stage.condition("moving", "Registered", "False", "EndpointChanging").await;
    assert!(message.contains(&new), "{message}");
    let both = config(&stage, "moving").await;
    assert_eq!(
        (both.path.as_str(), both.former_paths.as_slice()),
        ("/moved", ["/eventbridge/presence".to_owned()].as_slice())
    );
    // An operator that is restarted in the middle goes on, and repairs what is registered with the former URL.
    operator.stop().await;
    let operator = stage.operator().await;
    operator.has_reconciled(1).await;
    assert_eq!((registered_url(&stage), config(&stage, "moving").await), (old, both));

    stage.relays.cannot_reach_kafka(None);
    is_told(&stage, &new).await;
    all_pods_have_the_newest(&stage, "moving").await;
    stage.is_ready("moving").await;
    is_in_phase(&stage, "moving", EndpointPhase::Stable).await;
    assert_eq!(config(&stage, "moving").await.former_paths, [""; 0]);
    assert_eq!((registered_url(&stage), stage.simulator.registrations()[0].id), (new, id));
    stage.end(operator).await;
}

#[tokio::test]
async fn an_edit_that_is_taken_back_is_never_told() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(stage.route("wavering")).await;
    stage.is_ready("wavering").await;
    let old = registered_url(&stage);
    stage.relays.cannot_reach_kafka(Some(STALLED));
    for path in ["/one", "/two"] {
        let url = old.replace("/eventbridge/presence", path);
        stage.patch("PresenceRoute", "wavering", json!({"spec": {"endpoint": {"url": url}}})).await;
        stage.condition("wavering", "Registered", "False", "EndpointChanging").await;
        let endpoint = endpoint(&stage, "wavering").await;
        let former: Vec<_> = endpoint.former.iter().map(|former| &former.endpoint.url).collect();
        assert_eq!(former, [&old], "what no relay serves was not told");
    }
    stage.patch("PresenceRoute", "wavering", json!({"spec": {"endpoint": {"url": old}}})).await;
    is_in_phase(&stage, "wavering", EndpointPhase::Stable).await;
    stage.relays.cannot_reach_kafka(None);
    stage.is_ready("wavering").await;
    let asked = stage.simulator.requests(0);
    assert!(asked.iter().all(|request| request.method != "PUT"), "{asked:#?}");
    stage.end(operator).await;
}

#[tokio::test]
async fn both_protocols_are_served_while_tls_is_switched() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let mut route = stage.route("switching");
    route["spec"]["endpoint"]["ingress"] = json!({"className": "nginx"});
    stage.apply(route).await;
    stage.is_ready("switching").await;
    let old = registered_url(&stage);
    let plain = (vec!["http 8080".to_owned()], vec!["http 8080".to_owned()]);
    let both = (
        vec!["http 8080".to_owned(), "https 443".to_owned()],
        vec!["http 8080".to_owned(), "https 8443".to_owned()],
    );
    let encrypted = (vec!["https 443".to_owned()], vec!["https 8080".to_owned()]);
    let backend = async || {
        let ingress = stage.get("Ingress", "switching-relay").await.unwrap();
        let rules = ingress.data["spec"]["rules"].as_array().unwrap().clone();
        let port =
            |rule: &Value| rule["http"]["paths"][0]["backend"]["service"]["port"]["number"].as_i64().unwrap();
        rules.iter().map(port).collect::<Vec<_>>()
    };
    assert_eq!(ports(&stage, "switching").await, plain);

    stage.apply(secret("relay-tls", json!({"tls.crt": "pem", "tls.key": "pem"}))).await;
    stage.relays.cannot_reach_kafka(Some(STALLED));
    let tls = json!({"certificateSecretRef": {"name": "relay-tls"}});
    // The URL is another one, so that two endpoints differ by more than the protocol.
    let new = old.replace("/eventbridge/presence", "/encrypted");
    stage
        .patch(
            "PresenceRoute",
            "switching",
            json!({"spec": {"relay": {"tls": tls}, "endpoint": {"url": new}}}),
        )
        .await;
    stage.condition("switching", "Registered", "False", "EndpointChanging").await;
    assert_eq!(ports(&stage, "switching").await, both);
    assert_eq!((registered_url(&stage), backend().await), (old.clone(), vec![8080]));
    stage.relays.cannot_reach_kafka(None);
    is_told(&stage, &new).await;
    assert_eq!(backend().await, [443, 443], "the former path is served by the new port, too");
    is_in_phase(&stage, "switching", EndpointPhase::Stable).await;
    stage.is_ready("switching").await;
    assert_eq!((ports(&stage, "switching").await, backend().await), (encrypted, vec![443]));

    // The way back, with the URL as it is.
    stage.relays.cannot_reach_kafka(Some(STALLED));
    stage.patch("PresenceRoute", "switching", json!({"spec": {"relay": {"tls": null}}})).await;
    stage.condition("switching", "Registered", "False", "EndpointChanging").await;
    assert_eq!((ports(&stage, "switching").await, backend().await), (both, vec![443]));
    let deployment = stage.get("Deployment", "switching-relay").await.unwrap();
    assert!(
        deployment.data["spec"]["template"].to_string().contains("relay-tls"),
        "new pods have no certificate"
    );
    stage.relays.cannot_reach_kafka(None);
    stage.is_ready("switching").await;
    is_in_phase(&stage, "switching", EndpointPhase::Stable).await;
    assert_eq!((ports(&stage, "switching").await, backend().await), (plain, vec![8080]));
    assert_eq!(registered_url(&stage), new);
    stage.end(operator).await;
}

#[tokio::test]
async fn tls_is_switched_off_although_its_secret_is_gone() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    stage.apply(secret("relay-tls", json!({"tls.crt": "pem", "tls.key": "pem"}))).await;
    let mut route = stage.route("careless");
    route["spec"]["relay"]["tls"] = json!({"certificateSecretRef": {"name": "relay-tls"}});
    stage.apply(route).await;
    stage.is_ready("careless").await;
    stage.relays.cannot_reach_kafka(Some(STALLED));
    stage.patch("PresenceRoute", "careless", json!({"spec": {"relay": {"tls": null}}})).await;
    stage.condition("careless", "Registered", "False", "EndpointChanging").await;
    stage.delete("Secret", "relay-tls").await;
    // A pod that mounts it could not start.
    until("no new pod mounts the Secret", Duration::from_secs(30), async || {
        let deployment = stage.get("Deployment", "careless-relay").await.unwrap();
        let template = deployment.data["spec"]["template"].to_string();
        if template.contains("relay-tls") { Err(template) } else { Ok(()) }
    })
    .await;
    stage.relays.cannot_reach_kafka(None);
    is_in_phase(&stage, "careless", EndpointPhase::Stable).await;
    stage.is_ready("careless").await;
    stage.end(operator).await;
}

#[tokio::test]
async fn what_leads_to_a_former_endpoint_stays_until_genesys_is_told() {
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let mut route = stage.route("exposed");
    route["spec"]["endpoint"]["service"] = json!({"type": "NodePort"});
    route["spec"]["endpoint"]["ingress"] = json!({"className": "nginx", "tlsSecretName": "old-tls"});
    stage.apply(route).await;
    stage.is_ready("exposed").await;
    let old = registered_url(&stage);
    let hosts = async || {
        let ingress = stage.get("Ingress", "exposed-relay").await?;
        let spec = ingress.data["spec"].clone();
        let of = |list: &str, field: fn(&Value) -> Value| {
            spec[list].as_array().into_iter().flatten().map(field).collect::<Vec<_>>()
        };
        Some((of("rules", |rule| rule["host"].clone()), of("tls", |tls| tls["secretName"].clone())))
    };
    let (old_host, new_host) = (format!("exposed.{}.example.com", stage.namespace), "new.example.com");
    let service_type =
        async || stage.get("Service", "exposed-relay").await.unwrap().data["spec"]["type"].clone();

    // Another host, and another type of the Service.
    stage.relays.cannot_reach_kafka(Some(STALLED));
    let new = old.replace(&old_host, new_host).replace("/eventbridge/presence", "/new");
    let endpoint =
        json!({"url": new, "service": {"type": "ClusterIP"}, "ingress": {"tlsSecretName": "new-tls"}});
    stage.patch("PresenceRoute", "exposed", json!({"spec": {"endpoint": endpoint}})).await;
    stage.condition("exposed", "Registered", "False", "EndpointChanging").await;
    let both = Some((vec![json!(new_host), json!(old_host)], vec![json!("new-tls"), json!("old-tls")]));
    assert_eq!((hosts().await, service_type().await), (both.clone(), json!("NodePort")));
    stage.relays.cannot_reach_kafka(None);
    is_told(&stage, &new).await;
    assert_eq!((hosts().await, service_type().await), (both, json!("NodePort")));
    is_in_phase(&stage, "exposed", EndpointPhase::Stable).await;
    assert_eq!(
        (hosts().await, service_type().await),
        (Some((vec![json!(new_host)], vec![json!("new-tls")])), json!("ClusterIP"))
    );

    // No Ingress any more.
    stage.relays.cannot_reach_kafka(Some(STALLED));
    let direct = "http://exposed-relay.example.svc:8080/direct";
    let edit = json!({"spec": {"endpoint": {"url": direct, "ingress": null}}});
    stage.patch("PresenceRoute", "exposed", edit).await;
    stage.condition("exposed", "Registered", "False", "EndpointChanging").await;
    let kept = Some((vec![json!(new_host)], vec![json!("new-tls")]));
    assert_eq!((registered_url(&stage), hosts().await), (new, kept.clone()));
    stage.relays.cannot_reach_kafka(None);
    is_told(&stage, direct).await;
    assert_eq!(hosts().await, kept, "the former host is led nowhere while events are on their way");
    is_in_phase(&stage, "exposed", EndpointPhase::Stable).await;
    until("the Ingress is gone", Duration::from_secs(10), async || hosts().await.map_or(Ok(()), Err)).await;
    stage.is_ready("exposed").await;
    stage.end(operator).await;
}

/// Every number of pods that a Deployment has been given since.
fn watch_replicas(stage: &Stage, name: &str) -> Arc<Mutex<Vec<i32>>> {
    let seen = Arc::<Mutex<Vec<i32>>>::default();
    let api: Api<Deployment> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut versions = watcher(api, only).default_backoff().applied_objects().boxed();
    let noted = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(version) = versions.next().await {
            let replicas = version.ok().and_then(|deployment| deployment.spec?.replicas);
            noted.lock().extend(replicas);
        }
    });
    seen
}

#[tokio::test]
async fn pods_stay_as_many_while_an_autoscaler_takes_over_and_goes() {
    const NAME: &str = "scaled-relay";
    let stage = Stage::new().await;
    let operator = stage.operator().await;
    let mut route = stage.route("scaled");
    route["spec"]["relay"]["replicas"] = json!(4);
    stage.apply(route).await;
    stage.is_ready("scaled").await;
    let seen = watch_replicas(&stage, NAME);
    let becomes = async |what: &str, expected: i64| {
        until(what, Duration::from_secs(60), async || {
            let deployment = stage.get("Deployment", NAME).await.ok_or(json!("there is none"))?;
            let status = &deployment.data["status"];
            let is_observed = status["observedGeneration"].as_i64() == deployment.metadata.generation;
            let replicas = &deployment.data["spec"]["replicas"];
            if is_observed && *replicas == expected {
                Ok(())
            } else {
                Err(deployment.data["spec"]["replicas"].clone())
            }
        })
        .await;
    };
    let relay = |relay: Value| json!({"spec": {"relay": relay}});
    let edited = async |patch: Value| {
        stage.patch("PresenceRoute", "scaled", relay(patch)).await;
        stage.is_ready("scaled").await;
    };

    edited(json!({"autoscaling": {"minReplicas": 4, "maxReplicas": 6}})).await;
    assert!(stage.get("HorizontalPodAutoscaler", NAME).await.is_some());
    becomes("the number is kept", 4).await;
    // The autoscaler scales, and owns the number from then on.
    edited(json!({"autoscaling": {"minReplicas": 5, "maxReplicas": 6}})).await;
    becomes("the autoscaler has scaled", 5).await;
    edited(json!({"podAnnotations": {"example.com/edit": "1"}})).await;
    edited(json!({"autoscaling": {"minReplicas": 4, "maxReplicas": 6}})).await;
    becomes("a rollout keeps its number", 5).await;

    edited(json!({"autoscaling": null, "replicas": 4})).await;
    until("the autoscaler is gone", Duration::from_secs(20), async || {
        stage.get("HorizontalPodAutoscaler", NAME).await.map_or(Ok(()), |left| Err(left.data))
    })
    .await;
    becomes("the spec's number holds again", 4).await;

    // There and back without the autoscaler's doing, and a Deployment that is made anew.
    edited(json!({"autoscaling": {"minReplicas": 4, "maxReplicas": 6}})).await;
    edited(json!({"podAnnotations": {"example.com/edit": "2"}})).await;
    stage.delete("Deployment", NAME).await;
    becomes("it is made again with the fewest pods", 4).await;
    edited(json!({"autoscaling": null, "replicas": 6})).await;
    becomes("the spec's number holds at once", 6).await;
    let seen = seen.lock().clone();
    assert!(seen.iter().all(|replicas| *replicas >= 4), "{seen:?}");
    println!("numbers of pods on the way: {seen:?}");
    stage.end(operator).await;
}
