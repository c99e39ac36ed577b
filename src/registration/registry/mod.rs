//! The registry: every integration, read from and written to the compacted integrations topic by this process alone.
//!
//! `view` holds the topic in memory, `reader` fills it on a thread of its own, and `writer` makes one change after the other on
//! another thread. A request decides on a record of the view. The writer writes the change in a transaction of one record if the
//! record is still the same, and answers when the change is committed and the view shows it. The fixed transactional id fences
//! an older process.
//!
//! Wait-for arrows: a request waits for the writer, the writer for the broker and for the reader, the reader for the broker only. The
//! caller decides what a patch does and what HTTP answers.

mod view;
mod reader;
mod writer;
mod patience;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::view::{Stored, Version, View};
use crate::kafka::client::{fix, table_consumer_config};
use crate::kafka::table_reader::CompactedError;
use crate::settings::Kafka;

/// Changes that wait for the writer: a second or two of work. When it is full, more are refused at once.
pub(crate) const QUEUE_MAX: usize = 2048;

/// How long a requester waits for Kafka before it gets the answer that Kafka does not answer. A commit takes milliseconds.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// A decision about a record. Without `Debug`, because it holds secrets.
pub(crate) enum Decision {
    /// Leave the record as it is.
    Keep,
    /// Write this value.
    Put(Vec<u8>),
    /// Write a tombstone.
    Delete,
}

/// Why a change was not made, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// Too many changes wait.
    #[error("too many changes are waiting")]
    Full,
    /// Other requests changed the same integration meanwhile, again and again; nothing was written.
    #[error("not written: other changes of this integration come too fast")]
    Changed,
    /// Nothing was written; trying again may help.
    #[error("not written: {0}")]
    NotWritten(&'static str),
    /// Kafka has not answered in time. The writer goes on, so the change may still be written.
    #[error("Kafka does not answer in time: it is not known whether the change was written, read it again")]
    Unanswered,
    /// The topic takes no record of this size; nothing was written.
    #[error("the record is larger than the integrations topic takes")]
    TooLarge,
    /// The log did not show in time whether the record is in it.
    #[error("it is not known whether the change was written: read it again")]
    Unknown,
    /// This process does not write any more.
    #[error("this process is stopping or was replaced by a newer one")]
    Closed,
}

/// Why the registry can't be opened or can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The client refused its configuration or the broker the request.
    #[error("{doing} failed on topic {topic}")]
    Kafka {
        /// The step that failed.
        doing: &'static str,
        /// The integrations topic.
        topic: String,
        /// Why.
        #[source]
        error: KafkaError,
    },
    /// The topic can't be read as a table.
    #[error(transparent)]
    Table(#[from] CompactedError),
    /// The topic isn't there.
    #[error("topic {0} does not exist; `hookstream topics apply` creates it")]
    NoTopic(String),
    /// A newer process writes now.
    #[error(
        "another registration API with transactional id {0} was started: this one is fenced and stops; two releases on one Kafka need a --group each"
    )]
    Fenced(String),
    /// The producer can't be used any more.
    #[error("the producer with transactional id {id} failed for good: {error}")]
    Fatal {
        /// Its transactional id.
        id: String,
        /// Why.
        error: String,
    },
    /// A thread could not be started, or ended without a reason.
    #[error("the registry's {0} thread failed")]
    Thread(&'static str),
    /// Stopped before it was open.
    #[error("stopped while reading the integrations topic")]
    Stopped,
}

/// A change that waits for the writer.
struct Job {
    workspace: String,
    id: String,
    /// The version that the change was decided on. The change is written only while the record has it.
    expected: Option<Version>,
    change: Change,
    reply: oneshot::Sender<Result<Version, WriteError>>,
    /// Set by the first of the two: the writer when it begins, the requester when it gives up.
    taken: Arc<AtomicBool>,
}

impl Job {
    /// Whether the writer may begin: the requester has not given up. From then on the requester can't say that nothing was written.
    fn begin(&self) -> bool {
        !self.taken.swap(true, Ordering::AcqRel)
    }
}

/// The requester's answer if Kafka did not answer and the change was not written.
const SILENT: &str = "Kafka does not answer";

/// The write of a change.
enum Change {
    Put(Vec<u8>),
    Delete,
}

/// Decisions at once: each may take a second of a processor and tens of MiB.
const DECISIONS_MAX: usize = 4;
/// How often a change is decided again if other changes of the same integration came before it.
const TRIES_MAX: usize = 100;

/// A request's access to the registry: the view, and the way to the writer.
#[derive(Clone)]
pub(crate) struct Handle {
    view: Arc<View>,
    jobs: mpsc::Sender<Job>,
    deciding: Arc<Semaphore>,
}

impl Handle {
    fn new(view: Arc<View>, jobs: mpsc::Sender<Job>) -> Self {
        Self { view, jobs, deciding: Arc::new(Semaphore::new(DECISIONS_MAX)) }
    }

    /// The topic in memory.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The same, for callers that keep it longer.
    pub(crate) fn shared_view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Decides on the latest record of an integration and writes the change if that record is still the latest; otherwise decides
    /// again. Returns the last decision's second value, and the version written, if any. Decisions do not run on the writer's
    /// thread, which only compares versions and writes, so that a long one does not delay other requests.
    ///
    /// # Errors
    /// [`WriteError`] says whether anything was written.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        workspace: &str,
        id: &str,
        mut decide: impl FnMut(Option<&Stored>) -> (Decision, T) + Send + 'static,
    ) -> Result<(T, Option<Version>), WriteError> {
        for _ in 0..TRIES_MAX {
            let permit = Arc::clone(&self.deciding).acquire_owned().await.map_err(|_closed| WriteError::Closed)?;
            let stored = self.view.get(workspace, id);
            let expected = stored.as_ref().map(|stored| stored.version);
            let deciding = tokio::task::spawn_blocking(move || {
                let decided = decide(stored.as_ref());
                drop(permit);
                (decide, decided)
            });
            let (decide_again, (decision, left)) =
                deciding.await.map_err(|_panicked| WriteError::NotWritten("it could not be decided"))?;
            decide = decide_again;
            let change = match decision {
                Decision::Keep => return Ok((left, None)),
                Decision::Put(bytes) => Change::Put(bytes),
                Decision::Delete => Change::Delete,
            };
            match self.write(workspace, id, expected, change).await {
                Err(WriteError::Changed) => {}
                written => return written.map(|version| (left, Some(version))),
            }
        }
        Err(WriteError::Changed)
    }

    async fn write(
        &self,
        workspace: &str,
        id: &str,
        expected: Option<Version>,
        change: Change,
    ) -> Result<Version, WriteError> {
        let (reply, replied) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let (workspace, id) = (workspace.to_owned(), id.to_owned());
        let job = Job { workspace, id, expected, change, reply, taken: Arc::clone(&taken) };
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Full,
            mpsc::error::TrySendError::Closed(_) => WriteError::Closed,
        })?;
        match tokio::time::timeout(WRITE_PATIENCE, replied).await {
            Ok(replied) => replied.map_err(|_closed| WriteError::Closed)?,
            Err(_elapsed) if taken.swap(true, Ordering::AcqRel) => Err(WriteError::Unanswered),
            Err(_elapsed) => Err(WriteError::NotWritten(SILENT)),
        }
    }
}

/// The open registry: its threads run until it is closed, dropped or fails.
pub(crate) struct Registry {
    handle: Handle,
    stop: DropGuard,
    ended: Vec<oneshot::Receiver<Result<(), RegistryError>>>,
}

impl Registry {
    /// Fences older processes and reads the topic to its present end, in unbounded time.
    ///
    /// # Errors
    /// [`RegistryError`] when Kafka refuses for good; what may pass is tried again until `stop`.
    pub(crate) async fn open(kafka: &Kafka, topic: &str, stop: CancellationToken) -> Result<Self, RegistryError> {
        let log = Log { kafka: kafka.clone(), topic: topic.to_owned(), stop: stop.clone() };
        let view = Arc::new(View::default());
        let (jobs, waiting) = mpsc::channel(QUEUE_MAX);
        // In this order: what an older process had under way is settled before the topic's end is looked up.
        let writer = writer::start(log.clone(), Arc::clone(&view), waiting);
        writer.ready.await.map_err(|_closed| RegistryError::Thread("writer"))??;
        let reader = reader::start(log, Arc::clone(&view));
        reader.ready.await.map_err(|_closed| RegistryError::Thread("reader"))??;
        tracing::info!(integrations = view.len(), "registry is open");
        let stop = stop.drop_guard();
        Ok(Self { handle: Handle::new(view, jobs), stop, ended: vec![writer.ended, reader.ended] })
    }

    /// A request's access to the registry.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until a thread ends, and returns why. Without a stop a thread ends only when it cannot go on.
    ///
    /// Cancel safe.
    pub(crate) async fn failed(&mut self) -> RegistryError {
        let (ended, index, _rest) = futures_util::future::select_all(self.ended.iter_mut()).await;
        self.ended.remove(index);
        match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) | Err(_) => RegistryError::Thread("writer or reader"),
        }
    }

    /// Lets the change under way finish and ends both threads.
    pub(crate) async fn close(self) {
        let Self { handle, stop, ended } = self;
        drop((handle, stop));
        for ended in ended {
            // A thread that has ended before has reported why.
            drop(ended.await);
        }
    }
}

/// A running thread of the registry.
struct Running {
    /// Completes when the thread is ready, or with the reason why it never will be.
    ready: oneshot::Receiver<Result<(), RegistryError>>,
    ended: oneshot::Receiver<Result<(), RegistryError>>,
}

/// Runs `body` on a thread of its own; it gets a channel to say that it is ready.
fn run_thread(
    name: &'static str,
    body: impl FnOnce(oneshot::Sender<Result<(), RegistryError>>) -> Result<(), RegistryError> + Send + 'static,
) -> Running {
    let (is_ready, ready) = oneshot::channel();
    let (has_ended, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("registry-{name}")).spawn(move || {
        // The caller that opened the registry may be gone.
        drop(has_ended.send(body(is_ready)));
    });
    if let Err(error) = thread {
        // Both channels are closed by now, which ends the opener's wait.
        tracing::error!(%error, name, "thread not started");
    }
    Running { ready, ended }
}

/// The topic, for the threads.
#[derive(Clone)]
struct Log {
    kafka: Kafka,
    topic: String,
    stop: CancellationToken,
}

impl Log {
    fn error(&self, doing: &'static str) -> impl FnOnce(KafkaError) -> RegistryError {
        let topic = self.topic.clone();
        move |error| RegistryError::Kafka { doing, topic, error }
    }
}

/// The transactional id of a group's registration API: the same for every process of it, so that the newest fences.
fn transactional_id(group: &str) -> String {
    format!("{group}-registration-api")
}

/// The name of the registry's clients in logs.
const ROLE: &str = "registration-api";

/// A consumer that is assigned, never subscribed, and sees committed records only.
fn consumer_config(kafka: &Kafka) -> ClientConfig {
    let mut config = table_consumer_config(kafka, ROLE);
    // The writer asks for one offset: a record at another offset is not an answer.
    fix(&mut config, "auto.offset.reset", "error");
    config
}

/// How long one request to the broker may take before it is tried again or abandoned.
const BROKER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A writer that writes into the view at once, as the threads do by way of Kafka.
    pub(crate) fn in_memory(queue_max: usize) -> (Handle, std::thread::JoinHandle<()>) {
        let view = Arc::new(View::default());
        let (jobs, mut waiting) = mpsc::channel::<Job>(queue_max);
        let handle = Handle::new(Arc::clone(&view), jobs);
        let thread = std::thread::spawn(move || {
            let mut offset = 0;
            while let Some(job) = waiting.blocking_recv() {
                if !job.begin() {
                    continue;
                }
                if view.get(&job.workspace, &job.id).map(|stored| stored.version) != job.expected {
                    drop(job.reply.send(Err(WriteError::Changed)));
                    continue;
                }
                let key = format!("{}/{}", job.workspace, job.id);
                let version = Version { partition: 0, offset };
                offset += 1;
                match job.change {
                    Change::Put(bytes) => view.apply(Some(&key), Some(bytes.into()), version, 0),
                    Change::Delete => view.apply(Some(&key), None, version, 0),
                };
                drop(job.reply.send(Ok(version)));
            }
        });
        (handle, thread)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::in_memory;
    use super::*;

    #[tokio::test]
    async fn a_change_returns_its_decision_and_the_written_version() {
        let (handle, _thread) = in_memory(1);
        let change = handle.change("ws", "a", |stored| (Decision::Put(b"x".to_vec()), stored.is_none()));
        let (was_new, version) = change.await.unwrap();
        assert!(was_new);
        assert_eq!(handle.view().get("ws", "a").unwrap().version, version.unwrap());
        let kept = handle.change("ws", "a", |stored| (Decision::Keep, stored.is_some())).await;
        assert_eq!(kept.unwrap(), (true, None));
    }

    fn put<T>(left: T) -> (Decision, T) {
        (Decision::Put(b"x".to_vec()), left)
    }

    #[tokio::test]
    async fn a_closed_writer_is_reported() {
        let (jobs, waiting) = mpsc::channel(1);
        let handle = Handle::new(Arc::default(), jobs);
        drop(waiting);
        assert_eq!(handle.change("ws", "a", |_| put(())).await, Err(WriteError::Closed));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let (jobs, _waiting) = mpsc::channel(1);
        let handle = Handle::new(Arc::default(), jobs);
        let first = handle.change("ws", "a", |_| put(()));
        let second = handle.change("ws", "a", |_| put(()));
        // One of the two waits for the writer.
        let refused = tokio::select! { refused = first => refused, refused = second => refused };
        assert_eq!(refused, Err(WriteError::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn a_requester_learns_in_seconds_whether_an_unanswered_change_may_still_be_written() {
        let (jobs, mut waiting) = mpsc::channel(2);
        let handle = Handle::new(Arc::default(), jobs);
        let since = tokio::time::Instant::now();
        let mut begun = tokio::task::JoinSet::new();
        begun.spawn({
            let handle = handle.clone();
            async move { handle.change("ws", "a", |_| put(())).await }
        });
        let job = waiting.recv().await.unwrap();
        assert!(job.begin());
        let queued = handle.change("ws", "b", |_| put(())).await;
        assert_eq!(queued, Err(WriteError::NotWritten(SILENT)));
        assert!(!waiting.recv().await.unwrap().begin(), "the requester has the answer that it is not written");
        assert_eq!(begun.join_next().await.unwrap().unwrap(), Err(WriteError::Unanswered));
        assert!(since.elapsed() < 2 * WRITE_PATIENCE, "{:?}", since.elapsed());
        drop(job);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_changes_at_once_are_all_written() {
        let (handle, _thread) = in_memory(64);
        let add = |number: usize| {
            handle.change("ws", "a", move |stored| {
                let mut bytes = stored.map(|stored| stored.bytes.to_vec()).unwrap_or_default();
                bytes.push(u8::try_from(number).unwrap());
                (Decision::Put(bytes), ())
            })
        };
        let changed = futures_util::future::join_all((0..20).map(add)).await;
        assert!(changed.iter().all(Result::is_ok), "{changed:?}");
        let mut bytes = handle.view().get("ws", "a").unwrap().bytes.to_vec();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..20).collect::<Vec<u8>>());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_decision_does_not_keep_other_requests_from_writing() {
        let (handle, _thread) = in_memory(64);
        let (finish, finished) = std::sync::mpsc::sync_channel::<()>(1);
        let slow = handle.change("ws", "slow", move |_| {
            finished.recv().unwrap();
            put(())
        });
        let mut slow = std::pin::pin!(slow);
        tokio::select! {
            biased;
            _ = &mut slow => panic!("it is not decided yet"),
            other = handle.change("ws", "other", |_| put(())) => assert!(other.is_ok()),
        }
        finish.send(()).unwrap();
        assert!(slow.await.is_ok());
    }

    #[test]
    fn the_operators_properties_do_not_undo_ours() {
        let properties =
            vec![("isolation.level".into(), "read_uncommitted".into()), ("sasl.username".into(), "u".into())];
        let config =
            consumer_config(&Kafka { brokers: "b:1".into(), group: "g".into(), instance_id: None, properties });
        assert_eq!(config.get("isolation.level"), Some("read_committed"));
        assert_eq!(config.get("sasl.username"), Some("u"));
    }
}
