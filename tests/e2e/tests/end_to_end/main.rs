//! PresenceRoute from end to end: a real cluster, a real broker, the simulator in the place of Genesys, and nothing
//! but `helm` and `kubectl` in between.
//!
//! `cargo test -p presenceroute-e2e --test end_to_end [-- SCENARIO]`; see the README beside.

mod changes;
mod deliveries;
mod event_bridge;
mod healing;
mod installation;
mod main_path;
mod manifests;
mod monitoring;
mod outage;
mod plugin;
mod refusals;
mod removal;
mod rollout;
mod stage;
mod ten_relays;
mod upgrade;

use std::process::ExitCode;
use std::sync::OnceLock;

use libtest_mimic::{Failed, Trial};
use presenceroute_e2e::steps::{Steps, Stopped};
use presenceroute_e2e::{Outcome, suite};

use crate::stage::Stage;

type Story = fn(&Stage, &mut Steps<'_>) -> Result<(), Stopped>;

/// Each can be run by itself, after the installation. The last one leaves no operator.
const SCENARIOS: [(&str, Story); 13] = [
    ("main path", main_path::story),
    ("plugin", plugin::story),
    ("refusals", refusals::story),
    ("healing", healing::story),
    ("ten relays", ten_relays::story),
    ("monitoring", monitoring::story),
    ("outage", outage::story),
    ("rollout", rollout::story),
    ("changes", changes::story),
    ("event bridge, queue", event_bridge::queue),
    ("event bridge, API destination", event_bridge::api_destination),
    ("upgrade", upgrade::story),
    ("removal", removal::story),
];

static STAGE: OnceLock<Outcome<Stage>> = OnceLock::new();
static INSTALLED: OnceLock<Result<(), Failed>> = OnceLock::new();

fn main() -> ExitCode {
    let mut tests = vec![Trial::test("installation", || installed().map(drop))];
    tests.extend(SCENARIOS.map(|(name, story)| Trial::test(name, move || play(installed()?, story))));
    suite::run(Ok(tests), || {
        if let Some(Ok(stage)) = STAGE.get() {
            stage.clear();
        }
    })
}

/// The stage with the chart installed, once.
fn installed() -> Result<&'static Stage, Failed> {
    let stage = STAGE.get_or_init(Stage::prepare).as_ref()?;
    let failed = INSTALLED.get_or_init(|| play(stage, installation::story)).as_ref().err();
    failed.map_or(Ok(stage), |failed| {
        Err(format!("the chart is not installed: {}", failed.message().unwrap_or_default()).into())
    })
}

fn play(stage: &Stage, story: Story) -> Result<(), Failed> {
    Steps::run(|| stage.show(), |steps| story(stage, steps))
}
