//! The network between a cluster and its clients, as a proxy that a test can cut, silence and slow: for all, for one broker or for one client.
//!
//! A client is known by its `client.id`, which is in the first request of each connection. The proxy runs on a thread of its
//! own, so that a test may block, and ends with its [`Links`].

use std::net::TcpListener as Bound;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The most bytes that are carried at a time: more than the answer to a fetch has.
const CHUNK_BYTES: usize = 256 * 1024;

/// The network's fault on the affected connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Ends them, and refuses new ones.
    Cut,
    /// Carries nothing and ends nothing, as a path that loses every packet.
    Silent,
    /// Delays everything by this time.
    Slow(Duration),
}

/// Whose connections are at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Between {
    /// Those of all clients with all brokers.
    All,
    /// Those of all clients with this broker, from 0.
    Broker(usize),
    /// Those of this client with all brokers.
    Client(String),
}

type Weather = Option<(Trouble, Between)>;

/// The two ends of a connection.
#[derive(Debug)]
struct Ends {
    broker: usize,
    client: String,
}

impl Ends {
    fn trouble(&self, weather: &Weather) -> Option<Trouble> {
        let (trouble, between) = weather.as_ref()?;
        let is_meant = match between {
            Between::All => true,
            Between::Broker(broker) => *broker == self.broker,
            Between::Client(client) => *client == self.client,
        };
        is_meant.then_some(*trouble)
    }
}

/// A proxy in front of each broker.
pub struct Links {
    ports: Vec<u16>,
    targets: watch::Sender<Vec<u16>>,
    weather: watch::Sender<Weather>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Links {
    /// Listens in front of this number of brokers on free ports of loopback; connections wait until [`Links::lead_to`].
    pub fn new(brokers: usize) -> Self {
        let bound: Vec<Bound> =
            (0..brokers).map(|_| Bound::bind("127.0.0.1:0").expect("a free port of loopback")).collect();
        let ports = bound.iter().map(|bound| bound.local_addr().expect("it is bound").port()).collect();
        let (targets, target) = watch::channel(Vec::new());
        let (weather, forecast) = watch::channel(None);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut serving = JoinSet::new();
                for (broker, bound) in bound.into_iter().enumerate() {
                    serving.spawn(serve(broker, bound, target.clone(), forecast.clone()));
                }
                // A sender that is gone ends it as well.
                drop(stopped.await);
            });
        });
        Self { ports, targets, weather, stop: Some(stop), thread: Some(thread) }
    }

    /// The addresses of the brokers, in their order.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Bootstrap servers for clients behind the proxy.
    pub fn brokers(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Carries from now on to these bootstrap servers, in the order of the ports.
    pub fn lead_to(&self, brokers: &str) {
        let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        self.targets.send_replace(brokers.split(',').map(port).collect());
    }

    /// Begins a trouble in place of any other.
    pub fn trouble(&self, trouble: Trouble, between: Between) {
        self.weather.send_replace(Some((trouble, between)));
    }

    /// Carries everything again. What was held goes on.
    pub fn calm(&self) {
        self.weather.send_replace(None);
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the thread of the links panicked");
        }
    }
}

async fn serve(broker: usize, bound: Bound, mut targets: watch::Receiver<Vec<u16>>, weather: watch::Receiver<Weather>) {
    bound.set_nonblocking(true).expect("a socket of ours");
    let listener = TcpListener::from_std(bound).expect("within a runtime");
    let Ok(port) = targets.wait_for(|ports| !ports.is_empty()).await.map(|ports| ports[broker]) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(broker, port, client, weather.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until an end is closed, or it is cut.
async fn connection(broker: usize, port: u16, mut client: TcpStream, weather: watch::Receiver<Weather>) {
    let mut first = vec![0; CHUNK_BYTES];
    let Ok(length) = client.read(&mut first).await else { return };
    first.truncate(length);
    let ends = Arc::new(Ends { broker, client: client_id(&first) });
    if ends.trouble(&weather.borrow()) == Some(Trouble::Cut) {
        return;
    }
    // A broker that is down: the client sees its connection end.
    let Ok(to_broker) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    for tcp in [&client, &to_broker] {
        tcp.set_nodelay(true).expect("a socket of ours");
    }
    let ((from_client, to_client), (from_broker, to_broker)) = (client.into_split(), to_broker.into_split());
    let there = carry(first, from_client, to_broker, &ends, weather.clone());
    let back = carry(Vec::new(), from_broker, to_client, &ends, weather.clone());
    let mut watched = weather;
    let cut = watched.wait_for(|weather| ends.trouble(weather) == Some(Trouble::Cut));
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = cut => {}
    }
}

/// Carries one way, `held` first.
async fn carry(
    mut held: Vec<u8>,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    ends: &Ends,
    mut weather: watch::Receiver<Weather>,
) {
    loop {
        if !held.is_empty() {
            let carries = weather.wait_for(|weather| ends.trouble(weather) != Some(Trouble::Silent)).await;
            let Ok(trouble) = carries.map(|weather| ends.trouble(&weather)) else { return };
            if let Some(Trouble::Slow(delay)) = trouble {
                tokio::time::sleep(delay).await;
            }
            if to.write_all(&held).await.is_err() {
                return;
            }
        }
        held.resize(CHUNK_BYTES, 0);
        match from.read(&mut held).await {
            Ok(length) if length > 0 => held.truncate(length),
            _ => return,
        }
    }
}

/// The client's id in the head of a request: after its length, kind, version and number.
fn client_id(request: &[u8]) -> String {
    let id = || {
        let length = i16::from_be_bytes(request.get(12..14)?.try_into().ok()?);
        request.get(14..14 + usize::try_from(length).ok()?)
    };
    String::from_utf8_lossy(id().unwrap_or_default()).into_owned()
}
