//! Serves the receiver zoo: receivers that misbehave by name, to try any sender of signed webhooks with.
//!
//! ```text
//! cargo run --example receiver-zoo                         # a table of names, URLs and what is expected, until ctrl-c
//! cargo run --example receiver-zoo -- --dns 127.0.0.1:5353 # the names too: a name server for the sender to ask
//! ```
//!
//! Requests need a header `X-XCOM-Integration-Echo`, which the good receivers send back. What a sender has to do is not decided here: it
//! stands with the receivers in `tests/support/zoo`, which the test suites use too.
#![expect(clippy::print_stdout, reason = "a table for people is what this program is for")]

#[expect(dead_code, reason = "the suites use more of it")]
#[expect(
    unreachable_pub,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test support: what can't be set up ends the program with a clear text"
)]
mod support;

use std::net::SocketAddr;

use support::zoo::names::{NameServer, zoo_names};
use support::zoo::{Expected, Zoo};

const USAGE: &str = "usage: receiver-zoo [--dns ADDRESS]";

/// The address of the name server, if the arguments ask for one.
fn arguments() -> anyhow::Result<Option<SocketAddr>> {
    let mut words = std::env::args().skip(1);
    match (words.next().as_deref(), words.next(), words.next()) {
        (None, ..) => Ok(None),
        (Some("--dns"), Some(address), None) => {
            let address = address.parse();
            Ok(Some(address.map_err(|error| anyhow::anyhow!("--dns: {error}\n{USAGE}"))?))
        }
        _ => Err(anyhow::anyhow!(USAGE)),
    }
}

fn in_words(expected: Expected) -> String {
    match expected {
        Expected::Acknowledged => String::from("acknowledged"),
        Expected::Failed { reason, cause: "" } => reason.to_owned(),
        Expected::Failed { reason, cause } => format!("{reason}: {cause}"),
    }
}

fn row(name: &str, url: &str, expected: Expected, again: Option<Expected>, does: &str) {
    let again = again.map(|again| format!("; the next on that connection: {}", in_words(again)));
    let expected = in_words(expected) + &again.unwrap_or_default();
    println!("{name}\t{url}\t{expected}\t{does}");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dns = arguments()?;
    let folder = tempfile::tempdir()?;
    let zoo = Zoo::start(folder.path());
    println!("name\turl\texpected\tit ...");
    for animal in zoo.animals() {
        row(animal.name, &animal.url, animal.expected, animal.again, animal.does);
    }
    let mut name_server = None;
    if let Some(address) = dns {
        let server = NameServer::of_the_zoo(address).await;
        let port = zoo.scripted().address().port();
        for name in zoo_names() {
            let short = name.name.split('.').next().unwrap_or(name.name);
            row(short, &format!("http://{}:{port}/good", name.name), name.expected, None, name.does);
        }
        println!("\nThe name server listens on {}.", server.address);
        name_server = Some(server);
    }
    println!("\nThe certificate to trust is {}.", Zoo::trusted(folder.path()).display());
    println!("Requests to 127.0.0.0/8 have to be allowed. Ctrl-C ends it.");
    tokio::signal::ctrl_c().await?;
    drop(name_server);
    Ok(())
}
