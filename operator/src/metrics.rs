//! The operator's own metrics, in Prometheus' text format.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::ResourceExt;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::Store;
use presenceroute_crds::PresenceRoute;
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

/// What is counted. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    leader: Gauge,
    api_requests: Requests,
    routes: RouteConditions,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The conditions of every route, read from the caches when somebody asks: a route that is gone leaves nothing behind.
#[derive(Clone, Default)]
struct RouteConditions(Arc<Mutex<Vec<Store<DeserializeGuard<PresenceRoute>>>>>);

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteCondition {
    namespace: String,
    name: String,
    condition: String,
}

impl Metrics {
    /// Starts all of them at zero.
    pub fn new() -> Self {
        let reconciles = Family::<Outcome, Counter>::default();
        let duration = Histogram::new(exponential_buckets(0.005, 2.0, 13));
        let leader = Gauge::default();
        let mut registry = Registry::with_prefix("presenceroute_operator");
        registry.register("reconciles", "Reconciles, by outcome", reconciles.clone());
        registry.register("reconcile_duration_seconds", "How long a reconcile took", duration.clone());
        registry.register("leader", "1 while this replica leads, 0 otherwise", leader.clone());
        let api_requests = Requests::default();
        let help = "Requests to the API server, by verb and status; get is also a list, and 0 is no answer";
        registry.register("api_requests", help, api_requests.clone());
        let routes = RouteConditions::default();
        registry.register_collector(Box::new(routes.clone()));
        Self { registry: Arc::new(registry), reconciles, duration, leader, api_requests, routes }
    }

    /// Shows the conditions of the routes in this cache, too.
    pub fn show_routes(&self, routes: Store<DeserializeGuard<PresenceRoute>>) {
        self.routes.stores().push(routes);
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

impl RouteConditions {
    fn stores(&self) -> MutexGuard<'_, Vec<Store<DeserializeGuard<PresenceRoute>>>> {
        // A push leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for RouteConditions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RouteConditions")
    }
}

impl Collector for RouteConditions {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "1 while the condition of the PresenceRoute is True, 0 otherwise";
        let mut family = encoder.encode_descriptor("route_condition", help, None, MetricType::Gauge)?;
        for store in self.stores().iter() {
            for route in store.state().iter().filter_map(|route| route.0.as_ref().ok()) {
                for condition in route.status.iter().flat_map(|status| &status.conditions) {
                    let labels = RouteCondition {
                        namespace: route.namespace().unwrap_or_default(),
                        name: route.name_any(),
                        condition: condition.type_.clone(),
                    };
                    ConstGauge::new(i64::from(condition.status == "True"))
                        .encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;

    use super::*;

    #[test]
    fn the_conditions_of_a_route_show_while_it_is_there() {
        let route: DeserializeGuard<PresenceRoute> = serde_saphyr::from_str(
            r#"
apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: contact-centre, namespace: presence}
spec:
  genesys: {region: mypurecloud.ie, credentialsSecretRef: {name: oauth}}
  endpoint: {url: "https://presence.example.com/e", signingSecretRef: {name: webhook}}
  routes: [{eventType: a, topic: b}]
  kafka: {bootstrapServers: ["kafka:9092"]}
status:
  conditions:
  - {type: Ready, status: "True", reason: Ready, message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}
"#,
        )
        .unwrap();
        let (store, mut writer) = reflector::store();
        let metrics = Metrics::new();
        metrics.show_routes(store);
        let line = r#"presenceroute_operator_route_condition{namespace="presence",name="contact-centre",condition="Ready"} 1"#;

        writer.apply_watcher_event(&Event::Apply(route.clone()));
        assert!(metrics.text().contains(line), "{}", metrics.text());
        writer.apply_watcher_event(&Event::Delete(route));
        assert!(!metrics.text().contains("contact-centre"), "{}", metrics.text());
    }
}
