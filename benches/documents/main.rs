//! The worst documents for the registration API: how long the worst request takes, what it adds to the process's memory, and what
//! another workspace's change waits meanwhile. The contract bounds the first two by a second and 64 MiB.
//!
//! `cargo bench --bench documents -- --help` lists the options. Prints a table and writes JSON.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a benchmark prints, fails by a panic with a clear text, and computes in floats by the wall clock"
)]

#[path = "../common/mod.rs"]
mod common;
mod worst;

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::figures::{Figure, report};
use common::options::Options;
use common::support;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use support::cluster::{Cluster, ClusterOptions};
use support::process::Process;
use support::records::{create_topic, unique};
use support::wait::PATIENCE;
use worst::Document;

const OPTIONS: [(&str, usize, &str); 1] = [("rounds", 5, "requests with each document")];
const TOKEN: &str = "bench-token";

fn main() -> ExitCode {
    let options = match Options::of_arguments(&OPTIONS) {
        Ok(options) => options,
        Err(code) => return code,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let figures = runtime.block_on(measure(options.get("rounds")));
    report("documents", "The worst documents for the API, one at a time", &figures);
    ExitCode::SUCCESS
}

async fn measure(rounds: usize) -> Vec<Figure> {
    let mut cluster = ClusterOptions::nodes(1);
    cluster.jvm_arguments.push("-Xmx1g".to_owned());
    let cluster = Cluster::start_with(cluster).await;
    let api = Api::start(cluster.brokers()).await;
    let mut figures = Vec::new();
    for document in worst::documents() {
        let mut took = Figure::new(&document.name, "ms", "1,000", "");
        let mut memory = Figure::new("memory it adds", "MiB", "64", "");
        let mut other = Figure::new("another's change meanwhile", "ms", "", "");
        if let Some(stored) = &document.stored {
            let status = api.ask(Method::PUT, "w/integrations/instances/i", stored).await;
            assert!(status.is_success(), "{}: {status} to what is stored first", document.name);
        }
        for round in 0..rounds {
            let [time, bytes, meanwhile] = api.round(&document, round).await;
            took.rounds.push(time);
            memory.rounds.push(bytes);
            other.rounds.push(meanwhile);
        }
        eprintln!("{}: {:.0} ms, {:.1} MiB", document.name, took.median(), memory.median());
        figures.extend([took, memory, other]);
    }
    figures
}

/// An API process and a client.
struct Api {
    process: Process,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    _tokens: tempfile::NamedTempFile,
}

impl Api {
    async fn start(brokers: &str) -> Self {
        let (topic, group) = (unique("documents"), unique("documents"));
        create_topic(brokers, &topic, 3, &[("cleanup.policy", "compact"), ("max.message.bytes", "2000000")]).await;
        let mut tokens = tempfile::NamedTempFile::new().expect("a file");
        writeln!(tokens, "{TOKEN} *").expect("it can be written");
        let file = tokens.path().to_str().expect("a path is text").to_owned();
        let arguments = [
            [
                "api",
                "--brokers",
                brokers,
                "--group",
                &group,
                "--integrations-topic",
                &topic,
                "--api-tokens-file",
                &file,
            ]
            .as_slice(),
            &["--api-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"],
        ]
        .concat();
        let process = Process::start("the API", env!("CARGO_BIN_EXE_hookstream"), &arguments, &[]);
        let address = process.lines().find(PATIENCE, |line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            line["message"].as_str()?.contains("listening").then_some(())?;
            line["address"].as_str()?.parse().ok()
        });
        let address = address.unwrap_or_else(|| panic!("the API listens nowhere:\n{}", process.lines().tail(40)));
        Self { process, address, client: Client::builder(TokioExecutor::new()).build_http(), _tokens: tokens }
    }

    async fn ask(&self, method: Method, path: &str, body: &str) -> StatusCode {
        let kind = if method == Method::PATCH { "application/json-patch+json" } else { "application/json" };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}/api/v1/{path}", self.address))
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request");
        let response = self.client.request(request).await.expect("an answer");
        let status = response.status();
        response.into_body().collect().await.expect("a body");
        status
    }

    /// What the document takes in ms, what it adds to the process in MiB, and what another workspace's change takes meanwhile in ms.
    async fn round(&self, document: &Document, round: usize) -> [f64; 3] {
        let before = self.memory("VmRSS:");
        // The highest value counts from here.
        fs::write(format!("/proc/{}/clear_refs", self.process.pid()), "5").expect("our own process");
        let began = Instant::now();
        let asked = async {
            let status = self.ask(document.method.clone(), "w/integrations/instances/i", &document.body).await;
            assert!(!status.is_server_error(), "{}: {status}", document.name);
            began.elapsed()
        };
        let other = async {
            // Queued behind the document.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let body = format!(r#"{{"baseUrl":"https://other.example/{round}"}}"#);
            let began = Instant::now();
            let status = self.ask(Method::PUT, "other/integrations/instances/o", &body).await;
            assert!(status.is_success(), "{status} to another's change");
            began.elapsed()
        };
        let (took, meanwhile) = tokio::join!(asked, other);
        let added = self.memory("VmHWM:") - before;
        [took.as_secs_f64() * 1e3, added.max(0.0) / 1024.0, meanwhile.as_secs_f64() * 1e3]
    }

    /// A line of the process's status, in KiB.
    fn memory(&self, name: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}
