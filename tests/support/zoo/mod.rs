//! The receiver zoo: named receivers that misbehave, each with the outcome that a sender of this contract is expected to report.
//!
//! Most of them are paths of one scripted receiver (`http`), some need a port of their own (`ports`), some speak TLS (`tls`), and some
//! are names that only the zoo's own name server knows (`names`). The example `receiver-zoo` serves all of them to any sender.

mod http;
pub mod names;
mod ports;
mod tls;

use std::collections::HashMap;
use std::path::Path;
use std::thread::JoinHandle;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::receiver::{Answer, Receiver};
pub use names::Expected;

/// One receiver of the zoo.
#[derive(Clone, Debug)]
pub struct Animal {
    /// Its name, of letters, digits and hyphens.
    pub name: &'static str,
    /// Its behaviour.
    pub does: &'static str,
    /// A sender's result of each attempt, or of the first one on a connection.
    pub expected: Expected,
    /// Its result of the next attempt on that connection, if it differs; the attempt after that makes a new connection.
    pub again: Option<Expected>,
    /// The way to it.
    pub url: String,
}

impl Animal {
    /// A sender's result of attempt `number`, from 0, if it makes one after another.
    pub fn expected_of(&self, number: usize) -> Expected {
        self.again.filter(|_| !number.is_multiple_of(2)).unwrap_or(self.expected)
    }
}

/// A receiver that has a port of its own, before the port is known.
struct Housed {
    name: &'static str,
    does: &'static str,
    expected: Expected,
    https: bool,
    listener: std::net::TcpListener,
}

impl Housed {
    fn new(name: &'static str, does: &'static str, expected: Expected, listener: std::net::TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a socket that does not block");
        Self { name, does, expected, https: false, listener }
    }

    fn animal(&self) -> Animal {
        let address = self.listener.local_addr().expect("a listener has an address");
        let scheme = if self.https { "https" } else { "http" };
        let url = format!("{scheme}://{address}/{}", self.name);
        Animal { name: self.name, does: self.does, expected: self.expected, again: None, url }
    }
}

/// All receivers, running; dropping it ends them.
pub struct Zoo {
    animals: Vec<Animal>,
    scripted: Receiver,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Zoo {
    /// Starts them on free ports of loopback. Writes the certificate that the good TLS receiver's leads to into `folder`, as
    /// [`Zoo::trusted`].
    pub fn start(folder: &Path) -> Self {
        // Made once: a bomb takes longer to make than a busy machine has for an answer.
        let answers: HashMap<&str, Answer> = http::all().into_iter().map(|one| (one.name, one.answer)).collect();
        let scripted = Receiver::start(move |request| {
            let name = request.path.trim_matches('/');
            answers.get(name).cloned().unwrap_or_else(|| Answer::status(404))
        });
        let mut animals: Vec<Animal> = http::all()
            .into_iter()
            .map(|one| {
                let url = scripted.url(&format!("/{}", one.name));
                Animal { name: one.name, does: one.does, expected: one.expected, again: None, url }
            })
            .collect();
        let mut serving = JoinSet::new();
        let stop = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        {
            let _within = runtime.enter();
            animals.extend(ports::start(&mut serving));
            animals.extend(tls::start(&mut serving, &Self::trusted(folder)));
        }
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || runtime.block_on(until_stopped(serving, &stop))
        });
        Self { animals, scripted, stop, thread: Some(thread) }
    }

    /// The file with the certificate to trust.
    pub fn trusted(folder: &Path) -> std::path::PathBuf {
        folder.join("zoo-root.pem")
    }

    /// All of them.
    pub fn animals(&self) -> &[Animal] {
        &self.animals
    }

    /// The requests of those that share the scripted receiver.
    pub fn scripted(&self) -> &Receiver {
        &self.scripted
    }
}

impl Drop for Zoo {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the zoo's thread panicked");
        }
    }
}

async fn until_stopped(mut serving: JoinSet<()>, stop: &CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(ended) = serving.join_next() => ended.expect("a receiver of the zoo does not panic"),
        }
    }
}
