//! The executor and integrations with Amazon EventBridge: one for a route, repaired when it drifts, and never another
//! owner's.

use std::time::Duration;

use genesys_simulator::{Config, IntegrationState};
use presenceroute_core::genesys_api::IntegrationSpec;
use presenceroute_crds::spec::IntegrationMode;
use presenceroute_genesys::{DesiredIntegration, Integrations, Limits};
use presenceroute_operator::registration::execute::Executor;
use presenceroute_operator::registration::failure::Failure;
use presenceroute_operator::registration::objects::ObservedObject;
use presenceroute_operator::registration::plan::{Applied, Change};
use serde_json::json;

use crate::organisation::Organisation;
use crate::route::{Route, UNTIL_THE_NEXT_ONE, executor, later};

const CREATIONS: &str = "POST /api/v2/integrations";

async fn organisation(config: Config) -> Organisation {
    Organisation::with(Config { rate_limit_per_minute: 0, ..config }, Limits::default()).await
}

/// As people with access to the organisation write.
fn by_hand(organisation: &Organisation) -> Integrations {
    organisation.genesys.client(organisation.access()).unwrap().integrations()
}

/// The integration of the route "one", as it asks for it.
fn of_route_one() -> DesiredIntegration {
    DesiredIntegration {
        spec: IntegrationSpec {
            name: "presence-one".into(),
            event_source_suffix: "presence-one".into(),
            aws_account_id: "123456789012".into(),
            aws_region: "eu-west-1".into(),
            topics: vec!["v2.users.{id}.presence".into()],
            enabled: true,
        },
        owner: "presence/one".into(),
    }
}

/// One of others with this event source.
async fn of_others(organisation: &Organisation, edit: impl FnOnce(&mut DesiredIntegration)) -> String {
    let mut desired = of_route_one();
    desired.owner = "the network team".into();
    edit(&mut desired);
    let integrations = by_hand(organisation);
    let id = integrations.create(&desired.spec.name).await.unwrap().id;
    integrations.configure(&id, &desired).await.unwrap().unwrap();
    integrations.set_enabled(&id, desired.spec.enabled).await.unwrap().unwrap();
    id
}

fn state(applied: &Applied) -> String {
    applied.registration.reported_state().unwrap().code.clone()
}

#[tokio::test]
async fn an_integration_costs_one_call_in_five_minutes() {
    let organisation = organisation(Config::default()).await;
    let executor = executor(&organisation);
    let mut route = Route::with_integration(&organisation, "one");
    let (applied, trusted_for) = route.attempt(&executor, false).await.unwrap();
    assert_eq!((applied.change.clone(), state(&applied).as_str()), (Some(Change::Created), "ACTIVE"));
    let ObservedObject::Integration(found) = &applied.registration else { panic!() };
    let [there] = organisation.simulator.integrations().try_into().unwrap();
    assert_eq!(found.event_source_name, there.event_source);
    assert_eq!((found.integration.id.clone(), there.state), (there.id.to_string(), IntegrationState::Active));
    assert!(trusted_for >= Duration::from_secs(300));

    let before = organisation.simulator.request_counts().total;
    for _ in 0..12 {
        later(UNTIL_THE_NEXT_ONE).await;
        assert_eq!(route.attempt(&executor, false).await.unwrap().0.change, None);
    }
    // Besides a look each, a token and the list of topics in an hour.
    let calls = organisation.simulator.request_counts().total - before;
    assert!((12..=17).contains(&calls), "{calls} calls in 78 minutes");
    assert_eq!(organisation.calls(CREATIONS), 1);
}

#[tokio::test]
async fn an_integration_on_its_way_is_looked_at_ever_more_seldom() {
    let config = Config { activation_delay: Duration::from_secs(3600), ..Config::default() };
    let organisation = organisation(config).await;
    let executor = executor(&organisation);
    let mut route = Route::with_integration(&organisation, "one");
    let mut waits = Vec::new();
    for _ in 0..8 {
        let (applied, trusted_for) = route.attempt(&executor, false).await.unwrap();
        assert_eq!(state(&applied), "ACTIVATING");
        waits.push(trusted_for);
        later(trusted_for + Duration::from_millis(1)).await;
    }
    assert!(waits[0] < Duration::from_secs(3), "{waits:?}");
    assert!(waits.is_sorted() || waits[7] >= Duration::from_secs(60), "{waits:?}");
    assert!(waits[7] <= Duration::from_secs(66), "{waits:?}");
    later(Duration::from_secs(3600)).await;
    let (applied, trusted_for) = route.attempt(&executor, false).await.unwrap();
    assert_eq!(state(&applied), "ACTIVE");
    assert!(trusted_for >= Duration::from_secs(300));
}

#[tokio::test]
async fn each_drift_of_an_integration_is_repaired() {
    let organisation = organisation(Config::default()).await;
    let executor = executor(&organisation);
    let mut route = Route::with_integration(&organisation, "one");
    route.attempt(&executor, false).await.unwrap();
    let id = route.record.id().unwrap().to_owned();
    type Edit = fn(&mut IntegrationSpec);
    let edits: [(&str, Edit); 5] = [
        ("name", |spec| spec.name = "x".into()),
        ("eventSourceSuffix", |spec| spec.event_source_suffix = "x".into()),
        ("awsAccountId", |spec| spec.aws_account_id = "999999999999".into()),
        ("awsAccountRegion", |spec| spec.aws_region = "us-east-1".into()),
        ("eventFilter", |spec| spec.topics = vec!["v2.users.{id}.station".into()]),
    ];
    for (field, edit) in edits {
        let mut edited = of_route_one();
        edit(&mut edited.spec);
        by_hand(&organisation).configure(&id, &edited).await.unwrap().unwrap();
        later(UNTIL_THE_NEXT_ONE).await;
        let change = route.attempt(&executor, false).await.unwrap().0.change;
        assert_eq!(change, Some(Change::Repaired(field.to_owned())));
        // It is found in order twice, so that the next edit is none of the same owner.
        later(UNTIL_THE_NEXT_ONE).await;
        assert_eq!(route.attempt(&executor, false).await.unwrap().0.change, None);
    }
    by_hand(&organisation).set_enabled(&id, false).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    let change = route.attempt(&executor, false).await.unwrap().0.change;
    assert_eq!(change, Some(Change::Repaired("intendedState".to_owned())));
    by_hand(&organisation).delete(&id).await.unwrap();
    later(UNTIL_THE_NEXT_ONE).await;
    assert_eq!(route.attempt(&executor, false).await.unwrap().0.change, Some(Change::Created));
    let [there] = organisation.simulator.integrations().try_into().unwrap();
    assert_eq!((there.name.as_str(), there.state), ("presence-one", IntegrationState::Active));
}

#[tokio::test]
async fn an_edit_changes_the_integration_in_place() {
    let organisation = organisation(Config::default()).await;
    let executor = executor(&organisation);
    let mut route = Route::with_integration(&organisation, "one");
    route.attempt(&executor, false).await.unwrap();
    let id = route.record.id().unwrap().to_owned();
    route.object.spec.suspend = true;
    let (applied, _) = route.attempt(&executor, false).await.unwrap();
    assert_eq!(applied.change, Some(Change::Repaired("intendedState".to_owned())));
    assert_eq!(state(&applied), "INACTIVE");
    route.object.spec.suspend = false;
    route.event_bridge().event_source_suffix = Some("moved".into());
    route.attempt(&executor, false).await.unwrap();
    route.remove_former(&executor).await.unwrap();
    let [there] = organisation.simulator.integrations().try_into().unwrap();
    assert_eq!((there.id.to_string(), there.name.as_str()), (id, "moved"));
    assert_eq!(there.state, IntegrationState::Active);
}

#[tokio::test]
async fn another_owners_integration_is_neither_taken_nor_deleted() {
    for other_account in [false, true] {
        let organisation = organisation(Config::default()).await;
        let executor = executor(&organisation);
        let theirs = of_others(&organisation, |theirs| {
            if other_account {
                theirs.spec.aws_account_id = "999999999999".into();
            }
        })
        .await;
        let before = organisation.simulator.integrations();
        let mut route = Route::with_integration(&organisation, "one");
        for _ in 0..3 {
            let failure = route.attempt(&executor, false).await.unwrap_err();
            assert_eq!(failure.reason, "Contested");
            let account = if other_account { "999999999999" } else { "123456789012" };
            assert!(failure.message.contains(account), "{}", failure.message);
            later(UNTIL_THE_NEXT_ONE).await;
        }
        route.deregister(&executor).await.unwrap();
        let after = organisation.simulator.integrations();
        assert_eq!(json!(after), json!(before), "as it was");
        assert_eq!(after[0].id.to_string(), theirs);
    }
}

/// What a person does with a route that has an integration.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flow {
    Create,
    Edit,
    Suspend,
    Delete,
}

impl Flow {
    async fn attempt(self, route: &mut Route, executor: &Executor) -> Result<(), Failure> {
        match self {
            Self::Delete => route.deregister(executor).await,
            _ => route.attempt(executor, false).await.map(drop),
        }
    }
}

/// The operator dies at the n-th call to the integrations, before or after it is carried out, and another goes on with
/// what the status holds.
async fn dies_at(flow: Flow, nth: usize, side: &str) -> bool {
    let organisation = organisation(Config::default()).await;
    let mut route = Route::with_integration(&organisation, "one");
    if flow != Flow::Create {
        route.attempt(&executor(&organisation), false).await.unwrap();
    }
    match flow {
        Flow::Edit => route.event_bridge().aws_region = "eu-central-1".into(),
        Flow::Suspend => route.object.spec.suspend = true,
        Flow::Create | Flow::Delete => {}
    }
    organisation.set_faults(json!([
        {"match": {"path": "/api/v2/integrations", "nth": nth}, "do": {"cutConnection": side}},
    ]));
    let has_died = flow.attempt(&mut route, &executor(&organisation)).await.is_err();
    let next = executor(&organisation);
    // The second attempt is for a creation that took effect late: it is looked for until none can any more.
    for _ in 0..2 {
        let _ = flow.attempt(&mut route, &next).await;
        later(UNTIL_THE_NEXT_ONE).await;
    }
    flow.attempt(&mut route, &next).await.unwrap();
    let there = organisation.simulator.integrations();
    let what = format!("{flow:?}, call {nth}, {side}: {there:?}");
    assert_eq!(there.len(), usize::from(flow != Flow::Delete), "{what}");
    if let [integration] = there.as_slice() {
        assert_eq!(integration.enabled, flow != Flow::Suspend, "{what}");
        let region = &integration.properties.as_ref().unwrap().aws_account_region;
        assert_eq!(region, &route.event_bridge().aws_region, "{what}");
        assert_eq!(route.record.id(), Some(integration.id.to_string().as_str()), "{what}");
    }
    has_died
}

#[tokio::test]
async fn an_operator_that_dies_at_any_call_leaves_nothing_behind() {
    for flow in [Flow::Create, Flow::Edit, Flow::Suspend, Flow::Delete] {
        for side in ["before", "after"] {
            let mut calls = 0;
            while dies_at(flow, calls + 1, side).await {
                calls += 1;
            }
            assert!(calls >= 3, "{flow:?} has only {calls} calls");
        }
    }
}

#[tokio::test]
async fn a_new_operator_finds_what_the_last_one_began() {
    let organisation = organisation(Config::default()).await;
    let mut route = Route::with_integration(&organisation, "one");
    organisation.set_faults(json!([
        {"match": {"method": "PUT", "path": "/api/v2/integrations"}, "do": {"status": 500}},
    ]));
    route.attempt(&executor(&organisation), false).await.unwrap_err();
    organisation.set_faults(json!([]));
    let (applied, _) = route.attempt(&executor(&organisation), false).await.unwrap();
    let fields = "eventSourceSuffix, awsAccountId, awsAccountRegion, eventFilter, intendedState";
    assert_eq!(applied.change, Some(Change::Repaired(fields.to_owned())));
    assert_eq!(organisation.simulator.integrations().len(), 1);
}

#[tokio::test]
async fn an_external_integration_is_read_and_left_alone() {
    let organisation = organisation(Config::default()).await;
    let executor = executor(&organisation);
    let mut route = Route::with_integration(&organisation, "one");
    route.event_bridge().integration = IntegrationMode::External;
    assert_eq!(route.attempt(&executor, false).await.unwrap_err().reason, "IntegrationMissing");

    let id = of_others(&organisation, |theirs| {
        theirs.spec.name = "Presence (Terraform)".into();
        theirs.spec.topics.push("v2.users.{id}.activity".into());
    })
    .await;
    later(UNTIL_THE_NEXT_ONE).await;
    let (applied, _) = route.attempt(&executor, false).await.unwrap();
    assert_eq!(applied.registration.id(), id);
    assert_eq!(applied.differs.as_deref(), Some("eventFilter"));
    assert!(route.record.is_free());
    route.deregister(&executor).await.unwrap();
    let [there] = organisation.simulator.integrations().try_into().unwrap();
    assert_eq!((there.config_version, there.state), (2, IntegrationState::Active));
    assert_eq!(organisation.calls(CREATIONS), 1);
}

#[tokio::test]
async fn another_source_leaves_nothing_of_the_former_one() {
    let organisation = organisation(Config::default()).await;
    let executor = executor(&organisation);
    let mut webhook = Route::new(&organisation, "one");
    webhook.register(&executor).await.unwrap();
    let mut route = Route::with_integration(&organisation, "one");
    route.record = webhook.record.clone();
    route.attempt(&executor, false).await.unwrap();
    route.remove_former(&executor).await.unwrap();
    assert!(organisation.simulator.registrations().is_empty());
    assert_eq!(organisation.simulator.integrations().len(), 1);

    let mut back = Route::new(&organisation, "one");
    back.record = route.record.clone();
    back.register(&executor).await.unwrap();
    back.remove_former(&executor).await.unwrap();
    assert_eq!(organisation.simulator.registrations().len(), 1);
    assert!(organisation.simulator.integrations().is_empty());
}
