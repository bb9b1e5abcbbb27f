//! The URL of an Amazon SQS queue: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-queue-message-identifiers.html>.

use url::Url;

/// What the URL says of its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueUrl {
    /// The account, 12 digits.
    pub(super) account_id: String,
    /// The name, 1 to 80 characters.
    pub(super) name: String,
    /// The region, where the host is one of AWS.
    pub(super) region: Option<String>,
}

/// Why a URL is not a queue's.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum QueueUrlError {
    #[error("it cannot be read: {0}")]
    Url(#[from] url::ParseError),
    #[error("its path must be /ACCOUNT/NAME, with the account's 12 digits")]
    Path,
    #[error("the queue's name must have 1 to 80 letters, digits, hyphens and underscores")]
    Name,
}

impl QueueUrl {
    /// Reads a URL, such as `https://sqs.eu-west-1.amazonaws.com/123456789012/presence`.
    pub(super) fn parse(text: &str) -> Result<Self, QueueUrlError> {
        let url = Url::parse(text)?;
        let mut segments = url.path_segments().ok_or(QueueUrlError::Path)?;
        let (Some(account_id), Some(name), None) = (segments.next(), segments.next(), segments.next()) else {
            return Err(QueueUrlError::Path);
        };
        if account_id.len() != 12 || !account_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(QueueUrlError::Path);
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 80 || !name.bytes().all(is_name) {
            return Err(QueueUrlError::Name);
        }
        let region = url.host_str().filter(|host| is_of_aws(host)).and_then(region_in);
        Ok(Self { account_id: account_id.to_owned(), name: name.to_owned(), region })
    }
}

fn is_of_aws(host: &str) -> bool {
    ["amazonaws.com", "amazonaws.com.cn", "amazonaws.eu", "api.aws"]
        .iter()
        .any(|domain| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
}

/// The part of a host name that is a region: of `sqs.REGION…`, of `REGION.queue…` and of a VPC endpoint's name.
fn region_in(host: &str) -> Option<String> {
    host.split('.').find(|label| is_region(label)).map(str::to_owned)
}

fn is_region(label: &str) -> bool {
    let parts: Vec<&str> = label.split('-').collect();
    let [first, between @ .., last] = parts.as_slice() else { return false };
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    (first.len() == 2 || *first == "eusc")
        && is_word(first)
        && !between.is_empty()
        && between.iter().all(is_word)
        && last.len() == 1
        && last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(host: &str) -> Option<String> {
        QueueUrl::parse(&format!("https://{host}/123456789012/presence")).unwrap().region
    }

    #[test]
    fn a_queue_url_has_account_name_and_region() {
        let parsed = QueueUrl::parse("https://sqs.eu-west-1.amazonaws.com/123456789012/presence").unwrap();
        let expected = QueueUrl {
            account_id: "123456789012".into(),
            name: "presence".into(),
            region: Some("eu-west-1".into()),
        };
        assert_eq!(parsed, expected);
        for host in [
            "us-gov-west-1.queue.amazonaws.com",
            "sqs-fips.us-gov-west-1.amazonaws.com",
            "sqs.us-gov-west-1.api.aws",
            "vpce-0a1b2c3d-4e5f.sqs.us-gov-west-1.vpce.amazonaws.com",
        ] {
            assert_eq!(region(host).as_deref(), Some("us-gov-west-1"), "{host}");
        }
        assert_eq!(region("sqs.eusc-de-east-1.amazonaws.eu").as_deref(), Some("eusc-de-east-1"));
        assert_eq!(region("127.0.0.1:9324"), None);
        assert_eq!(region("sqs.eu-west-1.example.com"), None);
    }

    #[test]
    fn a_url_that_is_not_a_queues_is_refused() {
        for (url, error) in [
            ("https://sqs.eu-west-1.amazonaws.com/presence", QueueUrlError::Path),
            ("https://sqs.eu-west-1.amazonaws.com/1234/presence", QueueUrlError::Path),
            ("https://sqs.eu-west-1.amazonaws.com/queue/presence", QueueUrlError::Path),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/a/b", QueueUrlError::Path),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/a.b", QueueUrlError::Name),
            ("https://sqs.eu-west-1.amazonaws.com/123456789012/", QueueUrlError::Name),
        ] {
            assert_eq!(QueueUrl::parse(url), Err(error), "{url}");
        }
        assert!(matches!(QueueUrl::parse("presence"), Err(QueueUrlError::Url(_))));
    }
}
