//! `validate -f FILE...`: the command line of [`lint`], in the operator and in the kubectl plugin.
//!
//! It reads files and standard input, writes the report to standard output and gives the exit code. What is wrong with a
//! manifest is left to [`lint`].

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::InstallationOptions;
use super::{Diagnostic, Origin, Report, Severity, Source, lint};
use crate::policy::Policy;
use crate::policy::file::read_policy;
use crate::relay_defaults::RelayDefaults;

/// What to check, and how to report it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all are valid, 1 one is not, 2 something cannot be read or there is nothing to check."
)]
pub struct LintArguments {
    /// Files or directories of manifests, or - for standard input. Of a directory, *.yaml, *.yml and *.json are read.
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    filename: Vec<PathBuf>,
    /// Read the directories in directories, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// A file with what the operator allows routes to ask for, such as the chart's value operator.policy.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The installation's defaults for spec.relay: the map under relay.defaults of the chart's values, in a file.
    #[arg(long, value_name = "FILE")]
    relay_defaults: Option<PathBuf>,
    /// Accept files without any PresenceRoute, as a hook does that passes whatever has changed.
    #[arg(long)]
    allow_none: bool,
    /// How the report is written.
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ReportFormat {
    /// For a person, one thing a line.
    #[default]
    Text,
    /// One object, for a program.
    Json,
    /// Workflow commands of GitHub Actions, which show each diagnostic at its line of a pull request.
    Github,
}

/// Checks the files, writes the report to standard output, and gives the exit code.
pub async fn run(arguments: &LintArguments) -> ExitCode {
    let mut report = report(arguments).await;
    if !arguments.allow_none {
        require_route(&mut report, &arguments.filename);
    }
    let text = match arguments.output {
        ReportFormat::Text => report.to_string(),
        // Text and numbers only: there is nothing that JSON could not hold.
        ReportFormat::Json => report.to_json().map(|json| json + "\n").unwrap_or_default(),
        ReportFormat::Github => report.to_workflow_commands(),
    };
    // A reader that has gone away wants no more.
    let _ = io::stdout().write_all(text.as_bytes());
    report.exit_code().into()
}

async fn report(arguments: &LintArguments) -> Report {
    match options(arguments) {
        Ok(options) => lint_files(&arguments.filename, arguments.recursive, &options).await,
        Err(unusable) => Report { diagnostics: vec![*unusable], ..Report::default() },
    }
}

/// What the named files say of the installation, or why one cannot be used.
fn options(arguments: &LintArguments) -> Result<InstallationOptions, Box<Diagnostic>> {
    let policy = match &arguments.policy {
        Some(file) => read_policy(file)
            .map_err(|error| Box::new(fatal(file.display().to_string(), error.to_string())))?,
        None => Policy::default(),
    };
    Ok(InstallationOptions { policy, relay_defaults: read_defaults(arguments.relay_defaults.as_deref())? })
}

/// Checks every manifest in files, directories and, by the name `-`, standard input.
pub async fn lint_files(paths: &[PathBuf], recursive: bool, options: &InstallationOptions) -> Report {
    let mut sources = Vec::new();
    let mut unreadable = Vec::new();
    for path in paths {
        match read(path, recursive) {
            Ok(read) => sources.extend(read),
            Err(error) => unreadable.push(fatal(path.display().to_string(), error.to_string())),
        }
    }
    let mut report = lint(&sources, options).await;
    report.diagnostics.splice(0..0, unreadable);
    report
}

/// Files without a PresenceRoute are mostly not those that were meant.
fn require_route(report: &mut Report, paths: &[PathBuf]) {
    if report.routes.is_empty() && report.diagnostics.is_empty() {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        report.diagnostics.push(fatal(names.join(" "), "there is no PresenceRoute to check".into()));
    }
}

/// The defaults in a file, or why they cannot be used.
fn read_defaults(file: Option<&Path>) -> Result<RelayDefaults, Box<Diagnostic>> {
    let Some(file) = file else { return Ok(RelayDefaults::default()) };
    let wrong = |message: String| Box::new(fatal(file.display().to_string(), message));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    RelayDefaults::parse(&text).map_err(|error| wrong(error.to_string()))
}

fn fatal(file: String, message: String) -> Diagnostic {
    Diagnostic {
        file,
        place: None,
        severity: Severity::Fatal,
        origin: Origin::Parser,
        route: String::new(),
        field: String::new(),
        message,
    }
}

/// The files that a path names.
fn read(path: &Path, recursive: bool) -> io::Result<Vec<Source>> {
    if path.as_os_str() == "-" {
        return Ok(vec![Source { file: "-".into(), text: io::read_to_string(io::stdin())? }]);
    }
    if !path.is_dir() {
        return Ok(vec![Source { file: path.display().to_string(), text: std::fs::read_to_string(path)? }]);
    }
    let mut entries = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    let mut sources = Vec::new();
    for entry in entries {
        let is_manifest = entry
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if (entry.is_dir() && recursive) || (!entry.is_dir() && is_manifest) {
            sources.extend(read(&entry, recursive)?);
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_fatal() {
        let report =
            lint_files(&["/does/not/exist.yaml".into()], false, &InstallationOptions::default()).await;
        assert_eq!(report.exit_code(), 2);
        assert!(report.to_string().starts_with("/does/not/exist.yaml: error: "), "{report}");
    }

    #[tokio::test]
    async fn a_policy_that_cannot_be_used_is_fatal_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        for (text, code) in
            [("annotations: ['*']", 0), ("annotations: []", 1), ("annotation: []", 2), ("annotations: [", 2)]
        {
            let policy = directory.path().join("policy.yaml");
            std::fs::write(&policy, text).unwrap();
            let arguments = LintArguments {
                filename: vec![manifest.clone()],
                recursive: true,
                allow_none: false,
                policy: Some(policy),
                relay_defaults: None,
                output: ReportFormat::Text,
            };
            let report = report(&arguments).await;
            assert_eq!(report.exit_code(), code, "{text}: {report}");
            if code == 2 {
                let text = report.to_string();
                assert!(
                    text.contains("policy.yaml: error: the policy file ") && text.lines().count() == 1,
                    "{text}"
                );
            }
        }
    }

    #[tokio::test]
    async fn files_without_a_route_are_fatal_unless_allowed() {
        let paths =
            [Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/genesys-simulator.yaml")];
        let mut report = lint_files(&paths, false, &InstallationOptions::default()).await;
        assert_eq!(report.exit_code(), 0);
        require_route(&mut report, &paths);
        assert_eq!(report.exit_code(), 2);
        assert!(
            report.to_string().ends_with("-simulator.yaml: error: there is no PresenceRoute to check\n"),
            "{report}"
        );
    }

    #[tokio::test]
    async fn the_examples_of_this_project_are_valid() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        let report = lint_files(&[examples], true, &InstallationOptions::default()).await;
        assert!(report.diagnostics.is_empty() && report.routes.len() >= 3, "{report}");
    }
}
