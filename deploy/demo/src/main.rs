//! `cargo demo [MANIFEST]`: a PresenceRoute at work in one process.
//!
//! The manifest goes through the operator's own `validate` and `build`; what they make is put where a kubelet would
//! put it, the real relay runs on it, and the real Genesys client registers it at the simulator. Kafka is
//! librdkafka's mock cluster, which speaks the protocol on a real port. With Amazon EventBridge as the source, the simulator
//! has the event bus and the queue.

mod broker;
mod registration;
mod route;
mod screen;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use genesys_simulator::sqs::{QueueSettings, SqsServer};
use genesys_simulator::{Config, Delivery, DeliveryPlan, PresencePlan, Simulator};

use crate::broker::Broker;
use crate::route::Demo;
use crate::screen::Screen;

type Failure = Box<dyn std::error::Error>;

/// The queue that a rule of the event bus sends to.
const QUEUE: &str = "presence";

/// How long the relay may take to empty the queue at the end.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);

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

async fn run(arguments: Arguments, screen: &Screen) -> Result<(), Failure> {
    presenceroute_runtime::tls_provider::install_crypto_provider();
    let manifest = read(&arguments.manifest)?;
    let simulator = Simulator::new(Config { listen: ([127, 0, 0, 1], 0).into(), ..Config::default() })?;
    let genesys = simulator.start().await?;
    let broker = Broker::start()?;
    let queues = SqsServer::start(([127, 0, 0, 1], 0).into(), vec![QueueSettings::new(QUEUE)]).await?;
    let queue_url = queues.queue_url(QUEUE);
    let mut demo = Demo::start(&manifest, &broker, genesys.address(), queue_url).await?;
    screen.line(&format!("PresenceRoute {} from {}", demo.name(), arguments.manifest.display()));
    screen.line(&format!("  Genesys Cloud  simulated at http://{}", genesys.address()));
    screen.line(&format!(
        "  relay          {} (status: http://{}/status)",
        demo.receives_at(),
        demo.admin_address()
    ));
    screen.line(&format!("  Kafka          embedded at {}", broker.address()));
    screen.line(&format!("look inside: {}", broker.kcat(demo.first_topic())));
    screen.line(&format!("now edit {}; Ctrl-C ends the demo", arguments.manifest.display()));

    let delivery = begin(&simulator, &demo, arguments.rate)?;
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
            // The API key may be another one now.
            simulator.set_event_bus_rules(demo.event_bus_rule()?.into_iter().collect())?;
            seen = text;
        }
        screen.draw(&delivery.summary(), &broker.counts(), &demo.status());
    }
    delivery.stop();
    let summary = delivery.finished().await;
    // What is in the queue is published and counted first, unless Kafka or the relay hangs.
    let _ = tokio::time::timeout(DRAIN_WITHIN, drained(&queues, &broker)).await;
    screen.draw(&summary, &broker.counts(), &demo.status());
    demo.end().await?;
    screen.line(&format!(
        "deregistered: Genesys Cloud holds {} registrations and {} integrations",
        simulator.registrations().len(),
        simulator.integrations().len()
    ));
    genesys.stop().await;
    queues.stop().await;
    Ok(())
}

/// Waits until the queue has no message, and every record is counted.
async fn drained(queues: &SqsServer, broker: &Broker) {
    while queues.counts(QUEUE).is_some_and(|counts| counts.visible + counts.in_flight > 0)
        || !broker.is_counted().unwrap_or(false)
    {
        tokio::time::sleep(TICK).await;
    }
}

/// Has events sent to the relay, by the way of its source.
fn begin(simulator: &Simulator, demo: &Demo, rate: f64) -> Result<Delivery, Failure> {
    let rate_per_second = Some(rate);
    Ok(match demo.event_bus_rule()? {
        None => simulator.deliver(DeliveryPlan { rate_per_second, ..DeliveryPlan::default() })?,
        Some(rule) => {
            simulator.set_event_bus_rules(vec![rule])?;
            simulator.change_presence(PresencePlan { rate_per_second, ..PresencePlan::default() })?
        }
    })
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}
