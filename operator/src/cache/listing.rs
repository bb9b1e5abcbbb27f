//! The objects of one watch: the state that its Init, InitApply, InitDone, Apply and Delete events describe.
//!
//! Pure. A newer version is never replaced by an older one, but a listing is believed in any case; an object that a
//! listing does not bring is gone; and the changes that a listing brings are reported when the listing is complete.
//! What is kept of an object, who fills the listing and who reads it is left to the caches.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use kube::ResourceExt;
use kube::runtime::watcher::Event;

use super::key::{ObjectKey, RouteKey, version};

/// How many deletions are remembered: more than happen while one write is under way, as a rule. An object whose deletion
/// was forgotten stays in the cache until its kind is listed again.
const MAX_TOMBSTONES: usize = 64;

/// What a cache keeps of an object.
pub trait Entry {
    /// Whether the changes of the first listing are reported. They are not where every reader waits for that listing.
    const REPORTS_FIRST_LISTING: bool = false;

    /// The route that the object belongs to, by its name in the object's namespace. Changes of the object are reported
    /// under the route's key; those of an object without owner under its own.
    fn owner(&self) -> Option<&str> {
        None
    }

    /// Whether this version of an object is reported after `former`.
    fn is_change_from(&self, former: &Self) -> bool {
        let _ = former;
        true
    }
}

/// The objects of one watch, by their keys and by their owners.
pub struct Listing<E> {
    objects: HashMap<ObjectKey, Object<E>>,
    /// The names of the objects that belong to a route.
    by_owner: HashMap<RouteKey, Vec<Box<str>>>,
    /// The newest deletions and their versions: the answer to a write may arrive after the watch has reported that the
    /// object is gone again.
    tombstones: VecDeque<(ObjectKey, u64)>,
    /// What the listing in progress has brought.
    seen: HashSet<ObjectKey>,
    /// What changed by the listing in progress, or by one before it that was cut short.
    unreported: BTreeSet<ObjectKey>,
    is_complete: bool,
}

struct Object<E> {
    version: Option<u64>,
    entry: E,
}

impl<E> Default for Listing<E> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            by_owner: HashMap::new(),
            tombstones: VecDeque::new(),
            seen: HashSet::new(),
            unreported: BTreeSet::new(),
            is_complete: false,
        }
    }
}

impl<E: Entry> Listing<E> {
    /// Applies one event and returns the keys to report. `entry` makes of an object what is kept of it; an object for
    /// which it returns `None` is not kept.
    pub fn apply<O: ResourceExt>(
        &mut self,
        event: Event<O>,
        entry: impl FnOnce(O) -> Option<E>,
    ) -> Vec<ObjectKey> {
        match event {
            Event::Init => {
                self.seen.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.list(object, entry);
                Vec::new()
            }
            Event::InitDone => self.finish_listing(),
            Event::Apply(object) => self.insert(object, entry),
            Event::Delete(object) => self.delete(&object),
        }
    }

    /// Takes a version of an object from its watch, or from the answer to a write, unless a newer one is known or the
    /// object was deleted since. Returns the keys to report.
    pub fn insert<O: ResourceExt>(
        &mut self,
        object: O,
        entry: impl FnOnce(O) -> Option<E>,
    ) -> Vec<ObjectKey> {
        let (key, version) = (ObjectKey::of(&object), version(&object));
        let is_older_than = |known: u64| version.is_some_and(|version| version < known);
        let known = self.version_of(&key);
        let is_known = known.is_some_and(|known| version == Some(known) || is_older_than(known));
        if is_known || self.tombstones.iter().any(|(gone, at)| *gone == key && is_older_than(*at)) {
            return Vec::new();
        }
        self.replace(key, version, entry(object))
    }

    /// Whether a listing has been complete once.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Counts as listed without a listing, and without any object: the API server does not have the kind.
    pub fn complete_without_objects(&mut self) {
        self.is_complete = true;
    }

    /// What is kept of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<&E> {
        self.objects.get(key).map(|object| &object.entry)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &ObjectKey) -> Option<&mut E> {
        self.objects.get_mut(key).map(|object| &mut object.entry)
    }

    /// The version of an object that is known.
    pub fn version_of(&self, key: &ObjectKey) -> Option<u64> {
        self.objects.get(key)?.version
    }

    /// What is kept of every object.
    pub fn all(&self) -> impl Iterator<Item = &E> {
        self.objects.values().map(|object| &object.entry)
    }

    /// The objects that belong to a route, with their names.
    pub fn owned_by<'l>(&'l self, route: &'l RouteKey) -> impl Iterator<Item = (&'l str, &'l E)> {
        let names = self.by_owner.get(route).into_iter().flatten();
        names.filter_map(|name| {
            let key = ObjectKey { namespace: route.namespace.clone(), name: name.to_string() };
            Some((&**name, self.get(&key)?))
        })
    }

    /// Takes what a listing brought, also where something newer is known: a cluster that was restored from a backup
    /// counts its versions from an earlier one.
    fn list<O: ResourceExt>(&mut self, object: O, entry: impl FnOnce(O) -> Option<E>) {
        let (key, version) = (ObjectKey::of(&object), version(&object));
        self.seen.insert(key.clone());
        if version.is_some() && self.version_of(&key) == version {
            return;
        }
        let changed = self.replace(key, version, entry(object));
        self.report_later(changed);
    }

    fn finish_listing(&mut self) -> Vec<ObjectKey> {
        self.tombstones.clear();
        let seen = std::mem::take(&mut self.seen);
        let gone: Vec<_> = self.objects.keys().filter(|key| !seen.contains(key)).cloned().collect();
        let removed: Vec<_> = gone.iter().filter_map(|key| self.remove(key)).collect();
        self.report_later(removed);
        self.is_complete = true;
        std::mem::take(&mut self.unreported).into_iter().collect()
    }

    fn report_later(&mut self, changed: Vec<ObjectKey>) {
        if self.is_complete || E::REPORTS_FIRST_LISTING {
            self.unreported.extend(changed);
        }
    }

    fn delete(&mut self, object: &impl ResourceExt) -> Vec<ObjectKey> {
        let (key, deleted_at) = (ObjectKey::of(object), version(object));
        if let Some(version) = deleted_at {
            self.tombstones.truncate(MAX_TOMBSTONES - 1);
            self.tombstones.push_front((key.clone(), version));
        }
        // A version after the deletion is that of a successor with the same name.
        let is_successor = |known: u64| deleted_at.is_some_and(|deleted_at| known > deleted_at);
        if self.version_of(&key).is_some_and(is_successor) {
            return Vec::new();
        }
        self.remove(&key).into_iter().collect()
    }

    fn replace(&mut self, key: ObjectKey, version: Option<u64>, entry: Option<E>) -> Vec<ObjectKey> {
        let Some(entry) = entry else { return self.remove(&key).into_iter().collect() };
        let former = self.objects.remove(&key).map(|object| object.entry);
        let reported = reported_key(&key, &entry);
        let changed = match &former {
            Some(former) if former.owner() != entry.owner() => {
                self.detach(&key, former);
                vec![reported_key(&key, former), reported]
            }
            Some(former) if !entry.is_change_from(former) => Vec::new(),
            _ => vec![reported],
        };
        if former.is_none_or(|former| former.owner() != entry.owner()) {
            self.attach(&key, &entry);
        }
        self.objects.insert(key, Object { version, entry });
        changed
    }

    /// Returns the key to report.
    fn remove(&mut self, key: &ObjectKey) -> Option<ObjectKey> {
        let Object { entry, .. } = self.objects.remove(key)?;
        self.detach(key, &entry);
        Some(reported_key(key, &entry))
    }

    fn attach(&mut self, key: &ObjectKey, entry: &E) {
        if entry.owner().is_some() {
            let name = key.name.clone().into_boxed_str();
            match self.by_owner.get_mut(&reported_key(key, entry)) {
                Some(names) => names.push(name),
                // Most routes have one object of a kind: no room for more is reserved.
                None => drop(self.by_owner.insert(reported_key(key, entry), vec![name])),
            }
        }
    }

    fn detach(&mut self, key: &ObjectKey, entry: &E) {
        if entry.owner().is_none() {
            return;
        }
        let route = reported_key(key, entry);
        if let Some(names) = self.by_owner.get_mut(&route) {
            names.retain(|name| **name != *key.name);
            if names.is_empty() {
                self.by_owner.remove(&route);
            }
        }
    }
}

fn reported_key(key: &ObjectKey, entry: &impl Entry) -> ObjectKey {
    let name = entry.owner().unwrap_or(&key.name).to_owned();
    ObjectKey { namespace: key.namespace.clone(), name }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    /// The route that an object belongs to, and what is read of it.
    #[derive(Debug, PartialEq, Eq)]
    struct Kept {
        owner: Option<String>,
        content: String,
    }

    impl Entry for Kept {
        fn owner(&self) -> Option<&str> {
            self.owner.as_deref()
        }

        fn is_change_from(&self, former: &Self) -> bool {
            self.content != former.content
        }
    }

    /// An object `NAME@VERSION`, with `=CONTENT` where the content is not the version, and `/OWNER` where it has one.
    fn object(text: &str) -> ConfigMap {
        let (text, owner) = text.split_once('/').map_or((text, None), |(text, owner)| (text, Some(owner)));
        let (text, content) = text.split_once('=').unwrap_or((text, text));
        let (name, version) = text.split_once('@').unwrap();
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("presence".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.into());
        object.data = Some([("content".into(), content.into())].into());
        object.metadata.labels = owner.map(|owner| [("owner".into(), owner.into())].into());
        object
    }

    fn kept(object: ConfigMap) -> Option<Kept> {
        let owner = object.metadata.labels.and_then(|mut labels| labels.remove("owner"));
        let content = object.data?.remove("content")?;
        (content != "unwanted").then_some(Kept { owner, content })
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "presence".into(), name: name.into() }
    }

    enum Step {
        Init,
        Listed(&'static str),
        Done,
        Apply(&'static str),
        Delete(&'static str),
        /// The answer to a write.
        Wrote(&'static str),
    }

    /// A listing after a first, empty one.
    fn listed() -> Listing<Kept> {
        let mut listing = Listing::default();
        assert_eq!(run(&mut listing, [Step::Init, Step::Done]), [""; 2]);
        listing
    }

    /// The names that each step reports, joined by a comma.
    fn run<const N: usize>(listing: &mut Listing<Kept>, steps: [Step; N]) -> [String; N] {
        steps.map(|step| {
            let reported = match step {
                Step::Init => listing.apply(Event::Init, kept),
                Step::Listed(text) => listing.apply(Event::InitApply(object(text)), kept),
                Step::Done => listing.apply(Event::InitDone, kept),
                Step::Apply(text) => listing.apply(Event::Apply(object(text)), kept),
                Step::Delete(text) => listing.apply(Event::Delete(object(text)), kept),
                Step::Wrote(text) => listing.insert(object(text), kept),
            };
            reported.into_iter().map(|key| key.name).collect::<Vec<_>>().join(",")
        })
    }

    fn content<'l>(listing: &'l Listing<Kept>, name: &str) -> Option<&'l str> {
        listing.get(&key(name)).map(|kept| kept.content.as_str())
    }

    use Step::{Apply, Delete, Done, Init, Listed, Wrote};

    #[test]
    fn the_first_listing_is_silent_and_completes_the_cache() {
        let mut listing = Listing::default();
        assert_eq!(run(&mut listing, [Init, Listed("a@1"), Listed("b@2")]), [""; 3]);
        assert!(!listing.is_complete());
        assert_eq!(run(&mut listing, [Done]), [""]);
        assert!(listing.is_complete());
        assert_eq!((content(&listing, "a"), content(&listing, "b")), (Some("a@1"), Some("b@2")));
    }

    #[test]
    fn the_first_listing_is_reported_where_the_entry_asks_for_it() {
        struct Reported;
        impl Entry for Reported {
            const REPORTS_FIRST_LISTING: bool = true;
        }
        let mut listing = Listing::default();
        for text in ["a@1", "b@2"] {
            assert_eq!(listing.apply(Event::InitApply(object(text)), |_| Some(Reported)), []);
        }
        let done = Event::<ConfigMap>::InitDone;
        assert_eq!(listing.apply(done, |_| Some(Reported)), [key("a"), key("b")]);
    }

    #[test]
    fn a_change_is_reported_once_and_the_echo_of_a_write_never() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Apply("a@5"), Apply("a@5")]), ["a", ""]);
        assert_eq!(run(&mut listing, [Wrote("a@6"), Apply("a@6"), Apply("a@7")]), ["a", "", "a"]);
        assert_eq!(content(&listing, "a"), Some("a@7"));
    }

    #[test]
    fn an_older_version_does_not_replace_a_newer_one() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Wrote("a@6"), Apply("a@5"), Apply("a@10")]), ["a", "", "a"]);
        assert_eq!(content(&listing, "a"), Some("a@10"));
    }

    #[test]
    fn a_version_with_nothing_new_is_kept_and_not_reported() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Apply("a@5=same"), Apply("a@6=same"), Apply("a@7")]), ["a", "", "a"]);
        assert_eq!(listing.version_of(&key("a")), Some(7));
    }

    #[test]
    fn the_deletion_of_a_predecessor_spares_its_successor() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Apply("a@5"), Wrote("a@8"), Delete("a@7")]), ["a", "a", ""]);
        assert_eq!(content(&listing, "a"), Some("a@8"));
        assert_eq!(run(&mut listing, [Delete("a@9"), Delete("a@9")]), ["a", ""]);
        assert_eq!(content(&listing, "a"), None);
    }

    #[test]
    fn a_deletion_with_the_last_known_version_counts() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Apply("a@5"), Delete("a@5")]), ["a", "a"]);
        assert_eq!(content(&listing, "a"), None);
    }

    #[test]
    fn an_answer_that_arrives_after_the_deletion_is_not_kept() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Apply("a@5"), Delete("a@7"), Wrote("a@6")]), ["a", "a", ""]);
        assert_eq!(content(&listing, "a"), None);
        assert_eq!(run(&mut listing, [Wrote("a@8")]), ["a"]);
    }

    #[test]
    fn a_complete_listing_reports_what_changed_came_and_went() {
        let mut listing = listed();
        run(&mut listing, [Apply("same@1"), Apply("changed@2"), Apply("gone@3")]);
        let steps = [Init, Listed("same@1"), Listed("changed@9"), Listed("new@8"), Done];
        assert_eq!(run(&mut listing, steps), ["", "", "", "", "changed,gone,new"]);
        assert_eq!(content(&listing, "gone"), None);
        assert_eq!(run(&mut listing, [Apply("changed@9")]), [""]);
    }

    #[test]
    fn a_listing_that_was_cut_short_is_reported_by_the_next() {
        let mut listing = listed();
        run(&mut listing, [Apply("a@1"), Apply("b@2")]);
        let steps = [Init, Listed("a@3"), Init, Listed("a@3"), Listed("b@2"), Done];
        assert_eq!(run(&mut listing, steps), ["", "", "", "", "", "a"]);
        assert_eq!(content(&listing, "b"), Some("b@2"));
    }

    #[test]
    fn a_listing_is_believed_when_versions_begin_anew() {
        let mut listing = listed();
        run(&mut listing, [Apply("a@50"), Delete("b@51")]);
        assert_eq!(run(&mut listing, [Init, Listed("a@5"), Done]), ["", "", "a"]);
        assert_eq!(content(&listing, "a"), Some("a@5"));
        assert_eq!(run(&mut listing, [Apply("a@6"), Apply("b@7")]), ["a", "b"]);
    }

    #[test]
    fn the_owner_is_reported_and_both_where_it_changes() {
        let mut listing = listed();
        assert_eq!(run(&mut listing, [Apply("a@1/one"), Apply("b@2/one")]), ["one"; 2]);
        let names = |route: &str| listing.owned_by(&key(route)).map(|(name, _)| name.to_owned()).collect();
        let both: [Vec<_>; 2] = [names("one"), names("two")];
        assert_eq!(both, [vec!["a".to_owned(), "b".to_owned()], vec![]]);
        assert_eq!(run(&mut listing, [Apply("a@3/two"), Delete("b@4/one")]), ["one,two", "one"]);
        assert_eq!(listing.owned_by(&key("two")).count(), 1);
        assert_eq!(listing.owned_by(&key("one")).count(), 0);
        assert_eq!(listing.by_owner.len(), 1);
    }

    #[test]
    fn an_object_that_is_not_kept_is_as_good_as_gone() {
        let mut listing = listed();
        let steps = [Apply("a@1=unwanted"), Apply("a@2"), Apply("a@3=unwanted")];
        assert_eq!(run(&mut listing, steps), ["", "a", "a"]);
        assert_eq!(content(&listing, "a"), None);
    }

    #[test]
    fn deletions_are_remembered_in_a_bounded_number() {
        let mut listing = listed();
        for number in 0..2 * MAX_TOMBSTONES {
            let mut object = object("a@9");
            object.metadata.name = Some(format!("a-{number}"));
            listing.apply(Event::Delete(object), kept);
        }
        assert_eq!(listing.tombstones.len(), MAX_TOMBSTONES);
    }
}
