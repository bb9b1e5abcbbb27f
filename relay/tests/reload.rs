//! Files that change while the relay runs, the way a mounted ConfigMap or Secret does.

mod support;

use presenceroute_relay::{RoutingSource, SecretSource};
use support::*;

fn table(revision: &str, topic: &str) -> String {
    format!(
        "version: 1\nrevision: {revision}\nroutes: [{{eventType: 'presence:state:changed', topic: {topic}}}]\n"
    )
}

#[tokio::test]
async fn a_changed_table_is_served_and_an_invalid_one_is_not() {
    let kafka = kafka(&["one", "two", "three"]);
    let brokers = kafka.bootstrap_servers();
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("routing.yaml", &table("r1", "one"))]);
    let mut settings = settings(&brokers, TABLE);
    settings.routing = RoutingSource::File(directory.path().join("routing.yaml"));
    let relay = relay(settings).await;
    assert_eq!(status(&relay).await.routing.revision, "r1");
    assert_eq!(post(&relay, &event("1")).await.status, 200);

    for (generation, revision, topic) in [("2", "r2", "two"), ("3", "r3", "three")] {
        mount(directory.path(), generation, &[("routing.yaml", &table(revision, topic))]);
        eventually("the new table is served", || relay.status().routing.revision == revision).await;
        assert_eq!(post(&relay, &event(revision)).await.status, 200);
        assert_eq!(records(&brokers, topic, 1).await[0].key, revision);
        let served = format!(r#"presenceroute_relay_routing_revision{{revision="{revision}"}} 1"#);
        metrics_show(&relay, &[&served, "presenceroute_relay_routing_valid 1"]).await;
    }

    mount(directory.path(), "4", &[("routing.yaml", "version: 1\nroutes: []\n")]);
    eventually("the new table is refused", || relay.status().routing.error.is_some()).await;
    let report = status(&relay).await.routing;
    assert_eq!(report.revision, "r3");
    assert!(report.error.unwrap().contains("no routes"));
    assert_eq!(post(&relay, &event("4")).await.status, 200);
    assert!(get(&relay, "/metrics").await.body.contains("presenceroute_relay_routing_valid 0"));
    assert_eq!(get(&relay, "/readyz").await.status, 200);

    mount(directory.path(), "5", &[("routing.yaml", &table("r3", "three"))]);
    eventually("the error is gone", || relay.status().routing.error.is_none()).await;
}

#[tokio::test]
async fn a_topic_of_a_changed_table_is_missing_until_it_appears() {
    let kafka = kafka(&["one"]);
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("routing.yaml", &table("r1", "one"))]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.routing = RoutingSource::File(directory.path().join("routing.yaml"));
    let relay = relay(settings).await;
    eventually("nothing is missing", || relay.status().missing_topics.is_empty()).await;
    mount(directory.path(), "2", &[("routing.yaml", &table("r2", "late"))]);
    // Before any event is sent to it.
    eventually("it is missed", || relay.status().missing_topics == ["late"]).await;
    metrics_show(&relay, &[r#"presenceroute_relay_missing_topics{topic="late"} 1"#]).await;
    kafka.create_topic("late", 1, 1).unwrap();
    eventually("it is found", || relay.status().missing_topics.is_empty()).await;
    metrics_show(&relay, &[r#"presenceroute_relay_missing_topics{topic="late"} 0"#]).await;
}

#[tokio::test]
async fn a_request_in_flight_finishes_on_the_table_it_began_with() {
    let kafka = kafka(&["one", "two"]);
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("routing.yaml", &table("r1", "one"))]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.routing = RoutingSource::File(directory.path().join("routing.yaml"));
    let relay = relay(settings).await;
    // The first event waits for the producer's connections, which are not to be slow.
    assert_eq!(post(&relay, &event("0")).await.status, 200);
    kafka.broker_round_trip_time(1, std::time::Duration::from_millis(1_000)).unwrap();
    let body = event("1");
    let swap = async {
        eventually("it is in flight", || relay.status().in_flight == 1).await;
        mount(directory.path(), "2", &[("routing.yaml", &table("r2", "two"))]);
        eventually("the new table is served", || relay.status().routing.revision == "r2").await;
        assert_eq!(relay.status().in_flight, 1);
    };
    let (answer, ()) = tokio::join!(post(&relay, &body), swap);
    assert_eq!(answer.status, 200);
    kafka.broker_round_trip_time(1, std::time::Duration::ZERO).unwrap();
    records(&kafka.bootstrap_servers(), "one", 2).await;
}

#[tokio::test]
async fn a_secret_is_added_and_removed_without_a_403_on_an_active_one() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("a", "old"), ("revision", "1")]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.secrets = SecretSource::Directory(directory.path().to_owned());
    let relay = relay(settings).await;
    let post = async |secret: &str, id: &str| {
        exchange(relay.address(), &signed(secret, event(id).as_bytes())).await.status
    };
    assert_eq!((post("old", "1").await, post("new", "2").await), (200, 403));

    mount(directory.path(), "2", &[("a", "old"), ("b", "new"), ("revision", "2")]);
    eventually("both are active", || relay.status().secrets.revision.as_deref() == Some("2")).await;
    assert_eq!(relay.status().secrets.active, 2);
    metrics_show(&relay, &[r#"presenceroute_relay_secret_revision{revision="2"} 1"#]).await;
    assert_eq!((post("old", "3").await, post("new", "4").await), (200, 200));

    std::fs::remove_file(directory.path().join("a")).unwrap();
    mount(directory.path(), "3", &[("b", "new"), ("revision", "3")]);
    eventually("one is active", || relay.status().secrets.revision.as_deref() == Some("3")).await;
    assert_eq!((post("old", "5").await, post("new", "6").await), (403, 200));
}

#[tokio::test]
async fn removed_secrets_stay_active_and_are_reported() {
    let kafka = kafka(&["gen-presence-state"]);
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), "1", &[("a", "old")]);
    let mut settings = settings(&kafka.bootstrap_servers(), TABLE);
    settings.secrets = SecretSource::Directory(directory.path().to_owned());
    let relay = relay(settings).await;
    for (file, content) in [("a", Some("")), ("a", None)] {
        match content {
            Some(content) => std::fs::write(directory.path().join(file), content).unwrap(),
            None => std::fs::remove_file(directory.path().join(file)).unwrap(),
        }
        let expected = if content.is_some() { "is empty" } else { "has no signing secret" };
        eventually("the error is reported", || {
            relay.status().secrets.error.is_some_and(|error| error.contains(expected))
        })
        .await;
        let answer = exchange(relay.address(), &signed("old", event(expected).as_bytes())).await;
        assert_eq!(answer.status, 200);
    }
    metrics_show(&relay, &["presenceroute_relay_secrets_valid 0", "presenceroute_relay_secrets_active 1"])
        .await;
    std::fs::write(directory.path().join("a"), "new").unwrap();
    eventually("the error is gone", || relay.status().secrets.error.is_none()).await;
    metrics_show(&relay, &["presenceroute_relay_secrets_valid 1"]).await;
    assert_eq!(exchange(relay.address(), &signed("new", event("9").as_bytes())).await.status, 200);
}
