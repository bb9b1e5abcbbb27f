//! The pages for people fit the tree: links, runbooks, alerts, dashboard, and the reasons of the chart's rights.

// Clippy takes a function outside a #[test] for one that is not part of a test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use presenceroute_e2e::kubectl::text;
use presenceroute_e2e::markdown::{blocks, links};
use presenceroute_e2e::tree;
use serde_json::Value;

const ALERTS: &str = "charts/presenceroute/files/alerts/presenceroute.yaml";
const ALERTS_TEST: &str = "charts/presenceroute/tests/alerts.promtool.yaml";
const DASHBOARD: &str = "charts/presenceroute/files/dashboards/presenceroute.json";
const TEMPLATES: &str = "charts/presenceroute/templates";
const RUNBOOKS: &str = "docs/runbooks";

/// What a person on call asks.
const SECTIONS: [&str; 3] = ["## What it means", "## What to look at", "## What to do"];

fn read(path: &str) -> String {
    tree::read(path).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Every alerting rule.
fn rules() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read(ALERTS)).unwrap();
    let groups = file["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn alerts() -> BTreeSet<String> {
    rules().iter().map(|rule| text(rule, "/alert").to_owned()).collect()
}

fn pages_below(folder: &Path, pages: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            pages_below(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path.display().to_string());
        }
    }
    Ok(())
}

#[test]
fn every_link_to_this_tree_has_a_target() {
    let mut pages: Vec<_> =
        ["README.md", "CHANGELOG.md"].iter().map(|page| tree::path(page).display().to_string()).collect();
    for folder in [".github", "docs", "charts", "deploy", "tests"] {
        pages_below(&tree::path(folder), &mut pages).unwrap();
    }
    assert!(pages.len() > 40, "there are only {} pages", pages.len());
    let mut broken = Vec::new();
    for page in &pages {
        let content = fs::read_to_string(page).unwrap();
        let targets = links(&content).filter(|target| !target.contains(':'));
        for target in targets.map(|target| target.split('#').next().unwrap_or_default()) {
            if !target.is_empty() && !Path::new(page).parent().unwrap().join(target).exists() {
                broken.push(format!("{page} links to {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_page_on_consuming_has_the_programs_that_are_run() {
    let page = read("docs/consuming.md");
    let programs = [
        ("python", "tests/consumers/python/newest_presence.py"),
        ("java", "tests/consumers/kafka-streams/NewestPresence.java"),
        ("sql", "tests/consumers/flink-sql/newest_presence.sql"),
    ];
    for (language, program) in programs {
        let shown: Vec<_> = blocks(&page)
            .into_iter()
            .filter(|block| block.language == language)
            .map(|block| block.text)
            .collect();
        assert_eq!(
            shown,
            [read(program)],
            "docs/consuming.md is to show {program} in its block marked {language}"
        );
    }
}

#[test]
fn every_alert_has_a_complete_runbook_and_its_row() {
    let list = read(&format!("{RUNBOOKS}/README.md"));
    for alert in alerts() {
        let page = read(&format!("{RUNBOOKS}/{alert}.md"));
        let title = format!("# {alert}");
        for line in [title.as_str()].iter().chain(&SECTIONS) {
            assert!(page.lines().any(|found| found == *line), "{alert}.md has no line {line:?}");
        }
        let row = format!("| [{alert}]({alert}.md) | ");
        let cells = list.lines().find_map(|line| line.strip_prefix(&row)).unwrap_or_default();
        let severity = cells.split(" | ").next().unwrap_or_default();
        assert!(
            !severity.is_empty() && severity.chars().all(|c| c.is_ascii_lowercase() || ", ".contains(c)),
            "{RUNBOOKS}/README.md has no row for {alert} with its severity: {cells:?}"
        );
    }
}

#[test]
fn every_runbook_is_of_an_alert() {
    let alerts = alerts();
    for page in tree::files(RUNBOOKS, ".md").unwrap() {
        let name = page.rsplit('/').next().unwrap().trim_end_matches(".md");
        assert!(name == "README" || alerts.contains(name), "{page} is of no alert");
    }
}

#[test]
fn every_alert_links_to_its_own_runbook() {
    for rule in rules() {
        let (alert, url) = (text(&rule, "/alert"), text(&rule, "/annotations/runbook_url"));
        let page = format!("/docs/runbooks/{alert}.md");
        assert!(url.starts_with("https://") && url.ends_with(&page), "the runbook_url of {alert} is {url}");
    }
}

#[test]
fn every_alert_fires_in_a_test_of_promtool() {
    let tests = read(ALERTS_TEST);
    for alert in alerts() {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} fires in no test");
    }
}

#[test]
fn the_dashboard_is_json_with_panels() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    assert!(!dashboard["panels"].as_array().unwrap().is_empty());
}

#[test]
fn every_rule_of_a_role_has_a_comment() {
    let mut rules = 0;
    for template in tree::files(TEMPLATES, "").unwrap().iter().filter(|name| name.contains("rbac")) {
        let content = read(template);
        let lines: Vec<_> = content.lines().map(str::trim_start).collect();
        for (before, line) in lines.iter().zip(lines.iter().skip(1)) {
            if line.starts_with("- apiGroups:") {
                assert!(before.starts_with('#'), "{template}: no comment above {line}");
                rules += 1;
            }
        }
    }
    assert!(rules > 10, "there are only {rules} rules");
}
