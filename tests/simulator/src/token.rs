//! Access tokens by the client-credentials grant: issued, checked, expired.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Form, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Simulator;
use crate::config::OauthClient;
use crate::problem::Problem;

/// The token endpoint of the login service, which real organisations have at `https://login.REGION`.
pub(crate) const LOGIN_PATH: &str = "/oauth/token";

/// Expired tokens are dropped once there are this many tokens.
const REMEMBERED_TOKENS: usize = 10_000;

/// The id of the OAuth client that sent a request; a response carries it to the request log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(pub(crate) String);

/// The issued tokens.
#[derive(Default)]
pub(crate) struct Tokens {
    issued: HashMap<String, Issued>,
}

struct Issued {
    client: ClientId,
    valid_until: Instant,
}

impl Tokens {
    fn issue(&mut self, client: ClientId, lifetime: Duration, now: Instant) -> String {
        if self.issued.len() >= REMEMBERED_TOKENS {
            self.issued.retain(|_, token| now < token.valid_until);
        }
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.issued.insert(token.clone(), Issued { client, valid_until: now + lifetime });
        token
    }

    /// The client that a token was issued to, whether or not it is still valid.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<ClientId> {
        self.issued.get(bearer(headers)?).map(|token| token.client.clone())
    }

    fn authenticate(&self, headers: &HeaderMap, now: Instant) -> Result<ClientId, Problem> {
        let bearer = bearer(headers).ok_or_else(|| {
            Problem::bad_credentials("no access token: send it as \"Authorization: Bearer TOKEN\"")
        })?;
        match self.issued.get(bearer) {
            None => Err(Problem::bad_credentials("the access token is not known here")),
            Some(token) if now >= token.valid_until => {
                Err(Problem::bad_credentials("the access token has expired"))
            }
            Some(token) => Ok(token.client.clone()),
        }
    }

    /// Invalidates every token issued so far, and returns how many there were.
    pub(crate) fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        for token in self.issued.values_mut().filter(|token| now < token.valid_until) {
            token.valid_until = now;
            expired += 1;
        }
        expired
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A request whose token is valid and whose client is within its budget of calls.
pub(crate) struct Caller;

impl FromRequestParts<Simulator> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, simulator: &Simulator) -> Result<Self, Problem> {
        let now = Instant::now();
        let client = simulator.inner.tokens.lock().authenticate(&parts.headers, now)?;
        simulator.inner.rate_limit.lock().take(&client, now)?;
        Ok(Self)
    }
}

/// A token request, from JSON or a form.
struct Credentials {
    grant_type: Option<String>,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
}

/// `POST` to the token path: JSON, or a form with the client in the body or as Basic credentials.
pub(crate) async fn issue(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    request: http::Request<Body>,
) -> Result<Response, Problem> {
    let mut request = read(request).await?;
    if let Some((id, secret)) = basic_credentials(&headers)? {
        request.client_id.get_or_insert(id);
        request.client_secret.get_or_insert(secret);
    }
    grant(&simulator, request)
}

/// `POST` to the login service: a form with the client as Basic credentials, and nothing else.
pub(crate) async fn issue_at_login(
    State(simulator): State<Simulator>,
    headers: HeaderMap,
    request: http::Request<Body>,
) -> Result<Response, Problem> {
    let is_form = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
    if !is_form {
        return Err(Problem::unsupported_media_type("send application/x-www-form-urlencoded"));
    }
    let Credentials { grant_type, .. } = read_form(request).await?;
    let (id, secret) = basic_credentials(&headers)?.ok_or_else(|| {
        Problem::bad_credentials("send the client as \"Authorization: Basic BASE64(ID:SECRET)\"")
    })?;
    grant(&simulator, Credentials { grant_type, client_id: Some(id), client_secret: Some(secret) })
}

fn grant(simulator: &Simulator, request: Credentials) -> Result<Response, Problem> {
    let grant_type = request.grant_type.ok_or_else(|| Problem::missing("grant_type"))?;
    let id = request.client_id.filter(|id| !id.is_empty()).ok_or_else(|| Problem::missing("client_id"))?;
    let secret = request
        .client_secret
        .filter(|secret| !secret.expose_secret().is_empty())
        .ok_or_else(|| Problem::missing("client_secret"))?;
    if grant_type != "client_credentials" {
        return Err(Problem::bad_request("the field \"grant_type\" must be \"client_credentials\""));
    }

    let config = &simulator.inner.config;
    if !accepts(config.client.as_ref(), &id, &secret) {
        return Err(Problem::bad_credentials("unknown client, or not its secret"));
    }
    let client = ClientId(id);
    let token = simulator.inner.tokens.lock().issue(client.clone(), config.token_lifetime, Instant::now());
    let answer = Json(json!({
        "access_token": token,
        "token_type": "bearer",
        "expires_in": config.token_lifetime.as_secs(),
        "scope": "analytics",
    }));
    Ok((Extension(client), [("cache-control", "no-store")], answer).into_response())
}

fn accepts(accepted: Option<&OauthClient>, id: &str, secret: &SecretString) -> bool {
    accepted.is_none_or(|client| client.id == id && client.secret.expose_secret() == secret.expose_secret())
}

async fn read(request: http::Request<Body>) -> Result<Credentials, Problem> {
    match request.headers().get(CONTENT_TYPE).map(HeaderValue::to_str) {
        Some(Ok(kind)) if kind.starts_with("application/json") => read_json(request).await,
        Some(Ok(kind)) if kind.starts_with("application/x-www-form-urlencoded") => read_form(request).await,
        _ => {
            Err(Problem::unsupported_media_type("send application/json or application/x-www-form-urlencoded"))
        }
    }
}

async fn read_json(request: http::Request<Body>) -> Result<Credentials, Problem> {
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|error| Problem::of_status(error.status(), error.body_text()))?;
    // The parser's message names the position, and never repeats the text.
    let fields: Value = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?;
    let text = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Problem::bad_request(format!("the field {name:?} must be a string"))),
    };
    Ok(Credentials {
        grant_type: text("grant_type")?,
        client_id: text("client_id")?,
        client_secret: text("client_secret")?.map(SecretString::from),
    })
}

async fn read_form(request: http::Request<Body>) -> Result<Credentials, Problem> {
    #[derive(Deserialize)]
    struct Fields {
        grant_type: Option<String>,
        client_id: Option<String>,
        client_secret: Option<String>,
    }
    let Form(fields) = Form::<Fields>::from_request(request, &())
        .await
        .map_err(|error| Problem::of_status(error.status(), error.body_text()))?;
    Ok(Credentials {
        grant_type: fields.grant_type,
        client_id: fields.client_id,
        client_secret: fields.client_secret.map(SecretString::from),
    })
}

/// The client in HTTP Basic authentication. Another scheme names no client, and is ignored.
fn basic_credentials(headers: &HeaderMap) -> Result<Option<(String, SecretString)>, Problem> {
    let Some((scheme, encoded)) =
        headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok()?.split_once(' '))
    else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Ok(None);
    }
    let malformed =
        || Problem::bad_credentials("the Authorization header is not \"Basic BASE64(ID:SECRET)\"");
    let decoded = BASE64.decode(encoded.trim()).map_err(|_| malformed())?;
    let text = String::from_utf8(decoded).map_err(|_| malformed())?;
    let (id, secret) = text.split_once(':').ok_or_else(malformed)?;
    Ok(Some((id.to_owned(), SecretString::from(secret.to_owned()))))
}
