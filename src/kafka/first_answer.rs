//! The first question of a client, which any broker can answer.
//!
//! The client library gives such a question to one broker that it is connected to, and waits for the answer of that one. If it hangs or
//! stops at that moment, one broker of three would be taken for a cluster that does not answer.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

use super::client::ClientLog;

/// How long the first try waits; each later one waits twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// How long to wait for the client's message about a connection, and the least time between two tries.
const LISTEN: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// No broker answered in time.
    Away {
        /// What the last client said about a connection.
        cause: Option<String>,
    },
    /// The client library refuses the client's configuration.
    Configuration(KafkaError),
    /// A broker answered with an error.
    Refused(KafkaError),
}

/// Asks until a broker answers, for `patience` in all. Each try gives `ask` a client of `connect`, and how long to wait. With new clients
/// each try takes any broker that can be reached. Returns the answer with the client that has it. A first try without an answer is
/// logged. Blocks.
///
/// # Errors
/// [`NoAnswer`]
pub(crate) fn first_answer<T>(
    brokers: &str,
    patience: Duration,
    connect: impl Fn() -> Result<Arc<BaseConsumer<ClientLog>>, KafkaError>,
    ask: impl Fn(&BaseConsumer<ClientLog>, Duration) -> Result<T, KafkaError>,
) -> Result<(Arc<BaseConsumer<ClientLog>>, T), NoAnswer> {
    let deadline = Instant::now() + patience;
    let mut wait = FIRST_WAIT;
    loop {
        let client = connect().map_err(NoAnswer::Configuration)?;
        let left = deadline.saturating_duration_since(Instant::now());
        match ask(&client, wait.min(left)) {
            Ok(answer) => return Ok((client, answer)),
            Err(error) if !is_away(&error) => return Err(NoAnswer::Refused(error)),
            Err(error) => tracing::debug!(%error, "no answer to a client's first question"),
        }
        let cause = listen(&client);
        if Instant::now() >= deadline {
            return Err(NoAnswer::Away { cause });
        }
        if wait == FIRST_WAIT {
            tracing::warn!(brokers, cause, "no broker answers yet, still trying");
        }
        wait = wait.saturating_mul(2);
    }
}

/// Polls for a moment, since the client reports only then why it can't connect. Returns its last message about that. Nothing is assigned
/// yet, so no record is lost.
fn listen(client: &BaseConsumer<ClientLog>) -> Option<String> {
    let until = Instant::now() + LISTEN;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return client.context().last_error();
        }
        if let Some(Err(error)) = client.poll(left) {
            tracing::debug!(%error, "a client that is not connected");
        }
    }
}

/// Whether no broker has answered.
pub(crate) fn is_away(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::AllBrokersDown
        )
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// Kafka's number of a request for metadata.
    const METADATA: u16 = 3;

    /// A message with its length before it.
    fn message(stream: &mut TcpStream) -> Vec<u8> {
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("a length");
        let mut all = length.to_vec();
        all.resize(4 + u32::from_be_bytes(length) as usize, 0);
        stream.read_exact(&mut all[4..]).expect("the message");
        all
    }

    /// Takes one client and passes on what it and a broker say, but no question for metadata, as a broker that hangs. Returns the client's
    /// connection when it has asked for metadata twice: once by itself and once for the caller.
    fn hang_at_the_first_questions(listener: TcpListener, broker: &str) -> TcpStream {
        let (mut client, _) = listener.accept().expect("a client");
        drop(listener);
        let mut broker = TcpStream::connect(broker).expect("a broker");
        let mut questions = 0;
        while questions < 2 {
            let request = message(&mut client);
            if u16::from_be_bytes([request[4], request[5]]) == METADATA {
                questions += 1;
                continue;
            }
            broker.write_all(&request).expect("the broker takes it");
            let answer = message(&mut broker);
            client.write_all(&answer).expect("the client takes it");
        }
        client
    }

    #[test]
    fn a_broker_that_hangs_does_not_hide_the_others() {
        let cluster = MockCluster::new(2).expect("a mock cluster");
        let all = cluster.bootstrap_servers();
        let (first, other) = all.split_once(',').expect("two brokers");
        // Not there when the client connects, so that the one which hangs is asked.
        cluster.broker_down(2).expect("a broker stops");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let hanging = listener.local_addr().expect("an address").to_string();
        let brokers = format!("{hanging},{other}");
        let connect = || {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &brokers).set("reconnect.backoff.max.ms", "100");
            config.create_with_context(ClientLog::of_tool("test")).map(Arc::new)
        };
        let ask = |client: &BaseConsumer<ClientLog>, wait| Ok(client.fetch_metadata(None, wait)?.brokers().len());
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| first_answer(&brokers, Duration::from_secs(30), connect, ask));
            let _open = hang_at_the_first_questions(listener, first);
            cluster.broker_up(2).expect("a broker starts");
            asking.join().expect("no panic")
        });
        assert_eq!(answer.map_err(|error| format!("{error:?}")).map(|(_, count)| count), Ok(2));
    }
}
