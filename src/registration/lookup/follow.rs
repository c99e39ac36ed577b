//! The threads that fill the directory from the health topic, the backlog topic and, if no registry holds the integrations, the
//! integrations topic. A topic that can't be read is logged once and tried again; the directory keeps its content meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Directory;
use crate::health::records::StateRecord;
use crate::kafka::table_reader::{Compacted, CompactedError, Row};
use crate::readers::waiting::Place;
use crate::registration::registry::Version;
use crate::settings::{Kafka, Settings};
use crate::telemetry::chain::chain;

/// How long a poll waits for a change: bounds how late a stop is seen.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// How long until a topic that can't be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The threads, owned: [`Self::ended`] waits for them.
pub(crate) struct Followers {
    tasks: JoinSet<()>,
    ready: Vec<oneshot::Receiver<()>>,
}

impl Followers {
    /// Follows the health and the backlog topic until `stop`.
    pub(crate) fn start(settings: &Settings, directory: &Arc<Directory>, stop: &CancellationToken) -> Self {
        let mut followers = Self { tasks: JoinSet::new(), ready: Vec::new() };
        let Settings { kafka, topics, .. } = settings;
        let of = |topic: &str, role, take: Take| Follower { kafka: kafka.clone(), topic: topic.to_owned(), role, take };
        followers.follow(of(&topics.health, "health-reader", Box::new(take_health)), directory, stop);
        let group = kafka.group.clone();
        let take_place = Box::new(move |directory: &Directory, row: &Row<'_>| take_place(&group, directory, row));
        followers.follow(of(&topics.backlog, "backlog-reader", take_place), directory, stop);
        followers
    }

    /// Follows the integrations topic too, for a process whose registry does not.
    pub(crate) fn follow_integrations(
        &mut self,
        settings: &Settings,
        directory: &Arc<Directory>,
        stop: &CancellationToken,
    ) {
        let (kafka, topic) = (settings.kafka.clone(), settings.topics.integrations.clone());
        let take = Box::new(take_integration);
        self.follow(Follower { kafka, topic, role: "integrations-reader", take }, directory, stop);
    }

    fn follow(&mut self, follower: Follower, directory: &Arc<Directory>, stop: &CancellationToken) {
        let (is_ready, ready) = oneshot::channel();
        self.ready.push(ready);
        let (directory, stop) = (Arc::clone(directory), stop.clone());
        self.tasks.spawn_blocking(move || follower.run(&directory, &mut Some(is_ready), &stop));
    }

    /// Waits until everything was read to the end that it had, or could not be read.
    pub(crate) async fn ready(&mut self) {
        for ready in self.ready.drain(..) {
            if ready.await.is_err() {
                tracing::debug!("a follower stopped before it was ready");
            }
        }
    }

    /// Waits for the threads to end, after their `stop`.
    pub(crate) async fn ended(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a follower of a topic failed");
            }
        }
    }
}

struct Follower {
    kafka: Kafka,
    topic: String,
    role: &'static str,
    take: Take,
}

/// Takes a record over.
type Take = Box<dyn Fn(&Directory, &Row<'_>) + Send>;

impl Follower {
    /// Blocks its thread.
    fn run(self, directory: &Directory, ready: &mut Option<oneshot::Sender<()>>, stop: &CancellationToken) {
        let mut is_logged = false;
        while !stop.is_cancelled() {
            let Err(error) = self.follow(directory, ready, stop) else { break };
            if std::mem::replace(&mut is_logged, true) {
                tracing::debug!(topic = self.topic, %error, "a topic still cannot be read");
            } else {
                tracing::error!(topic = self.topic, %error, "a topic cannot be read: readers show what was known of it");
            }
            signal(ready);
            let until = Instant::now() + AGAIN_AFTER;
            while !stop.is_cancelled() && Instant::now() < until {
                std::thread::park_timeout(POLL_WAIT);
            }
        }
    }

    fn follow(
        &self,
        directory: &Directory,
        ready: &mut Option<oneshot::Sender<()>>,
        stop: &CancellationToken,
    ) -> Result<(), CompactedError> {
        let mut topic = Compacted::open(&self.kafka, &self.topic, self.role)?;
        while !stop.is_cancelled() {
            topic.read(POLL_WAIT, |row| (self.take)(directory, &row))?;
            if ready.is_some() && topic.is_caught_up() {
                signal(ready);
            }
        }
        Ok(())
    }
}

fn take_health(directory: &Directory, row: &Row<'_>) {
    let Ok(key) = std::str::from_utf8(row.key) else { return unusable(row, "its key is not UTF-8") };
    match row.value.map(StateRecord::parse).transpose() {
        Ok(state) => directory.set_state(key, state),
        Err(error) => unusable(row, &chain(&error)),
    }
}

/// A place of another group is not shown.
fn take_place(group: &str, directory: &Directory, row: &Row<'_>) {
    let Some(integration) = Place::integration_of(group, row.key) else { return };
    let place = row.value.map(|value| Place::of(group, row.key, value));
    match place {
        Some(None) => unusable(row, "it is not a place"),
        Some(Some(place)) => directory.set_place(&integration, row.key, Some(place)),
        None => directory.set_place(&integration, row.key, None),
    }
}

fn take_integration(directory: &Directory, row: &Row<'_>) {
    let version = Version { partition: row.partition, offset: row.offset };
    let value = row.value.map(bytes::Bytes::copy_from_slice);
    if !directory.integrations().apply(std::str::from_utf8(row.key).ok(), value, version, row.timestamp_ms) {
        unusable(row, "its key is not a workspace and an id");
    }
}

fn unusable(row: &Row<'_>, error: &str) {
    tracing::warn!(partition = row.partition, offset = row.offset, error, "a record cannot be used");
}

/// The receiver is gone when the process is stopping.
fn signal(ready: &mut Option<oneshot::Sender<()>>) {
    if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
        tracing::debug!("no caller waits for the topic any more");
    }
}
