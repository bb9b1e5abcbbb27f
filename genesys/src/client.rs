//! What all routes share, and the authenticated request.
//!
//! [`Genesys`] keeps what must hold for all routes together: one token for each OAuth client, one budget of requests,
//! connections that are used again. [`Client`] is one OAuth client of one organisation: it sends a request with a
//! token, and once more with a new token after a 401. Which requests there are is left to the modules of the
//! resources, such as [`crate::event_bridges`], which build on `Client::call`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use presenceroute_core::genesys_api::{ApiEndpoint, TokenRequest};
use presenceroute_core::url::parse_http_url;
use presenceroute_runtime::oauth_token::{self, ClientCredentials, Encoding, Grant};
use reqwest::StatusCode;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::auth::{self, Token, Tokens};
use crate::cache::Cache;
use crate::error::{GenesysError, LimitedBy, Operation, RequestInfo, quote};
use crate::host_policy::HostPolicy;
use crate::memory::ResponseMemory;
use crate::organization::Organization;
use crate::rate_limit::Budget;
use crate::transport::{self, Body, Request, Response, Transport};

/// How long the other requests of a client are held back after a 429 that does not say how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The longest that a 429 holds back the other requests of a client: Genesys Cloud counts by the minute. The request
/// that got the 429 keeps the server's own time.
const MAX_HOLD_BACK: Duration = Duration::from_secs(60);

/// The most bytes of responses that are read at the same time, for the process.
const MAX_RESPONSE_MEMORY: usize = 32 << 20;

/// How many HTTP clients are kept while no route uses them: each has its authorities in memory, up to 256 KiB of PEM, and
/// a Secret with a CA may be edited in a loop.
const MAX_UNUSED_CONNECTIONS: usize = 16;

const JSON: &str = "application/json";

/// The bounds of all requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests a minute that all routes with the same OAuth client make together, token requests included.
    pub calls_per_minute: u32,
    /// How long a request may take from the connection to the end of the response.
    pub timeout: Duration,
    /// How long a request waits for its turn; where its turn is further away, it fails with the time to wait.
    pub longest_wait: Duration,
}

impl Default for Limits {
    /// 300 requests a minute, 15 s a request, 2 s for its turn.
    fn default() -> Self {
        Self { calls_per_minute: 300, timeout: Duration::from_secs(15), longest_wait: Duration::from_secs(2) }
    }
}

/// Where the API is and as which OAuth client to call it.
#[derive(Clone)]
pub struct Access {
    /// The API's base URL: http or https, without user, query and fragment.
    pub api_url: String,
    /// The base URL of the login service, which gives tokens, in the same form; the API's where there is none.
    pub login_url: Option<String>,
    /// The path of the OAuth token endpoint, below the base URL of the login service.
    pub token_path: String,
    /// The path of the event bridges' collection, below the base URL.
    pub event_bridges_path: String,
    /// How the token is requested.
    pub token_request: TokenRequest,
    /// The OAuth client's id.
    pub client_id: String,
    /// The OAuth client's secret.
    pub client_secret: SecretString,
    /// The certificates, in PEM, that alone are trusted for the API; the system's where there are none.
    pub ca_pem: Option<Vec<u8>>,
}

impl Access {
    /// How an OAuth client calls an API.
    #[must_use]
    pub fn new(
        api: ApiEndpoint,
        client_id: String,
        client_secret: SecretString,
        ca_pem: Option<Vec<u8>>,
    ) -> Self {
        let ApiEndpoint { api_url, login_url, token_path, event_bridges_path, token_request } = api;
        Self {
            api_url,
            login_url,
            token_path,
            event_bridges_path,
            token_request,
            client_id,
            client_secret,
            ca_pem,
        }
    }

    /// Whether both are the same, secrets and certificates too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self {
            api_url,
            login_url,
            token_path,
            event_bridges_path,
            token_request,
            client_id,
            client_secret,
            ca_pem,
        } = self;
        *api_url == other.api_url
            && *login_url == other.login_url
            && *token_path == other.token_path
            && *event_bridges_path == other.event_bridges_path
            && *token_request == other.token_request
            && *client_id == other.client_id
            && client_secret.expose_secret() == other.client_secret.expose_secret()
            && *ca_pem == other.ca_pem
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Access").field("api_url", &self.api_url).finish_non_exhaustive()
    }
}

/// What all routes share: connections, tokens, budgets, and memory for responses. Clones share it too.
#[derive(Clone)]
pub struct Genesys {
    limits: Limits,
    host_policy: HostPolicy,
    shared: Arc<Shared>,
}

struct Shared {
    /// By the authorities trusted, and whether TLS is used at all.
    connections: Cache<(Option<Fingerprint>, bool), reqwest::Client>,
    /// By API, token endpoint and client: a token of another endpoint proves nothing.
    budgets: Cache<(Url, Url, String), Budget>,
    /// By token endpoint, client, and secret: a new secret gets a new token, and so is seen to work.
    tokens: Cache<(Url, String, Fingerprint), Tokens>,
    /// What is known of the organisation that an OAuth client belongs to, by API and client.
    organizations: Cache<(Url, String), Organization>,
    memory: Arc<ResponseMemory>,
}

type Fingerprint = [u8; 32];

impl Default for Genesys {
    fn default() -> Self {
        Builder::default().build()
    }
}

impl fmt::Debug for Genesys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Genesys").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What a [`Genesys`] can be given.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    limits: Limits,
    host_policy: HostPolicy,
}

impl Builder {
    /// Other limits than those of the contract.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Which hosts requests may go to; by default, all.
    #[must_use]
    pub fn host_policy(self, host_policy: HostPolicy) -> Self {
        Self { host_policy, ..self }
    }

    /// The proxies that the environment names are used.
    #[must_use]
    pub fn build(self) -> Genesys {
        let Self { limits, host_policy } = self;
        let shared = Shared {
            connections: Cache::of_large(MAX_UNUSED_CONNECTIONS),
            budgets: Cache::default(),
            tokens: Cache::default(),
            organizations: Cache::default(),
            memory: ResponseMemory::new(MAX_RESPONSE_MEMORY),
        };
        Genesys { limits, host_policy, shared: Arc::new(shared) }
    }
}

impl Genesys {
    /// With the limits of the contract, and every host allowed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With other limits, and every host allowed.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self::builder().limits(limits).build()
    }

    /// For a choice of limits and hosts.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The client that `access` describes. No request is sent yet.
    ///
    /// # Errors
    /// [`GenesysError::InvalidAccess`] and [`GenesysError::HostNotAllowed`] where no request can ever be sent with it.
    pub fn client(&self, access: Access) -> Result<Client, GenesysError> {
        let api = base_url(&access.api_url, "spec.genesys.apiUrl")?;
        let login = match &access.login_url {
            Some(login_url) => base_url(login_url, "spec.genesys.loginUrl")?,
            None => api.clone(),
        };
        if access.client_id.is_empty() || access.client_secret.expose_secret().is_empty() {
            let problem = "the OAuth client's id or secret is empty; fill both in the Secret of \
                           spec.genesys.credentialsSecretRef";
            return Err(GenesysError::InvalidAccess { problem: problem.to_owned() });
        }
        self.host_policy.check(&api)?;
        self.host_policy.check(&login)?;
        let token_url = below(&login, &access.token_path);
        let Shared { connections, budgets, tokens, organizations, memory } = self.shared.as_ref();
        let Limits { calls_per_minute, timeout, longest_wait } = self.limits;
        let ca = access.ca_pem.as_deref();
        let plain = api.scheme() == "http" && login.scheme() == "http";
        let http = connections
            .get((ca.map(fingerprint), plain), || transport::http_client(ca, plain, &self.host_policy))?;
        let budget_key = (api.clone(), token_url.clone(), access.client_id.clone());
        let budget = budgets.get_or_insert(budget_key, || Budget::new(calls_per_minute, longest_wait));
        let secret = fingerprint(access.client_secret.expose_secret().as_bytes());
        let tokens = tokens.get_or_insert((token_url.clone(), access.client_id.clone(), secret), || {
            Tokens::new(calls_per_minute, longest_wait)
        });
        let organization =
            organizations.get_or_insert((api.clone(), access.client_id.clone()), Organization::default);
        let transport = |url: &Url| Transport {
            http: Arc::clone(&http),
            timeout,
            memory: Arc::clone(memory),
            may_quote: self.host_policy.may_quote(url),
        };
        Ok(Client {
            transport: transport(&api),
            login_transport: transport(&login),
            budget,
            tokens,
            organization,
            api,
            token_url,
            event_bridges_path: access.event_bridges_path,
            token_request: access.token_request,
            client_id: access.client_id,
            client_secret: access.client_secret,
        })
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Sha256::digest(bytes).into()
}

/// A base URL, which `field` names, without a slash at its end.
pub(crate) fn base_url(text: &str, field: &str) -> Result<Url, GenesysError> {
    let invalid = || GenesysError::InvalidAccess {
        problem: format!("{field} is not an http or https URL without user, query and fragment"),
    };
    let mut url = parse_http_url(text.trim()).ok_or_else(invalid)?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// The URL of a path below the base URL.
pub(crate) fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{}", base.path().trim_end_matches('/'), path.trim_matches('/')));
    url
}

/// The URL of one object of a collection; `None` for an id that cannot be one, because its URL would be another's.
pub(crate) fn object(collection: &Url, id: &str) -> Option<Url> {
    if matches!(id, "" | "." | "..") {
        return None;
    }
    let mut url = collection.clone();
    url.path_segments_mut().ok()?.push(id);
    Some(url)
}

/// An OAuth client of one organisation.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    /// To the login service, which may be another host.
    login_transport: Transport,
    budget: Arc<Budget>,
    tokens: Arc<Tokens>,
    organization: Arc<Organization>,
    api: Url,
    token_url: Url,
    event_bridges_path: String,
    token_request: TokenRequest,
    client_id: String,
    client_secret: SecretString,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("api", &self.api.as_str()).finish_non_exhaustive()
    }
}

/// What a request sends.
#[derive(Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) json: &'a [u8],
    /// A secret in it that no error's text may hold, even if the server repeats it.
    pub(crate) secret: Option<&'a str>,
}

impl Client {
    /// A text of the server's, fit to be shown; `None` where the [`HostPolicy`] does not show what this server says.
    pub(crate) fn quote(&self, text: &str) -> Option<String> {
        self.transport.may_quote.then(|| quote(text, &self.credentials()))
    }

    /// What no error's text may hold: both are values of a Secret, and the key of the id may be that of another secret.
    fn credentials(&self) -> [&str; 2] {
        [self.client_secret.expose_secret(), &self.client_id]
    }

    /// The URL of a path of the API.
    pub(crate) fn url(&self, path: &str) -> Url {
        below(&self.api, path)
    }

    /// What is known of the organisation.
    pub(crate) fn organization(&self) -> &Organization {
        &self.organization
    }

    pub(crate) fn event_bridges_path(&self) -> &str {
        &self.event_bridges_path
    }

    /// One request with a token, and once more with a new one after a 401. The response is a success, or a 404 to the
    /// URL of a single object.
    pub(crate) async fn call(
        &self,
        info: &RequestInfo,
        url: Url,
        payload: Option<Payload<'_>>,
    ) -> Result<Response, GenesysError> {
        let mut rejected: Option<Arc<Token>> = None;
        loop {
            let token = self.tokens.get(rejected.as_deref(), self.fetch_token()).await?;
            let mut secrets = self.credentials().to_vec();
            secrets.push(token.secret.expose_secret());
            secrets.extend(payload.and_then(|payload| payload.secret));
            let request = Request {
                info,
                url: url.clone(),
                authorization: Some(&token.authorization),
                body: payload.map(|payload| Body { media_type: JSON, content: payload.json }),
                secrets: &secrets,
            };
            let response = self.send(&self.transport, request, &self.budget, LimitedBy::Budget).await?;
            if response.status == StatusCode::UNAUTHORIZED && rejected.is_none() {
                rejected = Some(token);
                continue;
            }
            let is_gone = response.is_not_found() && info.operation.is_on_one_object();
            return if response.status.is_success() || is_gone {
                Ok(response)
            } else {
                Err(response.error(info, &secrets))
            };
        }
    }

    /// One exchange within a budget, which a 429 holds back.
    async fn send(
        &self,
        transport: &Transport,
        request: Request<'_>,
        budget: &Budget,
        limit: impl FnOnce(u32) -> LimitedBy,
    ) -> Result<Response, GenesysError> {
        budget.take().await.map_err(|refused| GenesysError::RateLimited {
            request: request.info.clone(),
            cause: if refused.by_server { LimitedBy::Earlier } else { limit(budget.calls_per_minute()) },
            retry_after: Some(refused.retry_after),
        })?;
        let response = transport.exchange(request).await?;
        if response.status == StatusCode::TOO_MANY_REQUESTS {
            budget.hold_back(response.retry_after().unwrap_or(DEFAULT_RETRY_AFTER).min(MAX_HOLD_BACK));
        }
        Ok(response)
    }

    /// Gets an access token, unless there is one. Nothing at Genesys Cloud is changed or read.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn authenticate(&self) -> Result<(), GenesysError> {
        self.tokens.get(None, self.fetch_token()).await.map(drop)
    }

    async fn fetch_token(&self) -> Result<Grant, GenesysError> {
        let info = RequestInfo::new(Operation::Token, &auth::TOKEN, &self.token_url);
        let credentials = ClientCredentials { id: &self.client_id, secret: &self.client_secret, scope: None };
        let encoding = match self.token_request {
            TokenRequest::Json => Encoding::Json,
            TokenRequest::Form => Encoding::Form,
        };
        let oauth_token::TokenRequest { content_type, authorization, body } =
            credentials.token_request(encoding);
        let mut secrets = self.credentials().to_vec();
        let basic = authorization.as_ref().and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        secrets.extend(basic);
        let request = Request {
            info: &info,
            url: self.token_url.clone(),
            authorization: authorization.as_ref(),
            body: Some(Body { media_type: content_type, content: body.expose_secret().as_bytes() }),
            secrets: &secrets,
        };
        let response = match self.tokens.unproven_budget() {
            Some(budget) => self.send(&self.login_transport, request, budget, LimitedBy::TokenBudget).await?,
            None => self.send(&self.login_transport, request, &self.budget, LimitedBy::Budget).await?,
        };
        if !response.status.is_success() {
            let error = response.error(&info, &secrets);
            if matches!(error, GenesysError::CredentialsRejected { .. }) {
                self.tokens.prove(false);
            }
            return Err(error);
        }
        let grant = Grant::parse(response.body()).map_err(|error| {
            info.unexpected(format!(
                "the answer (status {}) grants no token: {error}",
                response.status.as_u16()
            ))
        })?;
        if self.tokens.prove(true) {
            self.budget.charge();
        }
        Ok(grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(api_url: &str) -> Access {
        Access {
            api_url: api_url.to_owned(),
            login_url: None,
            token_path: "/api/v2/oauth/token".to_owned(),
            event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
            token_request: TokenRequest::Json,
            client_id: "id".to_owned(),
            client_secret: SecretString::from("secret"),
            ca_pem: None,
        }
    }

    #[test]
    fn paths_are_below_the_base_url() {
        for api_url in ["http://gateway/genesys", "http://gateway/genesys/"] {
            let client = Genesys::new().client(access(api_url)).unwrap();
            assert_eq!(client.token_url.as_str(), "http://gateway/genesys/api/v2/oauth/token");
            assert_eq!(client.url("/api/v2/users").as_str(), "http://gateway/genesys/api/v2/users");
        }
    }

    #[test]
    fn tokens_come_from_the_login_service_where_there_is_one() {
        let login_url = Some("https://login.example.com/".to_owned());
        let access =
            Access { login_url, token_path: "/oauth/token".to_owned(), ..access("https://api.example.com") };
        let client = Genesys::new().client(access.clone()).unwrap();
        assert_eq!(client.token_url.as_str(), "https://login.example.com/oauth/token");
        assert_eq!(client.url("/api/v2/users").as_str(), "https://api.example.com/api/v2/users");
        assert!(!access.is_same(&Access { login_url: None, ..access.clone() }));

        let broken = Access { login_url: Some("login".to_owned()), ..access };
        let error = Genesys::new().client(broken).unwrap_err();
        assert!(error.to_string().starts_with("spec.genesys.loginUrl is not"), "{error}");
    }

    #[test]
    fn an_api_url_that_cannot_be_one_is_refused() {
        for api_url in ["", "api.example.com", "ftp://x", "http://user:word@x", "http://x?y", "http://x#y"] {
            let error = Genesys::new().client(access(api_url)).unwrap_err();
            assert_eq!(error.reason(), "InvalidAccess", "{api_url}");
        }
    }

    #[test]
    fn empty_credentials_are_refused_before_any_request() {
        let genesys = Genesys::new();
        let empty_id = Access { client_id: String::new(), ..access("http://api") };
        let empty_secret = Access { client_secret: SecretString::from(""), ..access("http://api") };
        for access in [empty_id, empty_secret] {
            assert_eq!(genesys.client(access).unwrap_err().reason(), "InvalidAccess");
        }
    }

    #[test]
    fn routes_of_one_client_share_token_and_budget() {
        let genesys = Genesys::new();
        let [one, other] = [(); 2].map(|()| genesys.clone().client(access("http://api")).unwrap());
        assert!(Arc::ptr_eq(&one.tokens, &other.tokens) && Arc::ptr_eq(&one.budget, &other.budget));
        let rotated = Access { client_secret: SecretString::from("new"), ..access("http://api/") };
        let rotated = genesys.client(rotated).unwrap();
        assert!(!Arc::ptr_eq(&one.tokens, &rotated.tokens) && Arc::ptr_eq(&one.budget, &rotated.budget));
    }
}
