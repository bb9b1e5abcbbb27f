//! Kafka: publishing an event, acknowledged by all in-sync replicas of every topic it goes to.
//!
//! [`start`] makes the [`Publisher`], which the pipeline uses, and the [`Supervisor`], which keeps its producer working.
//! Which topics an event goes to is decided before it comes here.

mod batch_rejections;
mod batcher;
mod callbacks;
mod config;
mod credentials;
mod failure;
mod fingerprint;
mod in_flight;
mod librdkafka;
#[cfg(feature = "kafka-msk-iam")]
mod msk_iam;
mod oauth;
mod producer;
mod publisher;
mod recent_ids;
mod record;
mod statistics;
mod supervisor;
#[cfg(test)]
mod tests;
mod throttling;
mod tokens;
mod topic_health;
mod topic_reader;

use std::sync::Arc;

use presenceroute_core::relay_config::{KafkaConfig, Limits};
use rdkafka::error::KafkaError;

use crate::observe::metrics::Metrics;
use credentials::Credentials;
use statistics::Statistics;

pub use credentials::CredentialsError;
pub use publisher::Publisher;
pub use record::{DeadLetter, Record};
pub use supervisor::Supervisor;
pub use topic_health::ClusterReport;
pub use topic_reader::{TopicReader, TopicReaderError, TopicRecord};

/// Why publishing cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PublisherError {
    /// A file with credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The library rejects its configuration.
    #[error("the Kafka client cannot be made: {0}; check relay.yaml's kafka section")]
    Client(#[from] KafkaError),
}

/// Makes a publisher and its supervisor, and adds the Kafka library's statistics to `metrics`. The publisher connects by
/// itself; nothing waits for that.
pub async fn start(
    kafka: KafkaConfig,
    limits: Limits,
    metrics: Arc<Metrics>,
) -> Result<(Arc<Publisher>, Supervisor), PublisherError> {
    let credentials = Arc::new(Credentials::read(&kafka)?);
    let statistics = Arc::new(Statistics::default());
    metrics.register(Box::new(Arc::clone(&statistics)));
    let publisher = Publisher::new(kafka, limits, metrics, statistics, Arc::clone(&credentials)).await?;
    let supervisor = Supervisor::new(Arc::clone(&publisher), credentials);
    Ok((publisher, supervisor))
}
