//! Why an event is not in a topic, or the cluster does not answer: the cause, and what to do about it.

use presenceroute_core::relay_config::KafkaConfig;
use rdkafka::types::RDKafkaErrorCode;

/// Why a delivery failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Kafka refuses it until someone acts: the topic is missing, access is not granted, the record is too large.
    Refused(RDKafkaErrorCode),
    /// Kafka refuses the request that it was part of, perhaps for another record's sake. Sent by itself, it shows.
    RefusedTogether,
    /// Kafka did not acknowledge it in time.
    Unavailable(RDKafkaErrorCode),
    /// The producer that had it gave it back: it can send no more and another takes over, or it goes on under a new
    /// epoch. Sent anew, the event gets there.
    GivenBack,
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
            | Code::InvalidDifferentRecord
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
            | Code::InvalidProducerEpoch => Self::GivenBack,
            _ => Self::Unavailable(code),
        }
    }

    /// Whether a broker that refuses a request so may do it for the sake of one record, or because there are many.
    pub(super) fn may_concern_another(code: RDKafkaErrorCode) -> bool {
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

/// Who the relay is to the brokers, and by which files, for messages that name it.
#[derive(Clone)]
pub(super) struct Account {
    kafka: KafkaConfig,
    user: Option<String>,
}

impl Account {
    pub(super) fn new(kafka: &KafkaConfig, user: Option<&str>) -> Self {
        Self { kafka: kafka.clone(), user: user.map(str::to_owned) }
    }

    /// The topic that refuses, why, and what to do.
    pub(super) fn refusal(&self, topic: &str, code: RDKafkaErrorCode) -> String {
        let brokers = self.kafka.bootstrap_servers.join(",");
        format!("topic \"{topic}\" {} on {brokers}; {}", cause(code), self.remedy(code))
    }

    fn remedy(&self, code: RDKafkaErrorCode) -> String {
        use RDKafkaErrorCode as Code;
        match code {
            Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
                "create the topic".into()
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

    /// A failure of the cluster, as the library words it, with who and what is concerned.
    pub(super) fn cluster_failure(&self, code: RDKafkaErrorCode, reason: &str) -> String {
        use RDKafkaErrorCode as Code;
        let reason = undecorated(reason);
        match code {
            Code::Authentication | Code::SaslAuthenticationFailed => self.authentication_failure(reason),
            Code::SSL => self.tls_failure(reason),
            // With TLS 1.3, brokers refuse a client certificate only when the handshake is over; and what is refused again
            // is told as a failure to connect.
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

    fn authentication_failure(&self, reason: &str) -> String {
        let Some(sasl) = &self.kafka.sasl else { return reason.to_owned() };
        let remedy = match &sasl.oauth {
            // It says where from, and why not.
            Some(_) if reason.contains("Failed to acquire") => return reason.to_owned(),
            Some(oauth) => format!("the brokers must trust the tokens of {}", oauth.token_endpoint_url),
            None => format!(
                "the password in {} must be the one that Kafka has for that user",
                sasl.password_file.display()
            ),
        };
        format!("{self} is not let in by {}: {reason}; {remedy}", sasl.mechanism.as_str())
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

impl std::fmt::Display for Account {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let certificate = self.kafka.tls.as_ref().and_then(|tls| tls.client_certificate.as_ref());
        match (&self.user, certificate) {
            (Some(user), _) => write!(formatter, "user \"{user}\""),
            (None, Some(files)) => {
                write!(formatter, "the user of certificate {}", files.certificate_file.display())
            }
            (None, None) => formatter.write_str("the anonymous user"),
        }
    }
}

/// What the library says, without how long it took and how often it was so: with these, the same failure would be told
/// as another one each time.
fn undecorated(reason: &str) -> &str {
    match reason.rfind(" (after ") {
        Some(end) if reason.ends_with(')') => &reason[..end],
        _ => reason,
    }
}

/// The cause in a few words, without the library's own decoration.
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
    use presenceroute_core::relay_config::{CertificateFiles, KafkaSaslConfig, KafkaTlsConfig};
    use rdkafka::types::RDKafkaErrorCode as Code;

    fn account(ca_file: Option<&str>, certificate: Option<&str>) -> Account {
        let client_certificate = certificate.map(|file| CertificateFiles {
            certificate_file: file.into(),
            private_key_file: "/tls/user.key".into(),
        });
        let kafka = KafkaConfig {
            bootstrap_servers: vec!["kafka:9093".into()],
            tls: Some(KafkaTlsConfig { ca_file: ca_file.map(Into::into), client_certificate }),
            ..KafkaConfig::default()
        };
        Account::new(&kafka, None)
    }

    #[test]
    fn a_refused_password_is_named_by_user_mechanism_and_file() {
        let mut account = account(None, None);
        account.user = Some("contact-centre".into());
        account.kafka.sasl = Some(KafkaSaslConfig {
            mechanism: SaslMechanism::ScramSha512,
            username_file: "/sasl/username".into(),
            username: None,
            password_file: "/sasl/password".into(),
            oauth: None,
        });
        assert_eq!(
            account.cluster_failure(Code::Authentication, "invalid credentials"),
            "user \"contact-centre\" is not let in by SCRAM-SHA-512: invalid credentials; the password in \
             /sasl/password must be the one that Kafka has for that user"
        );
    }

    #[test]
    fn what_tls_fails_of_is_named_by_its_file() {
        let verify = "certificate verify failed: broker certificate could not be verified";
        let named = account(Some("/ca/ca.crt"), None).cluster_failure(Code::SSL, verify);
        assert!(named.contains("is not trusted") && named.contains("/ca/ca.crt"), "{named}");
        let named = account(None, None).cluster_failure(Code::SSL, verify);
        assert!(named.contains("this system's CAs"), "{named}");
        let named = account(None, Some("/tls/user.crt")).cluster_failure(Code::SSL, "bad certificate");
        assert!(named.contains("/tls/user.crt"), "{named}");
        let named = account(None, None).cluster_failure(
            Code::BrokerTransportFailure,
            "Receive failed: bad certificate: SSL alert number 42",
        );
        assert!(named.contains("if they ask for a client certificate"), "{named}");
        let again = "ssl://kafka:9093/1: error:0A000086:SSL routines::certificate verify failed (after 2ms in state SSL_HANDSHAKE)";
        let named = account(Some("/ca/ca.crt"), None).cluster_failure(Code::BrokerTransportFailure, again);
        assert!(named.contains("/ca/ca.crt") && named.contains("the name by which"), "{named}");
    }

    #[test]
    fn a_listener_that_speaks_otherwise_is_told_from_one_that_is_away() {
        let closed = "ssl://kafka:9092/1: Disconnected: SSL connection closed by peer (after 1ms in state SSL_HANDSHAKE)";
        let named = account(None, None).cluster_failure(Code::BrokerTransportFailure, closed);
        assert!(named.contains("listener for TLS"), "{named}");
        let plain = Account::new(&KafkaConfig::default(), None);
        let named = plain.cluster_failure(Code::AllBrokersDown, "1/1 brokers are down");
        assert!(named.contains("kafka.tls must be set"), "{named}");
    }

    #[test]
    fn the_same_failure_is_told_in_the_same_words_each_time() {
        let account = account(None, None);
        let told = |decoration| {
            let reason =
                format!("kafka:9093/1: Connect to ipv4#10.0.0.1:9093 failed: Connection refused{decoration}");
            account.cluster_failure(Code::BrokerTransportFailure, &reason)
        };
        let first = told(" (after 0ms in state CONNECT)");
        assert_eq!(first, told(" (after 31ms in state CONNECT, 1 identical error(s) suppressed)"));
        assert!(
            first
                .starts_with("kafka:9093/1: Connect to ipv4#10.0.0.1:9093 failed: Connection refused; check"),
            "{first}"
        );
    }

    #[test]
    fn a_refusal_names_the_topic_the_brokers_the_user_and_what_to_do() {
        assert_eq!(
            account(None, Some("/tls/user.crt")).refusal("presence", Code::TopicAuthorizationFailed),
            "topic \"presence\" may not be written to (authorization failed) on kafka:9093; grant the user of \
             certificate /tls/user.crt Describe and Write on it"
        );
        assert_eq!(
            account(None, None).refusal("presence", Code::UnknownTopicOrPartition),
            "topic \"presence\" does not exist on kafka:9093; create the topic"
        );
    }
}
