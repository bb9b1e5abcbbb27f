//! A page: its blocks of commands, and what they must print.

use std::time::Instant;

use presenceroute_e2e::steps::{Steps, Stopped, measured};
use presenceroute_e2e::{Outcome, ensure, markdown, tree};

use crate::shell;

/// How much of a block's first line names its step.
const NAME_LENGTH: usize = 48;

/// The heading of the last section of a page that other pages build on.
const CLEAN_UP: &str = "\n## Clean up\n";

/// What installs the operator: it packs and loads the images, too.
const INSTALL: &str = "deploy/install-from-source";

/// A block marked `sh`, and the block marked `text` right after it, if there is one.
struct Commands {
    script: String,
    prints: String,
}

/// A page of the documentation.
pub(crate) struct Page {
    blocks: Vec<Commands>,
}

/// How long it takes a new user from the installation to the first event that `kcat` reads, and how many commands.
pub(crate) struct FirstEvent {
    installed: Option<Instant>,
    commands: usize,
    is_seen: bool,
}

impl Page {
    /// Reads the page of this name, without the section that cleans up; or, as `PAGE#clean-up`, this section.
    pub(crate) fn read(name: &str) -> Outcome<Self> {
        let mut blocks: Vec<Commands> = Vec::new();
        let mut after_commands = false;
        let (file, wants_end) = name.strip_suffix("#clean-up").map_or((name, false), |file| (file, true));
        let page = tree::read(file)?;
        let (page, end) = page.split_once(CLEAN_UP).unwrap_or((&page, ""));
        for block in markdown::blocks(if wants_end { end } else { page }) {
            match (block.language.as_str(), blocks.last_mut()) {
                ("text", Some(commands)) if block.follows && after_commands => commands.prints = block.text,
                ("sh", _) => blocks.push(Commands { script: block.text, prints: String::new() }),
                _ => {}
            }
            after_commands =
                blocks.last().is_some_and(|last| last.prints.is_empty()) && block.language == "sh";
        }
        ensure(!blocks.is_empty(), || format!("{name} has no block marked sh"))?;
        Ok(Self { blocks })
    }

    /// Runs its blocks, one after the other.
    pub(crate) fn run(&self, steps: &mut Steps<'_>, first_event: &mut FirstEvent) -> Result<(), Stopped> {
        for (Commands { script, prints }, number) in self.blocks.iter().zip(1..) {
            let name: String = script.lines().next().unwrap_or_default().chars().take(NAME_LENGTH).collect();
            first_event.before(script);
            steps.prove(&format!("block {number}: {name}"), || {
                let printed = shell::run(script)?;
                prints.lines().try_for_each(|line| {
                    ensure(printed.lines().any(|found| found == line), || {
                        format!("the page shows a line that is not printed: {line}\n{printed}")
                    })
                })
            })?;
            first_event.after(script);
        }
        Ok(())
    }
}

impl FirstEvent {
    pub(crate) const fn new() -> Self {
        Self { installed: None, commands: 0, is_seen: false }
    }

    fn before(&mut self, script: &str) {
        if runs(script, &[INSTALL]) > 0 {
            *self = Self { installed: Some(Instant::now()), ..Self::new() };
        }
    }

    fn after(&mut self, script: &str) {
        self.commands += runs(script, &[INSTALL, "helm", "kubectl", "kcat"]);
        if let Some(installed) = self.installed
            && !self.is_seen
            && runs(script, &["kcat"]) > 0
        {
            self.is_seen = true;
            measured(&format!(
                "from {INSTALL} to the first event read from Kafka: {} commands, {} s",
                self.commands,
                installed.elapsed().as_secs()
            ));
        }
    }
}

/// How many lines begin with one of these commands.
fn runs(script: &str, commands: &[&str]) -> usize {
    let begins = |line: &str| {
        commands.iter().any(|command| {
            line.strip_prefix(command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        })
    };
    script.lines().filter(|line| begins(line)).count()
}
