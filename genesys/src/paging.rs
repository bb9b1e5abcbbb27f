//! Listings in pages, as all collections of Genesys Cloud give them: by `pageNumber` with `pageCount` or `total`, or by
//! `nextUri`.
//!
//! A listing ends, and takes little memory, whatever the server sends: pages, entities and what is kept of them are
//! bounded. An entity is decoded only where the caller wants it; the others may have any shape.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use serde::de::{self, DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use url::Url;

use crate::client::Client;
use crate::error::{GenesysError, RequestInfo};

/// What is asked for at a time; a server may give less.
const PAGE_SIZE: usize = 100;

/// The most pages that are read.
const MAX_PAGES: usize = 100;

/// The most entities of all pages together; a server that ignores the page size may give them at once.
const MAX_ENTITIES: usize = MAX_PAGES * PAGE_SIZE;

/// The most bytes of JSON of all entities that the caller keeps.
const MAX_KEPT_BYTES: usize = 1 << 20;

/// What a listing has found.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing<T> {
    /// In the server's order.
    pub entities: Vec<T>,
    /// How many requests it took.
    pub pages: usize,
}

/// Reads the pages of the collection at `url`, and keeps what `keep` makes of their entities.
pub(crate) async fn list<T>(
    client: &Client,
    request: &RequestInfo,
    url: Url,
    mut keep: impl FnMut(&Entity<'_>) -> Result<Option<T>, GenesysError>,
) -> Result<Listing<T>, GenesysError> {
    let too_long = |most: usize, unit: &str| {
        request.unexpected(format!("the list of {}s has more than {most} {unit}", request.resource_name()))
    };
    let mut entities = Vec::new();
    let mut kept_bytes = 0;
    let mut progress = Progress::default();
    let mut next = numbered(&url, 1);
    for pages in 1..=MAX_PAGES {
        let response = client.call(request, next, None).await?;
        let page: Page<'_> = response.json(request)?;
        let has_new = progress.take(&page);
        if progress.seen > MAX_ENTITIES {
            return Err(too_long(MAX_ENTITIES, "entries"));
        }
        for entity in &page.entities.entities {
            if let Some(kept) = keep(entity)? {
                entities.push(kept);
                kept_bytes += entity.json.get().len();
            }
            if kept_bytes > MAX_KEPT_BYTES {
                return Err(too_long(MAX_KEPT_BYTES, "bytes of entries that are asked for"));
            }
        }
        next = match progress.after(&page, pages, has_new) {
            Next::End => return Ok(Listing { entities, pages }),
            Next::Number(number) => numbered(&url, number),
            // The server chooses the query alone, so that it cannot have the token sent elsewhere.
            Next::Uri(uri) => match url.join(uri) {
                Ok(uri) if uri.query().is_some() => {
                    let mut next = url.clone();
                    next.set_query(uri.query());
                    next
                }
                _ => return Err(request.unexpected("the nextUri of a page has no query")),
            },
        };
    }
    Err(too_long(MAX_PAGES, "pages"))
}

fn numbered(url: &Url, number: usize) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut()
        .append_pair("pageNumber", &number.to_string())
        .append_pair("pageSize", &PAGE_SIZE.to_string());
    url
}

/// What has been seen of a listing.
#[derive(Default)]
struct Progress {
    seen: usize,
    /// Hashes of ids: the ids themselves may be long.
    ids: HashSet<u64>,
    hasher: RandomState,
    follows_uris: bool,
}

/// Where a listing goes on.
#[derive(Debug, PartialEq)]
enum Next<'p> {
    End,
    Number(usize),
    Uri(&'p str),
}

impl Progress {
    /// Whether the page has an entity that none before had.
    fn take(&mut self, page: &Page<'_>) -> bool {
        self.seen = self.seen.saturating_add(page.entities.count);
        let mut has_new = false;
        for entity in &page.entities.entities {
            has_new |= entity.id.as_ref().is_none_or(|id| self.ids.insert(self.hasher.hash_one(id)));
        }
        has_new
    }

    fn after<'p>(&mut self, page: &'p Page<'_>, pages: usize, has_new: bool) -> Next<'p> {
        let is_empty = page.entities.count == 0;
        let next_uri = page.next_uri.as_deref().filter(|uri| !uri.is_empty());
        let is_last = match (page.page_count, page.total) {
            (Some(page_count), _) => pages >= page_count,
            (None, Some(total)) => self.seen >= total || is_empty,
            (None, None) => {
                if let Some(uri) = next_uri {
                    self.follows_uris = true;
                    return Next::Uri(uri);
                }
                // The server may also ignore the number that was asked for.
                self.follows_uris || is_empty || !has_new
            }
        };
        if is_last { Next::End } else { Next::Number(pages + 1) }
    }
}

/// A page of a listing. Everything in it but numbers is a part of the response.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    entities: Entities<'a>,
    page_count: Option<usize>,
    total: Option<usize>,
    #[serde(borrow)]
    next_uri: Option<Cow<'a, str>>,
}

struct Entities<'a> {
    /// At most [`MAX_ENTITIES`] of them.
    entities: Vec<Entity<'a>>,
    count: usize,
}

/// One entity of a page, decoded no further than its id and name.
pub(crate) struct Entity<'a> {
    id: Option<Cow<'a, str>>,
    /// Its name, where it has one.
    pub(crate) name: Option<Cow<'a, str>>,
    json: &'a RawValue,
}

impl<'a> Entity<'a> {
    fn new(json: &'a RawValue) -> Self {
        #[derive(Default, Deserialize)]
        struct Fields<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            name: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

        let Fields { id, name } = serde_json::from_str(json.get()).unwrap_or_default();
        let text = |value: Option<&'a RawValue>| {
            serde_json::from_str::<Text<'a>>(value?.get()).ok().map(|Text(text)| text)
        };
        Self { id: text(id), name: text(name), json }
    }

    /// The whole entity.
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.json.get())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Entities<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Entities<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of entities")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                let mut entities = Vec::new();
                while entities.len() < MAX_ENTITIES
                    && let Some(json) = sequence.next_element()?
                {
                    entities.push(Entity::new(json));
                }
                let mut count = entities.len();
                while let Some(IgnoredAny) = sequence.next_element()? {
                    count += 1;
                }
                Ok(Entities { entities, count })
            }
        }

        deserializer.deserialize_seq(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(json: &str) -> Page<'_> {
        serde_json::from_str(json).unwrap()
    }

    /// Where the listing goes on after the last of these pages.
    fn next(pages: &[&str]) -> String {
        let mut progress = Progress::default();
        let mut last = String::new();
        for (index, json) in pages.iter().enumerate() {
            let page = page(json);
            let has_new = progress.take(&page);
            last = format!("{:?}", progress.after(&page, index + 1, has_new));
        }
        last
    }

    #[test]
    fn a_page_says_whether_and_where_the_listing_goes_on() {
        let one = r#"{"entities": [{"id": "1"}]}"#;
        for (pages, expected) in [
            (vec![r#"{"entities": [], "pageCount": 2}"#], "Number(2)"),
            (vec![r#"{"entities": [], "pageCount": 2, "nextUri": "/x?pageNumber=7"}"#], "Number(2)"),
            (vec![r#"{"entities": [{}], "pageCount": 0, "total": 9}"#], "End"),
            (vec![r#"{"entities": [{}], "total": 2}"#], "Number(2)"),
            (vec![r#"{"entities": [{}], "total": 2}"#; 2], "End"),
            (vec![r#"{"entities": [], "total": 2}"#], "End"),
            (vec![r#"{"entities": [], "nextUri": "/x?after=a"}"#], r#"Uri("/x?after=a")"#),
            (vec![r#"{"entities": [], "nextUri": "/x?after=a"}"#, one], "End"),
            (vec![one], "Number(2)"),
            (vec![one, one], "End"),
            (vec![r#"{"entities": [], "nextUri": ""}"#], "End"),
        ] {
            assert_eq!(next(&pages), expected, "{pages:?}");
        }
    }

    #[test]
    fn an_entity_of_any_shape_is_read_as_far_as_it_goes() {
        for (entity, id, name) in [
            (r#"{"id": "1", "name": "a\u0062"}"#, Some("1"), Some("ab")),
            (r#"{"id": 7, "name": "a", "url": []}"#, None, Some("a")),
            (r#"{"name": null}"#, None, None),
            ("[]", None, None),
            ("7", None, None),
            ("null", None, None),
        ] {
            let json = format!(r#"{{"entities": [{entity}]}}"#);
            let page = page(&json);
            let [read] = page.entities.entities.as_slice() else { panic!("{entity}") };
            assert_eq!((read.id.as_deref(), read.name.as_deref()), (id, name), "{entity}");
        }
    }

    #[test]
    fn entities_beyond_the_bound_are_counted_and_not_kept() {
        let json = format!(r#"{{"entities": [{}[]]}}"#, "[],".repeat(1 << 20));
        let page = page(&json);
        assert_eq!((page.entities.entities.len(), page.entities.count), (MAX_ENTITIES, (1 << 20) + 1),);
    }
}
