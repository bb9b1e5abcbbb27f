//! The harness's moto: AWS's IAM and SQS with signatures and rights that are checked, or not, as the test wants.

use presenceroute_core::relay_config::{AwsCredentialFiles, SqsConfig};
use tokio::sync::{Mutex, MutexGuard};

use crate::queue::{http_client, variable};

/// Whether it checks is one setting of the server: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

const REGION: &str = "us-east-1";

pub(crate) struct Moto {
    endpoint: String,
    http: reqwest::Client,
    _alone: MutexGuard<'static, ()>,
}

/// An access key of a user.
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Moto {
    /// The server, which checks nothing.
    pub(crate) async fn lenient() -> Self {
        let alone = ALONE.lock().await;
        let moto = Self { endpoint: variable("MOTO_ENDPOINT", "moto"), http: http_client(), _alone: alone };
        moto.checks(false).await;
        moto
    }

    /// Has it check every call, or none.
    pub(crate) async fn checks(&self, checks: bool) {
        let after = if checks { "0" } else { "inf" };
        let url = format!("{}/moto-api/reset-auth", self.endpoint);
        assert!(self.http.post(url).body(after).send().await.unwrap().status().is_success());
    }

    async fn call(&self, service: &str, parameters: &[(&str, &str)]) -> String {
        // It tells services apart by this header.
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=x/20200101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=x"
        );
        let request = self.http.post(&self.endpoint).header("authorization", authorization).form(parameters);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{parameters:?}: {status}: {text}");
        text
    }

    pub(crate) async fn user(&self, name: &str) {
        self.call("iam", &[("Action", "CreateUser"), ("UserName", name)]).await;
    }

    /// Lets a user do what a consumer of queues needs.
    pub(crate) async fn allow(&self, user: &str) {
        let policy = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["sqs:ReceiveMessage","sqs:DeleteMessage","sqs:DeleteMessageBatch","sqs:ChangeMessageVisibility","sqs:ChangeMessageVisibilityBatch"],"Resource":"*"}]}"#;
        let parameters = [
            ("Action", "PutUserPolicy"),
            ("UserName", user),
            ("PolicyName", "queue"),
            ("PolicyDocument", policy),
        ];
        self.call("iam", &parameters).await;
    }

    pub(crate) async fn key(&self, user: &str) -> Key {
        let made = self.call("iam", &[("Action", "CreateAccessKey"), ("UserName", user)]).await;
        let field = |name: &str| {
            let rest = made.split(&format!("<{name}>")).nth(1).unwrap();
            rest.split('<').next().unwrap().to_owned()
        };
        Key { id: field("AccessKeyId"), secret: field("SecretAccessKey") }
    }

    pub(crate) async fn delete_key(&self, user: &str, key: &Key) {
        let parameters = [("Action", "DeleteAccessKey"), ("UserName", user), ("AccessKeyId", &*key.id)];
        self.call("iam", &parameters).await;
    }

    /// A queue's URL.
    pub(crate) async fn queue(&self, name: &str) -> String {
        let made = self
            .call("sqs", &[("Action", "CreateQueue"), ("QueueName", name), ("Version", "2012-11-05")])
            .await;
        let rest = made.split("<QueueUrl>").nth(1).unwrap();
        rest.split('<').next().unwrap().to_owned()
    }

    pub(crate) async fn send(&self, queue: &str, body: &str) {
        let parameters = [
            ("Action", "SendMessage"),
            ("QueueUrl", queue),
            ("MessageBody", body),
            ("Version", "2012-11-05"),
        ];
        self.call("sqs", &parameters).await;
    }

    pub(crate) fn config(&self, queue_url: String, credentials: AwsCredentialFiles) -> SqsConfig {
        SqsConfig {
            queue_url,
            region: REGION.into(),
            endpoint_url: Some(self.endpoint.clone()),
            credentials: Some(credentials),
        }
    }
}
