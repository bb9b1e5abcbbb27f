//! Tells what is being proven while it is proven, and counts.

use std::io::Write;
use std::time::Instant;

use crate::Outcome;

/// A step failed, and it was told why. What builds on it is left out.
#[derive(Debug)]
pub struct Stopped;

/// All that is proven in one run.
pub struct Steps<'d> {
    passed: u32,
    failed: u32,
    only: Option<String>,
    began: Instant,
    diagnose: Box<dyn Fn() + 'd>,
}

impl<'d> Steps<'d> {
    /// Proves all scenarios, or those with `only` in their names. `diagnose` shows the scene of a failure.
    pub fn new(only: Option<String>, diagnose: impl Fn() + 'd) -> Self {
        Self { passed: 0, failed: 0, only, began: Instant::now(), diagnose: Box::new(diagnose) }
    }

    /// A story of several steps, each of which builds on those before it.
    pub fn scenario(&mut self, name: &str, story: impl FnOnce(&mut Self) -> Result<(), Stopped>) {
        if self.only.as_ref().is_some_and(|only| !name.contains(only)) {
            return;
        }
        say(&format!("\n{name}"));
        if story(self).is_err() {
            say("      the rest of this scenario builds on it, and is left out");
        }
    }

    /// One step, named by the sentence that it proves.
    pub fn prove<T>(&mut self, sentence: &str, proof: impl FnOnce() -> Outcome<T>) -> Result<T, Stopped> {
        let began = Instant::now();
        let result = proof();
        let took = began.elapsed().as_secs_f64();
        match result {
            Ok(value) => {
                self.passed += 1;
                say(&format!("ok    {sentence} ({took:.1} s)"));
                Ok(value)
            }
            Err(failure) => {
                self.failed += 1;
                say(&format!("FAIL  {sentence} ({took:.1} s)\n      {failure}"));
                (self.diagnose)();
                Err(Stopped)
            }
        }
    }

    /// The count, in the words of cargo's own test runner, and whether all is well.
    pub fn finish(self) -> bool {
        let well = self.failed == 0 && self.passed > 0;
        let verdict = if well { "ok" } else { "FAILED" };
        let Self { passed, failed, .. } = self;
        let took = self.began.elapsed().as_secs_f64();
        say(&format!(
            "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {took:.2}s"
        ));
        well
    }
}

/// Tells the person who watches.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody watches any more, perhaps; the test goes on.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Tells a number that was measured.
pub fn measured(what: &str) {
    say(&format!("      {what}"));
}
