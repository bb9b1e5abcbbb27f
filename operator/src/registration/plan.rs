//! What to do about what Genesys Cloud holds. Pure: the desired registration, what was known before and what is
//! observed give the steps. The table of cases below is the specification.
//!
//! A step that turns out to be impossible (the server lacks the call, or the registration has gone) becomes part of
//! what is observed, and the plan is made anew.

use presenceroute_genesys::{DesiredRegistration, Registration};

use super::record::CleanupTarget;

/// What is known of a registration before Genesys Cloud is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreviousState<'p> {
    /// Its id.
    pub id: Option<&'p str>,
    /// The URL that it last called, or was about to.
    pub url: Option<&'p str>,
    /// The URL of another owner that it was found to call at the last observation.
    pub foreign_url: Option<&'p str>,
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
    pub registrations: Option<Vec<Registration>>,
    /// Whether a registration can be replaced.
    pub supports_update: bool,
    /// Whether a registration can be deleted.
    pub supports_delete: bool,
    /// Whether looking it up by name takes one call. A server that ignores the name returns every page.
    pub is_cheap_to_list: bool,
}

impl Observed {
    /// At a server that shows these.
    pub fn visible(registrations: Vec<Registration>, is_cheap_to_list: bool) -> Self {
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
            Some(registrations) => registrations.retain(|registration| registration.id != id),
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

/// Another owner has taken the registration back: it is not this route's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The URL that it calls.
    pub theirs: String,
}

/// The steps, none where all is as desired, and what they amount to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steps {
    /// In their order. The last one, unless it deletes, gives the registration.
    pub steps: Vec<Step>,
    /// The registration that stays as it is, where none is created or updated.
    pub unchanged: Option<Registration>,
    /// What the steps change for people, if anything.
    pub change: Option<Change>,
    /// The URL of another owner that the registration called, and that the steps replace.
    pub foreign_url: Option<String>,
    /// Registrations of the same name that call other URLs: another owner's, never deleted.
    pub others: Vec<Registration>,
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
    pub registration: Registration,
    /// Whether it can be observed. A server that supports creation alone shows nothing.
    pub is_verifiable: bool,
    /// Whether looking it up by name takes one call.
    pub is_cheap_to_list: bool,
    /// What was changed, for the event that reports it.
    pub change: Option<Change>,
    /// Whether Genesys Cloud was sent the secret.
    pub secret_sent: bool,
    /// The URL of another owner that it called before.
    pub foreign_url: Option<String>,
    /// Registrations of the same name that call other URLs: another owner's.
    pub others: Vec<Registration>,
}

/// The steps that make Genesys Cloud hold exactly the desired registration.
///
/// # Errors
/// Another owner has it.
pub fn plan(
    desired: &DesiredRegistration,
    previous: PreviousState<'_>,
    observed: &Observed,
) -> Result<Steps, Conflict> {
    match &observed.registrations {
        Some(registrations) => plan_visible(desired, previous, observed, registrations),
        None => Ok(plan_invisible(desired, previous, observed)),
    }
}

fn plan_visible(
    desired: &DesiredRegistration,
    previous: PreviousState<'_>,
    observed: &Observed,
    registrations: &[Registration],
) -> Result<Steps, Conflict> {
    let is_known = |found: &Registration| previous.id == Some(found.id.as_str());
    let calls_ours = |found: &Registration| {
        found.calls(&desired.spec.url) || previous.url.is_some_and(|url| found.calls(url))
    };
    // One that has another name and another URL was taken and renamed: nothing of this route's is left of it.
    let is_lost = |found: &Registration| {
        !calls_ours(found) && !found.name.is_empty() && found.name != desired.spec.name
    };
    let mut candidates: Vec<&Registration> = registrations.iter().filter(|found| !is_lost(found)).collect();
    candidates.sort_by_key(|found| (!is_known(found), !calls_ours(found)));
    let (chosen, rest) = match candidates.split_first() {
        Some((chosen, rest)) => (Some(*chosen), rest),
        None => (None, &[][..]),
    };
    // A create request that was given up may take effect late. One that calls another URL is another owner's.
    let (surplus, others): (Vec<_>, Vec<_>) = rest.iter().copied().partition(|found| calls_ours(found));
    let mut steps: Vec<Step> = Vec::new();
    if observed.supports_delete {
        steps.extend(surplus.iter().map(|found| Step::Delete(found.id.clone())));
    }
    let others = others.into_iter().cloned().collect();
    let foreign = chosen.filter(|found| !calls_ours(found));
    if let Some(found) = foreign
        && (previous.contested || previous.foreign_url == Some(found.url.as_str()))
    {
        return Err(Conflict { theirs: found.url.clone() });
    }
    // A URL may have been edited by mistake, or a registration of this name be left over: it is given the route's.
    let foreign_url = foreign.map(|found| found.url.clone());
    let Some(found) = chosen else {
        return Ok(Steps {
            steps: with(steps, Step::Create),
            change: Some(Change::Created),
            others,
            ..Steps::default()
        });
    };
    let differences = found.differences(desired);
    let has_secret = previous.secret_registered && is_known(found);
    // Where nothing can be updated, wrong signatures must not cause one registration after the other.
    let is_secret_due = !has_secret || (previous.secret_drifted && observed.supports_update);
    if differences.is_empty() && !is_secret_due {
        let unchanged = Some(found.clone());
        return Ok(Steps { steps, unchanged, foreign_url, others, ..Steps::default() });
    }
    if observed.supports_update {
        let change = if differences.is_empty() {
            Change::Updated
        } else {
            Change::Repaired(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        };
        let steps = with(steps, Step::Update(found.id.clone()));
        return Ok(Steps { steps, change: Some(change), foreign_url, others, ..Steps::default() });
    }
    let (replacement, change) = replacement(&found.id, observed);
    steps.extend(replacement);
    Ok(Steps { steps, change: Some(change), foreign_url, others, ..Steps::default() })
}

/// A server that shows nothing is sent what is new, and left alone otherwise.
fn plan_invisible(desired: &DesiredRegistration, previous: PreviousState<'_>, observed: &Observed) -> Steps {
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
    /// Of those found by name alone, all that call a URL other than these. Empty: none is kept.
    pub only_urls: &'k [String],
}

/// The ids of the registrations to delete so that a location is free, of those that its name finds there.
pub fn plan_removal(target: &CleanupTarget, keep_id: Option<&str>, found: &[Registration]) -> Vec<String> {
    let keep = Keep { id: keep_id, only_urls: &target.urls };
    let known_id = target.location.id.as_deref();
    let is_kept = |found: &&Registration| {
        let id = Some(found.id.as_str());
        let is_ours = || id == known_id || keep.only_urls.iter().any(|url| found.calls(url));
        id == keep.id || !(keep.only_urls.is_empty() || is_ours())
    };
    found.iter().filter(|found| !is_kept(found)).map(|found| found.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use presenceroute_core::genesys_api::{RegistrationSpec, RetryPolicy};
    use presenceroute_crds::status::RegistrationLocation;
    use secrecy::SecretString;
    use serde_json::json;

    use super::*;

    const OURS: &str = "https://presence.example.com/e";
    const OLD: &str = "https://presence.example.com/old";
    const THEIRS: &str = "https://other.example.com/e";

    fn desired() -> DesiredRegistration {
        DesiredRegistration {
            spec: RegistrationSpec {
                name: "presence/one".into(),
                enabled: true,
                url: OURS.into(),
                event_types: vec!["a".into()],
                retry_policy: RetryPolicy::default(),
            },
            secret: SecretString::from("secret"),
        }
    }

    /// As desired, but for its id and its URL.
    fn found(id: &str, url: &str) -> Registration {
        Registration { url: url.into(), ..desired().as_created(id) }
    }

    fn named(id: &str, url: &str, name: &str) -> Registration {
        Registration { name: name.into(), ..found(id, url) }
    }

    /// Known by its id, confirmed, and with the newest secret.
    fn steady() -> PreviousState<'static> {
        PreviousState {
            id: Some("1"),
            url: Some(OURS),
            confirmed: true,
            secret_registered: true,
            ..PreviousState::default()
        }
    }

    fn shows<const N: usize>(registrations: [Registration; N]) -> Observed {
        Observed::visible(registrations.into(), true)
    }

    /// A plan as a line of a table.
    fn line(plan: Result<Steps, Conflict>) -> String {
        let Steps { steps, unchanged, change, foreign_url, others } = match plan {
            Err(Conflict { theirs }) => return format!("conflict with {theirs}"),
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
        words.extend(unchanged.map(|found| format!("keep {}", found.id)));
        words.extend(change.map(|change| format!("= {change:?}")));
        words.extend(foreign_url.map(|url| format!("from {url}")));
        words.extend(others.iter().map(|other| format!("leave {}", other.id)));
        words.join(" ")
    }

    #[test]
    fn the_plan_of_each_case() {
        let none = PreviousState::default();
        let rotated = PreviousState { secret_registered: false, ..steady() };
        let drifted = PreviousState { secret_drifted: true, ..steady() };
        let edited = PreviousState { url: Some(OLD), ..steady() };
        let warned = PreviousState { foreign_url: Some(THEIRS), ..steady() };
        let contested = PreviousState { contested: true, ..steady() };
        let disabled = Registration { enabled: Some(false), ..found("1", OURS) };
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
            ("the spec has another URL", edited, shows([found("1", OLD)]), r#"update 1 = Repaired("url")"#),
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
                edited,
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
        let edited = PreviousState { url: Some(OLD), ..steady() };
        assert_eq!(line(plan(&desired(), edited, &observed)), r#"delete 7 update 1 = Repaired("url")"#);
        observed.remove("7");
        observed.remove("1");
        assert_eq!(line(plan(&desired(), edited, &observed)), "create = Created");
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
        let any = CleanupTarget { location, urls: Vec::new() };
        let ours = CleanupTarget { urls: vec![OURS.into()], ..any.clone() };
        assert_eq!(plan_removal(&any, None, &all), ["1", "2", "3"]);
        assert_eq!(plan_removal(&any, Some("2"), &all), ["1", "3"]);
        assert_eq!(plan_removal(&ours, None, &all), ["1", "2"]);
        assert_eq!(plan_removal(&ours, Some("2"), &all), ["1"]);
    }
}
