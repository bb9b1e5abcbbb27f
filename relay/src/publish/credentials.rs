//! What lets the relay into Kafka: certificates, user and password, read from files that may change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use presenceroute_crds::relay_config::{KafkaConfig, KafkaSaslConfig, KafkaTlsConfig};
use secrecy::{ExposeSecret, SecretString};

use super::oauth::OauthClient;

/// What a connection's security takes. It cannot be printed.
pub(super) struct Credentials {
    /// librdkafka's properties.
    properties: Vec<(&'static str, SecretString)>,
    /// Who gets the tokens, with OAUTHBEARER.
    oauth: Option<OauthClient>,
}

/// Why there are no credentials. It names files, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {cause}; it holds Kafka's {what}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What it would hold.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
}

impl Credentials {
    /// Reads every file that the configuration names.
    pub(super) fn read(kafka: &KafkaConfig) -> Result<Self, CredentialsError> {
        let mut properties = Vec::new();
        let protocol = match (&kafka.tls, &kafka.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        properties.push(("security.protocol", protocol.into()));
        if let Some(tls) = &kafka.tls {
            read_tls(tls, &mut properties)?;
        }
        let mut oauth = None;
        if let Some(sasl) = &kafka.sasl {
            oauth = read_sasl(sasl, &mut properties)?;
        }
        Ok(Self { properties, oauth })
    }

    pub(super) fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.properties.iter().map(|(name, value)| (*name, value.expose_secret()))
    }

    /// The SASL user, which is no secret.
    pub(super) fn user(&self) -> Option<&str> {
        let named = self.properties().find_map(|(name, value)| (name == "sasl.username").then_some(value));
        named.or(self.oauth.as_ref().map(|oauth| oauth.id.as_str()))
    }

    /// Whether both are the same.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.properties().eq(other.properties()) && self.oauth == other.oauth
    }

    /// Who gets the tokens that connections are opened with, where they are.
    pub(super) fn oauth(&self) -> Option<&OauthClient> {
        self.oauth.as_ref()
    }
}

fn read_tls(
    tls: &KafkaTlsConfig,
    properties: &mut Vec<(&'static str, SecretString)>,
) -> Result<(), CredentialsError> {
    match &tls.ca_file {
        Some(path) => properties.push(("ssl.ca.pem", read(path, "CA certificate")?)),
        // The library's own OpenSSL does not know where this system keeps its CAs; `probe` looks where systems do.
        None => properties.push(("ssl.ca.location", "probe".into())),
    }
    if let Some(files) = &tls.client_certificate {
        properties.push(("ssl.certificate.pem", read(&files.certificate_file, "client certificate")?));
        properties.push(("ssl.key.pem", read(&files.private_key_file, "private key")?));
    }
    Ok(())
}

fn read_sasl(
    sasl: &KafkaSaslConfig,
    properties: &mut Vec<(&'static str, SecretString)>,
) -> Result<Option<OauthClient>, CredentialsError> {
    properties.push(("sasl.mechanism", sasl.mechanism.as_str().into()));
    let username = match (&sasl.username, sasl.username_file.exists()) {
        (Some(username), false) => username.as_str().into(),
        _ => read(&sasl.username_file, "user name")?,
    };
    let (username, password) = (trimmed(&username), trimmed(&read(&sasl.password_file, "password")?));
    let Some(oauth) = &sasl.oauth else {
        properties.push(("sasl.username", username));
        properties.push(("sasl.password", password));
        return Ok(None);
    };
    let ca = oauth.ca_file.as_ref().map(|path| read(path, "token endpoint's CA certificate")).transpose()?;
    Ok(Some(OauthClient {
        id: username.expose_secret().to_owned(),
        secret: password,
        token_endpoint: oauth.token_endpoint_url.clone(),
        scope: oauth.scope.clone(),
        ca_pem: ca.map(|pem| pem.expose_secret().to_owned()),
    }))
}

fn read(path: &Path, what: &'static str) -> Result<SecretString, CredentialsError> {
    fs::read_to_string(path).map(SecretString::from).map_err(|cause| CredentialsError::Read {
        path: path.to_owned(),
        what,
        cause,
    })
}

/// Without the line's end that an editor or `echo` leaves behind.
fn trimmed(secret: &SecretString) -> SecretString {
    secret.expose_secret().trim_end().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use presenceroute_crds::relay_config::CertificateFiles;

    #[test]
    fn with_oauthbearer_user_and_password_are_those_of_the_oauth_client() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let kafka = KafkaConfig {
            sasl: Some(KafkaSaslConfig {
                mechanism: presenceroute_crds::presence_route::SaslMechanism::OauthBearer,
                username_file: file("username", "relay\n"),
                username: None,
                password_file: file("password", "hush\n"),
                oauth: Some(presenceroute_crds::relay_config::KafkaOauthConfig {
                    token_endpoint_url: "https://id.example.com/token".into(),
                    scope: None,
                    ca_file: Some(file("ca.crt", "CA")),
                }),
            }),
            ..KafkaConfig::default()
        };
        let first = Credentials::read(&kafka).unwrap();
        let properties: Vec<_> = first.properties().collect();
        assert_eq!(properties, [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "OAUTHBEARER")]);
        let client = first.oauth().unwrap();
        assert_eq!((client.id.as_str(), client.secret.expose_secret()), ("relay", "hush"));
        assert_eq!(client.ca_pem.as_deref(), Some("CA"));
        assert!(first.same_as(&Credentials::read(&kafka).unwrap()));
        file("password", "other");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
    }

    #[test]
    fn strimzis_files_become_properties_and_a_change_shows() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let kafka = KafkaConfig {
            tls: Some(KafkaTlsConfig {
                ca_file: Some(file("ca.crt", "CA")),
                client_certificate: Some(CertificateFiles {
                    certificate_file: file("user.crt", "CERTIFICATE"),
                    private_key_file: file("user.key", "KEY"),
                }),
            }),
            sasl: Some(KafkaSaslConfig {
                mechanism: presenceroute_crds::presence_route::SaslMechanism::ScramSha512,
                username_file: directory.path().join("username"),
                username: Some("relay".into()),
                password_file: file("password", "p\n"),
                oauth: None,
            }),
            ..KafkaConfig::default()
        };
        let first = Credentials::read(&kafka).unwrap();
        let properties: Vec<_> = first.properties().collect();
        assert_eq!(
            properties,
            [
                ("security.protocol", "sasl_ssl"),
                ("ssl.ca.pem", "CA"),
                ("ssl.certificate.pem", "CERTIFICATE"),
                ("ssl.key.pem", "KEY"),
                ("sasl.mechanism", "SCRAM-SHA-512"),
                ("sasl.username", "relay"),
                ("sasl.password", "p"),
            ]
        );
        assert!(first.oauth().is_none());
        file("password", "q");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
        fs::remove_file(directory.path().join("user.key")).unwrap();
        let error = Credentials::read(&kafka).err().unwrap().to_string();
        assert!(error.contains("user.key") && error.contains("private key"), "{error}");
    }
}
