//! Why an event is not in a topic, or the cluster does not answer: the cause, and what to do about it.

use std::path::Path;

use presenceroute_core::relay_config::KafkaConfig;
use rdkafka::types::RDKafkaErrorCode;

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Kafka rejects it until a person acts: the topic is missing, access is not granted, the record is too large.
    Rejected(RDKafkaErrorCode),
    /// Kafka rejected the batch that it was part of, possibly because of another record. Sending it alone decides.
    RejectedInBatch,
    /// Kafka did not acknowledge it in time.
    Unavailable(RDKafkaErrorCode),
    /// The producer returned it unsent, because it failed or continues under a new epoch. The event is to be sent again.
    Returned,
    /// The delivery was dropped without an outcome.
    Dropped,
    /// The in-flight limit is reached.
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
            | Code::InvalidDifferentRecord
            | Code::InvalidTopic
            | Code::InvalidTimestamp
            | Code::InvalidArgument
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat => Self::Rejected(code),
            Code::Fatal
            | Code::Fenced
            | Code::PurgeQueue
            | Code::PurgeInflight
            | Code::OutOfOrderSequenceNumber
            | Code::UnknownProducerId
            | Code::InvalidProducerEpoch => Self::Returned,
            _ => Self::Unavailable(code),
        }
    }

    /// Whether a broker rejects a whole batch with this code, because of one record in it or because of their number.
    pub(super) fn is_batch_ambiguous(code: RDKafkaErrorCode) -> bool {
        use RDKafkaErrorCode as Code;
        matches!(
            code,
            Code::MessageSizeTooLarge
                | Code::MessageBatchTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidDifferentRecord
                | Code::InvalidTimestamp
        )
    }
}

/// The relay's identity towards the brokers, and the files that it comes from, for error messages. They name the file and
/// not what is in it: a mistaken key may make any value of a Secret the name of the user.
#[derive(Clone)]
pub(super) struct KafkaIdentity {
    kafka: KafkaConfig,
}

impl KafkaIdentity {
    pub(super) fn new(kafka: &KafkaConfig) -> Self {
        Self { kafka: kafka.clone() }
    }

    /// Which topic rejects a record, why, and what to do.
    pub(super) fn rejection(&self, topic: &str, code: RDKafkaErrorCode) -> String {
        let brokers = self.kafka.bootstrap_servers.join(",");
        format!("topic \"{topic}\" {} on {brokers}; {}", cause(code), self.remedy(code))
    }

    fn remedy(&self, code: RDKafkaErrorCode) -> String {
        use RDKafkaErrorCode as Code;
        match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                "create the topic".into()
            }
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed if self.is_iam() => {
                format!("grant {self} kafka-cluster:DescribeTopic and kafka-cluster:WriteData on it")
            }
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                format!("grant {self} Describe and Write on it")
            }
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
                "raise the topic's max.message.bytes and the relay's message.max.bytes, or send less".into()
            }
            _ => "see the brokers' log".into(),
        }
    }

    /// A failure of the cluster in the library's words, with the identity and the files concerned.
    pub(super) fn cluster_failure(&self, code: RDKafkaErrorCode, reason: &str) -> String {
        use RDKafkaErrorCode as Code;
        let reason = undecorated(reason);
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed => self.authentication_failure(reason),
            Code::SSL => self.tls_failure(reason),
            // With TLS 1.3, brokers reject a client certificate only after the handshake; and a repeated rejection is
            // reported as a failure to connect.
            Code::BrokerTransportFailure
                if ["SSL alert", "certificate verify failed"].iter().any(|text| reason.contains(text)) =>
            {
                self.tls_failure(reason)
            }
            Code::BrokerTransportFailure if reason.contains("SSL connection closed by peer") => format!(
                "{reason}; kafka.tls is set, so kafka.bootstrapServers must name the brokers' listener for TLS"
            ),
            Code::AllBrokersDown if self.kafka.tls.is_none() => format!(
                "{reason}; check that the brokers run, and that the listener that kafka.bootstrapServers names speaks no \
                 TLS: where it does, kafka.tls must be set"
            ),
            Code::Resolve => format!("{reason}; check the names in kafka.bootstrapServers"),
            Code::BrokerTransportFailure => format!(
                "{reason}; check that the brokers run, that kafka.bootstrapServers names them, and that no network policy is between"
            ),
            Code::ClusterAuthorizationFailed => {
                format!("{reason}; grant {self} Describe and Write on the topics of its routes")
            }
            _ => reason.to_owned(),
        }
    }

    /// Whether it is an identity of AWS IAM.
    fn is_iam(&self) -> bool {
        self.kafka.sasl.as_ref().is_some_and(|sasl| sasl.aws_msk_iam.is_some())
    }

    fn authentication_failure(&self, reason: &str) -> String {
        let Some(sasl) = &self.kafka.sasl else { return reason.to_owned() };
        let remedy = match &sasl.oauth {
            // The reason names who should have issued a token, and the cause already.
            _ if reason.contains("Failed to acquire") => return reason.to_owned(),
            Some(oauth) => format!("the brokers must trust the tokens of {}", oauth.token_endpoint_url),
            None if sasl.aws_msk_iam.is_some() => {
                "its policy must allow kafka-cluster:Connect, and kafka.sasl.awsMskIam.region be the cluster's".into()
            }
            None => format!(
                "the password in {} must be the one that Kafka has for that user",
                sasl.password_file.as_deref().unwrap_or(Path::new("kafka.sasl.passwordFile")).display()
            ),
        };
        format!("SASL authentication ({}) failed for {self}: {reason}; {remedy}", sasl.mechanism.as_str())
    }

    fn tls_failure(&self, reason: &str) -> String {
        let Some(tls) = &self.kafka.tls else { return reason.to_owned() };
        if reason.contains("certificate verify failed") {
            let names = "and it must be made for the name by which the broker is reached";
            return match &tls.ca_file {
                Some(file) => format!(
                    "the brokers' certificate is not trusted: {reason}; {} must hold the CA that signed it, {names}",
                    file.display()
                ),
                None => format!(
                    "the brokers' certificate is not trusted by this system's CAs: {reason}; name its CA in kafka.tls, {names}"
                ),
            };
        }
        match &tls.client_certificate {
            Some(files) => format!(
                "the brokers end the TLS connection: {reason}; {} must be signed by the CA that they trust, and not be over",
                files.certificate_file.display()
            ),
            None => format!(
                "the brokers end the TLS connection: {reason}; if they ask for a client certificate, name one in kafka.tls"
            ),
        }
    }
}

impl std::fmt::Display for KafkaIdentity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(sasl) = &self.kafka.sasl {
            return match (&sasl.username, &sasl.username_file) {
                (Some(user), _) => write!(formatter, "user \"{user}\""),
                (None, Some(file)) if self.is_iam() => {
                    write!(formatter, "the IAM identity of the access key in {}", file.display())
                }
                (None, Some(file)) if sasl.oauth.is_some() => {
                    write!(formatter, "the OAuth client in {}", file.display())
                }
                (None, Some(file)) => write!(formatter, "the user in {}", file.display()),
                (None, None) => formatter.write_str("the pods' IAM identity"),
            };
        }
        match self.kafka.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref()) {
            Some(files) => write!(formatter, "the user of certificate {}", files.certificate_file.display()),
            None => formatter.write_str("the anonymous user"),
        }
    }
}

/// The library's text without the duration and the count at its end, with which the same failure would differ each time.
fn undecorated(reason: &str) -> &str {
    match reason.rfind(" (after ") {
        Some(end) if reason.ends_with(')') => &reason[..end],
        _ => reason,
    }
}

/// The cause in a few words.
fn cause(code: RDKafkaErrorCode) -> String {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition => "does not exist".into(),
        Code::UnknownPartition => "has no such partition".into(),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            "may not be written to (authorization failed)".into()
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            "does not take a record of this size".into()
        }
        other => format!("cannot be written to: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_core::relay_config::SaslMechanism;
    use presenceroute_core::relay_config::{
        AwsMskIamConfig, CertificateFiles, KafkaSaslConfig, KafkaTlsConfig,
    };
    use rdkafka::types::RDKafkaErrorCode as Code;

    fn identity(ca_file: Option<&str>, certificate: Option<&str>) -> KafkaIdentity {
        let client_certificate = certificate.map(|file| CertificateFiles {
            certificate_file: file.into(),
            private_key_file: "/tls/user.key".into(),
        });
        let kafka = KafkaConfig {
            bootstrap_servers: vec!["kafka:9093".into()],
            tls: Some(KafkaTlsConfig { ca_file: ca_file.map(Into::into), client_certificate }),
            ..KafkaConfig::default()
        };
        KafkaIdentity::new(&kafka)
    }

    #[test]
    fn a_wrong_password_is_named_by_mechanism_and_files() {
        let mut identity = identity(None, None);
        identity.kafka.sasl = Some(KafkaSaslConfig {
            mechanism: SaslMechanism::ScramSha512,
            username_file: Some("/sasl/username".into()),
            username: None,
            password_file: Some("/sasl/password".into()),
            oauth: None,
            aws_msk_iam: None,
        });
        assert_eq!(
            identity.cluster_failure(Code::Authentication, "invalid credentials"),
            "SASL authentication (SCRAM-SHA-512) failed for the user in /sasl/username: invalid credentials; the password in \
             /sasl/password must be the one that Kafka has for that user"
        );
    }

    #[test]
    fn an_iam_identity_is_told_which_actions_it_lacks() {
        let mut identity = identity(None, None);
        identity.kafka.sasl = Some(KafkaSaslConfig {
            mechanism: SaslMechanism::AwsMskIam,
            username_file: None,
            username: None,
            password_file: None,
            oauth: None,
            aws_msk_iam: Some(AwsMskIamConfig { region: "eu-west-1".into() }),
        });
        assert_eq!(
            identity.cluster_failure(Code::Authentication, "Access denied"),
            "SASL authentication (AWS_MSK_IAM) failed for the pods' IAM identity: Access denied; its policy must allow \
             kafka-cluster:Connect, and kafka.sasl.awsMskIam.region be the cluster's"
        );
        assert!(identity.rejection("presence", Code::TopicAuthorizationFailed).ends_with(
            "grant the pods' IAM identity kafka-cluster:DescribeTopic and kafka-cluster:WriteData on it"
        ));
    }

    #[test]
    fn a_tls_failure_names_its_file() {
        let verify = "certificate verify failed: broker certificate could not be verified";
        let named = identity(Some("/ca/ca.crt"), None).cluster_failure(Code::SSL, verify);
        assert!(named.contains("is not trusted") && named.contains("/ca/ca.crt"), "{named}");
        let named = identity(None, None).cluster_failure(Code::SSL, verify);
        assert!(named.contains("this system's CAs"), "{named}");
        let named = identity(None, Some("/tls/user.crt")).cluster_failure(Code::SSL, "bad certificate");
        assert!(named.contains("/tls/user.crt"), "{named}");
        let named = identity(None, None).cluster_failure(
            Code::BrokerTransportFailure,
            "Receive failed: bad certificate: SSL alert number 42",
        );
        assert!(named.contains("if they ask for a client certificate"), "{named}");
        let again = "ssl://kafka:9093/1: error:0A000086:SSL routines::certificate verify failed (after 2ms in state SSL_HANDSHAKE)";
        let named = identity(Some("/ca/ca.crt"), None).cluster_failure(Code::BrokerTransportFailure, again);
        assert!(named.contains("/ca/ca.crt") && named.contains("the name by which"), "{named}");
    }

    #[test]
    fn a_listener_of_another_protocol_differs_from_an_absent_one() {
        let closed = "ssl://kafka:9092/1: Disconnected: SSL connection closed by peer (after 1ms in state SSL_HANDSHAKE)";
        let named = identity(None, None).cluster_failure(Code::BrokerTransportFailure, closed);
        assert!(named.contains("listener for TLS"), "{named}");
        let plain = KafkaIdentity::new(&KafkaConfig::default());
        let named = plain.cluster_failure(Code::AllBrokersDown, "1/1 brokers are down");
        assert!(named.contains("kafka.tls must be set"), "{named}");
    }

    #[test]
    fn a_repeated_failure_has_the_same_text_each_time() {
        let identity = identity(None, None);
        let text = |decoration| {
            let reason =
                format!("kafka:9093/1: Connect to ipv4#10.0.0.1:9093 failed: Connection refused{decoration}");
            identity.cluster_failure(Code::BrokerTransportFailure, &reason)
        };
        let first = text(" (after 0ms in state CONNECT)");
        assert_eq!(first, text(" (after 31ms in state CONNECT, 1 identical error(s) suppressed)"));
        assert!(
            first
                .starts_with("kafka:9093/1: Connect to ipv4#10.0.0.1:9093 failed: Connection refused; check"),
            "{first}"
        );
    }

    #[test]
    fn a_rejection_names_topic_brokers_user_and_remedy() {
        assert_eq!(
            identity(None, Some("/tls/user.crt")).rejection("presence", Code::TopicAuthorizationFailed),
            "topic \"presence\" may not be written to (authorization failed) on kafka:9093; grant the user of \
             certificate /tls/user.crt Describe and Write on it"
        );
        assert_eq!(
            identity(None, None).rejection("presence", Code::UnknownTopicOrPartition),
            "topic \"presence\" does not exist on kafka:9093; create the topic"
        );
    }
}
