//! A relay's report within bounds: the texts and lists of a pod's answer end up in conditions and logs, so none of them
//! is longer than a relay makes it, and none holds a control character.
//!
//! The size of the answer as a whole is bounded by the client that reads it.

use std::mem::take;

use presenceroute_core::relay_status::RelayStatus;

/// The bytes of a revision, a version, a log level or a time.
const MAX_NAME: usize = 64;
/// The bytes of an error.
const MAX_ERROR: usize = 256;
/// The number of topics in a list, and the bytes of each, which is the longest name that Kafka takes.
pub(super) const MAX_TOPICS: usize = 100;
const MAX_TOPIC: usize = 249;
/// The number of active secrets: more than a few are of many rotations at once.
const MAX_SECRETS: usize = 32;

/// The same report with every text and list cut to its bound.
pub(super) fn bounded(mut report: RelayStatus) -> RelayStatus {
    let RelayStatus {
        version,
        routing,
        secrets,
        tls,
        queue,
        kafka,
        missing_topics,
        forbidden_topics,
        log_level,
        ..
    } = &mut report;
    for name in [version, &mut routing.revision].into_iter().chain(&mut secrets.revision).chain(log_level) {
        bound(name, MAX_NAME);
    }
    let of_kafka = [&mut kafka.error, &mut kafka.throttled];
    for error in [&mut routing.error, &mut secrets.error].into_iter().chain(of_kafka).flatten() {
        bound(error, MAX_ERROR);
    }
    if let Some(tls) = tls {
        tls.expires.iter_mut().for_each(|time| bound(time, MAX_NAME));
        tls.error.iter_mut().for_each(|error| bound(error, MAX_ERROR));
    }
    if let Some(queue) = queue {
        queue.error.iter_mut().for_each(|error| bound(error, MAX_ERROR));
        queue.last_received.iter_mut().for_each(|time| bound(time, MAX_NAME));
    }
    secrets.used = take(&mut secrets.used)
        .into_iter()
        .take(MAX_SECRETS)
        .map(|(mut name, used)| {
            bound(&mut name, MAX_NAME);
            (name, used)
        })
        .collect();
    for topics in [missing_topics, forbidden_topics] {
        // A new list, because a list that is cut short keeps its memory.
        *topics = take(topics).into_iter().take(MAX_TOPICS).collect();
        topics.shrink_to_fit();
        topics.iter_mut().for_each(|topic| bound(topic, MAX_TOPIC));
    }
    report
}

/// Strips what a terminal or a page would obey instead of show, and cuts the rest to so many bytes.
fn bound(text: &mut String, max_bytes: usize) {
    let mut length = 0;
    let shown = text.chars().filter(|char| !is_invisible(*char));
    *text = shown
        .take_while(|char| {
            length += char.len_utf8();
            length <= max_bytes
        })
        .collect();
}

/// Control characters, line separators, and the marks that change the direction of text or have no width.
fn is_invisible(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use presenceroute_core::relay_status::{
        KafkaReport, QueueReport, RoutingReport, SecretsReport, TlsReport,
    };

    use super::*;

    fn report(text: &str, topics: usize) -> RelayStatus {
        let text = || text.to_owned();
        RelayStatus {
            version: text(),
            routing: RoutingReport { revision: text(), routes: 1, error: Some(text()) },
            secrets: SecretsReport {
                revision: Some(text()),
                active: 1,
                used: (0..topics.min(100)).map(|number| (format!("{number}{}", text()), 1)).collect(),
                error: Some(text()),
            },
            tls: Some(TlsReport { expires: Some(text()), error: Some(text()) }),
            queue: Some(QueueReport {
                error: Some(text()),
                last_received: Some(text()),
                ..QueueReport::default()
            }),
            kafka: KafkaReport { reachable: true, error: Some(text()), throttled: Some(text()) },
            missing_topics: vec![text(); topics],
            forbidden_topics: vec![text(); topics],
            log_level: Some(text()),
            ..RelayStatus::default()
        }
    }

    #[test]
    fn the_report_of_a_relay_stays_as_it_is() {
        let honest = report("9f86d081884c7d659a2feaa0c55ad015", 3);
        assert_eq!(bounded(honest.clone()), honest);
    }

    #[test]
    fn every_text_and_list_is_cut_to_its_bound() {
        let bounded = bounded(report(&"é".repeat(10_000), 100_000));
        let json = serde_json::to_string(&bounded).unwrap();
        let secrets = MAX_SECRETS * (MAX_NAME + 5);
        assert!(
            json.len() < 2 * MAX_TOPICS * (MAX_TOPIC + 3) + 6 * MAX_ERROR + 6 * MAX_NAME + secrets + 1000
        );
        assert_eq!(bounded.secrets.used.len(), MAX_SECRETS);
        assert_eq!(bounded.missing_topics.len(), MAX_TOPICS);
        assert_eq!(bounded.missing_topics[0], "é".repeat(MAX_TOPIC / 2));
        assert!(bounded.forbidden_topics.capacity() <= MAX_TOPICS);
    }

    #[test]
    fn no_text_keeps_a_character_that_is_obeyed_instead_of_shown() {
        let bounded = bounded(report("\u{1b}[2J\u{202e}red\r\n\u{85}\u{2028}\u{200b}text\0", 1));
        assert_eq!(bounded, report("[2Jredtext", 1));
    }
}
