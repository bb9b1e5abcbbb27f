//! What the cluster would say of manifests, without a cluster.
//!
//! A route passes two checks in the order in which it meets them: the API server's ([`crate::admission`]), which refuses
//! what the CRD does not allow, and the operator's ([`validate`]), which the `Accepted` condition shows. Pure: the texts
//! of the files come in, diagnostics with their places go out. Reading files and the command line are left to
//! [`command`].

pub mod command;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use presenceroute_core::condition::ConditionChecks;
use presenceroute_core::region::is_known;
use presenceroute_crds::PresenceRoute;
use serde::Serialize;

use crate::admission::admit;
use crate::conflicts::common_claims;
use crate::dereference::{SecretProblem, SecretSource, dereference};
use crate::document::{Document, Manifest, Place};
use crate::field::FieldPath;
use crate::policy::Policy;
use crate::relay_defaults::RelayDefaults;
use crate::validate::{SourceModel, validate_with};

/// A file that has been read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name, or `-` for standard input.
    pub file: String,
    /// What is in it.
    pub text: String,
}

/// The result for a set of files.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Every PresenceRoute, in the order of the files.
    pub routes: Vec<CheckedRoute>,
    /// What is wrong.
    pub diagnostics: Vec<Diagnostic>,
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
    /// The revision that its routing table will have, when it is valid and allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// How many routes it has, when it is valid and allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routes: Option<usize>,
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Serialize)]
pub struct Diagnostic {
    /// The file, or `-`.
    pub file: String,
    /// Where in it.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// How bad it is.
    pub severity: Severity,
    /// Which check fails.
    pub origin: Origin,
    /// The PresenceRoute, as NAMESPACE/NAME or NAME.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// The field.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifest would be accepted, and would wait for something else to be put right.
    Warning,
    /// The manifest is not valid.
    Error,
    /// Nothing could be checked.
    Fatal,
}

/// The check that a manifest fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Reading the file as YAML.
    Parser,
    /// The API server, at `kubectl apply`.
    ApiServer,
    /// The operator, in a condition.
    Operator,
}

/// What an installation decides for every route.
#[derive(Clone, Debug, Default)]
pub struct InstallationOptions {
    /// What routes may ask for.
    pub policy: Policy,
    /// The defaults for their relay pods.
    pub relay_defaults: RelayDefaults,
}

/// Checks manifests as an installation's operator does. A Secret in one is known to all.
pub async fn lint(sources: &[Source], options: &InstallationOptions) -> Report {
    let mut report = Report::default();
    let mut manifests = Vec::new();
    let mut secrets = Secrets::new();
    for Source { file, text } in sources {
        match Manifest::parse(text) {
            Ok(mut manifest) => {
                secrets.extend(std::mem::take(&mut manifest.secrets).into_values().map(|secret| {
                    let metadata = &secret.metadata;
                    ((metadata.namespace.clone(), metadata.name.clone().unwrap_or_default()), secret)
                }));
                manifests.push((file.as_str(), manifest.routes));
            }
            Err(error) => report.diagnostics.push(Diagnostic {
                file: file.clone(),
                place: Some(error.place()),
                severity: Severity::Error,
                origin: Origin::Parser,
                route: String::new(),
                field: String::new(),
                message: error.to_string(),
            }),
        }
    }
    let checks = ConditionChecks::default();
    let mut admitted: Vec<(&str, PresenceRoute)> = Vec::new();
    for (file, documents) in &manifests {
        for document in documents {
            let place = Context { file, document, checks: &checks };
            let Some(route) = check_document(place, (&secrets, options), &mut report).await else { continue };
            for (other_file, other) in &admitted {
                report.diagnostics.extend(shared_claims(place, &route, other_file, other));
            }
            admitted.push((file, route));
        }
    }
    report
}

/// One document of a file, which its diagnostics name.
#[derive(Clone, Copy)]
struct Context<'d> {
    file: &'d str,
    document: &'d Document,
    /// Of all documents, so that a condition is compiled once.
    checks: &'d ConditionChecks,
}

impl Context<'_> {
    fn diagnostic(
        self,
        severity: Severity,
        origin: Origin,
        field: &FieldPath,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            file: self.file.to_owned(),
            place: Some(self.document.place(field)),
            severity,
            origin,
            route: named(self.document.text("/metadata/namespace"), self.document.text("/metadata/name")),
            field: field.to_string(),
            message: message.into(),
        }
    }

    fn error(self, origin: Origin, field: &FieldPath, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Error, origin, field, message)
    }

    fn warning(self, field: &FieldPath, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(Severity::Warning, Origin::Operator, field, message)
    }
}

/// What two routes claim both. The same route twice is one, in two states of it.
fn shared_claims(
    context: Context<'_>,
    route: &PresenceRoute,
    other_file: &str,
    other: &PresenceRoute,
) -> Vec<Diagnostic> {
    if (route.namespace(), route.name_any()) == (other.namespace(), other.name_any()) {
        return Vec::new();
    }
    let other_name = named(&other.namespace().unwrap_or_default(), &other.name_any());
    let message =
        format!("PresenceRoute {other_name:?} in {other_file} claims the same; change one of the two");
    let fields = common_claims(route, other);
    fields.iter().map(|field| context.error(Origin::Operator, field, message.clone())).collect()
}

fn named(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Checks one route by itself, and gives it as the API server would store it, if it would.
async fn check_document(
    context: Context<'_>,
    (secrets, options): (&Secrets, &InstallationOptions),
    report: &mut Report,
) -> Option<PresenceRoute> {
    let Context { file, document, .. } = context;
    let mut checked = CheckedRoute {
        file: file.to_owned(),
        place: document.place(&FieldPath::default()),
        namespace: document.text("/metadata/namespace").to_owned(),
        name: document.text("/metadata/name").to_owned(),
        revision: None,
        routes: None,
    };
    let stored = match admitted(context) {
        Ok(mut route) => {
            options.relay_defaults.apply_to(&mut route.spec.relay);
            check_route(context, &route, secrets, &mut checked, &mut report.diagnostics).await;
            let violations = options.policy.check(&route, &options.relay_defaults);
            if !violations.is_empty() {
                (checked.revision, checked.routes) = (None, None);
            }
            let errors = violations.iter().map(|it| context.error(Origin::Operator, it.field(), it.cause()));
            report.diagnostics.extend(errors);
            Some(route)
        }
        Err(diagnostics) => {
            report.diagnostics.extend(diagnostics);
            None
        }
    };
    report.routes.push(checked);
    stored
}

fn admitted(context: Context<'_>) -> Result<PresenceRoute, Vec<Diagnostic>> {
    let object = admit(context.document.value()).map_err(|violations| {
        let errors = violations.into_iter();
        errors.map(|error| context.error(Origin::ApiServer, &error.field, error.cause)).collect::<Vec<_>>()
    })?;
    // The API server accepts what the schema leaves open, such as a number that is too large.
    serde_json::from_value(object).map_err(|cause| {
        vec![context.error(Origin::Operator, &FieldPath::default().child("spec"), cause.to_string())]
    })
}

/// The operator's own check.
async fn check_route(
    context: Context<'_>,
    route: &PresenceRoute,
    secrets: &Secrets,
    checked: &mut CheckedRoute,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let spec = FieldPath::default().child("spec");
    let source = NamespacedSecrets { secrets, namespace: route.metadata.namespace.clone() };
    let Ok(references) = dereference(&route.spec, &source).await;
    if let Some(region) = route.spec.genesys.region.as_ref().filter(|region| !is_known(region)) {
        let message = format!("{region:?} is no known region; check its spelling, unless it is a new one");
        diagnostics.push(context.warning(&spec.child("genesys").child("region"), message));
    }
    match validate_with(route, references, context.checks) {
        Err(problems) => diagnostics.extend(
            problems.iter().map(|problem| context.error(Origin::Operator, &problem.field(), problem.cause())),
        ),
        Ok(model) => {
            checked.revision = Some(model.table.revision().to_owned());
            checked.routes = Some(model.table.routes().len());
            // A Secret that is not among these manifests may well be in the cluster.
            let problems = model
                .secret_problems()
                .into_iter()
                .filter(|problem| !matches!(problem, SecretProblem::Missing(_)));
            diagnostics.extend(problems.map(|problem| context.warning(&spec, problem.to_string())));
            if let Some(message) = model.weak_push_credential() {
                let source = spec.child("source");
                let field = match model.source {
                    SourceModel::Webhook(_) => source.child("webhook").child("signingSecretRef"),
                    SourceModel::AmazonEventBridge(_) => {
                        source.child("amazonEventBridge").child("apiDestination").child("apiKeySecretRef")
                    }
                };
                diagnostics.push(context.warning(&field, message));
            }
        }
    }
}

impl Report {
    /// 0 when all is valid, 1 when something is not, 2 when something could not be checked.
    pub fn exit_code(&self) -> u8 {
        match self.diagnostics.iter().map(|diagnostic| diagnostic.severity).max() {
            None | Some(Severity::Warning) => 0,
            Some(Severity::Error) => 1,
            Some(Severity::Fatal) => 2,
        }
    }

    /// The report for GitHub Actions: a workflow command a diagnostic.
    #[must_use]
    pub fn to_workflow_commands(&self) -> String {
        let commands = self.diagnostics.iter().map(|diagnostic| {
            let command = match diagnostic.severity {
                Severity::Warning => "warning",
                Severity::Error | Severity::Fatal => "error",
            };
            let place = diagnostic.place.map(|Place { line, column }| format!(",line={line},col={column}"));
            let file = escaped(&diagnostic.file, true);
            let message = escaped(&diagnostic.subject_and_message(), false);
            format!("::{command} file={file}{}::{message}\n", place.unwrap_or_default())
        });
        commands.collect()
    }

    /// The report for a program.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        #[derive(Serialize)]
        struct Answer<'r> {
            valid: bool,
            #[serde(flatten)]
            report: &'r Report,
        }
        serde_json::to_string_pretty(&Answer { valid: self.exit_code() == 0, report: self })
    }
}

/// Text as a workflow command of GitHub Actions takes it: in a property, the separators are escaped, too.
fn escaped(text: &str, is_property: bool) -> String {
    let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    if is_property { text.replace(':', "%3A").replace(',', "%2C") } else { text }
}

/// The report for a person, a line a thing, as compilers write it: `FILE:LINE:COLUMN: error: ...`.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(formatter, "{diagnostic}")?;
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

impl Diagnostic {
    /// The PresenceRoute, the field, and what is wrong.
    fn subject_and_message(&self) -> String {
        let mut text = String::new();
        if !self.route.is_empty() {
            text += &format!("PresenceRoute {:?}: ", self.route);
        }
        if !self.field.is_empty() {
            text += &format!("{}: ", self.field);
        }
        text + &self.message
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(Place { line, column }) = self.place {
            write!(formatter, ":{line}:{column}")?;
        }
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error | Severity::Fatal => "error",
        };
        write!(formatter, ": {severity}: {}", self.subject_and_message())
    }
}

/// Secrets by namespace and name.
type Secrets = BTreeMap<(Option<String>, String), Secret>;

struct NamespacedSecrets<'s> {
    secrets: &'s Secrets,
    namespace: Option<String>,
}

impl SecretSource for NamespacedSecrets<'_> {
    type Error = Infallible;

    async fn secret(&self, name: &str) -> Result<Option<Secret>, Infallible> {
        Ok(self.secrets.get(&(self.namespace.clone(), name.to_owned())).cloned())
    }
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
        report_under(&Policy::default(), files).await
    }

    async fn report_under(policy: &Policy, files: &[&str]) -> Report {
        let sources: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(index, text)| Source { file: format!("{index}.yaml"), text: (*text).to_owned() })
            .collect();
        lint(&sources, &InstallationOptions { policy: policy.clone(), ..Default::default() }).await
    }

    #[tokio::test]
    async fn a_valid_route_is_reported_with_its_revision() {
        let report = report(&[RIGHT]).await;
        let text = report.to_string();
        assert!(text.starts_with("0.yaml:1: PresenceRoute \"one\" is valid: 1 route, revision "), "{text}");
        assert_eq!(report.exit_code(), 0);
    }

    #[tokio::test]
    async fn a_violation_has_file_line_and_column() {
        let wrong = RIGHT.replace("topic: states}", "topic: gen presence}");
        let report = report(&[RIGHT, &format!("# two\n---\n{wrong}")]).await;
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.diagnostics[0].to_string(),
            "1.yaml:11:43: error: PresenceRoute \"presence/one\": spec.routes[0].topic: must be a legal Kafka topic \
             name: letters, digits, dots, underscores and hyphens, at most 249"
        );
    }

    #[tokio::test]
    async fn what_only_the_operator_knows_is_an_error_too() {
        let wrong = RIGHT.replace("topic: states}", "topic: states, when: attribute.x == 1}");
        let report = report(&[&wrong]).await;
        let diagnostic = &report.diagnostics[0];
        assert_eq!((diagnostic.origin, diagnostic.field.as_str()), (Origin::Operator, "spec.routes[0].when"));
        assert_eq!(diagnostic.place, Some(Place { line: 9, column: 58 }));
        assert!(diagnostic.message.contains("`attribute`, which is unknown"), "{diagnostic}");
        let wrong = RIGHT.replace("[\"kafka:9092\"]", "[\"kafka:9092\"], properties: {acks: \"1\"}");
        let diagnostic = &self::report(&[&wrong]).await.diagnostics[0];
        assert_eq!(diagnostic.field, "spec.kafka.properties.acks");
    }

    #[tokio::test]
    async fn faults_of_a_secret_among_the_manifests_are_warnings() {
        let secret =
            "kind: Secret\nmetadata: {name: webhook, namespace: presence}\nstringData: {secrets: x}\n";
        let report = report(&[RIGHT, secret]).await;
        assert_eq!(report.exit_code(), 0);
        let text = report.diagnostics[0].to_string();
        assert!(text.contains("warning") && text.contains("no key \"secret\""), "{text}");
    }

    #[tokio::test]
    async fn a_moved_field_is_reported_with_its_new_place() {
        let old = RIGHT.replace("mypurecloud.ie,", "mypurecloud.ie, endpointName: shared,");
        assert_eq!(
            report(&[&old]).await.diagnostics[0].to_string(),
            "0.yaml:5:37: error: PresenceRoute \"presence/one\": spec.genesys.endpointName: unknown field; it is \
             spec.source.webhook.name now"
        );
    }

    #[tokio::test]
    async fn every_document_and_every_fault_is_reported() {
        let wrong = RIGHT.replace("mypurecloud.ie", "Ireland").replace("states}", "st*}");
        let report = report(&[&format!("{wrong}---\n{RIGHT}---\nkind: Service\n---\n{wrong}")]).await;
        assert_eq!(report.diagnostics.len(), 4);
        assert_eq!(report.routes.len(), 3);
    }

    #[tokio::test]
    async fn two_routes_that_claim_one_url_or_one_name_are_errors() {
        let other = RIGHT.replace("name: one,", "name: two,");
        let report = report(&[RIGHT, &other]).await;
        assert_eq!(report.exit_code(), 1);
        assert_eq!(
            report.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>(),
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
        let diagnostic = &self::report(&[&format!("{one}---\n{two}")]).await.diagnostics[0];
        assert_eq!(diagnostic.field, "spec.source.webhook.name");
        assert_eq!(self::report(&[RIGHT, RIGHT]).await.exit_code(), 0, "it is one route");
    }

    #[tokio::test]
    async fn a_registration_name_of_another_namespace_is_an_error() {
        let named =
            |name: &str| RIGHT.replace("{name: webhook}}", &format!("{{name: webhook}}, name: {name}}}"));
        let report = report(&[&named("victim/desk")]).await;
        let diagnostic = &report.diagnostics[0];
        assert_eq!((diagnostic.origin, diagnostic.severity), (Origin::Operator, Severity::Error));
        assert_eq!(diagnostic.field, "spec.source.webhook.name");
        assert_eq!(
            diagnostic.message,
            "\"victim/desk\" is reserved to the namespace \"victim\"; begin it with the route's own namespace, \
             presence/, or use a name without a slash"
        );
        let anywhere = named("victim/desk").replace(", namespace: presence", "");
        for legal in [named("presence/one/eu-1"), named("desk"), anywhere] {
            assert_eq!(self::report(&[&legal]).await.exit_code(), 0, "{legal}");
        }
    }

    #[tokio::test]
    async fn the_operators_own_secret_cannot_be_referred_to() {
        let table = [
            ("signingSecretRef: {name: webhook}", "spec.source.webhook.signingSecretRef.name"),
            ("credentialsSecretRef: {name: oauth}", "spec.genesys.credentialsSecretRef.name"),
        ];
        for (reference, field) in table {
            let own = reference.replace("webhook}", "one-signing}").replace("oauth}", "one-signing}");
            let report = report(&[&RIGHT.replace(reference, &own)]).await;
            assert_eq!(report.exit_code(), 1, "{own}");
            let diagnostic = &report.diagnostics[0];
            assert_eq!((diagnostic.field.as_str(), diagnostic.origin), (field, Origin::Operator));
            assert!(diagnostic.message.contains("use a Secret of another name"), "{diagnostic}");
        }
        let other = RIGHT.replace("{name: webhook}", "{name: two-signing}");
        assert_eq!(report(&[&other]).await.exit_code(), 0);
    }

    #[tokio::test]
    async fn patterns_beyond_the_tables_budget_are_an_error() {
        let when = vec![r"id.matches(r'[\pL\pN]{20}')"; 60].join(" || ");
        let costly = format!("  - {{eventType: a, topic: b, when: \"{}\"}}\n", when.replace('\\', "\\\\"));
        let report = report(&[&RIGHT.replace("  kafka:", &format!("{}  kafka:", costly.repeat(10)))]).await;
        let [diagnostic] = report.diagnostics.as_slice() else { panic!("{report}") };
        assert_eq!((diagnostic.field.as_str(), diagnostic.origin), ("spec.routes[1].when", Origin::Operator));
        assert!(diagnostic.message.contains("more than 16 MiB"), "{diagnostic}");
    }

    #[tokio::test]
    async fn a_short_signing_secret_is_a_warning_without_it() {
        let with = async |secret: &str| {
            let manifest = format!(
                "kind: Secret\napiVersion: v1\nmetadata: {{name: webhook, namespace: presence}}\n\
                 stringData: {{secret: {secret}}}\n---\n{RIGHT}"
            );
            report(&[&manifest]).await
        };
        let short = with("fifteen-letters").await;
        assert_eq!(short.exit_code(), 0);
        let [diagnostic] = short.diagnostics.as_slice() else { panic!("{short}") };
        assert_eq!(
            (diagnostic.severity, diagnostic.field.as_str()),
            (Severity::Warning, "spec.source.webhook.signingSecretRef")
        );
        assert!(!diagnostic.message.contains("fifteen-letters"), "{diagnostic}");
        assert!(with("sixteen-letters-").await.diagnostics.is_empty());
    }

    #[tokio::test]
    async fn what_the_policy_does_not_allow_is_an_error_at_its_field() {
        let policy =
            Policy::parse("namespaceHosts: {presence: [presence.example.com], other: [other.example.com]}");
        let policy = policy.unwrap();
        assert!(report_under(&policy, &[RIGHT]).await.diagnostics.is_empty());
        let moved = RIGHT.replace("presence.example.com", "other.example.com");
        assert_eq!(report(&[&moved]).await.exit_code(), 0, "without the policy");
        let report = report_under(&policy, &[&moved]).await;
        let [diagnostic] = report.diagnostics.as_slice() else { panic!("{report}") };
        assert_eq!((diagnostic.origin, diagnostic.severity), (Origin::Operator, Severity::Error));
        assert_eq!(diagnostic.field, "spec.endpoint.url");
        assert_eq!(diagnostic.place, Some(Place { line: 7, column: 14 }));
        assert_eq!((report.exit_code(), report.to_string().lines().count()), (1, 1), "not that it is valid");
        let anywhere = moved.replace(", namespace: presence", "");
        assert_eq!(report_under(&policy, &[&anywhere]).await.exit_code(), 0, "it may be for the other one");
    }

    #[tokio::test]
    async fn a_region_that_may_be_misspelt_is_a_warning() {
        let report = report(&[&RIGHT.replace("mypurecloud.ie", "mypurecloud.ei")]).await;
        assert_eq!(report.exit_code(), 0);
        let text = report.diagnostics[0].to_string();
        assert!(
            text.contains("warning") && text.contains("spec.genesys.region: \"mypurecloud.ei\""),
            "{text}"
        );
    }

    #[tokio::test]
    async fn what_is_not_yaml_is_an_error() {
        let report = report(&["a: b: c"]).await;
        assert_eq!((report.exit_code(), report.diagnostics[0].origin), (1, Origin::Parser));
    }

    #[tokio::test]
    async fn a_workflow_command_has_file_line_and_column() {
        let commands = report(&[&RIGHT.replace("states}", "gen presence}")]).await.to_workflow_commands();
        assert_eq!(
            commands,
            "::error file=0.yaml,line=9,col=43::PresenceRoute \"presence/one\": spec.routes[0].topic: must be a legal \
             Kafka topic name: letters, digits, dots, underscores and hyphens, at most 249\n"
        );
        assert_eq!(escaped("a:b,c%\nd", true), "a%3Ab%2Cc%25%0Ad");
        assert_eq!(escaped("a:b,c%\nd", false), "a:b,c%25%0Ad");
    }

    #[tokio::test]
    async fn the_json_report_has_the_place_and_the_origin() {
        let report = report(&[&RIGHT.replace("states}", "st*}")]).await;
        let answer: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(answer["valid"], false);
        let diagnostic = &answer["diagnostics"][0];
        assert_eq!(diagnostic["line"], 9);
        assert_eq!((&diagnostic["origin"], &diagnostic["severity"]), (&"apiserver".into(), &"error".into()));
        assert_eq!(diagnostic["field"], "spec.routes[0].topic");
    }
}
