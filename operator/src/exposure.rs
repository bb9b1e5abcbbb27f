//! Whether the endpoint is exposed, by what its Ingress, its HTTPRoute or the Service of its load balancer reports.
//!
//! An Ingress and a load balancer have an address once their controller has taken them. Some Ingress controllers never
//! report one, and Kubernetes does not say which: an object without an address is waited for until a timeout, and beyond
//! it where objects of its class are known to get one. A controller of the Gateway API has to report.

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::DynamicObject;
use parking_lot::Mutex;
use presenceroute_crds::spec::{ParentReference, ServiceType};
use presenceroute_manifest::build;
use presenceroute_manifest::validate::{self, EndpointModel, Model};
use serde_json::Value;

use crate::cache::OwnedObjects;
use crate::text::one_line;

/// How long an object without an address is waited for, unless the installation says otherwise. ingress-nginx reports
/// within a minute, the load balancers of clouds within two as a rule.
pub const EXPOSURE_TIMEOUT: Duration = Duration::from_secs(120);
/// The reason while an address is waited for.
pub const ADDRESS_PENDING: &str = "AddressPending";
/// The reason while the report of a Gateway's controller is waited for.
pub const GATEWAY_PENDING: &str = "GatewayPending";
/// How many addresses are shown, and the bytes of each.
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS: usize = 253;
/// The bytes of what a controller says.
const MAX_WORDS: usize = 512;

/// How far the endpoint is exposed.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposure {
    /// Whether the endpoint is exposed, as far as Kubernetes knows.
    pub is_exposed: bool,
    /// The reason of the condition.
    pub reason: &'static str,
    /// The thing and the cause.
    pub message: String,
    /// The object that exposes the endpoint, as `KIND/NAME`.
    pub exposed_by: String,
    /// The addresses that it reports.
    pub addresses: Vec<String>,
    /// When to look again although no watch triggers it.
    pub check_in: Option<Duration>,
}

/// What is known of a route beside what its objects report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'p> {
    /// How long it has been without an address.
    pub waited: Duration,
    /// Whether Genesys Cloud has its registration already, so that waiting would protect nothing.
    pub is_registered: bool,
    /// The condition as it was last reported.
    pub condition: Option<&'p Condition>,
}

/// What the object that exposes an endpoint reports.
#[derive(Debug, PartialEq)]
pub enum Report {
    /// The Service of a type that gets no address of its own: the rest of the path is another's.
    ServiceOnly(String),
    /// It does not exist.
    NotCreated(String),
    /// It has addresses.
    Addresses {
        /// The object.
        object: String,
        /// Its class, as a text.
        class: String,
        /// The first of its addresses.
        addresses: Vec<String>,
    },
    /// It has none.
    NoAddress {
        /// The object.
        object: String,
        /// Its class, as a text.
        class: String,
    },
    /// What each Gateway makes of an HTTPRoute.
    Gateways {
        /// The HTTPRoute.
        object: String,
        /// The Gateways, in the order of the spec.
        verdicts: Vec<(String, GatewayVerdict)>,
    },
}

/// What one Gateway makes of an HTTPRoute.
#[derive(Debug, PartialEq)]
pub enum GatewayVerdict {
    /// It serves it.
    Accepted,
    /// Its controller has not reported on the newest generation.
    Pending,
    /// It does not serve it, for a reason and in the words of its controller.
    Refused(String),
    /// It serves it, and cannot find the Service.
    Unresolved(String),
}

/// Judges reports, and remembers which classes report addresses.
pub struct ExposureJudge {
    timeout: Duration,
    reporting_classes: Mutex<HashSet<String>>,
}

impl Report {
    /// What is reported of the objects that expose an endpoint of this model.
    pub fn read(model: &Model, endpoint: &EndpointModel, owned: &OwnedObjects) -> Self {
        let name = build::relay_name(&model.name);
        let object = |kind: &str| owned.get(kind, &model.namespace, &name);
        match &endpoint.exposure {
            validate::Exposure::Ingress(_) => of_ingress(object("Ingress"), &name),
            validate::Exposure::Gateway(gateway) => {
                of_http_route(object("HTTPRoute"), &name, &model.namespace, &gateway.parent_refs)
            }
            validate::Exposure::Service if endpoint.service.type_ == ServiceType::LoadBalancer => {
                of_load_balancer(object("Service"), &name)
            }
            validate::Exposure::Service => Self::ServiceOnly(format!("Service/{name}")),
        }
    }

    /// Whether it lacks an address that it may get.
    #[must_use]
    pub fn lacks_address(&self) -> bool {
        matches!(self, Self::NoAddress { .. })
    }
}

impl ExposureJudge {
    /// Knows no class yet. `timeout` is how long an address is waited for.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, reporting_classes: Mutex::default() }
    }

    /// What a report means for the route.
    pub fn judge(&self, report: Report, past: Past<'_>) -> Exposure {
        match report {
            Report::ServiceOnly(object) => {
                let message =
                    format!("{object} is all that the route makes; what leads to it is not watched");
                Exposure::is(object, "ServiceOnly", message)
            }
            Report::NotCreated(object) => {
                let message =
                    format!("{object} does not exist yet; RelayAvailable says why, if it is refused");
                Exposure::is_not(object, "NotCreated", message)
            }
            Report::Addresses { object, class, addresses } => {
                self.reporting_classes.lock().insert(class);
                let message = format!("{object} has the address {}", addresses.join(", "));
                Exposure { addresses, ..Exposure::is(object, "Exposed", message) }
            }
            Report::NoAddress { object, class } => self.without_address(object, &class, past),
            Report::Gateways { object, verdicts } => of_gateways(object, &verdicts),
        }
    }

    fn without_address(&self, object: String, class: &str, past: Past<'_>) -> Exposure {
        let lost = format!(
            "{object} ({class}) has no address, and objects of this class get one: its controller has not taken it, or has \
             given it up; kubectl describe shows its events"
        );
        // What was found out before the operator was restarted stands.
        let was_lost = past.condition.is_some_and(|before| before.message == lost);
        if was_lost || self.reporting_classes.lock().contains(class) {
            return Exposure::is_not(object, ADDRESS_PENDING, lost);
        }
        if past.is_registered || past.waited >= self.timeout {
            let message = format!(
                "{object} ({class}) reports no address, as some controllers do not; it is taken for exposed"
            );
            return Exposure::is(object, "AddressNotReported", message);
        }
        let message = format!(
            "{object} ({class}) has no address yet; the registration waits for one for up to {} s",
            self.timeout.as_secs()
        );
        let check_in = Some(self.timeout.saturating_sub(past.waited));
        Exposure { check_in, ..Exposure::is_not(object, ADDRESS_PENDING, message) }
    }
}

impl Exposure {
    fn is(exposed_by: String, reason: &'static str, message: String) -> Self {
        Self { is_exposed: true, reason, message, exposed_by, addresses: Vec::new(), check_in: None }
    }

    fn is_not(exposed_by: String, reason: &'static str, message: String) -> Self {
        Self { is_exposed: false, ..Self::is(exposed_by, reason, message) }
    }
}

/// Every Gateway that the spec names has to serve the HTTPRoute: which of them the URL leads to is not known.
fn of_gateways(object: String, verdicts: &[(String, GatewayVerdict)]) -> Exposure {
    let first = |is_wanted: fn(&GatewayVerdict) -> bool| verdicts.iter().find(|(_, it)| is_wanted(it));
    if let Some((gateway, GatewayVerdict::Refused(words))) =
        first(|it| matches!(it, GatewayVerdict::Refused(_)))
    {
        let message = format!("{object} is refused by {gateway}: {words}");
        return Exposure::is_not(object, "NotAccepted", message);
    }
    if let Some((gateway, GatewayVerdict::Unresolved(words))) =
        first(|it| matches!(it, GatewayVerdict::Unresolved(_)))
    {
        let message = format!("{gateway} cannot resolve the references of {object}: {words}");
        return Exposure::is_not(object, "RefsNotResolved", message);
    }
    if let Some((gateway, _)) = first(|it| *it == GatewayVerdict::Pending) {
        let message = format!(
            "the controller of {gateway} has not accepted {object} yet; if that stays so, check \
             spec.endpoint.gateway.parentRefs and the Gateway's own status"
        );
        return Exposure::is_not(object, GATEWAY_PENDING, message);
    }
    let gateways: Vec<_> = verdicts.iter().map(|(gateway, _)| gateway.as_str()).collect();
    let message = format!("{object} is accepted by {}", gateways.join(", "));
    Exposure::is(object, "Exposed", message)
}

fn of_ingress(live: Option<DynamicObject>, name: &str) -> Report {
    let object = format!("Ingress/{name}");
    let Some(ingress) = live.and_then(|live| live.try_parse::<Ingress>().ok()) else {
        return Report::NotCreated(object);
    };
    let class = ingress.spec.and_then(|spec| spec.ingress_class_name);
    let status = ingress.status.and_then(|status| status.load_balancer).and_then(|it| it.ingress);
    let addresses = status.into_iter().flatten().map(|point| (point.hostname, point.ip));
    with_addresses(object, "class", class, addresses)
}

fn of_load_balancer(live: Option<DynamicObject>, name: &str) -> Report {
    let object = format!("Service/{name}");
    let Some(service) = live.and_then(|live| live.try_parse::<Service>().ok()) else {
        return Report::NotCreated(object);
    };
    let class = service.spec.and_then(|spec| spec.load_balancer_class);
    let status = service.status.and_then(|status| status.load_balancer).and_then(|it| it.ingress);
    let addresses = status.into_iter().flatten().map(|point| (point.hostname, point.ip));
    with_addresses(object, "load balancer class", class, addresses)
}

fn with_addresses(
    object: String,
    what: &str,
    class: Option<String>,
    addresses: impl Iterator<Item = (Option<String>, Option<String>)>,
) -> Report {
    let class = match class {
        Some(class) => format!("{what} {class:?}"),
        None => format!("default {what}"),
    };
    let addresses = addresses.filter_map(|(hostname, ip)| hostname.or(ip)).take(MAX_ADDRESSES);
    let addresses: Vec<_> = addresses.map(|address| one_line(&address, MAX_ADDRESS)).collect();
    if addresses.is_empty() {
        Report::NoAddress { object, class }
    } else {
        Report::Addresses { object, class, addresses }
    }
}

fn of_http_route(
    live: Option<DynamicObject>,
    name: &str,
    namespace: &str,
    parents: &[ParentReference],
) -> Report {
    let object = format!("HTTPRoute/{name}");
    let Some(live) = live else { return Report::NotCreated(object) };
    let reports = live.data.pointer("/status/parents").and_then(Value::as_array);
    let reports = reports.map(Vec::as_slice).unwrap_or_default();
    let generation = live.metadata.generation.unwrap_or_default();
    let verdict = |parent: &ParentReference| {
        let of_parent = |report: &&Value| is_about(&report["parentRef"], parent, namespace);
        let verdicts = reports.iter().filter(of_parent).map(|report| gateway_verdict(report, generation));
        // Of a Gateway that several controllers report on, the worst counts.
        let verdict = verdicts.max_by_key(severity).unwrap_or(GatewayVerdict::Pending);
        (gateway_text(parent), verdict)
    };
    Report::Gateways { object, verdicts: parents.iter().map(verdict).collect() }
}

fn severity(verdict: &GatewayVerdict) -> u8 {
    match verdict {
        GatewayVerdict::Accepted => 0,
        GatewayVerdict::Pending => 1,
        GatewayVerdict::Unresolved(_) => 2,
        GatewayVerdict::Refused(_) => 3,
    }
}

/// Whether a report is about this reference.
fn is_about(reported: &Value, parent: &ParentReference, namespace: &str) -> bool {
    let field = |name: &str| reported[name].as_str();
    field("name") == Some(&parent.name)
        && field("namespace").unwrap_or(namespace) == parent.namespace.as_deref().unwrap_or(namespace)
        && field("sectionName") == parent.section_name.as_deref()
}

fn gateway_verdict(report: &Value, generation: i64) -> GatewayVerdict {
    let condition = |type_: &str| {
        let mut conditions = report["conditions"].as_array().into_iter().flatten();
        // A controller that does not say which generation it speaks of is believed.
        let is_current = |it: &Value| it["observedGeneration"].as_i64().is_none_or(|seen| seen >= generation);
        conditions.find(|it| it["type"] == type_ && is_current(it))
    };
    let fails = |condition: &Value| condition["status"] == "False";
    let words = |condition: &Value| {
        let field = |name: &str| condition[name].as_str().unwrap_or_default();
        one_line(&format!("{}: {}", field("reason"), field("message")), MAX_WORDS)
    };
    let (accepted, resolved) = (condition("Accepted"), condition("ResolvedRefs"));
    if let Some(accepted) = accepted.filter(|it| fails(it)) {
        return GatewayVerdict::Refused(words(accepted));
    }
    if let Some(resolved) = resolved.filter(|it| fails(it)) {
        return GatewayVerdict::Unresolved(words(resolved));
    }
    match accepted {
        Some(accepted) if accepted["status"] == "True" => GatewayVerdict::Accepted,
        _ => GatewayVerdict::Pending,
    }
}

fn gateway_text(parent: &ParentReference) -> String {
    let ParentReference { name, namespace, section_name } = parent;
    let namespace = namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
    let listener = section_name.as_ref().map(|listener| format!(" (listener {listener:?})"));
    format!("Gateway {namespace}{name}{}", listener.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn live(mut object: Value) -> Option<DynamicObject> {
        object["metadata"] = json!({"name": "one-relay", "namespace": "presence", "generation": 2});
        Some(serde_json::from_value(object).unwrap())
    }

    fn ingress(class: Option<&str>, addresses: &Value) -> Report {
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
            "spec": {"ingressClassName": class},
            "status": {"loadBalancer": {"ingress": addresses}},
        });
        of_ingress(live(object), "one-relay")
    }

    fn judged(judge: &ExposureJudge, report: Report, past: Past<'_>) -> (bool, &'static str) {
        let exposure = judge.judge(report, past);
        (exposure.is_exposed, exposure.reason)
    }

    fn waited(waited: Duration) -> Past<'static> {
        Past { waited, ..Past::default() }
    }

    #[test]
    fn an_ingress_with_an_address_is_exposed_and_shows_it() {
        let judge = ExposureJudge::new(MINUTE);
        let addresses = json!([{"ip": "192.0.2.1"}, {"hostname": "lb.example.com", "ip": "192.0.2.2"}]);
        let exposure = judge.judge(ingress(Some("nginx"), &addresses), Past::default());
        assert!(exposure.is_exposed);
        assert_eq!(exposure.exposed_by, "Ingress/one-relay");
        assert_eq!(exposure.addresses, ["192.0.2.1", "lb.example.com"]);
        assert_eq!(exposure.message, "Ingress/one-relay has the address 192.0.2.1, lb.example.com");
        let many: Vec<_> = (0..1000).map(|_| json!({"hostname": "x".repeat(100_000)})).collect();
        let bounded = judge.judge(ingress(None, &many.into()), Past::default());
        assert!(bounded.message.len() < 4096 && bounded.addresses.len() == MAX_ADDRESSES);
    }

    #[test]
    fn an_address_is_waited_for_until_the_timeout() {
        let judge = ExposureJudge::new(MINUTE);
        let without = || ingress(Some("traefik"), &Value::Null);
        let waiting = judge.judge(without(), waited(MINUTE / 3));
        assert_eq!((waiting.is_exposed, waiting.reason), (false, ADDRESS_PENDING));
        assert_eq!(waiting.check_in, Some(MINUTE - MINUTE / 3));
        assert!(waiting.message.contains(r#"(class "traefik") has no address yet"#), "{}", waiting.message);
        assert_eq!(judged(&judge, without(), waited(MINUTE)), (true, "AddressNotReported"));
        let registered = Past { is_registered: true, ..Past::default() };
        assert_eq!(judged(&judge, without(), registered), (true, "AddressNotReported"));
    }

    #[test]
    fn a_class_that_reports_addresses_is_waited_for_without_end() {
        let judge = ExposureJudge::new(MINUTE);
        let with = ingress(Some("nginx"), &json!([{"ip": "192.0.2.1"}]));
        assert!(judge.judge(with, Past::default()).is_exposed);
        let registered = Past { is_registered: true, ..waited(MINUTE * 60) };
        let lost = judge.judge(ingress(Some("nginx"), &Value::Null), registered);
        assert_eq!((lost.is_exposed, lost.reason, lost.check_in), (false, ADDRESS_PENDING, None));
        let other = ingress(None, &Value::Null);
        assert_eq!(judged(&judge, other, registered), (true, "AddressNotReported"), "another class");

        // As before a restart.
        let condition = serde_json::from_value(json!({
            "type": "EndpointExposed", "status": "False", "reason": lost.reason, "message": lost.message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }));
        let condition: Condition = condition.unwrap();
        let restarted = ExposureJudge::new(MINUTE);
        let past = Past { condition: Some(&condition), ..registered };
        assert_eq!(restarted.judge(ingress(Some("nginx"), &Value::Null), past), lost);
    }

    #[test]
    fn a_load_balancer_is_judged_as_an_ingress_is() {
        let service = |addresses: Value| {
            let object = json!({
                "apiVersion": "v1", "kind": "Service", "spec": {"type": "LoadBalancer"},
                "status": {"loadBalancer": {"ingress": addresses}},
            });
            of_load_balancer(live(object), "one-relay")
        };
        let judge = ExposureJudge::new(MINUTE);
        assert_eq!(judged(&judge, service(Value::Null), Past::default()), (false, ADDRESS_PENDING));
        assert_eq!(judged(&judge, service(json!([{"ip": "192.0.2.1"}])), Past::default()), (true, "Exposed"));
        assert_eq!(judged(&judge, service(json!([{}])), waited(MINUTE)), (false, ADDRESS_PENDING), "lost");
        let missing = of_load_balancer(None, "one-relay");
        assert_eq!(judged(&judge, missing, waited(MINUTE)), (false, "NotCreated"));
    }

    fn gateway(name: &str, section: Option<&str>) -> ParentReference {
        ParentReference {
            name: name.into(),
            namespace: Some("edge".into()),
            section_name: section.map(Into::into),
        }
    }

    fn reported(name: &str, conditions: &[(&str, &str, i64)]) -> Value {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status, generation)| {
                json!({
                    "type": type_, "status": status, "observedGeneration": generation,
                    "reason": "NotAllowedByListeners", "message": "no listener\nallows presence",
                })
            })
            .collect();
        json!({"parentRef": {"name": name, "namespace": "edge"}, "conditions": conditions})
    }

    fn http_route(parents: &Value, wanted: &[ParentReference]) -> Exposure {
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "spec": {}, "status": {"parents": parents},
        });
        let report = of_http_route(live(object), "one-relay", "presence", wanted);
        ExposureJudge::new(MINUTE).judge(report, waited(MINUTE * 60))
    }

    #[test]
    fn every_gateway_must_accept_the_newest_generation() {
        let good = [("Accepted", "True", 2), ("ResolvedRefs", "True", 2)];
        let one = [gateway("public", None)];
        let exposure = http_route(&json!([reported("public", &good)]), &one);
        assert!(exposure.is_exposed);
        let mut without_generation = reported("public", &good);
        without_generation["conditions"][0].as_object_mut().unwrap().remove("observedGeneration");
        assert!(http_route(&json!([without_generation]), &one).is_exposed);
        assert_eq!(exposure.message, "HTTPRoute/one-relay is accepted by Gateway edge/public");
        let pending: [(Value, &[ParentReference]); 5] = [
            (json!([]), &one),
            (json!([reported("public", &[("Accepted", "True", 1)])]), &one),
            (json!([reported("public", &[("Accepted", "Unknown", 2)])]), &one),
            (json!([reported("public", &good)]), &[gateway("public", None), gateway("other", None)]),
            (json!([reported("public", &good)]), &[gateway("public", Some("https"))]),
        ];
        for (parents, wanted) in pending {
            let exposure = http_route(&parents, wanted);
            assert_eq!((exposure.is_exposed, exposure.reason), (false, GATEWAY_PENDING), "{parents}");
        }
    }

    #[test]
    fn what_a_gateways_controller_says_is_quoted() {
        let one = [gateway("public", None)];
        let refused = http_route(&json!([reported("public", &[("Accepted", "False", 2)])]), &one);
        assert_eq!((refused.is_exposed, refused.reason), (false, "NotAccepted"));
        assert_eq!(
            refused.message,
            "HTTPRoute/one-relay is refused by Gateway edge/public: NotAllowedByListeners: no listener allows presence"
        );
        let unresolved = [("Accepted", "True", 2), ("ResolvedRefs", "False", 2)];
        let unresolved = http_route(&json!([reported("public", &unresolved)]), &one);
        assert_eq!((unresolved.is_exposed, unresolved.reason), (false, "RefsNotResolved"));
        let mut long = reported("public", &[("Accepted", "False", 2)]);
        long["conditions"][0]["message"] = json!("x".repeat(1 << 20));
        assert!(http_route(&json!([long]), &one).message.len() < 1024);
    }

    #[test]
    fn a_service_alone_is_exposed_by_others() {
        let report = Report::ServiceOnly("Service/one-relay".into());
        assert_eq!(judged(&ExposureJudge::new(MINUTE), report, Past::default()), (true, "ServiceOnly"));
    }
}
