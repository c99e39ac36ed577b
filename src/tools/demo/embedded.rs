//! A Kafka of this process's own, for the demo: librdkafka's mock cluster, on free loopback ports, gone with the process.
//!
//! It keeps at most 5 MiB a partition and forgets the oldest beyond, compacts nothing and answers no admin request. It is
//! good for showing and testing the path of events, and for nothing that must last.

use std::sync::mpsc;
use std::thread::JoinHandle;

use rdkafka::error::KafkaError;
use rdkafka::mocking::MockCluster;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddedError {
    /// The client library's error.
    #[error("the embedded broker failed")]
    Kafka(#[from] KafkaError),
    /// Its thread can't be started.
    #[error("the embedded broker's thread cannot be started")]
    Thread(#[from] std::io::Error),
    /// Its thread ended before the broker was ready.
    #[error("the embedded broker ended before it was ready")]
    Ended,
}

/// A running broker; dropping it ends it.
pub(crate) struct EmbeddedBroker {
    brokers: String,
    /// Dropping it ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts one broker with these topics, each with this many partitions.
    ///
    /// # Errors
    /// [`EmbeddedError`]
    pub(crate) fn start(topics: &[String], partitions: i32) -> Result<Self, EmbeddedError> {
        let (answer, started) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let topics = topics.to_vec();
        // The cluster can't change threads, so it stays on this one.
        let thread = std::thread::Builder::new().name("embedded-broker".to_owned()).spawn(move || {
            let cluster = cluster(&topics, partitions);
            let brokers = cluster.as_ref().map(MockCluster::bootstrap_servers).map_err(Clone::clone);
            if answer.send(brokers).is_ok() {
                // Nothing is ever sent: this ends when the sender is dropped.
                stopped.iter().for_each(drop);
            }
        })?;
        let brokers = started.recv().map_err(|_ended| EmbeddedError::Ended)??;
        Ok(Self { brokers, stop: Some(stop), thread: Some(thread) })
    }

    /// Its bootstrap servers.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }
}

fn cluster(
    topics: &[String],
    partitions: i32,
) -> Result<MockCluster<'static, impl rdkafka::ClientContext + use<>>, KafkaError> {
    let cluster = MockCluster::new(1)?;
    for topic in topics {
        cluster.create_topic(topic, partitions, 1)?;
    }
    Ok(cluster)
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the embedded broker's thread panicked");
        }
    }
}
