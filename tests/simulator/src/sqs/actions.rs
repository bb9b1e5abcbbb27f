//! What each action does, with the service's bounds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Service;
use super::faults::FailedEntry;
use super::protocol::SqsError;
use super::queue::{Queue, Receive, Received, Refusal, md5_of};

const MOST_ENTRIES: usize = 10;
const LONGEST_POLL_SECONDS: u64 = 20;
const LONGEST_VISIBILITY_SECONDS: u64 = 43_200;
const LONGEST_DELAY_SECONDS: u64 = 900;

/// The bytes of a message, and of all messages of a batch.
const LARGEST_MESSAGE: usize = 1_048_576;

/// The characters of an entry's id.
const LONGEST_ENTRY_ID: usize = 80;

/// Performs an action for a client that knows the server by `origin`; `failed_entry` is how the first entry of a batch fails.
pub(super) async fn perform(
    service: &Service,
    origin: &str,
    action: &str,
    parameters: &Value,
    failed_entry: Option<FailedEntry>,
) -> Result<Value, SqsError> {
    if action == "GetQueueUrl" {
        let name = text(parameters, "QueueName")?;
        return match service.queues.get(name) {
            Some(_) => Ok(json!({"QueueUrl": super::queue_url(origin, name)})),
            None => Err(missing_queue()),
        };
    }
    let queue = service.by_url(text(parameters, "QueueUrl")?).ok_or_else(missing_queue)?;
    match action {
        "SendMessage" => send(queue, parameters),
        "ReceiveMessage" => receive(service, queue, parameters).await,
        "DeleteMessage" => delete(queue, parameters),
        "ChangeMessageVisibility" => change_visibility(queue, parameters),
        "GetQueueAttributes" => Ok(attributes(queue, parameters)),
        "SendMessageBatch" => {
            let entries = entries(parameters)?;
            let bytes: usize = entries.iter().map(|entry| body_length(entry)).sum();
            if bytes > LARGEST_MESSAGE {
                return Err(SqsError::new(
                    "BatchRequestTooLong",
                    format!("the messages have {bytes} bytes, more than {LARGEST_MESSAGE}"),
                ));
            }
            Ok(batch(&entries, failed_entry, |entry| send(queue, entry)))
        }
        "DeleteMessageBatch" => Ok(batch(&entries(parameters)?, failed_entry, |entry| delete(queue, entry))),
        "ChangeMessageVisibilityBatch" => {
            Ok(batch(&entries(parameters)?, failed_entry, |entry| change_visibility(queue, entry)))
        }
        _ => Err(SqsError::new("UnsupportedOperation", format!("there is no action {action:?} here"))),
    }
}

fn missing_queue() -> SqsError {
    SqsError::new("QueueDoesNotExist", "The specified queue does not exist.")
}

impl From<Refusal> for SqsError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::OverLimit => Self::new("OverLimit", "the queue takes no more"),
            Refusal::InvalidReceiptHandle => {
                Self::new("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
            }
            Refusal::NotInFlight => Self::new("MessageNotInflight", "the message is not in flight"),
        }
    }
}

fn text<'a>(parameters: &'a Value, name: &str) -> Result<&'a str, SqsError> {
    parameters.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or_else(|| {
        SqsError::new("MissingParameter", format!("The request must contain the parameter {name}."))
    })
}

/// A whole number within bounds; `None` where it is left out.
fn number(parameters: &Value, name: &str, least: u64, most: u64) -> Result<Option<u64>, SqsError> {
    match parameters.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .filter(|number| (least..=most).contains(number))
            .map(Some)
            .ok_or_else(|| SqsError::invalid(format!("{name} must be {least} to {most}, not {value}"))),
    }
}

fn seconds(parameters: &Value, name: &str, most: u64) -> Result<Option<Duration>, SqsError> {
    Ok(number(parameters, name, 0, most)?.map(Duration::from_secs))
}

/// The entries of a batch: 1 to 10, each with an id of its own.
fn entries(parameters: &Value) -> Result<Vec<&Value>, SqsError> {
    let entries: Vec<_> = parameters.get("Entries").and_then(Value::as_array).into_iter().flatten().collect();
    if entries.is_empty() {
        return Err(SqsError::new("EmptyBatchRequest", "there is no entry in the request"));
    }
    if entries.len() > MOST_ENTRIES {
        return Err(SqsError::new(
            "TooManyEntriesInBatchRequest",
            format!(
                "Maximum number of entries per request are {MOST_ENTRIES}. You have sent {}.",
                entries.len()
            ),
        ));
    }
    let mut ids = HashSet::new();
    for entry in &entries {
        let id = text(entry, "Id")?;
        if id.len() > LONGEST_ENTRY_ID
            || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        {
            return Err(SqsError::new(
                "InvalidBatchEntryId",
                "an id has 1 to 80 letters, digits, hyphens and underscores",
            ));
        }
        if !ids.insert(id) {
            return Err(SqsError::new("BatchEntryIdsNotDistinct", format!("Id {id} repeated.")));
        }
    }
    Ok(entries)
}

/// Does the entries one by one; each succeeds or fails for itself.
fn batch(
    entries: &[&Value],
    failed_entry: Option<FailedEntry>,
    mut perform: impl FnMut(&Value) -> Result<Value, SqsError>,
) -> Value {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    let mut fault = failed_entry;
    for entry in entries {
        let id = entry.get("Id").and_then(Value::as_str).unwrap_or_default();
        let result = match fault.take() {
            Some(FailedEntry { code, sender_fault }) => {
                let status = if sender_fault { 400 } else { 500 };
                Err(SqsError::requested(status, code, "a fault that was asked for".to_owned()))
            }
            None => perform(entry),
        };
        match result {
            Ok(mut done) => {
                done["Id"] = json!(id);
                successful.push(done);
            }
            Err(error) => failed.push(error.entry(id)),
        }
    }
    json!({"Successful": successful, "Failed": failed})
}

fn body_length(entry: &Value) -> usize {
    entry.get("MessageBody").and_then(Value::as_str).map_or(0, str::len)
}

fn send(queue: &Queue, parameters: &Value) -> Result<Value, SqsError> {
    let body = text(parameters, "MessageBody")?;
    if parameters.get("MessageAttributes").and_then(Value::as_object).is_some_and(|all| !all.is_empty()) {
        return Err(SqsError::new("UnsupportedOperation", "there are no message attributes here"));
    }
    if body.len() > LARGEST_MESSAGE {
        return Err(SqsError::invalid(format!(
            "One or more parameters are invalid. Reason: Message must be shorter than {LARGEST_MESSAGE} bytes."
        )));
    }
    if body.chars().any(is_forbidden) {
        return Err(SqsError::new(
            "InvalidMessageContents",
            "Invalid characters found: a body has the characters of XML 1.0 only",
        ));
    }
    let delay = seconds(parameters, "DelaySeconds", LONGEST_DELAY_SECONDS)?.unwrap_or_default();
    let id = queue.send(body.to_owned(), delay)?;
    Ok(json!({"MessageId": id, "MD5OfMessageBody": md5_of(body)}))
}

/// Whether Amazon SQS refuses the character.
fn is_forbidden(character: char) -> bool {
    !matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

async fn receive(service: &Service, queue: &Arc<Queue>, parameters: &Value) -> Result<Value, SqsError> {
    let most = number(parameters, "MaxNumberOfMessages", 1, MOST_ENTRIES as u64)?.unwrap_or(1);
    let receive = Receive {
        most: usize::try_from(most).unwrap_or(MOST_ENTRIES),
        wait: seconds(parameters, "WaitTimeSeconds", LONGEST_POLL_SECONDS)?.unwrap_or_default(),
        visibility_timeout: seconds(parameters, "VisibilityTimeout", LONGEST_VISIBILITY_SECONDS)?,
    };
    let wanted = Wanted::read(parameters);
    let dead_letters = service.dead_letter_queue(queue).map(Arc::as_ref);
    let messages = queue.receive(receive, dead_letters).await?;
    if messages.is_empty() {
        // As the service does it: no list rather than an empty one.
        return Ok(json!({}));
    }
    Ok(json!({"Messages": messages.iter().map(|message| wanted.message(message)).collect::<Vec<_>>()}))
}

/// The names of the attributes that a call asks for, under either of their parameters.
struct Wanted<'a>(Vec<&'a str>);

impl<'a> Wanted<'a> {
    fn read(parameters: &'a Value) -> Self {
        let names = ["AttributeNames", "MessageSystemAttributeNames"]
            .into_iter()
            .filter_map(|parameter| parameters.get(parameter)?.as_array())
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        Self(names)
    }

    /// Those of the attributes that are asked for.
    fn of(&self, attributes: impl IntoIterator<Item = (&'static str, String)>) -> Map<String, Value> {
        attributes
            .into_iter()
            .filter(|(name, _)| self.0.iter().any(|wanted| wanted == name || *wanted == "All"))
            .map(|(name, value)| (name.to_owned(), Value::String(value)))
            .collect()
    }

    fn message(&self, message: &Received) -> Value {
        let attributes = self.of([
            ("SenderId", super::ACCOUNT.to_owned()),
            ("SentTimestamp", message.sent.as_milliseconds().to_string()),
            ("ApproximateReceiveCount", message.receive_count.to_string()),
            ("ApproximateFirstReceiveTimestamp", message.first_received.as_milliseconds().to_string()),
        ]);
        let mut shown = json!({
            "MessageId": message.id,
            "ReceiptHandle": message.receipt_handle,
            "MD5OfBody": message.md5,
            "Body": message.body,
        });
        if !attributes.is_empty() {
            shown["Attributes"] = Value::Object(attributes);
        }
        shown
    }
}

fn delete(queue: &Queue, parameters: &Value) -> Result<Value, SqsError> {
    queue.delete(text(parameters, "ReceiptHandle")?)?;
    Ok(json!({}))
}

fn change_visibility(queue: &Queue, parameters: &Value) -> Result<Value, SqsError> {
    let handle = text(parameters, "ReceiptHandle")?;
    let timeout = seconds(parameters, "VisibilityTimeout", LONGEST_VISIBILITY_SECONDS)?.ok_or_else(|| {
        SqsError::new("MissingParameter", "The request must contain the parameter VisibilityTimeout.")
    })?;
    queue.change_visibility(handle, timeout)?;
    Ok(json!({}))
}

fn attributes(queue: &Queue, parameters: &Value) -> Value {
    let counts = queue.counts();
    let mut all = vec![
        ("QueueArn", queue.arn()),
        ("ApproximateNumberOfMessages", counts.visible.to_string()),
        ("ApproximateNumberOfMessagesNotVisible", counts.in_flight.to_string()),
        ("ApproximateNumberOfMessagesDelayed", counts.delayed.to_string()),
        ("VisibilityTimeout", queue.visibility_timeout().as_secs().to_string()),
        ("MaximumMessageSize", LARGEST_MESSAGE.to_string()),
        ("DelaySeconds", "0".to_owned()),
        ("ReceiveMessageWaitTimeSeconds", "0".to_owned()),
    ];
    all.extend(queue.redrive_policy().map(|policy| ("RedrivePolicy", policy)));
    json!({ "Attributes": Wanted::read(parameters).of(all) })
}
