//! The operator's own metrics, in Prometheus' text format.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::Store;
use parking_lot::Mutex;
use presenceroute_crds::PresenceRoute;
use presenceroute_crds::status::RelayPodsStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::api_server::{CountRequests, Requests};
use crate::cache::RouteOrInvalid;
use presenceroute_manifest::dereference::Certificate;

/// What is counted. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    leader: Gauge,
    api_requests: Requests,
    routes: Routes,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The state of every route, read from the caches for each scrape: a route that is gone leaves nothing behind.
#[derive(Clone, Default)]
struct Routes(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    caches: Vec<Store<RouteOrInvalid>>,
    /// By the uid of the route whose Secrets have them.
    certificates: HashMap<String, Vec<Certificate>>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    namespace: String,
    /// The route's name; the relays' metrics have it under this label, too.
    presenceroute: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConditionLabels {
    #[prometheus(flatten)]
    route: RouteLabels,
    condition: String,
    reason: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CertificateLabels {
    #[prometheus(flatten)]
    route: RouteLabels,
    secret: String,
    key: String,
}

impl Metrics {
    /// Starts all of them at zero.
    pub fn new() -> Self {
        let reconciles = Family::<Outcome, Counter>::default();
        // There from the start: to Prometheus, a counter that appears with its first count has not increased.
        for outcome in ["success", "failure"] {
            drop(reconciles.get_or_create(&Outcome { outcome }));
        }
        let duration = Histogram::new(exponential_buckets(0.005, 2.0, 13));
        let leader = Gauge::default();
        let mut registry = Registry::with_prefix("presenceroute_operator");
        registry.register("reconciles", "Reconciles, by outcome", reconciles.clone());
        registry.register("reconcile_duration_seconds", "How long a reconcile took", duration.clone());
        registry.register("leader", "1 while this replica leads, 0 otherwise", leader.clone());
        let api_requests = Requests::default();
        let help = "Requests to the API server, by verb and status; get is also a list, and 0 is no answer";
        registry.register("api_requests", help, api_requests.clone());
        let routes = Routes::default();
        registry.register_collector(Box::new(routes.clone()));
        Self { registry: Arc::new(registry), reconciles, duration, leader, api_requests, routes }
    }

    /// Shows the routes in this cache, too.
    pub fn show_routes(&self, routes: Store<RouteOrInvalid>) {
        self.routes.0.lock().caches.push(routes);
    }

    /// The certificates in the Secrets of a route are these now.
    pub fn certificates(&self, route: &PresenceRoute, certificates: Vec<Certificate>) {
        let (mut known, uid) = (self.routes.0.lock(), route.uid().unwrap_or_default());
        if certificates.is_empty() {
            known.certificates.remove(&uid);
        } else {
            known.certificates.insert(uid, certificates);
        }
    }

    /// A reconcile has ended.
    pub fn reconciled(&self, took: Duration, failed: bool) {
        let outcome = Outcome { outcome: if failed { "failure" } else { "success" } };
        self.reconciles.get_or_create(&outcome).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// This replica has begun or ceased to lead.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// What counts the requests to the API server.
    pub fn api_requests(&self) -> CountRequests {
        CountRequests(self.api_requests.clone())
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Known {
    fn routes(&self) -> Vec<Arc<RouteOrInvalid>> {
        self.caches.iter().flat_map(Store::state).collect()
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Routes")
    }
}

impl Collector for Routes {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut known = self.0.lock();
        let all = known.routes();
        let (routes, unreadable): (Vec<_>, Vec<_>) = all.iter().partition(|route| route.0.is_ok());
        let routes: Vec<&PresenceRoute> = routes.iter().filter_map(|route| route.0.as_ref().ok()).collect();
        let uids: HashSet<_> = routes.iter().filter_map(|route| route.metadata.uid.as_ref()).collect();
        known.certificates.retain(|uid, _| uids.contains(uid));

        let help = "1 while the condition of the PresenceRoute is True, 0 otherwise";
        let mut family = encoder.encode_descriptor("route_condition", help, None, MetricType::Gauge)?;
        for &route in &routes {
            let conditions = route.status.iter().flat_map(|status| &status.conditions);
            // Of the others 0 is what needs attention, and Stalled repeats one of them.
            for condition in conditions.filter(|condition| condition.type_ != "Stalled") {
                let labels = ConditionLabels {
                    route: labels(route),
                    condition: condition.type_.clone(),
                    reason: condition.reason.clone(),
                };
                ConstGauge::new(i64::from(condition.status == "True"))
                    .encode(family.encode_family(&labels)?)?;
            }
        }
        // It has no status that could be read.
        for route in unreadable {
            let (condition, reason) = ("Accepted".to_owned(), "InvalidObject".to_owned());
            let labels = ConditionLabels { route: labels(route.as_ref()), condition, reason };
            ConstGauge::new(0_i64).encode(family.encode_family(&labels)?)?;
        }

        let help = "Relay pods of the PresenceRoute that exist";
        let mut family = encoder.encode_descriptor("route_relays", help, None, MetricType::Gauge)?;
        for (route, relay) in with_relay(&routes) {
            ConstGauge::new(i64::from(relay.replicas)).encode(family.encode_family(&labels(route))?)?;
        }
        let help = "Relay pods of the PresenceRoute that are ready";
        let mut family = encoder.encode_descriptor("route_relays_ready", help, None, MetricType::Gauge)?;
        for (route, relay) in with_relay(&routes) {
            ConstGauge::new(i64::from(relay.ready_replicas)).encode(family.encode_family(&labels(route))?)?;
        }

        let help = "When the first of the certificates under a key of one of the PresenceRoute's Secrets expires, \
                    in seconds since 1970";
        let name = "certificate_expiry_timestamp_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for &route in &routes {
            let uid = route.metadata.uid.as_deref().unwrap_or_default();
            for Certificate { secret, key, expires } in known.certificates.get(uid).into_iter().flatten() {
                let labels =
                    CertificateLabels { route: labels(route), secret: secret.clone(), key: key.clone() };
                ConstGauge::new(*expires).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn labels<R: ResourceExt>(route: &R) -> RouteLabels {
    RouteLabels { namespace: route.namespace().unwrap_or_default(), presenceroute: route.name_any() }
}

/// Those that have relay pods or wait for them.
fn with_relay<'r>(
    routes: &'r [&PresenceRoute],
) -> impl Iterator<Item = (&'r PresenceRoute, &'r RelayPodsStatus)> {
    routes.iter().filter_map(|route| Some((*route, route.status.as_ref()?.relay.as_ref()?)))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use crate::api_server::RequestLabels;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;

    use super::*;

    #[test]
    fn a_route_shows_while_it_is_there_as_on_the_page_of_metrics() {
        let route: RouteOrInvalid = serde_saphyr::from_str(
            r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: contact-centre, namespace: presence, uid: "1"}
spec:
  genesys: {region: mypurecloud.ie, credentialsSecretRef: {name: oauth}}
  source: {webhook: {signingSecretRef: {name: webhook}}}
  endpoint: {url: "https://presence.example.com/e"}
  routes: [{eventType: a, topic: b}]
  kafka: {bootstrapServers: ["kafka:9092"]}
status:
  conditions:
  - {type: Registered, status: "False", reason: Forbidden, message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}
  relay: {replicas: 3, readyReplicas: 2, selector: ""}
"#,
        )
        .unwrap();
        let (store, mut writer) = reflector::store();
        let metrics = Metrics::new();
        metrics.show_routes(store);
        let certificate =
            Certificate { secret: "cluster-ca".into(), key: "ca.crt".into(), expires: 1_893_456_000 };
        metrics.certificates(route.0.as_ref().unwrap(), vec![certificate]);

        writer.apply_watcher_event(&Event::Apply(route.clone()));
        let text = metrics.text();
        let labels = r#"namespace="presence",presenceroute="contact-centre""#;
        for line in [
            format!(r#"route_condition{{{labels},condition="Registered",reason="Forbidden"}} 0"#),
            format!("route_relays{{{labels}}} 3"),
            format!("route_relays_ready{{{labels}}} 2"),
            format!(
                r#"certificate_expiry_timestamp_seconds{{{labels},secret="cluster-ca",key="ca.crt"}} 1893456000"#
            ),
        ] {
            assert!(text.contains(&format!("\npresenceroute_operator_{line}\n")), "{line} is not in\n{text}");
        }
        drop(metrics.api_requests.get_or_create(&RequestLabels { verb: "get", code: 200 }));
        presenceroute_runtime::testing::metrics_page::assert_current("operator", &metrics.text());
        let unreadable: RouteOrInvalid =
            serde_saphyr::from_str("metadata: {name: old, namespace: presence}\nspec: {}\n").unwrap();
        writer.apply_watcher_event(&Event::Apply(unreadable));
        let line = r#"route_condition{namespace="presence",presenceroute="old",condition="Accepted",reason="InvalidObject"} 0"#;
        assert!(metrics.text().contains(line), "{}", metrics.text());
        writer.apply_watcher_event(&Event::Delete(route));
        assert!(!metrics.text().contains("contact-centre"), "{}", metrics.text());
        assert!(metrics.routes.0.lock().certificates.is_empty());
    }
}
