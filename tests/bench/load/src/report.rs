//! The table: every pair of runs compared with each other, so that a machine that is slower for a while is slower
//! for both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one run measured: one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Who: `presenceroute` or `baseline`.
    pub(crate) relay: String,
    /// What: `saturation-256`, `rate-500` and so on.
    pub(crate) scenario: String,
    /// Which pair.
    pub(crate) pair: u32,
    /// 200s, of the warm-up too.
    pub(crate) acknowledged: u64,
    /// Other answers, and connections that broke.
    pub(crate) failed: u64,
    /// 200s a second.
    pub(crate) events_per_second: f64,
    /// Processor time of the relay an event, in microseconds.
    pub(crate) cpu_micros: f64,
    /// The generator's.
    pub(crate) own_cpu_micros: f64,
    /// Microseconds until a 200.
    pub(crate) p50: u64,
    /// Likewise.
    pub(crate) p99: u64,
    /// Likewise.
    pub(crate) p999: u64,
    /// Likewise.
    pub(crate) max: u64,
    /// MiB at the end of the run.
    pub(crate) memory: f64,
    /// MiB at most since the relay's start.
    pub(crate) most_memory: f64,
}

/// A line of the table.
struct Line {
    what: &'static str,
    scenario: &'static str,
    value: fn(&Measured) -> f64,
    decimals: usize,
    target: Option<Target>,
}

enum Target {
    AtMost(f64),
    AtLeast(f64),
}

const SATURATION: &str = "saturation-256";
const SLOW: &str = "rate-500";
const FAST: &str = "rate-2000";
const POISSON: &str = "rate-2000-poisson";
const BURSTS: &str = "rate-2000-bursts";

fn lines() -> Vec<Line> {
    let line = |what, scenario, value, decimals, target| Line { what, scenario, value, decimals, target };
    let milliseconds_50 = |measured: &Measured| measured.p50 as f64 / 1e3;
    let milliseconds_99 = |measured: &Measured| measured.p99 as f64 / 1e3;
    let milliseconds_999 = |measured: &Measured| measured.p999 as f64 / 1e3;
    vec![
        line("events/s, 256 connections", SATURATION, |m| m.events_per_second, 0, Some(Target::AtLeast(1.2))),
        line("CPU µs/event, 256 connections", SATURATION, |m| m.cpu_micros, 1, Some(Target::AtMost(0.40))),
        line("CPU µs/event, 2,000/s", FAST, |m| m.cpu_micros, 1, Some(Target::AtMost(0.55))),
        line("p50 ms, 500/s", SLOW, milliseconds_50, 2, Some(Target::AtMost(0.25))),
        line("p99 ms, 500/s", SLOW, milliseconds_99, 2, Some(Target::AtMost(0.6))),
        line("p99.9 ms, 500/s", SLOW, milliseconds_999, 2, None),
        line("p50 ms, 2,000/s", FAST, milliseconds_50, 2, Some(Target::AtMost(0.25))),
        line("p99 ms, 2,000/s", FAST, milliseconds_99, 2, Some(Target::AtMost(0.6))),
        line("p99.9 ms, 2,000/s", FAST, milliseconds_999, 2, None),
        line("CPU µs/event, 2,000/s, Poisson", POISSON, |m| m.cpu_micros, 1, Some(Target::AtMost(0.55))),
        line("p50 ms, 2,000/s, Poisson", POISSON, milliseconds_50, 2, Some(Target::AtMost(0.25))),
        line("p99 ms, 2,000/s, Poisson", POISSON, milliseconds_99, 2, Some(Target::AtMost(0.6))),
        line("CPU µs/event, 2,000/s, bursts of 8", BURSTS, |m| m.cpu_micros, 1, Some(Target::AtMost(0.55))),
        line("p50 ms, 2,000/s, bursts of 8", BURSTS, milliseconds_50, 2, Some(Target::AtMost(0.25))),
        line("p99 ms, 2,000/s, bursts of 8", BURSTS, milliseconds_99, 2, Some(Target::AtMost(0.6))),
        line("p50 ms, 256 connections", SATURATION, milliseconds_50, 2, None),
        line("p99 ms, 256 connections", SATURATION, milliseconds_99, 2, None),
        line(
            "memory MiB, peak at 256 connections",
            SATURATION,
            |m| m.most_memory,
            1,
            Some(Target::AtMost(0.4)),
        ),
    ]
}

/// The comparison as Markdown.
pub(crate) fn comparison(all: &[Measured]) -> String {
    let mut table = String::from(
        "| median | PresenceRoute | Go baseline | ratio | target | |\n|---|---:|---:|---:|---:|---|\n",
    );
    for line in lines() {
        let of = |relay: &str| -> BTreeMap<u32, f64> {
            let runs = all.iter().filter(|run| run.relay == relay && run.scenario == line.scenario);
            runs.map(|run| (run.pair, (line.value)(run))).collect()
        };
        let (ours, theirs) = (of("presenceroute"), of("baseline"));
        let ratios =
            ours.iter().filter_map(|(pair, value)| Some(value / theirs.get(pair)?)).collect::<Vec<_>>();
        let Some(ratio) = median(ratios) else { continue };
        let [ours, theirs] =
            [ours, theirs].map(|runs| median(runs.into_values().collect()).unwrap_or_default());
        let (target, verdict) = match line.target {
            None => (String::new(), ""),
            Some(Target::AtMost(most)) => (format!("≤ {most:.2}"), verdict(ratio <= most)),
            Some(Target::AtLeast(least)) => (format!("≥ {least:.2}"), verdict(ratio >= least)),
        };
        let decimals = line.decimals;
        table += &format!(
            "| {} | {ours:.decimals$} | {theirs:.decimals$} | {ratio:.2} | {target} | {verdict} |\n",
            line.what
        );
    }
    table
}

/// Every scenario by itself, as medians.
pub(crate) fn scenarios(all: &[Measured]) -> String {
    let mut groups: Vec<(&str, &str, Vec<&Measured>)> = Vec::new();
    for run in all {
        match groups.iter_mut().find(|(scenario, relay, _)| *scenario == run.scenario && *relay == run.relay)
        {
            Some((_, _, runs)) => runs.push(run),
            None => groups.push((&run.scenario, &run.relay, vec![run])),
        }
    }
    let mut table = String::from(
        "| scenario | relay | events/s | CPU µs/event | p50 ms | p99 ms | p99.9 ms | peak MiB | failed |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (scenario, relay, runs) in groups {
        let of = |value: fn(&Measured) -> f64| {
            median(runs.iter().map(|run| value(run)).collect()).unwrap_or_default()
        };
        table += &format!(
            "| {scenario} | {relay} | {:.0} | {:.1} | {:.2} | {:.2} | {:.2} | {:.1} | {} |\n",
            of(|m| m.events_per_second),
            of(|m| m.cpu_micros),
            of(|m| m.p50 as f64 / 1e3),
            of(|m| m.p99 as f64 / 1e3),
            of(|m| m.p999 as f64 / 1e3),
            of(|m| m.most_memory),
            runs.iter().map(|run| run.failed).sum::<u64>(),
        );
    }
    table
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        return Some(values[middle]);
    }
    Some((values.get(middle.checked_sub(1)?)? + values[middle]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(relay: &str, pair: u32, events_per_second: f64) -> Measured {
        Measured {
            relay: relay.into(),
            scenario: SATURATION.into(),
            pair,
            acknowledged: 1,
            failed: 0,
            events_per_second,
            cpu_micros: 10.0,
            own_cpu_micros: 1.0,
            p50: 1000,
            p99: 2000,
            p999: 3000,
            max: 4000,
            memory: 9.0,
            most_memory: 10.0,
        }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_ratios() {
        let runs = [
            run("presenceroute", 1, 300.0),
            run("baseline", 1, 100.0),
            run("presenceroute", 2, 100.0),
            run("baseline", 2, 100.0),
            run("presenceroute", 3, 30.0),
            run("baseline", 3, 15.0),
        ];
        let table = comparison(&runs);
        assert!(table.contains("| events/s, 256 connections | 100 | 100 | 2.00 | ≥ 1.20 | met |"), "{table}");
        assert!(
            table.contains("| CPU µs/event, 256 connections | 10.0 | 10.0 | 1.00 | ≤ 0.40 | missed |"),
            "{table}"
        );
    }

    #[test]
    fn a_median_needs_no_odd_number() {
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![3.0, 1.0, 9.0]), Some(3.0));
        assert_eq!(median(Vec::new()), None);
    }
}
