//! Writes changes of integrations into the table that all events are matched against.
//!
//! A workspace's index is built where no lock is held, and then takes the place of the one before together with the integrations: a
//! reader of the table finds all of a batch or nothing of it. Changes that come fast share an index.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::Instant;

use crate::domain::integration::Integration;
use crate::domain::table::{Rebuild, Rebuilt, Table};
use crate::health::view::HealthView;

/// Changes rest nine times as long as the write before them took, so a tenth of the thread's time at most goes into building indexes, up to
/// [`REST_MAX`].
const REST_FACTOR: u32 = 9;
/// The longest that a change rests.
const REST_MAX: Duration = Duration::from_secs(1);
/// Changes that rest: so many are written at once, however long the last write took.
const RESTING_MAX: usize = 10_000;

/// A change of an integration.
pub(super) enum Change {
    /// A version of it.
    Put {
        /// The version.
        integration: Arc<Integration>,
        /// When its record was written, ms since 1970.
        written_ms: i64,
    },
    /// It is removed: its key.
    Remove(Box<str>),
}

impl Change {
    /// The integration's key, and what it is from now on.
    fn outcome(&self) -> (&str, Option<&Arc<Integration>>) {
        match self {
            Self::Put { integration, .. } => (integration.key(), Some(integration)),
            Self::Remove(key) => (key, None),
        }
    }
}

/// The only writer of a table's integrations.
pub(super) struct TableWriter {
    table: Arc<RwLock<Table>>,
    /// Gets each version that is written.
    health: Arc<HealthView>,
    /// Whether others may read the table by now.
    is_live: bool,
    resting: Vec<Change>,
    rests_until: Instant,
}

impl TableWriter {
    /// Of a table that is not read before [`TableWriter::begin`].
    pub(super) fn new(table: Arc<RwLock<Table>>, health: Arc<HealthView>) -> Self {
        Self { table, health, is_live: false, resting: Vec::new(), rests_until: Instant::now() }
    }

    /// Takes a change, which rests until [`TableWriter::write_due`] or [`TableWriter::write_all`] writes it.
    pub(super) fn take(&mut self, change: Change) {
        self.resting.push(change);
    }

    /// How long until the next write is due. `None` if nothing rests.
    pub(super) fn due_in(&self, now: Instant) -> Option<Duration> {
        let rests = self.is_live && self.resting.len() < RESTING_MAX;
        let wait = if rests { self.rests_until.saturating_duration_since(now) } else { Duration::ZERO };
        (!self.resting.is_empty()).then_some(wait)
    }

    /// Writes what rests if it is due. Returns whether it was.
    pub(super) fn write_due(&mut self) -> bool {
        let began = Instant::now();
        let is_due = self.due_in(began).is_some_and(|wait| wait.is_zero());
        if is_due {
            self.write_all();
            self.rest(began, Instant::now());
        }
        is_due
    }

    /// Writes what rests, whether it is due or not.
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the method is of one lifetime, and any is asked for"
    )]
    pub(super) fn write_all(&mut self) {
        self.write(|rebuild| rebuild.build());
    }

    /// Builds the index of what was written so far, and from now on builds it with each write.
    pub(super) fn begin(&mut self) {
        self.write_all();
        self.table.write().settle();
        self.is_live = true;
    }

    /// A write took from `began` to `ended`: the next one is due after a rest.
    fn rest(&mut self, began: Instant, ended: Instant) {
        let took = ended.saturating_duration_since(began);
        self.rests_until = ended + took.saturating_mul(REST_FACTOR).min(REST_MAX);
    }

    /// `build` is called while no lock is held. The write lock is held for the changes, whatever the size of their workspaces.
    fn write(&mut self, build: impl FnOnce(Rebuild<'_>) -> Rebuilt) {
        let changes = std::mem::take(&mut self.resting);
        let rebuilt = self.is_live.then(|| {
            let rebuild = self.table.read().rebuild(changes.iter().map(Change::outcome));
            build(rebuild)
        });
        let mut table = self.table.write();
        for change in changes {
            match change {
                Change::Put { integration, written_ms } => {
                    let before = table.get(integration.key()).map(|before| &**before);
                    self.health.apply_integration(before, &integration, written_ms, self.is_live);
                    table.put(integration);
                }
                Change::Remove(key) => {
                    table.remove(&key);
                }
            }
        }
        let replaced = rebuilt.map(|rebuilt| table.swap(rebuilt));
        drop(table);
        drop(replaced);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use serde_json::json;

    use super::*;
    use crate::domain::event::Envelope;

    const ENTITIES: [&str; 3] = ["company", "contact", "user"];

    /// An integration that wants changes of these entities, each by a webhook of that id.
    fn version(key: &str, entities: &[&str]) -> Change {
        let hook = |entity: &&str| {
            let items = json!([{"entityType": entity}]);
            json!({"id": entity, "relativeUrl": "http://r/", "triggerType": "entityEvent", "filter": {"items": items}})
        };
        let record = json!({"webHooks": entities.iter().map(hook).collect::<Vec<_>>()}).to_string();
        Change::Put { integration: Arc::new(Integration::parse(key, record.as_bytes()).unwrap()), written_ms: 0 }
    }

    fn writer() -> TableWriter {
        let mut writer = TableWriter::new(Arc::default(), Arc::default());
        writer.begin();
        writer
    }

    /// The keys and webhooks that a change of `entity` in `workspace` matches. Each has to be as the table has it by its key.
    fn matching(table: &Table, workspace: &str, entity: &str) -> BTreeSet<String> {
        let event = json!({"id": "e", "type": "change", "entityIds": {format!("{entity}Id"): "x"}}).to_string();
        let envelope = Envelope::parse(event.as_bytes()).unwrap();
        let mut found = BTreeSet::new();
        table.matching(workspace, &envelope.facts(), |integration, webhook| {
            assert!(Arc::ptr_eq(table.get(integration.key()).unwrap(), integration));
            let id = integration.webhook(webhook).unwrap().id();
            assert!(found.insert(format!("{}:{id}", integration.key())), "each webhook once");
        });
        found
    }

    #[test]
    fn events_are_matched_while_an_index_is_built_and_find_all_of_a_batch_or_nothing_of_it() {
        let mut writer = writer();
        let table = Arc::clone(&writer.table);
        writer.take(version("ws/old", &["company"]));
        writer.write_all();
        writer.take(version("ws/old", &["contact"]));
        writer.take(version("ws/new", &["company"]));
        let mut was_built = false;
        writer.write(|rebuild| {
            was_built = true;
            assert!(table.try_write().is_some(), "no lock is held, so no writer that waits keeps readers out");
            let now = table.read();
            assert_eq!(matching(&now, "ws", "company"), BTreeSet::from(["ws/old:company".to_owned()]));
            assert!(matching(&now, "ws", "contact").is_empty());
            assert!(now.get("ws/new").is_none());
            drop(now);
            rebuild.build()
        });
        assert!(was_built);
        let now = table.read();
        assert_eq!(matching(&now, "ws", "company"), BTreeSet::from(["ws/new:company".to_owned()]));
        assert_eq!(matching(&now, "ws", "contact"), BTreeSet::from(["ws/old:contact".to_owned()]));
    }

    #[test]
    fn after_any_changes_a_table_is_as_if_it_had_just_been_read() {
        for seed in 0..64 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut writer = TableWriter::new(Arc::default(), Arc::default());
            let mut begins_after = random.random_range(0..20);
            for _ in 0..random.random_range(1..60) {
                let guid = |number: u32| format!("a5aad3c1-777b-4ae5-8ca1-60b94c0423e{number:x}");
                let mut key = format!("ws-{}/{}", random.random_range(0..3), guid(random.random_range(0..5)));
                let wanted: Vec<_> = ENTITIES.into_iter().filter(|_| random.random_bool(0.4)).collect();
                if random.random_bool(0.3) {
                    writer.take(Change::Remove(key.into()));
                } else {
                    if random.random_bool(0.2) {
                        key = key.replace("-777b-", "-777B-");
                    }
                    writer.take(version(&key, &wanted));
                }
                if begins_after == 0 {
                    writer.begin();
                } else if random.random_bool(0.3) {
                    writer.write_all();
                }
                begins_after -= 1;
            }
            writer.begin();
            let table = writer.table.read();
            let mut fresh = Table::default();
            table.iter().for_each(|integration| fresh.put(Arc::clone(integration)));
            fresh.settle();
            for number in 0..3 {
                let workspace = format!("ws-{number}");
                assert_eq!(table.has_workspace(&workspace), fresh.has_workspace(&workspace), "seed {seed}");
                for entity in ENTITIES {
                    let found = matching(&table, &workspace, entity);
                    assert_eq!(found, matching(&fresh, &workspace, entity), "seed {seed}");
                    let wants = |of: &&Arc<Integration>| {
                        of.workspace() == workspace && of.webhooks().any(|webhook| webhook.id() == entity)
                    };
                    assert_eq!(found.len(), table.iter().filter(wants).count(), "seed {seed}");
                }
            }
        }
    }

    /// Integrations of one workspace.
    const MANY: usize = 1_000;
    const CHANGES: usize = 100_000;

    fn many() -> Vec<Arc<Integration>> {
        let of = |number| match version(&format!("ws/{number}"), &["company"]) {
            Change::Put { integration, .. } => integration,
            Change::Remove(_) => unreachable!("it is a version"),
        };
        (0..MANY).map(of).collect()
    }

    fn changes(integrations: &[Arc<Integration>]) -> impl Iterator<Item = Change> {
        let again = integrations.iter().cycle().take(CHANGES);
        again.map(|integration| Change::Put { integration: Arc::clone(integration), written_ms: 0 })
    }

    #[test]
    fn while_a_topic_is_read_at_start_no_index_is_built_and_then_one() {
        let integrations = many();
        let mut writer = TableWriter::new(Arc::default(), Arc::default());
        for change in changes(&integrations) {
            writer.take(change);
            writer.write(|_| panic!("the table is not read yet"));
        }
        assert!(matching(&writer.table.read(), "ws", "company").is_empty());
        writer.begin();
        assert_eq!(matching(&writer.table.read(), "ws", "company").len(), MANY);
    }

    #[test]
    fn changes_that_come_fast_share_an_index() {
        let integrations = many();
        let mut writer = writer();
        let (mut members, mut builds, mut longest, mut now) = (0, 0, 0, Instant::now());
        let mut next = changes(&integrations).peekable();
        while next.peek().is_some() || !writer.resting.is_empty() {
            next.by_ref().take(10).for_each(|change| writer.take(change));
            longest = longest.max(writer.resting.len());
            if writer.due_in(now) == Some(Duration::ZERO) {
                writer.write(|rebuild| {
                    let rebuilt = rebuild.build();
                    members += rebuilt.members();
                    rebuilt
                });
                builds += 1;
                let ended = now + Duration::from_millis(15);
                writer.rest(now, ended);
                now = ended;
            }
            now += Duration::from_millis(1);
        }
        // 10,000 rounds of 1 ms, and 150 ms from one write to the next, of which 135 take changes.
        let periods = CHANGES / 10 / 135;
        assert!((periods..periods + 3).contains(&builds), "{builds} builds, {periods} periods");
        assert!(members <= builds * MANY, "{members} of {builds}");
        assert!(longest <= 1_360, "{longest}");
        assert_eq!(matching(&writer.table.read(), "ws", "company").len(), MANY);
    }

    #[test]
    fn a_change_after_a_rest_is_written_at_once_and_no_rest_is_longer_than_a_second() {
        let mut writer = writer();
        let integration = many().pop().unwrap();
        let change = || Change::Put { integration: Arc::clone(&integration), written_ms: 0 };
        assert_eq!(writer.due_in(Instant::now()), None);
        writer.take(change());
        assert_eq!(writer.due_in(Instant::now()), Some(Duration::ZERO));
        let now = Instant::now();
        for (took, rest) in [(2, 18), (100, 900), (60_000, 1_000)] {
            writer.rest(now, now + Duration::from_millis(took));
            let rest = Duration::from_millis(took + rest);
            assert_eq!(writer.due_in(now), Some(rest));
            assert_eq!(writer.due_in(now + rest), Some(Duration::ZERO));
        }
        (1..RESTING_MAX).for_each(|_| writer.take(change()));
        assert_eq!(writer.due_in(now), Some(Duration::ZERO), "what rests is bounded");
        assert!(writer.write_due());
        assert!(!writer.write_due(), "nothing rests");
    }
}
