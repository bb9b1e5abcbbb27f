//! PresenceRoute from end to end: a real cluster, a real broker, the simulator in the place of Genesys, and nothing
//! but `helm` and `kubectl` in between.
//!
//! `cargo test -p presenceroute-e2e --test end_to_end [-- SCENARIO]`; see the README beside.

mod deliveries;
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

use presenceroute_e2e::steps::{Steps, say};

use crate::stage::Stage;

fn main() -> ExitCode {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let stage = match Stage::prepare() {
        Ok(stage) => stage,
        Err(failure) => {
            say(&format!("FAIL  the stage cannot be set: {failure}"));
            say("\ntest result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
            return ExitCode::FAILURE;
        }
    };
    let mut steps = Steps::new(only, || stage.show());
    let installed = installation::story(&stage, &mut steps).is_ok();
    if installed {
        steps.scenario("main path", |steps| main_path::story(&stage, steps));
        steps.scenario("plugin", |steps| plugin::story(&stage, steps));
        steps.scenario("refusals", |steps| refusals::story(&stage, steps));
        steps.scenario("healing", |steps| healing::story(&stage, steps));
        steps.scenario("ten relays", |steps| ten_relays::story(&stage, steps));
        steps.scenario("monitoring", |steps| monitoring::story(&stage, steps));
        steps.scenario("outage", |steps| outage::story(&stage, steps));
        steps.scenario("rollout", |steps| rollout::story(&stage, steps));
        steps.scenario("upgrade", |steps| upgrade::story(&stage, steps));
        steps.scenario("removal", |steps| removal::story(&stage, steps));
    }
    let well = steps.finish();
    stage.clear();
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
