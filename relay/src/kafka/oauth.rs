//! Tokens for SASL OAUTHBEARER, by the client-credentials grant of OAuth 2.0 (RFC 6749, section 4.4).
//!
//! librdkafka can fetch tokens itself where it is built with libcurl, which would be a second HTTP client and one more
//! TLS configuration in the process. The relay asks with the client that it has, hands each token to its producer and
//! gets the next one before it expires. The request and its response are [`presenceroute_runtime::oauth_token`]'s.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use presenceroute_runtime::oauth_token::{self, ClientCredentials, Encoding, Grant, TokenRequest};
use presenceroute_runtime::tls_provider::install_crypto_provider;
use rdkafka::producer::Producer as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use reqwest::{Certificate, Response, Url, redirect};
use secrecy::{ExposeSecret, SecretString};

use super::callbacks::Callbacks;
use super::librdkafka::{self, Client};
use crate::outcome::escaped;

/// How long the token endpoint may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The first and the longest wait before it is asked again after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// An OAuth client and where it gets its tokens. It cannot be printed.
#[derive(Clone)]
pub(super) struct OauthClient {
    pub(super) id: String,
    pub(super) secret: SecretString,
    pub(super) token_endpoint: String,
    pub(super) scope: Option<String>,
    /// The CA of the token endpoint, in PEM. Default: the system's.
    pub(super) ca_pem: Option<String>,
}

impl PartialEq for OauthClient {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.secret.expose_secret() == other.secret.expose_secret()
            && self.token_endpoint == other.token_endpoint
            && self.scope == other.scope
            && self.ca_pem == other.ca_pem
    }
}

/// Why there is no token. It never holds the client's secret or a token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("no HTTP client for the token endpoint {endpoint}: {cause}; check the CA that is trusted for it")]
    Client { endpoint: String, cause: String },
    #[error("the token endpoint {endpoint} cannot be reached: {cause}")]
    Unreachable { endpoint: String, cause: String },
    #[error(
        "the token endpoint {endpoint} gives client {id} no token: status {status}, {said}; check the client's id, secret and scope"
    )]
    Refused { endpoint: String, id: String, status: u16, said: String },
    #[error(
        "the token endpoint {endpoint} redirects to {host}, which is not followed: the client's secret would go with it; \
         set kafka.sasl.oauth.tokenEndpointUrl to where tokens are given"
    )]
    Redirect { endpoint: String, host: String },
    #[error("the answer of the token endpoint {endpoint} is not that of an OAuth server: {problem}")]
    Answer { endpoint: String, problem: String },
    #[error("the Kafka client does not take the token of {endpoint}: {problem}")]
    NotTaken { endpoint: String, problem: String },
}

/// A token and when it expires.
pub(super) struct Token {
    pub(super) value: SecretString,
    /// In milliseconds since 1970.
    pub(super) expires: i64,
    renew_after: Duration,
}

/// Keeps a producer supplied with tokens, for as long as it is polled.
pub(super) async fn supply(producer: Client<Callbacks>, client: OauthClient) {
    let endpoint = &client.token_endpoint;
    let mut retry = FIRST_RETRY;
    let http = loop {
        match client.http_client() {
            Ok(http) => break http,
            Err(error) => report(&producer, &error),
        }
        tokio::time::sleep(LAST_RETRY).await;
    };
    loop {
        let supplied = client.fetch(&http).await.and_then(|token| {
            librdkafka::set_token(&producer, &client.id, token.value.expose_secret(), token.expires)
                .map_err(|problem| TokenError::NotTaken { endpoint: endpoint.clone(), problem })?;
            Ok(token.renew_after)
        });
        match supplied {
            Ok(renew_after) => {
                producer.client().context().set_token_error(None);
                retry = FIRST_RETRY;
                tokio::time::sleep(renew_after).await;
            }
            Err(error) => {
                report(&producer, &error);
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

fn report(producer: &Client<Callbacks>, error: &TokenError) {
    let error = error.to_string();
    // In the library's own words.
    producer
        .client()
        .context()
        .set_token_error(Some(format!("Failed to acquire SASL OAUTHBEARER token: {error}")));
    librdkafka::set_token_failure(producer, &error);
}

impl OauthClient {
    fn http_client(&self) -> Result<reqwest::Client, TokenError> {
        install_crypto_provider();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("presenceroute-relay/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            // A redirect would carry the client's secret elsewhere.
            .redirect(redirect::Policy::none());
        let builder = match &self.ca_pem {
            Some(pem) => {
                builder.tls_certs_only(Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default())
            }
            None if self.token_endpoint.starts_with("http:") => builder.tls_certs_only([]),
            None => builder,
        };
        builder.build().map_err(|error| TokenError::Client {
            endpoint: self.token_endpoint.clone(),
            cause: cause(&error),
        })
    }

    /// One token, for a client of the library that asks by itself whenever it needs another.
    pub(super) async fn token(&self) -> Result<Token, String> {
        let http = self.http_client().map_err(|error| error.to_string())?;
        self.fetch(&http).await.map_err(|error| error.to_string())
    }

    async fn fetch(&self, http: &reqwest::Client) -> Result<Token, TokenError> {
        let requested = SystemTime::now();
        let endpoint = || self.token_endpoint.clone();
        let unreachable =
            |error: reqwest::Error| TokenError::Unreachable { endpoint: endpoint(), cause: cause(&error) };
        let mut response = self.request(http).await.map_err(unreachable)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(TokenError::Redirect { endpoint: endpoint(), host: redirect_host(&response) });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > oauth_token::MAX_RESPONSE_BYTES {
                let problem = format!("it has more than {} bytes", oauth_token::MAX_RESPONSE_BYTES);
                return Err(TokenError::Answer { endpoint: endpoint(), problem });
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(TokenError::Refused {
                endpoint: endpoint(),
                id: self.id.clone(),
                status: status.as_u16(),
                said: oauth_token::error_code(&body)
                    .map_or_else(|| "without a reason".to_owned(), |error| escaped(&error)),
            });
        }
        let grant = Grant::parse(&body)
            .map_err(|error| TokenError::Answer { endpoint: endpoint(), problem: error.to_string() })?;
        let renew_after = grant.renew_after();
        let expires = (requested + grant.lifetime).duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let expires = i64::try_from(expires).unwrap_or(i64::MAX);
        Ok(Token { value: grant.access_token, expires, renew_after })
    }

    async fn request(&self, http: &reqwest::Client) -> Result<Response, reqwest::Error> {
        let credentials =
            ClientCredentials { id: &self.id, secret: &self.secret, scope: self.scope.as_deref() };
        let TokenRequest { content_type, authorization, body } = credentials.token_request(Encoding::Form);
        let mut request = http
            .post(&self.token_endpoint)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, content_type)
            .body(body.expose_secret().to_owned());
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await
    }
}

/// The host that a redirect leads to, fit to be shown.
fn redirect_host(response: &Response) -> String {
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let url: Option<Url> = location.and_then(|location| response.url().join(location).ok());
    match url.as_ref().and_then(Url::host_str) {
        Some(host) => format!("host {}", escaped(host)),
        None => "no usable Location".to_owned(),
    }
}

/// The innermost cause; those around it repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.is_timeout() { "it does not answer in time".into() } else { innermost.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn client(token_endpoint: String) -> OauthClient {
        OauthClient {
            id: "relay:1".into(),
            secret: "s p".into(),
            token_endpoint,
            scope: Some("kafka".into()),
            ca_pem: None,
        }
    }

    /// Fetches a token from an endpoint that answers so. Returns the request, too.
    async fn exchange(head: &str, body: &str) -> (String, Result<Token, TokenError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(format!("http://{}/token", listener.local_addr().unwrap()));
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let served = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            while !asked.ends_with("scope=kafka") {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).await.unwrap();
                asked.push_str(str::from_utf8(&bytes[..count]).unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked
        };
        let http = client.http_client().unwrap();
        tokio::join!(served, client.fetch(&http))
    }

    #[tokio::test]
    async fn a_token_is_requested_by_client_credentials() {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let (asked, token) = exchange("200 OK", r#"{"access_token":"t","expires_in":60}"#).await;
        let token = token.unwrap();
        assert!(asked.starts_with("POST /token HTTP/1.1\r\n"), "{asked}");
        // Id and secret, each encoded: relay%3A1:s+p
        assert!(asked.contains("authorization: Basic cmVsYXklM0ExOnMrcA==\r\n"), "{asked}");
        assert!(asked.contains("content-type: application/x-www-form-urlencoded\r\n"), "{asked}");
        assert!(asked.ends_with("\r\n\r\ngrant_type=client_credentials&scope=kafka"), "{asked}");
        assert_eq!((token.value.expose_secret(), token.renew_after), ("t", Duration::from_secs(48)));
        assert!((60_000..70_000).contains(&(token.expires - before)), "{}", token.expires - before);
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_its_host_is_named() {
        for (head, named) in [
            ("302 Found\r\nlocation: https://login.example.com/token?x=y", r#"host "login.example.com","#),
            ("301 Moved Permanently\r\nlocation: //elsewhere/", r#"host "elsewhere","#),
            ("307 Temporary Redirect\r\nlocation: /login", r#"host "127.0.0.1","#),
            ("308 Permanent Redirect", "no usable Location"),
        ] {
            let (_, token) = exchange(head, "").await;
            let error = token.err().unwrap().to_string();
            assert!(error.contains(&format!("redirects to {named}")), "{head}: {error}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_read() {
        let (_, token) = exchange("200 OK", &"x".repeat(oauth_token::MAX_RESPONSE_BYTES + 1)).await;
        assert!(token.err().unwrap().to_string().contains("more than 262144 bytes"));
    }

    #[tokio::test]
    async fn a_failure_names_endpoint_client_and_reason_not_the_secret() {
        for (status, body, expected) in [
            (
                "401 Unauthorized",
                r#"{"error":"invalid_client"}"#,
                r#"client relay:1 no token: status 401, "invalid_client""#,
            ),
            ("503 Service Unavailable", "s p", "status 503, without a reason"),
            ("200 OK", r#"{"token":"s p"}"#, "no access_token"),
        ] {
            let (_, token) = exchange(status, body).await;
            let error = token.err().unwrap().to_string();
            assert!(error.contains(expected) && error.contains("http://127.0.0.1:"), "{error}");
            assert!(!error.contains("s p"), "{error}");
        }
        let absent = client("http://127.0.0.1:1/token".into());
        let error = absent.fetch(&absent.http_client().unwrap()).await.err().unwrap().to_string();
        assert!(error.contains("http://127.0.0.1:1/token cannot be reached: Connection refused"), "{error}");
    }
}
