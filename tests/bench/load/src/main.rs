//! `presenceroute-bench`: loads a relay on this machine and measures it from outside, or makes a table of what was
//! measured.

mod api_destination;
mod arrivals;
mod connection;
mod events;
mod load;
mod process;
mod report;

use std::error::Error;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use arrivals::Arrivals;
use events::{Requests, Shape};
use report::Measured;

#[derive(Parser)]
#[command(name = "presenceroute-bench", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Loads a relay and prints one line of JSON.
    Load(Box<Load>),
    /// Loads a relay whose source is an API destination, each event on a connection of its own, and prints one line of JSON.
    ApiDestination(Box<Deliver>),
    /// Reads such lines and prints the comparison of the two relays.
    Compare,
    /// Reads such lines and prints a line of Markdown for each scenario.
    Scenarios,
}

#[derive(clap::Args)]
struct Load {
    /// The relay, on this machine's loopback.
    #[arg(long, value_parser = loopback)]
    address: SocketAddr,
    /// Its process.
    #[arg(long)]
    server: u32,
    /// The name of its line in the table.
    #[arg(long)]
    relay: String,
    /// The name of the scenario.
    #[arg(long)]
    scenario: String,
    /// Which pair of runs this one belongs to.
    #[arg(long, default_value_t = 1)]
    pair: u32,
    /// Connections.
    #[arg(long, default_value_t = 256)]
    connections: usize,
    /// Events a second; without it, as many as the connections carry.
    #[arg(long)]
    rate: Option<f64>,
    /// How the events of a rate are spread over time.
    #[arg(long, value_enum, default_value_t = Arrivals::Even)]
    arrivals: Arrivals,
    /// Seconds before anything is measured.
    #[arg(long, default_value_t = 3.0)]
    warm_up: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The most events that are made ahead, where no rate says how many are needed.
    #[arg(long, default_value_t = 500_000)]
    events: usize,
    /// Bytes of a body.
    #[arg(long, default_value_t = 600)]
    body_bytes: usize,
    /// The events' types, taken in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    event_types: Vec<String>,
    /// The path that events are posted to.
    #[arg(long, default_value = "/eventbridge/presence")]
    path: String,
    /// What signs them.
    #[arg(long, env = "GENESYS_WEBHOOK_SECRET", hide_env_values = true)]
    secret: String,
}

#[derive(clap::Args)]
struct Deliver {
    /// The relay, on this machine's loopback.
    #[arg(long, value_parser = loopback)]
    address: SocketAddr,
    /// Its process.
    #[arg(long)]
    server: u32,
    /// The name of its line in the table.
    #[arg(long)]
    relay: String,
    /// The name of the scenario.
    #[arg(long)]
    scenario: String,
    /// Which round this run belongs to.
    #[arg(long, default_value_t = 1)]
    pair: u32,
    /// Deliveries that may be under way at once.
    #[arg(long, default_value_t = 64)]
    senders: usize,
    /// Events a second.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// How the events of a rate are spread over time.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// Seconds before anything is measured.
    #[arg(long, default_value_t = 3.0)]
    warm_up: f64,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The relay's certificate, for the name `relay`. Without it, plain HTTP.
    #[arg(long)]
    certificate: Option<PathBuf>,
    /// The header that carries the API key.
    #[arg(long, default_value = "X-Api-Key")]
    header: String,
    /// The API key.
    #[arg(long, env = "BENCH_API_KEY", hide_env_values = true)]
    key: String,
    /// The path that envelopes are posted to.
    #[arg(long, default_value = "/eventbridge/presence")]
    path: String,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|error| format!("{error}"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("load goes only to 127.0.0.0/8 or [::1]".into())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let output = match Arguments::parse().command {
        Command::Load(load) => serde_json::to_string(&measure(&load)?)? + "\n",
        Command::ApiDestination(deliver) => {
            serde_json::to_string(&measure_api_destination(&deliver)?)? + "\n"
        }
        Command::Compare => report::comparison(&read()?),
        Command::Scenarios => report::scenarios(&read()?),
    };
    std::io::stdout().write_all(output.as_bytes())?;
    Ok(())
}

fn read() -> Result<Vec<Measured>, Box<dyn Error>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn measure(load: &Load) -> Result<Measured, Box<dyn Error>> {
    let count = match load.rate {
        Some(rate) => (rate * (load.warm_up + load.seconds)) as usize + 1,
        None => load.events,
    };
    let plan = load::Plan {
        address: load.address,
        server: load.server,
        connections: load.connections,
        schedule: load.rate.map(|rate| arrivals::schedule(load.arrivals, rate, count)),
        warm_up: Duration::try_from_secs_f64(load.warm_up)?,
        measured: Duration::try_from_secs_f64(load.seconds)?,
    };
    let run = run_name()?;
    let host = load.address.to_string();
    let shape = Shape {
        host: &host,
        path: &load.path,
        secret: &load.secret,
        event_types: &load.event_types,
        body_bytes: load.body_bytes,
        run: &run,
    };
    let outcome = load::run(&plan, &Requests::make(&shape, count))?;
    Ok(measured(&load.relay, &load.scenario, load.pair, &outcome))
}

fn measure_api_destination(deliver: &Deliver) -> Result<Measured, Box<dyn Error>> {
    let count = (deliver.rate * (deliver.warm_up + deliver.seconds)) as usize + 1;
    let run = run_name()?;
    let plan = api_destination::Plan {
        address: deliver.address,
        server: deliver.server,
        tls: deliver.certificate.as_deref().map(api_destination::tls).transpose()?,
        senders: deliver.senders,
        schedule: arrivals::schedule(deliver.arrivals, deliver.rate, count),
        warm_up: Duration::try_from_secs_f64(deliver.warm_up)?,
        measured: Duration::try_from_secs_f64(deliver.seconds)?,
        header: &deliver.header,
        key: &deliver.key,
        path: &deliver.path,
        run: &run,
    };
    Ok(measured(&deliver.relay, &deliver.scenario, deliver.pair, &api_destination::run(&plan)?))
}

fn run_name() -> Result<String, Box<dyn Error>> {
    Ok(format!("{:x}-{:x}", std::process::id(), std::time::UNIX_EPOCH.elapsed()?.as_micros()))
}

fn measured(relay: &str, scenario: &str, pair: u32, outcome: &load::Outcome) -> Measured {
    let acknowledged = outcome.answers.get(&200).copied().unwrap_or_default();
    let per_event = |time: Duration| time.as_secs_f64() * 1e6 / outcome.processed.max(1) as f64;
    Measured {
        relay: relay.to_owned(),
        scenario: scenario.to_owned(),
        pair,
        acknowledged,
        failed: outcome.answers.values().sum::<u64>() - acknowledged,
        events_per_second: outcome.processed as f64 / outcome.seconds,
        cpu_micros: per_event(outcome.server_time),
        own_cpu_micros: per_event(outcome.own_time),
        p50: outcome.latencies.value_at_quantile(0.5),
        p99: outcome.latencies.value_at_quantile(0.99),
        p999: outcome.latencies.value_at_quantile(0.999),
        max: outcome.latencies.max(),
        memory: outcome.memory.0 as f64 / 1024.0,
        most_memory: outcome.memory.1 as f64 / 1024.0,
    }
}
