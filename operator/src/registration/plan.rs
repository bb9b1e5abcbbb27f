//! What to do about what Genesys Cloud holds. Pure: the desired registration or integration, what was known before and what is
//! observed give the steps. The table of cases below is the specification.
//!
//! A step that turns out to be impossible (the server lacks the call, or the registration has gone) becomes part of
//! what is observed, and the plan is made anew.

use super::objects::{DesiredObject, ObservedObject};
use super::record::CleanupTarget;

/// What is known of a registration before Genesys Cloud is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreviousState<'p> {
    /// Its id.
    pub id: Option<&'p str>,
    /// Where it last sent events, or was about to: a URL, or an AWS account and region.
    pub destination: Option<&'p str>,
    /// The destination of another owner that it was found to have at the last observation.
    pub foreign_destination: Option<&'p str>,
    /// Whether another owner was found to have taken it back.
    pub contested: bool,
    /// Whether Genesys Cloud has confirmed all that is desired, but for the secret.
    pub confirmed: bool,
    /// Whether Genesys Cloud has confirmed that it signs with the secret.
    pub secret_registered: bool,
    /// Whether the relays report that it signs with another one all the same.
    pub secret_drifted: bool,
}

/// What Genesys Cloud shows, and which calls its API supports. Both change while steps are executed.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The registrations of the desired name, and the one of the known id; `None` where the server supports creation
    /// alone and shows nothing.
    pub registrations: Option<Vec<ObservedObject>>,
    /// Whether a registration can be replaced.
    pub supports_update: bool,
    /// Whether a registration can be deleted.
    pub supports_delete: bool,
    /// Whether looking it up by name takes one call. A server that ignores the name returns every page.
    pub is_cheap_to_list: bool,
}

impl Observed {
    /// At a server that shows these.
    pub fn visible(registrations: Vec<ObservedObject>, is_cheap_to_list: bool) -> Self {
        Self {
            registrations: Some(registrations),
            supports_update: true,
            supports_delete: true,
            is_cheap_to_list,
        }
    }

    /// At a server that shows nothing.
    pub fn invisible() -> Self {
        Self { registrations: None, supports_update: true, supports_delete: true, is_cheap_to_list: true }
    }

    /// The registration is gone. Where nothing is shown, that it cannot be updated is all there is to know.
    pub fn remove(&mut self, id: &str) {
        match &mut self.registrations {
            Some(registrations) => registrations.retain(|registration| registration.id() != id),
            None => self.supports_update = false,
        }
    }
}

/// One call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create the desired registration.
    Create,
    /// Replace the registration of this id by the desired one.
    Update(String),
    /// Delete the registration of this id.
    Delete(String),
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another owner has taken the registration back, or has the integration: it is not this route's.
    Conflict {
        /// Where it sends events.
        theirs: String,
    },
    /// There is no integration, and it is kept by other means.
    Missing,
}

/// The steps, none where all is as desired, and what they amount to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// In their order. The last one, unless it deletes, gives the registration.
    pub steps: Vec<Step>,
    /// The registration that stays as it is, where none is created or updated.
    pub unchanged: Option<ObservedObject>,
    /// What the steps change for people, if anything.
    pub change: Option<Change>,
    /// The destination of another owner that the registration had, and that the steps replace.
    pub foreign_destination: Option<String>,
    /// In what an integration that is kept by other means is not as desired, by the names of fields at Genesys Cloud.
    pub differs: Option<String>,
    /// Registrations of the same name that call other URLs: another owner's, never deleted.
    pub others: Vec<ObservedObject>,
}

/// What was changed at Genesys Cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A registration was created.
    Created,
    /// One had drifted, or the spec had changed: in these fields.
    Repaired(String),
    /// It was sent the secret.
    Updated,
    /// It cannot be observed or updated there, and was replaced.
    Replaced,
    /// A new one was created beside the one with this id, which can be neither changed nor deleted.
    Duplicated {
        /// The id of the old one.
        left: String,
    },
}

/// What a plan came to: a registration that is as desired, and what was done for it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// As it was last observed.
    pub registration: ObservedObject,
    /// Whether it can be observed. A server that supports creation alone shows nothing.
    pub is_verifiable: bool,
    /// Whether looking it up by name takes one call.
    pub is_cheap_to_list: bool,
    /// What was changed, for the event that reports it.
    pub change: Option<Change>,
    /// Whether Genesys Cloud was sent the secret.
    pub secret_sent: bool,
    /// The destination of another owner that it had before.
    pub foreign_destination: Option<String>,
    /// In what an integration that is kept by other means is not as desired.
    pub differs: Option<String>,
    /// Where registrations of the same name send events that are another owner's, as it may be shown.
    pub others: Vec<String>,
}

/// The steps that make Genesys Cloud hold exactly the desired registration.
///
/// # Errors
/// Another owner has it, or is to make it.
pub fn plan(
    desired: &DesiredObject,
    previous: PreviousState<'_>,
    observed: &Observed,
) -> Result<Steps, Refusal> {
    if desired.is_external() {
        return plan_external(desired, observed);
    }
    match &observed.registrations {
        Some(registrations) => plan_visible(desired, previous, observed, registrations),
        None => Ok(plan_invisible(desired, previous, observed)),
    }
}

/// What is kept by other means is read, and never changed.
fn plan_external(desired: &DesiredObject, observed: &Observed) -> Result<Steps, Refusal> {
    let mut found = observed.registrations.iter().flatten().filter(|found| desired.excludes(found));
    let found = found.next().ok_or(Refusal::Missing)?;
    let differences = desired.differences(found).join(", ");
    let differs = (!differences.is_empty()).then_some(differences);
    Ok(Steps { unchanged: Some(found.clone()), differs, ..Steps::default() })
}

fn plan_visible(
    desired: &DesiredObject,
    previous: PreviousState<'_>,
    observed: &Observed,
    registrations: &[ObservedObject],
) -> Result<Steps, Refusal> {
    let destination = desired.destination();
    let is_known = |found: &ObservedObject| previous.id == Some(found.id());
    let sends_to_ours = |found: &ObservedObject| {
        found.sends_to(&destination) || previous.destination.is_some_and(|ours| found.sends_to(ours))
    };
    let is_ours = |found: &ObservedObject| sends_to_ours(found) && (is_known(found) || desired.can_be(found));
    // The event source of an integration is taken: neither is theirs changed, nor could ours be configured.
    let in_the_way = |found: &&ObservedObject| desired.excludes(found) && !is_known(found) && !is_ours(found);
    if let Some(found) = registrations.iter().find(in_the_way) {
        return Err(Refusal::Conflict { theirs: found.destination() });
    }
    // One that has another name and another destination was taken and renamed: nothing of this route's is left of it.
    let is_lost = |found: &ObservedObject| {
        !is_ours(found) && !found.name().is_empty() && found.name() != desired.name()
    };
    let mut candidates: Vec<&ObservedObject> = registrations.iter().filter(|found| !is_lost(found)).collect();
    candidates.sort_by_key(|found| (!is_known(found), !is_ours(found)));
    let (chosen, rest) = match candidates.split_first() {
        Some((chosen, rest)) => (Some(*chosen), rest),
        None => (None, &[][..]),
    };
    // A create request that was given up may take effect late. One that calls another URL is another owner's.
    let (surplus, others): (Vec<_>, Vec<_>) = rest.iter().copied().partition(|found| is_ours(found));
    let mut steps: Vec<Step> = Vec::new();
    if observed.supports_delete {
        steps.extend(surplus.iter().map(|found| Step::Delete(found.id().to_owned())));
    }
    let others = others.into_iter().cloned().collect();
    let foreign_destination = chosen.filter(|found| !is_ours(found)).map(ObservedObject::destination);
    if let Some(theirs) = &foreign_destination
        && (previous.contested || previous.foreign_destination == Some(theirs.as_str()))
    {
        return Err(Refusal::Conflict { theirs: theirs.clone() });
    }
    // A URL may have been edited by mistake, or a registration of this name be left over: it is given the route's.
    let Some(found) = chosen else {
        return Ok(Steps {
            steps: with(steps, Step::Create),
            change: Some(Change::Created),
            others,
            ..Steps::default()
        });
    };
    let differences = desired.differences(found);
    let has_secret = previous.secret_registered && is_known(found);
    // Where nothing can be updated, wrong signatures must not cause one registration after the other.
    let is_secret_due =
        desired.has_secret() && (!has_secret || (previous.secret_drifted && observed.supports_update));
    if differences.is_empty() && !is_secret_due {
        let unchanged = Some(found.clone());
        return Ok(Steps { steps, unchanged, foreign_destination, others, ..Steps::default() });
    }
    if observed.supports_update {
        let change =
            if differences.is_empty() { Change::Updated } else { Change::Repaired(differences.join(", ")) };
        let steps = with(steps, Step::Update(found.id().to_owned()));
        return Ok(Steps { steps, change: Some(change), foreign_destination, others, ..Steps::default() });
    }
    let (replacement, change) = replacement(found.id(), observed);
    steps.extend(replacement);
    Ok(Steps { steps, change: Some(change), foreign_destination, others, ..Steps::default() })
}

/// A server that shows nothing is sent what is new, and left alone otherwise.
fn plan_invisible(desired: &DesiredObject, previous: PreviousState<'_>, observed: &Observed) -> Steps {
    let steps = |steps, change| Steps { steps, change: Some(change), ..Steps::default() };
    match previous.id {
        None => steps(vec![Step::Create], Change::Created),
        Some(id) if previous.confirmed && previous.secret_registered => {
            Steps { unchanged: Some(desired.as_created(id)), ..Steps::default() }
        }
        Some(id) if observed.supports_update => steps(vec![Step::Update(id.to_owned())], Change::Replaced),
        Some(id) => {
            let (replacement, change) = replacement(id, observed);
            steps(replacement, change)
        }
    }
}

/// A new registration after the old one is gone, or else beside it.
fn replacement(id: &str, observed: &Observed) -> (Vec<Step>, Change) {
    if observed.supports_delete {
        (vec![Step::Delete(id.to_owned()), Step::Create], Change::Replaced)
    } else {
        (vec![Step::Create], Change::Duplicated { left: id.to_owned() })
    }
}

fn with(mut steps: Vec<Step>, last: Step) -> Vec<Step> {
    steps.push(last);
    steps
}

/// The registration that a removal leaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep<'k> {
    /// By its id.
    pub id: Option<&'k str>,
    /// Of those found by name alone, all that send events elsewhere than to these. Empty: none is kept.
    pub only_destinations: &'k [String],
}

/// The ids of the registrations to delete so that a location is free, of those that its name finds there.
pub fn plan_removal(target: &CleanupTarget, keep_id: Option<&str>, found: &[ObservedObject]) -> Vec<String> {
    let keep = Keep { id: keep_id, only_destinations: &target.destinations };
    let known_id = target.location.id.as_deref();
    let is_kept = |found: &&ObservedObject| {
        let id = Some(found.id());
        let destinations = keep.only_destinations;
        let is_ours = || {
            let sends_to_ours =
                destinations.is_empty() || destinations.iter().any(|ours| found.sends_to(ours));
            id == known_id || (found.is_kept_for(&target.owner) && sends_to_ours)
        };
        id == keep.id || !is_ours()
    };
    found.iter().filter(|found| !is_kept(found)).map(|found| found.id().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use presenceroute_core::genesys_api::{IntegrationSpec, RegistrationSpec, RetryPolicy};
    use presenceroute_crds::spec::IntegrationMode;
    use presenceroute_crds::status::RegistrationLocation;
    use presenceroute_genesys::{DesiredIntegration, DesiredRegistration, Integration, Registration};
    use secrecy::SecretString;
    use serde_json::json;

    use super::super::objects::ObservedIntegration;
    use super::*;

    const OURS: &str = "https://presence.example.com/e";
    const OLD: &str = "https://presence.example.com/old";
    const THEIRS: &str = "https://other.example.com/e";

    fn desired() -> DesiredObject {
        DesiredObject::Registration(DesiredRegistration {
            spec: RegistrationSpec {
                name: "presence/one".into(),
                enabled: true,
                url: OURS.into(),
                event_types: vec!["a".into()],
                retry_policy: RetryPolicy::default(),
            },
            secret: SecretString::from("secret"),
        })
    }

    /// As desired, but for its id and its URL.
    fn found(id: &str, url: &str) -> ObservedObject {
        edited(id, |registration| registration.url = url.into())
    }

    fn named(id: &str, url: &str, name: &str) -> ObservedObject {
        edited(id, |registration| (registration.url, registration.name) = (url.into(), name.into()))
    }

    fn edited(id: &str, edit: impl FnOnce(&mut Registration)) -> ObservedObject {
        let ObservedObject::Registration(mut registration) = desired().as_created(id) else { panic!() };
        edit(&mut registration);
        ObservedObject::Registration(registration)
    }

    /// Known by its id, confirmed, and with the newest secret.
    fn steady() -> PreviousState<'static> {
        PreviousState {
            id: Some("1"),
            destination: Some(OURS),
            confirmed: true,
            secret_registered: true,
            ..PreviousState::default()
        }
    }

    fn shows<const N: usize>(registrations: [ObservedObject; N]) -> Observed {
        Observed::visible(registrations.into(), true)
    }

    /// A plan as a line of a table.
    fn line(plan: Result<Steps, Refusal>) -> String {
        let Steps { steps, unchanged, change, foreign_destination, differs, others } = match plan {
            Err(Refusal::Conflict { theirs }) => return format!("conflict with {theirs}"),
            Err(Refusal::Missing) => return "missing".into(),
            Ok(steps) => steps,
        };
        let mut words: Vec<_> = steps
            .iter()
            .map(|step| match step {
                Step::Create => "create".to_owned(),
                Step::Update(id) => format!("update {id}"),
                Step::Delete(id) => format!("delete {id}"),
            })
            .collect();
        words.extend(unchanged.map(|found| format!("keep {}", found.id())));
        words.extend(change.map(|change| format!("= {change:?}")));
        words.extend(foreign_destination.map(|theirs| format!("from {theirs}")));
        words.extend(differs.map(|fields| format!("differs in {fields}")));
        words.extend(others.iter().map(|other| format!("leave {}", other.id())));
        words.join(" ")
    }

    #[test]
    fn the_plan_of_each_case() {
        let none = PreviousState::default();
        let rotated = PreviousState { secret_registered: false, ..steady() };
        let drifted = PreviousState { secret_drifted: true, ..steady() };
        let moved = PreviousState { destination: Some(OLD), ..steady() };
        let warned = PreviousState { foreign_destination: Some(THEIRS), ..steady() };
        let contested = PreviousState { contested: true, ..steady() };
        let disabled = edited("1", |registration| registration.enabled = Some(false));
        let no_update = |observed: Observed| Observed { supports_update: false, ..observed };
        let post_only =
            |observed: Observed| Observed { supports_update: false, supports_delete: false, ..observed };
        let conflict = format!("conflict with {THEIRS}");
        let taken_over = |id: &str| format!(r#"update {id} = Repaired("url") from {THEIRS}"#);
        let (first, second) = (taken_over("7"), taken_over("1"));
        let cases: Vec<(&str, PreviousState<'_>, Observed, &str)> = vec![
            ("none is there", none, shows([]), "create = Created"),
            ("as desired", steady(), shows([found("1", OURS)]), "keep 1"),
            ("deleted at Genesys Cloud", steady(), shows([]), "create = Created"),
            ("drift of one field", steady(), shows([disabled.clone()]), r#"update 1 = Repaired("enabled")"#),
            ("the spec has another URL", moved, shows([found("1", OLD)]), r#"update 1 = Repaired("url")"#),
            ("renamed", steady(), shows([named("1", OURS, "x")]), r#"update 1 = Repaired("name")"#),
            ("a new secret", rotated, shows([found("1", OURS)]), "update 1 = Updated"),
            ("relays report another secret", drifted, shows([found("1", OURS)]), "update 1 = Updated"),
            ("found by name after a lost answer", none, shows([found("7", OURS)]), "update 7 = Updated"),
            (
                "two after a lost answer",
                none,
                shows([found("7", OURS), found("8", OURS)]),
                "delete 8 update 7 = Updated",
            ),
            (
                "the known one is not the first",
                steady(),
                shows([found("7", OURS), found("1", OURS)]),
                "delete 7 keep 1",
            ),
            (
                "a second one with the URL before an edit",
                moved,
                shows([found("1", OURS), found("7", OLD)]),
                "delete 7 keep 1",
            ),
            (
                "a second one of another owner",
                steady(),
                shows([found("7", THEIRS), found("1", OURS)]),
                "keep 1 leave 7",
            ),
            (
                "another owner's and ours, neither known",
                none,
                shows([found("7", THEIRS), found("8", OURS)]),
                "update 8 = Updated leave 7",
            ),
            ("another owner's alone is taken over once", none, shows([found("7", THEIRS)]), &first),
            ("ours calls another URL, for the first time", steady(), shows([found("1", THEIRS)]), &second),
            ("ours calls another URL again", warned, shows([found("1", THEIRS)]), &conflict),
            ("contested before a restart", contested, shows([found("1", THEIRS)]), &conflict),
            ("contested, and released", contested, shows([found("1", OURS)]), "keep 1"),
            ("taken and renamed", steady(), shows([named("1", THEIRS, "x")]), "create = Created"),
            (
                "no update, drift",
                steady(),
                no_update(shows([disabled.clone()])),
                "delete 1 create = Replaced",
            ),
            (
                "no update, a new secret",
                rotated,
                no_update(shows([found("1", OURS)])),
                "delete 1 create = Replaced",
            ),
            ("no update, wrong signatures alone", drifted, no_update(shows([found("1", OURS)])), "keep 1"),
            (
                "neither update nor delete",
                rotated,
                post_only(shows([found("1", OURS)])),
                r#"create = Duplicated { left: "1" }"#,
            ),
            (
                "a surplus one that cannot be deleted",
                steady(),
                post_only(shows([found("1", OURS), found("7", OURS)])),
                "keep 1",
            ),
            ("nothing shown, none known", none, Observed::invisible(), "create = Created"),
            ("nothing shown, confirmed", steady(), Observed::invisible(), "keep 1"),
            ("nothing shown, wrong signatures", drifted, Observed::invisible(), "keep 1"),
            ("nothing shown, a new secret", rotated, Observed::invisible(), "update 1 = Replaced"),
            (
                "nothing shown, no update",
                rotated,
                no_update(Observed::invisible()),
                "delete 1 create = Replaced",
            ),
            (
                "nothing shown, create alone",
                rotated,
                post_only(Observed::invisible()),
                r#"create = Duplicated { left: "1" }"#,
            ),
        ];
        for (case, previous, observed, expected) in cases {
            assert_eq!(line(plan(&desired(), previous, &observed)), expected, "{case}");
        }
    }

    #[test]
    fn a_step_that_is_impossible_changes_the_next_plan() {
        let mut observed = shows([found("1", OLD), found("7", OURS)]);
        let moved = PreviousState { destination: Some(OLD), ..steady() };
        assert_eq!(line(plan(&desired(), moved, &observed)), r#"delete 7 update 1 = Repaired("url")"#);
        observed.remove("7");
        observed.remove("1");
        assert_eq!(line(plan(&desired(), moved, &observed)), "create = Created");
        let mut invisible = Observed::invisible();
        let rotated = PreviousState { secret_registered: false, ..steady() };
        invisible.remove("1");
        assert_eq!(line(plan(&desired(), rotated, &invisible)), "delete 1 create = Replaced");
    }

    #[test]
    fn a_removal_spares_the_one_to_keep_and_another_owners() {
        let location: RegistrationLocation = serde_json::from_value(json!({
            "id": "1", "name": "presence/one",
            "access": {
                "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"}, "apiUrl": "https://api",
                "tokenPath": "/t", "eventBridgesPath": "/b", "tokenRequest": "Json",
            },
        }))
        .unwrap();
        let all = [found("1", THEIRS), found("2", OURS), found("3", THEIRS)];
        let any = CleanupTarget::former(location, "presence/one");
        let ours = CleanupTarget { destinations: vec![OURS.into()], ..any.clone() };
        assert_eq!(plan_removal(&any, None, &all), ["1", "2", "3"]);
        assert_eq!(plan_removal(&any, Some("2"), &all), ["1", "3"]);
        assert_eq!(plan_removal(&ours, None, &all), ["1", "2"]);
        assert_eq!(plan_removal(&ours, Some("2"), &all), ["1"]);
    }

    const OWNER: &str = "presence/one";
    const BUS: &str = "AWS account 123456789012 in eu-west-1";

    fn integration() -> DesiredIntegration {
        DesiredIntegration {
            spec: IntegrationSpec {
                name: "presence-one".into(),
                event_source_suffix: "presence-one".into(),
                aws_account_id: "123456789012".into(),
                aws_region: "eu-west-1".into(),
                topics: vec!["v2.users.{id}.presence".into()],
                enabled: true,
            },
            owner: OWNER.into(),
        }
    }

    /// An integration as desired, but for an edit.
    fn at_genesys(id: &str, edit: impl FnOnce(&mut DesiredIntegration)) -> ObservedObject {
        let mut desired = integration();
        edit(&mut desired);
        ObservedObject::Integration(Box::new(ObservedIntegration {
            integration: Integration::written(id, &desired),
            event_source_name: None,
            unavailable_topics: Vec::new(),
        }))
    }

    fn by_hand(id: &str) -> ObservedObject {
        at_genesys(id, |theirs| theirs.owner = "somebody".into())
    }

    fn elsewhere(id: &str) -> ObservedObject {
        at_genesys(id, |theirs| theirs.spec.aws_account_id = "999999999999".into())
    }

    /// Right after its creation.
    fn unconfigured(id: &str) -> ObservedObject {
        at_genesys(id, |new| {
            (new.spec.event_source_suffix, new.spec.topics) = (String::new(), Vec::new());
            (new.spec.aws_account_id, new.spec.aws_region) = (String::new(), String::new());
            new.owner = String::new();
        })
    }

    #[test]
    fn the_plan_of_each_case_of_an_integration() {
        let none = PreviousState::default();
        let known = PreviousState {
            id: Some("1"),
            destination: Some(BUS),
            confirmed: true,
            ..PreviousState::default()
        };
        let theirs = "AWS account 999999999999 in eu-west-1";
        let warned = PreviousState { foreign_destination: Some(theirs), ..known };
        let contested = PreviousState { contested: true, ..known };
        let disabled = at_genesys("1", |desired| desired.spec.enabled = false);
        let renamed = at_genesys("1", |desired| desired.spec.name = "x".into());
        let other_suffix = at_genesys("1", |desired| desired.spec.event_source_suffix = "old".into());
        let all = "eventSourceSuffix, awsAccountId, awsAccountRegion, eventFilter";
        let (conflict, conflict_here) = (format!("conflict with {theirs}"), format!("conflict with {BUS}"));
        let (finished, finished_known) =
            (format!(r#"update 7 = Repaired("{all}")"#), format!(r#"update 1 = Repaired("{all}")"#));
        let taken = format!(r#"update 1 = Repaired("awsAccountId") from {theirs}"#);
        let cases: Vec<(&str, PreviousState<'_>, Observed, &str)> = vec![
            ("none is there", none, shows([]), "create = Created"),
            ("as desired", known, shows([at_genesys("1", |_| {})]), "keep 1"),
            ("deleted at Genesys Cloud", known, shows([]), "create = Created"),
            ("found after a lost answer", none, shows([at_genesys("7", |_| {})]), "keep 7"),
            ("created and not configured", none, shows([unconfigured("7")]), &finished),
            ("its configuration was emptied", known, shows([unconfigured("1")]), &finished_known),
            ("disabled by hand", known, shows([disabled]), r#"update 1 = Repaired("intendedState")"#),
            ("renamed", known, shows([renamed]), r#"update 1 = Repaired("name")"#),
            (
                "the spec has another suffix",
                known,
                shows([other_suffix]),
                r#"update 1 = Repaired("eventSourceSuffix")"#,
            ),
            ("its notes were edited", known, shows([by_hand("1")]), "keep 1"),
            (
                "a second one was created late",
                known,
                shows([at_genesys("1", |_| {}), unconfigured("7")]),
                "delete 7 keep 1",
            ),
            ("made by hand for the same bus", none, shows([by_hand("7")]), &conflict_here),
            ("made by hand, and released", contested, shows([at_genesys("1", |_| {})]), "keep 1"),
            ("another cluster's, for another bus", none, shows([elsewhere("7")]), &conflict),
            (
                "another owner's beside ours",
                known,
                shows([at_genesys("1", |_| {}), by_hand("7")]),
                &conflict_here,
            ),
            ("ours sends elsewhere, for the first time", known, shows([elsewhere("1")]), &taken),
            ("ours sends elsewhere again", warned, shows([elsewhere("1")]), &conflict),
        ];
        let desired = DesiredObject::Integration(integration(), IntegrationMode::Managed);
        for (case, previous, observed, expected) in cases {
            assert_eq!(line(plan(&desired, previous, &observed)), expected, "{case}");
        }
    }

    #[test]
    fn an_external_integration_is_only_read() {
        let desired = DesiredObject::Integration(integration(), IntegrationMode::External);
        let narrow = at_genesys("7", |theirs| theirs.spec.topics.clear());
        let other_suffix = at_genesys("7", |theirs| theirs.spec.event_source_suffix = "x".into());
        for (observed, expected) in [
            (shows([]), "missing"),
            (shows([by_hand("7")]), "keep 7"),
            (shows([elsewhere("7")]), "keep 7 differs in awsAccountId"),
            (shows([narrow]), "keep 7 differs in eventFilter"),
            (shows([unconfigured("7")]), "missing"),
            (shows([other_suffix]), "missing"),
            (Observed::invisible(), "missing"),
        ] {
            for previous in
                [PreviousState::default(), PreviousState { id: Some("7"), ..PreviousState::default() }]
            {
                assert_eq!(line(plan(&desired, previous, &observed)), expected);
            }
        }
    }

    #[test]
    fn a_removal_spares_integrations_of_others() {
        let location: RegistrationLocation = serde_json::from_value(json!({
            "id": "1", "name": "presence-one", "type": "AmazonEventBridge",
            "access": {
                "clientFingerprint": "c", "credentialsSecretRef": {"name": "oauth"}, "apiUrl": "https://api",
                "tokenPath": "/t", "eventBridgesPath": "/b", "tokenRequest": "Form",
            },
        }))
        .unwrap();
        let all = [by_hand("1"), at_genesys("2", |_| {}), by_hand("3"), elsewhere("4"), unconfigured("5")];
        let former = CleanupTarget::former(location, OWNER);
        let current = CleanupTarget { destinations: vec![BUS.into()], ..former.clone() };
        assert_eq!(plan_removal(&former, None, &all), ["1", "2", "4", "5"]);
        assert_eq!(plan_removal(&current, None, &all), ["1", "2", "5"]);
        assert_eq!(plan_removal(&current, Some("2"), &all), ["1", "5"]);
    }
}
