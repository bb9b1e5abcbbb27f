//! Brokers that are restarted one after another, as an upgrade of Kafka does it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Surgery, settings};
use crate::sender::Flow;
use crate::support::{PATIENCE, relay};

/// Together 200 events a second.
const AGENTS: usize = 25;
const PAUSE: Duration = Duration::from_millis(90);

/// How long a restarted broker may take until its replicas are in sync again.
const CATCH_UP: Duration = Duration::from_secs(60);

async fn restart_all(cluster: &Cluster, surgery: &mut Surgery, topic: &str) {
    for broker in 1..=3 {
        surgery.restart(broker).await;
        let until = Instant::now() + CATCH_UP;
        while cluster.fewest_in_sync(topic) < 3 {
            assert!(Instant::now() < until, "broker {broker} is not in sync again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_refuses_no_event_and_misses_no_topic() {
    let (cluster, mut surgery) = Cluster::to_be_hurt().await;
    let topic = cluster.topic(3, &[("min.insync.replicas", "2")]).await;
    let relay = relay(settings(cluster.plaintext(), &topic)).await;
    let flow = Flow::start(relay.address(), AGENTS, PAUSE);
    let (done, begun) = (CancellationToken::new(), Instant::now());
    let mut seen = BTreeSet::new();
    let watch = async {
        // The operator sets TopicsMissing by what a relay reports.
        while !done.is_cancelled() {
            let status = relay.status();
            seen.extend(status.missing_topics.into_iter().chain(status.forbidden_topics));
            if !status.kafka.reachable {
                seen.insert("unreachable".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let restart = async {
        restart_all(&cluster, &mut surgery, &topic).await;
        done.cancel();
    };
    tokio::join!(watch, restart);
    let took = begun.elapsed();
    let outcome = tokio::time::timeout(PATIENCE, flow.stop()).await.expect("the last events are accepted");
    let (statuses, problems) = (outcome.statuses(), outcome.problems());
    println!("in {took:?}: {statuses:?} {problems:?}");
    assert!(statuses[&200] > 1_000, "too few events to show anything: {statuses:?}");
    assert_eq!((problems.get("kafka-refused"), seen), (None, BTreeSet::new()), "{problems:?}");
    assert_eq!(outcome.ensure_kept_in_order(&cluster.records(&topic).await), 0);
}
