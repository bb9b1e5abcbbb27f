//! One HTTP exchange with Genesys Cloud: the request is sent once and the response read, in bounded time and memory, and
//! a status other than success becomes an error. No redirect is followed.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::fmt::rfc2822;
use presenceroute_runtime::oauth_token;
use presenceroute_runtime::tls_provider::install_crypto_provider;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Certificate, Client, StatusCode, redirect, retry};
use serde::Deserialize;
use url::Url;

use crate::error::{ErrorBody, ErrorResponse, GenesysError, LimitedBy, Operation, RequestInfo, quote};
use crate::host_policy::{self, HostPolicy, NotResolved};
use crate::memory::{Evicted, Lease, ResponseMemory};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Shorter than servers and load balancers keep idle connections: a request on one that is just being closed fails, and
/// whether it arrived cannot be known.
const KEEP_IDLE: Duration = Duration::from_secs(20);

/// The longest response to a listing: a page of 100 registrations with a thousand event types each.
const MAX_PAGE_BYTES: usize = 8 << 20;

/// The longest response with one object.
const MAX_OBJECT_BYTES: usize = 1 << 20;

/// How much of an error's response is read; the rest is left.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// What a server may send on one HTTP/2 stream, and on all of a connection, before it is read. It counts in no
/// response's memory yet.
const HTTP2_WINDOWS: (u32, u32) = (64 << 10, 1 << 20);

/// The longest wait that is taken from a Retry-After.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// An HTTP date is one of RFC 2822, in GMT. Nothing hangs on the day of the week.
const DATE: rfc2822::DateTimeParser = rfc2822::DateTimeParser::new().relaxed_weekday(true);

/// An HTTP client that trusts the given authorities alone, or those of the system where none are given. `plain` is
/// for a server without TLS, for which it does not matter whether the system has any.
pub(crate) fn http_client(
    ca_pem: Option<&[u8]>,
    plain: bool,
    host_policy: &HostPolicy,
) -> Result<Client, GenesysError> {
    install_crypto_provider();
    let mut builder = Client::builder()
        .user_agent(concat!("presenceroute-operator/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(KEEP_IDLE)
        .http2_initial_stream_window_size(HTTP2_WINDOWS.0)
        .http2_initial_connection_window_size(HTTP2_WINDOWS.1)
        // A redirect of the token endpoint would carry the client's secret elsewhere.
        .redirect(redirect::Policy::none())
        .retry(retry::never());
    if let Some(resolver) = host_policy.resolver() {
        builder = builder.dns_resolver(resolver);
    }
    let builder = match ca_pem {
        Some(pem) => builder.tls_certs_only(certificates(pem)?),
        None if plain => builder.tls_certs_only([]),
        None => builder,
    };
    builder.build().map_err(|error| {
        let authorities = match ca_pem {
            Some(_) => "the certificates in the Secret of spec.genesys.api.caSecretRef",
            None => "the certificate authorities of the operator's image",
        };
        let problem = format!("cannot use {authorities} for calls to Genesys Cloud: {}", causes(&error, &[]));
        GenesysError::InvalidAccess { problem }
    })
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, GenesysError> {
    let problem = "the Secret of spec.genesys.api.caSecretRef holds no certificate in PEM".to_owned();
    match Certificate::from_pem_bundle(pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(GenesysError::InvalidAccess { problem }),
    }
}

/// What is sent.
pub(crate) struct Request<'a> {
    pub(crate) info: &'a RequestInfo,
    pub(crate) url: Url,
    pub(crate) authorization: Option<&'a HeaderValue>,
    pub(crate) body: Option<Body<'a>>,
    /// What must not be in an error's text, even if the server repeats it.
    pub(crate) secrets: &'a [&'a str],
}

/// A body and its media type.
#[derive(Clone, Copy)]
pub(crate) struct Body<'a> {
    pub(crate) media_type: &'static str,
    pub(crate) content: &'a [u8],
}

/// What came back.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    retry_after: Option<Duration>,
    /// Where a redirect leads.
    redirect_host: Option<String>,
    body: Vec<u8>,
    /// Whether errors repeat what the server says.
    may_quote: bool,
    /// Room for the body.
    _lease: Lease,
}

/// How requests are sent and responses read.
#[derive(Clone)]
pub(crate) struct Transport {
    pub(crate) http: Arc<Client>,
    pub(crate) timeout: Duration,
    pub(crate) memory: Arc<ResponseMemory>,
    /// Whether errors repeat what the server says.
    pub(crate) may_quote: bool,
}

impl Transport {
    /// Sends the request once and reads the response, whatever its status, in bounded time and memory.
    pub(crate) async fn exchange(&self, request: Request<'_>) -> Result<Response, GenesysError> {
        let (info, timeout) = (request.info, self.timeout);
        tokio::time::timeout(timeout, self.exchange_untimed(request))
            .await
            .unwrap_or_else(|_| Err(GenesysError::Timeout { request: info.clone(), after: timeout }))
    }

    async fn exchange_untimed(&self, request: Request<'_>) -> Result<Response, GenesysError> {
        let Request { info, url, authorization, body, secrets } = request;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut builder = self.http.request(info.operation.method(), url).header(ACCEPT, "application/json");
        if let Some(authorization) = authorization {
            builder = builder.header(AUTHORIZATION, authorization);
        }
        if let Some(Body { media_type, content }) = body {
            builder = builder.header(CONTENT_TYPE, media_type).body(content.to_vec());
        }
        let failed = |error: reqwest::Error| self.failure(info, &host, &error, secrets);
        let mut response = builder.send().await.map_err(failed)?;
        let status = response.status();
        let most = most_bytes(status, info.operation);
        let lease = self.memory.lease();
        let (body, end) = read(&mut response, most, &lease).await.map_err(failed)?;
        match end {
            End::TooLong if status.is_success() => {
                return Err(info.unexpected(format!("the answer has more than {most} bytes")));
            }
            End::Evicted if status.is_success() => {
                return Err(info.unexpected(format!(
                    "the answer was given up after {} bytes, as the largest of those that are read at the same time, for \
                     which there is no room",
                    body.len()
                )));
            }
            // Of a failure, the beginning is enough.
            End::Whole | End::TooLong | End::Evicted => {}
        }
        let headers = response.headers();
        let retry_after = headers.get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        let redirect_host = if status.is_redirection() { redirect_host(&response) } else { None };
        tracing::debug!(request = %info, status = status.as_u16(), "called Genesys Cloud");
        let may_quote = self.may_quote;
        Ok(Response { status, retry_after, redirect_host, body, may_quote, _lease: lease })
    }

    fn failure(
        &self,
        info: &RequestInfo,
        host: &str,
        error: &reqwest::Error,
        secrets: &[&str],
    ) -> GenesysError {
        if let Some(refusal) = host_policy::refusal(host, error) {
            return refusal;
        }
        let sent = !error.is_connect() && !error.is_builder();
        let cause = if self.may_quote { causes(error, secrets) } else { own_words(error, sent) };
        GenesysError::Unreachable { request: info.clone(), cause, sent }
    }
}

fn most_bytes(status: StatusCode, operation: Operation) -> usize {
    match operation {
        _ if !status.is_success() => MAX_ERROR_BYTES,
        Operation::Token => oauth_token::MAX_RESPONSE_BYTES,
        Operation::List => MAX_PAGE_BYTES,
        _ => MAX_OBJECT_BYTES,
    }
}

/// How the reading of a body ended.
enum End {
    Whole,
    TooLong,
    /// Other bodies need the room.
    Evicted,
}

/// At most so many bytes of the body, in the room of the lease.
async fn read(
    response: &mut reqwest::Response,
    most: usize,
    lease: &Lease,
) -> Result<(Vec<u8>, End), reqwest::Error> {
    let mut body = Vec::new();
    loop {
        let chunk = tokio::select! {
            chunk = response.chunk() => chunk?,
            () = lease.evicted() => return Ok((body, End::Evicted)),
        };
        let Some(chunk) = chunk else { return Ok((body, End::Whole)) };
        let kept = chunk.len().min(most - body.len());
        let needed = body.len() + kept;
        if needed > body.capacity() {
            let capacity = needed.max(2 * body.capacity()).min(most);
            if lease.grow(capacity - body.capacity()).await == Err(Evicted) {
                return Ok((body, End::Evicted));
            }
            body.reserve_exact(capacity - body.len());
        }
        body.extend_from_slice(&chunk[..kept]);
        if kept < chunk.len() {
            return Ok((body, End::TooLong));
        }
    }
}

/// The host that a redirect leads to.
fn redirect_host(response: &reqwest::Response) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    let url = response.url().join(location).ok()?;
    Some(url.host_str()?.to_owned())
}

/// The causes below an error, outermost first. The error itself says no more than which URL it was.
fn causes(error: &reqwest::Error, secrets: &[&str]) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // Some repeat what is below them.
        if !causes.iter().any(|above| above.contains(&text)) {
            causes.push(text);
        }
        next = cause.source();
    }
    if causes.is_empty() {
        return "the connection failed".to_owned();
    }
    quote(&causes.join(": "), secrets)
}

/// The same without a word of the server's, which may stand in its certificate or in the reason for which it closes a
/// connection: what this system says, or else whether there was a connection at all.
fn own_words(error: &reqwest::Error, was_sent: bool) -> String {
    for cause in host_policy::causes(error) {
        if let Some(unresolved) = cause.downcast_ref::<NotResolved>() {
            return quote(&unresolved.to_string(), &[]);
        }
        if let Some(cause) = cause.downcast_ref::<io::Error>()
            && cause.raw_os_error().is_some()
        {
            return cause.to_string();
        }
        if let Some(cause) = cause.downcast_ref::<rustls::Error>() {
            return match cause {
                rustls::Error::InvalidCertificate(_) => "the server's certificate is not accepted",
                _ => "the TLS handshake failed",
            }
            .to_owned();
        }
    }
    let words =
        if was_sent { "the connection broke before the answer was whole" } else { "the connection failed" };
    words.to_owned()
}

/// A wait in seconds or until a date (RFC 9110, section 10.2.3), at most an hour; `None` where it is neither.
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let date = DATE.parse_timestamp(text).ok()?;
        SystemTime::from(date).duration_since(now).unwrap_or(Duration::ZERO)
    };
    Some(wait.min(LONGEST_RETRY_AFTER))
}

/// An error's body: Genesys Cloud's own, or an OAuth server's (RFC 6749, section 5.2).
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Explanation {
    message: Option<String>,
    code: Option<String>,
    context_id: Option<String>,
    error: Option<String>,
    #[serde(rename = "error_description")]
    error_description: Option<String>,
}

impl Explanation {
    /// OAuth servers may say with 400 what others say with 401.
    fn refuses_client(&self) -> bool {
        let code = self.code.as_deref().or(self.error.as_deref());
        matches!(code, Some("invalid_client" | "unauthorized_client" | "invalid_grant"))
    }
}

impl Response {
    /// The Retry-After, where there is one.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// Whether there is nothing at the URL.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body's JSON. The error says where it is wrong, and repeats nothing of it.
    pub(crate) fn json<'a, T: Deserialize<'a>>(&'a self, info: &RequestInfo) -> Result<T, GenesysError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            info.unexpected(format!(
                "the answer (status {}) is not the JSON that was expected (line {}, column {})",
                self.status.as_u16(),
                error.line(),
                error.column()
            ))
        })
    }

    /// What a status other than success means for this request.
    pub(crate) fn error(&self, info: &RequestInfo, secrets: &[&str]) -> GenesysError {
        let explanation: Explanation = serde_json::from_slice(&self.body).unwrap_or_default();
        let is_client_refused = explanation.refuses_client();
        let (request, response) = (info.clone(), self.error_response(explanation, secrets));
        let retry_after = self.retry_after;
        match (self.status.as_u16(), info.operation) {
            (400, Operation::Token) if is_client_refused => {
                GenesysError::CredentialsRejected { request, response }
            }
            (401, _) => GenesysError::CredentialsRejected { request, response },
            (403, _) => GenesysError::Forbidden { request, response },
            (404 | 405 | 501, Operation::Token | Operation::Create) => {
                GenesysError::WrongPath { request, response }
            }
            (404 | 405 | 501, _) => GenesysError::Unsupported { request, response },
            (409, _) => GenesysError::Conflict { request, response },
            (429, _) => {
                GenesysError::RateLimited { request, cause: LimitedBy::Server(response), retry_after }
            }
            // A timeout and "too early" are the server's, although they are 4xx.
            (408 | 425 | 500..=599, _) => GenesysError::ServerError { request, response, retry_after },
            (400..=499, _) => GenesysError::InvalidRequest { request, response },
            (300..=399, _) => {
                let host = self.redirect_host.as_deref().filter(|_| self.may_quote);
                let host = host.map(|host| quote(host, secrets));
                let target = host.map_or_else(|| "elsewhere".to_owned(), |host| format!("to host {host:?}"));
                info.unexpected(format!("the server redirects {target} ({response}), which is not followed"))
            }
            _ => info.unexpected(format!("the answer has {response}")),
        }
    }

    fn error_response(&self, explanation: Explanation, secrets: &[&str]) -> ErrorResponse {
        let status = self.status.as_u16();
        let words = [&explanation.code, &explanation.message];
        let names_version =
            words.into_iter().flatten().any(|text| text.to_ascii_lowercase().contains("version"));
        let quoted =
            |text: Option<String>| text.map(|text| quote(&text, secrets)).filter(|text| !text.is_empty());
        let body = ErrorBody {
            code: quoted(explanation.code.or(explanation.error)),
            message: quoted(explanation.message.or(explanation.error_description)),
            context_id: quoted(explanation.context_id),
            is_withheld: false,
            names_version,
        };
        let is_silent = body.code.is_none() && body.message.is_none() && body.context_id.is_none();
        let is_withheld = !self.may_quote && !is_silent;
        let body =
            if is_withheld { ErrorBody { is_withheld, names_version, ..ErrorBody::default() } } else { body };
        ErrorResponse { status, body: Box::new(body) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event_bridges::REGISTRATION;

    fn waits(value: &'static str) -> Option<u64> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        retry_after(&HeaderValue::from_static(value), now).map(|wait| wait.as_secs())
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        assert_eq!(waits("17"), Some(17));
        assert_eq!(waits("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(waits("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(waits("soon"), None);
        assert_eq!(waits("-1"), None);
    }

    #[test]
    fn no_retry_after_is_longer_than_an_hour() {
        assert_eq!(waits("86400"), Some(3600));
        assert_eq!(waits("Sun, 06 Nov 2094 08:00:00 GMT"), Some(3600));
    }

    fn response(status: u16, body: &str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            redirect_host: None,
            body: body.as_bytes().to_vec(),
            may_quote: true,
            _lease: ResponseMemory::new(0).lease(),
        }
    }

    fn reason(status: u16, operation: Operation, body: &str) -> &'static str {
        let response = response(status, body);
        let url = Url::parse("https://api.example.com/x").unwrap();
        response.error(&RequestInfo::new(operation, &REGISTRATION, &url), &[]).reason()
    }

    #[test]
    fn a_status_means_what_it_means_for_the_call() {
        use Operation::{Create, Delete, List, Token, Update};
        let table = [
            (400, Create, "InvalidRequest"),
            (401, Create, "CredentialsRejected"),
            (403, List, "Forbidden"),
            (404, List, "Unsupported"),
            (405, List, "Unsupported"),
            (501, Update, "Unsupported"),
            (405, Delete, "Unsupported"),
            (404, Create, "WrongPath"),
            (405, Token, "WrongPath"),
            (409, Update, "Conflict"),
            (422, Create, "InvalidRequest"),
            (429, List, "RateLimited"),
            (408, Create, "ServerError"),
            (500, Create, "ServerError"),
            (503, Delete, "ServerError"),
            (302, Token, "UnexpectedAnswer"),
        ];
        for (status, operation, expected) in table {
            assert_eq!(reason(status, operation, ""), expected, "{status} to {operation:?}");
        }
    }

    #[test]
    fn an_oauth_servers_400_can_mean_the_client() {
        assert_eq!(reason(400, Operation::Token, r#"{"error": "invalid_client"}"#), "CredentialsRejected");
        assert_eq!(reason(400, Operation::Token, r#"{"error": "invalid_request"}"#), "InvalidRequest");
    }

    #[test]
    fn an_error_repeats_only_the_servers_own_words() {
        let body = r#"{"message": "no such thing", "code": "x.y", "contextId": "c-1", "secret": "hush"}"#;
        let says = |status, body, may_quote| {
            let response = Response { may_quote, ..response(status, body) };
            let url = Url::parse("https://api.example.com/x").unwrap();
            response.error(&RequestInfo::new(Operation::Create, &REGISTRATION, &url), &[]).to_string()
        };
        let text = says(409, body, true);
        assert!(text.contains("(status 409, x.y: no such thing, contextId c-1)"), "{text}");
        let text = says(502, "<html>hush", true);
        assert!(text.contains("(status 502)") && !text.contains("hush"), "{text}");
        let text = says(409, body, false);
        assert!(text.contains("(status 409, and words that are not shown: "), "{text}");
        assert!(!text.contains("x.y") && !text.contains("such thing") && !text.contains("c-1"), "{text}");
        assert!(says(409, "{}", false).contains("(status 409)"), "there are none to withhold");
    }

    #[test]
    fn words_that_are_not_shown_are_understood() {
        let response = response(400, r#"{"error": "invalid_client"}"#);
        let response = Response { may_quote: false, ..response };
        let url = Url::parse("https://api.example.com/x").unwrap();
        let error = response.error(&RequestInfo::new(Operation::Token, &crate::auth::TOKEN, &url), &[]);
        assert_eq!(error.reason(), "CredentialsRejected");
        assert!(!error.to_string().contains("invalid_client"), "{error}");
    }

    #[test]
    fn an_invalid_certificate_authority_is_refused() {
        for pem in ["", "not a certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let error = http_client(Some(pem.as_bytes()), false, &HostPolicy::default()).unwrap_err();
            assert_eq!(error.reason(), "InvalidAccess");
            assert!(error.to_string().contains("caSecretRef"), "{error}");
        }
    }
}
