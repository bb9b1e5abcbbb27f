//! Why an event is not in a topic, and whether trying again can help.

use rdkafka::types::RDKafkaErrorCode;

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Kafka refuses it until someone acts: the topic is missing, access is not granted, the record is too large.
    Refused(RDKafkaErrorCode),
    /// Kafka did not acknowledge it in time.
    Unavailable(RDKafkaErrorCode),
    /// The producer that had it can send no more; a new one takes over.
    ProducerLost,
    /// The relay let go of it.
    Abandoned,
    /// As much is in flight as the relay holds.
    Overloaded,
}

impl Failure {
    /// What a failure code of the Kafka library means for a delivery.
    pub(super) fn from_code(code: RDKafkaErrorCode) -> Self {
        use RDKafkaErrorCode as Code;
        match code {
            Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidTopic
            | Code::InvalidTimestamp
            | Code::InvalidArgument
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat => Self::Refused(code),
            Code::Fatal
            | Code::Fenced
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::OutOfOrderSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch => Self::ProducerLost,
            _ => Self::Unavailable(code),
        }
    }

    /// What to do about a refusal, in words that fit behind the cause.
    pub(super) fn remedy(code: RDKafkaErrorCode) -> &'static str {
        use RDKafkaErrorCode as Code;
        match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => "create the topic",
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                "grant the relay's Kafka user write access"
            }
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
                "raise the topic's max.message.bytes and the relay's message.max.bytes, or send less"
            }
            _ => "see the brokers' log",
        }
    }
}

/// The cause in a few words, without the library's own decoration.
pub(super) fn cause(code: RDKafkaErrorCode) -> String {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => "does not exist".into(),
        Code::UnknownPartition => "has no such partition".into(),
        Code::TopicAuthorizationFailed => "may not be written to (authorization failed)".into(),
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            "does not take a record of this size".into()
        }
        other => format!("cannot be written to: {other}"),
    }
}
