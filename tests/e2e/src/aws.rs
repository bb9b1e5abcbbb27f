//! `aws` and `terraform` before a stand-in for AWS, which `MOTO_ENDPOINT` names.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::harness::{self, how_to_get};
use crate::{Failure, Outcome, command, ensure};

/// The account of the stand-in.
pub const ACCOUNT: &str = "123456789012";
/// The region that everything is in.
pub const REGION: &str = "eu-west-1";

/// An access key.
#[derive(Clone, Debug)]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Credentials {
    /// Any: the stand-in checks none unless it is told to.
    #[must_use]
    pub fn unchecked() -> Self {
        Self { access_key_id: "unchecked".into(), secret_access_key: "unchecked".into(), session_token: None }
    }

    /// Those of an answer of IAM or STS.
    pub fn of(answer: &Value) -> Outcome<Self> {
        let text = |field: &str| answer[field].as_str().map(str::to_owned);
        match (text("AccessKeyId"), text("SecretAccessKey")) {
            (Some(access_key_id), Some(secret_access_key)) => {
                Ok(Self { access_key_id, secret_access_key, session_token: text("SessionToken") })
            }
            _ => Err(Failure("the answer has no access key".into())),
        }
    }

    /// A program with these credentials and no other settings of AWS.
    fn given_to(&self, program: &str) -> Outcome<Command> {
        let mut command = command::new(program);
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command
            .env("AWS_ENDPOINT_URL", url()?)
            .env("AWS_REGION", REGION)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", &self.access_key_id)
            .env("AWS_SECRET_ACCESS_KEY", &self.secret_access_key)
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_PROXY", "*");
        if let Some(token) = &self.session_token {
            command.env("AWS_SESSION_TOKEN", token);
        }
        Ok(command)
    }

    /// Runs `aws`. Returns its answer, which is null where there is none.
    pub fn aws(&self, arguments: &[&str]) -> Outcome<Value> {
        let mut command = self.given_to(&tool("aws")?)?;
        // Not by the environment: the client of Amazon SQS takes no heed of it.
        command.args(["--endpoint-url", &url()?, "--output", "json"]).args(arguments);
        let printed = finished(&mut command, "aws", arguments)?;
        if printed.trim().is_empty() || arguments.contains(&"deploy") {
            return Ok(Value::Null);
        }
        serde_json::from_str(&printed)
            .map_err(|error| Failure(format!("aws {}: {error}: {printed}", arguments.join(" "))))
    }
}

/// A program that the harness makes.
pub fn tool(name: &str) -> Outcome<String> {
    static FOLDER: OnceLock<Outcome<String>> = OnceLock::new();
    let folder =
        FOLDER.get_or_init(|| harness::run("tools", &["aws"]).and_then(|_| harness::path("AWS_TOOLS")));
    Ok(format!("{}/{name}", folder.clone()?))
}

/// Where the stand-in answers.
pub fn url() -> Outcome<String> {
    env::var("MOTO_ENDPOINT")
        .map_err(|_| Failure(format!("MOTO_ENDPOINT is not set: {}", how_to_get("moto"))))
}

/// Forgets everything, and checks no credentials.
pub fn reset() -> Outcome {
    check_credentials(false)?;
    command::run(
        "curl",
        &["--noproxy", "*", "-fsS", "-X", "POST", &format!("{}/moto-api/reset", url()?)],
        None,
    )
    .map(drop)
}

/// Whether the stand-in checks signatures and policies from now on.
pub fn check_credentials(checks: bool) -> Outcome {
    let unchecked_requests = if checks { "0" } else { "inf" };
    let url = format!("{}/moto-api/reset-auth", url()?);
    // As a form, the stand-in would not find it.
    let text = "Content-Type: text/plain";
    let arguments = ["--noproxy", "*", "-fsS", "-H", text, "--data", unchecked_requests, &url];
    command::run("curl", &arguments, None).map(drop)
}

fn finished(command: &mut Command, program: &str, arguments: &[&str]) -> Outcome<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let output = command
        .output()
        .map_err(|error| Failure(format!("cannot run {program}: {error}; is it on PATH?")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    ensure(output.status.success(), || {
        format!("{}: {} {}", what(), text(&output.stdout), text(&output.stderr))
    })?;
    Ok(text(&output.stdout))
}

/// Terraform in a directory of its own.
pub struct Terraform {
    directory: PathBuf,
    plugins: Option<PathBuf>,
}

/// The directory with Terraform's providers, for machines without access to its registry.
const PLUGINS: &str = "PRESENCEROUTE_TERRAFORM_PLUGINS";

impl Terraform {
    /// Terraform with this configuration, or why there is none on this machine.
    pub fn with(name: &str, configuration: &str) -> Outcome<Result<Self, String>> {
        let file = command::file(&format!("terraform/{name}/main.tf.json"), configuration)?;
        let directory = file.parent().unwrap_or(Path::new("")).to_owned();
        let terraform = Self { directory, plugins: plugins() };
        if let Err(failure) = terraform.run(&["version"]) {
            return Ok(Err(format!("{failure}; install Terraform to have this tested")));
        }
        let plugins = terraform.plugins.as_ref().map(|plugins| format!("-plugin-dir={}", plugins.display()));
        let arguments: Vec<_> =
            ["init", "-input=false", "-no-color"].into_iter().chain(plugins.as_deref()).collect();
        match terraform.run(&arguments) {
            Err(Failure(cause)) if cause.contains("hashicorp/aws") => Ok(Err(format!(
                "the AWS provider cannot be had: {cause}; name a directory with it by {PLUGINS}"
            ))),
            Err(failure) => Err(failure),
            Ok(_) => Ok(Ok(terraform)),
        }
    }

    /// Runs a command with these variables.
    pub fn run_with(&self, arguments: &[&str], variables: &BTreeMap<&str, &str>) -> Outcome<String> {
        let mut command = Credentials::unchecked().given_to("terraform")?;
        command
            .current_dir(&self.directory)
            .args(arguments)
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1");
        command.env_remove("TF_CLI_CONFIG_FILE");
        for (name, value) in variables {
            command.env(format!("TF_VAR_{name}"), value);
        }
        finished(&mut command, "terraform", arguments)
    }

    /// Runs a command.
    pub fn run(&self, arguments: &[&str]) -> Outcome<String> {
        self.run_with(arguments, &BTreeMap::new())
    }
}

/// A file-system mirror of providers: the one that is named, or one in a folder of `/opt`.
fn plugins() -> Option<PathBuf> {
    if let Ok(named) = env::var(PLUGINS) {
        return Some(named.into());
    }
    let folders = std::fs::read_dir("/opt").ok()?;
    let mut folders = folders.filter_map(|folder| Some(folder.ok()?.path()));
    folders.find(|folder| folder.join("registry.terraform.io/hashicorp/aws").is_dir())
}
