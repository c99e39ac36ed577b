//! All integrations by workspace, and the index that finds the webhooks of an event.
//!
//! Each workspace has its distinct filter items, 12 bytes each, and with each item the webhooks that have it: an event costs one lookup
//! and a scan of a few cache lines. That is so in a workspace of many webhooks too, since their filters repeat. Whether an integration is
//! suspended is asked of the integration itself, so following the health topic rebuilds nothing.
//!
//! A workspace's index never changes: another one takes its place. So it is built where no lock is held ([`Table::rebuild`]), and taking it
//! over takes no time ([`Table::swap`]), however many integrations the workspace has.

use std::borrow::{Borrow, Cow};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::filter::{EventFacts, FilterItem};
use super::guid::canonical_key;
use super::hash::{BuildSeeded64, hash_bytes};
use super::integration::{Integration, STATUS_WORDS, Status, Trigger, Webhook};
use crate::domain::health::Health;

/// An integration as a member of a set, found by its key.
struct ByKey(Arc<Integration>);

impl Borrow<str> for ByKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

/// An integration of a workspace.
struct Member {
    /// The place of its first webhook among all of the workspace.
    first: u32,
    integration: Arc<Integration>,
}

/// A filter item and the webhooks that have it.
struct Group {
    item: FilterItem,
    /// Where one webhook has the item: its place. Where several have it: [`SEVERAL`] and an index in [`Webhooks::places`], at which their
    /// number stands and then their places.
    at: u32,
}

/// Set in [`Group::at`]: webhooks are fewer than two billion.
const SEVERAL: u32 = 1 << 31;

/// What is read first of a workspace: small, so that many stay in the processor's cache.
struct Workspace {
    /// The interests of all items together: it rules out most events that no webhook wants.
    interest: u64,
    webhooks: Arc<Webhooks>,
}

/// The integrations of a workspace. If the names of two workspaces have the same hash, it holds those of both.
#[derive(Default)]
struct Webhooks {
    /// The workspace. `None` if the integrations are of several.
    name: Option<Box<str>>,
    groups: Box<[Group]>,
    /// Places of webhooks that share their item with others.
    places: Box<[u32]>,
    members: Box<[Member]>,
}

impl Workspace {
    /// The index of these integrations; `None` without any. `items` is memory that one index after another uses.
    fn new(integrations: impl Iterator<Item = Arc<Integration>>, items: &mut Vec<(FilterItem, u32)>) -> Option<Self> {
        let mut members: Box<[Member]> = integrations.map(|integration| Member { first: 0, integration }).collect();
        items.clear();
        number(&mut members, items);
        items.sort_unstable();
        items.dedup();
        let interest = items.iter().fold(0, |bits, (item, _)| bits | item.interest());
        let is_empty = members.is_empty();
        (!is_empty).then(|| Self { interest, webhooks: Arc::new(Webhooks::new(members, items)) })
    }
}

impl Webhooks {
    /// Each part no larger than needed and one after another, so that what a lookup reads lies close together in memory.
    fn new(members: Box<[Member]>, items: &[(FilterItem, u32)]) -> Self {
        let mut names = members.iter().map(|member| member.integration.workspace());
        let name = names.next().filter(|name| names.all(|other| other == *name));
        let name = name.map(Into::into);
        let grouped = || items.chunk_by(|(one, _), (next, _)| one == next);
        let mut groups = Vec::with_capacity(grouped().count());
        let shared = grouped().filter(|group| group.len() > 1);
        let mut places = Vec::with_capacity(shared.map(|group| 1 + group.len()).sum());
        for group in grouped() {
            let Some((item, first)) = group.first() else { continue };
            if group.len() == 1 {
                groups.push(Group { item: *item, at: *first });
            } else {
                groups.push(Group { item: *item, at: SEVERAL | count(places.len()) });
                places.push(count(group.len()));
                places.extend(group.iter().map(|(_, place)| place));
            }
        }
        Self { name, groups: groups.into(), places: places.into(), members }
    }

    /// The places of the webhooks that have an item which matches, for each such item.
    fn matching<'a>(&'a self, facts: &'a EventFacts<'_>) -> impl Iterator<Item = &'a [u32]> {
        self.groups.iter().filter(|group| group.item.matches(facts)).map(|group| {
            if group.at & SEVERAL == 0 {
                return std::slice::from_ref(&group.at);
            }
            let start = (group.at & !SEVERAL) as usize;
            let len = self.places.get(start).map_or(0, |len| *len as usize);
            self.places.get(start + 1..start + 1 + len).unwrap_or_default()
        })
    }

    /// The integration of a webhook, and its place in it.
    fn webhook(&self, place: u32) -> Option<(&Arc<Integration>, usize)> {
        let after = self.members.partition_point(|member| member.first <= place);
        let member = self.members.get(after.checked_sub(1)?)?;
        Some((&member.integration, (place - member.first) as usize))
    }
}

/// Numbers the webhooks, and lists the items of those that events fire.
fn number(members: &mut [Member], items: &mut Vec<(FilterItem, u32)>) {
    let mut first = 0;
    for Member { first: place, integration } in members {
        *place = first;
        first = first.saturating_add(count(integration.len()));
        let fires = |hook: &Webhook<'_>| !hook.is_disabled() && hook.trigger() == Trigger::EntityEvent;
        for webhook in integration.webhooks().filter(fires) {
            let place = place.saturating_add(count(webhook.index()));
            items.extend(webhook.items().iter().map(|item| (*item, place)));
        }
    }
}

fn hash_of_workspace(integration: &Integration) -> u64 {
    hash_bytes(integration.workspace().as_bytes())
}

/// Memory holds fewer than two billion webhooks.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The workspaces that a batch of changes is of, taken from a table, to be built without it.
pub(crate) struct Rebuild<'a> {
    drafts: HashMap<u64, Draft<'a>, BuildSeeded64>,
}

/// A workspace before its index is built.
#[derive(Default)]
struct Draft<'a> {
    before: Arc<Webhooks>,
    /// By key, the last version of each integration that changes. `None`: it is removed.
    changes: BTreeMap<Cow<'a, str>, Option<&'a Arc<Integration>>>,
}

impl Draft<'_> {
    fn build(self, items: &mut Vec<(FilterItem, u32)>) -> Option<Workspace> {
        let Self { before, changes } = self;
        let members = before.members.iter().map(|member| &member.integration);
        let stay = members.filter(|integration| !changes.contains_key(integration.key()));
        Workspace::new(stay.chain(changes.values().copied().flatten()).cloned(), items)
    }
}

impl Rebuild<'_> {
    /// Builds the indexes: this is what takes time, by all integrations of the workspaces.
    pub(crate) fn build(self) -> Rebuilt {
        let mut items = Vec::new();
        Rebuilt(self.drafts.into_iter().map(|(hash, draft)| (hash, draft.build(&mut items))).collect())
    }
}

/// Workspaces whose index is built. `None`: a workspace without integrations.
pub(crate) struct Rebuilt(Vec<(u64, Option<Workspace>)>);

impl Rebuilt {
    /// How many integrations were looked at.
    #[cfg(test)]
    pub(crate) fn members(&self) -> usize {
        self.0.iter().flat_map(|(_, workspace)| workspace).map(|workspace| workspace.webhooks.members.len()).sum()
    }
}

/// What a table does not need any more. To drop it takes time too, by all integrations of the workspaces.
#[must_use = "it is to be dropped where no lock is held"]
pub(crate) struct Replaced {
    _workspaces: Vec<Workspace>,
}

/// How many integrations and webhooks there are, by their state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Integrations by status, in the order of [`STATUS_WORDS`]; the health topic's `failed` and `hasErrors` count.
    pub(crate) integrations: [usize; STATUS_WORDS.len()],
    /// Webhooks that are delivered to.
    pub(crate) webhooks_enabled: usize,
    /// Webhooks whose owner switched them off.
    pub(crate) webhooks_disabled: usize,
}

/// Integrations whose schedules may have changed since they were last taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Rescheduled {
    /// Nothing was taken yet, or too many have changed to be listed.
    #[default]
    Everything,
    /// Those of these keys.
    Only(Vec<Box<str>>),
}

/// The most changes that are listed: more count as [`Rescheduled::Everything`]. A follower asks several times a second.
const RESCHEDULED_MAX: usize = 10_000;

impl Rescheduled {
    fn add(&mut self, key: &str) {
        match self {
            Self::Everything => {}
            Self::Only(keys) if keys.len() < RESCHEDULED_MAX => keys.push(key.into()),
            Self::Only(_) => *self = Self::Everything,
        }
    }
}

/// All integrations that this worker knows.
#[derive(Default)]
pub struct Table {
    by_key: HashSet<ByKey>,
    /// By the hash of the name: for an event that no webhook of its workspace wants, no name is compared.
    workspaces: HashMap<u64, Workspace, BuildSeeded64>,
    /// Workspaces whose index is older than their integrations.
    stale: HashSet<u64, BuildSeeded64>,
    rescheduled: Rescheduled,
}

impl Table {
    /// Takes a new version of an integration. [`Table::settle`] or [`Table::swap`] makes it visible to [`Table::matching`].
    pub fn put(&mut self, integration: Arc<Integration>) {
        let before = self.by_key.get(integration.key());
        if integration.has_schedule() || before.is_some_and(|ByKey(before)| before.has_schedule()) {
            self.rescheduled.add(integration.key());
        }
        self.stale.insert(hash_of_workspace(&integration));
        self.by_key.replace(ByKey(integration));
    }

    /// Removes an integration. Returns whether there was one.
    pub(crate) fn remove(&mut self, key: &str) -> bool {
        let Some(ByKey(old)) = self.by_key.take(&*canonical_key(key)) else { return false };
        if old.has_schedule() {
            self.rescheduled.add(old.key());
        }
        self.stale.insert(hash_of_workspace(&old));
        true
    }

    /// Brings the index up to date with all that was put and removed. Takes time by all integrations: for a table that is not read yet.
    pub fn settle(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        if stale.is_empty() {
            return;
        }
        let members = self.by_key.iter().map(|ByKey(integration)| (hash_of_workspace(integration), integration));
        let mut members: Vec<_> = members.filter(|(hash, _)| stale.contains(hash)).collect();
        members.sort_unstable_by_key(|(hash, _)| *hash);
        self.workspaces.retain(|hash, _| !stale.contains(hash));
        let mut items = Vec::new();
        for of_one in members.chunk_by(|(one, _), (next, _)| one == next) {
            let integrations = of_one.iter().map(|(_, integration)| Arc::clone(integration));
            if let (Some((hash, _)), Some(workspace)) = (of_one.first(), Workspace::new(integrations, &mut items)) {
                self.workspaces.insert(*hash, workspace);
            }
        }
    }

    /// Begins to rebuild the workspaces of changes: keys, each with the new version or `None` for a removal. Everything that was put before
    /// has to be settled, and nothing else may be put or removed before [`Table::swap`].
    pub(crate) fn rebuild<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a Arc<Integration>>)>,
    ) -> Rebuild<'a> {
        let mut drafts: HashMap<u64, Draft<'a>, BuildSeeded64> = HashMap::default();
        for (key, integration) in changes {
            let workspace = key.rsplit_once('/').map_or("", |(workspace, _)| workspace);
            let hash = hash_bytes(workspace.as_bytes());
            let draft = drafts.entry(hash).or_insert_with(|| {
                let before = self.workspaces.get(&hash).map(|before| Arc::clone(&before.webhooks));
                Draft { before: before.unwrap_or_default(), changes: BTreeMap::new() }
            });
            draft.changes.insert(canonical_key(key), integration);
        }
        Rebuild { drafts }
    }

    /// Makes the changes visible of which `rebuilt` was built, after they were put and removed.
    pub(crate) fn swap(&mut self, Rebuilt(workspaces): Rebuilt) -> Replaced {
        let swap = |(hash, workspace)| {
            self.stale.remove(&hash);
            match workspace {
                Some(workspace) => self.workspaces.insert(hash, workspace),
                None => self.workspaces.remove(&hash),
            }
        };
        Replaced { _workspaces: workspaces.into_iter().filter_map(swap).collect() }
    }

    /// The integration of that key, a GUID in it in either case.
    pub fn get(&self, key: &str) -> Option<&Arc<Integration>> {
        self.by_key.get(&*canonical_key(key)).map(|ByKey(integration)| integration)
    }

    /// Whether an integration has this workspace. Of two names with the same hash both count as known.
    pub(crate) fn has_workspace(&self, name: &str) -> bool {
        self.workspaces.contains_key(&hash_bytes(name.as_bytes()))
    }

    /// Whether [`Table::take_rescheduled`] would name anything.
    pub(crate) fn is_rescheduled(&self) -> bool {
        self.rescheduled != Rescheduled::Only(Vec::new())
    }

    /// Returns the integrations whose schedules may have changed since the last call.
    pub(crate) fn take_rescheduled(&mut self) -> Rescheduled {
        std::mem::replace(&mut self.rescheduled, Rescheduled::Only(Vec::new()))
    }

    /// How many integrations there are.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether it is empty.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// All integrations, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Integration>> {
        self.by_key.iter().map(|ByKey(integration)| integration)
    }

    /// Calls `found` once for each webhook that the event matches, with its place in the integration's webhooks.
    /// Integrations that are suspended or paused are among them: what is dropped for them has to be counted.
    pub fn matching<'a>(
        &'a self,
        name: &str,
        facts: &EventFacts<'_>,
        mut found: impl FnMut(&'a Arc<Integration>, usize),
    ) {
        let Some(workspace) = self.workspaces.get(&hash_bytes(name.as_bytes())) else { return };
        if workspace.interest & facts.interest() == 0 {
            return;
        }
        let webhooks = &*workspace.webhooks;
        let mut matched = webhooks.matching(facts);
        let Some(first) = matched.next() else { return };
        if webhooks.name.as_deref().is_some_and(|of_all| of_all != name) {
            return;
        }
        let deliver = |place: u32| {
            if let Some((integration, webhook)) = webhooks.webhook(place)
                && (webhooks.name.is_some() || integration.workspace() == name)
            {
                found(integration, webhook);
            }
        };
        match matched.next() {
            None => first.iter().copied().for_each(deliver),
            // A webhook with several items that match is among each of them, and is delivered to once.
            Some(second) => {
                let mut all: Vec<u32> = first.iter().chain(second).chain(matched.flatten()).copied().collect();
                all.sort_unstable();
                all.dedup();
                all.into_iter().for_each(deliver);
            }
        }
    }

    /// Counts what is in the table.
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        for integration in self.iter() {
            let status = match (integration.health(), integration.status()) {
                (Health::Failed, _) => Status::Failed,
                (Health::HasErrors, Status::Active) => Status::HasErrors,
                (Health::Active | Health::HasErrors, status) => status,
            };
            let place = STATUS_WORDS.iter().position(|(_, known)| *known == status);
            if let Some(count) = place.and_then(|place| census.integrations.get_mut(place)) {
                *count += 1;
            }
            census.webhooks_disabled += integration.disabled_len();
            census.webhooks_enabled += integration.len() - integration.disabled_len();
        }
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Envelope;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn integration(key: &str, value: &Value) -> Arc<Integration> {
        Arc::new(Integration::parse(key, value.to_string().as_bytes()).unwrap())
    }

    fn webhook(id: &str, items: &Value) -> Value {
        json!({"id": id, "relativeUrl": "http://r/", "triggerType": "entityEvent", "filter": {"items": items}})
    }

    fn matches(table: &Table, workspace: &str, event: &Value) -> Vec<String> {
        let event = event.to_string();
        let envelope = Envelope::parse(event.as_bytes()).unwrap();
        let mut found = Vec::new();
        table.matching(workspace, &envelope.facts(), |integration, index| {
            found.push(format!("{}:{}", integration.id(), integration.webhook(index).unwrap().id()));
        });
        found
    }

    fn change(entity: &str) -> Value {
        json!({"id": "1", "type": "change", "entityIds": {format!("{entity}Id"): "x"}, "changeData": {"type": "patch"}})
    }

    #[test]
    fn one_event_gives_a_webhook_one_delivery_however_many_items_match() {
        let mut table = Table::default();
        let items = json!([{}, {"entityType": "company"}, {"eventType": "change"}]);
        table.put(integration("ws/i", &json!({"webHooks": [webhook("a", &items), webhook("b", &items)]})));
        table.settle();
        assert_eq!(matches(&table, "ws", &change("company")), ["i:a", "i:b"]);
    }

    #[test]
    fn empty_items_match_nothing_and_other_workspaces_see_nothing() {
        let mut table = Table::default();
        table.put(integration("ws/i", &json!({"webHooks": [webhook("a", &json!([])), webhook("b", &json!([{}]))]})));
        table.settle();
        assert_eq!(matches(&table, "ws", &change("company")), ["i:b"]);
        assert!(matches(&table, "other", &change("company")).is_empty());
    }

    #[test]
    fn workspaces_whose_names_have_one_hash_stay_apart() {
        let mut table = Table::default();
        table.put(integration("ws/i", &json!({"webHooks": [webhook("a", &json!([{}]))]})));
        table.put(integration("other/i", &json!({"webHooks": [webhook("b", &json!([{}]))]})));
        table.settle();
        let other = hash_bytes(b"other");
        let own = table.workspaces.remove(&hash_bytes(b"ws")).unwrap();
        table.workspaces.insert(other, own);
        assert!(matches(&table, "other", &change("company")).is_empty());
        let both = Workspace::new(table.by_key.iter().map(|ByKey(integration)| Arc::clone(integration)), &mut vec![]);
        table.workspaces.insert(other, both.unwrap());
        assert_eq!(matches(&table, "other", &change("company")), ["i:b"]);
    }

    #[test]
    fn an_update_replaces_and_a_removal_ends() {
        let mut table = Table::default();
        table.put(integration("ws/i", &json!({"webHooks": [webhook("a", &json!([{}]))]})));
        table.put(integration("ws/j", &json!({"webHooks": [webhook("c", &json!([{}]))]})));
        table.settle();
        table.put(integration("ws/i", &json!({"webHooks": [webhook("b", &json!([{}]))]})));
        table.settle();
        let mut found = matches(&table, "ws", &change("company"));
        found.sort();
        assert_eq!(found, ["i:b", "j:c"]);
        assert!(table.remove("ws/i"));
        assert!(!table.remove("ws/i"));
        table.settle();
        assert_eq!(matches(&table, "ws", &change("company")), ["j:c"]);
        assert!(table.remove("ws/j"));
        table.settle();
        assert!(table.is_empty() && table.workspaces.is_empty());
    }

    #[test]
    fn statuses_do_not_keep_a_webhook_from_matching_and_being_disabled_or_scheduled_does() {
        let mut table = Table::default();
        for status in ["paused", "notConfigured", "failed", "active", "hasErrors"] {
            let value = json!({"status": status, "webHooks": [webhook("a", &json!([{}]))]});
            table.put(integration(&format!("ws/{status}"), &value));
        }
        let mut disabled = webhook("a", &json!([{}]));
        disabled["disabled"] = json!(true);
        table.put(integration("ws/disabled", &json!({"webHooks": [disabled]})));
        let mut scheduled = webhook("a", &json!([{}]));
        scheduled["triggerType"] = json!("schedule");
        scheduled["schedule"] = json!({"period": "00:01:00"});
        table.put(integration("ws/scheduled", &json!({"webHooks": [scheduled]})));
        table.settle();
        let mut found = matches(&table, "ws", &change("company"));
        found.sort();
        assert_eq!(found, ["active:a", "failed:a", "hasErrors:a", "notConfigured:a", "paused:a"]);
        let census = table.census();
        assert_eq!((census.webhooks_enabled, census.webhooks_disabled), (6, 1));
        assert_eq!(census.integrations, [3, 1, 1, 1, 1]);
        let mut active = table.iter().filter(|integration| integration.status() == Status::Active);
        active.next().unwrap().set_health(Health::Failed);
        active.next().unwrap().set_health(Health::HasErrors);
        let paused = table.iter().find(|integration| integration.status() == Status::Paused).unwrap();
        paused.set_health(Health::HasErrors);
        assert_eq!(table.census().integrations, [1, 2, 1, 1, 2]);
    }

    fn scheduled(key: &str, period: &str) -> Arc<Integration> {
        let schedule = json!({"period": period});
        integration(
            key,
            &json!({"webHooks": [{"id": "s", "relativeUrl": "http://r/", "triggerType": "schedule", "schedule": schedule}]}),
        )
    }

    #[test]
    fn changed_schedules_are_named_once_and_everything_at_first() {
        let only = |keys: &[&str]| Rescheduled::Only(keys.iter().map(|key| (*key).into()).collect());
        let mut table = Table::default();
        table.put(scheduled("ws/s", "00:01:00"));
        assert!(table.is_rescheduled());
        assert_eq!(table.take_rescheduled(), Rescheduled::Everything);
        table.put(integration("ws/i", &json!({"webHooks": [webhook("a", &json!([{}]))]})));
        assert!(!table.is_rescheduled(), "it has no schedule");
        table.put(scheduled("ws/s", "00:02:00"));
        table.put(scheduled("ws/t", "00:02:00"));
        assert!(table.is_rescheduled());
        assert_eq!(table.take_rescheduled(), only(&["ws/s", "ws/t"]));
        table.put(integration("ws/s", &json!({"webHooks": []})));
        table.remove("ws/t");
        assert_eq!(table.take_rescheduled(), only(&["ws/s", "ws/t"]), "losing a schedule is a change too");
        assert_eq!(table.take_rescheduled(), only(&[]));
    }

    #[test]
    fn too_many_changed_schedules_are_everything() {
        let mut table = Table::default();
        table.take_rescheduled();
        let one = scheduled("ws/s", "00:01:00");
        for _ in 0..=RESCHEDULED_MAX {
            table.put(Arc::clone(&one));
        }
        assert_eq!(table.take_rescheduled(), Rescheduled::Everything);
    }

    /// The contract's sentences, word by word, on the JSON itself.
    fn naive(items: &[Value], event: &Value) -> bool {
        let same = |left: &str, right: &str| left.to_lowercase() == right.to_lowercase();
        items.iter().any(|item| {
            let kind = event["type"].as_str().unwrap();
            let event_ok = item["eventType"].as_str().is_none_or(|word| same(word, kind));
            let entity_ok = item["entityType"].as_str().is_none_or(|word| {
                event["entityIds"].as_object().unwrap().keys().any(|key| same(word, key.strip_suffix("Id").unwrap()))
            });
            let change_ok = item["changeType"].as_str().is_none_or(|word| {
                kind == "change" && event["changeData"]["type"].as_str().is_some_and(|change| same(word, change))
            });
            event_ok && entity_ok && change_ok
        })
    }

    fn any_item() -> impl Strategy<Value = Value> {
        let event = prop::sample::select(vec![None, Some("change"), Some("LINK"), Some("unlink")]);
        let entity = prop::sample::select(vec![None, Some("company"), Some("Contact"), Some("catalogitem")]);
        let change =
            prop::sample::select(vec![None, None, Some("create"), Some("Patch"), Some("delete"), Some("restore")]);
        (event, entity, change)
            .prop_map(|(event, entity, change)| json!({"eventType": event, "entityType": entity, "changeType": change}))
    }

    fn any_event() -> impl Strategy<Value = Value> {
        let change = prop::sample::select(vec!["create", "patch", "delete", "restore"]);
        let entity = || prop::sample::select(vec!["companyId", "contactId", "catalogItemId", "userId"]);
        let kind = prop::sample::select(vec!["change", "link", "unlink"]);
        (kind, change, entity(), entity()).prop_map(|(kind, change, first, second)| {
            let ids = if kind == "change" { json!({first: "1"}) } else { json!({first: "1", second: "2"}) };
            let data = if kind == "change" { json!({"type": change}) } else { Value::Null };
            json!({"id": "e", "type": kind, "entityIds": ids, "changeData": data})
        })
    }

    proptest! {
        #[test]
        fn the_index_finds_what_a_naive_matcher_finds(
            filters in prop::collection::vec(prop::collection::vec(any_item(), 0..4), 1..12),
            events in prop::collection::vec(any_event(), 1..8),
        ) {
            let mut table = Table::default();
            for (number, pair) in filters.chunks(2).enumerate() {
                let webhooks: Vec<_> = pair.iter().enumerate().map(|(n, items)| webhook(&n.to_string(), &json!(items))).collect();
                table.put(integration(&format!("ws/{number}"), &json!({"webHooks": webhooks})));
            }
            table.settle();
            for event in &events {
                let expected: BTreeSet<_> = filters
                    .iter()
                    .enumerate()
                    .filter(|(_, items)| naive(items, event))
                    .map(|(number, _)| format!("{}:{}", number / 2, number % 2))
                    .collect();
                let found = matches(&table, "ws", event);
                prop_assert_eq!(found.len(), expected.len(), "each once");
                prop_assert_eq!(BTreeSet::from_iter(found), expected);
            }
        }
    }
}
