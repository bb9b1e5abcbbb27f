//! While nothing changes, nothing is written and no request is sent.

use std::time::Duration;

use serde_json::json;

use crate::stage::Stage;

const CHILDREN: [(&str, &str); 8] = [
    ("ServiceAccount", "busy-relay"),
    ("Secret", "busy-signing"),
    ("ConfigMap", "busy-routing"),
    ("ConfigMap", "busy-relay"),
    ("Service", "busy-relay"),
    ("PodDisruptionBudget", "busy-relay"),
    ("NetworkPolicy", "busy-relay"),
    ("Deployment", "busy-relay"),
];

#[tokio::test]
async fn ten_idle_minutes_of_resyncs_write_nothing() {
    let stage = Stage::new().await;
    let mut route = stage.route("busy");
    route["spec"]["relay"]["networkPolicy"] = json!({});
    stage.apply(route).await;
    let operator = stage.operator().await;
    stage.is_ready("busy").await;
    operator.is_quiet().await;

    // A minute brings at most one resync of everything: of every child, something wakes the route that is no business
    // of ours.
    let (calls, reconciles) = (operator.calls.count(), operator.reconciles());
    for minute in 0..10 {
        for (kind, name) in CHILDREN {
            let note = json!({"metadata": {"annotations": {"example.com/minute": minute.to_string()}}});
            stage.patch(kind, name, note).await;
        }
        operator.is_quiet().await;
    }
    let woken = operator.reconciles() - reconciles;
    assert!(woken >= 10, "{woken} reconciles only");
    let calls = operator.calls.since(calls);
    // The operator sees without a write that the added fields are others' and in no exclusive field.
    let writes: Vec<_> = calls.iter().filter(|call| call.is_write()).collect();
    assert!(writes.is_empty(), "{writes:#?}");
    let reads: Vec<_> = calls.iter().filter(|call| !call.is_watch()).collect();
    println!("{woken} reconciles of resyncs: 0 writes, {} reads", reads.len());
    assert!(reads.is_empty(), "{reads:#?}");

    // An operator that starts anew reads everything, and writes nothing.
    operator.stop().await;
    let operator = stage.operator().await;
    operator.has_reconciled(1).await;
    let writes: Vec<_> = operator.calls.since(0).into_iter().filter(|call| call.is_write()).collect();
    assert!(writes.is_empty(), "{writes:#?}");

    // And left alone, it does not even read.
    let calls = operator.calls.count();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let calls: Vec<_> = operator.calls.since(calls).into_iter().filter(|call| !call.is_watch()).collect();
    assert!(calls.is_empty(), "{calls:#?}");
    stage.end(operator).await;
}
