//! What can go wrong with a call to Genesys Cloud, each with what to do about it.
//!
//! A variant's name is the reason of a condition, its text the condition's message: it says which call failed and
//! where, why, and what helps. Neither holds a secret or a token, nor anything of an answer but the server's own
//! `message`, `code` and `contextId`, cleaned and shortened.

use std::fmt;
use std::time::Duration;

use reqwest::Method;
use thiserror::Error;
use url::Url;

/// The most characters of a text of the server's that an error repeats.
const LONGEST_QUOTE: usize = 200;

/// Why a call to Genesys Cloud did not do what was asked.
#[derive(Clone, Debug, Error)]
pub enum GenesysError {
    /// The OAuth client is not accepted: no token for it, or a new token was refused again.
    #[error(
        "cannot {call}: Genesys Cloud does not accept the OAuth client ({answer}); check clientId and clientSecret in \
         the Secret of spec.genesys.credentialsSecretRef, and that the client belongs to this region"
    )]
    CredentialsRejected {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
    },
    /// The OAuth client is known but may not do this.
    #[error(
        "cannot {call}: the OAuth client may not do this ({answer}); give it a role in Genesys Cloud that may manage \
         event bridges"
    )]
    Forbidden {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
    },
    /// The OAuth client has made its calls: by Genesys Cloud's count (429), or by our own.
    #[error("cannot {call}: {cause}{}", again(*.retry_after))]
    RateLimited {
        /// The call that failed, or was not made.
        call: Call,
        /// Who says so.
        cause: LimitedBy,
        /// How long to wait before the next try; `None` where the server did not say.
        retry_after: Option<Duration>,
    },
    /// The server does not know the method: 404, 405 or 501 to a listing, 405 or 501 to a single registration's path.
    /// Such a server knows creation alone.
    #[error(
        "cannot {call}: the server does not support this ({answer}); registrations can be created there but neither \
         verified nor removed. If it should, check spec.source.webhook.eventBridgesPath"
    )]
    Unsupported {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
    },
    /// Nothing is served where a token was asked for, or where a registration was to be created.
    #[error(
        "cannot {call}: the server has no such endpoint ({answer}); check spec.genesys.region or apiUrl, and {}", .call.operation.path_field()
    )]
    WrongPath {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
    },
    /// The server has something that stands against it, such as another registration of the same name.
    #[error(
        "cannot {call}: it conflicts with what is there ({answer}); nothing else in the organisation may use the name \
         of spec.source.webhook.name"
    )]
    Conflict {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
    },
    /// The server refuses what was sent; the same will be refused again.
    #[error(
        "cannot {call}: the server refuses the request ({answer}); correct what it names in spec.source or spec.endpoint"
    )]
    InvalidRequest {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
    },
    /// The server failed (5xx).
    #[error("cannot {call}: the server failed ({answer}){}", again(*.retry_after))]
    ServerError {
        /// The call that failed.
        call: Call,
        /// What the server said.
        answer: Answer,
        /// How long the server asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// No connection, or it broke before the answer was whole.
    #[error("cannot {call}: {cause}; check the URL, the DNS, the proxy and the certificate authority")]
    Unreachable {
        /// The call that failed.
        call: Call,
        /// What the network said.
        cause: String,
        /// Whether the request can have arrived.
        sent: bool,
    },
    /// No whole answer in time.
    #[error("cannot {call}: no answer within {} s; it is tried again", .after.as_secs_f32())]
    Timeout {
        /// The call that failed.
        call: Call,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is not what the API promises.
    #[error(
        "cannot {call}: {problem}; check that spec.genesys points to a Genesys Cloud API and not to a login page or a proxy"
    )]
    UnexpectedAnswer {
        /// The call that failed.
        call: Call,
        /// What is wrong with it.
        problem: String,
    },
    /// The registration calls another URL, also after it was given ours.
    #[error(
        "the registration {name:?} calls {theirs}, also after it was given {ours}: another cluster, or somebody else, has \
         a registration of this name; give one of the two another spec.source.webhook.name, or delete theirs at Genesys \
         Cloud where nobody uses it any more"
    )]
    Contested {
        /// The registration's name.
        name: String,
        /// The URL that it calls.
        theirs: String,
        /// The URL that it is to call.
        ours: String,
    },
    /// The server says that it created, changed or has the registration, but not under which id.
    #[error("cannot {call}: the answer names no id for the registration; it is looked up by its name")]
    NoId {
        /// The call that failed.
        call: Call,
    },
    /// What the account was given cannot be used for any call.
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
            Self::Contested { .. } => "Contested",
            Self::InvalidRequest { .. } => "InvalidRequest",
            Self::ServerError { .. } => "ServerError",
            Self::Unreachable { .. } => "Unreachable",
            Self::Timeout { .. } => "Timeout",
            Self::UnexpectedAnswer { .. } => "UnexpectedAnswer",
            Self::NoId { .. } => "NoId",
            Self::InvalidAccess { .. } => "InvalidAccess",
        }
    }

    /// How long to wait at least before the next try, where somebody said so.
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
            | Self::Contested { .. }
            | Self::InvalidRequest { .. }
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

    /// Whether it is the failure of a creation that may have been carried out all the same, or may still be. The
    /// registration is then to be looked up by its name; where the server cannot list, creating again risks a second
    /// one.
    #[must_use]
    pub fn may_have_created(&self) -> bool {
        match self {
            // The token comes first: without one, nothing was sent.
            Self::ServerError { call, .. }
            | Self::Timeout { call, .. }
            | Self::UnexpectedAnswer { call, .. }
            | Self::Unreachable { call, sent: true, .. }
            | Self::NoId { call } => call.operation == Operation::Create,
            _ => false,
        }
    }
}

/// ", to be tried again in 30 s", or what a reader may expect where nothing was said.
fn again(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("; it is tried again in {} s", wait.as_secs_f64().ceil()),
        None => "; it is tried again".to_owned(),
    }
}

/// Who says that there were too many calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// Genesys Cloud, just now.
    Server(Answer),
    /// Genesys Cloud, to an earlier call of the same OAuth client.
    Earlier,
    /// Our own count of the client's calls, so many a minute.
    Budget(u32),
}

impl fmt::Display for LimitedBy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(answer) => {
                write!(formatter, "Genesys Cloud wants fewer calls of this OAuth client ({answer})")
            }
            Self::Earlier => formatter.write_str("Genesys Cloud has asked to leave it alone for a while"),
            Self::Budget(calls) => write!(
                formatter,
                "the {calls} calls a minute that all routes with this OAuth client share are used up"
            ),
        }
    }
}

/// Which call it was: what it was for, and where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub(super) operation: Operation,
    pub(super) url: String,
}

impl Call {
    /// The URL is kept without user, query and fragment.
    pub(super) fn new(operation: Operation, url: &Url) -> Self {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        // Neither can fail for a URL with a host, and one without has neither.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Self { operation, url: url.into() }
    }

    /// What the call was for.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }
}

impl fmt::Display for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operation, url } = self;
        write!(formatter, "{operation} ({} {url})", operation.method())
    }
}

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Get a token.
    Token,
    /// Look for registrations by name.
    List,
    /// Read one registration.
    Read,
    /// Create a registration.
    Create,
    /// Replace a registration.
    Update,
    /// Delete a registration.
    Delete,
}

impl Operation {
    pub(super) fn method(self) -> Method {
        match self {
            Self::Token | Self::Create => Method::POST,
            Self::List | Self::Read => Method::GET,
            Self::Update => Method::PUT,
            Self::Delete => Method::DELETE,
        }
    }

    fn path_field(self) -> &'static str {
        match self {
            Self::Token => "spec.genesys.api.tokenPath",
            _ => "spec.source.webhook.eventBridgesPath",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Token => "get an OAuth token",
            Self::List => "look for the registration by its name",
            Self::Read => "read the registration",
            Self::Create => "create the registration",
            Self::Update => "update the registration",
            Self::Delete => "delete the registration",
        })
    }
}

/// What may be repeated of an error's answer: the status, and the server's own words in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub(super) status: u16,
    /// Boxed, because errors are handed through many results.
    pub(super) said: Box<Said>,
}

/// The server's own words, fit to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
    pub(super) context_id: Option<String>,
}

impl Answer {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "status {}", self.status)?;
        let Said { code, message, context_id } = self.said.as_ref();
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

/// Something from outside, fit to be shown: without the given secrets, without control characters, and short.
pub(super) fn quotable(text: &str, secrets: &[&str]) -> String {
    // Before it is shortened, lest the beginning of a secret stays; a secret of a letter or two is none, and
    // looking for it would make the text unreadable.
    let mut text = text.to_owned();
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        text = text.replace(secret, "[redacted]");
    }
    let mut words: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_holds_no_secret_even_where_it_is_cut() {
        let text = format!("{}the secret is sesame-open", "x".repeat(180));
        let quote = quotable(&text, &["sesame-open"]);
        assert!(!quote.contains("sesame"), "{quote}");
        assert!(quote.chars().count() <= LONGEST_QUOTE + 1);
    }

    #[test]
    fn a_quote_is_one_line_without_control_characters() {
        assert_eq!(quotable("a\r\nb\u{1b}[31m\tc\0", &[]), "a b [31m c");
    }

    #[test]
    fn a_call_shows_where_it_went_without_query_and_user() {
        let url = Url::parse("https://user:word@api.example.com/api/v2/x?name=y#z").unwrap();
        let call = Call::new(Operation::List, &url);
        assert_eq!(
            call.to_string(),
            "look for the registration by its name (GET https://api.example.com/api/v2/x)"
        );
    }

    #[test]
    fn a_message_names_the_call_the_cause_and_the_remedy() {
        let url = Url::parse("https://api.example.com/api/v2/oauth/token").unwrap();
        let said = Said {
            code: Some("bad.credentials".to_owned()),
            message: Some("invalid client".to_owned()),
            context_id: Some("7c".to_owned()),
        };
        let answer = Answer { status: 401, said: Box::new(said) };
        let error = GenesysError::CredentialsRejected { call: Call::new(Operation::Token, &url), answer };
        assert_eq!(
            error.to_string(),
            "cannot get an OAuth token (POST https://api.example.com/api/v2/oauth/token): Genesys Cloud does not \
             accept the OAuth client (status 401, bad.credentials: invalid client, contextId 7c); check clientId and \
             clientSecret in the Secret of spec.genesys.credentialsSecretRef, and that the client belongs to this region"
        );
    }
}
