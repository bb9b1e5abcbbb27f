//! Why a call to the queue failed: the service's code, who was refused, and what to do about it.

use serde::Deserialize;

use crate::aws::shown;

/// A failed call. It holds no secret and no part of a message.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum QueueError {
    /// There is nothing to sign with.
    #[error("{0}")]
    Credentials(String),
    /// No answer, or none in time.
    #[error(
        "{host} does not answer {action}: {cause}; check the network between the relay and Amazon SQS, and its proxy"
    )]
    Unanswered { host: String, action: &'static str, cause: String },
    /// The service answers with an error.
    #[error("{host} answers {action} with {code}{message} (access key {access_key}); {}", remedy(code))]
    Refused {
        host: String,
        action: &'static str,
        /// The service's code, such as AccessDenied; the HTTP status where there is none.
        code: String,
        /// What the service says, which names the principal where it knows it; with a colon before it, or empty.
        message: String,
        /// The id of the access key that the call was signed with.
        access_key: String,
    },
    /// An answer that is none of this service.
    #[error(
        "{host} answers {action} with what is no answer of Amazon SQS: {cause}; check queueUrl and endpointUrl"
    )]
    Unreadable { host: String, action: &'static str, cause: String },
}

/// What the label `code` of the metric may be: a server cannot make series.
const CODES: [&str; 22] = [
    "AccessDenied",
    "AccessDeniedException",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InternalFailure",
    "InvalidAccessKeyId",
    "InvalidAddress",
    "InvalidClientTokenId",
    "InvalidParameterValue",
    "InvalidSecurity",
    "InvalidSignatureException",
    "KmsAccessDenied",
    "KmsThrottled",
    "OverLimit",
    "QueueDoesNotExist",
    "ReceiptHandleIsInvalid",
    "RequestThrottled",
    "ServiceUnavailable",
    "SignatureDoesNotMatch",
    "ThrottlingException",
    "UnrecognizedClientException",
];

impl QueueError {
    /// The error that a service's answer is.
    pub(super) fn refused(
        host: &str,
        action: &'static str,
        status: u16,
        body: &[u8],
        access_key: &str,
    ) -> Self {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "__type")]
            kind: String,
            #[serde(default, alias = "Message")]
            message: Option<String>,
        }
        // com.amazonaws.sqs#QueueDoesNotExist
        let answer = serde_json::from_slice::<Answer>(body).ok().or_else(|| {
            // Of a call that is not authenticated, some servers answer in the older protocol's XML.
            let (kind, message) = (element(body, "Code")?, element(body, "Message"));
            Some(Answer { kind, message })
        });
        let code = answer.as_ref().map(|answer| answer.kind.rsplit('#').next().unwrap_or_default());
        let code =
            code.filter(|code| !code.is_empty()).map_or_else(|| format!("HTTP status {status}"), shown);
        let message = answer.and_then(|answer| answer.message).filter(|message| !message.is_empty());
        let message = message.map_or_else(String::new, |message| format!(": {}", shown(&message)));
        Self::Refused { host: host.to_owned(), action, code, message, access_key: shown(access_key) }
    }

    /// The failure in the metric's label.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "no-credentials",
            Self::Unanswered { .. } => "unanswered",
            Self::Unreadable { .. } => "unreadable",
            Self::Refused { code, .. } => of_service(code),
        }
    }

    /// Whether other credentials may be what is missing.
    pub(super) fn is_of_credentials(&self) -> bool {
        match self {
            Self::Credentials(_) => true,
            Self::Refused { code, .. } => {
                matches!(kind(code), Kind::UnknownKey | Kind::Signature | Kind::Expired)
            }
            _ => false,
        }
    }
}

/// The text of the first element of this name in XML.
fn element(xml: &[u8], name: &str) -> Option<String> {
    let (_, rest) = str::from_utf8(xml).ok()?.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
}

/// The code of one message of a batch, or of a call, in the metric's label.
pub(super) fn of_service(code: &str) -> &'static str {
    CODES.into_iter().find(|known| *known == code).unwrap_or("other")
}

enum Kind {
    Denied,
    UnknownKey,
    Signature,
    Expired,
    NoQueue,
    Throttled,
    OverLimit,
    Kms,
    Other,
}

fn kind(code: &str) -> Kind {
    match code {
        "AccessDenied" | "AccessDeniedException" => Kind::Denied,
        "InvalidClientTokenId" | "InvalidAccessKeyId" | "UnrecognizedClientException" => Kind::UnknownKey,
        "SignatureDoesNotMatch" | "InvalidSignatureException" | "IncompleteSignature" => Kind::Signature,
        "ExpiredToken" | "ExpiredTokenException" => Kind::Expired,
        "QueueDoesNotExist" | "AWS.SimpleQueueService.NonExistentQueue" | "InvalidAddress" => Kind::NoQueue,
        "RequestThrottled" | "ThrottlingException" | "KmsThrottled" => Kind::Throttled,
        "OverLimit" => Kind::OverLimit,
        "KmsAccessDenied" => Kind::Kms,
        _ => Kind::Other,
    }
}

fn remedy(code: &str) -> &'static str {
    match kind(code) {
        Kind::Denied => {
            "allow the principal sqs:ReceiveMessage, sqs:DeleteMessage and sqs:ChangeMessageVisibility on the queue, in its \
             own policy or, from another account, also in the queue's, and check that no service control policy denies it"
        }
        Kind::UnknownKey => {
            "AWS does not know the access key, or it is inactive; put an active one into the Secret"
        }
        Kind::Signature => {
            "the secret access key does not belong to the id, the region is not the queue's, or the clock of the relay's \
             node is wrong"
        }
        Kind::Expired => {
            "the session is over; check what gives out the credentials, or renew those of the Secret"
        }
        Kind::NoQueue => "check the account, the region and the name in queueUrl",
        Kind::Throttled => "AWS slows the calls down; the relay tries again more slowly",
        Kind::OverLimit => {
            "120,000 messages of the queue are received and not deleted; find the consumer that does not delete them"
        }
        Kind::Kms => "allow the principal kms:Decrypt on the queue's key",
        Kind::Other => "the relay tries again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> QueueError {
        QueueError::refused(
            "sqs.eu-west-1.amazonaws.com",
            "ReceiveMessage",
            403,
            body.as_bytes(),
            "ASIAEXAMPLE",
        )
    }

    #[test]
    fn an_error_names_code_principal_and_remedy() {
        let denied = refused(
            r#"{"__type":"com.amazon.coral.service#AccessDeniedException","message":"User: arn:aws:sts::123456789012:assumed-role/relay/x is not authorized to perform: sqs:receivemessage"}"#,
        );
        assert_eq!(denied.code(), "AccessDeniedException");
        let text = denied.to_string();
        for part in ["AccessDeniedException", "assumed-role/relay", "ASIAEXAMPLE", "sqs:DeleteMessage"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!denied.is_of_credentials());
    }

    #[test]
    fn an_unknown_code_makes_no_series_of_its_own() {
        let own = refused(r#"{"__type":"x#MadeUp","Message":"\u0007no"}"#);
        assert_eq!(own.code(), "other");
        assert!(own.to_string().contains("MadeUp: no (access key"), "{own}");
        let page = refused("<html>");
        assert_eq!((page.code(), page.to_string().contains("HTTP status 403")), ("other", true));
    }

    #[test]
    fn an_error_in_xml_is_read_too() {
        let error = refused(
            "<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>no</Message></Error></ErrorResponse>",
        );
        assert_eq!(error.code(), "InvalidClientTokenId");
        assert!(error.is_of_credentials() && error.to_string().contains(": no (access key"), "{error}");
    }

    #[test]
    fn a_wrong_key_asks_for_other_credentials() {
        for code in ["InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken"] {
            let error = refused(&format!(r#"{{"__type":"com.amazonaws.sqs#{code}"}}"#));
            assert!(error.is_of_credentials(), "{error}");
        }
    }
}
