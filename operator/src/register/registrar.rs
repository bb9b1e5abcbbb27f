//! What is asked of Genesys Cloud for one route, and what is remembered of the answers.
//!
//! A call is made only when something is to be changed, or when the last look is older than five minutes. An answer
//! that was lost is found again by the registration's name; that none is found counts only when the creation cannot be
//! carried out any more, also when it was asked for by an operator that has died since. After a failure a route waits,
//! longer each time and for itself alone.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use presenceroute_crds::status::RegistrationPlace;
use secrecy::SecretString;
use tokio::time::Instant;

use super::secret_drift::SecretDrift;
use presenceroute_genesys::error::LimitedBy;
use presenceroute_genesys::{
    Access, DesiredRegistration, EventBridges as Account, Genesys, GenesysError, Registration,
};
use presenceroute_manifest::dereference::SecretProblem;
use presenceroute_manifest::validate::{ApiModel, Model};

/// How long a look at Genesys Cloud is trusted: the contract allows one call a route in this time.
const VERIFY_EVERY: Duration = Duration::from_secs(300);
/// The first wait after a failure, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));
/// How often a name is looked up and what it finds deleted before the server is not believed.
const REMOVAL_ROUNDS: usize = 3;
/// How long after a creation that was not answered a registration may still come of it, unless somebody knows better.
pub const LATE_CREATION: Duration = Duration::from_secs(60);
/// The wait after a failure that does not pass by itself.
const PERMANENT_RETRY: Duration = Duration::from_secs(60);

/// Registers routes, and remembers between reconciles what it last saw of each.
pub struct Registrar {
    genesys: Genesys,
    memory: Mutex<HashMap<String, Memory>>,
    /// The APIs that do not heed the name when they list: what one route has found out, the others need not pay for.
    long_lists: Mutex<HashSet<String>>,
    late_creation: Duration,
}

/// What is remembered of one route, by its uid. All of it can be found again, or waited for, after a restart.
#[derive(Default)]
struct Memory {
    /// How each place was last reached: a route that is deleted together with its Secrets can still be deregistered.
    ways: Vec<Way>,
    verified: Option<Verified>,
    /// What was in order, by the word of an operator before this one, and when it is looked at.
    postponed: Option<(Attempt, Instant)>,
    failed: Option<(Attempt, Failed)>,
    /// Removals that failed.
    left: Vec<(Removal, Failed)>,
    /// What the registration called at the last look, if that was neither what the spec asks for nor what it called
    /// before.
    foreign_url: Option<String>,
    /// What may still come of creations at the places that this process has to do with.
    creations: HashMap<PlaceName, Option<Unanswered>>,
    secret_drift: SecretDrift,
}

impl Memory {
    /// What may still come of creations at a place. One without an id that this process has not begun was left by another
    /// operator, perhaps in the middle of a creation.
    fn unanswered(&mut self, place: &PlaceName, has_id: bool, late_creation: Duration) -> Option<Unanswered> {
        if has_id && !self.creations.contains_key(place) {
            return None;
        }
        let inherited = || Some(Unanswered { creations: 1, until: Instant::now() + late_creation });
        *self.creations.entry(place.clone()).or_insert_with(inherited)
    }
}

/// The API of a place, and the registration's name there.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PlaceName {
    api_url: String,
    name: String,
}

impl From<&RegistrationPlace> for PlaceName {
    fn from(place: &RegistrationPlace) -> Self {
        Self { api_url: place.api_url.clone(), name: place.name.clone() }
    }
}

/// Creations that nobody has heard the end of.
#[derive(Clone, Copy)]
struct Unanswered {
    creations: usize,
    /// When none of them can be carried out any more.
    until: Instant,
}

impl Unanswered {
    /// What may still come after a look that began at `now`. What it has found by its name came of one of the creations;
    /// what was known before, or is created now, did not.
    fn after(self, ensured: &Ensured, known_id: Option<&str>, now: Instant) -> Option<Self> {
        let is_other =
            ensured.change == Some(Change::Created) || known_id == Some(ensured.registration.id.as_str());
        let creations = self.creations.saturating_sub(usize::from(!is_other));
        (now < self.until && creations > 0).then_some(Self { creations, ..self })
    }
}

/// A client of one API that has worked.
struct Way {
    client_id: String,
    account: Account,
}

/// A failure, and how often it came in a row.
#[derive(Clone)]
struct Failed {
    times: u32,
    failure: Failure,
    not_before: Instant,
}

impl Failed {
    /// The failure after those that came before it: each is waited for longer than the last.
    fn after(before: Option<&Self>, failure: Failure) -> Self {
        let times = before.map_or(0, |before| before.times);
        let backoff = jittered(BACKOFF.0.saturating_mul(1 << times.min(10)).min(BACKOFF.1));
        let failure = Failure { retry_in: failure.retry_in.max(backoff), ..failure };
        let not_before = Instant::now() + failure.retry_in;
        Self { times: times.saturating_add(1), failure, not_before }
    }

    /// The failure, while it is too soon to try again.
    fn still(&self, now: Instant) -> Option<Failure> {
        (now < self.not_before).then(|| Failure { retry_in: self.not_before - now, ..self.failure.clone() })
    }
}

/// What was asked of Genesys Cloud, and how it was called.
#[derive(Clone)]
struct Attempt {
    fingerprint: Fingerprint,
    access: Result<Access, SecretProblem>,
}

impl PartialEq for Attempt {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && is_same_access(&self.access, &other.access)
    }
}

/// What was to be removed, and how Genesys Cloud was called.
struct Removal {
    place: RegistrationPlace,
    access: Result<Access, SecretProblem>,
}

fn is_same_access(one: &Result<Access, SecretProblem>, other: &Result<Access, SecretProblem>) -> bool {
    match (one, other) {
        (Ok(one), Ok(other)) => one.is_same(other),
        (Err(one), Err(other)) => one == other,
        _ => false,
    }
}

#[derive(Clone)]
struct Verified {
    registration: Registration,
    verifiable: bool,
    /// Whether looking it up by its name took one call; a server that does not heed the name gives every page.
    is_cheap_to_list: bool,
    attempt: Attempt,
    due: Instant,
}

/// Everything about a registration but its secret.
#[derive(Clone, PartialEq)]
struct Fingerprint {
    api: String,
    name: String,
    enabled: bool,
    url: String,
    event_types: Vec<String>,
    retry_policy: presenceroute_core::genesys_api::RetryPolicy,
}

/// Why a route is not registered as it should be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// A word for the condition.
    pub reason: &'static str,
    /// The thing, the cause and the remedy.
    pub message: String,
    /// When it makes sense to try again.
    pub retry_in: Duration,
}

impl Failure {
    /// The spec itself stands in the way.
    pub(super) fn invalid(message: String) -> Self {
        Self { reason: "Invalid", message, retry_in: BACKOFF.1 }
    }

    pub(super) fn unresolved(problem: &SecretProblem) -> Self {
        Self { reason: "SecretsUnresolved", message: problem.to_string(), retry_in: BACKOFF.1 }
    }

    fn creation_unanswered(place: &RegistrationPlace, retry_in: Duration) -> Self {
        let RegistrationPlace { name, api_url, .. } = place;
        let message = format!(
            "the creation of the registration {name:?} at {api_url} was not answered and may still be carried out; it is \
             looked for once more in {} s",
            retry_in.as_secs_f64().ceil()
        );
        Self { reason: "CreationUnanswered", message, retry_in }
    }

    fn client_gone(place: &RegistrationPlace) -> Self {
        let RegistrationPlace { name, api_url, access, .. } = place;
        let message = format!(
            "the registration {name:?} at {api_url} was made by the OAuth client {:?}, which is not in Secret {:?} any \
             more, and the client that is there does not see it; put the old client back until it is gone",
            access.client_id, access.credentials_secret_ref.name
        );
        Self { reason: "OAuthClientGone", message, retry_in: BACKOFF.1 }
    }
}

/// What is known of a registration before Genesys Cloud is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'k> {
    /// Its id.
    pub id: Option<&'k str>,
    /// What it was last known to call, or to be going to.
    pub url: Option<&'k str>,
    /// Whether somebody else was found to have it, and to take it back.
    pub contested: bool,
    /// Whether Genesys Cloud has confirmed all that is asked for now, but for the secret.
    pub confirmed: bool,
    /// Whether that was seen there, and what was seen last was good: a look may wait for its turn.
    pub in_order: bool,
    /// Whether Genesys Cloud has confirmed that it signs with the secret.
    pub secret_registered: bool,
    /// Whether the relays say that it does not, all the same.
    pub secret_drifted: bool,
}

impl Known<'_> {
    fn secret_is_there(self) -> bool {
        self.secret_registered && !self.secret_drifted
    }

    /// Whether nothing speaks against what was seen last. What was said of a route that has been unwell meanwhile must be
    /// said anew.
    fn stands(self) -> bool {
        self.in_order && self.secret_is_there()
    }
}

/// How a route stands at Genesys Cloud.
pub enum Outcome {
    /// As the spec asks.
    Registered {
        /// As it was last seen there.
        registration: Registration,
        /// Whether Genesys Cloud can be asked for it. A server that knows POST alone cannot.
        verifiable: bool,
        /// What this reconcile changed, for the event that tells of it.
        change: Option<Change>,
        /// Whether Genesys Cloud was given the secret by this reconcile.
        secret_sent: bool,
        /// How long this look is trusted.
        trusted_for: Duration,
    },
    /// It was in order when it was last seen, and is looked at after this time.
    Postponed(Duration),
    /// Somebody else has the registration of this name: it is not the route's.
    Contested(Failure),
    /// Not as the spec asks.
    Failed(Failure),
}

/// What was changed at Genesys Cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There was none.
    Created,
    /// There was one, and it was otherwise: in what.
    Repaired(String),
    /// The spec or the secret is new.
    Updated,
    /// It cannot be seen there, and was sent anew.
    Replaced,
    /// Another one was made beside the one with this id, which can be neither changed nor removed.
    Duplicated {
        /// The id of the old one.
        left: String,
    },
}

impl Registrar {
    /// Starts with nothing remembered.
    pub fn new(genesys: Genesys) -> Self {
        Self { genesys, memory: Mutex::default(), long_lists: Mutex::default(), late_creation: LATE_CREATION }
    }

    /// Waits so long for what may come of a creation that was not answered.
    #[must_use]
    pub fn with_late_creation(self, late_creation: Duration) -> Self {
        Self { late_creation, ..self }
    }

    /// This process has written down a place that nobody has had to do with before: nothing can come there but what it
    /// will ask for itself.
    pub fn begin(&self, uid: &str, place: &RegistrationPlace) {
        self.lock().entry(uid.to_owned()).or_default().creations.entry(place.into()).or_insert(None);
    }

    /// Brings the registration in line with the model.
    pub async fn ensure(&self, model: &Model, secret: &SecretString, known: Known<'_>) -> Outcome {
        let desired = desired(model, secret);
        let attempt = Attempt { fingerprint: fingerprint(model, &desired), access: access(model) };
        let now = Instant::now();
        let verified = match self.last_look(&model.uid, &attempt, known, now) {
            Look::Enough(verified) => {
                return Outcome::Registered {
                    registration: verified.registration,
                    verifiable: verified.verifiable,
                    change: None,
                    secret_sent: false,
                    trusted_for: verified.due.saturating_duration_since(now),
                };
            }
            Look::TooSoon(failure) => return Outcome::Failed(failure),
            Look::Later(wait) => return Outcome::Postponed(wait),
            // All routes at once would use up the calls of a minute, and keep those waiting that have changed.
            Look::First if known.stands() => {
                return self.postpone(&model.uid, attempt, somewhere_in(VERIFY_EVERY));
            }
            Look::First => None,
            Look::Due(verified) => verified,
        };
        match self.account(&attempt.access) {
            Ok(account) => self.look(model, known, account, desired, attempt, verified).await,
            Err(failure) => Outcome::Failed(self.failed(&model.uid, attempt, failure)),
        }
    }

    /// Asks Genesys Cloud, brings what there is in line, and remembers it.
    async fn look(
        &self,
        model: &Model,
        known: Known<'_>,
        account: Account,
        desired: DesiredRegistration,
        attempt: Attempt,
        verified: Option<Verified>,
    ) -> Outcome {
        let now = Instant::now();
        let same = verified.as_ref().filter(|verified| verified.attempt.fingerprint == attempt.fingerprint);
        let id = known.id.or(same.map(|verified| verified.registration.id.as_str()));
        let place = place_name(model);
        let unanswered = self.unanswered(&model.uid, &place, id.is_some());
        let is_cheap_to_list = match &verified {
            Some(verified) => verified.is_cheap_to_list,
            None => !self.long_lists().contains(&attempt.fingerprint.api),
        };
        let look_up = LookUp { id, by_name: is_cheap_to_list || unanswered.is_some() };
        let ownership = Ownership {
            url: known.url,
            contested: known.contested,
            foreign_url: self.lock().get(&model.uid).and_then(|memory| memory.foreign_url.clone()),
        };
        let result = match ensure_at(&account, &desired, look_up, known.secret_is_there(), &ownership).await {
            Err(GenesysError::Unsupported { .. }) => {
                // Whoever sends wrong signatures must not have one registration after the other made.
                let is_as_desired = (known.confirmed || same.is_some()) && known.secret_registered;
                ensure_unverifiable(&account, &desired, id, is_as_desired).await
            }
            other => other,
        };
        match result {
            Ok(ensured) => {
                let late = unanswered.and_then(|unanswered| unanswered.after(&ensured, id, now));
                self.set_unanswered(&model.uid, place, late);
                let trusted_for = late.map_or_else(|| jittered(VERIFY_EVERY), |late| late.until - now);
                self.succeeded(&model.uid, account, &ensured, attempt, now + trusted_for);
                Outcome::Registered {
                    trusted_for,
                    registration: ensured.registration,
                    verifiable: ensured.verifiable,
                    change: ensured.change,
                    secret_sent: ensured.secret_sent,
                }
            }
            // Nothing was asked, so that nothing speaks against what was seen last.
            Err(GenesysError::RateLimited {
                cause: LimitedBy::Budget(_) | LimitedBy::Earlier,
                retry_after: Some(wait),
                ..
            }) if known.stands() => self.postpone(&model.uid, attempt, wait),
            Err(error @ GenesysError::Contested { .. }) => {
                self.set_unanswered(&model.uid, place, unanswered);
                Outcome::Contested(self.failed(&model.uid, attempt, failure_of(&error)))
            }
            Err(error) => {
                if error.may_have_created() {
                    let creations = unanswered.map_or(0, |before| before.creations) + 1;
                    let until = Instant::now() + self.late_creation;
                    self.set_unanswered(&model.uid, place, Some(Unanswered { creations, until }));
                }
                Outcome::Failed(self.failed(&model.uid, attempt, failure_of(&error)))
            }
        }
    }

    fn postpone(&self, uid: &str, attempt: Attempt, wait: Duration) -> Outcome {
        self.lock().entry(uid.to_owned()).or_default().postponed = Some((attempt, Instant::now() + wait));
        Outcome::Postponed(wait)
    }

    /// Removes every registration of the route at one place, but for the one that is to be kept: the known one, and
    /// any that its name finds. `Ok` is Genesys Cloud's word that there is none, when none can come any more.
    ///
    /// `access` is what the place's Secrets say now; where they do not help, what has worked before is used.
    pub async fn remove(
        &self,
        uid: &str,
        place: &RegistrationPlace,
        access: Result<Access, SecretProblem>,
        spare: Spare<'_>,
    ) -> Result<(), Failure> {
        let account = self.way_to(uid, place, access).await?;
        let now = Instant::now();
        let found = remove_at(&account, place, spare).await.map_err(|error| failure_of(&error))?;
        match self.unanswered(uid, &place.into(), place.id.is_some()) {
            Some(late) if now < late.until && found < late.creations => {
                Err(Failure::creation_unanswered(place, late.until - now))
            }
            _ => Ok(()),
        }
    }

    fn unanswered(&self, uid: &str, place: &PlaceName, has_id: bool) -> Option<Unanswered> {
        self.lock().entry(uid.to_owned()).or_default().unanswered(place, has_id, self.late_creation)
    }

    fn set_unanswered(&self, uid: &str, place: PlaceName, unanswered: Option<Unanswered>) {
        self.lock().entry(uid.to_owned()).or_default().creations.insert(place, unanswered);
    }

    /// A client that is sure to see the registration at this place, if there is one.
    async fn way_to(
        &self,
        uid: &str,
        place: &RegistrationPlace,
        access: Result<Access, SecretProblem>,
    ) -> Result<Account, Failure> {
        let unproven = match access {
            Ok(access) => {
                let is_same_client = access.client_id == place.access.client_id;
                let account =
                    self.genesys.client(access).map_err(|error| failure_of(&error))?.event_bridges();
                if is_same_client {
                    return Ok(account);
                }
                // Another client of the same organisation sees the registration; one of another organisation does not,
                // and that it sees none proves nothing.
                match sees(&account, place).await {
                    Ok(true) => return Ok(account),
                    Ok(false) => Failure::client_gone(place),
                    Err(error) => failure_of(&error),
                }
            }
            Err(problem) => Failure::unresolved(&problem),
        };
        self.remembered(uid, place).ok_or(unproven)
    }

    /// As [`Registrar::remove`], but a failure is waited for, longer each time, unless the Secrets are others.
    pub async fn clear(
        &self,
        uid: &str,
        place: &RegistrationPlace,
        access: Result<Access, SecretProblem>,
        spare: Spare<'_>,
    ) -> Result<(), Failure> {
        let before = {
            let memory = self.lock();
            let mut left = memory.get(uid).into_iter().flat_map(|memory| &memory.left);
            let is_same =
                |removal: &Removal| removal.place == *place && is_same_access(&removal.access, &access);
            left.find(|(removal, _)| is_same(removal)).map(|(_, failed)| failed.clone())
        };
        if let Some(failure) = before.as_ref().and_then(|before| before.still(Instant::now())) {
            return Err(failure);
        }
        let result = self.remove(uid, place, access.clone(), spare).await;
        let mut memory = self.lock();
        let memory = memory.entry(uid.to_owned()).or_default();
        memory.left.retain(|(removal, _)| removal.place != *place);
        result.map_err(|failure| {
            let failed = Failed::after(before.as_ref(), failure);
            let failure = failed.failure.clone();
            memory.left.push((Removal { place: place.clone(), access }, failed));
            failure
        })
    }

    /// Why the last removal from this place failed.
    pub fn last_removal(&self, uid: &str, place: &RegistrationPlace) -> Option<Failure> {
        let memory = self.lock();
        let mut left = memory.get(uid)?.left.iter();
        left.find(|(removal, _)| removal.place == *place).map(|(_, failed)| failed.failure.clone())
    }

    /// Forgets a route that is gone.
    pub fn forget(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// Forgets all routes but those that are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|uid, _| is_there(uid));
    }

    /// What a route's relays have reported of signatures, to be looked at and gone on with.
    pub fn with_secret_drift<T>(&self, uid: &str, look: impl FnOnce(&mut SecretDrift) -> T) -> T {
        look(&mut self.lock().entry(uid.to_owned()).or_default().secret_drift)
    }

    /// A client of this place's API that has worked for the route.
    fn remembered(&self, uid: &str, place: &RegistrationPlace) -> Option<Account> {
        let memory = self.lock();
        let mut ways = memory.get(uid)?.ways.iter();
        ways.find(|way| {
            way.client_id == place.access.client_id
                && way.account.is_at(&place.api_url, &place.access.event_bridges_path)
        })
        .map(|way| way.account.clone())
    }

    /// The way to the API that the model describes.
    ///
    /// # Errors
    /// A Secret that is not as it should be, or an address that is none.
    pub fn account_of(&self, model: &Model) -> Result<Account, Failure> {
        self.account(&access(model))
    }

    fn account(&self, access: &Result<Access, SecretProblem>) -> Result<Account, Failure> {
        let access = access.as_ref().map_err(Failure::unresolved)?;
        self.genesys
            .client(access.clone())
            .map(|client| client.event_bridges())
            .map_err(|error| failure_of(&error))
    }

    fn last_look(&self, uid: &str, attempt: &Attempt, known: Known<'_>, now: Instant) -> Look {
        let memory = self.lock();
        let Some(memory) = memory.get(uid) else { return Look::First };
        if let Some((attempted, failed)) = &memory.failed
            && attempted == attempt
            && let Some(failure) = failed.still(now)
        {
            return Look::TooSoon(failure);
        }
        match &memory.verified {
            Some(verified)
                if verified.attempt == *attempt && known.secret_is_there() && now < verified.due =>
            {
                return Look::Enough(verified.clone());
            }
            _ => {}
        }
        match (&memory.postponed, &memory.verified, &memory.failed) {
            (Some((postponed, until)), _, _) if postponed == attempt && known.stands() && now < *until => {
                Look::Later(*until - now)
            }
            (None, None, None) => Look::First,
            (_, verified, _) => Look::Due(verified.clone()),
        }
    }

    fn succeeded(&self, uid: &str, account: Account, ensured: &Ensured, attempt: Attempt, due: Instant) {
        if ensured.is_cheap_to_list {
            self.long_lists().remove(&attempt.fingerprint.api);
        } else {
            self.long_lists().insert(attempt.fingerprint.api.clone());
        }
        let mut memory = self.lock();
        let memory = memory.entry(uid.to_owned()).or_default();
        if let Ok(access) = &attempt.access {
            memory
                .ways
                .retain(|way| !(way.client_id == access.client_id && way.account.is_same_api(&account)));
            memory.ways.push(Way { client_id: access.client_id.clone(), account });
        }
        memory.failed = None;
        memory.postponed = None;
        memory.foreign_url.clone_from(&ensured.foreign_url);
        memory.verified = Some(Verified {
            registration: ensured.registration.clone(),
            verifiable: ensured.verifiable,
            is_cheap_to_list: ensured.is_cheap_to_list,
            attempt,
            due,
        });
    }

    fn failed(&self, uid: &str, attempt: Attempt, failure: Failure) -> Failure {
        let mut memory = self.lock();
        let memory = memory.entry(uid.to_owned()).or_default();
        let before = memory.failed.as_ref().filter(|(attempted, _)| *attempted == attempt);
        let failed = Failed::after(before.map(|(_, failed)| failed), failure);
        let failure = failed.failure.clone();
        memory.failed = Some((attempt, failed));
        // What is known of the registration may be out of date now, and there may be a second one.
        if let Some(verified) = &mut memory.verified {
            verified.due = Instant::now();
            verified.is_cheap_to_list = true;
        }
        failure
    }

    fn long_lists(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.long_lists.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
        // A panic while it is held aborts the process in a release, and poisons nothing worth keeping in a test.
        self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

enum Look {
    /// Recent, and of the same registration.
    Enough(Verified),
    /// The last attempt failed a moment ago.
    TooSoon(Failure),
    /// In order when it was last seen, and to be looked at after this time.
    Later(Duration),
    /// Nothing is remembered.
    First,
    /// It is time to call.
    Due(Option<Verified>),
}

struct Ensured {
    registration: Registration,
    verifiable: bool,
    is_cheap_to_list: bool,
    change: Option<Change>,
    secret_sent: bool,
    /// What it called before, where that was somebody else's.
    foreign_url: Option<String>,
}

/// By what the registration of a route is told from somebody else's.
struct Ownership<'o> {
    /// What it was last known to call.
    url: Option<&'o str>,
    contested: bool,
    /// What somebody else had it call at the last look.
    foreign_url: Option<String>,
}

/// What is not removed from a place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spare<'s> {
    /// The registration that is to stay.
    pub id: Option<&'s str>,
    /// Of those that are found by their name alone, all that call something else. Empty: none.
    pub but_for_urls: &'s [String],
}

impl Spare<'_> {
    fn spares(self, found: &Registration, known_id: Option<&str>) -> bool {
        let id = Some(found.id.as_str());
        let is_ours = || id == known_id || self.but_for_urls.iter().any(|url| found.calls(url));
        id == self.id || !(self.but_for_urls.is_empty() || is_ours())
    }
}

/// How a registration is looked for.
#[derive(Clone, Copy)]
struct LookUp<'l> {
    id: Option<&'l str>,
    /// By its name first, which also finds a second one: a creation that was given up may be carried out late.
    by_name: bool,
}

struct Found {
    registration: Option<Registration>,
    is_cheap_to_list: bool,
}

async fn ensure_at(
    account: &Account,
    desired: &DesiredRegistration,
    look_up: LookUp<'_>,
    secret_is_there: bool,
    ownership: &Ownership<'_>,
) -> Result<Ensured, GenesysError> {
    let Found { registration: found, is_cheap_to_list } = find(account, desired, look_up).await?;
    let (found, foreign_url) = ownership.judge(found, desired)?;
    let ensured = |registration, change: Option<Change>| Ensured {
        registration,
        verifiable: true,
        is_cheap_to_list,
        secret_sent: change.is_some(),
        change,
        foreign_url,
    };
    let Some(found) = found else {
        return Ok(ensured(account.create(desired).await?, Some(Change::Created)));
    };
    let differences = found.differences(desired);
    // What the secret of another one is, nobody knows.
    let has_secret = secret_is_there && look_up.id == Some(found.id.as_str());
    if differences.is_empty() && has_secret {
        return Ok(ensured(found, None));
    }
    let change = if differences.is_empty() {
        Change::Updated
    } else {
        Change::Repaired(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    };
    Ok(match account.update(&found.id, desired).await? {
        Some(registration) => ensured(registration, Some(change)),
        // Deleted between the look and the update.
        None => ensured(account.create(desired).await?, Some(Change::Created)),
    })
}

impl Ownership<'_> {
    /// The registration as it was found, if it is the route's or can be, and what it calls, if that is somebody else's.
    ///
    /// Somebody may have changed its URL by mistake, or it may be left over from a route of this name: it is given ours.
    /// Who takes it back is another cluster with a route of the same name, and the two would go on for ever.
    fn judge(
        &self,
        found: Option<Registration>,
        desired: &DesiredRegistration,
    ) -> Result<(Option<Registration>, Option<String>), GenesysError> {
        let Some(found) = found else { return Ok((None, None)) };
        if found.calls(&desired.url) || self.url.is_some_and(|url| found.calls(url)) {
            return Ok((Some(found), None));
        }
        if !found.name.is_empty() && found.name != desired.name {
            // Who took it has also given it another name since.
            return Ok((None, None));
        }
        if self.contested || self.foreign_url.as_ref() == Some(&found.url) {
            let (name, ours) = (desired.name.clone(), desired.url.clone());
            return Err(GenesysError::Contested { name, theirs: found.url, ours });
        }
        let url = found.url.clone();
        Ok((Some(found), Some(url)))
    }
}

/// The one registration of the route; any second one of its name is removed.
async fn find(
    account: &Account,
    desired: &DesiredRegistration,
    look_up: LookUp<'_>,
) -> Result<Found, GenesysError> {
    let LookUp { id, by_name } = look_up;
    if let Some(id) = id
        && !by_name
        && let Some(found) = account.get(id).await?
    {
        return Ok(Found { registration: Some(found), is_cheap_to_list: false });
    }
    let listing = match (account.find_by_name(&desired.name).await, id) {
        // It cannot list; perhaps it can read.
        (Err(GenesysError::Unsupported { request, response }), Some(id)) => {
            let Some(found) = account.get(id).await? else {
                return Err(GenesysError::Unsupported { request, response });
            };
            return Ok(Found { registration: Some(found), is_cheap_to_list: false });
        }
        (listing, _) => listing?,
    };
    // Several of that name make several pages, too, and are soon one.
    let is_cheap_to_list = listing.pages == 1 || listing.entities.len() > 1;
    let mut named = listing.entities;
    if let Some(position) = named.iter().position(|found| Some(found.id.as_str()) == id) {
        named.swap(0, position);
    }
    let mut named = named.into_iter();
    let first = match (named.next(), id) {
        // Somebody, or the spec, has given it another name.
        (None, Some(id)) => account.get(id).await?,
        (first, _) => first,
    };
    for surplus in named {
        tracing::warn!(
            name = desired.name,
            id = surplus.id,
            "removing a second registration of the same name"
        );
        account.delete(&surplus.id).await?;
    }
    Ok(Found { registration: first, is_cheap_to_list })
}

/// At a server that cannot be asked what it has: it is told when something is new, and left alone otherwise.
async fn ensure_unverifiable(
    account: &Account,
    desired: &DesiredRegistration,
    id: Option<&str>,
    is_as_desired: bool,
) -> Result<Ensured, GenesysError> {
    let (registration, change) = match id {
        Some(id) if is_as_desired => (desired.as_created(id), None),
        Some(id) => {
            replace(account, desired, id).await.map(|(registration, change)| (registration, Some(change)))?
        }
        None => (account.create(desired).await?, Some(Change::Created)),
    };
    Ok(Ensured {
        registration,
        verifiable: false,
        is_cheap_to_list: true,
        secret_sent: change.is_some(),
        change,
        foreign_url: None,
    })
}

/// In place where the server can, otherwise by a new one after the old one is gone, otherwise beside the old one.
async fn replace(
    account: &Account,
    desired: &DesiredRegistration,
    id: &str,
) -> Result<(Registration, Change), GenesysError> {
    match account.update(id, desired).await {
        Ok(Some(registration)) => return Ok((registration, Change::Replaced)),
        Ok(None) | Err(GenesysError::Unsupported { .. }) => {}
        Err(error) => return Err(error),
    }
    let change = match account.delete(id).await {
        Ok(()) => Change::Replaced,
        Err(GenesysError::Unsupported { .. }) => Change::Duplicated { left: id.to_owned() },
        Err(error) => return Err(error),
    };
    Ok((account.create(desired).await?, change))
}

async fn sees(account: &Account, place: &RegistrationPlace) -> Result<bool, GenesysError> {
    match &place.id {
        Some(id) => Ok(account.get(id).await?.is_some()),
        None => Ok(!account.find_by_name(&place.name).await?.entities.is_empty()),
    }
}

/// The known one, then what the name finds, until the server itself says that there is none: one that cannot delete
/// may answer 404, too. Gives how many were found that were not known.
async fn remove_at(
    account: &Account,
    place: &RegistrationPlace,
    spare: Spare<'_>,
) -> Result<usize, GenesysError> {
    let known_id = place.id.as_deref();
    let mut found = HashSet::new();
    if let Some(id) = known_id.filter(|id| Some(*id) != spare.id) {
        account.delete(id).await?;
    }
    for _ in 0..REMOVAL_ROUNDS {
        let listing = account.find_by_name(&place.name).await?;
        let mut left = listing.entities;
        left.retain(|left| !spare.spares(left, known_id));
        if left.is_empty() {
            return Ok(found.len());
        }
        for Registration { id, .. } in left {
            account.delete(&id).await?;
            if known_id != Some(id.as_str()) {
                found.insert(id);
            }
        }
    }
    Err(account.still_listed(&place.name))
}

fn desired(model: &Model, secret: &SecretString) -> DesiredRegistration {
    DesiredRegistration {
        name: model.registration.name.clone(),
        enabled: model.registration.enabled,
        url: model.endpoint.to_string(),
        secret: secret.clone(),
        event_types: model.registration.event_types.iter().cloned().collect(),
        retry_policy: model.registration.retry_policy.clone(),
    }
}

fn place_name(model: &Model) -> PlaceName {
    let api_url = model.registration.api.url.as_str().trim_end_matches('/').to_owned();
    PlaceName { api_url, name: model.registration.name.clone() }
}

/// How the API that the model describes is called.
fn access(model: &Model) -> Result<Access, SecretProblem> {
    let ApiModel { url, token_path, event_bridges_path, token_request, ca_pem } = &model.registration.api;
    let client = model.registration.oauth_client.clone()?;
    Ok(Access {
        api_url: url.to_string(),
        token_path: token_path.clone(),
        event_bridges_path: event_bridges_path.clone(),
        token_request: *token_request,
        client_id: client.id,
        client_secret: client.secret,
        ca_pem: ca_pem.clone().transpose()?,
    })
}

fn fingerprint(model: &Model, desired: &DesiredRegistration) -> Fingerprint {
    Fingerprint {
        api: format!("{}{}", model.registration.api.url, model.registration.api.event_bridges_path),
        name: desired.name.clone(),
        enabled: desired.enabled,
        url: desired.url.clone(),
        event_types: desired.event_types.clone(),
        retry_policy: desired.retry_policy.clone(),
    }
}

fn failure_of(error: &GenesysError) -> Failure {
    // What only a person can mend is asked for rarely; a changed Secret or spec asks at once.
    let patience = match error {
        GenesysError::Contested { .. } => VERIFY_EVERY,
        error if error.is_permanent() => PERMANENT_RETRY,
        _ => Duration::ZERO,
    };
    Failure {
        reason: error.reason(),
        message: error.to_string(),
        retry_in: error.retry_after().unwrap_or(patience),
    }
}

/// Any part of `duration`.
fn somewhere_in(duration: Duration) -> Duration {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    duration.mul_f64(f64::from(u16::from_be_bytes([bytes[0], bytes[1]])) / f64::from(u16::MAX))
}

/// Up to a tenth longer than `duration`, so that routes made together do not call together for ever.
fn jittered(duration: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_bytes()[0];
    duration.mul_f64(1.0 + 0.1 * f64::from(random) / 255.0)
}
