//! Tokens of an OAuth 2.0 server, by the client-credentials grant (RFC 6749, section 4.4). The request and its response
//! are [`presenceroute_runtime::oauth_token`]'s.

use std::collections::BTreeMap;
use std::time::SystemTime;

use presenceroute_runtime::oauth_token::{self, ClientCredentials, Encoding, Grant, TokenRequest};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use reqwest::{Response, Url};
use secrecy::{ExposeSecret, SecretString};

use super::tokens::{Token, milliseconds};
use crate::outbound::cause;
use crate::outcome::escaped;

/// An OAuth client and where it gets its tokens. It cannot be printed.
#[derive(Clone)]
pub(super) struct OauthClient {
    pub(super) id: String,
    pub(super) secret: SecretString,
    pub(super) token_endpoint: String,
    pub(super) scope: Option<String>,
    /// SASL extensions, by name.
    pub(super) extensions: BTreeMap<String, String>,
    /// The CA of the token endpoint, in PEM. Default: the system's.
    pub(super) ca_pem: Option<String>,
}

impl PartialEq for OauthClient {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.secret.expose_secret() == other.secret.expose_secret()
            && self.token_endpoint == other.token_endpoint
            && self.scope == other.scope
            && self.extensions == other.extensions
            && self.ca_pem == other.ca_pem
    }
}

/// Why a server gives no token. It never holds the client's secret or a token.
#[derive(Debug, thiserror::Error)]
pub(super) enum OauthError {
    #[error("the token endpoint {endpoint} cannot be reached: {cause}")]
    Unreachable { endpoint: String, cause: String },
    #[error(
        "the token endpoint {endpoint} gives the OAuth client no token: status {status}, {said}; check the client's id, secret and scope"
    )]
    Refused { endpoint: String, status: u16, said: String },
    #[error(
        "the token endpoint {endpoint} redirects to {host}, which is not followed: the client's secret would go with it; \
         set kafka.sasl.oauth.tokenEndpointUrl to where tokens are given"
    )]
    Redirect { endpoint: String, host: String },
    #[error("the answer of the token endpoint {endpoint} is not that of an OAuth server: {problem}")]
    Answer { endpoint: String, problem: String },
}

impl OauthClient {
    /// Gets a token.
    pub(super) async fn fetch(&self, http: &reqwest::Client) -> Result<Token, OauthError> {
        let requested = SystemTime::now();
        let endpoint = || self.token_endpoint.clone();
        let unreachable =
            |error: reqwest::Error| OauthError::Unreachable { endpoint: endpoint(), cause: cause(&error) };
        let mut response = self.request(http).await.map_err(unreachable)?;
        let status = response.status();
        if status.is_redirection() {
            return Err(OauthError::Redirect { endpoint: endpoint(), host: redirect_host(&response) });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > oauth_token::MAX_RESPONSE_BYTES {
                let problem = format!("it has more than {} bytes", oauth_token::MAX_RESPONSE_BYTES);
                return Err(OauthError::Answer { endpoint: endpoint(), problem });
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(OauthError::Refused {
                endpoint: endpoint(),
                status: status.as_u16(),
                said: oauth_token::error_code(&body)
                    .map_or_else(|| "without a reason".to_owned(), |error| escaped(&error)),
            });
        }
        let grant = Grant::parse(&body)
            .map_err(|error| OauthError::Answer { endpoint: endpoint(), problem: error.to_string() })?;
        Ok(Token {
            renew_after: grant.renew_after(),
            expires: milliseconds(requested + grant.lifetime),
            principal: self.id.clone(),
            value: grant.access_token,
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::tokens::http_client;
    use std::time::{Duration, UNIX_EPOCH};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn client(token_endpoint: String) -> OauthClient {
        OauthClient {
            id: "relay:1".into(),
            secret: "s p".into(),
            token_endpoint,
            scope: Some("kafka".into()),
            extensions: BTreeMap::new(),
            ca_pem: None,
        }
    }

    /// Fetches a token from an endpoint that answers so. Returns the request, too.
    async fn exchange(head: &str, body: &str) -> (String, Result<Token, OauthError>) {
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
        let http = http_client(None, &client.token_endpoint).unwrap();
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
    async fn a_failure_names_endpoint_and_reason_and_nothing_secret() {
        for (status, body, expected) in [
            (
                "401 Unauthorized",
                r#"{"error":"invalid_client"}"#,
                r#"the OAuth client no token: status 401, "invalid_client""#,
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
        let error = absent
            .fetch(&http_client(None, &absent.token_endpoint).unwrap())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("http://127.0.0.1:1/token cannot be reached: Connection refused"), "{error}");
    }
}
