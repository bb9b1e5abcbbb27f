//! What is known of the cluster and of the routing table's topics: whether they can be written to, and what would keep
//! them from acknowledging.

use presenceroute_core::relay_status::KafkaReport;
use rdkafka::types::RDKafkaErrorCode;

use super::failure::KafkaIdentity;
use super::librdkafka::TopicState;
use crate::observe::labels::TopicLabel;
use crate::observe::metrics::Metrics;

/// The state of the cluster, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterHealth {
    pub(super) reachable: bool,
    pub(super) error: Option<String>,
    /// Why the files with credentials cannot be read.
    pub(super) unread_credentials: Option<String>,
    /// Why the newest credentials are not those in use.
    pub(super) credentials_error: Option<String>,
    topics: Vec<TopicState>,
}

/// What a publisher reports of the cluster.
pub struct ClusterReport {
    pub kafka: KafkaReport,
    /// The table's topics that the cluster does not have.
    pub missing_topics: Vec<String>,
    /// The table's topics that the relay is not authorized to write to.
    pub forbidden_topics: Vec<String>,
}

impl ClusterHealth {
    fn topics_with(&self, matches: impl Fn(RDKafkaErrorCode) -> bool) -> Vec<String> {
        let topics = self.topics.iter().filter(|topic| topic.error.is_some_and(&matches));
        topics.map(|topic| topic.name.clone()).collect()
    }

    fn missing_topics(&self) -> Vec<String> {
        use RDKafkaErrorCode as Code;
        self.topics_with(|error| {
            matches!(error, Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::InvalidTopic)
        })
    }

    fn forbidden_topics(&self) -> Vec<String> {
        self.topics_with(|error| error == RDKafkaErrorCode::TopicAuthorizationFailed)
    }

    /// Whether the cluster answers and every topic can be written to.
    pub(super) fn is_healthy(&self) -> bool {
        self.reachable && self.topics.iter().all(|topic| topic.error.is_none())
    }

    /// What would keep a topic from acknowledging, as far as it is known.
    pub(super) fn obstacle(&self, topic: &str) -> Option<String> {
        let state = self.topics.iter().find(|state| state.name == topic)?;
        let (in_sync, replicas) = state.least_in_sync;
        if state.without_leader > 0 {
            return Some(format!("{} partitions of {topic} have no leader", state.without_leader));
        }
        (in_sync < replicas).then(|| {
            format!("a partition of {topic} has {in_sync} of {replicas} replicas in sync (min.insync.replicas is what it needs)")
        })
    }

    /// The report for `/status`; `identity` is that of the producer in use, and `throttled` says which broker delays it.
    pub(super) fn report(&self, identity: &KafkaIdentity, throttled: Option<String>) -> ClusterReport {
        let (missing_topics, forbidden_topics) = (self.missing_topics(), self.forbidden_topics());
        let forbidden = forbidden_topics
            .iter()
            .map(|topic| identity.rejection(topic, RDKafkaErrorCode::TopicAuthorizationFailed))
            .reduce(|all, one| format!("{all}. {one}"));
        let errors = [&self.unread_credentials, &self.credentials_error, &self.error];
        let error = errors.into_iter().find_map(Clone::clone).or(forbidden);
        let kafka = KafkaReport { reachable: self.reachable, error, throttled };
        ClusterReport { kafka, missing_topics, forbidden_topics }
    }

    /// Takes the topics' newest state, logs what changed and sets the gauges.
    pub(super) fn update_topics(
        &mut self,
        topics: Vec<TopicState>,
        identity: &KafkaIdentity,
        metrics: &Metrics,
    ) {
        let (missing, forbidden) = (self.missing_topics(), self.forbidden_topics());
        self.topics = topics;
        let (now_missing, now_forbidden) = (self.missing_topics(), self.forbidden_topics());
        for topic in now_missing.iter().filter(|topic| !missing.contains(topic)) {
            tracing::warn!(
                topic,
                "topic does not exist; create it: events for it are not published until then"
            );
        }
        for topic in now_forbidden.iter().filter(|topic| !forbidden.contains(topic)) {
            tracing::warn!(
                topic,
                user = %identity,
                "not authorized to write to the topic; grant it: events for it are not published until then"
            );
        }
        let is_named = |topic: &&String| self.topics.iter().any(|state| state.name == **topic);
        for topic in missing.iter().chain(&forbidden).filter(is_named) {
            if !now_missing.contains(topic) && !now_forbidden.contains(topic) {
                tracing::info!(topic, "topic found");
            }
        }
        let gauges = [(&metrics.missing_topics, now_missing), (&metrics.forbidden_topics, now_forbidden)];
        for (gauge, unusable) in gauges {
            gauge.clear();
            for TopicState { name, .. } in &self.topics {
                let label = TopicLabel { topic: name.clone() };
                gauge.get_or_create(&label).set(i64::from(unusable.contains(name)));
            }
        }
    }
}
