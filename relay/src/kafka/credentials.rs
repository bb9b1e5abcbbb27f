//! What the relay authenticates to Kafka with: certificates, user and password, read from files that may change. When to
//! read them again is the supervisor's decision.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use presenceroute_core::relay_config::{KafkaConfig, KafkaOauthConfig, KafkaSaslConfig, KafkaTlsConfig};
use presenceroute_runtime::mounted::read_consistent;
use secrecy::{ExposeSecret, SecretString};

use super::oauth::OauthClient;

/// The security of a connection. It cannot be printed.
pub(super) struct Credentials {
    properties: Vec<Property>,
    /// The client that gets the tokens, with OAUTHBEARER.
    oauth: Option<OauthClient>,
}

/// One of librdkafka's properties.
type Property = (&'static str, SecretString);

/// Why there are no credentials. It names files, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {cause}; it holds Kafka's {what}")]
    Read {
        path: PathBuf,
        /// What it would hold.
        what: &'static str,
        cause: io::Error,
    },
}

impl Credentials {
    /// Reads every file that the configuration names. Those of one mounted Secret are of one generation of it.
    pub(super) fn read(kafka: &KafkaConfig) -> Result<Self, CredentialsError> {
        read_consistent(&files(kafka), || Self::read_once(kafka))
    }

    fn read_once(kafka: &KafkaConfig) -> Result<Self, CredentialsError> {
        let protocol = match (&kafka.tls, &kafka.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        let mut properties = vec![("security.protocol", protocol.into())];
        if let Some(tls) = &kafka.tls {
            properties.extend(tls_properties(tls)?);
        }
        let mut oauth = None;
        if let Some(sasl) = &kafka.sasl {
            properties.push(("sasl.mechanism", sasl.mechanism.as_str().into()));
            let (username, password) = account(sasl)?;
            match &sasl.oauth {
                Some(config) => oauth = Some(oauth_client(config, username, password)?),
                None => properties.extend([("sasl.username", username), ("sasl.password", password)]),
            }
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

    /// The client that gets the tokens, with OAUTHBEARER.
    pub(super) fn oauth(&self) -> Option<&OauthClient> {
        self.oauth.as_ref()
    }
}

/// Every file that may hold a part of them.
fn files(kafka: &KafkaConfig) -> Vec<&Path> {
    let tls = kafka.tls.iter().flat_map(|tls| {
        let pair = tls.client_certificate.iter();
        let pair = pair.flat_map(|files| [&files.certificate_file, &files.private_key_file]);
        tls.ca_file.iter().chain(pair)
    });
    let sasl = kafka.sasl.iter().flat_map(|sasl| {
        let oauth_ca = sasl.oauth.iter().filter_map(|oauth| oauth.ca_file.as_ref());
        [&sasl.username_file, &sasl.password_file].into_iter().chain(oauth_ca)
    });
    tls.chain(sasl).map(PathBuf::as_path).collect()
}

fn tls_properties(tls: &KafkaTlsConfig) -> Result<Vec<Property>, CredentialsError> {
    let mut properties = vec![match &tls.ca_file {
        Some(path) => ("ssl.ca.pem", read(path, "CA certificate")?),
        // The library's own OpenSSL does not know where this system keeps its CAs; `probe` looks where systems do.
        None => ("ssl.ca.location", "probe".into()),
    }];
    if let Some(files) = &tls.client_certificate {
        properties.push(("ssl.certificate.pem", read(&files.certificate_file, "client certificate")?));
        properties.push(("ssl.key.pem", read(&files.private_key_file, "private key")?));
    }
    Ok(properties)
}

/// The user and the password, or an OAuth client's id and secret.
fn account(sasl: &KafkaSaslConfig) -> Result<(SecretString, SecretString), CredentialsError> {
    let username = match (&sasl.username, sasl.username_file.exists()) {
        (Some(username), false) => username.as_str().into(),
        _ => read(&sasl.username_file, "user name")?,
    };
    Ok((trimmed(&username), trimmed(&read(&sasl.password_file, "password")?)))
}

fn oauth_client(
    oauth: &KafkaOauthConfig,
    id: SecretString,
    secret: SecretString,
) -> Result<OauthClient, CredentialsError> {
    let ca = oauth.ca_file.as_ref().map(|path| read(path, "token endpoint's CA certificate")).transpose()?;
    Ok(OauthClient {
        id: id.expose_secret().to_owned(),
        secret,
        token_endpoint: oauth.token_endpoint_url.clone(),
        scope: oauth.scope.clone(),
        ca_pem: ca.map(|pem| pem.expose_secret().to_owned()),
    })
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
pub(super) mod tests {
    use super::*;
    use presenceroute_core::relay_config::CertificateFiles;
    use presenceroute_core::relay_config::SaslMechanism;
    use presenceroute_runtime::testing::Volume;
    use tempfile::TempDir;

    /// Files with credentials, which may change.
    pub(in crate::kafka) struct Files(TempDir);

    impl Files {
        pub(in crate::kafka) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// Writes one, or writes it anew.
        pub(in crate::kafka) fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, content).unwrap();
            path
        }

        /// The user `relay`, whose password is in a file.
        pub(in crate::kafka) fn sasl(&self, mechanism: SaslMechanism, password: &str) -> KafkaSaslConfig {
            KafkaSaslConfig {
                mechanism,
                username_file: self.0.path().join("username"),
                username: Some("relay".into()),
                password_file: self.write("password", password),
                oauth: None,
            }
        }
    }

    #[test]
    fn a_user_and_a_password_are_of_one_generation() {
        let names = ["username", "password"];
        let mut volume = Volume::new(&names.map(|name| (name, "0")));
        let sasl = KafkaSaslConfig {
            mechanism: SaslMechanism::Plain,
            username_file: volume.file("username"),
            username: None,
            password_file: volume.file("password"),
            oauth: None,
        };
        let kafka = KafkaConfig { sasl: Some(sasl), ..KafkaConfig::default() };
        volume.while_swapped(&names, || {
            let read = Credentials::read(&kafka).unwrap();
            let account: Vec<_> = read.properties().skip(2).collect();
            assert_eq!(account, [("sasl.username", account[1].1), ("sasl.password", account[0].1)]);
        });
    }

    #[test]
    fn oauthbearer_uses_user_and_password_as_the_oauth_client() {
        let files = Files::new();
        files.write("username", "relay\n");
        let oauth = KafkaOauthConfig {
            token_endpoint_url: "https://id.example.com/token".into(),
            scope: None,
            ca_file: Some(files.write("ca.crt", "CA")),
        };
        let sasl = KafkaSaslConfig {
            username: None,
            oauth: Some(oauth),
            ..files.sasl(SaslMechanism::OauthBearer, "hush\n")
        };
        let kafka = KafkaConfig { sasl: Some(sasl), ..KafkaConfig::default() };
        let first = Credentials::read(&kafka).unwrap();
        let properties: Vec<_> = first.properties().collect();
        assert_eq!(properties, [("security.protocol", "sasl_plaintext"), ("sasl.mechanism", "OAUTHBEARER")]);
        let client = first.oauth().unwrap();
        assert_eq!((client.id.as_str(), client.secret.expose_secret()), ("relay", "hush"));
        assert_eq!(client.ca_pem.as_deref(), Some("CA"));
        assert!(first.same_as(&Credentials::read(&kafka).unwrap()));
        files.write("password", "other");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
    }

    #[test]
    fn strimzis_files_become_properties_and_a_change_shows() {
        let files = Files::new();
        let key = files.write("user.key", "KEY");
        let tls = KafkaTlsConfig {
            ca_file: Some(files.write("ca.crt", "CA")),
            client_certificate: Some(CertificateFiles {
                certificate_file: files.write("user.crt", "CERTIFICATE"),
                private_key_file: key.clone(),
            }),
        };
        let sasl = files.sasl(SaslMechanism::ScramSha512, "p\n");
        let kafka = KafkaConfig { tls: Some(tls), sasl: Some(sasl), ..KafkaConfig::default() };
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
        files.write("password", "q");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
        fs::remove_file(key).unwrap();
        let error = Credentials::read(&kafka).err().unwrap().to_string();
        assert!(error.contains("user.key") && error.contains("private key"), "{error}");
    }
}
