//! `spec.kafka`: the cluster that events are published to.

// The schema derive copies each type into a private module, where `pub` is out of reach.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use presenceroute_core::relay_config::SaslMechanism;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::references::{
    CaSecretRef, ClientCertificateSecretRef, KafkaCredentialsSecretRef, SECRET_NAME, SECRET_NAME_MESSAGE,
};

/// The Kafka cluster, and the authentication to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.sasl) || self.sasl.mechanism != 'AWS_MSK_IAM' || has(self.tls)")
    .message("sasl.mechanism AWS_MSK_IAM needs tls: Amazon MSK accepts IAM authentication over TLS only"))]
pub struct Kafka {
    /// The brokers to bootstrap from, each HOST:PORT.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        merge_strategy = kube::core::ListMerge::Set,
        validation = Rule::new(r"self.all(b, b.matches(r'^[^:/, ]+:[0-9]{1,5}$|^\[[0-9a-fA-F:]+\]:[0-9]{1,5}$'))")
            .message("every bootstrap server must be HOST:PORT, without a scheme")
    )]
    pub bootstrap_servers: Vec<BootstrapServer>,
    /// Encrypts the connections, and authenticates the relay when a client certificate is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Authenticates the relay by SASL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Further librdkafka producer properties by their own names. Properties that the delivery guarantees depend on are
    /// refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// HOST:PORT of a broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct BootstrapServer(#[schemars(length(min = 3, max = 260))] pub String);

/// TLS towards the brokers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaTls {
    /// The CA that signed the brokers' certificates. Default: the public CAs of the relay's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub ca_secret_ref: Option<CaSecretRef>,
    /// The relay's own certificate, for mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub client_certificate_secret_ref: Option<ClientCertificateSecretRef>,
}

/// SASL towards the brokers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.mechanism == 'OAUTHBEARER') == has(self.oauth)")
        .message("oauth must be set when mechanism is OAUTHBEARER, and only then"),
    validation = Rule::new("(self.mechanism == 'AWS_MSK_IAM') == has(self.awsMskIam)")
        .message("awsMskIam must be set when mechanism is AWS_MSK_IAM, and only then"),
    validation = Rule::new("self.mechanism == 'AWS_MSK_IAM' || has(self.credentialsSecretRef)")
        .message("credentialsSecretRef must be set, unless mechanism is AWS_MSK_IAM")
)]
pub struct KafkaSasl {
    /// The mechanism.
    pub mechanism: SaslMechanism,
    /// The Secret with the user's name and password; with OAUTHBEARER, the id and the secret of the OAuth client. With
    /// AWS_MSK_IAM it is optional: an access key's id and secret, for pods without an IAM role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub credentials_secret_ref: Option<KafkaCredentialsSecretRef>,
    /// The source of the relay's tokens, with OAUTHBEARER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<KafkaOauth>,
    /// The Amazon MSK cluster, with AWS_MSK_IAM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws_msk_iam: Option<AwsMskIam>,
}

/// An Amazon MSK cluster with IAM access control. The relays' AWS credentials come from EKS Pod Identity, IAM Roles for
/// Service Accounts (IRSA) or the instance's role, or from `credentialsSecretRef`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsMskIam {
    /// The cluster's AWS region, such as `eu-west-1`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]{2,3}(-[a-z]+)+-[0-9]+$')")
        .message("must be an AWS region, such as eu-west-1"))]
    pub region: String,
}

/// A token endpoint for the client-credentials grant (RFC 6749, section 4.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaOauth {
    /// The endpoint's URL.
    #[schemars(length(max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@ ]+(/[^?# ]*)?$')")
        .message("must be an http or https URL without user, query or fragment"))]
    pub token_endpoint_url: String,
    /// The scope to request. Default: the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub scope: Option<String>,
    /// SASL extensions that go to the brokers with each token (RFC 7628, section 3.1), such as Confluent Cloud's
    /// `logicalCluster` and `identityPoolId`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[A-Za-z]{1,64}$') && name != 'auth')")
            .message("the name of an extension must have 1 to 64 letters, and not be auth, which is the token's"),
        validation = Rule::new("self.all(name, self[name].matches('^[ -~]+$'))")
            .message("the value of an extension must have printable ASCII characters only")
    )]
    pub extensions: BTreeMap<String, SaslExtensionValue>,
    /// The CA that signed the token endpoint's certificate. Default: the public CAs of the relay's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(SECRET_NAME).message(SECRET_NAME_MESSAGE))]
    pub ca_secret_ref: Option<CaSecretRef>,
}

/// The value of a SASL extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SaslExtensionValue(#[schemars(length(min = 1, max = 256))] pub String);
