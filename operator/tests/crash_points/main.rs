//! The operator is killed (SIGKILL) at every single step of the life of a registration, and started again: afterwards
//! Genesys holds exactly the registration that the spec asks for, and the route is Ready; after a deletion, none.
//!
//! The operator is the program itself, on a real API server, with real relay pods; the simulator is in the place of
//! Genesys. It reaches both through proxies that count its steps: every request that writes to Kubernetes, and every
//! call to Genesys. For n = 1, 2, 3, … a flow is played until it ends without reaching its n-th step, once with the
//! operator killed before that request is carried out, once after that and before the answer. So no step is left out,
//! and the operator needs no hook for it. A creation at Genesys is also kept back until the next operator is done, and
//! carried out then.
//!
//! Not part of `cargo test`. It needs a cluster whose pods this machine reaches, with the relay's image in it, and a
//! broker: those of `tests/harness`.
//!
//! ```text
//! cargo test -p presenceroute-operator --test crash_points              # one step of each kind, in two minutes
//! cargo test -p presenceroute-operator --test crash_points -- --all     # every step, in a quarter of an hour
//! cargo test -p presenceroute-operator --test crash_points -- --all create delete
//! ```

#![allow(clippy::print_stdout, reason = "the table is what this test is for")]

mod flow;
mod proxy;
mod stage;
mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::flow::Flow;
use crate::stage::{Asked, Stage};
use crate::steps::{At, KEPT_CLIENTS, Side, Step};

/// Why the test cannot go on, or what it found.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// How long everything may take to be right again after a crash.
const RECOVERY: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let all = arguments.iter().any(|argument| argument == "--all");
    let is_wanted = |flow: Flow| {
        let mut named = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        named.peek().is_none() || named.any(|name| name == flow.name())
    };
    let began = Instant::now();
    let mut table = Table::default();
    let result = match Stage::prepare().await {
        Ok(stage) => {
            let result = play(&stage, &mut table, all, is_wanted).await;
            if let Err(failure) = &result {
                println!("FAIL  {failure}");
                stage.show();
            }
            stage.clear().await.and(result)
        }
        Err(failure) => {
            println!("FAIL  the stage cannot be set: {failure}");
            Err(failure)
        }
    };
    let failed = u32::from(result.is_err());
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let (passed, took) = (table.passed, began.elapsed().as_secs_f64());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {took:.2}s"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The table of what was proven.
#[derive(Default)]
struct Table {
    passed: u32,
}

impl Table {
    fn row(&mut self, flow: Flow, step: &Step, side: Side, took: Duration) {
        self.passed += 1;
        let Step { number, what } = step;
        println!(
            "ok    {:<7} {number:>2}  {what:<46} killed {side:<6}  right again after {:.1} s",
            flow.name(),
            took.as_secs_f64()
        );
    }

    fn proven(&mut self, sentence: &str) {
        self.passed += 1;
        println!("ok    {sentence}");
    }
}

async fn play(stage: &Stage, table: &mut Table, all: bool, is_wanted: impl Fn(Flow) -> bool) -> Outcome {
    for flow in [Flow::Create, Flow::Delete].into_iter().filter(|flow| is_wanted(*flow)) {
        every_step(stage, table, flow, &mut None, all).await?;
    }
    if is_wanted(Flow::Delete) {
        deletion_of_what_comes_late(stage).await?;
        table.proven(
            "a registration that comes after its route was deleted is removed before the route is let go",
        );
    }
    let mut steady = Some(stage.reachable_route("steady").await?);
    for flow in [Flow::Update, Flow::Move].into_iter().filter(|flow| is_wanted(*flow)) {
        every_step(stage, table, flow, &mut steady, all).await?;
    }

    if !is_wanted(Flow::Rotate) {
        return Ok(());
    }
    // As long as it takes, events flow, and none is tried twice: what is refused is lost.
    let Some(asked) = &steady else { return Err("the steady route is gone".into()) };
    let load = stage.deliver(asked, json!({"ratePerSecond": 20})).await?;
    every_step(stage, table, Flow::Rotate, &mut steady, all).await?;
    let summary = load.end().await;
    summary.ensure_all_accepted()?;
    table.proven(&format!(
        "{} events were delivered meanwhile, each at the first try: none was refused",
        summary.events
    ));

    let Some(steady) = steady else { return Err("the steady route is gone".into()) };
    secret_drift(stage, &steady).await?;
    table.proven("a secret that was changed at Genesys is sent again when the relays report it");
    oauth_rotation(stage, &steady).await?;
    table.proven("another OAuth client in the Secret is used by the next call, for the same registration");
    Ok(())
}

/// Kills the operator at each step of the flow, before and after it; `subject` is the route that is used again and
/// again, where the flow does not make a new one each time.
async fn every_step(
    stage: &Stage,
    table: &mut Table,
    flow: Flow,
    subject: &mut Option<Asked>,
    all: bool,
) -> Outcome {
    // Once without a crash, to know what there is.
    let Run::Ended(steps) = run(stage, flow, subject, None, all).await? else {
        return Err("a crash that was not planned".into());
    };
    println!("\n{}: {} steps", flow.name(), steps.len());
    if !all {
        for (at, side) in sample(flow, &steps) {
            match run(stage, flow, subject, Some((at.clone(), side)), all).await? {
                Run::Crashed(step, took) => table.row(flow, &step, side, took),
                Run::Ended(steps) => return Err(format!("{at:?} did not come again: {steps:?}").into()),
            }
        }
        return Ok(());
    }
    for number in 1.. {
        let mut sides = vec![Side::Late, Side::After, Side::Before];
        while let Some(side) = sides.pop() {
            match run(stage, flow, subject, Some((At::Number(number), side)), all).await? {
                Run::Crashed(step, took) => {
                    table.row(flow, &step, side, took);
                    sides.retain(|side| step.is_creation() || *side != Side::Late);
                }
                // The last step of all is behind us.
                Run::Ended(_) if number > 1 => return Ok(()),
                Run::Ended(_) => return Err(format!("{} has no step at all", flow.name()).into()),
            }
        }
    }
    Ok(())
}

/// Each kind of step once: what changes something at Genesys, before and after; what is asked there while a route is
/// made; and what is written down of it in Kubernetes.
fn sample(flow: Flow, steps: &[Step]) -> Vec<(At, Side)> {
    let mut chosen = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let kind = step.kind();
        let nth = 1 + steps[..index].iter().filter(|earlier| earlier.kind() == kind).count();
        let sides: &[Side] = match kind {
            _ if step.is_creation() => &[Side::Before, Side::After, Side::Late],
            _ if kind.starts_with("Genesys: ") && !kind.ends_with("GET") && !kind.contains("token") => {
                &[Side::Before, Side::After]
            }
            _ if kind.starts_with("Genesys: ") && flow == Flow::Create && nth == 1 => &[Side::After],
            "PATCH secrets" => &[Side::After],
            // Between, the next look at the registration lets go of a client that is not needed any more.
            KEPT_CLIENTS if matches!(flow, Flow::Create | Flow::Delete) => &[Side::After],
            "PATCH presenceroutes" | "PATCH presenceroutes/status" if nth == 1 => &[Side::After],
            _ => &[],
        };
        chosen.extend(sides.iter().map(|side| (At::Kind(kind.to_owned(), nth), *side)));
    }
    chosen
}

enum Run {
    /// The operator was killed at this step, and all was right again so long after it was started anew.
    Crashed(Step, Duration),
    /// The flow came to its end, by these steps.
    Ended(Vec<Step>),
}

async fn run(
    stage: &Stage,
    flow: Flow,
    subject: &mut Option<Asked>,
    crash: Option<(At, Side)>,
    all: bool,
) -> Outcome<Run> {
    let mut asked = flow.prepare(stage, subject.take()).await?;
    stage.quiet().await?;
    if all || flow == Flow::Create {
        // A token that is refused, and a new one, are steps, too.
        stage.expire_tokens();
    }
    let what = format!("{}, killed at {crash:?}", flow.name());
    let side = crash.as_ref().map(|(_, side)| *side);
    stage.steps.arm(crash);
    flow.act(stage, &mut asked).await?;
    let crashed = loop {
        if let Some(step) = stage.steps.crashed() {
            break Some(step);
        }
        if stage.is_as(&asked).await.is_ok() && stage.steps.are_quiet() {
            break None;
        }
        stage.steps.ensure_in_time(RECOVERY).or_else(|failure| match stage.steps.crashed() {
            Some(_) => Ok(()),
            None => Err(failure),
        })?;
        tokio::time::sleep(stage::PAUSE).await;
    };
    let seen = stage.steps.disarm();
    let run = match crashed {
        None => Run::Ended(seen),
        Some(step) => {
            let began = Instant::now();
            stage.start_operator().await?;
            let name = |failure| format!("{what}: {failure}");
            stage.becomes(&asked, RECOVERY).await.map_err(name)?;
            if side == Some(Side::Late) {
                stage.steps.let_come_late().await;
                stage.becomes_otherwise(&asked).await.map_err(name)?;
                stage.becomes(&asked, RECOVERY).await.map_err(name)?;
            }
            Run::Crashed(step, began.elapsed())
        }
    };
    *subject = flow.finish(stage, asked).await?;
    Ok(run)
}

/// The operator dies while it creates a registration, the route is deleted, and the creation is carried out after the next
/// operator has looked for it.
async fn deletion_of_what_comes_late(stage: &Stage) -> Outcome {
    let mut asked = Flow::Create.prepare(stage, None).await?;
    stage.quiet().await?;
    stage.steps.arm(Some((At::Kind("Genesys: creation, POST".to_owned(), 1), Side::Late)));
    Flow::Create.act(stage, &mut asked).await?;
    while stage.steps.crashed().is_none() {
        stage.steps.ensure_in_time(stage::RECOVERY_OF_PODS)?;
        tokio::time::sleep(stage::PAUSE).await;
    }
    stage.steps.disarm();
    Flow::Delete.act(stage, &mut asked).await?;
    stage.steps.arm(None);
    stage.start_operator().await?;
    while !stage.steps.saw("Genesys: look-up by name, GET") {
        stage.steps.ensure_in_time(RECOVERY)?;
        tokio::time::sleep(stage::PAUSE).await;
    }
    stage.quiet().await?;
    stage.steps.let_come_late().await;
    stage.steps.disarm();
    stage.registration(&asked)?;
    stage.becomes(&asked, RECOVERY).await
}

/// The registration is given another secret at Genesys, which no event announces.
async fn secret_drift(stage: &Stage, steady: &Asked) -> Outcome {
    stage.change_secret_at_genesys(steady, "changed-at-genesys").await?;
    let began = Instant::now();
    loop {
        let tried = stage.deliver(steady, json!({"count": 3})).await?.finished().await;
        if tried.ensure_all_accepted().is_ok() {
            break;
        }
        if began.elapsed() > RECOVERY {
            return Err(format!("the relays still refuse what Genesys signs: {tried:?}").into());
        }
        // It would look by itself within five minutes.
        stage.wake(steady).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stage.becomes(steady, RECOVERY).await?;
    stage.has_event(&steady.name, "SecretSentAgain").await
}

async fn oauth_rotation(stage: &Stage, steady: &Asked) -> Outcome {
    let before = stage.registration(steady)?;
    stage.rotate_oauth_client("the-next-client").await?;
    stage.called_by(steady, "the-next-client", RECOVERY).await?;
    stage.becomes(steady, RECOVERY).await?;
    let after = stage.registration(steady)?;
    if before.id != after.id {
        return Err(format!("the registration {} was replaced by {}", before.id, after.id).into());
    }
    Ok(())
}
