//! Arguments of the event bus and of the queues.

use std::net::SocketAddr;

use clap::Args;
use genesys_simulator::sqs::QueueSettings;
use genesys_simulator::{
    ApiDestinationTarget, BusRule, PresencePlan, SqsCredentials, SqsTarget, Target, TargetRetryPolicy,
};
use secrecy::SecretString;

/// Where the event bus delivers, and what happens there from the start.
#[derive(Debug, Args)]
pub(crate) struct EventBusArguments {
    /// A queue that the event bus sends every event to
    #[arg(long, env = "GENESYS_SIMULATOR_BUS_QUEUE_URL")]
    bus_queue_url: Option<String>,
    /// The API of the queue's server, if not at the root of the queue's URL
    #[arg(long, env = "GENESYS_SIMULATOR_BUS_QUEUE_ENDPOINT_URL", requires = "bus_queue_url")]
    bus_queue_endpoint_url: Option<String>,
    /// The queue's AWS region
    #[arg(long, env = "GENESYS_SIMULATOR_BUS_QUEUE_REGION", requires = "bus_queue_url")]
    bus_queue_region: Option<String>,
    /// The access key that requests to the queue are signed with; unsigned without
    #[arg(long, env = "GENESYS_SIMULATOR_BUS_QUEUE_ACCESS_KEY_ID", requires_all = ["bus_queue_url", "bus_queue_secret_access_key"])]
    bus_queue_access_key_id: Option<String>,
    /// Its secret; prefer the variable, since other users of the machine can see arguments
    #[arg(
        long,
        env = "GENESYS_SIMULATOR_BUS_QUEUE_SECRET_ACCESS_KEY",
        requires = "bus_queue_access_key_id",
        hide_env_values = true
    )]
    bus_queue_secret_access_key: Option<SecretString>,
    /// An API destination that the event bus posts every event to
    #[arg(long, env = "GENESYS_SIMULATOR_BUS_API_DESTINATION_URL")]
    bus_api_destination_url: Option<String>,
    /// Its API key; prefer the variable, since other users of the machine can see arguments
    #[arg(
        long,
        env = "GENESYS_SIMULATOR_BUS_API_KEY",
        requires = "bus_api_destination_url",
        hide_env_values = true
    )]
    bus_api_key: Option<SecretString>,
    /// The header with the API key
    #[arg(long, env = "GENESYS_SIMULATOR_BUS_API_KEY_HEADER", default_value = "X-Api-Key")]
    bus_api_key_header: String,
    /// How many agents there are
    #[arg(long, env = "GENESYS_SIMULATOR_AGENTS", default_value_t = 250,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    agents: u32,
    /// How many of them change a second, from the start and without end
    #[arg(long, env = "GENESYS_SIMULATOR_CHANGES_PER_SECOND")]
    changes_per_second: Option<f64>,
}

impl EventBusArguments {
    /// A rule for each target.
    pub(crate) fn rules(&self) -> Vec<BusRule> {
        let queue = self.bus_queue_url.as_ref().map(|queue_url| {
            let key = self.bus_queue_access_key_id.clone().zip(self.bus_queue_secret_access_key.clone());
            Target::Sqs(SqsTarget {
                queue_url: queue_url.clone(),
                endpoint_url: self.bus_queue_endpoint_url.clone(),
                region: self.bus_queue_region.clone(),
                credentials: key.map(|(access_key_id, secret_access_key)| SqsCredentials {
                    access_key_id,
                    secret_access_key,
                }),
            })
        });
        let destination = self.bus_api_destination_url.as_ref().map(|url| {
            Target::ApiDestination(ApiDestinationTarget {
                header: self.bus_api_key_header.clone(),
                api_key: self.bus_api_key.clone(),
                ..ApiDestinationTarget::new(url.clone())
            })
        });
        [("queue", queue), ("api-destination", destination)]
            .into_iter()
            .filter_map(|(name, target)| {
                Some(BusRule {
                    name: name.to_owned(),
                    event_source: None,
                    detail_types: None,
                    target: target?,
                    retry_policy: TargetRetryPolicy::default(),
                })
            })
            .collect()
    }

    /// The endless run, if there is one.
    pub(crate) fn plan(&self) -> Option<PresencePlan> {
        Some(PresencePlan {
            agents: Some(self.agents),
            rate_per_second: Some(self.changes_per_second?),
            max_seconds: Some(u64::from(u32::MAX)),
            ..PresencePlan::default()
        })
    }
}

/// The queues of the stand-in for Amazon SQS.
#[derive(Debug, Args)]
pub(crate) struct QueueArguments {
    /// Where a stand-in for Amazon SQS listens; there is none without
    #[arg(long, env = "GENESYS_SIMULATOR_SQS_LISTEN")]
    sqs_listen: Option<SocketAddr>,
    /// Its queues, separated by commas
    #[arg(long, env = "GENESYS_SIMULATOR_SQS_QUEUES", value_delimiter = ',', default_value = "presence")]
    sqs_queues: Vec<String>,
    /// After how many receives a message goes to the queue NAME-dead-letters
    #[arg(long, env = "GENESYS_SIMULATOR_SQS_MAX_RECEIVE_COUNT", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    sqs_max_receive_count: u32,
}

impl QueueArguments {
    pub(crate) fn listen(&self) -> Option<SocketAddr> {
        self.sqs_listen
    }

    pub(crate) fn settings(&self) -> Vec<QueueSettings> {
        let queue = |name: &String| {
            let dead_letters = format!("{name}-dead-letters");
            QueueSettings::new(name.clone()).with_dead_letter_queue(dead_letters, self.sqs_max_receive_count)
        };
        self.sqs_queues.iter().map(queue).collect()
    }
}
