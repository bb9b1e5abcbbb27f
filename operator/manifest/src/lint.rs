//! `validate -f`: what the cluster would say of manifests, for an editor or a CI job, without a cluster.
//!
//! Two judges are asked in the order in which a route meets them: the API server ([`admission`]), which refuses what
//! the definition does not allow, and the operator ([`validate`]), which says in the `Accepted` condition what only
//! it can know. Findings are written as compilers do, `FILE:LINE:COLUMN: error: ...`, or as JSON.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use presenceroute_crds::PresenceRoute;
use serde::Serialize;

use crate::admission::admit;
use crate::conflicts::common_claims;
use crate::dereference::{SecretProblem, SecretSource, dereference};
use crate::document::{Document, Manifest, Place};
use crate::field::FieldPath;
use crate::validate::validate;
use presenceroute_core::region::is_known;

/// What to check, and how to tell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all are valid, 1 one is not, 2 something cannot be read or there is nothing to check."
)]
pub struct CheckArguments {
    /// Files or directories of manifests, or - for standard input. Of a directory, *.yaml, *.yml and *.json are read.
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    filename: Vec<PathBuf>,
    /// Read the directories in directories, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// How the findings are written.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For a person, one thing a line.
    #[default]
    Text,
    /// One object, for a program.
    Json,
}

/// All that there is to say of some manifests.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Every PresenceRoute, in the order of the files.
    pub routes: Vec<CheckedRoute>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// A PresenceRoute of a manifest.
#[derive(Debug, Serialize)]
pub struct CheckedRoute {
    /// The file.
    pub file: String,
    /// Where the object begins in it.
    #[serde(flatten)]
    pub place: Place,
    /// The namespace that it names.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What its routing table will be called, when it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many routes it has, when it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<usize>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The file, or `-`.
    pub file: String,
    /// Where in it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// How bad it is.
    pub severity: Severity,
    /// Who would say so.
    pub by: Judge,
    /// The PresenceRoute, as NAMESPACE/NAME or NAME.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifest would be taken, and would wait for something else to be put right.
    Warning,
    /// The manifest is not valid.
    Error,
    /// Nothing could be judged.
    Unusable,
}

/// Who would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Judge {
    /// Whoever reads the file.
    Reader,
    /// The API server, at `kubectl apply`.
    ApiServer,
    /// The operator, in a condition.
    Operator,
}

/// Checks the files, tells standard output, and gives the exit code.
pub async fn run(arguments: &CheckArguments) -> ExitCode {
    let report = check_files(&arguments.filename, arguments.recursive).await;
    let told = match arguments.output {
        Format::Text => report.to_string(),
        Format::Json => report.to_json(),
    };
    // A reader that has gone away wants no more.
    let _ = io::stdout().write_all(told.as_bytes());
    report.exit_code().into()
}

/// Checks every manifest in files, directories and, by the name `-`, standard input.
pub async fn check_files(paths: &[PathBuf], recursive: bool) -> Report {
    let mut report = Report::default();
    let mut manifests = Vec::new();
    for path in paths {
        match texts(path, recursive) {
            Ok(texts) => manifests.extend(texts),
            Err(error) => report.unusable(&path.display().to_string(), error.to_string()),
        }
    }
    check_texts(&manifests, &mut report).await;
    if report.routes.is_empty() && report.findings.is_empty() {
        let names: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        report.unusable(&names.join(" "), "there is no PresenceRoute to check".into());
    }
    report
}

/// Checks manifests that have been read, each with the name of its file. A Secret in one is known to all.
async fn check_texts(texts: &[(String, String)], report: &mut Report) {
    let mut manifests = Vec::new();
    let mut secrets = Secrets::new();
    for (file, text) in texts {
        match Manifest::parse(text) {
            Ok(mut manifest) => {
                secrets.extend(std::mem::take(&mut manifest.secrets).into_values().map(|secret| {
                    let metadata = &secret.metadata;
                    ((metadata.namespace.clone(), metadata.name.clone().unwrap_or_default()), secret)
                }));
                manifests.push((file, manifest.routes));
            }
            Err(error) => report.findings.push(Finding {
                file: file.clone(),
                place: Some(error.place()),
                severity: Severity::Error,
                by: Judge::Reader,
                route: String::new(),
                field: String::new(),
                message: error.to_string(),
            }),
        }
    }
    let mut admitted: Vec<(&str, PresenceRoute)> = Vec::new();
    for (file, documents) in &manifests {
        for document in documents {
            let Some(route) = check_document(file, document, &secrets, report).await else { continue };
            for (other_file, other) in &admitted {
                check_claims(file, document, &route, other_file, other, report);
            }
            admitted.push((file, route));
        }
    }
}

/// Finds what two routes claim both. The same route twice is one, in two states of it.
fn check_claims(
    file: &str,
    document: &Document,
    route: &PresenceRoute,
    other_file: &str,
    other: &PresenceRoute,
    report: &mut Report,
) {
    if (route.namespace(), route.name_any()) == (other.namespace(), other.name_any()) {
        return;
    }
    report.findings.extend(common_claims(route, other).iter().map(|field| {
        let whose = named(&other.namespace().unwrap_or_default(), &other.name_any());
        let message =
            format!("PresenceRoute {whose:?} in {other_file} claims the same; change one of the two");
        finding(file, document, Severity::Error, Judge::Operator, field, message)
    }));
}

fn named(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

fn finding(
    file: &str,
    document: &Document,
    severity: Severity,
    by: Judge,
    field: &FieldPath,
    message: String,
) -> Finding {
    Finding {
        file: file.to_owned(),
        place: Some(document.place(field)),
        severity,
        by,
        route: named(document.text("/metadata/namespace"), document.text("/metadata/name")),
        field: field.to_string(),
        message,
    }
}

/// Checks one route by itself, and gives it as the API server would store it, if it would.
async fn check_document(
    file: &str,
    document: &Document,
    secrets: &Secrets,
    report: &mut Report,
) -> Option<PresenceRoute> {
    let (namespace, name) = (document.text("/metadata/namespace"), document.text("/metadata/name"));
    let finding = |severity, by, field: &FieldPath, message: String| {
        finding(file, document, severity, by, field, message)
    };
    let mut checked = CheckedRoute {
        file: file.to_owned(),
        place: document.place(&FieldPath::default()),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        revision: None,
        routes: None,
    };
    let mut stored = None;
    match admit(document.value()) {
        Err(refusals) => report.findings.extend(
            refusals
                .into_iter()
                .map(|refusal| finding(Severity::Error, Judge::ApiServer, &refusal.field, refusal.cause)),
        ),
        Ok(object) => {
            let here = FieldPath::default().child("spec");
            let admitted: PresenceRoute = match serde_json::from_value(object) {
                Ok(admitted) => admitted,
                Err(cause) => {
                    // The API server takes what the schema leaves open, such as a number that is too large.
                    report.findings.push(finding(Severity::Error, Judge::Operator, &here, cause.to_string()));
                    report.routes.push(checked);
                    return None;
                }
            };
            let source = SecretsOf { secrets, namespace: admitted.metadata.namespace.clone() };
            let Ok(references) = dereference(&admitted.spec, &source).await;
            let genesys = here.child("genesys");
            report.findings.extend(
                admitted.spec.genesys.region.iter().filter(|region| !is_known(region)).map(|region| {
                    let message =
                        format!("{region:?} is no known region; check its spelling, unless it is a new one");
                    finding(Severity::Warning, Judge::Operator, &genesys.child("region"), message)
                }),
            );
            match validate(&admitted, references) {
                Err(problems) => report.findings.extend(problems.iter().map(|problem| {
                    finding(Severity::Error, Judge::Operator, &problem.field(), problem.cause())
                })),
                Ok(model) => {
                    checked.revision = Some(model.table.revision().to_owned());
                    checked.routes = Some(model.table.routes().len());
                    // A Secret that is not among these manifests may well be in the cluster.
                    let problems = model
                        .secret_problems()
                        .into_iter()
                        .filter(|problem| !matches!(problem, SecretProblem::Missing(_)));
                    report.findings.extend(problems.map(|problem| {
                        finding(Severity::Warning, Judge::Operator, &here, problem.to_string())
                    }));
                }
            }
            stored = Some(admitted);
        }
    }
    report.routes.push(checked);
    stored
}

impl Report {
    fn unusable(&mut self, file: &str, message: String) {
        self.findings.push(Finding {
            file: file.to_owned(),
            place: None,
            severity: Severity::Unusable,
            by: Judge::Reader,
            route: String::new(),
            field: String::new(),
            message,
        });
    }

    /// 0 when all is valid, 1 when something is not, 2 when something could not be judged.
    pub fn exit_code(&self) -> u8 {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None | Some(Severity::Warning) => 0,
            Some(Severity::Error) => 1,
            Some(Severity::Unusable) => 2,
        }
    }

    fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Answer<'r> {
            valid: bool,
            #[serde(flatten)]
            report: &'r Report,
        }
        let answer = Answer { valid: self.exit_code() == 0, report: self };
        // Text and numbers only: there is nothing that JSON could not hold.
        serde_json::to_string_pretty(&answer).map(|json| json + "\n").unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(formatter, "{finding}")?;
        }
        for route in &self.routes {
            if let (Some(revision), Some(routes)) = (&route.revision, route.routes) {
                let CheckedRoute { file, name, place: Place { line, .. }, .. } = route;
                let plural = if routes == 1 { "" } else { "s" };
                writeln!(
                    formatter,
                    "{file}:{line}: PresenceRoute {name:?} is valid: {routes} route{plural}, revision {revision}"
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(formatter, ":{line}:{column}")?;
        }
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error | Severity::Unusable => "error",
        };
        write!(formatter, ": {severity}: ")?;
        if !self.route.is_empty() {
            write!(formatter, "PresenceRoute {:?}: ", self.route)?;
        }
        if !self.field.is_empty() {
            write!(formatter, "{}: ", self.field)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Secrets by namespace and name.
type Secrets = BTreeMap<(Option<String>, String), Secret>;

struct SecretsOf<'s> {
    secrets: &'s Secrets,
    namespace: Option<String>,
}

impl SecretSource for SecretsOf<'_> {
    type Error = Infallible;

    async fn secret(&self, name: &str) -> Result<Option<Secret>, Infallible> {
        Ok(self.secrets.get(&(self.namespace.clone(), name.to_owned())).cloned())
    }
}

/// The files that a path stands for, each with its name and its text.
fn texts(path: &Path, recursive: bool) -> io::Result<Vec<(String, String)>> {
    if path.as_os_str() == "-" {
        return Ok(vec![("-".into(), io::read_to_string(io::stdin())?)]);
    }
    if !path.is_dir() {
        return Ok(vec![(path.display().to_string(), std::fs::read_to_string(path)?)]);
    }
    let mut entries = std::fs::read_dir(path)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let is_manifest = entry
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known));
        if (entry.is_dir() && recursive) || (!entry.is_dir() && is_manifest) {
            found.extend(texts(&entry, recursive)?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = r#"apiVersion: presenceroute.io/v1alpha1
kind: PresenceRoute
metadata: {name: one, namespace: presence}
spec:
  genesys: {region: mypurecloud.ie, credentialsSecretRef: {name: oauth}}
  source: {webhook: {signingSecretRef: {name: webhook}}}
  endpoint: {url: "https://presence.example.com/events"}
  routes:
  - {eventType: "presence:state:changed", topic: states}
  kafka: {bootstrapServers: ["kafka:9092"]}
"#;

    async fn report(files: &[&str]) -> Report {
        let texts: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(index, text)| (format!("{index}.yaml"), (*text).to_owned()))
            .collect();
        let mut report = Report::default();
        check_texts(&texts, &mut report).await;
        report
    }

    #[tokio::test]
    async fn what_is_valid_is_told_with_its_revision() {
        let report = report(&[RIGHT]).await;
        let told = report.to_string();
        assert!(told.starts_with("0.yaml:1: PresenceRoute \"one\" is valid: 1 route, revision "), "{told}");
        assert_eq!(report.exit_code(), 0);
    }

    #[tokio::test]
    async fn what_the_api_server_refuses_is_told_with_file_line_and_column() {
        let wrong = RIGHT.replace("topic: states}", "topic: gen presence}");
        let report = report(&[RIGHT, &format!("# two\n---\n{wrong}")]).await;
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.findings[0].to_string(),
            "1.yaml:11:43: error: PresenceRoute \"presence/one\": spec.routes[0].topic: must be a legal Kafka topic \
             name: letters, digits, dots, underscores and hyphens, at most 249"
        );
    }

    #[tokio::test]
    async fn what_only_the_operator_can_know_is_told_too() {
        let wrong = RIGHT.replace("topic: states}", "topic: states, when: attribute.x == 1}");
        let report = report(&[&wrong]).await;
        let finding = &report.findings[0];
        assert_eq!((finding.by, finding.field.as_str()), (Judge::Operator, "spec.routes[0].when"));
        assert_eq!(finding.place, Some(Place { line: 9, column: 58 }));
        assert!(finding.message.contains("`attribute`, which is unknown"), "{finding}");
        let wrong = RIGHT.replace("[\"kafka:9092\"]", "[\"kafka:9092\"], properties: {acks: \"1\"}");
        let finding = &self::report(&[&wrong]).await.findings[0];
        assert_eq!(finding.field, "spec.kafka.properties.acks");
    }

    #[tokio::test]
    async fn a_secret_among_the_manifests_is_looked_into_and_its_faults_are_warnings() {
        let secret =
            "kind: Secret\nmetadata: {name: webhook, namespace: presence}\nstringData: {secrets: x}\n";
        let report = report(&[RIGHT, secret]).await;
        assert_eq!(report.exit_code(), 0);
        let told = report.findings[0].to_string();
        assert!(told.contains("warning") && told.contains("no key \"secret\""), "{told}");
    }

    #[tokio::test]
    async fn every_document_and_every_fault_is_told() {
        let wrong = RIGHT.replace("mypurecloud.ie", "Ireland").replace("states}", "st*}");
        let report = report(&[&format!("{wrong}---\n{RIGHT}---\nkind: Service\n---\n{wrong}")]).await;
        assert_eq!(report.findings.len(), 4);
        assert_eq!(report.routes.len(), 3);
    }

    #[tokio::test]
    async fn two_routes_that_claim_one_url_or_one_name_are_told_wherever_they_are_written() {
        let other = RIGHT.replace("name: one,", "name: two,");
        let report = report(&[RIGHT, &other]).await;
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "1.yaml:7:14: error: PresenceRoute \"presence/two\": spec.endpoint.url: PresenceRoute \"presence/one\" in \
              0.yaml claims the same; change one of the two"
            ]
        );
        let named = |text: &str, host: &str| {
            let text = text.replace("{name: webhook}}", "{name: webhook}, name: shared}");
            text.replace("presence.example.com", host)
        };
        let (one, two) = (named(RIGHT, "one.example.com"), named(&other, "two.example.com"));
        let finding = &self::report(&[&format!("{one}---\n{two}")]).await.findings[0];
        assert_eq!(finding.field, "spec.source.webhook.name");
        assert_eq!(self::report(&[RIGHT, RIGHT]).await.exit_code(), 0, "it is one route");
    }

    #[tokio::test]
    async fn a_region_that_may_be_misspelt_is_a_warning() {
        let report = report(&[&RIGHT.replace("mypurecloud.ie", "mypurecloud.ei")]).await;
        assert_eq!(report.exit_code(), 0);
        let told = report.findings[0].to_string();
        assert!(
            told.contains("warning") && told.contains("spec.genesys.region: \"mypurecloud.ei\""),
            "{told}"
        );
    }

    #[tokio::test]
    async fn what_is_not_yaml_is_invalid_and_what_is_not_there_is_unusable() {
        assert_eq!(report(&["a: b: c"]).await.exit_code(), 1);
        let report = check_files(&["/does/not/exist.yaml".into()], false).await;
        assert_eq!(report.exit_code(), 2);
        assert!(report.to_string().starts_with("/does/not/exist.yaml: error: "), "{report}");
    }

    #[tokio::test]
    async fn the_answer_in_json_has_the_place_and_the_judge() {
        let report = report(&[&RIGHT.replace("states}", "st*}")]).await;
        let answer: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(answer["valid"], false);
        let finding = &answer["findings"][0];
        assert_eq!(finding["line"], 9);
        assert_eq!((&finding["by"], &finding["severity"]), (&"apiserver".into(), &"error".into()));
        assert_eq!(finding["field"], "spec.routes[0].topic");
    }

    #[tokio::test]
    async fn the_examples_of_this_project_are_valid() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
        let report = check_files(&[examples], true).await;
        assert!(report.findings.is_empty() && report.routes.len() >= 3, "{report}");
    }
}
