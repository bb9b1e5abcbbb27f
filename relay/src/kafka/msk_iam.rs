//! Tokens for Amazon MSK's IAM access control.
//!
//! A token is a request to `kafka-cluster:Connect`, signed in its query by AWS Signature Version 4 and written in base64url.
//! The relay signs it itself; no server is asked but the one that gives out the pods' AWS credentials. AWS's own libraries
//! for other languages make the same tokens: <https://github.com/aws/aws-msk-iam-sasl-signer-go>.

use std::time::{Duration, SystemTime};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqsign_aws_core::Credential;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::tokens::{Token, milliseconds};
use crate::aws::{CredentialChain, CredentialChainError};

/// How long a token is valid, as AWS's own libraries have it. Credentials that expire earlier end it earlier.
const LIFETIME: Duration = Duration::from_secs(900);

/// Credentials that expire sooner are of no use: connections are opened for as long as a token is valid.
const LEAST_LIFETIME: Duration = Duration::from_secs(30);

/// A token is renewed when this part of its time is over.
const RENEW_AT: f64 = 0.8;

/// What RFC 3986 calls unreserved stays as it is, and nothing else.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What signs tokens for the clusters of one region. It cannot be printed.
#[derive(Clone)]
pub(super) struct MskIam {
    region: String,
    credentials: Credentials,
}

#[derive(Clone)]
enum Credentials {
    AccessKey { id: SecretString, secret: SecretString },
    Found(CredentialChain),
}

/// Why there is no token. It holds no part of the credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum MskIamError {
    #[error(
        "there are no AWS credentials; give the relay's ServiceAccount an IAM role by EKS Pod Identity or IRSA, or name an \
         access key by kafka.sasl.credentialsSecretRef"
    )]
    NoCredentials,
    #[error(
        "no AWS credentials can be got: {0}; check the IAM role of the relay's ServiceAccount, and that no network policy is \
         between"
    )]
    Credentials(String),
    #[error("the AWS credentials expire in {0} s and have not been renewed; check what gives them out")]
    Expiring(u64),
    #[error("the clock of this machine is outside of the calendar; set it")]
    Clock,
}

impl From<CredentialChainError> for MskIamError {
    fn from(error: CredentialChainError) -> Self {
        match error {
            CredentialChainError::Missing => Self::NoCredentials,
            CredentialChainError::Failed(cause) => Self::Credentials(cause),
        }
    }
}

impl MskIam {
    /// For the clusters of a region, with this access key, or with the credentials that the environment leads to.
    pub(super) fn new(region: &str, access_key: Option<(SecretString, SecretString)>) -> Self {
        let credentials = match access_key {
            Some((id, secret)) => Credentials::AccessKey { id, secret },
            None => Credentials::Found(CredentialChain::of_environment()),
        };
        Self { region: region.to_owned(), credentials }
    }

    /// Signs a token at `now`.
    pub(super) async fn token(&self, http: &reqwest::Client, now: SystemTime) -> Result<Token, MskIamError> {
        let credential = self.credential(http).await?;
        let left =
            credential.expires_in.map(|end| end.as_system_time().duration_since(now).unwrap_or_default());
        let lifetime = left.map_or(LIFETIME, |left| left.min(LIFETIME));
        if lifetime < LEAST_LIFETIME {
            return Err(MskIamError::Expiring(lifetime.as_secs()));
        }
        let url = signed_url(&self.region, &credential, now, lifetime).ok_or(MskIamError::Clock)?;
        Ok(Token {
            value: BASE64URL_NOPAD.encode(url.expose_secret().as_bytes()).into(),
            principal: credential.access_key_id,
            expires: milliseconds(now + lifetime),
            renew_after: lifetime.mul_f64(RENEW_AT),
        })
    }

    async fn credential(&self, http: &reqwest::Client) -> Result<Credential, MskIamError> {
        match &self.credentials {
            Credentials::AccessKey { id, secret } => Ok(Credential {
                access_key_id: id.expose_secret().to_owned(),
                secret_access_key: secret.expose_secret().to_owned(),
                ..Credential::default()
            }),
            Credentials::Found(chain) => Ok(chain.credential(http).await?),
        }
    }
}

impl PartialEq for MskIam {
    fn eq(&self, other: &Self) -> bool {
        let same_credentials = match (&self.credentials, &other.credentials) {
            (
                Credentials::AccessKey { id, secret },
                Credentials::AccessKey { id: other_id, secret: other_secret },
            ) => {
                id.expose_secret() == other_id.expose_secret()
                    && secret.expose_secret() == other_secret.expose_secret()
            }
            (Credentials::Found(_), Credentials::Found(_)) => true,
            _ => false,
        };
        self.region == other.region && same_credentials
    }
}

/// The request to connect, signed in its query (AWS Signature Version 4). `None` for a time that no date can write.
fn signed_url(
    region: &str,
    credential: &Credential,
    now: SystemTime,
    lifetime: Duration,
) -> Option<SecretString> {
    let time = Timestamp::try_from(now).ok()?.strftime("%Y%m%dT%H%M%SZ").to_string();
    let date = &time[..8];
    let host = format!("kafka.{region}.amazonaws.com");
    let scope = format!("{date}/{region}/kafka-cluster/aws4_request");
    let parameters = [
        ("Action", Some("kafka-cluster:Connect".to_owned())),
        ("X-Amz-Algorithm", Some("AWS4-HMAC-SHA256".to_owned())),
        ("X-Amz-Credential", Some(format!("{}/{scope}", credential.access_key_id))),
        ("X-Amz-Date", Some(time.clone())),
        ("X-Amz-Expires", Some(lifetime.as_secs().to_string())),
        ("X-Amz-Security-Token", credential.session_token.clone()),
        ("X-Amz-SignedHeaders", Some("host".to_owned())),
    ];
    // In the order of the names, as the signature wants them.
    let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let query: Vec<_> = parameters.map(|(name, value)| format!("{name}={}", encoded(&value))).collect();
    let query = query.join("&");
    let empty_body = HEXLOWER.encode(&Sha256::digest(b""));
    let request = format!("GET\n/\n{query}\nhost:{host}\n\nhost\n{empty_body}");
    let request = HEXLOWER.encode(&Sha256::digest(request.as_bytes()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}");
    let mut key = format!("AWS4{}", credential.secret_access_key).into_bytes();
    for part in [date, region, "kafka-cluster", "aws4_request"] {
        key = hmac(&key, part)?;
    }
    let signature = HEXLOWER.encode(&hmac(&key, &to_sign)?);
    // Of which program the token is; no part of what is signed.
    let agent = encoded(concat!("presenceroute-relay/", env!("CARGO_PKG_VERSION"))).to_string();
    Some(format!("https://{host}/?{query}&X-Amz-Signature={signature}&User-Agent={agent}").into())
}

fn hmac(key: &[u8], text: &str) -> Option<Vec<u8>> {
    let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    Some(mac.chain_update(text.as_bytes()).finalize().into_bytes().to_vec())
}

fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::Files;
    use crate::kafka::tokens::http_client;
    use presenceroute_runtime::oauth_token::MAX_RESPONSE_BYTES;
    use reqsign_core::{Context, StaticEnv};
    use std::time::UNIX_EPOCH;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

    /// 2026-01-02T03:04:05Z.
    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_767_323_045)
    }

    fn credential(id: &str, session_token: Option<&str>) -> Credential {
        Credential {
            access_key_id: id.into(),
            secret_access_key: SECRET.into(),
            session_token: session_token.map(Into::into),
            expires_in: None,
        }
    }

    /// A token as it was before base64url.
    fn decoded(token: &Token) -> String {
        String::from_utf8(BASE64URL_NOPAD.decode(token.value.expose_secret().as_bytes()).unwrap()).unwrap()
    }

    /// Made by aws-msk-iam-sasl-signer-python 1.0.2 with the same credentials at the same time.
    #[test]
    fn the_signed_url_is_that_of_awss_own_library() {
        let expected = [
            "https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Feu-west-1%2Fkafka-cluster%2Faws4_request\
             &X-Amz-Date=20260102T030405Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=7cc178453342e479def8e0e69cbff443ca929b5b0426af0f4b64554172c7195d&User-Agent=",
            "https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=ASIAEXAMPLE%2F20260102%2Feu-west-1%2Fkafka-cluster%2Faws4_request\
             &X-Amz-Date=20260102T030405Z&X-Amz-Expires=900\
             &X-Amz-Security-Token=IQoJb3JpZ2luX2VjEHoaCWV1%2F%2B%3D%3D&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=13d1da0c2fb8b611c0a729bbf47e85c11b14a32f53850cf4c5ae27ded5da6dec&User-Agent=",
        ];
        let credentials = [
            credential("AKIDEXAMPLE", None),
            credential("ASIAEXAMPLE", Some("IQoJb3JpZ2luX2VjEHoaCWV1/+==")),
        ];
        for (credential, expected) in credentials.iter().zip(expected) {
            let url = signed_url("eu-west-1", credential, now(), LIFETIME).unwrap();
            let url = url.expose_secret();
            assert!(url.starts_with(expected), "{url}\n{expected}");
            assert!(url.ends_with(concat!("presenceroute-relay%2F", env!("CARGO_PKG_VERSION"))), "{url}");
        }
    }

    #[tokio::test]
    async fn a_token_of_an_access_key_is_renewed_before_it_ends() {
        let iam = MskIam::new("eu-west-1", Some(("AKIDEXAMPLE".into(), SECRET.into())));
        let http = http_client(None, "http://unused").unwrap();
        let token = iam.token(&http, now()).await.unwrap();
        assert_eq!((token.expires, token.renew_after), (1_767_323_945_000, Duration::from_secs(720)));
        assert_eq!(token.principal, "AKIDEXAMPLE");
        let url = decoded(&token);
        assert!(url.contains("X-Amz-Signature=7cc178453342e479") && !url.contains(SECRET), "{url}");
    }

    /// An agent of EKS Pod Identity that answers one request, and the relay's way to it.
    async fn pod_identity(status: &str, body: String) -> MskIam {
        let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/credentials", agent.local_addr().unwrap());
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        tokio::spawn(async move {
            let (mut stream, _) = agent.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with("\r\n\r\n") {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).await.unwrap();
                request.push_str(str::from_utf8(&bytes[..count]).unwrap());
            }
            assert!(request.to_ascii_lowercase().contains("authorization: of-the-pod\r\n"), "{request}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.keep().join("token");
        std::fs::write(&token_file, "of-the-pod").unwrap();
        let variables = [
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token_file.to_str().unwrap()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1"),
        ];
        let envs = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let context = Context::new().with_env(StaticEnv { home_dir: None, envs }).with_file_read(Files);
        let credentials = Credentials::Found(CredentialChain::in_context(context));
        MskIam { region: "eu-west-1".into(), credentials }
    }

    fn credentials_until(end: SystemTime) -> String {
        let end = Timestamp::try_from(end).unwrap();
        format!(
            r#"{{"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"{SECRET}","Token":"session","Expiration":"{end:.0}"}}"#
        )
    }

    #[tokio::test]
    async fn a_token_ends_with_the_credentials_of_pod_identity() {
        let http = http_client(None, "http://agent").unwrap();
        let now = SystemTime::now();
        for (left, lifetime) in [(6 * 3600, 900), (300, 300)] {
            let end = now + Duration::from_secs(left);
            let iam = pod_identity("200 OK", credentials_until(end)).await;
            let token = iam.token(&http, now).await.unwrap();
            let lasts = u64::try_from(token.expires - milliseconds(now)).unwrap();
            // The agent gives whole seconds.
            assert!(lasts.abs_diff(lifetime * 1_000) <= 1_000, "{lasts}");
            assert!(token.renew_after < Duration::from_millis(lasts), "{:?}", token.renew_after);
            let url = decoded(&token);
            assert!(url.contains("Token=session") && url.contains("Credential=ASIAEXAMPLE%2F"), "{url}");
        }
    }

    #[tokio::test]
    async fn missing_or_expiring_credentials_are_named_with_a_remedy() {
        let http = http_client(None, "http://agent").unwrap();
        let named = async |iam: MskIam| iam.token(&http, SystemTime::now()).await.err().unwrap().to_string();
        let refused = pod_identity("403 Forbidden", SECRET.into()).await;
        let refused = named(refused).await;
        assert!(refused.contains("IAM role") && !refused.contains(SECRET), "{refused}");
        let expiring =
            pod_identity("200 OK", credentials_until(SystemTime::now() + Duration::from_secs(10))).await;
        let expiring = named(expiring).await;
        assert!(expiring.contains("expire in "), "{expiring}");
        let without_end = pod_identity("200 OK", "x".repeat(MAX_RESPONSE_BYTES + 1)).await;
        let without_end = named(without_end).await;
        assert!(without_end.contains("IAM role"), "{without_end}");
    }
}
