//! What relays have counted: events by topic, and answers by their reason.

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// The counters of one relay, or the sum of several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Events that were acknowledged, by topic.
    pub(crate) published: BTreeMap<String, f64>,
    /// Requests, by the code and the reason of their answers.
    pub(crate) answers: BTreeMap<(String, String), f64>,
}

impl Counters {
    /// Takes the counters out of a relay's `/metrics`; what else is there is left alone.
    pub(crate) fn parse(metrics: &str) -> Self {
        let mut counters = Self::default();
        for (name, labels, value) in metrics.lines().filter_map(sample) {
            let label = |name| labels.get(name).cloned().unwrap_or_default();
            match name {
                "presenceroute_relay_events_published_total" => {
                    counters.published.insert(label("topic"), value);
                }
                "presenceroute_relay_requests_total" if value > 0.0 => {
                    counters.answers.insert((label("code"), label("reason")), value);
                }
                _ => {}
            }
        }
        counters
    }

    /// What has been counted since `earlier`. A counter that is lower now has begun anew.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            published: difference(&self.published, &earlier.published),
            answers: difference(&self.answers, &earlier.answers),
        }
    }
}

fn difference<K: Ord + Clone>(now: &BTreeMap<K, f64>, earlier: &BTreeMap<K, f64>) -> BTreeMap<K, f64> {
    let since = |key: &K, value: f64| match earlier.get(key) {
        Some(before) if *before <= value => value - before,
        _ => value,
    };
    now.iter().map(|(key, value)| (key.clone(), since(key, *value))).collect()
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        for (topic, value) in other.published {
            *self.published.entry(topic).or_default() += value;
        }
        for (answer, value) in other.answers {
            *self.answers.entry(answer).or_default() += value;
        }
    }
}

/// One line of the OpenMetrics text format: `NAME{LABEL="VALUE",...} NUMBER`.
fn sample(line: &str) -> Option<(&str, BTreeMap<&str, String>, f64)> {
    let (name, mut rest) = line.split_once('{')?;
    let mut labels = BTreeMap::new();
    while !rest.starts_with('}') {
        let (label, quoted) = rest.split_once("=\"")?;
        let (value, behind) = unquote(quoted)?;
        labels.insert(label.trim_start_matches(','), value);
        rest = behind;
    }
    let value = rest.strip_prefix('}')?.split_whitespace().next()?.parse().ok()?;
    Some((name, labels, value))
}

/// The text before the next quotation mark that is none of its own, and what is behind it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()? {
                (_, 'n') => value.push('\n'),
                (_, other) => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP presenceroute_relay_requests Requests by how they were answered.
# TYPE presenceroute_relay_requests counter
presenceroute_relay_requests_total{code="200",reason="processed"} 7
presenceroute_relay_requests_total{code="403",reason="signature-mismatch"} 0
presenceroute_relay_events_published_total{topic="gen-presence-state"} 5
presenceroute_relay_events_published_total{topic="a\"b,c=\\"} 2 # {} 1
presenceroute_relay_kafka_reachable 1
"#;

    fn published(counters: &Counters) -> Vec<(&str, f64)> {
        counters.published.iter().map(|(topic, value)| (topic.as_str(), *value)).collect()
    }

    #[test]
    fn counters_are_read_from_a_relays_metrics() {
        let counters = Counters::parse(METRICS);
        assert_eq!(published(&counters), [("a\"b,c=\\", 2.0), ("gen-presence-state", 5.0)]);
        assert_eq!(counters.answers, BTreeMap::from([(("200".into(), "processed".into()), 7.0)]));
    }

    #[test]
    fn counters_add_up_over_pods_and_begin_anew_with_a_new_process() {
        let of =
            |value: f64| Counters { published: BTreeMap::from([("t".into(), value)]), ..Counters::default() };
        let mut sum = of(5.0);
        sum += of(3.0);
        assert_eq!(sum, of(8.0));
        assert_eq!(of(9.0).since(&of(5.0)), of(4.0));
        assert_eq!(of(2.0).since(&of(5.0)), of(2.0));
        assert_eq!(of(2.0).since(&Counters::default()), of(2.0));
    }
}
