//! What a PromQL query names: metrics of ours, the labels and values that it selects them by, and the labels that it
//! groups by. It understands the queries of this tree and is no parser of the whole language.

use std::collections::BTreeSet;

/// What the names of our metrics begin with.
const PREFIX: &str = "presenceroute_";

/// A metric, and what it is selected by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    /// The metric's name.
    pub metric: String,
    /// Each label, and the values that are named for it; none where the value is a variable or excluded.
    pub matchers: Vec<(String, Vec<String>)>,
}

/// The metrics of ours in a query.
pub fn selectors(query: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(PREFIX) {
        let (metric, after) = split_name(&rest[start..]);
        rest = after;
        let mut matchers = Vec::new();
        if let Some((inside, after)) = rest.strip_prefix('{').and_then(|inside| inside.split_once('}')) {
            matchers = matchers_in(inside);
            rest = after;
        }
        found.push(Selector { metric: metric.to_owned(), matchers });
    }
    found
}

/// A query without what stands in `absent(...)`: of that comes something without labels, and there need be none.
pub fn without_absent(query: &str) -> String {
    let mut parts = query.split("absent(");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mut open = 1_usize;
        text.extend(part.chars().skip_while(|c| {
            open = match c {
                '(' => open + 1,
                ')' => open.saturating_sub(1),
                _ => open,
            };
            open > 0
        }));
    }
    text
}

/// The labels in every `by (...)` and `on (...)` of a query, but for `le`, which a histogram has by itself.
pub fn grouping(query: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for keyword in ["by (", "on ("] {
        for clause in query.split(keyword).skip(1) {
            let names = clause.split(')').next().unwrap_or_default();
            labels.extend(names.split(',').map(|name| name.trim().to_owned()));
        }
    }
    labels.remove("le");
    // `on ()` names none.
    labels.remove("");
    labels
}

fn split_name(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    text.split_at(end)
}

/// `a="x", b=~"y|z", c!="w"`. A value holds no quote and no brace here.
fn matchers_in(text: &str) -> Vec<(String, Vec<String>)> {
    let mut matchers = Vec::new();
    let mut parts = text.split('"');
    while let (Some(before), Some(value)) = (parts.next(), parts.next()) {
        let (label, operator) = split_name(before.trim_start_matches([',', ' ']));
        let values = match operator.trim() {
            "=" | "=~" if !value.contains(['$', '*', '.']) => value.split('|').map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        matchers.push((label.to_owned(), values));
    }
    matchers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_labels_and_values_are_found() {
        let query = r#"sum by (le, topic) (rate(presenceroute_a_total{namespace=~"$namespace", reason=~"x|y", code!="200"}[5m]))
            unless on (namespace) presenceroute_b == 1"#;
        let strings = |values: &[&str]| values.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            selectors(query),
            [
                Selector {
                    metric: "presenceroute_a_total".into(),
                    matchers: vec![
                        ("namespace".into(), vec![]),
                        ("reason".into(), strings(&["x", "y"])),
                        ("code".into(), vec![]),
                    ],
                },
                Selector { metric: "presenceroute_b".into(), matchers: vec![] },
            ]
        );
        assert_eq!(grouping(query).into_iter().collect::<Vec<_>>(), ["namespace", "topic"]);
        assert!(grouping("a and on () absent(b == 1)").is_empty());
        assert_eq!(without_absent("a and absent((b) == 1) or c"), "a and ) or c");
    }
}
