//! `docs/metrics.md` is what the programs show: the table of each is made from the metrics of its own code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs};

/// The page, from this crate's folder.
const PAGE: &str = "../docs/metrics.md";

/// One metric, with all of its series.
#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    has_series: bool,
}

/// Compares a program's part of the page with its metrics; with `UPDATE` set, writes the part anew.
///
/// `metrics` is the text of `/metrics` with at least one series of every metric: the labels are those of the series.
///
/// # Panics
/// They differ, or a metric has no series.
pub fn assert_current(program: &str, metrics: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&file).unwrap();
    let (begin, end) = (format!("<!-- {program} begin -->\n"), format!("<!-- {program} end -->\n"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{PAGE} has no line {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{PAGE} has no line {end}"));
    let current = format!("{before}{begin}{}{end}{after}", table(metrics));
    if env::var_os("UPDATE").is_some() {
        fs::write(&file, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&file).unwrap() == current,
        "docs/metrics.md is not what the {program} shows; write it anew: UPDATE=1 cargo test -p presenceroute-{program} \
         page_of_metrics"
    );
}

fn table(text: &str) -> String {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            metrics.entry(name.to_owned()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let series = line.split([' ', '{']).next().unwrap_or_default();
            // The longest name: one metric's may begin with another's.
            let metric = metrics.iter_mut().filter(|(name, _)| series.starts_with(name.as_str()));
            let Some((_, metric)) = metric.max_by_key(|(name, _)| name.len()) else {
                panic!("the series {series} is of no metric");
            };
            metric.has_series = true;
            metric.labels.extend(labels(line).filter(|label| label != "le"));
        }
    }
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, Metric { kind, help, labels, has_series }) in metrics {
        assert!(has_series, "{name} has no series, which would show its labels");
        let suffix = match kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        table.push_str(&format!("| `{name}{suffix}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    table
}

/// The names of a series' labels. Their values have neither a quote nor a brace where a page is made.
fn labels(line: &str) -> impl Iterator<Item = String> {
    let inner =
        line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(inner, _)| inner);
    inner.split("\",").filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_metric() {
        let text = "\
# HELP a_requests Requests, by outcome.
# TYPE a_requests counter
a_requests_total{code=\"200\",reason=\"x,y\"} 1
a_requests_total{code=\"503\"} 1
# HELP a_requests_seconds How long.
# TYPE a_requests_seconds histogram
a_requests_seconds_sum 1.0
a_requests_seconds_bucket{le=\"1\",stage=\"z\"} 1
# EOF
";
        let expected = "\
| metric | type | labels | meaning |
|---|---|---|---|
| `a_requests_total` | counter | `code`, `reason` | Requests, by outcome |
| `a_requests_seconds` | histogram | `stage` | How long |
";
        assert_eq!(table(text), expected);
    }

    #[test]
    #[should_panic(expected = "b has no series")]
    fn a_metric_without_series_is_an_error() {
        table("# HELP b Something.\n# TYPE b gauge\n# EOF\n");
    }
}
