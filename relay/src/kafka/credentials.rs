//! What the relay authenticates to Kafka with: certificates, user and password, read from files that may change. When to
//! read them again is the supervisor's decision.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use presenceroute_core::relay_config::{
    AwsMskIamConfig, KafkaConfig, KafkaOauthConfig, KafkaSaslConfig, KafkaTlsConfig,
};
use presenceroute_runtime::mounted::read_consistent;
use secrecy::{ExposeSecret, SecretString};

#[cfg(feature = "kafka-msk-iam")]
use super::msk_iam::MskIam;
use super::oauth::OauthClient;
use super::tokens::TokenSource;

/// The security of a connection. It cannot be printed.
pub(super) struct Credentials {
    properties: Vec<Property>,
    /// Who issues the tokens, with OAUTHBEARER.
    tokens: Option<TokenSource>,
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
    /// The configuration names no file that is needed.
    #[error("kafka.sasl.{0} must be set for this mechanism")]
    NotNamed(&'static str),
    /// A relay that was built without what a mechanism needs.
    #[error(
        "this relay was built without AWS_MSK_IAM; use one with the feature kafka-msk-iam, as the images are"
    )]
    WithoutMskIam,
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
        let mut tokens = None;
        if let Some(sasl) = &kafka.sasl {
            properties.push(("sasl.mechanism", sasl.mechanism.sasl_name().into()));
            match (&sasl.oauth, &sasl.aws_msk_iam) {
                (Some(config), _) => tokens = Some(TokenSource::Oauth(oauth_client(config, account(sasl)?)?)),
                (None, Some(cluster)) => tokens = Some(msk_iam(cluster, sasl)?),
                (None, None) => {
                    let (username, password) = account(sasl)?;
                    properties.extend([("sasl.username", username), ("sasl.password", password)]);
                }
            }
        }
        Ok(Self { properties, tokens })
    }

    pub(super) fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.properties.iter().map(|(name, value)| (*name, value.expose_secret()))
    }

    /// Whether both are the same.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.properties().eq(other.properties()) && self.tokens == other.tokens
    }

    /// Who issues the tokens, with OAUTHBEARER.
    pub(super) fn tokens(&self) -> Option<&TokenSource> {
        self.tokens.as_ref()
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
        sasl.username_file.iter().chain(&sasl.password_file).chain(oauth_ca)
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
    let username_file = sasl.username_file.as_ref().filter(|file| sasl.username.is_none() || file.exists());
    let username = match (username_file, &sasl.username) {
        (Some(file), _) => read(file, "user name")?,
        (None, Some(username)) => username.as_str().into(),
        (None, None) => return Err(CredentialsError::NotNamed("usernameFile")),
    };
    let password_file = sasl.password_file.as_ref().ok_or(CredentialsError::NotNamed("passwordFile"))?;
    Ok((trimmed(&username), trimmed(&read(password_file, "password")?)))
}

#[cfg(feature = "kafka-msk-iam")]
fn msk_iam(cluster: &AwsMskIamConfig, sasl: &KafkaSaslConfig) -> Result<TokenSource, CredentialsError> {
    let access_key = sasl.password_file.as_ref().map(|_| account(sasl)).transpose()?;
    Ok(TokenSource::MskIam(MskIam::new(&cluster.region, access_key)))
}

#[cfg(not(feature = "kafka-msk-iam"))]
fn msk_iam(_: &AwsMskIamConfig, _: &KafkaSaslConfig) -> Result<TokenSource, CredentialsError> {
    Err(CredentialsError::WithoutMskIam)
}

fn oauth_client(
    oauth: &KafkaOauthConfig,
    (id, secret): (SecretString, SecretString),
) -> Result<OauthClient, CredentialsError> {
    let ca = oauth.ca_file.as_ref().map(|path| read(path, "token endpoint's CA certificate")).transpose()?;
    Ok(OauthClient {
        id: id.expose_secret().to_owned(),
        secret,
        token_endpoint: oauth.token_endpoint_url.clone(),
        scope: oauth.scope.clone(),
        extensions: oauth.extensions.clone(),
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
                username_file: Some(self.0.path().join("username")),
                username: Some("relay".into()),
                password_file: Some(self.write("password", password)),
                oauth: None,
                aws_msk_iam: None,
            }
        }
    }

    #[test]
    fn a_user_and_a_password_are_of_one_generation() {
        let names = ["username", "password"];
        let mut volume = Volume::new(&names.map(|name| (name, "0")));
        let sasl = KafkaSaslConfig {
            mechanism: SaslMechanism::Plain,
            username_file: Some(volume.file("username")),
            username: None,
            password_file: Some(volume.file("password")),
            oauth: None,
            aws_msk_iam: None,
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
            extensions: [("logicalCluster".to_owned(), "lkc-1".to_owned())].into(),
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
        let Some(TokenSource::Oauth(client)) = first.tokens() else { panic!("no OAuth client") };
        assert_eq!((client.id.as_str(), client.secret.expose_secret()), ("relay", "hush"));
        assert_eq!(client.ca_pem.as_deref(), Some("CA"));
        assert_eq!(client.extensions["logicalCluster"], "lkc-1");
        assert!(first.same_as(&Credentials::read(&kafka).unwrap()));
        files.write("password", "other");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
    }

    #[cfg(feature = "kafka-msk-iam")]
    #[test]
    fn msk_iam_authenticates_by_tokens_and_a_changed_key_shows() {
        let files = Files::new();
        files.write("username", "AKIDEXAMPLE");
        let by_key = |region: &str| {
            let sasl = KafkaSaslConfig {
                username: None,
                aws_msk_iam: Some(AwsMskIamConfig { region: region.into() }),
                ..files.sasl(SaslMechanism::AwsMskIam, "secret")
            };
            KafkaConfig { sasl: Some(sasl), tls: Some(KafkaTlsConfig::default()), ..KafkaConfig::default() }
        };
        let kafka = by_key("eu-west-1");
        let first = Credentials::read(&kafka).unwrap();
        assert!(first.properties().any(|property| property == ("sasl.mechanism", "OAUTHBEARER")));
        assert!(!first.properties().any(|(_, value)| value.contains("secret")));
        assert!(!first.same_as(&Credentials::read(&by_key("eu-west-2")).unwrap()));
        files.write("password", "other");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
        let mut by_role = by_key("eu-west-1");
        let sasl = by_role.sasl.as_mut().unwrap();
        (sasl.username_file, sasl.password_file) = (None, None);
        let by_role = (Credentials::read(&by_role).unwrap(), Credentials::read(&by_role).unwrap());
        assert!(by_role.0.same_as(&by_role.1) && !by_role.0.same_as(&first));
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
        assert!(first.tokens().is_none());
        files.write("password", "q");
        assert!(!first.same_as(&Credentials::read(&kafka).unwrap()));
        fs::remove_file(key).unwrap();
        let error = Credentials::read(&kafka).err().unwrap().to_string();
        assert!(error.contains("user.key") && error.contains("private key"), "{error}");
    }
}
