//! The receiver over real connections: what it acknowledges, what it refuses, how it fails when an option says so.

use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::clock;
use crate::telemetry::chain::chain;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn options() -> Options {
    Options {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        fail_rate: 0.0,
        latency: Duration::ZERO,
        status: None,
        no_echo: false,
        secret: None,
    }
}

/// A receiver that runs, and a client for it.
struct Running {
    url: String,
    address: SocketAddr,
    counters: Counters,
    stop: CancellationToken,
    tasks: JoinSet<Summary>,
    client: Client<HttpConnector, Full<Bytes>>,
}

async fn start(options: Options) -> Running {
    let receiver = Receiver::bind(options).await.unwrap();
    let (address, counters, stop) = (receiver.address(), receiver.counters(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(receiver.run(Output::Silent, stop.clone()));
    let client = Client::builder(TokioExecutor::new()).build_http();
    Running { url: format!("http://{address}/any/path?x"), address, counters, stop, tasks, client }
}

impl Running {
    async fn send(&self, headers: &[(&str, &str)], body: &[u8]) -> Response<Incoming> {
        let mut request = Request::post(&self.url).header("x-xcom-integration-echo", "token-1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        self.client.request(request.body(body).unwrap()).await.unwrap()
    }

    /// Sends one signed delivery, its timestamp this many seconds from now.
    async fn send_signed(&self, secret: &str, seconds: i64, body: &[u8], sent: &[u8]) -> StatusCode {
        let timestamp = clock::now_ms() / 1000 + seconds;
        let mut signature = String::new();
        Signer::new(vec![SigningKey::parse(secret, None).unwrap()]).sign("id-1", timestamp, body, &mut signature);
        let timestamp = timestamp.to_string();
        let headers = [("webhook-id", "id-1"), ("webhook-timestamp", &timestamp), ("webhook-signature", &signature)];
        self.send(&headers, sent).await.status()
    }

    async fn stopped(mut self) -> Summary {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

#[track_caller]
fn check(answer: &Response<Incoming>, status: u16, echo: Option<&str>) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers().get(&ECHO).map(|echo| echo.to_str().unwrap()), echo);
}

#[tokio::test]
async fn deliveries_are_acknowledged_and_duplicates_counted() {
    let running = start(options()).await;
    for id in ["a", "b", "a"] {
        check(&running.send(&[("webhook-id", id)], b"{}").await, 200, Some("token-1"));
    }
    check(&running.send(&[], b"{}").await, 200, Some("token-1"));
    check(&running.send(&[], b"{}").await, 200, Some("token-1"));
    let summary = running.stopped().await;
    assert_eq!(summary, Summary { received: 5, acknowledged: 5, duplicates: 1, ..Summary::default() });
}

#[tokio::test]
async fn the_counts_are_served_as_json() {
    let running = start(options()).await;
    running.send(&[], b"{}").await;
    let get = Request::get(format!("http://{}/", running.address)).body(Full::default()).unwrap();
    let answer = running.client.request(get).await.unwrap();
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let expected = r#"{"received":1,"acknowledged":1,"failed":0,"duplicates":0,"invalidSignatures":0}"#;
    assert_eq!(body, expected);
    let put = Request::put(&running.url).body(Full::default()).unwrap();
    let answer = running.client.request(put).await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()[ALLOW]), (405, &HeaderValue::from_static("POST, GET")));
}

#[tokio::test]
async fn it_fails_as_its_options_say() {
    let fails = start(Options { fail_rate: 1.0, ..options() }).await;
    check(&fails.send(&[], b"{}").await, 500, Some("token-1"));
    let busy = start(Options { fail_rate: 1.0, status: Some(503), ..options() }).await;
    check(&busy.send(&[], b"{}").await, 503, Some("token-1"));
    let gone = start(Options { status: Some(410), ..options() }).await;
    check(&gone.send(&[], b"{}").await, 410, Some("token-1"));
    let mute = start(Options { no_echo: true, ..options() }).await;
    check(&mute.send(&[], b"{}").await, 200, None);
    for running in [fails, busy, gone, mute] {
        assert_eq!(running.stopped().await, Summary { received: 1, failed: 1, ..Summary::default() });
    }
}

#[tokio::test]
async fn a_share_of_the_deliveries_fails() {
    let running = start(Options { fail_rate: 0.5, ..options() }).await;
    for _ in 0..200 {
        running.send(&[], b"{}").await;
    }
    let summary = running.stopped().await;
    assert!((40..160).contains(&summary.failed), "{summary:?}");
    assert_eq!(summary.failed + summary.acknowledged, 200);
}

#[tokio::test]
async fn the_answer_waits_for_the_latency() {
    let latency = Duration::from_millis(60);
    let running = start(Options { latency, ..options() }).await;
    let start = Instant::now();
    running.send(&[], b"{}").await;
    assert!(start.elapsed() >= latency);
}

#[tokio::test]
async fn signatures_are_verified() {
    let running = start(Options { secret: Some(SECRET.to_owned()), ..options() }).await;
    assert_eq!(running.send_signed(SECRET, 0, b"{}", b"{}").await, 200);
    assert_eq!(running.send_signed(SECRET, -290, b"{}", b"{}").await, 200);
    assert_eq!(running.send_signed(SECRET, -310, b"{}", b"{}").await, 401);
    assert_eq!(running.send_signed(SECRET, 310, b"{}", b"{}").await, 401);
    assert_eq!(running.send_signed("whsec_AAKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0, b"{}", b"{}").await, 401);
    assert_eq!(running.send_signed(SECRET, 0, b"{}", b"{ }").await, 401);
    assert_eq!(running.send(&[], b"{}").await.status(), 401);
    assert_eq!(
        running
            .send(&[("webhook-id", "a"), ("webhook-timestamp", "x"), ("webhook-signature", "v1,")], b"")
            .await
            .status(),
        401
    );
    let expected = Summary { received: 8, acknowledged: 2, failed: 6, duplicates: 1, invalid_signatures: 6 };
    assert_eq!(running.stopped().await, expected);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let running = start(options()).await;
    assert_eq!(running.send(&[], &vec![b' '; BODY_BYTES_MAX]).await.status(), 200);
    // A request with an announced length is refused before its body comes, another one as soon as it is over the bound.
    let announced = format!("content-length: {}\r\n\r\n", BODY_BYTES_MAX + 1);
    let unannounced =
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{}", BODY_BYTES_MAX + 1, " ".repeat(BODY_BYTES_MAX + 1));
    for rest in [announced, unannounced] {
        let mut tcp = TcpStream::connect(running.address).await.unwrap();
        tcp.write_all(format!("POST / HTTP/1.1\r\nhost: x\r\n{rest}").as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
    }
    assert_eq!(running.stopped().await, Summary { received: 3, acknowledged: 1, failed: 2, ..Summary::default() });
}

#[tokio::test]
async fn http2_is_served_too() {
    let running = start(options()).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Empty<Bytes>>();
    let request = Request::post(&running.url).header(&ECHO, "token-2").body(Empty::new()).unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    check(&answer, 200, Some("token-2"));
}

#[tokio::test]
async fn stopping_lets_the_request_under_way_end_and_closes_the_others() {
    let running = start(Options { latency: Duration::from_millis(100), ..options() }).await;
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let mut busy = TcpStream::connect(running.address).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: x\r\nx-xcom-integration-echo: t\r\ncontent-length: 0\r\n\r\n";
    busy.write_all(request.as_bytes()).await.unwrap();
    // The answer to a later connection proves that both before it have been accepted and read.
    running.send(&[], b"{}").await;
    let (counters, address) = (running.counters.clone(), running.address);
    running.stopped().await;
    let mut answer = String::new();
    busy.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(counters.summary().acknowledged, 2);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_receiver_that_cannot_begin_says_why() {
    let bad = Receiver::bind(Options { secret: Some("whsec_?".to_owned()), ..options() }).await.err().unwrap();
    let bad = chain(&bad);
    assert!(bad.starts_with("--secret cannot be used: no base64 follows whsec_"), "{bad}");
    let first = Receiver::bind(options()).await.unwrap();
    let taken = Receiver::bind(Options { listen: first.address(), ..options() }).await.err().unwrap();
    assert!(taken.to_string().contains(&first.address().to_string()), "{taken}");
}
