//! A scenario: steps, each of which builds on those before it. Every step is reported while the scenario runs. For the
//! runner a scenario is one test, because none of its steps can be run by itself.

use std::io::Write;
use std::time::Instant;

use libtest_mimic::Failed;

use crate::Outcome;

/// A step failed, and the reason has been reported. What builds on it is left out.
#[derive(Debug)]
pub struct Stopped;

/// The steps of one scenario.
pub struct Steps<'d> {
    failed: Vec<String>,
    diagnose: Box<dyn Fn() + 'd>,
}

impl<'d> Steps<'d> {
    /// Runs a scenario. It fails with the steps of it that failed. `diagnose` shows the state of things after a failure.
    pub fn run(
        diagnose: impl Fn() + 'd,
        story: impl FnOnce(&mut Self) -> Result<(), Stopped>,
    ) -> Result<(), Failed> {
        let mut steps = Self { failed: Vec::new(), diagnose: Box::new(diagnose) };
        // The runner has begun a line with the test's name.
        say("");
        if story(&mut steps).is_err() {
            say("      the rest of this scenario builds on it, and is left out");
        }
        if steps.failed.is_empty() { Ok(()) } else { Err(steps.failed.join("\n").into()) }
    }

    /// One step, named by the sentence that it proves.
    pub fn prove<T>(&mut self, sentence: &str, proof: impl FnOnce() -> Outcome<T>) -> Result<T, Stopped> {
        let began = Instant::now();
        let result = proof();
        let took = began.elapsed().as_secs_f64();
        match result {
            Ok(value) => {
                say(&format!("  ok    {sentence} ({took:.1} s)"));
                Ok(value)
            }
            Err(failure) => {
                say(&format!("  FAIL  {sentence} ({took:.1} s)\n      {failure}"));
                self.failed.push(format!("{sentence}: {failure}"));
                (self.diagnose)();
                Err(Stopped)
            }
        }
    }
}

/// Prints a line at once.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nothing reads it any more, perhaps; the test goes on.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Prints a number that was measured.
pub fn measured(what: &str) {
    say(&format!("      {what}"));
}
