//! The operator's own metrics, in Prometheus' text format.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What is counted. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Outcome, Counter>,
    duration: Histogram,
    leader: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
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
        Self { registry: Arc::new(registry), reconciles, duration, leader }
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

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
