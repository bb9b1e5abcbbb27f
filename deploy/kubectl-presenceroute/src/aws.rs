//! `aws`: what a route with `source.amazonEventBridge` needs in AWS, as a CloudFormation template or a Terraform
//! configuration. AWS is not called: the output is for the tools that deploy it.

mod cloudformation;
mod identity;
mod model;
mod names;
mod queue_url;
mod terraform;

use std::path::PathBuf;
use std::process::ExitCode;

use presenceroute_crds::PresenceRoute;

use self::identity::CredentialSource;
use self::model::{AwsModel, AwsModelError};
use crate::cluster::{Cluster, ClusterError};
use crate::manifest_file::{self, FileError, NamespaceError};
use crate::{route_name, style};

/// What the relay calls of Amazon SQS, as IAM names it. The permissions to delete and to change the visibility are those of
/// the batches, too.
const READ_ACTIONS: [&str; 3] = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"];

/// Which route, and for which tool.
#[derive(Debug, clap::Args)]
pub(crate) struct AwsArguments {
    /// The PresenceRoute. With --filename, only needed if the file has several.
    #[arg(value_name = "NAME", add = route_name::completer(), required_unless_present = "filename")]
    name: Option<String>,
    /// Read the route from this manifest, without a cluster; - is standard input. The full name of the event source is then
    /// a parameter.
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// The tool that deploys the result.
    #[arg(long, value_enum, default_value_t)]
    format: AwsFormat,
    /// How the relay pods get AWS credentials for the queue. Default: irsa if the relay's ServiceAccount has the annotation
    /// eks.amazonaws.com/role-arn, none if there is a credentialsSecretRef, otherwise pod-identity.
    #[arg(long, value_enum)]
    identity: Option<CredentialSource>,
}

/// The language of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AwsFormat {
    /// AWS CloudFormation, in YAML.
    #[default]
    #[value(name = "cloudformation")]
    CloudFormation,
    /// Terraform and OpenTofu, in their JSON syntax; a file whose name ends in .tf.json.
    Terraform,
}

/// Why nothing can be printed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AwsError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{0} has no PresenceRoute")]
    Empty(String),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Model(#[from] AwsModelError),
    #[error(transparent)]
    Render(#[from] RenderError),
}

/// Why what is needed cannot be written down.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    #[error("the result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the result cannot be written as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// Prints what the route needs. A cluster is connected to only without a file.
pub(crate) async fn run<C>(
    arguments: &AwsArguments,
    namespace: Option<&str>,
    connect: impl FnOnce() -> C,
) -> Result<ExitCode, AwsError>
where
    C: Future<Output = Result<Cluster, ClusterError>>,
{
    let (route, namespace) = match (&arguments.filename, &arguments.name) {
        (Some(file), name) => {
            let route = route_of_file(file, name.as_deref())?;
            let namespace = manifest_file::namespace(&route, namespace)?;
            (route, namespace)
        }
        (None, name) => {
            let cluster = connect().await?;
            let route = cluster.route(name.as_deref().unwrap_or_default()).await?;
            (route, cluster.namespace)
        }
    };
    let model = AwsModel::of(&route, &namespace, event_source_name(&route), arguments.identity)?;
    let text = match arguments.format {
        AwsFormat::CloudFormation => cloudformation::render(&model)?,
        AwsFormat::Terraform => terraform::render(&model)?,
    };
    style::print(&text);
    Ok(ExitCode::SUCCESS)
}

fn route_of_file(file: &std::path::Path, name: Option<&str>) -> Result<PresenceRoute, AwsError> {
    let text = manifest_file::read(file)?;
    let file = file.display().to_string();
    match name {
        Some(name) => Ok(manifest_file::named(&file, &text, name)?),
        None => manifest_file::only(&file, &text)?.ok_or(AwsError::Empty(file)),
    }
}

/// The full name of the event source, once the operator knows it.
fn event_source_name(route: &PresenceRoute) -> Option<&str> {
    route.status.as_ref()?.integration()?.event_source_name.as_deref()
}

#[cfg(test)]
mod tests {
    use presenceroute_crds::PresenceRouteStatus;
    use serde_json::json;

    use super::*;
    use crate::aws::model::tests::{EVENT_SOURCE, SQS};

    #[test]
    fn the_event_source_is_the_one_of_the_status() {
        let mut route = manifest_file::only("route.yaml", SQS).unwrap().unwrap();
        assert_eq!(event_source_name(&route), None);
        let status = json!({"source": {
            "type": "AmazonEventBridge",
            "integration": {
                "id": "1", "name": "presence-contact-centre", "eventSourceSuffix": "presence-contact-centre",
                "awsAccountId": "123456789012", "awsRegion": "eu-west-1", "topics": [], "enabled": true,
                "eventSourceName": EVENT_SOURCE,
                "access": {
                    "apiUrl": "https://api.mypurecloud.ie", "tokenPath": "/oauth/token", "tokenRequest": "Form",
                    "eventBridgesPath": "", "clientFingerprint": "", "credentialsSecretRef": {"name": "genesys-oauth"},
                },
            },
        }});
        let status: PresenceRouteStatus = serde_json::from_value(status).unwrap();
        route.status = Some(status);
        assert_eq!(event_source_name(&route), Some(EVENT_SOURCE));
    }
}
