//! Colours where there is a terminal that has them. `NO_COLOR` and its relatives are honoured by `anstream`, which
//! takes the colours out again everywhere else.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
pub(crate) const UNSURE: Style = AnsiColor::Yellow.on_default();
pub(crate) const FAINT: Style = Style::new().dimmed();
pub(crate) const STRONG: Style = Style::new().bold();

/// Text in a style.
pub(crate) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints to standard output.
pub(crate) fn say(text: &str) {
    // A reader that has gone away wants no more.
    let _ = anstream::stdout().lock().write_all(text.as_bytes());
}

/// Prints why something cannot be done to standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{} {text}", paint(BAD, "error:"));
}

/// A line that says how far something is, for a person at a terminal; for anybody else it says nothing.
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    /// Replaces the line.
    pub(crate) fn show(&self, text: &str) {
        if self.shown {
            let _ = write!(anstream::stderr().lock(), "\r\x1b[K{}", paint(FAINT, text));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(anstream::stderr().lock(), "\r\x1b[K");
        }
    }
}
