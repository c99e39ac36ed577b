//! The baselines: loops that POST the same bytes to the same sink and do nothing else, each in a process of its own.

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::RngCore as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::options::Options;
use super::own_cpu;

/// Requests before the clock starts: connections and caches are warm then.
const WARM_UP: usize = 2_000;

/// CPU µs a request of the loop `kind`, measured by the child itself.
pub(crate) fn measure(kind: &str, address: &str, options: &Options) -> f64 {
    let numbers = [options.events, options.size, options.in_flight].map(|number| number.to_string());
    let output = Command::new(std::env::current_exe().expect("the benchmark's own path"))
        .args(["loop", kind, address])
        .args(numbers)
        .output()
        .expect("the loop runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("the loop prints a number")
}

/// The child: `kind address requests bytes in-flight`.
pub(crate) fn child(arguments: &[String]) -> ExitCode {
    let [kind, address, requests, size, in_flight] = arguments else { return ExitCode::from(2) };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let (requests, size, in_flight) = (number(requests), number(size), number(in_flight));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let micros = runtime.block_on(async {
        let body = Bytes::from(vec![b'x'; size]);
        run(kind, address, WARM_UP, &body, in_flight).await;
        let before = own_cpu();
        run(kind, address, requests, &body, in_flight).await;
        (own_cpu() - before).as_secs_f64() * 1e6 / requests as f64
    });
    println!("{micros}");
    ExitCode::SUCCESS
}

async fn run(kind: &str, address: &str, requests: usize, body: &Bytes, in_flight: usize) {
    let left = Arc::new(AtomicUsize::new(requests));
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build::<_, Full<Bytes>>(HttpConnector::new());
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (left, body, address) = (Arc::clone(&left), body.clone(), address.to_owned());
        if kind == "pool" {
            let client = client.clone();
            tasks.spawn(async move {
                while take(&left) {
                    let (request, token) = request(&format!("http://{address}/hook"), &address, &body);
                    let response = client.request(request).await.expect("an answer");
                    check(response, &token).await;
                }
            });
        } else {
            tasks.spawn(async move {
                let stream = TcpStream::connect(&address).await.expect("a connection");
                stream.set_nodelay(true).expect("no delay");
                let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
                let mut driver = JoinSet::new();
                driver.spawn(connection);
                while take(&left) {
                    sender.ready().await.expect("the connection is kept");
                    let (request, token) = request("/hook", &address, &body);
                    let response = sender.send_request(request).await.expect("an answer");
                    check(response, &token).await;
                }
            });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("the loop does not panic");
    }
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn request(uri: &str, host: &str, body: &Bytes) -> (Request<Full<Bytes>>, String) {
    let token = format!("{:016x}{:016x}", rand::rng().next_u64(), rand::rng().next_u64());
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header("host", host)
        .header("content-type", "application/json; charset=utf-8")
        .header("x-xcom-integration-echo", &token)
        .body(Full::new(body.clone()))
        .expect("a request");
    (request, token)
}

async fn check(response: hyper::Response<hyper::body::Incoming>, token: &str) {
    assert_eq!(response.status(), 200);
    let echo = response.headers().get("x-xcom-integration-echo").expect("an echo");
    assert_eq!(echo.as_bytes(), token.as_bytes());
    response.into_body().collect().await.expect("a body");
}
