//! The client of Genesys Cloud: how a registration comes into being, is verified, changed and removed.
//!
//! [`Account`] is the operator's whole view of a way to register, and the place for another one: its five calls are
//! what a different push mechanism would have to offer. Each is one call to the API; what must hold for all routes
//! together is kept here, in [`Genesys`]: one token for each OAuth client, one budget of calls, connections that are
//! used again. What to register and when, and when to try again after a failure, is left to the caller: but for one
//! repetition with a new token after a 401, nothing is repeated here.

pub mod error;
pub mod event_bridges;

mod auth;
mod cache;
mod rate_limit;
mod transport;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use presenceroute_core::genesys_api::TokenRequest;
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use url::Url;

pub use error::GenesysError;
pub use event_bridges::{DesiredRegistration, Difference, ObservedRetryPolicy, Registration};

use auth::{Grant, Token, Tokens};
use cache::Cache;
use error::{Call, LimitedBy, Operation};
use event_bridges::Received;
use rate_limit::Budget;
use transport::{Body, Reply, Request, exchange};

/// What is asked for at a time; a server may give less.
const PAGE_SIZE: usize = 100;

/// The most pages that are read, as a bound for a server that never comes to an end.
const MOST_PAGES: usize = 100;

/// How long the other calls of a client are held back after a 429 that does not say how long.
const UNSAID_SILENCE: Duration = Duration::from_secs(5);

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// The bounds of all calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls in a minute that all routes with the same OAuth client make together, token requests included.
    pub calls_per_minute: u32,
    /// How long a call may take from the connection to the end of the answer.
    pub timeout: Duration,
    /// How long a call waits for its turn; where that is longer away, it fails with the time to come back at.
    pub longest_wait: Duration,
}

impl Default for Limits {
    /// 300 calls a minute, 15 s a call, 2 s for its turn.
    fn default() -> Self {
        Self { calls_per_minute: 300, timeout: Duration::from_secs(15), longest_wait: Duration::from_secs(2) }
    }
}

/// Where the API is and as whom to call it.
#[derive(Clone)]
pub struct Access {
    /// The API's base URL: http or https, without user, query and fragment.
    pub api_url: String,
    /// The path of the OAuth token endpoint, below the base URL.
    pub token_path: String,
    /// The path of the registrations' collection, below the base URL.
    pub event_bridges_path: String,
    /// How the token is asked for.
    pub token_request: TokenRequest,
    /// The OAuth client's id.
    pub client_id: String,
    /// The OAuth client's secret.
    pub client_secret: SecretString,
    /// The certificates, in PEM, that alone are trusted for the API; the system's where there are none.
    pub ca_pem: Option<Vec<u8>>,
}

impl Access {
    /// Whether both say the same, secrets and certificates too.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { api_url, token_path, event_bridges_path, token_request, client_id, client_secret, ca_pem } =
            self;
        *api_url == other.api_url
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
        formatter
            .debug_struct("Access")
            .field("api_url", &self.api_url)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// What all routes share: connections, tokens and budgets. Clones share it too.
#[derive(Clone)]
pub struct Genesys {
    limits: Limits,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// By the authorities trusted, and whether TLS is used at all.
    connections: Cache<(Option<Fingerprint>, bool), reqwest::Client>,
    /// By API and client.
    budgets: Cache<(Url, String), Budget>,
    /// By token endpoint, client, and secret: a new secret gets a new token, and so is seen to work.
    tokens: Cache<(Url, String, Fingerprint), Tokens>,
}

type Fingerprint = [u8; 32];

impl Default for Genesys {
    fn default() -> Self {
        Self::with_limits(Limits::default())
    }
}

impl fmt::Debug for Genesys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Genesys").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Genesys {
    /// With the limits of the contract. The proxies that the environment names are used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With other limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { limits, shared: Arc::default() }
    }

    /// The account that `access` describes. No call is made yet.
    ///
    /// # Errors
    /// [`GenesysError::InvalidAccess`] where no call can ever be made with it.
    pub fn account(&self, access: Access) -> Result<Account, GenesysError> {
        let api = base_url(&access.api_url)?;
        if access.client_id.is_empty() || access.client_secret.expose_secret().is_empty() {
            let problem = "the OAuth client's id or secret is empty; fill both in the Secret of \
                           spec.genesys.credentialsSecretRef";
            return Err(GenesysError::InvalidAccess { problem: problem.to_owned() });
        }
        let token_url = below(&api, &access.token_path);
        let collection = below(&api, &access.event_bridges_path);
        let ca = access.ca_pem.as_deref();
        let plain = api.scheme() == "http";
        let connections =
            self.shared.connections.get((ca.map(fingerprint), plain), || transport::client(ca, plain))?;
        let Limits { calls_per_minute, longest_wait, .. } = self.limits;
        let budget = self.shared.budgets.get((api, access.client_id.clone()), || {
            Ok::<_, GenesysError>(Budget::new(calls_per_minute, longest_wait))
        })?;
        let secret = fingerprint(access.client_secret.expose_secret().as_bytes());
        let tokens = self.shared.tokens.get((token_url.clone(), access.client_id.clone(), secret), || {
            Ok::<_, GenesysError>(Tokens::default())
        })?;
        Ok(Account {
            connections,
            budget,
            tokens,
            timeout: self.limits.timeout,
            token_url,
            collection,
            token_request: access.token_request,
            client_id: access.client_id,
            client_secret: access.client_secret,
        })
    }
}

fn fingerprint(bytes: &[u8]) -> Fingerprint {
    Sha256::digest(bytes).into()
}

/// The API's base URL without a slash at its end.
fn base_url(text: &str) -> Result<Url, GenesysError> {
    let invalid = || GenesysError::InvalidAccess {
        problem: "spec.genesys.apiUrl is not an http or https URL without user, query and fragment"
            .to_owned(),
    };
    let mut url = Url::parse(text.trim()).map_err(|_| invalid())?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain {
        return Err(invalid());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{}", base.path().trim_end_matches('/'), path.trim_matches('/')));
    url
}

/// An OAuth client of one organisation, and what can be done as it.
///
/// Every call fails with a [`GenesysError`] that says what to do about it; none is repeated.
#[derive(Clone)]
pub struct Account {
    connections: Arc<reqwest::Client>,
    budget: Arc<Budget>,
    tokens: Arc<Tokens>,
    timeout: Duration,
    token_url: Url,
    collection: Url,
    token_request: TokenRequest,
    client_id: String,
    client_secret: SecretString,
}

impl fmt::Debug for Account {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Account")
            .field("collection", &self.collection.as_str())
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// What a look by name has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// In the server's order.
    pub registrations: Vec<Registration>,
    /// How many calls it took.
    pub pages: usize,
}

/// A page of a listing. Entities that are called otherwise may have any shape.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    entities: Vec<Value>,
    page_count: Option<usize>,
    total: Option<usize>,
}

impl Account {
    /// Whether this is the API with this base URL and this path of the registrations' collection.
    #[must_use]
    pub fn is_at(&self, api_url: &str, event_bridges_path: &str) -> bool {
        base_url(api_url).is_ok_and(|api| below(&api, event_bridges_path) == self.collection)
    }

    /// Whether both are of one API.
    #[must_use]
    pub fn is_same_api(&self, other: &Self) -> bool {
        self.collection == other.collection
    }

    /// All registrations of exactly this name, in the server's order: none, the one, or more where something went
    /// wrong. Costs a call a page.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot list: then it knows creation alone, or the path is wrong,
    /// and which of the two it is shows when something is created.
    pub async fn find_by_name(&self, name: &str) -> Result<Listing, GenesysError> {
        let call = Call::new(Operation::List, &self.collection);
        let mut found = Vec::new();
        let (mut seen, mut ids) = (0, BTreeSet::new());
        for number in 1..=MOST_PAGES {
            let mut url = self.collection.clone();
            url.query_pairs_mut()
                .append_pair("name", name)
                .append_pair("pageNumber", &number.to_string())
                .append_pair("pageSize", &PAGE_SIZE.to_string());
            let reply = self.call(&call, url, None).await?;
            let page: Page = reply.json(&call)?;
            let is_empty = page.entities.is_empty();
            seen += page.entities.len();
            let mut is_new = false;
            for entity in page.entities {
                is_new |= entity.get("id").and_then(Value::as_str).is_none_or(|id| ids.insert(id.to_owned()));
                // A server may ignore the name that was asked for.
                if entity.get("name").and_then(Value::as_str) == Some(name) {
                    found.push(registration(entity, None, &call)?);
                }
            }
            let is_last = match (page.page_count, page.total) {
                (Some(pages), _) => number >= pages,
                (None, Some(total)) => seen >= total || is_empty,
                // The server may also ignore the number that was asked for.
                (None, None) => is_empty || !is_new,
            };
            if is_last {
                // A page may move on while the next one is read, and bring the same one twice.
                let mut once = BTreeSet::new();
                found.retain(|registration| once.insert(registration.id.clone()));
                return Ok(Listing { registrations: found, pages: number });
            }
        }
        let problem = format!("the list of registrations has more than {MOST_PAGES} pages");
        Err(GenesysError::UnexpectedAnswer { call, problem })
    }

    /// The registration with this id, `None` where there is none (404). A server that knows creation alone may answer
    /// the same, so that `None` is a reason to look by name before creating again.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot read one.
    pub async fn get(&self, id: &str) -> Result<Option<Registration>, GenesysError> {
        let Some(url) = self.one(id) else { return Ok(None) };
        let call = Call::new(Operation::Read, &url);
        match self.call(&call, url, None).await? {
            reply if reply.status == StatusCode::NOT_FOUND => Ok(None),
            reply => registration(reply.json(&call)?, None, &call).map(Some),
        }
    }

    /// Creates a registration, whether or not there is one of this name.
    ///
    /// # Errors
    /// After one that [may have created] it, the registration has to be looked up by its name.
    ///
    /// [may have created]: GenesysError::may_have_created
    pub async fn create(&self, desired: &DesiredRegistration) -> Result<Registration, GenesysError> {
        let call = Call::new(Operation::Create, &self.collection);
        let reply = self.call(&call, self.collection.clone(), Some(desired)).await?;
        registration(reply.json(&call)?, Some(desired), &call)
    }

    /// Replaces the registration with this id, its secret included; `None` where there is none (404), on which see
    /// [`Account::get`].
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot replace one.
    pub async fn update(
        &self,
        id: &str,
        desired: &DesiredRegistration,
    ) -> Result<Option<Registration>, GenesysError> {
        let Some(url) = self.one(id) else { return Ok(None) };
        let call = Call::new(Operation::Update, &url);
        let reply = self.call(&call, url, Some(desired)).await?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let mut answer =
            if reply.is_empty() { Value::Object(serde_json::Map::new()) } else { reply.json(&call)? };
        if let Some(fields) = answer.as_object_mut() {
            // The id is known; an answer without it, or without a body, loses nothing.
            fields.entry("id").or_insert_with(|| id.into());
        }
        registration(answer, Some(desired), &call).map(Some)
    }

    /// Deletes the registration with this id. That there is none (404) is what was wanted.
    ///
    /// # Errors
    /// [`GenesysError::Unsupported`] where the server cannot delete one.
    pub async fn delete(&self, id: &str) -> Result<(), GenesysError> {
        let Some(url) = self.one(id) else { return Ok(()) };
        let call = Call::new(Operation::Delete, &url);
        self.call(&call, url, None).await.map(drop)
    }

    /// What is wrong where deletions succeed and the list does not get shorter.
    pub fn still_listed(&self, name: &str) -> GenesysError {
        let problem =
            format!("the server says that the registration {name:?} is gone, and lists it all the same");
        GenesysError::UnexpectedAnswer { call: Call::new(Operation::Delete, &self.collection), problem }
    }

    /// The URL of one registration; `None` for an id that cannot be one, because its URL would be another's.
    fn one(&self, id: &str) -> Option<Url> {
        if matches!(id, "" | "." | "..") {
            return None;
        }
        let mut url = self.collection.clone();
        url.path_segments_mut().ok()?.push(id);
        Some(url)
    }

    /// One call with a token, and once again with a new one after a 401. The reply is a success, or a 404 to the URL
    /// of a single registration.
    async fn call(
        &self,
        call: &Call,
        url: Url,
        desired: Option<&DesiredRegistration>,
    ) -> Result<Reply, GenesysError> {
        let content = desired.map(DesiredRegistration::to_json).transpose().map_err(|error| {
            GenesysError::InvalidAccess { problem: format!("cannot write the registration as JSON: {error}") }
        })?;
        let mut rejected: Option<Arc<Token>> = None;
        loop {
            let token = self.token(rejected.as_deref()).await?;
            let mut secrets = vec![token.secret.expose_secret(), self.client_secret.expose_secret()];
            secrets.extend(desired.map(|desired| desired.secret.expose_secret()));
            let request = Request {
                call,
                url: url.clone(),
                authorization: Some(&token.authorization),
                body: content.as_deref().map(|content| Body { media_type: JSON, content }),
                secrets: &secrets,
            };
            let reply = self.send(request).await?;
            if reply.status == StatusCode::UNAUTHORIZED && rejected.is_none() {
                rejected = Some(token);
                continue;
            }
            let is_gone = reply.status == StatusCode::NOT_FOUND
                && matches!(call.operation, Operation::Read | Operation::Update | Operation::Delete);
            return if reply.status.is_success() || is_gone {
                Ok(reply)
            } else {
                Err(reply.error(call, &secrets))
            };
        }
    }

    /// One exchange within the budget. Whoever hears that it was one too many holds back the others.
    async fn send(&self, request: Request<'_>) -> Result<Reply, GenesysError> {
        let call = request.call;
        self.budget.take().await.map_err(|refused| GenesysError::RateLimited {
            call: call.clone(),
            cause: if refused.by_server {
                LimitedBy::Earlier
            } else {
                LimitedBy::Budget(self.budget.calls_per_minute())
            },
            retry_after: Some(refused.retry_after),
        })?;
        let reply = exchange(&self.connections, request, self.timeout).await?;
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            self.budget.be_silent(reply.retry_after().unwrap_or(UNSAID_SILENCE));
        }
        Ok(reply)
    }

    async fn token(&self, rejected: Option<&Token>) -> Result<Arc<Token>, GenesysError> {
        self.tokens.get(rejected, self.fetch_token()).await
    }

    async fn fetch_token(&self) -> Result<(Grant, HeaderValue), GenesysError> {
        let call = Call::new(Operation::Token, &self.token_url);
        let secret = self.client_secret.expose_secret();
        // As Genesys Cloud documents it, which leaves out the form encoding of RFC 6749: its ids and secrets have no
        // character that it would change.
        let credentials = BASE64.encode(format!("{}:{secret}", self.client_id));
        let secrets = [secret, credentials.as_str()];
        let (authorization, body) = match self.token_request {
            TokenRequest::Json => (None, token_request(&self.client_id, secret)),
            TokenRequest::Form => (sensitive(&format!("Basic {credentials}")), None),
        };
        let body = match &body {
            Some(content) => Body { media_type: JSON, content },
            None => Body { media_type: FORM, content: b"grant_type=client_credentials" },
        };
        let request = Request {
            call: &call,
            url: self.token_url.clone(),
            authorization: authorization.as_ref(),
            body: Some(body),
            secrets: &secrets,
        };
        let reply = self.send(request).await?;
        if !reply.status.is_success() {
            return Err(reply.error(&call, &secrets));
        }
        let grant: Grant = reply.json(&call)?;
        match sensitive(&format!("Bearer {}", grant.secret().expose_secret())) {
            Some(authorization) => Ok((grant, authorization)),
            None => {
                let problem = "the token holds characters that no HTTP header can".to_owned();
                Err(GenesysError::UnexpectedAnswer { call, problem })
            }
        }
    }
}

/// The token request of the contract, as JSON.
fn token_request(client_id: &str, client_secret: &str) -> Option<Vec<u8>> {
    #[derive(Serialize)]
    struct Sent<'a> {
        grant_type: &'static str,
        client_id: &'a str,
        client_secret: &'a str,
    }
    serde_json::to_vec(&Sent { grant_type: "client_credentials", client_id, client_secret }).ok()
}

/// A header's value that is not printed.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn registration(
    answer: Value,
    sent: Option<&DesiredRegistration>,
    call: &Call,
) -> Result<Registration, GenesysError> {
    // What serde says of a wrong value may repeat it.
    let received: Received = serde_json::from_value(answer).map_err(|_| GenesysError::UnexpectedAnswer {
        call: call.clone(),
        problem: "a registration in the answer has a field of the wrong type".to_owned(),
    })?;
    received.into_registration(sent).ok_or_else(|| GenesysError::NoId { call: call.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(api_url: &str) -> Access {
        Access {
            api_url: api_url.to_owned(),
            token_path: "/api/v2/oauth/token".to_owned(),
            event_bridges_path: "/api/v2/analytics/events/eventbridges".to_owned(),
            token_request: TokenRequest::Json,
            client_id: "id".to_owned(),
            client_secret: SecretString::from("secret"),
            ca_pem: None,
        }
    }

    fn account(api_url: &str) -> Account {
        Genesys::new().account(access(api_url)).unwrap()
    }

    #[test]
    fn paths_are_below_the_base_url() {
        for api_url in ["http://gateway/genesys", "http://gateway/genesys/"] {
            let account = account(api_url);
            assert_eq!(account.token_url.as_str(), "http://gateway/genesys/api/v2/oauth/token");
            assert_eq!(
                account.collection.as_str(),
                "http://gateway/genesys/api/v2/analytics/events/eventbridges"
            );
        }
    }

    #[test]
    fn an_id_stays_within_its_path() {
        let account = account("http://api");
        let path = |id: &str| {
            account.one(id).map(|url| url.path().rsplit_once("eventbridges").unwrap().1.to_owned())
        };
        assert_eq!(path("1f/../../x?y#z"), Some("/1f%2F..%2F..%2Fx%3Fy%23z".to_owned()));
        for id in ["", ".", ".."] {
            assert_eq!(path(id), None);
        }
    }

    #[test]
    fn an_api_url_that_cannot_be_one_is_refused() {
        for api_url in ["", "api.example.com", "ftp://x", "http://user:word@x", "http://x?y", "http://x#y"] {
            let error = Genesys::new().account(access(api_url)).unwrap_err();
            assert_eq!(error.reason(), "InvalidAccess", "{api_url}");
        }
    }

    #[test]
    fn empty_credentials_are_refused_before_any_call() {
        let genesys = Genesys::new();
        let empty_id = Access { client_id: String::new(), ..access("http://api") };
        let empty_secret = Access { client_secret: SecretString::from(""), ..access("http://api") };
        for access in [empty_id, empty_secret] {
            assert_eq!(genesys.account(access).unwrap_err().reason(), "InvalidAccess");
        }
    }

    #[test]
    fn accounts_of_one_client_share_token_and_budget_and_a_new_secret_gets_a_new_token() {
        let genesys = Genesys::new();
        let [one, other] = [(); 2].map(|()| genesys.clone().account(access("http://api")).unwrap());
        assert!(Arc::ptr_eq(&one.tokens, &other.tokens) && Arc::ptr_eq(&one.budget, &other.budget));
        let rotated = Access { client_secret: SecretString::from("new"), ..access("http://api/") };
        let rotated = genesys.account(rotated).unwrap();
        assert!(!Arc::ptr_eq(&one.tokens, &rotated.tokens) && Arc::ptr_eq(&one.budget, &rotated.budget));
    }
}
