//! Completion, in shells and in kubectl.
//!
//! kubectl completes a plugin's arguments by running a program called `kubectl_complete-PLUGIN`, which prints one
//! completion a line and then a directive, as cobra does. Ours is a two-line script that calls the hidden command
//! `__complete`; the completions come from the same definition of the command line as everything else.

use std::ffi::{OsStr, OsString};

use clap::{CommandFactory, Parser, ValueEnum};
use clap_complete::aot::{Shell, generate};
use clap_complete::engine::{CompletionCandidate, complete};

use crate::cli::{Arguments, ClusterArguments};
use crate::cluster::Cluster;

/// How the scripts are put to use.
pub(crate) const HELP: &str = "\
For kubectl's own completion, put a program that it looks for beside this one:
  kubectl presenceroute completion kubectl > ~/.local/bin/kubectl_complete-presenceroute
  chmod +x ~/.local/bin/kubectl_complete-presenceroute
For the name kubectl-presenceroute itself:
  source <(kubectl presenceroute completion bash)";

/// cobra's ShellCompDirectiveNoFileComp.
const NO_FILES: &str = ":4";

const KUBECTL_SCRIPT: &str = "#!/usr/bin/env sh\nexec kubectl-presenceroute __complete \"$@\"\n";

/// What completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
    Kubectl,
}

/// The script for a shell.
pub(crate) fn script(shell: CompletionShell) -> String {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
        CompletionShell::Kubectl => return KUBECTL_SCRIPT.to_owned(),
    };
    let mut script = Vec::new();
    generate(shell, &mut Arguments::command(), "kubectl-presenceroute", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The completions of the last of `words`, and the directive.
pub(crate) fn candidates(words: &[OsString]) -> String {
    let begun = words.last().cloned().unwrap_or_default();
    let line: Vec<OsString> = [OsString::from("kubectl-presenceroute")]
        .into_iter()
        .chain(words.iter().cloned())
        .chain(words.is_empty().then(OsString::new))
        .collect();
    let last = line.len() - 1;
    let found = complete(&mut Arguments::command(), line, last, None).unwrap_or_default();
    let mut lines: Vec<String> = found
        .iter()
        .filter(|candidate| !candidate.is_hide_set())
        // A flag is offered to who has begun one.
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

/// The names of the routes in the namespace that the command line names. Where no cluster answers, there are none.
pub(crate) fn route_names(begun: &OsStr) -> Vec<CompletionCandidate> {
    let Some(begun) = begun.to_str() else { return Vec::new() };
    let names = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
            runtime.block_on(async {
                let cluster = Cluster::connect(&named_cluster()).await.ok()?;
                cluster.route_names().await.ok()
            })
        });
        asked.join().ok().flatten().unwrap_or_default()
    });
    names.into_iter().filter(|name| name.starts_with(begun)).map(CompletionCandidate::new).collect()
}

/// The cluster that the words before the one that is completed name.
fn named_cluster() -> ClusterArguments {
    /// Only the flags that say where.
    #[derive(Parser)]
    #[command(ignore_errors = true, no_binary_name = true)]
    struct Where {
        #[command(flatten)]
        cluster: ClusterArguments,
        #[arg(trailing_var_arg = false)]
        rest: Vec<OsString>,
    }
    let words = std::env::args_os().skip_while(|word| word != "__complete").skip(1);
    Where::try_parse_from(words).map(|found| found.cluster).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(words: &[&str]) -> String {
        candidates(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn kubectl_is_told_commands_flags_and_values() {
        let commands = completed(&[""]);
        assert!(commands.contains("status\tShow a route's") && commands.ends_with(":4\n"), "{commands}");
        assert!(!commands.contains("__complete") && !commands.contains("--namespace"), "{commands}");
        assert!(completed(&["st"]).starts_with("status"));
        assert!(completed(&["send", "--eve"]).starts_with("--event-type"));
        assert!(completed(&["completion", ""]).contains("zsh"));
    }

    #[test]
    fn every_shell_has_a_script() {
        for (shell, word) in [
            (CompletionShell::Bash, "complete -F"),
            (CompletionShell::Zsh, "#compdef kubectl-presenceroute"),
            (CompletionShell::Fish, "complete -c kubectl-presenceroute"),
            (CompletionShell::Kubectl, "kubectl-presenceroute __complete"),
        ] {
            assert!(script(shell).contains(word), "{shell:?}");
        }
    }
}
