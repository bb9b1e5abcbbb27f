//! `cargo demo [MANIFEST]`: a PresenceRoute at work in one process.
//!
//! The manifest goes through the operator's own `validate` and `build`; what they make is put where a kubelet would
//! put it, the real relay runs on it, and the real Genesys client registers it at the simulator. Kafka is
//! librdkafka's mock cluster, which speaks the protocol on a real port.

mod broker;
mod route;
mod screen;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use genesys_simulator::{Config, DeliveryPlan, Simulator};

use crate::broker::Broker;
use crate::route::Demo;
use crate::screen::Screen;

/// How often the manifest is looked at, and the picture drawn.
const TICK: Duration = Duration::from_millis(250);

/// Runs a PresenceRoute in one process: no cluster, no Genesys Cloud, no Kafka to install.
#[derive(Debug, Parser)]
#[command(name = "cargo demo", bin_name = "cargo demo", version)]
struct Arguments {
    /// YAML with a PresenceRoute and its Secrets. Edit it while the demo runs.
    #[arg(default_value = "deploy/examples/quickstart.yaml")]
    manifest: PathBuf,
    /// Events a second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// Stop after so many seconds instead of at Ctrl-C.
    #[arg(long)]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let screen = Screen::new();
    match run(Arguments::parse(), &screen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.line(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments, screen: &Screen) -> Result<(), Box<dyn std::error::Error>> {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let manifest = read(&arguments.manifest)?;
    let simulator = Simulator::new(Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() })?;
    let genesys = simulator.start().await?;
    let broker = Broker::start()?;
    let mut demo = Demo::start(&manifest, &broker, genesys.address()).await?;
    screen.line(&format!("PresenceRoute {} from {}", demo.name(), arguments.manifest.display()));
    screen.line(&format!("  Genesys Cloud  simulated at http://{}", genesys.address()));
    screen.line(&format!(
        "  relay          {} (status: http://{}/status)",
        demo.endpoint(),
        demo.admin_address()
    ));
    screen.line(&format!("  Kafka          embedded at {}", broker.address()));
    screen.line(&format!("look inside: {}", broker.kcat(demo.first_topic())));
    screen.line(&format!("now edit {}; Ctrl-C ends the demo", arguments.manifest.display()));

    let plan = DeliveryPlan { rate_per_second: Some(arguments.rate), ..DeliveryPlan::default() };
    let delivery = simulator.deliver(plan)?;
    let end = async {
        match arguments.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut seen = manifest;
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = &mut end => break,
            interrupted = tokio::signal::ctrl_c() => { interrupted?; break }
            _ = tick.tick() => {}
        }
        // An editor may take the file away for a moment while it writes.
        if let Ok(text) = read(&arguments.manifest)
            && text != seen
        {
            screen.line(&match demo.edit(&text, &broker).await {
                Ok(change) => change,
                Err(error) => format!("manifest rejected, the last one stays in effect: {error}"),
            });
            seen = text;
        }
        screen.draw(&delivery.summary(), &broker.counts(), &demo.status());
    }
    delivery.stop();
    let summary = delivery.finished().await;
    screen.draw(&summary, &broker.counts(), &demo.status());
    demo.end().await?;
    screen.line(&format!(
        "deregistered: Genesys Cloud holds {} registrations",
        simulator.registrations().len()
    ));
    genesys.stop().await;
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
