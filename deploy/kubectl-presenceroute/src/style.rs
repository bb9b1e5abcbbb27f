//! What is printed, in colours where the terminal has them. `anstream` honours `NO_COLOR` and its relatives, and takes the
//! colours out everywhere else.

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

/// The style of something that is right or wrong.
pub(crate) fn verdict(right: bool) -> (Style, &'static str) {
    if right { (GOOD, "✓") } else { (BAD, "✗") }
}

/// Prints to standard output.
pub(crate) fn print(text: &str) {
    // A reader that has gone away wants no more.
    let _ = anstream::stdout().lock().write_all(text.as_bytes());
}

/// Prints an error to standard error.
pub(crate) fn print_error(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{} {text}", paint(BAD, "error:"));
}

/// A line of progress on standard error, if that is a terminal.
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
