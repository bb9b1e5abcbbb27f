//! What can go wrong with a request to Genesys Cloud, each with what to do about it.
//!
//! A variant's name is the reason of a condition, its text the condition's message: which request failed and where,
//! why, and what helps. No text holds a secret or a token, nor anything of a response but the server's own `message`,
//! `code` and `contextId`, cleaned and shortened.

use std::fmt;
use std::time::Duration;

use reqwest::Method;
use thiserror::Error;
use url::Url;

/// The most characters of a server's text that an error repeats.
const MAX_QUOTE: usize = 200;

/// Why a request to Genesys Cloud did not do what was asked.
#[derive(Clone, Debug, Error)]
pub enum GenesysError {
    /// The OAuth client is not accepted: no token for it, or a new token was refused again.
    #[error(
        "cannot {request}: Genesys Cloud does not accept the OAuth client ({response}); check clientId and clientSecret \
         in the Secret of spec.genesys.credentialsSecretRef, and that the client belongs to this region"
    )]
    CredentialsRejected {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
    },
    /// The OAuth client is known but may not do this.
    #[error(
        "cannot {request}: the OAuth client may not do this ({response}); give it a role in Genesys Cloud that may {}",
        .request.resource.permission
    )]
    Forbidden {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
    },
    /// The OAuth client has made its requests: by Genesys Cloud's count (429), or by our own.
    #[error("cannot {request}: {cause}{}", again(*.retry_after))]
    RateLimited {
        /// The request that failed, or was not sent.
        request: RequestInfo,
        /// Whose limit it is.
        cause: LimitedBy,
        /// How long to wait before the next try; `None` where the server did not say.
        retry_after: Option<Duration>,
    },
    /// The server does not know the method: 404, 405 or 501 to a listing, 405 or 501 to the path of a single object.
    #[error("cannot {request}: the server does not support this ({response}); {}", .request.resource.unsupported)]
    Unsupported {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
    },
    /// Nothing is served where a token was asked for, or where an object was to be created.
    #[error(
        "cannot {request}: the server has no such endpoint ({response}); check spec.genesys.region or apiUrl, and {}", .request.resource.path_field
    )]
    WrongPath {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
    },
    /// Something at the server stands against the request, such as another object of the same name.
    #[error("cannot {request}: it conflicts with what is there ({response}); {}", .request.resource.conflict)]
    Conflict {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
    },
    /// The server refuses what was sent; the same will be refused again.
    #[error(
        "cannot {request}: the server refuses the request ({response}); correct what it names in spec.source or \
         spec.endpoint"
    )]
    InvalidRequest {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
    },
    /// The server failed (5xx).
    #[error("cannot {request}: the server failed ({response}){}", again(*.retry_after))]
    ServerError {
        /// The request that failed.
        request: RequestInfo,
        /// The server's response.
        response: ErrorResponse,
        /// How long the server asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// No connection, or it broke before the response was whole.
    #[error("cannot {request}: {cause}; check the URL, the DNS, the proxy and the certificate authority")]
    Unreachable {
        /// The request that failed.
        request: RequestInfo,
        /// What the network said.
        cause: String,
        /// Whether the request can have arrived.
        sent: bool,
    },
    /// No whole response in time.
    #[error("cannot {request}: no answer within {} s; it is tried again", .after.as_secs_f32())]
    Timeout {
        /// The request that failed.
        request: RequestInfo,
        /// How long was waited.
        after: Duration,
    },
    /// The response is not what the API promises.
    #[error(
        "cannot {request}: {problem}; check that spec.genesys points to a Genesys Cloud API and not to a login page or a \
         proxy"
    )]
    UnexpectedAnswer {
        /// The request that failed.
        request: RequestInfo,
        /// What is wrong with the response.
        problem: String,
    },
    /// The server says that it created, changed or has the object, but not under which id.
    #[error("cannot {request}: the answer names no id for the {}; it is looked up by its name", .request.resource.name)]
    NoId {
        /// The request that failed.
        request: RequestInfo,
    },
    /// The [`crate::HostPolicy`] allows no requests to the host.
    #[error(
        "this installation sends no requests to host {host:?}: {cause}; let spec.genesys name another host, or ask the \
         cluster's administrators to list this one in genesysHosts of the operator's policy (chart value \
         operator.policy.genesysHosts)"
    )]
    HostNotAllowed {
        /// The host.
        host: String,
        /// Why not.
        cause: String,
    },
    /// The [`crate::Access`] cannot be used for any request.
    #[error("{problem}")]
    InvalidAccess {
        /// What is wrong with it, and where it comes from.
        problem: String,
    },
}

impl GenesysError {
    /// The variant's name: the reason of a condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::CredentialsRejected { .. } => "CredentialsRejected",
            Self::Forbidden { .. } => "Forbidden",
            Self::RateLimited { .. } => "RateLimited",
            Self::Unsupported { .. } => "Unsupported",
            Self::WrongPath { .. } => "WrongPath",
            Self::Conflict { .. } => "Conflict",
            Self::InvalidRequest { .. } => "InvalidRequest",
            Self::ServerError { .. } => "ServerError",
            Self::Unreachable { .. } => "Unreachable",
            Self::Timeout { .. } => "Timeout",
            Self::UnexpectedAnswer { .. } => "UnexpectedAnswer",
            Self::NoId { .. } => "NoId",
            Self::HostNotAllowed { .. } => "HostNotAllowed",
            Self::InvalidAccess { .. } => "InvalidAccess",
        }
    }

    /// Whether an update was refused because the object has another version by now. Genesys Cloud says so with 400 or 409,
    /// as `IsVersionMismatch` of its Terraform provider has it.
    pub(crate) fn is_version_mismatch(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            Self::InvalidRequest { response, .. } => response.body.names_version,
            _ => false,
        }
    }

    /// How long to wait at least before the next try, where the server or the budget says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::ServerError { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether it stays so until a person changes something, here or at Genesys Cloud: worth a try now and then, not
    /// a quick one.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::CredentialsRejected { .. }
            | Self::Forbidden { .. }
            | Self::Unsupported { .. }
            | Self::WrongPath { .. }
            | Self::InvalidRequest { .. }
            | Self::HostNotAllowed { .. }
            | Self::InvalidAccess { .. } => true,
            Self::RateLimited { .. }
            | Self::Conflict { .. }
            | Self::ServerError { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::UnexpectedAnswer { .. }
            | Self::NoId { .. } => false,
        }
    }

    /// Whether a creation failed that may have been carried out all the same, or may still be. The object is then to
    /// be looked up by its name; where the server cannot list, creating again risks a second one.
    #[must_use]
    pub fn may_have_created(&self) -> bool {
        match self {
            // The token comes first: without one, nothing was sent.
            Self::ServerError { request, .. }
            | Self::Timeout { request, .. }
            | Self::UnexpectedAnswer { request, .. }
            | Self::Unreachable { request, sent: true, .. }
            | Self::NoId { request } => request.operation == Operation::Create,
            _ => false,
        }
    }
}

/// "; it is tried again in 30 s", or without a time where none was given.
fn again(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("; it is tried again in {} s", wait.as_secs_f64().ceil()),
        None => "; it is tried again".to_owned(),
    }
}

/// Whose limit there were too many requests for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// Genesys Cloud's, in the response to this request.
    Server(ErrorResponse),
    /// Genesys Cloud's, in the response to an earlier request of the same OAuth client.
    Earlier,
    /// Our own budget for the client: so many a minute.
    Budget(u32),
    /// Our own budget for token requests with a secret that has not got a token yet: so many a minute.
    TokenBudget(u32),
}

impl fmt::Display for LimitedBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(response) => {
                write!(formatter, "Genesys Cloud wants fewer calls of this OAuth client ({response})")
            }
            Self::Earlier => formatter.write_str("Genesys Cloud has asked to leave it alone for a while"),
            Self::Budget(calls) => write!(
                formatter,
                "the {calls} calls a minute that all routes with this OAuth client share are used up"
            ),
            Self::TokenBudget(calls) => write!(
                formatter,
                "the {calls} token requests a minute with a secret that Genesys Cloud has not accepted yet are used up"
            ),
        }
    }
}

/// A kind of object at the API, and what its errors advise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    /// What one object is called.
    pub(crate) name: &'static str,
    /// The field of spec.genesys.api that holds its path.
    pub(crate) path_field: &'static str,
    /// What a role must allow.
    pub(crate) permission: &'static str,
    /// What follows where the server does not know a method, and what to check.
    pub(crate) unsupported: &'static str,
    /// What to do about a conflict.
    pub(crate) conflict: &'static str,
}

/// Which request it was: what it was for, and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestInfo {
    pub(crate) operation: Operation,
    resource: &'static Resource,
    url: String,
}

impl RequestInfo {
    /// The URL is kept without user, query and fragment.
    pub(crate) fn new(operation: Operation, resource: &'static Resource, url: &Url) -> Self {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Neither can fail for a URL with a host, and one without has neither.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Self { operation, resource, url: url.into() }
    }

    /// What the request was for.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    pub(crate) fn resource_name(&self) -> &'static str {
        self.resource.name
    }

    pub(crate) fn unexpected(&self, problem: impl Into<String>) -> GenesysError {
        GenesysError::UnexpectedAnswer { request: self.clone(), problem: problem.into() }
    }
}

impl fmt::Display for RequestInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, resource: Resource { name, .. }, url } = self;
        match operation {
            Operation::Token => write!(formatter, "get {name}"),
            Operation::List => write!(formatter, "look for the {name} by its name"),
            Operation::Read => write!(formatter, "read the {name}"),
            Operation::Create => write!(formatter, "create the {name}"),
            Operation::Update => write!(formatter, "update the {name}"),
            Operation::SetState => write!(formatter, "enable or disable the {name}"),
            Operation::Delete => write!(formatter, "delete the {name}"),
        }?;
        write!(formatter, " ({} {url})", operation.method())
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Get a token.
    Token,
    /// Look for objects by name.
    List,
    /// Read one object.
    Read,
    /// Create an object.
    Create,
    /// Replace an object.
    Update,
    /// Change the state that an object is to have.
    SetState,
    /// Delete an object.
    Delete,
}

impl Operation {
    pub(crate) fn method(self) -> Method {
        match self {
            Self::Token | Self::Create => Method::POST,
            Self::List | Self::Read => Method::GET,
            Self::Update => Method::PUT,
            Self::SetState => Method::PATCH,
            Self::Delete => Method::DELETE,
        }
    }

    /// Whether its URL is that of a single object, so that 404 says that there is none.
    pub(crate) fn is_on_one_object(self) -> bool {
        matches!(self, Self::Read | Self::Update | Self::SetState | Self::Delete)
    }
}

/// What an error repeats of a response: the status, and the server's own words in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    pub(crate) status: u16,
    /// Boxed, because errors are handed through many results.
    pub(crate) body: Box<ErrorBody>,
}

/// The server's own words, fit to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorBody {
    pub(crate) code: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) context_id: Option<String>,
    /// Whether it said something that the [`crate::HostPolicy`] does not show.
    pub(crate) is_withheld: bool,
    /// Whether it spoke of a version, shown or not.
    pub(crate) names_version: bool,
}

impl ErrorResponse {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "status {}", self.status)?;
        let ErrorBody { code, message, context_id, is_withheld, .. } = self.body.as_ref();
        if *is_withheld {
            formatter.write_str(
                ", and words that are not shown: the host is neither a region's nor in genesysHosts of the operator's \
                 policy",
            )?;
        }
        if let Some(code) = code {
            write!(formatter, ", {code}")?;
        }
        if let Some(message) = message {
            write!(formatter, ": {message}")?;
        }
        if let Some(context) = context_id {
            write!(formatter, ", contextId {context}")?;
        }
        Ok(())
    }
}

/// A text from outside, fit to be shown: without the given secrets, on one line, short, and with escapes for characters
/// that a terminal or a page would act on instead of showing them.
pub(crate) fn quote(text: &str, secrets: &[&str]) -> String {
    // Before the text is shortened, lest the beginning of a secret stays; a secret of a letter or two is none, and
    // looking for it would make the text unreadable.
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        for spelling in spellings(secret) {
            text = text.replace(&spelling, "[redacted]");
        }
    }
    let mut quoted = String::new();
    let mut left = MAX_QUOTE;
    for word in text.split_whitespace() {
        let space = if quoted.is_empty() { None } else { Some(' ') };
        for character in space.into_iter().chain(word.chars()) {
            let escaped = is_invisible(character).then(|| character.escape_unicode());
            let Some(rest) = left.checked_sub(escaped.as_ref().map_or(1, ExactSizeIterator::len)) else {
                quoted.push('…');
                return quoted;
            };
            left = rest;
            match escaped {
                Some(escaped) => quoted.extend(escaped),
                None => quoted.push(character),
            }
        }
    }
    quoted
}

/// How a server may repeat a secret: as it is, or as it stood in the body of JSON or of a form.
fn spellings(secret: &str) -> Vec<String> {
    let mut spellings = vec![secret.to_owned()];
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or_default();
    let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let encoded = [json.to_owned(), form].into_iter().filter(|spelling| !spelling.is_empty());
    spellings.extend(encoded.filter(|spelling| spelling != secret));
    spellings
}

/// Control characters, and those that only change how others are shown, such as the direction of the text.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::TOKEN;
    use crate::event_bridges::REGISTRATION;

    #[test]
    fn a_quote_holds_no_secret_even_where_it_is_cut() {
        let text = format!("{}the secret is sesame-open", "x".repeat(180));
        let quote = quote(&text, &["sesame-open"]);
        assert!(!quote.contains("sesame"), "{quote}");
        assert!(quote.chars().count() <= MAX_QUOTE + 1);
    }

    #[test]
    fn a_quote_holds_no_secret_in_the_spelling_of_a_body() {
        let secret = "p\"w/+ \n\\end";
        for repeated in [secret, r#"p\"w/+ \n\\end"#, "p%22w%2F%2B+%0A%5Cend"] {
            let quote = quote(&format!("got [{repeated}] and more"), &[secret]);
            assert_eq!(quote, "got [[redacted]] and more", "{repeated}");
        }
    }

    #[test]
    fn a_quote_is_one_short_line_with_control_characters_escaped() {
        for (text, quoted) in [
            ("a\r\nb\u{1b}[31m\tc\0", "a b\\u{1b}[31m c\\u{0}"),
            ("line\u{2028}separator\u{85}next", "line separator next"),
            ("abc\u{202e}fed", "abc\\u{202e}fed"),
            ("no\u{200b}thing\u{feff}", "no\\u{200b}thing\\u{feff}"),
            ("  Grüße,\t\"世界\" ", "Grüße, \"世界\""),
        ] {
            assert_eq!(quote(text, &[]), quoted);
        }
        let long = "\u{1b}\n".repeat(1 << 20);
        assert!(quote(&long, &[]).chars().count() <= MAX_QUOTE + 1);
    }

    #[test]
    fn a_request_is_shown_without_query_and_user() {
        let url = Url::parse("https://user:word@api.example.com/api/v2/x?name=y#z").unwrap();
        let request = RequestInfo::new(Operation::List, &REGISTRATION, &url);
        assert_eq!(
            request.to_string(),
            "look for the registration by its name (GET https://api.example.com/api/v2/x)"
        );
    }

    #[test]
    fn a_message_names_the_request_the_cause_and_the_remedy() {
        let url = Url::parse("https://api.example.com/api/v2/oauth/token").unwrap();
        let body = ErrorBody {
            code: Some("bad.credentials".to_owned()),
            message: Some("invalid client".to_owned()),
            context_id: Some("7c".to_owned()),
            is_withheld: false,
            names_version: false,
        };
        let response = ErrorResponse { status: 401, body: Box::new(body) };
        let request = RequestInfo::new(Operation::Token, &TOKEN, &url);
        assert_eq!(
            GenesysError::CredentialsRejected { request, response }.to_string(),
            "cannot get an OAuth token (POST https://api.example.com/api/v2/oauth/token): Genesys Cloud does not \
             accept the OAuth client (status 401, bad.credentials: invalid client, contextId 7c); check clientId and \
             clientSecret in the Secret of spec.genesys.credentialsSecretRef, and that the client belongs to this region"
        );
    }
}
