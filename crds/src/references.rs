//! References to Secrets in the namespace of the PresenceRoute: a name, and the keys that hold each part.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The CEL rule of a reference in the spec, and what it says. It is a rule of the field and not of these types: the status
/// has them in a list without a bound, where the API server takes no such rule.
pub(crate) const SECRET_NAME: &str =
    "self.name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$')";
pub(crate) const SECRET_NAME_MESSAGE: &str = "name must be the name of a Secret: lower case letters, digits, hyphens and \
                                              dots, with a letter or digit at both ends of each part";

/// A Secret with the id and the secret of an OAuth client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuthClientSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the client's id.
    #[serde(default = "client_id_key")]
    pub client_id_key: String,
    /// The key that holds the client's secret.
    #[serde(default = "client_secret_key")]
    pub client_secret_key: String,
}

fn client_id_key() -> String {
    "clientId".into()
}

fn client_secret_key() -> String {
    "clientSecret".into()
}

/// A Secret key with a webhook secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SigningSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the secret.
    #[serde(default = "signing_secret_key")]
    pub key: String,
}

fn signing_secret_key() -> String {
    "secret".into()
}

/// A Secret with CA certificates in PEM. The default key is the one of Strimzi's cluster CA secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the certificates.
    #[serde(default = "ca_key")]
    pub key: String,
}

fn ca_key() -> String {
    "ca.crt".into()
}

/// A Secret with a certificate and its private key in PEM. The default keys are those of a Strimzi KafkaUser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificateSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the certificate.
    #[serde(default = "certificate_key")]
    pub certificate_key: String,
    /// The key that holds the private key, unencrypted.
    #[serde(default = "private_key_key")]
    pub private_key_key: String,
}

fn certificate_key() -> String {
    "user.crt".into()
}

fn private_key_key() -> String {
    "user.key".into()
}

/// A Secret with a Kafka user's name and password. The Secret of a Strimzi KafkaUser fits as it is: without a user name
/// in it, the user has the name of the Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaCredentialsSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the user's name. Where the Secret lacks it, the user has the name of the Secret.
    #[serde(default = "username_key")]
    pub username_key: String,
    /// The key that holds the password.
    #[serde(default = "password_key")]
    pub password_key: String,
}

fn username_key() -> String {
    "username".into()
}

fn password_key() -> String {
    "password".into()
}

/// A Secret of type kubernetes.io/tls, with the keys `tls.crt` and `tls.key`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TlsSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl TlsSecretRef {
    /// The key of the certificate, with its chain.
    pub const CERTIFICATE_KEY: &str = "tls.crt";
    /// The key of the private key.
    pub const PRIVATE_KEY_KEY: &str = "tls.key";
}

/// A Secret key with an API key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeySecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the API key.
    #[serde(default = "api_key_key")]
    pub key: String,
}

fn api_key_key() -> String {
    "apiKey".into()
}

/// A Secret with an AWS access key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsCredentialsSecretRef {
    /// The Secret's name, in the namespace of the PresenceRoute.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the id of the access key.
    #[serde(default = "access_key_id_key")]
    pub access_key_id_key: String,
    /// The key that holds the secret of the access key.
    #[serde(default = "secret_access_key_key")]
    pub secret_access_key_key: String,
    /// The key that holds the session token of temporary credentials. The Secret may lack it.
    #[serde(default = "session_token_key")]
    pub session_token_key: String,
}

fn access_key_id_key() -> String {
    "accessKeyId".into()
}

fn secret_access_key_key() -> String {
    "secretAccessKey".into()
}

fn session_token_key() -> String {
    "sessionToken".into()
}
