//! Leader election on a real API server, the one that KUBECONFIG names. Not part of `cargo test`; run it with
//! `cargo test -p presenceroute-operator --test leader`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::future::pending;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use presenceroute_operator::leader::{LeaderElection, Leadership, Timings};
use presenceroute_runtime::tls_provider::install_crypto_provider;
use serde_json::json;
use uuid::Uuid;

const NAMESPACE: &str = "default";

/// A Lease of its own for one test.
struct Election {
    client: Client,
    name: String,
    timings: Timings,
}

impl Election {
    async fn new(timings: Timings) -> Self {
        install_crypto_provider();
        let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
        Self { client, name: format!("leader-test-{}", Uuid::new_v4()), timings }
    }

    fn candidate(&self, pod: &str) -> LeaderElection {
        LeaderElection::new(self.client.clone(), NAMESPACE, &self.name, pod, self.timings)
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn holder(&self) -> Option<String> {
        self.leases().get(&self.name).await.unwrap().spec.unwrap().holder_identity
    }

    async fn end(self) {
        self.leases().delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

/// Leads, or does not within so long.
async fn leads_within(candidate: &LeaderElection, limit: Duration) -> Option<(Leadership, Duration)> {
    let start = Instant::now();
    let leadership = tokio::time::timeout(limit, candidate.acquire(pending())).await.ok()??;
    Some((leadership, start.elapsed()))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test]
async fn one_of_many_leads_and_a_clean_stop_hands_over_at_once() {
    let election = Election::new(Timings::default()).await;
    let first = election.candidate("first");
    let (leadership, _) = leads_within(&first, seconds(5)).await.unwrap();
    assert_eq!(election.holder().await.as_deref(), Some(first.identity()));

    let second = election.candidate("second");
    assert!(leads_within(&second, seconds(6)).await.is_none(), "the first renews");
    let waiting = {
        let second = second.clone();
        tokio::spawn(async move { second.acquire(pending()).await })
    };
    tokio::time::sleep(seconds(1)).await;
    let released = Instant::now();
    leadership.release().await;
    let leadership = waiting.await.unwrap().unwrap();
    println!("handed over within {:?}", released.elapsed());
    assert!(released.elapsed() < seconds(1), "{:?}", released.elapsed());
    assert_eq!(election.holder().await.as_deref(), Some(second.identity()));
    leadership.release().await;
    assert_eq!(election.holder().await, None);
    election.end().await;
}

#[tokio::test]
async fn a_silent_leader_is_succeeded_within_10_to_20_seconds() {
    let election = Election::new(Timings::default()).await;
    let (dead, _) = leads_within(&election.candidate("dead"), seconds(5)).await.unwrap();
    let heir = election.candidate("heir");
    let waiting = tokio::spawn(async move { heir.acquire(pending()).await });
    tokio::time::sleep(seconds(7)).await;
    // As kill -9 does: no more renewals, and no release.
    drop(dead);
    let died = Instant::now();
    let leadership = waiting.await.unwrap().unwrap();
    println!("taken over after {:?}", died.elapsed());
    assert!(died.elapsed() < seconds(20) && died.elapsed() > seconds(10), "{:?}", died.elapsed());
    leadership.release().await;
    election.end().await;
}

#[tokio::test]
async fn a_leader_that_lost_its_lease_stops_at_the_next_renewal() {
    let election = Election::new(Timings::of(seconds(3))).await;
    let (mut leadership, _) = leads_within(&election.candidate("first"), seconds(5)).await.unwrap();
    let usurper = json!({"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 3}});
    election.leases().patch(&election.name, &PatchParams::default(), &Patch::Merge(usurper)).await.unwrap();
    tokio::time::timeout(seconds(2), leadership.lost()).await.unwrap();
    leadership.release().await;
    assert_eq!(election.holder().await.as_deref(), Some("usurper"), "a release takes nothing from others");
    election.end().await;
}

#[tokio::test]
async fn a_leader_survives_an_edit_and_deletion_of_its_lease() {
    let election = Election::new(Timings::of(seconds(3))).await;
    let first = election.candidate("first");
    let (mut leadership, _) = leads_within(&first, seconds(5)).await.unwrap();
    let note = json!({"metadata": {"annotations": {"note": "hello"}}});
    election.leases().patch(&election.name, &PatchParams::default(), &Patch::Merge(note)).await.unwrap();
    assert!(tokio::time::timeout(seconds(4), leadership.lost()).await.is_err());
    let annotations = election.leases().get(&election.name).await.unwrap().metadata.annotations;
    assert_eq!(annotations.unwrap()["note"], "hello");

    election.leases().delete(&election.name, &DeleteParams::default()).await.unwrap();
    assert!(tokio::time::timeout(seconds(4), leadership.lost()).await.is_err());
    assert_eq!(election.holder().await.as_deref(), Some(first.identity()));
    leadership.release().await;
    election.end().await;
}

#[tokio::test]
async fn ten_candidates_never_lead_together() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let election = Election::new(Timings::of(seconds(3))).await;
    let (leaders, terms) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let candidates = (0..10).map(|number| {
        let candidate = election.candidate(&format!("pod-{number}"));
        let (leaders, terms) = (Arc::clone(&leaders), Arc::clone(&terms));
        tokio::spawn(async move {
            let mut leadership = candidate.acquire(pending()).await.unwrap();
            assert_eq!(leaders.fetch_add(1, Ordering::SeqCst), 0, "another leads");
            assert!(tokio::time::timeout(Duration::from_millis(300), leadership.lost()).await.is_err());
            terms.fetch_add(1, Ordering::SeqCst);
            leaders.fetch_sub(1, Ordering::SeqCst);
            // Some stop cleanly, some just stop.
            if number % 3 == 0 { drop(leadership) } else { leadership.release().await }
        })
    });
    for candidate in candidates.collect::<Vec<_>>() {
        candidate.await.unwrap();
    }
    assert_eq!(terms.load(Ordering::SeqCst), 10);
    election.end().await;
}
