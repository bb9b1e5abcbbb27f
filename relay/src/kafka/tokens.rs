//! Tokens for SASL OAUTHBEARER: a producer always has a valid one, from an OAuth server or signed by the relay.
//!
//! librdkafka can fetch tokens itself where it is built with libcurl, which would be a second HTTP client and one more
//! TLS configuration in the process. The relay gets each token with the client that it has, hands it to its producer and
//! gets the next one before it expires.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secrecy::{ExposeSecret, SecretString};

use super::callbacks::Callbacks;
use super::librdkafka::{self, Client};
#[cfg(feature = "kafka-msk-iam")]
use super::msk_iam::{MskIam, MskIamError};
use super::oauth::{OauthClient, OauthError};
use crate::outbound::{self, cause};

/// The first and the longest wait before it is asked again after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Who issues a producer's tokens. It cannot be printed.
#[derive(Clone, PartialEq)]
pub(super) enum TokenSource {
    /// An OAuth server.
    Oauth(OauthClient),
    /// The relay itself, with AWS credentials.
    #[cfg(feature = "kafka-msk-iam")]
    MskIam(MskIam),
}

/// A token, whose it is, and when it expires.
pub(super) struct Token {
    pub(super) value: SecretString,
    pub(super) principal: String,
    /// In milliseconds since 1970.
    pub(super) expires: i64,
    pub(super) renew_after: Duration,
}

/// Why there is no token. It never holds a secret or a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("no HTTP client to get tokens with: {0}; check kafka.sasl.oauth's CA")]
    HttpClient(String),
    #[error(transparent)]
    Oauth(#[from] OauthError),
    #[cfg(feature = "kafka-msk-iam")]
    #[error(transparent)]
    MskIam(#[from] MskIamError),
    #[error("the Kafka client does not take the token: {0}")]
    NotTaken(String),
}

/// What is supplied with tokens.
pub(super) trait TokenSink {
    /// Takes the next token, with the SASL extensions that go with it. The error is the Kafka library's text.
    fn set_token(&self, token: &Token, extensions: &BTreeMap<String, String>) -> Result<(), String>;

    /// Takes note of why there is no token.
    fn set_failure(&self, error: &TokenError);
}

impl TokenSink for Client<Callbacks> {
    fn set_token(&self, token: &Token, extensions: &BTreeMap<String, String>) -> Result<(), String> {
        let Token { value, principal, expires, .. } = token;
        librdkafka::set_token(self, principal, value.expose_secret(), *expires, extensions)?;
        self.client().context().set_token_error(None);
        Ok(())
    }

    fn set_failure(&self, error: &TokenError) {
        let error = error.to_string();
        // In the library's own words.
        let reported = format!("Failed to acquire SASL OAUTHBEARER token: {error}");
        self.client().context().set_token_error(Some(reported));
        librdkafka::set_token_failure(self, &error);
    }
}

/// Keeps a producer supplied with tokens, for as long as it is polled.
pub(super) async fn supply(producer: impl TokenSink, source: TokenSource) {
    let mut retry = FIRST_RETRY;
    let http = loop {
        match source.http_client() {
            Ok(http) => break http,
            Err(error) => producer.set_failure(&error),
        }
        tokio::time::sleep(LAST_RETRY).await;
    };
    loop {
        let supplied = source.token(&http).await.and_then(|token| {
            producer.set_token(&token, source.extensions()).map_err(TokenError::NotTaken)?;
            Ok(token.renew_after)
        });
        match supplied {
            Ok(renew_after) => {
                retry = FIRST_RETRY;
                tokio::time::sleep(renew_after).await;
            }
            Err(error) => {
                producer.set_failure(&error);
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

impl TokenSource {
    /// Whether its tokens go to the brokers with SASL extensions.
    pub(super) fn has_extensions(&self) -> bool {
        !self.extensions().is_empty()
    }

    /// One token, for a client of the library that asks by itself whenever it needs another.
    pub(super) async fn single_token(&self) -> Result<Token, TokenError> {
        self.token(&self.http_client()?).await
    }

    fn extensions(&self) -> &BTreeMap<String, String> {
        #[cfg(feature = "kafka-msk-iam")]
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        match self {
            Self::Oauth(client) => &client.extensions,
            #[cfg(feature = "kafka-msk-iam")]
            Self::MskIam(_) => &NONE,
        }
    }

    fn http_client(&self) -> Result<reqwest::Client, TokenError> {
        match self {
            Self::Oauth(client) => http_client(client.ca_pem.as_deref(), &client.token_endpoint),
            #[cfg(feature = "kafka-msk-iam")]
            Self::MskIam(_) => http_client(None, "https://sts.amazonaws.com"),
        }
    }

    async fn token(&self, http: &reqwest::Client) -> Result<Token, TokenError> {
        Ok(match self {
            Self::Oauth(client) => client.fetch(http).await?,
            #[cfg(feature = "kafka-msk-iam")]
            Self::MskIam(iam) => iam.token(http, SystemTime::now()).await?,
        })
    }
}

/// A client for `url`, which trusts this CA, or those of the system.
pub(super) fn http_client(ca_pem: Option<&str>, url: &str) -> Result<reqwest::Client, TokenError> {
    outbound::client(ca_pem, url).map_err(|error| TokenError::HttpClient(cause(&error)))
}

/// A time as tokens have it: in milliseconds since 1970.
pub(super) fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(since).unwrap_or(i64::MAX)
}

#[cfg(all(test, feature = "kafka-msk-iam"))]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;
    use tokio::time::Instant;

    /// When each token came, and each failure.
    #[derive(Clone, Default)]
    struct Producer {
        takes_tokens: bool,
        tokens: Arc<Mutex<Vec<Instant>>>,
        failures: Arc<Mutex<Vec<(Instant, String)>>>,
    }

    impl TokenSink for Producer {
        fn set_token(&self, _: &Token, _: &BTreeMap<String, String>) -> Result<(), String> {
            self.tokens.lock().push(Instant::now());
            if self.takes_tokens { Ok(()) } else { Err("too old".into()) }
        }

        fn set_failure(&self, error: &TokenError) {
            self.failures.lock().push((Instant::now(), error.to_string()));
        }
    }

    /// What a producer is supplied with in an hour, by an issuer whose tokens are valid for 15 minutes.
    async fn an_hour(takes_tokens: bool) -> Producer {
        let producer = Producer { takes_tokens, ..Producer::default() };
        let source =
            TokenSource::MskIam(MskIam::new("eu-west-1", Some(("AKIDEXAMPLE".into(), "secret".into()))));
        let supplying = supply(producer.clone(), source);
        assert!(tokio::time::timeout(Duration::from_secs(3_590), supplying).await.is_err());
        producer
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_token_comes_before_the_last_one_ends() {
        let producer = an_hour(true).await;
        let tokens = producer.tokens.lock();
        let pauses: Vec<_> = tokens.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
        assert_eq!(pauses, [720; 4]);
        assert!(producer.failures.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_fails_is_tried_again_with_growing_pauses() {
        let producer = an_hour(false).await;
        let failures = producer.failures.lock();
        let pauses: Vec<_> =
            failures.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_millis()).take(7).collect();
        assert!(
            pauses
                .iter()
                .zip([500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000])
                .all(|(pause, expected)| pause.abs_diff(expected) <= 2),
            "{pauses:?}"
        );
        assert_eq!(failures[0].1, "the Kafka client does not take the token: too old");
    }
}
