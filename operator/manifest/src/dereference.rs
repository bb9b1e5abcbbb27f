//! The first step of a reconcile: reading everything that the spec points at.
//!
//! A Secret that is missing, or lacks a key, is a fact for [`validate`](crate::validate), not an error here.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Secret;
use presenceroute_crds::PresenceRouteSpec;
use presenceroute_crds::references::{CaSecretRef, OAuthClientSecretRef, TlsSecretRef};
use presenceroute_crds::spec::{Relay, SecretKeyRef};
use secrecy::SecretString;

use presenceroute_core::certificate_expiry::first_expiry;

/// The longest secret or client id that is taken, in bytes.
const MAX_SECRET_BYTES: usize = 8 << 10;
/// The longest CA of the Genesys Cloud API that is taken, in bytes: the authorities of a whole system are shorter.
const MAX_CA_BYTES: usize = 256 << 10;

/// What the spec points at, as it was found.
pub struct References {
    /// The OAuth client for the Genesys Cloud API.
    pub oauth_client: Result<OAuthClient, SecretProblem>,
    /// The private CA of the Genesys Cloud API, in PEM, when the spec names one.
    pub genesys_ca: Option<Result<Vec<u8>, SecretProblem>>,
    /// What senders prove themselves with, where the source is pushed to.
    pub push_credential: Option<PushCredential>,
    /// What is wrong with the Secrets that relay pods mount. Empty when all is there.
    pub mounted: Vec<SecretProblem>,
    /// The certificates among all this.
    pub certificates: Vec<Certificate>,
}

/// What the senders of a source that is pushed to prove themselves with: a webhook's signing secret, or the API key of an
/// API destination.
#[derive(Clone)]
pub struct PushCredential {
    /// The newest one.
    pub value: Result<SecretString, SecretProblem>,
    /// The `resourceVersion` of the Secret that holds it; none in a manifest.
    pub secret_version: Option<String>,
}

/// Certificates under one key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret's name.
    pub secret: String,
    /// The key.
    pub key: String,
    /// When the first of them expires, in seconds since 1970.
    pub expires: i64,
}

impl Certificate {
    /// The certificates in `pem`; `None` where none can be read, which its user reports.
    fn read(secret: &str, key: &str, pem: &[u8]) -> Option<Self> {
        let expires = first_expiry(pem)?;
        Some(Self { secret: secret.to_owned(), key: key.to_owned(), expires })
    }
}

/// The id and the secret of an OAuth client.
#[derive(Clone)]
pub struct OAuthClient {
    /// The id, which is no secret.
    pub id: String,
    /// The secret.
    pub secret: SecretString,
}

/// What is wrong with a Secret that the spec names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// It is not there.
    #[error("Secret {0:?} does not exist; create it in the namespace of the PresenceRoute")]
    Missing(String),
    /// It has no such key.
    #[error("Secret {name:?} has no key {key:?}; add it, or name another key in the PresenceRoute")]
    MissingKey {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The key holds nothing, or only white space.
    #[error("key {key:?} of Secret {name:?} is empty; give it a value")]
    Empty {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
    /// The key holds more than the operator keeps in memory for a route.
    #[error("key {key:?} of Secret {name:?} has more than {most} bytes; {remedy}")]
    TooLong {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
        /// How many are taken.
        most: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// The key holds bytes that are no UTF-8 text.
    #[error("key {key:?} of Secret {name:?} is not UTF-8 text; write it as text")]
    NotText {
        /// The Secret.
        name: String,
        /// The key.
        key: String,
    },
}

/// Where Secrets are read: a cluster, or a manifest file.
pub trait SecretSource {
    /// Why the source could not be read.
    type Error;

    /// Reads one Secret of the PresenceRoute's namespace; `None` when there is none of that name.
    fn secret(&self, name: &str) -> impl Future<Output = Result<Option<Secret>, Self::Error>> + Send;
}

/// Reads everything that `spec` points at. An error is the source's alone.
pub async fn dereference<S: SecretSource>(
    spec: &PresenceRouteSpec,
    source: &S,
) -> Result<References, S::Error> {
    let mut certificates = Vec::new();
    Ok(References {
        oauth_client: oauth_client(source, &spec.genesys.credentials_secret_ref).await?,
        genesys_ca: match &spec.genesys.api.ca_secret_ref {
            Some(reference) => {
                let pem = ca(source, reference).await?;
                let read = |pem: &Vec<u8>| Certificate::read(&reference.name, &reference.key, pem);
                certificates.extend(pem.as_ref().ok().and_then(read));
                Some(pem)
            }
            None => None,
        },
        push_credential: match spec.source.push_credential_ref() {
            Some((name, key)) => Some(push_credential(source, name, key).await?),
            None => None,
        },
        mounted: mount_problems(source, spec, &mut certificates).await?,
        certificates,
    })
}

/// The names of all Secrets that `spec` points at.
pub fn referenced_secrets(spec: &PresenceRouteSpec) -> impl Iterator<Item = &str> {
    secret_names(spec).map(|(_, name)| name)
}

/// The same with the field below `spec` that names each.
pub fn secret_names(spec: &PresenceRouteSpec) -> impl Iterator<Item = (Cow<'static, str>, &str)> {
    let tls = spec.kafka.tls.as_ref();
    let sasl = spec.kafka.sasl.as_ref();
    let oauth_ca = sasl.and_then(|sasl| sasl.oauth.as_ref()?.ca_secret_ref.as_ref());
    let event_bridge = spec.source.amazon_event_bridge.as_ref();
    [
        ("genesys.credentialsSecretRef.name", Some(&spec.genesys.credentials_secret_ref.name)),
        ("genesys.api.caSecretRef.name", spec.genesys.api.ca_secret_ref.as_ref().map(|it| &it.name)),
        (
            "source.webhook.signingSecretRef.name",
            spec.source.webhook.as_ref().map(|webhook| &webhook.signing_secret_ref.name),
        ),
        (
            "source.amazonEventBridge.sqs.credentialsSecretRef.name",
            event_bridge.and_then(|it| it.sqs.as_ref()?.credentials_secret_ref.as_ref()).map(|it| &it.name),
        ),
        (
            "source.amazonEventBridge.apiDestination.apiKeySecretRef.name",
            event_bridge.and_then(|it| it.api_destination.as_ref()).map(|it| &it.api_key_secret_ref.name),
        ),
        ("kafka.tls.caSecretRef.name", tls.and_then(|tls| tls.ca_secret_ref.as_ref()).map(|it| &it.name)),
        (
            "kafka.tls.clientCertificateSecretRef.name",
            tls.and_then(|tls| tls.client_certificate_secret_ref.as_ref()).map(|it| &it.name),
        ),
        (
            "kafka.sasl.credentialsSecretRef.name",
            sasl.and_then(|sasl| sasl.credentials_secret_ref.as_ref()).map(|it| &it.name),
        ),
        ("kafka.sasl.oauth.caSecretRef.name", oauth_ca.map(|it| &it.name)),
        (
            "relay.tls.certificateSecretRef.name",
            spec.relay.tls.as_ref().map(|tls| &tls.certificate_secret_ref.name),
        ),
    ]
    .into_iter()
    .filter_map(|(field, name)| Some((field.into(), name?.as_str())))
    .chain(environment_secrets(&spec.relay).map(|(index, secret)| {
        (format!("relay.extraEnv[{index}].valueFrom.secretKeyRef.name").into(), secret.name.as_str())
    }))
}

/// The Secret keys that environment variables of the relay pods are taken from, each with the variable's index.
fn environment_secrets(relay: &Relay) -> impl Iterator<Item = (usize, &SecretKeyRef)> {
    let variables = relay.extra_env.iter().enumerate();
    variables
        .filter_map(|(index, variable)| Some((index, variable.value_from.as_ref()?.secret_key_ref.as_ref()?)))
}

/// The OAuth client in a Secret.
pub async fn oauth_client<S: SecretSource>(
    source: &S,
    reference: &OAuthClientSecretRef,
) -> Result<Result<OAuthClient, SecretProblem>, S::Error> {
    let secret = source.secret(&reference.name).await?;
    Ok(secret_text(secret.as_ref(), &reference.name, &reference.client_id_key).and_then(|id| {
        let client_secret = secret_text(secret.as_ref(), &reference.name, &reference.client_secret_key)?;
        Ok(OAuthClient { id, secret: client_secret.into() })
    }))
}

/// What senders prove themselves with, under a key of a Secret. The error is the source's.
pub async fn push_credential<S: SecretSource>(
    source: &S,
    name: &str,
    key: &str,
) -> Result<PushCredential, S::Error> {
    let secret = source.secret(name).await?;
    Ok(PushCredential {
        value: secret_text(secret.as_ref(), name, key).map(SecretString::from),
        secret_version: secret.and_then(|secret| secret.metadata.resource_version),
    })
}

/// The certificates in a Secret, in PEM.
pub async fn ca<S: SecretSource>(
    source: &S,
    reference: &CaSecretRef,
) -> Result<Result<Vec<u8>, SecretProblem>, S::Error> {
    let secret = source.secret(&reference.name).await?;
    let remedy = "leave only the certificate authorities that sign the certificates of the API";
    Ok(text(secret.as_ref(), &reference.name, &reference.key)
        .and_then(|pem| bounded(pem, &reference.name, &reference.key, MAX_CA_BYTES, remedy))
        .map(String::into_bytes))
}

async fn mount_problems<S: SecretSource>(
    source: &S,
    spec: &PresenceRouteSpec,
    certificates: &mut Vec<Certificate>,
) -> Result<Vec<SecretProblem>, S::Error> {
    let mut wanted: Vec<(&str, Vec<&str>)> = Vec::new();
    if let Some(tls) = &spec.kafka.tls {
        wanted.extend(tls.ca_secret_ref.iter().map(|ca| (ca.name.as_str(), vec![ca.key.as_str()])));
        wanted.extend(tls.client_certificate_secret_ref.iter().map(|certificate| {
            let keys = vec![certificate.certificate_key.as_str(), certificate.private_key_key.as_str()];
            (certificate.name.as_str(), keys)
        }));
    }
    if let Some(sasl) = &spec.kafka.sasl {
        wanted.extend(sasl.credentials_secret_ref.iter().map(|credentials| {
            let mut keys = vec![credentials.password_key.as_str()];
            // An access key has an id of its own, unlike a user, who may have the name of the Secret.
            keys.extend(sasl.aws_msk_iam.as_ref().map(|_| credentials.username_key.as_str()));
            (credentials.name.as_str(), keys)
        }));
        let oauth_ca = sasl.oauth.iter().filter_map(|oauth| oauth.ca_secret_ref.as_ref());
        wanted.extend(oauth_ca.map(|ca| (ca.name.as_str(), vec![ca.key.as_str()])));
    }
    let queue = spec.source.amazon_event_bridge.as_ref().and_then(|event_bridge| event_bridge.sqs.as_ref());
    if let Some(access_key) = queue.and_then(|queue| queue.credentials_secret_ref.as_ref()) {
        let keys = vec![access_key.access_key_id_key.as_str(), access_key.secret_access_key_key.as_str()];
        wanted.push((&access_key.name, keys));
    }
    if let Some(tls) = &spec.relay.tls {
        let keys = vec![TlsSecretRef::CERTIFICATE_KEY, TlsSecretRef::PRIVATE_KEY_KEY];
        wanted.push((&tls.certificate_secret_ref.name, keys));
    }
    let mut problems = Vec::new();
    for (name, keys) in wanted {
        let secret = source.secret(name).await?;
        for key in keys {
            match text(secret.as_ref(), name, key) {
                Ok(pem) => certificates.extend(Certificate::read(name, key, pem.as_bytes())),
                Err(problem) => problems.push(problem),
            }
        }
    }
    // Any value will do, but a pod without the key does not start.
    for (_, wanted) in environment_secrets(&spec.relay).filter(|(_, wanted)| !wanted.optional) {
        let SecretKeyRef { name, key, .. } = wanted;
        match source.secret(name).await? {
            None => problems.push(SecretProblem::Missing(name.clone())),
            Some(secret) if !secret.data.as_ref().is_some_and(|data| data.contains_key(key)) => {
                problems.push(SecretProblem::MissingKey { name: name.clone(), key: key.clone() });
            }
            Some(_) => {}
        }
    }
    problems.dedup();
    Ok(problems)
}

fn secret_text(secret: Option<&Secret>, name: &str, key: &str) -> Result<String, SecretProblem> {
    let remedy = "correct it, or name another key in the PresenceRoute";
    bounded(text(secret, name, key)?, name, key, MAX_SECRET_BYTES, remedy)
}

fn bounded(
    text: String,
    name: &str,
    key: &str,
    most: usize,
    remedy: &'static str,
) -> Result<String, SecretProblem> {
    if text.len() <= most {
        return Ok(text);
    }
    Err(SecretProblem::TooLong { name: name.to_owned(), key: key.to_owned(), most, remedy })
}

/// The text under a key, without the white space at its end that editors and `echo` leave there.
fn text(secret: Option<&Secret>, name: &str, key: &str) -> Result<String, SecretProblem> {
    let named = || (name.to_owned(), key.to_owned());
    let secret = secret.ok_or_else(|| SecretProblem::Missing(name.to_owned()))?;
    let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or_else(|| {
        let (name, key) = named();
        SecretProblem::MissingKey { name, key }
    })?;
    let text = std::str::from_utf8(&bytes.0).map_err(|_| {
        let (name, key) = named();
        SecretProblem::NotText { name, key }
    })?;
    match text.trim_end() {
        "" => {
            let (name, key) = named();
            Err(SecretProblem::Empty { name, key })
        }
        trimmed => Ok(trimmed.to_owned()),
    }
}
