//! The client-credentials grant of OAuth 2.0 (RFC 6749, section 4.4): the token request, and what its response grants.
//!
//! Whatever a token endpoint sends, a [`Grant`] is bounded: the token's length, its characters and its lifetime. Neither
//! the client's secret nor a token can be printed. Sending the request, reading at most [`MAX_RESPONSE_BYTES`] of the
//! response, and trying again are left to the caller.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

/// The most bytes of a token endpoint's response that are worth reading.
pub const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// The longest token that is accepted; it goes into a header of every request.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// A token's lifetime where the server does not say; RFC 6749 lets it leave that out.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(300);

/// The shortest and the longest lifetime that is believed, in seconds.
const LIFETIMES: (f64, f64) = (1.0, 172_800.0);

/// An OAuth client.
#[derive(Clone, Copy)]
pub struct ClientCredentials<'a> {
    /// The client's id.
    pub id: &'a str,
    /// The client's secret.
    pub secret: &'a SecretString,
    /// What the token shall be good for; the server decides where there is none.
    pub scope: Option<&'a str>,
}

/// How the request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A JSON object with the client's id and secret, which some servers take instead of a form.
    Json,
    /// A form, with the client's id and secret in HTTP Basic authentication (RFC 6749, section 2.3.1).
    Form,
}

/// A token request, to be sent by POST.
pub struct TokenRequest {
    /// The value of `Content-Type`.
    pub content_type: &'static str,
    /// The value of `Authorization`, if any, marked as sensitive.
    pub authorization: Option<HeaderValue>,
    /// The body.
    pub body: SecretString,
}

impl ClientCredentials<'_> {
    /// The request for a token.
    #[must_use]
    pub fn token_request(self, encoding: Encoding) -> TokenRequest {
        const GRANT_TYPE: &str = "client_credentials";
        let Self { id, secret, scope } = self;
        match encoding {
            Encoding::Json => {
                let mut body = serde_json::json!({
                    "grant_type": GRANT_TYPE, "client_id": id, "client_secret": secret.expose_secret(),
                });
                if let Some(scope) = scope {
                    body["scope"] = scope.into();
                }
                TokenRequest {
                    content_type: "application/json",
                    authorization: None,
                    body: body.to_string().into(),
                }
            }
            Encoding::Form => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.append_pair("grant_type", GRANT_TYPE);
                if let Some(scope) = scope {
                    form.append_pair("scope", scope);
                }
                TokenRequest {
                    content_type: "application/x-www-form-urlencoded",
                    authorization: sensitive(&format!("Basic {}", self.basic())),
                    body: form.finish().into(),
                }
            }
        }
    }

    /// Id and secret as HTTP Basic authentication has them; each is form-encoded first (RFC 6749, section 2.3.1).
    fn basic(self) -> String {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        BASE64.encode(format!("{}:{}", encoded(self.id), encoded(self.secret.expose_secret())))
    }
}

/// A header's value that is not printed; `None` where it has characters that no header can.
fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What a token endpoint grants (RFC 6749, section 5.1).
pub struct Grant {
    /// The token.
    pub access_token: SecretString,
    /// `Bearer` and the token, as the value of `Authorization`, marked as sensitive.
    pub authorization: HeaderValue,
    /// How long the token is valid, counted from the request.
    pub lifetime: Duration,
}

/// Why a response grants nothing. No text repeats anything of the response.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GrantError {
    /// It is not what RFC 6749 says.
    #[error("no access_token, or not JSON (line {line}, column {column})")]
    Malformed {
        /// Where it ends to be.
        line: usize,
        /// Where in that line.
        column: usize,
    },
    /// The token is empty, or more than a header should carry.
    #[error("the access_token has {0} bytes instead of 1 to {MAX_TOKEN_BYTES}")]
    Length(usize),
    /// The token has a character outside of RFC 6749, appendix A.12.
    #[error("the access_token holds characters that no HTTP header can")]
    Characters,
}

impl Grant {
    /// Reads the body of a successful response.
    ///
    /// # Errors
    /// [`GrantError`] where it grants no token that can be used.
    pub fn parse(body: &[u8]) -> Result<Self, GrantError> {
        #[derive(Deserialize)]
        struct Response<'a> {
            #[serde(borrow)]
            access_token: Cow<'a, str>,
            #[serde(borrow)]
            expires_in: Option<&'a RawValue>,
        }

        let Response { access_token, expires_in } = serde_json::from_slice(body)
            .map_err(|error| GrantError::Malformed { line: error.line(), column: error.column() })?;
        if !(1..=MAX_TOKEN_BYTES).contains(&access_token.len()) {
            return Err(GrantError::Length(access_token.len()));
        }
        if !access_token.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(GrantError::Characters);
        }
        let authorization = sensitive(&format!("Bearer {access_token}")).ok_or(GrantError::Characters)?;
        let lifetime =
            expires_in.and_then(|value| seconds(value.get())).map_or(DEFAULT_LIFETIME, |seconds| {
                Duration::from_secs_f64(seconds.clamp(LIFETIMES.0, LIFETIMES.1))
            });
        Ok(Self { access_token: access_token.into_owned().into(), authorization, lifetime })
    }

    /// When to get the next token, counted from the request: early enough to try again for a while before this one
    /// expires.
    #[must_use]
    pub fn renew_after(&self) -> Duration {
        self.lifetime * 4 / 5
    }
}

/// `expires_in`: a number, which some servers write as a text.
fn seconds(json: &str) -> Option<f64> {
    let number: Option<f64> = serde_json::from_str(json).ok();
    let text = || serde_json::from_str::<String>(json).ok()?.trim().parse().ok();
    number.or_else(text).filter(|seconds: &f64| seconds.is_finite())
}

/// The `error` of a response that refuses (RFC 6749, section 5.2): the server's own word, to be shown with care.
#[must_use]
pub fn error_code(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }

    serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(encoding: Encoding, scope: Option<&str>) -> (Option<String>, String) {
        let secret = SecretString::from("s p");
        let request = ClientCredentials { id: "relay:1", secret: &secret, scope }.token_request(encoding);
        let authorization = request.authorization.map(|value| value.to_str().unwrap().to_owned());
        (authorization, request.body.expose_secret().to_owned())
    }

    #[test]
    fn a_form_carries_the_client_in_basic_authentication() {
        // Id and secret, each encoded: relay%3A1:s+p
        let basic = Some("Basic cmVsYXklM0ExOnMrcA==".to_owned());
        assert_eq!(
            request(Encoding::Form, None),
            (basic.clone(), "grant_type=client_credentials".to_owned())
        );
        assert_eq!(
            request(Encoding::Form, Some("a b")),
            (basic, "grant_type=client_credentials&scope=a+b".to_owned())
        );
    }

    #[test]
    fn json_carries_the_client_in_the_body() {
        for scope in [None, Some("kafka")] {
            let (authorization, body) = request(Encoding::Json, scope);
            let mut expected = serde_json::json!({
                "grant_type": "client_credentials", "client_id": "relay:1", "client_secret": "s p",
            });
            if let Some(scope) = scope {
                expected["scope"] = scope.into();
            }
            assert_eq!(authorization, None);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), expected);
        }
    }

    #[test]
    fn a_lifetime_is_what_the_server_says_within_bounds() {
        for (expires_in, seconds) in [
            ("60", 60),
            ("59.5", 59),
            (r#""86400""#, 86_400),
            (r#"" 60 ""#, 60),
            ("-5", 1),
            ("0", 1),
            ("1e300", 172_800),
            (r#""1e300""#, 172_800),
            ("null", 300),
            (r#""soon""#, 300),
            (r#""NaN""#, 300),
            (r#""inf""#, 300),
            ("[[]]", 300),
        ] {
            let body = format!(r#"{{"access_token": "t", "expires_in": {expires_in}}}"#);
            assert_eq!(Grant::parse(body.as_bytes()).ok().unwrap().lifetime.as_secs(), seconds, "{body}");
        }
        let unsaid = Grant::parse(br#"{"access_token": "t"}"#).ok().unwrap();
        assert_eq!((unsaid.lifetime.as_secs(), unsaid.renew_after().as_secs()), (300, 240));
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused() {
        let long = "x".repeat(MAX_TOKEN_BYTES + 1);
        for (token, error) in [
            ("", GrantError::Length(0)),
            (long.as_str(), GrantError::Length(MAX_TOKEN_BYTES + 1)),
            ("a\\r\\nb", GrantError::Characters),
            ("gr\u{fc}n", GrantError::Characters),
            ("\\u0000", GrantError::Characters),
        ] {
            let body = format!(r#"{{"access_token": "{token}"}}"#);
            assert_eq!(Grant::parse(body.as_bytes()).err(), Some(error), "{token:.20}");
        }
    }

    #[test]
    fn a_response_without_a_token_is_not_repeated() {
        for body in ["", "hush", "[]", "{}", r#"{"token": "hush"}"#, r#"{"access_token": 7}"#] {
            let error = Grant::parse(body.as_bytes()).err().unwrap();
            assert!(matches!(error, GrantError::Malformed { .. }), "{body}: {error}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let secret = SecretString::from("hush");
        for encoding in [Encoding::Json, Encoding::Form] {
            let TokenRequest { authorization, body, .. } =
                ClientCredentials { id: "id", secret: &secret, scope: None }.token_request(encoding);
            let printed = format!("{authorization:?} {body:?}");
            assert!(!printed.contains("hush") && !printed.contains("Basic"), "{printed}");
        }
        let grant = Grant::parse(br#"{"access_token": "hush"}"#).ok().unwrap();
        let printed = format!("{:?} {:?}", grant.access_token, grant.authorization);
        assert!(!printed.contains("hush"), "{printed}");
    }

    #[test]
    fn a_refusal_is_read_as_far_as_it_says_something() {
        assert_eq!(error_code(br#"{"error": "invalid_client"}"#).as_deref(), Some("invalid_client"));
        for body in ["", "s p", "[]", r#"{"error": 7}"#, "{}"] {
            assert_eq!(error_code(body.as_bytes()), None, "{body}");
        }
    }
}
