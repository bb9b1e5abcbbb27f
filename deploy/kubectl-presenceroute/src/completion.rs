//! Completion, in shells and in kubectl.
//!
//! kubectl completes a plugin's arguments by running a program called `kubectl_complete-PLUGIN`, which prints one
//! completion a line and then a directive, as cobra does. Ours is a two-line script that calls the hidden command
//! `__complete`. The command line itself comes from the caller; values are completed where their arguments are.

use std::ffi::{OsStr, OsString};

use clap::{Command, ValueEnum};
use clap_complete::aot::{Shell, generate};
use clap_complete::engine::complete;

/// How to install the scripts.
pub(crate) const HELP: &str = "\
For kubectl's own completion, put the program that kubectl looks for beside this one:
  kubectl presenceroute completion kubectl > ~/.local/bin/kubectl_complete-presenceroute
  chmod +x ~/.local/bin/kubectl_complete-presenceroute
For the name kubectl-presenceroute itself:
  source <(kubectl presenceroute completion bash)";

/// cobra's ShellCompDirectiveNoFileComp.
const NO_FILES: &str = ":4";

const KUBECTL_SCRIPT: &str = "#!/usr/bin/env sh\nexec kubectl-presenceroute __complete \"$@\"\n";

/// What the completions are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
    Kubectl,
}

/// The script for a shell.
pub(crate) fn script(shell: CompletionShell, command: &mut Command) -> String {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
        CompletionShell::Kubectl => return KUBECTL_SCRIPT.to_owned(),
    };
    let mut script = Vec::new();
    generate(shell, command, "kubectl-presenceroute", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The completions of the last of `words`, and the directive.
pub(crate) fn candidates(words: &[OsString], command: &mut Command) -> String {
    let begun = words.last().cloned().unwrap_or_default();
    let line: Vec<OsString> = [OsString::from("kubectl-presenceroute")]
        .into_iter()
        .chain(words.iter().cloned())
        .chain(words.is_empty().then(OsString::new))
        .collect();
    let last = line.len() - 1;
    let found = complete(command, line, last, None).unwrap_or_default();
    let mut lines: Vec<String> = found
        .iter()
        .filter(|candidate| !candidate.is_hide_set())
        // A flag is offered once it has been begun.
        .filter(|candidate| is_flag(&begun) || !is_flag(candidate.get_value()))
        .map(|candidate| match candidate.get_help() {
            Some(help) => format!("{}\t{help}", candidate.get_value().display()),
            None => candidate.get_value().display().to_string(),
        })
        .collect();
    lines.push(NO_FILES.into());
    lines.join("\n") + "\n"
}

fn is_flag(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::CommandFactory;

    fn completed(words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        candidates(&words, &mut Arguments::command())
    }

    #[test]
    fn kubectl_completes_commands_flags_and_values() {
        let commands = completed(&[""]);
        assert!(commands.contains("status\tShow a route's") && commands.ends_with(":4\n"), "{commands}");
        assert!(!commands.contains("__complete") && !commands.contains("--namespace"), "{commands}");
        assert!(completed(&["st"]).starts_with("status"));
        assert!(completed(&["send", "--eve"]).starts_with("--event-type"));
        assert!(completed(&["completion", ""]).contains("zsh"));
        assert!(completed(&["aws", "--format", ""]).contains("terraform"));
        assert!(completed(&["aws", "--identity", ""]).contains("pod-identity"));
    }

    #[test]
    fn every_shell_has_a_script() {
        for (shell, word) in [
            (CompletionShell::Bash, "complete -F"),
            (CompletionShell::Zsh, "#compdef kubectl-presenceroute"),
            (CompletionShell::Fish, "complete -c kubectl-presenceroute"),
            (CompletionShell::Kubectl, "kubectl-presenceroute __complete"),
        ] {
            assert!(script(shell, &mut Arguments::command()).contains(word), "{shell:?}");
        }
    }
}
