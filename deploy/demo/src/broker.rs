//! The embedded Kafka, and a consumer that counts what really arrived in each topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// Partitions of each topic, and brokers.
const PARTITIONS: i32 = 3;
const BROKERS: i32 = 1;

/// How long the cluster may take to say where a partition ends.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A Kafka cluster that lives in this process.
pub(crate) struct Broker {
    cluster: MockCluster<'static, DefaultProducerContext>,
    consumer: Arc<BaseConsumer>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Broker {
    /// Starts it on a free port of this machine.
    pub(crate) fn start() -> Result<Self, KafkaError> {
        let cluster = MockCluster::new(BROKERS)?;
        let counts = Arc::default();
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            // Every consumer must name one. Partitions are assigned by hand below, so nothing is coordinated by it.
            .set("group.id", "presenceroute-demo")
            .set("enable.auto.commit", "false")
            .create()?;
        let consumer = Arc::new(consumer);
        let (reader, counted) = (Arc::clone(&consumer), Arc::clone(&counts));
        // It ends with the process.
        std::thread::spawn(move || count(&reader, &counted));
        Ok(Self { cluster, consumer, counts })
    }

    /// HOST:PORT.
    pub(crate) fn address(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic and begins to count its records; one that exists stays as it is.
    pub(crate) fn create_topic(&self, name: &str) -> Result<(), KafkaError> {
        let is_new = !lock(&self.counts).contains_key(name);
        if is_new {
            self.cluster.create_topic(name, PARTITIONS, BROKERS)?;
            lock(&self.counts).insert(name.to_owned(), 0);
            let mut partitions = TopicPartitionList::new();
            for partition in 0..PARTITIONS {
                partitions.add_partition_offset(name, partition, Offset::Beginning)?;
            }
            self.consumer.incremental_assign(&partitions)?;
        }
        Ok(())
    }

    /// Records by topic.
    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.counts).clone()
    }

    /// Whether every record of every topic is counted.
    pub(crate) fn is_counted(&self) -> Result<bool, KafkaError> {
        for (topic, counted) in self.counts() {
            let mut there = 0;
            for partition in 0..PARTITIONS {
                let (_, end) = self.consumer.fetch_watermarks(&topic, partition, ANSWERS_WITHIN)?;
                there += u64::try_from(end).unwrap_or_default();
            }
            if counted < there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A line for a shell that prints a topic's records as they come.
    pub(crate) fn kcat(&self, topic: &str) -> String {
        format!("kcat -b {} -C -t {topic} -f '%k %h %s\\n'", self.address())
    }
}

fn count(consumer: &BaseConsumer, counts: &Mutex<BTreeMap<String, u64>>) {
    loop {
        // An error is a broker that is not there yet; the consumer tries again by itself.
        if let Some(Ok(record)) = consumer.poll(Duration::from_millis(200)) {
            *lock(counts).entry(record.topic().to_owned()).or_default() += 1;
        }
    }
}

fn lock(counts: &Mutex<BTreeMap<String, u64>>) -> MutexGuard<'_, BTreeMap<String, u64>> {
    counts.lock()
}
