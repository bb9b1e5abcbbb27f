//! All that an operator ever does, so that it uses every right.

use libtest_mimic::Failed;
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::wait::{seconds, until};
use presenceroute_e2e::{Outcome, ensure, kubectl};
use serde_json::{Value, json};

use crate::operator::{Operator, show_log};
use crate::relay::Relay;
use crate::scene::{ACCOUNT, NAMESPACE, prepared};

const ROUTE: &str = "presenceroute/route";
const FIRST: &str = "first";
const SECOND: &str = "second";

/// Everything that the route below asks for.
const CHILDREN: [&str; 10] = [
    "configmap/route-routing",
    "secret/route-signing",
    "configmap/route-relay",
    "deployment/route-relay",
    "service/route-relay",
    "serviceaccount/route-relay",
    "poddisruptionbudget/route-relay",
    "horizontalpodautoscaler/route-relay",
    "networkpolicy/route-relay",
    "ingress/route-relay",
];

/// Its pods run on no node, and its Genesys Cloud does not answer: nothing here waits for either.
const MANIFEST: &str = r#"
apiVersion: v1
kind: Secret
metadata: {name: route, namespace: NAMESPACE}
stringData: {clientId: client, clientSecret: hush, secret: sign-me-by-hmac-sha256}
---
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: route, namespace: NAMESPACE}
spec:
  genesys: {apiUrl: "http://127.0.0.1:9", credentialsSecretRef: {name: route}}
  source: {webhook: {signingSecretRef: {name: route}}}
  endpoint:
    url: https://NAMESPACE.example.com/eventbridge/presence
    ingress: {className: none}
  routes: [{eventType: "presence:state:changed", topic: state}]
  kafka: {bootstrapServers: ["kafka:9092"]}
  relay:
    nodeSelector: {presenceroute.io/nowhere: "true"}
    autoscaling: {minReplicas: 1, maxReplicas: 2}
    networkPolicy: {}
"#;

pub(crate) fn run() -> Result<(), Failed> {
    prepared()?;
    let show = || [FIRST, SECOND].into_iter().for_each(show_log);
    Steps::run(show, story)
}

fn story(steps: &mut Steps<'_>) -> Result<(), Stopped> {
    let first = steps.prove("one replica leads", || {
        let first = Operator::start(FIRST, "127.77.254.1")?;
        first.leads()?;
        Ok(first)
    })?;
    let second = steps.prove("the other stands by", || {
        let second = Operator::start(SECOND, "127.77.254.2")?;
        second.is_ready()?;
        Ok(second)
    })?;
    steps.prove("every object is made that a route can ask for", || {
        kubectl::apply(&MANIFEST.replace("NAMESPACE", NAMESPACE))?;
        CHILDREN.iter().try_for_each(|object| wait_for("create", object))
    })?;
    // The steps from here on are tried also where one before them failed, so that the rights of each are used.
    let _ = steps.prove("an HTTPRoute replaces the Ingress; the rest is removed", || {
        edit(&json!({
            "endpoint": {"ingress": null, "gateway": {"parentRefs": [{"name": "public"}]}},
            "relay": {"autoscaling": null, "networkPolicy": null, "replicas": 0},
        }))?;
        wait_for("create", "httproute/route-relay")?;
        let removed = ["ingress", "horizontalpodautoscaler", "networkpolicy"];
        removed.iter().try_for_each(|kind| wait_for("delete", &format!("{kind}/route-relay")))
    });
    let _ = steps.prove("the HTTPRoute is removed, too", || {
        edit(&json!({"endpoint": {"gateway": null}}))?;
        wait_for("delete", "httproute/route-relay")
    });
    let _ = steps.prove("orphans of every kind are removed", || {
        for orphan in orphans() {
            kubectl::apply(&orphan.to_string())?;
            wait_for("delete", &kubectl::name_of(&orphan))?;
        }
        Ok(())
    });
    let relay = steps.prove("a relay that lags has its files synced", || {
        let relay = Relay::start()?;
        wait_for("jsonpath={.metadata.annotations.presenceroute\\.io/synced}", &Relay::pod()?)?;
        Ok(relay)
    })?;
    let _ = steps.prove("a route that registers has a finalizer", || {
        let route = kubectl::get(NAMESPACE, ROUTE)?;
        let revision = "go-template={{.data.revision | base64decode}}";
        let secrets = kubectl::run(&["-n", NAMESPACE, "get", "secret/route-signing", "-o", revision])?;
        relay.reports(kubectl::text(&route, "/status/routing/revision"), &secrets);
        wait_for("jsonpath={.metadata.finalizers}", ROUTE)
    });
    let _ = steps.prove("an event that happens again is counted", || {
        for (secret, resolved) in [("", false), ("sign-me-by-hmac-sha256", true), ("", false)] {
            kubectl::patch(NAMESPACE, "secret/route", &json!({"stringData": {"secret": secret}}))?;
            wait_for(&format!("condition=SecretsResolved={resolved}"), ROUTE)?;
        }
        until("an event has a count", seconds(30), || {
            let events = kubectl::list(NAMESPACE, "events.events.k8s.io", "")?;
            ensure(events.iter().any(|event| event["series"]["count"].is_u64()), || format!("{events:#?}"))
        })
    });
    drop(first);
    let _ = steps.prove("the other replica takes over", || second.leads());
    steps.prove("the finalizer of a deleted route is removed", || {
        // Without a word of Genesys Cloud, which does not answer.
        kubectl::patch(NAMESPACE, ROUTE, &json!({"spec": {"deletionPolicy": "Retain"}}))?;
        kubectl::run(&["-n", NAMESPACE, "delete", ROUTE, "--timeout=60s"]).map(drop)
    })?;
    drop(second);
    steps.prove("the operator's account may own what it makes", may_own)
}

fn edit(spec: &Value) -> Outcome {
    kubectl::patch(NAMESPACE, ROUTE, &json!({"spec": spec}))
}

fn wait_for(what: &str, object: &str) -> Outcome {
    kubectl::run(&["-n", NAMESPACE, "wait", "--timeout=60s", &format!("--for={what}"), object]).map(drop)
}

/// What another version of the operator might have made under another name.
fn orphans() -> [Value; 6] {
    let pod = json!({
        "replicas": 0,
        "selector": {"matchLabels": {"left": "over"}},
        "template": {
            "metadata": {"labels": {"left": "over"}},
            "spec": {"containers": [{"name": "none", "image": "none"}]},
        },
    });
    let kinds = [
        ("v1", "ConfigMap", Value::Null),
        ("v1", "Secret", Value::Null),
        ("v1", "ServiceAccount", Value::Null),
        ("v1", "Service", json!({"clusterIP": "None"})),
        ("policy/v1", "PodDisruptionBudget", json!({"maxUnavailable": 1})),
        ("apps/v1", "Deployment", pod),
    ];
    kinds.map(|(version, kind, spec)| {
        let mut object = json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {
                "name": "orphan",
                "namespace": NAMESPACE,
                "labels": {
                    "app.kubernetes.io/managed-by": "presenceroute-operator",
                    "presenceroute.io/route": "route",
                },
            },
        });
        if !spec.is_null() {
            object["spec"] = spec;
        }
        object
    })
}

/// An object whose owner is a PresenceRoute that waits for the object's end.
fn may_own() -> Outcome {
    let owned = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "owned",
            "namespace": NAMESPACE,
            "ownerReferences": [{
                "apiVersion": "presenceroute.io/v1alpha1",
                "kind": "PresenceRoute",
                "name": "route",
                "uid": "00000000-0000-0000-0000-000000000000",
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
    });
    kubectl::try_out_as(&format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}"), &owned.to_string())?;
    let question = ["update", "presenceroutes.presenceroute.io", "--subresource=finalizers", "-n", NAMESPACE];
    ensure(kubectl::may(NAMESPACE, ACCOUNT, &question)?, || {
        "it may not update the finalizers of routes".into()
    })
}
