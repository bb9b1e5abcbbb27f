//! The commands of the documentation, as a new user runs them: every block marked `sh`, page after page, from the root
//! of the tree, in a home directory of its own. The lines of a block marked `text` right after it must be in what it
//! prints.
//!
//! `cargo test -p presenceroute-e2e --test docs`, with a cluster that knows no PresenceRoutes yet, a broker, and the
//! programs built by `deploy/images`, because no block may take minutes. A page builds on those before it, which run
//! first where it is run by itself. The block that cleans up comes last: the other pages build on what it removes.

mod page;
mod scene;
mod shell;

use std::process::ExitCode;

use libtest_mimic::{Failed, Trial};
use parking_lot::Mutex;
use presenceroute_e2e::steps::Steps;
use presenceroute_e2e::{Outcome, ensure, markdown, suite, tree};

use crate::page::{FirstEvent, Page};

/// In the order in which a new user reads them. A name with a `#` is that section alone, which is left out where the page
/// itself is run.
const PAGES: [&str; 9] = [
    "docs/install.md",
    "docs/first-route.md",
    "docs/how-it-works.md",
    "docs/kubectl-plugin.md",
    "docs/troubleshooting.md",
    "docs/rotating-secrets.md",
    "docs/upgrading.md",
    "docs/first-route.md#clean-up",
    "docs/uninstalling.md",
];

/// How far the pages have been run.
struct Progress {
    done: usize,
    failed: Option<&'static str>,
    first_event: FirstEvent,
}

static PROGRESS: Mutex<Progress> =
    Mutex::new(Progress { done: 0, failed: None, first_event: FirstEvent::new() });

fn main() -> ExitCode {
    let mut tests = vec![
        suite::test("every page with commands is run", every_page_is_run),
        suite::test("the commands of the README are those of the pages", readme_is_run),
    ];
    tests
        .extend(PAGES.iter().enumerate().map(|(index, name)| Trial::test(*name, move || run_through(index))));
    suite::run(Ok(tests), scene::clear)
}

fn every_page_is_run() -> Outcome {
    for page in tree::files("docs", ".md")? {
        let blocks = markdown::blocks(&tree::read(&page)?);
        let has_commands = blocks.iter().any(|block| block.language == "sh");
        let is_run = PAGES.contains(&page.as_str());
        ensure(has_commands == is_run, || {
            format!("{page}: has commands: {has_commands}, is among the pages of this test: {is_run}")
        })?;
    }
    Ok(())
}

/// The README has the short way: each of its lines is one of the pages that are run.
fn readme_is_run() -> Outcome {
    let mut run = String::new();
    for page in ["docs/install.md", "docs/first-route.md"] {
        let blocks = markdown::blocks(&tree::read(page)?);
        run.extend(blocks.into_iter().filter(|block| block.language == "sh").map(|block| block.text));
    }
    let run: Vec<_> = run.lines().collect();
    let readme = tree::read("README.md")?;
    let install = readme.split("\n## Install\n").nth(1).unwrap_or_default();
    let install = install.split("\n## ").next().unwrap_or_default();
    let commands: Vec<_> = markdown::blocks(install).into_iter().map(|block| block.text).collect();
    let missing: Vec<_> = commands
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| !line.is_empty() && !run.contains(line))
        .collect();
    ensure(!commands.is_empty() && missing.is_empty(), || {
        format!("README.md, Install: no block of docs/install.md or docs/first-route.md has {missing:#?}")
    })
}

/// Runs the pages up to this one that have not been run.
fn run_through(index: usize) -> Result<(), Failed> {
    scene::prepared()?;
    let mut progress = PROGRESS.lock();
    while progress.done <= index {
        if let Some(failed) = progress.failed {
            return Err(format!("it builds on {failed}, which failed").into());
        }
        let name = PAGES[progress.done];
        let page = Page::read(name)?;
        let first_event = &mut progress.first_event;
        let result = Steps::run(scene::show, |steps| page.run(steps, first_event));
        progress.done += 1;
        if result.is_err() {
            progress.failed = Some(name);
            return result;
        }
    }
    Ok(())
}
