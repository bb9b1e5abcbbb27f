//! The requests of a run, made and signed before it begins, so that the generator has little to do during it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What the events of a run look like.
pub(crate) struct Shape<'a> {
    /// Where they are sent.
    pub(crate) host: &'a str,
    /// The path they are posted to.
    pub(crate) path: &'a str,
    /// What signs them.
    pub(crate) secret: &'a str,
    /// Their types, taken in turn.
    pub(crate) event_types: &'a [String],
    /// Bytes of a body.
    pub(crate) body_bytes: usize,
    /// What makes the ids of this run differ from those of any other.
    pub(crate) run: &'a str,
}

/// Requests, whole, one behind the other.
pub(crate) struct Requests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Requests {
    /// Makes `count` requests of which no two have the same body.
    pub(crate) fn make(shape: &Shape<'_>, count: usize) -> Self {
        let mut requests = Self {
            bytes: Vec::with_capacity(count * (shape.body_bytes + 256)),
            ends: Vec::with_capacity(count),
        };
        for number in 0..count {
            let body = body(shape, number);
            let head = format!(
                "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 X-Genesys-Event-Signature: {}\r\n\r\n",
                shape.path,
                shape.host,
                body.len(),
                signature(shape.secret, body.as_bytes())
            );
            requests.bytes.extend_from_slice(head.as_bytes());
            requests.bytes.extend_from_slice(body.as_bytes());
            requests.ends.push(requests.bytes.len());
        }
        requests
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.ends.len()
    }

    /// One of them.
    pub(crate) fn get(&self, number: usize) -> &[u8] {
        let begin = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[number]]
    }
}

fn body(shape: &Shape<'_>, number: usize) -> String {
    let event_type = &shape.event_types[number % shape.event_types.len()];
    let begin = format!(
        r#"{{"id":"{run}-{number:09}","eventType":"{event_type}","timestamp":{timestamp},"source":"genesys-cloud","attributes":{{"userId":"{user:08x}-1111-4222-8333-444455556666","presence":"AVAILABLE","previousPresence":"AWAY","routingStatus":"IDLE","organizationId":"9c5a7a5e-6e1b-4a0e-9d0a-5b7d0c7f2a11","notes":""#,
        run = shape.run,
        timestamp = 1_700_000_000_000_u64 + number as u64,
        user = number % 5_000,
    );
    let end = r#""}}"#;
    let padding = shape.body_bytes.saturating_sub(begin.len() + end.len());
    // Not one letter over and over, which compression would make nothing of.
    let filling =
        "On a call with customer; follow-up at noon. ".chars().cycle().take(padding).collect::<String>();
    begin + &filling + end
}

fn signature(secret: &str, body: &[u8]) -> String {
    // HMAC takes a key of any length.
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    hex::encode(mac.chain_update(body).finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_another_event_of_the_asked_size() {
        let types = ["a".to_owned(), "b".to_owned()];
        let shape = Shape {
            host: "127.0.0.1:1",
            path: "/p",
            secret: "s",
            event_types: &types,
            body_bytes: 600,
            run: "r",
        };
        let requests = Requests::make(&shape, 3);
        let bodies: Vec<&str> = (0..requests.count())
            .map(|number| str::from_utf8(requests.get(number)).unwrap().split_once("\r\n\r\n").unwrap().1)
            .collect();
        for (number, body) in bodies.iter().enumerate() {
            let event: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body.len(), 600);
            assert_eq!(event["id"], format!("r-{number:09}"));
            assert_eq!(event["eventType"], types[number % 2]);
        }
    }
}
