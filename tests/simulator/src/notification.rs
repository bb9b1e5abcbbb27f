//! Notifications about simulated agents, and the envelope that Amazon EventBridge wraps around each. Everything but the
//! times is derived from the seed, so that a run can be repeated with the same ids.
//!
//! The shapes are those of Genesys Cloud's SDK and of an envelope that was received from a real queue.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::{Uuid, uuid};

use crate::integrations::EventBridgeProperties;
use crate::moment::Moment;
use crate::presence_definitions::{PRESENCE_DEFINITIONS, PresenceDefinition};

/// A change of an agent's presence; the literal `{id}` stands for every agent.
pub const PRESENCE: &str = "v2.users.{id}.presence";
/// A change of an agent's routing status. One in 16 is an error instead of a state.
pub const ROUTING_STATUS: &str = "v2.users.{id}.routingStatus";
/// Presence, routing status, queues and absence of an agent in one.
pub const ACTIVITY: &str = "v2.users.{id}.activity";

const ROUTING_STATUSES: [&str; 6] =
    ["OFF_QUEUE", "IDLE", "INTERACTING", "NOT_RESPONDING", "COMMUNICATING", "EMPTY"];

/// Quotes, a backslash, letters beyond ASCII: a record's value must have the same bytes.
const MESSAGES: [&str; 4] = ["", "Back at 2 pm", "Zurück um 14:00, \"vielleicht\"", "C:\\lunch \u{1f355}"];

const QUEUE: Uuid = uuid!("30000000-0000-4000-8000-000000000001");

/// A notification of one topic about one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Distinct for each notification of a seed.
    pub id: Uuid,
    /// The agent.
    pub user_id: Uuid,
    /// The topic with the literal `{id}`, which an envelope has as its `detail-type`.
    pub topic: String,
    /// The envelope's `detail`, a JSON object as text.
    pub detail: String,
    /// When it was made.
    pub at: Moment,
}

/// Generates the notifications of one run.
#[derive(Clone, Debug)]
pub struct NotificationGenerator {
    seed: u64,
    agents: u32,
}

impl NotificationGenerator {
    /// Notifications about so many agents, derived from `seed`. No agents count as one.
    #[must_use]
    pub fn new(seed: u64, agents: u32) -> Self {
        Self { seed, agents: agents.max(1) }
    }

    /// The id of that agent, counted from 0.
    #[must_use]
    pub fn agent(&self, number: u32) -> Uuid {
        random_uuid(&self.roll("agent", number.into()))
    }

    /// The notification of that index: the agents take turns. A topic other than the constants of this module has a body
    /// with the agent's id only.
    #[must_use]
    pub fn notification(&self, index: u64, topic: &str, at: Moment) -> Notification {
        let dice = self.roll("notification", index);
        let number = u32::try_from(index % u64::from(self.agents)).unwrap_or_default();
        let user_id = self.agent(number);
        let body = match topic {
            PRESENCE => presence(&dice, at),
            ROUTING_STATUS => routing_status(&dice, user_id, at),
            ACTIVITY => activity(&dice, user_id, at),
            _ => json!({ "id": user_id }),
        };
        let detail = json!({
            "topicName": topic.replace("{id}", &user_id.to_string()),
            "version": "2",
            "eventBody": body,
            "metadata": {"CorrelationId": random_uuid(&self.roll("correlation", index))},
            "timestamp": at,
        });
        Notification {
            id: random_uuid(&dice),
            user_id,
            topic: topic.to_owned(),
            detail: detail.to_string(),
            at,
        }
    }

    fn roll(&self, what: &str, index: u64) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.seed.to_be_bytes())
            .chain_update(what)
            .chain_update(index.to_be_bytes())
            .finalize()
            .into()
    }
}

fn random_uuid(dice: &[u8; 32]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&dice[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn pick<T: Copy>(die: u8, choices: &[T]) -> T {
    choices[usize::from(die) % choices.len()]
}

fn reference(definition: PresenceDefinition) -> Value {
    json!({"id": definition.id, "systemPresence": definition.system_presence})
}

/// Half of them name a future presence, too.
fn presence(dice: &[u8; 32], at: Moment) -> Value {
    let mut body = json!({
        "source": "PURECLOUD",
        "presenceDefinition": reference(pick(dice[16], &PRESENCE_DEFINITIONS)),
        "primary": true,
        "message": pick(dice[17], &MESSAGES),
        "modifiedDate": at,
    });
    if dice[18].is_multiple_of(2) {
        body["futurePresenceDefinition"] = reference(pick(dice[19], &PRESENCE_DEFINITIONS));
    }
    body
}

fn routing_status(dice: &[u8; 32], user_id: Uuid, at: Moment) -> Value {
    let status = pick(dice[16], &ROUTING_STATUSES);
    let mut body = json!({"id": user_id, "routingStatus": {"status": status, "startTime": at}});
    if dice[17].is_multiple_of(16) {
        body["errorInfo"] = json!({
            "errorCode": "general.error",
            "status": "500",
            "correlationId": random_uuid(dice),
            "userMessage": "The routing status could not be changed",
            "userParamsMessage": "The routing status could not be changed to {status}",
            "userParams": [{"key": "status", "value": status}],
        });
    }
    body
}

fn activity(dice: &[u8; 32], user_id: Uuid, at: Moment) -> Value {
    json!({
        "id": user_id,
        "routingStatus": {"status": pick(dice[16], &ROUTING_STATUSES), "startTime": at},
        "presence": {
            "presenceDefinition": reference(pick(dice[17], &PRESENCE_DEFINITIONS)),
            "presenceMessage": pick(dice[18], &MESSAGES),
            "modifiedDate": at,
        },
        "outOfOffice": {"active": dice[19].is_multiple_of(8), "modifiedDate": at},
        "activeQueueIds": [QUEUE],
        "dateActiveQueuesChanged": at,
    })
}

/// The envelope of a notification of that integration: what a queue or an API destination receives. `detail` is in it
/// byte for byte.
#[must_use]
pub fn envelope(
    notification: &Notification,
    event_source: &str,
    properties: &EventBridgeProperties,
) -> String {
    // Amazon EventBridge's own time has whole seconds.
    let time = format!("{:.19}Z", notification.at.to_string());
    let head = json!({
        "version": "0",
        "id": envelope_id(notification, event_source),
        "detail-type": notification.topic,
        "source": event_source,
        "account": properties.aws_account_id,
        "time": time,
        "region": properties.aws_account_region,
        "resources": [],
    });
    let mut text = head.to_string();
    // In the place of the closing brace.
    text.pop();
    text.push_str(",\"detail\":");
    text.push_str(&notification.detail);
    text.push('}');
    text
}

/// The id of the envelope: each integration sends an event of its own.
#[must_use]
pub fn envelope_id(notification: &Notification, event_source: &str) -> Uuid {
    Uuid::from_u128(notification.id.as_u128() ^ fold(event_source))
}

/// The text's SHA-256 in the bits that a version 4 UUID leaves free.
fn fold(text: &str) -> u128 {
    const FREE: u128 = !0x0000_0000_0000_f000_c000_0000_0000_0000;
    let digest: [u8; 32] = Sha256::digest(text).into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(bytes) & FREE
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const AGENTS: u32 = 5;

    fn body(notification: &Notification) -> Value {
        serde_json::from_str::<Value>(&notification.detail).unwrap()["eventBody"].clone()
    }

    fn bodies(topic: &str) -> Vec<Value> {
        let generator = NotificationGenerator::new(7, AGENTS);
        (0..200).map(|index| body(&generator.notification(index, topic, Moment::now()))).collect()
    }

    #[test]
    fn a_seed_gives_the_same_notifications_again() {
        let at = Moment::now();
        let once = NotificationGenerator::new(7, AGENTS).notification(3, PRESENCE, at);
        assert_eq!(once, NotificationGenerator::new(7, AGENTS).notification(3, PRESENCE, at));
        assert_ne!(once.id, NotificationGenerator::new(8, AGENTS).notification(3, PRESENCE, at).id);
    }

    #[test]
    fn the_agents_take_turns() {
        let generator = NotificationGenerator::new(7, AGENTS);
        let agents: Vec<_> =
            (0..10).map(|index| generator.notification(index, PRESENCE, Moment::now()).user_id).collect();
        assert_eq!(agents[..5], agents[5..]);
        assert_eq!(agents.iter().collect::<HashSet<_>>().len(), 5);
        assert_eq!(agents[2], generator.agent(2));
    }

    #[test]
    fn a_presence_comes_with_and_without_a_future_one() {
        let bodies = bodies(PRESENCE);
        let with = bodies.iter().filter(|body| body.get("futurePresenceDefinition").is_some()).count();
        assert!((1..bodies.len()).contains(&with), "{with}");
        for body in &bodies {
            assert!(body["presenceDefinition"]["id"].is_string() && body["modifiedDate"].is_string());
            assert!(body.get("userId").is_none());
        }
    }

    #[test]
    fn some_routing_statuses_are_errors() {
        let bodies = bodies(ROUTING_STATUS);
        let errors = bodies.iter().filter(|body| body.get("errorInfo").is_some()).count();
        assert!((1..bodies.len() / 2).contains(&errors), "{errors}");
        assert!(bodies.iter().all(|body| body["routingStatus"]["startTime"].is_string()));
    }

    #[test]
    fn an_activity_calls_the_message_by_its_own_name() {
        for body in bodies(ACTIVITY) {
            assert!(
                body["presence"]["presenceMessage"].is_string() && body["presence"].get("message").is_none()
            );
        }
    }

    #[test]
    fn an_envelope_holds_the_detail_byte_for_byte() {
        let properties = EventBridgeProperties {
            event_source_suffix: "a".to_owned(),
            aws_account_id: "123456789012".to_owned(),
            aws_account_region: "eu-west-1".to_owned(),
            event_filter: vec![PRESENCE.to_owned()],
        };
        let generator = NotificationGenerator::new(7, AGENTS);
        let notification = generator.notification(0, PRESENCE, Moment::now());
        let source = "aws.partner/genesys.com/cloud/org/a";
        let text = envelope(&notification, source, &properties);
        assert!(text.ends_with(&format!("\"detail\":{}}}", notification.detail)));
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["detail-type"], PRESENCE);
        assert_eq!(parsed["source"], source);
        assert_eq!(parsed["account"], "123456789012");
        let time = parsed["time"].as_str().unwrap();
        assert_eq!((time.len(), &time[19..]), (20, "Z"), "{time}");
        let topic = parsed["detail"]["topicName"].as_str().unwrap();
        assert_eq!(topic, format!("v2.users.{}.presence", notification.user_id));
    }

    #[test]
    fn two_integrations_send_an_event_each() {
        let notification = NotificationGenerator::new(7, AGENTS).notification(0, PRESENCE, Moment::now());
        let of = |source: &str| envelope_id(&notification, source);
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a").get_version_num(), 4);
    }
}
