//! The stage of one test: topics and a group of its own, its integrations and events, and their account.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::receiver::{Answer, Recorded};
use crate::support::records::{Read, Record, committed, ends, produce, read_all};
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::worker::{Names, Worker};

/// The workspace of everything on a stage.
pub(crate) const WORKSPACE: &str = "ws";

/// For what moves thousands of records on a machine that others use too.
pub(crate) const LONG: Duration = Duration::from_mins(3);

/// Topics and a group of one test.
pub(crate) struct Stage {
    brokers: String,
    /// Their names.
    pub(crate) names: Names,
    schedule: String,
}

impl Stage {
    /// Makes the topics for the tiers of `schedule`.
    pub(crate) async fn on(cluster: &Cluster, claim: &str, schedule: &str, partitions: u16) -> Self {
        Self::replicated(cluster, claim, schedule, partitions, 1).await
    }

    /// The same with replicas.
    pub(crate) async fn replicated(
        cluster: &Cluster,
        claim: &str,
        schedule: &str,
        partitions: u16,
        replicas: u16,
    ) -> Self {
        let names = Names::of(claim);
        names.create_replicated(cluster.brokers(), schedule, partitions, replicas).await;
        Self { brokers: cluster.brokers().to_owned(), names, schedule: schedule.to_owned() }
    }

    /// The same topics and group on another cluster.
    pub(crate) async fn on_another(&self, cluster: &Cluster, partitions: u16) -> Self {
        self.names.create(cluster.brokers(), &self.schedule, partitions).await;
        Self { brokers: cluster.brokers().to_owned(), names: self.names.clone(), schedule: self.schedule.clone() }
    }

    /// A worker that is ready.
    pub(crate) async fn worker(&self, extra: &[&str]) -> Worker {
        Worker::start(&self.brokers, &self.names, &self.options(extra)).await
    }

    /// A worker that is ready, with these variables in its environment.
    pub(crate) async fn worker_in(&self, environment: &[(&str, &str)], extra: &[&str]) -> Worker {
        Worker::start_in(environment, &self.brokers, &self.names, &self.options(extra)).await
    }

    /// A worker of a former release that is ready; of this one where no `program` is named.
    pub(crate) async fn former_worker(&self, program: Option<&str>) -> Worker {
        let Some(program) = program else { return self.worker(&[]).await };
        let worker = Worker::spawn_former(program, &self.brokers, &self.names, &self.options(&[])).await;
        worker.ready().await;
        worker
    }

    /// A worker that was started.
    pub(crate) async fn spawn(&self, extra: &[&str]) -> Worker {
        Worker::spawn(&self.brokers, &self.names, &self.options(extra)).await
    }

    fn options<'a>(&'a self, extra: &[&'a str]) -> Vec<&'a str> {
        ["--retry-schedule", &self.schedule].into_iter().chain(extra.iter().copied()).collect()
    }

    /// Writes integrations.
    pub(crate) fn put<'a>(&self, integrations: impl IntoIterator<Item = &'a Value>) {
        let record = |value: &Value| Record::new(key_of(value), value.to_string());
        produce(&self.brokers, &self.names.integrations(), integrations.into_iter().map(record));
    }

    /// Writes any record into the integrations topic.
    pub(crate) fn put_records(&self, records: impl IntoIterator<Item = Record>) {
        produce(&self.brokers, &self.names.integrations(), records);
    }

    /// Waits until a worker knows what was written: `name` and `labels` have `value` in its metrics.
    pub(crate) async fn knows(&self, worker: &Worker, name: &str, labels: &[(&str, &str)], value: f64) {
        self.knows_in(worker, (name, labels), value, PATIENCE).await;
    }

    /// The same, with another patience.
    pub(crate) async fn knows_in(
        &self,
        worker: &Worker,
        (name, labels): (&str, &[(&str, &str)]),
        value: f64,
        patience: Duration,
    ) {
        wait_until(&format!("{name} {labels:?} = {value}"), patience, async || {
            let found = worker.metric(name, labels).await;
            if (found - value).abs() < 1e-9 { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Writes events.
    pub(crate) fn send(&self, events: impl IntoIterator<Item = Record>) {
        produce(&self.brokers, &self.names.events(), events);
    }

    /// Writes into the topic of a tier.
    pub(crate) fn send_to_tier(&self, delay: &str, records: impl IntoIterator<Item = Record>) {
        produce(&self.brokers, &self.names.tier(delay), records);
    }

    /// Waits until every event that is in the topic now is settled, and committed, and no webhook is behind.
    pub(crate) async fn settled(&self, patience: Duration) {
        self.read_through(patience).await;
        wait_until("no webhook to be behind", patience, async || {
            let places = self.places();
            if places.is_empty() { Ok(()) } else { Err(places) }
        })
        .await;
    }

    /// Waits until every event that is in the topic now is settled or has a place before it, and committed.
    pub(crate) async fn read_through(&self, patience: Duration) {
        self.committed(&self.names.group(), &self.names.events(), patience).await;
    }

    /// The places that the backlog topic has.
    pub(crate) fn places(&self) -> Vec<String> {
        let mut places = BTreeMap::new();
        for record in read_all(&self.brokers, &self.names.backlog()) {
            places.insert(record.key.clone(), record.value.map(|value| String::from_utf8_lossy(&value).into_owned()));
        }
        places.into_values().flatten().collect()
    }

    /// Waits until every retry that is in a tier now is settled, and committed.
    pub(crate) async fn tier_settled(&self, delay: &str, patience: Duration) {
        self.committed(&format!("{}-retry", self.names.group()), &self.names.tier(delay), patience).await;
    }

    async fn committed(&self, group: &str, topic: &str, patience: Duration) {
        let mut ends = ends(&self.brokers, topic);
        ends.retain(|_, end| *end > 0);
        wait_until(&format!("{topic} to be committed to its end"), patience, async || {
            let committed = committed(&self.brokers, group, topic);
            let is_done = |(partition, end): (&i32, &i64)| committed.get(partition).is_some_and(|at| at >= end);
            if ends.iter().all(is_done) { Ok(()) } else { Err((committed, ends.clone())) }
        })
        .await;
    }

    /// The records of a tier.
    pub(crate) fn tier(&self, delay: &str) -> Vec<Read> {
        read_all(&self.brokers, &self.names.tier(delay))
    }

    /// The records of the attempt log.
    pub(crate) fn attempts(&self) -> Vec<Value> {
        read_all(&self.brokers, &self.names.attempts()).iter().map(Read::json).collect()
    }

    /// The records of the dead-letter topic.
    pub(crate) fn dead(&self) -> Vec<Read> {
        read_all(&self.brokers, &self.names.dead_letter())
    }

    /// Waits for at least `count` dead letters.
    pub(crate) async fn wait_for_dead(&self, count: usize, patience: Duration) -> Vec<Read> {
        wait_until(&format!("{count} dead letters"), patience, async || {
            let dead = self.dead();
            if dead.len() >= count { Ok(dead) } else { Err(dead.len()) }
        })
        .await
    }

    /// Waits for at least `count` records in a tier.
    pub(crate) async fn wait_for_tier(&self, delay: &str, count: usize) -> Vec<Read> {
        wait_until(&format!("{count} records in the tier {delay}"), PATIENCE, async || {
            let found = self.tier(delay);
            if found.len() >= count { Ok(found) } else { Err(found.len()) }
        })
        .await
    }
}

/// The key of an integration's record.
pub(crate) fn key_of(integration: &Value) -> String {
    format!("{WORKSPACE}/{}", integration["id"].as_str().expect("an integration has an id"))
}

/// An integration with one webhook, `w-<id>`, that every event matches, at `<base>/hook`.
pub(crate) fn integration(id: &str, base: &str) -> Value {
    json!({ "id": id, "baseUrl": base, "status": "active", "webHooks": [webhook(&format!("w-{id}"), "/hook")] })
}

/// A webhook that every event matches.
pub(crate) fn webhook(id: &str, relative_url: &str) -> Value {
    json!({ "id": id, "relativeUrl": relative_url, "triggerType": "entityEvent", "filter": { "items": [{}] } })
}

/// An event about a company, keyed by it.
pub(crate) fn event(id: &str, company: &str) -> Record {
    let value = json!({ "id": id, "type": "change", "entityIds": { "companyId": company },
        "changeData": { "type": "patch", "old": {}, "new": {} } });
    record(company, value.to_string())
}

/// A record of the stage's workspace.
pub(crate) fn record(key: &str, value: impl Into<Vec<u8>>) -> Record {
    Record::new(key, value).header("workspace", WORKSPACE)
}

/// Events `<prefix>-0` and so on, each about a company of its own.
pub(crate) fn events(prefix: &str, count: usize) -> impl Iterator<Item = Record> {
    (0..count).map(move |number| event(&format!("{prefix}-{number}"), &format!("c-{prefix}-{number}")))
}

/// The id of the event in a request.
pub(crate) fn event_id(request: &Recorded) -> String {
    request.json()["id"].as_str().expect("the event has an id").to_owned()
}

/// The number at the end of an event's id.
pub(crate) fn event_number(request: &Recorded) -> usize {
    let id = event_id(request);
    id.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("event id {id}"))
}

/// Requests and answers of all receivers of a test: the account of every event and webhook.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<HashMap<(String, String), Entry>>>);

/// One event and one webhook.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// The delivery ids that requests had.
    pub(crate) delivery_ids: BTreeSet<String>,
    /// How often it was acknowledged.
    pub(crate) acknowledged: usize,
    /// Every request's attempt number.
    pub(crate) attempts: Vec<u32>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Entry>> {
        self.0.lock()
    }

    /// Notes a request to `webhook` and its answer.
    pub(crate) fn note(&self, webhook: &str, request: &Recorded, answer: Answer) -> Answer {
        let mut entries = self.lock();
        let entry = entries.entry((event_id(request), webhook.to_owned())).or_default();
        entry.delivery_ids.insert(request.delivery_id().to_owned());
        entry.acknowledged += usize::from(answer.status == 200 && answer.misbehaviour.is_none());
        entry.attempts.push(request.attempt());
        answer
    }

    /// How many deliveries were acknowledged, each event and webhook once.
    pub(crate) fn acknowledged(&self) -> usize {
        self.lock().values().filter(|entry| entry.acknowledged > 0).count()
    }

    /// Acknowledgements beyond the first of each event and webhook.
    pub(crate) fn duplicates(&self) -> usize {
        self.lock().values().map(|entry| entry.acknowledged.saturating_sub(1)).sum()
    }

    /// All requests.
    pub(crate) fn requests(&self) -> usize {
        self.lock().values().map(|entry| entry.attempts.len()).sum()
    }

    /// Waits until `count` were acknowledged.
    pub(crate) async fn wait_for(&self, count: usize, patience: Duration) {
        wait_until(&format!("{count} acknowledgements"), patience, async || {
            let acknowledged = self.acknowledged();
            if acknowledged >= count { Ok(()) } else { Err(acknowledged) }
        })
        .await;
    }

    /// Accounts for every event of `events` and each of `webhooks`: acknowledged or in `dead`, and of one delivery id.
    pub(crate) fn balance(&self, events: impl Iterator<Item = String>, webhooks: &[&str], dead: &[Read]) -> Balance {
        let entries = self.lock();
        let mut dead_ids: BTreeMap<(String, String), usize> = BTreeMap::new();
        for letter in dead {
            let id = letter.json()["id"].as_str().expect("a dead event has an id").to_owned();
            let webhook = letter.header("hookstream-webhook-id").expect("a dead letter names its webhook").to_owned();
            *dead_ids.entry((id, webhook)).or_default() += 1;
        }
        let mut balance = Balance::default();
        for event in events {
            for webhook in webhooks {
                let pair = (event.clone(), (*webhook).to_owned());
                let entry = entries.get(&pair).cloned().unwrap_or_default();
                assert!(entry.delivery_ids.len() <= 1, "{pair:?} has several delivery ids: {entry:?}");
                let is_dead = dead_ids.contains_key(&pair);
                balance.acknowledged += usize::from(entry.acknowledged > 0);
                balance.dead += usize::from(is_dead);
                if entry.acknowledged == 0 && !is_dead {
                    balance.lost.push(pair);
                }
            }
        }
        balance
    }
}

/// The end of every event for every webhook.
#[derive(Clone, Debug, Default)]
pub(crate) struct Balance {
    /// Acknowledged at least once.
    pub(crate) acknowledged: usize,
    /// Dead letters.
    pub(crate) dead: usize,
    /// Neither.
    pub(crate) lost: Vec<(String, String)>,
}
